"""Claims with psycopg 3: acting for a user, keys of every kind, and the reason of a refusal."""
# pip install 'psycopg[binary]==3.*'
import json
from contextlib import contextmanager
from datetime import date, timedelta
from decimal import Decimal
from uuid import UUID

import psycopg
from psycopg.rows import namedtuple_row
from psycopg.types.json import Jsonb


@contextmanager
def acting_as(conn, actor):
    """A transaction for one user. set_config(..., true) is SET LOCAL with a parameter."""
    with conn.transaction():
        conn.execute("SELECT set_config('rowclaim.actor', %s, true)", [actor])
        yield


def refusal(actor, sql, *params):
    """Runs a statement that is refused: its SQLSTATE, and DETAIL, which is a JSON object."""
    try:
        with acting_as(conn, actor):
            conn.execute(sql, params)
    except psycopg.Error as error:
        return error.sqlstate, json.loads(error.diag.message_detail)
    raise AssertionError(f"not refused: {sql}")


conn = psycopg.connect(autocommit=True, row_factory=namedtuple_row)

# Claim, and look at the status: a row that somebody else holds is not an error.
with acting_as(conn, "alice"):
    claim = conn.execute("SELECT * FROM claim_row('parts', %s, ttl => %s, reason => %s)",
                         [2, timedelta(minutes=30), "price review"]).fetchone()
    assert (claim.status, claim.owner, claim.row_version) == ("granted", "alice", 1)
    assert claim.expires_at - claim.claimed_at >= timedelta(minutes=30)
with acting_as(conn, "bob"):
    denied = conn.execute("SELECT * FROM claim_row('parts', %s)", [2]).fetchone()
    assert (denied.status, denied.owner, denied.token) == ("denied", "alice", None)
assert conn.execute("SELECT current_actor() AS me").fetchone().me == "app"  # between transactions, nobody's
print("alice:", claim.status, "- bob:", denied.status, "-", denied.message)

# A write without the claim is an error. Programs read the reason, not the message.
sqlstate, detail = refusal("bob", "UPDATE parts SET price = %s WHERE id = %s", Decimal("0.50"), 2)
assert sqlstate == "55P03"
assert (detail["reason"], detail["key"], detail["owner"]) == ("row_held", {"id": 2}, "alice")
assert detail["claim_reason"] == "price review"
print("bob writes:", sqlstate, detail["reason"], detail["owner"])
sqlstate, detail = refusal("bob", "UPDATE parts SET price = %s WHERE id = %s", Decimal("0.50"), 1)
assert (sqlstate, detail) == ("55000", {"reason": "row_not_claimed", "table": "public.parts", "key": {"id": 1}})
sqlstate, detail = refusal("bob", "SELECT claim_row('parts', %s)", "two")
assert (sqlstate, detail["reason"]) == ("22023", "invalid_key")

# A prepared write too is checked for whoever executes it.
update = "UPDATE parts SET price = %s WHERE id = %s"
for turn in range(8):  # after five executions the server keeps one plan for all
    with acting_as(conn, "alice"):
        assert conn.execute(update, [Decimal(turn), 2], prepare=True).rowcount == 1
    try:
        with acting_as(conn, "bob"):
            conn.execute(update, [Decimal(9), 2], prepare=True)
        raise AssertionError("not refused")
    except psycopg.errors.LockNotAvailable:
        assert conn.execute("SELECT price FROM parts WHERE id = 2").fetchone().price == turn

# Edit in as many transactions as needed, then commit: the changes since the last commit are one.
with acting_as(conn, "alice"):
    conn.execute("UPDATE parts SET price = %s WHERE id = %s", [Decimal("0.12"), 2])
with acting_as(conn, "alice"):
    seq = conn.execute("SELECT commit_changes(%s, release => true) AS seq", ["new price"]).fetchone().seq
change = conn.execute("SELECT * FROM rowclaim.changes WHERE seq = %s", [seq]).fetchall()
assert [(c.actor, c.op, c.key, c.old, c.new, c.version) for c in change] == [
    ("alice", "update", {"id": 2}, {"price": 0.10}, {"price": 0.12}, 10)]
print("changeset", seq, "by", change[0].actor, "-", change[0].new)

# A key is a Python value of any type or its text, sent as text (%t) or binary (%b), prepared or not.
document = UUID("6f1b0c5e-2a52-4a8e-9d0e-3b6b2f3c7a11")
line = {"order_id": 7, "line": 2}
keys = [("parts", 3, {"id": 3}), ("parts", "3", {"id": 3}), ("parts", Decimal(3), {"id": 3}),
        ("parts", Jsonb({"id": 3}), {"id": 3}),
        ("documents", document, {"id": str(document)}), ("documents", str(document), {"id": str(document)}),
        ("holidays", date(2026, 12, 24), {"day": "2026-12-24"}), ("holidays", "2026-12-24", {"day": "2026-12-24"}),
        ("order_lines", Jsonb(line), line), ("order_lines", json.dumps(line), line)]
for table, key, shown in keys:
    for placeholder in ("%s", "%t", "%b"):
        for prepare in (False, True, True):
            with acting_as(conn, "alice"):
                status, = conn.execute(f"SELECT status FROM claim_row(%s, {placeholder})", [table, key],
                                       prepare=prepare).fetchone()
                held = conn.execute("SELECT key, owner FROM rowclaim.claims").fetchall()
                assert (status, held) == ("granted", [(shown, "alice")]), (table, key, placeholder, prepare)
                released, = conn.execute(f"SELECT release_row(%s, {placeholder})", [table, key]).fetchone()
                assert released
names = [name for name, in conn.execute("SELECT statement FROM pg_prepared_statements").fetchall()]
assert any("claim_row" in name for name in names), names
print(len(keys), "keys: int, text, decimal, uuid, date, jsonb; as text, binary and prepared")

# Many keys are one array. A list of str needs a cast: the server cannot guess the type of its elements.
lists = [("parts", "%s", [3, 1, 2]), ("parts", "%b", [3, 1, 2]), ("parts", "%s::text[]", ["3", "1", "2"]),
         ("documents", "%s", [document]), ("holidays", "%s", [date(2026, 12, 31), date(2026, 12, 24)]),
         ("order_lines", "%s", [Jsonb({"order_id": 7, "line": n}) for n in (2, 1)])]
for table, placeholder, values in lists:
    for prepare in (False, True, True):
        with acting_as(conn, "alice"):
            rows = conn.execute(f"SELECT key, status FROM claim_rows(%s, {placeholder})", [table, values],
                                prepare=prepare).fetchall()
            assert [status for _, status in rows] == ["granted"] * len(values), (table, rows)
            assert conn.execute("SELECT release_rows() AS n").fetchone().n == len(values)
with acting_as(conn, "bob"):
    conn.execute("SELECT claim_row('parts', 1)")
with acting_as(conn, "alice"):
    rows = conn.execute("SELECT key, status FROM claim_rows('parts', %s)", [[3, 1, 9]]).fetchall()
    assert rows == [({"id": 3}, "free"), ({"id": 1}, "denied"), ({"id": 9}, "not_found")]
    assert conn.execute("SELECT count(*) AS n FROM rowclaim.claims WHERE mine").fetchone().n == 0
print("all or nothing:", {row.key["id"]: row.status for row in rows})
