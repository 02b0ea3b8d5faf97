"""What a daemon can run out of, one thing at a time: a Shortage starts it with a limit, somebody greedy takes all there is, and a good client
beside it goes on. What has to hold:

    - something is refused by name, with RESOURCE_EXHAUSTED and the reason that belongs to it;
    - what the good client has begun is completed, what is done is replayed, and where the limit is the greedy one's own the good client is
      granted what is new too;
    - when the greedy one is gone, everything is granted again;
    - after a kill and a start without the limit everything that was acknowledged is there."""
import os
import random
import select
import subprocess
import time

from .daemon import PATIENCE, Client, Daemon, op
from .operations import History, Work, look
from .run import Violation
from .wire import VALUES

EXHAUSTED = VALUES["CODE_RESOURCE_EXHAUSTED"]
MIB = 1 << 20
BEGUN, COMPLETED_MEANWHILE = 12, 6
DAY_MS = 24 * 3600 * 1000
WAIT_MS = 60 * 1000  # as long as a call may wait
TOO_LOW = 71  # the exit code of a start for which the system has not enough
NOT_LOADED = 127  # the loader's: the daemon itself was not reached


def wait_until(condition, what):
    """Looks again and again, with rests; nothing tells when it becomes true."""
    ends = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > ends:
            raise Violation(f"it never came: {what}")
        select.select([], [], [], 0.02)


class Shortage:
    """One of them. The greedy client is in a namespace of its own.

    options, limits     of the daemon, as Daemon takes them
    reasons     with which what is refused to the greedy one may be refused
    shared      the good client may be refused what is new, too
    natural     it cannot be tried where sanitizers need address space of their own
    sizes       of the good client's outcomes"""
    options, limits, reasons, shared, natural, sizes = (), (), (), True, False, (300000, 1000000)

    def __init__(self, folder, program, seed):
        self.folder, self.program = folder, program
        self.history, self.random = History(), random.Random(f"{seed} {self.name}")
        self.work = Work(self.history, self.random, sizes=self.sizes, refusals=(EXHAUSTED,))
        self.daemon = self.good = None
        self.greedy = []
        self.refused = None
        os.makedirs(folder)

    def _daemon(self, limits):
        return Daemon(self.folder, os.path.join(self.folder, "data"), *self.options, program=self.program, limits=limits)

    # ---- The greedy one ----

    def find_limits(self):
        """Called before the start; may set limits."""

    def fill(self):
        """Takes all there is, until something is refused: that goes to refusal()."""
        raise NotImplementedError

    def drain(self):
        """Gives it back."""
        for client in self.greedy:
            client.close()

    def client(self):
        self.greedy.append(Client(self.daemon))
        return self.greedy[-1]

    def refusal(self, answer):
        """Notes a refusal of an answer. Returns whether there was one."""
        status = answer.status
        if not status.code:
            return False
        if status.code != EXHAUSTED or status.reason not in self.reasons or not status.message:
            raise Violation(f"it is refused with {dict(status)}, and not with {' or '.join(self.reasons)}")
        self.refused = status
        return True

    # ---- The good one ----

    def _owned(self, calls):
        """Calls that are never refused."""
        for answer in self.work.all_at_once(self.good, calls):
            if answer.status.code:
                raise Violation(f"refused, though it is nothing new: {dict(answer.status)}")

    def _begin(self, name):
        """Is something new granted?"""
        answer = self.work.all_at_once(self.good, [self.work.begin(self.history.key(name))])[0]
        if answer.status.code and not answer.status.reason:
            raise Violation(f"it is refused without a reason: {dict(answer.status)}")
        return not answer.status.code

    def meanwhile(self):
        """What the good client does while there is nothing left."""
        if not self._begin("meanwhile") and not self.shared:
            raise Violation("somebody else's shortage keeps the good client from being granted anything")
        self._owned([self.work.complete(self.history.keys[f"r{n}"]) for n in range(COMPLETED_MEANWHILE)])
        self._owned([self.work.replay(self.history.keys[f"d{n}"]) for n in range(4)])
        look(self.good, self.history, list(self.history.keys))

    # ---- All of it ----

    def run(self):
        """Raises Violation or Ended."""
        self.find_limits()
        self.daemon = self._daemon(self.limits)
        try:
            self._run()
        finally:
            self.daemon.kill()

    def _start(self, limits):
        self.daemon = self._daemon(limits)
        if not self.daemon.start():
            raise Violation(f"it does not start: exit status {self.daemon.code}\n{self.daemon.read_log()}")
        self.good = Client(self.daemon, self.history.next_id)

    def _run(self):
        running, done = [f"r{n}" for n in range(BEGUN)], [f"d{n}" for n in range(4)]
        self._start(self.limits)
        self._owned([self.work.begin(self.history.key(name)) for name in running + done])
        self._owned([self.work.complete(self.history.keys[name]) for name in done])
        self.fill()
        if not self.refused and self.reasons:
            raise Violation("nothing was refused")
        self.meanwhile()
        self.drain()
        wait_until(lambda: self._begin("afterwards"), "that something new is granted when there is enough again")
        left = [self.history.keys[name] for name in running[COMPLETED_MEANWHILE:]]
        self._owned([self.work.complete(key) for key in left if key.state.state == VALUES["STATE_RUNNING"]])
        self.daemon.kill()
        self._start(())
        look(self.good, self.history, list(self.history.keys))
        if self.daemon.terminate() != 0:
            raise Violation(f"it does not end well: exit status {self.daemon.code}\n{self.daemon.read_log()}")


