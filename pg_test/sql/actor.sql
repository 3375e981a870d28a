-- Who is acting: session_user, or rowclaim.actor for those who may set it.
CREATE EXTENSION rowclaim;
CREATE ROLE regress_actor_alice;
CREATE ROLE regress_actor_bob;
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

CREATE TABLE parts (id int PRIMARY KEY, name text);
INSERT INTO parts SELECT g, 'part ' || g FROM generate_series(1, 9) g;
GRANT ALL ON parts TO PUBLIC;
SELECT enable_claims('parts');

-- the login role
SELECT current_actor() = session_user AS login_role, pg_typeof(current_actor());
SET SESSION AUTHORIZATION regress_actor_alice;
SELECT current_actor();
-- SET ROLE does not change it
RESET SESSION AUTHORIZATION;
GRANT regress_actor_bob TO regress_actor_alice;
SET SESSION AUTHORIZATION regress_actor_alice;
SET ROLE regress_actor_bob;
SELECT current_user, session_user, current_actor();
SELECT owner FROM claim_row('parts', 1);
RESET ROLE;
UPDATE parts SET name = 'x' WHERE id = 1;
-- nor does SECURITY DEFINER
RESET SESSION AUTHORIZATION;
CREATE FUNCTION claim_as_definer(id int) RETURNS text LANGUAGE sql SECURITY DEFINER AS $$ SELECT owner FROM claim_row('parts', id) $$;
SET SESSION AUTHORIZATION regress_actor_alice;
SELECT claim_as_definer(2);

-- an ordinary role may not set rowclaim.actor, in no way
SELECT * FROM refused('SET rowclaim.actor = ''carol''');
SELECT * FROM refused('SET LOCAL rowclaim.actor = ''carol''');
SELECT * FROM refused('SELECT set_config(''rowclaim.actor'', ''carol'', true)');
SELECT * FROM refused('SET rowclaim.actor = ''regress_actor_alice''');
CREATE FUNCTION pg_temp.as_carol() RETURNS text LANGUAGE sql SET rowclaim.actor = 'carol' AS 'SELECT current_actor()';
SELECT * FROM refused('ALTER ROLE regress_actor_alice SET rowclaim.actor = ''carol''');
SELECT current_actor();
-- SET ROLE to one that may does, as with any such setting
RESET SESSION AUTHORIZATION;
GRANT SET ON PARAMETER rowclaim.actor TO regress_actor_bob;
SELECT has_parameter_privilege('regress_actor_bob', 'rowclaim.actor', 'SET') AS bob, has_parameter_privilege('regress_actor_alice', 'rowclaim.actor', 'SET') AS alice_through_bob;
REVOKE regress_actor_bob FROM regress_actor_alice;
SET SESSION AUTHORIZATION regress_actor_alice;
SELECT * FROM refused('SET rowclaim.actor = ''carol''');

-- a trusted role acts for somebody else, for a transaction or a session
SET SESSION AUTHORIZATION regress_actor_bob;
BEGIN;
SET LOCAL rowclaim.actor = 'carol';
SELECT current_actor(), (claim_row('parts', 3)).owner;
UPDATE parts SET name = 'by carol' WHERE id = 3;
COMMIT;
SELECT current_actor();
SELECT line FROM refused('UPDATE parts SET name = ''by bob'' WHERE id = 3') line WHERE line LIKE '55%';
SELECT actor, key FROM rowclaim.drafts ORDER BY key;
SELECT commit_changes() IS NULL AS nothing;
SET rowclaim.actor = 'carol';
SELECT key, owner, mine FROM rowclaim.claims ORDER BY key;
SELECT commit_changes('carol''s');
SELECT actor, message FROM rowclaim.changesets;
SELECT release_rows();
-- two actors in one transaction, each with an own draft
BEGIN;
SELECT (claim_row('parts', 4)).owner;
UPDATE parts SET name = 'carol' WHERE id = 4;
SET LOCAL rowclaim.actor = 'dave';
SELECT line FROM refused('UPDATE parts SET name = ''dave'' WHERE id = 4') line WHERE line LIKE '55%';
SELECT (claim_row('parts', 4)).status, (claim_row('parts', 5)).owner;
UPDATE parts SET name = 'dave' WHERE id = 5;
INSERT INTO parts VALUES (10, 'dave');
COMMIT;
SELECT actor, key FROM rowclaim.drafts WHERE actor IN ('carol', 'dave') ORDER BY actor, key;
SELECT commit_changes();
SET rowclaim.actor = 'dave';
SELECT commit_changes();
SELECT actor, seq FROM rowclaim.changesets ORDER BY seq;
-- rolled back with the savepoint
BEGIN;
SAVEPOINT s;
SET LOCAL rowclaim.actor = 'eve';
SELECT current_actor();
ROLLBACK TO s;
SELECT current_actor();
COMMIT;
-- empty: the login role
SET rowclaim.actor = '';
SELECT current_actor();
RESET rowclaim.actor;
SELECT current_actor();

