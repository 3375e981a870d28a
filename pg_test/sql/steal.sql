-- steal_row(), release_actor(): the loser's changes go to the stash.
CREATE EXTENSION rowclaim;
CREATE ROLE regress_steal_alice;
CREATE ROLE regress_steal_bob;
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

CREATE TABLE parts (id int PRIMARY KEY, name text, qty int);
INSERT INTO parts SELECT g, 'part ' || g, g FROM generate_series(1, 20) g;
CREATE TABLE notes (id int PRIMARY KEY, note text);
INSERT INTO notes SELECT g, 'note ' || g FROM generate_series(1, 5) g;
GRANT ALL ON parts, notes TO PUBLIC;
SELECT create_journal('other');
SELECT enable_claims('parts'), enable_claims('notes', 'auto', journal => 'other');
CREATE VIEW stashed AS SELECT actor, journal, target, key, op, base, mine, cause, reason, stashed_by FROM rowclaim.stashes ORDER BY id;
GRANT SELECT ON stashed TO PUBLIC;

-- EXECUTE is revoked from PUBLIC
SET SESSION AUTHORIZATION regress_steal_bob;
SELECT * FROM refused('SELECT steal_row(''parts'', 1)');
SELECT * FROM refused('SELECT steal_row(''parts'', ''1'')');
SELECT * FROM refused('SELECT release_actor(''regress_steal_alice'')');
RESET SESSION AUTHORIZATION;
GRANT EXECUTE ON FUNCTION steal_row(regclass, text, text, interval), steal_row(regclass, anynonarray, text, interval) TO regress_steal_bob;

-- a claimed row
SET SESSION AUTHORIZATION regress_steal_alice;
SELECT token AS t1 FROM claim_row('parts', 1) \gset
SET SESSION AUTHORIZATION regress_steal_bob;
SELECT status, owner, token > :t1 AS grew, expires_at, row_version, message FROM steal_row('parts', 1, 'alice is away', '1 day') \gset s_
SELECT :'s_status' AS status, :'s_owner' AS owner, :'s_grew' AS grew, :'s_expires_at' <> '' AS expires, :s_row_version AS version, :'s_message' AS message;
SELECT key, owner, reason, expires_at > clock_timestamp() + '23 hours' AS a_day, dirty FROM rowclaim.claims;
SELECT count(*) FROM stashed;
-- the loser's next write fails
SET SESSION AUTHORIZATION regress_steal_alice;
SELECT * FROM refused('UPDATE parts SET qty = 0 WHERE id = 1');
-- a free row is simply claimed; my own row keeps its token; a missing row is not found
SET SESSION AUTHORIZATION regress_steal_bob;
SELECT status, owner FROM steal_row('parts', 2);
SELECT token AS t2 FROM claim_row('parts', 2) \gset
SELECT status, token = :t2 AS same_token FROM steal_row('parts', 2);
SELECT status, message FROM steal_row('parts', 99);