# ---- Limits that only a try tells ------------------------------------------------------------------------


class Least(Shortage):
    """The daemon gets little more than what a start needs. What a start needs is found by starts, each of which works, or ends with an exit
    code and a reason."""
    spare = 0

    def limit(self, value):
        """The limit as prlimit's option."""
        raise NotImplementedError

    def _starts(self, value):
        daemon = Daemon(self.folder, os.path.join(self.folder, "probe"), *self.options, program=self.program, limits=[self.limit(value)])
        try:
            if daemon.start():
                return True
        finally:
            daemon.kill()
        said = daemon.read_log().splitlines()[-1:]
        if daemon.code == NOT_LOADED and said and "shared libraries" in said[0]:
            return False
        if daemon.code != TOO_LOW or not said or not ("reason=" in said[0] or "idemd: " in said[0]):
            raise Violation(f"with {self.limit(value)} it ends with {daemon.code}, and says {said}")
        return False

    def search(self, low, high, step):
        """The least with which it starts, to within a step: it does with `high`, and not with `low`."""
        while high - low > step:
            middle = (low + high) // 2
            low, high = (low, middle) if self._starts(middle) else (middle, high)
        return high

    def find_limits(self):
        self.limits = [self.limit(self.least() + self.spare)]


class Descriptors(Least):
    """Connections take them all. The listener waits, and does not ask again and again."""
    name, spare = "descriptors", 3
    CALLS, WAITING = 300, 40

    def limit(self, value):
        return f"--nofile={value}:{value}"

    def least(self):
        """More descriptors never make a start fail, so it is found from below: each failing start is looked at."""
        value = 4
        while not self._starts(value):
            value += 1
        return value

    def _told(self):
        return self.daemon.read_log().count("no_descriptors")

    def fill(self):
        # A connection that is idle would make room for the next.
        waits = {"get": {"op": op("r11"), "wait_ms": WAIT_MS}}
        self.good.send(**waits)
        for _ in range(self.WAITING):
            self.client().send(**waits)
        wait_until(self._told, "a line that says that there are no descriptors")

    def meanwhile(self):
        began, told = time.monotonic(), self._told()
        for _ in range(self.CALLS):
            look(self.good, self.history, ["d0"])
        super().meanwhile()
        # It asks again every second.
        more, seconds = self._told() - told, time.monotonic() - began
        if more > 5 + 2 * seconds:
            raise Violation(f"it asked {more} times in vain for a descriptor in {seconds:.1f} s, while it answered {self.CALLS} calls")
        self.late = Client(self.daemon)
        self.asked = self.late.send(get={"op": op("d0")})

    def drain(self):
        super().drain()
        if self.late.answer(self.asked)["get"].info.state != VALUES["STATE_DONE"]:
            raise Violation("a connection that had to wait for a descriptor is answered wrongly")
        self.late.close()


