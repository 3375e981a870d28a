-- DDL on enabled tables: what would break enforcement is refused with the call that does it
-- properly; dropped tables leave nothing behind; renamed, added and retyped columns are followed.

CREATE FUNCTION rowclaim.refuse(target text, problem text, hint text) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION '%', problem
        USING ERRCODE = 'object_in_use', HINT = hint,
              DETAIL = '{"reason":"operation_refused","table":' || pg_catalog.to_json(target) || '}';
END $$;

-- Why a relation cannot be enabled; no row when it can.
CREATE FUNCTION rowclaim.unsupported(relid oid, OUT problem text, OUT hint text) RETURNS SETOF record
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

-- Attribute number to name and type.
CREATE FUNCTION rowclaim.column_map(relation oid) RETURNS jsonb
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
    BEGIN ATOMIC
        SELECT pg_catalog.jsonb_object_agg(a.attnum, pg_catalog.jsonb_build_array(
                   a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod)))
        FROM pg_catalog.pg_attribute a
        WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped;
    END;

CREATE FUNCTION rowclaim.key_columns(relation oid) RETURNS name[]
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
    BEGIN ATOMIC
        SELECT ARRAY(SELECT a.attname FROM pg_catalog.unnest(i.indkey) WITH ORDINALITY k(n, o)
                     JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.n ORDER BY k.o)
        FROM pg_catalog.pg_index i WHERE i.indrelid = relation AND i.indisprimary;
    END;

CREATE FUNCTION rowclaim.row_image(target regclass, key text) RETURNS text
    LANGUAGE c AS 'MODULE_PATHNAME', 'rowclaim_row_image';
COMMENT ON FUNCTION rowclaim.row_image(regclass, text) IS 'The present row under a canonical key as JSON; NULL: none.';
CREATE FUNCTION rowclaim.recode_image(target regclass, image text) RETURNS text
    LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'rowclaim_recode_image';
COMMENT ON FUNCTION rowclaim.recode_image(regclass, text) IS 'A row image as the present column types write it.';

-- A JSON object's text with one name replaced and every value kept to the letter.
CREATE FUNCTION rowclaim.rename_in(image text, old name, new name) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT SET search_path = pg_catalog, pg_temp
    BEGIN ATOMIC
        SELECT '{' || pg_catalog.string_agg(
                   pg_catalog.to_json(CASE WHEN e.key = old::text THEN new::text ELSE e.key END)::text
                   || ':' || e.value::text, ',' ORDER BY e.n) || '}'
        FROM pg_catalog.json_each(image::json) WITH ORDINALITY e(key, value, n);
    END;

CREATE FUNCTION rowclaim.is_owned(relation regclass, owner_column name, draft_column name) RETURNS boolean
    LANGUAGE c AS 'MODULE_PATHNAME', 'rowclaim_is_owned';
COMMENT ON FUNCTION rowclaim.is_owned(regclass, name, name) IS 'Does any row have an owner or a stamp already?';

