-- Bad input: a clear error each time, the transaction's other work intact, the backend alive.
CREATE EXTENSION rowclaim;
CREATE ROLE regress_bad_input_alice;
CREATE ROLE regress_bad_input_bob;
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
INSERT INTO parts SELECT g, 'part ' || g FROM generate_series(1, 9) g;
CREATE TABLE plain (id int PRIMARY KEY, name text);
INSERT INTO plain VALUES (1, 'x');
SELECT enable_claims('parts', 'auto');
SELECT pg_backend_pid() AS pid \gset

-- in one transaction: work, an error, a rollback to the savepoint, more work
BEGIN;
UPDATE parts SET name = 'before' WHERE id = 1;
SELECT status FROM claim_row('parts', 2);
SAVEPOINT s;
SELECT claim_row('parts', 'no number');
SELECT 1;
ROLLBACK TO s;
UPDATE parts SET name = 'undone' WHERE id = 3;
SELECT claim_row('plain', 1);
ROLLBACK TO s;
UPDATE parts SET name = 'undone' WHERE id = 4;
SELECT commit_changes('undone');
SELECT commit_changes(journal => 'none');
ROLLBACK TO s;
UPDATE parts SET row_owner = 'x' WHERE id = 1;
ROLLBACK TO s;
UPDATE parts SET name = 'after' WHERE id = 5;
SELECT key, op FROM rowclaim.drafts ORDER BY key;
SELECT commit_changes('done');
COMMIT;
SELECT op, key, new FROM rowclaim.changes ORDER BY seq, key::text;
SELECT key FROM rowclaim.claims;
SELECT name FROM parts WHERE id IN (3, 4) ORDER BY id;
SELECT seq FROM rowclaim.changesets;

