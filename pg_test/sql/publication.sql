-- create_journal_publication(), and wait_for_changeset() where the journal is written.
CREATE EXTENSION rowclaim;
CREATE ROLE regress_publication_alice;
CREATE ROLE regress_publication_bob;
-- What a statement is refused with.
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
    RETURN QUERY SELECT line FROM unnest(ARRAY[code || ': ' || message, detail, 'hint: ' || nullif(hint, '')]) line WHERE line <> '';
END $$;
-- A server that is not set to wal_level = logical warns.
SET client_min_messages = error;
\pset format unaligned
\pset footer off
\pset null <null>

CREATE TABLE parts (id int PRIMARY KEY, qty int);
INSERT INTO parts VALUES (1, 1), (2, 2);
SELECT create_journal('second'), create_journal('it''s a "journal"');
SELECT enable_claims('parts', 'auto');
SELECT status FROM claim_row('parts', 1);

-- all journals: inserts only, the journal and the claims
SELECT create_journal_publication('everything');
CREATE VIEW publications AS
    SELECT p.pubname, p.puballtables AS all_tables, p.pubinsert AS i, p.pubupdate AS u, p.pubdelete AS d, p.pubtruncate AS t, p.pubowner::regrole AS owner,
           r.schemaname || '.' || r.tablename AS published, r.rowfilter, CASE WHEN r.tablename <> 'journal' THEN r.attnames END AS columns
    FROM pg_publication p LEFT JOIN pg_publication_tables r USING (pubname) ORDER BY p.pubname, published;
SELECT * FROM publications;
-- of the journal all columns
SELECT prattrs FROM pg_publication_rel WHERE prrelid = 'rowclaim.journal'::regclass;
-- some
SELECT create_journal_publication('some', '{second, main}');
SELECT create_journal_publication('odd "name"', ARRAY['it''s a "journal"']);
SELECT create_journal_publication(name => 'twice', journals => '{main, main}');
SELECT pubname, published, rowfilter FROM publications WHERE pubname <> 'everything';
-- a journal made later belongs to the publication of all
SELECT create_journal('later');
SELECT rowfilter FROM publications WHERE pubname = 'everything';
-- publications are dropped as others are
DROP PUBLICATION twice;

-- claims from then on, and those there were
SELECT journal, target, key, owner FROM rowclaim.published_claim;
SELECT status FROM claim_row('parts', 2, reason => 'count');
SELECT release_row('parts', 1);
SELECT journal, target, key, owner, reason FROM rowclaim.published_claim;
SELECT release_rows();
SELECT count(*) FROM rowclaim.published_claim;
SELECT key, status FROM claim_rows('parts', ARRAY[2, 1], reason => 'count');
SELECT p.key, p.owner, p.reason FROM rowclaim.published_claim p
    JOIN rowclaim.claim c USING (relid, key, owner, token, claimed_at) ORDER BY 1;
SELECT release_rows();
SELECT count(*) FROM rowclaim.published_claim;
-- on the source they are not shown twice
SELECT status FROM claim_row('parts', 1);
SELECT target, key, owner, mine FROM rowclaim.claims;

