"""Calls that fail. Between a real daemon and the disk stands interpose.c, which makes the n-th call of a kind fail, for n = 1, 2, ... until
none is reached: once, or from then on, with each error that the call can give, or with half of a write done. That is done at a first start,
in steady state, while the tables and the log grow, in a recovery, and at a shutdown.

Afterwards the daemon has either gone on, or ended with an exit status of the manual and a line in its log that gives the reason. The next
start works, without the fault, and everything that was acknowledged is there.

Without --cases it goes on until everything was tried, or the budget is over."""
import copy
import dataclasses
import errno
import mmap
import multiprocessing
import os
import random
import select
import shutil
import struct
import subprocess
import time
import traceback

from . import broken, disk
from .daemon import EXIT_CODES, PATIENCE, Client, Daemon, Ended, interposed
from .operations import History, Work, look
from .run import IDEMD, Violation, ignore_sockets
from .wire import VALUES

SMALL_SHARE = 200
RESERVE = 14  # interpose.c: room that is reserved
HALF = 0      # instead of an errno: half of a write is done
DISK = [errno.EIO, errno.ENOSPC, errno.EDQUOT]
ERRORS = {disk.OPEN: DISK + [errno.EINTR], disk.WRITE: DISK + [errno.EINTR, HALF], disk.FLUSH: DISK + [errno.EINTR],
          disk.FLUSH_NAMES: DISK + [errno.EINTR], disk.TRUNCATE: [errno.EIO, errno.EINTR], disk.ALLOCATE: DISK + [errno.EINTR],
          RESERVE: DISK + [errno.EINTR], disk.RENAME: DISK, disk.UNLINK: [errno.EIO], disk.MKDIR: DISK, disk.MAP: [errno.ENOMEM]}
KINDS = {disk.OPEN: "open", disk.WRITE: "write", disk.FLUSH: "flush", disk.FLUSH_NAMES: "flush of names", disk.TRUNCATE: "truncate",
         disk.ALLOCATE: "allocate", RESERVE: "reserve", disk.RENAME: "rename", disk.UNLINK: "unlink", disk.MKDIR: "mkdir", disk.MAP: "map"}
FULL_MIB = (300, 400, 1000)  # disks that are filled; a small share fills the first
REFUSALS = (VALUES["CODE_RESOURCE_EXHAUSTED"], VALUES["CODE_UNAVAILABLE"])


@dataclasses.dataclass(frozen=True)
class Phase:
    """When calls fail. `used`: there is a store, with something in its log that is not in its tables. `starting`: from the start on;
    else from when the daemon is ready. Then so many calls are made, small ones or such that the store grows, and perhaps the daemon is told to end."""
    name: str
    used: bool
    starting: bool
    calls: int
    grows: bool = False
    ends: bool = False


PHASES = [Phase("first start", False, True, 6), Phase("steady state", True, False, 12), Phase("growth", True, False, 18, True, True),
          Phase("recovery", True, True, 6), Phase("shutdown", True, False, 0, False, True)]


@dataclasses.dataclass(frozen=True)
class Fault:
    phase: Phase
    kind: int
    error: int
    from_then_on: bool
    nth: int

    def __str__(self):
        what = "half of it is done" if self.error == HALF else errno.errorcode[self.error]
        return f"{self.phase.name}: {KINDS[self.kind]} {self.nth}{' and all later ones' if self.from_then_on else ''}: {what}"


