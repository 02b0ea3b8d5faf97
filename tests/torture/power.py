"""Power cuts. A preloaded recorder (interpose.c) logs what a real daemon does to its files, and what it sends to clients, through several
lives of the daemon over one store. A model of the disk (disk.py) is then cut at many points of that recording; what the cut leaves is laid
into a folder, the daemon starts on it, and for every operation whose answer had been handed to a send before the cut it has to say what
that answer said: outcomes byte for byte, owners by their fence, interruptions, and no fence twice. Some of these starts are recorded too,
and cut again."""
import dataclasses
import multiprocessing
import os
import random
import shutil
import signal
import tempfile
import time
import traceback

from . import broken, disk
from .daemon import Client, Daemon, Ended, interposed
from .operations import DONE, INTERRUPTED, RUNNING, History, Work, look
from .run import IDEMD, Violation, ignore_sockets

SMALL_SHARE = 500
SAID_EVERY = 5000       # cuts
CUTS_A_STORE = 120      # of one recording, before the next is made
AGAIN_SHARE = 0.12      # of the starts after a cut that are recorded and cut again, so many times:
CUTS_AGAIN = 4
LARGE_SHARE = 0.12      # of the stores whose tables and log grow through large bodies
MADE_BEFORE_SHARE = 0.5  # of the stores whose directory is there before the first start, its name flushed


# ---- Recording -------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Build:
    """What is tested: a program, and the ways in which the recorder breaks it."""
    program: str
    ways: str = ""
    large_share: float = LARGE_SHARE
    slow_us: int = 0


class Store:
    """A store, what was done to it, and the recording of that: one list of records for each life of the daemon."""

    def __init__(self, build, folder, choose):
        self.build, self.folder, self.random = build, folder, choose
        self.tree = os.path.join(folder, "tree")
        os.makedirs(self.tree)
        self.data = os.path.join(self.tree, "data")
        if choose.random() < MADE_BEFORE_SHARE:
            os.mkdir(self.data)
        self.before = sorted(os.listdir(self.tree))
        self.history, self.lives = History(), []
        self.large = choose.random() < build.large_share
        self.slow_us = build.slow_us or (choose.choice([0, 300, 3000]) if self.large else 0)

    def record(self):
        lives = 1 if self.large else self.random.randint(2, 4)
        for life in range(lives):
            recording = os.path.join(self.folder, f"recording.{life}")
            daemon = Daemon(self.folder, self.data, program=self.build.program,
                            environment=interposed(self.tree, recording, self.build.ways, self.slow_us))
            try:
                if not daemon.start():
                    raise Violation(f"it does not start: exit status {daemon.code}\n{daemon.read_log()}")
                self._live(daemon)
            except Ended as ended:
                raise Violation(f"{ended}: exit status {daemon.wait()}\n{daemon.read_log()}") from ended
            finally:
                daemon.kill()
            self.lives.append(disk.read_records(recording))
            if not disk.whole(self.lives[-1]):
                return  # what a next life would find is not known

    def _live(self, daemon):
        client = Client(daemon, self.history.next_id)
        large = {"sizes": (10, 100000, 300000, 900000), "names": 24, "finishes": True} if self.large else {}
        work = Work(self.history, self.random, **large)
        look(client, self.history, [name for name, key in self.history.keys.items() if key.steps[-1][1] is None])
        calls = self.random.randint(40, 70) if self.large else self.random.randint(5, 40)
        window = self.random.choice([1, 3, 8])
        while calls > 0:
            count = min(calls, self.random.randint(1, window))
            work.send(client, count)
            calls -= count
            while len(work.open) >= window or (work.open and self.random.random() < 0.5):
                work.receive(client)
        if self.random.random() < 0.5:
            while work.open:
                work.receive(client)
        self.history.next_id = client.next_id
        if self.random.random() < 0.5:
            daemon.kill()
        elif daemon.terminate() != 0:
            raise Violation(f"it does not drain: exit status {daemon.code}\n{daemon.read_log()}")
        client.socket.settimeout(5)
        try:  # what it still answered
            while work.open:
                work.receive(client)
        except Ended:
            pass
        work.give_up()
        client.close()