-- Row triggers reach partitions by themselves; TRUNCATE triggers do not. It may be there already, from the schema of a dump.
CREATE FUNCTION rowclaim.guard_partition(leaf regclass) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    EXECUTE pg_catalog.format('CREATE OR REPLACE TRIGGER rowclaim_truncate BEFORE TRUNCATE ON %s
                               FOR EACH STATEMENT EXECUTE FUNCTION rowclaim.capture()', leaf);
    EXECUTE pg_catalog.format('ALTER TABLE %s ENABLE ALWAYS TRIGGER rowclaim_truncate', leaf);
END $$;

-- What has been done is remembered, so that restoring a dump does not meet triggers it is about to create.
CREATE FUNCTION rowclaim.guard_partitions(root regclass) RETURNS void
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

CREATE FUNCTION rowclaim.unguard_partitions(root regclass) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    leaf regclass;
BEGIN
    FOR leaf IN SELECT t.relid FROM pg_catalog.pg_partition_tree(root) t WHERE t.relid <> root LOOP
        EXECUTE pg_catalog.format('DROP TRIGGER IF EXISTS rowclaim_truncate ON %s', leaf);
    END LOOP;
END $$;

-- A JSON object's text without one name.
CREATE FUNCTION rowclaim.remove_from(image text, name text) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT SET search_path = pg_catalog, pg_temp
    BEGIN ATOMIC
        SELECT '{' || coalesce(pg_catalog.string_agg(pg_catalog.to_json(e.key)::text || ':' || e.value::text, ',' ORDER BY e.n), '') || '}'
        FROM pg_catalog.json_each(image::json) WITH ORDINALITY e(key, value, n) WHERE e.key <> remove_from.name;
    END;

-- A row image with the value of one column cast from one type to another, as ALTER TABLE does.
CREATE FUNCTION rowclaim.retype_in(image text, name text, old_type text, new_type text) RETURNS text
    LANGUAGE plpgsql STRICT SET search_path = pg_catalog, pg_temp SET extra_float_digits = 3 AS $$
DECLARE
    content text := image::json ->> name;
BEGIN
    IF content IS NULL THEN
        RETURN image;
    END IF;
    EXECUTE pg_catalog.format('SELECT (($1::%s)::%s)::text', old_type, new_type) INTO content USING content;
    RETURN (
        SELECT '{' || pg_catalog.string_agg(pg_catalog.to_json(e.key)::text || ':' || CASE
                   WHEN e.key <> retype_in.name THEN e.value::text
                   ELSE coalesce(pg_catalog.to_json(content)::text, 'null') END, ',' ORDER BY e.n) || '}'
        FROM pg_catalog.json_each(image::json) WITH ORDINALITY e(key, value, n));
END $$;

-- Follows renamed, dropped, added and retyped columns in everything that was recorded by name.
CREATE FUNCTION rowclaim.follow_columns(this rowclaim.enabled_table) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    now   jsonb := rowclaim.column_map(this.relid);
    old   jsonb := this.columns;
    c       record;
    retyped boolean := false;
    added   text[];
BEGIN
    IF now = old THEN
        RETURN;
    END IF;
    UPDATE rowclaim.enabled_table t SET columns = now WHERE t.relid = this.relid;
    -- The same columns under other numbers: the table was restored from a dump.
    IF (SELECT pg_catalog.jsonb_agg(v ORDER BY v) FROM pg_catalog.jsonb_each(old) e(k, v))
     = (SELECT pg_catalog.jsonb_agg(v ORDER BY v) FROM pg_catalog.jsonb_each(now) e(k, v)) THEN
        RETURN;
    END IF;
    FOR c IN SELECT o.v ->> 0 AS was FROM pg_catalog.jsonb_each(old) o(k, v) WHERE NOT now ? o.k LOOP
        UPDATE rowclaim.draft_row r SET base = rowclaim.remove_from(r.base, c.was) WHERE r.relid = this.relid;
        UPDATE rowclaim.enabled_table t SET untracked = pg_catalog.array_remove(t.untracked, c.was::name)
        WHERE t.relid = this.relid;
    END LOOP;
    FOR c IN SELECT o.v ->> 0 AS was, n.v ->> 0 AS is_now
             FROM pg_catalog.jsonb_each(old) o(k, v) JOIN pg_catalog.jsonb_each(now) n(k, v) USING (k)
             WHERE o.v ->> 0 <> n.v ->> 0
    LOOP
        UPDATE rowclaim.draft_row r
        SET base = rowclaim.rename_in(r.base, c.was::name, c.is_now::name),
            key = rowclaim.rename_in(r.key, c.was::name, c.is_now::name),
            base_key = rowclaim.rename_in(r.base_key, c.was::name, c.is_now::name)
        WHERE r.relid = this.relid;
        UPDATE rowclaim.stash s
        SET base = rowclaim.rename_in(s.base, c.was::name, c.is_now::name),
            mine = rowclaim.rename_in(s.mine, c.was::name, c.is_now::name),
            key = rowclaim.rename_in(s.key, c.was::name, c.is_now::name)
        WHERE s.relid = this.relid;
        UPDATE rowclaim.claim k SET key = rowclaim.rename_in(k.key, c.was::name, c.is_now::name)
        WHERE k.relid = this.relid;
        UPDATE rowclaim.enabled_table t
        SET untracked = pg_catalog.array_replace(t.untracked, c.was::name, c.is_now::name),
            key_columns = pg_catalog.array_replace(t.key_columns, c.was::name, c.is_now::name)
        WHERE t.relid = this.relid;
    END LOOP;
    FOR c IN SELECT n.v ->> 0 AS name, o.v ->> 1 AS was, n.v ->> 1 AS is_now
             FROM pg_catalog.jsonb_each(old) o(k, v) JOIN pg_catalog.jsonb_each(now) n(k, v) USING (k)
             WHERE o.v ->> 1 <> n.v ->> 1
    LOOP
        retyped := true;
        -- Casts of user-defined types are user code, which must not run here: those types go by their text.
        CONTINUE WHEN EXISTS (SELECT FROM pg_catalog.unnest(ARRAY[c.was, c.is_now]) w(type)
                              LEFT JOIN pg_catalog.pg_type t ON t.oid = pg_catalog.to_regtype(w.type)
                              WHERE t.typnamespace IS DISTINCT FROM 'pg_catalog'::regnamespace);
        UPDATE rowclaim.draft_row r SET base = rowclaim.retype_in(r.base, c.name, c.was, c.is_now)
        WHERE r.relid = this.relid;
    END LOOP;
    IF retyped THEN
        UPDATE rowclaim.draft_row r SET base = rowclaim.recode_image(r.relid, r.base) WHERE r.relid = this.relid;
    END IF;
    -- A new column is part of every draft from now on, with the value ADD COLUMN gave it.
    added := ARRAY(SELECT n.v ->> 0 FROM pg_catalog.jsonb_each(now) n(k, v) WHERE NOT old ? n.k);
    IF added <> '{}' THEN
        UPDATE rowclaim.draft_row r
        SET base = pg_catalog.regexp_replace(r.base, '\}$', '') || coalesce((
                SELECT pg_catalog.string_agg(',' || pg_catalog.to_json(e.key)::text || ':' || e.value::text, '' ORDER BY e.key)
                FROM pg_catalog.json_each(rowclaim.row_image(r.relid, r.key)::json) e(key, value)
                WHERE e.key = ANY (added)), '') || '}'
        WHERE r.relid = this.relid AND r.base IS NOT NULL;
    END IF;
END $$;

-- Is everything in place that enforcement needs?
CREATE FUNCTION rowclaim.check_table(target regclass) RETURNS void
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

-- Notes under which names tables are journaled, for those who read their history later.
CREATE FUNCTION rowclaim.remember_names() RETURNS void
    LANGUAGE sql SET search_path = pg_catalog, pg_temp
    BEGIN ATOMIC
        INSERT INTO rowclaim.journaled_table (name, relid)
        SELECT t.relid::text, t.relid FROM rowclaim.enabled_table t
        WHERE NOT EXISTS (SELECT FROM rowclaim.journaled_table j WHERE j.name = t.relid::text AND j.relid = t.relid);
        -- Published claims go by the name, too.
        UPDATE rowclaim.claim c SET key = c.key
        FROM rowclaim.published_claim p WHERE p.relid = c.relid AND p.key = c.key AND p.target <> c.relid::regclass::text;
    END;

CREATE FUNCTION rowclaim.computes(command pg_ddl_command, column_name name) RETURNS boolean
    LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'rowclaim_computes';
COMMENT ON FUNCTION rowclaim.computes(pg_ddl_command, name) IS
    'Does an ALTER TABLE give the column new values by TYPE ... USING?';

CREATE FUNCTION rowclaim.on_ddl_end() RETURNS event_trigger
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

CREATE FUNCTION rowclaim.on_drop() RETURNS event_trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    d    record;
    this rowclaim.enabled_table;
BEGIN
    FOR d IN SELECT * FROM pg_catalog.pg_event_trigger_dropped_objects() LOOP
        IF d.classid = 'pg_class'::regclass AND d.objsubid = 0 THEN
            DELETE FROM rowclaim.claim WHERE relid = d.objid;
            DELETE FROM rowclaim.draft_row WHERE relid = d.objid;
            DELETE FROM rowclaim.stash WHERE relid = d.objid;
            DELETE FROM rowclaim.enabled_table WHERE relid = d.objid;
            -- A dropped partition takes its rows, their drafts and claims with it.
            DELETE FROM rowclaim.draft_row WHERE leaf = d.objid AND op = 'd';
            UPDATE rowclaim.enabled_table SET partitions = pg_catalog.array_remove(partitions, d.objid::regclass)
            WHERE d.objid = ANY (partitions::oid[]);
        ELSIF d.object_type IN ('table column', 'trigger', 'table constraint') THEN
            this := NULL;
            SELECT t.* INTO this FROM rowclaim.enabled_table t
            JOIN pg_catalog.pg_class k ON k.oid = t.relid
            JOIN pg_catalog.pg_namespace n ON n.oid = k.relnamespace
            WHERE n.nspname = d.address_names[1] AND k.relname = d.address_names[2];
            IF NOT FOUND AND d.object_type = 'trigger' THEN
                -- A partition's own trigger.
                SELECT t.* INTO this FROM rowclaim.enabled_table t JOIN pg_catalog.pg_class k ON k.oid = ANY (t.partitions::oid[])
                JOIN pg_catalog.pg_namespace n ON n.oid = k.relnamespace
                WHERE n.nspname = d.address_names[1] AND k.relname = d.address_names[2];
            END IF;
            CONTINUE WHEN this.relid IS NULL;
            IF d.object_type = 'trigger' AND d.address_names[3] IN
               ('rowclaim_guard', 'rowclaim_capture', 'rowclaim_truncate') THEN
                PERFORM rowclaim.refuse(this.relid::text,
                    pg_catalog.format('trigger %s of %s enforces claims', d.address_names[3], this.relid),
                    pg_catalog.format('Call disable_claims(%L).', this.relid::text));
            ELSIF d.object_type = 'table column' AND d.address_names[3] IN
               (this.owner_column, this.version_column, this.draft_column) THEN
                PERFORM rowclaim.refuse(this.relid::text,
                    pg_catalog.format('column %s of %s is maintained by rowclaim', d.address_names[3], this.relid),
                    pg_catalog.format('Call disable_claims(%L, drop_columns => true).', this.relid::text));
            ELSIF rowclaim.key_columns(this.relid) IS NULL THEN
                PERFORM rowclaim.refuse(this.relid::text,
                    pg_catalog.format('the primary key of %s identifies claimed rows', this.relid),
                    pg_catalog.format('Call disable_claims(%L) first.', this.relid::text));
            END IF;
        END IF;
    END LOOP;
    -- What was known of rows that went with a partition.
    DELETE FROM rowclaim.draft_row r USING rowclaim.enabled_table t, pg_catalog.pg_class k
    WHERE t.relid = r.relid AND k.oid = t.relid AND k.relkind = 'p' AND r.op <> 'd'
      AND EXISTS (SELECT FROM pg_catalog.pg_event_trigger_dropped_objects() o WHERE o.object_type = 'table')
      AND rowclaim.row_image(r.relid, r.key) IS NULL;
    DELETE FROM rowclaim.claim c USING rowclaim.enabled_table t, pg_catalog.pg_class k
    WHERE t.relid = c.relid AND k.oid = t.relid AND k.relkind = 'p'
      AND EXISTS (SELECT FROM pg_catalog.pg_event_trigger_dropped_objects() o WHERE o.object_type = 'table')
      AND rowclaim.row_image(c.relid, c.key) IS NULL
      AND NOT EXISTS (SELECT FROM rowclaim.draft_row r WHERE r.relid = c.relid AND r.key = c.key);
END $$;

REVOKE ALL ON FUNCTION rowclaim.remember_names(), rowclaim.refuse(text, text, text), rowclaim.unsupported(oid), rowclaim.column_map(oid),
    rowclaim.key_columns(oid), rowclaim.row_image(regclass, text), rowclaim.recode_image(regclass, text), rowclaim.is_owned(regclass, name, name),
    rowclaim.rename_in(text, name, name), rowclaim.guard_partition(regclass), rowclaim.guard_partitions(regclass), rowclaim.unguard_partitions(regclass),
    rowclaim.remove_from(text, text), rowclaim.retype_in(text, text, text, text),
    rowclaim.follow_columns(rowclaim.enabled_table), rowclaim.check_table(regclass),
    rowclaim.computes(pg_ddl_command, name), rowclaim.on_ddl_end(), rowclaim.on_drop() FROM PUBLIC;

CREATE EVENT TRIGGER rowclaim_ddl_end ON ddl_command_end
    WHEN TAG IN ('ALTER TABLE', 'CREATE TABLE', 'ALTER TRIGGER', 'CREATE TRIGGER', 'CREATE SCHEMA', 'ALTER SCHEMA')
    EXECUTE FUNCTION rowclaim.on_ddl_end();
ALTER EVENT TRIGGER rowclaim_ddl_end ENABLE ALWAYS;
CREATE EVENT TRIGGER rowclaim_drop ON sql_drop EXECUTE FUNCTION rowclaim.on_drop();
ALTER EVENT TRIGGER rowclaim_drop ENABLE ALWAYS;
