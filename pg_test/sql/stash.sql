-- restore_stash(): taking back what was lost.
CREATE EXTENSION rowclaim;
CREATE ROLE regress_stash_alice;
CREATE ROLE regress_stash_bob;
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

CREATE TABLE parts (id int PRIMARY KEY, name text, qty int, double int GENERATED ALWAYS AS (qty * 2) STORED);
INSERT INTO parts SELECT g, 'part ' || g, g FROM generate_series(1, 9) g;
GRANT ALL ON parts TO PUBLIC;
SELECT enable_claims('parts');
CREATE VIEW stashed AS SELECT actor, key, op, base, mine, cause FROM rowclaim.stashes ORDER BY id;
GRANT SELECT ON stashed TO PUBLIC;
CREATE FUNCTION stash_of(key jsonb) RETURNS bigint LANGUAGE sql AS 'SELECT max(id) FROM rowclaim.stashes s WHERE s.key = $1';

-- an update, a delete, an insert, a changed key
SET SESSION AUTHORIZATION regress_stash_alice;
SELECT count(*) FROM claim_rows('parts', ARRAY[1, 2, 3, 4]);
UPDATE parts SET qty = 100 WHERE id = 1;
DELETE FROM parts WHERE id = 2;
INSERT INTO parts (id, name, qty) VALUES (10, 'new', 10);
UPDATE parts SET id = 30, qty = 300 WHERE id = 3;
RESET SESSION AUTHORIZATION;
SELECT release_actor('regress_stash_alice') > 0 AS released;
SELECT * FROM stashed;
SELECT stash_of('{"id":1}') AS s1, stash_of('{"id":2}') AS s2, stash_of('{"id":10}') AS s10, stash_of('{"id":30}') AS s30 \gset

-- only when I hold the row again
SET SESSION AUTHORIZATION regress_stash_alice;
SELECT * FROM refused('SELECT restore_stash(' || :s1 || ')');
SELECT * FROM refused('SELECT restore_stash(' || :s2 || ')');
-- not while somebody else holds it
SET SESSION AUTHORIZATION regress_stash_bob;
SELECT status FROM claim_row('parts', 1);
SET SESSION AUTHORIZATION regress_stash_alice;
SELECT line LIKE '55%' AS refused FROM refused('SELECT restore_stash(' || :s1 || ')') line LIMIT 1;
-- nobody else's stash
SET SESSION AUTHORIZATION regress_stash_bob;
SELECT * FROM refused('SELECT restore_stash(' || :s1 || ')');
SELECT * FROM refused('SELECT restore_stash(NULL)');
SELECT * FROM refused('SELECT restore_stash(-1)');

-- only the columns changed in the stash are written: others may have been changed meanwhile
UPDATE parts SET name = 'renamed by bob' WHERE id = 1;
SELECT commit_changes(release => true);
SET SESSION AUTHORIZATION regress_stash_alice;
SELECT count(*) FROM claim_rows('parts', ARRAY[1, 2, 3]);
SELECT restore_stash(:s1);
SELECT id, name, qty, double, row_version FROM parts WHERE id = 1;
SELECT restore_stash(:s2);
SELECT restore_stash(:s10);
SELECT restore_stash(:s30);
SELECT id, name, qty, row_owner FROM parts WHERE id IN (1, 2, 3, 10, 30) ORDER BY id;
-- each once, then it is gone
SELECT count(*) FROM stashed;
SELECT count(*) FROM refused('SELECT restore_stash(' || :s1 || ')') line WHERE line LIKE '22023%';
-- what was restored is an ordinary draft
SELECT key, op FROM rowclaim.drafts ORDER BY key;
SELECT commit_changes('restored');
SELECT op, key, old, new FROM rowclaim.changes WHERE seq = 2 ORDER BY key::text;

-- rolled back: the stash is still there
SELECT status FROM claim_row('parts', 4);
UPDATE parts SET qty = 400 WHERE id = 4;
RESET SESSION AUTHORIZATION;
SELECT release_actor('regress_stash_alice') > 0 AS released;
SET SESSION AUTHORIZATION regress_stash_alice;
SELECT stash_of('{"id":4}') AS s4 \gset
BEGIN;
SELECT status FROM claim_row('parts', 4);
SELECT restore_stash(:s4);
SELECT qty FROM parts WHERE id = 4;
ROLLBACK;
SELECT qty FROM parts WHERE id = 4;
SELECT count(*) FROM stashed;

-- the row is gone, or is there again
SET SESSION AUTHORIZATION regress_stash_bob;
SELECT status FROM claim_row('parts', 4);
DELETE FROM parts WHERE id = 4;
SELECT commit_changes(release => true);
SET SESSION AUTHORIZATION regress_stash_alice;
SELECT line ~ '^(55000|55006)' AS refused FROM refused('SELECT restore_stash(' || :s4 || ')') line LIMIT 1;
INSERT INTO parts (id, name) VALUES (11, 'again');
RESET SESSION AUTHORIZATION;
SELECT release_actor('regress_stash_alice') > 0 AS released;
INSERT INTO parts (id, name) VALUES (11, 'other');
SELECT commit_changes();
SET SESSION AUTHORIZATION regress_stash_alice;
SELECT stash_of('{"id":11}') AS s11 \gset
SELECT * FROM refused('SELECT restore_stash(' || :s11 || ')');
SELECT key, op FROM stashed;
-- it obeys the caller's privileges
RESET SESSION AUTHORIZATION;
DELETE FROM rowclaim.stash;
SET SESSION AUTHORIZATION regress_stash_alice;
SELECT status FROM claim_row('parts', 5);
UPDATE parts SET qty = 500 WHERE id = 5;
RESET SESSION AUTHORIZATION;
SELECT release_actor('regress_stash_alice') > 0 AS released;
REVOKE ALL ON parts FROM PUBLIC;
GRANT SELECT, UPDATE (name) ON parts TO regress_stash_alice;
SET SESSION AUTHORIZATION regress_stash_alice;
SELECT status FROM claim_row('parts', 5);
SELECT stash_of('{"id":5}') AS s5 \gset
SELECT * FROM refused('SELECT restore_stash(' || :s5 || ')');
SELECT count(*) FROM stashed;
-- a row held by uncommitted changes alone is held
RESET SESSION AUTHORIZATION;
CREATE TABLE notes (id int PRIMARY KEY, note text, extra text);
INSERT INTO notes VALUES (1, 'note', NULL);
GRANT ALL ON notes TO PUBLIC;
SELECT enable_claims('notes', 'auto');
SET SESSION AUTHORIZATION regress_stash_alice;
UPDATE notes SET note = 'lost';
RESET SESSION AUTHORIZATION;
SELECT release_actor('regress_stash_alice') > 0 AS released;
SELECT max(id) AS s1 FROM rowclaim.stashes \gset
SET SESSION AUTHORIZATION regress_stash_alice;
UPDATE notes SET extra = 'x';
SELECT restore_stash(:s1);
SELECT id, note, extra FROM notes;

RESET SESSION AUTHORIZATION;
DROP OWNED BY regress_stash_alice, regress_stash_bob;
DROP ROLE regress_stash_alice, regress_stash_bob;
