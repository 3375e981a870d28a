\echo Use "ALTER EXTENSION rowclaim UPDATE TO '0.2.0'" to load this file. \quit

-- When this server began: its last start, or its recovery from the crash of a backend, which starts the others anew.
CREATE OR REPLACE FUNCTION rowclaim.server_start() RETURNS timestamptz
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
    BEGIN ATOMIC
        SELECT greatest(pg_catalog.pg_postmaster_start_time(),
                        (SELECT pg_catalog.max(a.backend_start) FROM pg_catalog.pg_stat_activity a
                         WHERE a.backend_type = 'checkpointer'));
    END;

REVOKE ALL ON FUNCTION rowclaim.server_start() FROM PUBLIC;

CREATE TABLE rowclaim.recovered (server_start timestamptz NOT NULL);

COMMENT ON TABLE rowclaim.recovered IS
    'The start of the server since which numbers lost in the stop before are accounted for.';

INSERT INTO rowclaim.recovered VALUES (rowclaim.server_start());

-- The table of this name; who may not use its schema may learn that, too.
CREATE OR REPLACE FUNCTION rowclaim.table_named(name text) RETURNS regclass
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    RETURN pg_catalog.to_regclass(name);

COMMENT ON FUNCTION rowclaim.table_named(text) IS 'The table of this name, NULL when there is none.';

-- Whoever asks how far a journal is complete loads the library, which sees to what a crash has left in flight.
CREATE OR REPLACE FUNCTION rowclaim.is_loaded() RETURNS boolean
    LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'rowclaim_is_loaded';

COMMENT ON FUNCTION rowclaim.is_loaded() IS 'True; loads the library.';

CREATE OR REPLACE FUNCTION rowclaim.stable_seq(journal text) RETURNS bigint
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    BEGIN ATOMIC
        WITH s AS MATERIALIZED (SELECT rowclaim.sealed_seq(stable_seq.journal) AS start WHERE rowclaim.is_loaded())
        SELECT s.start + pg_catalog.count(e.seq)
        FROM s
        LEFT JOIN LATERAL (
            SELECT j.seq, pg_catalog.row_number() OVER (ORDER BY j.seq) AS n
            FROM rowclaim.journal j
            WHERE j.journal = stable_seq.journal AND j.part = 1 AND j.seq > s.start
        ) e ON e.seq = s.start + e.n
        GROUP BY s.start;
    END;

-- The internal half: runs as the extension's owner on behalf of role_name.
CREATE OR REPLACE FUNCTION rowclaim.pull(role_name name, consumer text, journal text, max_changesets int)
    RETURNS TABLE (seq bigint, part int, parts int, actor text, committed_at timestamptz, message text, changes json)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    this     rowclaim.consumer;
    position bigint;
    upto     bigint;
    damaged  bigint;
BEGIN
    IF consumer IS NULL OR consumer = '' OR pg_catalog.octet_length(consumer) > 255 THEN
        RAISE EXCEPTION 'a consumer''s name is 1 to 255 bytes'
            USING ERRCODE = 'invalid_parameter_value',
                  DETAIL = '{"reason":"invalid_parameter","parameter":"consumer"}',
                  HINT = 'Give the consumer a name of its own.';
    END IF;
    IF max_changesets IS NULL OR max_changesets < 1 THEN
        RAISE EXCEPTION 'max_changesets must be at least 1'
            USING ERRCODE = 'invalid_parameter_value',
                  DETAIL = '{"reason":"invalid_parameter","parameter":"max_changesets"}',
                  HINT = 'Ask for one changeset or more.';
    END IF;
    PERFORM rowclaim.fill_gaps(pull.journal);
    INSERT INTO rowclaim.consumer AS c (name, journal, role, last_seen)
    VALUES (pull.consumer, pull.journal, role_name, pg_catalog.clock_timestamp())
    ON CONFLICT ON CONSTRAINT consumer_pkey DO UPDATE SET last_seen = excluded.last_seen
    RETURNING * INTO this;
    PERFORM rowclaim.check_consumer(role_name, this);
    position := this.acked_seq;
    -- One call costs what it returns, however much is left for others.
    upto := least(rowclaim.stable_seq(pull.journal),
                  (SELECT e.seq FROM rowclaim.journal e
                   WHERE e.journal = pull.journal AND e.part = 1 AND e.seq > position AND e.kind IN ('changeset', 'baseline')
                   ORDER BY e.seq OFFSET max_changesets - 1 LIMIT 1));
    SELECT pg_catalog.min(d.seq) INTO damaged
    FROM (SELECT j.seq FROM rowclaim.journal j
          WHERE j.journal = pull.journal AND j.seq > position AND j.seq <= upto
          GROUP BY j.seq HAVING pg_catalog.count(*) <> pg_catalog.max(j.parts)) d;
    IF damaged IS NOT NULL THEN
        RAISE EXCEPTION 'journal % is damaged: parts of entry % are missing', pull.journal, damaged
            USING ERRCODE = 'data_corrupted',
                  DETAIL = '{"reason":"journal_corrupt","journal":' || pg_catalog.to_json(pull.journal) || '}',
                  HINT = 'Run verify_journal() and compare with a backup or a replica.';
    END IF;
    RETURN QUERY
        SELECT j.seq, j.part, j.parts, j.actor, j.committed_at, j.message,
               rowclaim.visible_changes(role_name, j.changes, true)
        FROM rowclaim.journal j
        WHERE j.journal = pull.journal AND j.seq > position AND j.seq <= upto AND j.kind IN ('changeset', 'baseline')
        ORDER BY j.seq, j.part;
END $$;

CREATE OR REPLACE FUNCTION rowclaim.recover() RETURNS void
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

CREATE OR REPLACE VIEW rowclaim.replay AS
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

REVOKE ALL ON FUNCTION create_journal_publication(text, text[]), prune_journal(text, interval, boolean),
    prune_journal(text, bigint, boolean), prune_journal(text, text, boolean), rowclaim.prune(text, bigint, text, boolean),
    rowclaim.prune_limits(text), rowclaim.seal_pruned(text, bigint), rowclaim.start_replay(text),
    rowclaim.note_failure(text, bigint, text, text, text), rowclaim.write_void(int, bigint), rowclaim.recover(),
    rowclaim.publish_claims(), rowclaim.receive_claim(), rowclaim.forget_claim(), rowclaim.start_publishing_claims(),
    rowclaim.receive_entry() FROM PUBLIC;