class Switch:
    """The control block that interpose.c reads: struct faults."""
    LAYOUT = struct.Struct("<IIIIiII32I1024s")

    def __init__(self, path):
        with open(path, "w+b") as file:
            file.write(bytes(self.LAYOUT.size))
            file.flush()
            self.map = mmap.mmap(file.fileno(), self.LAYOUT.size)

    def arm(self, fault):
        """fault None: calls are counted, and none fails."""
        kinds, nth, error = (1 << fault.kind, fault.nth, fault.error) if fault else (0, 0, 0)
        self.LAYOUT.pack_into(self.map, 0, 1, kinds, nth, bool(fault and fault.from_then_on), error, 0, 0, *[0] * 32, b"")

    def disarm(self):
        struct.pack_into("<I", self.map, 0, 0)

    def hits(self):
        return self.LAYOUT.unpack_from(self.map)[6]

    def counts(self):
        return dict(enumerate(self.LAYOUT.unpack_from(self.map)[7:39]))

    def where(self):
        """The stack of the first allocation that failed, as words module+offset."""
        return self.LAYOUT.unpack_from(self.map)[39].rstrip(b"\0").decode()

    def close(self):
        self.map.close()


class Case:
    """One fault, and what came of it. refusals: codes with which a call may be refused meanwhile."""
    refusals = REFUSALS

    def __init__(self, folder, program, base, history, seed):
        self.folder, self.program = folder, program
        self.tree, self.data = os.path.join(folder, "tree"), os.path.join(folder, "tree", "data")
        self.history, self.random = history, random.Random(seed)
        os.makedirs(folder)
        if base:
            shutil.copytree(base, self.tree)
        else:
            os.makedirs(self.data)
        self.switch = Switch(os.path.join(folder, "faults"))

    def _daemon(self, faults):
        environment = interposed(self.tree, faults=os.path.join(self.folder, "faults") if faults else None)
        return Daemon(self.folder, self.data, program=self.program, environment=environment)

    def _work(self, daemon, calls, grows=False, refusals=()):
        """Makes so many calls, and takes all answers that come. Returns whether the daemon answered to the end."""
        large = {"sizes": (600000, 900000), "names": 9, "finishes": True} if grows else {}
        work = Work(self.history, self.random, refusals=refusals, **large)
        try:
            client = Client(daemon, self.history.next_id)
            while calls > 0 or work.open:
                if calls > 0:
                    work.send(client, min(calls, 3))
                    calls -= 3
                while work.open:
                    work.receive(client)
            client.close()
        except Ended:
            work.give_up()
            return False
        return True

    def _look(self, daemon):
        """Compares everything that is there. Returns whether the daemon answered to the end."""
        try:
            client = Client(daemon, self.history.next_id)
            look(client, self.history, list(self.history.keys))
            self.history.next_id = client.next_id
            client.close()
        except Ended:
            return False
        return True

    def _check_end(self, daemon, asked):
        """How it ended says something to whoever operates it."""
        code = daemon.wait()
        if code == 0 and asked:
            return
        if code not in EXIT_CODES or code in (0, 70):
            raise Violation(f"it ended with {code}\n{daemon.read_log()}")
        if not any("level=error" in line and "reason=" in line for line in daemon.read_log().splitlines()):
            raise Violation(f"it ended with {code}, and its log does not say why\n{daemon.read_log()}")

    def run(self, fault):
        """Returns whether the fault was met. Raises Violation."""
        phase, daemon = fault.phase, self._daemon(True)
        try:
            return self._run(fault, phase, daemon)
        finally:
            daemon.kill()

    def count(self, phase):
        """How many calls of each kind there are in a phase if none fails."""
        self._fail(phase, None, daemon := self._daemon(True))
        daemon.kill()
        return self.switch.counts()

    def _fail(self, phase, fault, daemon):
        """Goes through the phase. Returns whether the daemon goes on, and whether it was told to end."""
        if phase.starting:
            self.switch.arm(fault)
        if daemon.start():
            if not phase.starting:
                self.switch.arm(fault)
            answered = self._work(daemon, phase.calls, phase.grows, self.refusals)
            if answered and phase.ends:
                daemon.terminate()
                return False, True
            return answered, False
        if not phase.starting:
            raise Violation(f"it does not start though nothing fails yet\n{daemon.read_log()}")
        return False, False

    def _run(self, fault, phase, daemon):
        goes_on, asked = self._fail(phase, fault, daemon)
        hits = self.switch.hits()
        self.switch.disarm()
        # What failed just before may still end it.
        if goes_on and self._look(daemon) and self._work(daemon, 4, refusals=REFUSALS):
            daemon.kill()
        else:
            self._check_end(daemon, asked)
        self._next_start()
        return hits > 0

    def _next_start(self):
        """It works, and so does the one after it."""
        for _ in range(2):
            daemon = self._daemon(False)
            os.rename(daemon.log, daemon.log + ".before") if os.path.exists(daemon.log) else None
            try:
                if not daemon.start():
                    raise Violation(f"the next start does not work: exit status {daemon.code}\n{daemon.read_log()}")
                if not self._look(daemon) or not self._work(daemon, 6):
                    raise Violation(f"the next start works, and then it ends with {daemon.wait()}\n{daemon.read_log()}")
                if daemon.terminate() != 0:
                    raise Violation(f"the next start works, and then it ends with {daemon.code}\n{daemon.read_log()}")
            finally:
                daemon.kill()


