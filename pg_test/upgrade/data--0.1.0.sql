--
-- PostgreSQL database dump
--


-- Dumped from database version 15.20 (Debian 15.20-0+deb12u1)
-- Dumped by pg_dump version 15.20 (Debian 15.20-0+deb12u1)

SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;
SET xmloption = content;
SET client_min_messages = warning;
SET row_security = off;

--
-- Name: odd schema; Type: SCHEMA; Schema: -; Owner: postgres
--

CREATE SCHEMA "odd schema";


ALTER SCHEMA "odd schema" OWNER TO postgres;

--
-- Name: rowclaim; Type: EXTENSION; Schema: -; Owner: -
--

CREATE EXTENSION IF NOT EXISTS rowclaim WITH SCHEMA public;


--
-- Name: EXTENSION rowclaim; Type: COMMENT; Schema: -; Owner: 
--

COMMENT ON EXTENSION rowclaim IS 'row ownership, drafts and an ordered change journal';


SET default_tablespace = '';

SET default_table_access_method = heap;

--
-- Name: Part; Type: TABLE; Schema: odd schema; Owner: postgres
--

CREATE TABLE "odd schema"."Part" (
    id integer NOT NULL,
    v text,
    row_owner text,
    row_version bigint DEFAULT 1 NOT NULL,
    row_draft bigint DEFAULT rowclaim.draft_stamp()
);


ALTER TABLE "odd schema"."Part" OWNER TO postgres;

--
-- Name: measure; Type: TABLE; Schema: public; Owner: postgres
--

CREATE TABLE public.measure (
    id integer NOT NULL,
    day date NOT NULL,
    v numeric,
    row_owner text,
    row_version bigint DEFAULT 1 NOT NULL,
    row_draft bigint DEFAULT rowclaim.draft_stamp()
)
PARTITION BY RANGE (day);


ALTER TABLE public.measure OWNER TO postgres;

--
-- Name: measure_2026; Type: TABLE; Schema: public; Owner: postgres
--

CREATE TABLE public.measure_2026 (
    id integer NOT NULL,
    day date NOT NULL,
    v numeric,
    row_owner text,
    row_version bigint DEFAULT 1 NOT NULL,
    row_draft bigint DEFAULT rowclaim.draft_stamp()
);


ALTER TABLE public.measure_2026 OWNER TO postgres;

--
-- Name: measure_rest; Type: TABLE; Schema: public; Owner: postgres
--

CREATE TABLE public.measure_rest (
    id integer NOT NULL,
    day date NOT NULL,
    v numeric,
    row_owner text,
    row_version bigint DEFAULT 1 NOT NULL,
    row_draft bigint DEFAULT rowclaim.draft_stamp()
);


ALTER TABLE public.measure_rest OWNER TO postgres;

--
-- Name: tally; Type: TABLE; Schema: public; Owner: postgres
--

CREATE TABLE public.tally (
    id integer NOT NULL,
    n integer,
    seen integer,
    own text,
    ver bigint DEFAULT 1 NOT NULL,
    dra bigint DEFAULT rowclaim.draft_stamp()
);


ALTER TABLE public.tally OWNER TO postgres;

--
-- Name: measure_2026; Type: TABLE ATTACH; Schema: public; Owner: postgres
--

ALTER TABLE ONLY public.measure ATTACH PARTITION public.measure_2026 FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');


--
-- Name: measure_rest; Type: TABLE ATTACH; Schema: public; Owner: postgres
--

ALTER TABLE ONLY public.measure ATTACH PARTITION public.measure_rest DEFAULT;


--
-- Data for Name: Part; Type: TABLE DATA; Schema: odd schema; Owner: postgres
--

COPY "odd schema"."Part" (id, v, row_owner, row_version, row_draft) FROM stdin;
5	old	\N	1	\N
6	old	\N	1	\N
1	alice	alice	2	1
2	dirty	alice	2	2
7	new	\N	1	4
4	old	bob	1	\N
\.


--
-- Data for Name: measure_2026; Type: TABLE DATA; Schema: public; Owner: postgres
--