CREATE OR REPLACE VIEW rowclaim.claims WITH (security_barrier) AS
    SELECT c.relid AS target, c.key::jsonb AS key, c.owner, c.token, c.claimed_at, c.expires_at,
           coalesce(c.expires_at <= pg_catalog.clock_timestamp(), false) AS expired, c.reason,
           d.relid IS NOT NULL AS dirty, c.owner = @extschema@.current_actor() AS mine
    FROM rowclaim.claim c
    LEFT JOIN rowclaim.draft_row d ON d.relid = c.relid AND d.key = c.key
    WHERE (pg_catalog.has_table_privilege(c.relid, 'SELECT') AND NOT pg_catalog.row_security_active(c.relid))
       OR c.owner = @extschema@.current_actor()
    UNION ALL
    -- On a replica: what is claimed at the source.
    SELECT t.relid, p.key::jsonb, p.owner, p.token, p.claimed_at, p.expires_at,
           coalesce(p.expires_at <= pg_catalog.clock_timestamp(), false), p.reason,
           NULL, p.owner = @extschema@.current_actor()
    FROM rowclaim.published_claim p CROSS JOIN LATERAL (SELECT rowclaim.table_named(p.target) AS relid) t
    WHERE p.relid IS NULL AND p.owner IS NOT NULL AND t.relid IS NOT NULL
      AND ((pg_catalog.has_table_privilege(t.relid, 'SELECT') AND NOT pg_catalog.row_security_active(t.relid))
           OR p.owner = @extschema@.current_actor());

-- Figures for monitoring systems.

-- One row per figure; each is known without reading a user's table.
CREATE OR REPLACE VIEW rowclaim.metrics AS
    SELECT m.name, pg_catalog.jsonb_build_object(
               'table', pg_catalog.format('%I.%I', n.nspname, k.relname), 'journal', t.journal) AS labels,
           m.value::double precision AS value
    FROM rowclaim.enabled_table t
    JOIN pg_catalog.pg_class k ON k.oid = t.relid
    JOIN pg_catalog.pg_namespace n ON n.oid = k.relnamespace
    LEFT JOIN (SELECT c.relid, pg_catalog.count(*) AS claims,
                      pg_catalog.count(*) FILTER (WHERE c.expires_at <= pg_catalog.clock_timestamp()) AS expired
               FROM rowclaim.claim c GROUP BY c.relid) c ON c.relid = t.relid
    LEFT JOIN (SELECT r.relid, pg_catalog.count(*) AS rows FROM rowclaim.draft_row r GROUP BY r.relid) d ON d.relid = t.relid
    CROSS JOIN LATERAL (VALUES
        ('rowclaim_table_claims', coalesce(c.claims, 0)),
        ('rowclaim_table_expired_claims', coalesce(c.expired, 0)),
        ('rowclaim_table_dirty_rows', coalesce(d.rows, 0))) m(name, value)
    UNION ALL
    SELECT m.name, pg_catalog.jsonb_build_object('journal', j.name), m.value::double precision
    FROM rowclaim.journal_config j
    CROSS JOIN LATERAL (SELECT pg_catalog.max(e.seq) AS head FROM rowclaim.journal e WHERE e.journal = j.name) h
    CROSS JOIN LATERAL (
        -- A draft whose changes undid one another keeps its header for a while.
        SELECT pg_catalog.count(*) AS drafts, pg_catalog.min(h.started_at) AS oldest
        FROM rowclaim.draft h
        WHERE h.journal_id = j.id AND EXISTS (SELECT FROM rowclaim.draft_row r WHERE r.draft = h.id)) d
    CROSS JOIN LATERAL (SELECT pg_catalog.count(*) AS rows FROM rowclaim.stash s WHERE s.journal = j.name) s
    CROSS JOIN LATERAL (VALUES
        ('rowclaim_journal_head', coalesce(h.head, 0)),
        ('rowclaim_journal_in_flight', coalesce(h.head - rowclaim.stable_seq(j.name), 0)),
        ('rowclaim_journal_open_drafts', d.drafts),
        ('rowclaim_journal_oldest_draft_seconds',
            coalesce(greatest(extract(epoch FROM pg_catalog.clock_timestamp() - d.oldest), 0), 0)),
        ('rowclaim_journal_stashed_rows', s.rows)) m(name, value)
    UNION ALL
    SELECT m.name, pg_catalog.jsonb_build_object('consumer', c.name, 'journal', c.journal), m.value::double precision
    FROM rowclaim.consumer c
    CROSS JOIN LATERAL (VALUES
        ('rowclaim_consumer_lag', rowclaim.stable_seq(c.journal) - c.acked_seq),
        ('rowclaim_consumer_unseen_seconds', greatest(extract(epoch FROM pg_catalog.clock_timestamp() - c.last_seen), 0))) m(name, value)
    UNION ALL
    SELECT m.name, pg_catalog.jsonb_build_object('journal', s.journal), m.value::double precision
    FROM rowclaim.replay_state s
    CROSS JOIN LATERAL (SELECT coalesce(rowclaim.applied_seq(s.journal), 0) AS applied) a
    CROSS JOIN LATERAL (SELECT pg_catalog.count(*) AS entries FROM rowclaim.journal j
                        WHERE j.journal = s.journal AND j.seq > a.applied AND j.part = 1) w
    CROSS JOIN LATERAL (SELECT pg_catalog.count(*) AS entries FROM rowclaim.replay_failure f
                        WHERE f.journal = s.journal AND NOT EXISTS (
                            SELECT FROM rowclaim.journal j WHERE j.journal = f.journal AND j.seq = f.seq AND j.part = 1)) f
    CROSS JOIN LATERAL (VALUES
        ('rowclaim_replay_applied', a.applied),
        ('rowclaim_replay_waiting', w.entries),
        ('rowclaim_replay_failing', f.entries),
        ('rowclaim_replay_overwritten', s.overwritten),
        ('rowclaim_replay_skipped', s.skipped)) m(name, value);

COMMENT ON VIEW rowclaim.metrics IS
    'Figures for monitoring systems: name, labels, value. For members of pg_monitor; reads no user''s table.';

COMMENT ON COLUMN rowclaim.metrics.name IS 'As an exporter shows it.';

COMMENT ON COLUMN rowclaim.metrics.labels IS 'What it is a figure of: table, journal, consumer.';

GRANT SELECT ON rowclaim.metrics TO pg_monitor;

