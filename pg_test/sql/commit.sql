-- commit_changes(): its parameters, what it writes to the journal, what it leaves behind.
CREATE EXTENSION rowclaim;
CREATE ROLE regress_commit_alice;
CREATE ROLE regress_commit_bob;
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

CREATE TABLE parts (id int PRIMARY KEY, name text, price numeric(10,2), gross numeric GENERATED ALWAYS AS (price * 2) STORED);
INSERT INTO parts SELECT g, 'part ' || g, g FROM generate_series(1, 9) g;
CREATE TABLE stock (part int REFERENCES parts, place text, amount int, seen int DEFAULT 0, PRIMARY KEY (part, place));
GRANT ALL ON parts, stock TO PUBLIC;
SELECT enable_claims('parts'), enable_claims('stock', 'auto', untracked => '{seen}');
CREATE VIEW entries AS
    SELECT journal, seq, part, parts, kind, actor, base, message, changes FROM rowclaim.journal ORDER BY journal, seq, part;

-- nothing to commit
SET SESSION AUTHORIZATION regress_commit_alice;
SELECT commit_changes() IS NULL AS nothing;
SELECT status FROM claim_row('parts', 1);
SELECT commit_changes('still nothing') IS NULL AS nothing;
UPDATE parts SET price = price WHERE id = 1;
SELECT commit_changes() IS NULL AS nothing;

-- everything in the journal, all tables, one changeset; rows are clean afterwards, claims stay
SELECT status FROM claim_row('parts', 2);
UPDATE parts SET price = 1.50, name = E'bolt "M\\3"' WHERE id = 1;
DELETE FROM parts WHERE id = 2;
INSERT INTO parts VALUES (10, NULL, 0.00);
INSERT INTO stock VALUES (1, 'shelf', 5);
SELECT commit_changes('first');
RESET SESSION AUTHORIZATION;
SELECT * FROM entries;
SELECT xid = xmin::text::xid8 AS own_xid, committed_at BETWEEN now() - interval '1 min' AND now() AS just_now,
       octet_length(hash) AS hash_bytes
FROM rowclaim.journal;
SELECT count(*) FROM rowclaim.drafts;
SELECT target, key, owner, dirty FROM rowclaim.claims;

-- the released row is free: inserted and auto-held rows have no owner any more
SET SESSION AUTHORIZATION regress_commit_bob;
SELECT status FROM claim_row('parts', 10);
UPDATE stock SET amount = 6 WHERE part = 1;
SELECT commit_changes(NULL);
-- a key is the one before the change
UPDATE parts SET id = 11, name = 'renamed' WHERE id = 10;
SELECT commit_changes('');
UPDATE stock SET place = 'floor', amount = 7 WHERE part = 1;
-- an untracked column is not journaled
UPDATE stock SET seen = 3;
SELECT commit_changes();
RESET SESSION AUTHORIZATION;
SELECT * FROM entries WHERE seq > 1;
-- bob's claim followed its row and is still there
SELECT target, key, owner FROM rowclaim.claims WHERE owner = 'regress_commit_bob';

-- a commit is rolled back with its transaction or savepoint: the draft is there again, the number leaves a void
SET SESSION AUTHORIZATION regress_commit_alice;
UPDATE parts SET price = 2 WHERE id = 1;
BEGIN;
SELECT commit_changes('never');
ROLLBACK;
SELECT target, key, op FROM rowclaim.drafts;
BEGIN;
SAVEPOINT s;
SELECT commit_changes('never');
ROLLBACK TO s;
SELECT target, key, op FROM rowclaim.drafts;
UPDATE parts SET price = 3 WHERE id = 1;
SELECT commit_changes('at last');
COMMIT;
SELECT count(*) FROM rowclaim.drafts;
RESET SESSION AUTHORIZATION;
SELECT seq, kind, actor, message, changes FROM entries WHERE seq > 4 AND journal = 'main';
SELECT seq FROM rowclaim.changesets ORDER BY seq;

-- several commits in one transaction
SET SESSION AUTHORIZATION regress_commit_alice;
BEGIN;
UPDATE parts SET price = 4 WHERE id = 1;
SELECT commit_changes('a');
UPDATE parts SET price = 5 WHERE id = 1;
SELECT commit_changes('b');
SELECT commit_changes('c') IS NULL AS nothing;
COMMIT;
SELECT seq, message, op, old, new, version FROM rowclaim.changes JOIN rowclaim.changesets USING (journal, seq) WHERE seq > 7 AND journal = 'main' ORDER BY seq;

-- only my own draft
UPDATE parts SET price = 6 WHERE id = 1;
SET SESSION AUTHORIZATION regress_commit_bob;
SELECT commit_changes() IS NULL AS nothing;
SET SESSION AUTHORIZATION regress_commit_alice;
SELECT commit_changes();

-- release: my claims in that journal, changed or not
SELECT status FROM claim_row('parts', 3);
UPDATE parts SET price = 7 WHERE id = 1;
SELECT commit_changes('and release', release => true);
SELECT count(*) FROM rowclaim.claims WHERE mine;
SELECT row_owner FROM parts WHERE id IN (1, 3);
-- also with nothing to commit
SELECT status FROM claim_row('parts', 3);
SELECT commit_changes(release => true) IS NULL AS nothing;
SELECT count(*) FROM rowclaim.claims WHERE mine;
-- not those of others
SELECT owner FROM rowclaim.claims;

