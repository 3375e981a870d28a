-- Every way to write an existing row meets the guard: held by another, unclaimed, free under auto, mine.
\set ON_ERROR_STOP on
\pset tuples_only on
\pset format unaligned
CREATE EXTENSION rowclaim;

-- The same objects twice: an ordinary table and a partitioned one.
CREATE FUNCTION make(kind text) RETURNS void LANGUAGE plpgsql AS $make$
BEGIN
    EXECUTE format('CREATE SCHEMA %I', kind);
    PERFORM set_config('search_path', kind || ', public', false);
    CREATE TABLE groups (id int PRIMARY KEY);
    CREATE TABLE boxes (id int PRIMARY KEY);
    CREATE TABLE lots (id int PRIMARY KEY);
    INSERT INTO groups VALUES (1), (2);
    INSERT INTO boxes VALUES (1), (2);
    INSERT INTO lots VALUES (0), (1), (2);
    EXECUTE 'CREATE TABLE parts (
        id  int PRIMARY KEY,
        qty int NOT NULL DEFAULT 0,
        grp int REFERENCES groups ON UPDATE CASCADE ON DELETE SET NULL,
        box int REFERENCES boxes ON DELETE CASCADE,
        lot int DEFAULT 0 REFERENCES lots ON DELETE SET DEFAULT)'
        || CASE kind WHEN 'parted' THEN ' PARTITION BY RANGE (id)' ELSE '' END;
    IF kind = 'parted' THEN
        CREATE TABLE leaf_low PARTITION OF parts FOR VALUES FROM (0) TO (100);
        CREATE TABLE mid PARTITION OF parts FOR VALUES FROM (100) TO (1000) PARTITION BY RANGE (id);
        CREATE TABLE leaf_high PARTITION OF mid FOR VALUES FROM (100) TO (1000);
    ELSE
        CREATE VIEW leaf_low AS SELECT * FROM parts;
    END IF;
    INSERT INTO parts SELECT i, 0, i, i, i FROM generate_series(1, 2) i;
    CREATE TABLE other (id int, qty int);
    INSERT INTO other VALUES (2, 7);
    CREATE VIEW simple AS SELECT id, qty FROM parts WHERE id < 50;
    CREATE VIEW stacked AS SELECT * FROM simple WITH CHECK OPTION;
    CREATE VIEW joined AS SELECT p.id, p.qty FROM parts p JOIN groups g ON g.id = p.grp;
    CREATE FUNCTION joined_write() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF TG_OP = 'DELETE' THEN
            DELETE FROM parts WHERE id = OLD.id;
            RETURN OLD;
        END IF;
        UPDATE parts SET qty = NEW.qty WHERE id = NEW.id;
        RETURN NEW;
    END $$;
    CREATE TRIGGER write INSTEAD OF INSERT OR UPDATE OR DELETE ON joined FOR EACH ROW EXECUTE FUNCTION joined_write();
    CREATE TABLE inbox (id int, qty int);
    CREATE RULE inbox AS ON INSERT TO inbox DO INSTEAD UPDATE parts SET qty = NEW.qty WHERE id = NEW.id;
    CREATE TABLE orders (id int, qty int);
    CREATE FUNCTION order_placed() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN UPDATE parts SET qty = qty - NEW.qty WHERE id = NEW.id; RETURN NEW; END';
    CREATE TRIGGER placed AFTER INSERT ON orders FOR EACH ROW EXECUTE FUNCTION order_placed();
    CREATE FUNCTION bump_sql(int) RETURNS void LANGUAGE sql AS 'UPDATE parts SET qty = qty + 1 WHERE id = $1';
    CREATE FUNCTION bump_atomic(which int) RETURNS void LANGUAGE sql
        BEGIN ATOMIC UPDATE parts SET qty = qty + 1 WHERE id = which; END;
    CREATE FUNCTION bump_definer(which int) RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS
        'BEGIN UPDATE parts SET qty = qty + 1 WHERE id = which; END';
    CREATE PROCEDURE bump_proc(which int) LANGUAGE plpgsql AS
        'BEGIN UPDATE parts SET qty = qty + 1 WHERE id = which; END';
    -- A cursor over one partition, for PostgreSQL knows no current row of a whole partitioned table.
    EXECUTE replace($sql$
        CREATE FUNCTION bump_cursor(which int) RETURNS void LANGUAGE plpgsql AS $$
        DECLARE c CURSOR FOR SELECT * FROM target WHERE id = which FOR UPDATE;
        BEGIN
            FOR r IN c LOOP UPDATE target SET qty = r.qty + 1 WHERE CURRENT OF c; END LOOP;
        END $$;
        CREATE FUNCTION drop_cursor(which int) RETURNS void LANGUAGE plpgsql AS $$
        DECLARE c CURSOR FOR SELECT * FROM target WHERE id = which;
        BEGIN
            FOR r IN c LOOP DELETE FROM target WHERE CURRENT OF c; END LOOP;
        END $$ $sql$, 'target', CASE kind WHEN 'parted' THEN 'leaf_low' ELSE 'parts' END);
