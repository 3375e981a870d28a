-- Rows that a transaction touches once: their changes are made where they are written, and must be what the commit would find.
\pset tuples_only on
\pset format unaligned
SET client_min_messages = warning;
CREATE EXTENSION rowclaim;
CREATE TABLE a (id numeric PRIMARY KEY, v int, t text, extra int, twice int GENERATED ALWAYS AS (v * 2) STORED);
ALTER TABLE a ALTER t SET STORAGE EXTERNAL;
INSERT INTO a SELECT i, i, 'text ' || i FROM generate_series(1, 9) i;
INSERT INTO a VALUES (10.0, 10, repeat('long ', 1000));
SELECT enable_claims('a', 'auto', 'transaction', untracked => '{extra}');
SET rowclaim.actor = 'alice';
-- What is new in the journal since the last look.
CREATE TABLE seen AS SELECT 0::bigint AS seq;
CREATE FUNCTION news() RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY SELECT j.seq || ' ' || regexp_replace(c::text, '(long ){10,}', '…', 'g')
                 FROM rowclaim.journal j, seen s, json_array_elements(j.changes) WITH ORDINALITY e(c, n)
                 WHERE j.seq > s.seq ORDER BY j.seq, j.part, n;
    UPDATE seen SET seq = (SELECT max(j.seq) FROM rowclaim.journal j);
END $$;

-- Each operation alone and all together; keys and numbers as they are stored.
INSERT INTO a VALUES (11.00, 1.5, E'a "quoted"\\\n\ttext', 7);
UPDATE a SET v = NULL WHERE id = 1;
UPDATE a SET v = 1, t = NULL, extra = 3 WHERE id = 1;
UPDATE a SET v = v + 1 WHERE id IN (2, 10, 11);
DELETE FROM a WHERE id = 3;
BEGIN;
INSERT INTO a VALUES (3.0, 33, '');
UPDATE a SET t = t || '!' WHERE id IN (4, 10);
DELETE FROM a WHERE id = 5;
COMMIT;
SELECT * FROM news();
-- Texts that are stored apart.
INSERT INTO a VALUES (12, 12, repeat('long ', 1000));
UPDATE a SET t = repeat('long ', 1001) WHERE id IN (6, 12);
UPDATE a SET t = 'short' WHERE id = 12;
SELECT * FROM news();
-- The same value, otherwise stored: 2 as a numeric with more digits is another text, a longer way to store it is none.
CREATE TABLE same (id int PRIMARY KEY, n numeric, ints int[]);
INSERT INTO same VALUES (1, 2, '{1,NULL}'), (2, 2, '{1,NULL}');
UPDATE same SET ints[2] = 2;
SELECT enable_claims('same', 'auto', 'transaction');
UPDATE same SET n = 2.00 WHERE id = 1;
UPDATE same SET ints = '{1,2}' WHERE id = 2;
SELECT * FROM news();

-- Touched again: by a statement, in untracked columns, by a claim, by triggers before and after.
BEGIN;
UPDATE a SET v = 70 WHERE id = 7;
UPDATE a SET v = 71 WHERE id = 7;
UPDATE a SET v = 80 WHERE id = 8;
UPDATE a SET v = 8 WHERE id = 8;
UPDATE a SET v = 90 WHERE id = 9;
COMMIT;
BEGIN;
INSERT INTO a VALUES (13, 13, 'new', 0);
UPDATE a SET extra = 1 WHERE id = 13;
COMMIT;
BEGIN;
INSERT INTO a VALUES (14, 14, 'claimed');
UPDATE a SET v = 72 WHERE id = 7;
SELECT status, row_version FROM claim_rows('a', '{7,14}'::numeric[]);
COMMIT;
SELECT id, row_owner, row_version FROM a WHERE id IN (7, 14);
BEGIN;
SELECT release_rows();
UPDATE a SET v = 73 WHERE id = 7;
SELECT status FROM claim_row('a', 7);
UPDATE a SET t = 'after the claim' WHERE id = 7;
SELECT release_row('a', 14);
DELETE FROM a WHERE id = 14;
INSERT INTO a VALUES (14, 14, 'once more');
COMMIT;
SELECT * FROM news();
SELECT key, owner FROM rowclaim.claims ORDER BY key;
SELECT release_rows();
CREATE FUNCTION upper_t() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.t := upper(NEW.t);
    RETURN NEW;
