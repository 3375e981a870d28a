"""The workloads. Each is a function under @workload: it makes its tables, checks that the contestants do what they
are meant to do (speeds only mean something for results that are right), and lets them race. One more:

    @workload("W14")
    def deleting(b):
        b.psql("CREATE TABLE old (LIKE parts INCLUDING ALL); INSERT INTO old SELECT * FROM make_parts(1000);"
               "CALL contestants('old', 'alice');")
        b.psql("SELECT count(*) FROM claim_rows('old_claimed', ARRAY(SELECT id FROM old))", "alice")
        b.refused("DELETE FROM old_claimed", "55P03", user="bob")
        b.race(Measure("DELETE in a transaction that is rolled back", "ms", (("bare", "<=", 5.0),)),
               {name: partial(b.ms, f"DELETE FROM {table}", before="BEGIN", after="ROLLBACK")
                for name, table in contestants("old").items()})
"""

import os
import signal
import time
from functools import partial

from harness import OURS, Failed, Measure, workload

EDIT = "UPDATE {} SET price = price + 0.01, stock = stock + 1"
# What that adds up to in a log.
GAIN = "sum((new->>'stock')::int - (old->>'stock')::int)"


def contestants(source):
    return {"bare": source, OURS: f"{source}_claimed", "hand-written": f"{source}_hand",
            "row security": f"{source}_rls", "C trigger": f"{source}_c_trigger"}


PARTS = contestants("parts")
# NOTIFY makes commits wait for one another: what is left without it.
SILENT = f"{OURS}, notify off"


def fresh(b, table, db="postgres"):
    """The same start for everybody, with an empty audit log."""
    b.psql("TRUNCATE audit_log", db=db)
    b.settle(table, db=db)


def packed(b, table):
    """As fresh(), and no page has room left: what earlier rounds have left behind differs from table to table."""
    b.psql(f"VACUUM FULL {table}")
    fresh(b, table)


def sums(b, table, db="postgres"):
    return b.value(f"SELECT count(*), sum(price), sum(stock) FROM {table}", db=db)


def parts(b):
    """alice holds every row of each table; one edit of all rows has shown that everybody does the same."""
    if not b.once("parts"):
        return
    rows = b.rows
    b.psql(f"INSERT INTO parts SELECT * FROM make_parts({rows}); CALL contestants('parts', 'alice');")
    b.expect("bare has no triggers and no row security",
             "SELECT relhastriggers OR relrowsecurity FROM pg_class WHERE oid = 'parts'::regclass", "f")
    b.refused("UPDATE parts_claimed SET stock = 0 WHERE id = 1", "55000", user="alice")
    b.expect("claims granted", "SELECT count(*) FROM claim_rows('parts_claimed', ARRAY(SELECT id FROM parts_claimed)) "
             "WHERE status = 'granted'", rows, user="alice")
    b.refused("UPDATE parts_claimed SET stock = 0 WHERE id = 1", "55P03")
    b.refused("UPDATE parts_hand SET stock = 0 WHERE id = 1", "P0001")
    b.expect("row security hides the rows",
             "WITH u AS (UPDATE parts_rls SET stock = 0 RETURNING 1) SELECT count(*) FROM u", 0, user="bob")
    for table in PARTS.values():
        b.psql(EDIT.format(table), "alice")
    for table in PARTS.values():
        b.expect(f"sums of {table}", f"SELECT count(*), sum(price), sum(stock) FROM {table}", sums(b, "parts"))
    b.expect("audited", f"SELECT count(*), {GAIN} FROM audit_log", f"{rows}|{rows}")
    b.expect("versions", "SELECT min(row_version), max(row_version) FROM parts_claimed", "2|2")
    b.expect("drafted", "SELECT count(*), sum((base::json->>'stock')::int) FROM rowclaim.draft_row",
             b.value(f"SELECT count(*), sum(stock) - {rows} FROM parts"))
    b.psql(EDIT.format("parts_claimed"), "alice")
    b.psql(EDIT.format("parts"), "alice")
    b.expect("dirty rows keep their base", "SELECT count(*), sum((base::json->>'stock')::int) FROM rowclaim.draft_row",
             b.value(f"SELECT count(*), sum(stock) - 2 * {rows} FROM parts"))
    b.psql("SELECT commit_changes('checked')", "alice")
    b.expect("journaled", f"SELECT count(*), {GAIN} FROM rowclaim.changes "
             "WHERE op = 'update' AND target = 'public.parts_claimed'", f"{rows}|{2 * rows}")
    b.expect("clean after the commit", "SELECT count(*) FROM rowclaim.drafts", 0)


def head(b):
    return b.value("SELECT max(seq) FROM rowclaim.journal WHERE journal = 'main'")


