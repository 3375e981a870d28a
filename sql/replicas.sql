-- The journal on its way: publications, replay on replicas, baselines, pruning.

-- Receiving -------------------------------------------------------------------------------------

CREATE FUNCTION rowclaim.receive_entry() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'rowclaim_receive';
COMMENT ON FUNCTION rowclaim.receive_entry() IS
    'On a replica: applies entries in the order of their numbers, and ignores those that have arrived before.';
CREATE TRIGGER receive BEFORE INSERT ON rowclaim.journal
    FOR EACH ROW EXECUTE FUNCTION rowclaim.receive_entry();
ALTER TABLE rowclaim.journal ENABLE REPLICA TRIGGER receive;

-- Starts the replay of a journal if its beginning is here: entry 1, or the entry after those that were pruned.
CREATE FUNCTION rowclaim.start_replay(journal text) RETURNS boolean
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    config rowclaim.journal_config;
    first  bigint;
BEGIN
    SELECT * INTO config FROM rowclaim.journal_config c WHERE c.name = start_replay.journal;
    IF pg_catalog.pg_sequence_last_value(pg_catalog.to_regclass('rowclaim.journal_' || config.id || '_seq')) IS NOT NULL THEN
        RAISE EXCEPTION 'journal % has changesets of this database and cannot be replayed here', start_replay.journal
            USING ERRCODE = 'object_in_use',
                  DETAIL = pg_catalog.json_build_object('reason', 'operation_refused', 'journal', start_replay.journal),
                  HINT = 'Subscribe in another database, or commit to journals of other names in one of the two.';
    END IF;
    first := rowclaim.first_seq(start_replay.journal);
    INSERT INTO rowclaim.journal_config (name) VALUES (start_replay.journal) ON CONFLICT DO NOTHING;
    INSERT INTO rowclaim.replay_state (journal) VALUES (start_replay.journal) ON CONFLICT DO NOTHING;
    -- Pruning leaves a seal that says so.
    IF first - 1 > rowclaim.pruned_seq(start_replay.journal) THEN
        RETURN false;
    END IF;
    UPDATE rowclaim.replay_state p
    SET started = true, checkpoint = first - 1, skips = (
            SELECT pg_catalog.jsonb_object_agg(b.target, b.seq)
            FROM (SELECT j.changes -> 0 ->> 'table' AS target, pg_catalog.max(j.seq) AS seq FROM rowclaim.journal j
                  WHERE j.journal = start_replay.journal AND j.kind = 'baseline' AND j.part = 1 GROUP BY 1) b)
    WHERE p.journal = start_replay.journal;
    RETURN true;
END $$;

CREATE FUNCTION rowclaim.note_failure(journal text, seq bigint, target text, key text, message text) RETURNS void
    LANGUAGE sql SET search_path = pg_catalog, pg_temp
    BEGIN ATOMIC
        INSERT INTO rowclaim.replay_failure AS f (journal, seq, target, key, message, failed_at, attempts)
        VALUES (note_failure.journal, note_failure.seq, note_failure.target, note_failure.key, note_failure.message,
                pg_catalog.clock_timestamp(), 1)
        ON CONFLICT ON CONSTRAINT replay_failure_pkey DO UPDATE
        SET seq = excluded.seq, target = excluded.target, key = excluded.key, message = excluded.message,
            failed_at = excluded.failed_at,
            attempts = CASE WHEN f.seq = excluded.seq THEN f.attempts + 1 ELSE 1 END;
    END;

-- The void entry of a commit that failed after drawing its number, unless somebody was faster.
CREATE FUNCTION rowclaim.write_void(journal_id int, seq bigint) RETURNS void
    LANGUAGE c AS 'MODULE_PATHNAME', 'rowclaim_write_void';
COMMENT ON FUNCTION rowclaim.write_void(int, bigint) IS 'Accounts for a number whose commit has failed.';

CREATE FUNCTION rowclaim.recover() RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    LOCK TABLE rowclaim.recovered IN EXCLUSIVE MODE;
    IF EXISTS (SELECT FROM rowclaim.recovered r WHERE r.server_start = rowclaim.server_start()) THEN
        RETURN;
    END IF;
    -- One snapshot tells that a journal has a gap and is not replayed here.
    PERFORM rowclaim.fill_gaps(c.name) FROM rowclaim.journal_config c
    WHERE NOT EXISTS (SELECT FROM rowclaim.replay_state r WHERE r.journal = c.name)
      AND EXISTS (SELECT FROM rowclaim.journal j WHERE j.journal = c.name AND j.seq > rowclaim.stable_seq(c.name));
    DELETE FROM rowclaim.recovered;
    INSERT INTO rowclaim.recovered VALUES (rowclaim.server_start());
