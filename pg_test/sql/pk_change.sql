-- Changing the primary key: claim and draft follow the row.
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
CREATE TABLE parts (id int PRIMARY KEY, name text UNIQUE);
INSERT INTO parts SELECT i, 'p' || i FROM generate_series(1, 9) i;
SELECT enable_claims('parts');
CREATE VIEW v AS SELECT id, name, row_owner, row_version FROM parts ORDER BY id;
SET rowclaim.actor = 'bob';
SELECT (claim_row('parts', 9)).status;
SET rowclaim.actor = 'alice';
SELECT (claim_row('parts', i)).status FROM generate_series(1, 3) i;

-- A clean claimed row; then again while dirty; then more data; then back.
UPDATE parts SET id = 11 WHERE id = 1;
SELECT key, owner, dirty FROM rowclaim.claims ORDER BY key;
SELECT key, op FROM rowclaim.drafts;
UPDATE parts SET id = 12 WHERE id = 11;
UPDATE parts SET name = 'twelve' WHERE id = 12;
SELECT key, op FROM rowclaim.drafts;
SET rowclaim.actor = 'bob';
SELECT expect('UPDATE parts SET name = ''x'' WHERE id = 12');
SELECT status, owner FROM claim_row('parts', 12);
SET rowclaim.actor = 'alice';
SELECT * FROM committed();
SELECT * FROM v WHERE id IN (1, 11, 12);
SELECT release_row('parts', 12), release_row('parts', 1);

-- There and back is no change; nor is there, back, with the data back.
UPDATE parts SET id = 20, name = 'twenty' WHERE id = 2;
UPDATE parts SET id = 2 WHERE id = 20;
UPDATE parts SET name = 'p2' WHERE id = 2;
SELECT * FROM committed();
SELECT key, dirty FROM rowclaim.claims ORDER BY key;

-- Discard: the key, the claim and the version come back.
UPDATE parts SET id = 20, name = 'twenty' WHERE id = 2;
UPDATE parts SET id = 21 WHERE id = 20;
SELECT discard_changes();
SELECT * FROM v WHERE id IN (2, 20, 21);
SELECT key FROM rowclaim.claims ORDER BY key;
-- By its present key.
UPDATE parts SET id = 20 WHERE id = 2;
UPDATE parts SET name = 'three' WHERE id = 3;
SELECT discard_changes(target => 'parts', key => '20');
SELECT key, op FROM rowclaim.drafts;
SELECT discard_changes();

-- Re-keyed, then deleted: a delete of the old key. Deleted, then the key taken by another row of mine.
UPDATE parts SET id = 20 WHERE id = 2;
DELETE FROM parts WHERE id = 20;
SELECT * FROM committed();
SELECT key FROM rowclaim.claims ORDER BY key;
SELECT (claim_row('parts', 4)).status;
DELETE FROM parts WHERE id = 3;
UPDATE parts SET id = 3 WHERE id = 4;
SELECT key, op FROM rowclaim.drafts ORDER BY key;
SELECT * FROM v WHERE id < 5;
SELECT key, owner FROM rowclaim.claims ORDER BY key;
SELECT discard_changes();
SELECT * FROM v WHERE id < 5;
SELECT key, owner FROM rowclaim.claims ORDER BY key;
SELECT (claim_row('parts', 4)).status;
DELETE FROM parts WHERE id = 3;
UPDATE parts SET id = 3 WHERE id = 4;
SELECT * FROM committed();
SELECT * FROM v WHERE id < 5;
SELECT key, owner FROM rowclaim.claims ORDER BY key;
SELECT release_rows();

-- Inserted and re-keyed: one insert. Inserted under the key that a row has just left.
INSERT INTO parts VALUES (30, 'p30');
UPDATE parts SET id = 31 WHERE id = 30;
SELECT (claim_row('parts', 5)).status;
UPDATE parts SET id = 50 WHERE id = 5;
INSERT INTO parts VALUES (5, 'new five');
SELECT key, op FROM rowclaim.drafts ORDER BY key;
SELECT * FROM committed();
SELECT (claim_row('parts', 50)).status, release_rows();

