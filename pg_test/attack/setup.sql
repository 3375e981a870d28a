-- Whom the attempts are made on. alice holds rows in every way there is; SECRET is what only she and olga may read.
CREATE EXTENSION rowclaim;
SELECT create_journal('personal');
CREATE ROLE alice LOGIN;
CREATE ROLE mallory LOGIN;
CREATE ROLE olga LOGIN;
CREATE ROLE max LOGIN;
GRANT SET ON PARAMETER session_replication_role TO mallory, olga, max;
GRANT CREATE ON SCHEMA public TO olga, max;

SET SESSION AUTHORIZATION olga;
-- 1: claimed by alice; 2: changed; 3: deleted; 4, 5, 6: free; 20: inserted.
CREATE TABLE parts (id int PRIMARY KEY, name text UNIQUE, price numeric DEFAULT 1, lot int DEFAULT 0);
INSERT INTO parts SELECT g, 'part ' || g, g FROM generate_series(1, 6) g;
CREATE TABLE notes (id int PRIMARY KEY, body text);
INSERT INTO notes SELECT g, 'note ' || g FROM generate_series(1, 4) g;
CREATE TABLE ledger (id int PRIMARY KEY, amount int);
INSERT INTO ledger SELECT g, g FROM generate_series(1, 4) g;
CREATE TABLE split (id int, day int, v text, PRIMARY KEY (day, id)) PARTITION BY RANGE (day);
CREATE TABLE split_low PARTITION OF split FOR VALUES FROM (0) TO (10);
CREATE TABLE split_high PARTITION OF split FOR VALUES FROM (10) TO (20);
INSERT INTO split SELECT g, g, 'v' FROM generate_series(1, 12) g;
CREATE TABLE boxes (id int PRIMARY KEY);
INSERT INTO boxes VALUES (1), (2), (3);
CREATE TABLE cascaded (id int PRIMARY KEY, box int REFERENCES boxes ON DELETE CASCADE ON UPDATE CASCADE);
CREATE TABLE nulled (id int PRIMARY KEY, box int REFERENCES boxes ON DELETE SET NULL);
INSERT INTO cascaded VALUES (1, 1), (2, 2);
INSERT INTO nulled VALUES (1, 1), (2, 3);
CREATE TABLE private (id int PRIMARY KEY, who text, body text);
ALTER TABLE private ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON private USING (who = current_user);
INSERT INTO private VALUES (1, 'alice', 'SECRET'), (2, 'mallory', 'mine'), (3, 'max', 'mine');
CREATE TABLE orders (id int, part int);
CREATE TABLE inbox (id int, name text);
CREATE VIEW cheap AS SELECT id, name, price FROM parts WHERE price < 100 WITH CHECK OPTION;
CREATE VIEW joined AS SELECT p.id, p.name, b.id AS box FROM parts p LEFT JOIN boxes b USING (id);
CREATE RULE inbox AS ON INSERT TO inbox DO INSTEAD UPDATE parts SET name = NEW.name WHERE id = NEW.id;
CREATE FUNCTION joined_write() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE public.parts SET name = NEW.name WHERE id = NEW.id;
    RETURN NEW;
END $$;
CREATE TRIGGER write INSTEAD OF UPDATE ON joined FOR EACH ROW EXECUTE FUNCTION joined_write();
CREATE FUNCTION ordered() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE public.parts SET price = 0 WHERE id = NEW.part;
    RETURN NEW;
END $$;
CREATE TRIGGER ordered AFTER INSERT ON orders FOR EACH ROW EXECUTE FUNCTION ordered();
CREATE FUNCTION reprice(which int) RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS
    'BEGIN UPDATE public.parts SET price = 0 WHERE id = which; END';
CREATE FUNCTION reprice_sql(which int) RETURNS void LANGUAGE sql AS 'UPDATE public.parts SET price = 0 WHERE id = $1';
CREATE PROCEDURE reprice_twice(a int, b int) LANGUAGE plpgsql AS $$
BEGIN
    UPDATE public.parts SET price = 0 WHERE id = a;
    COMMIT;
    UPDATE public.parts SET price = 0 WHERE id = b;
END $$;
GRANT ALL ON parts, notes, ledger, split, split_low, split_high, boxes, cascaded, nulled, private, orders, inbox, cheap, joined TO alice, mallory, max;
SELECT enable_claims(t) FROM unnest('{parts,split,cascaded,nulled}'::regclass[]) t;
SELECT enable_claims('notes', 'auto'), enable_claims('private', 'auto', journal => 'personal'), enable_claims('ledger', 'auto', 'transaction');
-- Nothing of these is for the attackers; of emp some columns.
RESET SESSION AUTHORIZATION;
CREATE TABLE hidden (id int PRIMARY KEY, body text UNIQUE);
CREATE TABLE emp (id int PRIMARY KEY, name text, salary text);
INSERT INTO emp VALUES (1, 'ann', 'SECRET 1'), (2, 'bob', 'SECRET 2'), (3, 'cid', 'SECRET 3');
SELECT enable_claims('hidden', 'auto'), enable_claims('emp', 'auto');
GRANT ALL ON hidden, emp TO alice;
GRANT SELECT (id, name), UPDATE (name), INSERT (id, name) ON emp TO mallory, olga, max;
-- Where the attackers' own code notes as whom it ran.
CREATE TABLE ran (as_whom name DEFAULT current_user, what text);
GRANT INSERT, SELECT ON ran TO PUBLIC;

SET SESSION AUTHORIZATION alice;
INSERT INTO hidden VALUES (1, 'SECRET 1'), (2, 'SECRET 2');
UPDATE emp SET salary = 'SECRET 4' WHERE id = 3;
INSERT INTO private VALUES (4, 'alice', 'SECRET');
SELECT commit_changes('first'), commit_changes('first', journal => 'personal');
SELECT * FROM pull_changes('alices');
SELECT ack_changes('alices', 1);
-- Something in the stash: taken away while she was absent, given back to her since.
SELECT claim_row('hidden', 1);
UPDATE hidden SET body = 'SECRET 9' WHERE id = 1;
UPDATE notes SET body = 'stashed' WHERE id = 2;
RESET SESSION AUTHORIZATION;
SELECT steal_row('hidden', 1), steal_row('notes', 2);
SELECT release_rows();
SET SESSION AUTHORIZATION alice;
SELECT claim_row('parts', 1, reason => 'mine'), claim_row('parts', 2, ttl => '1 day'), claim_row('parts', 3);
UPDATE parts SET price = 22 WHERE id = 2;
DELETE FROM parts WHERE id = 3;
INSERT INTO parts VALUES (20, 'part 20');
UPDATE notes SET body = 'of alice' WHERE id = 1;
SELECT claim_row('ledger', 1), claim_row('split', '{"day": 1, "id": 1}'), claim_row('split', '{"day": 2, "id": 2}');
UPDATE split SET v = 'of alice' WHERE id = 2;
SELECT claim_row('cascaded', 1), claim_row('nulled', 1), claim_row('hidden', 2), claim_row('emp', 1), claim_row('private', 1);
UPDATE private SET body = 'SECRET draft' WHERE id = 1;
UPDATE emp SET salary = 'SECRET draft' WHERE id = 1;
RESET SESSION AUTHORIZATION;
-- What was there is older than this.
CREATE TABLE setup_ended AS SELECT pg_current_xact_id()::text::bigint AS xid, 'setup_ended'::text AS name;
