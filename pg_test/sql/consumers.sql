-- pull_changes() and ack_changes().
CREATE EXTENSION rowclaim;
CREATE ROLE regress_consumers_alice;
CREATE ROLE regress_consumers_bob;
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

CREATE TABLE parts (id int PRIMARY KEY, qty int);
CREATE TABLE secret (id int PRIMARY KEY, body text);
GRANT ALL ON parts TO PUBLIC;
GRANT ALL ON secret TO regress_consumers_bob;
SELECT enable_claims('parts', 'auto'), enable_claims('secret', 'auto');
SET SESSION AUTHORIZATION regress_consumers_bob;
INSERT INTO parts VALUES (1, 1);
SELECT commit_changes('one');
BEGIN;
INSERT INTO parts VALUES (2, 2);
SELECT commit_changes('lost');
ROLLBACK;
SELECT discard_changes();
INSERT INTO parts VALUES (3, 3);
INSERT INTO secret VALUES (1, 'x');
SELECT commit_changes('three');
INSERT INTO secret VALUES (2, 'y');
SELECT commit_changes('four');

-- whole changesets, in order, voids left out; all columns
SELECT seq, part, parts, actor, committed_at <= clock_timestamp() AS committed, message, changes FROM pull_changes('app');
-- again the same until they are acknowledged
SELECT seq, message FROM pull_changes('app');
SELECT seq, message FROM pull_changes('app', max_changesets => 1);
SELECT seq, message FROM pull_changes('app', 'main', 2);
SELECT ack_changes('app', 1);
SELECT seq, message FROM pull_changes('app', max_changesets => 1);
-- never backwards
SELECT ack_changes('app', 3);
SELECT ack_changes('app', 0), ack_changes('app', -5);
SELECT seq, message FROM pull_changes('app');
SELECT consumer, journal, position, lag, role, last_seen <= clock_timestamp() AS seen FROM rowclaim.consumers;
SELECT ack_changes('app', 4);
SELECT count(*) FROM pull_changes('app');
SELECT consumer, position, lag FROM rowclaim.consumers;
-- consumers are independent of each other
SELECT count(*) FROM pull_changes('other app');
SELECT ack_changes('other app', 3);
SELECT consumer, position, lag FROM rowclaim.consumers ORDER BY consumer;
-- an acknowledgement rolled back is none
BEGIN;
SELECT ack_changes('other app', 4);
ROLLBACK;
SELECT seq FROM pull_changes('other app');

-- only changes of tables the role may read; the changeset itself is there
SET SESSION AUTHORIZATION regress_consumers_alice;
SELECT seq, message, changes FROM pull_changes('alice''s');
-- another role's consumer
SELECT * FROM refused('SELECT * FROM pull_changes(''app'')');
SELECT * FROM refused('SELECT ack_changes(''app'', 1)');
-- a superuser may
RESET SESSION AUTHORIZATION;
SELECT count(*) FROM pull_changes('app');

-- journals have their own positions
SELECT create_journal('second');
CREATE TABLE notes (id int PRIMARY KEY);
SELECT enable_claims('notes', 'auto', journal => 'second');
INSERT INTO notes VALUES (1);
SELECT commit_changes('note', journal => 'second');
SELECT seq, message FROM pull_changes('app', 'second');
SELECT ack_changes('app', 1, 'second');
SELECT consumer, journal, position, lag FROM rowclaim.consumers WHERE consumer = 'app' ORDER BY journal;

-- seals are not changesets
SELECT seal_journal('second');
SELECT count(*) FROM pull_changes('app', 'second');
INSERT INTO notes VALUES (2);
SELECT commit_changes('after the seal', journal => 'second');
SELECT seq, message FROM pull_changes('app', 'second');

-- a changeset of many parts comes whole
INSERT INTO notes SELECT generate_series(1001, 3500);
SELECT commit_changes('big', journal => 'second');
SELECT seq, part, parts, json_array_length(changes) FROM pull_changes('big reader', 'second', 10) WHERE message = 'big';
SELECT ack_changes('app', 3, 'second');
SELECT seq, part, message FROM pull_changes('app', 'second', 1);

