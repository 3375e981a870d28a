-- Ownership columns cannot be forged: not by UPDATE, INSERT, COPY, defaults, or triggers of the table's owner.
\pset tuples_only on
\pset format unaligned
SET client_min_messages = warning;
CREATE EXTENSION rowclaim;
-- Runs a statement: ok with its row count, or SQLSTATE and DETAIL without times.
CREATE FUNCTION expect(sql text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    detail text;
    n      int;
BEGIN
    EXECUTE sql;
    GET DIAGNOSTICS n = ROW_COUNT;
    RETURN $1 || ' -> ok ' || n;
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
    RETURN $1 || ' -> ' || SQLSTATE || ' ' || coalesce(nullif(regexp_replace(detail, '"since":"[^"]*"', '"since":"…"'), ''), SQLERRM);
END $$;
CREATE TABLE parts (id int PRIMARY KEY, name text, qty int DEFAULT 0);
INSERT INTO parts SELECT i, 'part ' || i FROM generate_series(1, 5) i;
SELECT enable_claims('parts');
SET rowclaim.actor = 'bob';
SELECT (claim_row('parts', 3)).status;
SET rowclaim.actor = 'alice';
SELECT (claim_row('parts', 1)).status;

-- UPDATE: rows of mine, of nobody, of another; alone and with data.
SELECT expect(sql) FROM (VALUES
    ('UPDATE parts SET row_owner = ''bob'' WHERE id = 1'),
    ('UPDATE parts SET row_owner = NULL WHERE id = 1'),
    ('UPDATE parts SET row_owner = ''alice'', qty = 1 WHERE id = 2'),
    ('UPDATE parts SET row_owner = ''alice'' WHERE id = 2'),
    ('UPDATE parts SET row_owner = ''alice'' WHERE id = 3'),
    ('UPDATE parts SET row_draft = 1 WHERE id = 1'),
    ('UPDATE parts SET row_draft = 1 WHERE id = 2'),
    ('UPDATE parts SET row_draft = 1 WHERE id = 3'),
    ('UPDATE parts SET row_version = 0 WHERE id = 1'),
    ('UPDATE parts SET row_version = 7 WHERE id = 2'),
    ('MERGE INTO parts p USING (VALUES (1)) v(id) ON v.id = p.id WHEN MATCHED THEN UPDATE SET row_owner = ''x'''),
    ('INSERT INTO parts VALUES (1) ON CONFLICT (id) DO UPDATE SET row_owner = ''x''')) s(sql);
-- The same value is no change; the rest of the row goes through.
SELECT expect('UPDATE parts SET row_owner = row_owner, row_draft = row_draft, qty = 1 WHERE id = 1');
SELECT expect('UPDATE parts SET row_owner = ''alice'', qty = 2 WHERE id = 1');

-- INSERT.
SELECT expect(sql) FROM (VALUES
    ('INSERT INTO parts (id, row_owner) VALUES (10, ''alice'')'),
    ('INSERT INTO parts (id, row_owner) VALUES (10, ''bob'')'),
    ('INSERT INTO parts (id, row_version) VALUES (10, 7)'),
    ('INSERT INTO parts (id, row_version) VALUES (10, -1)'),
    ('INSERT INTO parts (id, row_draft) VALUES (10, 999)'),
    ('INSERT INTO parts SELECT id + 10, name, qty, row_owner, row_version, row_draft FROM parts WHERE id = 1'),
    ('MERGE INTO parts p USING (VALUES (10)) v(id) ON v.id = p.id WHEN NOT MATCHED THEN INSERT (id, row_owner) VALUES (10, ''x'')'),
    ('COPY parts (id, row_owner) FROM PROGRAM ''echo 10,bob'' (FORMAT csv)'),
    ('COPY parts (id, row_version) FROM PROGRAM ''echo 10,5'' (FORMAT csv)'),
    ('COPY parts (id, row_draft) FROM PROGRAM ''echo 10,5'' (FORMAT csv)')) s(sql);
-- NULL owner, version 1 or 0 and no draft are what an INSERT means anyway (ORMs send them).
SELECT expect(sql) FROM (VALUES
    ('INSERT INTO parts VALUES (11, ''null'', 0, NULL, 1, NULL)'),
    ('INSERT INTO parts (id, row_version) VALUES (12, 0)'),
    ('COPY parts (id, row_owner, row_version, row_draft) FROM PROGRAM ''echo 13,,1,'' (FORMAT csv)')) s(sql);
SELECT id, row_owner, row_version, row_draft IS NOT NULL FROM parts WHERE id > 10 ORDER BY id;
SELECT key, op, actor FROM rowclaim.drafts ORDER BY key;
SET rowclaim.actor = 'bob';
SELECT expect('UPDATE parts SET qty = 5 WHERE id = ' || id) FROM generate_series(11, 13) id;
SET rowclaim.actor = 'alice';
SELECT commit_changes();

-- Defaults of the owner's making.
ALTER TABLE parts ALTER COLUMN row_owner SET DEFAULT 'bob';
SELECT expect('INSERT INTO parts VALUES (20)');
ALTER TABLE parts ALTER COLUMN row_owner DROP DEFAULT;
ALTER TABLE parts ALTER COLUMN row_draft SET DEFAULT 5;
SELECT expect('INSERT INTO parts VALUES (20)');
ALTER TABLE parts ALTER COLUMN row_draft SET DEFAULT rowclaim.draft_stamp();
-- The default of the version column is where versions start.
ALTER TABLE parts ALTER COLUMN row_version SET DEFAULT 5;
SELECT expect('INSERT INTO parts VALUES (20)');
SELECT expect('INSERT INTO parts (id, row_version) VALUES (21, 4)');
SELECT row_version FROM parts WHERE id = 20;
SELECT discard_changes();
ALTER TABLE parts ALTER COLUMN row_version SET DEFAULT 1;

-- Triggers of the owner that run before the guard, and after it (their names sort so).
CREATE FUNCTION forge_owner() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.row_owner := 'mallory'; RETURN NEW; END $$;
CREATE FUNCTION forge_no_owner() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.row_owner := NULL; RETURN NEW; END $$;
CREATE FUNCTION forge_version() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.row_version := 77; RETURN NEW; END $$;
CREATE FUNCTION forge_old_version() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.row_version := OLD.row_version; RETURN NEW; END $$;
CREATE FUNCTION forge_draft() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.row_draft := 77; RETURN NEW; END $$;
CREATE FUNCTION forge_no_draft() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.row_draft := NULL; RETURN NEW; END $$;
CREATE FUNCTION forge_old_draft() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.row_draft := OLD.row_draft; RETURN NEW; END $$;
CREATE FUNCTION forge_all_old() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.row_owner := OLD.row_owner; NEW.row_version := OLD.row_version; NEW.row_draft := OLD.row_draft; RETURN NEW;
END $$;
CREATE FUNCTION forge_data() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.name := 'changed by a trigger'; RETURN NEW; END $$;
CREATE FUNCTION forge_key() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.id := 55; RETURN NEW; END $$;
CREATE FUNCTION skip() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
-- One trigger at a time: event, name, function; then a write of mine.
CREATE FUNCTION with_trigger(name text, event text, function text, sql text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    result text;
BEGIN
    EXECUTE format('CREATE TRIGGER %I BEFORE %s ON parts FOR EACH ROW EXECUTE FUNCTION %s()', name, event, function);
    result := replace(expect(sql), sql, rpad(name, 10) || rpad(function, 20) || event);
    IF result ~ 'ok 1$' THEN
        result := result || (SELECT E'\n    ' || (to_jsonb(p) - 'row_draft')::text FROM parts p WHERE id IN (30, 1, 55) ORDER BY qty DESC, id DESC LIMIT 1)
            || coalesce((SELECT ' ' || json_agg(d.op) FROM rowclaim.drafts d), '');
    END IF;
    RAISE EXCEPTION SQLSTATE 'UNDO0';
EXCEPTION WHEN SQLSTATE 'UNDO0' THEN
    RETURN result;
END $$;
SELECT with_trigger(name, 'INSERT', function, 'INSERT INTO parts VALUES (30, ''new'')')
FROM unnest('{a_before,zz_after}'::text[]) name,
     unnest('{forge_owner,forge_no_owner,forge_version,forge_draft,forge_no_draft,forge_data,forge_key,skip}'::text[]) function;
SELECT with_trigger(name, 'UPDATE', function, 'UPDATE parts SET qty = qty + 1 WHERE id = 1')
FROM unnest('{a_before,zz_after}'::text[]) name,
     unnest('{forge_owner,forge_no_owner,forge_version,forge_old_version,forge_draft,forge_no_draft,forge_old_draft,forge_all_old,forge_data,forge_key,skip}'::text[]) function;
-- The same with the row dirty before, where no update event is queued.
UPDATE parts SET qty = 10 WHERE id = 1;
SELECT with_trigger('zz_after', 'UPDATE', function, 'UPDATE parts SET qty = qty + 1 WHERE id = 1')
FROM unnest('{forge_owner,forge_no_owner,forge_version,forge_old_version,forge_draft,forge_no_draft,forge_old_draft,forge_all_old,forge_data,forge_key,skip}'::text[]) function;
SELECT discard_changes();
-- An update that changes no data before the guard, some after it.
SELECT with_trigger(name, 'UPDATE', 'forge_data', 'UPDATE parts SET qty = qty WHERE id = ' || id) FROM unnest('{a_before,zz_after}'::text[]) name, unnest('{1,2}'::int[]) id;
SELECT with_trigger('zz_after', 'DELETE', 'skip', 'DELETE FROM parts WHERE id = 1');

-- A trigger cannot take a row that is not mine through any of this.
SELECT with_trigger(name, 'UPDATE', function, 'UPDATE parts SET qty = qty + 1 WHERE id = 3')
FROM unnest('{a_before,zz_after}'::text[]) name, unnest('{forge_owner,forge_no_owner,forge_all_old,forge_draft}'::text[]) function;
SELECT id, name, qty, row_owner, row_version FROM parts WHERE id <= 3 ORDER BY id;
SELECT key, owner FROM rowclaim.claims ORDER BY key;
SELECT count(*) FROM rowclaim.drafts;
