-- Expiry of claims and drafts, renew_claims().
CREATE EXTENSION rowclaim;
CREATE ROLE regress_expiry_alice;
CREATE ROLE regress_expiry_bob;
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

CREATE TABLE parts (id int PRIMARY KEY, name text, qty int DEFAULT 0);
INSERT INTO parts SELECT g, 'part ' || g, g FROM generate_series(1, 20) g;
GRANT ALL ON parts TO PUBLIC;
SELECT enable_claims('parts');
-- Waits until every claim and draft has expired.
CREATE FUNCTION wait_for_expiry() RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    WHILE EXISTS (SELECT FROM rowclaim.claim WHERE expires_at > clock_timestamp() AND expires_at < clock_timestamp() + interval '1 min') LOOP
        PERFORM pg_sleep(0.001);
    END LOOP;
END $$;

-- an expired claim is still its owner's as long as nobody else claims the row
SET SESSION AUTHORIZATION regress_expiry_alice;
SELECT status, token FROM claim_row('parts', 1, '1 ms', reason => 'short') \gset a_
SELECT wait_for_expiry();
SELECT key, owner, expired, reason, mine FROM rowclaim.claims;
UPDATE parts SET qty = 100 WHERE id = 1;
-- others cannot write the row either
SET SESSION AUTHORIZATION regress_expiry_bob;
SELECT * FROM refused('UPDATE parts SET qty = 0 WHERE id = 1');
-- nor can they release it
SELECT line FROM refused('SELECT release_row(''parts'', 1)') line WHERE line LIKE '55%';
-- their claim takes over: the row as committed, the changes in the stash, a higher token
SELECT status, owner, token > :a_token AS grew, expires_at, row_version FROM claim_row('parts', 1, reason => 'now mine');
SELECT id, name, qty, row_owner, row_version FROM parts WHERE id = 1;
SELECT key, owner, expired, reason, dirty FROM rowclaim.claims;
SELECT actor, journal, target, key, op, base, mine, cause, reason, stashed_by FROM rowclaim.stashes;
SELECT count(*) FROM rowclaim.drafts;
-- every write and commit of the former owner on it fails from now on
SET SESSION AUTHORIZATION regress_expiry_alice;
SELECT line FROM refused('UPDATE parts SET qty = 1 WHERE id = 1') line WHERE line LIKE '55%';
SELECT line FROM refused('DELETE FROM parts WHERE id = 1') line WHERE line LIKE '55%';
SELECT line FROM refused('SELECT release_row(''parts'', 1)') line WHERE line LIKE '55%';
SELECT discard_changes();
SELECT renew_claims('1 hour');
SELECT status, owner FROM claim_row('parts', 1);
SELECT commit_changes('without the lost changes') IS NULL AS nothing;
SELECT id, qty, row_owner FROM parts WHERE id = 1;

-- the former owner may come back when the row is free again
SET SESSION AUTHORIZATION regress_expiry_bob;
SELECT release_row('parts', 1);
SET SESSION AUTHORIZATION regress_expiry_alice;
SELECT status FROM claim_row('parts', 1, '1 ms');
SELECT wait_for_expiry();
-- the owner's own claim renews an expired one: same token
SELECT token FROM rowclaim.claims WHERE mine \gset
SELECT status, token = :token AS same_token, expires_at > clock_timestamp() AS in_future FROM claim_row('parts', 1, '1 hour');
-- an unexpired one is denied
SET SESSION AUTHORIZATION regress_expiry_bob;
SELECT status FROM claim_row('parts', 1);

-- a clean expired claim leaves nothing in the stash
SET SESSION AUTHORIZATION regress_expiry_alice;
SELECT status FROM claim_row('parts', 2, '1 ms');
SELECT wait_for_expiry();
SET SESSION AUTHORIZATION regress_expiry_bob;
SELECT status, owner FROM claim_row('parts', 2);
SELECT count(*) FROM rowclaim.stashes;
-- version is checked against the row as it is after the takeover
SET SESSION AUTHORIZATION regress_expiry_alice;
SELECT status FROM claim_row('parts', 3, '1 ms');
UPDATE parts SET qty = 33 WHERE id = 3;
SELECT wait_for_expiry();
SET SESSION AUTHORIZATION regress_expiry_bob;
SELECT status, row_version FROM claim_row('parts', 3, version => 2);
SELECT key, status, row_version FROM claim_rows('parts', ARRAY[3], versions => ARRAY[2]);
SELECT qty, row_owner FROM parts WHERE id = 3;
SELECT status, owner, row_version FROM claim_row('parts', 3, version => 1);
SELECT qty FROM parts WHERE id = 3;

