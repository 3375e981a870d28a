-- What each role may do, column privileges, row security, and hostile search paths.
CREATE EXTENSION rowclaim;
CREATE ROLE regress_privileges_alice;
CREATE ROLE regress_privileges_bob;
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

CREATE ROLE regress_privileges_carol;
CREATE TABLE parts (id int PRIMARY KEY, name text, who text DEFAULT current_user);
INSERT INTO parts SELECT g, 'part ' || g, CASE WHEN g < 5 THEN 'regress_privileges_alice' ELSE 'regress_privileges_bob' END FROM generate_series(1, 9) g;
SELECT enable_claims('parts');

-- who may execute what: the API, and what PUBLIC may call inside
CREATE VIEW functions AS
    SELECT p.* FROM pg_proc p JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
    JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'rowclaim';
SELECT proname, bool_and(has_function_privilege('regress_privileges_alice', oid, 'EXECUTE')) AS execute
FROM functions WHERE pronamespace <> 'rowclaim'::regnamespace GROUP BY proname ORDER BY proname;
SELECT proname FROM functions WHERE pronamespace = 'rowclaim'::regnamespace AND has_function_privilege('regress_privileges_alice', oid, 'EXECUTE') ORDER BY proname;
-- no function of the extension that is parsed when it is called follows the caller's search path
SELECT f.oid::regprocedure FROM functions f JOIN pg_language l ON l.oid = prolang
WHERE lanname IN ('sql', 'plpgsql') AND prosqlbody IS NULL AND NOT coalesce('search_path=pg_catalog, pg_temp' = ANY (proconfig), false);

-- claiming needs UPDATE or DELETE
SET SESSION AUTHORIZATION regress_privileges_alice;
SELECT * FROM refused('SELECT claim_row(''parts'', 1)');
SELECT * FROM refused('SELECT claim_rows(''parts'', ARRAY[1])');
RESET SESSION AUTHORIZATION;
GRANT SELECT, INSERT, REFERENCES, TRIGGER, TRUNCATE ON parts TO regress_privileges_alice;
SET SESSION AUTHORIZATION regress_privileges_alice;
SELECT * FROM refused('SELECT claim_row(''parts'', 1)');
RESET SESSION AUTHORIZATION;
GRANT DELETE ON parts TO regress_privileges_alice;
SET SESSION AUTHORIZATION regress_privileges_alice;
SELECT status FROM claim_row('parts', 1);
SELECT release_row('parts', 1);
RESET SESSION AUTHORIZATION;
REVOKE ALL ON parts FROM regress_privileges_alice;
GRANT UPDATE ON parts TO regress_privileges_alice;
SET SESSION AUTHORIZATION regress_privileges_alice;
SELECT status FROM claim_row('parts', 1);
SELECT release_row('parts', 1);
-- of one column is enough, and no SELECT is needed
RESET SESSION AUTHORIZATION;
REVOKE ALL ON parts FROM regress_privileges_alice;
GRANT UPDATE (name) ON parts TO regress_privileges_alice;
SET SESSION AUTHORIZATION regress_privileges_alice;
SELECT status FROM claim_row('parts', 1);
UPDATE parts SET name = 'all';
-- privileges on the ownership columns are not needed to write the others
RESET SESSION AUTHORIZATION;
GRANT SELECT (id) ON parts TO regress_privileges_alice;
SET SESSION AUTHORIZATION regress_privileges_alice;
UPDATE parts SET name = 'x' WHERE id = 1;
SELECT * FROM refused('UPDATE parts SET who = ''x'' WHERE id = 1');
SELECT commit_changes() > 0 AS committed;
SELECT release_row('parts', 1);

-- a role without any privilege learns nothing from release_row
SET SESSION AUTHORIZATION regress_privileges_bob;
SELECT * FROM refused('SELECT release_row(''parts'', 1)');
RESET SESSION AUTHORIZATION;
SELECT status FROM claim_row('parts', 1, reason => 'secret');
SET SESSION AUTHORIZATION regress_privileges_bob;
SELECT * FROM refused('SELECT release_row(''parts'', 1)');
SELECT count(*) FROM rowclaim.claims;
RESET SESSION AUTHORIZATION;
SELECT release_row('parts', 1);
-- who has lost the privilege may still release and discard
GRANT ALL ON parts TO regress_privileges_bob;
SET SESSION AUTHORIZATION regress_privileges_bob;
SELECT count(*) FROM claim_rows('parts', ARRAY[1, 2, 3]);
UPDATE parts SET name = 'y' WHERE id = 2;
RESET SESSION AUTHORIZATION;
REVOKE ALL ON parts FROM regress_privileges_bob;
SET SESSION AUTHORIZATION regress_privileges_bob;
SELECT key FROM rowclaim.claims ORDER BY key;
SELECT release_row('parts', 1);
SELECT discard_changes();
SELECT release_rows();

-- the privileges of the current role count, the name of the login role
RESET SESSION AUTHORIZATION;
GRANT ALL ON parts TO regress_privileges_carol;
GRANT regress_privileges_carol TO regress_privileges_bob;
SET SESSION AUTHORIZATION regress_privileges_bob;
SET ROLE regress_privileges_carol;
SELECT status, owner FROM claim_row('parts', 1);
RESET ROLE;
SELECT release_row('parts', 1);
RESET SESSION AUTHORIZATION;
REVOKE regress_privileges_carol FROM regress_privileges_bob;
ALTER ROLE regress_privileges_bob NOINHERIT;
GRANT regress_privileges_carol TO regress_privileges_bob;
SET SESSION AUTHORIZATION regress_privileges_bob;
SELECT * FROM refused('SELECT claim_row(''parts'', 1)');
RESET SESSION AUTHORIZATION;
REVOKE regress_privileges_carol FROM regress_privileges_bob;

