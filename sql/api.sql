-- The functions users call, in the schema chosen at CREATE EXTENSION.

CREATE TYPE claim_result AS (
    status      text,
    owner       text,
    token       bigint,
    claimed_at  timestamptz,
    expires_at  timestamptz,
    row_version bigint,
    message     text
);
COMMENT ON TYPE claim_result IS
    'Outcome of a claim: status is granted, denied, stale or not_found; token is a fencing token.';

CREATE FUNCTION current_actor() RETURNS text
    LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'rowclaim_current_actor';
COMMENT ON FUNCTION current_actor() IS 'Who is acting: the login role, or the user named by rowclaim.actor.';

-- For DBAs and table owners --------------------------------------------------------------------

CREATE FUNCTION enable_claims(
    target regclass, claiming text DEFAULT 'required', committing text DEFAULT 'explicit',
    journal text DEFAULT 'main', untracked name[] DEFAULT '{}', owner_column name DEFAULT 'row_owner',
    version_column name DEFAULT 'row_version', draft_column name DEFAULT 'row_draft') RETURNS void
    LANGUAGE c AS 'MODULE_PATHNAME', 'rowclaim_enable_claims';
COMMENT ON FUNCTION enable_claims(regclass, text, text, text, name[], name, name, name) IS
    'Makes the rows of a table claimable. Only the table''s owner may; takes constant time.';

CREATE FUNCTION disable_claims(target regclass, drop_columns boolean DEFAULT false, force boolean DEFAULT false)
    RETURNS void LANGUAGE c AS 'MODULE_PATHNAME', 'rowclaim_disable_claims';
COMMENT ON FUNCTION disable_claims(regclass, boolean, boolean) IS
    'Ends claims on a table; refused while there are claims or drafts unless force, which stashes the drafts.';

CREATE FUNCTION create_journal(name text, require_current boolean DEFAULT false) RETURNS void
    LANGUAGE c AS 'MODULE_PATHNAME', 'rowclaim_create_journal';
COMMENT ON FUNCTION create_journal(text, boolean) IS
    'Creates a journal; with require_current every commit must name a base nobody else has gone past.';
REVOKE ALL ON FUNCTION create_journal(text, boolean) FROM PUBLIC;

CREATE FUNCTION steal_row(target regclass, key text, reason text DEFAULT NULL, ttl interval DEFAULT NULL)
    RETURNS claim_result LANGUAGE c AS 'MODULE_PATHNAME', 'rowclaim_steal_row';
CREATE FUNCTION steal_row(target regclass, key anynonarray, reason text DEFAULT NULL, ttl interval DEFAULT NULL)
    RETURNS claim_result LANGUAGE c AS 'MODULE_PATHNAME', 'rowclaim_steal_row';
COMMENT ON FUNCTION steal_row(regclass, text, text, interval) IS
    'Takes a row from its holder; the holder''s uncommitted changes on it go to the stash.';
COMMENT ON FUNCTION steal_row(regclass, anynonarray, text, interval) IS
    'Takes a row from its holder; the holder''s uncommitted changes on it go to the stash.';
REVOKE ALL ON FUNCTION steal_row(regclass, text, text, interval) FROM PUBLIC;
REVOKE ALL ON FUNCTION steal_row(regclass, anynonarray, text, interval) FROM PUBLIC;

CREATE FUNCTION release_actor(actor text, reason text DEFAULT NULL) RETURNS bigint
    LANGUAGE c AS 'MODULE_PATHNAME', 'rowclaim_release_actor';
COMMENT ON FUNCTION release_actor(text, text) IS
    'Frees everything an absent actor holds; uncommitted changes go to the stash.';
REVOKE ALL ON FUNCTION release_actor(text, text) FROM PUBLIC;

CREATE FUNCTION seal_journal(journal text DEFAULT 'main') RETURNS bigint
    LANGUAGE c AS 'MODULE_PATHNAME', 'rowclaim_seal_journal';
COMMENT ON FUNCTION seal_journal(text) IS 'Appends a seal over all entries since the last one; its seq.';
REVOKE ALL ON FUNCTION seal_journal(text) FROM PUBLIC;

CREATE FUNCTION verify_journal(journal text DEFAULT 'main', OUT seq bigint, OUT part int, OUT problem text)
    RETURNS SETOF record
    LANGUAGE c AS 'MODULE_PATHNAME', 'rowclaim_verify_journal';
