-- A row cannot be put back while another one has its key or a unique value: who is in the way, and what helps.
\pset tuples_only on
\pset format unaligned
SET client_min_messages = warning;
CREATE EXTENSION rowclaim;
-- Acts for somebody: the result, or SQLSTATE, message, DETAIL and HINT.
CREATE FUNCTION act(who text, sql text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    result text;
    detail text;
    hint   text;
BEGIN
    PERFORM set_config('rowclaim.actor', who, false);
    IF sql LIKE 'SELECT%' THEN
        EXECUTE sql INTO result;
    ELSE
        EXECUTE sql;
    END IF;
    RETURN NEXT who || ': ' || sql || ' -> ' || coalesce(result, 'ok');
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
    RETURN QUERY SELECT unnest(ARRAY[who || ': ' || sql || ' -> ' || SQLSTATE || ' ' || SQLERRM, detail, hint]);
END $$;
CREATE FUNCTION wait_for_expiry() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    WHILE EXISTS (SELECT FROM rowclaim.claims WHERE owner = 'dora' AND NOT expired) LOOP
        PERFORM pg_sleep(0.01);
    END LOOP;
END $$;
CREATE TABLE place (id int PRIMARY KEY, code text UNIQUE, note text);
INSERT INTO place VALUES (1, 'a'), (2, 'b'), (3, 'c'), (4, 'd');
SELECT enable_claims('place', 'auto');

-- Two drafts have exchanged unique values: neither can be put back first.
SELECT act(who, sql) FROM (VALUES
    ('ann', 'UPDATE place SET code = ''x'' WHERE id = 1'),
    ('bob', 'UPDATE place SET code = ''a'' WHERE id = 2'),
    ('ann', 'UPDATE place SET code = ''b'' WHERE id = 1'),
    ('ann', 'SELECT discard_changes()'),
    ('ann', 'SELECT discard_changes(target => ''place'', key => ''1'')'),
    ('bob', 'SELECT discard_changes()'),
    ('cid', 'SELECT (status, owner, message) FROM steal_row(''place'', 1)'),
    ('cid', 'SELECT release_actor(''ann'')')) steps(who, sql);
-- Both together can.
BEGIN;
SELECT disable_claims('place', force => true);
SELECT id, code FROM place ORDER BY id;
SELECT actor, key, base, mine, cause FROM rowclaim.stashes ORDER BY id;
ROLLBACK;
-- What the hint says helps.
SELECT act(who, sql) FROM (VALUES
    ('ann', 'UPDATE place SET code = ''x'' WHERE id = 1'),
    ('bob', 'SELECT discard_changes()'),
    ('ann', 'SELECT discard_changes()')) steps(who, sql);
SELECT id, code, row_version, row_draft IS NULL FROM place ORDER BY id;
-- A deleted row comes back where another draft has its unique value now; in one draft, a row alone.
SELECT act(who, sql) FROM (VALUES
    ('ann', 'DELETE FROM place WHERE id = 3'),
    ('bob', 'INSERT INTO place VALUES (5, ''c'')'),
    ('ann', 'SELECT discard_changes()'),
    ('bob', 'SELECT discard_changes()'),
    ('ann', 'SELECT discard_changes()'),
    ('ann', 'UPDATE place SET code = ''y'' WHERE id = 1'),
    ('ann', 'UPDATE place SET code = ''a'' WHERE id = 2'),
    ('ann', 'SELECT discard_changes(target => ''place'', key => ''1'')'),
    ('ann', 'SELECT discard_changes()')) steps(who, sql);
SELECT id, code, row_version, row_draft IS NULL FROM place ORDER BY id;
-- A number that is written differently and yet its former one is in nobody's way; what another index says counts.
CREATE TABLE pair (id int PRIMARY KEY, n numeric UNIQUE, code text UNIQUE);
INSERT INTO pair VALUES (1, 1.0, 'a'), (2, 2.0, 'b');
SELECT enable_claims('pair', 'auto');
SELECT act(who, sql) FROM (VALUES
    ('ann', 'UPDATE pair SET n = 1.00, code = ''x'' WHERE id = 1'),
    ('bob', 'UPDATE pair SET code = ''a'' WHERE id = 2'),
    ('ann', 'SELECT discard_changes()'),
    ('bob', 'SELECT discard_changes()'),
    ('ann', 'SELECT discard_changes()')) steps(who, sql);
TABLE pair ORDER BY id;

-- In one draft rows may have exchanged places in any unique index: with a WHERE, of a generated column, of an expression.
CREATE TABLE live (id int PRIMARY KEY, code text, gone boolean NOT NULL, n int, twice int GENERATED ALWAYS AS (n * 2) STORED UNIQUE);
CREATE UNIQUE INDEX live_code ON live (code) WHERE NOT gone;
CREATE UNIQUE INDEX live_n ON live (abs(n));
INSERT INTO live VALUES (1, 'a', false, 1), (2, 'a', true, 2), (3, 'c', false, 3);
SELECT enable_claims('live', 'auto');
SELECT act('ann', sql) FROM unnest(ARRAY[
    'UPDATE live SET gone = NOT gone WHERE id = 1',
    'UPDATE live SET gone = NOT gone WHERE id = 2',
    'SELECT discard_changes()',
    'UPDATE live SET n = 9 WHERE id = 1',
    'UPDATE live SET n = 1 WHERE id = 2',
    'UPDATE live SET n = 2 WHERE id = 1',
    'SELECT discard_changes()']) sql;
TABLE live ORDER BY id;
-- With another draft in the way.
SELECT act(who, sql) FROM (VALUES
    ('ann', 'UPDATE live SET gone = true WHERE id = 1'),
    ('bob', 'UPDATE live SET gone = false WHERE id = 2'),
    ('ann', 'SELECT discard_changes()'),
    ('bob', 'SELECT discard_changes()'),
    ('ann', 'SELECT discard_changes()')) steps(who, sql);

-- Expired claims on rows that have changed their keys: what cannot be had alone is denied, and the reason given.
CREATE TABLE seat (id int PRIMARY KEY, note text);
INSERT INTO seat SELECT i, 'note ' || i FROM generate_series(1, 5) i;
SELECT enable_claims('seat');
SELECT act('dora', sql) FROM unnest(ARRAY[
    'SELECT array_agg(status) FROM claim_rows(''seat'', ARRAY[1, 3, 4], ''1 ms'')',
    'UPDATE seat SET id = 10 WHERE id = 1',
    'UPDATE seat SET id = 1 WHERE id = 3',
    'UPDATE seat SET note = ''changed'' WHERE id = 4',
    'SELECT wait_for_expiry()']) sql;
SELECT act('cid', sql) FROM unnest(ARRAY[
    'SELECT (status, owner, row_version, message) FROM claim_row(''seat'', 10)',
    'SELECT (status, owner, row_version, message) FROM claim_row(''seat'', 10, wait => ''10 ms'')',
    'SELECT (status, owner, row_version, message) FROM steal_row(''seat'', 10)',
    'SELECT array_agg((key, status, owner)) FROM claim_rows(''seat'', ARRAY[4, 10, 2])',
    'SELECT array_agg((key, status, owner)) FROM claim_rows(''seat'', ARRAY[4, 10, 2], wait => ''10 ms'')']) sql;
SELECT key, owner FROM rowclaim.claims WHERE target = 'seat'::regclass ORDER BY key;
SELECT count(*) FROM rowclaim.stashes;
-- Its former key is free once the row that has it now is put back.
SELECT act('cid', sql) FROM unnest(ARRAY[
    'SELECT (status, message) FROM claim_row(''seat'', 1)',
    'SELECT array_agg((key, status)) FROM claim_rows(''seat'', ARRAY[4, 10, 2])']) sql;
SELECT id, note, row_owner, row_version FROM seat ORDER BY id;
SELECT actor, key, base, mine, cause FROM rowclaim.stashes ORDER BY id;

-- A row that somebody else's draft refers to.
CREATE TABLE item (id int PRIMARY KEY, place int REFERENCES place);
SELECT enable_claims('item', 'auto');
SELECT act(who, sql) FROM (VALUES
    ('ann', 'INSERT INTO place VALUES (7)'),
    ('bob', 'INSERT INTO item VALUES (1, 7)'),
    ('cid', 'SELECT (status, owner, message) FROM steal_row(''place'', 7)'),
    ('bob', 'SELECT discard_changes()'),
    ('cid', 'SELECT (status, message) FROM steal_row(''place'', 7)')) steps(who, sql);
-- Where a row is in the way and somebody else's row refers to another one too, the first is what is said.
CREATE TABLE alias (id int PRIMARY KEY, code text REFERENCES place (code));
SELECT enable_claims('alias', 'auto');
SELECT act(who, sql) FROM (VALUES
    ('ann', 'INSERT INTO place VALUES (8)'),
    ('ann', 'UPDATE place SET code = ''z'' WHERE id = 4'),
    ('bob', 'INSERT INTO item VALUES (1, 8)'),
    ('bob', 'INSERT INTO alias VALUES (1, ''z'')'),
    ('bob', 'UPDATE place SET code = ''d'' WHERE id = 2'),
    ('ann', 'SELECT discard_changes()'),
    ('ann', 'SELECT discard_changes(target => ''place'', key => ''4'')'),
    ('cid', 'SELECT (status, owner, message) FROM steal_row(''place'', 4)'),
    ('bob', 'UPDATE place SET code = ''b'' WHERE id = 2'),
    ('ann', 'SELECT discard_changes()'),
    ('bob', 'SELECT discard_changes()'),
    ('ann', 'SELECT discard_changes()')) steps(who, sql);
SELECT id, code, row_version, row_draft IS NULL FROM place ORDER BY id;
SELECT * FROM check_claims();

-- Whatever the table of drafts was like when a session began, it is not read as a whole to put rows back.
SET rowclaim.actor = 'ann';
VACUUM ANALYZE rowclaim.draft_row;
\c -
SET rowclaim.actor = 'ann';
CREATE TABLE many (id int PRIMARY KEY, n int);
INSERT INTO many SELECT i FROM generate_series(1, 3000) i;
SELECT enable_claims('many', 'auto');
CREATE FUNCTION whole_reads() RETURNS bigint LANGUAGE sql AS $$ SELECT pg_stat_get_xact_numscans('rowclaim.draft_row'::regclass) $$;
UPDATE many SET n = 1 WHERE id = 1;
SELECT discard_changes();
UPDATE many SET n = 1;
BEGIN;
SELECT discard_changes(target => 'many', key => '17');
SELECT whole_reads();
COMMIT;
BEGIN;
SELECT discard_changes();
SELECT whole_reads();
COMMIT;
SELECT count(*) FROM many WHERE n IS NOT NULL OR row_draft IS NOT NULL;
SELECT * FROM check_claims();
-- A parallel query of a trigger finds what the running statement has put into the draft, in its workers too.
RESET rowclaim.actor;
CREATE TABLE wide (id int PRIMARY KEY, n int);
INSERT INTO wide SELECT i, 0 FROM generate_series(1, 3) i;
SELECT enable_claims('wide', 'auto');
CREATE FUNCTION dirty(int) RETURNS bigint LANGUAGE plpgsql STABLE PARALLEL SAFE AS $$
BEGIN
    RETURN (SELECT count(*) FROM rowclaim.drafts WHERE target = 'wide'::regclass);
END $$;
CREATE FUNCTION say_dirty() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    seen bigint;
BEGIN
    EXECUTE 'SELECT min(dirty(n)) FROM wide' INTO seen;
    RAISE INFO '% dirty', seen;
    RETURN NULL;
END $$;
CREATE TRIGGER zz AFTER UPDATE ON wide FOR EACH STATEMENT EXECUTE FUNCTION say_dirty();
SET min_parallel_table_scan_size = 0;
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET parallel_leader_participation = off;
UPDATE wide SET n = 1;