END $make$;
SELECT make('plain');
SELECT make('parted');
RESET search_path;

CREATE TABLE path (n serial, name text, sql text);
INSERT INTO path (name, sql) VALUES
    ('update', 'UPDATE parts SET qty = 5 WHERE id = 2'),
    ('update of several rows', 'UPDATE parts SET qty = qty + 1'),
    ('update by ctid', 'UPDATE parts SET qty = 5 WHERE (tableoid, ctid) = (SELECT tableoid, ctid FROM parts WHERE id = 2)'),
    ('update from', 'UPDATE parts p SET qty = o.qty FROM other o WHERE o.id = p.id'),
    ('update returning', 'UPDATE parts SET qty = 5 WHERE id = 2 RETURNING *'),
    ('update of the key', 'UPDATE parts SET id = 3 WHERE id = 2'),
    ('update of the key across partitions', 'UPDATE parts SET id = 200 WHERE id = 2'),
    ('delete', 'DELETE FROM parts WHERE id = 2'),
    ('delete of several rows', 'DELETE FROM parts'),
    ('delete using', 'DELETE FROM parts p USING other o WHERE o.id = p.id'),
    ('leaf: update', 'UPDATE leaf_low SET qty = 5 WHERE id = 2'),
    ('leaf: delete', 'DELETE FROM leaf_low WHERE id = 2'),
    ('prepared', 'EXECUTE prepared_update (2)'),
    ('on conflict', 'INSERT INTO parts (id) VALUES (2) ON CONFLICT (id) DO UPDATE SET qty = 5'),
    ('on conflict, new and old', 'INSERT INTO parts (id) VALUES (9), (2) ON CONFLICT (id) DO UPDATE SET qty = 5'),
    ('merge: update', 'MERGE INTO parts p USING other o ON o.id = p.id WHEN MATCHED THEN UPDATE SET qty = o.qty'),
    ('merge: delete', 'MERGE INTO parts p USING other o ON o.id = p.id WHEN MATCHED THEN DELETE'),
    ('cte', 'WITH u AS (UPDATE parts SET qty = 5 WHERE id = 2 RETURNING 1) SELECT count(*) FROM u'),
    ('cte never read', 'WITH d AS (DELETE FROM parts WHERE id = 2) SELECT 1'),
    ('cursor: update', 'SELECT bump_cursor(2)'),
    ('cursor: delete', 'SELECT drop_cursor(2)'),
    ('view: update', 'UPDATE simple SET qty = 5 WHERE id = 2'),
    ('view: delete', 'DELETE FROM simple WHERE id = 2'),
    ('view on view', 'UPDATE stacked SET qty = 5 WHERE id = 2'),
    ('view: on conflict', 'INSERT INTO simple VALUES (2) ON CONFLICT (id) DO UPDATE SET qty = 5'),
    ('instead of: update', 'UPDATE joined SET qty = 5 WHERE id = 2'),
    ('instead of: delete', 'DELETE FROM joined WHERE id = 2'),
    ('instead of: copy', $$COPY joined (id, qty) FROM PROGRAM 'echo 2,5' (FORMAT csv)$$),
    ('copy to', $$COPY (UPDATE parts SET qty = 5 WHERE id = 2 RETURNING id) TO '/dev/null'$$),
    ('rule', 'INSERT INTO inbox VALUES (2, 5)'),
    ('function: sql', 'SELECT bump_sql(2)'),
    ('function: begin atomic', 'SELECT bump_atomic(2)'),
    ('function: security definer', 'SELECT bump_definer(2)'),
    ('procedure', 'CALL bump_proc(2)'),
    ('do', 'DO $do$ BEGIN UPDATE parts SET qty = 5 WHERE id = 2; END $do$'),
    ('trigger of another table', 'INSERT INTO orders VALUES (2, 1)'),
    ('trigger of another table: copy', $$COPY orders FROM PROGRAM 'echo 2,1' (FORMAT csv)$$),
    ('explain analyze', 'EXPLAIN ANALYZE UPDATE parts SET qty = 5 WHERE id = 2'),
    ('fk: on update cascade', 'UPDATE groups SET id = 7 WHERE id = 2'),
    ('fk: on delete set null', 'DELETE FROM groups WHERE id = 2'),
    ('fk: on delete cascade', 'DELETE FROM boxes WHERE id = 2'),
    ('fk: on delete set default', 'DELETE FROM lots WHERE id = 2'),
    -- These write nothing, so they never fail.
    ('no write: no such row', 'UPDATE parts SET qty = 5 WHERE id = 1000'),
    ('no write: on conflict do nothing', 'INSERT INTO parts (id) VALUES (2) ON CONFLICT DO NOTHING'),
    ('no write: merge do nothing', 'MERGE INTO parts p USING other o ON o.id = p.id WHEN MATCHED THEN DO NOTHING'),
    ('no write: select for update', 'SELECT * FROM parts FOR UPDATE'),
    ('no write: select for share', 'SELECT * FROM parts FOR SHARE'),
    ('no write: fk check', 'INSERT INTO child VALUES (2)');

