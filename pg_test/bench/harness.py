"""Private clusters, timed statements, pgbench runs and races between contestants. Workloads are in workloads.py."""

import os
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field

BENCH = os.path.dirname(os.path.abspath(__file__))
CLUSTER = os.path.join(os.path.dirname(BENCH), "cluster")

OURS = "rowclaim"
WORKLOADS = {}


def workload(name):
    """Registers the function below it as a workload: `W1`, called with the Bench."""
    def register(function):
        WORKLOADS[name] = function
        return function
    return register


class Failed(Exception):
    """A check did not hold or a program failed: the figures would mean nothing."""


@dataclass
class Measure:
    """What a race measures. `targets`: (opponent, "<=" | ">=" | "±", limit of ours ÷ opponent[, which of ours])."""
    title: str
    unit: str = "ms"
    targets: tuple = ()
    more_is_better: bool = False
    case: str = ""


@dataclass
class Server:
    """A private cluster, started through pg_test/lib.sh."""
    settings: tuple = ()
    env: dict = field(default_factory=dict)

    def start(self):
        out = run([CLUSTER, "start", *self.settings], os.environ).stdout
        exports = (word for line in out.splitlines() for word in shlex.split(line)[1:])
        self.env = {**os.environ, **dict(word.split("=", 1) for word in exports)}
        return self

    def stop(self):
        if self.env:
            subprocess.run([CLUSTER, "stop"], env=self.env, check=False)
            self.env = {}

    def psql(self, script, user="postgres", db="postgres", **variables):
        """Runs a script in one session; returns its output, one line per row."""
        sets = [arg for name, value in variables.items() for arg in ("-v", f"{name}={value}")]
        done = run(["psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-U", user, *sets, "-d", db], self.env, script)
        return done.stdout.splitlines()

    def value(self, sql, user="postgres", db="postgres"):
        return self.psql(sql, user, db)[-1]

    def ms(self, sql, user="postgres", db="postgres", before="", after=""):
        """Milliseconds of some statements by the server's clock, each with its own commit."""
        return self.cost(sql, user, db, before, after)[0]

    def cost(self, sql, user="postgres", db="postgres", before="", after=""):
        """As ms(), and those that the session's process had a processor."""
        used = "split_part(pg_read_file('/proc/self/schedstat'), ' ', 1)::bigint"
        clock = f"SELECT clock_timestamp() AS start, {used} AS used \\gset\n"
        took = f"SELECT 'took', 1e3 * extract(epoch FROM clock_timestamp() - :'start'), ({used} - :used) / 1e6;\n"
        lines = self.psql(f"{before};\n{clock}{sql};\n{took}{after};\n", user, db)
        return tuple(map(float, next(line for line in lines if line.startswith("took|")).split("|")[1:]))

    def pgbench(self, script, clients, length, user="postgres", db="postgres", protocol="prepared", options=""):
        """Runs a script, or a builtin one (`-b name`), for a length (`-T 3`, `-t 100`).

        Returns tps, from when the sessions are warm (a quarter of the run, or ten transactions of each client), and
        each statement's average latency in ms."""
        with tempfile.TemporaryDirectory() as scratch:
            what = script.split()
            if what[0] != "-b":
                what = ["-f", "script.sql"]
                with open(os.path.join(scratch, "script.sql"), "w", encoding="utf-8") as file:
                    file.write(script)
            out = run(["pgbench", "-n", "-r", "-l", "-D", "started=0", "-M", protocol, "-c", str(clients),
                       "-j", str(min(clients, 2)), *length.split(), "-U", user, *what, db],
                      {**self.env, "PGOPTIONS": options}, cwd=scratch).stdout
            clients = {}
            for log in (name for name in os.listdir(scratch) if name.startswith("pgbench_log")):
                with open(os.path.join(scratch, log), encoding="utf-8") as file:
                    for line in file:
                        client, _, _, _, seconds, micros = line.split()
                        clients.setdefault(client, []).append(int(seconds) + int(micros) / 1e6)
        if int(re.search(r"^number of failed transactions: (\d+)", out, re.M)[1]):
            raise Failed(out)
        latencies = [float(ms) for ms, text in re.findall(r"^ +([\d.]+) +\d+ +(.*)$", out, re.M) if text[0] != "\\"]
        ends = sorted(end for client in clients.values() for end in client)
        quarter = (ends[-1] - ends[0]) / 4
        warm = max(sorted(client)[:10][-1] for client in clients.values())
        warm = min(max(warm, ends[0] + quarter), ends[-1] - quarter)
        return sum(end > warm for end in ends) / (ends[-1] - warm), latencies

    def pgbench_init(self, scale, db):
        run(["pgbench", "-i", "-q", "-s", str(scale), "-U", "postgres", db], self.env)


