-- Lossless values: every built-in type, its array, and types of all kinds made of them, through the journal, discard and keys,
-- under hostile session settings, compared bit by bit (*= compares the stored bytes).
\set ON_ERROR_STOP on
\pset tuples_only on
\pset format unaligned
SET client_min_messages = warning;
SET DateStyle = ISO;
SET TimeZone = UTC;
SET IntervalStyle = postgres;
CREATE EXTENSION rowclaim;
CREATE SCHEMA "Nasty "" schema";
SET search_path = "Nasty "" schema", public;

-- Samples: type, values in their text form.
CREATE TABLE public.sample (type text, vals text[]);
INSERT INTO public.sample VALUES
    ('bool', '{t,f}'), ('int2', '{0,-32768,32767}'), ('int4', '{0,-2147483648,2147483647}'),
    ('int8', '{0,-9223372036854775808,9223372036854775807,9007199254740993}'), ('oid', '{0,4294967295,2147483648}'),
    ('float4', '{NaN,Infinity,-Infinity,-0,0,1e-45,3.4028235e38,0.1,16777217,1e10,1.17549435e-38,-123456.79}'),
    ('float8', '{NaN,Infinity,-Infinity,-0,0,5e-324,1.7976931348623157e308,0.1,0.30000000000000004,1e15,1e16,123456789012345678,2.2250738585072014e-308}'),
    ('numeric', ARRAY['NaN', 'Infinity', '-Infinity', '0', '0.00', '1', '1.0', '1.00', '1e131071', '-1e-16383', '100000000000000000000',
                      '0.' || repeat('123456789', 400), repeat('9', 5000) || '.' || repeat('9', 5000), '12345678901234567890.000']),
    ('money', '{0,-92233720368547758.08,92233720368547758.07,0.01,-1234567.89}'),
    ('bytea', ARRAY['', '\x00', '\x' || (SELECT string_agg(lpad(to_hex(i), 2, '0'), '' ORDER BY i) FROM generate_series(0, 255) i), '\x5c78']),
    ('uuid', '{00000000-0000-0000-0000-000000000000,ffffffff-ffff-ffff-ffff-ffffffffffff}'),
    ('date', '{infinity,-infinity,4714-11-24 BC,5874897-12-31,0001-12-31 BC,2000-02-29,0099-03-04,2001-02-03}'),
    ('time', '{00:00:00,24:00:00,23:59:59.999999,12:00:00.1}'),
    ('timetz', '{00:00:00-15:59:59,24:00:00+15:59:59,12:00:00.000001+05:45:30,01:02:03+00}'),
    ('timestamp', '{infinity,-infinity,4714-11-24 00:00:00 BC,294276-12-31 23:59:59.999999,2001-02-03 04:05:06.7,1883-11-18 12:03:58}'),
    ('timestamptz', '{infinity,-infinity,4714-11-24 00:00:00+00 BC,294276-12-31 23:59:59.999999+00,2001-02-03 04:05:06.7+00,1883-11-18 12:03:58+00,2026-10-25 01:30:00+00,2026-10-25 00:30:00+00}'),
    ('interval', '{0,1 mon,-1 mon,30 days,720:00:00,178956970 years 7 mons,-178956970 years -8 mons,2147483647 days,-2147483648 days,2562047788:00:54.775807,-2562047788:00:54.775807,-1 year -2 mons +3 days -04:05:06.789,1 day -00:00:00.000001,-1 day}'),
    ('xid', '{0,4294967295}'), ('cid', '{0,4294967295}'), ('xid8', '{0,18446744073709551615}'), ('pg_lsn', '{0/0,FFFFFFFF/FFFFFFFF}'),
    ('tid', '{"(0,0)","(4294967295,65535)"}'), ('pg_snapshot', '{"10:20:10,14,15",1:1:}'), ('txid_snapshot', '{"10:20:10,14,15",1:1:}'),
    ('int2vector', '{"",1 -2 32767}'), ('oidvector', '{"",1 2 4294967295}'),
    ('point', '{"(0,-0)","(NaN,Infinity)","(1e-300,0.1)"}'), ('line', '{"{1,2,0.1}","{-1,0,1e300}"}'),
    ('lseg', '{"[(0,0),(0.1,-0)]"}'), ('box', '{"(1,1),(0.1,-0)","(Infinity,1),(0,-Infinity)"}'),
    ('path', '{"[(0,0),(1,1),(2,0.1)]","((0,0),(1,1))"}'), ('polygon', '{"((0,0),(1,1),(2,0.1))"}'), ('circle', '{"<(0,0.1),0>","<(1,1),Infinity>"}'),
    ('inet', '{0.0.0.0/0,10.1.2.3/8,10.1.2.3,::ffff:1.2.3.4/100,::/0}'), ('cidr', '{10.0.0.0/8,10.1.2.3/32,::/0,2001:db8::/32}'),
    ('macaddr', '{00:00:00:00:00:00,ff:ff:ff:ff:ff:ff}'), ('macaddr8', '{00:00:00:00:00:00:00:00,ff:ff:ff:ff:ff:ff:ff:fe}'),
    ('bit', '{"",0,1,10101,000000000}'), ('varbit', '{"",0,1,10101,000000000}'),
    ('tsvector', ARRAY['', $$'a':1A,2B,16383C 'b c' '''q''' '\\'$$, $$' '$$]),
    ('tsquery', ARRAY['', $$'a' & !( 'b' | 'c':*AB ) <3> '''d \\'$$]),
    ('json', ARRAY['null', '{"a":1, "a" : 2,"b":[1.00,-0,1e400]}', '"\u0000\ud83d\ude00"', '  [ ]  ', '"x"', '1.00', E'{\n\t"k":"\\\\"}', 'true']),
    ('jsonb', ARRAY['null', '{"a":1.00,"":{}}', '"null"', '"\" \\ 😀 \u0001"', '1.00', '1.0', '-0.0', '[]', '"x"', 'false', '1e300']),
    ('jsonpath', ARRAY['strict $."a b"[*] ? (@ > 1.50 && @.x like_regex "^\\d" flag "i")', '$']),
    ('xml', ARRAY['', '<a b="c">&lt;é</a>', 'text &amp; <b/> content', '<?xml version="1.0" standalone="yes"?><a/>', E'<a>\t</a>']),
    ('xml verbatim', ARRAY['<?xml version="1.0" encoding="UTF-8"?><a/>', E'\n\n<a/>']),
    ('refcursor', ARRAY['', '<unnamed portal 1>']), ('regclass', '{-,pg_class,pg_toast.pg_toast_1255,information_schema.tables,4294967295,public.sample,"\"Nasty \"\" schema\".\"Odd.Table\""}'),
    ('regcollation', '{-,"\"C\"","\"POSIX\""}'), ('regconfig', '{-,simple,english}'), ('regdictionary', '{-,simple}'),
    ('regnamespace', '{-,pg_catalog,public,"\"Nasty \"\" schema\""}'), ('regoper', '{0,pg_catalog.||/,4294967295}'),
    ('regoperator', '{0,"+(integer,integer)","-(NONE,integer)"}'), ('regproc', '{-,pg_catalog.boolin,4294967295}'),
    ('regprocedure', '{-,"abs(integer)","now()","public.f(timestamp with time zone,\"Nasty \"\" schema\".mood[])"}'),
    ('regrole', '{-,pg_read_all_data}'), ('regtype', '{-,integer,timestamp with time zone[],"\"Nasty \"\" schema\".mood",public.sample,"\"char\"",bit}'),
    ('int4range', '{empty,"(,)","[1,)","[-5,7)"}'), ('int8range', '{empty,"(,)","[1,9223372036854775807)"}'),
    ('numrange', '{empty,"[1.0,1.00]","(,NaN]","[-Infinity,Infinity)"}'), ('daterange', '{empty,"[-infinity,infinity]","[0001-01-01 BC,2001-02-03)"}'),
    ('tsrange', '{empty,"[\"0001-01-01 00:00:00 BC\",\"2001-02-03 04:05:06\"]"}'),
    ('tstzrange', '{empty,"(\"2001-02-03 04:05:06+00\",infinity]","[\"0001-01-01 00:00:00+00 BC\",)"}'),
    ('int4multirange', '{"{}","{[1,3),[5,)}"}'), ('int8multirange', '{"{}","{(,1),[3,5)}"}'), ('nummultirange', '{"{}","{[1.0,1.00],(2,NaN)}"}'),
    ('datemultirange', '{"{}","{[2001-02-03,2001-02-05),[infinity,)}"}'), ('tsmultirange', '{"{}","{[\"2001-02-03 04:05:06\",infinity)}"}'),
    ('tstzmultirange', '{"{}","{(-infinity,\"2001-02-03 04:05:06+00\"]}"}');
-- Text: every control character and other traps.
INSERT INTO public.sample
SELECT t, (SELECT array_agg('a' || chr(i) || 'b' ORDER BY i) FROM generate_series(1, 31) i) ||
    ARRAY['', ' ', 'null', 'NULL', '"', '\', '\\', '''', '{}', '{"a":1}', '1.0', 'true', '\u0041', '\x41', E'\x7f', U&'\0080\0085\009f\2028\2029\feff\fffd\fffe\ffff',
          '😀' || chr(1114111) || U&'e\0301', 'trailing  ', '%s', '$1', '</script>']
FROM unnest('{text,varchar,bpchar}'::text[]) t;
INSERT INTO public.sample SELECT 'name', ARRAY['', repeat('é', 31) || 'x', '"', '\', 'null', E'a\nb'];
INSERT INTO public.sample SELECT '"char"', ARRAY['', 'a', '\', '"', E'\x01', E'\x7f', ' '];

-- Random values, the same in every run.
SELECT setseed(0.42) IS NOT NULL;
CREATE FUNCTION public.more(which text, make text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('UPDATE public.sample SET vals = vals || ARRAY(SELECT (%s)::text FROM generate_series(1, 25) i) WHERE type = %L', make, which);
END $$;
SELECT count(public.more(which, make)) FROM (VALUES
    ('float8', '(random() - 0.5) * 10 ^ (random() * 600 - 300)'), ('float4', '((random() - 0.5) * 10 ^ (random() * 70 - 35))::float4'),
    ('numeric', '(random() - 0.5)::numeric * (10::numeric ^ (random() * 60 - 30)::int)'), ('int8', '((random() - 0.5) * 1.8e19)::bigint'),
    ('text', '(SELECT string_agg(chr(c + CASE WHEN c >= 55296 THEN 2048 ELSE 0 END), '''') FROM (SELECT 1 + (random() * 1112060 * (random() ^ 4))::int AS c FROM generate_series(1, 20 + i * 0)) x)'),
    ('bytea', 'decode(md5(random()::text), ''hex'')'), ('uuid', 'md5(random()::text)::uuid'), ('date', 'date ''0001-01-01 BC'' + (random() * 2000000)::int'),
    ('timestamptz', 'timestamptz ''0001-01-01 00:00:00+00 BC'' + random() * interval ''4000 years'''), ('timestamp', 'timestamp ''0001-01-01 BC'' + random() * interval ''4000 years'''),
    ('interval', 'make_interval(months => ((random() - 0.5) * 1000)::int, days => ((random() - 0.5) * 1000)::int, secs => (random() - 0.5) * 1e6)'),
    ('jsonb', 'jsonb_build_object(md5(random()::text), jsonb_build_array((random() - 0.5)::numeric, chr(1 + (random() * 5000)::int), NULL, random() > 0.5))')) r(which, make);

-- Types of users. Their text depends on settings wherever a built-in type's does.
CREATE TYPE mood AS ENUM ('ok', 'it''s "so" {so}, \', '', 'NULL');
CREATE DOMAIN posint AS int CHECK (VALUE > 0);
CREATE DOMAIN moment AS timestamptz NOT NULL;
CREATE DOMAIN floats AS float8[];
CREATE TYPE inner_type AS (f float8, at timestamptz, i interval, b bytea, x text);
CREATE TYPE outer_type AS (a inner_type, l inner_type[], m mood, c regclass, n numeric, "odd "" name" date);
CREATE DOMAIN checked AS outer_type CHECK ((VALUE).m IS DISTINCT FROM 'NULL');
CREATE TYPE textrange AS RANGE (subtype = text, collation = "C");
CREATE TYPE floatrange AS RANGE (subtype = float8, subtype_diff = float8mi);
CREATE TABLE "Odd.Table" (id int);
CREATE FUNCTION public.f(timestamptz, mood[]) RETURNS int LANGUAGE sql RETURN 1;
INSERT INTO public.sample VALUES
    ('mood', ARRAY['ok', 'it''s "so" {so}, \', '', 'NULL']), ('posint', '{1,2147483647}'), ('moment', '{infinity,2001-02-03 04:05:06+00}'),
    ('floats', '{"{}","{NULL,-0,NaN}","[-5:-4]={0.1,1e-300}"}'),
    ('floats[]', ARRAY['{"{0.1,NULL}",NULL,"[3:3]={-0}"}']),
    ('inner_type', ARRAY['(,,,,)', '(-0,infinity,"-1 mons +1 day","\\x00ff","")', $$(0.1,"0001-01-01 00:00:00+00 BC",-00:00:01,"\\x5c",NULL)$$,
                         E'(0.30000000000000004,,,,"a""b\\\\c,(\n)")']),
    ('outer_type', ARRAY['(,,,,,)', $$("(0.1,""2001-02-03 04:05:06+00"",""1 mon"",""\\\\x00"",""x,y"")","[-1:0]={NULL,""(,,,,)""}",ok,pg_class,1.00,infinity)$$]),
    ('checked', ARRAY['(,,,,,)', '(,{},ok,"""Nasty """" schema"".""Odd.Table""",NaN,"2001-02-03")']),
    ('textrange', ARRAY['empty', '(,)', E'["a,b","z ""q"" \\\\ \n")', '["",a]']), ('floatrange', '{empty,"[-0,0]","[0.1,0.30000000000000004)","(-Infinity,NaN]"}'),
    ('textmultirange', ARRAY['{}', '{["",a),["b c",)}']), ('floatmultirange', '{"{}","{[-0,0.1]}"}'),
    ('numeric(10,2)', '{1,1.005,-99999999.99,NaN}'), ('varchar(5)', ARRAY['', 'ab   ', '😀é']), ('char(5)', ARRAY['', 'ab', '😀é']), ('bit(3)', '{101}'),
    ('timestamptz(0)', '{2001-02-03 04:05:06.7+00}'), ('interval day to second(3)', '{"3 days 04:05:06.7891","-1 day"}'), ('time(2)', '{12:00:00.129}');

-- Left out: types without an input function that accepts anything; aclitem is added below; regproc and regoper hold only
-- unambiguous names, as their own input functions demand.
SELECT 'no sample: ' || typname FROM pg_type
WHERE typtype IN ('b', 'r', 'm') AND typnamespace = 'pg_catalog'::regnamespace AND typinput <> 'array_in'::regproc
  AND NOT EXISTS (SELECT FROM public.sample WHERE replace(type, '"', '') = typname)
ORDER BY typname;
INSERT INTO public.sample VALUES ('aclitem', ARRAY[format('=arwdDxt*/%I', current_user), format('pg_monitor=r*/%I', current_user)]);

-- One source table per type: its samples, "char" beyond ASCII, NULL, and an array with bounds and NULLs.
CREATE TABLE public.source (n serial PRIMARY KEY, type text, coltype text, btree boolean NOT NULL DEFAULT false, checked int NOT NULL DEFAULT 0, keys int NOT NULL DEFAULT 0);
DO $$
DECLARE
    s   record;
    n   int;
    v   text;
BEGIN
    PERFORM set_config('search_path', '"Nasty "" schema", pg_catalog', true);
    FOR s IN SELECT type, vals, CASE WHEN type IN ('bit', 'bpchar', 'interval') THEN 'pg_catalog."' || type || '"'
                                       WHEN type = 'xml verbatim' THEN 'xml' ELSE type END AS coltype FROM public.sample LOOP
        INSERT INTO public.source (type, coltype) VALUES (s.type, s.coltype) RETURNING source.n INTO n;
        EXECUTE format('CREATE TABLE public.src_%s (n serial, v %s)', n, s.coltype);
        FOREACH v IN ARRAY s.vals LOOP
            BEGIN
                EXECUTE format('INSERT INTO public.src_%s (v) VALUES (%L)', n, v);
            EXCEPTION WHEN feature_not_supported THEN
                CONTINUE WHEN s.coltype = 'xml';  -- a server without libxml
                RAISE;
            END;
        END LOOP;
        IF s.type = '"char"' THEN
            INSERT INTO public.source (type, coltype) VALUES ('"char" beyond ASCII', '"char"') RETURNING source.n INTO n;
            EXECUTE format('CREATE TABLE public.src_%s AS SELECT row_number() OVER () AS n, i::"char" AS v FROM generate_series(-128, 127) i', n);
            n := n - 1;
        END IF;
        CONTINUE WHEN s.type IN ('int2vector', 'oidvector', 'moment', 'floats', 'floats[]', 'xml verbatim');
        INSERT INTO public.source (type, coltype) VALUES (s.type || '[]', s.coltype || '[]') RETURNING source.n INTO n;
        EXECUTE format('CREATE TABLE public.src_%s (n serial, v %s[])', n, s.coltype);
        EXECUTE format('INSERT INTO public.src_%s (v) SELECT array_agg(v ORDER BY n) FROM public.src_%s', n, n - 1 - (s.type = '"char"')::int);
        EXECUTE format('INSERT INTO public.src_%s (v) VALUES (''{}''), (array_fill(NULL::%s, ARRAY[2, 2], ARRAY[-3, 7]))', n, s.coltype);
        EXECUTE format('INSERT INTO public.src_%s (v) VALUES (NULL)', n);
        EXECUTE format('UPDATE public.src_%s SET v[-2] = (SELECT v FROM public.src_%s ORDER BY n DESC LIMIT 1) WHERE n = 4', n, n - 1 - (s.type = '"char"')::int);
        EXECUTE format('UPDATE public.src_%s SET v[1] = (SELECT v FROM public.src_%s ORDER BY n LIMIT 1) WHERE n = 4', n, n - 1 - (s.type = '"char"')::int);
    END LOOP;
END $$;

-- Which types can be keys.
DO $$
DECLARE
    s record;
BEGIN
    FOR s IN SELECT * FROM public.source LOOP
        BEGIN
            EXECUTE format('CREATE INDEX ON public.src_%s (v)', s.n);
            RAISE EXCEPTION SQLSTATE 'UNDO0';
        EXCEPTION
            WHEN SQLSTATE 'UNDO0' OR program_limit_exceeded THEN UPDATE public.source SET btree = true WHERE n = s.n;
            WHEN undefined_object OR undefined_function THEN NULL;
        END;
    END LOOP;
END $$;

-- Settings that change text forms; nothing of them may reach the journal.
CREATE FUNCTION public.hostile(round int) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config(name, (ARRAY[a, b, c])[round], false) FROM (VALUES
        ('DateStyle', 'SQL, DMY', 'German, YMD', 'Postgres, MDY'), ('IntervalStyle', 'sql_standard', 'iso_8601', 'postgres_verbose'),
        ('TimeZone', 'Asia/Kathmandu', 'America/St_Johns', '<odd>-03:17'), ('extra_float_digits', '-15', '0', '-4'),
        ('bytea_output', 'escape', 'hex', 'escape'), ('xmloption', 'document', 'content', 'document'), ('array_nulls', 'off', 'on', 'off'),
        ('quote_all_identifiers', 'on', 'off', 'on'), ('search_path', '"Nasty "" schema", public, pg_catalog', '', 'information_schema'),
        ('standard_conforming_strings', 'off', 'on', 'off'), ('escape_string_warning', 'off', 'off', 'off')) s(name, a, b, c);
END $$;
CREATE FUNCTION public.friendly() RETURNS void LANGUAGE sql
    SET search_path = pg_catalog SET standard_conforming_strings = on AS $$
    SELECT set_config(name, setting, false) FROM (VALUES
        ('DateStyle', 'ISO'), ('IntervalStyle', 'postgres'), ('TimeZone', 'Antarctica/Troll'), ('extra_float_digits', '1'), ('bytea_output', 'hex'),
        ('xmloption', 'content'), ('array_nulls', 'on'), ('quote_all_identifiers', 'off'), ('search_path', 'pg_catalog'),
        ('standard_conforming_strings', 'on')) s(name, setting) $$;

-- A value of the journal as its column's input function reads it.
CREATE FUNCTION public.literal(coltype text, v text) RETURNS text LANGUAGE sql RETURN
    CASE WHEN v ~ '^\\[0-7]{3}$' AND coltype = '"char"' THEN format('(%s)::"char"', get_byte(v::bytea, 0) - 256) ELSE quote_nullable(v) END;

-- Compares what the journal says of one changeset with what was there.
CREATE FUNCTION public.compare(seq bigint, op text, image text, want regclass, coltype text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    wrong bigint;
    found bigint;
    what  text := seq::text;
    c     record;
BEGIN
    CREATE TABLE public.back AS SELECT * FROM public.t WITH NO DATA;
    FOR c IN SELECT ch.key, (CASE image WHEN 'old' THEN ch.old ELSE ch.new END)::json AS v
             FROM rowclaim.changes ch WHERE ch.journal = 'main' AND ch.seq = compare.seq AND ch.op = compare.op LOOP
        what := c.v::text;
        EXECUTE format('INSERT INTO public.back (id, v) VALUES (%s, %s)', c.key ->> 'id', public.literal(coltype, c.v ->> 'v'));
    END LOOP;
    EXECUTE format('SELECT count(*) FILTER (WHERE NOT w *= b), count(*), string_agg(b.v::text, '' | '') FILTER (WHERE NOT w *= b)
                    FROM (SELECT id, v FROM %s) w JOIN (SELECT id, v FROM public.back) b USING (id)', want) INTO wrong, found, what;
    DROP TABLE public.back;
    IF wrong > 0 OR found = 0 THEN
        RETURN format('%s %s: %s of %s differ: %s', op, image, wrong, found, left(what, 200));
    END IF;
    RETURN NULL;
EXCEPTION WHEN OTHERS THEN
    RETURN format('%s %s: %s: %s', op, image, SQLERRM, left(what, 200));
END $$;

CREATE FUNCTION public.same(a regclass, b regclass) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    result boolean;
BEGIN
    EXECUTE format('SELECT count(*) = 0 FROM (SELECT id, v, row_version FROM %s) a FULL JOIN (SELECT id, v, row_version FROM %s) b USING (id)
                    WHERE (a *= b) IS NOT TRUE', a, b) INTO result;
    RETURN result;
END $$;

-- Insert, update, discard of update and delete, delete of one type's samples under the settings of each round.
CREATE TABLE public.problem (type text, round int, problem text);
CREATE PROCEDURE public.check_type(which int, rounds int[]) LANGUAGE plpgsql AS $$
DECLARE
    s     public.source;
    round int;
    seqs  bigint[];
    bad   text[];
    was   text;
    says  text;
BEGIN
    PERFORM public.friendly();
    SELECT * INTO s FROM public.source WHERE n = which;
    DROP TABLE IF EXISTS public.t, public.want1, public.want2;
    PERFORM set_config('search_path', '"Nasty "" schema", pg_catalog', false);
    EXECUTE format('CREATE TABLE public.t (id int PRIMARY KEY, v %s)', s.coltype);
    PERFORM public.enable_claims('public.t', 'auto');
    CREATE TABLE public.want1 AS TABLE public.t;
    CREATE TABLE public.want2 AS TABLE public.t;
    COMMIT;
    FOREACH round IN ARRAY rounds LOOP
        bad := '{}';
        PERFORM public.hostile(round);
        EXECUTE format('INSERT INTO public.t SELECT n, v FROM public.src_%s', s.n);
        IF s.coltype <> 'moment' THEN
            INSERT INTO public.t VALUES (0, NULL);
        END IF;
        INSERT INTO public.want1 SELECT * FROM public.t;
        COMMIT;
        seqs[1] := public.commit_changes();
        COMMIT;
        UPDATE public.t SET v = w.v
        FROM (SELECT id, coalesce(lead(id) OVER (ORDER BY id), first_value(id) OVER (ORDER BY id)) AS next FROM public.want1) x
        JOIN public.want1 w ON w.id = x.next WHERE t.id = x.id;
        INSERT INTO public.want2 SELECT * FROM public.t;
        COMMIT;
        seqs[2] := public.commit_changes();
        COMMIT;
        UPDATE public.t SET v = w.v FROM public.want1 w WHERE w.id = t.id;
        COMMIT;
        PERFORM public.discard_changes();
        IF NOT public.same('public.t', 'public.want2') THEN bad := bad || 'discard of update'::text; END IF;
        COMMIT;
        DELETE FROM public.t;
        COMMIT;
        PERFORM public.discard_changes();
        IF NOT public.same('public.t', 'public.want2') THEN bad := bad || 'discard of delete'::text; END IF;
        COMMIT;
        DELETE FROM public.t;
        COMMIT;
        seqs[3] := public.commit_changes();
        COMMIT;
        PERFORM public.friendly();
        bad := bad || ARRAY[public.compare(seqs[1], 'insert', 'new', 'public.want1', s.coltype),
            public.compare(seqs[2], 'update', 'old', 'public.want1', s.coltype), public.compare(seqs[2], 'update', 'new', 'public.want2', s.coltype),
            public.compare(seqs[3], 'delete', 'old', 'public.want2', s.coltype)];
        SELECT md5(string_agg(c, ',' ORDER BY c)) INTO says FROM rowclaim.journal j
        CROSS JOIN LATERAL (SELECT regexp_replace(e::text, ',"version":\d+', '') FROM json_array_elements(j.changes) e) x(c) WHERE j.seq = ANY (seqs);
        IF was <> says THEN bad := bad || 'text differs'::text; END IF;
        was := says;
        INSERT INTO public.problem SELECT s.type, round, b FROM unnest(bad) b WHERE b IS NOT NULL;
        UPDATE public.source SET checked = checked + 1 WHERE n = s.n;
        DELETE FROM public.want1;
        DELETE FROM public.want2;
        COMMIT;
    END LOOP;
END $$;
-- The same values as keys: claimed by row and by the view's jsonb, updated, deleted, discarded; the journal's key names the row
-- (it is equal to the row's, written in one way for all equal values).
CREATE PROCEDURE public.check_key(which int, round int) LANGUAGE plpgsql AS $$
DECLARE
    s   public.source;
    bad text[] := '{}';
    last bigint;
    n   bigint;
    c   record;
BEGIN
    PERFORM public.friendly();
    SELECT * INTO s FROM public.source WHERE source.n = which;
    DROP TABLE IF EXISTS public.k, public.want1;
    PERFORM set_config('search_path', '"Nasty "" schema", pg_catalog', false);
    EXECUTE format('CREATE TABLE public.k (v %s PRIMARY KEY, id int)', s.coltype);
    PERFORM public.enable_claims('public.k');
    COMMIT;
    PERFORM public.hostile(round);
    EXECUTE format('INSERT INTO public.k SELECT DISTINCT ON (v) v, n FROM public.src_%s WHERE v IS NOT NULL AND pg_column_size(v) < 2000 ORDER BY v, n', s.n);
    GET DIAGNOSTICS n = ROW_COUNT;
    CREATE TABLE public.want1 AS TABLE public.k;
    COMMIT;
    PERFORM public.commit_changes();
    COMMIT;
    IF n <> (SELECT count(*) FROM public.k WHERE (public.claim_row('public.k', k)).status = 'granted') THEN bad := bad || 'claim by row'::text; END IF;
    COMMIT;
    IF n <> (SELECT count(*) FROM rowclaim.claims WHERE (public.claim_row('public.k', key)).status = 'granted') THEN bad := bad || 'claim by jsonb'::text; END IF;
    COMMIT;
    UPDATE public.k SET id = -id WHERE id % 2 = 0;
    DELETE FROM public.k WHERE id % 2 = 1;
    COMMIT;
    IF n <> public.discard_changes() THEN bad := bad || 'discarded'::text; END IF;
    IF EXISTS (SELECT FROM (SELECT id, v FROM public.k) a FULL JOIN (SELECT id, v FROM public.want1) b USING (id) WHERE (a *= b) IS NOT TRUE) THEN bad := bad || 'discard'::text; END IF;
    COMMIT;
    UPDATE public.k SET id = id + 1000;
    last := public.commit_changes();
    IF n <> public.release_rows() THEN bad := bad || 'release'::text; END IF;
    COMMIT;
    PERFORM public.friendly();
    CREATE TABLE public.back AS SELECT v, id FROM public.k WITH NO DATA;
    FOR c IN SELECT ch.key ->> 'v' AS v, ch.old ->> 'id' AS id FROM rowclaim.changes ch WHERE ch.seq = last LOOP
        n := n - 1;
        EXECUTE format('INSERT INTO public.back VALUES (%s, %s)', public.literal(s.coltype, c.v), c.id);
    END LOOP;
    bad := bad || ARRAY(SELECT 'key ' || a.v::text FROM public.back a JOIN public.want1 b USING (id) WHERE a.v <> b.v);
    DROP TABLE public.back;
    IF n <> 0 THEN bad := bad || 'keys'::text; END IF;
    INSERT INTO public.problem SELECT 'key ' || s.type, round, b FROM unnest(bad) b;
    UPDATE public.source SET keys = keys + 1 WHERE source.n = s.n;
    COMMIT;
END $$;

-- Every type in one round, those whose text depends on settings in all.
\set ON_ERROR_STOP off
\set ECHO none
SELECT format('CALL public.check_type(%s, %L)', n, CASE
    WHEN type ~ 'date|time|interval|float|bytea|money|xml|reg|range|point|line|lseg|box|path|polygon|circle|type|moment|checked'
        THEN CASE WHEN type ~ '\[\]' THEN '{1,2}' ELSE '{1,2,3}' END
    ELSE format('{%s}', n % 3 + 1) END) FROM public.source \gexec
SELECT format('CALL public.check_key(%s, %s)', n, n % 3 + 1) FROM public.source WHERE btree \gexec
\set ECHO all
RESET ALL;
SELECT * FROM public.problem ORDER BY 1, 2, 3;
SELECT 'not checked: ' || type FROM public.source WHERE checked = 0 OR btree AND keys = 0;
SELECT count(*) > 180, count(*) FILTER (WHERE btree) > 130 FROM public.source;
