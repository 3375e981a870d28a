-- What no attempt may change: the victim's rows, and that nobody else's pass for hers; her claims, drafts, stash, consumer
-- and committed changes; the extension's objects, rights and triggers. What attackers do with rows of their own is not here.
\set ON_ERROR_STOP on
-- The attacker's session removes its temporary objects as it ends.
DO $$
BEGIN
    FOR i IN 1..6000 LOOP
        PERFORM pg_stat_clear_snapshot();
        EXIT WHEN NOT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid());
        PERFORM pg_sleep(0.01);
    END LOOP;
END $$;
SET search_path = pg_catalog;
SET client_min_messages = error;
SELECT xid AS setup_ended, 'public.setup_ended'::regclass::oid AS first_new FROM public.setup_ended \gset
SELECT 'part', t FROM public.parts t WHERE id IN (1, 2, 3, 20) OR row_owner = 'alice' OR row_draft IN (SELECT id FROM rowclaim.draft WHERE actor = 'alice') ORDER BY id;
SELECT 'note', t FROM public.notes t WHERE id IN (1, 2) OR row_owner = 'alice' OR row_draft IN (SELECT id FROM rowclaim.draft WHERE actor = 'alice') ORDER BY id;
SELECT 'ledger', t FROM public.ledger t WHERE id = 1 OR row_owner = 'alice' ORDER BY id;
SELECT 'split', t FROM public.split t WHERE id IN (1, 2) OR row_owner = 'alice' OR row_draft IN (SELECT id FROM rowclaim.draft WHERE actor = 'alice') ORDER BY id;
SELECT 'cascaded', t FROM public.cascaded t WHERE id = 1 OR row_owner = 'alice' ORDER BY id;
SELECT 'nulled', t FROM public.nulled t WHERE id = 1 OR row_owner = 'alice' ORDER BY id;
SELECT 'private', t FROM public.private t WHERE id IN (1, 4) OR row_owner = 'alice' ORDER BY id;
SELECT 'hidden', t FROM public.hidden t ORDER BY id;
SELECT 'emp', id, salary FROM public.emp t ORDER BY id;
SELECT 'emp 1', t FROM public.emp t WHERE id = 1;
SELECT 'claim', t FROM rowclaim.claim t WHERE owner = 'alice' ORDER BY relid, key;
SELECT 'draft', t FROM rowclaim.draft t WHERE actor NOT IN ('mallory', 'olga', 'max') ORDER BY id;
-- But not whether it may have given something up, which is supposed of all when a constraint may be new.
SELECT 'draft row', r.relid, r.key, r.draft, r.op, r.base, r.base_version, r.leaf, r.base_key FROM rowclaim.draft_row r JOIN rowclaim.draft d ON d.id = r.draft WHERE actor = 'alice' ORDER BY relid, key;
SELECT 'stash', t FROM rowclaim.stash t WHERE actor = 'alice' ORDER BY id;
SELECT 'consumer', t FROM rowclaim.consumer t WHERE role NOT IN ('mallory', 'olga', 'max') ORDER BY name;
-- The journal: what was there, and no entry of anybody but whoever committed, nor with rows that are not theirs.
SELECT 'journal', journal, seq, part, md5(j::text) FROM rowclaim.journal j WHERE xid::text::bigint < :setup_ended ORDER BY 1, 2, 3;
SELECT 'forged', journal, seq, actor FROM rowclaim.journal WHERE actor NOT IN ('alice', 'mallory', 'olga', 'max', 'dba', '') ORDER BY 2, 3;
SELECT 'of alice', journal, seq FROM rowclaim.journal WHERE actor = 'alice' ORDER BY 2, 3;
SELECT 'changed', j.seq, c FROM rowclaim.journal j, json_array_elements(j.changes) c
WHERE j.actor IN ('mallory', 'max', 'olga') AND (c ->> 'table', c ->> 'key') IN (
    ('public.parts', '{"id":1}'), ('public.parts', '{"id":2}'), ('public.parts', '{"id":3}'), ('public.parts', '{"id":20}'), ('public.notes', '{"id":1}'),
    ('public.ledger', '{"id":1}'), ('public.split', '{"day":1,"id":1}'), ('public.split', '{"day":2,"id":2}'), ('public.cascaded', '{"id":1}'),
    ('public.nulled', '{"id":1}'), ('public.emp', '{"id":1}'), ('public.hidden', '{"id":1}'), ('public.hidden', '{"id":2}'),
    ('public.private', '{"id":1}'), ('public.private', '{"id":4}'));