COPY public.measure_2026 (id, day, v, row_owner, row_version, row_draft) FROM stdin;
1	2026-10-28	2	\N	2	5
\.


--
-- Data for Name: measure_rest; Type: TABLE DATA; Schema: public; Owner: postgres
--

COPY public.measure_rest (id, day, v, row_owner, row_version, row_draft) FROM stdin;
4	2029-04-15	4	\N	1	\N
6	2030-12-06	6	\N	1	\N
3	2028-06-19	4	\N	2	9
\.


--
-- Data for Name: tally; Type: TABLE DATA; Schema: public; Owner: postgres
--

COPY public.tally (id, n, seen, own, ver, dra) FROM stdin;
1	2	0	\N	3	12
\.


--
-- Data for Name: claim; Type: TABLE DATA; Schema: rowclaim; Owner: postgres
--

COPY rowclaim.claim (relid, key, owner, token, claimed_at, expires_at, reason) FROM stdin;
"odd schema"."Part"	{"id":1}	alice	1	2026-11-25 13:35:38.698278+00	2029-08-21 13:35:38.698278+00	price review
"odd schema"."Part"	{"id":2}	alice	2	2026-11-25 13:35:38.698436+00	2029-08-21 13:35:38.698436+00	price review
"odd schema"."Part"	{"id":3}	alice	3	2026-11-25 13:35:38.698452+00	2029-08-21 13:35:38.698452+00	price review
"odd schema"."Part"	{"id":4}	bob	5	2026-11-25 13:35:38.7445+00	\N	holiday
\.


--
-- Data for Name: consumer; Type: TABLE DATA; Schema: rowclaim; Owner: postgres
--

COPY rowclaim.consumer (name, journal, role, acked_seq, last_seen) FROM stdin;
replica	main	postgres	1	2026-11-25 13:35:38.790275+00
\.


--
-- Data for Name: draft; Type: TABLE DATA; Schema: rowclaim; Owner: postgres
--

COPY rowclaim.draft (id, journal_id, actor, started_at, touched_at) FROM stdin;
2	1	alice	2026-11-25 13:35:38.725009+00	2026-11-25 13:35:38.725009+00
3	1	alice	2026-11-25 13:35:38.725212+00	2026-11-25 13:35:38.725212+00
4	1	alice	2026-11-25 13:35:38.725388+00	2026-11-25 13:35:38.725388+00
5	2	alice	2026-11-25 13:35:38.726464+00	2026-11-25 13:35:38.726464+00
6	2	alice	2026-11-25 13:35:38.733688+00	2026-11-25 13:35:38.733688+00
7	2	alice	2026-11-25 13:35:38.733928+00	2026-11-25 13:35:38.733928+00
8	1	alice	2026-11-25 13:35:38.734954+00	2026-11-25 13:35:38.734954+00
\.


--
-- Data for Name: draft_row; Type: TABLE DATA; Schema: rowclaim; Owner: postgres
--

COPY rowclaim.draft_row (relid, key, draft, op, base, base_version, leaf, base_key) FROM stdin;
"odd schema"."Part"	{"id":2}	2	u	{"id":2,"v":"old"}	1	"odd schema"."Part"	\N
"odd schema"."Part"	{"id":3}	3	d	{"id":3,"v":"old"}	1	"odd schema"."Part"	\N
"odd schema"."Part"	{"id":7}	4	i	\N	\N	"odd schema"."Part"	\N
public.measure	{"id":1,"day":"2026-10-28"}	5	u	{"id":1,"day":"2026-10-28","v":1}	1	public.measure_2026	\N
public.measure	{"id":2,"day":"2027-08-24"}	6	d	{"id":2,"day":"2027-08-24","v":2}	1	public.measure_rest	\N
public.measure	{"id":5,"day":"2030-02-09"}	7	d	{"id":5,"day":"2030-02-09","v":5}	1	public.measure_rest	\N
\.


--
-- Data for Name: enabled_table; Type: TABLE DATA; Schema: rowclaim; Owner: postgres
--

