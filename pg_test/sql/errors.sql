-- Every error reason: SQLSTATE, message, DETAIL and HINT.
CREATE EXTENSION rowclaim;
CREATE ROLE regress_errors_alice;
CREATE ROLE regress_errors_bob;
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

CREATE TABLE parts (id int PRIMARY KEY, name text, price numeric(10,2));
INSERT INTO parts SELECT g, 'part ' || g, g FROM generate_series(1, 9) g;
GRANT ALL ON parts TO PUBLIC;
SELECT enable_claims('parts');

-- row_held by a claim with a reason, without and with an expiry
SET SESSION AUTHORIZATION regress_errors_bob;
SELECT status FROM claim_row('parts', 1, reason => 'price review');
SELECT status FROM claim_row('parts', 2, ttl => '1 day');
SET SESSION AUTHORIZATION regress_errors_alice;
SELECT * FROM refused('UPDATE parts SET price = 0 WHERE id = 1');
SELECT * FROM refused('DELETE FROM parts WHERE id = 2');
SELECT * FROM refused('SELECT release_row(''parts'', 1)');
-- row_held by uncommitted changes
SET SESSION AUTHORIZATION regress_errors_bob;
INSERT INTO parts VALUES (10, 'new', 1);
DELETE FROM parts WHERE id = 1;
SET SESSION AUTHORIZATION regress_errors_alice;
SELECT * FROM refused('UPDATE parts SET price = 0 WHERE id = 10');
SELECT * FROM refused('SELECT release_row(''parts'', 10)');
-- row_held: the key is being deleted by somebody else
SELECT * FROM refused('INSERT INTO parts VALUES (1, ''mine'', 1)');
SELECT * FROM refused('SELECT release_row(''parts'', 1)');

-- row_not_claimed
SELECT * FROM refused('UPDATE parts SET price = 0 WHERE id = 3');
SELECT * FROM refused('DELETE FROM parts WHERE id = 3');
-- the whole statement fails, also for the rows I hold
SELECT status FROM claim_row('parts', 3);
SELECT * FROM refused('UPDATE parts SET price = 0 WHERE id IN (3, 4)');
SELECT id, price FROM parts WHERE id IN (3, 4) ORDER BY id;

-- stale_row_version
SELECT * FROM refused('UPDATE parts SET row_version = 7 WHERE id = 3');
SELECT * FROM refused('UPDATE parts SET row_version = 0, price = 0 WHERE id = 3');
SELECT * FROM refused('UPDATE parts SET row_version = NULL WHERE id = 3');

-- uncommitted_changes: of one row, of all, of a table to be disabled
UPDATE parts SET price = 33 WHERE id = 3;
SELECT * FROM refused('SELECT release_row(''parts'', 3)');
SELECT * FROM refused('SELECT release_rows()');
SELECT * FROM refused('SELECT release_rows(''parts'')');
RESET SESSION AUTHORIZATION;
SELECT * FROM refused('SELECT disable_claims(''parts'')');

-- protected_column
SET SESSION AUTHORIZATION regress_errors_alice;
SELECT * FROM refused('UPDATE parts SET row_owner = ''x'' WHERE id = 3');
SELECT * FROM refused('UPDATE parts SET row_owner = NULL WHERE id = 3');
SELECT * FROM refused('UPDATE parts SET row_draft = 1 WHERE id = 3');
SELECT * FROM refused('UPDATE parts SET row_draft = NULL WHERE id = 3');

-- journal_behind
SELECT commit_changes('one', release => true);
SET SESSION AUTHORIZATION regress_errors_bob;
SELECT * FROM refused('SELECT commit_changes(base => 0)');
SELECT commit_changes('two', base => 1);

-- claims_not_enabled
RESET SESSION AUTHORIZATION;
CREATE TABLE plain (id int PRIMARY KEY);
SELECT * FROM refused('SELECT claim_row(''plain'', 1)');
SELECT * FROM refused('SELECT claim_rows(''plain'', ARRAY[1])');
SELECT * FROM refused('SELECT steal_row(''plain'', 1)');
SELECT * FROM refused('SELECT release_row(''plain'', 1)');
SELECT * FROM refused('SELECT release_rows(''plain'')');
SELECT * FROM refused('SELECT renew_claims(''1 day'', ''plain'')');
SELECT * FROM refused('SELECT discard_changes(''main'', ''plain'')');
SELECT * FROM refused('SELECT disable_claims(''plain'')');
SELECT * FROM refused('SELECT claim_row(''pg_class'', 1)');

