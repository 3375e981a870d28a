-- Where rowclaim takes a short way through PostgreSQL, and where it must not.
\pset tuples_only on
\pset format unaligned
SET client_min_messages = warning;
CREATE EXTENSION rowclaim;
CREATE FUNCTION expect(sql text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    detail text;
BEGIN
    EXECUTE sql;
    RETURN 'ok';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
    RETURN SQLSTATE || ' ' || coalesce(nullif(detail, ''), SQLERRM);
END $$;
CREATE FUNCTION committed() RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    committed bigint := commit_changes();
BEGIN
    RETURN QUERY SELECT json_array_elements(changes)::text FROM rowclaim.journal WHERE seq = committed ORDER BY part;
END $$;
SET rowclaim.actor = 'alice';

-- A BEFORE trigger that sorts after the guard changes what the guard has let pass: on a clean row, and on one that is
-- dirty, which the capture trigger need not look at otherwise.
CREATE TABLE t (id int PRIMARY KEY, v int, w int, code int UNIQUE);
INSERT INTO t SELECT i, i, i, i FROM generate_series(1, 8) i;
SELECT enable_claims('t', 'auto');
CREATE FUNCTION meddle() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    CASE current_setting('my.meddling', true)
        WHEN 'row_owner' THEN NEW.row_owner := 'mallory';
        WHEN 'row_version' THEN NEW.row_version := 99;
        WHEN 'row_version back' THEN NEW.row_version := OLD.row_version;
        WHEN 'row_draft' THEN NEW.row_draft := 99;
        WHEN 'row_draft away' THEN NEW.row_draft := NULL;
        WHEN 'id' THEN NEW.id := NEW.id + 100;
        WHEN 'w' THEN NEW.w := NEW.w * 10;
        WHEN 'code' THEN NEW.code := NULL;
        WHEN 'back' THEN NEW.v := OLD.v;
        ELSE NULL;
    END CASE;
    RETURN NEW;
END $$;
CREATE TRIGGER zz BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION meddle();
CREATE FUNCTION meddled(how text, sql text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('my.meddling', how, false);
    RETURN rpad(how, 17) || expect(sql);
END $$;
SELECT meddled(how, 'UPDATE t SET v = v + 1 WHERE id = 1') FROM unnest('{row_owner,row_version,row_version back,row_draft,row_draft away}'::text[]) how;
SELECT meddled(how, 'UPDATE t SET v = v WHERE id = 1') FROM unnest('{w,code,id}'::text[]) how;
SELECT count(*) FROM rowclaim.drafts;
SELECT meddled('', 'UPDATE t SET v = 20 WHERE id IN (1, 7)');
SELECT meddled('', 'UPDATE t SET v = 30 WHERE id IN (1, 7)');
SELECT meddled(how, 'UPDATE t SET v = v + 1 WHERE id = 1') FROM unnest('{row_owner,row_version,row_version back,row_draft,row_draft away}'::text[]) how;
SELECT meddled(how, 'UPDATE t SET v = v WHERE id = 1') FROM unnest('{w,code,id}'::text[]) how;
-- What goes along with a change of the statement's own is part of it.
SELECT meddled('w', 'UPDATE t SET v = 40 WHERE id IN (1, 2)');
SELECT meddled('code', 'UPDATE t SET v = 50 WHERE id IN (1, 3)');
SELECT meddled('back', 'UPDATE t SET v = 60 WHERE id = 4');
SELECT meddled('id', 'UPDATE t SET v = 60 WHERE id IN (6, 7)');
SELECT meddled('', 'UPDATE t SET v = 70 WHERE id = 2');
SELECT id, v, w, code, row_owner, row_version, row_draft IS NOT NULL FROM t ORDER BY id;
-- A unique value that only the trigger gave up is not there for others before the commit.
SET rowclaim.actor = 'bob';
INSERT INTO t VALUES (9, 9, 9, 1);
SELECT expect('SELECT commit_changes()');
SET rowclaim.actor = 'alice';
SELECT * FROM committed();
SET rowclaim.actor = 'bob';
SELECT * FROM committed();
SET rowclaim.actor = 'alice';

-- Version and stamp are written into the new row where it lies, past columns of every alignment, NULLs and dropped columns.
CREATE PROCEDURE lay_out(before text, after text, type text) LANGUAGE plpgsql AS $$
DECLARE
    columns name[];
    bad int;
BEGIN
    EXECUTE format('CREATE TABLE plain (id int PRIMARY KEY, n int NOT NULL DEFAULT 0, %s)', concat_ws(', ', nullif(before, ''), 'ver ' || type || ' NOT NULL DEFAULT 7', nullif(after, '')));
    -- NULL in column number i where bit i of the id is set; texts of many lengths.
    columns := ARRAY(SELECT attname FROM pg_attribute WHERE attrelid = 'plain'::regclass AND attnum > 2 AND attname <> 'ver' ORDER BY attnum);
    EXECUTE format('INSERT INTO plain (id, %s) SELECT g, %s FROM generate_series(0, 255) g', array_to_string(columns, ', '),
        (SELECT string_agg(format('CASE WHEN g & %s = 0 THEN (CASE WHEN %L LIKE ''t%%'' THEN repeat(''x'', g * g) ELSE (g %% 2)::text END)::%s END',
            1 << ((o - 1) % 8)::int, c, format_type(a.atttypid, a.atttypmod)), ', ' ORDER BY o)
         FROM unnest(columns) WITH ORDINALITY u(c, o) JOIN pg_attribute a ON a.attrelid = 'plain'::regclass AND a.attname = c));
    CREATE TABLE laid (LIKE plain INCLUDING ALL);
    INSERT INTO laid SELECT * FROM plain;
    PERFORM enable_claims('laid', 'auto', version_column => 'ver');
    FOR i IN 1..2 LOOP
        IF i = 2 THEN
            EXECUTE format('ALTER TABLE laid DROP COLUMN %I', columns[1]);
            EXECUTE format('ALTER TABLE plain DROP COLUMN %I', columns[1]);
        END IF;
        -- The first has a stamp to add, the others find it there.
        FOR j IN 1..3 LOOP
            UPDATE laid SET n = n + 1;
            UPDATE plain SET n = n + 1, ver = ver + 1;
        END LOOP;
        EXECUTE format('UPDATE laid SET n = n + 1, %1$I = NULL', columns[2]);
        EXECUTE format('UPDATE plain SET n = n + 1, ver = ver + 1, %1$I = NULL', columns[2]);
        SELECT count(*) INTO bad FROM plain FULL JOIN laid ON plain.id = laid.id
        WHERE to_jsonb(laid) - '{row_owner,row_draft}'::text[] IS DISTINCT FROM to_jsonb(plain)
           OR laid.row_draft IS DISTINCT FROM (SELECT max(id) FROM rowclaim.draft) OR laid.row_owner IS NOT NULL;
        IF bad > 0 THEN RAISE WARNING '% rows of (%, ver %, %) are wrong', bad, before, type, after; END IF;
    END LOOP;
    PERFORM discard_changes();
    SELECT count(*) INTO bad FROM laid WHERE n <> 0 OR ver <> 7 OR row_draft IS NOT NULL;
    IF bad > 0 THEN RAISE WARNING '% rows of (%, ver %, %) are not as they were', bad, before, type, after; END IF;
    DROP TABLE laid, plain;
END $$;
DO $$
DECLARE
    types text[] := '{boolean,text,int2,"char",int8,t2 text,numeric,bit(3)}';
    sides text[];
BEGIN
    FOR i IN 0..7 LOOP
        -- The same columns, each time another one first, so that the version column comes at every alignment.
        sides := ARRAY(SELECT format('%s%s %s', CASE WHEN t LIKE 't%' THEN 't' ELSE 'c' END, o, replace(t, 't2 ', '')) FROM unnest(types[i + 1:] || types[:i]) WITH ORDINALITY u(t, o));
        CALL lay_out(array_to_string(sides[:4], ', '), array_to_string(sides[5:], ', '), CASE WHEN i % 2 = 0 THEN 'int' ELSE 'bigint' END);
        CALL lay_out('', array_to_string(sides, ', '), 'int');
        CALL lay_out(array_to_string(sides, ', '), '', 'bigint');
    END LOOP;
END $$;

-- An administrator's own indexes on rowclaim's tables are kept up: with an expression, a condition, and plain.
CREATE INDEX claim_by_owner ON rowclaim.claim (upper(owner));
CREATE INDEX draft_row_by_length ON rowclaim.draft_row (length(key)) WHERE op <> 'x';
CREATE INDEX draft_by_start ON rowclaim.draft (started_at);
CREATE TABLE many (id int PRIMARY KEY, v int);
INSERT INTO many SELECT i, 0 FROM generate_series(1, 300) i;
SELECT enable_claims('many');
-- Rows that are found by each index, and that are there.
CREATE FUNCTION indexed() RETURNS SETOF text LANGUAGE plpgsql SET enable_seqscan = off SET enable_bitmapscan = off AS $$
DECLARE
    query text;
    plan  text;
    found bigint;
    there bigint;
BEGIN
    FOREACH query IN ARRAY ARRAY['rowclaim.claim WHERE upper(owner) = ''ALICE''', 'rowclaim.draft_row WHERE length(key) BETWEEN 1 AND 20 AND op <> ''x''',
                                 'rowclaim.draft WHERE started_at > ''2000-01-01'''] LOOP
        EXECUTE 'EXPLAIN (COSTS OFF, FORMAT json) SELECT count(*) FROM ' || query INTO plan;
        EXECUTE 'SELECT count(*) FROM ' || query INTO found;
        EXECUTE 'SELECT count(*) FROM ' || split_part(query, ' WHERE', 1) INTO there;
        RETURN NEXT format('%s: %s of %s', substring(plan FROM '"Index Name": "(\w+)"'), found, there);
    END LOOP;
END $$;
SELECT count(*) FROM claim_rows('many', ARRAY(SELECT generate_series(1, 300)));
UPDATE many SET v = 1 WHERE id <= 200;
DELETE FROM many WHERE id <= 50;
INSERT INTO many SELECT i, 0 FROM generate_series(301, 350) i;
SELECT * FROM indexed();
UPDATE many SET v = 2 WHERE id BETWEEN 100 AND 250;
SELECT discard_changes(target => 'many', key => '60');
SELECT release_row('many', i) FROM generate_series(291, 300) i GROUP BY 1;
SELECT * FROM indexed();
SELECT commit_changes(release => true) IS NOT NULL;
SELECT * FROM indexed();
SELECT * FROM check_claims();

-- Texts that rowclaim makes without the server's output functions are the same.
CREATE TABLE said (id int PRIMARY KEY, i int8, n numeric, t timestamp, z timestamptz, changed boolean);
SET TimeZone = 'UTC';
SET DateStyle = ISO;
INSERT INTO said
SELECT g, (g - 2000) * 4611686018427387::bigint,
       CASE g % 4 WHEN 0 THEN round((g - 1000) * 1e7 / 7, g % 23 - 3) WHEN 1 THEN (g - 2000) * 10::numeric ^ (g % 60 - 30)
                  WHEN 2 THEN trunc((g - 2000) / 3.0, 40) / 10::numeric ^ (g % 80) ELSE g * 10::numeric ^ (g % 90) END,
       timestamp '0001-01-01' + g * interval '913 days 07:08:09' + g % 7 * g * interval '1 microsecond',
       timestamptz '9999-12-31 23:59:59.99+00' - g * interval '1 year 30 days' - g % 3 * interval '0.1 seconds'
FROM generate_series(0, 4000) g;
INSERT INTO said (id, n, t, z)
SELECT -row_number() OVER (), n::numeric, t::timestamp, t::timestamptz
FROM unnest('{0,0.00,-0.0,NaN,-Infinity,1e-16383,-9999.99990000,10000,99999999}'::text[],
            '{infinity,-infinity,0001-01-01,0001-01-01 BC,9999-12-31 23:59:59.999999,10000-01-01,4714-11-24 BC,2000-02-29 12:34:56.000001,1999-12-31 23:59:59.999999}'::text[]) u(n, t);
SELECT enable_claims('said', 'auto');
UPDATE said SET changed = true;
SELECT count(*), count(*) FILTER (WHERE i::text IS DISTINCT FROM base->>'i'),
       count(*) FILTER (WHERE n::text IS DISTINCT FROM base->>'n'),
       count(*) FILTER (WHERE t::text IS DISTINCT FROM base->>'t'), count(*) FILTER (WHERE z::text IS DISTINCT FROM base->>'z')
FROM said JOIN (SELECT key, base::json FROM rowclaim.draft_row) d ON d.key = format('{"id":%s}', id);
SELECT discard_changes();
