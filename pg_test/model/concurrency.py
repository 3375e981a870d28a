#!/usr/bin/env python3
"""Lets many sessions write, commit, discard, steal and roll back at once, with random pauses and at every isolation level,
and checks afterwards what must be true whatever happened.

  SEED=1        where the random numbers start; `now`: somewhere new
  DURATION=60   how long the sessions write
  CLIENTS=16    how many there are; two for each actor, and one reader besides
"""

import os
import random
import sys
import threading
import time

sys.dont_write_bytecode = True
import psycopg  # noqa: E402
from replica import Diverged, Replica  # noqa: E402

TABLES = {"doc": "id int PRIMARY KEY, code int UNIQUE, v int, who text", "note": "id int PRIMARY KEY, v int, who text",
          "line": "id int PRIMARY KEY, doc int REFERENCES {}.doc DEFERRABLE, v int, who text",
          "move": "id int PRIMARY KEY, doc int REFERENCES {}.doc DEFERRABLE, v int, who text"}
ROWS = 40
# What other sessions may rule out: held, not claimed, uncommitted, constraints, serialization and deadlock.
EXPECTED = {"55P03", "55000", "55006", "23503", "23505", "40001", "40P01"}
WEIGHTS = {"update": 30, "insert": 10, "delete": 8, "code": 6, "refer": 6, "rekey": 4, "record": 5, "claim": 10, "steal": 2,
           "discard": 4, "discard_row": 2, "release": 2, "release_actor": 0.3, "commit": 14}
LEVELS = ["READ COMMITTED"] * 4 + ["REPEATABLE READ", "SERIALIZABLE"]


def setup(connection):
    connection.execute("CREATE EXTENSION rowclaim; CREATE SCHEMA copy")
    for schema in ("public", "copy"):
        for table, columns in TABLES.items():
            connection.execute(f"CREATE TABLE {schema}.{table} ({columns.format(schema)})")
    for table in TABLES:
        connection.execute("SELECT enable_claims(%s, %s, %s)", (
            table, "required" if table == "note" else "auto", "transaction" if table == "move" else "explicit"))
    connection.execute("SET rowclaim.actor = 'nobody'")
    for table in TABLES:
        connection.execute(f"INSERT INTO {table} (id) SELECT i FROM generate_series(1, {ROWS}) i")
    connection.execute("SELECT commit_changes()")


class Promised:
    """What is certain once the transaction has committed: numbers of changesets, keys of rows."""

    def __init__(self, changesets=(), rows=()):
        self.changesets, self.rows = list(changesets), list(rows)

    def copy(self):
        return Promised(self.changesets, self.rows)


