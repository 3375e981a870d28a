-- baseline_table(): the committed state of a table as an entry of its journal.
CREATE EXTENSION rowclaim;
CREATE ROLE regress_baseline_alice;
CREATE ROLE regress_baseline_bob;
GRANT ALL ON SCHEMA public TO PUBLIC;
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
-- The changes of an entry without its header, one per line.
CREATE FUNCTION changes_of(entry bigint) RETURNS SETOF json LANGUAGE sql AS $$
    SELECT c.e FROM rowclaim.journal j CROSS JOIN LATERAL json_array_elements(j.changes) WITH ORDINALITY c(e, n)
    WHERE j.journal = 'main' AND j.seq = entry AND j.part > 1 ORDER BY j.part, c.n $$;
-- Where the rows of a baseline differ from those of the table of the same name in schema kept.
CREATE FUNCTION differences(entry bigint, target regclass) RETURNS TABLE (only_in text, content text) LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY EXECUTE format($sql$
        WITH b AS (SELECT (json_populate_record(NULL::kept.%1$I, c -> 'new'))::text AS r FROM changes_of($1) c),
             k AS (SELECT t::text AS r FROM kept.%1$I t)
        SELECT 'baseline', left(r, 60) FROM (SELECT r FROM b EXCEPT ALL SELECT r FROM k) x
        UNION ALL SELECT 'table', left(r, 60) FROM (SELECT r FROM k EXCEPT ALL SELECT r FROM b) y$sql$, target::text) USING entry;
END $$;
CREATE SCHEMA kept;
\pset format unaligned
\pset footer off
\pset null <null>

-- an empty table: the header alone
CREATE TABLE parts (id int PRIMARY KEY, code text UNIQUE, price numeric(8,2), body text, seen int NOT NULL DEFAULT 0, tax numeric GENERATED ALWAYS AS (price * 0.2) STORED);
ALTER TABLE parts ALTER body SET STORAGE EXTERNAL;
SELECT enable_claims('parts', 'auto', untracked => '{seen}');
SELECT baseline_table('parts');
SELECT seq, part, parts, kind, actor, base, message, changes FROM rowclaim.journal;
-- committed rows, with their versions; claims make no difference
INSERT INTO parts (id, code, price, body) SELECT g, 'p' || g, g, CASE WHEN g % 2 = 0 THEN repeat('x' || g, 5000) ELSE 'short' END FROM generate_series(1, 12) g;
SELECT commit_changes('parts');
UPDATE parts SET price = 2.50 WHERE id = 2;
UPDATE parts SET seen = 3 WHERE id = 3;
SELECT commit_changes('a price');
SELECT status FROM claim_row('parts', 5);
CREATE TABLE kept.parts AS SELECT id, code, price, body FROM parts;
SELECT baseline_table('parts');
SELECT * FROM differences(4, 'parts');
SELECT part, parts, json_array_length(changes) FROM rowclaim.journal WHERE seq = 4 ORDER BY part;
SELECT c ->> 'op' AS op, c ->> 'table' AS target, c ->> 'key' AS key, c ->> 'version' AS version, c -> 'new' ->> 'price' AS price, c -> 'new' ->> 'seen' AS seen FROM changes_of(4) c
WHERE (c -> 'key' ->> 'id')::int <= 3 ORDER BY c ->> 'key';

