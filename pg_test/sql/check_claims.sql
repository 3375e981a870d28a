-- check_claims(): each kind of damage is done as superuser behind the extension's back, found, repaired by the statement that is
-- printed, and gone.
CREATE EXTENSION rowclaim;
SET client_min_messages = warning;
CREATE TABLE parts (id int PRIMARY KEY, v int);
INSERT INTO parts SELECT i, 0 FROM generate_series(1, 8) i;
CREATE TABLE readings (day date, id int, v int, PRIMARY KEY (day, id)) PARTITION BY RANGE (day);
CREATE TABLE readings_2026 PARTITION OF readings FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
CREATE TABLE readings_rest PARTITION OF readings DEFAULT;
INSERT INTO readings VALUES ('2026-05-05', 1, 0), ('2027-05-05', 2, 0);
CREATE TABLE counted (id int PRIMARY KEY, lock_version int NOT NULL DEFAULT 0, "Owner" text, v int);
INSERT INTO counted VALUES (1), (2);
SELECT enable_claims('parts');
SELECT enable_claims('readings', claiming => 'auto');
SELECT enable_claims('counted', owner_column => 'Owner', version_column => 'lock_version', untracked => '{v}');
SET rowclaim.actor = 'alice';
SELECT count(*) FROM claim_rows('parts', ARRAY[1, 2, 3, 4]);
UPDATE parts SET v = 1 WHERE id IN (1, 2);
DELETE FROM parts WHERE id = 3;
INSERT INTO parts VALUES (9, 9);
UPDATE readings SET v = 1;
SELECT status FROM claim_row('counted', 1);
CREATE VIEW known AS
    SELECT 'claim' AS what, target, key, owner AS who FROM rowclaim.claims UNION ALL
    SELECT op, target, key, actor FROM rowclaim.drafts
    ORDER BY 2, 3, 1;
