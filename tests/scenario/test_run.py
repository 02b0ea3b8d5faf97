#!/usr/bin/env python3
"""idem run against everything around a command: readers that stop, closed and broken descriptors, terminals, signals, and the process
that renews."""
import ctypes
import fcntl
import os
import pty
import resource
import select
import signal
import struct
import subprocess
import sys
import termios
import unittest

from harness import CommandCase, IDEM, PATIENCE, frame, pb


def no_pidfd():
    """In the process: pidfd_open is a system call that this kernel does not know."""
    libc = ctypes.CDLL(None, use_errno=True)
    code = [(0x20, 0, 0, 0), (0x15, 0, 1, 434), (0x06, 0, 0, 0x00050000 | 38), (0x06, 0, 0, 0x7fff0000)]  # load nr; 434: ENOSYS; else allow
    filters = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *one) for one in code))
    program = ctypes.create_string_buffer(struct.pack("@HP", len(code), ctypes.addressof(filters)))
    assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, program, 0, 0) == 0


class Run(CommandCase):
    def start(self, *words, **how):
        """idem run, as a process that is ended with the test."""
        process = subprocess.Popen([IDEM, "run", *words], env=self.environment(), **how)
        self.addCleanup(self.end, process)
        return process

    def end(self, process):
        if process.poll() is None:
            for pid in self.children(process.pid) + [process.pid]:
                os.kill(pid, signal.SIGKILL)
            process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream:
                stream.close()

    def fifo(self, name):
        path = os.path.join(self.server.folder, name)
        os.mkfifo(path)
        return path

    def say(self, fifo, text="go\n"):
        with open(fifo, "w", encoding="utf-8") as out:
            out.write(text)

    @staticmethod
    def hear(fifo):
        """Waits until somebody has written to it and closed it."""
        with open(fifo, encoding="utf-8") as file:
            return file.read().strip()

    def renewals(self):
        stats = pb.StatsResponse()
        from google.protobuf import json_format
        json_format.Parse(self.idem("--json", "stats").stdout, stats)
        return sum(metric.value for metric in stats.metrics if metric.name == "idemd_calls_total" and
                   [label.value for label in metric.labels] == ["renew", "OK"])

    def outlives_its_lease(self, key):
        """With a lease of 1 s it is renewed every third of a second, so four renewals are more than the lease. Still nobody else has it."""
        before = self.renewals()
        self.until(lambda: self.renewals() >= before + 4, "it renews")
        state = self.fields("get", "--key", key)
        self.assertEqual((state["info.state"], state["info.attempt"]), ("running", "1"))

    def is_done(self, key):
        return self.idem("get", "--key", key).stdout.startswith(b"info.state done\n")

    @staticmethod
    def stat(pid, field):
        with open(f"/proc/{pid}/stat", encoding="utf-8") as stat:
            return stat.read().rsplit(")", 1)[1].split()[field]

    def children(self, pid):
        found = []
        for name in os.listdir("/proc"):
            try:
                if name.isdigit() and int(self.stat(name, 1)) == pid:
                    found.append(int(name))
            except (FileNotFoundError, ProcessLookupError):
                pass
        return found

    # ---- Readers that stop --------------------------------------------------------

    def test_a_reader_that_stops_does_not_keep_the_outcome(self):
        read_end, write_end = os.pipe()
        process = self.start("--key", "k", "--", "head", "-c", "500000", "/dev/zero", stdout=write_end)
        os.close(write_end)
        self.until(lambda: self.is_done("k"), "it is stored while nobody reads")
        with os.fdopen(read_end, "rb") as out:
            self.assertEqual(len(out.read()), 500000)
        self.assertEqual(process.wait(PATIENCE), 0)

    def test_a_reader_that_stops_does_not_end_the_lease(self):
        read_end, write_end = os.pipe()
        process = self.start("--key", "k", "--lease", "1s", "--", "head", "-c", "8000000", "/dev/zero", stdout=write_end)
        os.close(write_end)
        self.until(lambda: self.idem("get", "--key", "k").returncode == 0, "it runs")
        self.outlives_its_lease("k")
        with os.fdopen(read_end, "rb") as out:
            self.assertEqual(len(out.read()), 8000000)
        self.assertEqual(process.wait(PATIENCE), 0)

    def test_a_stopped_terminal_does_not_end_the_lease(self):
        master, slave = pty.openpty()
        os.write(master, b"\x13")  # Ctrl-S
        process = self.start("--key", "k", "--lease", "1s", "--", "sh", "-c", "head -c 3000000 /dev/zero | tr '\\0' x", stdout=slave)
        os.close(slave)
        self.until(lambda: self.idem("get", "--key", "k").returncode == 0, "it runs")
        self.outlives_its_lease("k")
        os.write(master, b"\x11")  # Ctrl-Q
        count = 0
        try:
            while data := os.read(master, 65536):
                count += data.count(b"x")
        except OSError:
            pass  # that is how a terminal ends
        os.close(master)
        self.assertEqual((process.wait(PATIENCE), count), (0, 3000000))

    def test_standard_output_that_does_not_block(self):
        """It is full and says EAGAIN: idem sleeps until there is room, and the mode stays as it was."""
        read_end, write_end = os.pipe()
        os.set_blocking(write_end, False)
        process = self.start("--key", "k", "--", "head", "-c", "5000000", "/dev/zero", stdout=write_end)
        full = fcntl.fcntl(read_end, fcntl.F_GETPIPE_SZ)
        self.until(lambda: struct.unpack("i", fcntl.ioctl(read_end, termios.FIONREAD, b"\0" * 4))[0] == full, "it is full")
        # One that spins is hardly ever seen asleep, and not twenty times in a row.
        self.until(lambda: all(self.stat(process.pid, 0) == "S" and not select.select([], [], [], 0.005)[0] for _ in range(20)), "it sleeps")
        self.assertFalse(os.get_blocking(write_end))
        os.close(write_end)
        with os.fdopen(read_end, "rb") as out:
            self.assertEqual(len(out.read()), 5000000)
        self.assertEqual(process.wait(PATIENCE), 0)

    def test_standard_input_that_does_not_block(self):
        read_end, write_end = os.pipe()
        os.set_blocking(read_end, False)
        process = self.start("--key", "k", "--stdin", "--", "cat", stdin=read_end, stdout=subprocess.PIPE)
        os.close(read_end)
        self.until(lambda: self.stat(process.pid, 0) == "S", "it waits for what is not there yet")
        os.write(write_end, b"late")
        os.close(write_end)
        self.assertEqual((process.communicate(timeout=PATIENCE)[0], process.returncode), (b"late", 0))

    def test_standard_output_keeps_its_mode(self):
        read_end, write_end = os.pipe()
        ready = self.fifo("fifo")
        process = self.start("--key", "k", "--", "sh", "-c", f"echo x; cat {ready}", stdout=write_end)
        self.assertEqual(os.read(read_end, 2), b"x\n")
        self.assertTrue(os.get_blocking(write_end))
        self.say(ready)
        self.assertEqual(process.wait(PATIENCE), 0)
        os.close(read_end)
        os.close(write_end)

    # ---- Readers that go, and disks that are full ---------------------------------

    def test_an_endless_command_ends_with_its_reader(self):
        process = self.start("--key", "k", "--", "yes", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.assertEqual(process.stdout.readline(), b"y\n")
        process.stdout.close()
        self.assertEqual(process.wait(PATIENCE), 128 + signal.SIGPIPE)
        self.assertEqual(self.fields("get", "--key", "k")["info.state"], "interrupted")

    def test_a_command_whose_reader_goes_has_its_outcome(self):
        ready = self.fifo("fifo")
        process = self.start("--key", "k", "--", "sh", "-c", f"echo one; cat {ready}; echo two", stdout=subprocess.PIPE)
        self.assertEqual(process.stdout.readline(), b"one\n")
        process.stdout.close()
        self.say(ready)
        self.assertEqual(process.wait(PATIENCE) % 256, -signal.SIGPIPE % 256 if process.returncode < 0 else 128 + signal.SIGPIPE)
        again = self.idem("run", "--key", "k", "--", "sh", "-c", f"echo one; cat {ready}; echo two")
        self.assertEqual((again.returncode, again.stdout), (0, b"one\ngo\ntwo\n"))

    def test_what_cannot_be_written_is_an_error(self):
        for how in ("run", "replay"):
            with open("/dev/full", "wb") as full:
                done = subprocess.run([IDEM, "run", "--key", "k", "--", "echo", "paid"], stdout=full, stderr=subprocess.PIPE,
                                      env=self.environment(), timeout=PATIENCE)
            self.assertEqual(done.returncode, 74, how)
            self.assertIn(b"No space left", done.stderr)
        self.assertEqual(self.idem("run", "--key", "k", "--", "echo", "paid").stdout, b"paid\n")
        for words in (["get", "--key", "k"], ["begin", "--key", "k"], ["key"], ["run", "--help"]):
            with open("/dev/full", "wb") as full:
                done = subprocess.run([IDEM, *words], stdout=full, stderr=subprocess.PIPE, env=self.environment(), timeout=PATIENCE)
            self.assertEqual(done.returncode, 74, words)

    def test_closed_descriptors_are_nobody_elses(self):
        """What the command writes is a request of the protocol: it must not reach the daemon through the place of standard output."""
        forged = frame(pb.Request(id=77, begin=pb.BeginRequest(op=pb.OperationId(namespace="default", key="forged"))))
        script = "printf '" + "".join(f"\\{byte:03o}" for byte in forged) + "'"
        for closed in ([1], [0, 1], [1, 2], [0], [2], [0, 1, 2]):
            key = "".join(map(str, closed))
            streams = {name: None if number in closed else subprocess.DEVNULL if number == 0 else subprocess.PIPE
                       for number, name in enumerate(("stdin", "stdout", "stderr"))}
            done = subprocess.run([IDEM, "run", "--key", key, "--", "sh", "-c", script + (" >&2" if 2 in closed else "")],
                                  env=self.environment(), timeout=PATIENCE, preexec_fn=lambda: [os.close(fd) for fd in closed], **streams)
            self.assertEqual(done.returncode, 0 if closed == [0] else 74, closed)
            self.assertTrue(self.is_done(key))
        self.assertEqual(self.idem("get", "--key", "forged").returncode, 17)

    def test_the_disk_quota_of_a_file(self):
        """SIGXFSZ is for whoever writes the file, and that is idem."""
        path = os.path.join(self.server.folder, "out")
        with open(path, "wb") as out:
            done = subprocess.run([IDEM, "run", "--key", "k", "--", "sh", "-c", "ulimit -f unlimited; head -c 200000 /dev/zero"],
                                  stdout=out, stderr=subprocess.PIPE, env=self.environment(), timeout=PATIENCE,
                                  preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100000, resource.RLIM_INFINITY)))
        self.assertEqual((done.returncode, os.path.getsize(path)), (74, 100000), done.stderr)
        self.assertTrue(self.is_done("k"))

    # ---- Signals ---------------------------------------------------------------------

    def test_signals_reach_the_command(self):
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM,
                       signal.SIGRTMIN + 3):
            key, ready = str(int(number)), self.fifo(f"fifo{int(number)}")
            script = f"import os, signal\nsignal.signal({int(number)}, lambda *_: (os.write(1, b'caught'), os._exit(0)))\n" \
                     f"open({ready!r}, 'w').close()\nwhile True: signal.pause()"
            process = self.start("--key", key, "--", sys.executable, "-c", script, stdout=subprocess.PIPE)
            self.hear(ready)
            process.send_signal(number)
            self.assertEqual((process.communicate(timeout=PATIENCE)[0], process.returncode), (b"caught", 0), number)

    def test_an_alarm_set_before_is_the_commands(self):
        """perl -e 'alarm 5; exec @ARGV' and its like: the time-out survives exec, and must end the command too."""
        path = os.path.join(self.server.folder, "pid")
        process = self.start("--key", "k", "--", "sh", "-c", f"echo $$ >{path}; exec sleep 1000", stderr=subprocess.PIPE,
                             preexec_fn=lambda: signal.setitimer(signal.ITIMER_REAL, 2))
        process.communicate(timeout=PATIENCE)
        if os.path.exists(path):  # else it came before the command was started
            self.assertEqual(process.returncode, 128 + signal.SIGALRM)
            self.assertFalse(os.path.exists("/proc/" + self.content(path).strip()))

    def test_ignored_signals_stay_ignored(self):
        def ignore():
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            signal.signal(signal.SIGINT, signal.SIG_IGN)

        ready, end = self.fifo("ready"), self.fifo("end")
        process = self.start("--key", "k", "--", "sh", "-c", f"grep SigIgn /proc/self/status; echo >{ready}; cat {end}", preexec_fn=ignore,
                             stdout=subprocess.PIPE)
        self.hear(ready)
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGINT)
        self.say(end)
        out = process.communicate(timeout=PATIENCE)[0].decode()
        self.assertEqual((process.returncode, int(out.split()[1], 16) & 0b1000000000011), (0, 0b11), out)
        # And what is not ignored is not.
        out = self.idem("run", "--key", "l", "--", "grep", "SigIgn", "/proc/self/status").stdout.decode()
        self.assertEqual(int(out.split()[1], 16) & 0b1000000010000000000000011, 0)

    def test_sigchld_ignored_or_blocked(self):
        """It is what tells us that the command has ended; the command itself finds it as it was."""
        for field, prepare in (("SigIgn", lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN)),
                               ("SigBlk", lambda: signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD, signal.SIGTERM]))):
            done = self.idem("run", "--key", field, "--", "grep", field, "/proc/self/status", preexec_fn=prepare)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertEqual(int(done.stdout.split()[1], 16) & (1 << 16), 1 << 16, field)
            done = self.idem("run", "--key", field + "3", "--on-failure", "keep", "--", "sh", "-c", "exit 3", preexec_fn=prepare)
            self.assertEqual(done.returncode, 3, done.stderr)

    def test_without_pidfd_open(self):
        done = self.idem("run", "--key", "k", "--", "sh", "-c", "echo done", preexec_fn=no_pidfd)
        self.assertEqual((done.returncode, done.stdout), (0, b"done\n"), done.stderr)

    def test_a_stopped_job_keeps_its_lease(self):
        ready, end = self.fifo("ready"), self.fifo("end")
        process = self.start("--key", "k", "--lease", "1s", "--", "sh", "-c", f"echo $$ >{ready}; exec cat {end}", stdout=subprocess.PIPE,
                             preexec_fn=os.setpgrp)
        command = int(self.hear(ready))
        process.send_signal(signal.SIGTSTP)
        for pid in (process.pid, command):
            self.until(lambda pid=pid: self.stat(pid, 0) == "T", "it is stopped")
        self.outlives_its_lease("k")
        process.send_signal(signal.SIGCONT)
        self.say(end)
        self.assertEqual((process.communicate(timeout=PATIENCE)[0], process.returncode), (b"go\n", 0))

    def test_stopped_by_a_terminal(self):
        """A shell with job control: Ctrl-Z gives the prompt back, the lease goes on, fg ends it; Ctrl-C is the command's affair."""
        ready, end = self.fifo("ready"), self.fifo("end")
        pid, master = pty.fork()
        if pid == 0:
            os.execvpe("bash", ["bash", "--norc", "--noprofile", "-i"], {**self.environment(), "PS1": "$ ", "HISTFILE": ""})
        said = b""

        def expect(what):
            nonlocal said
            while what not in said:
                self.assertTrue(select.select([master], [], [], PATIENCE)[0], said)
                said += os.read(master, 4096)
            said = said.split(what, 1)[1]

        try:
            os.write(master, f"{IDEM} run --key k --lease 1s -- sh -c 'echo $$ >{ready}; exec cat {end}'\n".encode())
            command = int(self.hear(ready))
            os.write(master, b"\x1a")
            expect(b"Stopped")
            self.until(lambda: self.stat(command, 0) == "T", "the command is stopped")
            self.outlives_its_lease("k")
            os.write(master, b"fg; echo st''atus $?\n")
            self.until(lambda: self.stat(command, 0) == "S", "the command goes on")
            self.say(end, "text\n")
            expect(b"text")
            expect(b"status 0")
            script = os.path.join(self.server.folder, "script")
            with open(script, "w", encoding="utf-8") as file:
                file.write(f"import os, signal\nsignal.signal(signal.SIGINT, lambda *_: os._exit(5))\nopen({ready!r}, 'w').close()\n"
                           "while True: signal.pause()\n")
            os.write(master, f"{IDEM} run --key l -- {sys.executable} {script}; echo st''atus $?\n".encode())
            self.hear(ready)
            os.write(master, b"\x03")
            expect(b"status 5")
            os.write(master, b"exit\n")
            self.assertEqual(os.waitpid(pid, 0)[1], 0)
            pid = 0
        finally:
            os.close(master)
            if pid:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
        self.assertEqual(self.idem("run", "--key", "l", "--", sys.executable, script).returncode, 76)

    # ---- The process that renews --------------------------------------------------------

    def keeper_of(self, process, command):
        keepers = []
        self.until(lambda: keepers.extend(pid for pid in self.children(process.pid) if pid != command) or keepers, "there is a keeper")
        return keepers[0]

    def test_the_keeper_ends_with_idem(self):
        ready = self.fifo("ready")
        process = self.start("--key", "k", "--", "sh", "-c", f"echo $$ >{ready}; exec sleep 1000")
        command = int(self.hear(ready))
        self.addCleanup(os.kill, command, signal.SIGKILL)
        keeper = self.keeper_of(process, command)
        process.kill()
        process.wait()
        self.until(lambda: not os.path.exists(f"/proc/{keeper}") or self.stat(keeper, 0) == "Z", "it is gone")

    def test_a_killed_keeper_is_replaced(self):
        ready, end = self.fifo("ready"), self.fifo("end")
        process = self.start("--key", "k", "--lease", "1s", "--", "sh", "-c", f"echo $$ >{ready}; exec cat {end}", stdout=subprocess.DEVNULL,
                             stderr=subprocess.PIPE)
        command = int(self.hear(ready))
        os.kill(self.keeper_of(process, command), signal.SIGKILL)
        self.assertIn(b"has ended; another one is started", process.stderr.readline())
        before = self.renewals()
        self.until(lambda: self.renewals() >= before + 4, "another one renews")
        self.say(end)
        self.assertEqual(process.wait(PATIENCE), 0)

    def test_a_lost_operation_is_said(self):
        ready, end = self.fifo("ready"), self.fifo("end")
        process = self.start("--key", "k", "--lease", "1s", "--", "sh", "-c", f"echo $IDEM_FENCE >{ready}; cat {end} >&2",
                             stderr=subprocess.PIPE)
        fence = self.hear(ready)
        self.fields("complete", "--key", "k", "--fence", fence, "--kind", "failed", "--code", "9")
        self.assertIn(b"somebody else", process.stderr.readline())
        self.say(end)
        self.assertEqual(process.wait(PATIENCE), 76)

    def test_a_daemon_that_goes_and_comes_back(self):
        ready, end = self.fifo("ready"), self.fifo("end")
        process = self.start("--key", "k", "--lease", "1s", "--", "sh", "-c", f"echo >{ready}; cat {end} >&2",
                             stderr=subprocess.PIPE)
        self.hear(ready)
        self.server.kill()
        self.assertIn(b"could not be renewed in time", process.stderr.readline())
        self.server.start()
        self.assertIn(b"renewed again", process.stderr.readline())
        self.say(end)
        self.assertEqual((process.wait(PATIENCE), process.stderr.read()), (0, b"go\n"))

    # ---- Outcomes, and what the command is told --------------------------------------------

    def test_a_failure_never_exits_with_0(self):
        for key, words, expected in (("zero", ["--kind", "failed", "--code", "0"], 1), ("none", ["--kind", "failed"], 1),
                                     ("wraps", ["--kind", "failed", "--code", "256"], 1), ("http", ["--kind", "failed", "--code", "402"], 1),
                                     ("minus", ["--kind", "failed", "--code", "-256"], 1), ("three", ["--kind", "failed", "--code", "3"], 3),
                                     ("good", ["--kind", "succeeded", "--code", "201"], 0)):
            self.assertEqual(self.idem("run", "--key", key, "--", "false").returncode, 1)
            revision = self.fields("get", "--key", key)["info.revision"]
            self.fields("resolve", "--key", key, "--revision", revision, "--verdict", "happened", *words)
            self.assertEqual(self.idem("run", "--key", key, "--", "false").returncode, expected, key)

    def test_the_command_reaches_its_own_operation(self):
        script = "idem checkpoint --key $IDEM_KEY --fence $IDEM_FENCE --name half >&2"
        environment = self.environment(PATH=os.path.dirname(IDEM) + ":" + os.environ["PATH"])
        address = environment.pop("IDEM_ADDRESS")
        done = subprocess.run([IDEM, "-s", address, "-n", "elsewhere", "run", "--key", "order-8", "--", "sh", "-c", script], env=environment,
                              capture_output=True, timeout=PATIENCE)
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_the_command_can_look_first(self):
        script = "echo $IDEM_KEY $IDEM_ATTEMPT $IDEM_RESUMED; idem get --key $IDEM_KEY | grep -x \"info.revision $IDEM_FENCE\" >&2; " \
                 "exit $((IDEM_ATTEMPT == 1))"
        environment = self.environment(PATH=os.path.dirname(IDEM) + ":" + os.environ["PATH"], IDEM_KEY="outside")
        for attempt, words in ((1, []), (2, ["--if-interrupted", "take-over"])):
            done = subprocess.run([IDEM, "run", "--key", "order-7", *words, "--", "sh", "-c", script], env=environment, capture_output=True,
                                  timeout=PATIENCE)
            self.assertEqual((done.returncode, done.stdout), (attempt == 1, f"order-7 {attempt} 0\n".encode()), done.stderr)
            self.assertIn(b"info.revision", done.stderr)

    def test_what_it_leaves_behind_is_not_its_output(self):
        done = self.idem("run", "--key", "k", "--", "sh", "-c", "yes & echo started; exit 0")
        self.assertEqual(done.returncode, 0)
        self.assertIn(b"started\n", done.stdout)

    def test_a_script_without_a_first_line(self):
        path = os.path.join(self.server.folder, "script")
        with open(path, "w", encoding="utf-8") as file:
            file.write("echo $1\n")
        self.assertEqual(self.idem("run", "--key", "k", "--", path, "x").returncode, 126)
        os.chmod(path, 0o755)
        self.assertEqual(self.idem("run", "--key", "k", "--", path, "x").stdout, b"x\n")

    def test_the_line_to_resolve_with_can_be_pasted(self):
        for number, key in enumerate(("it's", "a b;touch $(echo x)", "\x1b]0;t\a\n\u202e", "back\\slash", "--help", "gr\u00fc\u00df", "$HOME`id`", "x\t'\\")):
            common = ["-n", "team a", "--caller", "o'neil"]
            words = ["run", "--key=" + key, "--", "false"]
            self.assertEqual(self.idem(*common, *words).returncode, 1)
            told = self.idem(*common, *words)
            self.assertEqual(told.returncode, 76)
            self.assertNotRegex(told.stderr.decode(), "[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]")
            lines = [line for line in told.stderr.decode().splitlines() if line.startswith("  idem ")]
            self.assertEqual(len(lines), 2, told.stderr)
            environment = {**os.environ, "PATH": os.path.dirname(IDEM) + ":" + os.environ["PATH"], "IDEM_ADDRESS": "unix:/nowhere"}
            pasted = subprocess.run(["bash", "-c", lines[number % 2]], env=environment, capture_output=True, timeout=PATIENCE)
            self.assertEqual(pasted.returncode, 0, (lines, pasted.stderr))
            self.assertEqual(self.idem(*common, *words).returncode, number % 2 ^ 1)


if __name__ == "__main__":
    unittest.main()
