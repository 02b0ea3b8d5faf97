"""Calls that could make the daemon walk: each touches no more than it returns, so that whoever sends them, in whatever number, holds
nobody else up.

The state is large: interrupted operations in one namespace, many namespaces with one running operation each, grants whose connections
are gone. Then peers keep a thousand of the dearest calls in flight, each kind on connections of its own, while a good client begins,
completes and reads its own operations. Its answers are checked, and how long they took is printed: alone, while very many leases end in
the same millisecond, and under all attacks. How long is never a violation, since it says as much about the machine; answers are."""
import multiprocessing
import os
import random
import select
import socket
import struct
import time

from . import broken, wire
from .daemon import PATIENCE, Client, Daemon, Ended, op
from .run import IDEMD, Violation

DAY_MS = 24 * 3600 * 1000
EVERY_SECONDS = 0.1
ID_BYTES = 5  # of a call's id in what is made from a template: a varint may be longer than it needs to be
MUTATIONS = [
    broken.Mutation("a Recover sent again in another order", "daemon/engine/listing.c",
                    "return (x->fence > y->fence) - (x->fence < y->fence);",
                    "return (x->fence < y->fence) - (x->fence > y->fence);"),
    broken.Mutation("a List that begins again for ever", "daemon/engine/listing.c",
                    "over = !from && walk++ == WALK_FINISHED;", "over = !from && looks > 0 && walk++ == WALK_FINISHED;"),
]


class Size:
    """How much there is."""

    def __init__(self, interrupted, namespaces, orphans, lists, seconds):
        self.interrupted, self.namespaces, self.orphans = interrupted, namespaces, orphans
        self.lists = lists      # operations of a listing that is followed to its end
        self.seconds = seconds  # that each part is measured


SMALL = Size(3000, 500, 300, 1024, 1.0)
LARGE = Size(1_000_000, 300_000, 100_000, 1024, 20.0)


# ---- Frames -------------------------------------------------------------------------

def _id(number):
    """A varint of ID_BYTES."""
    return bytes([number >> shift & 0x7f | 0x80 for shift in range(0, 7 * (ID_BYTES - 1), 7)] + [number >> 7 * (ID_BYTES - 1)])


class Template:
    """A request of which only the id changes from one to the next."""

    def __init__(self, **call):
        self.rest = wire.encode("Request", call)
        self.head = b"\0" + struct.pack(">I", 1 + ID_BYTES + len(self.rest)) + b"\x08"

    def frames(self, first, count):
        return b"".join(self.head + _id(number) + self.rest for number in range(first, first + count))


def count_frames(data, at=0):
    """How many whole frames data has, and where what is left of it begins."""
    count, size = 0, len(data)
    while size - at >= 5:
        end = at + 5 + int.from_bytes(data[at + 1:at + 5], "big")
        if end > size:
            break
        count, at = count + 1, end
    return count, at


