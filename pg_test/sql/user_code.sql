-- Code of a user's table runs as the table's owner, never with the extension's rights: CHECK constraints, generated
-- columns and index expressions while rows are claimed, discarded, stolen and restored.
CREATE EXTENSION rowclaim;
CREATE ROLE regress_user_code_mallory;
GRANT ALL ON SCHEMA public TO regress_user_code_mallory;
SET SESSION AUTHORIZATION regress_user_code_mallory;
CREATE TABLE ran (as_whom name, what text);
CREATE FUNCTION note(what text) RETURNS void LANGUAGE sql AS $$ INSERT INTO public.ran VALUES (current_user, what) $$;
CREATE FUNCTION checked(n int) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN PERFORM public.note('check'); RETURN true; END $$;
CREATE FUNCTION generated(n int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN PERFORM public.note('generated'); RETURN n; END $$;
CREATE FUNCTION indexed(n int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN PERFORM public.note('index'); RETURN n; END $$;
CREATE TYPE mood AS ENUM ('fine', 'bad');
CREATE TABLE t (id int PRIMARY KEY, n int CHECK (checked(n)), g int GENERATED ALWAYS AS (generated(n)) STORED, m mood);
CREATE INDEX ON t (indexed(n));
INSERT INTO t (id, n, m) SELECT i, i, 'fine' FROM generate_series(1, 4) i;
SELECT enable_claims('t', 'auto');
-- fill the page, so that a claim needs new index entries
UPDATE t SET n = n + 1;
SELECT commit_changes();
TRUNCATE ran;
SELECT count(*) FROM claim_rows('t', ARRAY[1, 2, 3, 4]) WHERE status = 'granted';
SELECT release_row('t', 4);
UPDATE t SET n = 10 WHERE id = 1;
DELETE FROM t WHERE id = 2;
UPDATE t SET n = 30 WHERE id = 3;
SELECT discard_changes('main', 't', '1'), discard_changes('main', 't', '2');
RESET SESSION AUTHORIZATION;
SELECT status FROM steal_row('t', 3);
SET SESSION AUTHORIZATION regress_user_code_mallory;
UPDATE t SET m = 'bad' WHERE id = 1;
ALTER TABLE t ALTER COLUMN m TYPE text;
SELECT DISTINCT as_whom, what FROM ran ORDER BY what;
RESET SESSION AUTHORIZATION;
SELECT release_actor('regress_user_code_mallory') > 0 AS freed;
SELECT DISTINCT as_whom FROM ran;
-- What the planner and the relation cache evaluate, and domains inside other types.
SET SESSION AUTHORIZATION regress_user_code_mallory;
TRUNCATE ran;
CREATE FUNCTION folded() RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN PERFORM public.note('folded'); RETURN true; END $$;
CREATE FUNCTION in_domain(n int) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN PERFORM public.note('domain'); RETURN true; END $$;
CREATE TABLE predicate (id int PRIMARY KEY, row_owner text, v int CHECK (folded()));
CREATE INDEX ON predicate (id) WHERE folded();
SELECT enable_claims('predicate', version_column => 'v');
CREATE DOMAIN small AS int CHECK (in_domain(VALUE));
CREATE TABLE domains (id int PRIMARY KEY, a small[]);
INSERT INTO domains VALUES (1, '{1}');
SELECT enable_claims('domains', 'auto');
UPDATE domains SET a = '{2}';
SELECT discard_changes();
CREATE TABLE split (id int PRIMARY KEY, v int) PARTITION BY RANGE (id);
CREATE TABLE split_low PARTITION OF split FOR VALUES FROM (0) TO (100);
CREATE INDEX ON split (v) WHERE folded();
SELECT enable_claims('split');
INSERT INTO split VALUES (1, 1);
SELECT commit_changes() IS NOT NULL AS committed;
SELECT status FROM claim_row('split', 1);
CREATE TABLE split_high (LIKE split INCLUDING DEFAULTS INCLUDING CONSTRAINTS);
CREATE INDEX ON split_high (id) WHERE folded();
ALTER TABLE split ATTACH PARTITION split_high FOR VALUES FROM (100) TO (200);
SELECT DISTINCT as_whom, what FROM ran ORDER BY what;
RESET SESSION AUTHORIZATION;
-- A session that has not read the predicate yet claims a row of somebody else's table, in a page without room.
SET SESSION AUTHORIZATION regress_user_code_mallory;
CREATE TABLE packed (id int PRIMARY KEY);
INSERT INTO packed SELECT generate_series(1, 500);
CREATE INDEX ON packed (id) WHERE folded();
SELECT enable_claims('packed');
\c -
TRUNCATE ran;
SELECT status FROM claim_row('packed', 1);
SELECT DISTINCT as_whom, what FROM ran ORDER BY what;
DROP OWNED BY regress_user_code_mallory CASCADE;
DROP ROLE regress_user_code_mallory;

-- Errors of other code go through the extension's hooks as they are: SQLSTATEs of one's own, positions, contexts.
\set VERBOSITY default
SELECT current_actor() IS NOT NULL AS loaded;
DO $$
DECLARE
    context text;
BEGIN
    EXECUTE $x$ DO $y$ BEGIN RAISE 'mine' USING ERRCODE = 'U9999'; END $y$ $x$;
EXCEPTION WHEN SQLSTATE 'U9999' THEN
    GET STACKED DIAGNOSTICS context = PG_EXCEPTION_CONTEXT;
    RAISE NOTICE '% %: %', SQLSTATE, SQLERRM, context;
END $$;
CREATE TABLE no_such_type (id no_such_type);
SELECT 1 / (random() * 0)::int;
DO $$ BEGIN EXECUTE 'SELECT 1 / 0'; END $$;
