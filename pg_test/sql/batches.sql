-- Draft entries are written in batches: whoever looks finds them as if each had been written with its row.
\pset tuples_only on
\pset format unaligned
SET client_min_messages = warning;
CREATE EXTENSION rowclaim;
CREATE FUNCTION expect(sql text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    detail text;
    n      int;
BEGIN
    EXECUTE sql;
    GET DIAGNOSTICS n = ROW_COUNT;
    RETURN $1 || ' -> ok ' || n;
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
    RETURN $1 || ' -> ' || SQLSTATE || ' ' || coalesce(nullif(regexp_replace(detail, '"since":"[^"]*"', '"since":"…"'), ''), SQLERRM);
END $$;
CREATE TABLE parts (id int PRIMARY KEY, code text UNIQUE, qty int DEFAULT 0);
INSERT INTO parts SELECT i, 'p' || i FROM generate_series(1, 9) i;
SELECT enable_claims('parts', 'auto');
CREATE VIEW drafted AS SELECT op, count(*) FROM rowclaim.drafts GROUP BY op ORDER BY op;
SET rowclaim.actor = 'alice';

-- A trigger of the same statement sees the entries of the rows before it, of an UPDATE those of all its rows.
CREATE TABLE seen (n bigint, by text);
CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_ARGV[0] = 'query' THEN
        INSERT INTO seen SELECT count(*), TG_OP FROM rowclaim.drafts;
    ELSIF TG_ARGV[0] = 'roll back' THEN
        -- What it writes to find the entries is rolled back; they are not.
        BEGIN
            INSERT INTO seen SELECT count(*), TG_OP || ' rolled back' FROM rowclaim.drafts;
            RAISE EXCEPTION 'no' USING ERRCODE = 'RC000';
        EXCEPTION WHEN SQLSTATE 'RC000' THEN
        END;
    ELSIF TG_ARGV[0] = 'write and roll back' THEN
        BEGIN
            UPDATE others SET n = n + 1 WHERE id = 1;
            BEGIN
                PERFORM count(*) FROM rowclaim.drafts;
                UPDATE others SET n = n + 1 WHERE id = 2;
            EXCEPTION WHEN SQLSTATE 'RC000' THEN
            END;
            RAISE EXCEPTION 'no' USING ERRCODE = 'RC000';
        EXCEPTION WHEN SQLSTATE 'RC000' THEN
        END;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER z_look AFTER UPDATE OR DELETE OR INSERT ON parts FOR EACH ROW EXECUTE FUNCTION look('query');
UPDATE parts SET qty = 1 WHERE id <= 4;
DELETE FROM parts WHERE id IN (5, 6);
INSERT INTO parts SELECT i, 'p' || i FROM generate_series(10, 12) i;
SELECT by, array_agg(n) FROM (SELECT * FROM seen ORDER BY n) s GROUP BY by ORDER BY min(n);
SELECT * FROM drafted;
SELECT commit_changes();
DROP TRIGGER z_look ON parts;

-- What is rolled back below a statement leaves its entries alone.
CREATE TRIGGER z_look AFTER UPDATE OR DELETE OR INSERT ON parts FOR EACH ROW EXECUTE FUNCTION look('roll back');
UPDATE parts SET qty = 2 WHERE id <= 4;
SELECT * FROM drafted;
SELECT count(*) FROM seen WHERE by LIKE '% back';
SELECT discard_changes();
DROP TRIGGER z_look ON parts;
CREATE TABLE others (id int PRIMARY KEY, n int DEFAULT 0);
INSERT INTO others VALUES (1), (2);
SELECT enable_claims('others', 'auto');
CREATE TRIGGER z_look AFTER UPDATE OR DELETE OR INSERT ON parts
    FOR EACH ROW EXECUTE FUNCTION look('write and roll back');
UPDATE parts SET qty = 3 WHERE id <= 4;
DELETE FROM parts WHERE id IN (7, 8);
SELECT * FROM drafted;
SELECT discard_changes();
SELECT count(*), sum(qty) FROM parts;
DROP TRIGGER z_look ON parts;

-- A function of the statement itself sees the entries of the rows that are written before it is called, also from where it
-- rolls back; and what it commits is committed.
CREATE FUNCTION so_far(how text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    n bigint;
BEGIN
    IF how = 'commit' THEN
        RETURN commit_changes();
    END IF;
    BEGIN
        SELECT count(*) INTO n FROM rowclaim.drafts d JOIN parts p ON (d.key->>'id')::int = p.id AND p.row_draft IS NOT NULL;
        IF how = 'roll back' THEN
            UPDATE others SET n = others.n + 1 WHERE id = 1;
            RAISE EXCEPTION 'no' USING ERRCODE = 'RC000';
        END IF;
    EXCEPTION WHEN SQLSTATE 'RC000' THEN
    END;
    RETURN n;
END $$;
UPDATE parts SET qty = 10 + so_far('') WHERE id <= 4 RETURNING qty;
SELECT discard_changes();
UPDATE parts SET qty = 10 + so_far('roll back') WHERE id <= 4 RETURNING qty;
SELECT * FROM drafted;
SELECT discard_changes();
UPDATE parts SET qty = 10 + so_far(CASE WHEN id = 3 THEN 'commit' ELSE '' END) WHERE id <= 4;
SELECT op, key->>'id' AS id FROM rowclaim.drafts ORDER BY 2;
SELECT op, key->>'id' AS id FROM rowclaim.changes WHERE seq = (SELECT max(seq) FROM rowclaim.journal) ORDER BY 2;
SELECT discard_changes();
SELECT * FROM check_claims();

-- Savepoints.
BEGIN;
UPDATE parts SET qty = 4 WHERE id = 1;
SAVEPOINT a;
UPDATE parts SET qty = 4;
SAVEPOINT b;
INSERT INTO parts SELECT i, 'p' || i FROM generate_series(20, 24) i;
SELECT * FROM drafted;
RELEASE b;
SELECT * FROM drafted;
ROLLBACK TO a;
SELECT * FROM drafted;
INSERT INTO parts SELECT i, 'p' || i FROM generate_series(20, 24) i;
COMMIT;
SELECT * FROM drafted;
DO $$
BEGIN
    UPDATE parts SET qty = 5 WHERE id IN (2, 3);
    BEGIN
        INSERT INTO parts SELECT i, 'p' || i FROM generate_series(30, 34) i;
        UPDATE parts SET qty = 1 / (qty - qty);
    EXCEPTION WHEN division_by_zero THEN
    END;
END $$;
SELECT * FROM drafted;
SELECT commit_changes() > 0;

-- More rows than fit a batch, some of them with the keys of rows that the draft has deleted: those go on.
INSERT INTO others SELECT i, 0 FROM generate_series(3, 4000) i;
SELECT commit_changes() > 0;
SELECT status FROM claim_row('others', 1500);
DELETE FROM others WHERE id % 500 = 0;
INSERT INTO others (id, n) SELECT i, 7 FROM generate_series(1, 6000) i WHERE i % 500 = 0 OR i > 4000;
SELECT * FROM drafted;
SELECT id, n, row_owner, row_version FROM others WHERE id % 500 = 0 AND id <= 4500 ORDER BY id;
SELECT commit_changes() > 0;
SELECT op, count(*) FROM rowclaim.changes WHERE seq = (SELECT max(seq) FROM rowclaim.journal) GROUP BY op ORDER BY op;
-- in one statement
WITH gone AS (DELETE FROM others WHERE id IN (1, 2) RETURNING *)
INSERT INTO others (id, n) SELECT id, n + 100 FROM gone;
SELECT op, key FROM rowclaim.drafts ORDER BY key::text;
SELECT id, n, row_version FROM others WHERE id IN (1, 2) ORDER BY id;
SELECT discard_changes();

-- A key that somebody else has given up, among many.
SET rowclaim.actor = 'bob';
UPDATE others SET id = 9000 WHERE id = 3000;
SET rowclaim.actor = 'alice';
SELECT expect('INSERT INTO others SELECT i FROM generate_series(7001, 7999) i UNION ALL SELECT 3000');
SELECT expect('INSERT INTO others SELECT i FROM generate_series(7001, 7999) i');
SET rowclaim.actor = 'bob';
SELECT commit_changes() > 0;
SET rowclaim.actor = 'alice';
SELECT commit_changes() > 0;

-- The statement that makes the session load the library: the next one finds its entries.
\c
BEGIN;
COPY parts (id, code) FROM STDIN;
101	p101
102	p102
103	p103
\.
SELECT * FROM drafted;
ROLLBACK;
\c
BEGIN;
COPY parts (id, code) FROM STDIN;
101	p101
102	p102
103	p103
\.
SAVEPOINT a;
ROLLBACK TO a;
COMMIT;
SELECT * FROM drafted;
SELECT commit_changes() > 0;
-- What is wrong with them is said there and then.
SET rowclaim.actor = 'bob';
UPDATE others SET id = 9001 WHERE id = 2500;
\set VERBOSITY sqlstate
\c
BEGIN;
COPY others (id) FROM STDIN;
2499001
2500
\.
ROLLBACK;
\c
COPY others (id) FROM STDIN;
2499001
2500
\.
\c
SELECT expect('INSERT INTO others SELECT 2500');
\set VERBOSITY default
SET rowclaim.actor = 'bob';
SELECT discard_changes();
SET rowclaim.actor = 'alice';

-- With an index that an administrator has added.
CREATE INDEX mine ON rowclaim.draft_row (op, leaf);
\c
SET rowclaim.actor = 'alice';
DELETE FROM others WHERE id IN (10, 20);
INSERT INTO others (id, n) SELECT i, 8 FROM generate_series(10, 20, 10) i;
INSERT INTO others (id, n) SELECT i, 8 FROM generate_series(8001, 8003) i;
UPDATE others SET n = 9 WHERE id < 5;
SET enable_seqscan = off;
SELECT op, count(*) FROM rowclaim.draft_row WHERE op IN ('i', 'u') GROUP BY op ORDER BY op;
RESET enable_seqscan;
SELECT * FROM drafted;
SELECT commit_changes() > 0;
DROP INDEX rowclaim.mine;

-- What an update of a dirty row gives up is noted, also in a transaction that does nothing else.
UPDATE parts SET qty = 6 WHERE id = 1;
SELECT gives FROM rowclaim.draft_row;
UPDATE parts SET code = 'other' WHERE id = 1;
SELECT gives FROM rowclaim.draft_row;
SET rowclaim.actor = 'bob';
INSERT INTO parts VALUES (99, 'p1');
SELECT expect('SELECT commit_changes()');
SET rowclaim.actor = 'alice';
SELECT commit_changes() > 0;
