"""The real thing: runs the statements of the model, shows its state in the model's words."""

import json

import psycopg
from replica import Replica
from world import COLUMNS, JOURNAL, REFERENCES, REQUIRED, TRANSACTION, UNIQUE, UNTRACKED, Refused, State

COPY = "copy"


def create(connection):
    """The tables, empty, twice: to be written to, and to be replayed into."""
    run = connection.execute
    run("CREATE EXTENSION rowclaim; SELECT create_journal('side'); CREATE SCHEMA copy")
    for schema in ("public", COPY):
        for table, columns in COLUMNS.items():
            parts = ["id int PRIMARY KEY"]
            for column in columns:
                unique = " UNIQUE" if column in UNIQUE.get(table, ()) else ""
                to = REFERENCES.get(table, {}).get(column)
                reference = f" REFERENCES {schema}.{to[0]} ({to[1]}) DEFERRABLE" if to else ""
                parts.append(f"{column} int{unique}{reference}")
            run(f"CREATE TABLE {schema}.{table} ({', '.join(parts)})")
    for table in COLUMNS:
        untracked = ", ".join(UNTRACKED.get(table, ()))
        run("SELECT enable_claims(%s, %s, %s, %s, %s)", (
            table, "required" if table in REQUIRED else "auto", "transaction" if table in TRANSACTION else "explicit",
            JOURNAL[table], "{" + untracked + "}"))


def reset(connection):
    """Empty again, as if nothing had ever happened."""
    both = ", ".join(f"public.{table}, {COPY}.{table}" for table in COLUMNS)
    internal = "TRUNCATE rowclaim.draft, rowclaim.draft_row, rowclaim.claim, rowclaim.stash, rowclaim.journal"
    # TRUNCATE is a delete of every row; what a failure has left behind might not agree with that.
    ask(connection, f"SET rowclaim.enforce = off; {internal}")
    ask(connection, f"TRUNCATE {both}")
    ask(connection, f"{internal}; SELECT setval('rowclaim.journal_1_seq', 1, false), setval('rowclaim.journal_2_seq', 1, false)")


# All there is, as one JSON object; $1 and $2 say up to where the journals have been read already.
def state_query():
    rows = [f"'{table}', (SELECT json_agg(json_build_array(t.id, json_build_array({', '.join('t.' + c for c in columns)}), "
            f"t.row_version, t.row_owner, t.row_draft)) FROM public.{table} t)" for table, columns in COLUMNS.items()]
    return f"""SELECT json_build_object({', '.join(rows)},
        'drafts', (SELECT json_agg(json_build_array(d.id, j.name, d.actor))
                   FROM rowclaim.draft d JOIN rowclaim.journal_config j ON j.id = d.journal_id),
        'entries', (SELECT json_agg(json_build_array(relid::regclass, key::json ->> 'id', draft, base::json, base_version,
                                                     base_key::json ->> 'id', op)) FROM rowclaim.draft_row),
        'claims', (SELECT json_agg(json_build_array(relid::regclass, key::json ->> 'id', owner, expires_at <= clock_timestamp()))
                   FROM rowclaim.claim),
        'stash', (SELECT json_agg(json_build_array(actor, relid::regclass, key::json ->> 'id', op, base::json, mine::json)
                                  ORDER BY id) FROM rowclaim.stash),
        'journal', (SELECT json_agg(json_build_array(journal, seq, actor, changes) ORDER BY journal, seq, part)
                    FROM rowclaim.journal WHERE kind = 'changeset' AND seq > CASE journal WHEN 'main' THEN $1 ELSE $2 END))"""


STATE = state_query()


def ask(connection, sql):
    """Results of SQL without parameters, several statements maybe. The driver's own way costs more than the server's."""
    connection = connection.pgconn
    connection.send_query(sql.encode())
    results = []
    while result := connection.get_result():
        if result.status == psycopg.pq.ExecStatus.FATAL_ERROR:
            while connection.get_result():
                pass
            raise psycopg.errors.error_from_result(result)
        results.append(result)
    return results


