#!/usr/bin/env python3
"""Runs random statements against a database and against a small model of what must happen, and compares them after each.

  SEED=1        where the random numbers start; `now`: somewhere new
  STEPS=100000  how many statements, at most
  DURATION=300  how long, at most
  EPISODE=1000  after so many statements all starts from nothing again
  SHRINK=180    how many seconds a failure may take to be made shorter
  WORKERS=2     how many processes share the episodes, each with its own database; one for each processor

A failure is shrunk to a short script, which is printed as the statements of its sessions.
"""

import json
import multiprocessing
import os
import random
import sys
import time
from collections import Counter

sys.dont_write_bytecode = True
import psycopg  # noqa: E402
from database import Database, create, reset  # noqa: E402
from replica import Diverged  # noqa: E402
from world import COLUMNS, JOURNAL, REFERENCES, Refused, World  # noqa: E402

SESSIONS = ("a1", "a2", "b1", "b2", "c1")
KEYS = range(1, 7)
CONTROL = ("begin", "savepoint", "rollback_to", "rollback", "commit_transaction")


class Mismatch(Exception):
    """The database is not as the model says."""


# What to do next

def choose(world, rng):
    """A statement that makes sense in this state, though it need not succeed."""
    if world.session:
        session = world.session
        names = [name for name, _ in world.saved if name]
        roll = rng.random()
        if roll < 0.07:
            return session, "savepoint", f"s{len(world.saved)}"
        if roll < 0.14 and names:
            return session, "rollback_to", rng.choice(names)
        if roll < 0.18:
            return session, "rollback"
        if roll < 0.36:
            return session, "commit_transaction"
    else:
        session = rng.choice(SESSIONS)
        if rng.random() < 0.1:
            return session, "begin"
    kind = rng.choices(*zip(*WEIGHTS.items()))[0]
    return (session, *globals()[f"random_{kind}"](world, rng, session[0]))


WEIGHTS = {"insert": 16, "update": 26, "delete": 8, "claim": 14, "steal": 3, "expire": 4, "renew": 1, "release_row": 3,
           "release_rows": 1, "release_actor": 0.5, "commit_changes": 9, "discard_changes": 6, "restore_stash": 3}


def random_value(world, rng, table, column):
    to = REFERENCES.get(table, {}).get(column)
    if to and rng.random() < 0.9:
        there = sorted(world.state.rows[to[0]])
        if to[1] == "code":
            there = sorted({row.values[0] for row in world.state.rows["doc"].values() if row.values[0] is not None})
        return rng.choice([None, *there, *there])
    return rng.choice([None, *KEYS]) if column in ("code", "doc") else rng.randrange(4)


def some_key(world, rng, table, me):
    """Rather a row that is there, and rather the actor's own."""
    state = world.state
    mine = [k for k, e in state.entries[table].items() if e.actor == me]
    mine += [k for k, row in state.rows[table].items() if row.owner == me]
    pool = rng.choice([mine or KEYS, sorted(state.rows[table]) or KEYS, KEYS])
    return rng.choice(list(pool))


def random_insert(world, rng, me):
    table = rng.choice(list(COLUMNS))
    free = [k for k in KEYS if k not in world.state.rows[table]]
    key = rng.choice(free if free and rng.random() < 0.8 else list(KEYS))
    return "insert", table, key, tuple(random_value(world, rng, table, c) for c in COLUMNS[table])


def random_update(world, rng, me):
    table = rng.choice(list(COLUMNS))
    column = rng.choice(["v", "v", *COLUMNS[table], "id"])
    keys = [some_key(world, rng, table, me)]
    if column == "v":
        keys = sorted({some_key(world, rng, table, me) for _ in range(rng.choice([1, 1, 2, 3]))})
    changes = {column: rng.choice(list(KEYS)) if column == "id" else random_value(world, rng, table, column)}
    if rng.random() < 0.2:
        changes["v"] = rng.randrange(4)
    return "update", table, tuple(keys), tuple(changes.items())


def random_delete(world, rng, me):
    table = rng.choice(list(COLUMNS))
    return "delete", table, tuple(sorted({some_key(world, rng, table, me) for _ in range(rng.choice([1, 1, 2]))}))


def random_claim(world, rng, me):
    table = rng.choice(["doc", "doc", *COLUMNS])
    key = some_key(world, rng, table, me)
    row = world.state.rows[table].get(key)
    version = rng.choice([None, None, row.version if row else 1, rng.randrange(1, 4)])
    return "claim", table, key, version