class Pipe:
    """A connection over which very many calls go, whose answers are only counted. `make(first, count)` returns their bytes."""

    def __init__(self, path, make, window):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(PATIENCE)
        self.socket.connect(path)
        self.socket.setblocking(False)
        self.make, self.window = make, window
        self.next_id, self.open, self.answers = 1, 0, 0
        self.out, self.rest = b"", b""

    def fill(self, most=None):
        """Sends what the window has room for, in pieces that are worth it."""
        room = self.window - self.open
        if most is not None:
            room = min(room, most)
        if not self.out and room > 0 and (room >= self.window // 4 or most is not None):
            self.out = self.make(self.next_id, room)
            self.next_id += room
            self.open += room
        if self.out:
            try:
                self.out = self.out[self.socket.send(self.out):]
            except BlockingIOError:
                pass

    def drain(self):
        try:
            data = self.socket.recv(1 << 18)
        except BlockingIOError:
            return 0
        if not data:
            raise Ended("the daemon closed the connection")
        self.rest += data
        count, at = count_frames(self.rest)
        self.rest = self.rest[at:]
        self.open -= count
        self.answers += count
        return count

    def run(self, total):
        """Makes so many calls and waits for their answers."""
        while self.answers < total:
            self.fill(total - self.next_id + 1)
            _, ready, _ = select.select([], [self.socket] if self.out else [], [], 0)
            if not ready and not select.select([self.socket], [self.socket] if self.out else [], [], PATIENCE)[0] and not self.out:
                raise Violation("a daemon does not answer")
            self.drain()

    def close(self):
        self.socket.close()


# ---- What there is --------------------------------------------------------------------

def begin_many(path, count, make_call):
    """Begins operation 0 .. count-1 as make_call(number) says; returns the open connection."""
    def make(first, number):
        return b"".join(wire.frame({"id": i, "begin": make_call(i - 1)}) for i in range(first, first + number))
    pipe = Pipe(path, make, 1000)
    pipe.run(count)
    return pipe


def in_parts(path, count, make_call):
    """The same by four processes, since Python takes longer to make a call than the daemon to answer it."""
    parts = max(1, min(4, count // 1000))
    workers = []
    for part in range(parts):
        first, last = count * part // parts, count * (part + 1) // parts
        workers.append(multiprocessing.get_context("fork").Process(
            target=lambda a=first, b=last: begin_many(path, b - a, lambda n: make_call(a + n)).close()))
        workers[-1].start()
    for worker in workers:
        worker.join()
        if worker.exitcode != 0:
            raise Violation("operations could not be begun")


def make_orphans(path, count):
    """Grants that are bound to connections which are gone: a thousand each. Returns the numbers of those connections."""
    numbers = []
    for first in range(0, count, 1000):
        client = Client(type("Where", (), {"socket": path}))
        numbers.append(client.call(hello={"client": "orphan"}).hello.connection)
        client.close()
        pipe = begin_many(path, min(1000, count - first),
                          lambda n, f=first: {"op": op(f"o{f + n}", "orphans"), "lease_ms": DAY_MS, "bind_to_connection": True})
        pipe.close()
    return numbers


# ---- The good client ---------------------------------------------------------------------

class Measured:
    """Latencies in seconds, by what was asked."""

    def __init__(self):
        self.seconds = {}

    def add(self, what, began):
        self.seconds.setdefault(what, []).append(time.monotonic() - began)

    def table(self, title):
        lines = [f"{title:<34}{'calls':>9}{'p50 ms':>9}{'p99 ms':>9}{'max ms':>9}"]
        for what, values in self.seconds.items():
            values = sorted(values)
            lines.append(f"    {what:<30}{len(values):>9}" + "".join(
                f"{1000 * values[min(len(values) - 1, int(len(values) * share))]:>9.2f}" for share in (0.5, 0.99, 1)))
        return "\n".join(lines)

    def p99_ms(self):
        return max(1000 * sorted(values)[int(len(values) * 0.99)] for values in self.seconds.values())


def expect(what, got, wanted):
    if got != wanted:
        raise Violation(f"{what}: {got!r}, not {wanted!r}")


def be_good(path, ends, measured, tag):
    """Begins, completes and reads operations of its own until `ends`, on a connection that is new now and then. It begins one every
    EVERY_SECONDS; how long that took counts from when it was due, so that one long wait shows in all that were due meanwhile."""
    client, number, due = None, 0, time.monotonic()
    while due < ends:
        select.select([], [], [], max(0, due - time.monotonic()))
        if number % 50 == 0:
            if client:
                client.close()
            began = time.monotonic()
            client = Client(type("Where", (), {"socket": path}))
            expect("Hello", client.call(hello={"client": "good"}).hello.durable, True)
            measured.add("connect and Hello", began)
        number += 1
        key = op(f"{tag}-{number}", "good")
        began = time.monotonic()
        begun = client.call(begin={"op": key, "operation": "charge"}).begin
        measured.add("Begin", began)
        measured.add("Begin, from when it was due", due)
        due += EVERY_SECONDS
        expect("Begin", begun.answer, wire.VALUES["ANSWER_EXECUTE"])
        began = time.monotonic()
        done = client.call(complete={"op": key, "fence": begun.grant.fence,
                                     "outcome": {"kind": 1, "code": number, "body": b"receipt"}}).complete
        measured.add("Complete", began)
        expect("Complete", done.ownership, wire.VALUES["OWNERSHIP_HELD"])
        began = time.monotonic()
        told = client.call(get={"op": key})["get"]
        measured.add("Get", began)
        expect("Get", (told.outcome.code, told.outcome.body), (number, b"receipt"))
    if client:
        client.close()


def measure(path, seconds, tag):
    """Measures in a process of its own, which nothing else slows down that happens here. Returns (process, queue)."""
    context = multiprocessing.get_context("fork")
    queue = context.Queue()

    def work():
        measured = Measured()
        try:
            be_good(path, time.monotonic() + seconds, measured, tag)
            queue.put((measured, None))
        except Exception as error:  # whatever it is, who waits for the figures is told
            queue.put((measured, f"{type(error).__name__}: {error}"))
    process = context.Process(target=work)
    process.start()
    return process, queue


def result(process, queue):
    measured, error = queue.get(timeout=PATIENCE * 4)
    process.join()
    if error:
        raise Violation(error)
    return measured


# ---- The attacks ------------------------------------------------------------------------------

def attack_templates(size, chosen):
    """Name, how many connections, and what each keeps in flight."""
    def fixed(**call):
        return Template(**call).frames

    def fresh(make_call):
        return lambda first, count: b"".join(wire.frame({"id": i, **make_call()}) for i in range(first, first + count))

    return [
        ("Recover of an unknown operation", 2, 1000, fixed(recover={"namespace": "big", "operation": "unknown", "limit": 100})),
        ("Recover that waits for one", 4, 250,
         fixed(recover={"namespace": "big", "operation": "unknown", "wait_ms": 60000})),
        ("Recover that takes over 100", 1, 8, fresh(lambda: {"recover": {
            "namespace": "big", "limit": 100, "lease_ms": 1000, "attempt_id": chosen.randbytes(16)}})),
        ("Recover sent again", 1, 8, fixed(recover={
            "namespace": "big", "limit": 100, "lease_ms": 1000, "attempt_id": b"always the same!"})),
        ("List of an empty namespace", 2, 1000, fixed(list={"namespace": "empty", "limit": 1000})),
        ("List of what is interrupted", 1, 1000, fixed(list={"namespace": "empty", "state": 2})),
        ("List of all", 1, 1000, fixed(list={"limit": 1000})),
        ("Stats of a namespace", 1, 1000, fixed(stats={"namespace": "big"})),
        ("Begin in many namespaces", 1, 500, fresh(lambda: {"begin": {
            "op": op(f"x{chosen.randrange(1 << 40)}", f"ns-{chosen.randrange(2 * size.namespaces)}"),
            "operation": f"name-{chosen.randrange(1000)}", "lease_ms": 1000}})),
    ]


class Reconnecting:
    """Says Hello on one connection after the other: it replaces one that is gone, or that nobody knows; binds grants, and goes."""

    def __init__(self, path, numbers, chosen):
        self.path, self.numbers, self.chosen, self.said = path, numbers, chosen, 0

    def once(self):
        replaces = self.chosen.choice(self.numbers) if self.numbers and self.said % 2 else self.chosen.getrandbits(63) | 1
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(PATIENCE)
            connection.connect(self.path)
            calls = [wire.frame({"id": 1, "hello": {"replaces": replaces}})]
            calls += [wire.frame({"id": 2 + i, "begin": {"op": op(f"b{self.said}-{i}", "bound"), "bind_to_connection": True}})
                      for i in range(20)]
            connection.sendall(b"".join(calls))
            data = b""
            while count_frames(data)[0] < 1:
                more = connection.recv(1 << 16)
                if not more:
                    raise Ended("the daemon closed a connection that said Hello")
                data += more
        self.said += 1


def attack(path, size, numbers, seconds, seed, queue):
    """All attacks at once, in this process, for so long. What was answered goes to the queue."""
    chosen = random.Random(seed)
    pipes = [(name, Pipe(path, make, window)) for name, count, window, make in attack_templates(size, chosen) for _ in range(count)]
    greeter = Reconnecting(path, numbers, chosen)
    by_socket = {pipe.socket: pipe for _, pipe in pipes}
    ends = time.monotonic() + seconds
    try:
        while time.monotonic() < ends:
            for pipe in by_socket.values():
                pipe.fill()
            ready, _, _ = select.select(list(by_socket), [], [], 0.01)
            for one in ready:
                by_socket[one].drain()
            greeter.once()
        answers = {}
        for name, pipe in pipes:
            answers[name] = answers.get(name, 0) + pipe.answers
            pipe.close()
        answers["Hello that replaces one"] = greeter.said
        queue.put((answers, None))
    except Exception as error:
        queue.put(({}, f"{type(error).__name__}: {error}"))


# ---- What is checked beside ----------------------------------------------------------------------

def check_recover(daemon):
    """Sent again it is answered alike; one that waits gets what it asked for, past all that wait for something else."""
    client, other = Client(daemon), Client(daemon)
    begun = client.call_all([{"begin": {"op": op(f"r{i}", "checked"), "operation": f"name-{i % 2}", "lease_ms": 60000}}
                             for i in range(20)])
    client.call_all([{"release": {"op": op(f"r{i}", "checked"), "fence": one.begin.grant.fence, "effect": 1}}
                     for i, one in enumerate(begun)])
    ask = {"recover": {"namespace": "checked", "operation": "name-1", "limit": 100, "attempt_id": b"0123456789abcdef"}}
    first, again = (client.call(**ask).recover.operations for _ in range(2))
    keys = [f"r{i}" for i in range(1, 20, 2)]
    expect("Recover", [one.op.key for one in first], keys)
    expect("Recover sent again", [one.op.key for one in again], keys)
    waiting = [other.send(recover={"namespace": "checked", "operation": name, "wait_ms": 60000}) for name in ("nobody", "name-3")]
    fence = client.call(begin={"op": op("r21", "checked"), "operation": "name-3"}).begin.grant.fence
    client.call(release={"op": op("r21", "checked"), "fence": fence, "effect": 1})
    expect("Recover that waits", [one.op.key for one in other.answer(waiting[1]).recover.operations], ["r21"])
    expect("Cancel", other.call(cancel={"id": waiting[0]}).cancel.cancelled, True)
    client.close()
    other.close()


def check_list(daemon, count):
    """A listing ends, also where as many are in memory as one call looks at."""
    client = Client(daemon)
    call, seen, calls = {"state": 2}, 0, 0
    while True:
        page = client.call(list=call).list
        seen, calls = seen + len(page.get("operations", [])), calls + 1
        if not page.cursor:
            break
        call = {"state": 2, "cursor": page.cursor}
        if calls > count:
            raise Violation("a List does not come to its end")
    client.close()
    expect("List of what is interrupted", seen, 0)


def check_small(folder, program, size):
    """On a daemon of its own, of which everything is known."""
    os.makedirs(folder, exist_ok=True)
    daemon = Daemon(folder, os.path.join(folder, "data"), program=program)
    try:
        if not daemon.start():
            raise Violation("it did not start\n" + daemon.read_log())
        begin_many(daemon.socket, size.lists, lambda n: {"op": op(f"l{n}"), "lease_ms": DAY_MS}).close()
        check_list(daemon, size.lists)
        check_recover(daemon)
        expect("exit status", daemon.terminate(), 0)
    finally:
        daemon.kill()


# ---- A run --------------------------------------------------------------------------------------------

def prepare(run, daemon, size):
    """All there is, then a restart: after it every lease counts from the same moment, so those of the interrupted ones end together.
    Returns when (time.monotonic) they do."""
    lease_ms = 3000 + round(1000 * size.seconds) + size.interrupted // 25  # they must not end while they are being begun
    in_parts(daemon.socket, size.namespaces,
             lambda n: {"op": op("k", f"ns-{n}"), "operation": f"name-{n % 7}", "lease_ms": DAY_MS})
    in_parts(daemon.socket, size.interrupted,
             lambda n: {"op": op(f"i{n}", "big"), "operation": f"name-{n % 3}", "lease_ms": lease_ms})
    expect("running operations", gauge(daemon, "idemd_running"), size.namespaces + size.interrupted)
    expect("exit status", daemon.terminate(), 0)
    if not daemon.start():
        raise Violation("it did not start again\n" + daemon.read_log())
    return time.monotonic() + lease_ms / 1000


def gauge(daemon, name, **of):
    client = Client(daemon)
    metrics = client.call(stats=of).stats.metrics
    client.close()
    return next(int(one.value) for one in metrics if one.name == name)


def turns(daemon):
    """How long the daemon's turns were since it started, as it counts itself."""
    client = Client(daemon)
    metrics = client.call(stats={}).stats.metrics
    client.close()
    buckets = [(one.labels[0].value, int(one.value)) for one in metrics if one.name == "idemd_loop_turn_seconds_bucket"]
    counts = [(edge, count - before) for (edge, count), before in zip(buckets, [0] + [count for _, count in buckets])]
    return ", ".join(f"{count:,} up to {edge} s" for edge, count in counts if count)


def measure_all(run, daemon, size):
    together = prepare(run, daemon, size)
    numbers = make_orphans(daemon.socket, size.orphans)
    run.say(f"{size.interrupted:,} leases that end together, {size.namespaces:,} namespaces, {size.orphans:,} grants whose connections "
            "are gone")
    run.say(result(*measure(daemon.socket, max(0.5, together - time.monotonic() - 1), "alone")).table("alone"))
    ends = measure(daemon.socket, max(1.0, together - time.monotonic()) + size.seconds / 2, "leases")
    run.say(result(*ends).table("while all leases end"))
    until = time.monotonic() + 5 * PATIENCE  # while the tables are behind, they end slowly
    while gauge(daemon, "idemd_interrupted", namespace="big") < size.interrupted:
        if time.monotonic() > until:
            raise Violation("leases do not end")
        select.select([], [], [], 0.05)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    attacker = context.Process(target=attack, args=(daemon.socket, size, numbers, size.seconds + 1, run.seed, queue))
    attacker.start()
    attacked = result(*measure(daemon.socket, size.seconds, "attacked"))
    answers, error = queue.get(timeout=PATIENCE * 4)
    attacker.join()
    if error:
        raise Violation(f"an attacker was sent away: {error}")
    run.say(attacked.table("under all attacks"))
    run.say("turns of the daemon's loop, in all: " + turns(daemon))
    run.say("answered meanwhile: " + ", ".join(f"{name} {count:,}" for name, count in answers.items()))
    for name, count in answers.items():
        if count == 0 and name != "Recover that waits for one":
            raise Violation(f"never answered: {name}")
    run.say(f"p99 under all attacks: {attacked.p99_ms():.1f} ms; it should be below 50 ms on a machine that does nothing else")


def run(run):
    broken.check(MUTATIONS)
    most = run.cases_max(1)
    size = SMALL if most is not None and most <= 1 else LARGE
    if run.budget():
        size = Size(LARGE.interrupted, LARGE.namespaces, LARGE.orphans, LARGE.lists, max(5.0, run.budget() / 4))
    folder = os.path.join(run.folder, "large")
    os.makedirs(folder)
    daemon = Daemon(folder, os.path.join(folder, "data"), "--max-unfinished", "10000000", "--grace", "1h", "--keep", "60s",
                    "--quota", "1024GiB")
    try:
        check_small(os.path.join(run.folder, "small"), IDEMD, size)
        if not daemon.start():
            raise Violation("it did not start\n" + daemon.read_log())
        measure_all(run, daemon, size)
        run.cases += 1
        expect("exit status", daemon.terminate(), 0)
    except (Violation, Ended) as violation:
        run.violation(f"{violation}\n{daemon.read_log()[-2000:]}")
    finally:
        daemon.kill()
    for mutation in MUTATIONS:
        try:
            check_small(os.path.join(run.folder, "broken"), broken.build(mutation, run.folder), SMALL)
            run.control(mutation.name, False)
        except Violation as violation:
            run.control(mutation.name, True, str(violation))
