-- Partitioned tables: every level, moves between partitions with claims and drafts, attach, detach, drop.
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
CREATE TABLE parts (region text, id int, name text, PRIMARY KEY (region, id)) PARTITION BY LIST (region);
CREATE TABLE parts_eu PARTITION OF parts FOR VALUES IN ('eu');
CREATE TABLE parts_us PARTITION OF parts FOR VALUES IN ('us') PARTITION BY RANGE (id);
CREATE TABLE us_low PARTITION OF parts_us FOR VALUES FROM (0) TO (100);
-- A partition with its columns in another order and a dropped one.
CREATE TABLE us_high (name text, gone int, id int NOT NULL, region text NOT NULL);
ALTER TABLE us_high DROP COLUMN gone;
ALTER TABLE parts_us ATTACH PARTITION us_high FOR VALUES FROM (100) TO (1000);
INSERT INTO parts SELECT r, i, r || i FROM unnest('{eu,us}'::text[]) r, generate_series(1, 3) i;
INSERT INTO parts VALUES ('us', 101, 'us101'), ('us', 102, 'us102');
SELECT enable_claims('parts');
CREATE VIEW v AS SELECT tableoid::regclass, region, id, name, row_owner, row_version FROM parts ORDER BY region, id;
SELECT tgrelid::regclass, string_agg(tgname, ' ' ORDER BY tgname), string_agg(DISTINCT tgenabled::text, '') FROM pg_trigger WHERE tgname LIKE 'rowclaim%' GROUP BY 1 ORDER BY 1::text;

-- Claims by root or leaf name mean the same row; so do all functions.
SET rowclaim.actor = 'alice';
SELECT (claim_row('parts', '{"region":"eu","id":1}')).status, (claim_row('parts_eu', '{"region":"eu","id":1}')).status;
SELECT (claim_row('us_high', '{"region":"us","id":101}'::jsonb)).status, (claim_row('parts_us', p)).status FROM parts p WHERE id = 102;
SELECT target, key, owner FROM rowclaim.claims ORDER BY key::text;
SELECT (claim_row('parts_eu', '{"region":"us","id":1}')).status;
UPDATE us_high SET name = 'x' WHERE id = 101;
UPDATE parts SET name = 'y' WHERE id = 102;
INSERT INTO us_low VALUES ('us', 50, 'leaf insert');
SET rowclaim.actor = 'bob';
SELECT expect('UPDATE us_high SET name = ''bob'' WHERE id = 101');
SELECT expect('UPDATE parts_us SET name = ''bob'' WHERE id = 101');
SELECT expect('UPDATE parts SET name = ''bob'' WHERE id = 50');
SELECT expect('DELETE FROM us_low WHERE id = 50');
SELECT expect('UPDATE us_low SET name = ''bob'' WHERE id = 1');
SELECT expect('UPDATE parts_eu SET row_owner = ''bob'' WHERE id = 2');
SELECT expect('TRUNCATE us_low');
SET rowclaim.actor = 'alice';
SELECT * FROM committed();
SELECT release_row('us_high', '{"region":"us","id":101}'), release_row('parts', '{"region":"us","id":102}'), release_rows('parts_eu');

-- Moves between partitions: a clean claimed row, then on, then its data, then back.
SELECT (claim_row('parts', '{"region":"us","id":2}')).status;
UPDATE parts SET id = 202 WHERE region = 'us' AND id = 2;
SELECT * FROM v WHERE id = 202;
SELECT key, owner, dirty FROM rowclaim.claims;
SELECT key, op FROM rowclaim.drafts;
SET rowclaim.actor = 'bob';
SELECT expect('UPDATE parts SET name = ''bob'' WHERE id = 202');
SET rowclaim.actor = 'alice';
UPDATE parts SET region = 'eu' WHERE id = 202;
UPDATE parts SET name = 'moved' WHERE id = 202;
SELECT * FROM v WHERE id = 202;
SELECT * FROM committed();
SELECT key, owner FROM rowclaim.claims;
SELECT * FROM v WHERE id = 202;
UPDATE parts SET region = 'us' WHERE id = 202;
UPDATE parts SET id = 2 WHERE id = 202;
SELECT discard_changes();
SELECT * FROM v WHERE id IN (2, 202);
SELECT key, owner FROM rowclaim.claims;
UPDATE parts SET region = 'us', name = 'both' WHERE id = 202;
UPDATE parts SET region = 'eu', name = 'moved' WHERE id = 202;
SELECT * FROM committed();
-- Moved and deleted; inserted and moved; moved onto the key of a deleted row.
UPDATE parts SET region = 'us' WHERE id = 202;
DELETE FROM parts WHERE id = 202;
SELECT * FROM committed();
INSERT INTO parts VALUES ('eu', 60, 'new');
UPDATE parts SET region = 'us' WHERE id = 60;
SELECT * FROM committed();
SELECT (claim_row('parts', k)).status FROM unnest('{"{\"region\":\"us\",\"id\":3}","{\"region\":\"eu\",\"id\":3}"}'::text[]) k;
DELETE FROM parts WHERE region = 'us' AND id = 3;
UPDATE parts SET region = 'us' WHERE region = 'eu' AND id = 3;
SELECT key, op FROM rowclaim.drafts ORDER BY key::text;
SELECT discard_changes();
SELECT * FROM v WHERE id = 3;
SELECT key, owner FROM rowclaim.claims ORDER BY key::text;
SELECT release_rows();
-- A move whose savepoint is rolled back, and a failing one.
SELECT (claim_row('parts', '{"region":"us","id":3}')).status;
BEGIN;
SAVEPOINT s;
UPDATE parts SET region = 'eu', id = 33 WHERE region = 'us' AND id = 3;
ROLLBACK TO s;
INSERT INTO parts VALUES ('eu', 33, 'not a move');
COMMIT;
SELECT expect('UPDATE parts SET region = ''eu'' WHERE region = ''us'' AND id = 3') ~ '23505';
SELECT expect('UPDATE parts SET region = ''nowhere'' WHERE region = ''us'' AND id = 3') ~ '23514';
SELECT * FROM committed();
SELECT key, owner FROM rowclaim.claims ORDER BY key::text;
-- Ownership cannot be forged by way of a move.
SELECT expect('UPDATE parts SET region = ''eu'', id = 34, row_owner = ''bob'' WHERE region = ''us'' AND id = 3');
SELECT expect('UPDATE parts SET region = ''eu'', id = 34, row_version = 50 WHERE region = ''us'' AND id = 3');
SELECT expect('UPDATE us_low SET id = 150 WHERE id = 3') ~ '23514';
SELECT release_rows();