def touch(b, table, clean=True, warm=True):
    """One UPDATE of all rows; `clean`: not dirty already; `warm`: not the first that its session does."""
    if clean and table.endswith("_claimed"):
        b.psql("SELECT commit_changes()", "alice")
    packed(b, table)
    before = f"BEGIN; UPDATE {table} SET stock = stock + 1 WHERE id = 1; ROLLBACK" if warm else ""
    return b.cost(EDIT.format(table), before)


def race_touching(b, title, targets, clean):
    """What loads a library or compiles a function comes once in a session: its first statement is apart."""
    for case, warm in (("", True),) if b.quick else (("", True), ("a session's first statement", False)):
        b.race([Measure(title, targets=targets, case=case), Measure(f"{title}, CPU time", case=case)],
               {name: partial(touch, b, table, clean, warm) for name, table in PARTS.items()})


@workload("W1")
def first_touch(b):
    parts(b)
    race_touching(b, f"bulk UPDATE of {b.rows:,} owned rows, first touch",
                  (("bare", "<=", 4.0), ("hand-written", "<=", 1 / 2.5)), clean=True)


@workload("W2")
def dirty_again(b):
    parts(b)
    b.psql(EDIT.format("parts_claimed"), "alice")
    race_touching(b, f"bulk UPDATE of {b.rows:,} owned rows, already dirty",
                  (("bare", "<=", 1.5), ("C trigger", "<=", 1.2)), clean=False)


@workload("W3")
def single_updates(b):
    parts(b)

    def script(table):
        return f"\\set id random(1, {b.rows})\nUPDATE {table} SET stock = stock + 1 WHERE id = :id;\n"

    def update(table, clients):
        if table == PARTS[OURS]:
            b.psql("SELECT commit_changes()", "alice")
        packed(b, table)
        return b.tps(script(table), clients)[0]

    # Rows that stay dirty, each by a transaction of its own: edited again until they are committed.
    dirty = f"{OURS}, dirty rows"
    tables = {**PARTS, dirty: "parts_dirty"}
    b.psql("CREATE TABLE parts_dirty (LIKE parts INCLUDING ALL); INSERT INTO parts_dirty TABLE parts;"
           "SELECT create_journal('dirty'); SELECT enable_claims('parts_dirty', journal => 'dirty');")
    b.psql(f"""
        SET synchronous_commit = off;
        SELECT count(*) FROM claim_rows('parts_dirty', ARRAY(SELECT id FROM parts_dirty));
        DO $$
        BEGIN
            FOR i IN 1..{b.rows} LOOP
                UPDATE parts_dirty SET stock = stock + 1 WHERE id = i;
                COMMIT;
            END LOOP;
        END $$""", "alice")
    for table in tables.values():
        before = int(b.value(f"SELECT sum(stock) FROM {table}"))
        b.server.pgbench(script(table), 2, "-t 50", "alice")
        b.expect("every transaction counts", f"SELECT sum(stock) FROM {table}", before + 100)
    for fsync, limit in (("off", 0.90), ("on", 0.97)):
        b.set("fsync", fsync)
        for clients in (4,) if b.quick else (1, 4, 16):
            b.race(Measure("single-row UPDATE by key", "tps", (("bare", ">=", limit),), more_is_better=True,
                           case=f"{clients} clients, fsync {fsync}"),
                   {name: partial(update, table, clients) for name, table in tables.items()
                    if name != dirty or fsync == "off" or not b.quick}, (OURS, dirty))
    b.expect("still dirty", "SELECT count(*), count(DISTINCT draft) FROM rowclaim.draft_row "
             "WHERE relid = 'parts_dirty'::regclass", f"{b.rows}|{b.rows}")
    b.psql("SELECT commit_changes(journal => 'dirty', release => true)", "alice")
    b.set("fsync", "off")


def desk(b, db="postgres"):
    """Free rows to be claimed."""
    if not b.once(f"desk in {db}"):
        return
    b.psql(f"""
        CREATE TABLE desk (LIKE parts INCLUDING ALL);
        INSERT INTO desk SELECT * FROM make_parts({b.rows});
        CALL contestants('desk');
        UPDATE desk_owned SET owner = 'alice';
        UPDATE desk_owned SET owner = NULL;""", db=db)
    # As the tables of the others, pages have had a new version of each row.
    b.psql(f"SELECT count(*) FROM claim_rows('desk_claimed', some_keys({b.rows}, {b.rows})); "
           "SELECT release_rows('desk_claimed');", "alice", db)


def claim_script(b, table):
    pick = f"\\set id random(1, {b.rows})\n"
    if table == "desk_claimed":
        return pick + "SELECT status FROM claim_row('desk_claimed', :id);\nSELECT release_row('desk_claimed', :id);\n"
    return (pick + f"UPDATE {table} SET owner = 'alice' WHERE id = :id AND owner IS NULL;\n"
            f"UPDATE {table} SET owner = NULL WHERE id = :id AND owner = 'alice';\n")


