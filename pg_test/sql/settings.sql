-- The settings: defaults, who may set them, what they do.
CREATE EXTENSION rowclaim;
CREATE ROLE regress_settings_alice;
CREATE ROLE regress_settings_bob;
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

SELECT current_actor() IS NOT NULL AS loaded;
SELECT name, setting, unit, vartype, context, min_val, max_val, enumvals FROM pg_settings WHERE name LIKE 'rowclaim.%' ORDER BY name;
CREATE TABLE parts (id int PRIMARY KEY, qty int);
INSERT INTO parts SELECT g, g FROM generate_series(1, 20) g;
CREATE TABLE counters (id int PRIMARY KEY, n int);
INSERT INTO counters VALUES (1, 0);
GRANT ALL ON parts, counters TO PUBLIC;
SELECT enable_claims('parts'), enable_claims('counters', 'auto', 'transaction');

-- who may set what
SET SESSION AUTHORIZATION regress_settings_alice;
SELECT * FROM refused('SET rowclaim.actor = ''x''');
SELECT * FROM refused('SET rowclaim.enforce = off');
SELECT * FROM refused('SET rowclaim.draft_ttl = 1');
SELECT * FROM refused('SET rowclaim.default_ttl = 1');
SELECT * FROM refused('SET rowclaim.message = ''x''');
SELECT * FROM refused('SET rowclaim.notify = off');
RESET ALL;
-- values
SELECT regexp_replace(r, '\(.*\)', '(the range)') AS refused FROM refused('SET rowclaim.default_ttl = -1') r;
SELECT * FROM refused('SET rowclaim.default_ttl = ''soon''');
SELECT * FROM refused('SET rowclaim.notify = ''some''');
SELECT * FROM refused('SET rowclaim.no_such = 1');
SET rowclaim.default_ttl = '30min';
SHOW rowclaim.default_ttl;

-- default_ttl: of claims without a ttl; a ttl wins; 0 is no expiry
SELECT expires_at - clock_timestamp() BETWEEN '29 min' AND '30 min' AS half_hour FROM claim_row('parts', 1);
SELECT expires_at - clock_timestamp() BETWEEN '59 min' AND '1 hour' AS hour FROM claim_row('parts', 1, ttl => '1 hour');
SELECT bool_and(expires_at - clock_timestamp() BETWEEN '29 min' AND '30 min') AS half_hour FROM claim_rows('parts', ARRAY[2, 3]);
SET rowclaim.default_ttl = 0;
SELECT expires_at FROM claim_row('parts', 1);
SET rowclaim.default_ttl = 2147483647;
SELECT expires_at > clock_timestamp() + '60 years' AS late FROM claim_row('parts', 1);
RESET rowclaim.default_ttl;

-- enforce = off: writes are allowed but still drafted and journaled
RESET SESSION AUTHORIZATION;
SET rowclaim.enforce = off;
UPDATE parts SET qty = 100 WHERE id = 10;
UPDATE parts SET qty = 101 WHERE id = 1;
DELETE FROM parts WHERE id = 11;
SELECT actor = current_actor() AS mine, key, op FROM rowclaim.drafts ORDER BY key;
SELECT row_version FROM parts WHERE id IN (1, 10);
SELECT owner FROM rowclaim.claims WHERE key = '{"id": 1}';
SELECT commit_changes('maintenance');
SELECT op, key, old, new, version FROM rowclaim.changes ORDER BY key::text;
-- a change of the ownership columns is still refused
SELECT line FROM refused('UPDATE parts SET row_owner = ''x'' WHERE id = 12') line WHERE line LIKE '4%';
-- TRUNCATE: deletes of all rows
TRUNCATE counters;
SELECT op, key, old FROM rowclaim.changes WHERE target = 'public.counters';
SET rowclaim.enforce = on;
SELECT line FROM refused('UPDATE parts SET qty = 0 WHERE id = 10') line WHERE line LIKE '55%';
SELECT line FROM refused('TRUNCATE parts') line WHERE line LIKE '55%';

-- message: of transaction changesets only
INSERT INTO counters VALUES (1, 0);
SET SESSION AUTHORIZATION regress_settings_alice;
SET rowclaim.message = 'counted';
UPDATE counters SET n = n + 1;
SELECT status FROM claim_row('parts', 5);
UPDATE parts SET qty = 0 WHERE id = 5;
SELECT commit_changes() IS NOT NULL AS committed;
SET rowclaim.message = '';
UPDATE counters SET n = n + 1;
RESET rowclaim.message;
-- the message at the end of the transaction counts
BEGIN;
UPDATE counters SET n = n + 1;
SET LOCAL rowclaim.message = 'late';
COMMIT;
SELECT message, changes FROM rowclaim.changesets WHERE actor = 'regress_settings_alice' ORDER BY seq;

RESET SESSION AUTHORIZATION;
DROP OWNED BY regress_settings_alice, regress_settings_bob;
DROP ROLE regress_settings_alice, regress_settings_bob;
