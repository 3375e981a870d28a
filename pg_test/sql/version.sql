-- row_version: what ORMs send, what bumps it, untracked columns, an integer version column.
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
CREATE TABLE parts (id int PRIMARY KEY, name text, qty int DEFAULT 0, seen int DEFAULT 0, last_seen date);
INSERT INTO parts SELECT i, 'part ' || i FROM generate_series(1, 5) i;
SELECT enable_claims('parts', untracked => '{seen,last_seen}');
SET rowclaim.actor = 'bob';
SELECT (claim_row('parts', 3)).status;
SET rowclaim.actor = 'alice';
SELECT (claim_row('parts', 1)).status;
CREATE VIEW v AS SELECT id, name, qty, seen, last_seen, row_owner, row_version FROM parts WHERE id < 4 ORDER BY id;

-- Optimistic ORMs: SET version = version + 1 WHERE version = n, or none of it; both end as + 1.
SELECT expect('UPDATE parts SET qty = 1, row_version = 2 WHERE id = 1 AND row_version = 1');
SELECT expect('UPDATE parts SET qty = 2, row_version = 2 WHERE id = 1 AND row_version = 2');
SELECT expect('UPDATE parts SET qty = 3, row_version = row_version + 1 WHERE id = 1');
SELECT expect('UPDATE parts SET qty = 4 WHERE id = 1');
SELECT row_version FROM parts WHERE id = 1;
SELECT expect('UPDATE parts SET qty = 9, row_version = 2 WHERE id = 1 AND row_version = 1');
SELECT expect(format('UPDATE parts SET qty = 9, row_version = %s WHERE id = 1', v)) FROM (VALUES ('4'), ('7'), ('0'), ('-1'), ('9223372036854775807'), ('NULL')) x(v);
-- Without a change of data too.
SELECT expect('UPDATE parts SET row_version = row_version WHERE id = 1');
SELECT expect('UPDATE parts SET row_version = row_version + 1 WHERE id = 1');
SELECT expect('UPDATE parts SET row_version = row_version + 2 WHERE id = 1');
SELECT * FROM v WHERE id = 1;
-- Another's row and nobody's: the hold is checked first.
SELECT expect('UPDATE parts SET qty = 1, row_version = 9 WHERE id = 2');
SELECT expect('UPDATE parts SET qty = 1, row_version = 9 WHERE id = 3');

-- An update that changes nothing: no bump, no draft; but it needs the hold.
SELECT discard_changes();
SELECT expect(sql) FROM (VALUES
    ('UPDATE parts SET qty = qty WHERE id = 1'), ('UPDATE parts SET name = name, id = id WHERE id = 1'),
    ('UPDATE parts SET qty = qty WHERE id = 2'), ('UPDATE parts SET qty = qty WHERE id = 3')) s(sql);
SELECT id, row_version FROM parts WHERE id < 4 ORDER BY id;
SELECT count(*) FROM rowclaim.drafts;

-- Untracked columns alone: no claim needed, whoever holds the row; no bump, no draft, no journal entry.
SELECT expect('UPDATE parts SET seen = seen + 1, last_seen = ''2001-02-03''');
SELECT * FROM v;
SELECT count(*) FROM rowclaim.drafts;
SELECT commit_changes();
-- Together with nothing else but version tricks.
SELECT expect('UPDATE parts SET seen = seen + 1, row_version = row_version + 1 WHERE id = 2');
SELECT expect('UPDATE parts SET seen = seen + 1, row_version = row_version + 2 WHERE id = 2');
SELECT expect('UPDATE parts SET seen = seen + 1, row_owner = ''alice'' WHERE id = 2');
SELECT expect('UPDATE parts SET seen = seen + 1, row_draft = 5 WHERE id = 3');
SELECT * FROM v WHERE id = 2;
-- Mixed with a tracked column the row must be mine.
SELECT expect('UPDATE parts SET seen = 9, qty = 9 WHERE id = 2');
SELECT expect('UPDATE parts SET seen = 9, qty = 9 WHERE id = 3');
SELECT expect('UPDATE parts SET seen = 9, qty = 9 WHERE id = 1');
SET rowclaim.actor = 'bob';
SELECT expect('UPDATE parts SET seen = 10 WHERE id = 1');
SET rowclaim.actor = 'alice';
SELECT commit_changes();
SELECT changes FROM rowclaim.journal;
-- Discard leaves what others did to untracked columns.
UPDATE parts SET qty = 10, seen = 11 WHERE id = 1;
SET rowclaim.actor = 'bob';
UPDATE parts SET seen = 12 WHERE id = 1;
SET rowclaim.actor = 'alice';
SELECT discard_changes();
SELECT * FROM v WHERE id = 1;
-- A deleted row comes back with them.
DELETE FROM parts WHERE id = 1;
SELECT discard_changes();
SELECT * FROM v WHERE id = 1;

-- A version column of one's own, integer, with any start.
CREATE TABLE entity (id int PRIMARY KEY, name text, "Version" int NOT NULL DEFAULT 0);
INSERT INTO entity VALUES (1, 'a', 0), (2, 'b', 2147483647), (3, 'c', -5);
SELECT enable_claims('entity', 'auto', version_column => 'Version');
SELECT expect(sql) FROM (VALUES
    ('UPDATE entity SET name = ''x'', "Version" = 1 WHERE id = 1 AND "Version" = 0'),
    ('UPDATE entity SET name = ''x'' WHERE id = 3'),
    ('UPDATE entity SET name = ''x'', "Version" = 9 WHERE id = 3'),
    ('INSERT INTO entity VALUES (4, ''d'', 0)'), ('INSERT INTO entity VALUES (5, ''e'', 1)'), ('INSERT INTO entity VALUES (6, ''f'', 2)'),
    ('UPDATE entity SET name = ''x'' WHERE id = 2')) s(sql);
SELECT * FROM (SELECT id, name, "Version" FROM entity) e ORDER BY id;
SELECT commit_changes();
SELECT json_array_elements(changes) FROM rowclaim.journal WHERE seq = 2;
