-- claim_row(): every parameter, every status, every field of its result.
CREATE EXTENSION rowclaim;
CREATE ROLE regress_claim_alice;
CREATE ROLE regress_claim_bob;
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

CREATE TABLE parts (id int PRIMARY KEY, name text, price numeric(10,2));
INSERT INTO parts VALUES (1, 'bolt', 1.00), (2, 'nut', 0.50), (3, 'screw', 0.10), (4, 'washer', 0.02);
GRANT ALL ON parts TO PUBLIC;
SELECT enable_claims('parts');

-- granted: all seven fields
SET SESSION AUTHORIZATION regress_claim_alice;
SELECT status, owner, token > 0 AS token, claimed_at BETWEEN now() AND clock_timestamp() AS claimed_now,
       expires_at, row_version, message
FROM claim_row('parts', 1);
SELECT pg_typeof(claim_row('parts', 1));

-- the claim is on the row and in the view
SELECT id, row_owner, row_version, row_draft FROM parts WHERE id = 1;
SELECT target, key, owner, expires_at, expired, reason, dirty, mine FROM rowclaim.claims;

-- granted again: the same token and claim time
SELECT token AS t1, claimed_at AS c1 FROM claim_row('parts', 1) \gset
SELECT status, token = :t1 AS same_token, claimed_at = :'c1' AS same_time FROM claim_row('parts', 1);

-- ttl: expires_at is that much later
SELECT status, expires_at - clock_timestamp() BETWEEN '59 min' AND '1 hour' AS in_an_hour
FROM claim_row('parts', 1, ttl => '1 hour');
-- claiming again renews the expiry
SELECT expires_at - clock_timestamp() BETWEEN '119 min' AND '2 hours' AS in_two_hours
FROM claim_row('parts', 1, ttl => '2 hours');
-- months count as months
SELECT date_trunc('day', expires_at) = date_trunc('day', clock_timestamp() + interval '1 month 1 day') AS in_a_month
FROM claim_row('parts', 1, ttl => '1 month 1 day');
-- without ttl the claim does not expire any more (rowclaim.default_ttl = 0)
SELECT status, expires_at, token = :t1 AS same_token FROM claim_row('parts', 1);

-- reason: shown in the view, kept by a renewal without one, replaced by one with
SELECT status FROM claim_row('parts', 1, reason => 'price review');
SELECT reason FROM rowclaim.claims;
SELECT status FROM claim_row('parts', 1);
SELECT reason FROM rowclaim.claims;
SELECT status FROM claim_row('parts', 1, reason => 'stocktaking');
SELECT reason FROM rowclaim.claims;

-- denied: the owner says who, nothing is taken
SET SESSION AUTHORIZATION regress_claim_bob;
SELECT status, owner, token, claimed_at = :'c1' AS since_then, expires_at, row_version,
       regexp_replace(message, 'since .*', 'since <time>') AS message
FROM claim_row('parts', 1);
SELECT id, row_owner FROM parts WHERE id = 1;
-- a version does not turn denied into stale
SELECT status, owner, row_version FROM claim_row('parts', 1, version => 99);
-- wait: denied after it, and not before
SELECT clock_timestamp() AS before \gset
SELECT status, clock_timestamp() - :'before' >= interval '100 ms' AS waited
FROM claim_row('parts', 1, wait => '100 ms');
-- wait for nobody costs nothing
SELECT status FROM claim_row('parts', 2, wait => '1 year');
SELECT status FROM claim_row('parts', 1, wait => '0');

-- denied shows when the claim expires
SET SESSION AUTHORIZATION regress_claim_alice;
SELECT expires_at AS e1 FROM claim_row('parts', 3, ttl => '1 day') \gset
SET SESSION AUTHORIZATION regress_claim_bob;
SELECT status, owner, expires_at = :'e1' AS until FROM claim_row('parts', 3);

-- not_found
SELECT * FROM claim_row('parts', 99);
SELECT count(*) FROM rowclaim.claims WHERE key = '{"id": 99}';
-- not_found does not wait
SELECT status FROM claim_row('parts', 99, wait => '1 year');

-- stale: row_version is the current one, nothing is claimed
SELECT * FROM claim_row('parts', 4, version => 7);
SELECT row_owner FROM parts WHERE id = 4;
-- the right version is granted
SELECT status, owner, row_version FROM claim_row('parts', 4, version => 1);
-- stale on a row I hold: the claim stays
SELECT status, owner, row_version FROM claim_row('parts', 4, version => 7);
SELECT row_owner FROM parts WHERE id = 4;
-- the version after an update
UPDATE parts SET price = 0.03 WHERE id = 4;
SELECT status, row_version FROM claim_row('parts', 4, version => 1);
SELECT status, row_version FROM claim_row('parts', 4, version => 2);
-- stale does not renew
SELECT status, expires_at FROM claim_row('parts', 4, version => 1, ttl => '1 hour');
SELECT expires_at FROM rowclaim.claims WHERE key = '{"id": 4}';

