-- The net change per row: what a draft's edits add up to, in both committing modes.
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
-- The same edits on an explicit and on a transaction table; the journal must say the same.
CREATE TABLE e (id int PRIMARY KEY, a int, b text, seen int DEFAULT 0);
CREATE TABLE t (LIKE e INCLUDING ALL);
INSERT INTO e SELECT i, i, 'b' || i FROM generate_series(1, 9) i;
INSERT INTO t SELECT * FROM e;
SELECT enable_claims('e', 'auto', untracked => '{seen}'), enable_claims('t', 'auto', 'transaction', untracked => '{seen}');
SET rowclaim.actor = 'alice';
-- Runs edits of TABLE on both, one after the other; then undoes them. Shows the changes of e without
-- versions, and of t if they are not the same (in whatever order).
CREATE PROCEDURE edits(VARIADIC sql text[]) LANGUAGE plpgsql AS $$
DECLARE
    s    text;
    last bigint;
    ce   text;
    ct   text;
BEGIN
    FOREACH s IN ARRAY sql LOOP
        EXECUTE replace(s, 'TABLE', 'e');
        COMMIT;
    END LOOP;
    SELECT string_agg(regexp_replace(c, ',"version":\d+', ''), E'\n' ORDER BY n) INTO ce FROM committed() WITH ORDINALITY c(c, n);
    COMMIT;
    SELECT max(seq) INTO last FROM rowclaim.journal;
    FOREACH s IN ARRAY sql LOOP
        EXECUTE replace(s, 'TABLE', 't');
    END LOOP;
    COMMIT;
    SELECT string_agg(regexp_replace(c::text, ',"version":\d+', ''), E'\n' ORDER BY n) INTO ct FROM rowclaim.journal j, json_array_elements(j.changes) WITH ORDINALITY c(c, n) WHERE seq > last;
    RAISE INFO '%', coalesce(ce, 'nothing');
    IF ARRAY(SELECT unnest(string_to_array(ct, E'\n')) ORDER BY 1) <> ARRAY(SELECT unnest(string_to_array(replace(ce, 'public.e', 'public.t'), E'\n')) ORDER BY 1) THEN
        RAISE INFO 'transaction mode: %', coalesce(ct, 'nothing');
    END IF;
    DELETE FROM e;
    DELETE FROM t;
    INSERT INTO e (id, a, b) SELECT i, i, 'b' || i FROM generate_series(1, 9) i;
    INSERT INTO t (id, a, b) SELECT i, i, 'b' || i FROM generate_series(1, 9) i;
    COMMIT;
    PERFORM commit_changes();
    COMMIT;
END $$;
\set VERBOSITY terse

