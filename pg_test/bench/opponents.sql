-- What claims are measured against, and a procedure that makes the same table in every way.

CREATE EXTENSION rowclaim;
-- What a session's process has used is read there.
GRANT EXECUTE ON FUNCTION pg_read_file(text) TO PUBLIC;
ALTER DEFAULT PRIVILEGES GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO PUBLIC;

-- Written by hand: an ownership check, a version, and a generic audit trigger.
CREATE TABLE audit_log (
    id    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at    timestamptz NOT NULL DEFAULT now(),
    actor text NOT NULL,
    tbl   text NOT NULL,
    op    text NOT NULL,
    old   jsonb,
    new   jsonb
);

CREATE FUNCTION hand_guard() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    -- A free row may be written only by taking it.
    IF OLD.owner IS DISTINCT FROM session_user
        AND (OLD.owner IS NOT NULL OR NEW.owner IS DISTINCT FROM session_user) THEN
        RAISE EXCEPTION 'row of % is held by %', TG_TABLE_NAME, OLD.owner;
    END IF;
    IF TG_OP = 'DELETE' THEN
        RETURN OLD;
    END IF;
    NEW.version := OLD.version + 1;
    RETURN NEW;
END $$;

-- As claiming => 'auto': a free row may be written by anybody.
CREATE FUNCTION hand_guard_auto() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.owner <> session_user THEN
        RAISE EXCEPTION 'row of % is held by %', TG_TABLE_NAME, OLD.owner;
    END IF;
    IF TG_OP = 'DELETE' THEN
        RETURN OLD;
    END IF;
    NEW.version := OLD.version + 1;
    RETURN NEW;
END $$;

CREATE FUNCTION hand_audit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO audit_log (actor, tbl, op, old, new)
    VALUES (session_user, TG_TABLE_NAME, TG_OP, to_jsonb(OLD), to_jsonb(NEW));
    RETURN NULL;
END $$;

CREATE PROCEDURE add_hand(target text, owner text, guard text DEFAULT 'hand_guard') LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('ALTER TABLE %I ADD COLUMN owner text DEFAULT %L, ADD COLUMN version bigint NOT NULL DEFAULT 1',
        target, owner);
    EXECUTE format('CREATE TRIGGER guard BEFORE UPDATE OR DELETE ON %I FOR EACH ROW EXECUTE FUNCTION %I()',
        target, guard);
    EXECUTE format('CREATE TRIGGER audit AFTER INSERT OR UPDATE OR DELETE ON %I
        FOR EACH ROW EXECUTE FUNCTION hand_audit()', target);
END $$;

-- Row security with an owner policy.
CREATE PROCEDURE add_rls(target text, owner text) LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('ALTER TABLE %I ADD COLUMN owner text DEFAULT %L', target, owner);
    EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', target);
    EXECUTE format('CREATE POLICY owner ON %I USING (owner = session_user)', target);
END $$;

-- The floor: what any BEFORE trigger costs.
CREATE PROCEDURE add_c_trigger(target text) LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('CREATE TRIGGER floor BEFORE UPDATE ON %I
        FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()', target);
END $$;

-- contestants('parts', 'alice'): the rows of the bare table parts in parts_hand, parts_rls, parts_c_trigger,
-- parts_claimed (enabled, nothing claimed yet) and parts_owned (an owner column and no trigger).
CREATE PROCEDURE contestants(source text, owner text DEFAULT NULL) LANGUAGE plpgsql AS $$
DECLARE
    kind text;
BEGIN
    FOREACH kind IN ARRAY '{hand,rls,c_trigger,claimed,owned}'::text[] LOOP
        EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING ALL)', source || '_' || kind, source);
        EXECUTE format('INSERT INTO %I TABLE %I', source || '_' || kind, source);
    END LOOP;
    CALL add_hand(source || '_hand', owner);
    CALL add_rls(source || '_rls', owner);
    CALL add_c_trigger(source || '_c_trigger');
    PERFORM enable_claims(format('%I', source || '_claimed')::regclass);
    EXECUTE format('ALTER TABLE %I ADD COLUMN owner text DEFAULT %L', source || '_owned', owner);
    FOREACH kind IN ARRAY '{"",_hand,_rls,_c_trigger,_claimed,_owned}'::text[] LOOP
        EXECUTE format('ANALYZE %I', source || kind);
    END LOOP;
END $$;

CREATE TABLE parts (
    id      int PRIMARY KEY,
    name    text NOT NULL,
    price   numeric(10,2) NOT NULL,
    stock   int NOT NULL,
    note    text,
    changed timestamptz NOT NULL
);
CREATE FUNCTION make_parts(rows int) RETURNS SETOF parts LANGUAGE sql AS
    'SELECT i, ''part number '' || i, i % 1000 / 10.0, i % 97, md5(i::text), timestamptz ''2026-01-01''
     FROM generate_series(1, rows) i';

-- Keys in an order that is not that of the table.
CREATE FUNCTION some_keys(count int, rows int) RETURNS int[] LANGUAGE sql IMMUTABLE AS
    'SELECT array_agg((i * 6700417::bigint) % rows + 1)::int[] FROM generate_series(0, count - 1) i';