def claim_rate(b, table, clients, db="postgres"):
    """Claims per second, and cycles of claim and release per second."""
    fresh(b, table, db)
    # Several cycles per script, because pgbench rounds its latencies.
    tps, latencies = b.tps(claim_script(b, table) * 8, clients, db=db)
    return clients * 1000 * 8 / sum(latencies[0::2]), tps * 8


@workload("W4")
def claim_and_release(b):
    parts(b)
    desk(b)
    b.expect("claimed", "SELECT status, owner FROM claim_row('desk_claimed', 1)", "granted|alice", user="alice")
    b.expect("denied", "SELECT status, owner FROM claim_row('desk_claimed', 1)", "denied|alice", user="bob")
    b.refused("UPDATE desk_claimed SET stock = 0 WHERE id = 1", "55P03")
    b.expect("released", "SELECT release_row('desk_claimed', 1)", "t", user="alice")
    b.expect("by hand", "WITH u AS (UPDATE desk_hand SET owner = 'alice' WHERE id = 1 AND owner IS NULL RETURNING 1) "
             "SELECT count(*) FROM u", 1, user="alice")
    b.refused("UPDATE desk_hand SET stock = 0 WHERE id = 1", "P0001")
    b.psql("UPDATE desk_hand SET owner = NULL WHERE id = 1", "alice")
    tables = {"owner UPDATE": "desk_owned", OURS: "desk_claimed", "hand-written": "desk_hand"}
    for clients in (1,) if b.quick else (1, 4, 16):
        b.race([Measure("claim", "1/s", (("owner UPDATE", ">=", 0.8),), more_is_better=True, case=f"{clients} clients"),
                Measure("claim and release", "tps", more_is_better=True, case=f"{clients} clients")],
               {name: partial(claim_rate, b, table, clients) for name, table in tables.items()})
    b.expect("nothing is left", "SELECT count(*) FROM rowclaim.claim WHERE relid = 'desk_claimed'::regclass", 0)


@workload("W5")
def commits(b):
    parts(b)
    b.psql("""
        CREATE TABLE parts_before (LIKE parts INCLUDING ALL);
        INSERT INTO parts_before TABLE parts;
        UPDATE parts SET price = price + 0.01, stock = stock + 1;
        ANALYZE parts_before;
        CREATE TABLE json_log (old text, new text);
        CREATE TABLE single (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, n int);""")
    plain = ("INSERT INTO json_log SELECT row_to_json(o)::text, row_to_json(n)::text "
             "FROM parts_before o JOIN parts n USING (id)")

    def commit_all():
        b.psql(EDIT.format("parts_claimed"), "alice")
        fresh(b, "parts_claimed")
        return b.ms("SELECT commit_changes()")

    def write_json():
        b.psql("TRUNCATE json_log")
        b.settle("parts", "parts_before")
        return b.ms(plain)

    b.psql("SELECT commit_changes()", "alice")
    before = head(b)
    commit_all()
    write_json()
    b.expect("one changeset with every row", f"SELECT count(DISTINCT seq), count(*), {GAIN} FROM rowclaim.changes "
             f"WHERE journal = 'main' AND seq > {before}", f"1|{b.rows}|{b.rows}")
    b.expect("every row as JSON", f"SELECT count(*), {GAIN} FROM (SELECT old::json, new::json FROM json_log) s",
             f"{b.rows}|{b.rows}")
    b.race(Measure(f"commit_changes() of {b.rows:,} rows", targets=(("INSERT of row_to_json", "<=", 1.2),)),
           {"INSERT of row_to_json": write_json, OURS: commit_all})
    commit_100(b)
    commit_1(b)


def commit_100(b):
    """The cost of a commit must not depend on the size of the table."""
    b.psql("""
        CREATE PROCEDURE commit_100(size int, times int, INOUT took float8) LANGUAGE plpgsql AS $$
        DECLARE
            start timestamptz;
        BEGIN
            took := 0;
            FOR i IN 1..times LOOP
                EXECUTE format('UPDATE sized_%s SET stock = stock + 1 WHERE id = ANY ($1)', size)
                USING some_keys(100, size);
                COMMIT;
                start := clock_timestamp();
                PERFORM commit_changes();
                COMMIT;
                took := took + 1e3 * extract(epoch FROM clock_timestamp() - start);
            END LOOP;
            took := took / times;
        END $$;""")
    sizes = [10_000, 100_000] if b.quick else [10_000, 100_000, 1_000_000, 10_000_000]
    sizes = [size for size in sizes if size <= 50 * b.rows]
    times = max(2, 80 * b.seconds)
    for size in sizes:
        b.psql(f"CREATE TABLE sized_{size} (LIKE parts INCLUDING ALL); INSERT INTO sized_{size} SELECT * FROM "
               f"make_parts({size}); SELECT enable_claims('sized_{size}'); VACUUM ANALYZE sized_{size};")
        before = head(b)
        b.psql(f"SELECT count(*) FROM claim_rows('sized_{size}', some_keys(100, {size})); "
               f"CALL commit_100({size}, 5, 0);", "alice")
        b.expect("five changesets of 100 rows", "SELECT count(DISTINCT seq), count(*) FROM rowclaim.changes "
                 f"WHERE journal = 'main' AND seq > {before}", "5|500")

    def sample(size):
        b.settle(f"sized_{size}")
        return float(b.value(f"CALL commit_100({size}, {times}, 0)", "alice"))

    first, *others = [f"{size:,} rows" for size in sizes]
    b.race(Measure("commit_changes() of 100 rows in tables of …", targets=((first, "±", 0.2),)),
           {f"{size:,} rows": partial(sample, size) for size in sizes}, ours=others)


