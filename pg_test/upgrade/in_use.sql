-- A database in use: claims, open drafts, a stash, journals, consumers. Run by psql as superuser, after CREATE EXTENSION.
\set ON_ERROR_STOP 1
SET client_min_messages = error;
CREATE SCHEMA "odd schema";
CREATE TABLE "odd schema"."Part" (id int PRIMARY KEY, v text);
INSERT INTO "odd schema"."Part" SELECT i, 'old' FROM generate_series(1, 6) i;
CREATE TABLE measure (id int, day date, v numeric, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
-- A table made and dropped, so that OIDs and attribute numbers differ in a restored database.
CREATE TABLE gone (x int);
CREATE TABLE measure_2026 PARTITION OF measure FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
CREATE TABLE measure_rest PARTITION OF measure DEFAULT;
DROP TABLE gone;
ALTER TABLE measure ADD COLUMN gone int;
ALTER TABLE measure DROP COLUMN gone;
INSERT INTO measure SELECT i, date '2026-01-01' + i * 300, i FROM generate_series(1, 6) i;
CREATE TABLE tally (id int PRIMARY KEY, n int, seen int);
INSERT INTO tally VALUES (1, 0, 0);
SELECT create_journal('side'), create_journal('strict', require_current => true);
SELECT enable_claims('"odd schema"."Part"');
SELECT enable_claims('measure', claiming => 'auto', journal => 'side');
SELECT enable_claims('tally', claiming => 'auto', committing => 'transaction', untracked => '{seen}',
    owner_column => 'own', version_column => 'ver', draft_column => 'dra');

-- Claims with an expiry and a reason; a changeset; a draft of each kind of change, in two journals.
SET rowclaim.actor = 'alice';
SELECT claim_rows('"odd schema"."Part"', ARRAY[1, 2, 3], ttl => '1000 days', reason => 'price review');
UPDATE "odd schema"."Part" SET v = 'alice' WHERE id = 1;
SELECT commit_changes('first');
UPDATE "odd schema"."Part" SET v = 'dirty' WHERE id = 2;
DELETE FROM "odd schema"."Part" WHERE id = 3;
INSERT INTO "odd schema"."Part" VALUES (7, 'new');
UPDATE measure SET v = v + 1 WHERE id = 1;
DELETE FROM measure WHERE id = 2;
DELETE FROM measure WHERE id = 5;
SELECT claim_row('"odd schema"."Part"', 4);
UPDATE "odd schema"."Part" SET v = 'dirty' WHERE id = 4;

SET rowclaim.actor = 'bob';
UPDATE measure SET v = v + 1 WHERE id = 3;
SELECT commit_changes(journal => 'side');
SELECT steal_row('"odd schema"."Part"', 4, 'holiday');
UPDATE tally SET n = n + 1;
-- A commit that fails, so that numbers are ahead of the entries.
BEGIN;
UPDATE tally SET n = n + 1;
UPDATE "odd schema"."Part" SET v = 'bob' WHERE id = 4;
SELECT commit_changes();
ROLLBACK;
UPDATE tally SET n = n + 1;
SELECT * FROM pull_changes('replica');
SELECT ack_changes('replica', 1);
SELECT seal_journal('side');
