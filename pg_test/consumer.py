"""docs/clients/sqlite_consumer.py follows a hub under load, is killed with -9 again and again, and ends with the hub's rows.

Four clients of pgbench insert, update, move, exchange and delete rows of every type, commit and discard; baselines are
written meanwhile; one changeset has several parts; one draft stays open. Compared are all tables, value by value.
"""
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psycopg

CONSUMER = Path(__file__).parent.parent / "docs/clients/sqlite_consumer.py"
DATABASE = "consumer"
KILLS = 6

SETUP = r"""
CREATE EXTENSION rowclaim;
CREATE ROLE consumer_app LOGIN;
CREATE ROLE consumer_reader LOGIN;
GRANT SET ON PARAMETER rowclaim.actor TO consumer_app;
CREATE TYPE size AS (w int, h numeric);
CREATE DOMAIN price AS numeric(12, 2);
-- Rows from before claims were enabled, which only a baseline can tell.
CREATE TABLE stock (id bigint PRIMARY KEY, name text, price price, qty int, doc jsonb, at timestamptz, seen int DEFAULT 0);
INSERT INTO stock SELECT g, 'part ' || g, g / 3.0, g, jsonb_build_object('n', g), '2026-01-01'::timestamptz + g * interval '1 s'
FROM generate_series(1, 4000) g;
CREATE SCHEMA "Odd, ""shop"" x";
CREATE TABLE "Odd, ""shop"" x"."Line's {of} ?" (
    "order" uuid, "No." numeric, f float8, r real, big numeric, ok boolean, raw json, bin bytea, tags text[], span tstzrange,
    size size, body text, twice int GENERATED ALWAYS AS (length(body) * 2) STORED, PRIMARY KEY ("No.", "order"));
CREATE TABLE ledger (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, client int, delta int, note text);
CREATE TABLE empty (id int PRIMARY KEY);
SELECT enable_claims('stock', 'auto', untracked => '{seen}'), enable_claims('"Odd, ""shop"" x"."Line''s {of} ?"', 'auto'),
    enable_claims('ledger', 'auto', 'transaction'), enable_claims('empty', 'auto');
GRANT USAGE ON SCHEMA "Odd, ""shop"" x" TO consumer_app, consumer_reader;
GRANT SELECT, INSERT, UPDATE, DELETE ON stock, ledger, "Odd, ""shop"" x"."Line's {of} ?" TO consumer_app;
GRANT SELECT ON stock, ledger, empty, "Odd, ""shop"" x"."Line's {of} ?" TO consumer_reader;
"""

# Each client has the rows that are congruent to its number; nobody waits.
LOAD = r"""
\set mine 4 * random(1, 900) + :client_id
\set other 4 * random(1, 900) + :client_id
\set far random(1, 1000000000)
\set what random(1, 10)
SET rowclaim.actor = 'client :client_id';
BEGIN;
UPDATE stock SET price = price + 0.01, doc = doc || '{"changed": true}', at = clock_timestamp() WHERE id = :mine;
INSERT INTO ledger (client, delta, note) VALUES (:client_id, :mine, repeat('n', :what * 300));
\if :what <= 2
DELETE FROM stock WHERE id = :other;
INSERT INTO stock (id, name) VALUES (:mine, 'new') ON CONFLICT (id) DO UPDATE SET name = excluded.name || stock.name;
\elif :what = 3
-- Two rows exchange their keys.
UPDATE stock SET id = -1 - :client_id WHERE id = :mine AND EXISTS (SELECT FROM stock WHERE id = :other AND id <> :mine);
UPDATE stock SET id = :mine WHERE id = :other AND EXISTS (SELECT FROM stock WHERE id = -1 - :client_id);
UPDATE stock SET id = :other WHERE id = -1 - :client_id;
\elif :what = 4
-- A row moves away and another to its place.
UPDATE stock SET id = id + 10000::bigint * :far, qty = NULL WHERE id = :mine;
UPDATE stock SET id = :mine WHERE id = :other;
\elif :what <= 7
INSERT INTO "Odd, ""shop"" x"."Line's {of} ?" VALUES (
    gen_random_uuid(), :mine / 4.0, random() * 1e300, random(), 123456789012345678901234567890.5 * :mine, random() < 0.5,
    '{"b":1, "a": [null]}', decode(md5(:what::text), 'hex'), ARRAY['a "quoted"', NULL, 'é😀'],
    tstzrange(now(), now() + interval '1 h'), ROW(1, 2.50), E'line\n' || :other);
\elif :what = 8
UPDATE "Odd, ""shop"" x"."Line's {of} ?" SET ("No.", f, big, ok) = ("No." + 1000, 'NaN', -"No.", NULL)
WHERE ("No.", "order") = (SELECT "No.", "order" FROM "Odd, ""shop"" x"."Line's {of} ?" WHERE "No." * 4 % 4 = :client_id AND "No." = :mine / 4.0 LIMIT 1);
DELETE FROM ledger WHERE client = :client_id AND id = (SELECT min(id) FROM ledger WHERE client = :client_id);
\endif
SELECT commit_changes('of client :client_id') WHERE :what <> 9;
COMMIT;
SELECT discard_changes() WHERE :what = 9;
"""


