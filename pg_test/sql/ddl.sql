-- DDL on enabled tables: what would break enforcement is refused with the call that does it properly; the rest works.
\pset tuples_only on
\pset format unaligned
SET client_min_messages = warning;
CREATE EXTENSION rowclaim;

-- Runs a statement; how it failed: SQLSTATE, message, DETAIL and HINT. undo: it should have failed.
CREATE FUNCTION expect(sql text, undo boolean DEFAULT false) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    detail text;
    hint   text;
BEGIN
    EXECUTE sql;
    IF undo THEN
        RAISE EXCEPTION SQLSTATE 'UNDO0' USING MESSAGE = 'NOT REFUSED';
    END IF;
    RETURN 'ok: ' || sql;
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
    RETURN concat_ws(E'\n    ', sql, SQLSTATE || ' ' || SQLERRM, nullif(detail, ''), nullif(hint, ''));
END $$;

CREATE TABLE parts (id int PRIMARY KEY, name text, qty int DEFAULT 0);
INSERT INTO parts SELECT i, 'part ' || i FROM generate_series(1, 9) i;
SELECT enable_claims('parts', 'auto');
SET rowclaim.actor = 'alice';
SELECT (claim_row('parts', 1)).status;
UPDATE parts SET qty = 1 WHERE id = 1;

-- Ownership columns.
SELECT expect(sql, true) FROM (VALUES
    ('ALTER TABLE parts DROP COLUMN row_owner'),
    ('ALTER TABLE parts DROP COLUMN row_version'),
    ('ALTER TABLE parts DROP COLUMN row_draft'),
    ('ALTER TABLE parts DROP COLUMN row_draft, ADD COLUMN row_draft bigint'),
    ('ALTER TABLE parts RENAME COLUMN row_owner TO owner'),
    ('ALTER TABLE parts RENAME row_version TO version'),
    ('ALTER TABLE parts ALTER COLUMN row_owner TYPE varchar'),
    ('ALTER TABLE parts ALTER COLUMN row_version TYPE numeric'),
    ('ALTER TABLE parts ALTER COLUMN row_draft TYPE text'),
    ('ALTER TABLE parts ALTER COLUMN row_version DROP NOT NULL'),
    ('ALTER TABLE parts ALTER COLUMN row_owner SET NOT NULL')) s(sql);
SELECT expect('ALTER TABLE parts DROP COLUMN row_owner CASCADE', true);
-- A lost default breaks nothing: the inserted row is held all the same.
ALTER TABLE parts ALTER COLUMN row_draft DROP DEFAULT;
INSERT INTO parts VALUES (20);
SELECT key, op, actor FROM rowclaim.drafts WHERE key->>'id' = '20';
SET rowclaim.actor = 'bob';
SELECT expect('UPDATE parts SET qty = 5 WHERE id = 20') ~ 'row_held';
SET rowclaim.actor = 'alice';
DELETE FROM parts WHERE id = 20;
ALTER TABLE parts ALTER COLUMN row_draft SET DEFAULT rowclaim.draft_stamp();

-- Triggers.
CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
SELECT expect(sql, true) FROM (VALUES
    ('ALTER TABLE parts DISABLE TRIGGER rowclaim_guard'),
    ('ALTER TABLE parts DISABLE TRIGGER rowclaim_capture'),
    ('ALTER TABLE parts DISABLE TRIGGER USER'),
    ('ALTER TABLE parts DISABLE TRIGGER ALL'),
    ('ALTER TABLE parts ENABLE REPLICA TRIGGER rowclaim_capture'),
    ('DROP TRIGGER rowclaim_guard ON parts'),
    ('DROP TRIGGER rowclaim_truncate ON parts'),
    ('ALTER TRIGGER rowclaim_guard ON parts RENAME TO harmless'),
    ('CREATE OR REPLACE TRIGGER rowclaim_guard BEFORE UPDATE ON parts FOR EACH ROW EXECUTE FUNCTION nothing()'),
    ('CREATE OR REPLACE TRIGGER rowclaim_guard BEFORE UPDATE OF name ON parts FOR EACH ROW EXECUTE FUNCTION rowclaim.guard()'),
    ('CREATE OR REPLACE TRIGGER rowclaim_guard BEFORE UPDATE OR DELETE ON parts FOR EACH ROW WHEN (false) EXECUTE FUNCTION rowclaim.guard()'),
    ('CREATE OR REPLACE TRIGGER rowclaim_truncate BEFORE TRUNCATE ON parts EXECUTE FUNCTION nothing()'),
    ('DROP FUNCTION rowclaim.guard()'),
    ('DROP FUNCTION rowclaim.capture() CASCADE')) s(sql);