# ---- Many of them ------------------------------------------------------------------------------------------


class Bench:
    """Where cases are run: a folder with the store that they start from.

    phases, errors, case_class      what fails when, with which errors by kind of call, and what is asked of the daemon then"""
    phases, errors, case_class = PHASES, ERRORS, Case

    def __init__(self, folder, program, seed):
        self.folder, self.program, self.seed = folder, program, seed
        os.makedirs(folder, exist_ok=True)
        self.base, self.history = os.path.join(folder, "base", "tree"), History()
        maker = self.case_class(os.path.join(folder, "base"), program, None, self.history, f"{seed} base")
        daemon = maker._daemon(False)
        if not daemon.start():
            raise Violation(f"it does not start: {daemon.read_log()}")
        maker._work(daemon, 40)
        daemon.terminate()
        daemon.start()
        maker._work(daemon, 15)
        daemon.kill()

    def case(self, phase):
        folder = os.path.join(self.folder, f"case{os.getpid()}")
        shutil.rmtree(folder, ignore_errors=True)
        base = self.base if phase.used else None
        history = copy.deepcopy(self.history) if phase.used else History()
        return self.case_class(folder, self.program, base, history, f"{self.seed} {phase.name}")

    def run(self, fault):
        """(fault, whether it was met, what was violated or None, what is to be kept)"""
        case = self.case(fault.phase)
        try:
            return fault, case.run(fault), None, None
        except Violation as violation:
            kept = os.path.join(self.folder, f"found{os.getpid()}-{time.monotonic_ns()}")
            shutil.copytree(case.folder, kept, ignore=ignore_sockets)
            return fault, True, str(violation), kept
        except Exception:  # pylint: disable=broad-exception-caught
            return fault, True, "the suite itself failed: " + traceback.format_exc(), None
        finally:
            case.switch.close()
            shutil.rmtree(case.folder, ignore_errors=True)

    def faults(self):
        """All faults that a run without any says can be met, those of one phase and kind after the other."""
        groups = []
        for phase in self.phases:
            case = self.case(phase)
            counts = case.count(phase)
            case.switch.close()
            for kind, errors in self.errors.items():
                groups.append([Fault(phase, kind, error, then_on, nth) for nth in range(1, counts[kind] + 1) for error in errors
                               for then_on in (False, True) if not (then_on and error == errno.EINTR)])
        return [group for group in groups if group]


def in_order(groups, choose):
    """All faults by chance, but each phase and kind has its turn."""
    for group in groups:
        choose.shuffle(group)
    order = []
    while any(groups):
        for group in groups:
            if group:
                order.append(group.pop())
    return order


def every(bench, order, pool, limit, ends):
    """Runs faults, and beyond those that were counted goes on while more are met."""
    largest = {}
    for fault in order:
        key = (fault.phase, fault.kind, fault.error, fault.from_then_on)
        largest[key] = max(largest.get(key, 0), fault.nth)
    done = 0
    while order:
        order, more = order[:limit - done] if limit is not None else order, []
        for fault, met, violation, kept in pool.imap_unordered(bench.run, _until(order, ends)):
            done += 1
            yield fault, met, violation, kept
            key = (fault.phase, fault.kind, fault.error, fault.from_then_on)
            if met and fault.nth == largest[key] and violation is None:
                largest[key] += 1
                more.append(dataclasses.replace(fault, nth=fault.nth + 1))
        order = more if time.monotonic() < ends else []


