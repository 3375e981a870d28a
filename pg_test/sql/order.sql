-- Changes inside a changeset come in an order that breaks no foreign key or unique constraint when applied one by one.
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
-- Tables edited with deferred constraints, and replicas of them with immediate ones.
CREATE TABLE parent (id int PRIMARY KEY, code text, UNIQUE (code) DEFERRABLE INITIALLY DEFERRED);
CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES parent DEFERRABLE INITIALLY DEFERRED, pos int, UNIQUE (parent, pos) DEFERRABLE INITIALLY DEFERRED);
CREATE TABLE node (id int PRIMARY KEY, up int REFERENCES node DEFERRABLE INITIALLY DEFERRED);
CREATE SCHEMA replica;
CREATE TABLE replica.parent (id int PRIMARY KEY, code text UNIQUE);
CREATE TABLE replica.child (id int PRIMARY KEY, parent int REFERENCES replica.parent, pos int, UNIQUE (parent, pos));
CREATE TABLE replica.node (id int PRIMARY KEY, up int REFERENCES replica.node);
INSERT INTO parent SELECT i, 'c' || i FROM generate_series(1, 6) i;
INSERT INTO child SELECT i, i, 1 FROM generate_series(1, 6) i;
INSERT INTO node VALUES (1, NULL), (2, 1), (3, 2);
SELECT enable_claims('parent', 'auto'), enable_claims('child', 'auto'), enable_claims('node', 'auto');
INSERT INTO replica.parent SELECT id, code FROM parent;
INSERT INTO replica.child SELECT id, parent, pos FROM child;
INSERT INTO replica.node SELECT id, up FROM node;
SET rowclaim.actor = 'alice';
-- Commits, shows the changes, applies them one by one to the replica and compares it.
CREATE PROCEDURE replay(seq bigint DEFAULT commit_changes()) LANGUAGE plpgsql AS $$
DECLARE
    c record;
    t text;
    differs bigint;
BEGIN
    FOR c IN SELECT e ->> 'op' AS op, split_part(e ->> 'table', '.', 2) AS tab, (e ->> 'key')::json ->> 'id' AS id, (e ->> 'new')::json AS new, e
             FROM rowclaim.journal j, json_array_elements(j.changes) WITH ORDINALITY a(e, n) WHERE j.seq = replay.seq ORDER BY j.part, n LOOP
        RAISE INFO '% % % % -> %', c.op, c.tab, c.id, c.e -> 'old', c.new;
        IF c.op = 'delete' THEN
            EXECUTE format('DELETE FROM replica.%I WHERE id = %L', c.tab, c.id);
        ELSIF c.op = 'insert' THEN
            EXECUTE format('INSERT INTO replica.%1$I SELECT * FROM json_populate_record(NULL::replica.%1$I, $1)', c.tab) USING c.new;
        ELSE
            EXECUTE (SELECT format('UPDATE replica.%I SET %s WHERE id = %L', c.tab, string_agg(format('%I = %L', k, v), ', '), c.id) FROM json_each_text(c.new) n(k, v));
        END IF;
    END LOOP;
    FOREACH t IN ARRAY '{parent,child,node}'::text[] LOOP
        EXECUTE format('SELECT count(*) FROM (SELECT to_jsonb(x) - ''{row_owner,row_version,row_draft}''::text[] j FROM %1$I x) a
                        FULL JOIN (SELECT to_jsonb(x) j FROM replica.%1$I x) b USING (j) WHERE a IS NULL OR b IS NULL', t) INTO differs;
        IF differs > 0 THEN RAISE WARNING '% differs', t; END IF;
    END LOOP;
END $$;
\set VERBOSITY terse
SET client_min_messages = info;

-- Children before their parents; and a parent that had to wait for its own parent.
BEGIN;
INSERT INTO child VALUES (10, 10, 1), (11, 11, 1);
INSERT INTO parent VALUES (11, 'c11'), (10, 'c10');
INSERT INTO node VALUES (13, 12), (12, 11), (11, 10), (10, 1);
COMMIT;
CALL replay();
-- Parents deleted before their children.
BEGIN;
DELETE FROM parent WHERE id IN (10, 11);
DELETE FROM child WHERE id IN (11, 10);
DELETE FROM node WHERE id IN (10, 11);
DELETE FROM node WHERE id IN (13, 12);
COMMIT;
CALL replay();
-- A child moved away, then its parent deleted; moved to a parent that comes later.
BEGIN;
INSERT INTO child VALUES (20, 1, 5);
COMMIT;
CALL replay();
BEGIN;
DELETE FROM parent WHERE id = 1;
DELETE FROM child WHERE id = 1;
UPDATE child SET parent = 20 WHERE id = 20;
INSERT INTO parent VALUES (20, 'c20');
COMMIT;
CALL replay();
-- A unique value handed on: the giver first, down a whole chain, and out of a deleted row.
BEGIN;
UPDATE parent SET code = 'c3' WHERE id = 2;
UPDATE parent SET code = 'c4' WHERE id = 3;
UPDATE parent SET code = 'c5' WHERE id = 4;
UPDATE parent SET code = 'new' WHERE id = 5;
COMMIT;
CALL replay();
BEGIN;
INSERT INTO parent VALUES (21, 'c6');
DELETE FROM child WHERE id = 6;
DELETE FROM parent WHERE id = 6;
COMMIT;
CALL replay();
-- Composite unique values.
BEGIN;
INSERT INTO child VALUES (30, 2, 9), (31, 2, 10);
COMMIT;
CALL replay();
BEGIN;
UPDATE child SET pos = 10 WHERE id = 30;
UPDATE child SET pos = 11 WHERE id = 31;
COMMIT;
CALL replay();
-- Primary keys handed on.
BEGIN;
UPDATE node SET id = 33 WHERE id = 3;
INSERT INTO node VALUES (3, 2);
COMMIT;
CALL replay();
-- Everything at once, the worst way round.
BEGIN;
INSERT INTO child VALUES (40, 40, 1);
UPDATE child SET parent = 41 WHERE id = 3;
DELETE FROM parent WHERE id = 3;
INSERT INTO parent VALUES (41, 'c41'), (40, 'c4');
INSERT INTO node VALUES (42, 41);
DELETE FROM node WHERE id = 33;
INSERT INTO node VALUES (41, 2);
COMMIT;
CALL replay();
-- A swap has no such order: every change is there, once.
BEGIN;
UPDATE parent SET code = 'tmp' WHERE id = 20;
UPDATE parent SET code = 'c20' WHERE id = 21;
UPDATE parent SET code = 'c6' WHERE id = 20;
COMMIT;
SELECT * FROM committed() c ORDER BY c;
-- transaction mode, too.
SELECT disable_claims('parent'), disable_claims('child');
SELECT enable_claims('parent', 'auto', 'transaction'), enable_claims('child', 'auto', 'transaction');
UPDATE replica.parent SET code = code || 'x' WHERE id IN (20, 21);
UPDATE replica.parent r SET code = p.code FROM parent p WHERE p.id = r.id;
BEGIN;
INSERT INTO child VALUES (50, 50, 1);
INSERT INTO parent VALUES (50, 'c50');
COMMIT;
SELECT max(seq) AS seq FROM rowclaim.journal \gset
CALL replay(:seq);
BEGIN;
DELETE FROM parent WHERE id = 50;
DELETE FROM child WHERE id = 50;
COMMIT;
SELECT max(seq) AS seq FROM rowclaim.journal \gset
CALL replay(:seq);
