-- INSERT holds the row until its draft is committed; keys of rows whose deletion is not committed.
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
CREATE TABLE parts (id int PRIMARY KEY, code text UNIQUE, qty int DEFAULT 0);
INSERT INTO parts SELECT i, 'p' || i FROM generate_series(1, 9) i;
SELECT enable_claims('parts');
CREATE VIEW v AS SELECT id, code, qty, row_owner, row_version FROM parts ORDER BY id;

-- An inserted row is the inserter's, without a claim, until the commit; then it is free.
SET rowclaim.actor = 'alice';
INSERT INTO parts VALUES (10, 'p10');
UPDATE parts SET qty = 1 WHERE id = 10;
SELECT count(*) FROM rowclaim.claims;
SET rowclaim.actor = 'bob';
SELECT expect('UPDATE parts SET qty = 2 WHERE id = 10');
SELECT expect('DELETE FROM parts WHERE id = 10');
SELECT status, owner FROM claim_row('parts', 10);
SELECT expect('INSERT INTO parts VALUES (10)');
SELECT expect('INSERT INTO parts VALUES (10) ON CONFLICT DO NOTHING');
SET rowclaim.actor = 'alice';
SELECT * FROM committed();
SELECT * FROM v WHERE id = 10;
SELECT expect('UPDATE parts SET qty = 2 WHERE id = 10');
SET rowclaim.actor = 'bob';
SELECT status FROM claim_row('parts', 10);
SELECT expect('UPDATE parts SET qty = 2 WHERE id = 10');
SELECT discard_changes(), release_rows();

-- Inserted and discarded: gone, and its key is free for others.
SET rowclaim.actor = 'alice';
INSERT INTO parts VALUES (11, 'p11');
SELECT discard_changes();
SELECT * FROM v WHERE id = 11;
SET rowclaim.actor = 'bob';
SELECT expect('INSERT INTO parts VALUES (11, ''p11'')');
SELECT discard_changes();
-- Inserted and claimed: the claim stays after the commit, and goes with a discard.
SET rowclaim.actor = 'alice';
INSERT INTO parts VALUES (11, 'p11'), (12, 'p12');
SELECT (claim_row('parts', 11)).status;
SELECT commit_changes();
SELECT * FROM v WHERE id > 10;
INSERT INTO parts VALUES (13, 'p13');
SELECT (claim_row('parts', 13)).status;
SELECT discard_changes();
SELECT key FROM rowclaim.claims ORDER BY key;
SELECT release_rows();

-- Every way to insert.
CREATE VIEW simple AS SELECT id, code FROM parts;
CREATE TABLE inbox (id int);
CREATE RULE r AS ON INSERT TO inbox DO INSTEAD INSERT INTO parts VALUES (NEW.id, 'rule');
CREATE FUNCTION add(int) RETURNS void LANGUAGE sql SECURITY DEFINER AS 'INSERT INTO parts VALUES ($1, ''definer'')';
PREPARE p AS INSERT INTO parts VALUES ($1, 'prepared');
SELECT expect(sql) FROM (VALUES
    ('INSERT INTO parts VALUES (101, ''values''), (102, ''values2'')'), ('INSERT INTO parts SELECT 103, ''select'''), ('INSERT INTO simple VALUES (104, ''view'')'),
    ('INSERT INTO inbox VALUES (105)'), ('SELECT add(106)'), ('EXECUTE p (107)'), ('WITH i AS (INSERT INTO parts VALUES (108, ''cte'')) SELECT 1'),
    ('MERGE INTO parts p USING (VALUES (109)) s(id) ON p.id = s.id WHEN NOT MATCHED THEN INSERT VALUES (s.id, ''merge'')'),
    ('INSERT INTO parts VALUES (110, ''conflict'') ON CONFLICT (id) DO UPDATE SET qty = 5'),
    ('INSERT INTO parts VALUES (110, ''conflict'') ON CONFLICT (id) DO UPDATE SET qty = 5'),
    ('COPY parts (id, code) FROM PROGRAM ''seq 201 300 | sed s/$/,copy\&/ | sed s/\\\(...\\\),copy/\\1,copy\\1/'' (FORMAT csv)')) s(sql);
SELECT count(*), min(key->>'id'), max(key->>'id'), array_agg(DISTINCT op) FROM rowclaim.drafts;
SELECT count(*) FROM committed() c WHERE c ~ '"op":"insert"';