-- insert + delete: nothing; update back: nothing; three updates: one, first old and last new values.
CALL edits($$INSERT INTO TABLE VALUES (10)$$, $$DELETE FROM TABLE WHERE id = 10$$);
CALL edits($$INSERT INTO TABLE VALUES (10)$$, $$UPDATE TABLE SET a = 5 WHERE id = 10$$, $$DELETE FROM TABLE WHERE id = 10$$);
CALL edits($$UPDATE TABLE SET a = 5 WHERE id = 1$$, $$UPDATE TABLE SET a = 1 WHERE id = 1$$);
CALL edits($$UPDATE TABLE SET a = 5 WHERE id = 1$$, $$UPDATE TABLE SET a = 6, b = 'x' WHERE id = 1$$, $$UPDATE TABLE SET a = 7 WHERE id = 1$$);
CALL edits($$UPDATE TABLE SET a = 5, b = 'x' WHERE id = 1$$, $$UPDATE TABLE SET a = 1 WHERE id = 1$$);
-- delete + insert of the same key: one update, of what differs; nothing if nothing does.
CALL edits($$DELETE FROM TABLE WHERE id = 1$$, $$INSERT INTO TABLE VALUES (1, 1, 'new')$$);
CALL edits($$DELETE FROM TABLE WHERE id = 1$$, $$INSERT INTO TABLE VALUES (1, 1, 'b1')$$);
CALL edits($$DELETE FROM TABLE WHERE id = 1$$, $$INSERT INTO TABLE VALUES (1, NULL, NULL)$$, $$UPDATE TABLE SET a = 3 WHERE id = 1$$);
-- update + delete: a delete with the first values; delete + insert + delete; insert + update: one insert.
CALL edits($$UPDATE TABLE SET a = 5, b = 'x' WHERE id = 1$$, $$DELETE FROM TABLE WHERE id = 1$$);
CALL edits($$DELETE FROM TABLE WHERE id = 1$$, $$INSERT INTO TABLE VALUES (1, 5, 'y')$$, $$DELETE FROM TABLE WHERE id = 1$$);
CALL edits($$INSERT INTO TABLE VALUES (10, 1, 'x')$$, $$UPDATE TABLE SET a = 2 WHERE id = 10$$, $$UPDATE TABLE SET b = NULL WHERE id = 10$$);
CALL edits($$INSERT INTO TABLE VALUES (10, 1)$$, $$DELETE FROM TABLE WHERE id = 10$$, $$INSERT INTO TABLE VALUES (10, 2)$$);
CALL edits($$INSERT INTO TABLE VALUES (10, 1)$$, $$INSERT INTO TABLE VALUES (10, 7) ON CONFLICT (id) DO UPDATE SET a = 9$$);
-- Key changes: one update under the old key; back again: nothing; then deleted: a delete of the old key; inserted and re-keyed: one insert.
CALL edits($$UPDATE TABLE SET id = 10 WHERE id = 1$$, $$UPDATE TABLE SET id = 11, a = 5 WHERE id = 10$$);
CALL edits($$UPDATE TABLE SET id = 10 WHERE id = 1$$, $$UPDATE TABLE SET id = 1 WHERE id = 10$$);
CALL edits($$UPDATE TABLE SET id = 10, a = 5 WHERE id = 1$$, $$DELETE FROM TABLE WHERE id = 10$$);
CALL edits($$INSERT INTO TABLE VALUES (10, 1)$$, $$UPDATE TABLE SET id = 11 WHERE id = 10$$);
CALL edits($$INSERT INTO TABLE VALUES (10, 1)$$, $$UPDATE TABLE SET id = 11 WHERE id = 10$$, $$DELETE FROM TABLE WHERE id = 11$$);
-- A key that another row has left: taken by a new row, by a moved one, by two that swap.
CALL edits($$UPDATE TABLE SET id = 10 WHERE id = 1$$, $$INSERT INTO TABLE VALUES (1, 100, 'new')$$);
CALL edits($$UPDATE TABLE SET id = 10 WHERE id = 1$$, $$INSERT INTO TABLE VALUES (1, 100, 'new')$$, $$DELETE FROM TABLE WHERE id IN (1, 10)$$);
CALL edits($$DELETE FROM TABLE WHERE id = 1$$, $$UPDATE TABLE SET id = 1 WHERE id = 2$$);
CALL edits($$DELETE FROM TABLE WHERE id = 1$$, $$UPDATE TABLE SET id = 1 WHERE id = 2$$, $$INSERT INTO TABLE VALUES (2, 22, 'n')$$);
CALL edits($$UPDATE TABLE SET id = 10 WHERE id = 1$$, $$UPDATE TABLE SET id = 1 WHERE id = 2$$, $$UPDATE TABLE SET id = 2 WHERE id = 10$$);
CALL edits($$UPDATE TABLE SET id = 10 WHERE id = 1$$, $$UPDATE TABLE SET id = 1 WHERE id = 2$$, $$UPDATE TABLE SET id = 2 WHERE id = 1$$, $$UPDATE TABLE SET id = 1 WHERE id = 10$$);
CALL edits($$INSERT INTO TABLE VALUES (10, 1)$$, $$DELETE FROM TABLE WHERE id = 1$$, $$UPDATE TABLE SET id = 1 WHERE id = 10$$);
-- Untracked columns: alone nothing; with others not mentioned; in an insert as inserted.
CALL edits($$UPDATE TABLE SET seen = 5 WHERE id = 1$$);
CALL edits($$UPDATE TABLE SET seen = 5, a = 5 WHERE id = 1$$, $$UPDATE TABLE SET a = 1 WHERE id = 1$$);
CALL edits($$INSERT INTO TABLE VALUES (10, 1, 'x', 4)$$, $$UPDATE TABLE SET seen = 5 WHERE id = 10$$);
CALL edits($$DELETE FROM TABLE WHERE id = 1$$, $$INSERT INTO TABLE VALUES (1, 1, 'b1', 99)$$);
-- NULLs.
CALL edits($$UPDATE TABLE SET a = NULL WHERE id = 1$$);
CALL edits($$UPDATE TABLE SET a = NULL WHERE id = 1$$, $$UPDATE TABLE SET a = 1 WHERE id = 1$$);
CALL edits($$UPDATE TABLE SET b = '' WHERE id = 1$$, $$UPDATE TABLE SET b = NULL WHERE id = 1$$);
-- Several statements in one, and one statement many times over a row.
CALL edits($$WITH d AS (DELETE FROM TABLE WHERE id = 1), u AS (UPDATE TABLE SET a = 0 WHERE id = 2) INSERT INTO TABLE VALUES (10)$$);
CALL edits($$DO $d$ BEGIN FOR i IN 1..50 LOOP UPDATE TABLE SET a = a + 1 WHERE id = 1; END LOOP; END $d$ $$);

-- All in one transaction and commit_changes() in the middle: two changesets, nothing lost, nothing twice.
BEGIN;
UPDATE e SET a = 50 WHERE id = 1;
SELECT * FROM committed();
UPDATE e SET a = 60 WHERE id = 1;
UPDATE e SET a = 70 WHERE id = 2;
SELECT * FROM committed();
UPDATE e SET a = 80 WHERE id = 1;
ROLLBACK;
SELECT * FROM committed();
-- A commit rolled back to a savepoint is as if it had not been.
BEGIN;
UPDATE e SET a = 50 WHERE id = 1;
SAVEPOINT s;
SELECT * FROM committed();
ROLLBACK TO s;
UPDATE e SET a = 51 WHERE id = 1;
COMMIT;
SELECT * FROM committed();
SELECT a, row_version FROM e WHERE id = 1;
