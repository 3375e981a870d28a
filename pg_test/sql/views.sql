-- The views of schema rowclaim: columns, contents, and who sees what.
CREATE EXTENSION rowclaim;
CREATE ROLE regress_views_alice;
CREATE ROLE regress_views_bob;
-- What a statement is refused with; times are masked.
CREATE FUNCTION refused(sql text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    code text;
    message text;
    detail text;
    hint text;
BEGIN
    EXECUTE sql;
    RETURN NEXT 'not refused';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT,
        detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
    RETURN QUERY SELECT regexp_replace(line, '\d{4}-\d\d-\d\dT[\d:.]+Z', '<time>', 'g')
        FROM unnest(ARRAY[code || ': ' || message, detail, 'hint: ' || nullif(hint, '')]) line WHERE line <> '';
END $$;
\pset format unaligned
\pset footer off
\pset null <null>

SELECT c.relname, string_agg(a.attname || ' ' || format_type(a.atttypid, a.atttypmod), ', ' ORDER BY a.attnum)
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
WHERE c.relnamespace = 'rowclaim'::regnamespace AND c.relkind = 'v' GROUP BY c.relname ORDER BY c.relname;
SELECT relname, has_table_privilege('regress_views_alice', oid, 'SELECT') AS readable,
       has_table_privilege('regress_views_alice', oid, 'INSERT, UPDATE, DELETE, TRUNCATE') AS writable
FROM pg_class WHERE relnamespace = 'rowclaim'::regnamespace AND relkind IN ('r', 'v', 'S') ORDER BY relkind, relname;

CREATE TABLE parts (id int PRIMARY KEY, name text, qty int);
INSERT INTO parts SELECT g, 'part ' || g, g FROM generate_series(1, 9) g;
CREATE TABLE secret (id int PRIMARY KEY, body text);
INSERT INTO secret VALUES (1, 'x'), (2, 'y');
CREATE TABLE policed (id int PRIMARY KEY, who text, n int);
INSERT INTO policed VALUES (1, 'regress_views_alice'), (2, 'regress_views_bob');
SELECT create_journal('other');
SELECT enable_claims('parts', untracked => '{qty}'), enable_claims('secret', 'auto', 'transaction', 'other'),
       enable_claims('policed', owner_column => 'o', version_column => 'v', draft_column => 'd');
GRANT ALL ON parts, policed TO PUBLIC;
GRANT ALL ON secret TO regress_views_bob;
ALTER TABLE policed ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON policed USING (who = current_user);

-- tables
SELECT * FROM rowclaim.tables ORDER BY target::text;

-- claims
SET SESSION AUTHORIZATION regress_views_bob;
SELECT status FROM claim_row('parts', 1, '1 day', reason => 'why');
SELECT status FROM claim_row('parts', 2, '1 ms');
SELECT status FROM claim_row('secret', 1);
SELECT status FROM claim_row('policed', 2);
UPDATE parts SET name = 'x' WHERE id = 1;
SELECT target, key, owner, token > 0 AS token, claimed_at <= clock_timestamp() AS claimed, expires_at > claimed_at AS expires, reason, dirty, mine
FROM rowclaim.claims ORDER BY target::text, key;
-- others: holders of the tables they may SELECT; under row security only their own
SET SESSION AUTHORIZATION regress_views_alice;
SELECT status FROM claim_row('policed', 1);
SELECT target, key, owner, dirty, mine FROM rowclaim.claims ORDER BY target::text, key;
RESET SESSION AUTHORIZATION;
GRANT SELECT ON secret TO regress_views_alice;
SET SESSION AUTHORIZATION regress_views_alice;
SELECT target, key, owner FROM rowclaim.claims WHERE target = 'secret'::regclass;
RESET SESSION AUTHORIZATION;
REVOKE SELECT ON secret FROM regress_views_alice;
-- a superuser sees all
SELECT target, key, owner, mine FROM rowclaim.claims ORDER BY target::text, key;
-- expired as time goes by
DO $$ BEGIN WHILE EXISTS (SELECT FROM rowclaim.claims WHERE key = '{"id": 2}' AND target = 'parts'::regclass AND NOT expired) LOOP PERFORM pg_sleep(0.001); END LOOP; END $$;
SELECT key, expired FROM rowclaim.claims WHERE target = 'parts'::regclass ORDER BY key;

-- drafts: one row per dirty row
SET SESSION AUTHORIZATION regress_views_bob;
INSERT INTO parts VALUES (10, 'new', 1);
DELETE FROM parts WHERE id = 2;
UPDATE policed SET n = 1;
SELECT actor, journal, target, key, op, since <= now() AS since FROM rowclaim.drafts ORDER BY target::text, key;
SET SESSION AUTHORIZATION regress_views_alice;
SELECT actor, target, key, op FROM rowclaim.drafts ORDER BY target::text, key;
RESET SESSION AUTHORIZATION;
REVOKE SELECT ON parts FROM PUBLIC;
SET SESSION AUTHORIZATION regress_views_alice;
SELECT count(*) FROM rowclaim.drafts;
SELECT target, key FROM rowclaim.claims ORDER BY target::text;
-- my own are always mine to see
SET SESSION AUTHORIZATION regress_views_bob;
SELECT count(*) FROM rowclaim.drafts;
RESET SESSION AUTHORIZATION;
GRANT SELECT ON parts TO PUBLIC;

-- changesets: number, actor, time, message, count, base
SET SESSION AUTHORIZATION regress_views_bob;
SELECT commit_changes('first', base => 0);
UPDATE secret SET body = 'z';
SELECT journal, seq, actor, committed_at <= clock_timestamp() AS committed, message, changes, base FROM rowclaim.changesets ORDER BY journal, seq;
-- changes: of the tables I may read
SELECT journal, seq, change, actor, committed_at <= clock_timestamp() AS committed, op, target, key, old, new, version
FROM rowclaim.changes ORDER BY journal, seq, change;
SET SESSION AUTHORIZATION regress_views_alice;
SELECT journal, seq, change, op, target, key FROM rowclaim.changes ORDER BY journal, seq, change;
SELECT journal, seq, actor, changes FROM rowclaim.changesets ORDER BY journal, seq;
-- not of a dropped table any more
RESET SESSION AUTHORIZATION;
DROP TABLE parts;
SET SESSION AUTHORIZATION regress_views_alice;
SELECT count(*) FROM rowclaim.changes WHERE target = 'public.parts';
RESET SESSION AUTHORIZATION;
SELECT count(*) FROM rowclaim.changes WHERE target = 'public.parts';

-- the journal itself is readable by nobody else
SET SESSION AUTHORIZATION regress_views_alice;
SELECT * FROM refused('SELECT * FROM rowclaim.journal');
SELECT * FROM refused('SELECT * FROM rowclaim.draft_row');
SELECT * FROM refused('SELECT * FROM rowclaim.claim');
SELECT * FROM refused('SELECT * FROM rowclaim.stash');

-- stashes: mine, and those of tables I may read
RESET SESSION AUTHORIZATION;
CREATE TABLE notes (id int PRIMARY KEY, note text);
INSERT INTO notes VALUES (1, 'note');
SELECT enable_claims('notes', 'auto');
GRANT ALL ON notes TO regress_views_bob;
SET SESSION AUTHORIZATION regress_views_bob;
UPDATE notes SET note = 'secret';
RESET SESSION AUTHORIZATION;
SELECT release_actor('regress_views_bob', 'gone') > 0 AS released;
SELECT id > 0 AS id, actor, journal, target, key, op, base, mine, cause, reason, stashed_by, stashed_at <= clock_timestamp() AS stashed FROM rowclaim.stashes;
SET SESSION AUTHORIZATION regress_views_alice;
SELECT count(*) FROM rowclaim.stashes;
SET SESSION AUTHORIZATION regress_views_bob;
SELECT count(*) FROM rowclaim.stashes;
RESET SESSION AUTHORIZATION;
REVOKE ALL ON notes FROM regress_views_bob;
GRANT SELECT ON notes TO regress_views_alice;
SET SESSION AUTHORIZATION regress_views_bob;
SELECT count(*) FROM rowclaim.stashes;
SET SESSION AUTHORIZATION regress_views_alice;
SELECT count(*) FROM rowclaim.stashes;

-- no view lets a cheap function see what it hides
RESET SESSION AUTHORIZATION;
GRANT CREATE ON SCHEMA public TO regress_views_alice;
SET SESSION AUTHORIZATION regress_views_alice;
CREATE FUNCTION leak(text) RETURNS boolean LANGUAGE plpgsql COST 0.0001 AS $$ BEGIN RAISE NOTICE 'leaked %', $1; RETURN true; END $$;
SELECT count(*) FROM rowclaim.claims WHERE leak(owner);
SELECT count(*) FROM rowclaim.changes WHERE journal = 'other' AND leak(new::text);

RESET SESSION AUTHORIZATION;
DROP OWNED BY regress_views_alice, regress_views_bob;
DROP ROLE regress_views_alice, regress_views_bob;
