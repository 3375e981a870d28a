-- PREPARE TRANSACTION (the server needs max_prepared_transactions > 0): drafts, claims and changesets of a prepared transaction.
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
CREATE TABLE a (id int PRIMARY KEY, v int);
CREATE TABLE plain (id int PRIMARY KEY, v int);
INSERT INTO a VALUES (2, 200);
INSERT INTO plain VALUES (1, 1), (2, 2), (3, 3);
SELECT enable_claims('a', 'auto', 'transaction'), enable_claims('plain', 'required');
SET rowclaim.actor = 'alice';
-- What is new in the journals since the last look.
CREATE TABLE seen (journal text PRIMARY KEY, seq bigint);
INSERT INTO seen VALUES ('main', 0);
CREATE FUNCTION news() RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY SELECT concat_ws(' ', j.journal, j.seq, j.kind, j.actor, quote_literal(j.message), j.changes)
                 FROM rowclaim.journal j JOIN seen s ON s.journal = j.journal AND j.seq > s.seq ORDER BY j.journal, j.seq, j.part;
    UPDATE seen s SET seq = (SELECT max(j.seq) FROM rowclaim.journal j WHERE j.journal = s.journal) WHERE EXISTS (SELECT FROM rowclaim.journal j WHERE j.journal = s.journal);
END $$;

-- PREPARE TRANSACTION: the changeset is there when the transaction is.
BEGIN;
UPDATE a SET v = 199 WHERE id = 2;
PREPARE TRANSACTION 'regress_prepared';
SELECT * FROM news();
COMMIT PREPARED 'regress_prepared';
SELECT * FROM news();
BEGIN;
UPDATE a SET v = 201 WHERE id = 2;
PREPARE TRANSACTION 'regress_prepared';
ROLLBACK PREPARED 'regress_prepared';
UPDATE a SET v = 202 WHERE id = 2;
-- A rolled-back number is accounted for.
SELECT * FROM news();
SELECT seq, count(*) OVER () = max(seq) OVER () FROM (SELECT DISTINCT seq FROM rowclaim.journal WHERE journal = 'main') s ORDER BY seq DESC LIMIT 1;


-- Claims and drafts of a prepared transaction: others wait for it, so only rows it has not touched are written here.
BEGIN;
SELECT (claim_row('plain', 1)).status;
UPDATE plain SET v = 10 WHERE id = 1;
INSERT INTO plain VALUES (4, 4);
PREPARE TRANSACTION 'regress_prepared';
SELECT count(*) FROM rowclaim.drafts;
SELECT commit_changes(), discard_changes();
SELECT (claim_row('plain', 2)).status;
UPDATE plain SET v = 20 WHERE id = 2;
SELECT * FROM committed();
SET rowclaim.actor = 'bob';
SELECT (claim_row('plain', 3)).status;
COMMIT PREPARED 'regress_prepared';
SELECT expect('UPDATE plain SET v = 11 WHERE id = 1');
SELECT expect('UPDATE plain SET v = 11 WHERE id = 4');
SET rowclaim.actor = 'alice';
SELECT key, op, actor FROM rowclaim.drafts ORDER BY key;
SELECT * FROM committed();
-- A prepared commit, rolled back: the draft is there again.
UPDATE plain SET v = 12 WHERE id = 1;
BEGIN;
SELECT commit_changes() IS NOT NULL;
PREPARE TRANSACTION 'regress_prepared';
ROLLBACK PREPARED 'regress_prepared';
SELECT * FROM committed();
-- And committed.
UPDATE plain SET v = 13 WHERE id = 1;
BEGIN;
SELECT commit_changes() IS NOT NULL;
PREPARE TRANSACTION 'regress_prepared';
COMMIT PREPARED 'regress_prepared';
SELECT count(*) FROM rowclaim.drafts;
SELECT * FROM news();
SELECT count(*) FROM verify_journal();