class Writer(threading.Thread):
    """A session: random transactions until the time is over."""

    def __init__(self, number, seed, end):
        super().__init__()
        self.actor, self.number = f"actor {number // 2}", number
        self.rng, self.end = random.Random(f"{seed}/{number}"), end
        self.records = self.transactions = self.given_up = 0
        self.promised, self.failure = Promised(), None

    def run(self):
        try:
            with psycopg.connect(autocommit=True) as self.connection:
                self.connection.execute("SET client_min_messages = error; SET statement_timeout = '300s'; "
                                        "SET deadlock_timeout = '100ms'")
                self.connection.execute("SELECT set_config('rowclaim.actor', %s, false)", (self.actor,))
                while time.monotonic() < self.end:
                    self.transaction()
        except Exception as error:  # reported by the main thread
            self.failure = error

    def pause(self):
        if self.rng.random() < 0.3:
            time.sleep(self.rng.random() * 0.01)

    def transaction(self):
        """BEGIN, some statements, COMMIT or ROLLBACK; remembers what the server has promised."""
        rng, promised = self.rng, Promised()
        self.connection.execute(f"BEGIN ISOLATION LEVEL {rng.choice(LEVELS)}")
        try:
            for _ in range(rng.choice([1, 1, 2, 3, 5])):
                before = promised.copy() if rng.random() < 0.5 else None
                if before:
                    self.connection.execute("SAVEPOINT s")
                try:
                    self.statement(promised)
                except psycopg.Error as error:
                    # After a serialization failure or a deadlock there is no going on.
                    if not before or error.sqlstate not in EXPECTED or error.sqlstate.startswith("40"):
                        raise
                    self.connection.execute("ROLLBACK TO s")
                    promised = before
                if before and rng.random() < 0.1:
                    self.connection.execute("ROLLBACK TO s")
                    promised = before
                self.pause()
            if rng.random() < 0.1:
                self.connection.execute("ROLLBACK")
                return
            self.connection.execute("COMMIT")
            self.transactions += 1
            self.promised.changesets += promised.changesets
            self.promised.rows += promised.rows
        except psycopg.Error as error:
            if error.sqlstate not in EXPECTED:
                raise
            self.given_up += 1
            self.connection.execute("ROLLBACK")

    def statement(self, promised):
        rng, run, who = self.rng, self.connection.execute, self.actor
        key, other, value = rng.randint(1, ROWS), rng.randint(1, ROWS), rng.randrange(1000)
        table = rng.choice(["doc", "doc", "line", "note", "move"])
        kind = rng.choices(*zip(*WEIGHTS.items()))[0]
        if kind == "update":
            run(f"UPDATE {table} SET v = %s, who = %s WHERE id = %s", (value, who, key))
        elif kind == "insert":
            run(f"INSERT INTO {table} (id, v, who) VALUES (%s, %s, %s) ON CONFLICT (id) DO UPDATE "
                "SET v = excluded.v, who = excluded.who", (key, value, who))
        elif kind == "delete":
            run(f"DELETE FROM {table} WHERE id = %s", (key,))
        elif kind == "code":
            run("UPDATE doc SET code = %s, who = %s WHERE id = %s", (rng.choice([None, other % 10]), who, key))
        elif kind == "refer":
            run("UPDATE line SET doc = %s, who = %s WHERE id = %s", (rng.choice([None, other]), who, key))
        elif kind == "rekey":
            run("UPDATE doc SET id = %s, who = %s WHERE id = %s", (other, who, key))
        elif kind == "record":
            # A row of its own, that nobody else knows.
            self.records += 1
            number = self.number * 1_000_000 + self.records + ROWS
            doc = rng.choice([None, key])
            run("INSERT INTO move (id, doc, who) VALUES (%s, %s, %s)", (number, doc, who))
            promised.rows.append(number)
        elif kind == "claim":
            ttl = rng.choice([None, None, "1 microsecond"])
            run("SELECT claim_row(%s::regclass, %s::int, ttl => %s::interval)", (table, key, ttl))
        elif kind == "steal":
            run("SELECT steal_row(%s::regclass, %s::int)", (table, key))
        elif kind == "discard":
            run("SELECT discard_changes()")
        elif kind == "discard_row":
            run("SELECT discard_changes(target => 'doc', key => %s)", (str(key),))
        elif kind == "release":
            run("SELECT release_rows(%s::regclass)", (table,))
        elif kind == "release_actor":
            run("SELECT release_actor(%s)", (f"actor {rng.randrange(8)}",))
        else:
            seq = run("SELECT commit_changes(release => %s)", (rng.random() < 0.3,)).fetchone()[0]
            promised.changesets += [seq] if seq else []


class Reader(threading.Thread):
    """A consumer that polls; notes every entry it gets, and now and then asks for them again without acknowledging."""

    def __init__(self):
        super().__init__()
        self.seqs, self.failure, self.stop = [], None, threading.Event()

    def run(self):
        try:
            with psycopg.connect(autocommit=True) as connection:
                last = False
                while True:
                    got = connection.execute("SELECT seq FROM pull_changes('reader', max_changesets => 50)").fetchall()
                    stable = connection.execute("SELECT rowclaim.stable_seq('main')").fetchone()[0]
                    if got and got[-1][0] > stable:
                        raise AssertionError(f"read {got[-1][0]} beyond the stable prefix {stable}")
                    if got:
                        self.seqs += [seq for seq, in got]
                        connection.execute("SELECT ack_changes('reader', %s)", (got[-1][0],))
                    elif last:
                        return
                    else:
                        last = self.stop.is_set()
                        self.stop.wait(0.02)
        except Exception as error:  # reported by the main thread
            self.failure = error


