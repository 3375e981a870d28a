"""Many users over one server connection: pgbouncer in transaction mode with a pool of one, and psycopg 3."""
# pip install 'psycopg[binary]==3.*'
import json
from contextlib import contextmanager
from threading import Thread

import psycopg
from psycopg import sql


def connect():
    # Prepared statements stay on the server connection, where the next client would find them.
    return psycopg.connect(autocommit=True, prepare_threshold=None)


@contextmanager
def acting_as(conn, actor):
    with conn.transaction():
        conn.execute(sql.SQL("SET LOCAL rowclaim.actor = {}").format(actor))
        yield


def value(conn, query, *params):
    return conn.execute(query, params).fetchone()[0]


alice, bob = connect(), connect()
people = {"alice": alice, "bob": bob}

# Turn by turn, over one and the same server connection.
servers = set()
for turn in range(20):
    for actor, conn in people.items():
        with acting_as(conn, actor):
            assert value(conn, "SELECT current_actor()") == actor
            servers.add(value(conn, "SELECT pg_backend_pid()"))
        assert value(conn, "SELECT current_actor()") == "app"
assert len(servers) == 1, servers
print("40 transactions of two users over", len(servers), "server connection")

# However a transaction ends, the actor ends with it: for the same client and for the next one.
def nobody_left():
    for conn in (bob, alice):
        assert value(conn, "SELECT current_actor()") == "app"

class Undo(Exception):
    pass

try:
    with acting_as(alice, "alice"):
        raise Undo
except Undo:
    nobody_left()
try:
    with acting_as(alice, "alice"):
        alice.execute("SELECT 1 / 0")
except psycopg.errors.DivisionByZero:
    nobody_left()
with acting_as(alice, "alice"):
    try:
        with acting_as(alice, "carol"):  # a savepoint
            assert value(alice, "SELECT current_actor()") == "carol"
            raise Undo
    except Undo:
        assert value(alice, "SELECT current_actor()") == "alice"
nobody_left()
lost = connect()
with acting_as(lost, "carol"):
    assert value(lost, "SELECT status FROM claim_row('parts', 4)") == "granted"
    lost.close()  # in the middle of the transaction
nobody_left()
assert value(alice, "SELECT count(*) FROM rowclaim.claims") == 0
print("no actor is left behind by rollback, error, savepoint or a client that goes away")

# Claims and drafts belong to the user, not to the connection that all of them share.
for actor, part in (("alice", 1), ("bob", 2)):
    with acting_as(people[actor], actor):
        assert value(people[actor], "SELECT status FROM claim_row('parts', %s)", part) == "granted"
for actor, part in (("alice", 1), ("bob", 2), ("alice", 1)):
    with acting_as(people[actor], actor):
        people[actor].execute("UPDATE parts SET price = price + 1 WHERE id = %s", [part])
for actor, part, owner in (("alice", 2, "bob"), ("bob", 1, "alice")):
    try:
        with acting_as(people[actor], actor):
            people[actor].execute("UPDATE parts SET price = 0 WHERE id = %s", [part])
        raise AssertionError("not refused")
    except psycopg.errors.LockNotAvailable as error:
        detail = json.loads(error.diag.message_detail)
        assert (detail["reason"], detail["owner"]) == ("row_held", owner)
with acting_as(alice, "alice"):
    seq = value(alice, "SELECT commit_changes('alice only', release => true)")
changes = "SELECT actor, key, new FROM rowclaim.changes WHERE seq = %s"
assert alice.execute(changes, [seq]).fetchall() == [("alice", {"id": 1}, {"price": 2.25})]
assert bob.execute("SELECT actor, key FROM rowclaim.drafts").fetchall() == [("bob", {"id": 2})]
with acting_as(bob, "bob"):
    seq = value(bob, "SELECT commit_changes('bob only', release => true)")
assert bob.execute(changes, [seq]).fetchall() == [("bob", {"id": 2}, {"price": 1.10})]
print("two drafts, edited in turns, committed apart")

# All at once: every changeset has the user who wrote it, however the transactions fell.
def work(actor):
    with connect() as conn:
        for i in range(100):
            try:
                with acting_as(conn, actor):
                    conn.execute("INSERT INTO customers (name) VALUES (%s)", [actor])
                    if i % 4 == 0:
                        raise Undo
            except Undo:
                pass
            if i % 10 == 0:
                conn.execute("INSERT INTO customers (name) VALUES ('app')")

before = value(alice, "SELECT coalesce(max(seq), 0) FROM rowclaim.changesets")
threads = [Thread(target=work, args=[actor]) for actor in ("alice", "bob", "carol")]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
written = alice.execute("""SELECT actor, new ->> 'name', count(*) FROM rowclaim.changes
                           WHERE seq > %s GROUP BY 1, 2 ORDER BY 1""", [before]).fetchall()
assert written == [("alice", "alice", 75), ("app", "app", 30), ("bob", "bob", 75), ("carol", "carol", 75)], written
print("255 changesets of three threads, each by the user who wrote it")

# Why LOCAL: what SET leaves on the server connection, the next client inherits.
alice.execute("SET rowclaim.actor = 'alice'")
assert value(bob, "SELECT current_actor()") == "alice"
alice.execute("RESET rowclaim.actor")
# And why in a transaction: outside of one, SET LOCAL ends at once (with a warning).
alice.execute("SET LOCAL rowclaim.actor = 'alice'")
nobody_left()
print("SET without LOCAL would leak; SET LOCAL without a transaction does nothing")