-- Why a relation cannot be enabled; no row when it can.
CREATE OR REPLACE FUNCTION rowclaim.unsupported(relid oid, OUT problem text, OUT hint text) RETURNS SETOF record
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT p.problem, p.hint
    FROM pg_class c,
    LATERAL (VALUES
        (c.relkind IN ('v', 'm'), 'it is a view', 'Enable the tables the view reads instead.'),
        (c.relkind = 'f', 'it is a foreign table', 'Enable the table on its own server.'),
        (c.relkind NOT IN ('r', 'p'), 'it is not a table', 'Only tables can be enabled.'),
        (c.relpersistence = 't', 'it is a temporary table', 'Use an ordinary table.'),
        (c.oid < 16384 OR c.relnamespace IN ('pg_catalog'::regnamespace, 'pg_toast'::regnamespace)
            OR c.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = 'information_schema'),
            'it is a system catalog', 'Only user tables can be enabled.'),
        (EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'),
            'it belongs to an extension', 'Only user tables can be enabled.'),
        (c.relispartition, 'it is a partition', 'Enable the partitioned table instead.'),
        (EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = c.oid), 'it inherits from another table',
            'Use partitioning instead of inheritance.'),
        (c.relkind = 'r' AND EXISTS (SELECT FROM pg_inherits i WHERE i.inhparent = c.oid),
            'other tables inherit from it', 'Use partitioning instead of inheritance.'),
        (c.relkind = 'p' AND EXISTS (SELECT FROM pg_partition_tree(c.oid) t JOIN pg_class l ON l.oid = t.relid
                                     WHERE l.relkind = 'f'),
            'it has a partition that is a foreign table', 'Detach the foreign partition.'),
        (NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary),
            'it has no primary key', 'Add a primary key, then call enable_claims() again.'),
        (EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary AND NOT i.indimmediate),
            'its primary key is deferrable', 'Make the primary key NOT DEFERRABLE.'),
        (EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary AND i.indisexclusion),
            'its primary key is WITHOUT OVERLAPS', 'Add a primary key that names one row.')
    ) p(applies, problem, hint)
    WHERE c.oid = relid AND p.applies
    LIMIT 1
$$;

-- Row triggers reach partitions by themselves; TRUNCATE triggers do not. It may be there already, from the schema of a dump.
CREATE OR REPLACE FUNCTION rowclaim.guard_partition(leaf regclass) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    EXECUTE pg_catalog.format('CREATE OR REPLACE TRIGGER rowclaim_truncate BEFORE TRUNCATE ON %s
                               FOR EACH STATEMENT EXECUTE FUNCTION rowclaim.capture()', leaf);
    EXECUTE pg_catalog.format('ALTER TABLE %s ENABLE ALWAYS TRIGGER rowclaim_truncate', leaf);
END $$;

-- What has been done is remembered, so that restoring a dump does not meet triggers it is about to create.
CREATE OR REPLACE FUNCTION rowclaim.guard_partitions(root regclass) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    this  rowclaim.enabled_table;
    leaf  regclass;
    tree  regclass[] := ARRAY(SELECT t.relid FROM pg_catalog.pg_partition_tree(root) t WHERE t.relid <> root);
BEGIN
    SELECT * INTO this FROM rowclaim.enabled_table WHERE relid = root;
    -- The commands below fire this function again: it finds nothing left to do.
    UPDATE rowclaim.enabled_table SET partitions = tree WHERE relid = root AND partitions <> tree;
    FOREACH leaf IN ARRAY tree LOOP
        CONTINUE WHEN leaf = ANY (this.partitions);
        IF rowclaim.is_owned(leaf, this.owner_column, this.draft_column) THEN
            PERFORM rowclaim.refuse(root::text, pg_catalog.format('%s has rows with an owner or a draft', leaf),
                pg_catalog.format('Set %I and %I to NULL in the partition before you attach it.',
                    this.owner_column, this.draft_column));
        END IF;
        PERFORM rowclaim.guard_partition(leaf);
    END LOOP;
    FOREACH leaf IN ARRAY this.partitions LOOP
        CONTINUE WHEN leaf = ANY (tree) OR NOT EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = leaf);
        EXECUTE pg_catalog.format('DROP TRIGGER IF EXISTS rowclaim_truncate ON %s', leaf);
    END LOOP;
END $$;

-- Is everything in place that enforcement needs?
CREATE OR REPLACE FUNCTION rowclaim.check_table(target regclass) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    this  rowclaim.enabled_table;
    wrong record;
    name  text := target::text;
    undo  text := pg_catalog.format('Call disable_claims(%L) first, then change the table and call enable_claims() again.', name);
