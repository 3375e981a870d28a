-- claim_rows(): all or nothing.
CREATE EXTENSION rowclaim;
CREATE ROLE regress_claim_rows_alice;
CREATE ROLE regress_claim_rows_bob;
-- What a statement is refused with; times are masked.
CREATE FUNCTION refused(sql text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    code text;
    message text;
    detail text;
    hint text;
BEGIN
    EXECUTE sql;
    RETURN NEXT 'not refused';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT,
        detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
    RETURN QUERY SELECT regexp_replace(line, '\d{4}-\d\d-\d\dT[\d:.]+Z', '<time>', 'g')
        FROM unnest(ARRAY[code || ': ' || message, detail, 'hint: ' || nullif(hint, '')]) line WHERE line <> '';
END $$;
\pset format unaligned
\pset footer off
\pset null <null>

CREATE TABLE parts (id int PRIMARY KEY, name text);
INSERT INTO parts SELECT g, 'part ' || g FROM generate_series(1, 20) g;
CREATE TABLE lines (doc text, line int, body text, PRIMARY KEY (doc, line));
INSERT INTO lines SELECT 'd', g, 'x' FROM generate_series(1, 5) g;
GRANT ALL ON parts, lines TO PUBLIC;
SELECT enable_claims('parts'), enable_claims('lines');

-- one row per key, in the order asked, with every field
SET SESSION AUTHORIZATION regress_claim_rows_alice;
SELECT key, status, owner, token > 0 AS token, claimed_at BETWEEN now() AND clock_timestamp() AS claimed_now,
       expires_at, row_version, message
FROM claim_rows('parts', ARRAY[3, 1, 2]);
SELECT key, owner, reason FROM rowclaim.claims ORDER BY key;
-- columns and their types
SELECT name, type::regtype FROM pg_proc, unnest(proargnames, proallargtypes, proargmodes) a(name, type, mode) WHERE proname = 'claim_rows' AND mode = 'o';
-- mine already: granted with the same token
SELECT token AS t FROM claim_row('parts', 1) \gset
SELECT key, status, token = :t AS same_token FROM claim_rows('parts', ARRAY[1]);
-- ttl and reason
SELECT key, status, expires_at > clock_timestamp() + '23 hours' AS tomorrow FROM claim_rows('parts', ARRAY[4, 5], '1 day', reason => 'r');
SELECT key, reason FROM rowclaim.claims WHERE reason IS NOT NULL ORDER BY key;

-- one denied: nothing claimed, the others are free
SET SESSION AUTHORIZATION regress_claim_rows_bob;
SELECT key, status, owner, token, claimed_at IS NULL AS unclaimed, expires_at, row_version,
       regexp_replace(message, 'since .*', 'since <time>') AS message
FROM claim_rows('parts', ARRAY[10, 3, 11]);
-- one not found
SELECT key, status, owner, row_version FROM claim_rows('parts', ARRAY[10, 99, 11]);
-- one stale
SELECT key, status, owner, row_version FROM claim_rows('parts', ARRAY[10, 11], versions => ARRAY[1, 2]);
-- all of them
SELECT key, status, owner, row_version FROM claim_rows('parts', ARRAY[10, 11, 99, 3], versions => ARRAY[1, 2, 3, 4]);
SELECT count(*) FROM rowclaim.claims WHERE mine;
SELECT count(*) FROM parts WHERE row_owner = current_actor();
-- what I hold already stays mine and answers free
SELECT status FROM claim_row('parts', 10, reason => 'before');
SELECT key, status, owner FROM claim_rows('parts', ARRAY[10, 3]);
SELECT key, reason, expires_at FROM rowclaim.claims WHERE mine;
SELECT key, status FROM claim_rows('parts', ARRAY[10, 3], ttl => '1 day');
SELECT key, reason, expires_at FROM rowclaim.claims WHERE mine;
-- wait: denied afterwards
SELECT clock_timestamp() AS before \gset
SELECT key, status FROM claim_rows('parts', ARRAY[12, 3], wait => '60 ms');
SELECT clock_timestamp() - :'before' >= interval '60 ms' AS waited;

-- versions: NULL elements are not checked
SELECT key, status, row_version FROM claim_rows('parts', ARRAY[12, 13], versions => ARRAY[NULL, 1]);
-- the same key twice is one claim
SELECT key, status, token = first_value(token) OVER () AS same FROM claim_rows('parts', ARRAY[14, 14]);
SELECT count(*) FROM rowclaim.claims WHERE key = '{"id": 14}';
-- no keys
SELECT * FROM claim_rows('parts', '{}'::int[]);
-- a two-dimensional array is a list of its elements
SELECT key, status FROM claim_rows('parts', ARRAY[[15, 16], [17, 18]]);
-- text, bigint and unknown literals
SELECT key, status FROM claim_rows('parts', ARRAY['15', '16']);
SELECT key, status FROM claim_rows('parts', '{15,16}'::bigint[]);
SELECT key, status FROM claim_rows('parts', ARRAY(SELECT p FROM parts p WHERE id IN (15, 16) ORDER BY id));

-- composite keys
SELECT key, status FROM claim_rows('lines', ARRAY['{"doc":"d","line":2}', '{"line":1,"doc":"d"}']::jsonb[]);
SELECT key, status FROM claim_rows('lines', ARRAY['{"doc":"d","line":3}']);
SELECT key, status FROM claim_rows('lines', (SELECT array_agg(l) FROM lines l WHERE line > 3));
SELECT count(*) FROM rowclaim.claims WHERE target = 'lines'::regclass AND mine;

-- rolled back with the savepoint
SET SESSION AUTHORIZATION regress_claim_rows_alice;
BEGIN;
SAVEPOINT s;
SELECT key, status FROM claim_rows('parts', ARRAY[19, 20]);
ROLLBACK TO s;
SELECT count(*) FROM parts WHERE id IN (19, 20) AND row_owner IS NOT NULL;
SELECT key, status FROM claim_rows('parts', ARRAY[20]);
COMMIT;
SELECT id, row_owner FROM parts WHERE id IN (19, 20) ORDER BY id;

-- many rows: in batches, with some that are mine already and some keys given twice
RESET SESSION AUTHORIZATION;
CREATE TABLE many (id int PRIMARY KEY, code text);
INSERT INTO many SELECT g, 'code ' || g FROM generate_series(1, 2500) g;
CREATE INDEX many_code ON many (upper(code)) WHERE code LIKE 'code 1%';
GRANT ALL ON many TO PUBLIC;
SELECT enable_claims('many');
SET SESSION AUTHORIZATION regress_claim_rows_alice;
SELECT token AS t FROM claim_row('many', 1500, reason => 'before') \gset
CREATE TEMP TABLE answer AS
    SELECT * FROM claim_rows('many', ARRAY(SELECT * FROM generate_series(2500, 1, -1)) || ARRAY[5, 1500, 2400], '1 day');
SELECT status, count(*), count(DISTINCT token), count(DISTINCT key) FROM answer GROUP BY 1;
SELECT count(*) FROM answer a JOIN rowclaim.claims c ON c.key = a.key AND c.token = a.token AND c.claimed_at = a.claimed_at
    AND c.expires_at = a.expires_at AND c.owner = a.owner WHERE c.target = 'many'::regclass;
SELECT DISTINCT token = :t AS same_token FROM answer WHERE key = '{"id": 1500}';
-- in the order of the keys' texts
SELECT count(*) FROM (SELECT token < lag(token) OVER (ORDER BY length(key::text), key::text COLLATE "C") AS out_of_order FROM answer
                      WHERE key <> '{"id": 1500}') s WHERE out_of_order;
SELECT count(*) FROM many WHERE row_owner = current_actor() AND row_version = 1;
SELECT release_rows('many'), count(*) FROM many WHERE row_owner IS NOT NULL;
-- one held by somebody else: nothing is claimed
SET SESSION AUTHORIZATION regress_claim_rows_bob;
SELECT status FROM claim_row('many', 2300);
SET SESSION AUTHORIZATION regress_claim_rows_alice;
SELECT status, count(*) FROM claim_rows('many', ARRAY(SELECT * FROM generate_series(1, 2500))) GROUP BY 1 ORDER BY 1;
SELECT count(*) FROM rowclaim.claims WHERE target = 'many'::regclass;
SELECT count(*) FROM many WHERE row_owner IS NOT NULL;

-- refusals
SELECT * FROM refused('SELECT claim_rows(''parts'', NULL::int[])');
SELECT * FROM refused('SELECT claim_rows(''parts'', ARRAY[1, NULL])');
SELECT * FROM refused('SELECT claim_rows(''parts'', ARRAY[''1'', ''x''])');
SELECT * FROM refused('SELECT claim_rows(''parts'', ARRAY[19, 20], versions => ARRAY[1])');
SELECT * FROM refused('SELECT claim_rows(''parts'', ARRAY[19], ttl => ''-1 s'')');
SELECT * FROM refused('SELECT claim_rows(''parts'', ARRAY[19], wait => ''-1 s'')');
SELECT * FROM refused('SELECT claim_rows(''lines'', ARRAY[1])');
SELECT * FROM refused('SELECT claim_rows(''lines'', ARRAY[''{"doc":"d"}'']::jsonb[])');
-- a refusal claims nothing
SELECT row_owner FROM parts WHERE id = 19;

RESET SESSION AUTHORIZATION;
DROP OWNED BY regress_claim_rows_alice, regress_claim_rows_bob;
DROP ROLE regress_claim_rows_alice, regress_claim_rows_bob;
