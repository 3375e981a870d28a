-- What only newer servers know. A check runs where the server is new enough; the output is the same everywhere.
CREATE EXTENSION rowclaim;
-- since(major, statement): nothing where the server is older; else what the statement returns, or what it is refused with.
CREATE FUNCTION since(major int, statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    result text;
    detail text;
BEGIN
    IF current_setting('server_version_num')::int < major * 10000 THEN
        RETURN NULL;
    END IF;
    IF statement ~ '^(SELECT|WITH)|RETURNING' THEN
        EXECUTE statement INTO result;
    ELSE
        EXECUTE statement;
    END IF;
    RETURN result;
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
    RETURN SQLSTATE || ' ' || CASE WHEN detail LIKE '{%' THEN detail::json ->> 'reason' ELSE SQLERRM END;
END $$;
-- Is the result what is expected, where there is one? Nothing, void and '' are the same here.
CREATE FUNCTION is_since(major int, expected text, statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    result text := since(major, statement);
BEGIN
    RETURN CASE WHEN current_setting('server_version_num')::int < major * 10000 OR coalesce(result, '') = coalesce(expected, '')
           THEN 'ok' ELSE coalesce(result, 'null') END;
END $$;
CREATE FUNCTION newest_changes() RETURNS text LANGUAGE sql
    RETURN (SELECT changes FROM rowclaim.journal WHERE kind = 'changeset' ORDER BY seq DESC LIMIT 1);
\pset tuples_only on

-- MERGE that deletes what the source lacks, with RETURNING.
CREATE TABLE parts (id int PRIMARY KEY, qty int);
INSERT INTO parts SELECT i, i FROM generate_series(1, 3) i;
SELECT enable_claims('parts');
\set merge 'WITH m AS (MERGE INTO parts p USING (VALUES (1, 10), (4, 40)) s (id, qty) ON p.id = s.id WHEN MATCHED THEN UPDATE SET qty = s.qty WHEN NOT MATCHED THEN INSERT VALUES (s.id, s.qty) WHEN NOT MATCHED BY SOURCE THEN DELETE RETURNING merge_action() AS action, p.id, p.qty, p.row_version) SELECT string_agg(concat_ws('' '', action, id, qty, row_version), '', '' ORDER BY id) FROM m'
SELECT is_since(17, '55000 row_not_claimed', :'merge');
SELECT count(*) FROM claim_rows('parts', ARRAY[1, 2, 3]) c WHERE c.status = 'granted';
SELECT is_since(17, 'UPDATE 1 10 2, DELETE 2 2 1, DELETE 3 3 1, INSERT 4 40 1', :'merge');
SELECT is_since(17, '1', 'SELECT commit_changes()');
SELECT is_since(17, '[{"op":"update","table":"public.parts","key":{"id":1},"old":{"qty":1},"new":{"qty":10},"version":2},'
    '{"op":"delete","table":"public.parts","key":{"id":2},"old":{"id":2,"qty":2},"version":1},'
    '{"op":"delete","table":"public.parts","key":{"id":3},"old":{"id":3,"qty":3},"version":1},'
    '{"op":"insert","table":"public.parts","key":{"id":4},"new":{"id":4,"qty":40},"version":1}]',
    'SELECT newest_changes()');

-- RETURNING old and new.
SELECT status FROM claim_row('parts', 1);
SELECT is_since(18, '2 3',
    'UPDATE parts SET qty = qty + 1 WHERE id = 1 RETURNING concat_ws('' '', old.row_version, new.row_version)');
SELECT discard_changes() <= 1;

-- Virtual generated columns are neither journaled nor drafted, and change with what they are made of.
SELECT is_since(18, NULL, 'CREATE TABLE boxes (id int PRIMARY KEY, side int, area int GENERATED ALWAYS AS (side * side) VIRTUAL CHECK (area < 100))');
SELECT is_since(18, NULL, 'INSERT INTO boxes VALUES (1, 2)');
SELECT is_since(18, '', 'SELECT enable_claims(''boxes'')');
SELECT is_since(18, 'granted', 'SELECT status FROM claim_row(''boxes'', 1)');
SELECT is_since(18, '9', 'UPDATE boxes SET side = 3 RETURNING area');
SELECT is_since(18, '23514 new row for relation "boxes" violates check constraint "boxes_area_check"', 'UPDATE boxes SET side = 10');
SELECT is_since(18, '1', 'SELECT discard_changes()');
SELECT is_since(18, '2 4 1', 'SELECT concat_ws('' '', side, area, row_version) FROM boxes');
SELECT is_since(18, '25', 'UPDATE boxes SET side = 5 RETURNING area');
SELECT is_since(18, '2', 'SELECT commit_changes()');
SELECT is_since(18, '[{"op":"update","table":"public.boxes","key":{"id":1},"old":{"side":2},"new":{"side":5},"version":2}]',
    'SELECT newest_changes()');

-- A key WITHOUT OVERLAPS names no single row.
SELECT is_since(18, NULL, 'CREATE TABLE stays (guest int4range, during daterange, PRIMARY KEY (guest, during WITHOUT OVERLAPS))');
SELECT is_since(18, '0A000 unsupported_table', 'SELECT enable_claims(''stays'')');
SELECT is_since(18, NULL, 'CREATE TABLE rooms (id int4range PRIMARY KEY, during daterange)');
SELECT is_since(18, '', 'SELECT enable_claims(''rooms'')');
SELECT is_since(18, '55006 operation_refused',
    'ALTER TABLE rooms DROP CONSTRAINT rooms_pkey, ADD PRIMARY KEY (id, during WITHOUT OVERLAPS)');

-- NOT NULL of an ownership column is a constraint with a name.
SELECT is_since(18, '55006 operation_refused', 'ALTER TABLE parts DROP CONSTRAINT parts_row_version_not_null');
SELECT is_since(18, NULL, 'ALTER TABLE parts ADD CONSTRAINT qty_there NOT NULL qty NOT VALID');
SELECT is_since(18, '23502 null value in column "qty" of relation "parts" violates not-null constraint',
    'INSERT INTO parts VALUES (9, NULL)');

-- A foreign key that is not enforced, and a generated column whose expression changes (which rewrites the table).
SELECT is_since(18, NULL, 'CREATE TABLE labels (id int PRIMARY KEY, part int REFERENCES parts NOT ENFORCED, name text)');
SELECT is_since(18, NULL, 'INSERT INTO labels VALUES (1, 77, ''a'')');
SELECT is_since(18, '', 'SELECT enable_claims(''labels'', claiming => ''auto'')');
SELECT is_since(18, NULL, 'UPDATE labels SET part = 78');
SELECT is_since(18, '3', 'SELECT commit_changes()');
CREATE TABLE sums (id int PRIMARY KEY, a int, twice int GENERATED ALWAYS AS (a * 2) STORED);
INSERT INTO sums VALUES (1, 1);
SELECT enable_claims('sums', claiming => 'auto');
UPDATE sums SET a = 2;
SELECT is_since(17, NULL, 'ALTER TABLE sums ALTER COLUMN twice SET EXPRESSION AS (a * 3)');
SELECT is_since(17, '6', 'SELECT twice FROM sums');
SELECT discard_changes();
SELECT is_since(17, '3', 'SELECT twice FROM sums');
