-- The journal: the JSON of changes, parts, hashes, base and require_current.
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
CREATE SCHEMA "My ""Shop""";
CREATE TYPE size AS (w int, h numeric);
CREATE TABLE "My ""Shop"""."Bill of, Materials" (
    "Id" bigint, "line No" smallint, qty numeric(8, 2), ok boolean, f float8, r real, o oid, txt text, at timestamptz, tags text[], doc jsonb, raw json, sz size,
    total numeric GENERATED ALWAYS AS (qty * 2) STORED, serial int GENERATED ALWAYS AS IDENTITY, PRIMARY KEY ("line No", "Id"));
SELECT enable_claims('"My ""Shop"""."Bill of, Materials"', 'auto');
SET rowclaim.actor = 'alice';
SET TimeZone = 'Asia/Kathmandu';
SET search_path = "My ""Shop""", public;
INSERT INTO "Bill of, Materials" ("Id", "line No", qty, ok, f, r, o, txt, at, tags, doc, raw, sz) VALUES
    (9007199254740993, 1, 1.50, true, '-0', 0.1, 4294967295, E'quote " backslash \\ tab \t newline \n bell \x07 é 😀 </script>', '2001-02-03 04:05:06.7+05:45', '{a,NULL,"b c"}', '{"b": 1.00, "a": null}', '{"b":1,"a" : 2}', '(1,2.0)'),
    (2, 2, NULL, NULL, 'NaN', '-Infinity', NULL, '', 'infinity', '{}', 'null', 'null', '(,)');
-- Keys come in the order of the primary key, columns in the order of the table; numbers exact; generated and ownership columns left out.
SELECT * FROM committed();
UPDATE "Bill of, Materials" SET qty = 3, ok = NULL, txt = NULL WHERE "Id" = 2;
UPDATE "Bill of, Materials" SET qty = 1.5, f = 1e300, "Id" = 5, tags = '[0:1]={x,y}', doc = NULL WHERE "line No" = 1;
SELECT * FROM committed();
DELETE FROM "Bill of, Materials";
SELECT * FROM committed();
-- The same through the views.
SELECT seq, change, op, target, key, old->>'qty' AS old, new->>'qty' AS new, version FROM rowclaim.changes ORDER BY seq, change;
SELECT journal, seq, actor, message, changes, base FROM rowclaim.changesets ORDER BY seq;
RESET TimeZone;
RESET search_path;

-- Message, base, xid, kind; NULL when there is nothing to commit.
CREATE TABLE t (id int PRIMARY KEY, v text);
SELECT enable_claims('t', 'auto');
INSERT INTO t VALUES (1, 'a');
SELECT commit_changes(E'a "message"\nin two lines', base => 3), commit_changes('nothing');
SELECT seq, part, parts, kind, actor, base, message, xid::text::bigint > 0, committed_at <= clock_timestamp(), length(hash) FROM rowclaim.journal WHERE seq = 4;

-- Parts: 2,500 changes make three; the view numbers them through.
INSERT INTO t SELECT i, 'row ' || i FROM generate_series(10, 2509) i;
SELECT commit_changes();
SELECT seq, part, parts, json_array_length(changes) FROM rowclaim.journal WHERE seq = 5 ORDER BY part;
SELECT count(*), count(DISTINCT change), min(change), max(change), count(DISTINCT key->>'id') FROM rowclaim.changes WHERE seq = 5;
SELECT changes FROM rowclaim.changesets WHERE seq = 5;
UPDATE t SET v = v || '!' WHERE id BETWEEN 10 AND 1009;
SELECT commit_changes();
SELECT parts FROM rowclaim.journal WHERE seq = 6;
UPDATE t SET v = v || '!' WHERE id BETWEEN 10 AND 1010;
SELECT commit_changes();
SELECT part, parts, json_array_length(changes) FROM rowclaim.journal WHERE seq = 7 ORDER BY part;
-- Parts are bounded in size, too: 6 changes of 1.5 MB.
UPDATE t SET v = repeat('x', 1500000) WHERE id BETWEEN 10 AND 15;
SELECT commit_changes();
SELECT max(octet_length(changes::text)) < 6000000, count(*) > 1, sum(json_array_length(changes)), count(*) = max(parts) FROM rowclaim.journal WHERE seq = 8;
SELECT count(*) FROM verify_journal();

-- The hash covers content and order.
SELECT count(DISTINCT hash) = count(*) FROM rowclaim.journal;
SELECT expect(sql) ~ '42501|refused' FROM (VALUES ('INSERT INTO rowclaim.journal DEFAULT VALUES')) s(sql), LATERAL (SELECT set_config('role', 'pg_read_all_data', true)) r;

-- base: refused if another actor has committed after it; one's own commits do not count.
SET rowclaim.actor = 'bob';
INSERT INTO t VALUES (3000, 'bob');
SELECT expect('SELECT commit_changes(base => 7)');
SELECT commit_changes(base => 8);
INSERT INTO t VALUES (3001, 'bob');
SELECT commit_changes(base => 8);
SELECT seq, base FROM rowclaim.changesets WHERE seq > 8 ORDER BY seq;
-- The refusal leaves everything as it was; nothing to commit is never behind.
SET rowclaim.actor = 'alice';
INSERT INTO t VALUES (3002, 'alice');
SELECT expect('SELECT commit_changes(base => 8)');
SELECT count(*) FROM rowclaim.drafts;
SELECT commit_changes(base => 10);
SELECT commit_changes(base => 0);
\set VERBOSITY default
SET rowclaim.actor = 'bob';
INSERT INTO t VALUES (3003, 'bob');
SELECT commit_changes(base => 10);

-- require_current: every commit needs a base; none given is the very beginning.
SELECT create_journal('strict', require_current => true);
CREATE TABLE s (id int PRIMARY KEY);
SELECT enable_claims('s', 'auto', journal => 'strict');
SET rowclaim.actor = 'alice';
INSERT INTO s VALUES (1);
SELECT commit_changes(journal => 'strict');
INSERT INTO s VALUES (2);
SELECT commit_changes(journal => 'strict');
SET rowclaim.actor = 'bob';
INSERT INTO s VALUES (3);
SELECT expect('SELECT commit_changes(journal => ''strict'')');
SELECT expect('SELECT commit_changes(journal => ''strict'', base => 1)');
SELECT commit_changes(journal => 'strict', base => 2);
-- One journal's draft is not the other's; each counts for itself.
SELECT commit_changes('main only');
SELECT journal, max(seq) FROM rowclaim.changesets GROUP BY 1 ORDER BY 1;
SELECT expect('SELECT commit_changes(journal => ''nowhere'')');
SELECT expect('SELECT enable_claims(''journal_of_none'', journal => ''nowhere'')') ~ '42P01';
