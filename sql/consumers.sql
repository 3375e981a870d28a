-- Reading the journal in order, with a position kept for each consumer.

CREATE FUNCTION rowclaim.under_row_security(role_name name, relation oid) RETURNS boolean
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
    BEGIN ATOMIC
        SELECT c.relrowsecurity
           AND NOT (SELECT r.rolbypassrls OR r.rolsuper FROM pg_catalog.pg_roles r WHERE r.rolname = role_name)
           AND (c.relforcerowsecurity OR NOT pg_catalog.pg_has_role(role_name, c.relowner, 'USAGE'))
        FROM pg_catalog.pg_class c WHERE c.oid = relation;
    END;

-- May a role read what a change says about its table? Not under row security, which the journal
-- cannot apply to former rows.
CREATE FUNCTION rowclaim.may_read(role_name name, table_name text) RETURNS boolean
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    relation oid := pg_catalog.to_regclass(table_name);
BEGIN
    IF pg_catalog.pg_has_role(role_name, 'pg_read_all_data', 'USAGE') THEN
        RETURN relation IS NULL OR NOT rowclaim.under_row_security(role_name, relation);
    END IF;
    -- A name that another table had before says nothing about who may read its history.
    IF EXISTS (SELECT FROM rowclaim.journaled_table j WHERE j.name = table_name AND j.relid::oid IS DISTINCT FROM relation) THEN
        RETURN false;
    END IF;
    RETURN relation IS NOT NULL
       AND pg_catalog.has_table_privilege(role_name, relation, 'SELECT')
       AND NOT rowclaim.under_row_security(role_name, relation);
END $$;

-- The changes a role may read; the text is kept as it is when that is all of them.
-- `strict`: a table under row security is an error, so that nobody takes a part for the whole.
CREATE FUNCTION rowclaim.visible_changes(role_name name, changes json, strict boolean) RETURNS json
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    hidden text[];
    secure text;
BEGIN
    SELECT pg_catalog.array_agg(t) INTO hidden
    FROM (SELECT DISTINCT e ->> 'table' AS t FROM pg_catalog.json_array_elements(changes) e) s
    WHERE t IS NOT NULL AND NOT rowclaim.may_read(role_name, t);
    IF hidden IS NULL THEN
        RETURN changes;
    END IF;
    SELECT t INTO secure FROM pg_catalog.unnest(hidden) t
    WHERE strict AND rowclaim.under_row_security(role_name, pg_catalog.to_regclass(t))
      AND pg_catalog.has_table_privilege(role_name, pg_catalog.to_regclass(t), 'SELECT')
    ORDER BY t LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'changes of % cannot be shown under row security', secure
            USING ERRCODE = 'insufficient_privilege',
                  DETAIL = pg_catalog.json_build_object('reason', 'row_security', 'table', secure),
                  HINT = 'Policies judge rows as they are, not as they were: pull as a role with BYPASSRLS, or without SELECT on the table.';
    END IF;
    RETURN coalesce((SELECT pg_catalog.json_agg(e ORDER BY n)
                     FROM pg_catalog.json_array_elements(changes) WITH ORDINALITY a(e, n)
                     WHERE e ->> 'table' IS NULL OR NOT (e ->> 'table' = ANY (hidden))), '[]');
END $$;
CREATE FUNCTION rowclaim.visible_changes_to_me(changes json) RETURNS json
    LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'rowclaim_visible_changes';
COMMENT ON FUNCTION rowclaim.visible_changes_to_me(json) IS 'The changes of tables the caller may SELECT.';
REVOKE ALL ON FUNCTION rowclaim.may_read(name, text), rowclaim.under_row_security(name, oid),
    rowclaim.visible_changes(name, json, boolean) FROM PUBLIC;

CREATE FUNCTION rowclaim.fill_gaps(journal text) RETURNS bigint
    LANGUAGE c AS 'MODULE_PATHNAME', 'rowclaim_fill_gaps';
COMMENT ON FUNCTION rowclaim.fill_gaps(text) IS
    'Writes a void entry for every number below the last entry whose commit has failed.';
