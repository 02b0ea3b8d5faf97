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
from .daemon import Client, Daemon, Ended, op
from .run import BUILD, IDEMD, Violation, ignore_sockets
from .wire import VALUES

INTERPOSE = os.path.join(BUILD, "tests", "libtorture_interpose.so")
SMALL_SHARE = 500
CUTS_A_STORE = 120      # of one recording, before the next is made
AGAIN_SHARE = 0.12      # of the starts after a cut that are recorded and cut again, so many times:
CUTS_AGAIN = 4
LARGE_SHARE = 0.12      # of the stores whose tables and log grow through large bodies
MADE_BEFORE_SHARE = 1.0  # of the stores whose directory is there before the first start, its name flushed
CLOCK_MS = 2000
LEASE_MS = 3600 * 1000  # longer than any run


# ---- What a client knows ---------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class State:
    """What an operation is. None: not known, since no answer said so."""
    state: int = 0  # 0: absent
    attempt: int = 0
    fence: int | None = None
    checkpoint: tuple | None = None
    outcome: tuple | None = None
    expires_ms: int | None = None
    said: tuple = ()  # operation and owner

    def __str__(self):
        name = {0: "absent", RUNNING: "running", INTERRUPTED: "interrupted", DONE: "done"}[self.state]
        return f"{name}, attempt {self.attempt}, fence {self.fence}"

    def fits(self, answer):
        """Does an answer to Get say this? Returns what it says otherwise; None: it fits."""
        if not self.state:
            return None if answer.status.code == VALUES["CODE_NOT_FOUND"] else f"it is absent, and Get says {_short(answer)}"
        if answer.status.code:
            return f"it is {self}, and Get says {dict(answer.status)}"
        info = answer["get"].info
        if (info.state, info.attempt) != (self.state, self.attempt):
            return f"it is {self}, and Get says state {info.state}, attempt {info.attempt}"
        if self.said and (info.operation, info.owner) != self.said:
            return f"it said {self.said}, and Get says {(info.operation, info.owner)}"
        if self.state == DONE:
            if _outcome(answer["get"].outcome) != self.outcome:
                return f"its outcome is {_short(self.outcome)}, and Get says {_short(_outcome(answer['get'].outcome))}"
            # The end is kept on a clock of the store, and told on the wall's.
            if self.expires_ms and abs(info.expires_ms - self.expires_ms) > CLOCK_MS:
                return f"it expires at {self.expires_ms}, and Get says {info.expires_ms}"
            return None
        checkpoint = answer["get"].checkpoint
        if (checkpoint.name, checkpoint.data) != (self.checkpoint or ("", b"")):
            return f"its checkpoint is {_short(self.checkpoint)}, and Get says {_short((checkpoint.name, checkpoint.data))}"
        return None


ABSENT = State()
RUNNING, INTERRUPTED, DONE = VALUES["STATE_RUNNING"], VALUES["STATE_INTERRUPTED"], VALUES["STATE_DONE"]
HELD, EXECUTE, REPLAY = VALUES["OWNERSHIP_HELD"], VALUES["ANSWER_EXECUTE"], VALUES["ANSWER_REPLAY"]


def _outcome(outcome):
    return (outcome.kind, outcome.code, outcome.body, tuple((a.name, a.value) for a in outcome.attributes))


def _short(value):
    text = repr(value)
    return text if len(text) < 100 else text[:100] + f"... ({len(text)} characters)"


class Key:
    """One operation: its states, each with the id of the answer that told it. None: no answer did."""

    def __init__(self, name, state=ABSENT):
        self.name, self.steps = name, [(state, 0)]

    @property
    def state(self):
        return self.steps[-1][0]

    def add(self, state, answer):
        self.steps.append((state, answer))

    def allowed(self, told):
        """What it may be, once the answers `told` (a function of an id) were sent: what the last of them said, or what came next."""
        last = max(n for n, (_, answer) in enumerate(self.steps) if answer is not None and told(answer))
        return [state for state, _ in self.steps[last:last + 2]]


