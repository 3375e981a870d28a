-- verify_journal(), seal_journal(): what was tampered with is named, exactly.
CREATE EXTENSION rowclaim;
CREATE ROLE regress_verify_alice;
CREATE ROLE regress_verify_bob;
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
GRANT ALL ON parts TO PUBLIC;
SELECT enable_claims('parts', 'auto');
CREATE FUNCTION commits(first int, last int) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    seq bigint;
BEGIN
    FOR i IN first .. last LOOP
        INSERT INTO parts VALUES (i, i);
        seq := commit_changes('no. ' || i);
    END LOOP;
    RETURN seq;
END $$;

-- an empty journal
SELECT * FROM verify_journal();
SELECT seal_journal() IS NULL AS nothing_to_seal;
-- changesets, a void, a seal, a changeset of three parts: all is well
SELECT commits(1, 4);
BEGIN;
SELECT commits(5, 5);
ROLLBACK;
SELECT commits(6, 8);
SELECT seal_journal();
INSERT INTO parts SELECT generate_series(1001, 3500);
SELECT commit_changes('big');
SELECT commits(11, 12);
SELECT * FROM verify_journal();
SELECT seq, parts, kind, actor = '' AS nobody, message FROM rowclaim.journal WHERE part = 1 ORDER BY seq;
-- everybody may verify, only the DBA may seal
SET SESSION AUTHORIZATION regress_verify_alice;
SELECT * FROM verify_journal();
SELECT * FROM refused('SELECT seal_journal()');
RESET SESSION AUTHORIZATION;

-- an altered entry: every column counts
BEGIN; UPDATE rowclaim.journal SET changes = '[{"op":"insert","table":"public.parts","key":{"id":2},"new":{"id":2,"qty":9},"version":1}]' WHERE seq = 2; SELECT * FROM verify_journal(); ROLLBACK;
BEGIN; UPDATE rowclaim.journal SET changes = (changes::text || ' ')::json WHERE seq = 2; SELECT * FROM verify_journal(); ROLLBACK;
BEGIN; UPDATE rowclaim.journal SET actor = 'mallory' WHERE seq = 2; SELECT * FROM verify_journal(); ROLLBACK;
BEGIN; UPDATE rowclaim.journal SET message = NULL WHERE seq = 2; SELECT * FROM verify_journal(); ROLLBACK;
BEGIN; UPDATE rowclaim.journal SET message = '' WHERE seq = 2; SELECT * FROM verify_journal(); ROLLBACK;
BEGIN; UPDATE rowclaim.journal SET base = 0 WHERE seq = 2; SELECT * FROM verify_journal(); ROLLBACK;
BEGIN; UPDATE rowclaim.journal SET committed_at = committed_at + '1 us' WHERE seq = 2; SELECT * FROM verify_journal(); ROLLBACK;
BEGIN; UPDATE rowclaim.journal SET xid = '1' WHERE seq = 2; SELECT * FROM verify_journal(); ROLLBACK;
BEGIN; UPDATE rowclaim.journal SET kind = 'void' WHERE seq = 2; SELECT * FROM verify_journal(); ROLLBACK;
BEGIN; UPDATE rowclaim.journal SET kind = 'changeset', actor = 'x' WHERE kind = 'void'; SELECT * FROM verify_journal(); ROLLBACK;
-- after the seal, where only its own hash covers it
BEGIN; UPDATE rowclaim.journal SET actor = 'mallory' WHERE seq = 11; SELECT * FROM verify_journal(); ROLLBACK;
-- its hash as well: the seal tells
BEGIN; UPDATE rowclaim.journal SET hash = '\x00' WHERE seq = 2; SELECT * FROM verify_journal(); ROLLBACK;
BEGIN; UPDATE rowclaim.journal a SET changes = b.changes, actor = b.actor, message = b.message, xid = b.xid, committed_at = b.committed_at, hash = b.hash
FROM rowclaim.journal b WHERE a.seq = 2 AND b.seq = 3; SELECT * FROM verify_journal(); ROLLBACK;
-- an entry forged with a hash that fits: only the seal tells
CREATE FUNCTION forge(entry bigint) RETURNS void LANGUAGE sql AS $$
    UPDATE rowclaim.journal SET actor = 'mallory' WHERE seq = entry;
    UPDATE rowclaim.journal SET hash = sha256(convert_to(format('["main",%s,1,1,"changeset","mallory",null,"%s","%s",%s]', seq, xid, message,
        (extract(epoch FROM committed_at - timestamptz '2000-01-01 00:00+00') * 1000000)::bigint) || E'\n' || changes::text, 'UTF8'))
    WHERE seq = entry $$;