-- Attach: the new partition's rows are guarded at once; rows with an owner are refused.
CREATE TABLE asia (LIKE parts INCLUDING DEFAULTS);
INSERT INTO asia (region, id, name) VALUES ('asia', 1, 'a1');
UPDATE asia SET row_owner = 'mallory';
SELECT expect('ALTER TABLE parts ATTACH PARTITION asia FOR VALUES IN (''asia'')');
UPDATE asia SET row_owner = NULL, row_draft = NULL;
SELECT expect('ALTER TABLE parts ATTACH PARTITION asia FOR VALUES IN (''asia'')');
SELECT expect('UPDATE asia SET name = ''x''');
SELECT expect('TRUNCATE asia');
SELECT (claim_row('parts', '{"region":"asia","id":1}')).status;
CREATE TABLE rest PARTITION OF parts DEFAULT;
INSERT INTO parts VALUES ('mars', 1, 'm1');
SELECT expect('TRUNCATE rest');
SELECT expect('ALTER TABLE rest DISABLE TRIGGER rowclaim_guard');
SELECT expect('DROP TRIGGER rowclaim_truncate ON rest');
SELECT expect('ALTER TABLE rest DISABLE TRIGGER rowclaim_truncate');
SELECT expect('SELECT enable_claims(''rest'')'), expect('SELECT disable_claims(''rest'')');

-- Detach: refused while its rows are claimed or dirty; then an ordinary table.
SELECT expect('ALTER TABLE parts DETACH PARTITION asia');
SELECT expect('ALTER TABLE parts DETACH PARTITION rest');
SELECT commit_changes() IS NOT NULL, release_rows();
SELECT (claim_row('parts', '{"region":"asia","id":1}')).status;
DELETE FROM parts WHERE region = 'asia';
SELECT expect('ALTER TABLE parts DETACH PARTITION asia');
SELECT discard_changes(), release_rows();
SELECT expect('ALTER TABLE parts DETACH PARTITION asia');
SELECT expect('ALTER TABLE parts DETACH PARTITION rest');
SELECT tgrelid::regclass, tgname FROM pg_trigger WHERE tgname LIKE 'rowclaim%' AND tgrelid IN ('asia'::regclass, 'rest'::regclass);
SELECT expect('UPDATE asia SET name = ''free again''');
SELECT expect('TRUNCATE rest');

-- A dropped partition takes its claims and drafts along; so does a dropped sub-tree.
INSERT INTO parts VALUES ('us', 70, 'new'), ('us', 170, 'new');
SELECT (claim_row('parts', '{"region":"us","id":70}')).status, (claim_row('parts', '{"region":"us","id":101}')).status, (claim_row('parts', '{"region":"eu","id":1}')).status;
UPDATE parts SET name = 'x' WHERE id IN (101, 1) AND row_owner = 'alice';
DROP TABLE us_high;
SELECT key FROM rowclaim.claims ORDER BY key::text;
SELECT key, op FROM rowclaim.drafts ORDER BY key::text;
DROP TABLE parts_us;
SELECT * FROM committed();
SELECT release_rows();
SELECT count(*) FROM rowclaim.claim;

-- Partitions made later are guarded, however deep.
CREATE TABLE deep PARTITION OF parts FOR VALUES IN ('deep') PARTITION BY RANGE (id);
CREATE TABLE deeper PARTITION OF deep FOR VALUES FROM (0) TO (10);
INSERT INTO parts VALUES ('deep', 1, 'x');
SELECT commit_changes() IS NOT NULL;
SELECT expect('UPDATE deeper SET name = ''y''');
SELECT expect('TRUNCATE deep');

-- transaction mode.
CREATE TABLE t (id int PRIMARY KEY, n int) PARTITION BY RANGE (id);
CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (10);
CREATE TABLE t2 PARTITION OF t FOR VALUES FROM (10) TO (20);
SELECT enable_claims('t', 'auto', 'transaction');
INSERT INTO t VALUES (1, 1), (2, 2);
BEGIN;
UPDATE t SET id = 11 WHERE id = 1;
UPDATE t SET n = 5 WHERE id = 11;
UPDATE t SET id = 12 WHERE id = 2;
UPDATE t SET id = 2 WHERE id = 12;
INSERT INTO t VALUES (3, 3);
UPDATE t SET id = 13 WHERE id = 3;
COMMIT;
SELECT json_array_elements(changes) FROM rowclaim.journal WHERE seq = (SELECT max(seq) FROM rowclaim.journal);