-- Enabling them in the ordinary way, as tools do, leaves them on for replica sessions.
SELECT expect('ALTER TABLE parts ENABLE TRIGGER rowclaim_guard'), expect('ALTER TABLE parts ENABLE TRIGGER ALL');
SELECT tgname, tgenabled FROM pg_trigger WHERE tgrelid = 'parts'::regclass AND tgname LIKE 'rowclaim%' ORDER BY 1;
-- The user's own triggers are the user's.
SELECT expect('CREATE TRIGGER mine BEFORE UPDATE ON parts FOR EACH ROW EXECUTE FUNCTION nothing()');
SELECT expect('ALTER TABLE parts DISABLE TRIGGER mine');
SELECT expect('ALTER TRIGGER mine ON parts RENAME TO yours');
SELECT expect('DROP TRIGGER yours ON parts');

-- The primary key.
SELECT expect(sql, true) FROM (VALUES
    ('ALTER TABLE parts DROP CONSTRAINT parts_pkey'),
    ('ALTER TABLE parts DROP CONSTRAINT parts_pkey, ADD PRIMARY KEY (id, name)'),
    ('ALTER TABLE parts DROP CONSTRAINT parts_pkey, ADD PRIMARY KEY (name)'),
    ('ALTER TABLE parts DROP CONSTRAINT parts_pkey, ADD PRIMARY KEY (id) DEFERRABLE'),
    ('ALTER TABLE parts DROP COLUMN id'),
    ('ALTER TABLE parts ALTER COLUMN id TYPE text'),
    ('ALTER TABLE parts ALTER COLUMN id TYPE bigint')) s(sql);
SELECT expect('ALTER TABLE parts RENAME CONSTRAINT parts_pkey TO the_key');

-- Inheritance and partitioning.
CREATE TABLE base (id int, name text, qty int);
CREATE TABLE parted (LIKE parts) PARTITION BY LIST (id);
SELECT expect(sql, true) FROM (VALUES
    ('CREATE TABLE kid () INHERITS (parts)'),
    ('ALTER TABLE parts INHERIT base'),
    ('ALTER TABLE parted ATTACH PARTITION parts DEFAULT')) s(sql);

-- Nothing above changed anything: the row is still alice's and dirty, others are kept out.
SELECT id, qty, row_owner, row_version FROM parts WHERE id = 1;
SET rowclaim.actor = 'bob';
SELECT expect('UPDATE parts SET qty = 2 WHERE id = 1') ~ 'row_held';
SELECT expect('TRUNCATE parts') ~ 'operation_refused';
SET rowclaim.actor = 'alice';

-- What works while rows are claimed and dirty.
CREATE SCHEMA elsewhere;
CREATE ROLE regress_ddl;
SELECT expect(sql) FROM (VALUES
    ('CREATE INDEX parts_name ON parts (name)'),
    ('CLUSTER parts USING parts_name'),
    ('REINDEX TABLE parts'),
    ('ALTER TABLE parts SET UNLOGGED'),
    ('ALTER TABLE parts SET LOGGED'),
    ('ALTER TABLE parts SET (fillfactor = 70)'),
    ('ALTER TABLE parts REPLICA IDENTITY FULL'),
    ('ALTER TABLE parts ADD CHECK (qty >= 0)'),
    ('ALTER TABLE parts ADD UNIQUE (name)'),
    ('ALTER TABLE parts ALTER COLUMN name SET NOT NULL'),
    ('ALTER TABLE parts ALTER COLUMN name SET STATISTICS 10'),
    ('ALTER TABLE parts ENABLE ROW LEVEL SECURITY'),
    ('ALTER TABLE parts OWNER TO regress_ddl'),
    ('ALTER TABLE parts SET SCHEMA elsewhere'),
    ('ALTER TABLE elsewhere.parts RENAME TO things'),
    ('COMMENT ON TABLE elsewhere.things IS ''x''')) s(sql);