END $$;
CREATE FUNCTION further() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE a SET t = t || ' further' WHERE id = NEW.id;
    RETURN NULL;
END $$;
CREATE TRIGGER zz_before BEFORE INSERT OR UPDATE ON a FOR EACH ROW EXECUTE FUNCTION upper_t();
UPDATE a SET t = 'upper' WHERE id = 7;
INSERT INTO a VALUES (15, 15, 'upper');
DROP TRIGGER zz_before ON a;
CREATE TRIGGER aa_after AFTER INSERT ON a FOR EACH ROW EXECUTE FUNCTION further();
INSERT INTO a VALUES (16, 16, 'went');
DROP TRIGGER aa_after ON a;
CREATE CONSTRAINT TRIGGER deferred AFTER INSERT ON a DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION further();
INSERT INTO a VALUES (17, 17, 'went, deferred,');
DROP TRIGGER deferred ON a;
SELECT * FROM news();

-- Rolled back to a savepoint, before and after.
BEGIN;
SAVEPOINT s;
UPDATE a SET v = 1 WHERE id = 7;
ROLLBACK TO s;
UPDATE a SET v = 2 WHERE id = 7;
COMMIT;
BEGIN;
UPDATE a SET v = 3 WHERE id = 7;
SAVEPOINT s;
UPDATE a SET v = 4 WHERE id = 7;
INSERT INTO a VALUES (18, 18, 'never');
ROLLBACK TO s;
INSERT INTO a VALUES (19, 19, 'kept');
COMMIT;
SELECT * FROM news();

-- Other definitions after the change: what is committed has those.
BEGIN;
UPDATE a SET v = 5 WHERE id = 7;
INSERT INTO a VALUES (20, 20, 'short of a column');
ALTER TABLE a ADD COLUMN more int DEFAULT 5;
COMMIT;
BEGIN;
INSERT INTO a VALUES (21, 21, 'renamed');
ALTER TABLE a RENAME COLUMN more TO even_more;
COMMIT;
BEGIN;
INSERT INTO a VALUES (22, 22, 'a float now');
ALTER TABLE a ALTER COLUMN even_more TYPE float8 USING even_more + 0.5;
COMMIT;
BEGIN;
INSERT INTO a VALUES (23, 23, 'in another place');
ALTER TABLE a RENAME TO b;
CREATE SCHEMA place;
ALTER TABLE b SET SCHEMA place;
COMMIT;
BEGIN;
INSERT INTO place.b VALUES (24, 24, 'in a renamed place');
ALTER SCHEMA place RENAME TO elsewhere;
COMMIT;
BEGIN;
INSERT INTO elsewhere.b VALUES (25, 25, 'no more to say');
SELECT disable_claims('elsewhere.b', drop_columns => true);
COMMIT;
SELECT * FROM news();

-- Partitions whose columns are in another order; rows that move. Foreign keys and unique values.
CREATE TABLE p (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
CREATE TABLE p1 (v text, gone int, id int NOT NULL);
ALTER TABLE p1 DROP COLUMN gone;
ALTER TABLE p ATTACH PARTITION p1 FOR VALUES FROM (0) TO (10);
CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (10) TO (20);
SELECT enable_claims('p', 'auto', 'transaction');
INSERT INTO p VALUES (1, 'one'), (11, 'eleven');
UPDATE p SET v = v || '!';
BEGIN;
UPDATE p SET id = id + 1;
INSERT INTO p VALUES (1, 'next'), (11, 'next');
COMMIT;
UPDATE p SET id = 13 WHERE id = 2;
SELECT * FROM news();
CREATE TABLE parent (id int PRIMARY KEY, code text UNIQUE, v int);
CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES parent DEFERRABLE INITIALLY DEFERRED, v int);
SELECT enable_claims('parent', 'auto', 'transaction'), enable_claims('child', 'auto', 'transaction');
BEGIN;
INSERT INTO child VALUES (1, 1, 1);
INSERT INTO parent VALUES (1, 'x', 1), (2, 'y', 2);
COMMIT;
BEGIN;
UPDATE child SET v = 2;
UPDATE parent SET code = 'z' WHERE id = 1;
UPDATE parent SET code = 'x' WHERE id = 2;
COMMIT;
SELECT * FROM news();
SELECT * FROM verify_journal();
DROP EXTENSION rowclaim CASCADE;
DROP SCHEMA elsewhere CASCADE;
DROP TABLE seen, same, p, child, parent;
DROP FUNCTION news, upper_t, further;
