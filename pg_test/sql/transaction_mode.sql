-- committing => 'transaction': every database transaction that changed rows is one changeset.
\pset tuples_only on
\pset format unaligned
SET client_min_messages = warning;
CREATE EXTENSION rowclaim;
-- Runs a statement: ok with its row count, or SQLSTATE and DETAIL without times.
CREATE FUNCTION expect(sql text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    detail text;
    n      int;
BEGIN
    EXECUTE sql;
    GET DIAGNOSTICS n = ROW_COUNT;
    RETURN $1 || ' -> ok ' || n;
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
    RETURN $1 || ' -> ' || SQLSTATE || ' ' || coalesce(nullif(regexp_replace(detail, '"since":"[^"]*"', '"since":"…"'), ''), SQLERRM);
END $$;
-- Commits and shows the changes.
CREATE FUNCTION committed() RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    committed bigint := commit_changes();
BEGIN
    RETURN QUERY SELECT json_array_elements(changes)::text FROM rowclaim.journal WHERE seq = committed ORDER BY part;
END $$;
CREATE TABLE a (id int PRIMARY KEY, v int);
CREATE TABLE b (id int PRIMARY KEY, v int);
CREATE TABLE other (id int PRIMARY KEY, v int);
CREATE TABLE plain (id int PRIMARY KEY, v int);
INSERT INTO a SELECT i, i FROM generate_series(1, 9) i;
SELECT create_journal('second');
SELECT enable_claims('a', 'auto', 'transaction'), enable_claims('b', 'auto', 'transaction'), enable_claims('other', 'auto', 'transaction', 'second'), enable_claims('plain', 'auto');
SET rowclaim.actor = 'alice';
-- What is new in the journals since the last look.
CREATE TABLE seen (journal text PRIMARY KEY, seq bigint);
INSERT INTO seen VALUES ('main', 0), ('second', 0);
CREATE FUNCTION news() RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY SELECT concat_ws(' ', j.journal, j.seq, j.kind, j.actor, quote_literal(j.message), j.changes)
                 FROM rowclaim.journal j JOIN seen s ON s.journal = j.journal AND j.seq > s.seq ORDER BY j.journal, j.seq, j.part;
    UPDATE seen s SET seq = (SELECT max(j.seq) FROM rowclaim.journal j WHERE j.journal = s.journal) WHERE EXISTS (SELECT FROM rowclaim.journal j WHERE j.journal = s.journal);
END $$;

-- One statement, one changeset; nothing stays held or dirty.
UPDATE a SET v = 10 WHERE id = 1;
SELECT * FROM news();
SELECT count(*) FROM rowclaim.drafts;
SET rowclaim.actor = 'bob';
UPDATE a SET v = 11 WHERE id = 1;
SET rowclaim.actor = 'alice';
SELECT * FROM news();
SELECT commit_changes(), discard_changes();

-- Several statements: net changes; a message; nothing changed: no number drawn.
BEGIN;
SET LOCAL rowclaim.message = 'all together';
UPDATE a SET v = 20 WHERE id = 1;
UPDATE a SET v = 21 WHERE id = 1;
INSERT INTO a VALUES (10, 10);
DELETE FROM a WHERE id = 10;
UPDATE a SET v = 30 WHERE id = 2;
UPDATE a SET v = 2 WHERE id = 2;
DELETE FROM a WHERE id = 3;
COMMIT;
SELECT * FROM news();
BEGIN;
UPDATE a SET v = 40 WHERE id = 4;
UPDATE a SET v = 4 WHERE id = 4;
INSERT INTO a VALUES (10, 10);
DELETE FROM a WHERE id = 10;
COMMIT;
UPDATE a SET v = v;
BEGIN;
UPDATE a SET v = 41 WHERE id = 4;
ROLLBACK;
SELECT * FROM news();
UPDATE a SET v = 42 WHERE id = 4;
SELECT * FROM news();

-- Savepoints: what is rolled back is not in it.
BEGIN;
UPDATE a SET v = 50 WHERE id = 5;
SAVEPOINT s1;
UPDATE a SET v = 51 WHERE id = 5;
UPDATE a SET v = 60 WHERE id = 6;
SAVEPOINT s2;
DELETE FROM a WHERE id = 7;
ROLLBACK TO s2;
UPDATE a SET v = 70 WHERE id = 7;
RELEASE s2;
ROLLBACK TO s1;
UPDATE a SET v = 80 WHERE id = 8;
COMMIT;
SELECT * FROM news();
SELECT id, v FROM a WHERE id BETWEEN 5 AND 8 ORDER BY id;
-- First touched in a rolled-back savepoint, then again outside.
BEGIN;
SAVEPOINT s;
UPDATE a SET v = 90 WHERE id = 9;
ROLLBACK TO s;
UPDATE a SET v = 91 WHERE id = 9;
DO $$ BEGIN UPDATE a SET v = 92 WHERE id = 9; RAISE EXCEPTION 'x'; EXCEPTION WHEN OTHERS THEN NULL; END $$;
COMMIT;
SELECT * FROM news();
-- Only rolled-back changes.
BEGIN;
SAVEPOINT s;
UPDATE a SET v = 900 WHERE id = 9;
ROLLBACK TO s;
COMMIT;
SELECT * FROM news();

-- Several tables, journals and actors in one transaction: one changeset per journal and actor; drafts of explicit tables stay drafts.
BEGIN;
INSERT INTO b VALUES (1, 1);
UPDATE a SET v = 100 WHERE id = 1;
INSERT INTO other VALUES (1, 1);
INSERT INTO plain VALUES (1, 1);
SET LOCAL rowclaim.actor = 'bob';
INSERT INTO b VALUES (2, 2);
INSERT INTO other VALUES (2, 2);
COMMIT;
SELECT * FROM news();
SELECT target, actor FROM rowclaim.drafts;
SELECT commit_changes('the explicit one');
SELECT * FROM news();
-- Within a transaction, what one actor has written the other may not.
BEGIN;
UPDATE b SET v = 5 WHERE id = 1;
SET LOCAL rowclaim.actor = 'bob';
SELECT expect('UPDATE b SET v = 6 WHERE id = 1');
ROLLBACK;

-- Claims: with required they are needed, and stay; another's claim rejects under auto.
SELECT disable_claims('b');
SELECT enable_claims('b', 'required', 'transaction');
SELECT expect('UPDATE b SET v = 7 WHERE id = 1');
SELECT (claim_row('b', 1)).status;
SELECT expect('UPDATE b SET v = 7 WHERE id = 1');
SELECT release_row('b', 1);
SELECT (claim_row('a', 1)).status;
SET rowclaim.actor = 'bob';
SELECT expect('UPDATE a SET v = 7 WHERE id = 1');
SET rowclaim.actor = 'alice';
BEGIN;
DELETE FROM a WHERE id = 1;
INSERT INTO a VALUES (1, 1000);
COMMIT;
SELECT row_owner, v FROM a WHERE id = 1;
DELETE FROM a WHERE id = 1;
SELECT count(*) FROM rowclaim.claims;
SELECT * FROM news();

-- Procedures with COMMIT: a changeset for each transaction.
CREATE PROCEDURE in_steps() LANGUAGE plpgsql AS $$
BEGIN
    FOR i IN 4..6 LOOP
        UPDATE a SET v = 300 + i WHERE id = i;
        IF i = 5 THEN ROLLBACK; ELSE COMMIT; END IF;
    END LOOP;
    UPDATE a SET v = 307 WHERE id = 7;
END $$;
CALL in_steps();
SELECT * FROM news();
-- Deferred triggers and constraints run before: what they write is in it, what they reject is not.
CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO other VALUES (NEW.id * 100, NEW.v) ON CONFLICT (id) DO UPDATE SET v = EXCLUDED.v; RETURN NULL; END $$;
CREATE CONSTRAINT TRIGGER audit AFTER UPDATE ON a DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION audit();
UPDATE a SET v = 400 WHERE id = 4;
SELECT * FROM news();
DROP TRIGGER audit ON a;
ALTER TABLE a ADD UNIQUE (v) DEFERRABLE INITIALLY DEFERRED;
\set VERBOSITY sqlstate
BEGIN;
UPDATE a SET v = 400 WHERE id = 5;
COMMIT;
SELECT * FROM news();
UPDATE a SET v = 401 WHERE id = 5;
SELECT * FROM news();

-- Many rows: parts, all of one transaction.
INSERT INTO a SELECT i, i + 100000 FROM generate_series(1001, 3500) i;
SELECT part, parts, json_array_length(changes) FROM rowclaim.journal WHERE seq = (SELECT max(seq) FROM rowclaim.journal WHERE journal = 'main') AND journal = 'main' ORDER BY part;
SELECT count(*) FROM verify_journal();
-- With the table dropped or disabled in the same transaction, and created in it.
BEGIN;
UPDATE a SET v = 500 WHERE id = 5;
INSERT INTO other VALUES (7, 7);
DROP TABLE a;
COMMIT;
BEGIN;
INSERT INTO b VALUES (9, 9);
SELECT disable_claims('b', force => true);
COMMIT;
BEGIN;
CREATE TABLE fresh (id int PRIMARY KEY);
SELECT enable_claims('fresh', 'auto', 'transaction');
INSERT INTO fresh VALUES (1);
COMMIT;
UPDATE seen SET seq = seq + 1 WHERE journal = 'main';
SELECT * FROM news();
-- A read-only transaction.
BEGIN READ ONLY;
SELECT count(*) FROM fresh;
COMMIT;
-- A claimed row that is deleted, inserted again and changed in one transaction keeps its claim, and its version grows.
CREATE TABLE again (id int PRIMARY KEY, v int);
INSERT INTO again VALUES (1, 1), (2, 1);
SELECT enable_claims('again', 'auto', 'transaction');
SELECT status FROM claim_rows('again', ARRAY[1, 2]);
BEGIN;
DELETE FROM again;
INSERT INTO again VALUES (1, 2), (2, 1);
UPDATE again SET v = 3 WHERE id = 1;
UPDATE again SET v = 4 WHERE id = 1;
COMMIT;
SELECT id, v, row_owner = current_actor() AS mine, row_version FROM again ORDER BY id;
SELECT key, owner = current_actor() AS mine FROM rowclaim.claims WHERE target = 'again'::regclass ORDER BY key::text;
-- A claim may be released before the change is committed: it commits with its transaction all the same, whether that
-- has changed rows of other tables or not.
CREATE TABLE own (id int PRIMARY KEY, v int);
INSERT INTO own SELECT i, 0 FROM generate_series(1, 6) i;
SELECT enable_claims('own', 'required', 'transaction');
UPDATE seen SET seq = (SELECT max(seq) FROM rowclaim.journal WHERE journal = 'main') WHERE journal = 'main';
CREATE VIEW own_claims AS SELECT key ->> 'id' AS id, owner FROM rowclaim.claims WHERE target = 'own'::regclass ORDER BY 1;
SELECT count(*) FROM claim_rows('own', ARRAY[1, 2, 3, 4, 5, 6]);
BEGIN;
UPDATE own SET v = 1 WHERE id < 3;
DELETE FROM own WHERE id = 3;
DELETE FROM own WHERE id = 4;
INSERT INTO own VALUES (4, 1), (7, 1);
SELECT i, release_row('own', i), release_row('own', i) AS again FROM unnest(ARRAY[1, 3, 4, 5, 7, 8]) i;
-- What this transaction has changed it may change again.
UPDATE own SET v = 2 WHERE id = 1;
SELECT expect('UPDATE own SET v = 2 WHERE id = 5');
SELECT * FROM own_claims;
COMMIT;
SELECT * FROM news();
SELECT id, v, row_owner FROM own ORDER BY id;
SELECT * FROM own_claims;
SELECT expect('UPDATE own SET v = 3 WHERE id = 1');
-- All at once; a rollback brings them back.
SELECT count(*) FROM claim_rows('own', ARRAY[1, 4]);
BEGIN;
UPDATE own SET v = 4 WHERE id < 5;
SAVEPOINT s;
SELECT release_rows('own');
SELECT * FROM own_claims;
ROLLBACK TO s;
SELECT * FROM own_claims;
SELECT release_rows();
COMMIT;
SELECT * FROM news();
SELECT * FROM own_claims;
-- With commit_changes(), with and without a draft to commit; changing it again works the same.
SELECT count(*) FROM claim_rows('own', ARRAY[1, 2, 4]);
BEGIN;
UPDATE own SET v = 5 WHERE id = 1;
SELECT commit_changes(release => true);
SELECT * FROM own_claims;
UPDATE own SET v = 6 WHERE id = 1;
SELECT expect('UPDATE own SET v = 6 WHERE id = 2');
COMMIT;
SELECT count(*) FROM claim_rows('own', ARRAY[1, 2, 4]);
BEGIN;
UPDATE own SET v = 7 WHERE id = 1;
INSERT INTO plain VALUES (2, 2);
SELECT commit_changes(release => true) IS NOT NULL AS committed;
SELECT * FROM own_claims;
UPDATE own SET v = 8 WHERE id = 1;
SELECT expect('UPDATE own SET v = 8 WHERE id = 2');
COMMIT;
SELECT * FROM news();
-- Administrators release the same; another actor's claim stays his.
SELECT count(*) FROM claim_rows('own', ARRAY[1, 2]);
BEGIN;
UPDATE own SET v = 9 WHERE id = 1;
SET LOCAL rowclaim.actor = 'bob';
SELECT expect('SELECT release_row(''own'', 1)');
SELECT release_actor('alice');
SELECT * FROM own_claims;
COMMIT;
SELECT * FROM news();
SELECT id, v, row_owner FROM own ORDER BY id;
SELECT * FROM check_claims();
-- A claim follows what takes a deleted row's place at once: nothing is granted twice.
SELECT count(*) FROM claim_rows('own', ARRAY[1, 2]);
BEGIN;
DELETE FROM own WHERE id = 1;
INSERT INTO own VALUES (1, 10), (9, 10);
SELECT id, row_owner FROM own WHERE id IN (1, 9) ORDER BY id;
SELECT (claim_row('own', 1)).status, (SELECT status FROM claim_rows('own', ARRAY[9]));
-- 9 takes 2's place and the claim on it; its own ends.
DELETE FROM own WHERE id = 2;
UPDATE own SET id = 2 WHERE id = 9;
DELETE FROM own WHERE id = 1;
COMMIT;
SELECT * FROM news();
SELECT id, v, row_owner FROM own WHERE id < 3 ORDER BY id;
SELECT * FROM own_claims;
SELECT * FROM check_claims();
-- A row that a trigger deletes while it is being inserted never was.
CREATE FUNCTION unwanted() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN DELETE FROM other WHERE id = NEW.id; RETURN NULL; END $$;
CREATE TRIGGER aaa AFTER INSERT ON other FOR EACH ROW WHEN (NEW.v = 666) EXECUTE FUNCTION unwanted();
INSERT INTO other VALUES (70, 666), (71, 1);
SELECT * FROM news();
-- What commits with a transaction is in no draft, whatever else that transaction has put into one.
CREATE TABLE mixed (id int PRIMARY KEY, v int) PARTITION BY RANGE (id);
CREATE TABLE mixed_low PARTITION OF mixed FOR VALUES FROM (0) TO (10);
INSERT INTO mixed VALUES (1, 1);
CREATE TABLE single (id int PRIMARY KEY, v int);
INSERT INTO single VALUES (1, 1);
SELECT enable_claims('mixed', 'auto', 'transaction'), enable_claims('single', 'auto', 'transaction');
BEGIN;
UPDATE plain SET v = 5 WHERE id = 1;
UPDATE single SET v = 50 WHERE id = 1;
INSERT INTO single VALUES (60, 60);
INSERT INTO mixed VALUES (2, 2);
COMMIT;
BEGIN;
UPDATE mixed SET v = 5 WHERE id = 1;
UPDATE plain SET v = 5 WHERE id = 2;
COMMIT;
SELECT s.id FROM single s JOIN rowclaim.draft d ON d.id = s.row_draft ORDER BY 1;
SELECT target, key, op FROM rowclaim.drafts ORDER BY key::text;
SELECT * FROM check_claims();
SET rowclaim.actor = 'bob';
UPDATE single SET v = 51 WHERE id = 1;
DELETE FROM single WHERE id = 60;
UPDATE mixed SET v = 6;
SELECT expect('UPDATE plain SET v = 6 WHERE id = 1');
SET rowclaim.actor = 'alice';
SELECT discard_changes();
SELECT (SELECT v FROM single WHERE id = 1) AS single, (SELECT array_agg(v ORDER BY id) FROM mixed) AS mixed, array_agg(v ORDER BY id) AS plain FROM plain;
SELECT * FROM check_claims();
