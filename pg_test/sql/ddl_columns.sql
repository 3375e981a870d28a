-- Columns renamed, added, dropped and retyped while rows are claimed and dirty: commit and discard still give the right result.
\pset tuples_only on
\pset format unaligned
SET client_min_messages = warning;
CREATE EXTENSION rowclaim;
CREATE TABLE parts (id int PRIMARY KEY, name text, price numeric(10, 2), seen int DEFAULT 0, at timestamptz DEFAULT '2001-02-03 04:05:06+00');
INSERT INTO parts SELECT i, 'part ' || i, i FROM generate_series(1, 9) i;
SELECT enable_claims('parts', 'auto', untracked => '{seen}');
-- Commits and shows the changes without versions.
CREATE FUNCTION committed() RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    committed bigint := commit_changes();
BEGIN
    RETURN QUERY SELECT regexp_replace(json_array_elements(changes)::text, ',"version":\d+', '') AS change
                 FROM rowclaim.journal WHERE seq = committed ORDER BY change;
END $$;
CREATE FUNCTION rows() RETURNS SETOF text LANGUAGE sql AS
    $$ SELECT (to_jsonb(p) - 'row_draft')::text FROM parts p ORDER BY 1 $$;
SET rowclaim.actor = 'alice';

-- One of each: update, delete, insert, and a change of the key; row 4 is claimed only.
CREATE PROCEDURE edit() LANGUAGE sql AS $$
    UPDATE parts SET price = 11.5 WHERE id = 1;
    DELETE FROM parts WHERE id = 2;
    INSERT INTO parts (id, name, price) VALUES (10, 'new', 10);
    UPDATE parts SET id = 30 WHERE id = 3;
    SELECT claim_row('parts', 4);
$$;

-- Rename: an ordinary column, the key, an untracked one, the table.
CALL edit();
ALTER TABLE parts RENAME COLUMN price TO cost;
ALTER TABLE parts RENAME COLUMN id TO "Part "" No";
ALTER TABLE parts RENAME COLUMN seen TO views;
ALTER TABLE parts RENAME TO "Parts";
SELECT key, op FROM rowclaim.drafts ORDER BY key::text;
SELECT key, owner FROM rowclaim.claims;
SELECT untracked FROM rowclaim.tables;
UPDATE "Parts" SET cost = 12 WHERE "Part "" No" = 1;
UPDATE "Parts" SET views = 5 WHERE "Part "" No" = 5;
SELECT * FROM committed();
SELECT (claim_row('"Parts"', 4)).status, (claim_row('"Parts"', '{"Part \" No":4}'::jsonb)).status, release_row('"Parts"', 4);
ALTER TABLE "Parts" RENAME TO parts;
ALTER TABLE parts RENAME COLUMN cost TO price;
ALTER TABLE parts RENAME COLUMN "Part "" No" TO id;
ALTER TABLE parts RENAME COLUMN views TO seen;

-- Rename, then discard.
DELETE FROM parts;
INSERT INTO parts SELECT i, 'part ' || i, i FROM generate_series(1, 9) i;
SELECT commit_changes() IS NOT NULL;
CREATE TABLE before AS SELECT rows() AS r;
CALL edit();
ALTER TABLE parts RENAME COLUMN price TO cost;
ALTER TABLE parts RENAME COLUMN id TO no;
SELECT discard_changes();
SELECT key FROM rowclaim.claims;
SELECT release_rows();
ALTER TABLE parts RENAME COLUMN cost TO price;
ALTER TABLE parts RENAME COLUMN no TO id;
SELECT rows() EXCEPT TABLE before;
SELECT count(*) FROM parts;
-- Two names swapped within one transaction.
CALL edit();
BEGIN;
ALTER TABLE parts RENAME COLUMN name TO tmp;
ALTER TABLE parts RENAME COLUMN price TO name;
ALTER TABLE parts RENAME COLUMN tmp TO price;
COMMIT;
SELECT discard_changes(), release_rows();
BEGIN;
ALTER TABLE parts RENAME COLUMN name TO tmp;
ALTER TABLE parts RENAME COLUMN price TO name;
ALTER TABLE parts RENAME COLUMN tmp TO price;
COMMIT;
SELECT rows() EXCEPT TABLE before;
SELECT count(*) FROM parts;