BEGIN; SELECT forge(2); SELECT * FROM verify_journal(); ROLLBACK;
-- after the last seal not even that
BEGIN; SELECT forge(11); SELECT * FROM verify_journal(); ROLLBACK;
-- one part of three
BEGIN; UPDATE rowclaim.journal SET actor = 'mallory' WHERE seq = 10 AND part = 2; SELECT * FROM verify_journal(); ROLLBACK;
BEGIN; DELETE FROM rowclaim.journal WHERE seq = 10 AND part = 2; SELECT * FROM verify_journal(); ROLLBACK;
BEGIN; DELETE FROM rowclaim.journal WHERE seq = 10 AND part = 3; SELECT * FROM verify_journal(); ROLLBACK;
BEGIN; DELETE FROM rowclaim.journal WHERE seq = 10 AND part = 1; SELECT * FROM verify_journal(); ROLLBACK;
-- two parts exchanged
BEGIN; UPDATE rowclaim.journal SET part = 99 WHERE seq = 10 AND part = 1; UPDATE rowclaim.journal SET part = 1 WHERE seq = 10 AND part = 2;
UPDATE rowclaim.journal SET part = 2 WHERE seq = 10 AND part = 99; SELECT * FROM verify_journal(); ROLLBACK;
-- a missing entry, a missing void, the first, two in a row
BEGIN; DELETE FROM rowclaim.journal WHERE seq = 3; SELECT * FROM verify_journal(); ROLLBACK;
BEGIN; DELETE FROM rowclaim.journal WHERE kind = 'void'; SELECT * FROM verify_journal(); ROLLBACK;
BEGIN; DELETE FROM rowclaim.journal WHERE seq = 1; SELECT * FROM verify_journal(); ROLLBACK;
BEGIN; DELETE FROM rowclaim.journal WHERE seq IN (2, 3); SELECT * FROM verify_journal(); ROLLBACK;
BEGIN; DELETE FROM rowclaim.journal WHERE seq = 11; SELECT * FROM verify_journal(); ROLLBACK;
-- two entries exchanged
BEGIN; UPDATE rowclaim.journal SET seq = 99 WHERE seq = 2; UPDATE rowclaim.journal SET seq = 2 WHERE seq = 3; UPDATE rowclaim.journal SET seq = 3 WHERE seq = 99;
SELECT * FROM verify_journal(); ROLLBACK;
-- the seal: altered, forged, gone
BEGIN; UPDATE rowclaim.journal SET changes = replace(changes::text, '"to":8', '"to":7')::json WHERE kind = 'seal'; SELECT * FROM verify_journal(); ROLLBACK;
BEGIN; UPDATE rowclaim.journal SET changes = '[]' WHERE kind = 'seal'; SELECT * FROM verify_journal(); ROLLBACK;
BEGIN; DELETE FROM rowclaim.journal WHERE kind = 'seal'; SELECT * FROM verify_journal(); ROLLBACK;
-- an entry that nobody committed
BEGIN; INSERT INTO rowclaim.journal SELECT journal, 13, part, parts, kind, actor, base, xid, message, committed_at, changes, hash FROM rowclaim.journal WHERE seq = 2;
SELECT * FROM verify_journal(); ROLLBACK;
-- several at once, in order
BEGIN; UPDATE rowclaim.journal SET actor = 'x' WHERE seq IN (4, 12); DELETE FROM rowclaim.journal WHERE seq = 6; SELECT * FROM verify_journal(); ROLLBACK;
SELECT * FROM verify_journal();
-- what is damaged is not sealed and not handed out
BEGIN; UPDATE rowclaim.journal SET actor = 'mallory' WHERE seq = 11; SELECT line FROM refused('SELECT seal_journal()') line WHERE line ~ '^XX001|reason'; ROLLBACK;
BEGIN; DELETE FROM rowclaim.journal WHERE seq = 10 AND part = 2; SELECT line FROM refused('SELECT * FROM pull_changes(''app'')') line WHERE line ~ '^XX001|reason'; ROLLBACK;

-- a journal of its own
SELECT create_journal('other');
SELECT * FROM verify_journal('other');
SELECT seal_journal('other') IS NULL AS nothing_to_seal;
SELECT * FROM refused('SELECT * FROM verify_journal(''none'')');
SELECT * FROM refused('SELECT * FROM verify_journal(NULL)');
SELECT * FROM refused('SELECT seal_journal(''none'')');
SELECT * FROM refused('SELECT seal_journal(NULL)');

-- a seal is made every 1,000 entries
SELECT commits(10001, 12200) > 2200 AS done;
SELECT count(*) BETWEEN 2 AND 3 AS automatic FROM rowclaim.journal WHERE kind = 'seal' AND seq > 12;
SELECT max(e ->> 'to') IS NOT NULL AS sealed, max((e ->> 'to')::bigint - (e ->> 'from')::bigint) < 2100 AS near_a_thousand
FROM rowclaim.journal, json_array_elements(changes) e WHERE kind = 'seal' AND seq > 12;
SELECT * FROM verify_journal();
BEGIN; DELETE FROM rowclaim.journal WHERE seq = 700; UPDATE rowclaim.journal SET actor = 'x' WHERE seq = 1500;
SELECT seq IN (700, 1500) AS exact, part, problem FROM verify_journal() WHERE problem NOT LIKE 'seal%'; ROLLBACK;
-- no entry appears twice, none is missing
SELECT max(seq) = count(DISTINCT seq) AS gapless, max(seq) = rowclaim.stable_seq('main') AS stable FROM rowclaim.journal WHERE journal = 'main';

RESET SESSION AUTHORIZATION;
DROP OWNED BY regress_verify_alice, regress_verify_bob;
DROP ROLE regress_verify_alice, regress_verify_bob;
