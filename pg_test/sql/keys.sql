-- Row keys: every form a key can have.
CREATE EXTENSION rowclaim;
CREATE ROLE regress_keys_alice;
CREATE ROLE regress_keys_bob;
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

SET timezone = 'UTC';
CREATE DOMAIN short AS varchar(4) CHECK (value <> 'bad');
CREATE TYPE mood AS ENUM ('sad', 'happy');
CREATE TABLE k_int (id int PRIMARY KEY);
CREATE TABLE k_big (id bigint PRIMARY KEY);
CREATE TABLE k_num (id numeric PRIMARY KEY);
CREATE TABLE k_text (id text PRIMARY KEY);
CREATE TABLE k_char (id char(4) PRIMARY KEY);
CREATE TABLE k_uuid (id uuid PRIMARY KEY);
CREATE TABLE k_date (id date PRIMARY KEY);
CREATE TABLE k_tstz (id timestamptz PRIMARY KEY);
CREATE TABLE k_bool (id boolean PRIMARY KEY);
CREATE TABLE k_bytea (id bytea PRIMARY KEY);
CREATE TABLE k_enum (id mood PRIMARY KEY);
CREATE TABLE k_domain (id short PRIMARY KEY);
CREATE TABLE k_jsonb (id jsonb PRIMARY KEY);
CREATE TABLE k_array (id int[] PRIMARY KEY);
CREATE TABLE k_range (id int4range PRIMARY KEY);
CREATE TABLE k_float (id float8 PRIMARY KEY);
CREATE TABLE k_two (id int, "Line No" text, note text, PRIMARY KEY ("Line No", id));
INSERT INTO k_int VALUES (42), (-1); INSERT INTO k_big VALUES (42), (9007199254740993);
INSERT INTO k_num VALUES (42), (1.50), ('NaN'); INSERT INTO k_text VALUES ('42'), ('{"id":42}'), (''), ('null'), ('a"b');
INSERT INTO k_char VALUES ('ab'); INSERT INTO k_uuid VALUES ('00000000-0000-0000-0000-00000000002a');
INSERT INTO k_date VALUES ('2026-02-01'), ('infinity'); INSERT INTO k_tstz VALUES ('2026-02-01 12:00+00');
INSERT INTO k_bool VALUES (true); INSERT INTO k_bytea VALUES ('\x00ff'); INSERT INTO k_enum VALUES ('happy');
INSERT INTO k_domain VALUES ('ab'); INSERT INTO k_jsonb VALUES ('{"id": 42}'), ('"a"'), ('7'); INSERT INTO k_array VALUES ('{1,2}');
INSERT INTO k_range VALUES ('[1,5)'); INSERT INTO k_float VALUES (0.1), ('-0');
INSERT INTO k_two VALUES (7, 'a', 'n'), (8, 'a', 'n');
SELECT count(enable_claims(c.oid::regclass)) FROM pg_class c WHERE relname LIKE 'k\_%' AND relkind = 'r';

-- integers: literal, text, unknown, other integer types, numeric
SELECT (claim_row('k_int', 42)).status, (claim_row('k_int', '42')).status, (claim_row('k_int', 42::text)).status,
       (claim_row('k_int', 42::bigint)).status, (claim_row('k_int', 42::smallint)).status, (claim_row('k_int', 42::numeric)).status,
       (claim_row('k_int', ' 42 ')).status, (claim_row('k_int', '42'::varchar)).status, (claim_row('k_int', '42'::name)).status,
       (claim_row('k_int', -1)).status;
-- jsonb and json: an object or the value
SELECT (claim_row('k_int', '{"id":42}'::jsonb)).status, (claim_row('k_int', '{"id":"42"}'::jsonb)).status,
       (claim_row('k_int', '42'::jsonb)).status, (claim_row('k_int', '{"id":42}'::json)).status, (claim_row('k_int', '"42"'::jsonb)).status;
-- the row itself, and rows that have the key column
SELECT (claim_row('k_int', k_int)).status FROM k_int WHERE id = 42;
SELECT (claim_row('k_int', s)).status FROM (SELECT 'x' AS other, 42::bigint AS id) s;
SELECT (claim_row('k_text', k_int)).status FROM k_int WHERE id = 42;
-- numbers beyond what a double holds
SELECT (claim_row('k_big', 9007199254740993)).status, (claim_row('k_big', '{"id":9007199254740993}'::jsonb)).status,
       (claim_row('k_big', 9007199254740992)).status, (claim_row('k_big', 42::int)).status;
SELECT key FROM rowclaim.claims WHERE target = 'k_big'::regclass ORDER BY token;
-- equal values are the same row
SELECT (claim_row('k_num', 42.000)).status, (claim_row('k_num', 1.5)).status, (claim_row('k_num', '1.500')).status,
       (claim_row('k_num', 'NaN')).status, (claim_row('k_num', '{"id":1.5}'::jsonb)).status, (claim_row('k_num', 42)).status;