-- refusals
SELECT * FROM refused('SELECT * FROM pull_changes(NULL)');
SELECT * FROM refused('SELECT * FROM pull_changes('''')');
SELECT * FROM refused('SELECT * FROM pull_changes(repeat(''x'', 256))');
SELECT * FROM refused('SELECT * FROM pull_changes(''app'', ''none'')');
SELECT * FROM refused('SELECT * FROM pull_changes(''app'', NULL)');
SELECT * FROM refused('SELECT * FROM pull_changes(''app'', max_changesets => 0)');
SELECT * FROM refused('SELECT * FROM pull_changes(''app'', max_changesets => NULL)');
SELECT * FROM refused('SELECT ack_changes(''nobody'', 1)');
SELECT * FROM refused('SELECT ack_changes(''app'', NULL)');
SELECT * FROM refused('SELECT ack_changes(''app'', 1000000)');
SELECT * FROM refused('SELECT ack_changes(''app'', 1, ''none'')');
-- a refused pull registers no consumer
SELECT consumer, journal FROM rowclaim.consumers ORDER BY 1, 2;

-- tables under row security are refused, so that nobody takes a part for the whole
CREATE TABLE guarded (id int PRIMARY KEY, who text);
GRANT SELECT ON notes, guarded TO regress_consumers_alice, regress_consumers_bob;
SELECT enable_claims('guarded', 'auto', journal => 'second');
SET SESSION AUTHORIZATION regress_consumers_bob;
SELECT count(*) > 0 AS pulled FROM pull_changes('bob''s', 'second');
SELECT ack_changes('bob''s', rowclaim.stable_seq('second'), 'second');
RESET SESSION AUTHORIZATION;
ALTER TABLE guarded ENABLE ROW LEVEL SECURITY;
CREATE POLICY everything ON guarded TO regress_consumers_bob USING (true);
INSERT INTO notes VALUES (4000);
SELECT commit_changes('before it', journal => 'second');
INSERT INTO guarded VALUES (1, 'x');
INSERT INTO notes VALUES (4001);
SELECT commit_changes('guarded', journal => 'second') AS guarded \gset
INSERT INTO notes VALUES (4002);
SELECT commit_changes('after it', journal => 'second');
SET SESSION AUTHORIZATION regress_consumers_bob;
SELECT * FROM refused('SELECT seq FROM pull_changes(''bob''''s'', ''second'')');
-- not before it is that changeset's turn
SELECT message FROM pull_changes('bob''s', 'second', 1);
SELECT ack_changes('bob''s', :guarded - 1, 'second');
SELECT * FROM refused('SELECT seq FROM pull_changes(''bob''''s'', ''second'', 1)');
SELECT position - :guarded AS position FROM rowclaim.consumers WHERE consumer = 'bob''s';
-- whoever may not read the table is not shown it, as before
RESET SESSION AUTHORIZATION;
REVOKE SELECT ON guarded FROM regress_consumers_alice;
SET SESSION AUTHORIZATION regress_consumers_alice;
SELECT message, changes FROM pull_changes('alice''s', 'second') WHERE seq >= :guarded;
-- who bypasses it gets everything: BYPASSRLS, the owner unless forced, a superuser
RESET SESSION AUTHORIZATION;
ALTER ROLE regress_consumers_bob BYPASSRLS;
SET SESSION AUTHORIZATION regress_consumers_bob;
SELECT message, json_array_length(changes) FROM pull_changes('bob''s', 'second');
RESET SESSION AUTHORIZATION;
ALTER ROLE regress_consumers_bob NOBYPASSRLS;
ALTER TABLE guarded OWNER TO regress_consumers_bob;
SET SESSION AUTHORIZATION regress_consumers_bob;
SELECT message, json_array_length(changes) FROM pull_changes('bob''s', 'second');
ALTER TABLE guarded FORCE ROW LEVEL SECURITY;
SELECT * FROM refused('SELECT seq FROM pull_changes(''bob''''s'', ''second'')');
RESET SESSION AUTHORIZATION;
SELECT message, json_array_length(changes) FROM pull_changes('bob''s', 'second');
-- what is acknowledged is in nobody's way
SELECT ack_changes('bob''s', :guarded, 'second');
SET SESSION AUTHORIZATION regress_consumers_bob;
SELECT message FROM pull_changes('bob''s', 'second');
RESET SESSION AUTHORIZATION;