-- invalid_key
SELECT * FROM refused('SELECT claim_row(''parts'', ''abc'')');
SELECT * FROM refused('SELECT claim_row(''parts'', NULL::int)');

-- invalid_changeset: a row image that somebody has damaged
SET SESSION AUTHORIZATION regress_errors_bob;
UPDATE parts SET price = 20 WHERE id = 2;
RESET SESSION AUTHORIZATION;
BEGIN;
UPDATE rowclaim.draft_row SET base = '{"id":2,';
SET LOCAL SESSION AUTHORIZATION regress_errors_bob;
SELECT * FROM refused('SELECT discard_changes()');
SELECT * FROM refused('SELECT commit_changes()');
ROLLBACK;
SET SESSION AUTHORIZATION regress_errors_bob;
SELECT discard_changes();

-- invalid_parameter
SELECT * FROM refused('SELECT claim_row(''parts'', 2, ttl => ''-1 s'')');

-- unsupported_table
RESET SESSION AUTHORIZATION;
CREATE TABLE nokey (id int);
SELECT * FROM refused('SELECT enable_claims(''nokey'')');

-- operation_refused
SELECT * FROM refused('TRUNCATE parts');
SELECT * FROM refused('ALTER TABLE parts RENAME COLUMN row_owner TO x');
SELECT * FROM refused('SELECT enable_claims(''parts'', claiming => ''auto'')');
SET SESSION AUTHORIZATION regress_errors_bob;
SELECT status FROM claim_row('parts', 5);
RESET SESSION AUTHORIZATION;
SELECT * FROM refused('SELECT disable_claims(''parts'')');

-- keys appear only if the caller may SELECT them
REVOKE ALL ON parts FROM PUBLIC;
GRANT UPDATE ON parts TO regress_errors_alice;
SET SESSION AUTHORIZATION regress_errors_alice;
SELECT * FROM refused('UPDATE parts SET price = 0');
SELECT * FROM refused('SELECT release_row(''parts'', 5)');
RESET SESSION AUTHORIZATION;
GRANT SELECT (id) ON parts TO regress_errors_alice;
SET SESSION AUTHORIZATION regress_errors_alice;
SELECT * FROM refused('UPDATE parts SET price = 0 WHERE id = 5');
RESET SESSION AUTHORIZATION;
REVOKE SELECT (id) ON parts FROM regress_errors_alice;
GRANT SELECT (name) ON parts TO regress_errors_alice;
SET SESSION AUTHORIZATION regress_errors_alice;
SELECT * FROM refused('UPDATE parts SET price = 0 WHERE name = ''part 5''');
RESET SESSION AUTHORIZATION;
-- nor under row security
GRANT SELECT ON parts TO regress_errors_alice;
ALTER TABLE parts ENABLE ROW LEVEL SECURITY;
CREATE POLICY everything ON parts USING (true);
SET SESSION AUTHORIZATION regress_errors_alice;
SELECT * FROM refused('UPDATE parts SET price = 0 WHERE id = 5');
RESET SESSION AUTHORIZATION;

-- names are quoted, composite keys and odd text are shown whole
CREATE SCHEMA "Odd Schema";
CREATE TABLE "Odd Schema"."a ""b""" ("x,y" text, n int, PRIMARY KEY ("x,y", n));
INSERT INTO "Odd Schema"."a ""b""" VALUES (E'q"u\\o:t,e\n', 1);
SELECT enable_claims('"Odd Schema"."a ""b"""');
SELECT * FROM refused('DELETE FROM "Odd Schema"."a ""b"""');

RESET SESSION AUTHORIZATION;
DROP OWNED BY regress_errors_alice, regress_errors_bob;
DROP ROLE regress_errors_alice, regress_errors_bob;