def commit_1(b):
    update = f"\\set id random(1, {b.rows})\nUPDATE parts_claimed SET stock = stock + 1 WHERE id = :id;\n"

    def commit():
        fresh(b, "parts_claimed")
        return b.tps(update + "SELECT commit_changes();\n", 1)[1][1]

    def insert():
        b.settle("single")
        return 1000 / b.tps("\\set n random(1, 1000000)\nINSERT INTO single (n) VALUES (:n);\n", 1)[0]

    b.race(Measure("commit_changes() of 1 row", targets=(("single-row INSERT", "<=", 3.0),)),
           {"single-row INSERT": insert, OURS: commit})


@workload("W6")
def loading(b):
    parts(b)
    file = f"{b.server.env['PGHOST']}/parts.copy"
    columns = "id, name, price, stock, note, changed"
    b.psql(f"COPY (SELECT {columns} FROM parts) TO '{file}'")
    add = {"bare": "", OURS: "SELECT enable_claims('load')", "hand-written": "CALL add_hand('load', 'alice')",
           "row security": "CALL add_rls('load', 'alice')"}
    copy, insert = f"COPY load ({columns}) FROM '{file}'", f"INSERT INTO load ({columns}) SELECT {columns} FROM parts"

    def load(name, sql):
        b.psql("DROP TABLE IF EXISTS load; TRUNCATE audit_log; CREATE TABLE load (LIKE parts INCLUDING ALL);" + add[name])
        b.settle("load")
        return b.ms(sql)

    for name in add:
        load(name, insert)
        b.expect(f"{name} loaded", "SELECT count(*), sum(price), sum(stock) FROM load", sums(b, "parts"))
        if name == OURS:
            b.expect("drafted", "SELECT count(*) FROM rowclaim.drafts WHERE op = 'insert'", b.rows, user="alice")
            b.refused("UPDATE load SET stock = 0 WHERE id = 1", "55P03")
        if name == "hand-written":
            b.expect("audited", "SELECT count(*) FROM audit_log WHERE op = 'INSERT'", b.rows)
    b.race(Measure(f"COPY of {b.rows:,} rows", targets=(("bare", "<=", 3.0),)),
           {name: partial(load, name, copy) for name in add if name != "row security"})
    b.race(Measure(f"INSERT … SELECT of {b.rows:,} rows"), {name: partial(load, name, insert) for name in add})
    b.psql("DROP TABLE load")


