"""Peers that vanish at the worst moment.

Each peer sets a trap - it goes past a limit, or leaves something half done - and then is gone: it closes, resets, half-closes, is
replaced by a Hello, or stops where it is (SIGSTOP) until it is killed. Very many do so at a time, over Unix and TCP. Beside them a good
client begins, completes and reads operations of its own; its answers are checked, and how long they took is printed. Afterwards nothing
of all those peers may be left: no call that waits, no byte that is kept for them, no descriptor, no operation that runs. Some rounds end
with SIGTERM while the peers are still there: the daemon has to drain.

A case is one peer that vanished."""
import multiprocessing
import os
import random
import re
import select
import signal
import socket
import struct
import time

from . import broken, wire
from .daemon import PATIENCE, Client, Daemon, Ended, op
from .run import IDEMD, Violation
from .walks import Measured, Template, expect, measure, result

PEERS = 40           # of one worker at a time
WORKERS = 2
CROWD = 150          # connections of one worker that read nothing
BIGS = 8             # operations whose outcome has a MiB
ROUND_S = 3.0
LEASE_MS = 1500      # of all that hostile peers begin: so it is over soon after them
LEFT_S = 10.0        # after which something that is left by a broken build counts as caught
STOPPED_MAX = 3      # processes of one worker that stand still
MIB = 1 << 20
# What the daemon may have of answers and frames for all peers together, and of memory beside: with --max-memory 256MiB.
MAX_MEMORY = 256 * MIB
BUFFERED_MAX = MAX_MEMORY // 4 + MAX_MEMORY // 4 + 32 * MIB

MUTATIONS = [
    broken.Mutation("answers that wait for the disk go to a connection that is gone", "daemon/server/service.c",
                    "    held_forget(&session->held);\n", "\n"),
    broken.Mutation("unread answers have no bound", "daemon/server/conns.c",
                    "return limit ? number_min(part, UNSENT_BYTES_MAX) : UNSENT_BYTES_MAX;", "return part > UINT64_MAX / 2 ? 1 : UINT64_MAX;"),
    broken.Mutation("half a frame of a gone peer counts for ever", "daemon/server/conn.c",
                    "conn->conns->in_bytes -= conn->in_capacity;", "conn->conns->in_bytes -= capacity ? conn->in_capacity : 0;"),
    broken.Mutation("calls of a gone peer go on waiting", "daemon/engine/decide.c", "    engine->waiting--;\n", "\n"),
    broken.Mutation("a gone owner keeps its lease", "daemon/engine/binding.c",
                    "deadline_set(&engine->graces, &holder->grace, operation_lease_time(engine, now) + engine->policy->grace_ms);",
                    "deadline_set(&engine->graces, &holder->grace, operation_lease_time(engine, now) + 3600000);"),
]


# ---- Traps: what a peer sends before it is gone ------------------------------------------------

