-- Foreign keys: cascades are writes, checks are not; discard and steal keep the keys whole.
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
CREATE TABLE parent (id int PRIMARY KEY, name text);
CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES parent ON DELETE CASCADE ON UPDATE CASCADE, n int);
CREATE TABLE opt (id int PRIMARY KEY, parent int REFERENCES parent ON DELETE SET NULL ON UPDATE SET NULL);
CREATE TABLE self (id int PRIMARY KEY, up int REFERENCES self ON DELETE CASCADE);
INSERT INTO parent SELECT i, 'p' || i FROM generate_series(1, 5) i;
INSERT INTO child SELECT i, i, 0 FROM generate_series(1, 5) i;
INSERT INTO opt SELECT i, i FROM generate_series(1, 5) i;
INSERT INTO self VALUES (1, NULL), (2, 1), (3, 2), (4, 3);
SELECT enable_claims('parent'), enable_claims('child'), enable_claims('opt'), enable_claims('self');
SET rowclaim.actor = 'bob';
SELECT (claim_row('child', 2)).status, (claim_row('opt', 3)).status, (claim_row('self', 4)).status;
SET rowclaim.actor = 'alice';
SELECT (claim_row('parent', i)).status FROM generate_series(1, 5) i;

-- The children have to be mine, too; else nothing happens.
SELECT expect(sql) FROM (VALUES ('DELETE FROM parent WHERE id = 1'), ('DELETE FROM parent WHERE id = 2'), ('UPDATE parent SET id = 20 WHERE id = 2')) s(sql);
SELECT (claim_row('child', i)).status, (claim_row('opt', i)).status FROM unnest('{1,3,4,5}'::int[]) i;
SELECT expect(sql) FROM (VALUES ('DELETE FROM parent WHERE id = 3'), ('UPDATE parent SET id = 30 WHERE id = 3'), ('DELETE FROM parent WHERE id = 1'), ('UPDATE parent SET id = 40 WHERE id = 4')) s(sql);
SELECT target, key, op FROM rowclaim.drafts ORDER BY target::text, key::text;
SELECT * FROM committed();
SELECT target, key FROM rowclaim.claims WHERE owner = 'alice' ORDER BY target::text, key::text;
-- A chain within one table.
SELECT (claim_row('self', i)).status FROM generate_series(1, 3) i;
SELECT expect('DELETE FROM self WHERE id = 1');
SET rowclaim.actor = 'bob';
SELECT release_row('self', 4);
SET rowclaim.actor = 'alice';
SELECT (claim_row('self', 4)).status, expect('DELETE FROM self WHERE id = 1');
SELECT * FROM committed();

-- Checks touch nothing: others insert children of my dirty, claimed parent.
UPDATE parent SET name = 'dirty' WHERE id = 5;
SET rowclaim.actor = 'bob';
SELECT expect('INSERT INTO child VALUES (50, 5, 0)'), expect('INSERT INTO opt VALUES (50, 5)');
SELECT * FROM parent WHERE id = 5 FOR KEY SHARE;
SET rowclaim.actor = 'alice';
-- But then the parent cannot go, for the child is bob's until he commits.
SELECT expect('DELETE FROM parent WHERE id = 5');
SELECT discard_changes();

-- Discarding an inserted parent that another's child refers to is refused; the draft stays.
INSERT INTO parent VALUES (6, 'new');
SET rowclaim.actor = 'bob';
INSERT INTO opt VALUES (60, 6);
SET rowclaim.actor = 'alice';
SELECT split_part(expect('SELECT discard_changes()'), ' -> ', 2);
SELECT target, key, op FROM rowclaim.drafts WHERE actor = 'alice';
SET rowclaim.actor = 'bob';
SELECT discard_changes();
SET rowclaim.actor = 'alice';
SELECT discard_changes();

-- Discarding a whole tree, deleted and inserted, in any order of the edits.
SELECT (claim_row('child', 5)).status, (claim_row('opt', 5)).status;
CREATE TABLE before AS SELECT 'p', id, name FROM parent UNION ALL SELECT 'c', id, parent || '/' || n FROM child UNION ALL SELECT 'o', id, parent::text FROM opt;
DELETE FROM parent WHERE id = 5;
INSERT INTO parent VALUES (7, 'seven');
INSERT INTO child VALUES (70, 7, 0);
INSERT INTO opt VALUES (70, 7);
UPDATE opt SET parent = 7 WHERE id = 5;
UPDATE parent SET id = 8 WHERE id = 7;
SELECT target, key, op FROM rowclaim.drafts ORDER BY target::text, key::text;
SELECT discard_changes();
SELECT * FROM (SELECT 'p', id, name FROM parent UNION ALL SELECT 'c', id, parent || '/' || n FROM child UNION ALL SELECT 'o', id, parent::text FROM opt) now EXCEPT TABLE before;
TABLE before EXCEPT (SELECT 'p', id, name FROM parent UNION ALL SELECT 'c', id, parent || '/' || n FROM child UNION ALL SELECT 'o', id, parent::text FROM opt);
-- Only the parent's delete discarded, its children still deleted: fine. Only the child's: refused.
DELETE FROM parent WHERE id = 5;
SELECT split_part(expect('SELECT discard_changes(target => ''child'')'), ' -> ', 2);
SELECT discard_changes(target => 'parent'), discard_changes();

