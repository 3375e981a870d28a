"""Replays journals into tables with the same constraints, change by change, and notices what does not fit."""


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
        """Replays (journal, seq, actor, changes); returns (journal, actor, [(op, table, key, new)])."""
        changesets = []
        for journal, seq, actor, changes in entries:
            self.seen[journal] = seq
            shown = []
            for change in changes:
                table, key = change["table"].split(".")[1], change["key"]["id"]
                self.apply(seq, change["op"], table, key, change.get("old") or {}, change.get("new"))
                shown.append((change["op"], table, key, change.get("new")))
            changesets.append((journal, actor, shown))
        return changesets

    def apply(self, seq, op, table, key, old, new):
        columns = list(new or {})
        if op == "insert":
            sql = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join(['%s'] * len(columns))})"
            values = list(new.values())
        else:
            what = f"UPDATE {table} SET {', '.join(f'{c} = %s' for c in columns)}" if new else f"DELETE FROM {table}"
            same = " AND ".join(["id = %s", *(f"{c} IS NOT DISTINCT FROM %s" for c in old)])
            sql, values = f"{what} WHERE {same}", [*(new or {}).values(), key, *old.values()]
        if self.connection.execute(sql, values).rowcount != 1:
            raise Diverged(f"{op} of {table} {key} in changeset {seq} does not fit: it was not {old}")

    def rows(self, table):
        """The rows of a table by their id."""
        return {row[0]: row[1:] for row in self.connection.execute(f"SELECT * FROM {table}").fetchall()}