COMMENT ON FUNCTION verify_journal(text) IS
    'One row per altered, missing or reordered entry of a journal; none when all is well.';

-- For applications -----------------------------------------------------------------------------

CREATE FUNCTION claim_row(
    target regclass, key text, ttl interval DEFAULT NULL, version bigint DEFAULT NULL,
    wait interval DEFAULT NULL, reason text DEFAULT NULL) RETURNS claim_result
    LANGUAGE c AS 'MODULE_PATHNAME', 'rowclaim_claim_row';
CREATE FUNCTION claim_row(
    target regclass, key anynonarray, ttl interval DEFAULT NULL, version bigint DEFAULT NULL,
    wait interval DEFAULT NULL, reason text DEFAULT NULL) RETURNS claim_result
    LANGUAGE c AS 'MODULE_PATHNAME', 'rowclaim_claim_row';
COMMENT ON FUNCTION claim_row(regclass, text, interval, bigint, interval, text) IS
    'Claims a row for the current actor. Never raises for an expected outcome: see status.';
COMMENT ON FUNCTION claim_row(regclass, anynonarray, interval, bigint, interval, text) IS
    'Claims a row for the current actor. Never raises for an expected outcome: see status.';

CREATE FUNCTION claim_rows(
    target regclass, keys anyarray, ttl interval DEFAULT NULL, versions bigint[] DEFAULT NULL,
    wait interval DEFAULT NULL, reason text DEFAULT NULL,
    OUT key jsonb, OUT status text, OUT owner text, OUT token bigint, OUT claimed_at timestamptz,
    OUT expires_at timestamptz, OUT row_version bigint, OUT message text) RETURNS SETOF record
    LANGUAGE c AS 'MODULE_PATHNAME', 'rowclaim_claim_rows';
COMMENT ON FUNCTION claim_rows(regclass, anyarray, interval, bigint[], interval, text) IS
    'Claims several rows, all or nothing.';

CREATE FUNCTION release_row(target regclass, key text) RETURNS boolean
    LANGUAGE c AS 'MODULE_PATHNAME', 'rowclaim_release_row';
CREATE FUNCTION release_row(target regclass, key anynonarray) RETURNS boolean
    LANGUAGE c AS 'MODULE_PATHNAME', 'rowclaim_release_row';
COMMENT ON FUNCTION release_row(regclass, text) IS 'Releases a row: true, or false when it was not claimed.';
COMMENT ON FUNCTION release_row(regclass, anynonarray) IS 'Releases a row: true, or false when it was not claimed.';

CREATE FUNCTION release_rows(target regclass DEFAULT NULL) RETURNS bigint
    LANGUAGE c AS 'MODULE_PATHNAME', 'rowclaim_release_rows';
COMMENT ON FUNCTION release_rows(regclass) IS
    'Releases all my claims (in one table); refused as a whole if any row is dirty.';

CREATE FUNCTION renew_claims(ttl interval DEFAULT NULL, target regclass DEFAULT NULL) RETURNS bigint
    LANGUAGE c AS 'MODULE_PATHNAME', 'rowclaim_renew_claims';
COMMENT ON FUNCTION renew_claims(interval, regclass) IS 'Extends my unexpired claims; how many.';

CREATE FUNCTION commit_changes(
    message text DEFAULT NULL, base bigint DEFAULT NULL, journal text DEFAULT 'main', release boolean DEFAULT false)
    RETURNS bigint LANGUAGE c AS 'MODULE_PATHNAME', 'rowclaim_commit_changes';
COMMENT ON FUNCTION commit_changes(text, bigint, text, boolean) IS
    'Turns my draft into one changeset of the journal; its seq, NULL when there was nothing to commit.';

CREATE FUNCTION discard_changes(journal text DEFAULT 'main', target regclass DEFAULT NULL, key text DEFAULT NULL)
    RETURNS bigint LANGUAGE c AS 'MODULE_PATHNAME', 'rowclaim_discard_changes';
COMMENT ON FUNCTION discard_changes(text, regclass, text) IS
    'Puts my dirty rows back as committed; claims stay. How many rows.';

CREATE FUNCTION restore_stash(id bigint) RETURNS bigint
    LANGUAGE c AS 'MODULE_PATHNAME', 'rowclaim_restore_stash';
COMMENT ON FUNCTION restore_stash(bigint) IS
    'Applies a stashed change of mine again, once I hold the row again.';