class Traps:
    """Makes them. `big-0` .. are operations whose outcome has a MiB; `held` runs for the whole round."""

    def __init__(self, chosen, tag):
        self.chosen, self.tag, self.number = chosen, tag, 0
        self.replay = Template(begin={"op": op("big-0")})
        self.list = Template(list={"limit": 1000})
        self.stats = Template(stats={})
        self.all = [self.open_calls, self.unread_answers, self.half_a_frame, self.half_a_header, self.waiters, self.recovers,
                    self.bound_leases, self.after_a_bad_frame, self.lists, self.large_outcome, self.a_bit_of_everything]

    def crowd(self, addresses):
        """Connections that ask for a large outcome each and read nothing: more than may be kept for all."""
        crowd = []
        for number in range(CROWD):
            connection = connect(self.chosen.choice(addresses))
            connection.sendall(wire.frame({"id": 1, "get": {"op": op(f"big-{number % BIGS}")}}) * 2)
            crowd.append(connection)
        return crowd

    def key(self):
        self.number += 1
        return f"{self.tag}-{self.number}"

    def begin(self, **fields):
        return {"begin": {"op": op(self.key(), f"swarm-{self.chosen.randrange(20)}"), "lease_ms": LEASE_MS, **fields}}

    def frames(self, calls):
        return b"".join(wire.frame({"id": 1 + i, **call}) for i, call in enumerate(calls))

    def open_calls(self):
        """More than one connection may have open."""
        return self.frames([self.begin() for _ in range(self.chosen.choice([1023, 1024, 1025, 1500, 3000]))])

    def unread_answers(self):
        return self.replay.frames(1, self.chosen.randrange(1, 1500))

    def half_a_frame(self):
        whole = wire.frame({"id": 1, "complete": {"op": op("k"), "fence": 1, "outcome": {"kind": 1, "body": b"x" * MIB}}})
        return self.frames([self.begin()]) + whole[:self.chosen.randrange(1, len(whole))]

    def half_a_header(self):
        return self.frames([self.begin() for _ in range(100)]) + b"\0\0\0\x01"[:self.chosen.randrange(1, 4)]

    def waiters(self):
        """More than may wait, for an operation that goes on."""
        calls = [{"begin": {"op": op("held"), "wait_ms": 60000}} for _ in range(self.chosen.choice([1, 255, 256, 257, 600]))]
        return self.frames(calls + [self.begin() for _ in range(self.chosen.randrange(50))])

    def recovers(self):
        calls = [{"recover": {"namespace": f"swarm-{self.chosen.randrange(25)}", "limit": 100, "lease_ms": LEASE_MS, "wait_ms": 60000,
                              "attempt_id": self.chosen.randbytes(16)}} for _ in range(self.chosen.randrange(1, 300))]
        return self.frames(calls)

    def bound_leases(self):
        """They end after the grace, though they were long."""
        return self.frames([self.begin(bind_to_connection=True) | {} if self.chosen.random() < 0.5 else
                            {"begin": {"op": op(self.key(), "bound"), "lease_ms": 3600000, "bind_to_connection": True}}
                            for _ in range(self.chosen.randrange(1, 500))])

    def after_a_bad_frame(self):
        bad = self.chosen.choice([b"\1\0\0\0\0", b"\0\xff\xff\xff\xff", b"\0\0\0\0\x03\xff\xff\xff", wire.frame({"id": 7})])
        return self.frames([self.begin() for _ in range(self.chosen.randrange(1200))]) + bad + self.frames([self.begin()])

    def lists(self):
        return self.list.frames(1, 300) + self.stats.frames(301, 100)

    def large_outcome(self):
        """One that is refused, for its fence is nobody's: but it has to be read."""
        return self.frames([{"complete": {"op": op(self.key()), "fence": 1, "outcome": {"kind": 1, "body": b"x" * (MIB - 1000)}}}
                            for _ in range(self.chosen.randrange(1, 8))])

    def a_bit_of_everything(self):
        key = op(self.key(), "swarm-0")
        calls = [{"begin": {"op": key, "lease_ms": LEASE_MS, "attempt_id": b"0123456789abcdef", "input": b"i" * 1000}},
                 {"get": {"op": key, "wait_ms": 1000}}, {"checkpoint": {"op": key, "fence": 1, "checkpoint": {"name": "c"}}},
                 {"renew": {"op": key, "fence": 1}}, {"begin": {"op": key, "wait_ms": 500}}, {"cancel": {"id": 2}}, {"stats": {}},
                 {"forget": {"op": key, "revision": 1, "reason": "r"}}]
        return self.frames([self.chosen.choice(calls) for _ in range(self.chosen.randrange(1, 2000))])

    def some(self):
        return b"".join(self.chosen.choice(self.all)() for _ in range(self.chosen.choice([1, 1, 2])))


# ---- Peers ---------------------------------------------------------------------------------------

def connect(address):
    connection = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
    connection.settimeout(PATIENCE)
    connection.connect(address)
    return connection


class Peer:
    """A connection that sends its trap as far as it can, reads or does not, and vanishes."""

    def __init__(self, addresses, traps, chosen):
        self.chosen, self.addresses = chosen, addresses
        self.socket = connect(chosen.choice(addresses))
        self.connection = 0
        if chosen.random() < 0.3:
            self.greet()
        self.socket.setblocking(False)
        self.out = traps.some()
        self.reads = chosen.random() < 0.4
        self.left = chosen.randrange(1, 12)  # rounds over all peers until it vanishes
        self.half_closed = False

    def greet(self):
        self.socket.sendall(wire.frame({"id": 1 << 30, "hello": {"client": "swarm"}}))
        reader, found = wire.Reader(), []
        while not found:
            data = self.socket.recv(1 << 16)
            if not data:
                raise Ended("the daemon closed a connection that said Hello")
            found = reader.feed(data)
        self.connection = found[0].hello.connection

    def turn(self):
        """False: it has vanished, or was sent away."""
        try:
            if self.out:
                self.out = self.out[self.socket.send(self.out):]
        except BlockingIOError:
            pass
        except OSError:
            return self.close()
        if self.reads:
            try:
                if not self.socket.recv(1 << self.chosen.randrange(8, 18)):
                    return self.close()
            except BlockingIOError:
                pass
            except OSError:
                return self.close()
        self.left -= 1
        return self.left > 0 or self.vanish()

    def close(self):
        self.socket.close()
        return False

    def vanish(self):
        way = self.chosen.randrange(5)
        if way == 0 and self.socket.family == socket.AF_INET:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # RST
        elif way == 1 and not self.half_closed:
            try:
                self.socket.shutdown(self.chosen.choice([socket.SHUT_WR, socket.SHUT_RD]))
            except OSError:
                return self.close()
            self.half_closed, self.left = True, self.chosen.randrange(1, 12)
            return True
        elif way == 2 and self.connection:
            self.replace()
        return self.close()

    def replace(self):
        """Another connection takes its place, and vanishes as well."""
        try:
            with connect(self.chosen.choice(self.addresses)) as other:
                other.sendall(wire.frame({"id": 1, "hello": {"replaces": self.connection}}))
                if self.chosen.random() < 0.5:
                    other.recv(100)
        except OSError:
            pass