SELECT key FROM rowclaim.claims WHERE target = 'k_num'::regclass ORDER BY token;
SELECT release_row('k_num', 42.0), release_row('k_num', 42.00), release_row('k_num', 1.5000), release_row('k_num', 'NaN');
SELECT count(*) FROM rowclaim.claims WHERE target = 'k_num'::regclass;
SELECT (claim_row('k_float', 0.1)).status, (claim_row('k_float', '0.1'::float8)).status, (claim_row('k_float', 0)).status;
-- a text for a one-column key is always the value itself
SELECT key, (claim_row('k_text', key)).status, (claim_row('k_text', key)).message
FROM unnest(ARRAY['42', '{"id":42}', '', 'null', 'a"b', '{"id":"42"}']) key;
SELECT (claim_row('k_text', 42)).status, (claim_row('k_text', '{"id":"42"}'::jsonb)).message, (claim_row('k_text', '"a\"b"'::jsonb)).status;
-- other types
SELECT (claim_row('k_char', 'ab')).status, (claim_row('k_char', 'ab  ')).status, (claim_row('k_char', 'ab'::char(4))).status;
SELECT (claim_row('k_uuid', '00000000-0000-0000-0000-00000000002a'::uuid)).status,
       (claim_row('k_uuid', '{0000000000000000-000000000000002A}')).status;
SELECT (claim_row('k_date', date '2026-02-01')).status, (claim_row('k_date', '2026-02-01')).status, (claim_row('k_date', 'infinity')).status,
       (claim_row('k_date', '{"id":"2026-02-01"}'::jsonb)).status;
SELECT (claim_row('k_tstz', timestamptz '2026-02-01 13:00+01')).status, (claim_row('k_tstz', '2026-02-01T12:00:00Z')).status;
SELECT (claim_row('k_bool', true)).status, (claim_row('k_bool', 'yes')).status, (claim_row('k_bool', '{"id":true}'::jsonb)).status;
SELECT (claim_row('k_bytea', '\x00ff'::bytea)).status, (claim_row('k_bytea', '\x00ff')).status;
SELECT (claim_row('k_enum', 'happy'::mood)).status, (claim_row('k_enum', 'happy')).status;
SELECT (claim_row('k_domain', 'ab'::short)).status, (claim_row('k_domain', 'ab')).status, (claim_row('k_domain', 'ab'::text)).status;
SELECT (claim_row('k_range', int4range(1, 5))).status, (claim_row('k_range', '[1,4]')).status;
SELECT (claim_row('k_array', '{1,2}')).status, (claim_row('k_array', '{"id":"{1,2}"}'::jsonb)).status;
-- a jsonb key: text is the value itself, an object names the key column
SELECT (claim_row('k_jsonb', '{"id": 42}')).status, (claim_row('k_jsonb', '7')).status, (claim_row('k_jsonb', '"a"')).status,
       (claim_row('k_jsonb', '{"id": "7"}'::jsonb)).status;
-- the session's settings do not matter
SET datestyle = 'German';
SELECT (claim_row('k_date', date '2026-02-01')).status, (claim_row('k_date', '01.02.2026')).status, (claim_row('k_date', '2026-02-01')).status;
SET datestyle = 'SQL, DMY';
SET timezone = 'America/New_York';
SET bytea_output = 'escape';
SET extra_float_digits = -15;
SET intervalstyle = 'sql_standard';
SELECT (claim_row('k_date', date '2026-02-01')).message;
SELECT (claim_row('k_tstz', timestamptz '2026-02-01 12:00+00')).message;
SELECT (claim_row('k_bytea', '\x00ff'::bytea)).message, (claim_row('k_float', 0.1)).message;
RESET datestyle; RESET timezone; RESET bytea_output; RESET extra_float_digits; RESET intervalstyle;

-- several columns: jsonb, text that is a JSON object, the row; in any order of columns
SELECT (claim_row('k_two', '{"id":7,"Line No":"a"}'::jsonb)).status, (claim_row('k_two', '{"Line No":"a","id":7}')).status,
       (claim_row('k_two', ' { "Line No" : "a" , "id" : "7" } ')).status;
SELECT (claim_row('k_two', k_two)).* FROM k_two WHERE id = 8 \gset c_
SELECT :'c_message';
SELECT key FROM rowclaim.claims WHERE target = 'k_two'::regclass ORDER BY token;

