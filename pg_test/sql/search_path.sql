-- Names and search paths: quoted and 63-byte names, schemas off the path, hostile objects in public and pg_temp.
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
-- Commits and shows the changes.
CREATE FUNCTION committed() RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    committed bigint := commit_changes();
BEGIN
    RETURN QUERY SELECT json_array_elements(changes)::text FROM rowclaim.journal WHERE seq = committed ORDER BY part;
END $$;
-- Hostile objects that would be found first by anything unqualified.
CREATE SCHEMA evil;
CREATE TABLE evil.log (what text);
CREATE FUNCTION evil.caught(what text) RETURNS void LANGUAGE sql AS 'INSERT INTO evil.log VALUES ($1)';
CREATE FUNCTION evil.eq(text, text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN PERFORM evil.caught('text ='); RETURN true; END $$;
CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.eq);
CREATE FUNCTION evil.eq(int, int) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN PERFORM evil.caught('int ='); RETURN true; END $$;
CREATE OPERATOR evil.= (LEFTARG = int, RIGHTARG = int, FUNCTION = evil.eq);
CREATE FUNCTION evil.eq(bigint, bigint) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN PERFORM evil.caught('bigint ='); RETURN true; END $$;
CREATE OPERATOR evil.= (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = evil.eq);
CREATE FUNCTION evil.concat(text, text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN PERFORM evil.caught('text ||'); RETURN ''; END $$;
CREATE OPERATOR evil.|| (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.concat);
CREATE FUNCTION evil.clock_timestamp() RETURNS timestamptz LANGUAGE plpgsql AS $$ BEGIN PERFORM evil.caught('clock_timestamp'); RETURN 'infinity'; END $$;
CREATE FUNCTION evil.to_json(text) RETURNS json LANGUAGE plpgsql AS $$ BEGIN PERFORM evil.caught('to_json'); RETURN '1'; END $$;
CREATE FUNCTION evil.has_table_privilege(oid, text) RETURNS boolean LANGUAGE sql AS 'SELECT true';
CREATE FUNCTION evil.nextval(regclass) RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN PERFORM evil.caught('nextval'); RETURN 1; END $$;
CREATE FUNCTION evil.current_actor() RETURNS text LANGUAGE plpgsql AS $$ BEGIN PERFORM evil.caught('current_actor'); RETURN 'mallory'; END $$;
CREATE DOMAIN evil.text AS pg_catalog.int4;
CREATE DOMAIN evil.name AS pg_catalog.int4;
CREATE DOMAIN evil.bigint AS pg_catalog.text;
-- Tables and views with the names of ours and of the catalogue, in evil and in pg_temp.
DO $$
DECLARE
    schema text;
    t      text;
BEGIN
    FOREACH schema IN ARRAY '{evil,pg_temp}'::text[] LOOP
        FOREACH t IN ARRAY '{journal,draft,draft_row,claim,stash,consumer,enabled_table,journal_config,pg_class,pg_index,pg_attribute,pg_constraint,pg_trigger}'::text[] LOOP
            EXECUTE format('CREATE TABLE %s.%I (relid int, key int, oid int, id int, name int)', schema, t);
        END LOOP;
    END LOOP;
END $$;

CREATE TABLE public.parts (id int PRIMARY KEY, code text UNIQUE, at timestamptz, cls regclass);
INSERT INTO public.parts SELECT i, 'p' || i FROM generate_series(1, 5) i;
SET rowclaim.actor = 'alice';
CREATE PROCEDURE public.tour(path text) LANGUAGE plpgsql AS $$
DECLARE
    results text[];
    one text;
BEGIN
    PERFORM pg_catalog.set_config('search_path', path, false);
    PERFORM public.enable_claims('public.parts');
    COMMIT;
    one := (public.claim_row('public.parts', 1)).status;
    results := pg_catalog.array_append(results, one);
    one := (public.claim_row('public.parts', p)).status FROM public.parts p WHERE p.id OPERATOR(pg_catalog.=) 2;
    results := pg_catalog.array_append(results, one);
    COMMIT;
    UPDATE public.parts SET code = 'changed', at = '2001-02-03 04:05:06+00', cls = 'evil.log' WHERE id OPERATOR(pg_catalog.=) 1;
    DELETE FROM public.parts WHERE id OPERATOR(pg_catalog.=) 2;
    INSERT INTO public.parts VALUES (6, 'six');
    COMMIT;
    PERFORM public.discard_changes();
    COMMIT;
    UPDATE public.parts SET id = 10, code = 'changed', cls = 'evil.log' WHERE id OPERATOR(pg_catalog.=) 1;
    INSERT INTO public.parts VALUES (6, 'six');
    COMMIT;
    PERFORM pg_catalog.set_config('rowclaim.actor', 'bob', false);
    one := (public.claim_row('public.parts', 10)).status;
    results := pg_catalog.array_append(results, one);
    one := (public.steal_row('public.parts', 2)).status;
    results := pg_catalog.array_append(results, one);
    PERFORM public.release_rows();
    PERFORM pg_catalog.set_config('rowclaim.actor', 'alice', false);
    COMMIT;
    PERFORM public.commit_changes('on the tour');
    COMMIT;
    PERFORM public.renew_claims('1 day');
    PERFORM * FROM public.pull_changes('tourist');
    PERFORM public.ack_changes('tourist', 1);
    PERFORM * FROM public.verify_journal();
    PERFORM * FROM rowclaim.claims, rowclaim.drafts, rowclaim.changesets, rowclaim.changes, rowclaim.consumers, rowclaim.stashes, rowclaim.tables;
    ALTER TABLE public.parts RENAME COLUMN code TO label;
    ALTER TABLE public.parts ADD COLUMN note pg_catalog.text DEFAULT 'n';
    COMMIT;
    UPDATE public.parts SET id = 1, label = 'p1', cls = NULL WHERE id OPERATOR(pg_catalog.=) 10;
    DELETE FROM public.parts WHERE id OPERATOR(pg_catalog.=) 6 AND false;
    COMMIT;
    PERFORM public.commit_changes(release => true);
    COMMIT;
    ALTER TABLE public.parts DROP COLUMN note;
    ALTER TABLE public.parts RENAME COLUMN label TO code;
    PERFORM public.disable_claims('public.parts', force => true);
    COMMIT;
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, public', false);
    DELETE FROM parts WHERE id = 6;
    RAISE INFO '%: %', path, results;
END $$;
\set VERBOSITY terse
CALL public.tour('public, pg_catalog');
CALL public.tour('');
CALL public.tour('evil, pg_catalog');
CALL public.tour('pg_temp, evil, public, pg_catalog');
RESET search_path;
SELECT DISTINCT what FROM evil.log;
SELECT seq, c FROM rowclaim.journal j, json_array_elements(j.changes) c WHERE seq <= 2;
SELECT count(DISTINCT regexp_replace(changes::text, ',"version":\d+', '', 'g')) FROM rowclaim.journal WHERE kind = 'changeset';
DROP SCHEMA evil CASCADE;
DISCARD TEMP;

-- Names: quotes, blanks, dots, capitals, keywords, non-ASCII, 63 bytes; schemas off the path.
CREATE SCHEMA "Sch.ema ""x""";
CREATE FUNCTION names(tab text, key text, col text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    t regclass;
BEGIN
    EXECUTE format('CREATE TABLE "Sch.ema ""x""".%I (%I int PRIMARY KEY, %I text)', tab, key, col);
    t := format('"Sch.ema ""x""".%I', tab)::regclass;
    EXECUTE format('INSERT INTO %s VALUES (1, ''a''), (2, ''b'')', t);
    PERFORM enable_claims(t, untracked => '{}');
    RETURN NEXT (claim_row(t, 1)).status || ' ' || (claim_row(t, jsonb_build_object(key, 2))).status;
    EXECUTE format('UPDATE %s SET %I = ''c'' WHERE %I = 1', t, col, key);
    EXECUTE format('DELETE FROM %s WHERE %I = 2', t, key);
    EXECUTE format('INSERT INTO %s VALUES (3, ''d'')', t);
    PERFORM discard_changes();
    EXECUTE format('UPDATE %s SET %I = 4 WHERE %I = 1', t, key, key);
    RETURN QUERY SELECT committed();
    RETURN NEXT expect(format('UPDATE %s SET %I = ''z''', t, col));
    PERFORM commit_changes(release => true);
    RETURN NEXT expect(format('DELETE FROM %s', t));
    PERFORM disable_claims(t, drop_columns => true);
    EXECUTE format('DROP TABLE %s', t);
END $$;
SELECT names('order', 'select', 'user');
SELECT names('a"b''c', 'k"', 'v\');
SELECT names('Ünïcode 😀', 'ключ', '値');
SELECT names(repeat('t', 63), repeat('k', 63), repeat('é', 31) || 'x');
SELECT names('%s $1', ':key', '{"a":1}');
SELECT names('-- no', '/*', 'row');
-- Ownership columns of one's own choosing, quoted too.
CREATE TABLE "T" (id int PRIMARY KEY, v int);
INSERT INTO "T" VALUES (1, 1);
SELECT enable_claims('"T"', owner_column => 'Owner "x"', version_column => repeat('v', 63), draft_column => 'draft id');
SELECT (claim_row('"T"', 1)).status;
UPDATE "T" SET v = 2;
SELECT expect('UPDATE "T" SET "Owner ""x""" = ''bob''');
SELECT expect('UPDATE "T" SET v = 3, ' || repeat('v', 63) || ' = 9');
SELECT id, v, "Owner ""x""", "draft id" IS NOT NULL FROM "T";
SELECT * FROM committed();
-- The same names in two schemas, one of them first on the path.
CREATE SCHEMA one;
CREATE SCHEMA two;
CREATE TABLE one.t (id int PRIMARY KEY, v int);
CREATE TABLE two.t (id int PRIMARY KEY, v int);
SELECT enable_claims('one.t', 'auto'), enable_claims('two.t', 'auto');
SET search_path = two, public;
INSERT INTO one.t VALUES (1, 1);
INSERT INTO t VALUES (1, 2);
SELECT (claim_row('t', 1)).status;
SELECT target::text, key FROM rowclaim.claims ORDER BY 1;
SET search_path = one, public;
SELECT target::text, key FROM rowclaim.claims ORDER BY 1;
SELECT * FROM committed();