# ---- Cutting ------------------------------------------------------------------------------------------------


class Cut:
    """A cut, from which a daemon starts."""

    def __init__(self, folder, build, choose):
        self.folder, self.build, self.random = folder, build, choose
        self.tree = os.path.join(folder, "tree")
        self.recording = os.path.join(folder, "recording")

    def check(self, model, knowledge, what, record):
        """Lays what is left, starts on it, compares. Returns the history of that, from which to cut again if it was recorded."""
        shutil.rmtree(self.folder, ignore_errors=True)
        os.makedirs(self.tree)
        choice = disk.Choice(self.random, self.random.choice(disk.Choice.MODES))
        junk = self.random.choice([b"", bytes(8192), self.random.randbytes(8192)])
        chances = self.random.getstate()
        model.lay(self.tree, choice, junk)
        left = os.path.join(self.folder, "left") if record else None
        if record:
            shutil.copytree(self.tree, left)
        history = History(knowledge)
        daemon = Daemon(self.folder, os.path.join(self.tree, "data"), program=self.build.program,
                        environment=interposed(self.tree, self.recording if record else None, self.build.ways))
        try:
            if not daemon.start():
                raise Violation(f"it does not start: exit status {daemon.code}\n{daemon.read_log()}")
            self._compare(daemon, history, knowledge)
            if record and self.random.random() < 0.5:
                daemon.terminate()
        except (Violation, Ended) as violation:
            daemon.kill()
            self.random.setstate(chances)
            os.makedirs(os.path.join(self.folder, "image"))
            model.lay(os.path.join(self.folder, "image"), choice, junk)  # as it was before the daemon started on it
            raise Violation(f"{what}, what is unflushed: {choice.mode}: {violation}") from violation
        finally:
            daemon.kill()
        return history

    def _compare(self, daemon, history, knowledge):
        client = Client(daemon)
        try:
            look(client, history, knowledge.allowed)
            self._go_on(client, history, knowledge)
        finally:
            history.next_id = client.next_id
            client.close()

    def _go_on(self, client, history, knowledge):
        """Work goes on from what was there: grants have higher fences, owners are still owners, outcomes are replayed."""
        work = Work(history, self.random)
        chosen = [work.begin(history.key(f"n{client.next_id + n}")) for n in range(2)]
        for state, some in ((RUNNING, work.complete), (INTERRUPTED, work.take_over), (DONE, work.replay)):
            keys = [key for key in history.keys.values() if key.state.state == state]
            for key in self.random.sample(keys, min(2, len(keys))):
                chosen.append(some(key))
        for answer in work.all_at_once(client, chosen):
            fence = answer.begin.grant.fence
            if fence and fence <= knowledge.fence:
                raise Violation(f"fence {fence} was given again: {knowledge.fence} had been given before")


