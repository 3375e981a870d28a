"""Replays journals into tables with the same constraints, change by change, and notices what does not fit."""

from psycopg.errors import IntegrityError, UniqueViolation


class Diverged(Exception):
    """A change that finds another row than it says."""


class Replica:
    """Tables of a schema and how far the journals have been replayed into them."""

    def __init__(self, connection, schema, journals):
        self.connection = connection
        self.connection.execute(f"SET search_path = {schema}")
        self.seen = dict.fromkeys(journals, 0)

    def replay(self):
        """Reads what is new in the journals and replays it."""
        for journal in self.seen:
            self.replay_entries(self.connection.execute(
                "SELECT journal, seq, actor, changes FROM rowclaim.journal WHERE journal = %s AND seq > %s "
                "AND kind = 'changeset' ORDER BY seq, part", (journal, self.seen[journal])).fetchall())

    def replay_entries(self, entries):
        """Replays (journal, seq, actor, changes) of one part each; returns (journal, actor, [(op, table, key, new)])."""
        changesets = []
        for journal, seq, actor, changes in entries:
            self.seen[journal] = seq
            try:
                with self.connection.transaction():
                    for change in changes:
                        self.apply(seq, change)
            except UniqueViolation:
                # Rows that exchange unique values have no order.
                if self.has_order(seq, changes):
                    raise
                self.apply_at_once(seq, changes)
            changesets.append((journal, actor, [(c["op"], c["table"].split(".")[1], c["key"]["id"], c.get("new"))
                                                for c in changes]))
        return changesets

    def has_order(self, seq, changes):
        """Can the changes be applied one by one in any order?"""
        with self.connection.transaction(force_rollback=True):
            while changes:
                left = []
                for change in changes:
                    try:
                        with self.connection.transaction():
                            self.apply(seq, change)
                    except (IntegrityError, Diverged):
                        left.append(change)
                if len(left) == len(changes):
                    return False
                changes = left
        return True

    def apply_at_once(self, seq, changes):
        """All rows leave before any arrives; foreign keys are checked at the end."""
        with self.connection.transaction():
            self.connection.execute("SET CONSTRAINTS ALL DEFERRED")
            arriving = []
            for change in changes:
                row = {} if change["op"] == "insert" else self.apply(seq, {**change, "op": "delete"})
                if change["op"] != "delete":
                    arriving.append({**change, "op": "insert", "new": {**row, **change["new"]}})
            for change in arriving:
                self.apply(seq, change)

    def apply(self, seq, change):
        """Makes one change; returns the row as it is after it, or was."""
        op, table, old, new = change["op"], change["table"].split(".")[1], change.get("old") or {}, change.get("new")
        if op == "insert":
            columns = list(new)
            sql = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join(['%s'] * len(columns))})"
            values = list(new.values())
        else:
            what = f"UPDATE {table} SET {', '.join(f'{c} = %s' for c in new)}" if op == "update" else f"DELETE FROM {table}"
            same = " AND ".join(["id = %s", *(f"{c} IS NOT DISTINCT FROM %s" for c in old)])
            values = [*(new.values() if op == "update" else ()), change["key"]["id"], *old.values()]
            sql = f"{what} WHERE {same}"
        cursor = self.connection.execute(sql + " RETURNING *", values)
        if cursor.rowcount != 1:
            raise Diverged(f"{op} of {table} {change['key']} in changeset {seq} does not fit: it was not {old}")
        return dict(zip((column.name for column in cursor.description), cursor.fetchone()))

    def rows(self, table):
        """The rows of a table by their id."""
        return {row[0]: row[1:] for row in self.connection.execute(f"SELECT * FROM {table}").fetchall()}
