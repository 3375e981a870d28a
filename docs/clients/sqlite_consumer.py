"""Keeps a SQLite file with the same rows as the hub: a consumer of the journal that needs nothing but pull_changes().

    python sqlite_consumer.py FILE [--consumer NAME] [--journal NAME] [--batch CHANGESETS] [--once]

libpq's environment names the database. The tables are called like in the journal, for example "public.parts". Numbers are
stored as integers where SQLite has them, others as their exact text; booleans as 0 and 1; everything else as text.

Exactly once: the position is stored in the transaction that stores the rows, so that it can be killed at any moment. A
table whose rows do not fit a change (some were there before its claims were enabled) waits for its next baseline_table().
"""
# pip install 'psycopg[binary]==3.*'
import argparse
import functools
import json
import sqlite3
import sys

import psycopg
from psycopg.types.json import set_json_loads


def number(text):
    """A JSON number without loss."""
    value = int(text)
    return value if str(value) == text and -2**63 <= value < 2**63 else text


def quote(name):
    return '"' + name.replace('"', '""') + '"'


def listed(names, suffix="", separator=", "):
    return separator.join(quote(name) + suffix for name in names)


class Replica:
    """The SQLite file. Its own tables have no dot in their names; those of the hub have one."""

    def __init__(self, path):
        self.db = sqlite3.connect(path, isolation_level=None)
        self.db.executescript("""
            PRAGMA journal_mode = WAL;
            CREATE TABLE IF NOT EXISTS position (journal TEXT PRIMARY KEY, seq INTEGER NOT NULL);
            CREATE TABLE IF NOT EXISTS waiting (name TEXT PRIMARY KEY, since INTEGER NOT NULL);
        """)
        self.columns = {}  # table: its columns, in order
        self.parked = []  # rows that wait until another one has left their place: table, key columns, row

    def position(self, journal):
        found = self.db.execute("SELECT seq FROM position WHERE journal = ?", [journal]).fetchone()
        return found[0] if found else 0

    def begin(self):
        self.columns.clear()
        self.db.execute("BEGIN IMMEDIATE")
        self.waiting = {name for name, in self.db.execute("SELECT name FROM waiting")}

    def end_entry(self, journal, seq):
        self.unpark()
        self.db.execute("INSERT OR REPLACE INTO position VALUES (?, ?)", [journal, seq])

    def commit(self):
        self.db.execute("COMMIT")

    def apply(self, seq, change):
        """Applies one change of an entry."""
        op, table = change["op"], change["table"]
        if op not in ("baseline", "insert", "update", "delete"):
            raise RuntimeError(f"changeset {seq}: unknown op {op}: this program is too old for this journal")
        if op == "baseline":
            # The table as a whole: its rows follow as inserts.
            self.unpark()
            self.db.execute(f"DROP TABLE IF EXISTS {quote(table)}")
            self.db.execute("DELETE FROM waiting WHERE name = ?", [table])
            self.columns.pop(table, None)
            self.waiting.discard(table)
        elif table not in self.waiting and not self.change(op, table, change):
            print(f"changeset {seq}: {table} {change['key']} does not fit: "
                  f"{table} waits for its next baseline_table()", file=sys.stderr, flush=True)
            self.db.execute("INSERT INTO waiting VALUES (?, ?)", [table, seq])
            self.waiting.add(table)

    def change(self, op, table, change):
        """False if the rows here are not what the change says they were."""
        key, old, new = change["key"], change.get("old", {}), change.get("new", {})
        if op == "insert":
            self.have_columns(table, new, key)
            return self.insert(table, new)
        before = {**old, **key}
        if not self.have_columns(table, {**before, **new}):
            return False
        row = self.find(table, before)
        if row is None and self.parked:
            self.unpark()  # a baseline ends with the changes of several changesets
            row = self.find(table, before)
        if row is None:
            return False
        here = listed(key, " = ?", " AND ")
        if op == "update" and not any(name in new for name in key):
            self.db.execute(f"UPDATE {quote(table)} SET {listed(new, ' = ?')} WHERE {here}", [*new.values(), *key.values()])
            return True
        self.db.execute(f"DELETE FROM {quote(table)} WHERE {here}", list(key.values()))
        if op == "update":
            moved = {**dict(zip(self.columns[table], row)), **new}
            if not self.insert(table, moved):
                # Rows that exchange their keys have no order: this one waits for the other.
                self.parked.append((table, moved))
        return True

    def find(self, table, values):
        sql = f"SELECT {listed(self.columns[table])} FROM {quote(table)} WHERE {listed(values, ' IS ?', ' AND ')}"
        return self.db.execute(sql, list(values.values())).fetchone()

    def insert(self, table, row):
        """False if there is a row with this key already."""
        sql = f"INSERT INTO {quote(table)} ({listed(row)}) VALUES ({', '.join('?' * len(row))}) ON CONFLICT DO NOTHING"
        return self.db.execute(sql, list(row.values())).rowcount == 1

    def unpark(self):
        parked, self.parked = self.parked, []
        for table, row in parked:
            if not self.insert(table, row):
                raise RuntimeError(f"{table}: the key of {row} is taken")

    def have_columns(self, table, names, key=None):
        """Makes the columns a change is the first to name; with a key, the table too. False: there is no table."""
        if table not in self.columns:
            self.columns[table] = [name for _, name, *_ in self.db.execute(f"PRAGMA table_info({quote(table)})")]
        columns = self.columns[table]
        if not columns:
            if key is None:
                return False
            # Without types: a value stays what it is.
            self.db.execute(f"CREATE TABLE {quote(table)} ({listed(names)}, PRIMARY KEY ({listed(key)}))")
            columns.extend(names)
        for name in names:
            if name not in columns:
                self.db.execute(f"ALTER TABLE {quote(table)} ADD COLUMN {quote(name)}")
                columns.append(name)
        return True