-- A key whose deletion is in another's draft is held; its own deleter may insert it again.
SELECT (claim_row('parts', 1)).status, (claim_row('parts', 2)).status;
DELETE FROM parts WHERE id IN (1, 2);
SET rowclaim.actor = 'bob';
SELECT expect('INSERT INTO parts VALUES (1, ''bob'')');
SELECT expect('INSERT INTO parts VALUES (1, ''bob'') ON CONFLICT DO NOTHING');
SELECT expect('COPY parts (id) FROM PROGRAM ''echo 1'' (FORMAT csv)');
SELECT status, owner FROM claim_row('parts', 1);
SELECT expect('INSERT INTO parts VALUES (50, ''p50'')');
SELECT expect('UPDATE parts SET id = 1 WHERE id = 50');
SELECT discard_changes();
SET rowclaim.actor = 'alice';
SELECT expect('INSERT INTO parts VALUES (1, ''again'', 7)');
SELECT * FROM v WHERE id < 3;
SELECT op, key FROM rowclaim.drafts ORDER BY key;
SELECT * FROM committed();
SELECT * FROM v WHERE id < 3;
SELECT key FROM rowclaim.claims;
SET rowclaim.actor = 'bob';
SELECT expect('INSERT INTO parts VALUES (2, ''bob'')');
SELECT * FROM committed();

-- Deleted without a commit, then discarded: back with claim and version, whatever was inserted meanwhile under the key.
SET rowclaim.actor = 'alice';
SELECT (claim_row('parts', 3)).status;
UPDATE parts SET qty = 3 WHERE id = 3;
SELECT commit_changes() IS NOT NULL;
DELETE FROM parts WHERE id = 3;
INSERT INTO parts VALUES (3, 'other', 33);
DELETE FROM parts WHERE id = 3;
INSERT INTO parts VALUES (3, 'another', 34);
SELECT discard_changes();
SELECT * FROM v WHERE id = 3;
SELECT key, dirty FROM rowclaim.claims ORDER BY key;
SELECT release_rows();

-- A unique value of a deleted row is free for anybody at once; discard then says so.
SELECT (claim_row('parts', 4)).status;
DELETE FROM parts WHERE id = 4;
SET rowclaim.actor = 'bob';
INSERT INTO parts VALUES (60, 'p4');
SET rowclaim.actor = 'alice';
SELECT split_part(expect('SELECT discard_changes()'), ' -> ', 2);
SELECT count(*) FROM rowclaim.drafts WHERE actor = 'alice';
SET rowclaim.actor = 'bob';
SELECT discard_changes();
SET rowclaim.actor = 'alice';
SELECT discard_changes();
SELECT * FROM v WHERE id = 4;

-- Savepoints: what is rolled back is forgotten.
BEGIN;
SAVEPOINT a;
INSERT INTO parts VALUES (70, 'p70');
ROLLBACK TO a;
SAVEPOINT b;
INSERT INTO parts VALUES (71, 'p71');
RELEASE b;
INSERT INTO parts VALUES (70, 'p70 again');
COMMIT;
SELECT * FROM committed();
-- An insert that a BEFORE trigger or a constraint stops leaves nothing.
ALTER TABLE parts ADD CHECK (qty >= 0);
SELECT expect('INSERT INTO parts VALUES (80, ''x'', -1)') ~ '23514';
SELECT expect('INSERT INTO parts VALUES (80, ''p5'')') ~ '23505';
SELECT count(*) FROM rowclaim.drafts;

-- A default key, an identity, and a BEFORE INSERT trigger that makes the key.
CREATE TABLE auto_key (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, n int);
CREATE TABLE made_key (id uuid DEFAULT '00000000-0000-0000-0000-000000000001', n int, PRIMARY KEY (id, n));
CREATE FUNCTION make_key() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.n := NEW.n * 10; RETURN NEW; END $$;
CREATE TRIGGER zz_make BEFORE INSERT ON made_key FOR EACH ROW EXECUTE FUNCTION make_key();
SELECT enable_claims('auto_key'), enable_claims('made_key');
INSERT INTO auto_key (n) VALUES (5), (6);
INSERT INTO made_key (n) VALUES (5);
SELECT * FROM committed();
