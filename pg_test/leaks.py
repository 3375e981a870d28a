#!/usr/bin/env python3
"""Has one session after the other do the same thing very often, and watches the memory of its server process: what the
process has for itself (RssAnon) and what its memory contexts hold. Prints the curves; fails if one grows after the first
third.

  ROWS=300000     guarded updates of rows
  COMMITS=3000    commits, claims and releases, failing statements, replayed changesets
  T=pattern       only what this regular expression finds in its name
"""

import os
import re
import sys
import time

import psycopg

ROWS, COMMITS = int(os.environ.get("ROWS") or 300_000), int(os.environ.get("COMMITS") or 3_000)
TABLE = 10_000  # rows of each table
SAMPLES = 18
# What may come and go: a chunk that malloc keeps, a context's next block, the plan of a catalogue look-up (263 kB) that the
# server keeps from its sixth execution on.
RSS_MAY_GROW, CONTEXTS_MAY_GROW = 1_500, 400  # kB


def setup(run):
    run("CREATE EXTENSION rowclaim; CREATE ROLE other; CREATE TABLE parent (id int PRIMARY KEY)")
    for table, claiming, committing in (("held", "required", "explicit"), ("free", "auto", "explicit"),
                                        ("own", "auto", "transaction"), ("theirs", "required", "explicit")):
        run(f"CREATE TABLE {table} (id int PRIMARY KEY, n int NOT NULL DEFAULT 0, v text, parent int REFERENCES parent) "
            "WITH (fillfactor = 50)")
        run(f"INSERT INTO {table} SELECT i, 0, 'value ' || i FROM generate_series(1, {TABLE}) i")
        run("SELECT enable_claims(%s, %s, %s)", (table, claiming, committing))
    run("SET rowclaim.actor = 'other'; SELECT count(*) FROM claim_rows('theirs', (SELECT array_agg(id) FROM theirs)); "
        "INSERT INTO parent VALUES (-1); SELECT enable_claims('parent', 'auto'); INSERT INTO parent VALUES (1); "
        "SET rowclaim.actor = 'me'; SELECT count(*) FROM claim_rows('held', (SELECT array_agg(id) FROM held))")


# What a session does again and again; `step` counts from 0.

def guarded_updates(run, _):
    run("UPDATE held SET n = n + 1")


def guarded_updates_committed(run, step):
    run("UPDATE held SET n = n + 1")
    run("SELECT commit_changes()")


def updates_by_transaction(run, _):
    run("UPDATE own SET n = n + 1")


def updates_in_one_transaction(run, step):
    if step == 0:
        run("BEGIN")
    run(f"UPDATE free SET n = n + 1 WHERE id <= {TABLE // 10}")


def commits(run, step):
    run("UPDATE held SET n = n + 1 WHERE id = %s", (step % TABLE + 1,))
    run("SELECT commit_changes('again')")


def commits_by_transaction(run, step):
    run("UPDATE own SET n = n + 1 WHERE id = %s", (step % TABLE + 1,))


def discards(run, step):
    run("DELETE FROM free WHERE id = %s", (step % TABLE + 1,))
    run("SELECT discard_changes()")


def claims(run, step):
    key = step % TABLE + 1
    run("SELECT claim_row('free', %s, ttl => '1 hour', reason => 'because')", (key,))
    run("SELECT count(*) FROM claim_rows('free', %s)", ([key + 1, key + 2],))
    run("SELECT renew_claims(target => 'free')")
    run("SELECT release_row('free', %s)", (key,))
    run("SELECT release_rows('free')")