-- A swap of two keys through a third, and the whole range shifted by one.
SELECT (claim_row('parts', i)).status FROM generate_series(5, 8) i;
UPDATE parts SET id = 600 WHERE id = 6;
UPDATE parts SET id = 6 WHERE id = 7;
UPDATE parts SET id = 7 WHERE id = 600;
SELECT * FROM v WHERE id IN (6, 7);
SELECT discard_changes();
SELECT * FROM v WHERE id IN (6, 7);
UPDATE parts SET id = 600 WHERE id = 6;
UPDATE parts SET id = 6 WHERE id = 7;
UPDATE parts SET id = 7 WHERE id = 600;
SELECT count(*) FROM committed();
SELECT * FROM v WHERE id IN (6, 7);
UPDATE parts SET id = id + 1000 WHERE id IN (6, 7, 8);
UPDATE parts SET id = id - 999 WHERE id > 1000;
SELECT key, owner FROM rowclaim.claims ORDER BY (key->>'id')::int;
SELECT discard_changes();
SELECT key, owner FROM rowclaim.claims ORDER BY (key->>'id')::int;
SELECT * FROM v WHERE id IN (6, 7, 8, 9);

-- Onto another's tombstone or row.
SET rowclaim.actor = 'bob';
DELETE FROM parts WHERE id = 9;
SET rowclaim.actor = 'alice';
SELECT expect('UPDATE parts SET id = 9 WHERE id = 8');
SET rowclaim.actor = 'bob';
SELECT discard_changes();
SET rowclaim.actor = 'alice';
SELECT expect('UPDATE parts SET id = 9 WHERE id = 8') ~ '23505';
SELECT count(*) FROM rowclaim.drafts;
-- The key a row has left is still in its draft: others may not insert it, for a discard must be able to bring it back.
UPDATE parts SET id = 80 WHERE id = 8;
SET rowclaim.actor = 'bob';
SELECT expect('INSERT INTO parts VALUES (8, ''bob'')');
SET rowclaim.actor = 'alice';
SELECT discard_changes(), release_rows();

-- auto: the row is held by its draft alone.
SELECT disable_claims('parts', force => true);
SELECT enable_claims('parts', 'auto');
UPDATE parts SET id = 80 WHERE id = 8;
SET rowclaim.actor = 'bob';
SELECT expect('UPDATE parts SET name = ''x'' WHERE id = 80');
SET rowclaim.actor = 'alice';
SELECT * FROM committed();