BEGIN
    SELECT * INTO this FROM rowclaim.enabled_table WHERE relid = target;
    -- A dump is being restored: the key of a partitioned table is complete when that of its last partition is.
    IF coalesce(rowclaim.key_columns(target) = this.key_columns, true)
       AND EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = target AND c.relkind = 'p')
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = target AND i.indisprimary AND i.indisvalid) THEN
        RETURN;
    END IF;
    -- Or its triggers come last.
    IF (SELECT pg_catalog.count(*) FROM pg_catalog.pg_trigger g
        WHERE g.tgrelid = target AND g.tgname IN (
              'rowclaim_guard', 'rowclaim_capture', 'rowclaim_truncate')) < 3
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_trigger g JOIN pg_catalog.pg_proc p ON p.oid = g.tgfoid
                       WHERE g.tgrelid = target AND p.pronamespace = 'rowclaim'::regnamespace AND g.tgname NOT IN (
                             'rowclaim_guard', 'rowclaim_capture', 'rowclaim_truncate')) THEN
        RETURN;
    END IF;
    SELECT w.col, w.types INTO wrong
    FROM (VALUES (this.owner_column, ARRAY['text']), (this.version_column, ARRAY['bigint', 'integer']),
                 (this.draft_column, ARRAY['bigint'])) w(col, types)
    WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_attribute a
                      WHERE a.attrelid = target AND a.attname = w.col AND NOT a.attisdropped
                        AND pg_catalog.format_type(a.atttypid, a.atttypmod) = ANY (w.types)
                        AND (a.attnotnull OR w.col <> this.version_column));
    IF FOUND THEN
        PERFORM rowclaim.refuse(name, pg_catalog.format('column %s of %s is maintained by rowclaim', wrong.col, name), undo);
    END IF;
    SELECT g.tgname INTO wrong
    FROM pg_catalog.pg_trigger g JOIN pg_catalog.pg_proc p ON p.oid = g.tgfoid
    WHERE g.tgrelid IN (SELECT target UNION SELECT t.relid FROM pg_catalog.pg_partition_tree(target) t)
      AND p.pronamespace = 'rowclaim'::regnamespace
      AND (g.tgenabled NOT IN ('A', 'O') OR g.tgname NOT IN
           ('rowclaim_guard', 'rowclaim_capture', 'rowclaim_truncate'))
    ORDER BY g.tgname LIMIT 1;
    IF FOUND AND rowclaim.enforced() THEN
        PERFORM rowclaim.refuse(name, pg_catalog.format('trigger %s of %s enforces claims', wrong.tgname, name),
            'SET rowclaim.enforce = off lets a superuser write every row; disable_claims() removes the triggers.');
    END IF;
    -- CREATE OR REPLACE TRIGGER must not weaken them.
    SELECT w.name INTO wrong
    FROM (VALUES ('rowclaim_guard', 'guard', 27), ('rowclaim_capture', 'capture', 29),
                 ('rowclaim_truncate', 'capture', 34)) w(name, function, type)
    WHERE NOT EXISTS (
        SELECT FROM pg_catalog.pg_trigger g JOIN pg_catalog.pg_proc p ON p.oid = g.tgfoid
        WHERE g.tgrelid = target AND g.tgname = w.name AND p.proname = w.function
          AND p.pronamespace = 'rowclaim'::regnamespace AND g.tgtype = w.type AND g.tgattr::text = ''
          AND g.tgqual IS NULL);
    IF FOUND THEN
        PERFORM rowclaim.refuse(name, pg_catalog.format('trigger %s of %s enforces claims', wrong.name, name), undo);
    END IF;
    -- ENABLE TRIGGER ALL leaves them off for replica sessions.
    FOR wrong IN
        SELECT g.tgrelid::regclass AS relation, g.tgname
        FROM pg_catalog.pg_trigger g JOIN pg_catalog.pg_proc p ON p.oid = g.tgfoid
        WHERE g.tgrelid IN (SELECT target UNION SELECT t.relid FROM pg_catalog.pg_partition_tree(target) t)
          AND p.pronamespace = 'rowclaim'::regnamespace AND g.tgenabled = 'O'
    LOOP
        EXECUTE pg_catalog.format('ALTER TABLE %s ENABLE ALWAYS TRIGGER %I', wrong.relation, wrong.tgname);
    END LOOP;
    IF rowclaim.key_columns(target) <> this.key_columns AND EXISTS (
        -- Renamed key columns are followed.
        SELECT FROM ROWS FROM (pg_catalog.unnest(this.key_columns), pg_catalog.unnest(rowclaim.key_columns(target))) k(was, is_now)
        WHERE k.was IS DISTINCT FROM k.is_now AND NOT EXISTS (
            SELECT FROM pg_catalog.jsonb_each(this.columns) o(n, v)
            JOIN pg_catalog.pg_attribute a ON a.attrelid = target AND a.attnum = o.n::int2
            WHERE o.v ->> 0 = k.was AND a.attname = k.is_now))
       OR EXISTS (SELECT FROM pg_catalog.pg_index i
                  WHERE i.indrelid = target AND i.indisprimary AND (NOT i.indimmediate OR i.indisexclusion)) THEN
        PERFORM rowclaim.refuse(name, pg_catalog.format('the primary key of %s identifies claimed rows', name), undo);
    END IF;
    IF EXISTS (SELECT FROM pg_catalog.jsonb_each(this.columns) o(n, v)
               JOIN pg_catalog.pg_attribute a ON a.attrelid = target AND a.attnum = o.n::int2
               WHERE a.attname = ANY (rowclaim.key_columns(target)) AND o.v ->> 0 = a.attname
                 AND o.v ->> 1 <> pg_catalog.format_type(a.atttypid, a.atttypmod))
       AND (EXISTS (SELECT FROM rowclaim.claim c WHERE c.relid = target)
            OR EXISTS (SELECT FROM rowclaim.draft_row r WHERE r.relid = target)) THEN
        PERFORM rowclaim.refuse(name, pg_catalog.format('the primary key of %s identifies claimed rows', name),
            'Retype it when no row is claimed or dirty.');
    END IF;
    IF EXISTS (SELECT FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_class c ON c.oid = i.inhparent
               WHERE (i.inhparent = target AND c.relkind = 'r') OR i.inhrelid = target) THEN
        PERFORM rowclaim.refuse(name, pg_catalog.format('%s has claims and cannot take part in inheritance', name), undo);
    END IF;
    PERFORM rowclaim.follow_columns(this);
    IF (SELECT c.relkind FROM pg_catalog.pg_class c WHERE c.oid = target) = 'p' AND EXISTS (
        SELECT FROM rowclaim.claim c WHERE c.relid = target AND rowclaim.row_image(c.relid, c.key) IS NULL
           AND NOT EXISTS (SELECT FROM rowclaim.draft_row r WHERE r.relid = c.relid AND r.key = c.key)
        UNION ALL
        SELECT FROM rowclaim.draft_row r WHERE r.relid = target AND r.op <> 'd'
           AND rowclaim.row_image(r.relid, r.key) IS NULL
        UNION ALL
        SELECT FROM rowclaim.draft_row r WHERE r.relid = target AND r.base IS NOT NULL
           AND r.leaf NOT IN (SELECT t.relid FROM pg_catalog.pg_partition_tree(target) t)) THEN
        PERFORM rowclaim.refuse(name, pg_catalog.format('rows of a partition of %s are claimed or dirty', name),
            'Commit or discard and release them before you detach the partition.');
    END IF;
    PERFORM rowclaim.guard_partitions(target);
END $$;

REVOKE ALL ON FUNCTION rowclaim.remember_names(), rowclaim.refuse(text, text, text), rowclaim.unsupported(oid), rowclaim.column_map(oid),
    rowclaim.key_columns(oid), rowclaim.row_image(regclass, text), rowclaim.recode_image(regclass, text), rowclaim.is_owned(regclass, name, name),
    rowclaim.rename_in(text, name, name), rowclaim.guard_partition(regclass), rowclaim.guard_partitions(regclass), rowclaim.unguard_partitions(regclass),
    rowclaim.remove_from(text, text), rowclaim.retype_in(text, text, text, text),
    rowclaim.follow_columns(rowclaim.enabled_table), rowclaim.check_table(regclass),
    rowclaim.on_ddl_end(), rowclaim.on_drop() FROM PUBLIC;

-- Finding what was damaged behind the extension's back, and repairing it.

CREATE OR REPLACE FUNCTION rowclaim.owned_rows(target regclass) RETURNS TABLE (key text, owner text, draft bigint)
    LANGUAGE c AS 'MODULE_PATHNAME', 'rowclaim_owned_rows';

COMMENT ON FUNCTION rowclaim.owned_rows(regclass) IS 'The rows that have an owner or the stamp of an open draft.';