END $$;
COMMENT ON FUNCTION rowclaim.recover() IS
    'Once after each start or crash of the server: accounts for the numbers that were in flight.';

-- What has arrived without a gap after the checkpoint has been applied, in the transaction that brought it.
CREATE FUNCTION rowclaim.applied_seq(journal text) RETURNS bigint
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    BEGIN ATOMIC
        WITH RECURSIVE applied AS (
            SELECT r.checkpoint AS seq FROM rowclaim.replay_state r WHERE r.journal = applied_seq.journal AND r.started
            UNION ALL
            -- One by one: the journal may be long, and the checkpoint is near.
            SELECT a.seq + 1 FROM applied a
            WHERE (SELECT pg_catalog.count(*) = pg_catalog.max(j.parts) FROM rowclaim.journal j
                   WHERE j.journal = applied_seq.journal AND j.seq = a.seq + 1)
        )
        SELECT pg_catalog.max(a.seq) FROM applied a;
    END;
CREATE VIEW rowclaim.replay_position AS
    SELECT s.journal, rowclaim.applied_seq(s.journal) AS applied_seq FROM rowclaim.replay_state s;
COMMENT ON VIEW rowclaim.replay_position IS 'On a replica: how far each journal has been applied; NULL: its beginning has not arrived.';

CREATE VIEW rowclaim.replay AS
    SELECT journal, r.received_seq, p.applied_seq,
           (SELECT j.committed_at FROM rowclaim.journal j
            WHERE j.journal = p.journal AND j.seq = p.applied_seq AND j.part = 1) AS applied_committed_at,
           CASE WHEN r.received_seq > coalesce(p.applied_seq, 0) THEN coalesce(p.applied_seq, 0) + 1 END AS missing_seq,
           r.waiting, f.seq AS failing_seq, f.target AS failing_target, f.key::jsonb AS failing_key, f.message AS failure,
           f.failed_at, f.attempts, coalesce(s.overwritten, 0) AS overwritten, coalesce(s.skipped, 0) AS skipped
    FROM (SELECT p.*, coalesce(p.applied_seq, 0) AS upto FROM rowclaim.replay_position p) p
    JOIN rowclaim.replay_state s USING (journal)
    FULL JOIN (SELECT * FROM rowclaim.replay_failure f
               WHERE pg_catalog.has_table_privilege(rowclaim.table_named(f.target), 'SELECT') IS NOT FALSE
                 AND NOT EXISTS (SELECT FROM rowclaim.journal j WHERE j.journal = f.journal AND j.seq = f.seq AND j.part = 1)) f
        USING (journal)
    CROSS JOIN LATERAL (
        SELECT pg_catalog.max(j.seq) AS received_seq,
               pg_catalog.count(*) FILTER (WHERE j.part = 1 AND j.seq > coalesce(p.upto, 0)) AS waiting
        FROM rowclaim.journal j WHERE j.journal = coalesce(p.journal, f.journal) AND j.seq >= coalesce(p.upto, 0)) r;
COMMENT ON VIEW rowclaim.replay IS
    'On a replica: how far each journal has been received and applied, and what it waits for or fails at.';
GRANT SELECT ON rowclaim.replay, rowclaim.replay_position TO PUBLIC;

CREATE FUNCTION wait_for_changeset(seq bigint, journal text DEFAULT 'main', timeout interval DEFAULT NULL) RETURNS boolean
    LANGUAGE c AS 'MODULE_PATHNAME', 'rowclaim_wait_for_changeset';
COMMENT ON FUNCTION wait_for_changeset(bigint, text, interval) IS
    'Waits until the journal has been applied up to this changeset: true, or false after the timeout.';

-- Claims ----------------------------------------------------------------------------------------