REVOKE ALL ON FUNCTION rowclaim.fill_gaps(text) FROM PUBLIC;

-- The internal half: runs as the extension's owner on behalf of role_name.
CREATE FUNCTION rowclaim.pull(role_name name, consumer text, journal text, max_changesets int)
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

CREATE FUNCTION rowclaim.check_consumer(role_name name, this rowclaim.consumer) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF this.role <> role_name AND NOT (SELECT r.rolsuper FROM pg_catalog.pg_roles r WHERE r.rolname = role_name) THEN
        RAISE EXCEPTION 'consumer % belongs to role %', this.name, this.role
            USING ERRCODE = 'insufficient_privilege';
    END IF;
END $$;

CREATE FUNCTION rowclaim.ack(role_name name, consumer text, seq bigint, journal text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    this rowclaim.consumer;
BEGIN
    SELECT * INTO this FROM rowclaim.consumer c WHERE c.name = ack.consumer AND c.journal = ack.journal FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no consumer % of journal %', ack.consumer, ack.journal
            USING ERRCODE = 'invalid_parameter_value',
                  DETAIL = '{"reason":"invalid_parameter","parameter":"consumer"}',
                  HINT = 'A consumer exists from its first pull_changes().';
    END IF;
    PERFORM rowclaim.check_consumer(role_name, this);
    IF seq IS NULL OR seq > rowclaim.stable_seq(ack.journal) THEN
        RAISE EXCEPTION 'changeset % has not been read', seq
            USING ERRCODE = 'invalid_parameter_value',
                  DETAIL = '{"reason":"invalid_parameter","parameter":"seq"}',
                  HINT = 'Acknowledge a seq that pull_changes() returned.';
    END IF;
    UPDATE rowclaim.consumer c
    SET acked_seq = greatest(c.acked_seq, ack.seq), last_seen = pg_catalog.clock_timestamp()
    WHERE c.name = ack.consumer AND c.journal = ack.journal;
END $$;
CREATE FUNCTION rowclaim.detach(role_name name, consumer text, journal text) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    this rowclaim.consumer;
BEGIN
    SELECT * INTO this FROM rowclaim.consumer c WHERE c.name = detach.consumer AND c.journal = detach.journal FOR UPDATE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    PERFORM rowclaim.check_consumer(role_name, this);
    DELETE FROM rowclaim.consumer c WHERE c.name = detach.consumer AND c.journal = detach.journal;
    RETURN true;
END $$;
REVOKE ALL ON FUNCTION rowclaim.detach(name, text, text) FROM PUBLIC;
REVOKE ALL ON FUNCTION rowclaim.check_consumer(name, rowclaim.consumer) FROM PUBLIC;
REVOKE ALL ON FUNCTION rowclaim.pull(name, text, text, int), rowclaim.ack(name, text, bigint, text) FROM PUBLIC;

CREATE FUNCTION pull_changes(
    consumer text, journal text DEFAULT 'main', max_changesets int DEFAULT 100,
    OUT seq bigint, OUT part int, OUT parts int, OUT actor text, OUT committed_at timestamptz,
    OUT message text, OUT changes json) RETURNS SETOF record
    LANGUAGE c AS 'MODULE_PATHNAME', 'rowclaim_pull_changes';
COMMENT ON FUNCTION pull_changes(text, text, int) IS
    'The changesets this consumer has not acknowledged yet, in order, one row per part.';

CREATE FUNCTION ack_changes(consumer text, seq bigint, journal text DEFAULT 'main') RETURNS void
    LANGUAGE c AS 'MODULE_PATHNAME', 'rowclaim_ack_changes';
COMMENT ON FUNCTION ack_changes(text, bigint, text) IS
    'Moves the consumer''s position forward, never backward.';

CREATE FUNCTION detach_consumer(consumer text, journal text DEFAULT 'main') RETURNS boolean
    LANGUAGE c AS 'MODULE_PATHNAME', 'rowclaim_detach_consumer';
COMMENT ON FUNCTION detach_consumer(text, text) IS
    'Forgets a consumer, so that it no longer keeps entries from being pruned: true, or false when there was none.';
