"""Claims with asyncpg, which asks the server for the type of every parameter."""
# pip install 'asyncpg==0.*'
import asyncio
import json
from contextlib import asynccontextmanager
from datetime import date, timedelta
from decimal import Decimal
from uuid import UUID

import asyncpg


@asynccontextmanager
async def acting_as(conn, actor):
    """A transaction for one user. set_config(..., true) is SET LOCAL with a parameter."""
    async with conn.transaction():
        await conn.execute("SELECT set_config('rowclaim.actor', $1, true)", actor)
        yield


async def refusal(conn, actor, sql, *params):
    """Runs a statement that is refused: its SQLSTATE, and DETAIL, which is a JSON object."""
    try:
        async with acting_as(conn, actor):
            await conn.execute(sql, *params)
    except asyncpg.PostgresError as error:
        return error.sqlstate, json.loads(error.detail)
    raise AssertionError(f"not refused: {sql}")


async def main():
    # Without named prepared statements, so that it works through pgbouncer too.
    conn = await asyncpg.connect(statement_cache_size=0)

    async with acting_as(conn, "alice"):
        # The cast tells asyncpg what to send. Without it the key is text, and must be a str.
        claim = await conn.fetchrow("SELECT * FROM claim_row('parts', $1::int, ttl => $2)", 2, timedelta(minutes=30))
        assert (claim["status"], claim["owner"], claim["row_version"]) == ("granted", "alice", 1)
        assert (await conn.fetchval("SELECT claim_row('parts', $1)", "2"))["token"] == claim["token"]
    try:
        await conn.fetchval("SELECT claim_row('parts', $1)", 2)
        raise AssertionError("not refused")
    except asyncpg.DataError as error:
        assert "expected str, got int" in str(error)
    async with acting_as(conn, "bob"):
        denied = await conn.fetchrow("SELECT * FROM claim_row('parts', $1::int)", 2)
        assert (denied["status"], denied["owner"]) == ("denied", "alice")
    print("alice:", claim["status"], "- bob:", denied["status"], "-", denied["message"])

    sqlstate, detail = await refusal(conn, "bob", "UPDATE parts SET price = $1 WHERE id = $2", Decimal("0.50"), 2)
    assert (sqlstate, detail["reason"], detail["owner"]) == ("55P03", "row_held", "alice")
    print("bob writes:", sqlstate, detail["reason"], detail["owner"])
    sqlstate, detail = await refusal(conn, "bob", "DELETE FROM parts WHERE id = $1", 1)
    assert (sqlstate, detail) == ("55000", {"reason": "row_not_claimed", "table": "public.parts", "key": {"id": 1}})

    async with acting_as(conn, "alice"):
        await conn.execute("UPDATE parts SET price = $1 WHERE id = $2", Decimal("0.12"), 2)
    async with acting_as(conn, "alice"):
        seq = await conn.fetchval("SELECT commit_changes($1, release => true)", "new price")
    change = await conn.fetchrow("SELECT actor, new FROM rowclaim.changes WHERE seq = $1", seq)
    # asyncpg gives json and jsonb as str, unless told otherwise by set_type_codec().
    assert (change["actor"], json.loads(change["new"])) == ("alice", {"price": 0.12})
    print("changeset", seq, "by", change["actor"], "-", change["new"])

    document = UUID("6f1b0c5e-2a52-4a8e-9d0e-3b6b2f3c7a11")
    lines = [json.dumps({"order_id": 7, "line": line}) for line in (2, 1)]
    async with acting_as(conn, "alice"):
        for table, cast, key in [
                ("parts", "int", 3), ("parts", "bigint", 3), ("parts", "text", "3"), ("parts", "numeric", Decimal(3)),
                ("documents", "uuid", document), ("documents", "text", str(document)),
                ("holidays", "date", date(2026, 12, 24)), ("holidays", "text", "2026-12-24"),
                ("order_lines", "jsonb", lines[0]), ("order_lines", "text", lines[0])]:
            assert await conn.fetchval(f"SELECT status FROM claim_row($1, $2::{cast})", table, key) == "granted", table
            assert await conn.fetchval(f"SELECT release_row($1, $2::{cast})", table, key), (table, cast)
            assert await conn.fetchval("SELECT count(*) FROM rowclaim.claims") == 0
        for table, cast, keys in [
                ("parts", "int", [3, 1, 2]), ("parts", "text", ["3", "1", "2"]), ("documents", "uuid", [document]),
                ("holidays", "date", [date(2026, 12, 31), date(2026, 12, 24)]), ("order_lines", "jsonb", lines)]:
            rows = await conn.fetch(f"SELECT key, status FROM claim_rows($1, $2::{cast}[])", table, keys)
            assert [row["status"] for row in rows] == ["granted"] * len(keys), rows
            assert await conn.fetchval("SELECT release_rows($1)", table) == len(keys)
    print("keys: int, bigint, text, numeric, uuid, date, jsonb, and arrays of them")
    await conn.close()


asyncio.run(main())