-- On the source: what changed in rowclaim.claim, as inserts into published_claim, which holds the present claims.
CREATE FUNCTION rowclaim.publish_claims() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP <> 'INSERT' THEN
        -- Claims that are gone from where they were.
        WITH gone AS (
            DELETE FROM rowclaim.published_claim p USING old_claims o
            WHERE p.relid = o.relid AND p.key = o.key RETURNING p.*
        )
        INSERT INTO rowclaim.published_claim (journal, relid, target, key)
        SELECT g.journal, g.relid, g.target, g.key FROM gone g
        WHERE NOT EXISTS (SELECT FROM rowclaim.claim c WHERE c.relid = g.relid AND c.key = g.key);
        -- The publication has it; it need not stay.
        DELETE FROM rowclaim.published_claim p USING old_claims o
        WHERE p.relid = o.relid AND p.key = o.key AND p.owner IS NULL;
    END IF;
    IF TG_OP <> 'DELETE' THEN
        INSERT INTO rowclaim.published_claim (journal, relid, target, key, owner, token, claimed_at, expires_at, reason)
        SELECT t.journal, c.relid, c.relid::text, c.key, c.owner, c.token, c.claimed_at, c.expires_at, c.reason
        FROM new_claims c JOIN rowclaim.enabled_table t ON t.relid = c.relid
        -- Claims on tables of a journal that is replayed here are nobody else's business.
        WHERE NOT EXISTS (SELECT FROM rowclaim.replay_state p WHERE p.journal = t.journal);
    END IF;
    RETURN NULL;
END $$;

-- On a replica: the last word on a row replaces the ones before, a new copy all of them.
CREATE FUNCTION rowclaim.receive_claim() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM rowclaim.published_claim p
    WHERE p.journal = NEW.journal AND p.relid IS NULL
      AND (p.id = NEW.id OR (p.target = NEW.target AND p.key = NEW.key AND p.id < NEW.id));
    -- The first row of a journal in a copy; the name of the setting is nobody else's.
    IF EXISTS (SELECT FROM pg_catalog.pg_stat_get_subscription(NULL) s WHERE s.pid = pg_catalog.pg_backend_pid() AND s.relid IS NOT NULL)
       AND pg_catalog.strpos(coalesce(pg_catalog.current_setting('rowclaim_copied.journals', true), ''), pg_catalog.quote_literal(NEW.journal)) = 0 THEN
        DELETE FROM rowclaim.published_claim p WHERE p.journal = NEW.journal AND p.relid IS NULL;
        PERFORM pg_catalog.set_config('rowclaim_copied.journals',
            coalesce(pg_catalog.current_setting('rowclaim_copied.journals', true), '') || pg_catalog.quote_literal(NEW.journal), true);
    END IF;
    RETURN NEW;
END $$;
CREATE FUNCTION rowclaim.forget_claim() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM rowclaim.published_claim p WHERE p.journal = NEW.journal AND p.id = NEW.id AND p.relid IS NULL;
    RETURN NULL;
END $$;
CREATE TRIGGER receive BEFORE INSERT ON rowclaim.published_claim
    FOR EACH ROW EXECUTE FUNCTION rowclaim.receive_claim();
CREATE TRIGGER forget AFTER INSERT ON rowclaim.published_claim
    FOR EACH ROW WHEN (NEW.owner IS NULL) EXECUTE FUNCTION rowclaim.forget_claim();
ALTER TABLE rowclaim.published_claim ENABLE REPLICA TRIGGER receive, ENABLE REPLICA TRIGGER forget;

-- From the first publication on, claims are published; before, they cost nothing more.
CREATE FUNCTION rowclaim.start_publishing_claims() RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    LOCK TABLE rowclaim.claim IN SHARE ROW EXCLUSIVE MODE;
    IF EXISTS (SELECT FROM pg_catalog.pg_trigger g WHERE g.tgrelid = 'rowclaim.claim'::regclass AND g.tgname = 'publish_insert') THEN
        RETURN;
    END IF;
    CREATE TRIGGER publish_insert AFTER INSERT ON rowclaim.claim
        REFERENCING NEW TABLE AS new_claims FOR EACH STATEMENT EXECUTE FUNCTION rowclaim.publish_claims();
    CREATE TRIGGER publish_update AFTER UPDATE ON rowclaim.claim
        REFERENCING OLD TABLE AS old_claims NEW TABLE AS new_claims FOR EACH STATEMENT EXECUTE FUNCTION rowclaim.publish_claims();
    CREATE TRIGGER publish_delete AFTER DELETE ON rowclaim.claim
        REFERENCING OLD TABLE AS old_claims FOR EACH STATEMENT EXECUTE FUNCTION rowclaim.publish_claims();
    ALTER TABLE rowclaim.claim ENABLE ALWAYS TRIGGER publish_insert, ENABLE ALWAYS TRIGGER publish_update,
        ENABLE ALWAYS TRIGGER publish_delete;
    INSERT INTO rowclaim.published_claim (journal, relid, target, key, owner, token, claimed_at, expires_at, reason)
    SELECT t.journal, c.relid, c.relid::text, c.key, c.owner, c.token, c.claimed_at, c.expires_at, c.reason
    FROM rowclaim.claim c JOIN rowclaim.enabled_table t ON t.relid = c.relid
    WHERE NOT EXISTS (SELECT FROM rowclaim.replay_state p WHERE p.journal = t.journal) ORDER BY c.token;