-- typed parameters, as drivers send them
PREPARE by_int(int) AS SELECT status FROM claim_row('k_int', $1);
PREPARE by_text(text) AS SELECT status FROM claim_row('k_int', $1);
PREPARE by_unknown AS SELECT status FROM claim_row('k_int', $1);
PREPARE by_bigint(bigint, interval) AS SELECT status FROM claim_row('k_int', $1, ttl => $2);
PREPARE by_uuid(uuid) AS SELECT status FROM claim_row('k_uuid', $1);
PREPARE by_jsonb(jsonb) AS SELECT status FROM claim_row('k_two', $1);
PREPARE by_varchar(varchar) AS SELECT status FROM claim_row('k_text', $1);
PREPARE by_regclass(regclass, text) AS SELECT status FROM claim_row($1, $2);
PREPARE by_name(text, text) AS SELECT status FROM claim_row($1::regclass, $2);
EXECUTE by_int(42);
EXECUTE by_text('42');
EXECUTE by_unknown('42');
EXECUTE by_bigint(42, '1 hour');
EXECUTE by_uuid('00000000-0000-0000-0000-00000000002a');
EXECUTE by_jsonb('{"id":7,"Line No":"a"}');
EXECUTE by_varchar('42');
EXECUTE by_regclass('k_int', '42');
EXECUTE by_name('k_int', '42');
SELECT parameter_types FROM pg_prepared_statements WHERE name = 'by_unknown';

-- the same forms for release_row, steal_row and discard_changes
SELECT release_row('k_int', 42), release_row('k_uuid', '00000000-0000-0000-0000-00000000002a'), release_row('k_date', date '2026-02-01'),
       release_row('k_two', '{"id":7,"Line No":"a"}'::jsonb), release_row('k_two', '{"id":8,"Line No":"a"}');
SELECT release_row('k_text', k_text) FROM k_text WHERE id = '42';
SELECT (steal_row('k_int', 42)).status, (steal_row('k_int', '42')).status, (steal_row('k_two', '{"id":7,"Line No":"a"}'::jsonb)).status;
UPDATE k_two SET note = 'changed' WHERE id = 7;
SELECT discard_changes('main', 'k_two', '{"id":7,"Line No":"a"}');

-- keys that fit nothing
SELECT * FROM refused('SELECT claim_row(''k_int'', 1.5)');
SELECT * FROM refused('SELECT claim_row(''k_int'', 4294967296)');
SELECT * FROM refused('SELECT claim_row(''k_int'', date ''2026-01-01'')');
SELECT * FROM refused('SELECT claim_row(''k_int'', ''{"id":1.5}''::jsonb)');
SELECT * FROM refused('SELECT claim_row(''k_int'', ''{"id":[1]}''::jsonb)');
SELECT * FROM refused('SELECT claim_row(''k_int'', ''[42]''::jsonb)');
SELECT * FROM refused('SELECT claim_row(''k_int'', ''null''::jsonb)');
SELECT * FROM refused('SELECT claim_row(''k_int'', ''{"id":null}''::jsonb)');
SELECT * FROM refused('SELECT claim_row(''k_int'', ''{}''::jsonb)');
SELECT * FROM refused('SELECT claim_row(''k_int'', ''{"ID":42}''::jsonb)');
SELECT * FROM refused('SELECT claim_row(''k_int'', ''{"id":42,"x":1}''::jsonb)');
SELECT * FROM refused('SELECT claim_row(''k_int'', ''{"id":42,"id":42}''::json)');
SELECT * FROM refused('SELECT claim_row(''k_int'', '''')');
SELECT * FROM refused('SELECT claim_row(''k_uuid'', ''42'')');
SELECT * FROM refused('SELECT claim_row(''k_date'', ''2026-02-30'')');
SELECT * FROM refused('SELECT claim_row(''k_enum'', ''angry'')');
SELECT * FROM refused('SELECT claim_row(''k_domain'', ''too long'')');
SELECT * FROM refused('SELECT claim_row(''k_range'', ''[5,1]'')');
SELECT * FROM refused('SELECT claim_row(''k_jsonb'', ''{'')');
SELECT * FROM refused('SELECT claim_row(''k_two'', ''a'')');
SELECT * FROM refused('SELECT claim_row(''k_two'', 7)');
SELECT * FROM refused('SELECT claim_row(''k_two'', ''{"id":7}''::jsonb)');
SELECT * FROM refused('SELECT claim_row(''k_two'', ''{"id":7,"Line No":null}''::jsonb)');
SELECT * FROM refused('SELECT claim_row(''k_two'', ''{"id":7,"Line No":"a","note":"n"}''::jsonb)');
SELECT * FROM refused('SELECT claim_row(''k_two'', ''{"id":7,"Line No":"a"'')');
SELECT * FROM refused('SELECT claim_row(''k_two'', ''[7,"a"]''::jsonb)');
SELECT * FROM refused('SELECT claim_row(''k_two'', k_int) FROM k_int');
SELECT * FROM refused('SELECT claim_row(''k_two'', ROW(7, ''a''))');
SELECT * FROM refused('SELECT claim_row(''k_two'', NULL::k_two)');
SELECT * FROM refused('SELECT claim_row(''k_two'', ROW(NULL, NULL, NULL, NULL, NULL, NULL)::k_two)');

RESET SESSION AUTHORIZATION;
DROP OWNED BY regress_keys_alice, regress_keys_bob;
DROP ROLE regress_keys_alice, regress_keys_bob;