def run(command, env, text=None, cwd=None):
    done = subprocess.run(command, env=env, input=text, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(f"{shlex.join(command)}\n{done.stderr.strip()}\n{(text or '')[:400]}")
    return done


class Bench:
    def __init__(self, quick, rounds, rows, seconds):
        self.quick, self.rounds, self.rows, self.seconds = quick, rounds, rows, seconds
        self.results, self.checks, self.current = [], 0, ""
        self.servers, self.made, self.server = [], set(), None

    def start(self):
        self.server = self.cluster()
        self.psql("CREATE ROLE alice LOGIN; CREATE ROLE bob LOGIN; GRANT pg_read_server_files TO alice;")
        self.opponents()
        # The first call loads the library, which makes its settings known.
        self.psql("SELECT current_actor(); GRANT SET ON PARAMETER rowclaim.actor TO alice;")

    # One round is a few seconds; nothing but the workload should write in it.
    SETTINGS = ("fsync=off", "shared_buffers=512MB", "max_wal_size=16GB", "checkpoint_timeout=1d", "autovacuum=off",
                "jit=off", "max_connections=60", "wal_retrieve_retry_interval=100ms")

    def cluster(self):
        server = Server(self.SETTINGS)
        self.servers.append(server)
        return server.start()

    def stop(self):
        while self.servers:
            self.servers.pop().stop()

    def psql(self, script, user="postgres", db="postgres", **variables):
        return self.server.psql(script, user, db, **variables)

    def value(self, sql, user="postgres", db="postgres"):
        return self.server.value(sql, user, db)

    def once(self, name):
        """True at the first call with this name: for what several workloads share."""
        first = name not in self.made
        self.made.add(name)
        return first

    def opponents(self, db="postgres", server=None):
        """Puts the extension and opponents.sql into a database."""
        with open(os.path.join(BENCH, "opponents.sql"), encoding="utf-8") as file:
            (server or self.server).psql(file.read(), db=db)

    def set(self, name, value):
        """Changes a setting of the running server."""
        if self.value(f"SHOW {name}") != value:
            self.psql(f"ALTER SYSTEM SET {name} = {value};\nSELECT pg_reload_conf();")
            while self.value(f"SHOW {name}") != value:
                pass
            self.psql("CHECKPOINT")
            os.sync()

    def settle(self, *tables, db="postgres"):
        """Every sample starts with vacuumed and analyzed tables, as autovacuum would leave them, and a checkpoint."""
        tables = (*tables, "rowclaim.draft", "rowclaim.draft_row", "rowclaim.claim", "rowclaim.journal")
        self.psql(f"VACUUM ANALYZE {', '.join(tables)};\nCHECKPOINT;", db=db)

    def ms(self, sql, user="alice", before="", after="", db="postgres"):
        return self.server.ms(sql, user, db, before, after)

    def cost(self, sql, before):
        return self.server.cost(sql, "alice", before=before)

    def tps(self, script, clients, user="alice", **options):
        # The more sessions, the longer until all are warm.
        seconds = self.seconds + (clients > 8)
        return self.server.pgbench(script, clients, f"-T {seconds}", user, **options)

    # Checks: each ends the run if it does not hold.

    def expect(self, what, sql, wanted, **where):
        found = self.value(sql, **where)
        self.checks += 1
        if found != str(wanted):
            raise Failed(f"{self.current}: {what}: {found} instead of {wanted}\n{sql}")

    def refused(self, sql, sqlstate, user="bob", db="postgres"):
        """The statement must fail with this SQLSTATE."""
        self.checks += 1
        command = ["psql", "-Xq", "-v", "VERBOSITY=sqlstate", "-U", user, "-d", db, "-c", sql]
        done = subprocess.run(command, env=self.server.env, capture_output=True, text=True, check=False)
        if sqlstate not in done.stderr:
            raise Failed(f"{self.current}: {sql}\nshould fail with {sqlstate}: {done.stderr or 'it did not'}")

    # Races.

    def race(self, measures, contestants, ours=(OURS,)):
        """Lets contestants, {name: function returning one sample per measure}, run in turn, round by round."""
        measures = measures if isinstance(measures, list) else [measures]
        if self.quick:
            named = {target[0] for measure in measures for target in measure.targets}
            contestants = {name: run for name, run in contestants.items() if named and (name in named or name in ours)}
        samples = [{name: [] for name in contestants} for _ in measures]
        order = list(contestants)
        for _ in range(self.rounds):
            # Nobody always follows the same one.
            order = order[1:] + order[:1]
            for name in order:
                sample = contestants[name]()
                for i, value in enumerate(sample if isinstance(sample, tuple) else (sample,)):
                    if value is not None:
                        samples[i][name].append(value)
        for measure, taken in zip(measures if contestants else [], samples):
            self.report(measure, {name: values for name, values in taken.items() if values}, ours)

    def report(self, measure, samples, ours):
        result = {"workload": self.current, "title": measure.title, "case": measure.case, "unit": measure.unit,
                  "more_is_better": measure.more_is_better, "contestants": [], "ratios": []}
        for name, taken in samples.items():
            median = statistics.median(taken)
            spread = (max(taken) - min(taken)) / median if median else 0
            result["contestants"].append({"name": name, "median": median, "spread": spread, "samples": taken})
        for us in (name for name in ours if name in samples):
            for opponent in (name for name in samples if name not in ours):
                # Of the same round: what disturbs the machine for a while disturbs both.
                ratios = [a / b for a, b in zip(samples[us], samples[opponent])]
                ratio = {"ours": us, "opponent": opponent, "ratio": statistics.median(ratios), "samples": ratios}
                for name, relation, limit, *whose in measure.targets:
                    if name == opponent and us in (whose or [us]):
                        ratio["target"] = {"relation": relation, "limit": limit}
                        ratio["met"] = met(ratio["ratio"], relation, limit)
                result["ratios"].append(ratio)
        self.results.append(result)
        show(result)

    def fact(self, title, found, target, holds):
        """A target that is no ratio."""
        fact = {"workload": self.current, "title": title, "found": found, "target": target, "met": bool(holds)}
        self.results.append(fact)
        print(f"\n{self.current:4} {title}\n       {found}\n       target: {target}   {verdict(fact['met'])}", flush=True)

    def unavailable(self, why):
        self.results.append({"workload": self.current, "title": why, "unavailable": True})
        print(f"\n{self.current:4} not available: {why}", flush=True)


def met(ratio, relation, limit):
    return {"<=": ratio <= limit, ">=": ratio >= limit, "±": abs(ratio - 1) <= limit}[relation]


def verdict(is_met):
    return "met" if is_met else "MISSED"


def target_text(target):
    relation, limit = target["relation"], target["limit"]
    return f"± {limit:.0%}" if relation == "±" else f"{'≤' if relation == '<=' else '≥'} {limit:.2f}"


def number(value):
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def show(result):
    """Medians and spreads, then ours ÷ each opponent with the target."""
    title = ", ".join(filter(None, (result["title"], result["case"])))
    print(f"\n{result['workload']:4} {title} [{result['unit']}, "
          f"{'more' if result['more_is_better'] else 'less'} is better]")
    whose = max([len(ratio["ours"]) for ratio in result["ratios"]], default=0)
    by_opponent = {}
    for ratio in result["ratios"]:
        by_opponent.setdefault(ratio["opponent"], []).append(ratio)
    for contestant in result["contestants"]:
        line = f"       {contestant['name']:<22} {number(contestant['median']):>10}  ± {contestant['spread'] / 2:>4.0%} "
        for ratio in by_opponent.get(contestant["name"], []):
            line = f"{line:<47} {ratio['ours']:>{whose}} ÷ it: {ratio['ratio']:6.3f}"
            if "target" in ratio:
                line += f"  target {target_text(ratio['target'])}  {verdict(ratio['met'])}"
            print(line)
            line = ""
        if line:
            print(line.rstrip())
    sys.stdout.flush()