-- names: any text of up to 255 bytes without control characters
SET rowclaim.actor = 'Zoë O''Neil "zoë" <zoe at example.org> \ 日本';
SELECT current_actor(), (claim_row('parts', 6)).owner;
SELECT row_owner FROM parts WHERE id = 6;
SELECT release_row('parts', 6);
SELECT set_config('rowclaim.actor', repeat('x', 255), false) = current_actor() AS longest;
SELECT length((claim_row('parts', 6)).owner);
SELECT release_rows();
SELECT * FROM refused('SELECT set_config(''rowclaim.actor'', repeat(''x'', 256), false)');
SELECT count(*) FROM refused('SELECT set_config(''rowclaim.actor'', repeat(''é'', 128), false)') line WHERE line LIKE '22023%';
SELECT count(*) FROM refused('SELECT set_config(''rowclaim.actor'', E''a\tb'', false)') line WHERE line LIKE '22023%';
SELECT count(*) FROM refused('SELECT set_config(''rowclaim.actor'', E''a\nb'', false)') line WHERE line LIKE '22023%';
SELECT count(*) FROM refused('SELECT set_config(''rowclaim.actor'', E''\x7f'', false)') line WHERE line LIKE '22023%';
SELECT count(*) FROM refused('SELECT set_config(''rowclaim.actor'', E''\u0085'', false)') line WHERE line LIKE '22023%';
SELECT length(current_actor());
-- the case counts
SET rowclaim.actor = 'Carol';
SELECT (claim_row('parts', 7)).owner;
SET rowclaim.actor = 'carol';
SELECT (claim_row('parts', 7)).status;
RESET rowclaim.actor;

-- nor before the library is loaded: what was set without permission does not count then
RESET SESSION AUTHORIZATION;
\c -
\pset format unaligned
\pset footer off
SET SESSION AUTHORIZATION regress_actor_alice;
SET rowclaim.actor = 'carol';
SET rowclaim.enforce = off;
SET rowclaim.draft_ttl = 1;
SELECT current_actor();
SELECT name, setting FROM pg_settings WHERE name IN ('rowclaim.actor', 'rowclaim.enforce', 'rowclaim.draft_ttl') ORDER BY name;

-- claims belong to the actor's name: who logs in under it has them
SET SESSION AUTHORIZATION regress_actor_alice;
SELECT key FROM rowclaim.claims WHERE mine ORDER BY key;
RESET SESSION AUTHORIZATION;
ALTER ROLE regress_actor_alice RENAME TO regress_actor_alicia;
SET SESSION AUTHORIZATION regress_actor_alicia;
SELECT current_actor();
SELECT count(*) FROM rowclaim.claims WHERE mine;
RESET SESSION AUTHORIZATION;
ALTER ROLE regress_actor_alicia RENAME TO regress_actor_alice;
REVOKE SET ON PARAMETER rowclaim.actor FROM regress_actor_bob;

RESET SESSION AUTHORIZATION;
DROP OWNED BY regress_actor_alice, regress_actor_bob;
DROP ROLE regress_actor_alice, regress_actor_bob;