SELECT 'damage', c.name, v FROM rowclaim.journal_config c, LATERAL public.verify_journal(c.name) v;
-- The extension itself.
SELECT 'table', t FROM rowclaim.enabled_table t WHERE relid IN (
    'public.parts'::regclass, 'public.notes'::regclass, 'public.ledger'::regclass, 'public.split'::regclass, 'public.cascaded'::regclass,
    'public.nulled'::regclass, 'public.private'::regclass, 'public.hidden'::regclass, 'public.emp'::regclass) ORDER BY relid;
SELECT 'trigger', tgrelid::regclass, tgname, tgenabled, tgfoid::regproc, tgtype FROM pg_trigger
WHERE tgname LIKE 'rowclaim%' AND tgrelid IN (SELECT relid FROM rowclaim.enabled_table
    UNION SELECT t.relid FROM pg_partition_tree('public.split') t) AND tgrelid < :first_new ORDER BY 2, 3;
SELECT 'event trigger', evtname, evtenabled, evtfoid::regproc FROM pg_event_trigger ORDER BY 2;
SELECT 'function', p.oid::regprocedure, md5(prosrc), proacl, proowner::regrole, prosecdef, proconfig FROM pg_proc p
JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e' WHERE p.pronamespace = 'rowclaim'::regnamespace OR p.proname LIKE '%claim%' ORDER BY 2;
SELECT 'relation', c.relname, relkind, relacl, relowner::regrole, relhastriggers, relrowsecurity FROM pg_class c WHERE relnamespace = 'rowclaim'::regnamespace ORDER BY 2;
SELECT 'schema', nspacl, nspowner::regrole FROM pg_namespace WHERE nspname = 'rowclaim';
SELECT 'journals', c FROM rowclaim.journal_config c ORDER BY id;
SELECT 'settings', s FROM pg_db_role_setting s WHERE array_to_string(setconfig, ',') ~ 'rowclaim' AND setrole <> 0;
-- The attackers' code never ran as anybody but themselves.
SELECT 'ran', r FROM public.ran r WHERE as_whom NOT IN ('mallory', 'olga', 'max');
-- All there is: an attempt that has changed nothing of it leaves the database to the next one.
SELECT 'all', md5(concat(
    (SELECT string_agg(query_to_xml(format('SELECT t FROM %s t ORDER BY t::text', c.oid::regclass), true, true, '')::text, '' ORDER BY c.oid)
     FROM pg_class c WHERE relkind = 'r' AND relnamespace IN ('public'::regnamespace, 'rowclaim'::regnamespace)),
    (SELECT string_agg(concat(tgrelid, tgname, tgenabled), ',' ORDER BY oid) FROM pg_trigger),
    (SELECT string_agg(concat(oid, relname, relacl, relowner, relrowsecurity), ',' ORDER BY oid) FROM pg_class WHERE relnamespace::regnamespace::text !~ '^pg_'),
    (SELECT string_agg(concat(oid, proname, prosrc, proacl), ',' ORDER BY oid) FROM pg_proc WHERE oid > 16384),
    (SELECT concat((SELECT count(*) FROM pg_type WHERE typnamespace::regnamespace::text !~ '^pg_'), (SELECT count(*) FROM pg_operator), (SELECT count(*) FROM pg_cast),
        (SELECT count(*) FROM pg_rewrite), (SELECT count(*) FROM pg_policy), (SELECT count(*) FROM pg_prepared_xacts), (SELECT count(*) FROM pg_event_trigger),
        (SELECT count(*) FROM pg_db_role_setting), (SELECT count(*) FROM pg_attribute WHERE attnum > 0 AND attrelid > 16384 AND NOT attisdropped)))));