@workload("W7")
def tpcb(b):
    tables = ("accounts", "tellers", "branches", "history")
    enable = "".join(f"SELECT enable_claims('pgbench_{t}', 'auto', 'transaction');" for t in tables)
    hand = "".join(f"CALL add_hand('pgbench_{t}', NULL, 'hand_guard_auto');" for t in tables)
    floor = "".join(f"CALL add_c_trigger('pgbench_{t}');" for t in tables[:3])
    make = {"bare": "", OURS: enable, "hand-written": hand, "C trigger": floor}
    if b.quick:
        del make["C trigger"]
    dbs = {name: f"tpcb_{i}" for i, name in enumerate(make)}
    b.psql("CREATE DATABASE tpcb")
    b.opponents("tpcb")
    b.server.pgbench_init(10, "tpcb")
    b.psql("ALTER TABLE pgbench_history ADD COLUMN id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY;", db="tpcb")
    for name, db in dbs.items():
        b.psql(f"CREATE DATABASE {db} TEMPLATE tpcb")
        b.psql(make[name], db=db)

    def bank(name, clients, notify="commits"):
        b.psql("TRUNCATE audit_log", db=dbs[name])
        b.settle(*(f"pgbench_{t}" for t in tables), db=dbs[name])
        return b.tps("-b tpcb-like", clients, db=dbs[name],
                     options=f"-c rowclaim.notify={notify}" if name == OURS else "")[0]

    b.set("fsync", "on")
    for name, db in dbs.items():
        b.server.pgbench("-b tpcb-like", 2, "-t 100", "alice", db)
        b.expect(f"sums of {name}", """
            SELECT h.sum = (SELECT sum(abalance) FROM pgbench_accounts),
                   h.sum = (SELECT sum(tbalance) FROM pgbench_tellers),
                   h.sum = (SELECT sum(bbalance) FROM pgbench_branches), h.count
            FROM (SELECT sum(delta), count(*) FROM pgbench_history) h""", "t|t|t|200", db=db)
    b.expect("a changeset for each transaction", "SELECT count(*), sum(changes) FROM rowclaim.changesets", "200|800",
             db=dbs[OURS])
    b.expect("audited", "SELECT count(*) FROM audit_log", 800, db=dbs["hand-written"])
    b.expect("bare has no triggers", "SELECT count(*) FROM pg_trigger WHERE tgrelid::regclass::text LIKE 'pgbench%'", 0,
             db=dbs["bare"])
    b.psql("SELECT status FROM claim_row('pgbench_accounts', 1)", "alice", dbs[OURS])
    b.refused("UPDATE pgbench_accounts SET abalance = 0 WHERE aid = 1", "55P03", db=dbs[OURS])
    b.psql("SELECT release_rows()", "alice", dbs[OURS])
    racers = {name: partial(bank, name, 8) for name in dbs}
    if not b.quick:
        racers[SILENT] = partial(bank, OURS, 8, "off")
    b.race(Measure("tpcb-like, committing => 'transaction', scale 10, 8 clients, fsync on", "tps",
                   (("bare", ">=", 0.75), ("hand-written", ">=", 1.3)), more_is_better=True),
           racers, (OURS, SILENT))
    b.set("fsync", "off")


@workload("W8")
def many_actors(b):
    counts = (16,) if b.quick else (1, 4, 16, 32)
    b.psql(f"""
        CREATE TABLE one_bare (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, n int);
        CREATE TABLE one_claimed (LIKE one_bare INCLUDING ALL);
        CREATE TABLE one_hand (LIKE one_bare INCLUDING ALL);
        CREATE TABLE one_head (LIKE one_bare INCLUDING ALL);
        SELECT create_journal('one');
        SELECT enable_claims('one_claimed', 'auto', 'transaction', 'one');
        CALL add_hand('one_hand', NULL, 'hand_guard_auto');
        -- A journal without gaps, as it is usually done: its head row is locked until the commit.
        CREATE TABLE head (journal text PRIMARY KEY, seq bigint NOT NULL) WITH (fillfactor = 10);
        INSERT INTO head VALUES ('main', 0);
        CREATE TABLE head_journal (journal text, seq bigint, actor text, at timestamptz, changes jsonb,
                                   PRIMARY KEY (journal, seq));
        CREATE FUNCTION head_append() RETURNS trigger LANGUAGE plpgsql AS $$
        DECLARE
            next bigint;
        BEGIN
            UPDATE head SET seq = seq + 1 WHERE journal = 'main' RETURNING seq INTO next;
            INSERT INTO head_journal
            VALUES ('main', next, session_user, now(), jsonb_build_object('op', TG_OP, 'new', to_jsonb(NEW)));
            RETURN NULL;
        END $$;
        CREATE TRIGGER append AFTER INSERT ON one_head FOR EACH ROW EXECUTE FUNCTION head_append();
        DO $$
        BEGIN
            FOR i IN 0..{max(counts) - 1} LOOP
                EXECUTE format('CREATE TABLE own_%s (LIKE one_bare INCLUDING ALL)', i);
                PERFORM create_journal('own ' || i);
                PERFORM enable_claims(('own_' || i)::regclass, 'auto', 'transaction', 'own ' || i);
            END LOOP;
        END $$;""")
    own = f"{OURS}, own journals"
    tables = {"bare": "one_bare", OURS: "one_claimed", own: "own_:client_id", SILENT: "one_claimed",
              "hand-written": "one_hand", "head row locked": "one_head"}
    if b.quick:
        del tables[SILENT]
    targets = (("bare", ">=", 0.7, OURS), ("head row locked", ">=", 3.0, OURS), ("bare", ">=", 0.8, own))
    # Clients are actors; the first transaction of each says so.
    script = """\\if :started = 0
SELECT set_config('rowclaim.actor', 'actor:client_id', false);
PREPARE ins AS INSERT INTO {} (n) VALUES ($1);
\\set started 1
\\endif
\\set n random(1, 1000000)
EXECUTE ins(:n);
"""

    def insert(name, clients):
        b.psql("TRUNCATE audit_log")
        b.settle("head")
        return b.tps(script.format(tables[name]), clients, protocol="simple",
                     options="-c rowclaim.notify=off" if name == SILENT else "")[0]

    b.set("fsync", "on")
    for clients in counts:
        b.race(Measure("single-row INSERT transactions, fsync on", "tps", targets if clients == 16 else (),
                       more_is_better=True, case=f"{clients} actors"),
               {name: partial(insert, name, clients) for name in tables}, (OURS, own, SILENT))
    b.set("fsync", "off")
    b.expect("a changeset for each row", "SELECT count(*) - (SELECT count(*) FROM one_claimed) FROM rowclaim.changesets "
             "WHERE journal = 'one'", 0)
    b.expect("no gap", "SELECT max(seq) - count(DISTINCT seq) FROM rowclaim.journal WHERE journal = 'one'", 0)