COPY rowclaim.enabled_table (relid, claiming, committing, journal, untracked, owner_column, version_column, draft_column, key_columns, partitions, columns) FROM stdin;
"odd schema"."Part"	required	explicit	main	{}	row_owner	row_version	row_draft	{id}	{}	{"1": ["id", "integer"], "2": ["v", "text"], "3": ["row_owner", "text"], "4": ["row_version", "bigint"], "5": ["row_draft", "bigint"]}
public.measure	auto	explicit	side	{}	row_owner	row_version	row_draft	{id,day}	{public.measure_2026,public.measure_rest}	{"1": ["id", "integer"], "2": ["day", "date"], "3": ["v", "numeric"], "5": ["row_owner", "text"], "6": ["row_version", "bigint"], "7": ["row_draft", "bigint"]}
public.tally	auto	transaction	main	{seen}	own	ver	dra	{id}	{}	{"1": ["id", "integer"], "2": ["n", "integer"], "3": ["seen", "integer"], "4": ["own", "text"], "5": ["ver", "bigint"], "6": ["dra", "bigint"]}
\.


--
-- Data for Name: journal; Type: TABLE DATA; Schema: rowclaim; Owner: postgres
--

COPY rowclaim.journal (journal, seq, part, parts, kind, actor, base, xid, message, committed_at, changes, hash) FROM stdin;
main	1	1	1	changeset	alice	\N	746	first	2026-11-25 13:35:38.721036+00	[{"op":"update","table":"\\"odd schema\\".\\"Part\\"","key":{"id":1},"old":{"v":"old"},"new":{"v":"alice"},"version":2}]	\\xed31bf026ec3f0ee620cfe6688d39e177c7071f6918c5d4529b1b436a0f18d46
side	1	1	1	changeset	bob	\N	756	\N	2026-11-25 13:35:38.737393+00	[{"op":"update","table":"public.measure","key":{"id":3,"day":"2028-06-19"},"old":{"v":3},"new":{"v":4},"version":2}]	\\xe9aef6a7183e4abb0ef310a8b941bdf57e008656f39b986d6cb0c4371cf218a5
main	2	1	1	changeset	bob	\N	759	\N	2026-11-25 13:35:38.754018+00	[{"op":"update","table":"public.tally","key":{"id":1},"old":{"n":0},"new":{"n":1},"version":2}]	\\xd944387e10591af3a20d5b44bd45f8d682af05ef09570ea4e235855a29c28bf7
main	4	1	1	changeset	bob	\N	761	\N	2026-11-25 13:35:38.762445+00	[{"op":"update","table":"public.tally","key":{"id":1},"old":{"n":1},"new":{"n":2},"version":3}]	\\x381d5789e4ac67d39af0a350cd9b291ecba8de655144d70132c89d8143007bec
main	3	1	1	void		\N	761	\N	2026-11-25 13:35:38.763189+00	[]	\\xd3fa5194052de5b5610730e12e5c37ff4f2490d7be4d9271a8aa426cd54ef4ee
side	2	1	1	seal		\N	764	\N	2026-11-25 13:35:38.806205+00	[{"op":"seal","from":1,"to":1,"entries":1,"chain":"dbcdd9212861c80d3a2f1eba1dc654bcc285b7e3ce8893e6da8aa14942a1f24a"}]	\\xdf5b56ac7df40ac4d5876e0c437cd5bffc28e3dde906289a8206ef2ce77fcb1f
\.


--
-- Data for Name: journal_config; Type: TABLE DATA; Schema: rowclaim; Owner: postgres
--

COPY rowclaim.journal_config (id, name, require_current) FROM stdin;
2	side	f
3	strict	t
\.


--
-- Data for Name: journaled_table; Type: TABLE DATA; Schema: rowclaim; Owner: postgres
--

COPY rowclaim.journaled_table (name, relid) FROM stdin;
"odd schema"."Part"	"odd schema"."Part"
public.measure	public.measure
public.tally	public.tally
\.


--
-- Data for Name: published_claim; Type: TABLE DATA; Schema: rowclaim; Owner: postgres
--

COPY rowclaim.published_claim (journal, id, relid, target, key, owner, token, claimed_at, expires_at, reason) FROM stdin;
\.