-- an abandoned consumer is detached by its role or a superuser, in one journal
SET SESSION AUTHORIZATION regress_consumers_alice;
SELECT * FROM refused('SELECT detach_consumer(''app'')');
SELECT * FROM refused('SELECT detach_consumer(''app'', ''second'')');
SELECT detach_consumer('nobody'), detach_consumer('alice''s', 'none'), detach_consumer(NULL);
SELECT detach_consumer('alice''s', journal => 'second');
SELECT journal FROM rowclaim.consumers WHERE consumer = 'alice''s';
SELECT detach_consumer('alice''s'), detach_consumer(consumer => 'alice''s');
SELECT * FROM refused('SELECT ack_changes(''alice''''s'', 4)');
RESET SESSION AUTHORIZATION;
SELECT * FROM refused('SELECT detach_consumer(''app'', NULL)');
BEGIN;
SELECT detach_consumer('app');
ROLLBACK;
SELECT consumer, journal, role = current_user AS of_the_dba FROM rowclaim.consumers ORDER BY 1, 2;
SELECT detach_consumer('app'), detach_consumer('app', 'second'), detach_consumer('big reader', 'second');
-- it no longer keeps entries; who comes under its name begins with what is left, and may be another role
SET client_min_messages = error;
SELECT limited_by FROM prune_journal('second', 1000000, true);
SET SESSION AUTHORIZATION regress_consumers_bob;
SELECT detach_consumer('bob''s', 'second');
RESET SESSION AUTHORIZATION;
SELECT limited_by FROM prune_journal('second', :guarded + 1);
SET SESSION AUTHORIZATION regress_consumers_alice;
SELECT message FROM pull_changes('bob''s', 'second');
SELECT role FROM rowclaim.consumers WHERE consumer = 'bob''s';

-- a baseline is shown as changes are: to those who may read the table; a part that is hidden is an empty one
RESET SESSION AUTHORIZATION;
CREATE TABLE pay (id int PRIMARY KEY, name text, salary int);
INSERT INTO pay VALUES (1, 'ann', 5000);
SELECT create_journal('third');
SELECT enable_claims('pay', 'auto', journal => 'third');
SELECT baseline_table('pay');
UPDATE pay SET salary = 6000 WHERE id = 1;
SELECT commit_changes('a rise', journal => 'third');
GRANT SELECT ON pay TO regress_consumers_bob;
SET SESSION AUTHORIZATION regress_consumers_bob;
SELECT seq, part, parts, changes FROM pull_changes('b', 'third');
-- SELECT on some of the columns is not enough: a change has them all
RESET SESSION AUTHORIZATION;
GRANT SELECT (id, name), UPDATE ON pay TO regress_consumers_alice;
SET SESSION AUTHORIZATION regress_consumers_alice;
SELECT seq, part, parts, changes FROM pull_changes('a', 'third');
-- the rights of the current role count: SET ROLE gives and takes
RESET SESSION AUTHORIZATION;
CREATE ROLE regress_consumers_group;
GRANT SELECT ON pay TO regress_consumers_group;
GRANT regress_consumers_group TO regress_consumers_alice;
ALTER ROLE regress_consumers_alice NOINHERIT;
SET SESSION AUTHORIZATION regress_consumers_alice;
SET ROLE regress_consumers_group;
SELECT * FROM refused('SELECT * FROM pull_changes(''a'', ''third'')');
SELECT count(*), sum(json_array_length(changes)) FROM pull_changes('g', 'third');
RESET ROLE;
SELECT * FROM refused('SELECT * FROM pull_changes(''g'', ''third'')');
RESET SESSION AUTHORIZATION;
-- a right that is taken away ends at once; what the table was called before gives none
REVOKE SELECT ON pay FROM regress_consumers_bob;
SET SESSION AUTHORIZATION regress_consumers_bob;
SELECT sum(json_array_length(changes)) FROM pull_changes('b', 'third');
RESET SESSION AUTHORIZATION;
ALTER TABLE pay RENAME TO paid;
CREATE TABLE pay (id int);
GRANT SELECT ON pay, paid TO regress_consumers_bob;
SET SESSION AUTHORIZATION regress_consumers_bob;
SELECT sum(json_array_length(changes)) FROM pull_changes('b', 'third');
RESET SESSION AUTHORIZATION;
-- one call costs what it returns, not the backlog
INSERT INTO paid SELECT g FROM generate_series(2, 4) g;
DO $$ BEGIN
    FOR n IN 1..1500 LOOP UPDATE paid SET salary = n WHERE id = 2; PERFORM commit_changes(journal => 'third'); END LOOP;
END $$;
SELECT seal_journal('third') > 1500 AS sealed;
VACUUM ANALYZE rowclaim.journal;
CREATE FUNCTION blocks_read(sql text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    plan json;
BEGIN
    EXECUTE 'EXPLAIN (ANALYZE, BUFFERS, FORMAT json) ' || sql INTO plan;
    RETURN plan -> 0 -> 'Plan' ->> 'Shared Hit Blocks';
END $$;
SELECT count(*) FROM pull_changes('warm', 'third', 10);
SELECT blocks_read('SELECT * FROM pull_changes(''small'', ''third'', 10)') * 30 < blocks_read('SELECT * FROM pull_changes(''large'', ''third'', 1500)') AS bounded;
DROP OWNED BY regress_consumers_group;
DROP ROLE regress_consumers_group;

RESET SESSION AUTHORIZATION;
DROP OWNED BY regress_consumers_alice, regress_consumers_bob;
DROP ROLE regress_consumers_alice, regress_consumers_bob;