@workload("W9")
def many_claims(b):
    parts(b)
    desk(b)
    racers = {"bare UPDATE": ("desk", "stock = stock + 1"), OURS: ("desk_claimed", None),
              "owner UPDATE": ("desk_owned", "owner = 'alice'")}

    def statement(table, change, keys):
        if change is None:
            return f"SELECT count(*) FROM claim_rows('{table}', {keys}) WHERE status = 'granted'"
        return f"UPDATE {table} SET {change} WHERE id = ANY ({keys})"

    def few(table, change, count):
        """Average of many calls."""
        fresh(b, table)
        keys = f"ARRAY(SELECT generate_series(:from::int, :from::int + {count - 1}))"
        release = f"SELECT release_rows('{table}');\n" if change is None else ""
        script = f"\\set from random(1, {b.rows - count})\n{statement(table, change, keys)};\n{release}"
        return b.tps(script, 1)[1][0]

    def many(table, change, count):
        fresh(b, table)
        keys = f"(SELECT some_keys({count}, {b.rows}))::int[]"
        return b.ms(statement(table, change, keys), after="SELECT release_rows('desk_claimed')")

    most = min(100_000, b.rows)
    counts = [] if b.quick else [count for count in (1, 100, 10_000) if count < most]
    for count in (*counts, most):
        b.expect("granted", statement("desk_claimed", None, f"some_keys({count}, {b.rows})"), count, user="alice")
        b.psql("SELECT release_rows('desk_claimed')", "alice")
        race = partial(many if count == most else few, count=count)
        b.race(Measure("claim_rows()", targets=(("bare UPDATE", "<=", 3.0),) if count == most else (),
                       case=f"{count:,} keys"),
               {name: partial(race, *racer) for name, racer in racers.items()})