def pull(conn, replica, consumer, journal, batch):
    """Takes over the next changesets. False: there are none."""
    position, seq = replica.position(journal), None
    with conn.transaction(), conn.cursor("pull") as entries:
        # Part by part: a changeset may be larger than memory.
        entries.itersize = 10
        entries.execute("SELECT seq, part, parts, changes FROM pull_changes(%s, %s, %s)", [consumer, journal, batch])
        replica.begin()
        for seq, part, parts, changes in entries:
            if seq <= position:
                continue  # stored before, but not acknowledged
            for change in changes:
                replica.apply(seq, change)
            if part == parts:
                replica.end_entry(journal, seq)
        replica.commit()
    if seq is None:
        return False
    # Only now: what is acknowledged is not sent again.
    conn.execute("SELECT ack_changes(%s, %s, %s)", [consumer, seq, journal])
    return True


def check_position(conn, replica, consumer, journal):
    """The hub must not believe that more is stored here than is: then the file is an old copy."""
    found = conn.execute("SELECT position FROM rowclaim.consumers WHERE consumer = %s AND journal = %s",
                         [consumer, journal]).fetchone()
    if found and found[0] > replica.position(journal):
        sys.exit(f"{consumer} has acknowledged changeset {found[0]}, this file ends at {replica.position(journal)}: "
                 f"detach_consumer('{consumer}', '{journal}') and begin again")


def main():
    arguments = argparse.ArgumentParser(description="Keeps a SQLite file with the same rows as the tables of a journal.")
    arguments.add_argument("file")
    arguments.add_argument("--consumer", default="sqlite")
    arguments.add_argument("--journal", default="main")
    arguments.add_argument("--batch", type=int, default=100, help="changesets in one transaction")
    arguments.add_argument("--once", action="store_true", help="end when there is nothing more")
    given = arguments.parse_args()

    replica = Replica(given.file)
    with psycopg.connect(autocommit=True) as conn:
        set_json_loads(functools.partial(json.loads, parse_int=number, parse_float=str), conn)
        conn.execute("LISTEN rowclaim")
        check_position(conn, replica, given.consumer, given.journal)
        while True:
            while pull(conn, replica, given.consumer, given.journal, given.batch):
                pass
            if given.once:
                return
            # Until a commit is announced; a second is enough where notifications are off.
            for _ in conn.notifies(timeout=1, stop_after=1):
                pass


if __name__ == "__main__":
    main()
