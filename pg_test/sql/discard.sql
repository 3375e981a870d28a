-- discard_changes(): dirty rows are again as committed, claims stay.
CREATE EXTENSION rowclaim;
CREATE ROLE regress_discard_alice;
CREATE ROLE regress_discard_bob;
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

CREATE TABLE parts (id int PRIMARY KEY, name text UNIQUE, qty int, seen int DEFAULT 0, double int GENERATED ALWAYS AS (qty * 2) STORED);
INSERT INTO parts (id, name, qty) SELECT g, 'part ' || g, g FROM generate_series(1, 20) g;
CREATE TABLE lines (part int REFERENCES parts ON UPDATE CASCADE ON DELETE CASCADE, line int, body text, PRIMARY KEY (part, line));
INSERT INTO lines SELECT p, l, 'body' FROM generate_series(1, 5) p, generate_series(1, 2) l;
GRANT ALL ON parts, lines TO PUBLIC;
SELECT create_journal('other');
CREATE TABLE notes (id int PRIMARY KEY, note text);
INSERT INTO notes VALUES (1, 'note');
GRANT ALL ON notes TO PUBLIC;
SELECT enable_claims('parts', untracked => '{seen}'), enable_claims('lines', 'auto'), enable_claims('notes', journal => 'other');
CREATE TABLE before AS SELECT * FROM parts;
CREATE TABLE lines_before AS SELECT * FROM lines;
GRANT SELECT ON before, lines_before TO PUBLIC;
-- What differs from the beginning, ownership aside.
CREATE VIEW differs AS
    SELECT coalesce(p.id, b.id) AS id, p.name, p.qty, p.row_version FROM parts p FULL JOIN before b USING (id)
    WHERE (p.name, p.qty, p.double, p.row_version) IS DISTINCT FROM (b.name, b.qty, b.double, b.row_version) ORDER BY 1;
GRANT SELECT ON differs TO PUBLIC;

-- nothing to discard
SET SESSION AUTHORIZATION regress_discard_alice;
SELECT discard_changes();
SELECT status FROM claim_row('parts', 1);
SELECT discard_changes();

-- everything at once: how many rows; the claims stay
SELECT count(*) FROM claim_rows('parts', ARRAY[2, 3, 4, 5]) WHERE status = 'granted';
UPDATE parts SET qty = 100 WHERE id = 1;
UPDATE parts SET qty = 101, name = NULL WHERE id = 1;
DELETE FROM parts WHERE id = 2;
UPDATE parts SET id = 30 WHERE id = 3;
INSERT INTO parts (id, name, qty) VALUES (40, 'new', 40);
UPDATE lines SET body = 'x' WHERE part = 4;
SELECT count(*) FROM rowclaim.drafts;
SELECT discard_changes();
SELECT * FROM differs;
SELECT count(*) FROM (TABLE lines EXCEPT TABLE lines_before) d;
SELECT count(*) FROM rowclaim.drafts;
SELECT key, owner, dirty FROM rowclaim.claims ORDER BY key;
SELECT id, row_owner FROM parts WHERE row_owner IS NOT NULL ORDER BY id;
SELECT commit_changes() IS NULL AS nothing;
-- the auto-held rows are free again
SET SESSION AUTHORIZATION regress_discard_bob;
UPDATE lines SET body = 'y' WHERE part = 4;
SELECT discard_changes();

-- unique values and keys: rows that had exchanged them
SET SESSION AUTHORIZATION regress_discard_alice;
BEGIN;
UPDATE parts SET name = 'tmp' WHERE id = 1;
UPDATE parts SET name = 'part 1' WHERE id = 2;
UPDATE parts SET name = 'part 2' WHERE id = 1;
SELECT count(*) FROM claim_rows('parts', ARRAY[6, 7]);
UPDATE parts SET id = 99 WHERE id = 6;
UPDATE parts SET id = 6 WHERE id = 7;
UPDATE parts SET id = 7 WHERE id = 99;
SELECT discard_changes();
SELECT * FROM differs;
SELECT count(*) FROM (TABLE lines_before EXCEPT TABLE lines) d;
SELECT key, owner FROM rowclaim.claims WHERE key IN ('{"id": 6}', '{"id": 7}') ORDER BY key;
ROLLBACK;
-- a deleted row whose unique value a new row has taken
DELETE FROM parts WHERE id = 5;
INSERT INTO parts (id, name, qty) VALUES (50, 'part 5', 5);
SELECT discard_changes();
SELECT * FROM differs;
SELECT count(*) FROM (TABLE lines_before EXCEPT TABLE lines) d;

