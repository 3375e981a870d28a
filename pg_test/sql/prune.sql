-- prune_journal(): by number, by age, as text, dry run; what consumers and baselines keep. See t/prune.pl for replication.
CREATE EXTENSION rowclaim;
CREATE ROLE regress_prune_alice;
-- What a statement is refused with.
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
    RETURN QUERY SELECT line FROM unnest(ARRAY[code || ': ' || message, detail, 'hint: ' || nullif(hint, '')]) line WHERE line <> '';
END $$;
SET client_min_messages = error;
\pset format unaligned
\pset footer off
\pset null <null>

CREATE TABLE parts (id int PRIMARY KEY, qty int);
GRANT ALL ON parts TO PUBLIC;
SELECT enable_claims('parts', 'auto');
CREATE FUNCTION commits(how_many int) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    seq bigint;
BEGIN
    FOR i IN 1 .. how_many LOOP
        INSERT INTO parts SELECT coalesce(max(id), 0) + 1, i FROM parts;
        seq := commit_changes();
    END LOOP;
    RETURN seq;
END $$;
-- What is there: entries in order, how many parts of each.
CREATE FUNCTION entries(journal text DEFAULT 'main') RETURNS text LANGUAGE sql AS $$
    SELECT string_agg(seq || CASE kind WHEN 'changeset' THEN '' ELSE ' ' || kind END || CASE WHEN count > 1 THEN ' x' || count ELSE '' END
        || CASE WHEN count <> parts THEN ' damaged' ELSE '' END, ', ' ORDER BY seq)
    FROM (SELECT seq, kind, parts, count(*) FROM rowclaim.journal j WHERE j.journal = entries.journal GROUP BY seq, kind, parts) e $$;

-- an empty journal
SELECT * FROM prune_journal('main', 100);
SELECT commits(4);
BEGIN;
SELECT commits(1);
ROLLBACK;
SELECT commits(3);
INSERT INTO parts SELECT generate_series(1001, 3500);
SELECT commit_changes('three parts');
SELECT commits(2);
SELECT entries();

-- a dry run says what would happen, and nothing does
SELECT * FROM prune_journal('main', keep => 4, dry_run => true);
SELECT * FROM prune_journal('main', keep => 100, dry_run => true);
SELECT entries(), rowclaim.stable_seq('main');
-- nothing to do
SELECT * FROM prune_journal('main', 1);
SELECT * FROM prune_journal('main', 0);
SELECT * FROM prune_journal('main', -3);
SELECT entries();
-- a seal tells those who come later where the journal begins
SELECT * FROM prune_journal('main', 4);
SELECT entries(), rowclaim.stable_seq('main');
SELECT changes -> 0 ->> 'from' AS "from", changes -> 0 ->> 'to' AS "to" FROM rowclaim.journal WHERE kind = 'seal';
SELECT * FROM verify_journal();
-- the same again, and less than before
SELECT * FROM prune_journal('main', 4);
SELECT * FROM prune_journal('main', 2);
-- the void, then the entry of three parts, each as a whole
SELECT * FROM prune_journal('main', 6);
SELECT * FROM prune_journal('main', 9);
SELECT entries();
SELECT * FROM prune_journal('main', 10);
SELECT entries(), rowclaim.stable_seq('main');
SELECT * FROM verify_journal();
-- what is gone is gone from the views
SELECT min(seq), max(seq), count(*) FROM rowclaim.changesets;
SELECT min(seq), count(*) FROM rowclaim.changes;
SELECT seq FROM pull_changes('late') ORDER BY seq;
-- tampering is noticed as before
BEGIN; UPDATE rowclaim.journal SET actor = 'mallory' WHERE seq = 11; SELECT * FROM verify_journal(); ROLLBACK;
BEGIN; DELETE FROM rowclaim.journal WHERE seq = 10; SELECT * FROM verify_journal(); ROLLBACK;
BEGIN; DELETE FROM rowclaim.journal WHERE seq = 13; SELECT * FROM verify_journal(); ROLLBACK;
-- work goes on
SELECT commits(2), seal_journal() > 0 AS sealed;
SELECT ack_changes('late', 11);
SELECT seq FROM pull_changes('late') ORDER BY seq;
SELECT * FROM verify_journal();