class Memory(Shortage):
    """Calls that wait, with all that they carry, take it. When it is short, answers that are not read are bounded more narrowly, too."""
    sizes = (3000, 30000)
    reasons = ("TOO_MANY_WAITERS", "MEMORY_FULL")
    CONNECTIONS, CALLS = 24, 256

    def fill(self):
        owner = self.client()
        owner.call(begin={"op": op("busy", "greedy"), "lease_ms": DAY_MS})
        for n in range(self.CONNECTIONS):
            client = self.client()
            call = {"begin": {"op": op(f"busy{n % 6 or ''}", "greedy"), "lease_ms": DAY_MS, "wait_ms": WAIT_MS,
                              "input": self.random.randbytes(60000)}}
            asked = client.send_all([call] * self.CALLS)
            client.send(get={"op": op("nobody", "greedy")})
            answers = {}
            while asked[-1] + 1 not in answers:
                answers.update(client.receive())
            if any([self.refusal(answer) for number, answer in answers.items() if number <= asked[-1]]):
                return


class MaxMemory(Memory):
    name, options = "--max-memory", ("--max-memory", "64MiB")


def memory_of(pid, what):
    """A line of /proc/PID/status, in bytes."""
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(what + ":"))


class LimitedMemory(Least, Memory):
    """The system refuses memory, and not the daemon itself: --max-memory is far above."""
    spare, natural = 24 * MIB, True
    options = ("--max-memory", "100GiB")
    resource, measure, reach = None, None, 0

    def limit(self, value):
        return f"--{self.resource}={value}"

    def least(self):
        daemon = self._daemon(())
        if not daemon.start():
            raise Violation(f"it does not start\n{daemon.read_log()}")
        taken = memory_of(daemon.pid, self.measure)
        daemon.kill()
        high = taken + 64 * MIB
        while not self._starts(high):
            high += 64 * MIB
        return self.search(max(MIB, high - self.reach), high, MIB)


class AddressSpace(LimitedMemory):
    name, resource, measure, reach = "address space", "as", "VmPeak", 512 * MIB


class DataSegment(LimitedMemory):
    name, resource, measure, reach = "data segment", "data", "VmData", 256 * MIB


# ---- The store --------------------------------------------------------------------------------------------


class Stored(Shortage):
    """Outcomes take the store's room."""
    reasons, OPERATIONS = ("STORE_FULL",), 400

    def fill(self):
        client, self.kept = self.client(), []
        body = self.random.randbytes(1000000)
        for n in range(self.OPERATIONS):
            name = op(f"g{n}", "greedy")
            begun = client.call(begin={"op": name, "lease_ms": DAY_MS})
            if self.refusal(begun):
                return
            done = client.call(complete={"op": name, "fence": begun.begin.grant.fence, "outcome": {"kind": 1, "body": body}})
            if done.status.code:
                raise Violation(f"a Complete is refused: {dict(done.status)}")
            self.kept.append(name)

    def drain(self):
        client = self.client()
        for name in self.kept:
            revision = client.call(get={"op": name})["get"].info.revision
            client.call(forget={"op": name, "revision": revision, "reason": "room is needed"})
        super().drain()


class Quota(Stored):
    name, options = "--quota", ("--quota", "64MiB", "--namespace-share", "100")