-- refusals
SELECT * FROM refused('SELECT create_journal_publication(NULL)');
SELECT * FROM refused('SELECT create_journal_publication('''')');
SELECT * FROM refused('SELECT create_journal_publication(''everything'')');
SELECT * FROM refused('SELECT create_journal_publication(''x'', ''{}'')');
SELECT * FROM refused('SELECT create_journal_publication(''x'', ''{main, NULL}'')');
SELECT * FROM refused('SELECT create_journal_publication(''x'', ''{main, none}'')');
SELECT * FROM refused('SELECT create_journal_publication(''x'', ''{Main}'')');
BEGIN READ ONLY;
SELECT * FROM refused('SELECT create_journal_publication(''x'')');
COMMIT;
SELECT pubname FROM pg_publication ORDER BY pubname;
-- a long name is cut like any other
SELECT create_journal_publication(repeat('n', 70), '{second}');
SELECT length(pubname) FROM pg_publication WHERE pubname LIKE 'nnn%';

-- the DBA only, or by grant; whoever may call it need own nothing
SET SESSION AUTHORIZATION regress_publication_alice;
SELECT * FROM refused('SELECT create_journal_publication(''alice'')');
RESET SESSION AUTHORIZATION;
GRANT EXECUTE ON FUNCTION create_journal_publication(text, text[]) TO regress_publication_alice;
SET SESSION AUTHORIZATION regress_publication_alice;
SELECT create_journal_publication('alice', '{main}');
-- nothing of the caller's search path is used
CREATE TEMP TABLE journal_config (name text);
CREATE FUNCTION pg_temp.format(text, text, text, text) RETURNS text LANGUAGE sql AS $$ SELECT 'DROP TABLE public.parts' $$;
SET search_path = pg_temp, public;
SELECT create_journal_publication('alice''s); --', '{main}');
RESET search_path;
RESET SESSION AUTHORIZATION;
SELECT pubname, published, rowfilter, owner = current_user::regrole AS of_the_dba FROM publications WHERE pubname LIKE 'alice%';

-- wait_for_changeset() on the source: what is complete
SELECT wait_for_changeset(0), wait_for_changeset(-5);
UPDATE parts SET qty = 10 WHERE id = 1;
SELECT commit_changes();
SELECT wait_for_changeset(1), wait_for_changeset(1, 'main', '0'), wait_for_changeset(seq => 1, journal => 'main', timeout => NULL);
SELECT wait_for_changeset(2, 'main', '0'), wait_for_changeset(2, 'main', '20 ms'), wait_for_changeset(1, 'second', '0');
-- a number that was drawn and lost does not count before its void entry is there
BEGIN;
UPDATE parts SET qty = 20 WHERE id = 1;
SELECT commit_changes(), wait_for_changeset(2, 'main', '0');
SELECT wait_for_changeset(2, 'main', '0');
ROLLBACK;
SELECT wait_for_changeset(2, 'main', '0');
UPDATE parts SET qty = 21 WHERE id = 1;
SELECT commit_changes(), wait_for_changeset(3, 'main', '0');
SELECT wait_for_changeset(3, 'main', '0');
-- the statement's time limit ends a wait without one
SET statement_timeout = '50 ms';
SELECT wait_for_changeset(4);
RESET statement_timeout;
-- everybody may wait, also in a read-only transaction
SET SESSION AUTHORIZATION regress_publication_bob;
BEGIN READ ONLY;
SELECT wait_for_changeset(3, 'main', '0');
COMMIT;
RESET SESSION AUTHORIZATION;
-- a long transaction with its own snapshot sees that it has come
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT count(*) FROM parts;
SELECT wait_for_changeset(3, 'main', '0');
COMMIT;
-- arguments
SELECT * FROM refused('SELECT wait_for_changeset(NULL)');
SELECT * FROM refused('SELECT wait_for_changeset(1, NULL)');
SELECT * FROM refused('SELECT wait_for_changeset(1, ''main'', ''-1 s'')');
SELECT * FROM refused('SELECT wait_for_changeset(1, ''main'', ''2000 years'')');
SELECT * FROM refused('SELECT wait_for_changeset(1, ''main'', ''soon'')');
SELECT wait_for_changeset(9223372036854775807, 'main', '0');

-- a journal that is not there may still come
SELECT wait_for_changeset(1, 'none', '20 ms');
-- nothing is received here
SELECT count(*) FROM rowclaim.replay;
DROP PUBLICATION everything, "some", "odd ""name""", alice, "alice's); --";
DROP OWNED BY regress_publication_alice, regress_publication_bob;
DROP ROLE regress_publication_alice, regress_publication_bob;