-- A foreign key to a unique column that is not the key, and a composite one with MATCH FULL.
CREATE TABLE u (id int PRIMARY KEY, code text UNIQUE, x int, y int, UNIQUE (x, y));
CREATE TABLE r (id int PRIMARY KEY, code text REFERENCES u (code) ON UPDATE CASCADE, x int, y int, FOREIGN KEY (x, y) REFERENCES u (x, y) MATCH FULL ON DELETE SET NULL);
INSERT INTO u VALUES (1, 'a', 1, 1);
INSERT INTO r VALUES (1, 'a', 1, 1);
SELECT enable_claims('u', 'auto'), enable_claims('r', 'auto');
UPDATE u SET code = 'b';
UPDATE r SET code = NULL;
DELETE FROM u;
SELECT target, key, op FROM rowclaim.drafts ORDER BY target::text;
SELECT * FROM committed();

-- Claims and releases write the row without its triggers; checks that are still to come for it come all the same.
CREATE TABLE top (id int PRIMARY KEY);
CREATE TABLE sub (id int PRIMARY KEY, top int REFERENCES top DEFERRABLE INITIALLY DEFERRED, n int, UNIQUE (n) DEFERRABLE INITIALLY DEFERRED);
CREATE TABLE moves (LIKE sub INCLUDING ALL, FOREIGN KEY (top) REFERENCES top DEFERRABLE INITIALLY DEFERRED);
SELECT enable_claims('top', 'auto'), enable_claims('sub', 'auto'), enable_claims('moves', 'auto', 'transaction');
\set VERBOSITY sqlstate
INSERT INTO sub VALUES (1), (2);
INSERT INTO moves VALUES (1), (2);
SELECT commit_changes() IS NOT NULL AS committed;
BEGIN;
INSERT INTO sub VALUES (3, 99);
SELECT (claim_row('sub', 3)).status;
COMMIT;
BEGIN;
UPDATE sub SET top = 99 WHERE id = 1;
SELECT count(*) FROM claim_rows('sub', ARRAY[1, 2]);
COMMIT;
BEGIN;
SELECT (claim_row('moves', 1)).status;
UPDATE moves SET top = 99 WHERE id = 1;
SELECT release_row('moves', 1);
COMMIT;
-- What takes the place of a deleted row gets its version and its claim by a second write.
BEGIN;
SELECT (claim_row('sub', 2)).status;
DELETE FROM sub WHERE id = 2;
INSERT INTO sub VALUES (2, 99);
COMMIT;
BEGIN;
SELECT (claim_row('moves', 2)).status;
DELETE FROM moves WHERE id = 2;
INSERT INTO moves VALUES (2, 99);
COMMIT;
-- Unique values that are checked at the end; with and without an index that the write must enter.
BEGIN;
UPDATE sub SET n = 1;
SELECT count(*) FROM claim_rows('sub', ARRAY[1, 2]);
COMMIT;
CREATE INDEX ON sub (row_owner);
BEGIN;
UPDATE sub SET n = 1;
SELECT count(*) FROM claim_rows('sub', ARRAY[1, 2]);
COMMIT;
-- Before checks that are not deferred, in a trigger whose name sorts first.
CREATE TABLE now (id int PRIMARY KEY, top int REFERENCES top);
SELECT enable_claims('now', 'auto');
CREATE FUNCTION take() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM claim_row('now', NEW.id); RETURN NULL; END $$;
CREATE TRIGGER "A" AFTER INSERT ON now FOR EACH ROW EXECUTE FUNCTION take();
INSERT INTO now VALUES (1, 99);
\set VERBOSITY default
-- What is right passes, and the claims are there.
INSERT INTO now VALUES (2, NULL);
BEGIN;
INSERT INTO sub VALUES (3, 99);
UPDATE sub SET n = 1;
SELECT count(*) FROM claim_rows('sub', ARRAY[1, 2, 3]);
UPDATE sub SET n = id;
INSERT INTO top VALUES (99);
COMMIT;
SELECT id, top, n, row_owner IS NOT NULL AS claimed FROM sub ORDER BY id;
SELECT id, row_owner IS NOT NULL AS claimed FROM now ORDER BY id;
SELECT count(*) FROM moves WHERE top IS NOT NULL OR row_owner IS NOT NULL;