VACUUM FULL elsewhere.things;
SELECT target, key, op FROM rowclaim.drafts;
SELECT target, key, owner, dirty FROM rowclaim.claims;
SET rowclaim.actor = 'bob';
SELECT expect('UPDATE elsewhere.things SET qty = 2 WHERE id = 1') ~ 'row_held.*elsewhere.things';
SET rowclaim.actor = 'alice';
SELECT discard_changes();
SELECT qty FROM elsewhere.things WHERE id = 1;

-- The owner need not be a superuser, for what is refused and for what works.
UPDATE elsewhere.things SET qty = 3 WHERE id = 2;
GRANT ALL ON SCHEMA elsewhere TO regress_ddl;
SET ROLE regress_ddl;
SELECT expect(sql) FROM (VALUES
    ('ALTER TABLE elsewhere.things DISABLE TRIGGER rowclaim_guard'),
    ('ALTER TABLE elsewhere.things RENAME COLUMN name TO title'),
    ('ALTER TABLE elsewhere.things ADD COLUMN note text')) s(sql);
-- A stranger cannot, and hears nothing of rowclaim.
RESET ROLE;
CREATE ROLE regress_ddl_stranger;
GRANT USAGE ON SCHEMA elsewhere TO regress_ddl_stranger;
SET ROLE regress_ddl_stranger;
SELECT expect('ALTER TABLE elsewhere.things DISABLE TRIGGER rowclaim_guard');
RESET ROLE;

-- Maintenance may switch the triggers off, and back on.
SET rowclaim.enforce = off;
SELECT expect('ALTER TABLE elsewhere.things DISABLE TRIGGER rowclaim_guard');
SELECT expect('ALTER TABLE elsewhere.things ENABLE ALWAYS TRIGGER rowclaim_guard');
RESET rowclaim.enforce;

-- DROP TABLE and DROP SCHEMA clean up, and the rest of the draft can still be committed.
CREATE TABLE kept (id int PRIMARY KEY);
SELECT enable_claims('kept', 'auto');
INSERT INTO kept VALUES (1);
CREATE TABLE gone (id int PRIMARY KEY);
SELECT enable_claims('gone');
INSERT INTO gone VALUES (1);
SELECT (claim_row('gone', 1)).status;
CREATE TABLE elsewhere.parted (id int PRIMARY KEY) PARTITION BY LIST (id);
CREATE TABLE elsewhere.leaf PARTITION OF elsewhere.parted DEFAULT;
SELECT enable_claims('elsewhere.parted');
INSERT INTO elsewhere.parted VALUES (1), (2);
SELECT (claim_row('elsewhere.parted', 1)).status;
SELECT target, count(*) FROM rowclaim.drafts GROUP BY 1 ORDER BY 1;
BEGIN;
DROP TABLE gone;
ROLLBACK;
SELECT count(*) FROM rowclaim.claims WHERE target = 'gone'::regclass;
DROP TABLE gone;
DROP SCHEMA elsewhere CASCADE;
SELECT target FROM rowclaim.tables ORDER BY 1;
SELECT count(*) FROM rowclaim.claim;
SELECT target, key FROM rowclaim.drafts;
SELECT commit_changes(), release_rows(), discard_changes();
SELECT seq, op, target, key FROM rowclaim.changes ORDER BY 1, 2;
-- The same name can be enabled again.
CREATE TABLE gone (id int PRIMARY KEY);
SELECT enable_claims('gone', 'auto');
INSERT INTO gone VALUES (1);
SELECT commit_changes();

-- DROP OWNED, and a table of a dropped owner.
CREATE TABLE owned (id int PRIMARY KEY);
SELECT enable_claims('owned', 'auto');
ALTER TABLE owned OWNER TO regress_ddl;
INSERT INTO owned VALUES (1);
DROP OWNED BY regress_ddl;
SELECT count(*) FROM rowclaim.draft_row;
SELECT commit_changes();

-- DROP EXTENSION needs CASCADE while tables are enabled; the tables stay, with their rows.
SELECT expect('DROP EXTENSION rowclaim') ~ '^DROP EXTENSION rowclaim\n    2BP01';
DROP EXTENSION rowclaim CASCADE;
UPDATE kept SET id = 2;
SELECT id FROM kept;
SELECT tgname FROM pg_trigger WHERE tgname LIKE 'rowclaim%';
DROP TABLE kept, gone, parted, base;
DROP ROLE regress_ddl, regress_ddl_stranger;