-- What enforcement needs of a table and does not find; enable_claims() with the same settings puts it back.
CREATE OR REPLACE FUNCTION rowclaim.table_problems(target regclass) RETURNS SETOF text
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
    BEGIN ATOMIC
        SELECT pg_catalog.format(
            CASE WHEN a.attname IS NULL THEN 'column %I is missing'
                 WHEN NOT pg_catalog.format_type(a.atttypid, a.atttypmod) = ANY (w.types) THEN 'column %I has type %s'
                 WHEN w.not_null AND NOT a.attnotnull THEN 'column %I can be null'
                 ELSE 'column %I has no default' END, w.name, pg_catalog.format_type(a.atttypid, a.atttypmod))
        FROM rowclaim.enabled_table t
        CROSS JOIN LATERAL (VALUES
            (1, t.owner_column, ARRAY['text'], false, NULL), (2, t.version_column, ARRAY['bigint', 'integer'], true, NULL),
            (3, t.draft_column, ARRAY['bigint'], false, 'rowclaim.draft_stamp()')) w(n, name, types, not_null, value)
        LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = t.relid AND a.attname = w.name AND a.attnum > 0 AND NOT a.attisdropped
        LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
        WHERE t.relid = target
          AND (a.attname IS NULL OR NOT pg_catalog.format_type(a.atttypid, a.atttypmod) = ANY (w.types)
               OR (w.not_null AND NOT a.attnotnull)
               OR (w.value IS NOT NULL AND pg_catalog.pg_get_expr(d.adbin, d.adrelid) IS DISTINCT FROM w.value))
        UNION ALL
        SELECT pg_catalog.format(
            CASE WHEN g.oid IS NULL THEN 'trigger %I of %s is missing'
                 WHEN p.proname IS DISTINCT FROM w.function OR g.tgtype <> w.type OR g.tgattr::text <> '' OR g.tgqual IS NOT NULL
                 THEN 'trigger %I of %s was altered'
                 WHEN g.tgenabled = 'D' THEN 'trigger %I of %s is disabled'
                 ELSE 'trigger %I of %s is not enabled always' END, w.name, r.relid)
        FROM rowclaim.enabled_table t
        CROSS JOIN LATERAL (SELECT t.relid AS relid UNION SELECT p.relid FROM pg_catalog.pg_partition_tree(t.relid) p) r
        CROSS JOIN (VALUES ('rowclaim_guard', 'guard', 27), ('rowclaim_capture', 'capture', 29),
                           ('rowclaim_truncate', 'capture', 34)) w(name, function, type)
        LEFT JOIN pg_catalog.pg_trigger g ON g.tgrelid = r.relid AND g.tgname = w.name
        LEFT JOIN pg_catalog.pg_proc p ON p.oid = g.tgfoid AND p.pronamespace = 'rowclaim'::pg_catalog.regnamespace
        WHERE t.relid = target
          AND (g.oid IS NULL OR g.tgenabled <> 'A' OR p.proname IS DISTINCT FROM w.function OR g.tgtype <> w.type
               OR g.tgattr::text <> '' OR g.tgqual IS NOT NULL);
    END;

-- What gives an enabled table's ownership columns their names and types back, in order.
CREATE OR REPLACE FUNCTION rowclaim.column_repairs(target regclass, this rowclaim.enabled_table) RETURNS SETOF text
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
    BEGIN ATOMIC
        WITH recorded AS MATERIALIZED (
            SELECT w.name, a.attname AS is_now, o.v ->> 1 AS type, pg_catalog.format_type(a.atttypid, a.atttypmod) AS is_type
            FROM pg_catalog.unnest(ARRAY[this.owner_column, this.version_column, this.draft_column]) w(name)
            JOIN pg_catalog.jsonb_each(this.columns) o(n, v) ON o.v ->> 0 = w.name
            JOIN pg_catalog.pg_attribute a ON a.attnum = CASE
                -- By its name; by its number if that name is not there.
                WHEN EXISTS (SELECT FROM pg_catalog.pg_attribute b WHERE b.attrelid = target AND b.attname = w.name AND NOT b.attisdropped)
                THEN (SELECT b.attnum FROM pg_catalog.pg_attribute b WHERE b.attrelid = target AND b.attname = w.name AND NOT b.attisdropped)
                ELSE o.n::int2 END
            WHERE a.attrelid = target AND NOT a.attisdropped
        )
        SELECT c.command FROM recorded r CROSS JOIN LATERAL (VALUES
            (1, r.is_now <> r.name, pg_catalog.format('ALTER TABLE %s RENAME COLUMN %I TO %I', target, r.is_now, r.name)),
            (2, r.is_type <> r.type, pg_catalog.format('ALTER TABLE %s ALTER COLUMN %I DROP DEFAULT', target, r.name)),
            (3, r.is_type <> r.type, pg_catalog.format('ALTER TABLE %s ALTER COLUMN %I TYPE %s USING %2$I::%3$s', target, r.name, r.type))
        ) c(step, applies, command)
        WHERE c.applies ORDER BY c.step, r.name;
    END;

-- The triggers of partitions, whatever is known of them; see rowclaim.guard_partitions().
CREATE OR REPLACE FUNCTION rowclaim.guard_again(root regclass) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    leaf regclass;
BEGIN
    FOR leaf IN SELECT t.relid FROM pg_catalog.pg_partition_tree(root) t WHERE t.relid <> root LOOP
        PERFORM rowclaim.guard_partition(leaf);
    END LOOP;
END $$;

-- Is there a row under a key? NULL: no row of the table can have it.
CREATE FUNCTION rowclaim.row_exists(target regclass, key text) RETURNS boolean
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN rowclaim.row_image(target, key) IS NOT NULL;
EXCEPTION WHEN data_exception OR data_corrupted THEN
    RETURN NULL;
END $$;