-- a consumer keeps what it has not acknowledged
SELECT * FROM prune_journal('main', 100, dry_run => true);
SELECT consumer, position FROM rowclaim.consumers;
SELECT * FROM prune_journal('main', 100);
SELECT seq FROM pull_changes('late') ORDER BY seq;
SELECT count(*) FROM pull_changes('it''s "another"');
SELECT ack_changes('late', 15);
-- the one that is behind most; one at the beginning keeps everything there is
SELECT * FROM prune_journal('main', 100);
SELECT ack_changes('it''s "another"', 14);
SELECT * FROM prune_journal('main', 13);
SELECT entries();
SELECT * FROM prune_journal('main', 100);
SELECT entries();
-- of the journal in question
SELECT create_journal('second');
SELECT count(*) FROM pull_changes('late', 'second');
SELECT ack_changes('late', rowclaim.stable_seq('main')), ack_changes('it''s "another"', rowclaim.stable_seq('main'));
-- everything: what remains is the seal over it
SELECT commits(2);
SELECT ack_changes('late', rowclaim.stable_seq('main')), ack_changes('it''s "another"', rowclaim.stable_seq('main'));
SELECT * FROM prune_journal('main', 100);
SELECT entries(), rowclaim.stable_seq('main');
SELECT * FROM verify_journal();
SELECT commits(1), entries();
SELECT seq FROM pull_changes('late');
SELECT seal_journal() > 0 AS sealed;
SELECT * FROM verify_journal();

-- the last baseline of an enabled table stays, with what follows it
CREATE TABLE boxes (id int PRIMARY KEY);
INSERT INTO boxes SELECT generate_series(1, 1500);
SELECT enable_claims('boxes', 'auto');
SELECT ack_changes('late', rowclaim.stable_seq('main')), ack_changes('it''s "another"', rowclaim.stable_seq('main'));
SELECT baseline_table('boxes') AS first \gset
SELECT commits(2), baseline_table('parts') AS parts_too;
SELECT commits(1), baseline_table('boxes') AS last;
SELECT ack_changes('late', rowclaim.stable_seq('main')), ack_changes('it''s "another"', rowclaim.stable_seq('main'));
SELECT pruned_seq - :first AS after_the_first, limited_by FROM prune_journal('main', 1000000);
SELECT entries();
SELECT commits(1), baseline_table('parts') AS parts_again;
SELECT ack_changes('late', rowclaim.stable_seq('main')), ack_changes('it''s "another"', rowclaim.stable_seq('main'));
SELECT limited_by FROM prune_journal('main', 1000000);
SELECT entries();
-- but not that of a table that is gone or no longer enabled
SELECT disable_claims('boxes');
-- who has none is worth a warning
CREATE TABLE crates (id int PRIMARY KEY);
SELECT enable_claims('crates', 'auto');
SET client_min_messages = warning;
SELECT limited_by FROM prune_journal('main', 1000000, true);
SELECT limited_by FROM prune_journal('main', 1000000);
SET client_min_messages = error;
DROP TABLE crates;
SELECT limited_by FROM prune_journal('main', 1000000);
DROP TABLE parts CASCADE;
SELECT limited_by FROM prune_journal('main', 1000000);
SELECT entries();
SELECT * FROM verify_journal();
-- by age
CREATE TABLE parts (id int PRIMARY KEY, qty int);
SELECT create_journal('aged');
SELECT enable_claims('parts', 'auto', journal => 'aged');
-- As docs/journal-format.md has it.
CREATE FUNCTION hash_of(j rowclaim.journal) RETURNS bytea LANGUAGE sql AS $$
    SELECT sha256(convert_to(format('[%s,%s,1,1,%s,%s,null,"%s",null,%s]', to_json(j.journal), j.seq, to_json(j.kind), to_json(j.actor), j.xid,
        (extract(epoch FROM j.committed_at - timestamptz '2000-01-01 00:00+00') * 1000000)::bigint) || E'\n' || j.changes, 'UTF8')) $$;
CREATE FUNCTION aged_commit(age interval) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    entry bigint;
BEGIN
    INSERT INTO parts SELECT coalesce(max(id), 0) + 1 FROM parts;
    entry := commit_changes(journal => 'aged');
    UPDATE rowclaim.journal j SET committed_at = j.committed_at - age WHERE j.journal = 'aged' AND j.seq = entry;
    UPDATE rowclaim.journal j SET hash = hash_of(j) WHERE j.journal = 'aged' AND j.seq = entry;
    RETURN entry;
