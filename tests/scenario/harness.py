"""A real daemon on a directory and socket of its own, and raw clients that speak nothing but idem.proto.

$IDEMD_BUILD is the build directory. Nothing sleeps: one waits for the daemon's ready line, for a reply, for the end of a connection;
each wait has a time-out that fails the test."""
import contextlib
import os
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import unittest

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.environ.pop("IDEMD_BUILD")  # idemd refuses a variable that begins like its own and is none
IDEMD = os.path.join(BUILD, "daemon", "idemd")
IDEM = os.path.join(BUILD, "client", "idem")
PATIENCE = 60.0  # seconds: longer than anything takes, so that it only ends what hangs


def _messages():
    folder = tempfile.mkdtemp(prefix="idem-pb2-")
    try:
        subprocess.run(["protoc", "--proto_path=" + os.path.join(TOP, "proto"), "--python_out=" + folder, "idem/v1/idem.proto"],
                       check=True)
        sys.path.insert(0, folder)
        from idem.v1 import idem_pb2
        return idem_pb2
    finally:
        sys.path.remove(folder)
        shutil.rmtree(folder)


pb = _messages()
EXECUTE = pb.BeginResponse.ANSWER_EXECUTE
REPLAY = pb.BeginResponse.ANSWER_REPLAY
RUNNING = pb.BeginResponse.ANSWER_RUNNING
MISMATCH = pb.BeginResponse.ANSWER_MISMATCH
INTERRUPTED = pb.BeginResponse.ANSWER_INTERRUPTED
EXPIRED = pb.BeginResponse.ANSWER_EXPIRED


class Daemon:
    """idemd as a process. Its log is kept in self.log."""

    def __init__(self, *options, folder=None, listen=None, expect_ready=True, limit_files=None, environment=None):
        self.folder = folder or tempfile.mkdtemp(prefix="idemd-")
        self.data = os.path.join(self.folder, "data")
        self.socket = os.path.join(self.folder, "s")
        self.options = list(options)
        self.listen = listen or ["unix:" + self.socket]
        self.limit_files = limit_files
        self.environment = environment  # variables on top of ours
        self.process = None
        self.log = []
        if expect_ready:
            self.start()

    def start(self):
        command = [IDEMD, "--data", self.data] + self.options
        for address in self.listen:
            command += ["--listen", address]
        if self.limit_files:
            command = ["sh", "-c", f"ulimit -n {self.limit_files}; exec \"$@\"", "sh"] + command
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
                                        env={**os.environ, **(self.environment or {})})
        self.ready = threading.Event()
        self.reader = threading.Thread(target=self._read, args=(self.process,), daemon=True)
        self.reader.start()
        if not self.ready.wait(PATIENCE):
            self.process.kill()
            raise AssertionError("not ready: " + "".join(self.log))
        if self.process.poll() is not None:
            raise AssertionError("it ended: " + "".join(self.log))

    def _read(self, process):
        for line in process.stderr:
            text = line.decode("utf-8", "replace")
            self.log.append(text)
            if "event=ready" in text:
                self.addresses = text.split("listen=", 1)[1].split(" version=")[0].strip().strip('"').split(" ")
                self.ready.set()
        process.stderr.close()
        self.ready.set()

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.wait()

    def terminate(self):
        self.process.send_signal(signal.SIGTERM)
        return self.wait()

    def wait(self):
        code = self.process.wait(PATIENCE)
        self.reader.join(PATIENCE)
        return code

    def close(self, keep=False):
        """Ends it: it has to drain, and to exit with 0. Its folder is removed if that went well, unless it is to be kept."""
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                code = self.wait()
            except subprocess.TimeoutExpired:
                self.kill()
                raise AssertionError(f"did not drain; {self.folder} is kept: " + "".join(self.log))
            if code != 0:
                raise AssertionError(f"exit status {code}; {self.folder} is kept: " + "".join(self.log))
        if keep:
            print(f"The test failed; its folder is kept: {self.folder}", file=sys.stderr)
        else:
            shutil.rmtree(self.folder, ignore_errors=True)

    def logged(self, event):
        """The lines of an event that it has logged so far (as logfmt)."""
        return [line for line in self.log if re.match(rf"time=\S+ level=\S+ event={event}\s", line)]

    def rss_kib(self):
        with open(f"/proc/{self.process.pid}/status") as status:
            for line in status:
                if line.startswith("VmRSS:"):
                    return int(line.split()[1])
        raise AssertionError("no VmRSS")

    def cpu_seconds(self):
        with open(f"/proc/{self.process.pid}/stat") as stat:
            fields = stat.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def frame(message, flag=0):
    data = message if isinstance(message, bytes) else message.SerializeToString()
    return struct.pack(">BI", flag, len(data)) + data