END $$;

-- Publishing ------------------------------------------------------------------------------------

CREATE FUNCTION create_journal_publication(name text, journals text[] DEFAULT NULL) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    unknown text;
    filter  text := '';
BEGIN
    IF name IS NULL OR name = '' THEN
        RAISE EXCEPTION 'a publication needs a name'
            USING ERRCODE = 'invalid_parameter_value',
                  DETAIL = '{"reason":"invalid_parameter","parameter":"name"}',
                  HINT = 'Name it as CREATE PUBLICATION would.';
    END IF;
    IF journals = '{}' OR pg_catalog.array_position(journals, NULL) IS NOT NULL THEN
        RAISE EXCEPTION 'journals is a list of journal names, or NULL for all'
            USING ERRCODE = 'invalid_parameter_value',
                  DETAIL = '{"reason":"invalid_parameter","parameter":"journals"}',
                  HINT = 'See rowclaim.journal_config for the journals there are.';
    END IF;
    SELECT j INTO unknown FROM pg_catalog.unnest(journals) j
    WHERE NOT EXISTS (SELECT FROM rowclaim.journal_config c WHERE c.name = j);
    IF FOUND THEN
        RAISE EXCEPTION 'there is no journal %', unknown
            USING ERRCODE = 'invalid_parameter_value',
                  DETAIL = '{"reason":"invalid_parameter","parameter":"journals"}',
                  HINT = 'Create it with create_journal().';
    END IF;
    PERFORM rowclaim.start_publishing_claims();
    IF journals IS NOT NULL THEN
        filter := pg_catalog.format(' WHERE (journal = ANY (%L::text[]))', journals);
    END IF;
    EXECUTE pg_catalog.format(
        'CREATE PUBLICATION %I FOR TABLE rowclaim.journal%s, '
        'rowclaim.published_claim (journal, id, target, key, owner, token, claimed_at, expires_at, reason)%2$s '
        'WITH (publish = ''insert'')', name, filter);
END $$;
COMMENT ON FUNCTION create_journal_publication(text, text[]) IS
    'Creates a publication of some or all journals, and of the claims on their tables.';

CREATE FUNCTION baseline_table(target regclass) RETURNS bigint
    LANGUAGE c AS 'MODULE_PATHNAME', 'rowclaim_baseline_table';
COMMENT ON FUNCTION baseline_table(regclass) IS
    'Writes the committed state of a table into its journal, for replicas that start later; its seq.';

-- Pruning ---------------------------------------------------------------------------------------

-- What must stay: the number from which on entries are needed, and by whom.
CREATE FUNCTION rowclaim.prune_limits(journal text) RETURNS TABLE (seq bigint, needed_by text)
    LANGUAGE sql SET search_path = pg_catalog, pg_temp
    BEGIN ATOMIC
        SELECT c.acked_seq + 1, 'consumer ' || c.name FROM rowclaim.consumer c WHERE c.journal = prune_limits.journal
        UNION ALL
        SELECT pg_catalog.max(j.seq), 'baseline of ' || (j.changes -> 0 ->> 'table')
        FROM rowclaim.journal j
        WHERE j.journal = prune_limits.journal AND j.kind = 'baseline' AND j.part = 1
          AND EXISTS (SELECT FROM rowclaim.enabled_table t
                      WHERE t.journal = prune_limits.journal AND t.relid = pg_catalog.to_regclass(j.changes -> 0 ->> 'table'))
        GROUP BY j.changes -> 0 ->> 'table'
        UNION ALL
        -- A slot may still have to send what was committed by transactions from its catalog_xmin on.
        SELECT pg_catalog.min(j.seq), 'replication slot ' || s.slot_name
        FROM pg_catalog.pg_replication_slots s
        JOIN rowclaim.journal j ON j.journal = prune_limits.journal AND j.part = 1
        CROSS JOIN LATERAL (SELECT pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text::bigint AS next) x
        WHERE s.slot_type = 'logical' AND s.plugin = 'pgoutput' AND s.database = pg_catalog.current_database()
          AND s.wal_status IS DISTINCT FROM 'lost'
          -- Numbers of another life of this database, restored since, say nothing.
          AND j.xid::text::bigint BETWEEN x.next - 2000000000 AND x.next
          AND pg_catalog.age(j.xid::xid) <= pg_catalog.age(s.catalog_xmin)
        GROUP BY s.slot_name
        UNION ALL
        SELECT coalesce(p.applied_seq, 0) + 1, 'replay' FROM rowclaim.replay_position p WHERE p.journal = prune_limits.journal;
    END;