class Knowledge:
    """What a cut may leave: for each operation what it may be, and the largest fence that was given to anybody."""

    def __init__(self, allowed, fence):
        self.allowed, self.fence = allowed, fence


class History:
    """Everything that clients did to one store, and were told."""

    def __init__(self, knowledge=None):
        self.keys, self.next_id = {}, 1
        self.fences = []  # (fence, id of the answer)
        if knowledge:
            self.fences.append((knowledge.fence, 0))
            for name, states in knowledge.allowed.items():
                key = self.keys[name] = Key(name, states[0])
                for state in states[1:]:
                    key.add(state, None)

    def key(self, name):
        return self.keys.setdefault(name, Key(name))

    def fence(self, fence, answer):
        self.fences.append((fence, answer))

    def at(self, sent, index):
        """What is known at a cut before record `index`, if `sent` says with which record each answer went."""
        def told(answer):
            return answer == 0 or sent.get(answer, 1 << 62) < index
        return Knowledge({name: key.allowed(told) for name, key in self.keys.items()},
                         max([fence for fence, answer in self.fences if told(answer)], default=0))


# ---- What clients do --------------------------------------------------------------------------------


class Work:
    """Calls of a client, one at a time for each operation, many at a time in all."""

    def __init__(self, history, choose, large):
        self.history, self.random, self.large = history, choose, large
        self.open = {}  # id -> (key, what the answer is handed to)
        self.busy = set()

    def bytes(self):
        size = self.random.choice([0, 1, 40, 200, 2000, 5000]) if not self.large else self.random.choice([10, 100000, 300000, 900000])
        return self.random.randbytes(size)

    def call(self):
        """A call for some operation that is not busy: (key, call, the function that takes its answer, the state if it is not told)."""
        names = [f"k{n}" for n in range(20 if self.large else 40)]
        key = self.history.key(self.random.choice([name for name in names if name not in self.busy]))
        return getattr(self, {0: "_begin", RUNNING: "_own", INTERRUPTED: "_interrupted", DONE: "_done"}[key.state.state])(key)

    def _begin(self, key):
        said = (self.random.choice(["", "POST /charges"]), self.random.choice(["", "api-7"]))
        state = State(RUNNING, 1, None, None, None, None, said)
        call = {"begin": {"op": op(key.name), "operation": said[0], "owner": said[1], "lease_ms": LEASE_MS,
                          "attempt_id": self.random.randbytes(16), "input": self.random.randbytes(self.random.choice([0, 0, 100, 3000]))}}
        return key, call, self._granted, state

    def _granted(self, key, answer, state):
        if answer.begin.answer != EXECUTE:
            raise Violation(f"{key.name} was to be granted: {answer}")
        fence = answer.begin.grant.fence
        self.history.fence(fence, answer.id)
        key.add(dataclasses.replace(state, fence=fence), answer.id)

    def _complete(self, key):
        outcome = {"kind": VALUES["OUTCOME_KIND_SUCCEEDED"], "code": self.random.choice([0, 200, -1]), "body": self.bytes(),
                   "attributes": [{"name": "n", "value": self.random.randbytes(9)}] * self.random.choice([0, 0, 2])}
        stored = (outcome["kind"], outcome["code"], outcome["body"], tuple((a["name"], a["value"]) for a in outcome["attributes"]))
        state = dataclasses.replace(key.state, state=DONE, checkpoint=None, outcome=stored)
        return key, {"complete": {"op": op(key.name), "fence": key.state.fence, "outcome": outcome}}, self._completed, state

    def _completed(self, key, answer, state):
        if answer.complete.ownership != HELD:
            raise Violation(f"{key.name} was to be completed: {answer}")
        key.add(dataclasses.replace(state, expires_ms=answer.complete.expires_ms), answer.id)

    def _own(self, key):
        what, state = self.random.random(), key.state
        if what < 0.55:
            return self._complete(key)
        named = {"op": op(key.name), "fence": state.fence}
        if what < 0.75:
            checkpoint = ("c", self.random.randbytes(self.random.choice([0, 10, 3000])))
            return (key, {"checkpoint": {**named, "checkpoint": {"name": checkpoint[0], "data": checkpoint[1]}}}, self._held("checkpoint"),
                    dataclasses.replace(state, checkpoint=checkpoint))
        if what < 0.9:
            return (key, {"release": {**named, "effect": VALUES["EFFECT_UNKNOWN"]}}, self._held("release"),
                    dataclasses.replace(state, state=INTERRUPTED))
        return key, {"release": {**named, "effect": VALUES["EFFECT_NONE"]}}, self._held("release"), ABSENT

    def _held(self, call):
        def take(key, answer, state):
            if answer.get(call) is None or answer[call].ownership != HELD:
                raise Violation(f"{call} of {key.name} was to be held: {answer}")
            key.add(state, answer.id)
        return take

    def _interrupted(self, key):
        if self.random.random() < 0.4:
            return self._complete(key)
        state = dataclasses.replace(key.state, state=RUNNING, attempt=key.state.attempt + 1, said=(key.state.said[0], "sweeper"))
        return (key, {"begin": {"op": op(key.name), "operation": state.said[0], "owner": "sweeper", "lease_ms": LEASE_MS,
                                "attempt_id": self.random.randbytes(16), "if_interrupted": VALUES["IF_INTERRUPTED_TAKE_OVER"]}},
                self._granted, state)

    def _done(self, key):
        return key, {"begin": {"op": op(key.name), "operation": key.state.said[0]}}, self._replayed, key.state

    def _replayed(self, key, answer, state):
        if answer.begin.answer != REPLAY or _outcome(answer.begin.outcome) != state.outcome:
            raise Violation(f"{key.name} was to be replayed as {_short(state.outcome)}: {_short(answer)}")

    def send(self, client, count):
        chosen = []
        for _ in range(count):
            chosen.append(self.call())
            self.busy.add(chosen[-1][0].name)
        first = client.next_id
        for n, one in enumerate(chosen):
            self.open[first + n] = one
        self.history.next_id = first + len(chosen)
        client.send_all([call for _, call, _, _ in chosen])

    def receive(self, client):
        for number, answer in client.receive().items():
            key, _, take, state = self.open.pop(number)
            self.busy.discard(key.name)
            if answer.status.code:
                raise Violation(f"{key.name} was refused: {answer.status}")
            take(key, answer, state)

    def give_up(self):
        """The daemon is gone: what was not answered may have been done."""
        for key, _, take, state in self.open.values():
            if take != self._replayed:
                key.add(state, None)
        self.open, self.busy = {}, set()


