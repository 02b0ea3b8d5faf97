"""A daemon as a process, and a client that speaks idem.proto.

Nothing sleeps. A daemon says that it is ready through $NOTIFY_SOCKET; its end is an event of its pidfd. Each wait ends after PATIENCE,
which is longer than anything takes, with a Violation: a daemon that hangs is one."""
import os
import select
import signal
import socket

from . import wire
from .run import BUILD, IDEMD, Violation

PATIENCE = 60.0
EXIT_CODES = {0, 64, 65, 69, 70, 71, 73, 74, 75, 77, 78}  # those that the manual names


INTERPOSE = os.path.join(BUILD, "tests", "libtorture_interpose.so")


def interposed(tree, recording=None, ways="", slow_us=0, faults=None):
    """The environment of a daemon between which and the disk interpose.c stands."""
    variables = {"LD_PRELOAD": INTERPOSE, "TORTURE_TREE": tree}
    for name, value in (("RECORD", recording), ("BREAK", ways), ("SLOW_US", slow_us), ("FAULTS", faults)):
        if value:
            variables["TORTURE_" + name] = str(value)
    return variables


class Daemon:
    """idemd over a data directory. Its log is the file `log`, its socket the file `socket`, both in `folder`, not in the data.
    limits: resources of which it is to have less, as prlimit's options ("--nofile=20").

    start() returns whether it became ready; if not, `code` says how it ended (negative: by that signal)."""

    def __init__(self, folder, data, *options, program=IDEMD, environment=None, limits=()):
        self.folder, self.data, self.program = folder, data, program
        self.options, self.limits = list(options), list(limits)
        self.environment = dict(environment or {})
        self.socket = os.path.join(folder, "s")
        self.log = os.path.join(folder, "log")
        self.pid = self.pidfd = self.code = None

    def start(self):
        name = os.path.join(self.folder, "n")
        if os.path.lexists(name):
            os.unlink(name)
        environment = {key: value for key, value in os.environ.items() if not key.startswith("IDEMD_")}
        environment.update(self.environment, NOTIFY_SOCKET=name)
        # The sanitizers want to be loaded first, and work all the same if they are not.
        environment["ASAN_OPTIONS"] = "verify_asan_link_order=0:" + environment.get("ASAN_OPTIONS", "")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready:
            ready.bind(name)
            actions = [(os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0), (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0),
                       (os.POSIX_SPAWN_OPEN, 2, self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)]
            command = [self.program, "--data", self.data, "--listen", "unix:" + self.socket] + self.options
            if self.limits:
                command = ["/usr/bin/prlimit"] + self.limits + command
            self.pid = os.posix_spawn(command[0], command, environment, file_actions=actions,
                                      setsigdef=[signal.SIGXFSZ, signal.SIGPIPE])  # which Python ignores
            self.pidfd, self.code = os.pidfd_open(self.pid), None
            events, _, _ = select.select([ready, self.pidfd], [], [], PATIENCE)
        os.unlink(name)
        if ready.fileno() == -1 and not events:
            self.kill()
            raise Violation("a daemon neither became ready nor ended\n" + self.read_log())
        if self.pidfd in events and len(events) == 1:
            self.wait()
            return False
        return True

    def running(self):
        if self.pid is None or self.code is not None:
            return False
        return not select.select([self.pidfd], [], [], 0)[0]

    def wait(self):
        """Its exit status; negative: it ended by that signal."""
        if self.code is None:
            if not select.select([self.pidfd], [], [], PATIENCE)[0]:
                self.signal(signal.SIGKILL)
                os.waitpid(self.pid, 0)
                self._ended(-signal.SIGKILL)
                raise Violation("a daemon did not end\n" + self.read_log())
            self._ended(os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1]))
        return self.code

    def _ended(self, code):
        self.code = code
        os.close(self.pidfd)
        self.pidfd = None

    def signal(self, number):
        if self.code is None and self.pid is not None:
            signal.pidfd_send_signal(self.pidfd, number)

    def kill(self):
        if self.pid is not None and self.code is None:
            self.signal(signal.SIGKILL)
            self.wait()

    def terminate(self):
        self.signal(signal.SIGTERM)
        return self.wait()

    def read_log(self):
        if not os.path.exists(self.log):
            return ""
        with open(self.log, encoding="utf-8", errors="replace") as log:
            return log.read()


class Ended(Exception):
    """The connection ended before the answer came."""


class Client:
    """One connection. call() sends and waits; send() and answer() pipeline. Requests are dictionaries: call(get={"op": op("k")})."""

    def __init__(self, daemon, first_id=1):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(PATIENCE)
        try:
            self.socket.connect(daemon.socket)
        except OSError as error:
            self.socket.close()
            raise Ended(str(error)) from error
        self.next_id = first_id
        self.reader = wire.Reader()
        self.answers, self.early = {}, {}  # those that were not asked for yet; that came while something was sent

    def send(self, **call):
        return self.send_all([call])[0]

    def send_all(self, calls):
        """Sends many at once; returns their ids."""
        first = self.next_id
        self.next_id += len(calls)
        self._write(b"".join(wire.frame({"id": first + i, **call}) for i, call in enumerate(calls)))
        return list(range(first, self.next_id))

    def _write(self, data):
        """Reads meanwhile: a daemon does not read from somebody who leaves many answers unread."""
        left = memoryview(data)
        while left:
            readable, writable, _ = select.select([self.socket], [self.socket], [], PATIENCE)
            if not readable and not writable:
                raise Violation("a daemon neither reads nor answers")
            if readable:
                self.early.update(self._read())
            try:
                if writable:
                    left = left[self.socket.send(left, socket.MSG_DONTWAIT):]
            except OSError as error:
                raise Ended(str(error)) from error

    def _read(self):
        try:
            data = self.socket.recv(1 << 18)
        except TimeoutError as error:
            raise Violation("a daemon does not answer") from error
        except OSError as error:
            raise Ended(str(error)) from error
        if not data:
            raise Ended("the daemon closed the connection")
        return {answer.id: answer for answer in self.reader.feed(data)}

    def receive(self):
        """Waits for some answers and returns them, by id."""
        if self.early:
            early, self.early = self.early, {}
            return early
        return self._read()

    def answer(self, number):
        while number not in self.answers:
            self.answers.update(self.receive())
        return self.answers.pop(number)

    def call(self, **call):
        return self.answer(self.send(**call))

    def call_all(self, calls):
        """Sends all at once and waits for all their answers, in order."""
        return [self.answer(number) for number in self.send_all(calls)]

    def close(self):
        self.socket.close()


def op(key, namespace="test", caller=""):
    return {"namespace": namespace, "caller": caller, "key": key}