FAILING = (
    "UPDATE theirs SET n = n + 1 WHERE id = 1",  # row_held
    "DELETE FROM theirs",  # row_held
    "UPDATE held SET row_owner = 'mallory' WHERE id = 1",  # protected_column
    "UPDATE held SET row_version = 99 WHERE id = 1",  # stale_row_version
    "UPDATE held SET n = 1 / (id - 5)",  # in the midst of guarded rows
    "INSERT INTO free VALUES (1)",  # unique violation, after the guard
    "SELECT claim_row('free', 'no number')",  # invalid_key
    "SELECT claim_row('free', '{\"id\": ')",
    "SELECT claim_row('pg_class', 1)",  # claims_not_enabled
    "SELECT release_row('theirs', 1)",  # row_held
    "SELECT commit_changes(journal => 'no journal')",
    "SELECT discard_changes(target => 'free', key => '{')",
    "SELECT enable_claims('pg_class')",  # unsupported_table
    "UPDATE held SET parent = 1 WHERE id = 2; SELECT commit_changes()",  # uncommitted_changes: the parent is another's
)
EACH_FAILS = f"""
    DO $$
    DECLARE failed int := 0;
    BEGIN
        {"".join(f'''
        BEGIN {statement.replace("SELECT", "PERFORM")}; EXCEPTION WHEN OTHERS THEN
            IF SQLSTATE LIKE 'XX%' THEN RAISE; END IF;
            failed := failed + 1;
        END;''' for statement in FAILING)}
        IF failed <> {len(FAILING)} THEN RAISE EXCEPTION 'only % have failed', failed; END IF;
    END $$"""


def failures_in_subtransactions(run, _):
    run(EACH_FAILS)


def failures(run, step):
    try:
        run(FAILING[step % len(FAILING)])
    except psycopg.Error as error:
        if not error.sqlstate or error.sqlstate.startswith("XX"):
            raise
    else:
        raise AssertionError(f"it does not fail: {FAILING[step % len(FAILING)]}")


def undone(run, step):
    run("BEGIN")
    run("SAVEPOINT a")
    run("UPDATE own SET n = n + 1 WHERE id <= 20")
    run("ROLLBACK TO a")
    run("UPDATE free SET n = n + 1 WHERE id <= 20")
    run("SELECT commit_changes()")
    run("ROLLBACK" if step % 2 else "PREPARE TRANSACTION 'leaks'")
    if step % 2 == 0:
        run("ROLLBACK PREPARED 'leaks'")
    # The next commit accounts for the numbers of those that failed; a backlog of them would be no leak.
    if step % 10 == 0:
        run("UPDATE held SET n = n + 1 WHERE id = 1; SELECT commit_changes()")


def reads(run, _):
    run("SELECT count(*) FROM rowclaim.claims")
    run("SELECT count(*) FROM rowclaim.drafts")
    run("SELECT count(*) FROM rowclaim.tables")
    run("SELECT count(*) FROM pull_changes('reader', max_changesets => 10)")