def random_steal(world, rng, me):
    table = rng.choice(list(COLUMNS))
    others = [k for k, e in world.state.entries[table].items() if e.actor != me]
    return "steal", table, rng.choice(others or list(KEYS))


def random_expire(world, rng, me):
    table = rng.choice(["doc", *COLUMNS])
    return "expire", table, rng.choice(sorted(world.state.claims[table]) or list(KEYS))


def random_renew(world, rng, me):
    return ("renew",)


def random_release_row(world, rng, me):
    table = rng.choice(list(COLUMNS))
    return "release_row", table, some_key(world, rng, table, me)


def random_release_rows(world, rng, me):
    return "release_rows", rng.choice(list(COLUMNS))


def random_release_actor(world, rng, me):
    return "release_actor", rng.choice("abc")


def random_commit_changes(world, rng, me):
    return "commit_changes", rng.choice(["main", "main", "side"]), rng.random() < 0.3


def random_discard_changes(world, rng, me):
    table = rng.choice([None, None, *(t for t in COLUMNS if t != "move")])
    key = some_key(world, rng, table, me) if table and rng.random() < 0.6 else None
    return "discard_changes", JOURNAL[table] if table else rng.choice(["main", "main", "side"]), table, key


def random_restore_stash(world, rng, me):
    mine = [number for number, stash in world.state.stash.items() if stash[0] == me]
    return "restore_stash", rng.choice(mine or [1])


# Comparing

def applicable(world, step):
    """A script that is being shrunk may lack what a statement needs."""
    session, kind, *args = step
    if world.session not in (None, session):
        return False
    if kind == "begin":
        return world.session is None
    if kind in CONTROL:
        return world.session == session and (kind != "rollback_to" or args[0] in [name for name, _ in world.saved])
    return True


def outcome(run, step):
    try:
        return "ok", run(*step)
    except Refused as refused:
        return "refused", refused.states


def differences(what, found, wanted):
    return [] if found == wanted else [f"{what}: {found[k] if k in found else 'missing'} in the database, {wanted[k] if k in wanted else 'missing'} "
            f"in the model: {k}" for k in sorted({*found, *wanted}, key=repr) if found.get(k) != wanted.get(k)]


def take_step(world, database, step):
    """One statement in both; raises Mismatch."""
    database.stashes = sorted(world.state.stash)
    wanted = outcome(world.run, step)
    found = outcome(database.run, step)
    right = found == wanted or (found[0] == wanted[0] == "refused" and found[1] <= wanted[1])
    right = right or found[0] == wanted[0] == "ok" and wanted[1] is None
    if not right:
        raise Mismatch(f"the outcome is {found}, not {wanted}")
    compare(world, database, step[0])


def compare(world, database, session):
    state, stash, entries, wrong = database.state(session)
    mine = world.state
    for table in COLUMNS:
        wrong += differences(f"row of {table}", state["rows"][table], {k: tuple(r) for k, r in mine.rows[table].items()})
        wrong += differences(f"entry of {table}", state["entries"][table],
                             {k: tuple(e) for k, e in mine.entries[table].items()})
        wrong += differences(f"claim on {table}", state["claims"][table], mine.claims[table])
        if world.session is None:
            # Those of rows deleted in a draft aside.
            claims = {k: owner for k, (owner, _) in mine.claims[table].items()
                      if k in mine.rows[table] or k not in mine.entries[table]}
            owners = {k: row.owner for k, row in mine.rows[table].items() if row.owner}
            wrong += differences(f"owner column of {table}, against the claims,", owners, claims)
    if stash != list(mine.stash.values()) and sorted(stash, key=repr) != sorted(mine.stash.values(), key=repr):
        wrong.append(f"stash: {stash} in the database, {list(mine.stash.values())} in the model")
    if wrong:
        raise Mismatch("\n".join(wrong))
    # In what order an actor's rows go to the stash is open.
    mine.stash = dict(enumerate(stash, 1))
    # What is not committed yet does not replicate.
    if world.session is None and (entries or mine.changesets):
        compare_journal(world, database, entries)