# Afterwards

def check(connection, writers, reader):
    """Everything that must be true; returns what is not."""
    wrong = []

    def expect(what, found, wanted):
        if found != wanted:
            wrong.append(f"{what}: {found!r} instead of {wanted!r}")

    def none(what, sql):
        found = connection.execute(sql).fetchmany(5)
        if found:
            wrong.append(f"{what}: {found}")

    none("a dirty row is not there or a deleted one is", AGREE + """
        SELECT d.* FROM dirty d LEFT JOIN rows r ON r.relid = d.relid AND r.id = d.id WHERE (r.id IS NULL) <> (d.op = 'd')""")
    none("a row has a stamp but no entry", AGREE + """
        SELECT r.* FROM rows r JOIN rowclaim.draft h ON h.id = r.row_draft LEFT JOIN dirty d ON d.relid = r.relid AND d.id = r.id
        WHERE d.id IS NULL AND r.relid <> 'move'::regclass""")
    none("a draft row without a draft", "SELECT * FROM rowclaim.draft_row WHERE draft NOT IN (SELECT id FROM rowclaim.draft)")
    none("claim and owner column differ", AGREE + """
        SELECT c.key, c.owner, r.* FROM rowclaim.claim c
        FULL JOIN (SELECT * FROM rows WHERE row_owner IS NOT NULL) r ON r.relid = c.relid AND r.id = (c.key::json ->> 'id')::int
        WHERE c.owner IS DISTINCT FROM r.row_owner AND NOT EXISTS (
            SELECT FROM dirty d WHERE d.relid = c.relid AND d.id = (c.key::json ->> 'id')::int AND d.op = 'd')""")
    seqs = [seq for seq, in connection.execute("SELECT DISTINCT seq FROM rowclaim.journal ORDER BY seq")]
    expect("numbers without a gap", seqs, list(range(1, len(seqs) + 1)))
    promised = sorted(seq for writer in writers for seq in writer.promised.changesets)
    there = {seq for seq, in connection.execute("SELECT seq FROM rowclaim.journal WHERE kind = 'changeset'")}
    expect("acknowledged changesets that are missing", [seq for seq in promised if seq not in there], [])
    expect("what the reader saw", reader.seqs, sorted(there))
    rows = sorted(row for writer in writers for row in writer.promised.rows)
    recorded = connection.execute("SELECT (key ->> 'id')::int FROM rowclaim.changes WHERE target = 'public.move' "
                                  "AND op = 'insert' AND (key ->> 'id')::int > %s ORDER BY 1", (ROWS,)).fetchall()
    expect("rows of acknowledged transactions", [row for row, in recorded], rows)
    none("a change of somebody who does not hold the row", """
        SELECT seq, actor, target, key, new FROM rowclaim.changes WHERE actor <> 'nobody'
        AND (op = 'insert' OR new::jsonb ? 'who') AND new ->> 'who' IS DISTINCT FROM actor""")
    # What touched a row, and what made and used a parent, was committed in the order of the numbers.
    none("commits of a row in another order than their numbers", COMMITTED + """
        SELECT * FROM (SELECT seq, at, target, id, lag(at) OVER (PARTITION BY target, id ORDER BY seq, change) AS before
                       FROM touched) t WHERE at < before""")
    none("a child committed before the parent it refers to", COMMITTED + """
        SELECT c.seq, p.seq FROM touched c JOIN touched p ON p.target = 'public.doc' AND p.made AND p.id = c.doc
        WHERE p.seq < c.seq AND p.at > c.at""")
    none("verify_journal", "SELECT * FROM verify_journal('main')")

    # What is left uncommitted goes to the stash; then the tables are what the journal says.
    # A value that a draft has given up may be taken by another one, which goes first.
    left = writers
    while left:
        held = left
        left = [writer for writer in held if not released(connection, writer)]
        if len(left) == len(held):
            return wrong + [f"drafts that cannot be put back: {[writer.actor for writer in left]}"]
    none("something is left held", "SELECT 1 FROM rowclaim.draft_row UNION ALL SELECT 2 FROM rowclaim.claim")
    try:
        with psycopg.connect(autocommit=True) as other:
            replica = Replica(other, "copy", ("main",))
            replica.replay()
            for table in TABLES:
                columns = ", ".join(column.split()[0] for column in TABLES[table].split(", "))
                public = {row[0]: row[1:] for row in connection.execute(f"SELECT {columns} FROM {table}").fetchall()}
                expect(f"replayed {table}", replica.rows(table), public)
    except (psycopg.Error, Diverged) as error:
        wrong.append(f"the journal cannot be replayed: {error}")
    return wrong