-- row security: what the policies do not let me see or update is not there
GRANT ALL ON parts TO regress_privileges_alice, regress_privileges_bob;
ALTER TABLE parts ENABLE ROW LEVEL SECURITY;
CREATE POLICY see ON parts FOR SELECT USING (who = current_user OR id = 9);
CREATE POLICY change ON parts FOR UPDATE USING (who = current_user AND id <> 2);
CREATE POLICY remove ON parts FOR DELETE USING (who = current_user);
SET SESSION AUTHORIZATION regress_privileges_alice;
SELECT id, (claim_row('parts', id)).status FROM generate_series(1, 9) id;
SELECT key, status FROM claim_rows('parts', ARRAY[3, 4, 5]);
SELECT key, status FROM claim_rows('parts', ARRAY[3, 4]);
-- neither is somebody else's claim
RESET SESSION AUTHORIZATION;
SELECT status FROM claim_row('parts', 7);
SET SESSION AUTHORIZATION regress_privileges_alice;
SELECT status, owner FROM claim_row('parts', 7);
SELECT count(*) FROM rowclaim.claims WHERE key = '{"id": 7}';
-- releasing does not tell a hidden row that is held from one that is not there; of a visible one it says who holds it
SELECT release_row('parts', 7), release_row('parts', 8), release_row('parts', 77);
RESET SESSION AUTHORIZATION;
CREATE POLICY also ON parts FOR SELECT USING (id = 7);
CREATE POLICY also_change ON parts FOR UPDATE USING (id = 7);
SET SESSION AUTHORIZATION regress_privileges_alice;
SELECT * FROM refused('SELECT release_row(''parts'', 7)');
SELECT status FROM claim_row('parts', 4);
SELECT release_row('parts', 4);
RESET SESSION AUTHORIZATION;
DROP POLICY also ON parts;
DROP POLICY also_change ON parts;
SET SESSION AUTHORIZATION regress_privileges_alice;
-- the table's owner and BYPASSRLS are not bound
RESET SESSION AUTHORIZATION;
SELECT status FROM claim_row('parts', 8);
ALTER ROLE regress_privileges_bob BYPASSRLS;
SET SESSION AUTHORIZATION regress_privileges_bob;
SELECT status FROM claim_row('parts', 2);
RESET SESSION AUTHORIZATION;
ALTER ROLE regress_privileges_bob NOBYPASSRLS;
ALTER TABLE parts DISABLE ROW LEVEL SECURITY;

-- hostile objects in public, in pg_temp, and operators
GRANT CREATE ON SCHEMA public TO regress_privileges_bob;
SET SESSION AUTHORIZATION regress_privileges_bob;
SELECT release_rows() > 0 AS released;
CREATE FUNCTION public.clock_timestamp() RETURNS timestamptz LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'hijacked'; END $$;
CREATE FUNCTION public.hijack(text, text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'hijacked'; END $$;
CREATE OPERATOR public.= (LEFTARG = text, RIGHTARG = text, FUNCTION = public.hijack);
CREATE FUNCTION public.hijack(bigint, bigint) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'hijacked'; END $$;
CREATE OPERATOR public.= (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = public.hijack);
CREATE FUNCTION public.hijack(oid, oid) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'hijacked'; END $$;
CREATE OPERATOR public.= (LEFTARG = oid, RIGHTARG = oid, FUNCTION = public.hijack);
CREATE TEMP TABLE claim (relid oid, key text);
CREATE TEMP TABLE draft_row (relid oid, key text);
CREATE TEMP TABLE pg_class (oid oid, relname name);
CREATE TEMP TABLE journal (seq bigint);
CREATE TEMP TABLE parts AS SELECT 1 AS id;
RESET SESSION AUTHORIZATION;
GRANT CREATE ON SCHEMA public TO regress_privileges_alice;
-- for a superuser who has all that in front
SET search_path = public, pg_catalog, pg_temp;
SELECT status FROM claim_row('public.parts'::regclass, 5);
UPDATE public.parts SET name = 'safe' WHERE id OPERATOR(pg_catalog.=) 5;
SELECT status FROM claim_rows('public.parts', ARRAY[6]);
SELECT commit_changes('safe', release => true) > 0 AS committed;
SELECT status FROM steal_row('public.parts', 5);
SELECT renew_claims() > 0 AS renewed, release_rows('public.parts') > 0 AS released;
SELECT count(*) FROM verify_journal();
SELECT seal_journal() > 0 AS sealed;
SELECT count(*) > 0 AS pulled FROM pull_changes('c');
SELECT count(*) > 0 AS seen FROM rowclaim.changes;
CREATE TABLE public.fresh (id int PRIMARY KEY, v text);
SELECT enable_claims('public.fresh');
ALTER TABLE public.fresh ADD COLUMN w int;
INSERT INTO public.fresh VALUES (1, 'x');
SELECT discard_changes();
SELECT disable_claims('public.fresh', true, true);
DROP TABLE public.fresh;
-- with nothing in the path at all
SET search_path = '';
SELECT status FROM public.claim_row('public.parts', 5);
SELECT public.release_row('public.parts', 5);
RESET search_path;
DROP OWNED BY regress_privileges_carol;
DROP ROLE regress_privileges_carol;

RESET SESSION AUTHORIZATION;
DROP OWNED BY regress_privileges_alice, regress_privileges_bob;
DROP ROLE regress_privileges_alice, regress_privileges_bob;