-- Add: a column with a default, without, generated, identity; discard takes the deleted row back with the default.
CALL edit();
ALTER TABLE parts ADD COLUMN color text DEFAULT 'red', ADD COLUMN note text, ADD COLUMN double numeric GENERATED ALWAYS AS (price * 2) STORED;
UPDATE parts SET color = 'blue' WHERE id = 1;
SELECT * FROM committed();
SELECT release_rows();
DELETE FROM parts WHERE id IN (5, 6);
UPDATE parts SET name = 'x' WHERE id = 7;
ALTER TABLE parts ADD COLUMN size int DEFAULT 7 NOT NULL;
UPDATE parts SET size = 8, note = 'y' WHERE id = 7;
SELECT discard_changes();
SELECT * FROM rows() r WHERE r ~ '"id": [567],';
UPDATE parts SET name = 'x' WHERE id = 7;
ALTER TABLE parts ADD COLUMN born timestamptz DEFAULT clock_timestamp();
SELECT json_object_keys(e -> 'new') FROM (SELECT committed()::json AS e) c;

-- Drop: the only changed column, one of several, one that a deleted row had.
UPDATE parts SET note = 'z' WHERE id = 7;
UPDATE parts SET note = 'z', name = 'y' WHERE id = 8;
DELETE FROM parts WHERE id = 9;
ALTER TABLE parts DROP COLUMN note, DROP COLUMN born;
SELECT * FROM committed();
UPDATE parts SET color = 'green' WHERE id = 7;
DELETE FROM parts WHERE id = 8;
ALTER TABLE parts DROP COLUMN size;
SELECT discard_changes();
SELECT * FROM rows() r WHERE r ~ '"id": [789],';
-- Retype.
UPDATE parts SET price = 3.75 WHERE id = 7;
DELETE FROM parts WHERE id = 8;
ALTER TABLE parts DROP COLUMN double;
ALTER TABLE parts ALTER COLUMN price TYPE text;
SELECT discard_changes();
SELECT id, price FROM parts WHERE id IN (7, 8) ORDER BY id;
UPDATE parts SET price = '4.25' WHERE id = 7;
ALTER TABLE parts ALTER COLUMN price TYPE numeric(12, 4) USING price::numeric;
SELECT * FROM committed();
-- The images are converted as the rows are: by the cast, in the session's time zone.
UPDATE parts SET price = 6.5 WHERE id = 7;
SET TimeZone = 'Asia/Kathmandu';
ALTER TABLE parts ALTER COLUMN price TYPE float8, ALTER COLUMN at TYPE timestamp;
SELECT * FROM committed();
UPDATE parts SET at = '2003-02-03 04:05:06' WHERE id = 7;
ALTER TABLE parts ALTER COLUMN at TYPE timestamptz;
SELECT discard_changes();
SELECT id, price, at AT TIME ZONE 'UTC' FROM parts WHERE id = 7;
RESET TimeZone;
UPDATE parts SET name = 'with 6.5' WHERE id = 7;
ALTER TABLE parts ALTER COLUMN price TYPE int;
SELECT * FROM committed();
ALTER TABLE parts ALTER COLUMN price TYPE float8;
-- A row whose change disappears with the new type has not changed.
UPDATE parts SET price = price + 0.25 WHERE id = 7;
ALTER TABLE parts ALTER COLUMN price TYPE int;
SELECT * FROM committed();
-- The key, when nothing is claimed or dirty.
SELECT release_rows();
ALTER TABLE parts ALTER COLUMN id TYPE bigint;
UPDATE parts SET name = 'big' WHERE id = 7;
SELECT * FROM committed();

-- Default and nullability.
UPDATE parts SET name = 'was null' WHERE id = 7;
ALTER TABLE parts ALTER COLUMN name SET NOT NULL;
ALTER TABLE parts ALTER COLUMN name SET DEFAULT 'd';
SELECT discard_changes();

-- Everything rolled back leaves the draft as it was.
UPDATE parts SET name = 'rolled' WHERE id = 7;
BEGIN;
ALTER TABLE parts RENAME COLUMN name TO title;
ALTER TABLE parts ADD COLUMN extra int DEFAULT 1;
ALTER TABLE parts DROP COLUMN color;
ROLLBACK;
SELECT * FROM committed();

-- Dropped and added again under the same name: another column.
ALTER TABLE parts ADD COLUMN note text DEFAULT 'red';
UPDATE parts SET note = 'green' WHERE id = 7;
ALTER TABLE parts DROP COLUMN note, ADD COLUMN note int DEFAULT 5;
SELECT discard_changes();
SELECT id, note FROM parts WHERE id = 7;

