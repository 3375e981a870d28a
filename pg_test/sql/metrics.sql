-- rowclaim.metrics: what it counts, and who may see it.
CREATE EXTENSION rowclaim;
CREATE SCHEMA "Odd";
CREATE TABLE "Odd"."Parts" (id int PRIMARY KEY, v int);
CREATE TABLE public.notes (id int PRIMARY KEY, v int);
INSERT INTO "Odd"."Parts" SELECT i, 0 FROM generate_series(1, 10) i;
INSERT INTO public.notes SELECT i, 0 FROM generate_series(1, 10) i;
SELECT create_journal('side');
-- Without a table only the journals have figures.
SELECT name, labels, value FROM rowclaim.metrics ORDER BY name, labels::text;

SELECT enable_claims('"Odd"."Parts"');
SELECT enable_claims('public.notes', claiming => 'auto', journal => 'side');
CREATE VIEW figures AS
    SELECT name, labels, value FROM rowclaim.metrics WHERE name NOT LIKE '%seconds' AND value <> 0 ORDER BY name, labels::text COLLATE "C";
SET rowclaim.actor = 'alice';
SELECT count(*) FROM claim_rows('"Odd"."Parts"', ARRAY[1, 2, 3]);
SELECT count(*) FROM claim_rows('"Odd"."Parts"', ARRAY[4, 5], ttl => '1 microsecond');
UPDATE "Odd"."Parts" SET v = 1 WHERE id < 3;
UPDATE public.notes SET v = 1 WHERE id = 1;
SELECT * FROM figures;
-- The age of a draft is that of the oldest one that still has a row.
UPDATE rowclaim.draft SET started_at = clock_timestamp() - interval '2 hours' WHERE journal_id = 1;
SELECT labels, value BETWEEN 7200 AND 7200 + 600 AS two_hours, value = 0 AS none FROM rowclaim.metrics
WHERE name = 'rowclaim_journal_oldest_draft_seconds' ORDER BY labels::text;
SELECT discard_changes();
SELECT labels, value = 0 AS none FROM rowclaim.metrics WHERE name = 'rowclaim_journal_oldest_draft_seconds' ORDER BY labels::text;

-- Journals, consumers and the stash.
UPDATE "Odd"."Parts" SET v = 2 WHERE id = 1;
SELECT commit_changes();
UPDATE "Odd"."Parts" SET v = 3 WHERE id = 1;
SELECT commit_changes();
SELECT count(*) FROM pull_changes('warehouse');
SELECT ack_changes('warehouse', 1);
UPDATE "Odd"."Parts" SET v = 4 WHERE id = 2;
SET rowclaim.actor = 'bob';
SELECT status FROM steal_row('"Odd"."Parts"', 2);
SELECT * FROM figures;
UPDATE rowclaim.consumer SET last_seen = clock_timestamp() - interval '1 hour';
SELECT labels, value BETWEEN 3600 AND 3600 + 600 AS an_hour FROM rowclaim.metrics WHERE name = 'rowclaim_consumer_unseen_seconds';

-- A number above the stable prefix, and what a replica waits for and fails at.
INSERT INTO rowclaim.journal
SELECT journal, 4, 1, 1, kind, actor, base, xid, message, committed_at, changes, hash FROM rowclaim.journal WHERE seq = 2;
SELECT name, value FROM figures WHERE labels = '{"journal": "main"}' AND name ~ 'head|flight';
INSERT INTO rowclaim.journal_config (name) VALUES ('received');
INSERT INTO rowclaim.replay_state (journal, started, checkpoint, overwritten, skipped) VALUES ('received', true, 1, 7, 8);
INSERT INTO rowclaim.journal
SELECT 'received', s, 1, 1, kind, actor, base, xid, message, committed_at, changes, hash FROM rowclaim.journal, unnest('{1,2,5,6}'::int[]) s WHERE seq = 2;
INSERT INTO rowclaim.replay_failure VALUES ('received', 3, 'public.notes', '{"id": 1}', 'it fails', now(), 2);
SELECT name, labels, value FROM rowclaim.metrics WHERE name LIKE 'rowclaim_replay%' ORDER BY name;

-- Members of pg_monitor may see it, whatever they may SELECT; others may not.
CREATE ROLE regress_metrics_watcher;
CREATE ROLE regress_metrics_user;
GRANT pg_monitor TO regress_metrics_watcher;
GRANT SELECT ON "Odd"."Parts", public.notes TO regress_metrics_user;
SET ROLE regress_metrics_watcher;
SELECT count(*) > 10 AS figures, count(*) FILTER (WHERE labels ->> 'table' = '"Odd"."Parts"') AS of_parts FROM rowclaim.metrics;
SELECT name, value FROM rowclaim.metrics WHERE name = 'rowclaim_replay_failing';
-- The search_path does not change the labels.
SET search_path = "Odd", public, pg_catalog;
SELECT DISTINCT labels ->> 'table' AS target FROM rowclaim.metrics WHERE labels ? 'table' ORDER BY target;
RESET search_path;
RESET ROLE;
SET ROLE regress_metrics_user;
SELECT count(*) FROM rowclaim.metrics;
\echo :LAST_ERROR_SQLSTATE
RESET ROLE;
DROP VIEW figures;
DROP ROLE regress_metrics_watcher;
DROP OWNED BY regress_metrics_user;
DROP ROLE regress_metrics_user;
