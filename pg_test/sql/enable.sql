-- enable_claims(), disable_claims(), create_journal().
CREATE EXTENSION rowclaim;
CREATE ROLE regress_enable_alice;
CREATE ROLE regress_enable_bob;
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

-- What a table looks like, claims-wise.
CREATE FUNCTION shape(target regclass) RETURNS SETOF text LANGUAGE sql AS $$
    SELECT format('%s %s%s%s', attname, format_type(atttypid, atttypmod), CASE WHEN attnotnull THEN ' NOT NULL' END, ' DEFAULT ' || pg_get_expr(adbin, adrelid))
    FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
    WHERE attrelid = target AND attnum > 0 AND NOT attisdropped ORDER BY attnum $$;
CREATE FUNCTION triggers(target regclass) RETURNS bigint LANGUAGE sql AS $$
    SELECT count(*) FROM pg_trigger WHERE tgrelid = target AND NOT tgisinternal $$;
CREATE TABLE parts (id int PRIMARY KEY, name text, qty int);
INSERT INTO parts VALUES (1, 'bolt', 1), (2, 'nut', 2);

-- the three columns, without rewriting the table
SELECT pg_relation_filenode('parts') AS before \gset
SELECT pg_typeof(enable_claims('parts'));
SELECT shape('parts');
SELECT id, row_owner, row_version, row_draft FROM parts;
SELECT pg_relation_filenode('parts') = :before AS not_rewritten;
SELECT triggers('parts') AS before \gset
SELECT :before > 0 AS guarded;
SELECT * FROM rowclaim.tables;
-- again with the same settings
SELECT enable_claims('parts'), enable_claims('parts', 'required', 'explicit', 'main', '{}', 'row_owner', 'row_version', 'row_draft');
SELECT triggers('parts') = :before AS same;
-- with others
SELECT * FROM refused('SELECT enable_claims(''parts'', untracked => ''{qty}'')');
SELECT * FROM refused('SELECT enable_claims(''parts'', committing => ''transaction'')');
SELECT * FROM refused('SELECT enable_claims(''parts'', owner_column => ''o'')');

-- in a transaction that rolls back, with writes before and after
CREATE TABLE t (id int PRIMARY KEY, v text);
INSERT INTO t VALUES (1, 'a');
BEGIN;
SELECT enable_claims('t', 'auto');
UPDATE t SET v = 'b';
SELECT commit_changes();
SAVEPOINT s;
SELECT disable_claims('t', drop_columns => true);
SELECT shape('t');
ROLLBACK TO s;
UPDATE t SET v = 'c';
ROLLBACK;
SELECT shape('t');
SELECT triggers('t'), (SELECT count(*) FROM rowclaim.tables WHERE target = 't'::regclass) AS tables;
UPDATE t SET v = 'd';
SELECT * FROM t;
SELECT count(*) FROM rowclaim.changesets;