CREATE VIEW findings AS SELECT target, key, problem FROM check_claims();
SELECT * FROM known;
\echo nothing is damaged
SELECT * FROM check_claims();
-- Claims, drafts and values must survive every repair of a table.
CREATE TABLE before AS SELECT * FROM known;
CREATE VIEW lost AS (SELECT * FROM before EXCEPT ALL SELECT * FROM known) UNION ALL (SELECT * FROM known EXCEPT ALL SELECT * FROM before);
CREATE FUNCTION unwatched(VARIADIC commands text[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE command text;
BEGIN
    ALTER EVENT TRIGGER rowclaim_ddl_end DISABLE;
    ALTER EVENT TRIGGER rowclaim_drop DISABLE;
    FOREACH command IN ARRAY commands LOOP EXECUTE command; END LOOP;
    ALTER EVENT TRIGGER rowclaim_ddl_end ENABLE ALWAYS;
    ALTER EVENT TRIGGER rowclaim_drop ENABLE ALWAYS;
END $$;

-- Triggers.
SELECT unwatched('DROP TRIGGER rowclaim_guard ON parts', 'DROP TRIGGER rowclaim_capture ON parts', 'DROP TRIGGER rowclaim_truncate ON parts');
SELECT * FROM check_claims();
SELECT DISTINCT repair FROM check_claims() ORDER BY repair \gexec
SELECT * FROM findings;
SELECT tgname, tgenabled, pg_get_triggerdef(oid) FROM pg_trigger WHERE tgrelid = 'parts'::regclass AND NOT tgisinternal ORDER BY 1;
SELECT * FROM lost;
SET rowclaim.actor = 'bob';
\set VERBOSITY sqlstate
UPDATE parts SET v = 7 WHERE id = 1;
TRUNCATE parts;
\set VERBOSITY default
SET rowclaim.actor = 'alice';

SET rowclaim.enforce = off;
ALTER TABLE parts DISABLE TRIGGER rowclaim_guard;
ALTER TABLE parts ENABLE TRIGGER rowclaim_guard, DISABLE TRIGGER rowclaim_capture;
RESET rowclaim.enforce;
SELECT * FROM findings;
SELECT DISTINCT repair FROM check_claims() ORDER BY repair \gexec
SELECT unwatched('ALTER TABLE parts ENABLE REPLICA TRIGGER rowclaim_capture', 'ALTER TABLE parts ENABLE TRIGGER rowclaim_truncate');
SELECT * FROM findings;
SELECT DISTINCT repair FROM check_claims() ORDER BY repair \gexec
SELECT * FROM findings;

CREATE FUNCTION lax() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN coalesce(NEW, OLD); END';
SELECT unwatched('CREATE OR REPLACE TRIGGER rowclaim_guard BEFORE UPDATE OR DELETE ON parts FOR EACH ROW EXECUTE FUNCTION lax()',
    'CREATE OR REPLACE TRIGGER rowclaim_capture AFTER UPDATE ON parts FOR EACH ROW EXECUTE FUNCTION rowclaim.capture()');
SELECT * FROM findings;
SELECT DISTINCT repair FROM check_claims() ORDER BY repair \gexec
SELECT * FROM findings;
SELECT unwatched('CREATE OR REPLACE TRIGGER rowclaim_guard BEFORE UPDATE OR DELETE ON parts FOR EACH ROW WHEN (false) EXECUTE FUNCTION rowclaim.guard()');
SELECT * FROM findings;
SELECT DISTINCT repair FROM check_claims() ORDER BY repair \gexec
SELECT * FROM findings;

-- Triggers of partitions.
SELECT unwatched('DROP TRIGGER rowclaim_truncate ON readings_2026', 'ALTER TABLE readings_rest DISABLE TRIGGER rowclaim_guard');
SELECT * FROM check_claims();
SELECT DISTINCT repair FROM check_claims() ORDER BY repair \gexec
SELECT * FROM findings;
SELECT * FROM lost;
SELECT unwatched('CREATE TABLE readings_2030 PARTITION OF readings FOR VALUES FROM (''2030-01-01'') TO (''2031-01-01'')');
SELECT * FROM findings;
SELECT DISTINCT repair FROM check_claims() ORDER BY repair \gexec
SELECT * FROM findings;
TRUNCATE readings_2030;

-- Ownership columns: renamed, retyped, nullable, without default.
SELECT unwatched('ALTER TABLE parts RENAME row_owner TO holder', 'ALTER TABLE parts RENAME row_version TO revision',
    'ALTER TABLE parts ALTER row_draft DROP DEFAULT');
SELECT * FROM findings;
SELECT DISTINCT repair FROM check_claims() ORDER BY repair \gexec
SELECT * FROM findings;
SELECT unwatched('ALTER TABLE parts ALTER row_draft DROP DEFAULT, ALTER row_draft TYPE text', 'ALTER TABLE parts ALTER row_version DROP NOT NULL',
    'ALTER TABLE counted ALTER lock_version TYPE numeric', 'ALTER TABLE counted ALTER "Owner" TYPE varchar(20)');
SELECT * FROM findings;
SELECT DISTINCT repair FROM check_claims() ORDER BY repair \gexec
SELECT * FROM findings;
SELECT * FROM lost;
SELECT row_owner, row_version, v FROM parts WHERE id = 1;
UPDATE parts SET v = 2 WHERE id = 1;
SELECT row_version FROM parts WHERE id = 1;
-- Dropped, together with a trigger: first the table is made whole, then its rows.
SELECT unwatched('ALTER TABLE parts DROP COLUMN row_owner, DROP COLUMN row_draft, DROP COLUMN row_version', 'DROP TRIGGER rowclaim_capture ON parts');
SELECT * FROM findings;
SELECT DISTINCT repair FROM check_claims() ORDER BY repair \gexec
SELECT * FROM findings;
SELECT DISTINCT repair FROM check_claims() ORDER BY repair \gexec
SELECT * FROM findings;
SELECT * FROM lost;
SELECT id, v, row_owner, row_version, row_draft IS NULL AS clean FROM parts ORDER BY id;

-- Columns that changed without notice are followed.
SELECT unwatched('ALTER TABLE parts RENAME v TO value', 'ALTER TABLE parts ADD COLUMN extra int DEFAULT 5');
SELECT * FROM check_claims();
SELECT DISTINCT repair FROM check_claims() ORDER BY repair \gexec
SELECT * FROM findings;
SELECT base FROM rowclaim.draft_row WHERE relid = 'parts'::regclass ORDER BY key;

-- The primary key.
SELECT unwatched('ALTER TABLE counted DROP CONSTRAINT counted_pkey, ADD PRIMARY KEY (id, lock_version)');
SELECT * FROM check_claims();
SELECT DISTINCT repair FROM check_claims() ORDER BY repair \gexec
SELECT * FROM findings;
SELECT unwatched('ALTER TABLE counted DROP CONSTRAINT counted_pkey');
SELECT * FROM check_claims();
SELECT DISTINCT repair FROM check_claims() ORDER BY repair \gexec
SELECT * FROM findings;
SELECT unwatched('ALTER TABLE counted ALTER id TYPE text');
SELECT * FROM check_claims();
SELECT DISTINCT repair FROM check_claims() ORDER BY repair \gexec
SELECT * FROM findings;
SELECT * FROM lost;

-- Rows. session_replication_role does not switch rowclaim off, but this does.
ALTER TABLE parts RENAME value TO v;
CREATE FUNCTION unguarded(VARIADIC commands text[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE command text;
BEGIN
    SET LOCAL rowclaim.enforce = off;
    ALTER TABLE parts DISABLE TRIGGER USER;
    FOREACH command IN ARRAY commands LOOP EXECUTE command; END LOOP;
    ALTER TABLE parts ENABLE ALWAYS TRIGGER rowclaim_guard, ENABLE ALWAYS TRIGGER rowclaim_capture, ENABLE ALWAYS TRIGGER rowclaim_truncate;
END $$;
SELECT unguarded('UPDATE parts SET row_owner = ''mallory'' WHERE id = 5', 'UPDATE parts SET row_owner = NULL WHERE id = 4');
SELECT * FROM check_claims();
SELECT DISTINCT repair FROM check_claims() ORDER BY repair \gexec
SELECT * FROM findings;
SELECT id, row_owner FROM parts WHERE id IN (4, 5) ORDER BY id;
SELECT * FROM lost;
-- A claim whose row is gone, one of somebody else.
SELECT unguarded('DELETE FROM parts WHERE id = 4', 'UPDATE parts SET row_owner = ''mallory'' WHERE id = 1');
SELECT * FROM findings;
SELECT DISTINCT repair FROM check_claims() ORDER BY repair \gexec
SELECT * FROM findings;
SELECT id, row_owner FROM parts WHERE id IN (1, 4) ORDER BY id;
SELECT * FROM lost;
-- Stamps: of a draft that does not have the row; missing on a row that is in a draft.
SELECT unguarded('UPDATE parts SET row_draft = (SELECT max(draft) FROM rowclaim.draft_row WHERE relid = ''parts''::regclass) WHERE id = 6',
    'UPDATE parts SET row_draft = NULL WHERE id = 2');
SELECT * FROM findings;
SELECT DISTINCT repair FROM check_claims() ORDER BY repair \gexec
SELECT * FROM findings;
SELECT id, row_draft IS NOT NULL AS stamped FROM parts WHERE id IN (2, 6) ORDER BY id;
-- A row that vanished from its draft counts as deleted: discarding brings it back. One that was inserted in it is just gone.
SELECT unguarded('DELETE FROM parts WHERE id IN (2, 9)');
SELECT * FROM findings;
SELECT DISTINCT repair FROM check_claims() ORDER BY repair \gexec
SELECT * FROM findings;
SELECT key, op FROM rowclaim.drafts WHERE target = 'parts'::regclass ORDER BY key::text;
-- A row that is there although it was deleted in a draft.
SELECT unguarded('INSERT INTO parts (id, v, row_draft) VALUES (3, 33, NULL)');
SELECT * FROM findings;
SELECT DISTINCT repair FROM check_claims() ORDER BY repair \gexec
SELECT * FROM findings;
SELECT discard_changes();
SELECT id, v FROM parts ORDER BY id;
SELECT * FROM findings;
-- A draft that is closed.
UPDATE parts SET v = 4 WHERE id = 1;
DELETE FROM rowclaim.draft WHERE actor = 'alice';
SELECT * FROM findings;
SELECT DISTINCT repair FROM check_claims() ORDER BY repair \gexec
SELECT * FROM findings;
SELECT id, v FROM parts WHERE id = 1;
SELECT key, op, base, mine, cause, reason FROM rowclaim.stashes WHERE target = 'parts'::regclass ORDER BY id;
-- A new row of such a draft is gone again, a deleted one is back, and one that had moved has its key.
INSERT INTO parts VALUES (20, 20);
SELECT status FROM claim_rows('parts', ARRAY[5, 6]);
DELETE FROM parts WHERE id = 5;
UPDATE parts SET id = 21 WHERE id = 6;
DELETE FROM rowclaim.draft WHERE actor = 'alice';
SELECT * FROM findings;
SELECT DISTINCT repair FROM check_claims() ORDER BY repair \gexec
SELECT * FROM findings;
SELECT id, v, row_owner, row_draft IS NULL AS clean FROM parts WHERE id IN (5, 6, 20, 21) ORDER BY id;
SELECT release_rows('parts');
-- Keys that no row can have.
INSERT INTO rowclaim.claim (relid, key, owner, token, claimed_at)
    SELECT 'parts'::regclass, key, 'mallory', 1, '2026-01-01' FROM unnest('{"{\"id\":\"x\"}","{\"no\":1}",nonsense,"{\"id\":99999999999}"}'::text[]) key;
INSERT INTO rowclaim.draft_row (relid, key, draft, op, base, base_version, leaf) VALUES ('parts'::regclass, '[]', 1, 'u', '{"id":1}', 1, 'parts'::regclass);
SELECT * FROM check_claims('parts');
SELECT DISTINCT repair FROM check_claims('parts') ORDER BY repair \gexec
SELECT * FROM findings;
-- In partitions and under several key columns.
SET rowclaim.enforce = off;
ALTER TABLE readings DISABLE TRIGGER USER;
UPDATE readings SET row_owner = 'mallory';
ALTER TABLE readings ENABLE TRIGGER USER;
RESET rowclaim.enforce;
SELECT * FROM check_claims('readings');
SELECT DISTINCT repair FROM check_claims() ORDER BY repair \gexec
SELECT * FROM findings;

-- What belongs to no table.
ALTER EVENT TRIGGER rowclaim_drop DISABLE;
ALTER EVENT TRIGGER rowclaim_ddl_end ENABLE;
ALTER TABLE rowclaim.journal DISABLE TRIGGER receive;
SELECT * FROM check_claims();
SELECT DISTINCT repair FROM check_claims() ORDER BY repair \gexec
SELECT * FROM check_claims();
CREATE VIEW watch AS
    SELECT evtname, evtevent::text, evttags, evtenabled, evtfoid::regproc FROM pg_event_trigger
    UNION ALL SELECT tgname, pg_get_triggerdef(oid), NULL, tgenabled, tgfoid FROM pg_trigger WHERE tgrelid IN ('rowclaim.journal'::regclass, 'rowclaim.published_claim'::regclass);
CREATE TABLE watch_before AS SELECT * FROM watch;
ALTER EXTENSION rowclaim DROP EVENT TRIGGER rowclaim_drop;
ALTER EXTENSION rowclaim DROP EVENT TRIGGER rowclaim_ddl_end;
DROP EVENT TRIGGER rowclaim_drop;
DROP EVENT TRIGGER rowclaim_ddl_end;
DROP TRIGGER receive ON rowclaim.journal;
DROP TRIGGER receive ON rowclaim.published_claim;
DROP TRIGGER forget ON rowclaim.published_claim;
SELECT * FROM check_claims();
SELECT DISTINCT repair FROM check_claims() ORDER BY repair \gexec
SELECT * FROM check_claims();
-- As it was, to the letter.
(SELECT * FROM watch_before EXCEPT SELECT * FROM watch) UNION ALL (SELECT * FROM watch EXCEPT SELECT * FROM watch_before);
SELECT create_journal_publication('published') \g /dev/null
ALTER TABLE rowclaim.claim DISABLE TRIGGER publish_update;
SELECT * FROM check_claims();
SELECT DISTINCT repair FROM check_claims() ORDER BY repair \gexec
SELECT * FROM check_claims();
DROP PUBLICATION published;

-- Sequences that are behind what they have given.
SELECT status FROM claim_rows('parts', ARRAY[7, 8]);
UPDATE parts SET v = 7 WHERE id = 7;
SELECT commit_changes();
UPDATE parts SET v = 8 WHERE id = 8;
SELECT status FROM steal_row('parts', 8);
SET rowclaim.actor = 'bob';
SELECT status FROM steal_row('parts', 8);
SET rowclaim.actor = 'alice';
UPDATE parts SET v = 9 WHERE id = 7;
SELECT create_journal('other');
SELECT setval('rowclaim.token_seq', 1), setval('rowclaim.draft_id_seq', 1),
    setval('rowclaim.stash_id_seq', 1, false), setval('rowclaim.journal_config_id_seq', 1) \g /dev/null
SELECT regexp_replace(problem, '\d+', 'N', 'g') AS problem, regexp_replace(repair, '\d+', 'N', 'g') AS repair FROM check_claims();
DO $$ DECLARE command text; BEGIN FOR command IN SELECT repair FROM check_claims() LOOP EXECUTE command; END LOOP; END $$;
SELECT * FROM check_claims();
SELECT commit_changes();
SET rowclaim.actor = 'bob';
SELECT status, token > (SELECT max(token) FROM rowclaim.claims WHERE mine IS FALSE) AS larger FROM claim_row('parts', 6);
SELECT release_rows();
SET rowclaim.actor = 'alice';

-- A journal that is gone, a name that is not noted.
UPDATE rowclaim.enabled_table SET journal = 'lost' WHERE relid = 'counted'::regclass;
DELETE FROM rowclaim.journaled_table WHERE name = 'public.readings';
SELECT * FROM check_claims();
DO $$ DECLARE command text; BEGIN FOR command IN SELECT repair FROM check_claims() LOOP EXECUTE command; END LOOP; END $$;
SELECT * FROM check_claims();

-- An owner sees his own tables and can repair them; keys of others are not shown.
CREATE ROLE regress_check_owner;
CREATE ROLE regress_check_other;
ALTER TABLE parts OWNER TO regress_check_owner;
SELECT unguarded('UPDATE parts SET row_owner = ''mallory'' WHERE id = 5');
ALTER EVENT TRIGGER rowclaim_drop DISABLE;
SELECT problem FROM check_claims();
SET ROLE regress_check_other;
SELECT * FROM check_claims();
SELECT * FROM check_claims('parts');
\echo :LAST_ERROR_SQLSTATE
SELECT rowclaim.repair_row('public.parts', '{"id":5}');
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM rowclaim.owned_rows('parts');
SELECT * FROM rowclaim.check_for('postgres', NULL);
SET ROLE regress_check_owner;
SELECT * FROM check_claims();
SELECT repair FROM check_claims() \gexec
SELECT * FROM check_claims();
RESET ROLE;
SELECT repair FROM check_claims() \gexec
SELECT * FROM check_claims();
ALTER TABLE parts OWNER TO CURRENT_USER;
DROP ROLE regress_check_owner, regress_check_other;
-- What cannot be checked or repaired.
CREATE TABLE plain (id int PRIMARY KEY);
SELECT * FROM check_claims('plain');
\echo :LAST_ERROR_SQLSTATE
SELECT rowclaim.repair_row('plain', '{"id":5}');
SELECT rowclaim.repair_row('parts', '{"no":5}');
SELECT rowclaim.repair_row('parts', NULL);
SELECT rowclaim.repair_row('parts', '{"id":404}');
BEGIN READ ONLY;
SELECT * FROM check_claims();
ROLLBACK;

-- Tables that are gone, tables that are not enabled any more.
SELECT count(*) > 0 AS claims FROM rowclaim.claims WHERE target = 'parts'::regclass;
SELECT unwatched('DROP TABLE parts');
DELETE FROM rowclaim.enabled_table WHERE relid = 'counted'::regclass;
SELECT regexp_replace(problem, '\d+', 'N') AS problem, regexp_replace(repair, '\d+', 'OID') AS repair FROM check_claims();
DO $$ DECLARE command text; BEGIN FOR command IN SELECT repair FROM check_claims() LOOP EXECUTE command; END LOOP; END $$;
SELECT * FROM check_claims();
SELECT (SELECT count(*) FROM rowclaim.claim) AS claims, (SELECT count(*) FROM rowclaim.stash) AS stashes, (SELECT count(*) FROM rowclaim.enabled_table) AS tables;