@workload("W10")
def wide_rows(b):
    parts(b)
    toasted(b)
    if b.quick:
        return
    rows = max(100, b.rows // 10)
    columns = ", ".join(f"n{i} int NOT NULL DEFAULT {i}, t{i} text NOT NULL DEFAULT 'text number {i}'"
                        for i in range(1, 50))
    b.psql(f"""
        CREATE TABLE wide (id int PRIMARY KEY, changed timestamptz, {columns});
        INSERT INTO wide (id) SELECT generate_series(1, {rows});
        CALL contestants('wide', 'alice');""")
    b.psql("SELECT count(*) FROM claim_rows('wide_claimed', ARRAY(SELECT id FROM wide));", "alice")
    edit = "UPDATE {} SET n7 = n7 + 1, t7 = 'changed'"

    def touch_wide(table):
        if table == "wide_claimed":
            b.psql("SELECT commit_changes()", "alice")
        fresh(b, table)
        return b.ms(edit.format(table))

    for table in contestants("wide").values():
        b.psql(edit.format(table), "alice")
    b.race(Measure(f"bulk UPDATE of {rows:,} rows of 100 columns, first touch"),
           {name: partial(touch_wide, table) for name, table in contestants("wide").items()})


def toasted(b):
    """1 MB in a column that the UPDATE leaves alone."""
    rows = 10 if b.quick else 50
    b.psql(f"""
        CREATE TABLE doc (id int PRIMARY KEY, title text NOT NULL, edits int NOT NULL DEFAULT 0, body text NOT NULL);
        INSERT INTO doc
        SELECT i, 'title', 0, (SELECT string_agg(md5(i || '.' || j), '') FROM generate_series(1, 32768) j)
        FROM generate_series(1, {rows}) i;
        CALL contestants('doc', 'alice');
        CREATE PROCEDURE edit_doc(tbl text, commit_too boolean, times int) LANGUAGE plpgsql AS $$
        BEGIN
            FOR i IN 1..times LOOP
                EXECUTE format('UPDATE %I SET edits = edits + 1', tbl);
                IF commit_too THEN
                    PERFORM commit_changes();
                END IF;
                COMMIT;
            END LOOP;
        END $$;""")
    b.psql("SELECT count(*) FROM claim_rows('doc_claimed', ARRAY(SELECT id FROM doc)); SELECT commit_changes();",
           "alice")
    stored = """
        SELECT pg_relation_size(reltoastrelid) || ' bytes, ' || pg_stat_get_tuples_inserted(reltoastrelid) || ' chunks, '
            || pg_stat_get_blocks_fetched(reltoastrelid) || ' pages fetched'
        FROM pg_class WHERE oid = 'doc_claimed'::regclass"""
    before, lsn, seq = b.value(stored), b.value("SELECT pg_current_wal_lsn()"), head(b)
    b.psql("CALL edit_doc('doc_claimed', false, 1)", "alice")
    base = int(b.value("SELECT max(length(base)) FROM rowclaim.draft_row WHERE relid = 'doc_claimed'::regclass"))
    b.psql("SELECT commit_changes()", "alice")
    after = b.value(stored)
    journaled = int(b.value("SELECT length(changes::text) FROM rowclaim.journal "
                            f"WHERE seq > {seq} AND journal = 'main'"))
    wal = int(b.value(f"SELECT pg_current_wal_lsn() - '{lsn}'")) // rows
    b.expect("every document journaled",
             f"SELECT count(*) FROM rowclaim.changes WHERE seq > {seq} AND journal = 'main'", rows)
    b.fact("1 MB TOASTed column not touched by the UPDATE and the commit",
           f"its storage: {before}; afterwards: {'the same' if before == after else after}; "
           f"bytes per row: base image {base}, journal {journaled // rows}, WAL {wal}",
           "neither detoasted nor rewritten nor journaled", before == after and base < 1000 and journaled < 1000 * rows)
    # By hand each version of each document is written out.
    times = {"bare": 2000, "hand-written": 1, "row security": 2000, "C trigger": 2000, OURS: 100}

    def edit_doc(name, table):
        fresh(b, table)
        count = max(1, times[name] * b.seconds // 3)
        return 1e3 * b.ms(f"CALL edit_doc('{table}', {name == OURS}, {count})") / count / rows

    b.race(Measure(f"UPDATE and commit of {rows} rows with an untouched TOASTed column", "µs per row"),
           {name: partial(edit_doc, name, table) for name, table in contestants("doc").items()})


@workload("W11")
def standing_claims(b):
    count = min(100_000, b.rows)
    b.psql("CREATE DATABASE quiet")
    b.opponents("quiet")
    desk(b, "quiet")
    b.psql(f"CREATE TABLE narrow (id bigint PRIMARY KEY, n bigint NOT NULL); INSERT INTO narrow "
           f"SELECT i, 0 FROM generate_series(1, {count}) i; VACUUM ANALYZE;", db="quiet")
    b.psql("CREATE DATABASE crowd TEMPLATE quiet")
    # Claims on another table: the cycles below find every row of desk_claimed free.
    b.psql(f"CREATE TABLE other (id int PRIMARY KEY); INSERT INTO other SELECT generate_series(1, {count}); "
           "SELECT enable_claims('other');", db="crowd")
    b.psql("SELECT count(*) FROM claim_rows('other', ARRAY(SELECT id FROM other), ttl => '1 hour')",
           "alice", "crowd")
    b.expect("standing", "SELECT count(*) FROM rowclaim.claims WHERE NOT expired", count, user="alice", db="crowd")
    b.expect("renewed", "SELECT renew_claims('2 hours')", count, user="alice", db="crowd")

    def timed(sql, *tables):
        b.settle(*tables, db="crowd")
        return b.ms(sql, db="crowd")

    b.race(Measure(f"renew_claims() of {count:,} claims", targets=(("bare UPDATE", "<=", 1.5),)),
           {"bare UPDATE": partial(timed, "UPDATE narrow SET n = n + 1", "narrow"),
            OURS: partial(timed, "SELECT renew_claims('1 hour')")})
    b.race(Measure(f"list of {count:,} claims"),
           {"bare SELECT": partial(timed, "SELECT count(*) FROM (SELECT * FROM narrow OFFSET 0) s"),
            OURS: partial(timed, "SELECT count(*) FROM (SELECT * FROM rowclaim.claims OFFSET 0) s")})
    names = ("no standing claims", f"{count:,} standing claims")
    b.race(Measure("claim, 1 client, with …", "1/s", ((names[0], "±", 0.1),), more_is_better=True),
           {name: lambda db=db: claim_rate(b, "desk_claimed", 1, db)[0] for name, db in zip(names, ("quiet", "crowd"))},
           ours=names[1:])


@workload("W12")
def replication(b):
    if b.value("SELECT to_regproc('create_journal_publication') IS NULL") == "t":
        b.unavailable("this version has no create_journal_publication()")
        return
    rows = b.rows
    replica = b.cluster()
    b.psql("CREATE DATABASE hub")
    replica.psql("CREATE DATABASE hub")
    for server in (b.server, replica):
        b.opponents("hub", server)
        server.psql(f"""
            ALTER SYSTEM SET wal_sender_timeout = 0;
            SELECT pg_reload_conf();
            CREATE TABLE by_server (LIKE parts INCLUDING ALL);
            INSERT INTO by_server SELECT * FROM make_parts({rows});
            CREATE TABLE by_journal (LIKE parts INCLUDING ALL);
            INSERT INTO by_journal SELECT * FROM make_parts({rows});
            VACUUM ANALYZE;""", db="hub")
    b.psql("""
        SELECT enable_claims('by_journal', 'auto', 'transaction');
        CREATE PUBLICATION by_server FOR TABLE by_server;
        SELECT create_journal_publication('by_journal');""", db="hub")
    hub = f"host={b.server.env['PGHOST']} port={b.server.env['PGPORT']} user=postgres dbname=hub"
    for name in ("by_server", "by_journal"):
        replica.psql(f"CREATE SUBSCRIPTION {name} CONNECTION '{hub}' PUBLICATION {name} WITH (copy_data = false)",
                     db="hub")

    def cpu(pid):
        """The CPU time of a process in microseconds."""
        with open(f"/proc/{pid}/schedstat", encoding="ascii") as file:
            return int(file.read().split()[0]) / 1e3

    def apply(table, transactions, step):
        """Rows per second and microseconds of CPU time per row; the worker stands still until the hub is done."""
        worker = f"SELECT coalesce(max(pid), 0) FROM pg_stat_subscription WHERE subname = '{table}'"
        while (pid := int(replica.value(worker, db="hub"))) == 0:
            time.sleep(0.01)
        replica.psql(f"VACUUM ANALYZE {table};\nCHECKPOINT;", db="hub")
        os.kill(pid, signal.SIGSTOP)
        try:
            b.psql(f"""
                DO $$
                BEGIN
                    FOR i IN 0..{transactions - 1} LOOP
                        UPDATE {table} SET stock = stock + 1, price = price + 0.01
                        WHERE id BETWEEN i * {step} + 1 AND (i + 1) * {step};
                        COMMIT;
                    END LOOP;
                END $$""", "alice", "hub")
            last = f"SELECT stock FROM {table} WHERE id = {transactions * step}"
            stock = b.value(last, db="hub")
            b.settle(table, db="hub")
            start, used = time.monotonic(), cpu(pid)
        finally:
            os.kill(pid, signal.SIGCONT)
        replica.psql(f"""
            DO $$
            BEGIN
                WHILE ({last}) <> {stock} LOOP
                    PERFORM pg_sleep(0.001);
                END LOOP;
            END $$""", db="hub")
        seconds, used = time.monotonic() - start, cpu(pid) - used
        content = ("SELECT count(*), sum(hashtext(t::text)) "
                   f"FROM (SELECT id, name, price, stock, note, changed FROM {table}) t")
        if replica.value(content, db="hub") != b.value(content, db="hub"):
            raise Failed(f"W12: the replica's {table} differs from the hub's")
        return transactions * step / seconds, used / (transactions * step)

    for transactions, step in ((1, rows), (rows // 1_000, 100), (rows // 50, 1)):
        case = f"{transactions:,} × {step:,}"
        b.race([Measure("UPDATEs arriving on a replica, transactions × rows", "rows/s",
                        (("logical replication", ">=", 1.0),), more_is_better=True, case=case),
                Measure("CPU time of the apply worker per row", "µs", (("logical replication", "<=", 1.0),), case=case)],
               {"logical replication": partial(apply, "by_server", transactions, step),
                OURS: partial(apply, "by_journal", transactions, step)})
    for name in ("by_server", "by_journal"):
        replica.psql(f"DROP SUBSCRIPTION {name}", db="hub")


@workload("W13")
def bytes_written(b):
    parts(b)
    logs = {"bare": None, OURS: "rowclaim.journal", "hand-written": "audit_log"}

    def written(name):
        table, log = PARTS[name], logs[name]
        if name == OURS:
            b.psql("SELECT commit_changes()", "alice")
        fresh(b, table)
        commit = "; SELECT commit_changes()" if name == OURS else ""
        size = f"SELECT pg_total_relation_size('{log}')" if log else "SELECT 0"
        before, lsn = int(b.value(size)), b.value("SELECT pg_current_wal_lsn()")
        b.psql(EDIT.format(table) + commit, "alice")
        wal = int(b.value(f"SELECT pg_current_wal_lsn() - '{lsn}'"))
        return (int(b.value(size)) - before) / b.rows if log else None, wal / b.rows

    # The bytes of full-page images are a matter of checkpoints.
    b.set("full_page_writes", "off")
    b.race([Measure("journal per changed row", "bytes", (("hand-written", "<=", 0.5),)),
            Measure("WAL per changed row, UPDATE and commit", "bytes")],
           {name: partial(written, name) for name in logs})
    b.set("full_page_writes", "on")