-- all names and settings of one's own
CREATE TABLE "Weird Table" ("Key" int PRIMARY KEY, "a""b" text, n int);
INSERT INTO "Weird Table" VALUES (1, 'x', 0);
SELECT enable_claims('"Weird Table"', 'auto', 'transaction', 'main', '{n,"a\"b"}', 'Own Er', 'select', 'dr''aft');
SELECT shape('"Weird Table"');
SELECT target, claiming, committing, journal, untracked, owner_column, version_column, draft_column FROM rowclaim.tables WHERE claiming = 'auto';
SELECT status, owner = current_actor() AS mine FROM claim_row('"Weird Table"', 1);
UPDATE "Weird Table" SET "Key" = 2;
SELECT "Key", "Own Er" = current_actor() AS mine, "select" FROM "Weird Table";
-- an existing version column: bigint or integer, its values are kept
CREATE TABLE v (id int PRIMARY KEY, version int, v text);
INSERT INTO v VALUES (1, 41, 'x'), (2, NULL, 'y');
SELECT * FROM refused('SELECT enable_claims(''v'', version_column => ''version'')');
UPDATE v SET version = 1 WHERE version IS NULL;
SELECT enable_claims('v', 'auto', version_column => 'version');
SELECT shape('v');
SELECT status, row_version FROM claim_row('v', 1, version => 41);
UPDATE v SET v = 'z';
SELECT id, version FROM v ORDER BY id;
INSERT INTO v (id, v) VALUES (3, 'new');
SELECT version FROM v WHERE id = 3;
SELECT * FROM refused('UPDATE v SET version = 99 WHERE id = 1');
-- its own default is kept, and an end of its range is an error
CREATE TABLE v_ten (id int PRIMARY KEY, version int DEFAULT 10, v text);
INSERT INTO v_ten VALUES (1, 2147483647, 'last');
SELECT enable_claims('v_ten', 'auto', version_column => 'version');
SELECT shape('v_ten');
INSERT INTO v_ten (id, v) VALUES (2, 'new');
SELECT version FROM v_ten WHERE id = 2;
SELECT * FROM refused('UPDATE v_ten SET v = ''x'' WHERE id = 1');
CREATE TABLE v_small (id int PRIMARY KEY, version smallint NOT NULL DEFAULT 1);
SELECT * FROM refused('SELECT enable_claims(''v_small'', version_column => ''version'')');
CREATE TABLE v_text (id int PRIMARY KEY, version text);
SELECT * FROM refused('SELECT enable_claims(''v_text'', version_column => ''version'')');
CREATE TABLE v_gen (id int PRIMARY KEY, version bigint GENERATED ALWAYS AS (id) STORED);
SELECT * FROM refused('SELECT enable_claims(''v_gen'', version_column => ''version'')');
-- existing columns that do not fit
CREATE TABLE o (id int PRIMARY KEY, row_owner int);
SELECT * FROM refused('SELECT enable_claims(''o'')');
CREATE TABLE o2 (id int PRIMARY KEY, row_owner text);
INSERT INTO o2 VALUES (1, 'somebody');
SELECT * FROM refused('SELECT enable_claims(''o2'')');
CREATE TABLE o3 (id int PRIMARY KEY, row_draft text);
SELECT * FROM refused('SELECT enable_claims(''o3'')');
SELECT shape('o3');

