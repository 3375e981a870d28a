-- The versions of a key do not fall within a changeset, whatever row has it: who has read one must not take the other for it.
\pset tuples_only on
\pset format unaligned
SET client_min_messages = warning;
SET check_function_bodies = off;
CREATE EXTENSION rowclaim;
CREATE FUNCTION versions() RETURNS text LANGUAGE sql AS $$ SELECT string_agg(concat_ws(' ', id, v, ver), ', ' ORDER BY id) FROM item $$;
CREATE FUNCTION journaled() RETURNS text LANGUAGE sql AS $$
    SELECT string_agg(concat_ws(' ', op, key, new, version), ', ' ORDER BY change)
    FROM rowclaim.changes WHERE seq = (SELECT max(seq) FROM rowclaim.journal) $$;
-- Runs statements on rows 1 to 3 with versions 10 to 30; shows what they see, what they commit and what is there then.
CREATE PROCEDURE try(committing text, type text, VARIADIC statements text[]) LANGUAGE plpgsql AS $$
DECLARE statement text;
BEGIN
    EXECUTE format('CREATE TABLE item (id int PRIMARY KEY, v text, ver %s NOT NULL DEFAULT 1)', type);
    INSERT INTO item VALUES (1, 'one', 10), (2, 'two', 20), (3, 'three', 30);
    PERFORM enable_claims('item', 'auto', committing, version_column => 'ver');
    COMMIT;
    FOREACH statement IN ARRAY statements LOOP EXECUTE statement; END LOOP;
    RAISE INFO '% %', committing, array_to_string(statements, '; ');
    IF committing = 'explicit' THEN
        RAISE INFO '  draft: %', versions();
        PERFORM commit_changes();
    ELSE
        COMMIT;
    END IF;
    RAISE INFO '  %', journaled();
    RAISE INFO '  %', versions();
    DROP TABLE item;
END $$;
\set VERBOSITY terse
CREATE PROCEDURE try_both(VARIADIC statements text[]) LANGUAGE plpgsql AS $$
BEGIN
    CALL try('explicit', 'bigint', VARIADIC statements);
    CALL try('transaction', 'int', VARIADIC statements);
END $$;
-- A new row at a deleted row's key, at one that a row has left, and one that comes back.
CALL try_both('DELETE FROM item WHERE id = 3', 'INSERT INTO item VALUES (3, ''new'')');
CALL try_both('UPDATE item SET id = 4 WHERE id = 3', 'INSERT INTO item VALUES (3, ''new'')');
CALL try_both('UPDATE item SET id = 4 WHERE id = 3', 'UPDATE item SET id = 5 WHERE id = 4', 'INSERT INTO item VALUES (3, ''new'')');
CALL try_both('UPDATE item SET id = 4 WHERE id = 3', 'UPDATE item SET id = 3 WHERE id = 4');
-- A row with a low version at such a key; an exchange.
CALL try_both('DELETE FROM item WHERE id = 3', 'UPDATE item SET id = 3 WHERE id = 1');
CALL try_both('UPDATE item SET id = 4 WHERE id = 3', 'UPDATE item SET id = 3 WHERE id = 1');
CALL try_both('UPDATE item SET id = 4 WHERE id = 3', 'UPDATE item SET id = 3 WHERE id = 1', 'UPDATE item SET id = 1 WHERE id = 4');
-- The other way round nothing needs to be done.
CALL try_both('DELETE FROM item WHERE id = 1', 'UPDATE item SET id = 1 WHERE id = 3');
CALL try_both('INSERT INTO item VALUES (9, ''new'')', 'DELETE FROM item WHERE id = 9', 'INSERT INTO item VALUES (9, ''newer'')');
-- At the end of what versions there are: refused, nothing wraps.
CREATE TABLE last (id int PRIMARY KEY, v text, ver int NOT NULL DEFAULT 1);
INSERT INTO last VALUES (1, 'one', 2147483647), (2, 'two', 1);
SELECT enable_claims('last', 'auto', version_column => 'ver');
DELETE FROM last WHERE id = 1;
INSERT INTO last VALUES (1, 'new');
UPDATE last SET id = 1 WHERE id = 2;
SELECT discard_changes();
SELECT id, v, ver FROM last ORDER BY id;