CREATE FUNCTION rowclaim.prune(journal text, keep_from bigint, wanted_by text, dry_run boolean,
    OUT pruned_seq bigint, OUT entries bigint, OUT limited_by text)
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    pruned bigint  := coalesce(rowclaim.pruned_seq(prune.journal), 0);
    ours   boolean := NOT EXISTS (SELECT FROM rowclaim.replay_state p WHERE p.journal = prune.journal);
    upto   bigint;
    step   bigint;
    uncovered text;
BEGIN
    IF NOT EXISTS (SELECT FROM rowclaim.journal_config c WHERE c.name = prune.journal) THEN
        RAISE EXCEPTION 'there is no journal %', prune.journal
            USING ERRCODE = 'invalid_parameter_value',
                  DETAIL = '{"reason":"invalid_parameter","parameter":"journal"}',
                  HINT = 'See rowclaim.journal_config for the journals there are.';
    END IF;
    IF dry_run IS NULL THEN
        RAISE EXCEPTION 'dry_run is null'
            USING ERRCODE = 'invalid_parameter_value',
                  DETAIL = '{"reason":"invalid_parameter","parameter":"dry_run"}',
                  HINT = 'Give true to see what would be pruned, false to prune.';
    END IF;
    IF keep_from IS NULL THEN
        RAISE EXCEPTION 'keep says which entries stay: an age or a seq'
            USING ERRCODE = 'invalid_parameter_value',
                  DETAIL = '{"reason":"invalid_parameter","parameter":"keep"}',
                  HINT = 'prune_journal(''main'', keep => ''30 days'') or prune_journal(''main'', keep => 1000).';
    END IF;
    SELECT l.seq, l.needed_by INTO upto, limited_by
    FROM (SELECT prune.keep_from AS seq, prune.wanted_by AS needed_by
          UNION ALL SELECT rowclaim.stable_seq(prune.journal) + 1, 'the last complete entry'
          UNION ALL SELECT p.seq, p.needed_by FROM rowclaim.prune_limits(prune.journal) p) l
    ORDER BY l.seq, l.needed_by <> prune.wanted_by LIMIT 1;
    pruned_seq := greatest(upto - 1, pruned);
    IF NOT ours THEN
        -- A seal tells those who start later where the journal begins; none is made here.
        SELECT coalesce(pg_catalog.max((j.changes -> 0 ->> 'pruned')::bigint), 0) INTO step
        FROM rowclaim.journal j WHERE j.journal = prune.journal AND j.kind = 'seal';
        IF pruned_seq > greatest(step, pruned) THEN
            pruned_seq := greatest(step, pruned);
            limited_by := 'the source, which has pruned up to ' || step;
        END IF;
    END IF;
    SELECT pg_catalog.count(*) INTO entries FROM rowclaim.journal j
    WHERE j.journal = prune.journal AND j.seq <= prune.pruned_seq AND j.part = 1;
    IF dry_run OR entries = 0 THEN
        RETURN;
    END IF;
    FOR uncovered IN
        SELECT t.relid::text FROM rowclaim.enabled_table t
        WHERE t.journal = prune.journal AND NOT EXISTS (
            SELECT FROM rowclaim.journal j
            WHERE j.journal = t.journal AND j.kind = 'baseline' AND j.part = 1 AND j.changes -> 0 ->> 'table' = t.relid::text)
        ORDER BY 1
    LOOP
        RAISE WARNING 'table % has no baseline: who starts to follow journal % from now on lacks its rows', uncovered, prune.journal
            USING HINT = pg_catalog.format('Call baseline_table(%L).', uncovered);
    END LOOP;
    IF ours THEN
        PERFORM rowclaim.seal_pruned(prune.journal, pruned_seq);
    END IF;
    FOR step IN SELECT s FROM pg_catalog.generate_series(pruned, prune.pruned_seq - 1, 100000) s LOOP
        DELETE FROM rowclaim.journal j
        WHERE j.journal = prune.journal AND j.seq > step AND j.seq <= least(step + 100000, prune.pruned_seq);
        IF prune.pruned_seq - pruned > 100000 THEN
            RAISE NOTICE 'pruned journal % up to % of %', prune.journal, least(step + 100000, prune.pruned_seq), prune.pruned_seq;
        END IF;
    END LOOP;