-- untracked and its limits
SELECT * FROM refused('SELECT enable_claims(''t'', untracked => ''{nope}'')');
SELECT * FROM refused('SELECT enable_claims(''t'', untracked => ''{id}'')');
SELECT * FROM refused('SELECT enable_claims(''t'', untracked => ''{row_owner}'')');
SELECT * FROM refused('SELECT enable_claims(''t'', owner_column => ''id'')');
SELECT * FROM refused('SELECT enable_claims(''t'', owner_column => ''x'', draft_column => ''x'')');
SELECT * FROM refused('SELECT enable_claims(''t'', version_column => ''ctid'')');
SELECT * FROM refused('SELECT enable_claims(''t'', ''never'')');
SELECT * FROM refused('SELECT enable_claims(''t'', committing => ''sometimes'')');
SELECT * FROM refused('SELECT enable_claims(''t'', journal => ''none'')');
SELECT * FROM refused('SELECT enable_claims(''t'', claiming => NULL)');
SELECT * FROM refused('SELECT enable_claims(''t'', owner_column => '''')');
SELECT * FROM refused('SELECT enable_claims(NULL)');
SELECT * FROM refused('SELECT enable_claims(''no_such_table'')');
SELECT * FROM refused('SELECT enable_claims(1)');
SELECT shape('t');

-- refused by name, with the reason
CREATE TABLE no_key (id int);
CREATE TABLE unique_only (id int NOT NULL UNIQUE);
CREATE TEMP TABLE temporary (id int PRIMARY KEY);
CREATE FOREIGN DATA WRAPPER regress_enable_fdw;
CREATE SERVER regress_enable_server FOREIGN DATA WRAPPER regress_enable_fdw;
CREATE FOREIGN TABLE foreign_table (id int) SERVER regress_enable_server;
CREATE VIEW a_view AS SELECT * FROM t;
CREATE MATERIALIZED VIEW a_matview AS SELECT * FROM t;
CREATE SEQUENCE a_sequence;
CREATE TABLE parent (id int PRIMARY KEY);
CREATE TABLE child (PRIMARY KEY (id)) INHERITS (parent);
CREATE TABLE root (id int PRIMARY KEY) PARTITION BY RANGE (id);
CREATE TABLE leaf PARTITION OF root FOR VALUES FROM (0) TO (10);
CREATE TABLE late_key (id int PRIMARY KEY DEFERRABLE);
CREATE TYPE composite AS (id int);
SELECT name, regexp_replace(refused, 'pg_temp_\d+', 'pg_temp_<n>') AS refused FROM unnest(ARRAY['no_key', 'unique_only', 'temporary', 'foreign_table', 'a_view', 'a_matview', 'a_sequence', 'parent', 'child', 'leaf',
    'late_key', 'composite', 'parts_pkey', 'pg_class', 'pg_description', 'information_schema.sql_features', 'rowclaim.journal', 'rowclaim.claim', 'rowclaim.claims']) name,
    LATERAL refused(format('SELECT enable_claims(%L)', name));

-- only the table's owner
GRANT ALL ON t TO regress_enable_alice;
SET SESSION AUTHORIZATION regress_enable_alice;
SELECT * FROM refused('SELECT enable_claims(''t'')');
SELECT * FROM refused('SELECT disable_claims(''parts'')');
SELECT * FROM refused('SELECT create_journal(''alice'')');
RESET SESSION AUTHORIZATION;
ALTER TABLE t OWNER TO regress_enable_alice;
SET SESSION AUTHORIZATION regress_enable_alice;
SELECT enable_claims('t', 'auto');
UPDATE t SET v = 'owner';
SELECT disable_claims('t', force => true);
RESET SESSION AUTHORIZATION;

-- disable_claims: refused while there are claims or drafts
SELECT status FROM claim_row('parts', 1);
SELECT * FROM refused('SELECT disable_claims(''parts'')');
UPDATE parts SET qty = 10 WHERE id = 1;
SELECT * FROM refused('SELECT disable_claims(''parts'')');
SELECT commit_changes('ten', release => true) > 0 AS committed;
SELECT disable_claims('parts');
-- the columns stay, but not what they do
SELECT shape('parts');
SELECT triggers('parts');
SELECT count(*) FROM rowclaim.tables WHERE target = 'parts'::regclass;
UPDATE parts SET qty = 11 WHERE id = 1;
SELECT * FROM refused('SELECT claim_row(''parts'', 1)');
-- enabled again
SELECT enable_claims('parts', 'auto', untracked => '{qty}');
UPDATE parts SET name = 'x' WHERE id = 1;
SELECT row_version FROM parts ORDER BY id;
-- force: commits nothing, stashes the drafts, frees the claims
SELECT status FROM claim_row('parts', 2);
INSERT INTO parts VALUES (3, 'new', 3);
SELECT max(seq) AS last FROM rowclaim.journal \gset
SELECT disable_claims('parts', drop_columns => true, force => true);
SELECT shape('parts');
SELECT * FROM parts ORDER BY id;
SELECT key, op, base, mine, cause FROM rowclaim.stashes WHERE target = 'parts'::regclass ORDER BY id;
SELECT count(*) FROM rowclaim.claims WHERE target = 'parts'::regclass;
SELECT count(*) FROM rowclaim.drafts;
SELECT max(seq) = :last AS nothing_committed FROM rowclaim.journal;
SELECT * FROM refused('SELECT disable_claims(''parts'')');
SELECT * FROM refused('SELECT disable_claims(NULL)');

-- a table dropped leaves nothing
SELECT enable_claims('parts', 'auto');
UPDATE parts SET qty = 0;
DROP TABLE parts;
SELECT count(*) FROM rowclaim.drafts;
SELECT commit_changes() IS NULL AS nothing;

-- create_journal
SELECT create_journal('Zoë''s "journal"'), create_journal(repeat('j', 255));
SELECT * FROM refused('SELECT create_journal(''main'')');
SELECT * FROM refused('SELECT create_journal(NULL)');
SELECT * FROM refused('SELECT create_journal('''')');
SELECT * FROM refused('SELECT create_journal(repeat(''j'', 256))');
SELECT * FROM refused('SELECT create_journal(E''a\nb'')');
BEGIN;
SELECT create_journal('rolled back');
ROLLBACK;
SELECT create_journal('rolled back', require_current => true);
SELECT * FROM refused('SELECT enable_claims(''v'', journal => ''rolled back'')');
SELECT * FROM refused('SELECT enable_claims(''t'', committing => ''transaction'', journal => ''rolled back'')');
DROP SERVER regress_enable_server CASCADE;
DROP FOREIGN DATA WRAPPER regress_enable_fdw;
DROP TABLE t CASCADE;

RESET SESSION AUTHORIZATION;
DROP OWNED BY regress_enable_alice, regress_enable_bob;
DROP ROLE regress_enable_alice, regress_enable_bob;