-- dirty rows of every kind are as they were committed
UPDATE parts SET price = 0 WHERE id = 1;
UPDATE parts SET price = NULL, body = 'shorter' WHERE id = 2;
DELETE FROM parts WHERE id IN (3, 4);
UPDATE parts SET id = 105, price = 1 WHERE id = 5;
UPDATE parts SET id = id + 200 WHERE id = 105;
-- a key and a unique value of a dirty row taken by another
UPDATE parts SET id = 3 WHERE id = 6;
UPDATE parts SET code = 'p4' WHERE id = 7;
-- two rows exchange their keys
UPDATE parts SET id = -8 WHERE id = 8;
UPDATE parts SET id = 8 WHERE id = 9;
UPDATE parts SET id = 9 WHERE id = -8;
-- deleted and inserted again, updated and deleted, inserted, inserted and changed, inserted and gone
DELETE FROM parts WHERE id = 10;
INSERT INTO parts (id, code) VALUES (10, 'again');
UPDATE parts SET id = 111 WHERE id = 11;
DELETE FROM parts WHERE id = 111;
INSERT INTO parts (id, code) VALUES (50, 'new'), (51, 'newer'), (52, 'gone');
UPDATE parts SET id = 53 WHERE id = 51;
DELETE FROM parts WHERE id = 52;
SELECT count(*) FROM rowclaim.drafts;
SELECT baseline_table('parts');
SELECT * FROM differences(5, 'parts');
-- drafts of others, too
SELECT discard_changes();
GRANT ALL ON parts TO PUBLIC;
SET SESSION AUTHORIZATION regress_baseline_alice;
UPDATE parts SET price = -1, body = 'alice' WHERE id <= 4;
DELETE FROM parts WHERE id > 10;
RESET SESSION AUTHORIZATION;
UPDATE parts SET price = -2 WHERE id = 5;
SELECT baseline_table('parts');
SELECT * FROM differences(6, 'parts');
-- the draft is untouched by it, and committed in the next changeset
SET SESSION AUTHORIZATION regress_baseline_alice;
SELECT commit_changes('alice');
RESET SESSION AUTHORIZATION;
SELECT seq, op, count(*) FROM rowclaim.changes WHERE seq = 7 GROUP BY seq, op ORDER BY op;

-- in the transaction that changes rows: before its commit_changes() they are dirty, after it they are not
BEGIN;
UPDATE parts SET code = 'mine' WHERE id = 5;
INSERT INTO parts (id, code) VALUES (60, 'sixty');
SELECT baseline_table('parts');
SELECT commit_changes('mine');
SELECT baseline_table('parts');
SELECT json_agg(c -> 'new' -> 'code' ORDER BY c -> 'new' ->> 'code') FILTER (WHERE c ->> 'key' IN ('{"id":5}', '{"id":60}')) AS codes, count(*) FROM changes_of(8) c;
SELECT json_agg(c -> 'new' -> 'code' ORDER BY c -> 'new' ->> 'code') FILTER (WHERE c ->> 'key' IN ('{"id":5}', '{"id":60}')) AS codes, count(*) FROM changes_of(10) c;
COMMIT;
-- rolled back: nothing is left but the number
BEGIN;
SELECT baseline_table('parts');
ROLLBACK;
BEGIN;
SAVEPOINT s;
SELECT baseline_table('parts');
ROLLBACK TO s;
UPDATE parts SET price = 61 WHERE id = 60;
SELECT commit_changes('after that');
COMMIT;
SELECT seq, kind, changes::text = '[]' AS empty FROM rowclaim.journal WHERE seq > 10 ORDER BY seq;
SELECT * FROM verify_journal();

-- who reads it
SELECT seq, actor, message, changes FROM rowclaim.changesets WHERE seq IN (1, 5, 13) ORDER BY seq;
SELECT seq, op, target, key, new IS NULL AS no_row FROM rowclaim.changes WHERE seq = 1;
SELECT seq, part, parts, json_array_length(changes) FROM pull_changes('app') WHERE seq IN (1, 4, 5) ORDER BY seq, part;
REVOKE ALL ON parts FROM PUBLIC;
SET SESSION AUTHORIZATION regress_baseline_bob;
SELECT count(*), bool_and(changes::text = '[]') AS hidden FROM pull_changes('bob');
RESET SESSION AUTHORIZATION;
-- a seal covers it
SELECT seal_journal() > 0 AS sealed;
SELECT * FROM verify_journal();
BEGIN; UPDATE rowclaim.journal SET changes = '[{"op":"baseline","table":"public.parts","rows":0}]' WHERE seq = 4 AND part = 1; SELECT * FROM verify_journal(); ROLLBACK;