class Worker:
    """Makes stores and cuts them, until it has made enough cuts or the time is over."""

    def __init__(self, build, folder, seed, ends, report):
        self.build, self.folder, self.seed, self.ends, self.report = build, folder, seed, ends, report
        self.cut = None

    def over(self):
        return time.monotonic() >= self.ends

    def store(self, number, cuts):
        """One store, and about so many cuts of it. Returns how many they were; all of them if it ended with a violation."""
        choose = random.Random(f"{self.seed} {number}")
        folder = os.path.join(self.folder, f"store{number}")
        store = Store(self.build, folder, choose)
        self.cut = Cut(os.path.join(self.folder, f"cut{number}"), self.build, choose)
        try:
            done = self._cuts(store, cuts, f"store {number}") if self._record(store, number) else cuts
        except (Violation, Ended) as violation:
            self.report("violation", str(violation), folder, self.cut.folder)
            done = cuts
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            shutil.rmtree(self.cut.folder, ignore_errors=True)
        return done

    def _record(self, store, number):
        try:
            store.record()
        except (Violation, Ended) as violation:
            self.report("unusable", f"store {number}, before any cut: {violation}", store.folder)
            return False
        return True

    def _cuts(self, store, cuts, what):
        choose, records = self.cut.random, [record for life in store.lives for record in life]
        sent, offset = {}, 0
        for life in store.lives:
            sent.update({answer: offset + index for answer, index in disk.answers_sent(life).items()})
            offset += len(life)
        points = self._points(store, choose, max(1, round(cuts / (1 + AGAIN_SHARE * CUTS_AGAIN))))
        model, at, done = disk.Disk(store.tree, store.before), 0, 0
        starts = set()
        offset = 0
        for life in store.lives:
            starts.add(offset)
            offset += len(life)
        for index, record in enumerate(records):
            if index in starts:
                model.begin_process()
            model.apply(record)
            while at < len(points) and points[at] == index and not self.over():
                at += 1
                done += self._one(model, store.history.at(sent, index + 1), f"{what}, cut after record {index} of {len(records)}", choose)
        if model.mapped:
            raise Violation("the daemon writes through a map, which the recorder does not see")
        different = model.differs() if all(disk.whole(life) for life in store.lives) else None
        if different:
            raise Violation(f"{what}: {different} is not as it was recorded: the recorder does not see every call")
        return done

    @staticmethod
    def _points(store, choose, cuts):
        """Where to cut: after each record, with more than one image where something is not flushed."""
        model, weights, index = disk.Disk(store.tree, store.before), [], 0
        for life in store.lives:
            model.begin_process()
            for record in life:
                model.apply(record)
                weights.append(8 if model.pending() else 1 if record.kind != disk.CLOSE else 0)
                index += 1
        return sorted(choose.choices(range(len(weights)), weights, k=cuts))

    def _one(self, model, knowledge, what, choose):
        """A cut, and perhaps cuts of the start after it. Returns how many that were."""
        record = choose.random() < AGAIN_SHARE
        history = self.cut.check(model, knowledge, what, record)
        self.report("case")
        if not record:
            return 1
        return 1 + self._again(history, what, choose)

    def _again(self, history, what, choose):
        records = disk.read_records(self.cut.recording)
        sent = disk.answers_sent(records)
        for _ in range(CUTS_AGAIN):
            # From the image that the first cut left.
            again = Cut(self.cut.folder + ".again", self.build, choose)
            shutil.rmtree(again.folder, ignore_errors=True)
            model = disk.Disk.of(os.path.join(self.cut.folder, "left"))
            model.tree = self.cut.tree
            index = choose.randrange(len(records))
            for record in records[:index + 1]:
                model.apply(record)
            try:
                again.check(model, history.at(sent, index + 1), f"{what}, cut again after record {index} of {len(records)}", False)
            except Violation as violation:
                self.report("violation", str(violation), self.cut.folder, again.folder)
            shutil.rmtree(again.folder, ignore_errors=True)
            self.report("case")
        return CUTS_AGAIN


# ---- The suite ---------------------------------------------------------------------------------------------------


def _work(build, folder, seed, ends, numbers, cuts, results):
    """A process of its own: makes stores until there were enough cuts, or the time is over."""
    def report(what, text="", *folders):
        kept = None
        if folders and folders[0]:
            kept = tempfile.mkdtemp(prefix="found-", dir=folder)
            for one in folders:
                if one and os.path.isdir(one):
                    shutil.copytree(one, os.path.join(kept, os.path.basename(one)), ignore=ignore_sockets)
        results.put((what, text, kept))

    signal.signal(signal.SIGINT, signal.SIG_DFL)
    worker = Worker(build, folder, seed, ends, report)
    try:
        while not worker.over():
            with numbers.get_lock():
                number, numbers.value = numbers.value, numbers.value + 1
            with cuts.get_lock():
                share = min(CUTS_A_STORE, cuts.value)
                cuts.value -= share
            if share <= 0:
                break
            done = worker.store(number, share)
            with cuts.get_lock():
                cuts.value += share - done
    except BaseException:  # pylint: disable=broad-exception-caught
        results.put(("error", traceback.format_exc(), None))
    results.put(("end", "", None))


