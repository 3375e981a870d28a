-- The draft holds the net change of every row.
CREATE EXTENSION rowclaim;
CREATE ROLE regress_drafts_alice;
CREATE ROLE regress_drafts_bob;
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

CREATE TABLE parts (id int PRIMARY KEY, name text, qty int, seen int DEFAULT 0);
INSERT INTO parts SELECT g, 'part ' || g, g FROM generate_series(1, 30) g;
GRANT ALL ON parts TO PUBLIC;
SELECT enable_claims('parts', 'auto', untracked => '{seen}');
-- The draft, then what its commit writes.
CREATE FUNCTION commit_and_show() RETURNS TABLE (op text, key json, old json, new json, version bigint) LANGUAGE plpgsql AS $$
DECLARE
    number bigint := commit_changes();
BEGIN
    RETURN QUERY SELECT c.op, c.key, c.old, c.new, c.version FROM rowclaim.changes c WHERE c.seq = number ORDER BY c.change;
END $$;

SET SESSION AUTHORIZATION regress_drafts_alice;
-- insert + delete: nothing
INSERT INTO parts VALUES (100, 'new', 1);
DELETE FROM parts WHERE id = 100;
SELECT count(*) FROM rowclaim.drafts;
SELECT * FROM commit_and_show();
-- update back to the original: nothing
UPDATE parts SET qty = 0 WHERE id = 1;
UPDATE parts SET qty = 1 WHERE id = 1;
SELECT * FROM commit_and_show();
SELECT row_version FROM parts WHERE id = 1;
-- three updates: one change with the first old and the last new values
UPDATE parts SET qty = 20 WHERE id = 2;
UPDATE parts SET qty = 21, name = 'x' WHERE id = 2;
UPDATE parts SET qty = 22 WHERE id = 2;
SELECT * FROM commit_and_show();
-- delete + insert of the same key: one update
DELETE FROM parts WHERE id = 3;
INSERT INTO parts VALUES (3, 'part 3', 33);
SELECT target, key, op FROM rowclaim.drafts;
SELECT * FROM commit_and_show();
-- the same as before: nothing
DELETE FROM parts WHERE id = 4;
INSERT INTO parts VALUES (4, 'part 4', 4);
SELECT * FROM commit_and_show();
-- insert + update: one insert with the last values
INSERT INTO parts VALUES (101, 'new', 1);
UPDATE parts SET qty = 2 WHERE id = 101;
SELECT * FROM commit_and_show();
-- update + delete: one delete with the first values
UPDATE parts SET qty = 50 WHERE id = 5;
DELETE FROM parts WHERE id = 5;
SELECT * FROM commit_and_show();
-- insert + delete + insert
INSERT INTO parts VALUES (102, 'a', 1);
DELETE FROM parts WHERE id = 102;
INSERT INTO parts VALUES (102, 'b', 2);
SELECT * FROM commit_and_show();
-- delete + insert + delete
DELETE FROM parts WHERE id = 6;
INSERT INTO parts VALUES (6, 'x', 0);
DELETE FROM parts WHERE id = 6;
SELECT * FROM commit_and_show();
-- a changed key and back
UPDATE parts SET id = 70 WHERE id = 7;
SELECT key, op FROM rowclaim.drafts;
UPDATE parts SET id = 7 WHERE id = 70;
SELECT * FROM commit_and_show();
-- a changed key, twice, and a value
UPDATE parts SET id = 80 WHERE id = 8;
UPDATE parts SET id = 81, qty = 0 WHERE id = 80;
SELECT * FROM commit_and_show();
-- two rows exchange their keys
UPDATE parts SET id = 999 WHERE id = 9;
UPDATE parts SET id = 9 WHERE id = 10;
UPDATE parts SET id = 10 WHERE id = 999;
SELECT * FROM commit_and_show();
SELECT id, name FROM parts WHERE id IN (9, 10) ORDER BY id;
-- a row takes the key of a deleted one
DELETE FROM parts WHERE id = 11;
UPDATE parts SET id = 11 WHERE id = 12;
SELECT * FROM commit_and_show();
-- a new row takes the key of a deleted one by an update
DELETE FROM parts WHERE id = 13;
INSERT INTO parts VALUES (103, 'late', 0);
UPDATE parts SET id = 13 WHERE id = 103;
SELECT * FROM commit_and_show();
-- untracked columns alone: not dirty, no new version; with others: not journaled
UPDATE parts SET seen = 1 WHERE id = 14;
SELECT count(*) FROM rowclaim.drafts;
UPDATE parts SET seen = 2, qty = 0 WHERE id = 14;
SELECT seen, qty, row_version FROM parts WHERE id = 14;
SELECT * FROM commit_and_show();
-- NULL to value, value to NULL, and an empty text is not NULL
UPDATE parts SET name = NULL WHERE id = 15;
UPDATE parts SET name = '' WHERE id = 16;
SELECT * FROM commit_and_show();
UPDATE parts SET name = '' WHERE id = 15;
SELECT * FROM commit_and_show();
-- an UPDATE that changes nothing: not drafted, the version stays
UPDATE parts SET qty = qty, name = name WHERE id = 17;
SELECT row_version FROM parts WHERE id = 17;
SELECT count(*) FROM rowclaim.drafts;

-- one draft over many transactions, tables and savepoints
UPDATE parts SET qty = 100 WHERE id = 18;
BEGIN;
UPDATE parts SET qty = 101 WHERE id = 19;
SAVEPOINT s;
UPDATE parts SET qty = 102 WHERE id IN (18, 19, 20);
ROLLBACK TO s;
UPDATE parts SET qty = 103 WHERE id = 19;
COMMIT;
BEGIN;
UPDATE parts SET qty = 104 WHERE id = 21;
ROLLBACK;
SELECT key, op FROM rowclaim.drafts ORDER BY key;
SELECT * FROM commit_and_show();
-- a rolled back touch leaves the row free
SET SESSION AUTHORIZATION regress_drafts_bob;
UPDATE parts SET qty = 105 WHERE id IN (20, 21);
SELECT actor, key FROM rowclaim.drafts ORDER BY key;
-- the draft lasts until the commit: alice cannot write the row, then she can
SET SESSION AUTHORIZATION regress_drafts_alice;
SELECT line FROM refused('UPDATE parts SET qty = 0 WHERE id = 20') line WHERE line LIKE '55%';
SET SESSION AUTHORIZATION regress_drafts_bob;
SELECT commit_changes() IS NOT NULL AS committed;
SET SESSION AUTHORIZATION regress_drafts_alice;
UPDATE parts SET qty = 0 WHERE id = 20;
SELECT * FROM commit_and_show();
-- a commit does not rewrite the rows
UPDATE parts SET qty = 1000 WHERE id = 22;
SELECT ctid AS before FROM parts WHERE id = 22 \gset
SELECT commit_changes() IS NOT NULL AS committed;
SELECT ctid = :'before' AS untouched FROM parts WHERE id = 22;
-- since: when the draft began
UPDATE parts SET qty = 1001 WHERE id = 22;
SELECT actor, journal, target, key, op, since BETWEEN now() - interval '1 min' AND now() AS just_now FROM rowclaim.drafts;

RESET SESSION AUTHORIZATION;
DROP OWNED BY regress_drafts_alice, regress_drafts_bob;
DROP ROLE regress_drafts_alice, regress_drafts_bob;
