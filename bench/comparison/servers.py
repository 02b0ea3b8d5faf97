"""The servers under comparison as processes: each in a directory of its own on a Unix socket, ended by its pid, and with this process."""
import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time

START_S = 600.0  # a server is ready by then, with whatever it has to load
END_S = 120.0


def die_with_parent():
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def redis_program():
    """Debian's redis-tools has the whole server, which acts as it is called; redis-server is a link to it."""
    return shutil.which("redis-server") or "/usr/bin/redis-check-rdb"


class Server:
    """A process. self.ready_s is how long it took from its start until it answered."""
    name = ""

    def __init__(self, folder):
        self.folder = folder
        os.makedirs(folder, exist_ok=True)
        self.sockets = tempfile.mkdtemp(prefix="idem-compare-")  # a path short enough for a socket
        self.path = os.path.join(self.sockets, "s")
        self.process = None

    @property
    def target(self):
        return f"{self.name}:unix:{self.path}"

    def start(self):
        began = time.monotonic()
        self.process = self.launch()
        while not self.is_ready():
            if self.process.poll() is not None or time.monotonic() - began > START_S:
                raise RuntimeError(f"{self.name} did not start: see {self.folder}")
            time.sleep(0.001)
        self.ready_s = time.monotonic() - began
        return self

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            try:
                self.process.wait(END_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.process = None

    def remove(self):
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.rmtree(self.sockets, ignore_errors=True)

    def __enter__(self):
        try:
            return self.start()
        except BaseException:
            self.remove()
            raise

    def __exit__(self, *_):
        self.remove()

    def send_signal(self, which):
        self.process.send_signal(which)

    def _status(self, name, path="status"):
        with open(f"/proc/{self.process.pid}/{path}") as file:
            for line in file:
                if line.startswith(name + ":"):
                    return int(line.split()[1])
        raise RuntimeError(f"no {name} in /proc/{self.process.pid}/{path}")

    def rss_bytes(self):
        return 1024 * self._status("VmRSS")

    def rss_anon_bytes(self):
        return 1024 * self._status("RssAnon")

    def written_bytes(self):
        return self._status("write_bytes", "io")

    def wake_ups(self):
        """Voluntary context switches of all its threads so far."""
        tasks = f"/proc/{self.process.pid}/task"
        return sum(self._status("voluntary_ctxt_switches", f"task/{task}/status") for task in os.listdir(tasks))

    def settled(self, read, quiet_s, seconds=180.0):
        """The value once it has stayed the same for so long."""
        end = time.monotonic() + seconds
        value, since = read(), time.monotonic()
        while time.monotonic() - since < quiet_s and time.monotonic() < end:
            time.sleep(0.5)
            before, value = value, read()
            if value != before:
                since = time.monotonic()
        return value


class Idemd(Server):
    name = "idem"
    label = "idemd"

    def __init__(self, build, folder, *options, data=None):
        super().__init__(folder)
        self.program = os.path.join(build, "daemon", "idemd")
        self.command = os.path.join(build, "client", "idem")
        self.data = data or os.path.join(folder, "data")
        self.options = options

    def launch(self):
        self.log = os.path.join(self.folder, "log")
        with open(self.log, "w") as log:
            return subprocess.Popen([self.program, "--data", self.data, "--listen", "unix:" + self.path, "--quota", "64GiB", "--namespace-share", "100",
                                     *self.options], stdin=subprocess.DEVNULL, stderr=log, preexec_fn=die_with_parent)

    def is_ready(self):
        with open(self.log) as log:
            return "event=ready" in log.read()

    def metric(self, name):
        """One of its Stats, 0 where it is not given."""
        done = subprocess.run([self.command, "-s", "unix:" + self.path, "--json", "stats"], check=True, stdout=subprocess.PIPE,
                              timeout=60)
        for metric in json.loads(done.stdout).get("metrics", []):
            if metric.get("name") == name and not metric.get("labels"):
                return float(metric.get("value", 0))
        return 0.0


class Redis(Server):
    name = "redis"

    def __init__(self, folder, fsync):
        super().__init__(folder)
        self.fsync = fsync
        self.label = "Redis " + fsync

    def launch(self):
        with open(os.path.join(self.folder, "log"), "w") as log:
            return subprocess.Popen(
                ["redis-server", "--port", "0", "--unixsocket", self.path, "--dir", self.folder, "--save", "", "--appendonly",
                 "yes", "--appendfsync", self.fsync, "--auto-aof-rewrite-percentage", "0", "--maxclients", "10000"],
                executable=redis_program(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=die_with_parent)

    def ask(self, *words):
        """One command; the first line of its reply."""
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(60)
            client.connect(self.path)
            client.sendall(b"".join([b"*%d\r\n" % len(words)] + [b"$%d\r\n%s\r\n" % (len(w), w.encode()) for w in words]))
            reply = b""
            while b"\r\n" not in reply:
                more = client.recv(4096)
                if not more:
                    raise OSError("closed the connection")
                reply += more
            return reply.split(b"\r\n")[0].decode()

    def is_ready(self):
        try:
            return self.ask("PING") == "+PONG"
        except OSError:
            return False

    def appended_bytes(self):
        """The size of its AOF."""
        folder = os.path.join(self.folder, "appendonlydir")
        return sum(os.path.getsize(os.path.join(folder, name)) for name in os.listdir(folder))

    def set_fsync(self, fsync):
        if self.ask("CONFIG", "SET", "appendfsync", fsync) != "+OK":
            raise RuntimeError("appendfsync could not be set")
        self.fsync = fsync
        self.label = "Redis " + fsync