-- Rows whose ownership columns and what is known of them do not agree.
CREATE OR REPLACE FUNCTION rowclaim.row_problems(target regclass) RETURNS TABLE (key text, problem text)
    LANGUAGE sql SET search_path = pg_catalog, pg_temp
    BEGIN ATOMIC
        SELECT coalesce(o.key, c.key, d.key), p.problem
        FROM rowclaim.owned_rows(target) o
        FULL JOIN (SELECT k.key, k.owner FROM rowclaim.claim k WHERE k.relid = target) c ON c.key = o.key
        FULL JOIN (SELECT r.key, r.draft, r.op, h.id IS NOT NULL AS open
                   FROM rowclaim.draft_row r
                   LEFT JOIN (rowclaim.enabled_table t JOIN rowclaim.journal_config j ON j.name = t.journal
                              JOIN rowclaim.draft h ON h.journal_id = j.id) ON t.relid = r.relid AND h.id = r.draft
                   WHERE r.relid = target) d ON d.key = coalesce(o.key, c.key)
        -- A row without owner and stamp is not among the owned ones.
        CROSS JOIN LATERAL (SELECT o.key IS NOT NULL OR rowclaim.row_exists(target, coalesce(c.key, d.key)) AS there) r
        CROSS JOIN LATERAL (VALUES
            (o.owner IS NOT NULL AND c.key IS NULL, 'has an owner and no claim'),
            (c.key IS NOT NULL AND r.there AND o.owner IS DISTINCT FROM c.owner, 'has a claim of somebody who is not its owner'),
            (c.key IS NOT NULL AND NOT r.there AND d.key IS NULL, 'has a claim and does not exist'),
            (r.there IS NULL, 'has a key that no row of the table can have'),
            (d.key IS NOT NULL AND NOT d.open, 'is in a draft that is closed'),
            (o.draft IS NOT NULL AND d.key IS NULL, 'has the stamp of a draft it is not in'),
            (d.open AND r.there AND o.draft IS DISTINCT FROM d.draft, 'is in a draft whose stamp it does not have'),
            (d.open AND r.there AND d.op = 'd', 'is deleted in a draft and exists'),
            (d.open AND NOT r.there AND d.op <> 'd', 'is in a draft and does not exist')) p(applies, problem)
        WHERE p.applies;
    END;

CREATE OR REPLACE FUNCTION rowclaim.repair_row(target regclass, key text) RETURNS void
    LANGUAGE c AS 'MODULE_PATHNAME', 'rowclaim_repair_row';

COMMENT ON FUNCTION rowclaim.repair_row(regclass, text) IS
    'Makes a row and what is known of its claim and draft agree; for the table''s owner. See check_claims().';

-- Every finding about one enabled table that exists.
CREATE OR REPLACE FUNCTION rowclaim.check_enabled(this rowclaim.enabled_table) RETURNS TABLE (key jsonb, problem text, repair text)
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    name  text := this.relid::text;
    keys  name[] := rowclaim.key_columns(this.relid);
    -- Renamed key columns are followed, not damaged.
    wanted name[] := ARRAY(
        SELECT coalesce((SELECT a.attname FROM pg_catalog.jsonb_each(this.columns) o(n, v)
                         JOIN pg_catalog.pg_attribute a ON a.attrelid = this.relid AND a.attnum = o.n::int2 AND NOT a.attisdropped
                         WHERE o.v ->> 0 = k.name), k.name)
        FROM pg_catalog.unnest(this.key_columns) WITH ORDINALITY k(name, n) ORDER BY k.n);
    damaged boolean := false;
    canonical text;
BEGIN
    FOR problem IN SELECT p FROM rowclaim.table_problems(this.relid) p ORDER BY p COLLATE "C" LOOP
        damaged := true;
        repair := pg_catalog.format('SELECT %s(%L, %L, %L, %L, %L, %L, %L, %L)',
            '@extschema@.enable_claims', name, this.claiming, this.committing, this.journal, this.untracked,
            this.owner_column, this.version_column, this.draft_column);
        RETURN NEXT;
    END LOOP;
    IF NOT EXISTS (SELECT FROM rowclaim.journal_config j WHERE j.name = this.journal) THEN
        damaged := true;
        problem := pg_catalog.format('its journal %s is missing', this.journal);
        repair := pg_catalog.format('SELECT @extschema@.create_journal(%L)', this.journal);
        RETURN NEXT;
    END IF;
    IF keys IS DISTINCT FROM wanted THEN
        damaged := true;
        problem := pg_catalog.format('its primary key is (%s), not (%s)', pg_catalog.array_to_string(keys, ', '), pg_catalog.array_to_string(wanted, ', '));
        repair := pg_catalog.format('ALTER TABLE %s %sADD PRIMARY KEY (%s)', name,
            (SELECT pg_catalog.format('DROP CONSTRAINT %I, ', k.conname) FROM pg_catalog.pg_constraint k
             WHERE k.conrelid = this.relid AND k.contype = 'p'),
            (SELECT pg_catalog.string_agg(pg_catalog.quote_ident(w), ', ' ORDER BY n) FROM pg_catalog.unnest(wanted) WITH ORDINALITY u(w, n)));
        RETURN NEXT;
    END IF;
    FOR problem, repair IN
        SELECT pg_catalog.format('key column %I has type %s and identifies rows by type %s', a.attname,
                   pg_catalog.format_type(a.atttypid, a.atttypmod), o.v ->> 1),
               pg_catalog.format('ALTER TABLE %s ALTER COLUMN %I TYPE %s USING %2$I::%3$s', name, a.attname, o.v ->> 1)
        FROM pg_catalog.jsonb_each(this.columns) o(n, v)
        JOIN pg_catalog.pg_attribute a ON a.attrelid = this.relid AND a.attnum = o.n::int2 AND NOT a.attisdropped
        WHERE a.attname = ANY (wanted) AND o.v ->> 1 <> pg_catalog.format_type(a.atttypid, a.atttypmod)
          AND (EXISTS (SELECT FROM rowclaim.claim c WHERE c.relid = this.relid)
               OR EXISTS (SELECT FROM rowclaim.draft_row r WHERE r.relid = this.relid))
    LOOP
        damaged := true;
        RETURN NEXT;
    END LOOP;
    IF damaged THEN
        -- The rows can be read once the table is whole.
        RETURN;
    END IF;
    -- As rowclaim.follow_columns() sees it: the numbers do not matter.
    IF (SELECT pg_catalog.jsonb_agg(v ORDER BY v) FROM pg_catalog.jsonb_each(this.columns) e(k, v))
        <> (SELECT pg_catalog.jsonb_agg(v ORDER BY v) FROM pg_catalog.jsonb_each(rowclaim.column_map(this.relid)) e(k, v)) THEN
        problem := 'its columns have changed without notice';
        repair := pg_catalog.format('SELECT rowclaim.check_table(%L)', name);
        RETURN NEXT;
        RETURN;
    END IF;
    FOR canonical, problem, repair IN
        SELECT p.key, 'row ' || p.problem, pg_catalog.format('SELECT rowclaim.repair_row(%L, %L)', name, p.key)
        FROM rowclaim.row_problems(this.relid) p ORDER BY p.key COLLATE "C", p.problem COLLATE "C"
    LOOP
        BEGIN
            key := canonical::jsonb;
        EXCEPTION WHEN data_exception THEN
            key := pg_catalog.to_jsonb(canonical);
        END;
        RETURN NEXT;
    END LOOP;
END $$;