-- parts of at most 1,000 changes and 4 MB; progress
CREATE TABLE large (id int PRIMARY KEY, body text);
SELECT enable_claims('large', 'auto');
INSERT INTO large SELECT g FROM generate_series(1, 1000) g;
SELECT commit_changes('1000') > 0 AS committed;
SELECT baseline_table('large') AS seq \gset
SELECT part, parts, json_array_length(changes) FROM rowclaim.journal WHERE seq = :seq ORDER BY part;
INSERT INTO large VALUES (1001, repeat('x', 5000000)), (1002, repeat('y', 3000000)), (1003, repeat('z', 3000000));
SELECT commit_changes('three large ones') > 0 AS committed;
SELECT baseline_table('large') AS seq \gset
SELECT part, parts, json_array_length(changes), octet_length(changes::text) / 1000000 AS mb FROM rowclaim.journal WHERE seq = :seq ORDER BY part;
CREATE TABLE many (id int PRIMARY KEY);
INSERT INTO many SELECT generate_series(1, 200001);
ANALYZE many;
SELECT enable_claims('many', 'auto');
SELECT baseline_table('many') AS seq \gset
SELECT parts, changes, (SELECT count(*) = 200001 AND count(DISTINCT (c -> 'key' ->> 'id')::int) = 200001 AND sum((c -> 'key' ->> 'id')::bigint) = 200001::bigint * 200002 / 2 FROM changes_of(seq) c) AS complete
FROM rowclaim.journal WHERE seq = :seq AND part = 1;
SELECT message, changes FROM rowclaim.changesets WHERE seq = :seq;
DROP TABLE many;

-- transaction mode: rows are as committed; the running transaction's own changes are refused
CREATE TABLE tally (id int PRIMARY KEY, n int);
INSERT INTO tally VALUES (1, 1), (2, 2);
SELECT enable_claims('tally', 'auto', 'transaction');
UPDATE tally SET n = 10 WHERE id = 1;
BEGIN;
UPDATE tally SET n = 20 WHERE id = 1;
SELECT * FROM refused('SELECT baseline_table(''tally'')');
-- of another table it works
SELECT baseline_table('parts') > 0 AS done;
COMMIT;
BEGIN;
SAVEPOINT s;
UPDATE tally SET n = 30 WHERE id = 1;
ROLLBACK TO s;
SELECT baseline_table('tally') AS seq \gset
UPDATE tally SET n = 40 WHERE id = 2;
COMMIT;
SELECT * FROM changes_of(:seq);
SELECT seq - :seq AS later, op, key, new FROM rowclaim.changes WHERE seq > :seq ORDER BY seq, change;

-- a partitioned table: all of its partitions, in its own name, with its own columns
CREATE TABLE split (gone int, id int, day int, v text, PRIMARY KEY (day, id)) PARTITION BY RANGE (day);
CREATE TABLE split_1 PARTITION OF split FOR VALUES FROM (0) TO (10);
CREATE TABLE split_2 (v text, day int NOT NULL, extra int, id int NOT NULL) PARTITION BY LIST (id);
ALTER TABLE split_2 DROP COLUMN extra;
ALTER TABLE split DROP COLUMN gone;
ALTER TABLE split ATTACH PARTITION split_2 FOR VALUES FROM (10) TO (20);
CREATE TABLE split_2_odd PARTITION OF split_2 FOR VALUES IN (1, 3);
CREATE TABLE split_2_rest PARTITION OF split_2 DEFAULT;
INSERT INTO split (id, day, v) SELECT g % 4, g, 'v' || g FROM generate_series(1, 19) g;
SELECT enable_claims('split', 'auto');
CREATE TABLE kept.split AS SELECT * FROM split;
ALTER TABLE kept.split DROP row_owner, DROP row_version, DROP row_draft;
-- within a partition, to another one, there and back, exchanged
UPDATE split SET v = 'x' WHERE day = 1;
UPDATE split SET day = 10 + day WHERE (day, id) = (2, 2);
UPDATE split SET id = 1, v = 'moved' WHERE (day, id) = (16, 0);
UPDATE split SET day = 5 WHERE (day, id) = (11, 3);
UPDATE split SET day = 11 WHERE (day, id) = (5, 3);
UPDATE split SET day = 0 WHERE (day, id) = (7, 3);
UPDATE split SET day = 7 WHERE (day, id) = (15, 3);
UPDATE split SET day = 15 WHERE (day, id) = (0, 3);
DELETE FROM split WHERE day IN (4, 14);
INSERT INTO split VALUES (9, 3, 'new'), (9, 13, 'new');
SELECT baseline_table('split') AS seq \gset
SELECT * FROM differences(:seq, 'split');
SELECT c FROM changes_of(:seq) c ORDER BY (c -> 'key' ->> 'day')::int LIMIT 2;
-- nothing but whole tables
SELECT * FROM refused('SELECT baseline_table(''split_1'')');
SELECT * FROM refused('SELECT baseline_table(''split_2'')');
SELECT * FROM refused('SELECT baseline_table(''split_2_odd'')');