class StoreShare(Stored):
    name, options, shared = "--namespace-share of the store", ("--quota", "128MiB"), False


class FileSize(Stored):
    """A limit on the size of files stands for a disk that is full. What is given back stays in the file, for what comes."""
    name, limits = "file size", (f"--fsize={160 * MIB}",)


class SmallDisk(Stored):
    """A file system in memory; where none may be mounted it is left out."""
    name = "disk"

    def run(self):
        place = os.path.join(self.folder, "data")
        os.makedirs(place)
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200m", "tmpfs", place], stderr=subprocess.DEVNULL, check=False)
        if mounted.returncode != 0:
            return
        try:
            super().run()
        finally:
            subprocess.run(["umount", place], check=True)


# ---- Counts -------------------------------------------------------------------------------------------------


class Unfinished(Shortage):
    name, options, reasons, MANY = "--max-unfinished", ("--max-unfinished", "100", "--namespace-share", "100"), ("TOO_MANY_UNFINISHED",), 120

    def fill(self):
        client, self.begun = self.client(), []
        for n in range(self.MANY):
            name = op(f"g{n}", "greedy")
            answer = client.call(begin={"op": name, "lease_ms": DAY_MS})
            if self.refusal(answer):
                return
            self.begun.append((name, answer.begin.grant.fence))

    def drain(self):
        client = self.client()
        for name, fence in self.begun:
            client.call(release={"op": name, "fence": fence, "effect": VALUES["EFFECT_NONE"]})
        super().drain()


class UnfinishedShare(Unfinished):
    name, options, shared = "--namespace-share of what is unfinished", ("--max-unfinished", "100"), False


class Waiting(Shortage):
    """Every place to wait is taken. Whoever comes then is told so, and everything else goes on."""
    name, options, reasons = "waiting places", ("--namespace-share", "100"), ("TOO_MANY_WAITERS",)
    EACH, CONNECTIONS = 250, 44  # below what one connection may have, and more than there are places

    def fill(self):
        owner = self.client()
        for n in range(self.CONNECTIONS):
            owner.call(begin={"op": op(f"busy{n // 4}", "greedy"), "lease_ms": DAY_MS})
            client = self.client()
            asked = client.send_all([{"get": {"op": op(f"busy{n // 4}", "greedy"), "wait_ms": WAIT_MS}}] * self.EACH)
            last, answers = client.send(get={"op": op("nobody", "greedy")}), {}
            while last not in answers:
                answers.update(client.receive())
            if any([self.refusal(answers[number]) for number in asked if number in answers]):
                return

    def waits(self):
        """May the good client wait for an outcome? If so, it gets it."""
        other = Client(self.daemon)
        asked = other.send(get={"op": op("r6"), "wait_ms": WAIT_MS})
        last, answers = other.send(get={"op": op("nobody")}), {}
        while last not in answers:
            answers.update(other.receive())
        if asked in answers:
            if not self.shared or answers[asked].status.reason not in self.reasons:
                raise Violation(f"the good client cannot wait: {answers[asked]}")
            other.close()
            return False
        self._owned([self.work.complete(self.history.keys["r6"])])
        if other.answer(asked)["get"].info.state != VALUES["STATE_DONE"]:
            raise Violation("a call that waits is not told of the outcome")
        other.close()
        return True

    def meanwhile(self):
        super().meanwhile()
        self.waits()

    def drain(self):
        super().drain()
        if self.history.keys["r6"].state.state == VALUES["STATE_RUNNING"]:
            wait_until(self.waits, "a place to wait, when those who waited are gone")


class WaitingShare(Waiting):
    name, options, shared = "--namespace-share of waiting places", (), False


SHORTAGES = [Descriptors, AddressSpace, DataSegment, MaxMemory, Quota, StoreShare, FileSize, SmallDisk, Unfinished, UnfinishedShare, Waiting,
             WaitingShare]
