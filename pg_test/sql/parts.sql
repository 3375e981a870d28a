-- A changeset comes in parts of at most 1,000 changes or 4 MB, and never less than one change.
CREATE EXTENSION rowclaim;
\pset format unaligned
\pset footer off
\pset null <null>

CREATE TABLE bodies (id int PRIMARY KEY, body text);
SELECT enable_claims('bodies', 'auto');
INSERT INTO bodies SELECT g, 'x' FROM generate_series(1, 1000) g;
SELECT commit_changes('1000') > 0 AS committed;
INSERT INTO bodies SELECT g, 'x' FROM generate_series(1001, 2001) g;
SELECT commit_changes('1001') > 0 AS committed;
INSERT INTO bodies SELECT g, repeat('x', 1000000) FROM generate_series(3001, 3009) g;
SELECT commit_changes('nine times 1 MB') > 0 AS committed;
UPDATE bodies SET body = repeat('y', 5000000) WHERE id IN (1, 2);
UPDATE bodies SET body = 'z' WHERE id = 3;
SELECT commit_changes('two of 5 MB') > 0 AS committed;
SELECT message, part, parts, json_array_length(changes), octet_length(changes::text) <= 4 * 1024 * 1024 AS bounded
FROM rowclaim.journal WHERE message IS NOT NULL ORDER BY seq, part;
SELECT message, changes FROM rowclaim.changesets WHERE message IS NOT NULL ORDER BY seq;
-- each change is in the view once, in order
SELECT count(*), count(DISTINCT change), max(change) FROM rowclaim.changes JOIN rowclaim.changesets USING (journal, seq) WHERE message = '1001';
SELECT count(*), count(DISTINCT change) FROM rowclaim.changes JOIN rowclaim.changesets USING (journal, seq) WHERE message = 'nine times 1 MB';
SELECT count(*) FROM verify_journal();