-- NULL and no such thing, for every function
SELECT * FROM refused('SELECT claim_row(NULL, 1)');
SELECT * FROM refused('SELECT claim_row(''parts'', NULL)');
SELECT * FROM refused('SELECT claim_row(''parts'', NULL::jsonb)');
SELECT * FROM refused('SELECT claim_row(0, 1)');
SELECT * FROM refused('SELECT claim_row(999999999, 1)');
SELECT r ~ '^(3F000|42P01): .*nowhere' AS as_the_server_says FROM refused('SELECT claim_row(''nowhere.parts'', 1)') r;
SELECT * FROM refused('SELECT claim_rows(NULL, ARRAY[1])');
SELECT * FROM refused('SELECT steal_row(NULL, 1)');
SELECT * FROM refused('SELECT steal_row(''parts'', NULL)');
SELECT * FROM refused('SELECT release_row(NULL, 1)');
SELECT * FROM refused('SELECT release_row(''parts'', NULL)');
SELECT * FROM refused('SELECT release_rows(0)');
SELECT * FROM refused('SELECT renew_claims(''1 day'', 0)');
SELECT * FROM refused('SELECT disable_claims(0)');
SELECT * FROM refused('SELECT enable_claims(0)');
SELECT * FROM refused('SELECT discard_changes(target => 0)');
SELECT * FROM refused('SELECT commit_changes(journal => NULL)');
SELECT * FROM refused('SELECT commit_changes(journal => ''Main'')');
SELECT * FROM refused('SELECT commit_changes(journal => '''')');
SELECT * FROM refused('SELECT commit_changes(base => -1)');
SELECT commit_changes(NULL, NULL, 'main', NULL) IS NULL AS nothing;

-- intervals: negative, zero, absurd
SELECT i AS ttl, line FROM unnest(ARRAY['-1 s', '0', '-1 month +29 days', '1020 years', '-1020 years', '178000000 years', '2147483647 days', '1000000000 hours']) i,
    LATERAL refused(format('SELECT claim_row(''parts'', 6, ttl => %L)', i)) line WHERE line !~ '^hint';
SELECT i AS wait, line FROM unnest(ARRAY['-1 us', '-1 day', '1020 years', '178000000 years']) i,
    LATERAL refused(format('SELECT claim_row(''parts'', 6, wait => %L)', i)) line WHERE line !~ '^hint';
SELECT line FROM refused('SELECT claim_rows(''parts'', ARRAY[6], ttl => ''1020 years'')') line WHERE line !~ '^hint';
SELECT line FROM refused('SELECT claim_rows(''parts'', ARRAY[6], wait => ''-1 s'')') line WHERE line !~ '^hint';
SELECT line FROM refused('SELECT steal_row(''parts'', 6, ttl => ''-1 s'')') line WHERE line !~ '^hint';
SELECT line FROM refused('SELECT renew_claims(''1020 years'')') line WHERE line !~ '^hint';
SELECT row_owner FROM parts WHERE id = 6;
-- the longest and the shortest that are taken
SELECT status, expires_at > clock_timestamp() + '990 years' AS late FROM claim_row('parts', 6, ttl => '1000 years');
SELECT status FROM claim_row('parts', 6, ttl => '1 us');
SELECT status FROM claim_row('parts', 6, wait => '1000 years');
-- versions
SELECT v, (claim_row('parts', 6, version => v)).status FROM unnest(ARRAY[-1, 0, 1, 9223372036854775807, -9223372036854775808]) v;

-- texts: control characters, long ones, markup that is not markup
SELECT status FROM claim_row('parts', 6, reason => E'a\nb\t"c" \\ {"d"} \x7f é 日');
SELECT reason = E'a\nb\t"c" \\ {"d"} \x7f é 日' AS same FROM rowclaim.claims WHERE key = '{"id": 6}';
SELECT status FROM claim_row('parts', 6, reason => '');
SELECT status FROM claim_row('parts', 6, reason => repeat('r', 100000));
GRANT ALL ON parts TO regress_bad_input_alice;
SET SESSION AUTHORIZATION regress_bad_input_alice;
SELECT length(line) BETWEEN 100000 AND 101000 AS long, (line::jsonb) ->> 'claim_reason' = repeat('r', 100000) AS whole
FROM refused('UPDATE parts SET name = ''x'' WHERE id = 6') line WHERE line LIKE '{%';
RESET SESSION AUTHORIZATION;
UPDATE parts SET name = E'\x01\x1f"\\/\x7f\u2028 é 日 😀' WHERE id = 7;
SELECT commit_changes(E'message \x01 "quoted" \\ 日\n') IS NOT NULL AS committed;
SELECT (new ->> 'name') = name AS same, message = E'message \x01 "quoted" \\ 日\n' AS same
FROM rowclaim.changes JOIN rowclaim.changesets USING (journal, seq), parts WHERE id = 7 ORDER BY seq DESC LIMIT 1;

-- a million keys
SELECT * FROM refused('SELECT count(*) FROM claim_rows(''parts'', (SELECT array_agg(g) FROM generate_series(1, 1000000) g))');
SELECT status, count(*) FROM claim_rows('parts', (SELECT array_agg(g) FROM generate_series(1, 50000) g)) GROUP BY status ORDER BY status;
SELECT count(*) FROM rowclaim.claims;
SELECT * FROM refused('SELECT count(*) FROM claim_rows(''parts'', ARRAY[]::int[], versions => ARRAY[1]::bigint[])');

-- internals called by hand
SELECT * FROM refused('SELECT rowclaim.guard()');
SELECT * FROM refused('SELECT rowclaim.capture()');
SELECT line FROM refused('SELECT rowclaim.visible_changes_to_me(''42'')') line LIMIT 1;
SELECT rowclaim.visible_changes_to_me(NULL) IS NULL AS nothing, rowclaim.visible_changes_to_me('[]');
SELECT rowclaim.stable_seq('none'), rowclaim.stable_seq(NULL);
SELECT rowclaim.draft_stamp() > 0 AS a_number;
-- the triggers on a table that is not enabled, or at another time
CREATE TRIGGER x BEFORE UPDATE ON plain FOR EACH ROW EXECUTE FUNCTION rowclaim.guard();
SELECT * FROM refused('UPDATE plain SET name = ''y''');
DROP TRIGGER x ON plain;
CREATE TRIGGER x AFTER UPDATE ON plain FOR EACH ROW EXECUTE FUNCTION rowclaim.guard();
SELECT * FROM refused('UPDATE plain SET name = ''y''');
DROP TRIGGER x ON plain;
CREATE TRIGGER x BEFORE UPDATE ON plain FOR EACH STATEMENT EXECUTE FUNCTION rowclaim.guard();
SELECT * FROM refused('UPDATE plain SET name = ''y''');
DROP TRIGGER x ON plain;
CREATE TRIGGER x BEFORE INSERT ON plain FOR EACH ROW EXECUTE FUNCTION rowclaim.capture();
SELECT * FROM refused('INSERT INTO plain VALUES (2, ''y'')');
DROP TRIGGER x ON plain;
CREATE TRIGGER x AFTER INSERT ON plain FOR EACH ROW EXECUTE FUNCTION rowclaim.capture();
SELECT * FROM refused('INSERT INTO plain VALUES (2, ''y'')');
DROP TRIGGER x ON plain;

-- the backend is the same
SELECT pg_backend_pid() = :pid AS alive;

RESET SESSION AUTHORIZATION;
DROP OWNED BY regress_bad_input_alice, regress_bad_input_bob;
DROP ROLE regress_bad_input_alice, regress_bad_input_bob;
