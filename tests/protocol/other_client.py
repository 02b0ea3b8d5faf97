"""Another client: sockets, idem.proto and PROTOCOL.md, and nothing else. And a daemon for it to talk to.

$IDEMD_BUILD is the build directory. Every wait - for the ready line, for an answer, for the end of a connection or of the process - has
a time-out that fails the test; nothing sleeps."""
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import unittest

from messages import frame, pb

IDEMD = os.path.join(os.environ.pop("IDEMD_BUILD"), "daemon", "idemd")  # it refuses a variable of that name
PATIENCE = 60  # seconds: longer than anything takes, so that it only ends what hangs


class Daemon:
    """idemd on a directory and a Unix socket of its own."""

    def __init__(self, *options):
        self.folder = tempfile.mkdtemp(prefix="idem-protocol-")
        self.path = os.path.join(self.folder, "s")
        self.log = []
        self.ready = threading.Event()
        self.process = subprocess.Popen(
            [IDEMD, "--data", os.path.join(self.folder, "data"), "--listen", "unix:" + self.path, *options],
            stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace")
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        if not self.ready.wait(PATIENCE) or self.process.poll() is not None:
            self.process.kill()
            self.process.wait(PATIENCE)
            shutil.rmtree(self.folder)
            raise AssertionError("idemd did not get ready: " + "".join(self.log))

    def _read(self):
        for line in self.process.stderr:
            self.log.append(line)
            if "event=ready" in line.split():
                self.ready.set()
        self.ready.set()

    def terminate(self):
        self.process.send_signal(signal.SIGTERM)

    def close(self, keep=False):
        """Ends it: drained, and with exit status 0. Its folder is removed if that went well, unless it is to be kept."""
        code = None
        try:
            self.terminate()
            code = self.process.wait(PATIENCE)
            self.reader.join(PATIENCE)
            self.process.stderr.close()
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait(PATIENCE)
            if keep or code != 0:
                print(f"The test failed; its folder is kept: {self.folder}", file=sys.stderr)
            else:
                shutil.rmtree(self.folder, ignore_errors=True)
        if code != 0:
            raise AssertionError(f"idemd ended with {code}: " + "".join(self.log))


class Connection:
    """Frames to a daemon and back."""

    def __init__(self, daemon):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(PATIENCE)
        self.socket.connect(daemon.path)
        self.next_id = 1
        self.early = {}  # answers that came before they were asked for, by id

    def close(self):
        self.socket.close()

    def send_bytes(self, data):
        self.socket.sendall(data)

    def _exactly(self, size):
        data = b""
        while len(data) < size:
            try:
                more = self.socket.recv(size - len(data))
            except ConnectionResetError:  # the end too, where the daemon had not read all
                more = b""
            if not more:
                return data
            data += more
        return data

    def receive_frame(self):
        """The next frame, whole. None: the end."""
        header = self._exactly(5)
        if not header:
            return None
        flag, size = struct.unpack(">BI", header)
        data = self._exactly(size)
        if flag != 0 or len(data) != size:
            raise AssertionError(f"no frame: {header.hex()} {data[:40].hex()}")
        return header + data

    def receive(self):
        """The next Response. None: the end."""
        data = self.receive_frame()
        return None if data is None else pb.Response.FromString(data[5:])

    def answer_to(self, number):
        """The Response with that id, whatever comes before it."""
        while number not in self.early:
            response = self.receive()
            if response is None:
                raise AssertionError(f"the connection ended before {number} was answered")
            self.early[response.id] = response
        return self.early.pop(number)

    def send_message(self, request):
        self.send_bytes(frame(request))

    def send(self, timeout_ms=0, **call):
        request = pb.Request(id=self.next_id, timeout_ms=timeout_ms, **call)
        self.next_id += 1
        self.send_message(request)
        return request.id

    def call(self, timeout_ms=0, **call):
        return self.answer_to(self.send(timeout_ms, **call))

    def at_end(self):
        return self.receive() is None


class Case(unittest.TestCase):
    def daemon(self, *options):
        daemon = Daemon(*options)
        self.addCleanup(lambda: daemon.close(keep=not self._outcome.success))
        return daemon

    def connect(self, daemon):
        connection = Connection(daemon)
        self.addCleanup(connection.close)
        return connection