CREATE TABLE result (name text, n int, kind text, situation text, outcome text);
-- Runs a path and undoes it; what happened to row 2, or the error and its reason.
CREATE FUNCTION outcome(sql text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    result text;
    detail text;
BEGIN
    BEGIN
        EXECUTE sql;
        SELECT coalesce(string_agg(op, ' ' ORDER BY key::text), 'ok') INTO result
        FROM rowclaim.drafts WHERE key IN ('{"id":2}', '{"id":3}', '{"id":200}') AND actor = 'alice';
        RAISE EXCEPTION SQLSTATE 'UNDO0';
    EXCEPTION
        WHEN SQLSTATE 'UNDO0' THEN NULL;
        WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
            result := SQLSTATE || ' ' || coalesce(substring(detail FROM '^{"reason":"(\w+)"'), SQLERRM);
    END;
    RETURN result;
END $$;
CREATE FUNCTION try_all(situation text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    kind text;
BEGIN
    FOREACH kind IN ARRAY ARRAY['plain', 'parted'] LOOP
        PERFORM set_config('search_path', kind || ', public', false);
        PREPARE prepared_update AS UPDATE parts SET qty = 5 WHERE id = $1;
        INSERT INTO result SELECT name, n, kind, situation, outcome(sql) FROM path;
        DEALLOCATE prepared_update;
    END LOOP;
END $$;
CREATE TABLE plain.child (part int REFERENCES plain.parts);
CREATE TABLE parted.child (part int REFERENCES parted.parts);

-- required: row 1 is mine (alice's); row 2 is held by bob, nobody's, or mine.
SELECT enable_claims('plain.parts'), enable_claims('parted.parts');
SET rowclaim.actor = 'alice';
SELECT status FROM (VALUES (claim_row('plain.parts', 1)), (claim_row('parted.parts', 1))) r(c), LATERAL (SELECT (c).status) s;
SELECT try_all('free');
SET rowclaim.actor = 'bob';
SELECT (claim_row('plain.parts', 2)).status, (claim_row('parted.parts', 2)).status;
SET rowclaim.actor = 'alice';
SELECT try_all('held');
SET rowclaim.actor = 'bob';
SELECT release_rows();
SET rowclaim.actor = 'alice';
SELECT (claim_row('plain.parts', 2)).status, (claim_row('parted.parts', 2)).status;
SELECT try_all('mine');
SELECT release_rows();

-- auto: row 2 is free, then held by bob through an uncommitted change.
SELECT disable_claims('plain.parts'), disable_claims('parted.parts');
SELECT enable_claims('plain.parts', 'auto'), enable_claims('parted.parts', 'auto');
SELECT try_all('auto free');
SET rowclaim.actor = 'bob';
UPDATE plain.parts SET qty = 1 WHERE id = 2;
UPDATE parted.parts SET qty = 1 WHERE id = 2;
SET rowclaim.actor = 'alice';
SELECT try_all('auto held');

-- Each path once; a second line where the partitioned table differs.
\pset tuples_only off
\pset format aligned
SELECT name, string_agg(DISTINCT kind, ' ' ORDER BY kind) AS kinds, free, held, mine, "auto free", "auto held"
FROM (SELECT name, n, kind,
             max(outcome) FILTER (WHERE situation = 'free') AS free,
             max(outcome) FILTER (WHERE situation = 'held') AS held,
             max(outcome) FILTER (WHERE situation = 'mine') AS mine,
             max(outcome) FILTER (WHERE situation = 'auto free') AS "auto free",
             max(outcome) FILTER (WHERE situation = 'auto held') AS "auto held"
      FROM result GROUP BY name, n, kind) r
GROUP BY name, n, free, held, mine, "auto free", "auto held" ORDER BY n, kinds;
\pset tuples_only on
\pset format unaligned

-- The whole statement fails: of a thousand rows one is bob's, and none changes.
SELECT disable_claims('plain.parts', force => true), disable_claims('parted.parts', force => true);
SELECT enable_claims('plain.parts', 'auto');
INSERT INTO plain.parts SELECT i FROM generate_series(3, 1000) i;
SELECT commit_changes() IS NOT NULL;
SET rowclaim.actor = 'bob';
SELECT (claim_row('plain.parts', 1000)).status;
SET rowclaim.actor = 'alice';
SELECT outcome('UPDATE plain.parts SET qty = 77'), count(*) FILTER (WHERE qty = 77) FROM plain.parts;
-- The rest of the transaction goes on after a savepoint.
\set VERBOSITY sqlstate
\set ON_ERROR_STOP off
BEGIN;
UPDATE plain.parts SET qty = 10 WHERE id = 10;
SAVEPOINT s;
UPDATE plain.parts SET qty = 77;
ROLLBACK TO s;
UPDATE plain.parts SET qty = 11 WHERE id = 11;
COMMIT;
SELECT id, qty FROM plain.parts WHERE qty > 7 ORDER BY id;
SELECT key, op FROM rowclaim.drafts ORDER BY key;

-- SQL cursors.
BEGIN;
DECLARE c CURSOR FOR SELECT id, qty FROM plain.parts WHERE id >= 999 ORDER BY id;
FETCH c;
UPDATE plain.parts SET qty = 12 WHERE CURRENT OF c;
FETCH c;
UPDATE plain.parts SET qty = 12 WHERE CURRENT OF c;
ROLLBACK;

-- SET ROLE and SECURITY DEFINER do not change who acts; the guard needs no rights of the writer on rowclaim's tables.
RESET rowclaim.actor;
CREATE ROLE regress_write_paths;
GRANT USAGE ON SCHEMA plain TO regress_write_paths;
GRANT SELECT, INSERT, UPDATE, DELETE ON plain.parts TO regress_write_paths;
SET ROLE regress_write_paths;
UPDATE plain.parts SET qty = 13 WHERE id = 1000;
UPDATE plain.parts SET qty = 13 WHERE id = 13;
INSERT INTO plain.parts VALUES (1001);
DELETE FROM plain.parts WHERE id = 14;
RESET ROLE;
SELECT key, op, actor = session_user FROM rowclaim.drafts WHERE key->>'id' IN ('13', '14', '1001') ORDER BY key;
-- Another login role is another actor, whatever role it sets.
SET SESSION AUTHORIZATION regress_write_paths;
SELECT current_actor();
UPDATE plain.parts SET qty = 14 WHERE id = 13;
UPDATE plain.parts SET qty = 14 WHERE id = 20;
RESET SESSION AUTHORIZATION;
SELECT key, actor FROM rowclaim.drafts WHERE key->>'id' = '20';

SET client_min_messages = warning;
DROP SCHEMA plain, parted CASCADE;
DROP ROLE regress_write_paths;
SELECT count(*) FROM rowclaim.draft_row;
