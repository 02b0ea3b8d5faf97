"""The cells: what each measures, on which servers, and what has to come out."""
import json
import math
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time

from comparison.report import Failure, Row
from comparison.servers import Idemd, Redis, die_with_parent

UNFINISHED_MAX = 900000  # claims a daemon may hold are limited; a run of new claims ends there
SMALL_COUNT = 10000      # operations stored in the store that a large one is held against
SUSTAINED_S = 20.0
QUIET_S = 8.0            # a figure has settled that stayed the same for so long: longer than idemd puts off what it may
US, MIB = 1000.0, 1024.0 * 1024.0  # the bench's figures are in microseconds; shown in milliseconds


class Load:
    """What idem-bench is told."""

    def __init__(self, scenario, connections, pipeline, body=0, keys=None):
        self.scenario, self.connections, self.pipeline, self.body = scenario, connections, pipeline, body
        self.keys = keys or (UNFINISHED_MAX if scenario == "claim" else None)


# The core cells: name, load, then a row for each figure: what it is, figure, goal.
CORE_CELLS = [
    ("claim-1", Load("claim", 1, 1), [("claim, 1 connection, p50", "p50_us", ("≤", 0.9)),
                                      ("claim, 1 connection, p99", "p99_us", None)]),
    ("claim-50", Load("claim", 50, 1), [("claim, 50 connections", "per_second", ("≥", 1.5)),
                                        ("claim, 50 connections, p99", "p99_us", ("≤", 1.0))]),
    ("claim-50x16", Load("claim", 50, 16), [("claim, 50×16", "per_second", ("≥", 2.2))]),
    ("cycle-1", Load("cycle", 1, 1, 200), [("cycle 200 B, 1 connection, p50", "p50_us", ("≤", 0.9))]),
    ("cycle-50", Load("cycle", 50, 1, 200), [("cycle 200 B, 50 connections", "per_second", ("≥", 1.5))]),
    ("cycle-50x16", Load("cycle", 50, 16, 200), [("cycle 200 B, 50×16", "per_second", ("≥", 2.5))]),
    ("cycle-4k-50", Load("cycle", 50, 1, 4096), [("cycle 4 KiB, 50 connections", "per_second", ("≥", 1.3))]),
    ("cycle-4k-50x16", Load("cycle", 50, 16, 4096), [("cycle 4 KiB, 50×16", "per_second", ("≥", 1.3))]),
    ("replay-50", Load("replay", 50, 1, 200), [("replay 200 B to GET, 50 connections", "per_second", ("≥", 0.9))]),
    ("replay-50x16", Load("replay", 50, 16, 200), [("replay 200 B to GET, 50×16", "per_second", ("≥", 0.75))]),
]
# One line each, without a goal.
MORE_CELLS = [
    ("hot-key", Load("hot-key", 50, 1, 200), [("all on one key that waits, 50 connections", "per_second", None)]),
    ("mixed", Load("mixed", 50, 16, 200), [("nine replays to one cycle, 200 B, 50×16", "per_second", None)]),
    ("cycle-64k", Load("cycle", 50, 1, 65536), [("cycle 64 KiB, 50 connections", "per_second", None)]),
]
FLOOR_LOAD = Load("claim", 50, 16)
UNLIMITED_LOAD = Load("claim", 50, 16, keys=10**9)  # of floors that hold nothing
STORED_CELLS = [("claim, 50 connections", Load("claim", 50, 1, keys=300000)),
                ("claim, 50×16", Load("claim", 50, 16, keys=600000)),
                ("cycle 200 B, 50×16", Load("cycle", 50, 16, 200)),
                ("replay of what is stored, 50×16", Load("replay", 50, 16))]
CYCLE = Load("cycle", 50, 16, 200)

CORE = [name for name, _, _ in CORE_CELLS] + ["floors"]
OTHERS = ["stored", "memory", "start", "stored-redis", "written", "open-loop", "idle", "hot-key", "mixed", "cycle-64k",
          "stored-tenth", "expired"]
