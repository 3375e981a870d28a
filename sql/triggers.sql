-- What enable_claims() attaches to a table. The functions are plain C: no per-row wrapper.

CREATE FUNCTION rowclaim.guard() RETURNS trigger LANGUAGE c AS 'MODULE_PATHNAME', 'rowclaim_guard';
COMMENT ON FUNCTION rowclaim.guard() IS 'Rejects writes to rows the actor does not hold; stamps the others.';

CREATE FUNCTION rowclaim.capture() RETURNS trigger LANGUAGE c AS 'MODULE_PATHNAME', 'rowclaim_capture';
COMMENT ON FUNCTION rowclaim.capture() IS 'Saves what a row was when its draft began.';

CREATE FUNCTION rowclaim.enforced() RETURNS boolean
    LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'rowclaim_enforced';
COMMENT ON FUNCTION rowclaim.enforced() IS 'The setting rowclaim.enforce.';

-- STABLE, not VOLATILE: COPY keeps inserting in batches.
CREATE FUNCTION rowclaim.draft_stamp() RETURNS bigint
    LANGUAGE c STABLE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'rowclaim_draft_stamp';
COMMENT ON FUNCTION rowclaim.draft_stamp() IS 'Default of the draft column: the draft id of this transaction.';