-- What belongs to no table.
CREATE OR REPLACE FUNCTION rowclaim.installation_problems() RETURNS TABLE (problem text, repair text)
    LANGUAGE sql SET search_path = pg_catalog, pg_temp
    BEGIN ATOMIC
        SELECT pg_catalog.format(CASE WHEN e.oid IS NULL THEN 'event trigger %s is missing' ELSE 'event trigger %s is disabled' END, w.name),
               CASE WHEN e.oid IS NULL THEN w.make || pg_catalog.format('; ALTER EXTENSION rowclaim ADD EVENT TRIGGER %s; ', w.name) ELSE '' END
               || pg_catalog.format('ALTER EVENT TRIGGER %s ENABLE ALWAYS', w.name)
        FROM (VALUES
            ('rowclaim_ddl_end', 'CREATE EVENT TRIGGER rowclaim_ddl_end ON ddl_command_end WHEN TAG IN (''ALTER TABLE'', ''CREATE TABLE'', '
                '''ALTER TRIGGER'', ''CREATE TRIGGER'', ''CREATE SCHEMA'', ''ALTER SCHEMA'') EXECUTE FUNCTION rowclaim.on_ddl_end()'),
            ('rowclaim_drop', 'CREATE EVENT TRIGGER rowclaim_drop ON sql_drop EXECUTE FUNCTION rowclaim.on_drop()')) w(name, make)
        LEFT JOIN pg_catalog.pg_event_trigger e ON e.evtname = w.name
        WHERE e.oid IS NULL OR e.evtenabled <> 'A'
        UNION ALL
        SELECT pg_catalog.format('trigger %s of %s is %s', w.name, w.relation, CASE WHEN g.oid IS NULL THEN 'missing' ELSE 'disabled' END),
               CASE WHEN g.oid IS NULL THEN w.make || '; ' ELSE '' END
               || pg_catalog.format('ALTER TABLE %s ENABLE REPLICA TRIGGER %s', w.relation, w.name)
        FROM (VALUES
            ('rowclaim.journal', 'receive', 'CREATE TRIGGER receive BEFORE INSERT ON rowclaim.journal FOR EACH ROW EXECUTE FUNCTION rowclaim.receive_entry()'),
            ('rowclaim.published_claim', 'receive', 'CREATE TRIGGER receive BEFORE INSERT ON rowclaim.published_claim FOR EACH ROW EXECUTE FUNCTION rowclaim.receive_claim()'),
            ('rowclaim.published_claim', 'forget', 'CREATE TRIGGER forget AFTER INSERT ON rowclaim.published_claim FOR EACH ROW '
                'WHEN (NEW.owner IS NULL) EXECUTE FUNCTION rowclaim.forget_claim()')) w(relation, name, make)
        LEFT JOIN pg_catalog.pg_trigger g ON g.tgrelid = w.relation::pg_catalog.regclass AND g.tgname = w.name
        WHERE g.oid IS NULL OR g.tgenabled <> 'R'
        UNION ALL
        SELECT pg_catalog.format('trigger %s of rowclaim.claim is disabled', g.tgname),
               pg_catalog.format('ALTER TABLE rowclaim.claim ENABLE ALWAYS TRIGGER %I', g.tgname)
        FROM pg_catalog.pg_trigger g
        WHERE g.tgrelid = 'rowclaim.claim'::pg_catalog.regclass AND g.tgname LIKE 'publish\_%' AND g.tgenabled <> 'A'
        UNION ALL
        -- Those of journals follow by themselves: rowclaim.journal_sequence().
        SELECT pg_catalog.format('sequence rowclaim.%s is at %s, behind %s', w.name, coalesce(l.last, 0), w.used),
               pg_catalog.format('SELECT pg_catalog.setval(%L, %s)', 'rowclaim.' || w.name, w.used)
        FROM (
            SELECT 'draft_id_seq' AS name, greatest((SELECT pg_catalog.max(id) FROM rowclaim.draft), (SELECT pg_catalog.max(draft) FROM rowclaim.draft_row)) AS used
            UNION ALL SELECT 'token_seq', greatest((SELECT pg_catalog.max(token) FROM rowclaim.claim),
                (SELECT pg_catalog.max(token) FROM rowclaim.published_claim WHERE relid IS NOT NULL))
            UNION ALL SELECT 'stash_id_seq', (SELECT pg_catalog.max(id) FROM rowclaim.stash)
            UNION ALL SELECT 'published_claim_id_seq', (SELECT pg_catalog.max(id) FROM rowclaim.published_claim WHERE relid IS NOT NULL)
            UNION ALL SELECT 'journal_config_id_seq', (SELECT pg_catalog.max(id) FROM rowclaim.journal_config)) w
        CROSS JOIN LATERAL (SELECT pg_catalog.pg_sequence_last_value(('rowclaim.' || w.name)::pg_catalog.regclass) AS last) l
        WHERE w.used > coalesce(l.last, 0)
        UNION ALL
        SELECT pg_catalog.format('rows of rowclaim.%s are about a table that %s: %s', k.what,
                   CASE WHEN c.oid IS NULL THEN 'is gone' ELSE 'is not enabled' END, k.rows),
               pg_catalog.format('DELETE FROM rowclaim.%s WHERE relid = %s::pg_catalog.oid', k.what, k.relid)
        FROM (
            SELECT 'claim' AS what, relid::oid, pg_catalog.count(*) AS rows FROM rowclaim.claim GROUP BY relid
            UNION ALL SELECT 'draft_row', relid::oid, pg_catalog.count(*) FROM rowclaim.draft_row GROUP BY relid
            UNION ALL SELECT 'stash', relid::oid, pg_catalog.count(*) FROM rowclaim.stash GROUP BY relid
            UNION ALL SELECT 'enabled_table', relid::oid, 1 FROM rowclaim.enabled_table) k
        LEFT JOIN pg_catalog.pg_class c ON c.oid = k.relid
        -- disable_claims() leaves the stash of a table to its actors.
        WHERE c.oid IS NULL
           OR (k.what <> 'stash' AND NOT EXISTS (SELECT FROM rowclaim.enabled_table t WHERE t.relid = k.relid))
        UNION ALL
        SELECT pg_catalog.format('the name of %s is not noted', t.relid), 'SELECT rowclaim.remember_names()'
        FROM rowclaim.enabled_table t
        WHERE EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = t.relid)
          AND NOT EXISTS (SELECT FROM rowclaim.journaled_table j WHERE j.name = t.relid::text AND j.relid = t.relid);
    END;

-- The internal half of check_claims().
CREATE OR REPLACE FUNCTION rowclaim.check_for(role_name name, wanted regclass) RETURNS TABLE (target regclass, key jsonb, problem text, repair text)
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    this rowclaim.enabled_table;
BEGIN
    IF wanted IS NULL AND (SELECT r.rolsuper FROM pg_catalog.pg_roles r WHERE r.rolname = role_name) THEN
        RETURN QUERY SELECT NULL::regclass, NULL::jsonb, p.problem, p.repair FROM rowclaim.installation_problems() p ORDER BY p.problem COLLATE "C";
    END IF;
    FOR this IN
        SELECT t.* FROM rowclaim.enabled_table t JOIN pg_catalog.pg_class c ON c.oid = t.relid
        WHERE (wanted IS NULL AND pg_catalog.pg_has_role(role_name, c.relowner, 'USAGE')) OR t.relid = wanted ORDER BY t.relid::text COLLATE "C"
    LOOP
        RETURN QUERY SELECT this.relid, p.key, p.problem, p.repair FROM rowclaim.check_enabled(this) p;
    END LOOP;
END $$;

CREATE OR REPLACE FUNCTION check_claims(relation regclass DEFAULT NULL, OUT target regclass, OUT key jsonb, OUT problem text, OUT repair text)
    RETURNS SETOF record
    LANGUAGE c AS 'MODULE_PATHNAME', 'rowclaim_check_claims';

COMMENT ON FUNCTION check_claims(regclass) IS
    'Everything damaged or inconsistent, with the statement that repairs it: of one table or all tables of the caller.';

REVOKE ALL ON FUNCTION rowclaim.owned_rows(regclass), rowclaim.table_problems(regclass), rowclaim.column_repairs(regclass, rowclaim.enabled_table),
    rowclaim.guard_again(regclass), rowclaim.row_exists(regclass, text), rowclaim.row_problems(regclass),
    rowclaim.check_enabled(rowclaim.enabled_table), rowclaim.installation_problems(), rowclaim.check_for(name, regclass) FROM PUBLIC;

-- Replay.

-- One index for all, and no CHECK constraint: every commit and every transaction of a replica pays to prepare them.
ALTER TABLE rowclaim.journal DROP CONSTRAINT journal_kind_check;
DROP INDEX rowclaim.journal_seal, rowclaim.journal_pruned, rowclaim.journal_baseline;
CREATE INDEX journal_kind ON rowclaim.journal (journal, kind, seq) WHERE kind <> 'changeset';

ALTER TABLE rowclaim.replay_state ADD COLUMN receiver int;
COMMENT ON COLUMN rowclaim.replay_state.receiver IS 'The worker that has received entries last: another one has to look where replay is.';

-- What has arrived without a gap after the checkpoint has been applied, in the transaction that brought it.
CREATE OR REPLACE FUNCTION rowclaim.applied_seq(journal text) RETURNS bigint
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

CREATE OR REPLACE FUNCTION rowclaim.pruned_seq(journal text) RETURNS bigint
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
    BEGIN ATOMIC
        SELECT CASE WHEN f.first = 1 THEN 0 ELSE least(f.first - 1,
            coalesce((SELECT (j.changes -> 0 ->> 'pruned')::bigint FROM rowclaim.journal j
                      WHERE j.journal = pruned_seq.journal AND j.kind = 'seal' AND (j.changes -> 0 ->> 'pruned') IS NOT NULL
                      ORDER BY j.seq DESC LIMIT 1), 0)) END
        FROM (SELECT rowclaim.first_seq(pruned_seq.journal) AS first) f;
    END;

-- Headers are updated by each transaction that goes on with a draft, and then their whole page is pruned: few in a page.
ALTER TABLE rowclaim.draft SET (fillfactor = 30);

-- Commits that depend on other drafts. What the open ones have given up is not known: perhaps everything.
ALTER TABLE rowclaim.draft_row ADD COLUMN gives boolean NOT NULL DEFAULT true;
ALTER TABLE rowclaim.draft_row ALTER COLUMN gives SET DEFAULT false;
CREATE INDEX draft_row_gives ON rowclaim.draft_row (relid) WHERE gives;
DROP INDEX rowclaim.draft_row_base_key;
CREATE UNIQUE INDEX draft_row_base_key ON rowclaim.draft_row (relid, base_key) WHERE base_key IS NOT NULL;
COMMENT ON COLUMN rowclaim.draft_row.gives IS
    'The draft may have given up unique values or references that the row had when it began.';

CREATE OR REPLACE FUNCTION rowclaim.computes(command pg_ddl_command, column_name name) RETURNS boolean
    LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'rowclaim_computes';
COMMENT ON FUNCTION rowclaim.computes(pg_ddl_command, name) IS
    'Does an ALTER TABLE give the column new values by TYPE ... USING?';

CREATE OR REPLACE FUNCTION rowclaim.on_ddl_end() RETURNS event_trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    target regclass;
    forged name;
BEGIN
    PERFORM rowclaim.remember_names();
    FOR target IN
        SELECT t.relid FROM rowclaim.enabled_table t
        JOIN pg_catalog.pg_class k ON k.oid = t.relid
        WHERE EXISTS (
            SELECT FROM pg_catalog.pg_event_trigger_ddl_commands() c
            WHERE (c.classid = 'pg_class'::regclass AND (
                      c.objid = t.relid OR pg_catalog.pg_partition_root(c.objid) = t.relid
                      OR EXISTS (SELECT FROM pg_catalog.pg_inherits i
                                 WHERE (i.inhrelid = c.objid AND i.inhparent = t.relid)
                                    OR (i.inhrelid = t.relid AND i.inhparent = c.objid))))
               OR (c.classid = 'pg_trigger'::regclass AND EXISTS (
                      SELECT FROM pg_catalog.pg_trigger g WHERE g.oid = c.objid
                        AND (g.tgrelid = t.relid OR pg_catalog.pg_partition_root(g.tgrelid) = t.relid))))
    LOOP
        SELECT w.col INTO forged
        FROM rowclaim.enabled_table t, pg_catalog.unnest(ARRAY[t.owner_column, t.version_column, t.draft_column]) w(col),
             pg_catalog.pg_event_trigger_ddl_commands() c
        WHERE t.relid = target AND c.objid = target AND rowclaim.computes(c.command, w.col) LIMIT 1;
        IF FOUND THEN
            PERFORM rowclaim.refuse(target::text, pg_catalog.format('column %s of %s is maintained by rowclaim', forged, target),
                'Leave the ownership columns out of ALTER COLUMN TYPE ... USING.');
        END IF;
        -- Open drafts did not know of a constraint that is new: what they have given up of it, commits find out.
        UPDATE rowclaim.draft_row r SET gives = true WHERE r.relid = target AND r.base IS NOT NULL AND NOT r.gives;
        PERFORM rowclaim.check_table(target);
    END LOOP;
END $$;

REVOKE ALL ON FUNCTION rowclaim.computes(pg_ddl_command, name) FROM PUBLIC;