-- a row held by uncommitted changes without a claim: denied
INSERT INTO parts VALUES (5, 'rivet', 0.01);
SET SESSION AUTHORIZATION regress_claim_alice;
SELECT status, owner, token, claimed_at, expires_at, row_version FROM claim_row('parts', 5);
-- its holder may claim it
SET SESSION AUTHORIZATION regress_claim_bob;
SELECT status, owner, row_version FROM claim_row('parts', 5);

-- a row deleted in somebody's draft: denied; in my own draft: not_found
DELETE FROM parts WHERE id = 4;
SELECT status FROM claim_row('parts', 4);
SET SESSION AUTHORIZATION regress_claim_alice;
SELECT status, owner FROM claim_row('parts', 4);

-- the token grows with every grant to a new holder, never with a renewal
SET SESSION AUTHORIZATION regress_claim_bob;
SELECT token AS t2 FROM claim_row('parts', 2) \gset
SELECT release_row('parts', 2);
SET SESSION AUTHORIZATION regress_claim_alice;
SELECT token AS t3 FROM claim_row('parts', 2) \gset
SELECT release_row('parts', 2);
SELECT token AS t4 FROM claim_row('parts', 2) \gset
SELECT :t2 > :t1 AS grew, :t3 > :t2 AS grew, :t4 > :t3 AS grew;

-- claims change neither the version nor anything else, and fire no trigger of the user
RESET SESSION AUTHORIZATION;
CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE NOTICE '% fired', tg_name; RETURN new; END $$;
CREATE TRIGGER before_update BEFORE UPDATE ON parts FOR EACH ROW EXECUTE FUNCTION tell();
CREATE TRIGGER after_update AFTER UPDATE ON parts FOR EACH ROW EXECUTE FUNCTION tell();
CREATE TRIGGER statement_update AFTER UPDATE ON parts FOR EACH STATEMENT EXECUTE FUNCTION tell();
ALTER TABLE parts ENABLE ALWAYS TRIGGER after_update;
INSERT INTO parts VALUES (6, 'pin', 0.30);
SELECT commit_changes();
SET SESSION AUTHORIZATION regress_claim_alice;
SELECT status FROM claim_row('parts', 6);
SELECT status FROM claim_row('parts', 6, ttl => '1 hour');
SELECT renew_claims('2 hours') > 0 AS renewed;
SELECT id, name, price, row_owner, row_version FROM parts WHERE id = 6;
SELECT release_row('parts', 6);
SELECT id, name, price, row_owner, row_version FROM parts WHERE id = 6;

-- a claim is rolled back with its transaction
BEGIN;
SELECT status FROM claim_row('parts', 6);
ROLLBACK;
SELECT row_owner FROM parts WHERE id = 6;
SELECT count(*) FROM rowclaim.claims WHERE key = '{"id": 6}';
-- and with its savepoint
BEGIN;
SELECT status FROM claim_row('parts', 6);
SAVEPOINT s;
SELECT release_row('parts', 6);
SELECT row_owner FROM parts WHERE id = 6;
ROLLBACK TO s;
SELECT row_owner FROM parts WHERE id = 6;
SAVEPOINT t;
SELECT status, expires_at IS NULL AS forever FROM claim_row('parts', 6, ttl => '1 hour');
ROLLBACK TO t;
SELECT expires_at IS NULL AS forever FROM rowclaim.claims WHERE key = '{"id": 6}';
COMMIT;
SELECT row_owner FROM parts WHERE id = 6;

-- parameters by name, in any order; the overload for values and the one for text
SELECT status FROM claim_row(key => 6, target => 'parts', reason => 'r', wait => '0', version => NULL, ttl => '1 day');
SELECT status FROM claim_row(target => 'parts', key => '6');
-- from a query, many rows at a time
SELECT id, (claim_row('parts', id)).status FROM parts WHERE id IN (1, 4, 6) ORDER BY id;

-- answers name the table as it is called by then
RESET SESSION AUTHORIZATION;
CREATE SCHEMA one;
SET rowclaim.actor = 'regress_claim_alice';
SELECT message FROM claim_row('parts', 1);
ALTER TABLE parts RENAME TO pieces;
SELECT message FROM claim_row('pieces', 1);
ALTER TABLE pieces SET SCHEMA one;
SELECT message FROM claim_row('one.pieces', 1);
ALTER SCHEMA one RENAME TO two;
SELECT message FROM claim_row('two.pieces', 1);
BEGIN;
ALTER SCHEMA two RENAME TO three;
SELECT message FROM claim_row('three.pieces', 1);
ROLLBACK;
SELECT message FROM claim_row('two.pieces', 1);

RESET rowclaim.actor;
DROP OWNED BY regress_claim_alice, regress_claim_bob;
DROP ROLE regress_claim_alice, regress_claim_bob;
