-- Figures for monitoring systems.

-- One row per figure; each is known without reading a user's table.
CREATE VIEW rowclaim.metrics AS
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
