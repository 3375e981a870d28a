-- TRUNCATE, session_replication_role, and tables of other kinds.
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
CREATE TABLE parts (id int PRIMARY KEY, name text);
INSERT INTO parts SELECT i, 'p' || i FROM generate_series(1, 3) i;
CREATE TABLE lines (part int REFERENCES parts, n int, PRIMARY KEY (part, n));
CREATE TABLE loose (part int REFERENCES parts);
SELECT enable_claims('parts', 'auto'), enable_claims('lines', 'auto');
SET rowclaim.actor = 'alice';
INSERT INTO lines VALUES (1, 1);
SET rowclaim.actor = 'bob';
UPDATE parts SET name = 'dirty' WHERE id = 2;
SET rowclaim.actor = 'alice';
SELECT (claim_row('parts', 3)).status;

-- Refused: directly, with others, by cascade, in a function, empty or not, whoever asks.
SELECT expect('TRUNCATE lines');
SELECT expect('TRUNCATE TABLE parts, lines, loose');
SELECT expect('TRUNCATE parts CASCADE');
SELECT expect('TRUNCATE ONLY lines RESTART IDENTITY');
SELECT expect('DO $$ BEGIN TRUNCATE lines; END $$');
SELECT expect('TRUNCATE loose');
SET session_replication_role = replica;
SELECT expect('TRUNCATE lines');
RESET session_replication_role;
SELECT count(*) FROM parts;
-- The message and the hint.
\set VERBOSITY default
TRUNCATE lines;

-- Under maintenance: journaled as deletes of all rows, dirty ones in the drafts they are in.
SET rowclaim.enforce = off;
SELECT expect('TRUNCATE loose, lines, parts');
SELECT key, op, actor FROM rowclaim.drafts ORDER BY target::text, key::text;
RESET rowclaim.enforce;
SELECT * FROM committed();
SET rowclaim.actor = 'bob';
SELECT * FROM committed();
SET rowclaim.actor = 'alice';
SELECT count(*) FROM rowclaim.claims;
-- A transaction table.
CREATE TABLE tx (id int PRIMARY KEY);
SELECT enable_claims('tx', 'auto', 'transaction');
INSERT INTO tx VALUES (1), (2);
SET rowclaim.enforce = off;
TRUNCATE tx;
RESET rowclaim.enforce;
SELECT json_array_elements(changes) FROM rowclaim.journal WHERE seq = (SELECT max(seq) FROM rowclaim.journal);
DROP TABLE tx;
-- And discarded.
INSERT INTO parts SELECT i, 'p' || i FROM generate_series(1, 3) i;
SELECT commit_changes() IS NOT NULL;
SET rowclaim.enforce = off;
TRUNCATE parts, lines, loose;
RESET rowclaim.enforce;
SELECT discard_changes();
SELECT id, name, row_version FROM parts ORDER BY id;
-- Rolled back.
BEGIN;
SET LOCAL rowclaim.enforce = off;
TRUNCATE parts, lines, loose;
ROLLBACK;
SELECT count(*), (SELECT count(*) FROM rowclaim.drafts) FROM parts;

-- session_replication_role = replica switches nothing off for an ordinary session.
SELECT disable_claims('lines', force => true), disable_claims('parts', force => true);
SELECT enable_claims('parts');
SET rowclaim.actor = 'bob';
SELECT (claim_row('parts', 2)).status;
SET rowclaim.actor = 'alice';
SELECT (claim_row('parts', 1)).status;
SET session_replication_role = replica;
SELECT expect(sql) FROM (VALUES
    ('UPDATE parts SET name = ''x'' WHERE id = 2'), ('DELETE FROM parts WHERE id = 2'), ('UPDATE parts SET name = ''x'' WHERE id = 3'),
    ('UPDATE parts SET row_owner = NULL WHERE id = 2'), ('INSERT INTO parts (id, row_owner) VALUES (9, ''bob'')'), ('UPDATE parts SET name = ''x'' WHERE id = 1'),
    ('INSERT INTO parts VALUES (10)'), ('DELETE FROM parts WHERE id = 10'), ('INSERT INTO parts VALUES (11)')) s(sql);
SELECT status, owner FROM claim_row('parts', 2);
SELECT expect('ALTER TABLE parts DISABLE TRIGGER rowclaim_guard');
SELECT expect('ALTER TABLE parts DROP COLUMN row_owner');
SELECT * FROM committed();
CREATE TABLE tx (id int PRIMARY KEY);
SELECT enable_claims('tx', 'auto', 'transaction');
INSERT INTO tx VALUES (1);
SELECT changes FROM rowclaim.journal ORDER BY seq DESC LIMIT 1;
DROP TABLE tx;
SELECT count(*) FROM rowclaim.tables;
RESET session_replication_role;
-- local, too.
SET session_replication_role = local;
SELECT expect('UPDATE parts SET name = ''x'' WHERE id = 2');
RESET session_replication_role;
-- Users without the right cannot switch anything off.
CREATE ROLE regress_truncate;
GRANT ALL ON parts TO regress_truncate;
SET ROLE regress_truncate;
SELECT expect('SET rowclaim.enforce = off'), expect('SET rowclaim.actor = bob'), expect('SET session_replication_role = replica');
SELECT expect('TRUNCATE parts CASCADE') ~ '42501|operation_refused';
RESET ROLE;
DROP OWNED BY regress_truncate;
DROP ROLE regress_truncate;
