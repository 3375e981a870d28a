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
DROP OWNED BY regress_user_code_mallory CASCADE;
DROP ROLE regress_user_code_mallory;