def look(client, history, names):
    """Asks for operations, and notes what they are. Raises Violation if one is none of what it may be."""
    names = list(names)
    answers = client.call_all([{"get": {"op": op(name)}} for name in names])
    for name, answer in zip(names, answers):
        key = history.keys[name]
        allowed = key.allowed(lambda answer: True)
        reasons = [state.fits(answer) for state in allowed]
        if None not in reasons:
            raise Violation(f"{name}: " + "; or ".join(reasons))
        state = allowed[reasons.index(None)]
        if state.state == RUNNING and state.fence is None:
            state = dataclasses.replace(state, fence=answer["get"].info.revision)
        key.add(state, answer.id)


# ---- Recording -------------------------------------------------------------------------------------------


def environment(tree, recording=None, ways="", slow_us=0):
    variables = {"LD_PRELOAD": INTERPOSE, "TORTURE_TREE": tree}
    if recording:
        variables["TORTURE_RECORD"] = recording
    if ways:
        variables["TORTURE_BREAK"] = ways
    if slow_us:
        variables["TORTURE_SLOW_US"] = str(slow_us)
    return variables


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
                            environment=environment(self.tree, recording, self.build.ways, self.slow_us))
            try:
                if not daemon.start():
                    raise Violation(f"it does not start: exit status {daemon.code}\n{daemon.read_log()}")
                self._live(daemon)
            finally:
                daemon.kill()
            self.lives.append(disk.read_records(recording))

    def _live(self, daemon):
        client = Client(daemon, self.history.next_id)
        work = Work(self.history, self.random, self.large)
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
        model.lay(self.tree, choice, junk)
        left = os.path.join(self.folder, "left") if record else None
        if record:
            shutil.copytree(self.tree, left)
        history = History(knowledge)
        daemon = Daemon(self.folder, os.path.join(self.tree, "data"), program=self.build.program,
                        environment=environment(self.tree, self.recording if record else None, self.build.ways))
        try:
            if not daemon.start():
                raise Violation(f"it does not start: exit status {daemon.code}\n{daemon.read_log()}")
            self._compare(daemon, history, knowledge)
            if record and self.random.random() < 0.5:
                daemon.terminate()
        except (Violation, Ended) as violation:
            daemon.kill()
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
        work = Work(history, self.random, False)
        chosen = [work._begin(history.key(f"n{client.next_id + n}")) for n in range(2)]
        for state, some in ((RUNNING, work._complete), (INTERRUPTED, work._interrupted), (DONE, work._done)):
            keys = [key for key in history.keys.values() if key.state.state == state]
            for key in self.random.sample(keys, min(2, len(keys))):
                chosen.append(some(key))
        answers = client.call_all([call for _, call, _, _ in chosen])
        for (key, _, take, state), answer in zip(chosen, answers):
            if answer.status.code:
                raise Violation(f"{key.name}, {state}: {answer.status}")
            take(key, answer, state)
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
        """One store, and so many cuts of it."""
        choose = random.Random(f"{self.seed} {number}")
        folder = os.path.join(self.folder, f"store{number}")
        store = Store(self.build, folder, choose)
        self.cut = Cut(os.path.join(self.folder, f"cut{number}"), self.build, choose)
        try:
            done = self._record(store, number) and self._cuts(store, cuts, f"store {number}")
        except (Violation, Ended) as violation:
            self.report("violation", str(violation), folder, self.cut.folder)
            done = 0
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
        points = self._points(store, choose, cuts)
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
        different = model.differs()
        if different:
            self.report("unseen", f"{what}: {different} is not as it was recorded", None, None)
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
            worker.store(number, share)
    except BaseException:  # pylint: disable=broad-exception-caught
        results.put(("error", traceback.format_exc(), None))
    results.put(("end", "", None))


