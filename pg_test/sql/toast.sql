-- Values stored out of line: kept when untouched, exact when touched, in commit, discard and stash.
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
CREATE TABLE docs (id int PRIMARY KEY, n int, body text, extra text, data bytea);
ALTER TABLE docs ALTER body SET STORAGE EXTERNAL, ALTER extra SET STORAGE EXTERNAL, ALTER data SET STORAGE EXTERNAL;
CREATE FUNCTION big(seed int) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT string_agg(md5(seed::text || i), '') FROM generate_series(1, 300) i $$;
INSERT INTO docs SELECT i, i, big(i), big(i + 100), decode(big(i + 200), 'hex') FROM generate_series(1, 6) i;
CREATE TABLE tx (LIKE docs INCLUDING ALL);
INSERT INTO tx SELECT * FROM docs;
SELECT enable_claims('docs', 'auto'), enable_claims('tx', 'auto', 'transaction');
SET rowclaim.actor = 'alice';
CREATE VIEW v AS SELECT id, n, left(md5(body), 6) AS body, left(md5(extra), 6) AS extra, left(md5(data), 6) AS data, row_version FROM docs ORDER BY id;
CREATE TABLE before AS SELECT * FROM v;
-- Changes with long values shortened.
CREATE FUNCTION short() RETURNS SETOF text LANGUAGE sql AS $$ SELECT regexp_replace(c, '"(\\\\x)?([0-9a-f]{4})[0-9a-f]{200}[0-9a-f]+"', '"\2…"', 'g') FROM committed() c $$;

-- Only the small column: the image of the rest is not even read, and it is not in the journal.
UPDATE docs SET n = 10 WHERE id = 1;
SELECT pg_column_size(base) < 200 FROM rowclaim.draft_row;
SELECT * FROM short();
-- One of the big ones; in a second step another; in a third back; also set to itself.
UPDATE docs SET body = big(11) WHERE id = 1;
UPDATE docs SET extra = 'short now' WHERE id = 1;
UPDATE docs SET n = 11 WHERE id = 1;
UPDATE docs SET data = data || '\x00' WHERE id = 1;
SELECT key, op FROM rowclaim.drafts;
UPDATE docs SET extra = big(101), data = decode(big(201), 'hex') WHERE id = 1;
SELECT * FROM short();
UPDATE docs SET body = body || '', n = n WHERE id = 2;
SELECT * FROM short();
-- Touched small first, then deleted: the delete has the whole committed row. Then re-inserted.
UPDATE docs SET n = 12 WHERE id = 2;
DELETE FROM docs WHERE id = 2;
SELECT * FROM short();
UPDATE docs SET n = 12 WHERE id = 3;
UPDATE docs SET body = 'x' WHERE id = 3;
DELETE FROM docs WHERE id = 3;
INSERT INTO docs VALUES (3, 3, big(3), big(103), decode(big(999), 'hex'));
SELECT * FROM short();
-- Discard after each of these.
CREATE PROCEDURE discarded(VARIADIC sql text[]) LANGUAGE plpgsql AS $$
DECLARE
    s text;
    b text := (SELECT string_agg(v::text, ',' ORDER BY id) FROM v);
BEGIN
    FOREACH s IN ARRAY sql LOOP EXECUTE s; COMMIT; END LOOP;
    PERFORM discard_changes();
    RAISE INFO '%', CASE WHEN b = (SELECT string_agg(v::text, ',' ORDER BY id) FROM v) THEN 'same' ELSE 'differs: ' || (SELECT string_agg(v::text, ',' ORDER BY id) FROM v) || ' was ' || b END;
END $$;
\set VERBOSITY terse
CALL discarded('UPDATE docs SET n = 0');
CALL discarded('UPDATE docs SET n = 0', 'UPDATE docs SET body = big(77)');
CALL discarded('UPDATE docs SET n = 0', 'UPDATE docs SET body = NULL', 'UPDATE docs SET extra = NULL, data = NULL', 'DELETE FROM docs');
CALL discarded('UPDATE docs SET n = 0', 'DELETE FROM docs');
CALL discarded('DELETE FROM docs', 'INSERT INTO docs SELECT i, i, big(i), big(i), NULL FROM generate_series(1, 6) i', 'UPDATE docs SET extra = big(1)');
CALL discarded('UPDATE docs SET n = 0', 'DELETE FROM docs', 'INSERT INTO docs SELECT i FROM generate_series(1, 6) i');
CALL discarded('UPDATE docs SET id = id + 100, n = 0', 'UPDATE docs SET body = ''moved''', 'UPDATE docs SET data = data || data');
CALL discarded('UPDATE docs SET extra = big(5)', 'UPDATE docs SET extra = big(id + 100) WHERE id = 4');
CALL discarded('UPDATE docs SET n = 0', 'ALTER TABLE docs ALTER body SET STORAGE EXTENDED', 'UPDATE docs SET body = body || body');
-- Lost to a thief: the stash has both sides.
UPDATE docs SET n = 99 WHERE id = 4;
UPDATE docs SET body = big(44) WHERE id = 4;
SET rowclaim.actor = 'bob';
SELECT (steal_row('docs', 4)).status;
SELECT id, n, body = big(4), row_version FROM docs WHERE id = 4;
SELECT base->>'n', base->>'body' = big(4), mine->>'n', mine->>'body' = big(44), base->>'extra' FROM rowclaim.stashes;
SELECT release_rows();
SET rowclaim.actor = 'alice';
-- transaction mode.
CREATE FUNCTION latest() RETURNS SETOF text LANGUAGE sql AS $$
    SELECT regexp_replace(c::text, '"(\\\\x)?([0-9a-f]{4})[0-9a-f]{200}[0-9a-f]+"', '"\2…"', 'g')
    FROM rowclaim.journal j, json_array_elements(j.changes) c WHERE seq = (SELECT max(seq) FROM rowclaim.journal) $$;
BEGIN;
UPDATE tx SET n = 0 WHERE id = 1;
UPDATE tx SET body = big(50) WHERE id = 1;
UPDATE tx SET n = 1, extra = 'e' WHERE id = 1;
UPDATE tx SET n = 0 WHERE id = 2;
DELETE FROM tx WHERE id = 2;
UPDATE tx SET n = 0 WHERE id = 3;
DELETE FROM tx WHERE id = 3;
INSERT INTO tx VALUES (3, 3, big(3), 'e', NULL);
UPDATE tx SET id = 40 WHERE id = 4;
UPDATE tx SET data = NULL WHERE id = 40;
COMMIT;
SELECT * FROM latest();