class Client:
    """One connection. call() sends and waits; send() and reply() pipeline."""

    def __init__(self, daemon, hello=None, address=None):
        address = address or daemon.addresses[0]
        if address.startswith("unix:"):
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.settimeout(PATIENCE)
            self.socket.connect(address[5:])
        else:
            host, port = address[4:].rsplit(":", 1)
            self.socket = socket.create_connection((host.strip("[]"), int(port)), PATIENCE)
        self.next_id = 1
        self.data = b""
        self.replies = {}
        if hello is not None:
            self.hello = self.call(hello=hello).hello

    def send(self, timeout_ms=0, **call):
        request = pb.Request(id=self.next_id, timeout_ms=timeout_ms, **call)
        self.next_id += 1
        self.socket.sendall(frame(request))
        return request.id

    def send_raw(self, data):
        self.socket.sendall(data)

    def _read_one(self):
        while True:
            if len(self.data) >= 5:
                flag, size = struct.unpack(">BI", self.data[:5])
                if len(self.data) >= 5 + size:
                    response = pb.Response.FromString(self.data[5:5 + size])
                    self.data = self.data[5 + size:]
                    assert flag == 0
                    return response
            more = self.socket.recv(1 << 16)
            if not more:
                return None
            self.data += more

    def reply(self, request_id):
        """The reply to a request, whatever comes before it. None: the connection ended."""
        while request_id not in self.replies:
            response = self._read_one()
            if response is None:
                return None
            self.replies[response.id] = response
        return self.replies.pop(request_id)

    def has_reply(self, request_id):
        """Has a reply come already, without waiting?"""
        while request_id not in self.replies:
            ready, _, _ = select.select([self.socket], [], [], 0)
            if not ready:
                return False
            response = self._read_one()
            if response is None:
                return False
            self.replies[response.id] = response
        return True

    def call(self, timeout_ms=0, **call):
        response = self.reply(self.send(timeout_ms, **call))
        assert response is not None, "the connection ended"
        return response

    def begin(self, key, **fields):
        return self.call(begin=begin(key, **fields)).begin

    def complete(self, key, fence, body=b"", **fields):
        return self.call(complete=complete(key, fence, body, **fields)).complete

    def at_end(self):
        """Waits for the end of the connection; returns what came before it."""
        while (response := self._read_one()) is not None:
            self.replies[response.id] = response
        return True

    def close(self):
        self.socket.close()


def busy_client(daemon, key):
    """A connection that is not idle: a call of it waits for that operation, which is running. The daemon need not have accepted it yet."""
    client = Client(daemon)
    client.send(get=pb.GetRequest(op=op(key), wait_ms=60000))
    return client


def op(key, caller="", namespace="test"):
    return pb.OperationId(namespace=namespace, caller=caller, key=key)


def begin(key, caller="", namespace="test", **fields):
    return pb.BeginRequest(op=op(key, caller, namespace), **fields)


def complete(key, fence, body=b"", kind=pb.OUTCOME_KIND_SUCCEEDED, code=200, **fields):
    return pb.CompleteRequest(op=op(key), fence=fence, outcome=pb.Outcome(kind=kind, code=code, body=body), **fields)


@contextlib.contextmanager
def temporary_folder():
    """Removed if what is done in it goes well."""
    folder = tempfile.mkdtemp(prefix="idemd-")
    try:
        yield folder
    except BaseException:
        print(f"The test failed; its folder is kept: {folder}", file=sys.stderr)
        raise
    shutil.rmtree(folder)


class Case(unittest.TestCase):
    """A test with daemons that are stopped - and have to drain with exit status 0 - at its end, and removed if it passed."""

    def daemon(self, *options, **how):
        daemon = Daemon(*options, **how)
        self.addCleanup(lambda: daemon.close(keep=not self._outcome.success))
        return daemon

    def temporary(self, parent=None):
        """A folder that is removed at the end if the test passed."""
        def finish():
            if self._outcome.success:
                shutil.rmtree(folder)
            else:
                print(f"The test failed; its folder is kept: {folder}", file=sys.stderr)

        folder = tempfile.mkdtemp(prefix="idemd-", dir=parent)
        self.addCleanup(finish)
        return folder

    def client(self, daemon, **how):
        client = Client(daemon, **how)
        self.addCleanup(client.close)
        return client

    def until(self, condition, what):
        """Asks again until it holds. Only for what no event tells."""
        end = time.monotonic() + PATIENCE
        while not condition():
            self.assertLess(time.monotonic(), end, what)
            select.select([], [], [], 0.01)


class CommandCase(Case):
    """A test of the idem command, with a daemon."""

    def setUp(self):
        self.server = self.daemon()

    def environment(self, address=None, **more):
        environment = {**os.environ, "IDEM_ADDRESS": address or self.server.addresses[0], **more}
        environment.pop("IDEM_NAMESPACE", None)
        return environment

    def idem(self, *words, data=None, address=None, **how):
        return subprocess.run([IDEM, *words], input=data, capture_output=True, timeout=PATIENCE, env=self.environment(address), **how)

    def fields(self, *words, expect=0):
        done = self.idem(*words)
        self.assertEqual(done.returncode, expect, done.stderr)
        return dict(line.split(" ", 1) for line in done.stdout.decode().splitlines())

    @staticmethod
    def content(path):
        with open(path, encoding="utf-8") as file:
            return file.read()