def _until(order, ends):
    for fault in order:
        if time.monotonic() >= ends:
            return
        yield fault


# ---- A disk that is really full ----------------------------------------------------------------------------


class Mount:
    """An ext4 of so many MiB, in a file. `with` gives its folder, or None where no loop may be mounted here."""

    def __init__(self, folder, mib):
        self.image, self.folder, self.mib, self.mounted = os.path.join(folder, "image"), os.path.join(folder, "disk"), mib, False

    def __enter__(self):
        os.makedirs(self.folder)
        with open(self.image, "wb") as image:
            image.truncate(self.mib << 20)
        self.mounted = all(self._run(*command) for command in (
            ["mkfs.ext4", "-q", "-m", "0", self.image], ["mount", "-o", "loop", self.image, self.folder]))
        return self.folder if self.mounted else None

    @staticmethod
    def _run(*command):
        try:
            return subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode == 0
        except FileNotFoundError:
            return False

    def __exit__(self, *_):
        if self.mounted:
            subprocess.run(["umount", self.folder], check=True)
        os.unlink(self.image)


def _fill(path):
    """Takes all that is left of a disk."""
    with open(path, "wb", buffering=0) as filler:
        for size in (1 << 20, 4096):
            try:
                while True:
                    filler.write(bytes(size))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise


class FullDisk:
    """The rest of a disk is taken by somebody else while the daemon works. New grants are refused then, all else goes on, across a kill
    too; and grants are given again when there is room again."""

    def __init__(self, folder, program, place, seed):
        self.place, self.history = place, History()
        self.data, self.filler = os.path.join(place, "data"), os.path.join(place, "filler")
        self.work = Work(self.history, random.Random(seed), sizes=(300000, 1000000), refusals=REFUSALS)
        self.daemon = Daemon(folder, self.data, program=program)
        self.client = None

    def _start(self):
        if not self.daemon.start():
            raise Violation(f"it does not start: exit status {self.daemon.code}\n{self.daemon.read_log()}")
        self.client = Client(self.daemon, self.history.next_id)

    def _all(self, calls):
        """Calls none of which may be refused."""
        for answer in self.work.all_at_once(self.client, calls):
            if answer.status.code:
                raise Violation(f"on a full disk it refuses what is not new: {dict(answer.status)}")

    def _grow(self):
        """Outcomes are stored until a grant is refused."""
        for n in range(2000):
            key = self.history.key(f"g{n}")
            if self.work.all_at_once(self.client, [self.work.begin(key)])[0].status.code:
                return
            self._all([self.work.complete(key)])
        raise Violation("on a full disk it grants without end")

    def _wait_for_room(self):
        ends = time.monotonic() + PATIENCE
        while self.work.all_at_once(self.client, [self.work.begin(self.history.key("again"))])[0].status.code:
            if time.monotonic() > ends:
                raise Violation("there is room again, and grants are refused all the same")
            select.select([], [], [], 0.02)

    def run(self):
        try:
            self._run()
        except Ended as ended:
            raise Violation(f"{ended}: exit status {self.daemon.wait()}\n{self.daemon.read_log()}") from ended
        finally:
            self.daemon.kill()

    def _run(self):
        running, done = [f"r{n}" for n in range(12)], [f"d{n}" for n in range(4)]
        self._start()
        self._all([self.work.begin(self.history.key(name)) for name in running + done])
        self._all([self.work.complete(self.history.keys[name]) for name in done])
        _fill(self.filler)
        self._grow()
        self._all([self.work.complete(self.history.keys[name]) for name in running[:6]] +
                  [self.work.replay(self.history.keys[name]) for name in done])
        self.daemon.kill()
        self._start()
        look(self.client, self.history, list(self.history.keys))
        self._all([self.work.complete(self.history.keys[name]) for name in running[6:]] +
                  [self.work.replay(self.history.keys[name]) for name in done])
        os.unlink(self.filler)
        self._wait_for_room()
        if self.daemon.terminate() != 0:
            raise Violation(f"it does not drain: exit status {self.daemon.code}\n{self.daemon.read_log()}")