def stand_still(addresses, traps, chosen):
    """A process whose connections are there, and which does nothing any more. Returns its pid."""
    child = os.fork()
    if child == 0:
        try:
            peers = [Peer(addresses, traps, chosen) for _ in range(3)]
            for peer in peers:
                peer.turn()
            os.kill(os.getpid(), signal.SIGSTOP)
        finally:
            os._exit(0)
    return child


def end_child(child):
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def work(addresses, seed, tag, ends, queue):
    """Peers, one after the other, many at a time, until the event `ends`. How many vanished goes to the queue."""
    chosen = random.Random(seed)
    traps = Traps(chosen, tag)
    peers, stopped, crowd, vanished = [], [], [], 0
    try:
        crowd = traps.crowd(addresses)
        while not ends.is_set():
            while len(peers) < PEERS:
                peers.append(Peer(addresses, traps, chosen))
            if len(stopped) < STOPPED_MAX:
                stopped.append(stand_still(addresses, traps, chosen))
            elif chosen.random() < 0.05:
                end_child(stopped.pop(0))
            left = [peer for peer in peers if peer.turn()]
            vanished += len(peers) - len(left)
            peers = left
    except (OSError, Ended):
        pass  # the daemon drains, or is gone: who looks at it says which
    for child in stopped:
        end_child(child)
    for peer in peers + crowd:
        peer.close()
    queue.put(vanished + len(peers) + len(crowd) + 3 * len(stopped))


# ---- A round -----------------------------------------------------------------------------------------

def tcp_address(daemon):
    found = re.search(r"tcp:127\.0\.0\.1:(\d+)", daemon.read_log())
    return ("127.0.0.1", int(found[1]))


def gauges(client):
    return {one.name: one.value for one in client.call(stats={}).stats.metrics if not one.get("labels")}


def sockets(daemon):
    """How many descriptors of sockets it has: others come and go with its files."""
    folder, count = f"/proc/{daemon.pid}/fd", 0
    for name in os.listdir(folder):
        try:
            count += os.readlink(os.path.join(folder, name)).startswith("socket:")
        except FileNotFoundError:
            pass
    return count


def resident(daemon):
    with open(f"/proc/{daemon.pid}/status", encoding="ascii") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon:"))


def wait_until_nothing_is_left(daemon, client, before, patience):
    """What the peers had goes when they are gone: leases after their time, everything else at once."""
    until = time.monotonic() + patience
    while True:
        found = gauges(client)
        left = {name: found[name] for name in ("idemd_running", "idemd_waiting", "idemd_buffered_bytes", "idemd_held_bytes")}
        left["idemd_running"] -= 1  # the one that is held
        left["connections"] = found["idemd_connections"] - 1
        left["sockets"] = sockets(daemon) - before
        if not any(left.values()):
            return
        if time.monotonic() > until or not daemon.running():
            raise Violation(f"something is left of peers that are gone: {left}")
        select.select([], [], [], 0.05)  # time is what ends leases