def released(connection, writer):
    """Puts back what an actor has not committed, unless a row of another draft is in the way."""
    try:
        connection.execute("SELECT release_actor(%s)", (writer.actor,))
        return True
    except (psycopg.errors.UniqueViolation, psycopg.errors.ForeignKeyViolation):
        return False


AGREE = "WITH rows AS (" + " UNION ALL ".join(
    f"SELECT '{table}'::regclass AS relid, id, row_owner, row_draft FROM {table}" for table in TABLES) + """),
    dirty AS (SELECT relid, (key::json ->> 'id')::int AS id, op FROM rowclaim.draft_row)"""

COMMITTED = """WITH touched AS (
    SELECT c.seq, c.change, c.target, coalesce(c.new ->> 'id', c.key ->> 'id')::int AS id, (c.new ->> 'doc')::int AS doc,
           c.new ->> 'id' IS NOT NULL AS made, pg_xact_commit_timestamp(j.xid::xid) AS at
    FROM rowclaim.changes c JOIN rowclaim.journal j ON j.journal = c.journal AND j.seq = c.seq AND j.part = 1)"""


def setting(name, default):
    return os.environ.get(name) or default


def main():
    seed = setting("SEED", "1")
    seed = time.time_ns() % 1_000_000_000 if seed == "now" else int(seed)
    seconds, clients = int(setting("DURATION", "60")), int(setting("CLIENTS", "16"))
    with psycopg.connect(autocommit=True) as connection:
        setup(connection)
        print(f"seed {seed}, {clients} sessions for {seconds} seconds", flush=True)
        reader = Reader()
        writers = [Writer(number, seed, time.monotonic() + seconds) for number in range(clients)]
        for thread in (reader, *writers):
            thread.start()
        for writer in writers:
            writer.join()
        # Numbers of failed commits are accounted for by the next commit.
        connection.execute("SELECT count(*) FROM pull_changes('closer')")
        reader.stop.set()
        reader.join()
        failures = [thread.failure for thread in (reader, *writers) if thread.failure]
        wrong = [f"{type(failure).__name__}: {failure}" for failure in failures] or check(connection, writers, reader)
        figures = connection.execute("SELECT kind, count(*) FROM rowclaim.journal WHERE part = 1 GROUP BY 1 ORDER BY 1")
        print(", ".join(f"{count} {kind}s" for kind, count in figures),
              f"{sum(w.transactions for w in writers)} transactions committed, {sum(w.given_up for w in writers)} refused",
              sep="; ")
    if wrong:
        sys.exit("\n".join([f"concurrency: failed at SEED={seed}", *wrong]))
    print("every check holds: holders, numbers, order of dependencies, reader, acknowledged commits, replay, claims, drafts")


if __name__ == "__main__":
    main()