-- untracked columns are left alone
UPDATE parts SET qty = 0, seen = 7 WHERE id = 1;
SELECT discard_changes();
SELECT qty, seen FROM parts WHERE id = 1;

-- a table, a row
UPDATE parts SET qty = 0 WHERE id IN (1, 2);
UPDATE lines SET body = 'x' WHERE part = 1;
SELECT discard_changes('main', 'lines');
SELECT target, key FROM rowclaim.drafts ORDER BY key;
SELECT discard_changes('main', 'parts', '1');
SELECT target, key FROM rowclaim.drafts ORDER BY key;
SELECT discard_changes('main', 'parts', '1'), discard_changes('main', 'parts', '99');
UPDATE lines SET body = 'x' WHERE part = 1;
SELECT discard_changes('main', 'lines', '{"part":1,"line":2}');
SELECT discard_changes(target => 'lines');
-- the key is the present one
UPDATE parts SET id = 30 WHERE id = 3;
SELECT discard_changes('main', 'parts', '3'), discard_changes('main', 'parts', '30');
SELECT discard_changes();
SELECT * FROM differs;

-- a journal
SELECT status FROM claim_row('notes', 1);
UPDATE notes SET note = 'x';
UPDATE parts SET qty = 0 WHERE id = 1;
SELECT discard_changes();
SELECT note FROM notes;
SELECT discard_changes('other');
SELECT note FROM notes;
SELECT discard_changes('main', 'notes');

-- only my own changes
UPDATE parts SET qty = 0 WHERE id = 1;
SET SESSION AUTHORIZATION regress_discard_bob;
SELECT discard_changes(), discard_changes('main', 'parts', '1');
SET SESSION AUTHORIZATION regress_discard_alice;
SELECT qty FROM parts WHERE id = 1;
-- only since the last commit
SELECT commit_changes();
UPDATE parts SET qty = -1 WHERE id = 1;
SELECT discard_changes();
SELECT qty, row_version FROM parts WHERE id = 1;
-- in one transaction with the change, and rolled back
BEGIN;
UPDATE parts SET qty = -2 WHERE id = 1;
SELECT discard_changes();
SELECT qty FROM parts WHERE id = 1;
UPDATE parts SET qty = -3 WHERE id = 1;
COMMIT;
BEGIN;
SELECT discard_changes();
SELECT qty FROM parts WHERE id = 1;
ROLLBACK;
SELECT qty FROM parts WHERE id = 1;
SELECT count(*) FROM rowclaim.drafts;
BEGIN;
SAVEPOINT s;
SELECT discard_changes();
ROLLBACK TO s;
UPDATE parts SET qty = -4 WHERE id = 1;
COMMIT;
SELECT discard_changes();
SELECT qty FROM parts WHERE id = 1;

-- a discarded insert that rows of somebody else refer to: as for a DELETE
RESET SESSION AUTHORIZATION;
CREATE TABLE sales (id int PRIMARY KEY, part int REFERENCES parts);
GRANT ALL ON sales TO PUBLIC;
SET SESSION AUTHORIZATION regress_discard_alice;
INSERT INTO parts (id, name) VALUES (60, 'parent'), (61, 'parent of lines');
SET SESSION AUTHORIZATION regress_discard_bob;
INSERT INTO sales VALUES (1, 60);
INSERT INTO lines VALUES (61, 1, 'child');
SELECT * FROM refused('SELECT commit_changes()');
SET SESSION AUTHORIZATION regress_discard_alice;
SELECT * FROM refused('SELECT discard_changes()');
SELECT target, key, op FROM rowclaim.drafts ORDER BY target::text, key;
SET SESSION AUTHORIZATION regress_discard_bob;
SELECT discard_changes('main', 'lines', '{"part": 61, "line": 1}');
SET SESSION AUTHORIZATION regress_discard_alice;
SELECT discard_changes('main', 'parts', '61');
SELECT target, key, op FROM rowclaim.drafts ORDER BY target::text, key;
SELECT count(*) FROM sales;

-- refusals
SELECT * FROM refused('SELECT discard_changes(''none'')');
SELECT * FROM refused('SELECT discard_changes(NULL)');
SELECT * FROM refused('SELECT discard_changes(''main'', NULL, ''1'')');
SELECT * FROM refused('SELECT discard_changes(''main'', ''parts'', ''x'')');

RESET SESSION AUTHORIZATION;
DROP OWNED BY regress_discard_alice, regress_discard_bob;
DROP ROLE regress_discard_alice, regress_discard_bob;
