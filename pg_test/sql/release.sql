-- release_row() and release_rows().
CREATE EXTENSION rowclaim;
CREATE ROLE regress_release_alice;
CREATE ROLE regress_release_bob;
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

CREATE TABLE parts (id int PRIMARY KEY, name text);
INSERT INTO parts SELECT g, 'part ' || g FROM generate_series(1, 9) g;
CREATE TABLE notes (id int PRIMARY KEY, note text);
INSERT INTO notes SELECT g, 'note ' || g FROM generate_series(1, 3) g;
GRANT ALL ON parts, notes TO PUBLIC;
SELECT enable_claims('parts'), enable_claims('notes', 'auto');

-- true: released; false: was not claimed
SET SESSION AUTHORIZATION regress_release_alice;
SELECT status FROM claim_row('parts', 1);
SELECT release_row('parts', 1), release_row('parts', 1);
SELECT row_owner FROM parts WHERE id = 1;
SELECT count(*) FROM rowclaim.claims;
-- a row that is not there, one that is free
SELECT release_row('parts', 99), release_row('parts', 2);
-- another actor's row
SELECT status FROM claim_row('parts', 1, reason => 'mine');
SET SESSION AUTHORIZATION regress_release_bob;
SELECT * FROM refused('SELECT release_row(''parts'', 1)');
SELECT owner FROM rowclaim.claims;
-- the released row can be claimed by the other
SET SESSION AUTHORIZATION regress_release_alice;
SELECT release_row('parts', 1);
SET SESSION AUTHORIZATION regress_release_bob;
SELECT status FROM claim_row('parts', 1);

-- a dirty row: updated, inserted, deleted, held without a claim
UPDATE parts SET name = 'x' WHERE id = 1;
INSERT INTO parts VALUES (10, 'new');
SELECT status FROM claim_row('parts', 2);
DELETE FROM parts WHERE id = 2;
UPDATE notes SET note = 'x' WHERE id = 1;
SELECT * FROM refused('SELECT release_row(''parts'', 1)');
SELECT * FROM refused('SELECT release_row(''parts'', 10)');
SELECT * FROM refused('SELECT release_row(''parts'', 2)');
SELECT * FROM refused('SELECT release_row(''notes'', 1)');
-- also when the net change is nothing
SELECT status FROM claim_row('parts', 3);
UPDATE parts SET name = 'y' WHERE id = 3;
UPDATE parts SET name = 'part 3' WHERE id = 3;
SELECT * FROM refused('SELECT release_row(''parts'', 3)');
-- clean after a commit or a discard
SELECT discard_changes('main', 'parts', '3');
SELECT release_row('parts', 3);
SELECT commit_changes();
SELECT release_row('parts', 1), release_row('parts', 10), release_row('notes', 1);
-- the claim on the deleted row went with the row
SELECT release_row('parts', 2);
SELECT count(*) FROM rowclaim.claims;

-- releasing does not touch the row's data
SELECT status FROM claim_row('parts', 5);
SELECT release_row('parts', 5);
SELECT id, name, row_owner, row_version FROM parts WHERE id = 5;
-- released with the transaction or not at all
SELECT status FROM claim_row('parts', 5);
BEGIN;
SELECT release_row('parts', 5);
ROLLBACK;
SELECT row_owner FROM parts WHERE id = 5;
SELECT count(*) FROM rowclaim.claims;

-- release_rows: all of mine, how many
SELECT count(*) FROM claim_rows('parts', ARRAY[6, 7]);
SELECT count(*) FROM claim_rows('notes', ARRAY[2, 3]);
SET SESSION AUTHORIZATION regress_release_alice;
SELECT count(*) FROM claim_rows('parts', ARRAY[1, 3, 4]) WHERE status = 'granted';
SELECT status FROM claim_row('parts', 8);
SET SESSION AUTHORIZATION regress_release_bob;
SELECT release_rows('notes');
SELECT target, key FROM rowclaim.claims WHERE mine ORDER BY target, key;
SELECT release_rows();
SELECT release_rows(), release_rows('parts');
-- others keep theirs
SELECT owner, count(*) FROM rowclaim.claims GROUP BY owner;
-- refused as a whole if any of them is dirty
SELECT count(*) FROM claim_rows('parts', ARRAY[5, 6]);
UPDATE parts SET name = 'z' WHERE id = 6;
SELECT status FROM claim_row('notes', 2);
SELECT * FROM refused('SELECT release_rows()');
SELECT * FROM refused('SELECT release_rows(''parts'')');
SELECT count(*) FROM rowclaim.claims WHERE mine;
-- in a table without dirty rows
SELECT release_rows('notes');
SELECT commit_changes();
SELECT release_rows();
-- NULL is all tables
SELECT status FROM claim_row('notes', 2);
SELECT release_rows(NULL);
-- a dirty row without a claim is not in the way
UPDATE notes SET note = 'y' WHERE id = 3;
SELECT status FROM claim_row('notes', 2);
SELECT release_rows();

RESET SESSION AUTHORIZATION;
DROP OWNED BY regress_release_alice, regress_release_bob;
DROP ROLE regress_release_alice, regress_release_bob;
