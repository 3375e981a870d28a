-- What users can see. Each view shows the caller what it may see; none can be written.

CREATE VIEW rowclaim.tables AS
    SELECT relid AS target, claiming, committing, journal, untracked, owner_column, version_column, draft_column
    FROM rowclaim.enabled_table;
COMMENT ON VIEW rowclaim.tables IS 'Enabled tables and their settings.';

CREATE VIEW rowclaim.claims WITH (security_barrier) AS
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
COMMENT ON VIEW rowclaim.claims IS
    'Who holds which row; on a replica also at the source. Under row security a role sees its own claims.';

CREATE VIEW rowclaim.drafts WITH (security_barrier) AS
    SELECT h.actor, j.name AS journal, r.relid AS target, r.key::jsonb AS key,
           CASE r.op WHEN 'i' THEN 'insert' WHEN 'd' THEN 'delete' ELSE 'update' END AS op,
           h.started_at AS since
    FROM rowclaim.draft_row r
    JOIN rowclaim.enabled_table t ON t.relid = r.relid
    JOIN rowclaim.journal_config j ON j.name = t.journal
    JOIN rowclaim.draft h ON h.id = r.draft AND h.journal_id = j.id
    WHERE (pg_catalog.has_table_privilege(r.relid, 'SELECT') AND NOT pg_catalog.row_security_active(r.relid))
       OR h.actor = @extschema@.current_actor();
COMMENT ON VIEW rowclaim.drafts IS 'Uncommitted changes, one row per dirty row.';

CREATE VIEW rowclaim.changesets AS
    WITH stable AS MATERIALIZED (
        SELECT name AS journal, rowclaim.stable_seq(name) AS seq FROM rowclaim.journal_config
    )
    SELECT j.journal, j.seq, pg_catalog.min(j.actor) AS actor, pg_catalog.min(j.committed_at) AS committed_at,
           pg_catalog.min(j.message) AS message,
           -- The header of a baseline is no change.
           (pg_catalog.sum(pg_catalog.json_array_length(j.changes))
            - CASE pg_catalog.min(j.kind) WHEN 'baseline' THEN 1 ELSE 0 END)::bigint AS changes, pg_catalog.min(j.base) AS base
    FROM rowclaim.journal j JOIN stable s ON s.journal = j.journal AND j.seq <= s.seq
    WHERE j.kind IN ('changeset', 'baseline')
    GROUP BY j.journal, j.seq;
COMMENT ON VIEW rowclaim.changesets IS 'Committed changesets up to the first number still in flight.';

CREATE VIEW rowclaim.changes WITH (security_barrier) AS
    WITH stable AS MATERIALIZED (
        SELECT name AS journal, rowclaim.stable_seq(name) AS seq FROM rowclaim.journal_config
    )
    SELECT j.journal, j.seq, (1000::bigint * (j.part - 1)) + c.n AS change, j.actor, j.committed_at,
           c.e ->> 'op' AS op, c.e ->> 'table' AS target, c.e -> 'key' AS key, c.e -> 'old' AS old, c.e -> 'new' AS new,
           (c.e ->> 'version')::bigint AS version
    FROM rowclaim.journal j
    JOIN stable s ON s.journal = j.journal AND j.seq <= s.seq
    CROSS JOIN LATERAL pg_catalog.json_array_elements(
        rowclaim.visible_changes_to_me(j.changes)) WITH ORDINALITY AS c(e, n)
    WHERE j.kind = 'changeset' OR (j.kind = 'baseline' AND c.e ->> 'op' <> 'baseline');
COMMENT ON VIEW rowclaim.changes IS
    'Committed changes, one row per changed row, of tables the caller may SELECT.';

CREATE VIEW rowclaim.consumers AS
    WITH stable AS MATERIALIZED (
        SELECT name AS journal, rowclaim.stable_seq(name) AS seq FROM rowclaim.journal_config
    )
    SELECT c.name AS consumer, c.journal, c.acked_seq AS position, s.seq - c.acked_seq AS lag, c.role, c.last_seen
    FROM rowclaim.consumer c JOIN stable s ON s.journal = c.journal;
COMMENT ON VIEW rowclaim.consumers IS 'Consumers of pull_changes(), their position and how many entries they are behind.';

CREATE VIEW rowclaim.stashes WITH (security_barrier) AS
    SELECT s.id, s.actor, s.journal, s.relid AS target, s.key::jsonb AS key, s.op,
           CASE WHEN pg_catalog.has_table_privilege(s.relid, 'SELECT') THEN s.base::json END AS base,
           CASE WHEN pg_catalog.has_table_privilege(s.relid, 'SELECT') THEN s.mine::json END AS mine, s.cause, s.reason, s.stashed_by, s.stashed_at
    FROM rowclaim.stash s
    WHERE s.actor = @extschema@.current_actor()
       OR (pg_catalog.has_table_privilege(s.relid, 'SELECT') AND NOT pg_catalog.row_security_active(s.relid));
COMMENT ON VIEW rowclaim.stashes IS 'Uncommitted changes of actors that lost the row; restore_stash(id) takes one back.';

GRANT SELECT ON rowclaim.tables, rowclaim.claims, rowclaim.drafts, rowclaim.changesets, rowclaim.changes,
    rowclaim.consumers, rowclaim.stashes TO PUBLIC;