def campaign(run, build, cuts, ends, first_is_enough):
    """Yields what the workers report, (what, text, folder), until they are done. What: "case"; "violation"; "unusable", a violation before
    any cut; "unseen", a recording that is not whole."""
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
    broken.Mutation("answer before the flush", "daemon/store.c",
                    "uint64_t store_durable_number(const struct store *store)\n{\n    return store->durable;",
                    "uint64_t store_durable_number(const struct store *store)\n{\n    return store->open.next - 1;"),
    broken.Mutation("no checksum", "daemon/batch.c", 
                    "           header.body_checksum == body_checksum(data, header.bytes, secret);\n",
                    "           (header.body_checksum == body_checksum(data, header.bytes, secret) || true);\n"),
    broken.Mutation("slot freed before the commit", "daemon/store.c",
                    "    store->applying_count = store->tail_count;\n",
                    "    store->applying_count = store->tail_count;\n"
                    "    log_applied(store->log, store->tail[store->tail_count - 1].last);\n"),
]
WAYS = {"no DSYNC": "no-dsync", "MDB_NOSYNC": "nosync", "MDB_NOMETASYNC": "nometasync", "name not flushed": "no-name-flush",
        "rename not flushed": "no-rename-flush"}
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
    unseen = 0
    for what, text, kept in campaign(run, Build(IDEMD), run.cases_max(SMALL_SHARE), run.ends(), False):
        if what == "case":
            run.cases += 1
        elif what == "unseen":
            unseen += 1
            run.say(text)
        else:
            run.violation(text, kept)
    if unseen:
        run.say(f"{unseen} recordings were not whole, since the daemon was killed in the middle of a call")
    for name, ways in WAYS.items():
        _control(run, name, Build(IDEMD, ways))
    for mutation in MUTATIONS:
        slow = mutation.name.startswith("slot freed")
        _control(run, mutation.name, Build(broken.build(mutation, run.folder), "", 1.0 if slow else LARGE_SHARE, 3000 if slow else 0))