def connect(user):
    return psycopg.connect(dbname=DATABASE, user=user, autocommit=True)


def ok(condition, what):
    print("ok" if condition else "FAILED", "-", what, flush=True)
    if not condition:
        raise SystemExit(1)


def wait_until(condition, what):
    end = time.monotonic() + 180
    while not condition():
        if time.monotonic() > end:
            raise SystemExit(f"FAILED - waited in vain: {what}")
        time.sleep(0.01)


class Follower:
    """The program, as a process of its own."""

    def __init__(self, directory):
        self.file = directory / "replica.db"
        self.log = directory / "log"

    def start(self, *arguments):
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, CONSUMER, self.file, "--batch", "20", *arguments], stderr=log,
                env={**os.environ, "PGDATABASE": DATABASE, "PGUSER": "consumer_reader"})

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def catch_up(self):
        self.start("--once")
        ok(self.process.wait(timeout=300) == 0, f"the consumer ends well {self.log.read_text()[-1000:]}")

    def query(self, sql, *values):
        # The file may be about to be made.
        try:
            db = sqlite3.connect(f"file:{self.file}?mode=ro", uri=True, timeout=60)
            found = db.execute(sql, values).fetchall()
            db.close()
            return found
        except sqlite3.OperationalError:
            return []

    def position(self):
        found = self.query("SELECT seq FROM position WHERE journal = 'main'")
        return found[0][0] if found else 0


def expected(kind, text):
    """How SQLite should have a value whose text form and type category PostgreSQL says."""
    if text is None:
        return None
    if kind == "B":
        return int(text == "true")
    if kind == "N" and text.lstrip("-").isdigit() and str(int(text)) == text and -2**63 <= int(text) < 2**63:
        return int(text)
    return text


def same_rows(hub, follower, table):
    """Compares a table: how many rows it has."""
    columns = hub.execute("""
        SELECT quote_ident(attname), attname, CASE WHEN t.typtype = 'd' THEN b.typcategory ELSE t.typcategory END
        FROM pg_attribute a JOIN pg_type t ON t.oid = atttypid LEFT JOIN pg_type b ON b.oid = t.typbasetype
        WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = '' AND attname NOT LIKE 'row\\_%%'
        ORDER BY attnum""", [table]).fetchall()
    there = hub.execute(f"SELECT {', '.join(f'{quoted}::text' for quoted, _, _ in columns)} FROM {table}").fetchall()
    there = [tuple(expected(kind, text) for (_, _, kind), text in zip(columns, row)) for row in there]
    as_sqlite = table.replace('"', '""')
    names = ", ".join('"' + name.replace('"', '""') + '"' for _, name, _ in columns)
    here = follower.query(f'SELECT {names} FROM "{as_sqlite}"') if there else follower.query(f'SELECT * FROM "{as_sqlite}"')
    missing, extra = set(there) - set(here), set(here) - set(there)
    for row in sorted(missing, key=repr)[:3] + sorted(extra, key=repr)[:3]:
        print("only there" if row in missing else "only here", row)
    ok(len(here) == len(there) and not missing and not extra, f"{table}: the same {len(there)} rows")
    return len(there)


def baseline_with_changes(hub, table):
    """Writes a baseline; were changesets committed while it read the rows?"""
    seq, = hub.execute("SELECT baseline_table(%s::regclass)", [table]).fetchone()
    return hub.execute("""
        SELECT sum(json_array_length(changes)) - 1 > max((changes -> 0 ->> 'rows')::bigint) FILTER (WHERE part = 1)
        FROM rowclaim.journal WHERE journal = 'main' AND seq = %s""", [seq]).fetchone()[0]