-- a dirty row returns to its committed state
SET SESSION AUTHORIZATION regress_steal_alice;
SELECT count(*) FROM claim_rows('parts', ARRAY[3, 4, 5, 6]);
UPDATE parts SET qty = 300, name = NULL WHERE id = 3;
UPDATE parts SET qty = 301 WHERE id = 3;
DELETE FROM parts WHERE id = 4;
UPDATE parts SET id = 50 WHERE id = 5;
INSERT INTO parts VALUES (60, 'new', 60);
UPDATE parts SET qty = 6000 WHERE id = 6;
SET SESSION AUTHORIZATION regress_steal_bob;
SELECT status, owner, row_version FROM steal_row('parts', 3, 'needed');
SELECT status, owner, row_version FROM steal_row('parts', 4);
SELECT status, owner, row_version FROM steal_row('parts', 50);
-- an inserted row: it does not exist any more
SELECT status, owner FROM steal_row('parts', 60);
SELECT id, name, qty, row_owner, row_version FROM parts WHERE id IN (3, 4, 5, 50, 60) ORDER BY id;
SELECT * FROM stashed;
-- the loser's other changes are untouched
SELECT actor, key, op FROM rowclaim.drafts;
-- the stolen rows are clean: bob can release them
SELECT release_row('parts', 3), release_row('parts', 4), release_row('parts', 5);
-- the loser's commit says what it does not contain, once
SET SESSION AUTHORIZATION regress_steal_alice;
SELECT commit_changes('what is left');
SELECT op, key, new FROM rowclaim.changes ORDER BY seq DESC LIMIT 1;
SELECT commit_changes() IS NULL AS nothing;
-- stolen within the thief's transaction that rolls back: nothing has happened
UPDATE parts SET qty = 6001 WHERE id = 6;
SET SESSION AUTHORIZATION regress_steal_bob;
BEGIN;
SELECT status FROM steal_row('parts', 6);
SELECT qty, row_owner FROM parts WHERE id = 6;
ROLLBACK;
SELECT qty, row_owner FROM parts WHERE id = 6;
SELECT actor, key FROM rowclaim.drafts;
SELECT count(*) FROM stashed WHERE key = '{"id": 6}';
-- a row held only by a draft
SET SESSION AUTHORIZATION regress_steal_alice;
UPDATE notes SET note = 'mine' WHERE id = 1;
SET SESSION AUTHORIZATION regress_steal_bob;
SELECT status, owner FROM steal_row('notes', 1);
SELECT note, row_owner FROM notes WHERE id = 1;
SELECT journal, target, key, op FROM stashed WHERE target = 'notes'::regclass;
-- UPDATE or DELETE privilege is needed as for a claim
RESET SESSION AUTHORIZATION;
REVOKE ALL ON notes FROM PUBLIC;
SET SESSION AUTHORIZATION regress_steal_bob;
SELECT * FROM refused('SELECT steal_row(''notes'', 2)');
RESET SESSION AUTHORIZATION;
GRANT ALL ON notes TO PUBLIC;
SELECT * FROM refused('SELECT steal_row(''parts'', 1, ttl => ''0'')');

-- release_actor: claims, drafts, in every journal and table
SET SESSION AUTHORIZATION regress_steal_alice;
SELECT count(*) FROM claim_rows('parts', ARRAY[10, 11]);
UPDATE parts SET qty = -1 WHERE id = 10;
INSERT INTO parts VALUES (70, 'new', 70);
DELETE FROM notes WHERE id = 2;
UPDATE notes SET note = 'x' WHERE id = 3;
RESET SESSION AUTHORIZATION;
SELECT owner, count(*) FROM rowclaim.claims GROUP BY owner ORDER BY owner;
SELECT release_actor('regress_steal_alice', 'left the company');
SELECT owner, count(*) FROM rowclaim.claims GROUP BY owner ORDER BY owner;
SELECT count(*) FROM rowclaim.drafts;
SELECT id, name, qty, row_owner FROM parts WHERE id IN (6, 10, 11, 70) ORDER BY id;
SELECT id, note, row_owner FROM notes WHERE id IN (2, 3) ORDER BY id;
SELECT * FROM stashed WHERE cause = 'released' ORDER BY journal, key;
-- nothing left, an actor nobody knows
SELECT release_actor('regress_steal_alice'), release_actor('nobody');
SELECT * FROM refused('SELECT release_actor(NULL)');
SELECT * FROM refused('SELECT release_actor('''')');
SELECT * FROM refused('SELECT release_actor(repeat(''x'', 256))');
SELECT * FROM refused('SELECT release_actor(E''a\nb'')');
-- the former holder starts anew
SET SESSION AUTHORIZATION regress_steal_alice;
SELECT line FROM refused('UPDATE parts SET qty = 0 WHERE id = 10') line WHERE line LIKE '55%';
SELECT commit_changes() IS NULL AS nothing;

RESET SESSION AUTHORIZATION;
DROP OWNED BY regress_steal_alice, regress_steal_bob;
DROP ROLE regress_steal_alice, regress_steal_bob;