-- journal: only tables of that journal
RESET SESSION AUTHORIZATION;
SELECT create_journal('other');
CREATE TABLE notes (id int PRIMARY KEY, note text);
GRANT ALL ON notes TO PUBLIC;
SELECT enable_claims('notes', journal => 'other');
SET SESSION AUTHORIZATION regress_commit_alice;
SELECT status FROM claim_row('parts', 1);
UPDATE parts SET price = 8 WHERE id = 1;
INSERT INTO notes VALUES (1, 'x');
SELECT status FROM claim_row('notes', 1);
SELECT commit_changes('notes', journal => 'other', release => true);
SELECT journal, target, key FROM rowclaim.drafts;
SELECT target, key FROM rowclaim.claims WHERE mine;
SELECT commit_changes('main', NULL, 'main', true);
SELECT journal, seq, message FROM rowclaim.changesets ORDER BY journal DESC, seq DESC LIMIT 2;

-- base: refused if somebody else has committed after it, my own commits do not count
SELECT status FROM claim_row('parts', 1);
UPDATE parts SET price = 9 WHERE id = 1;
SELECT max(seq) AS last, max(seq) FILTER (WHERE actor <> current_actor()) AS of_others FROM rowclaim.changesets WHERE journal = 'main' \gset
SELECT commit_changes('old base of mine', base => :of_others) = :last + 1 AS committed;
SET SESSION AUTHORIZATION regress_commit_bob;
UPDATE stock SET amount = 8 WHERE part = 1;
SELECT (SELECT min(line) FROM refused(format('SELECT commit_changes(base => %s)', :last)) line) = format('55000: base %s is behind journal main: regress_commit_alice committed changeset %s', :last, :last + 1) AS refused;
-- the draft is intact after the refusal
SELECT target, key FROM rowclaim.drafts;
SELECT commit_changes('now', base => :last + 1) = :last + 2 AS committed;
-- the base is in the journal
SELECT seq - base AS ahead FROM rowclaim.changesets WHERE base IS NOT NULL ORDER BY seq;
-- a base from the future
UPDATE stock SET amount = 9 WHERE part = 1;
SELECT commit_changes(base => 1000000) > 0 AS committed;
-- nothing to commit is never behind
SELECT commit_changes(base => 0) IS NULL AS nothing;

-- require_current: a base must be given
RESET SESSION AUTHORIZATION;
SELECT create_journal('strict', require_current => true);
CREATE TABLE rules (id int PRIMARY KEY, rule text);
GRANT ALL ON rules TO PUBLIC;
SELECT enable_claims('rules', 'auto', journal => 'strict');
SET SESSION AUTHORIZATION regress_commit_alice;
INSERT INTO rules VALUES (1, 'first');
SELECT commit_changes(journal => 'strict', base => 0);
SET SESSION AUTHORIZATION regress_commit_bob;
INSERT INTO rules VALUES (2, 'second');
SELECT * FROM refused('SELECT commit_changes(journal => ''strict'')');
SELECT * FROM refused('SELECT commit_changes(journal => ''strict'', base => 0)');
SELECT commit_changes(journal => 'strict', base => 1);
SET SESSION AUTHORIZATION regress_commit_alice;
UPDATE rules SET rule = 'changed' WHERE id = 1;
SELECT commit_changes(journal => 'strict', base => 2);
UPDATE rules SET rule = 'changed again' WHERE id = 1;
SELECT commit_changes(journal => 'strict', base => 2);

-- committing => 'transaction': every database transaction is a changeset
RESET SESSION AUTHORIZATION;
CREATE TABLE counters (id int PRIMARY KEY, n int);
GRANT ALL ON counters TO PUBLIC;
SELECT enable_claims('counters', 'auto', 'transaction');
SET SESSION AUTHORIZATION regress_commit_bob;
INSERT INTO counters VALUES (1, 0), (2, 0);
BEGIN;
SET LOCAL rowclaim.message = 'by hand';
UPDATE counters SET n = n + 1;
UPDATE counters SET n = n + 1 WHERE id = 2;
SAVEPOINT s;
UPDATE counters SET n = 100;
ROLLBACK TO s;
COMMIT;
SELECT count(*) FROM rowclaim.drafts WHERE target = 'counters'::regclass;
SELECT actor, s.message, op, key, old, new, version
FROM rowclaim.changes c JOIN rowclaim.changesets s USING (journal, seq, actor) WHERE target = 'public.counters' ORDER BY seq, change;
-- one that changes nothing writes no entry
SELECT max(seq) AS last FROM rowclaim.changesets WHERE journal = 'main' \gset
UPDATE counters SET n = n;
BEGIN; UPDATE counters SET n = n + 1; UPDATE counters SET n = n - 1; COMMIT;
BEGIN; INSERT INTO counters VALUES (3, 3); DELETE FROM counters WHERE id = 3; COMMIT;
BEGIN; UPDATE counters SET n = n + 1; ROLLBACK;
SELECT max(seq) = :last AS unchanged FROM rowclaim.changesets WHERE journal = 'main';
-- rows are free in between
SET SESSION AUTHORIZATION regress_commit_alice;
UPDATE counters SET n = n + 1 WHERE id = 1;
SELECT actor, message FROM rowclaim.changesets WHERE journal = 'main' ORDER BY seq DESC LIMIT 1;

RESET SESSION AUTHORIZATION;
DROP OWNED BY regress_commit_alice, regress_commit_bob;
DROP ROLE regress_commit_alice, regress_commit_bob;