def _full_disks(run, sizes):
    for mib in sizes:
        folder = os.path.join(run.folder, f"full{mib}")
        with Mount(folder, mib) as place:
            if not place:
                run.say("no loop may be mounted here, so no disk that is really full was tried")
                return
            run.cases += 1
            full = FullDisk(folder, IDEMD, place, f"{run.seed} {mib}")
            try:
                full.run()
            except Violation as violation:
                run.violation(f"a full ext4 of {mib} MiB: {violation}\n{full.daemon.read_log()}", full.data)
        shutil.rmtree(folder)


MUTATIONS = [
    (broken.Mutation("a failed write counts as done", "daemon/store/disk.c",
                     "RWF_DSYNC);\n        if (size == 0)\n            return EIO;\n        if (size < 0 && errno != EINTR)\n            return errno;",
                     "RWF_DSYNC);\n        if (size == 0)\n            return EIO;\n        if (size < 0 && errno != EINTR)\n            return 0;"),
     ("steady state", disk.WRITE, [errno.EIO, errno.ENOSPC])),
    (broken.Mutation("a failed commit counts as done", "daemon/store/apply.c",
                     "    return code == EIO && errno == 0 ? ENOSPC : code;\n", "    return code == 0 ? code : 0;\n"),
     ("growth", disk.WRITE, [errno.EIO, errno.ENOSPC])),
    (broken.Mutation("a failed write of the log is not logged", "daemon/server/server.c",
                     "        log_event(LOG_ERROR, \"storage_failed\", \"reason\", event.message, NULL);\n", ""),
     ("steady state", disk.WRITE, [errno.EIO, errno.ENOSPC])),
    (broken.Mutation("what a first start left over is not removed", "daemon/store/directory.c",
                     "    remove_file(path, \"data.mdb\");\n", ""),
     ("first start", disk.FLUSH, [errno.EIO, errno.ENOSPC])),
]


def _control(run, mutation, where):
    """Runs the faults that a broken build does not stand."""
    phase, kind, errors = where
    bench = Bench(os.path.join(run.folder, "broken"), broken.build(mutation, run.folder), run.seed)
    tried, first = 0, None
    for group in bench.faults():
        for fault in group:
            if first is None and (fault.phase.name, fault.kind) == (phase, kind) and fault.error in errors:
                tried += 1
                _, _, violation, _ = bench.run(fault)
                first = violation and f"{fault}: {violation}"
    shutil.rmtree(bench.folder)
    run.control(mutation.name, first is not None, f"in {tried} cases")
    if first:
        run.say(f"caught \"{mutation.name}\" after {tried} cases: {first.splitlines()[0][:200]}")


def run(run):
    broken.check([mutation for mutation, _ in MUTATIONS])
    bench = Bench(os.path.join(run.folder, "bench"), IDEMD, run.seed)
    order = in_order(bench.faults(), random.Random(run.seed))
    run.say(f"{len(order)} faults can be met")
    met = 0
    with multiprocessing.Pool(run.jobs) as pool:
        for fault, was_met, violation, kept in every(bench, order, pool, run.cases_max(SMALL_SHARE), run.ends()):
            run.cases += 1
            met += was_met
            if violation:
                run.violation(f"{fault}: {violation}", kept)
    run.say(f"{met} of {run.cases} faults were met")
    _full_disks(run, FULL_MIB[:1] if run.cases_max(SMALL_SHARE) == SMALL_SHARE else FULL_MIB)
    for mutation, where in MUTATIONS:
        _control(run, mutation, where)