def main(directory):
    follower = Follower(directory)
    with psycopg.connect(dbname="postgres", user="postgres", autocommit=True) as conn:
        conn.execute(f"CREATE DATABASE {DATABASE}")
    hub = connect("postgres")
    hub.execute(SETUP)
    hub.execute("SET client_min_messages = warning; SET timezone = UTC; SET extra_float_digits = 1")
    # A draft that stays open: replicas have the rows as they were.
    zoe = connect("consumer_app")
    zoe.execute("SET rowclaim.actor = 'zoe'")
    before = hub.execute("SELECT id, name FROM stock WHERE id > 3990 ORDER BY id").fetchall()
    zoe.execute("UPDATE stock SET name = 'of zoe' WHERE id > 3995; DELETE FROM stock WHERE id BETWEEN 3991 AND 3995")

    script = directory / "load"
    script.write_text(LOAD)
    log = (directory / "pgbench").open("w")
    load = subprocess.Popen(["pgbench", "-n", "-f", script, "-c", "4", "-j", "2", "-T", "600", "-U", "consumer_app", DATABASE],
                            stdout=log, stderr=log)
    within = 0
    try:
        follower.start()
        for kill in range(KILLS):
            start = follower.position()
            if kill in (1, 4):
                wait_until(lambda: baseline_with_changes(hub, "stock"), "a baseline that is followed by changes")
            if kill == 2:
                # 3,000 changes in three parts.
                zoe.execute("""SET rowclaim.actor = 'parts'; BEGIN; INSERT INTO stock (id, name) SELECT g, 'part of three' FROM generate_series(500000, 502999) g;
                               SELECT commit_changes('parts'); COMMIT; SET rowclaim.actor = 'zoe'""")
            wait_until(lambda: follower.position() > start or follower.process.poll() is not None, f"progress before kill {kill}")
            time.sleep(random.uniform(0, 0.3))
            ok(follower.process.poll() is None and load.poll() is None, f"consumer and load run until kill {kill + 1}")
            follower.kill()
            behind = hub.execute("SELECT rowclaim.stable_seq('main')").fetchone()[0] - follower.position()
            within += behind > 0
            print(f"killed at {follower.position()}, {behind} entries behind")
            follower.start()
        start = follower.position()
        wait_until(lambda: follower.position() > start, "progress after the last kill")
        hub.execute("""SELECT baseline_table('"Odd, ""shop"" x"."Line''s {of} ?"'), baseline_table('empty')""")
    finally:
        load.terminate()
        load.wait()
        follower.kill()
    ok(within >= KILLS / 2, f"{within} of {KILLS} kills were in the middle")

    follower.catch_up()
    ok(follower.query("SELECT id, name FROM \"public.stock\" WHERE id BETWEEN 3991 AND 4000 ORDER BY id") == before,
       "an open draft is not seen")
    ok(sorted(follower.query("SELECT name FROM waiting")) == [], "no table waits for a baseline")
    misfits = [line for line in follower.log.read_text().splitlines() if "does not fit" in line]
    ok(len(misfits) == 1 and "public.stock" in misfits[0], f"one table did not fit, before its baseline: {misfits}")
    actors = [actor for actor, in hub.execute("SELECT DISTINCT actor FROM rowclaim.drafts").fetchall()]
    for actor in actors:
        hub.execute("SELECT release_actor(%s)", [actor])
    rows = [same_rows(hub, follower, table) for table in ("public.stock", "public.ledger", '"Odd, ""shop"" x"."Line\'s {of} ?"')]
    ok(min(rows) > 50, "with enough rows to tell")
    ok(hub.execute("SELECT max(parts) FROM rowclaim.journal WHERE message = 'parts'").fetchone()[0] == 3, "and a changeset of three parts")
    ok(same_rows(hub, follower, "public.empty") == 0 and not follower.query("SELECT name FROM sqlite_master WHERE name = 'public.empty'"),
       "an empty table has none")
    position, lag = hub.execute("SELECT position, lag FROM rowclaim.consumers WHERE consumer = 'sqlite'").fetchone()
    ok(position == follower.position(), "the hub knows the position")

    # Killed after storing, before acknowledging: the last entries come again and are stored already.
    hub.execute("UPDATE rowclaim.consumer SET acked_seq = acked_seq - 50 WHERE name = 'sqlite'")
    follower.catch_up()
    ok(follower.query("SELECT count(*) FROM waiting") == [(0,)], "what comes again fits")
    same_rows(hub, follower, "public.stock")
    same_rows(hub, follower, "public.ledger")
    ok(hub.execute("SELECT position FROM rowclaim.consumers WHERE consumer = 'sqlite'").fetchone()[0] == position, "and is acknowledged")

    # An old copy of the file must not go on silently.
    old = sqlite3.connect(follower.file)
    old.execute("UPDATE position SET seq = seq - 1")
    old.commit()
    old.close()
    follower.start("--once")
    ok(follower.process.wait(timeout=300) != 0 and "begin again" in follower.log.read_text(), "an old copy is refused")
    hub.close()
    zoe.close()
    with psycopg.connect(dbname="postgres", user="postgres", autocommit=True) as conn:
        conn.execute(f"DROP DATABASE {DATABASE} WITH (FORCE)")
        conn.execute("DROP OWNED BY consumer_app, consumer_reader; DROP ROLE consumer_app, consumer_reader")


with tempfile.TemporaryDirectory() as temporary:
    main(Path(temporary))
