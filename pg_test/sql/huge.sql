-- Values of 1 GB: refused clearly, the transaction's other work intact.
CREATE EXTENSION rowclaim;
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

CREATE TABLE texts (id text PRIMARY KEY, body text);
CREATE TABLE numbers (id int PRIMARY KEY, body text);
INSERT INTO texts VALUES ('a', 'x');
SELECT enable_claims('texts', 'auto'), enable_claims('numbers', 'auto');
SELECT pg_backend_pid() AS pid \gset

BEGIN;
INSERT INTO texts VALUES ('b', 'kept');
SAVEPOINT s;
-- nearly as much as a value can hold
UPDATE texts SET body = repeat('x', 1000000000) WHERE id = 'a';
SELECT regexp_replace(line, '\d{10}', '<n>') FROM refused('SELECT commit_changes()') line;
-- an administrator can free the row
SAVEPOINT t;
SET LOCAL rowclaim.actor = 'admin';
SELECT status, owner FROM steal_row('texts', 'a');
SELECT body FROM texts WHERE id = 'a';
ROLLBACK TO t;
-- and its holder take it back
SELECT discard_changes('main', 'texts', 'a');
SELECT body FROM texts WHERE id = 'a';
ROLLBACK TO s;
-- large, and committed
UPDATE texts SET body = repeat('x', 20000000) WHERE id = 'a';
SELECT commit_changes('large');
SELECT op, key, length(new ->> 'body') FROM rowclaim.changes ORDER BY key::text;
COMMIT;
SELECT id, length(body) FROM texts ORDER BY id;
SELECT count(*) FROM verify_journal();

-- keys and names: the message does not repeat all of it
SELECT left(line, 60) AS line, length(line) < 2000 AS short FROM refused('SELECT claim_row(''numbers'', repeat(''9'', 20000000))') line LIMIT 1;
SELECT status, length(message) < 2000 AS short FROM claim_row('texts', repeat('x', 20000000));
SELECT left(line, 60) AS line, length(line) < 2000 AS short FROM refused('SELECT commit_changes(journal => repeat(''x'', 20000000))') line LIMIT 1;
SELECT left(line, 60) AS line, length(line) < 2000 AS short FROM refused('SELECT release_actor(repeat(''x'', 20000000))') line LIMIT 1;
SELECT left(line, 60) AS line, length(line) < 2000 AS short FROM refused('SELECT enable_claims(''texts'', repeat(''x'', 20000000))') line LIMIT 1;
SELECT pg_backend_pid() = :pid AS alive;