def compare_journal(world, database, entries):
    wanted, world.state.changesets = world.state.changesets, []
    try:
        found = [(journal, actor, sorted(map(tuple, changes), key=repr))
                 for journal, actor, changes in database.replica.replay_entries(entries)]
    except (psycopg.Error, Diverged) as error:
        raise Mismatch(f"the journal cannot be replayed: {error}") from error
    if sorted(found, key=repr) != sorted(wanted, key=repr):
        raise Mismatch(f"journal: {found} in the database, {wanted} in the model")
    changed = {table for _, _, changes in found for _, table, *_ in changes}
    wrong = [line for table in changed for line in
             differences(f"replayed row of {table}", database.replica.rows(table), world.state.committed[table])]
    if wrong:
        raise Mismatch("\n".join(wrong))


# Running

class Server:
    """A database of its own on the server that libpq's environment names."""

    def __init__(self, name):
        with psycopg.connect(dbname="postgres", autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        self.connect = lambda **how: psycopg.connect(dbname=name, **how)
        self.admin = self.connect(autocommit=True)
        create(self.admin)

    def run(self, steps):
        """Takes the steps (a list, or a function of the world) from the start. The steps taken and what is wrong."""
        reset(self.admin)
        database, world, taken = Database(SESSIONS, self.connect), World(), []
        try:
            for step in steps(world) if callable(steps) else steps:
                if applicable(world, step):
                    taken.append(step)
                    take_step(world, database, step)
            return taken, None
        except Mismatch as mismatch:
            return taken, str(mismatch)
        except psycopg.Error as error:
            return taken, f"{error.sqlstate}: {error}"
        finally:
            database.close()

    def shrink(self, steps, wrong, seconds):
        """Leaves out whatever can be left out of a failing script (Zeller's delta debugging)."""
        end, size = time.monotonic() + seconds, max(len(steps) // 2, 1)
        while size:
            at = 0
            while at < len(steps) and time.monotonic() < end:
                taken, other = self.run(steps[:at] + steps[at + size:])
                if other:
                    steps, wrong = taken, other
                else:
                    at += size
            size //= 2
        return steps, wrong


class Plan:
    """What to run; every process has a copy, and a server of its own."""

    def __init__(self):
        seed = os.environ.get("SEED") or "1"
        self.seed = time.time_ns() % 1_000_000_000 if seed == "now" else int(seed)
        number = lambda name, default: int(os.environ.get(name) or default)
        self.limit, self.seconds, self.length = number("STEPS", 100_000), number("DURATION", 300), number("EPISODE", 1000)
        self.shrink, self.workers = number("SHRINK", 180), number("WORKERS", os.cpu_count() or 1)
        self.end = time.monotonic() + self.seconds
        self.server = None

    def start_worker(self):
        global plan
        plan = self
        self.server = Server(f"model_{os.getpid()}")

    def episode(self, first):
        """Statements from the `first` on: what kinds they were, and what went wrong."""
        rng = random.Random(f"{self.seed}/{first}")

        def steps(world):
            for _ in range(min(self.length, self.limit - first)):
                if time.monotonic() > self.end:
                    return
                yield choose(world, rng)

        taken, wrong = self.server.run(steps) if time.monotonic() < self.end else ([], None)
        if wrong:
            print(f"statement {first + len(taken)}: {wrong}\nshrinking", flush=True)
            script, wrong = self.server.shrink(taken, wrong, self.shrink)
            wrong = "\n".join([*map(json.dumps, script), wrong])
        return Counter(step[1] for step in taken), wrong


plan = None


def episode(first):
    return plan.episode(first)


def main():
    plan, kinds, start, shown = Plan(), Counter(), time.monotonic(), 0
    print(f"seed {plan.seed}, at most {plan.limit} statements or {plan.seconds} seconds, {plan.workers} processes", flush=True)
    with multiprocessing.Pool(plan.workers, plan.start_worker) as pool:
        for counted, wrong in pool.imap_unordered(episode, range(0, plan.limit, plan.length)):
            kinds += counted
            if wrong:
                print(wrong)
                sys.exit(f"model: failed at SEED={plan.seed} after {kinds.total()} statements")
            if time.monotonic() - start >= shown + 60:
                shown = time.monotonic() - start
                print(f"{kinds.total()} statements, {shown:.0f} s", flush=True)
    if not kinds:
        sys.exit("model: no statement was run")
    print(", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())))
    print(f"{kinds.total()} statements in {time.monotonic() - start:.0f} s: tables, claims, drafts, stash, journal and replay "
          "were as the model says after each")


if __name__ == "__main__":
    main()
