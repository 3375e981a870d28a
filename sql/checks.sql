-- Finding what was damaged behind the extension's back, and repairing it.

CREATE FUNCTION rowclaim.owned_rows(target regclass) RETURNS TABLE (key text, owner text, draft bigint)
    LANGUAGE c AS 'MODULE_PATHNAME', 'rowclaim_owned_rows';
COMMENT ON FUNCTION rowclaim.owned_rows(regclass) IS 'The rows that have an owner or the stamp of an open draft.';

-- What enforcement needs of a table and does not find; enable_claims() with the same settings puts it back.
CREATE FUNCTION rowclaim.table_problems(target regclass) RETURNS SETOF text
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
CREATE FUNCTION rowclaim.column_repairs(target regclass, this rowclaim.enabled_table) RETURNS SETOF text
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
CREATE FUNCTION rowclaim.guard_again(root regclass) RETURNS void
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
CREATE FUNCTION rowclaim.row_problems(target regclass) RETURNS TABLE (key text, problem text)
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

CREATE FUNCTION rowclaim.repair_row(target regclass, key text) RETURNS void
    LANGUAGE c AS 'MODULE_PATHNAME', 'rowclaim_repair_row';
COMMENT ON FUNCTION rowclaim.repair_row(regclass, text) IS
    'Makes a row and what is known of its claim and draft agree; for the table''s owner. See check_claims().';

-- Every finding about one enabled table that exists.
CREATE FUNCTION rowclaim.check_enabled(this rowclaim.enabled_table) RETURNS TABLE (key jsonb, problem text, repair text)
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
CREATE FUNCTION rowclaim.installation_problems() RETURNS TABLE (problem text, repair text)
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
CREATE FUNCTION rowclaim.check_for(role_name name, wanted regclass) RETURNS TABLE (target regclass, key jsonb, problem text, repair text)
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

CREATE FUNCTION check_claims(relation regclass DEFAULT NULL, OUT target regclass, OUT key jsonb, OUT problem text, OUT repair text)
    RETURNS SETOF record
    LANGUAGE c AS 'MODULE_PATHNAME', 'rowclaim_check_claims';
COMMENT ON FUNCTION check_claims(regclass) IS
    'Everything damaged or inconsistent, with the statement that repairs it: of one table or all tables of the caller.';
REVOKE ALL ON FUNCTION rowclaim.owned_rows(regclass), rowclaim.table_problems(regclass), rowclaim.column_repairs(regclass, rowclaim.enabled_table),
    rowclaim.guard_again(regclass), rowclaim.row_exists(regclass, text), rowclaim.row_problems(regclass),
    rowclaim.check_enabled(rowclaim.enabled_table), rowclaim.installation_problems(), rowclaim.check_for(name, regclass) FROM PUBLIC;
