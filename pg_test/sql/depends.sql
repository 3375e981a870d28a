-- A changeset depends on no draft that is not part of it: every prefix of the journal satisfies foreign keys and unique constraints.
\pset tuples_only on
\pset format unaligned
SET client_min_messages = warning;
CREATE EXTENSION rowclaim;
-- Acts for somebody: ok with the result, or SQLSTATE and DETAIL without times.
CREATE FUNCTION act(who text, sql text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    detail text;
    result text;
BEGIN
    PERFORM set_config('rowclaim.actor', who, false);
    IF sql LIKE 'SELECT%' THEN
        EXECUTE sql INTO result;
    ELSE
        EXECUTE sql;
    END IF;
    RETURN who || ': ' || sql || ' -> ok' || coalesce(' ' || result, '');
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
    RETURN who || ': ' || sql || ' -> ' || SQLSTATE || ' ' || CASE WHEN detail LIKE '{%' THEN regexp_replace(detail, '"since":"[^"]*"', '"since":"…"') ELSE SQLERRM END;
END $$;
CREATE PROCEDURE expect(VARIADIC steps text[]) LANGUAGE plpgsql AS $$
BEGIN
    FOR i IN 1 .. array_length(steps, 1) BY 2 LOOP
        RAISE INFO '%', act(steps[i], steps[i + 1]);
    END LOOP;
END $$;
\set VERBOSITY terse
CREATE TABLE parent (id int PRIMARY KEY, name text, code text UNIQUE, a numeric, b date, UNIQUE (a, b));
CREATE TABLE child (id int PRIMARY KEY, parent bigint REFERENCES parent ON DELETE CASCADE, code text REFERENCES parent (code), a numeric, b date, FOREIGN KEY (a, b) REFERENCES parent (a, b));
CREATE TABLE node (id text PRIMARY KEY, up text REFERENCES node);
CREATE TABLE plain (id int PRIMARY KEY, name text UNIQUE);
CREATE TABLE ref (id int PRIMARY KEY, plain int REFERENCES plain);
INSERT INTO parent VALUES (1, 'p1', 'c1', 1.0, '2026-01-01'), (2, 'p2', 'c2', 2, '2026-01-02'), (3, 'p3', 'c3', 3, '2026-01-03');
INSERT INTO child VALUES (1, 1, 'c1', 1, '2026-01-01'), (2, 2, NULL, 2, NULL);
INSERT INTO node VALUES ('root', NULL), ('leaf', 'root');
SELECT enable_claims(t, 'auto') FROM unnest('{parent,child,node,ref}'::regclass[]) t;

-- A child of an uncommitted insert; then the parent cannot be discarded either, but its commit clears the way.
CALL expect('ann', 'INSERT INTO parent VALUES (10, ''new'', ''c10'')',
            'bob', 'INSERT INTO child VALUES (10, 10)',
            'bob', 'SELECT commit_changes()',
            'ann', 'SELECT discard_changes()',
            'bob', 'SELECT status FROM claim_row(''parent'', 10)',
            'ann', 'SELECT commit_changes()',
            'bob', 'SELECT commit_changes()',
            'ann', 'SELECT discard_changes()');
-- By a unique column, by several columns, by the key the parent has got.
CALL expect('ann', 'UPDATE parent SET code = ''d2'' WHERE id = 2',
            'bob', 'INSERT INTO child VALUES (11, NULL, ''d2'')',
            'bob', 'SELECT commit_changes()',
            'bob', 'UPDATE child SET code = NULL WHERE id = 11',
            'bob', 'SELECT commit_changes()',
            'ann', 'UPDATE parent SET a = 2.5 WHERE id = 3',
            'bob', 'UPDATE child SET a = 2.50, b = ''2026-01-03'' WHERE id = 11',
            'bob', 'SELECT commit_changes()',
            'bob', 'UPDATE child SET a = 3, b = NULL WHERE id = 11',
            'bob', 'SELECT commit_changes()',
            'ann', 'SELECT discard_changes()',
            'ann', 'UPDATE parent SET id = 20 WHERE id = 3',
            'bob', 'UPDATE child SET parent = 20 WHERE id = 11',
            'bob', 'SELECT commit_changes()',
            'ann', 'SELECT commit_changes()',
            'bob', 'SELECT commit_changes()');
-- Other changes of a parent do not matter, nor does what the child referred to before.
CALL expect('ann', 'UPDATE parent SET name = ''other'' WHERE id = 1',
            'bob', 'INSERT INTO child VALUES (12, 1, ''c1'', 1.00, ''2026-01-01'')',
            'bob', 'SELECT commit_changes()',
            'bob', 'UPDATE child SET b = NULL WHERE id = 12',
            'bob', 'SELECT commit_changes()',
            'ann', 'SELECT commit_changes()');

-- The parent of an uncommitted delete, and of a child that has left it for another.
CALL expect('bob', 'DELETE FROM child WHERE id = 10',
            'ann', 'DELETE FROM parent WHERE id = 10',
            'ann', 'SELECT commit_changes()',
            'bob', 'SELECT commit_changes()',
            'ann', 'SELECT commit_changes()',
            'bob', 'UPDATE child SET parent = 1 WHERE id = 2',
            'bob', 'UPDATE child SET a = 5 WHERE id = 2',
            'ann', 'DELETE FROM parent WHERE id = 2',
            'ann', 'SELECT commit_changes()',
            'bob', 'SELECT commit_changes()',
            'ann', 'SELECT commit_changes()',
-- Its deletion is discarded: then the parent is in use again.
            'bob', 'INSERT INTO child VALUES (14, 1, ''c1'')', 'bob', 'SELECT commit_changes()',
            'bob', 'UPDATE child SET code = NULL WHERE code = ''c1''',
            'ann', 'UPDATE parent SET code = ''e1'' WHERE id = 1',
            'ann', 'SELECT commit_changes()',
            'bob', 'SELECT discard_changes()',
            'ann', 'SELECT discard_changes()',
            'bob', 'SELECT discard_changes()');
-- A key that is given up and created again in one commit goes on being there.
CALL expect('bob', 'UPDATE child SET code = NULL WHERE code = ''c1''',
            'ann', 'UPDATE parent SET code = ''e1'' WHERE id = 1',
            'ann', 'INSERT INTO parent VALUES (30, ''heir'', ''c1'')',
            'ann', 'SELECT commit_changes()', 'bob', 'SELECT discard_changes()');
-- Somebody else's row has taken the referenced value: neither can go first, one must give way.
CALL expect('ann', 'INSERT INTO parent VALUES (31, ''a'', ''x'')', 'ann', 'SELECT commit_changes()',
            'bob', 'INSERT INTO child VALUES (31, NULL, ''x'')', 'bob', 'SELECT commit_changes()');
ALTER TABLE child ALTER CONSTRAINT child_code_fkey DEFERRABLE;
BEGIN;
SET CONSTRAINTS ALL DEFERRED;
CALL expect('ann', 'UPDATE parent SET code = ''y'' WHERE id = 31', 'cid', 'INSERT INTO parent VALUES (32, ''b'', ''x'')');
COMMIT;
CALL expect('ann', 'SELECT commit_changes()', 'cid', 'SELECT commit_changes()',
            'cid', 'UPDATE parent SET name = ''c'' WHERE id = 32',
            'bob', 'UPDATE child SET code = NULL WHERE id = 31', 'bob', 'SELECT commit_changes()',
            'ann', 'SELECT commit_changes()', 'cid', 'SELECT commit_changes()');

-- A unique value that only an uncommitted change has freed: an update, a delete, one of several columns.
CALL expect('ann', 'UPDATE parent SET code = ''z'' WHERE id = 31',
            'bob', 'INSERT INTO parent VALUES (40, ''b'', ''y'')',
            'bob', 'SELECT commit_changes()',
            'ann', 'SELECT commit_changes()', 'bob', 'SELECT commit_changes()',
            'ann', 'DELETE FROM parent WHERE id = 40',
            'bob', 'UPDATE parent SET code = ''y'' WHERE id = 31',
            'bob', 'SELECT commit_changes()',
            'bob', 'UPDATE parent SET code = NULL WHERE id = 31',
            'bob', 'SELECT commit_changes()',
            'ann', 'SELECT discard_changes()',
            'ann', 'UPDATE parent SET a = 7 WHERE id = 20',
            'bob', 'UPDATE parent SET (a, b) = (3.0, ''2026-01-03'') WHERE id = 40',
            'bob', 'SELECT commit_changes()',
            'ann', 'SELECT discard_changes()',
            'bob', 'SELECT discard_changes()', 'ann', 'SELECT discard_changes()');
-- A row that was dirty before it gave the value up, in the same or a later transaction.
CALL expect('ann', 'UPDATE parent SET name = ''first'' WHERE id = 40', 'ann', 'UPDATE parent SET code = NULL WHERE id = 40',
            'bob', 'INSERT INTO parent VALUES (41, ''b'', ''y'')', 'bob', 'SELECT commit_changes()', 'bob', 'SELECT discard_changes()');
BEGIN;
CALL expect('ann', 'SELECT discard_changes()', 'ann', 'UPDATE parent SET name = ''first'' WHERE id = 40', 'ann', 'UPDATE parent SET code = NULL WHERE id = 40');
COMMIT;
CALL expect('bob', 'INSERT INTO parent VALUES (41, ''b'', ''y'')', 'bob', 'SELECT commit_changes()', 'bob', 'SELECT discard_changes()', 'ann', 'SELECT discard_changes()');
-- Also a row that has another key since.
CALL expect('ann', 'UPDATE parent SET id = 42 WHERE id = 40', 'ann', 'UPDATE parent SET code = NULL WHERE id = 42',
            'bob', 'INSERT INTO parent VALUES (41, ''b'', ''y'')', 'bob', 'SELECT commit_changes()',
            'bob', 'SELECT discard_changes()', 'ann', 'SELECT discard_changes()');

-- References within a table.
CALL expect('ann', 'INSERT INTO node VALUES (''a "b"'', ''root''), (''c'', ''a "b"'')',
            'bob', 'INSERT INTO node VALUES (''d'', ''c'')',
            'bob', 'SELECT commit_changes()', 'ann', 'SELECT commit_changes()', 'bob', 'SELECT commit_changes()',
            'ann', 'INSERT INTO node VALUES (''self'', ''self'')', 'ann', 'SELECT commit_changes()',
            'ann', 'DELETE FROM node WHERE id = ''leaf''',
            'bob', 'UPDATE node SET up = NULL WHERE id = ''a "b"''',
            'cid', 'DELETE FROM node WHERE id = ''root''',
            'cid', 'SELECT commit_changes()', 'ann', 'SELECT commit_changes()', 'cid', 'SELECT commit_changes()',
            'bob', 'SELECT commit_changes()', 'cid', 'SELECT commit_changes()');

-- A table that is not enabled has no uncommitted rows; nor are those of another journal in this one.
CREATE TABLE elsewhere (id int PRIMARY KEY);
CREATE TABLE here (id int PRIMARY KEY, elsewhere int REFERENCES elsewhere);
SELECT create_journal('side');
SELECT enable_claims('elsewhere', 'auto', journal => 'side'), enable_claims('here', 'auto');
INSERT INTO plain VALUES (1);
CALL expect('bob', 'INSERT INTO ref VALUES (1, 1)', 'bob', 'SELECT commit_changes()',
            'ann', 'INSERT INTO elsewhere VALUES (1)', 'bob', 'INSERT INTO here VALUES (1, 1)', 'bob', 'SELECT commit_changes()');

-- Whoever may not read the row in the way does not learn its key.
CREATE ROLE rowclaim_test_dan LOGIN;
GRANT SELECT, INSERT ON child TO rowclaim_test_dan;
GRANT REFERENCES ON parent TO rowclaim_test_dan;
CALL expect('ann', 'INSERT INTO parent VALUES (50)');
SET rowclaim.actor = 'rowclaim_test_dan';
SET ROLE rowclaim_test_dan;
INSERT INTO child VALUES (50, 50);
\set VERBOSITY default
SELECT commit_changes();
\set VERBOSITY terse
RESET ROLE;
CALL expect('rowclaim_test_dan', 'SELECT discard_changes()', 'ann', 'SELECT discard_changes()');
REVOKE ALL ON child, parent FROM rowclaim_test_dan;
DROP ROLE rowclaim_test_dan;

-- Tables that commit with their transaction depend on drafts like any other, the actor's own included.
CREATE TABLE move (id int PRIMARY KEY, parent int REFERENCES parent, child int REFERENCES child);
SELECT enable_claims('move', 'auto', 'transaction');
SET rowclaim.actor = 'ann';
INSERT INTO parent VALUES (60);
INSERT INTO move VALUES (60, 60);
SELECT commit_changes();
INSERT INTO move VALUES (60, 60), (61, 60);
CREATE TABLE tag (id int PRIMARY KEY, move int REFERENCES move);
SELECT enable_claims('tag', 'auto');
-- And a draft depends on what its transaction has yet to commit.
BEGIN;
INSERT INTO move VALUES (62);
INSERT INTO tag VALUES (1, 62), (2, 61);
SELECT commit_changes();
ROLLBACK;
BEGIN;
UPDATE move SET parent = NULL WHERE id = 60;
INSERT INTO tag VALUES (1, 60);
SELECT commit_changes() IS NOT NULL;
DELETE FROM move WHERE id = 61;
COMMIT;
INSERT INTO move VALUES (63, 60);
BEGIN;
DELETE FROM move WHERE id = 63;
DELETE FROM parent WHERE id = 60;
SAVEPOINT before;
SELECT commit_changes();
ROLLBACK TO before;
COMMIT;
SELECT commit_changes() IS NOT NULL;

-- Deferred constraints are checked by the commit of the draft.
CREATE TABLE late (id int PRIMARY KEY, parent int REFERENCES parent DEFERRABLE INITIALLY DEFERRED, pos int UNIQUE DEFERRABLE INITIALLY DEFERRED);
SELECT enable_claims('late', 'auto');
BEGIN;
INSERT INTO late VALUES (1, 70);
SELECT commit_changes();
ROLLBACK;
BEGIN;
INSERT INTO late VALUES (1, 70);
INSERT INTO parent VALUES (70);
SELECT commit_changes() IS NOT NULL;
COMMIT;
BEGIN;
INSERT INTO late VALUES (2, 70, 1), (3, 70, 1);
SELECT commit_changes();
ROLLBACK;

-- Partitions; a row that moves to another one.
CREATE TABLE region (area text, id int, code text, PRIMARY KEY (area, id), UNIQUE (area, code)) PARTITION BY LIST (area);
CREATE TABLE region_n PARTITION OF region FOR VALUES IN ('n');
CREATE TABLE region_s PARTITION OF region FOR VALUES IN ('s');
CREATE TABLE town (id int PRIMARY KEY, area text, region int, FOREIGN KEY (region, area) REFERENCES region (id, area)) PARTITION BY RANGE (id);
CREATE TABLE town_1 PARTITION OF town FOR VALUES FROM (0) TO (100);
CREATE TABLE town_2 PARTITION OF town FOR VALUES FROM (100) TO (200);
SELECT enable_claims('region', 'auto'), enable_claims('town', 'auto');
SET rowclaim.actor = 'ann';
INSERT INTO region VALUES ('n', 1, 'x'), ('n', 2, 'y');
INSERT INTO town VALUES (1, 'n', 1), (2, 'n', 2);
SELECT commit_changes() IS NOT NULL;
CALL expect('ann', 'INSERT INTO region VALUES (''s'', 1)', 'bob', 'INSERT INTO town VALUES (3, ''s'', 1)', 'bob', 'SELECT commit_changes()',
            'bob', 'SELECT discard_changes()', 'ann', 'SELECT discard_changes()',
            'bob', 'UPDATE town SET id = 101, region = 2 WHERE id = 1',
            'ann', 'DELETE FROM region WHERE id = 1', 'ann', 'SELECT commit_changes()',
            'ann', 'SELECT discard_changes()', 'bob', 'SELECT discard_changes()',
            'ann', 'DELETE FROM town WHERE id = 1', 'ann', 'SELECT commit_changes() IS NOT NULL',
            'ann', 'UPDATE region SET area = ''s'' WHERE id = 1',
            'bob', 'INSERT INTO region VALUES (''n'', 3, ''x'')', 'bob', 'SELECT commit_changes()',
            'ann', 'SELECT commit_changes() IS NOT NULL', 'bob', 'SELECT commit_changes() IS NOT NULL');

-- Equal NULLs are values, too.
CREATE TABLE one (id int PRIMARY KEY, a int, b text, UNIQUE NULLS NOT DISTINCT (a));
SELECT enable_claims('one', 'auto');
SET rowclaim.actor = 'ann';
INSERT INTO one VALUES (1, NULL, 'x'), (2, 2, 'y');
SELECT commit_changes() IS NOT NULL;
CALL expect('ann', 'UPDATE one SET a = 1 WHERE id = 1', 'bob', 'INSERT INTO one VALUES (3)', 'bob', 'SELECT commit_changes()',
            'bob', 'SELECT discard_changes()', 'ann', 'SELECT discard_changes()');
-- A constraint that is added while drafts are open: what they have given up of it counts from then on.
CREATE TABLE recent (id int PRIMARY KEY, code text, up int);
INSERT INTO recent VALUES (1, 'one', NULL), (2, 'two', 1), (3, 'three', 1);
SELECT enable_claims('recent', 'auto');
CALL expect('ann', 'UPDATE recent SET code = ''ann'' WHERE id = 1',
            'ann', 'UPDATE recent SET up = NULL WHERE id IN (2, 3)');
ALTER TABLE recent ADD UNIQUE (code), ADD FOREIGN KEY (up) REFERENCES recent;
CALL expect('bob', 'INSERT INTO recent VALUES (4, ''one'', NULL)',
            'bob', 'SELECT commit_changes() IS NOT NULL',
            'bob', 'SELECT discard_changes()',
            'ann', 'SELECT commit_changes(release => true) IS NOT NULL',
            'ann', 'UPDATE recent SET up = 1 WHERE id = 2',
            'ann', 'SELECT commit_changes() IS NOT NULL');
ALTER TABLE recent DROP CONSTRAINT recent_up_fkey;
CALL expect('ann', 'DELETE FROM recent WHERE id = 2');
ALTER TABLE recent ADD FOREIGN KEY (up) REFERENCES recent;
CALL expect('bob', 'DELETE FROM recent WHERE id = 1',
            'bob', 'SELECT commit_changes() IS NOT NULL',
            'ann', 'SELECT commit_changes() IS NOT NULL',
            'bob', 'SELECT commit_changes() IS NOT NULL');

-- A unique index with a WHERE: what counts is whether it applies to a row, before and after.
CREATE TABLE live (id int PRIMARY KEY, code text, gone boolean, note text);
CREATE UNIQUE INDEX live_code ON live (code) INCLUDE (note) WHERE NOT gone AND code <> '';
INSERT INTO live VALUES (1, 'one', false), (2, 'one', true), (3, 'three', false), (4, 'three', true), (5, '', false), (6, '', false);
SELECT enable_claims('live', 'auto');
CALL expect('ann', 'UPDATE live SET gone = true WHERE id = 1',
            'bob', 'UPDATE live SET gone = false WHERE id = 2',
            'bob', 'SELECT commit_changes()',
            'ann', 'SELECT discard_changes()',
            'ann', 'SELECT commit_changes() IS NOT NULL',
            'bob', 'SELECT commit_changes() IS NOT NULL');
-- By another value, an insertion, a deletion; NULL is not true.
CALL expect('ann', 'UPDATE live SET code = ''four'' WHERE id = 3',
            'bob', 'UPDATE live SET gone = false WHERE id = 4',
            'bob', 'SELECT commit_changes()',
            'bob', 'SELECT discard_changes()',
            'bob', 'INSERT INTO live VALUES (7, ''three'', false)',
            'bob', 'SELECT commit_changes()',
            'bob', 'UPDATE live SET gone = NULL WHERE id = 7',
            'bob', 'SELECT commit_changes() IS NOT NULL',
            'ann', 'SELECT discard_changes()',
            'ann', 'DELETE FROM live WHERE id = 3',
            'bob', 'UPDATE live SET gone = false WHERE id = 7',
            'bob', 'SELECT commit_changes()',
            'bob', 'SELECT discard_changes()',
            'ann', 'SELECT discard_changes()');
-- What the WHERE does not apply to is in nobody's way, nor are other columns.
CALL expect('ann', 'UPDATE live SET gone = true, code = ''x'' WHERE id = 5',
            'ann', 'UPDATE live SET gone = NULL, code = ''y'' WHERE id = 4',
            'bob', 'UPDATE live SET code = ''three'', note = ''bob'' WHERE id = 7',
            'bob', 'INSERT INTO live VALUES (8, '''', false), (9, ''one'', true), (10, ''five'', false)',
            'bob', 'SELECT commit_changes() IS NOT NULL',
            'ann', 'SELECT commit_changes() IS NOT NULL');
-- In one draft there is nothing to wait for.
CALL expect('ann', 'UPDATE live SET gone = true WHERE id = 3',
            'ann', 'UPDATE live SET gone = false WHERE id = 7',
            'ann', 'SELECT commit_changes() IS NOT NULL');
SELECT id, code, gone, note FROM live ORDER BY id;