END $$;
SELECT aged_commit(a) FROM unnest('{90 days,60 days,31 days,32 days,10 days,0}'::interval[]) a;
SELECT * FROM verify_journal('aged');
SELECT * FROM prune_journal('aged', interval '100 days');
SELECT * FROM prune_journal('aged', interval '61 days', true);
SELECT * FROM prune_journal('aged', interval '61 days');
-- 4 is older than 31.5 days, but 3 before it is not
SELECT * FROM prune_journal('aged', '31.5 days', true);
SELECT * FROM prune_journal('aged', keep => '30 days');
SELECT entries('aged');
SELECT * FROM verify_journal('aged');
SELECT entries FROM prune_journal('aged', '0 days');
SELECT * FROM verify_journal('aged');
-- numbers as text
SELECT aged_commit('0'), aged_commit('0');
SELECT * FROM prune_journal('aged', '10', true);
SELECT * FROM prune_journal('aged', ' 10 ', true);
SELECT * FROM prune_journal('aged', '10'::text, true);
PREPARE pruning AS SELECT * FROM prune_journal('aged', $1, true);
EXECUTE pruning('10');
EXECUTE pruning('1 year');

-- within a transaction, rolled back
BEGIN;
SELECT aged_commit('0');
SELECT * FROM prune_journal('aged', 11);
SELECT entries('aged');
ROLLBACK;
SELECT entries('aged'), rowclaim.stable_seq('aged');
BEGIN;
SELECT aged_commit('0');
SELECT * FROM prune_journal('aged', 11);
SELECT aged_commit('0');
COMMIT;
SELECT entries('aged'), rowclaim.stable_seq('aged');
SELECT * FROM verify_journal('aged');

-- more than one step
SELECT create_journal('long');
INSERT INTO rowclaim.journal SELECT 'long', g, 1, 1, 'void', '', NULL, '3', NULL, clock_timestamp(), '[]', '' FROM generate_series(1, 250000) g;
UPDATE rowclaim.journal j SET hash = hash_of(j) WHERE j.journal = 'long';
SET client_min_messages = notice;
SELECT * FROM prune_journal('long', 249999);
SET client_min_messages = error;
SELECT entries('long');

-- refusals
SELECT * FROM refused('SELECT prune_journal(''none'', 1)');
SELECT * FROM refused('SELECT prune_journal(''none'', interval ''1 day'')');
SELECT * FROM refused('SELECT prune_journal(NULL, 1)');
SELECT * FROM refused('SELECT prune_journal(''main'', NULL)');
SELECT * FROM refused('SELECT prune_journal(''main'', NULL::bigint)');
SELECT * FROM refused('SELECT prune_journal(''main'', NULL::interval)');
SELECT * FROM refused('SELECT prune_journal(''main'', '''')');
SELECT * FROM refused('SELECT prune_journal(''main'', ''everything'')');
SELECT * FROM refused('SELECT prune_journal(''main'', ''99999999999999999999'')');
SELECT * FROM refused('SELECT prune_journal(''main'', ''-1 day'')');
SELECT * FROM refused('SELECT prune_journal(''main'', interval ''-1 day'')');
SELECT * FROM refused('SELECT prune_journal(''main'', 1, NULL)');
SELECT * FROM refused('SELECT prune_journal(''main'')');
BEGIN READ ONLY;
SELECT * FROM refused('SELECT prune_journal(''aged'', 13)');
COMMIT;
-- the DBA only, or by grant
SET SESSION AUTHORIZATION regress_prune_alice;
SELECT * FROM refused('SELECT prune_journal(''aged'', 1)');
SELECT * FROM refused('SELECT prune_journal(''aged'', ''1 day'')');
SELECT * FROM refused('SELECT prune_journal(''aged'', interval ''1 day'')');
RESET SESSION AUTHORIZATION;
GRANT EXECUTE ON FUNCTION prune_journal(text, text, boolean) TO regress_prune_alice;
SET SESSION AUTHORIZATION regress_prune_alice;
SELECT entries FROM prune_journal('aged', '12');
SELECT * FROM refused('SELECT prune_journal(''aged'', 12)');
SELECT * FROM refused('DELETE FROM rowclaim.journal');
RESET SESSION AUTHORIZATION;
SELECT * FROM verify_journal('aged');
DROP OWNED BY regress_prune_alice;
DROP ROLE regress_prune_alice;