--
-- Data for Name: replay_failure; Type: TABLE DATA; Schema: rowclaim; Owner: postgres
--

COPY rowclaim.replay_failure (journal, seq, target, key, message, failed_at, attempts) FROM stdin;
\.


--
-- Data for Name: replay_state; Type: TABLE DATA; Schema: rowclaim; Owner: postgres
--

COPY rowclaim.replay_state (journal, started, checkpoint, overwritten, skipped, skips) FROM stdin;
\.


--
-- Data for Name: stash; Type: TABLE DATA; Schema: rowclaim; Owner: postgres
--

COPY rowclaim.stash (id, actor, journal, relid, key, op, base, mine, cause, reason, stashed_by, stashed_at, announced) FROM stdin;
1	alice	main	"odd schema"."Part"	{"id":4}	update	{"id":4,"v":"old"}	{"id":4,"v":"dirty"}	stolen	holiday	bob	2026-11-25 13:35:38.744317+00	f
\.


--
-- Name: draft_id_seq; Type: SEQUENCE SET; Schema: rowclaim; Owner: postgres
--

SELECT pg_catalog.setval('rowclaim.draft_id_seq', 12, true);


--
-- Name: journal_config_id_seq; Type: SEQUENCE SET; Schema: rowclaim; Owner: postgres
--

SELECT pg_catalog.setval('rowclaim.journal_config_id_seq', 3, true);


--
-- Name: published_claim_id_seq; Type: SEQUENCE SET; Schema: rowclaim; Owner: postgres
--

SELECT pg_catalog.setval('rowclaim.published_claim_id_seq', 1, false);


--
-- Name: stash_id_seq; Type: SEQUENCE SET; Schema: rowclaim; Owner: postgres
--

SELECT pg_catalog.setval('rowclaim.stash_id_seq', 1, true);


--
-- Name: token_seq; Type: SEQUENCE SET; Schema: rowclaim; Owner: postgres
--

SELECT pg_catalog.setval('rowclaim.token_seq', 5, true);


--
-- Name: Part Part_pkey; Type: CONSTRAINT; Schema: odd schema; Owner: postgres
--

ALTER TABLE ONLY "odd schema"."Part"
    ADD CONSTRAINT "Part_pkey" PRIMARY KEY (id);


--
-- Name: measure measure_pkey; Type: CONSTRAINT; Schema: public; Owner: postgres
--

ALTER TABLE ONLY public.measure
    ADD CONSTRAINT measure_pkey PRIMARY KEY (id, day);


--
-- Name: measure_2026 measure_2026_pkey; Type: CONSTRAINT; Schema: public; Owner: postgres
--

ALTER TABLE ONLY public.measure_2026
    ADD CONSTRAINT measure_2026_pkey PRIMARY KEY (id, day);


--
-- Name: measure_rest measure_rest_pkey; Type: CONSTRAINT; Schema: public; Owner: postgres
--

ALTER TABLE ONLY public.measure_rest
    ADD CONSTRAINT measure_rest_pkey PRIMARY KEY (id, day);


--
-- Name: tally tally_pkey; Type: CONSTRAINT; Schema: public; Owner: postgres
--

ALTER TABLE ONLY public.tally
    ADD CONSTRAINT tally_pkey PRIMARY KEY (id);


--
-- Name: measure_2026_pkey; Type: INDEX ATTACH; Schema: public; Owner: postgres
--

ALTER INDEX public.measure_pkey ATTACH PARTITION public.measure_2026_pkey;


--
-- Name: measure_rest_pkey; Type: INDEX ATTACH; Schema: public; Owner: postgres
--

ALTER INDEX public.measure_pkey ATTACH PARTITION public.measure_rest_pkey;


--
-- Name: Part rowclaim_capture; Type: TRIGGER; Schema: odd schema; Owner: postgres
--

CREATE TRIGGER rowclaim_capture AFTER INSERT OR DELETE OR UPDATE ON "odd schema"."Part" FOR EACH ROW EXECUTE FUNCTION rowclaim.capture();

ALTER TABLE "odd schema"."Part" ENABLE ALWAYS TRIGGER rowclaim_capture;