-- values and names are as in changes: text under any settings, domains, arrays, jsonb, NULL; a quoted name
CREATE SCHEMA "Odd, ""schema""";
CREATE DOMAIN "Odd, ""schema""".small AS int CHECK (VALUE < 1000);
CREATE TABLE "Odd, ""schema"""."Table.1" ("Key; 1" uuid PRIMARY KEY, "a""b" "Odd, ""schema""".small, made timestamptz, f float8, n numeric, j jsonb, a int[], b bytea, nothing text);
INSERT INTO "Odd, ""schema"""."Table.1" VALUES
    ('a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', 7, '2026-01-31 12:00+02', 0.1, 1.00, 'null', '[0:1]={1,NULL}', '\xff', NULL),
    ('b0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', NULL, 'infinity', '-Infinity', 'NaN', '{"a": [1]}', '{}', '', '');
SELECT enable_claims('"Odd, ""schema"""."Table.1"', 'auto');
SET datestyle = 'German, DMY';
SET extra_float_digits = -10;
SET timezone = 'Asia/Tokyo';
SET bytea_output = 'escape';
SELECT baseline_table('"Odd, ""schema"""."Table.1"') AS seq \gset
RESET ALL;
SELECT changes FROM rowclaim.journal WHERE seq = :seq ORDER BY part;

-- a journal of its own; a baseline is no changeset that somebody must have seen
SELECT create_journal('strict', require_current => true);
CREATE TABLE strict (id int PRIMARY KEY);
GRANT ALL ON strict TO PUBLIC;
SELECT enable_claims('strict', 'auto', journal => 'strict');
SET SESSION AUTHORIZATION regress_baseline_alice;
INSERT INTO strict VALUES (1);
SELECT commit_changes(journal => 'strict', base => 0);
INSERT INTO strict VALUES (2);
RESET SESSION AUTHORIZATION;
SELECT baseline_table('strict');
SET SESSION AUTHORIZATION regress_baseline_alice;
SELECT commit_changes(journal => 'strict', base => 1);
RESET SESSION AUTHORIZATION;
SELECT seq, kind, changes FROM rowclaim.journal WHERE journal = 'strict' ORDER BY seq, part;

-- the owner only
GRANT ALL ON tally TO regress_baseline_bob;
SET SESSION AUTHORIZATION regress_baseline_bob;
SELECT * FROM refused('SELECT baseline_table(''tally'')');
CREATE TABLE own (id int PRIMARY KEY, v text);
INSERT INTO own VALUES (1, 'bob''s');
SELECT enable_claims('own', 'auto');
SELECT baseline_table('own') > 0 AS done;
SET rowclaim.message = 'not of this';
SELECT baseline_table('own') AS seq \gset
RESET ALL;
RESET SESSION AUTHORIZATION;
SELECT actor, message, changes FROM rowclaim.journal WHERE seq = :seq ORDER BY part;
-- row security of the owner does not leave rows out
SET SESSION AUTHORIZATION regress_baseline_bob;
CREATE POLICY none ON own USING (false);
ALTER TABLE own ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
SELECT count(*) FROM own;
SELECT baseline_table('own') AS seq \gset
RESET SESSION AUTHORIZATION;
SELECT changes -> 0 ->> 'rows' AS rows FROM rowclaim.journal WHERE seq = :seq AND part = 1;

-- refusals
CREATE TABLE plain (id int PRIMARY KEY);
CREATE VIEW looks AS SELECT * FROM tally;
SELECT * FROM refused('SELECT baseline_table(''plain'')');
SELECT * FROM refused('SELECT baseline_table(''looks'')');
SELECT * FROM refused('SELECT baseline_table(''rowclaim.journal'')');
SELECT * FROM refused('SELECT baseline_table(''none'')');
SELECT * FROM refused('SELECT baseline_table(0)');
SELECT baseline_table(NULL);
SELECT disable_claims('tally');
SELECT * FROM refused('SELECT baseline_table(''tally'')');
BEGIN READ ONLY;
SELECT * FROM refused('SELECT baseline_table(''large'')');
COMMIT;
SELECT * FROM verify_journal();
SELECT * FROM verify_journal('strict');

RESET SESSION AUTHORIZATION;
DROP OWNED BY regress_baseline_alice, regress_baseline_bob;
DROP ROLE regress_baseline_alice, regress_baseline_bob;