class Database:
    """Connections of the sessions, and one that looks on and replays."""

    def __init__(self, sessions, connect):
        self.sessions = {name: connect(autocommit=True, prepare_threshold=2) for name in sessions}
        for name, session in self.sessions.items():
            ask(session, f"SET rowclaim.actor = '{name[0]}'; SET client_min_messages = error; SET statement_timeout = '300s'; "
                f"PREPARE state (bigint, bigint) AS {STATE}")
        self.replica = Replica(connect(autocommit=True), COPY, ("main", "side"))
        self.stashes = []  # the model counts them from 1
        self.open = None

    def close(self):
        for session in (*self.sessions.values(), self.replica.connection):
            session.close()

    def run(self, session, kind, *args):
        """The result of a statement. Raises Refused with its SQLSTATE if it fails."""
        connection = self.sessions[session]
        control = {"begin": "BEGIN", "savepoint": "SAVEPOINT {}", "rollback_to": "ROLLBACK TO {}", "rollback": "ROLLBACK",
                   "commit_transaction": "COMMIT"}.get(kind)
        if kind == "begin":
            self.open = session
        elif kind in ("rollback", "commit_transaction"):
            self.open = None
        try:
            if control:
                ask(connection, control.format(*args))
                return None
            if self.open:
                ask(connection, "SAVEPOINT statement")
            sql, values = getattr(self, kind)(*args)
            cursor = connection.execute(sql, values)
            if self.open:
                ask(connection, "RELEASE SAVEPOINT statement")
            if kind in ("insert", "update", "delete"):
                return cursor.rowcount
            result = cursor.fetchone()[0] if cursor.description else None
            return result is not None if kind == "commit_changes" else result
        except psycopg.Error as error:
            if self.open and not control:
                ask(connection, "ROLLBACK TO SAVEPOINT statement; RELEASE SAVEPOINT statement")
            if error.sqlstate is None or error.sqlstate.startswith("XX"):
                raise
            raise Refused(error.sqlstate) from error

    def insert(self, table, key, values):
        return f"INSERT INTO {table} VALUES ({', '.join(['%s'] * (len(values) + 1))})", (key, *values)

    def update(self, table, keys, changes):
        columns = ", ".join(f"{column} = %s" for column, _ in changes)
        return f"UPDATE {table} SET {columns} WHERE id = ANY (%s)", (*(v for _, v in changes), list(keys))

    def delete(self, table, keys):
        return f"DELETE FROM {table} WHERE id = ANY (%s)", (list(keys),)

    def claim(self, table, key, version):
        return f"SELECT (claim_row('{table}', %s::int, version => %s)).status", (key, version)

    def steal(self, table, key):
        return f"SELECT (steal_row('{table}', %s::int)).status", (key,)

    def expire(self, table, key):
        return ("UPDATE rowclaim.claim SET expires_at = 'epoch' WHERE relid = %s::regclass AND key = %s",
                (table, f'{{"id":{key}}}'))

    def renew(self):
        return "SELECT NULL FROM renew_claims('1 day')", ()

    def release_row(self, table, key):
        return f"SELECT release_row('{table}', %s::int)", (key,)

    def release_rows(self, table):
        return "SELECT release_rows(%s::regclass)", (table,)

    def release_actor(self, who):
        return "SELECT NULL FROM release_actor(%s)", (who,)

    def commit_changes(self, journal, release):
        return "SELECT commit_changes(journal => %s, release => %s)", (journal, release)

    def discard_changes(self, journal, table, key):
        return "SELECT discard_changes(%s, %s::regclass, %s)", (journal, table, None if key is None else str(key))

    def restore_stash(self, number):
        return ("SELECT restore_stash(coalesce((SELECT id FROM rowclaim.stash ORDER BY id OFFSET %s LIMIT 1), 0))",
                (self.stashes.index(number) if number in self.stashes else 1_000_000,))

    def state(self, session):
        """What there is, as the session sees it: rows, entries and claims, the stash, new changesets, what is wrong."""
        found = json.loads(ask(self.sessions[session], f"EXECUTE state({self.replica.seen['main']}, {self.replica.seen['side']})")[0]
                           .get_value(0, 0))
        state, wrong = {name: {t: {} for t in COLUMNS} for name in ("rows", "entries", "claims")}, []
        drafts = {(draft, journal): actor for draft, journal, actor in found["drafts"] or ()}
        dirty = set()
        for table in COLUMNS:
            for key, values, version, owner, draft in found[table] or ():
                state["rows"][table][key] = (tuple(values), version, owner)
                if table not in TRANSACTION and (draft, JOURNAL[table]) in drafts:
                    dirty.add((table, key))
        for relation, key, draft, base, version, base_key, op in found["entries"] or ():
            values = None if base is None else tuple(base[c] for c in COLUMNS[relation])
            key, base_key = int(key), None if base_key is None else int(base_key)
            state["entries"][relation][key] = (drafts.get((draft, JOURNAL[relation])), values, version, base_key)
            if (op == "d") == (key in state["rows"][relation]) or (base is None) != (op == "i"):
                wrong.append(f"entry of {relation} {key} has op {op}")
            if op != "d" and (relation, key) not in dirty:
                wrong.append(f"{relation} {key} has an entry but no stamp of an open draft")
            dirty.discard((relation, key))
        wrong += [f"{table} {key} is dirty without an entry" for table, key in dirty]
        for relation, key, owner, expired in found["claims"] or ():
            state["claims"][relation][int(key)] = (owner, bool(expired))
        stash = []
        for actor, relation, key, op, base, mine in found["stash"] or ():
            row = lambda image: image and tuple(image[c] for c in ("id",) + COLUMNS[relation])
            stash.append((actor, relation, int(key), op, row(base), row(mine)))
        return state, stash, found["journal"] or (), wrong