END $$;

CREATE FUNCTION rowclaim.seal_pruned(journal text, pruned bigint) RETURNS bigint
    LANGUAGE c AS 'MODULE_PATHNAME', 'rowclaim_seal_pruned';
COMMENT ON FUNCTION rowclaim.seal_pruned(text, bigint) IS 'Appends a seal which says that entries up to a number are about to go.';

CREATE FUNCTION prune_journal(journal text, keep interval, dry_run boolean DEFAULT false,
    OUT pruned_seq bigint, OUT entries bigint, OUT limited_by text)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    keep_from bigint;
BEGIN
    IF keep < '0' THEN
        RAISE EXCEPTION 'keep is negative'
            USING ERRCODE = 'invalid_parameter_value',
                  DETAIL = '{"reason":"invalid_parameter","parameter":"keep"}',
                  HINT = 'Give the age up to which entries stay.';
    END IF;
    IF keep IS NOT NULL THEN
        SELECT coalesce(pg_catalog.min(j.seq), 9223372036854775807) INTO keep_from FROM rowclaim.journal j
        WHERE j.journal = prune_journal.journal AND j.committed_at >= pg_catalog.clock_timestamp() - keep;
    END IF;
    SELECT p.* INTO pruned_seq, entries, limited_by FROM rowclaim.prune(prune_journal.journal, keep_from, 'keep', dry_run) p;
END $$;
CREATE FUNCTION prune_journal(journal text, keep bigint, dry_run boolean DEFAULT false,
    OUT pruned_seq bigint, OUT entries bigint, OUT limited_by text)
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    BEGIN ATOMIC
        SELECT p.pruned_seq, p.entries, p.limited_by FROM rowclaim.prune(prune_journal.journal, keep, 'keep', dry_run) p;
    END;
-- What an untyped literal means.
CREATE FUNCTION prune_journal(journal text, keep text, dry_run boolean DEFAULT false,
    OUT pruned_seq bigint, OUT entries bigint, OUT limited_by text)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF keep ~ '^\s*\d+\s*$' THEN
        SELECT p.* INTO pruned_seq, entries, limited_by
        FROM @extschema@.prune_journal(prune_journal.journal, keep::bigint, dry_run) p;
    ELSE
        SELECT p.* INTO pruned_seq, entries, limited_by
        FROM @extschema@.prune_journal(prune_journal.journal, keep::interval, dry_run) p;
    END IF;
END $$;
COMMENT ON FUNCTION prune_journal(text, interval, boolean) IS
    'Deletes entries older than keep that nobody needs: up to which number, how many, and what was in the way of more.';
COMMENT ON FUNCTION prune_journal(text, bigint, boolean) IS
    'Deletes entries below the number keep that nobody needs: up to which number, how many, and what was in the way of more.';
COMMENT ON FUNCTION prune_journal(text, text, boolean) IS
    'As the other two: keep is an interval, or a number.';

REVOKE ALL ON FUNCTION create_journal_publication(text, text[]), prune_journal(text, interval, boolean),
    prune_journal(text, bigint, boolean), prune_journal(text, text, boolean), rowclaim.prune(text, bigint, text, boolean),
    rowclaim.prune_limits(text), rowclaim.seal_pruned(text, bigint), rowclaim.start_replay(text),
    rowclaim.note_failure(text, bigint, text, text, text), rowclaim.write_void(int, bigint), rowclaim.recover(),
    rowclaim.publish_claims(), rowclaim.receive_claim(), rowclaim.forget_claim(), rowclaim.start_publishing_claims(),
    rowclaim.receive_entry() FROM PUBLIC;