NAMES = CORE + OTHERS


def millions(count):
    if count >= 1000000:
        return f"{count / 1e6:g} million"
    return f"{count / 1e3:g} thousand" if count >= 1000 else str(count)


class Comparison:
    """Measures the wanted cells. What a cell needs is made when it is first asked for; a cell that fails ends only itself."""

    def __init__(self, build, work, rounds, seconds, count, wanted):
        self.build, self.work, self.rounds, self.seconds, self.count, self.wanted = build, work, rounds, seconds, count, wanted
        self.bench_program = os.path.join(build, "bench", "idem-bench")
        self.sustained_s = SUSTAINED_S if count >= 1000000 else seconds
        self.quiet_s = QUIET_S if count >= 1000000 else 1.0
        self.everysec = True
        self.runs, self.rows = [], []
        self.folders = 0
        self.filled = {}      # operations stored -> data directory
        self.redis = None     # the one with much stored
        self.fill_rate = 0.0  # operations a second of the last large fill

    def sections(self):
        """What the document's tables are called, and which rows stand in each."""
        core = [name for name, _, _ in CORE_CELLS]
        weaker = lambda row: getattr(row, "right", None) == "Redis everysec"  # noqa: E731
        return [("To Redis", lambda row: row.cell in core and not weaker(row)),
                ("To the floors", lambda row: row.cell == "floors"),
                ("With much stored, and at rest", lambda row: row.cell in ("stored", "memory", "start", "written", "open-loop",
                                                                          "idle")),
                ("More cells", lambda row: row.cell in ("hot-key", "mixed", "cycle-64k", "stored-tenth", "stored-redis",
                                                        "expired")),
                ("To Redis everysec, a weaker promise: a crash may lose what it had answered for a second or more", weaker)]

    # ---- Running ----

    def folder(self):
        self.folders += 1
        return os.path.join(self.work, str(self.folders))

    def idemd(self, *options, data=None):
        return Idemd(self.build, self.folder(), *options, data=data)

    def say(self, text):
        print(f"{time.strftime('%H:%M:%S')}  {text}", file=sys.stderr, flush=True)

    def bench(self, cell, label, target, load, *more, seconds=None, limit_s=None, turn=0):
        """One run of idem-bench. Its figures are kept."""
        seconds = seconds or self.seconds
        command = [self.bench_program, "--target", target, "--scenario", load.scenario, "--connections", str(load.connections),
                   "--pipeline", str(load.pipeline), "--body-bytes", str(load.body), "--seconds", str(seconds), "--json", "-"]
        if load.keys:
            command += ["--keys", str(load.keys)]
        done = subprocess.run(command + list(more), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                              timeout=limit_s or seconds + 120, preexec_fn=die_with_parent)
        if done.returncode not in (0, 70):
            raise RuntimeError(f"{label}: idem-bench {load.scenario}: {done.stderr.strip()[-300:]}")
        result = json.loads(done.stdout)
        if result["errors"]:
            raise RuntimeError(f"{label}: {result['errors']} errors in {load.scenario}")
        kept = {"cell": cell, "round": turn, "server": label}
        kept.update({name: value for name, value in result.items() if name not in ("target", "rate", "errors") or
                     (name == "rate" and value)})
        self.runs.append(kept)
        self.say(f"{cell} {label}: {result['per_second']:,.0f}/s  p50 {result['p50_us']:.0f}  p99 {result['p99_us']:.0f}  "
                 f"p99.9 {result['p999_us']:.0f} us  (generator busy {100 * result['generator_busy']:.0f} %)")
        return result

    def guarded(self, cell, work):
        """Runs a cell's work; what goes wrong becomes its row."""
        try:
            return work()
        except (RuntimeError, OSError, ValueError, subprocess.SubprocessError, ZeroDivisionError) as problem:
            self.say(f"{cell} failed: {problem}")
            self.rows = [row for row in self.rows if row.cell != cell] + [Failure(cell, str(problem).replace("|", "/"))]
            return None

    def measure(self):
        """All rows, in the order of the cells."""
        self.measure_versus_redis(CORE_CELLS + MORE_CELLS)
        for name, work in (("memory", self.measure_memory), ("stored", self.measure_stored), ("start", self.measure_start),
                           ("stored-redis", self.measure_stored_redis), ("stored-tenth", self.measure_stored_tenth),
                           ("written", self.measure_written), ("open-loop", self.measure_open_loop),
                           ("expired", self.measure_expired), ("idle", self.measure_idle)):
            if name in self.wanted:
                self.guarded(name, work)
        return sorted(self.rows, key=lambda row: NAMES.index(row.cell))

    def end(self):
        if self.redis:
            self.redis.remove()

    # ---- The core: fresh servers for every run, which take turns ----

    def servers_of(self, cell):
        """Label and maker of all that take part in a cell."""
        servers = [("idemd", self.idemd), ("Redis always", lambda: Redis(self.folder(), "always"))]
        if self.everysec and cell in CORE:
            servers.append(("Redis everysec", lambda: Redis(self.folder(), "everysec")))
        return servers

    def measure_versus_redis(self, cells):
        cells = [cell for cell in cells if cell[0] in self.wanted]
        results, failed = {}, set()
        for turn in range(self.rounds):
            for cell, load, _ in cells:
                if cell not in failed and self.guarded(cell, lambda: self.take_turns(cell, load, turn, results)) is None:
                    failed.add(cell)
            if "floors" in self.wanted and "floors" not in failed:
                if self.guarded("floors", lambda: self.take_turns_with_floors(turn, results)) is None:
                    failed.add("floors")
        for cell, _, figures in cells:
            if cell not in failed:
                self.add_core_rows(cell, figures, results)
        if "floors" in self.wanted and "floors" not in failed:
            self.add_floor_rows(results)

    def take_turns(self, cell, load, turn, results):
        servers = self.servers_of(cell)
        for at in range(len(servers)):
            label, make = servers[(at + turn) % len(servers)]
            with make() as server:
                results.setdefault((cell, label), []).append(self.bench(cell, label, server.target, load, turn=turn))
            os.sync()
        return True

    def add_core_rows(self, cell, figures, results):
        for what, figure, goal in figures:
            lefts = [result[figure] for result in results[cell, "idemd"]]
            for label in ("Redis always", "Redis everysec"):
                if (cell, label) not in results:
                    continue
                rights = [result[figure] for result in results[cell, label]]
                always = label == "Redis always"
                time_figure = figure.endswith("_us")
                self.rows.append(Row(cell, what, "ms" if time_figure else "/s", "idemd", lefts, label, rights,
                                     goal=goal if always else None, in_chart=always and cell in CORE, less_is_better=time_figure,
                                     scale=US if time_figure else 1.0, digits=2 if time_figure else 0,
                                     note=self.limited(results[cell, "idemd"])))

    @staticmethod
    def limited(results):
        busy = statistics.median(result["generator_busy"] for result in results)
        return "the generator was the limit" if busy > 0.9 else ""

    def floors(self):
        place = os.path.join(self.work, "floor")
        os.makedirs(place, exist_ok=True)
        return [("floor:durable", "floor:durable:" + place), ("floor:echo", "floor:echo"), ("floor:log", "floor:log:" + place),
                ("floor:lmdb", "floor:lmdb:" + place)]

    def take_turns_with_floors(self, turn, results):
        with self.idemd() as server:
            results.setdefault(("floors", "idemd"), []).append(self.bench("floors", "idemd", server.target, FLOOR_LOAD, turn=turn))
        for label, target in self.floors():
            load = FLOOR_LOAD if label == "floor:lmdb" else UNLIMITED_LOAD
            results.setdefault(("floors", label), []).append(self.bench("floors", label, target, load, turn=turn))
        return True

    def add_floor_rows(self, results):
        lefts = [result["per_second"] for result in results["floors", "idemd"]]
        for label, _ in self.floors():
            rights = [result["per_second"] for result in results["floors", label]]
            self.rows.append(Row("floors", "claim, 50×16", "/s", "idemd", lefts, label, rights,
                                 goal=("≥", 0.6) if label == "floor:durable" else None, digits=0,
                                 note=self.limited(results["floors", label])))

    # ---- Much stored ----

    def fill(self, server, first, count, label):
        """Operations that are done, with bodies of 0 bytes."""
        load = Load("cycle", 50, 16, 0, keys=count)
        result = self.bench("fill", label, server.target, load, "--first-key", str(first), seconds=3600,
                            limit_s=120 + count / 5000)
        if result["operations"] < count:
            raise RuntimeError(f"{label}: only {result['operations']} stored")
        self.fill_rate = result["per_second"]

    def data_with(self, count):
        """A data directory with so many operations stored. Nobody runs on it: it is copied."""
        if count not in self.filled:
            data = os.path.join(self.work, f"stored-{count}")
            with self.idemd(data=data) as server:
                self.fill(server, 1, count, "idemd")
            self.filled[count] = data
        return self.filled[count]

    def copy_of(self, count):
        source, copy = self.data_with(count), os.path.join(self.folder(), "data")
        os.makedirs(os.path.dirname(copy))
        subprocess.run(["cp", "-r", "--sparse=always", "--reflink=auto", source, copy], check=True, timeout=1200)
        os.sync()
        return copy

    def measure_memory(self):
        """RssAnon over that of the empty server, per operation."""
        data = os.path.join(self.work, f"stored-{self.count}")
        tenth = self.count // 10
        with self.idemd(data=data) as server:
            empty = server.settled(server.rss_anon_bytes, self.quiet_s)
            self.fill(server, 1, tenth, "idemd")
            after_tenth = server.settled(server.rss_anon_bytes, self.quiet_s)
            self.fill(server, 1 + tenth, self.count - tenth, "idemd")
            after_all = server.settled(server.rss_anon_bytes, self.quiet_s)
        self.filled[self.count] = data
        redis = self.redis_filled()
        self.rows.append(Row("memory", f"RssAnon per operation, {millions(tenth)} finished", "B", "idemd",
                             [(after_tenth - empty) / tenth], goal=("≤", 27)))
        self.rows.append(Row("memory", f"RssAnon per operation, {millions(self.count)} finished", "B", "idemd",
                             [(after_all - empty) / self.count], goal=("≤", 24),
                             note=f"Redis: {redis.bytes_a_key:.0f} B a key"))

    def redis_filled(self):
        """A Redis that has as many keys; stopped."""
        if not self.redis:
            redis = Redis(self.folder(), "no")
            try:
                redis.start()
                empty = redis.rss_anon_bytes()
                self.fill(redis, 1, self.count, "Redis")
                redis.bytes_a_key = (redis.settled(redis.rss_anon_bytes, self.quiet_s) - empty) / self.count
            except BaseException:
                redis.remove()
                raise
            redis.stop()
            self.redis = redis
        return self.redis

    @staticmethod
    def warm(folder):
        for root, _, names in os.walk(folder):
            for name in names:
                with open(os.path.join(root, name), "rb") as file:
                    while file.read(1 << 22):
                        pass

    def time_start(self, server, folder):
        self.warm(folder)
        try:
            server.start()
            self.say(f"start {server.label}: ready after {server.ready_s:.2f} s")
            return server.ready_s
        finally:
            server.stop()

    def measure_start(self):
        data, redis = self.copy_of(self.count), self.redis_filled()
        idemd = self.idemd(data=data)
        lefts, rights = [], []
        for _ in range(self.rounds):
            lefts.append(self.time_start(idemd, data))
            rights.append(self.time_start(redis, redis.folder))
        idemd.remove()
        shutil.rmtree(os.path.dirname(data))
        self.rows.append(Row("start", f"start to ready, {millions(self.count)} stored, to loading the AOF", "s", "idemd", lefts,
                             "Redis", rights, goal=("≤", 0.25), digits=2))

    def measure_against_small(self, cell, count, cells, goal):
        """The same cells on a store with much in it and on one with little, both started anew each round."""
        results = {}
        self.data_with(count), self.data_with(SMALL_COUNT)
        for turn in range(self.rounds):
            copies = {size: self.copy_of(size) for size in (count, SMALL_COUNT)}
            with self.idemd(data=copies[count]) as large, self.idemd(data=copies[SMALL_COUNT]) as small:
                for what, load in cells:
                    sides = [(count, large), (SMALL_COUNT, small)]
                    for size, server in sides if turn % 2 == 0 else reversed(sides):
                        results.setdefault((what, size), []).append(self.run_on_stored(cell, server, size, load, turn))
            for copy in copies.values():
                shutil.rmtree(os.path.dirname(copy))
        for what, _ in cells:
            self.rows.append(Row(cell, f"{what}, {millions(count)} stored to {millions(SMALL_COUNT)}", "/s", "large",
                                 results[what, count], "small", results[what, SMALL_COUNT], goal=goal, digits=0))

    def run_on_stored(self, cell, server, size, load, turn):
        more = ()
        if load.scenario == "replay":
            more = ("--stored", "--first-key", "1", "--keys", str(size))
        return self.bench(cell, f"{millions(size)} stored", server.target, load, *more, turn=turn)["per_second"]

    def measure_stored(self):
        self.measure_against_small("stored", self.count, STORED_CELLS, ("≥", 0.9))

    def measure_stored_tenth(self):
        self.measure_against_small("stored-tenth", self.count // 10, [STORED_CELLS[2]], None)

    def measure_stored_redis(self):
        copy, redis = self.copy_of(self.count), self.redis_filled()
        lefts, rights = [], []
        try:
            redis.start()
            redis.set_fsync("always")
            with self.idemd(data=copy) as server:
                for turn in range(self.rounds):
                    lefts.append(self.bench("stored-redis", "idemd", server.target, CYCLE, turn=turn)["per_second"])
                    rights.append(self.bench("stored-redis", redis.label, redis.target, CYCLE, turn=turn)["per_second"])
        finally:
            redis.stop()
            shutil.rmtree(os.path.dirname(copy))
        self.rows.append(Row("stored-redis", f"cycle 200 B, 50×16, {millions(self.count)} stored in both", "/s", "idemd", lefts,
                             "Redis always", rights, digits=0))

    # ---- What is written ----

    def written_per_cycle(self, label, make, turn, appended):
        with make() as server:
            before = server.written_bytes()
            result = self.bench("written", label, server.target, CYCLE, seconds=self.sustained_s, turn=turn)
            written = server.settled(server.written_bytes, self.quiet_s) - before
            if label != "idemd":
                appended.append(server.appended_bytes() / result["operations"])
        os.sync()
        return written / result["operations"]

    def measure_written(self):
        figures, appended = {}, []
        for turn in range(self.rounds):
            for label, make in self.servers_of("written"):
                figures.setdefault(label, []).append(self.written_per_cycle(label, make, turn, appended))
        what = f"bytes written per cycle of 200 B, 50×16, {self.sustained_s:g} s"
        self.rows.append(Row("written", what, "B", "idemd", figures["idemd"], "Redis always", figures["Redis always"],
                             goal=("≤", 2.0), digits=0))
        self.rows.append(Row("written", what + ", to the length of the AOF", "B", "idemd", figures["idemd"], "AOF", appended,
                             digits=0))

    # ---- At a fixed rate, while what was stored goes ----

    def peak(self):
        """Cycles a second of a fresh daemon."""
        known = [run["per_second"] for run in self.runs if run["cell"] == "cycle-50x16" and run["server"] == "idemd"]
        if not known:
            with self.idemd() as server:
                known = [self.bench("open-loop", "idemd", server.target, CYCLE)["per_second"]]
        return statistics.median(known)

    def await_sweep(self, server, seconds):
        end = time.monotonic() + seconds
        while server.metric("idemd_swept_total") == 0:
            if time.monotonic() > end:
                raise RuntimeError("nothing was swept")
            time.sleep(0.2)

    def measure_open_loop(self):
        peak = self.peak()
        rate = math.floor(peak / 2)
        keep_s = max(10, math.ceil(1.2 * self.count / (self.fill_rate or peak) + 5))
        seconds = max(self.seconds, 8.0) if self.count >= 1000000 else self.seconds
        lefts, rights = [], []
        with self.idemd("--keep", f"{keep_s}s", "--keep-min", "1s") as server:
            self.fill(server, 1, self.count, "idemd")
            self.await_sweep(server, 2 * keep_s + 30)
            stored, swept = server.metric("idemd_finished"), server.metric("idemd_swept_total")
            for turn in range(self.rounds):
                lefts.append(self.bench("open-loop", "idemd", server.target, CYCLE, "--rate", str(rate), seconds=seconds, turn=turn))
                server.send_signal(signal.SIGSTOP)  # the floor is the disk's alone
                try:
                    rights.append(self.bench("open-loop", "floor:log", dict(self.floors())["floor:log"], CYCLE, "--rate", str(rate),
                                             seconds=seconds, turn=turn))
                finally:
                    server.send_signal(signal.SIGCONT)
                time.sleep(2)
            swept = server.metric("idemd_swept_total") - swept
        for figure, name, goal in (("p50_us", "p50", None), ("p99_us", "p99", None), ("p999_us", "p99.9", ("≤", 2.0))):
            self.rows.append(Row("open-loop", f"open loop, {rate:,} cycles/s, {name}", "ms", "idemd",
                                 [result[figure] for result in lefts], "floor:log", [result[figure] for result in rights],
                                 goal=goal, scale=US, digits=2,
                                 note=f"{stored / 1e6:.2f} million stored, {swept / 1e6:.2f} million swept meanwhile"))

    def measure_expired(self):
        """After everything that was stored went at once, as fast as a daemon that never held anything?"""
        count = self.count // 10
        keep_s = max(5, math.ceil(1.3 * count / (self.fill_rate or 50000) + 3))
        lefts, rights = [], []
        for turn in range(self.rounds):
            with self.idemd("--keep", f"{keep_s}s", "--keep-min", "1s") as server:
                self.fill(server, 1, count, "idemd")
                self.await_end(server, 3 * keep_s + 120)
                lefts.append(self.bench("expired", "after expiry", server.target, CYCLE, turn=turn)["per_second"])
            with self.idemd() as server:
                rights.append(self.bench("expired", "never held any", server.target, CYCLE, turn=turn)["per_second"])
        self.rows.append(Row("expired", f"cycle 200 B, 50×16, after {millions(count)} expired at once", "/s", "idemd", lefts,
                             "never held any", rights, digits=0))

    def await_end(self, server, seconds):
        end = time.monotonic() + seconds
        while server.metric("idemd_finished") > 0:
            if time.monotonic() > end:
                raise RuntimeError("not everything was swept")
            time.sleep(0.5)

    # ---- At rest ----

    def measure_idle(self):
        rss, wake_ups = [], []
        for _ in range(min(self.rounds, 3)):
            with self.idemd() as server:
                time.sleep(1)
                before = server.wake_ups()
                time.sleep(10)
                wake_ups.append(server.wake_ups() - before)
                rss.append(server.rss_bytes())
        self.rows.append(Row("idle", "an empty daemon, RSS", "MiB", "idemd", rss, goal=("≤", 6.0), scale=MIB))
        self.rows.append(Row("idle", "an empty daemon, wake-ups in 10 s", "", "idemd", wake_ups, goal=("≤", 0), digits=0))