-- Composite keys, with a part that is equal but not identical (numeric 1.0 and 1.00, char padding).
CREATE TABLE line (book text, page numeric, side char(2), words int, PRIMARY KEY (book, page, side));
SELECT enable_claims('line');
INSERT INTO line VALUES ('a "b"', 1.0, 'r', 1), ('c', 2, 'v', 2);
SELECT * FROM committed();
SELECT (claim_row('line', '{"side":"r","page":1.00,"book":"a \"b\""}'::jsonb)).status;
SELECT (claim_row('line', l)).status FROM line l WHERE book = 'c';
SELECT key FROM rowclaim.claims ORDER BY key;
UPDATE line SET page = 1.00 WHERE page = 1;
SELECT * FROM committed();
SELECT key FROM rowclaim.claims WHERE key->>'book' <> 'c';
UPDATE line SET words = 5 WHERE page = 1.000;
SELECT expect('SELECT release_row(''line'', ''{"side":"r ","page":1.00000,"book":"a \"b\""}'')');
SELECT discard_changes(), release_row('line', '{"side":"r ","page":1.00000,"book":"a \"b\""}');
-- Another's tombstone is the same key, however it is written.
DELETE FROM line WHERE book = 'c';
SET rowclaim.actor = 'bob';
SELECT expect('INSERT INTO line VALUES (''c'', 2.000, ''v'', 3)');
SET rowclaim.actor = 'alice';
SELECT expect('INSERT INTO line VALUES (''c'', 2.000, ''v'', 3)');
SELECT * FROM committed();
SELECT page FROM line WHERE book = 'c';
-- So for numbers: deleted by alice as one, not to be inserted by bob as the other. (Not so for intervals, jsonb and containers of numbers: see the README.)
CREATE TYPE pair AS (n numeric, t text);
CREATE FUNCTION equal_keys(type text, a text, b text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    result text;
BEGIN
    PERFORM set_config('rowclaim.actor', 'alice', false);
    EXECUTE format('CREATE TABLE k (k %s PRIMARY KEY)', type);
    EXECUTE format('INSERT INTO k VALUES (%L)', a);
    PERFORM enable_claims('k', 'auto');
    DELETE FROM k;
    PERFORM set_config('rowclaim.actor', 'bob', false);
    result := type || ' ' || substring(expect(format('INSERT INTO k VALUES (%L)', b)) FROM '-> (ok|.{5} \{"reason":"\w+)');
    PERFORM set_config('rowclaim.actor', 'alice', false);
    result := result || substring(expect(format('INSERT INTO k VALUES (%L)', b)) FROM ' -> (?:ok|.{5})') || ' ' || (SELECT count(*) FROM rowclaim.drafts WHERE target = 'k'::regclass);
    DROP TABLE k;
    RETURN result;
END $$;
SELECT equal_keys(t, a, b) FROM (VALUES ('float8', '0', '-0'), ('float4', '0', '-0'), ('numeric', '100', '1e2'), ('numeric(10,2)', '1', '1.000'), ('char(5)', 'a', 'a  '), ('timetz', '12:00+00', '12:00+00:00')) x(t, a, b);
-- Places that pass from row to row: 1 goes to 5's place by way of 12, 2 to 1's, 3 to 2's. What is left over is 3, deleted.
CREATE TABLE chain (id int PRIMARY KEY, v text);
INSERT INTO chain SELECT i, 'v' || i FROM generate_series(1, 5) i;
SELECT enable_claims('chain', 'auto');
CREATE PROCEDURE pass_on() LANGUAGE plpgsql AS $$
BEGIN
    UPDATE chain SET id = 12 WHERE id = 1;
    UPDATE chain SET id = 1 WHERE id = 2;
    UPDATE chain SET id = 2 WHERE id = 3;
    DELETE FROM chain WHERE id = 5;
    UPDATE chain SET id = 5 WHERE id = 12;
END $$;
CALL pass_on();
SELECT key, op FROM rowclaim.drafts WHERE target = 'chain'::regclass ORDER BY key::text;
SELECT id, v, row_version FROM chain ORDER BY id;
SELECT discard_changes(target => 'chain');
SELECT id, v, row_version FROM chain ORDER BY id;
CALL pass_on();
SELECT * FROM committed();
-- Two rows that have exchanged their keys by way of a third; one of them takes a deleted row's place. An inserted row does.
UPDATE chain SET id = 12 WHERE id = 1;
UPDATE chain SET id = 1 WHERE id = 2;
UPDATE chain SET id = 2 WHERE id = 12;
DELETE FROM chain WHERE id = 4;
UPDATE chain SET id = 4 WHERE id = 2;
UPDATE chain SET id = 13 WHERE id = 5;
INSERT INTO chain VALUES (5, 'new');
DELETE FROM chain WHERE id = 1;
UPDATE chain SET id = 1 WHERE id = 13;
SELECT key, op FROM rowclaim.drafts WHERE target = 'chain'::regclass ORDER BY key::text;
BEGIN;
SELECT discard_changes(target => 'chain');
SELECT id, v, row_version FROM chain ORDER BY id;
ROLLBACK;
SELECT * FROM committed();
SELECT id, v FROM chain ORDER BY id;
-- A row cannot be put back alone while its key is another deleted row's; both can.
CREATE TABLE turn (id int PRIMARY KEY, v text);
INSERT INTO turn VALUES (3, 'v3'), (6, 'v6');
SELECT enable_claims('turn', 'auto');
CREATE PROCEDURE take_turns() LANGUAGE plpgsql AS $$
BEGIN
    UPDATE turn SET id = 4 WHERE id = 6;
    UPDATE turn SET id = 6 WHERE id = 3;
    DELETE FROM turn WHERE id = 6;
END $$;
CALL take_turns();
SELECT expect('SELECT discard_changes(target => ''turn'', key => ''4'')');
SELECT expect('SELECT steal_row(''turn'', 4)');
SET rowclaim.actor = 'bob';
SELECT status, owner, message FROM steal_row('turn', 4);
SET rowclaim.actor = 'alice';
DELETE FROM turn WHERE id = 4;
SELECT expect('SELECT discard_changes(target => ''turn'', key => ''4'')');
SELECT expect('SELECT discard_changes(target => ''turn'', key => ''6'')');
SELECT expect('SELECT discard_changes(target => ''turn'', key => ''4'')');
SELECT id, v, row_draft IS NULL AS clean FROM turn ORDER BY id;
CALL take_turns();
SELECT discard_changes(target => 'turn');
SELECT id, v FROM turn ORDER BY id;
CALL take_turns();
SELECT release_actor('alice');
SELECT id, v, row_draft IS NULL AS clean FROM turn ORDER BY id;
-- So when claims are disabled by force, with changes from several transactions.
UPDATE turn SET id = 4 WHERE id = 6;
UPDATE turn SET id = 6 WHERE id = 3;
SELECT disable_claims('turn', force => true);
SELECT id, v FROM turn ORDER BY id;