-- wait: until the claim expires
SET SESSION AUTHORIZATION regress_expiry_alice;
SELECT status FROM claim_row('parts', 4, '100 ms');
SET SESSION AUTHORIZATION regress_expiry_bob;
SELECT status, owner FROM claim_row('parts', 4, wait => '1 min');
-- claim_rows: takes over as well, also while waiting
SET SESSION AUTHORIZATION regress_expiry_alice;
SELECT count(*) FROM claim_rows('parts', ARRAY[5, 6], '50 ms');
UPDATE parts SET qty = -1 WHERE id IN (5, 6);
SET SESSION AUTHORIZATION regress_expiry_bob;
SELECT key, status, owner FROM claim_rows('parts', ARRAY[6, 7, 5], wait => '1 min');
SELECT id, qty, row_owner FROM parts WHERE id IN (5, 6, 7) ORDER BY id;
SELECT actor, key, op, mine, cause FROM rowclaim.stashes WHERE key IN ('{"id": 5}', '{"id": 6}') ORDER BY key;

-- takeover of a deleted row, of one that has changed its key, and no takeover of one that was inserted
SET SESSION AUTHORIZATION regress_expiry_alice;
SELECT count(*) FROM claim_rows('parts', ARRAY[8, 9], '1 ms');
DELETE FROM parts WHERE id = 8;
UPDATE parts SET id = 90 WHERE id = 9;
INSERT INTO parts VALUES (91, 'new', 1);
SELECT wait_for_expiry();
SET SESSION AUTHORIZATION regress_expiry_bob;
SELECT status, owner FROM claim_row('parts', 8);
SELECT status, owner FROM claim_row('parts', 90);
SELECT status, owner FROM claim_row('parts', 91);
SELECT id, name, row_owner FROM parts WHERE id IN (8, 9, 90, 91) ORDER BY id;
SET SESSION AUTHORIZATION regress_expiry_alice;
SELECT discard_changes();

-- rowclaim.draft_ttl: a draft untouched that long may be taken over
INSERT INTO parts VALUES (92, 'new', 1);
SET SESSION AUTHORIZATION regress_expiry_bob;
SELECT status FROM claim_row('parts', 92);
RESET SESSION AUTHORIZATION;
SELECT setting, unit, context FROM pg_settings WHERE name = 'rowclaim.draft_ttl';
SET rowclaim.draft_ttl = '1 s';
SELECT status FROM claim_row('parts', 92, wait => '1 min');
SELECT count(*) FROM parts WHERE id = 92;
SELECT actor, key, op, base, mine, cause FROM rowclaim.stashes WHERE key = '{"id": 92}';
RESET rowclaim.draft_ttl;

-- renew_claims: my unexpired claims, how many
SET SESSION AUTHORIZATION regress_expiry_alice;
SELECT commit_changes(release => true) IS NULL AS nothing;
SELECT count(*) FROM claim_rows('parts', ARRAY[11, 12, 13], '1 hour');
SELECT renew_claims('2 hours');
SELECT count(*) FROM rowclaim.claims WHERE mine AND expires_at BETWEEN clock_timestamp() + '119 min' AND clock_timestamp() + '2 hours';
-- without ttl: no expiry (rowclaim.default_ttl = 0)
SELECT renew_claims();
SELECT count(*) FROM rowclaim.claims WHERE mine AND expires_at IS NULL;
SET rowclaim.default_ttl = '1 h';
SELECT renew_claims();
SELECT count(*) FROM rowclaim.claims WHERE mine AND expires_at > clock_timestamp();
RESET rowclaim.default_ttl;
-- of one table
RESET SESSION AUTHORIZATION;
CREATE TABLE notes (id int PRIMARY KEY);
INSERT INTO notes VALUES (1);
GRANT ALL ON notes TO PUBLIC;
SELECT enable_claims('notes');
SET SESSION AUTHORIZATION regress_expiry_alice;
SELECT status FROM claim_row('notes', 1);
SELECT renew_claims('1 day', 'notes'), renew_claims('1 day', 'parts'), renew_claims('1 day', NULL);
-- not those of others
SELECT owner = 'regress_expiry_bob' AS bobs, count(*) FROM rowclaim.claims WHERE expires_at IS NULL GROUP BY owner;
-- an expired claim is not resurrected
SELECT status FROM claim_row('parts', 11, '1 ms');
SELECT wait_for_expiry();
SELECT renew_claims('1 hour', 'parts');
SELECT key, expired FROM rowclaim.claims WHERE mine AND target = 'parts'::regclass ORDER BY key;
-- it does not touch user rows
SELECT ctid AS before FROM parts WHERE id = 12 \gset
SELECT renew_claims('1 hour', 'parts');
SELECT ctid = :'before' AS untouched, row_version FROM parts WHERE id = 12;
-- releasing an expired claim
SELECT release_row('parts', 11), release_row('parts', 11);
SELECT * FROM refused('SELECT renew_claims(''0'')');
SELECT * FROM refused('SELECT renew_claims(''-1 s'')');

RESET SESSION AUTHORIZATION;
DROP OWNED BY regress_expiry_alice, regress_expiry_bob;
DROP ROLE regress_expiry_alice, regress_expiry_bob;