--
-- Name: Part rowclaim_guard; Type: TRIGGER; Schema: odd schema; Owner: postgres
--

CREATE TRIGGER rowclaim_guard BEFORE DELETE OR UPDATE ON "odd schema"."Part" FOR EACH ROW EXECUTE FUNCTION rowclaim.guard();

ALTER TABLE "odd schema"."Part" ENABLE ALWAYS TRIGGER rowclaim_guard;


--
-- Name: Part rowclaim_truncate; Type: TRIGGER; Schema: odd schema; Owner: postgres
--

CREATE TRIGGER rowclaim_truncate BEFORE TRUNCATE ON "odd schema"."Part" FOR EACH STATEMENT EXECUTE FUNCTION rowclaim.capture();

ALTER TABLE "odd schema"."Part" ENABLE ALWAYS TRIGGER rowclaim_truncate;


--
-- Name: measure rowclaim_capture; Type: TRIGGER; Schema: public; Owner: postgres
--

CREATE TRIGGER rowclaim_capture AFTER INSERT OR DELETE OR UPDATE ON public.measure FOR EACH ROW EXECUTE FUNCTION rowclaim.capture();

ALTER TABLE public.measure ENABLE ALWAYS TRIGGER rowclaim_capture;


--
-- Name: tally rowclaim_capture; Type: TRIGGER; Schema: public; Owner: postgres
--

CREATE TRIGGER rowclaim_capture AFTER INSERT OR DELETE OR UPDATE ON public.tally FOR EACH ROW EXECUTE FUNCTION rowclaim.capture();

ALTER TABLE public.tally ENABLE ALWAYS TRIGGER rowclaim_capture;


--
-- Name: measure rowclaim_guard; Type: TRIGGER; Schema: public; Owner: postgres
--

CREATE TRIGGER rowclaim_guard BEFORE DELETE OR UPDATE ON public.measure FOR EACH ROW EXECUTE FUNCTION rowclaim.guard();

ALTER TABLE public.measure ENABLE ALWAYS TRIGGER rowclaim_guard;


--
-- Name: tally rowclaim_guard; Type: TRIGGER; Schema: public; Owner: postgres
--

CREATE TRIGGER rowclaim_guard BEFORE DELETE OR UPDATE ON public.tally FOR EACH ROW EXECUTE FUNCTION rowclaim.guard();

ALTER TABLE public.tally ENABLE ALWAYS TRIGGER rowclaim_guard;


--
-- Name: measure rowclaim_truncate; Type: TRIGGER; Schema: public; Owner: postgres
--

CREATE TRIGGER rowclaim_truncate BEFORE TRUNCATE ON public.measure FOR EACH STATEMENT EXECUTE FUNCTION rowclaim.capture();

ALTER TABLE public.measure ENABLE ALWAYS TRIGGER rowclaim_truncate;


--
-- Name: measure_2026 rowclaim_truncate; Type: TRIGGER; Schema: public; Owner: postgres
--

CREATE TRIGGER rowclaim_truncate BEFORE TRUNCATE ON public.measure_2026 FOR EACH STATEMENT EXECUTE FUNCTION rowclaim.capture();

ALTER TABLE public.measure_2026 ENABLE ALWAYS TRIGGER rowclaim_truncate;


--
-- Name: measure_rest rowclaim_truncate; Type: TRIGGER; Schema: public; Owner: postgres
--

CREATE TRIGGER rowclaim_truncate BEFORE TRUNCATE ON public.measure_rest FOR EACH STATEMENT EXECUTE FUNCTION rowclaim.capture();

ALTER TABLE public.measure_rest ENABLE ALWAYS TRIGGER rowclaim_truncate;


--
-- Name: tally rowclaim_truncate; Type: TRIGGER; Schema: public; Owner: postgres
--

CREATE TRIGGER rowclaim_truncate BEFORE TRUNCATE ON public.tally FOR EACH STATEMENT EXECUTE FUNCTION rowclaim.capture();

ALTER TABLE public.tally ENABLE ALWAYS TRIGGER rowclaim_truncate;


--
-- PostgreSQL database dump complete
--