def campaign(run, build, cuts, ends, first_is_enough):
    """Yields what the workers report, (what, text, folder), until they are done. What: "case"; "violation"; "unusable", a violation before
    any cut."""
    folder = tempfile.mkdtemp(prefix="work-", dir=run.folder)
    numbers, left = multiprocessing.Value("q", 0), multiprocessing.Value("q", 1 << 60 if cuts is None else cuts)
    results = multiprocessing.Queue()
    workers = [multiprocessing.Process(target=_work, args=(build, folder, run.seed, ends, numbers, left, results))
               for _ in range(run.jobs)]
    for worker in workers:
        worker.start()
    at_work = len(workers)
    try:
        while at_work:
            what, text, kept = results.get()
            if what == "error":
                raise RuntimeError(text)
            if what == "end":
                at_work -= 1
                continue
            yield what, text, kept
            if what in ("violation", "unusable") and first_is_enough:
                left.value = 0
    finally:
        left.value = 0
        for worker in workers:
            worker.join()
        shutil.rmtree(folder, ignore_errors=True)


MUTATIONS = [
    broken.Mutation("answer before the flush", "daemon/store/store.c",
                    "uint64_t store_durable_number(const struct store *store)\n{\n    return store->durable;",
                    "uint64_t store_durable_number(const struct store *store)\n{\n    return store->open.next - 1;"),
    broken.Mutation("no checksum", "daemon/store/batch.c", 
                    "           header.body_checksum == body_checksum(data, header.bytes, secret);\n",
                    "           (header.body_checksum == body_checksum(data, header.bytes, secret) || true);\n"),
    broken.Mutation("slot freed before the commit", "daemon/store/store.c",
                    "    store->applying_count = store->backlog_count;\n",
                    "    store->applying_count = store->backlog_count;\n"
                    "    wal_applied(store->wal, store->backlog[store->backlog_count - 1].last);\n"),
]
WAYS = {"no DSYNC": "no-dsync", "MDB_NOSYNC": "nosync", "MDB_NOMETASYNC": "nometasync", "name not flushed": "no-name-flush",
        "rename not flushed": "no-rename-flush"}
# What goes wrong with these is seen only where the log goes on in a slot while its commit is late: large stores, and slow tables.
LATE = {"MDB_NOMETASYNC", "slot freed before the commit"}
CONTROL_CUTS = 4000  # a broken build is caught within far fewer


def _control(run, name, build):
    """Looks for a violation in a broken build."""
    cases = 0
    for what, text, _ in campaign(run, build, CONTROL_CUTS, float("inf"), True):
        cases += what == "case"
        if what == "violation":
            run.control(name, True)
            run.say(f"caught \"{name}\" after {cases} cuts: {text.splitlines()[0][:200]}")
            return
        if what == "unusable":
            run.control(name, False, f"since it fails before any cut: {text}")
            return
    run.control(name, False, f"in {cases} cuts")


def run(run):
    broken.check(MUTATIONS)
    for what, text, kept in campaign(run, Build(IDEMD), run.cases_max(SMALL_SHARE), run.ends(), False):
        if what == "case":
            run.cases += 1
            if run.cases % SAID_EVERY == 0:
                run.say(f"{run.cases} cuts, {len(run.violations)} violations")
        else:
            run.violation(text, kept)
    builds = [(name, IDEMD, ways) for name, ways in WAYS.items()]
    builds += [(mutation.name, broken.build(mutation, run.folder), "") for mutation in MUTATIONS]
    for name, program, ways in builds:
        _control(run, name, Build(program, ways, 1.0, 3000) if name in LATE else Build(program, ways))
