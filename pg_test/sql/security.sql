-- What a role must not learn, forge or break by way of names, stamps, columns, casts and its own triggers.
CREATE EXTENSION rowclaim;
CREATE ROLE regress_security_mallory;
CREATE ROLE regress_security_bob;
CREATE ROLE regress_security_reader IN ROLE pg_read_all_data;
GRANT ALL ON SCHEMA public TO PUBLIC;
\pset format unaligned
\pset tuples_only on
\set VERBOSITY terse
-- a table that takes another's name does not show the other's history
CREATE TABLE salaries (id int PRIMARY KEY, v text);
SELECT enable_claims('salaries', 'auto');
INSERT INTO salaries VALUES (1, 'secret');
SELECT commit_changes();
ALTER TABLE salaries RENAME TO salaries_old;
SET SESSION AUTHORIZATION regress_security_mallory;
CREATE TABLE salaries (x int);
SELECT new FROM rowclaim.changes;
SELECT changes FROM pull_changes('mallory');
RESET SESSION AUTHORIZATION;
-- nor does pg_read_all_data override row security
CREATE TABLE private (id int PRIMARY KEY, v text);
ALTER TABLE private ENABLE ROW LEVEL SECURITY;
SELECT enable_claims('private', 'auto');
INSERT INTO private VALUES (1, 'secret');
SELECT commit_changes();
SET SESSION AUTHORIZATION regress_security_reader;
SELECT count(*) FROM rowclaim.changes WHERE target = 'public.private';
SELECT count(*) FROM rowclaim.changes WHERE target = 'public.salaries';
RESET SESSION AUTHORIZATION;
-- a stash does not show columns its actor may not read
CREATE TABLE emp (id int PRIMARY KEY, phone text, salary int);
INSERT INTO emp VALUES (1, '1', 99999);
SELECT enable_claims('emp', 'auto');
GRANT SELECT (id, phone), UPDATE (phone) ON emp TO regress_security_bob;
SET SESSION AUTHORIZATION regress_security_bob;
UPDATE emp SET phone = '2' WHERE id = 1;
RESET SESSION AUTHORIZATION;
SELECT status FROM steal_row('emp', 1);
SET SESSION AUTHORIZATION regress_security_bob;
SELECT op, key, base, mine FROM rowclaim.stashes;
RESET SESSION AUTHORIZATION;
-- stamps: an absurd one would use up the sequence; a forged one would pass for a draft to come
SET SESSION AUTHORIZATION regress_security_mallory;
CREATE TABLE stamped (id int PRIMARY KEY, row_draft bigint);
INSERT INTO stamped VALUES (1, 9223372036854775807);
SELECT enable_claims('stamped');
-- one of another's open draft would pass for his row
RESET SESSION AUTHORIZATION;
CREATE TABLE edited (id int PRIMARY KEY);
SELECT enable_claims('edited', 'auto');
INSERT INTO edited VALUES (1);
GRANT SELECT ON edited TO regress_security_mallory;
SET SESSION AUTHORIZATION regress_security_mallory;
UPDATE stamped SET row_draft = (SELECT row_draft FROM edited);
SELECT enable_claims('stamped');
RESET SESSION AUTHORIZATION;
SELECT commit_changes() > 0;
SET SESSION AUTHORIZATION regress_security_mallory;
SELECT enable_claims('stamped');
SELECT status FROM claim_row('stamped', 1);
CREATE TABLE split (id int PRIMARY KEY, v int) PARTITION BY RANGE (id);
SELECT enable_claims('split');
CREATE TABLE forged (LIKE split INCLUDING DEFAULTS INCLUDING CONSTRAINTS);
INSERT INTO forged VALUES (11, 1, NULL, 1, 1000);
ALTER TABLE split ATTACH PARTITION forged FOR VALUES FROM (0) TO (100);
RESET SESSION AUTHORIZATION;
-- a partition made by CREATE SCHEMA is guarded too
CREATE SCHEMA regress_security CREATE TABLE leaf PARTITION OF public.split FOR VALUES FROM (100) TO (200);
TRUNCATE regress_security.leaf;
-- the owner of a table cannot write the ownership columns by a change of type
CREATE TABLE held (id int PRIMARY KEY, v int);
INSERT INTO held VALUES (1, 1), (2, 2);
ALTER TABLE held OWNER TO regress_security_mallory;
GRANT UPDATE ON held TO regress_security_bob;
SET SESSION AUTHORIZATION regress_security_mallory;
SELECT enable_claims('held', version_column => 'Version');
SET SESSION AUTHORIZATION regress_security_bob;
SELECT status FROM claim_row('held', 1);
SET SESSION AUTHORIZATION regress_security_mallory;
ALTER TABLE held ALTER COLUMN row_owner TYPE text USING 'regress_security_mallory';
ALTER TABLE held ALTER COLUMN v TYPE bigint, ALTER COLUMN row_draft TYPE bigint USING 1;
ALTER TABLE held ALTER COLUMN "Version" TYPE int USING 7;
ALTER TABLE held ALTER COLUMN "Version" TYPE int, ALTER COLUMN v TYPE text USING 'v' || v;
SELECT * FROM held ORDER BY id;
RESET SESSION AUTHORIZATION;
-- a table's own code may write an enabled table while the extension works
CREATE TABLE log (id serial PRIMARY KEY, what text);
SELECT enable_claims('log', 'auto');
CREATE TABLE parent (id int PRIMARY KEY);
CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES parent ON DELETE CASCADE);
CREATE FUNCTION write_log() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN INSERT INTO public.log (what) VALUES ('gone ' || OLD.id); RETURN NULL; END $$;
CREATE TRIGGER write_log AFTER DELETE ON child FOR EACH ROW EXECUTE FUNCTION write_log();
SELECT enable_claims('parent', 'auto');
INSERT INTO parent VALUES (1);
INSERT INTO child VALUES (7, 1);
SELECT discard_changes('main', 'parent');
SELECT what FROM log;
SELECT count(*) FROM child;
-- a user's cast does not run with the extension's rights when dirty rows are retyped
SET SESSION AUTHORIZATION regress_security_mallory;
CREATE TABLE ran (as_whom name);
CREATE TYPE mood AS ENUM ('fine', 'bad');
CREATE FUNCTION cast_mood(mood) RETURNS int LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.ran VALUES (current_user); RETURN 1; END $$;
CREATE CAST (mood AS int) WITH FUNCTION cast_mood(mood);
CREATE TABLE moods (id int PRIMARY KEY, m mood);
INSERT INTO moods VALUES (1, 'fine');
SELECT enable_claims('moods', 'auto');
UPDATE moods SET m = 'bad';
ALTER TABLE moods ALTER m TYPE int USING 7;
SELECT * FROM ran;
SELECT discard_changes();
RESET SESSION AUTHORIZATION;
DROP SCHEMA regress_security CASCADE;
DROP OWNED BY regress_security_mallory, regress_security_bob CASCADE;
DROP ROLE regress_security_mallory, regress_security_bob, regress_security_reader;