WORK = {
    "guarded updates": (ROWS // TABLE, TABLE, guarded_updates),
    "guarded updates and commits": (ROWS // TABLE // 4, TABLE, guarded_updates_committed),
    "updates, committing = transaction": (ROWS // TABLE // 4, TABLE, updates_by_transaction),
    "updates in one transaction": (ROWS // TABLE, TABLE // 10, updates_in_one_transaction),
    "commits of one row": (COMMITS, 1, commits),
    "commits, committing = transaction": (COMMITS, 1, commits_by_transaction),
    "discards": (COMMITS, 1, discards),
    "claims and releases": (COMMITS, 1, claims),
    "failing statements": (COMMITS, 1, failures),
    "failing statements in subtransactions": (COMMITS // 10, len(FAILING), failures_in_subtransactions),
    "rolled back and prepared": (COMMITS, 1, undone),
    "reading views and the journal": (COMMITS // 10, 4, reads),
}


def rss(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        return int(re.search(r"^RssAnon:\s+(\d+) kB", status.read(), re.M)[1])


def watched(name, calls, each, sample, call):
    """Runs it; true if memory is flat after the first third. `sample` gives figures in kB."""
    calls = max(calls, SAMPLES * 2)
    curve, start = [], time.monotonic()
    for number in range(SAMPLES):
        for step in range(calls * number // SAMPLES, calls * (number + 1) // SAMPLES):
            call(step)
        curve.append(sample())
    flat = True
    print(f"{name}: {calls * each:,} in {time.monotonic() - start:.0f} s")
    for what, allowed, *values in zip(("process", "contexts"), (RSS_MAY_GROW, CONTEXTS_MAY_GROW), *curve):
        # The last third against the second: the least of each, for what comes and goes is no leak.
        second, last = values[SAMPLES // 3:SAMPLES * 2 // 3], values[SAMPLES * 2 // 3:]
        grown = min(last) - min(second)
        flat = flat and grown <= allowed
        print(f"  {what:9} kB: {' '.join(map(str, values))}{'' if grown <= allowed else f'   GROWS by {grown}'}")
    sys.stdout.flush()
    return flat


def session(name):
    calls, each, call = WORK[name]
    with psycopg.connect(autocommit=True, prepare_threshold=2) as connection, psycopg.connect(autocommit=True) as monitor:
        connection.execute("SET rowclaim.actor = 'me'; SET client_min_messages = error")
        pid = connection.info.backend_pid

        def sample():
            contexts = connection.execute("SELECT sum(total_bytes) / 1024 FROM pg_backend_memory_contexts").fetchone()[0]
            return rss(pid), int(contexts)

        result = watched(name, calls, each, sample, lambda step: call(connection.execute, step))
        connection.execute("ROLLBACK")
        monitor.execute("SET rowclaim.actor = 'me'; SELECT commit_changes()")
        return result


def replica():
    """The apply worker of a subscription of another database of this server."""
    with psycopg.connect(autocommit=True) as hub:
        hub.execute("CREATE DATABASE replica")
        hub.execute("SELECT create_journal('side')")
        hub.execute("SELECT create_journal_publication('leaks', '{side}')")
        hub.execute("SELECT pg_create_logical_replication_slot('leaks', 'pgoutput')")
        columns = "(id int PRIMARY KEY, n int NOT NULL DEFAULT 0, v text)"
        with psycopg.connect(dbname="replica", autocommit=True) as there:
            there.execute(f"CREATE EXTENSION rowclaim; CREATE TABLE far {columns}")
            there.execute(f"CREATE SUBSCRIPTION leaks CONNECTION 'host={hub.info.host} port={hub.info.port} "
                          f"user={hub.info.user} dbname=postgres' PUBLICATION leaks "
                          "WITH (create_slot = false, slot_name = leaks, copy_data = false)")
            hub.execute(f"CREATE TABLE far {columns}; SELECT enable_claims('far', 'auto', 'transaction', 'side')")
            hub.execute(f"INSERT INTO far SELECT i, 0, 'value ' || i FROM generate_series(1, {TABLE}) i")

            def sample():
                seq = hub.execute("SELECT max(seq) FROM rowclaim.journal WHERE journal = 'side'").fetchone()[0]
                if not there.execute("SELECT wait_for_changeset(%s, 'side', '600s')", (seq,)).fetchone()[0]:
                    raise AssertionError("the replica does not come after")
                return (rss(there.execute("SELECT pid FROM pg_stat_subscription").fetchone()[0]),)

            return watched("replay", COMMITS, 1, sample,
                           lambda step: hub.execute("UPDATE far SET n = n + 1 WHERE id %% 1000 = %s", (step % 1000,)))


def main():
    wanted = os.environ.get("T") or ""
    print(f"ROWS={ROWS} COMMITS={COMMITS}")
    with psycopg.connect(autocommit=True) as connection:
        setup(connection.execute)
    results = [session(name) for name in WORK if re.search(wanted, name)]
    if re.search(wanted, "replay"):
        results.append(replica())
    print(f"{sum(results)} passed, {len(results) - sum(results)} failed")
    sys.exit(not results or not all(results))


main()
