-- What a parallel pg_restore may do: a partitioned table has its triggers before a partition has its rows and its key.
SET client_min_messages = warning;
CREATE EXTENSION rowclaim;
CREATE TABLE measure (id int NOT NULL, day date NOT NULL, v int,
    row_owner text, row_version bigint NOT NULL DEFAULT 1, row_draft bigint) PARTITION BY RANGE (day);
CREATE TABLE measure_2026 (LIKE measure INCLUDING DEFAULTS);
ALTER TABLE ONLY measure ATTACH PARTITION measure_2026 FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
CREATE TRIGGER rowclaim_capture AFTER INSERT OR DELETE OR UPDATE ON measure
    FOR EACH ROW EXECUTE FUNCTION rowclaim.capture();
COPY measure_2026 (id, day, v, row_owner, row_version, row_draft) FROM stdin;
1	2026-05-01	10	alice	7	3
2	2026-05-02	20	\N	1	\N
\.
-- The rows are as they were dumped, and in no draft.
TABLE measure_2026;
SELECT count(*) FROM rowclaim.draft_row;
-- With its key it is a table like any other.
ALTER TABLE measure_2026 ADD PRIMARY KEY (id, day);
INSERT INTO measure_2026 VALUES (3, '2026-05-03', 30, 'alice', 7, 3);