def prepare(client):
    client.call(begin={"op": op("held"), "lease_ms": 24 * 3600 * 1000})
    body = bytes(range(256)) * (MIB // 256)
    for number in range(BIGS):
        key = op(f"big-{number}")
        fence = client.call(begin={"op": key}).begin.grant.fence
        done = client.call(complete={"op": key, "fence": fence, "outcome": {"kind": 1, "body": body}}).complete
        expect("Complete", done.ownership, wire.VALUES["OWNERSHIP_HELD"])
    until = time.monotonic() + PATIENCE  # from then on each answer has a copy of its own
    while gauges(client)["idemd_tail_bytes"]:
        if time.monotonic() > until:
            raise Violation("what was completed does not get into the tables")
        select.select([], [], [], 0.05)


class Watch:
    """Looks how much the daemon keeps, over and over, on a connection of its own."""

    def __init__(self, daemon):
        self.daemon, self.client = daemon, Client(daemon)
        self.most_buffered = self.most_resident = 0

    def look(self):
        found = gauges(self.client)
        self.most_buffered = max(self.most_buffered, found["idemd_buffered_bytes"] + found["idemd_held_bytes"])
        self.most_resident = max(self.most_resident, resident(self.daemon))
        if self.most_buffered > BUFFERED_MAX:
            raise Violation(f"{self.most_buffered / MIB:.0f} MiB are kept for peers, and no more than {BUFFERED_MAX / MIB:.0f} may be")


def swarm(daemon, seed, seconds, tag, drain, patience):
    """Returns (vanished peers, the good client's figures, most bytes kept, most memory)."""
    client = Client(daemon)
    prepare(client)
    watch = Watch(daemon)
    watch.look()  # so its connection is counted
    before = sockets(daemon) - 1  # without that of the watch
    context = multiprocessing.get_context("fork")
    ends, queue = context.Event(), context.Queue()
    workers = [context.Process(target=work, args=([daemon.socket, tcp_address(daemon)], seed * 100 + i, f"{tag}{i}", ends, queue))
               for i in range(WORKERS)]
    for worker in workers:
        worker.start()
    try:
        good = measure(daemon.socket, seconds, tag)
        while good[0].is_alive() and good[1].empty():
            watch.look()
            select.select([], [], [], 0.02)
        measured = result(*good)
        if drain:
            expect("exit status of a daemon that drains", daemon.terminate(), 0)
    finally:
        ends.set()
        vanished = sum(queue.get(timeout=PATIENCE) for _ in workers)
        for worker in workers:
            worker.join()
    if not drain:
        watch.client.close()
        wait_until_nothing_is_left(daemon, client, before, patience)
        expect("Get of the big one", len(client.call(get={"op": op("big-1")})["get"].outcome.body), MIB)
        client.close()
        expect("exit status", daemon.terminate(), 0)
    return vanished, measured, watch.most_buffered, watch.most_resident


def round_of(folder, program, seed, seconds, tag, drain, patience=PATIENCE):
    os.makedirs(folder)
    chosen = random.Random(seed)
    daemon = Daemon(folder, os.path.join(folder, "data"), "--listen", "tcp:127.0.0.1:0", "--grace", chosen.choice(["0ms", "200ms", "1s"]),
                    "--max-memory", str(MAX_MEMORY), "--log-level", "error", program=program)
    daemon.options[-1:] = ["info"]  # the address stands in the line that says it is ready
    try:
        if not daemon.start():
            raise Violation("it did not start\n" + daemon.read_log())
        return swarm(daemon, seed, seconds, tag, drain, patience)
    except (Violation, Ended, OSError) as fault:
        daemon.kill()
        raise Violation(f"{fault}; the daemon ended by {daemon.code}\n{daemon.read_log()[-1500:]}") from fault
    finally:
        daemon.kill()


# ---- A run ----------------------------------------------------------------------------------------------

def run(run):
    broken.check(MUTATIONS)
    all_measured, buffered, memory, number = Measured(), 0, 0, 0
    most = run.cases_max(2000)
    ends = run.ends()
    while (most is None or run.cases < most) and time.monotonic() < ends:
        number += 1
        seed = run.seed + number
        folder = os.path.join(run.folder, f"round{number}")
        try:
            vanished, measured, kept, resident_bytes = round_of(folder, IDEMD, seed, ROUND_S, f"r{number}", number % 3 == 0)
        except Violation as violation:
            run.violation(f"round {number}: {violation}", folder)
            vanished = 1
        else:
            for what, seconds in measured.seconds.items():
                all_measured.seconds.setdefault(what, []).extend(seconds)
            buffered, memory = max(buffered, kept), max(memory, resident_bytes)
        run.cases += vanished
    if all_measured.seconds:
        run.say(all_measured.table(f"the good client beside {run.cases:,} peers"))
    run.say(f"{number} rounds; at most {buffered / MIB:.0f} MiB kept for peers, {memory / MIB:.0f} MiB of memory, of the daemon's own limit of "
            f"{MAX_MEMORY / MIB:.0f}")
    for mutation in MUTATIONS:
        control(run, mutation)


def control(run, mutation):
    """Some rounds are needed for what depends on when something happens."""
    program = broken.build(mutation, run.folder)
    for number in range(6):
        folder = os.path.join(run.folder, "broken-" + str(number) + "".join(c if c.isalnum() else "-" for c in mutation.name))
        try:
            round_of(folder, program, run.seed + number, ROUND_S, f"b{number}", False, LEFT_S)
        except Violation as violation:
            run.control(mutation.name, True, str(violation))
            return
    run.control(mutation.name, False)
