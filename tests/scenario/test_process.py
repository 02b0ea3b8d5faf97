#!/usr/bin/env python3
"""The process: what it is started with, how it says that it is ready, how it ends, and what is left when it is killed."""
import json
import os
import random
import shutil
import signal
import socket
import stat
import subprocess
import threading
import time
import unittest

from harness import (Case, Client, EXECUTE, IDEM, IDEMD, PATIENCE, REPLAY, RUNNING, begin, complete, op, pb)

HELD = pb.OWNERSHIP_HELD
HOUR_MS = 3600 * 1000


class Process(Case):
    def run_daemon(self, *options, **environment):
        """Runs a daemon that is expected to end by itself."""
        return subprocess.run([IDEMD, *options], stderr=subprocess.PIPE, stdout=subprocess.PIPE, timeout=PATIENCE,
                              env={**os.environ, **environment})

    def assert_fails(self, result, code, *says):
        self.assertEqual(result.returncode, code, result.stderr)
        self.assertEqual(result.stdout, b"")
        for text in says:
            self.assertIn(text, result.stderr.decode())


class Starting(Process):
    def test_usage(self):
        self.assert_fails(self.run_daemon("--nonsense"), 64, "--nonsense")
        self.assert_fails(self.run_daemon("--lease", "999ms"), 64, "--lease", "1s", "24h")
        self.assert_fails(self.run_daemon("--max-outcome", "17MiB"), 64, "--max-outcome", "16MiB")
        self.assert_fails(self.run_daemon("--listen", "tcp:192.0.2.1:4336"), 64, "TLS and authentication")
        self.assert_fails(self.run_daemon(IDEMD_LEASE="soon"), 78, "IDEMD_LEASE", "30s")
        self.assert_fails(self.run_daemon("--keep", "1s", "--keep-min", "2s"), 78, "--keep-min")
        self.assert_fails(self.run_daemon(IDEMD_QUOTTA="1GiB"), 78, "IDEMD_QUOTTA", "no such variable")
        self.assert_fails(self.run_daemon("--socket-mode", "rw"), 64, "--socket-mode", "octal")
        self.assert_fails(self.run_daemon("--socket-group", "no such group"), 64, "--socket-group", "no such group")

    def test_help_and_version(self):
        for options, says in ((["--help"], b"--listen"), (["--version"], b"idemd "), (["--man"], b".TH IDEMD 8")):
            result = self.run_daemon(*options)
            self.assertEqual((result.returncode, result.stderr), (0, b""))
            self.assertIn(says, result.stdout)

    def test_closed_descriptors_are_not_the_stores(self):
        """With standard error closed, the next file that is opened would be what the log is written to."""
        daemon = self.daemon(expect_ready=False)
        for closed in ([2], [0, 1, 2]):
            process = subprocess.Popen([IDEMD, "--data", daemon.data, "--listen", "unix:" + daemon.socket],
                                       preexec_fn=lambda: [os.close(fd) for fd in closed])
            self.addCleanup(lambda process=process: process.poll() is None and (process.kill(), process.wait()))
            daemon.addresses = ["unix:" + daemon.socket]
            subprocess.run([IDEM, "-s", daemon.addresses[0], "ping", "--wait", "60s"], check=True, stdout=subprocess.DEVNULL)
            client = self.client(daemon)
            self.assertEqual(client.begin(f"k{len(closed)}").answer, EXECUTE)
            client.close()
            self.assertEqual([os.readlink(f"/proc/{process.pid}/fd/{fd}") for fd in closed], ["/dev/null"] * len(closed))
            process.terminate()
            self.assertEqual(process.wait(PATIENCE), 0)
        self.assertEqual(self.run_daemon("--check-data", daemon.data).returncode, 0)

    def test_directories_that_cannot_be_had(self):
        daemon = self.daemon()
        plain = os.path.join(daemon.folder, "plain")
        with open(plain, "w") as file:
            file.write("mine")
        listen = ("--listen", "unix:" + os.path.join(daemon.folder, "other"))
        self.assert_fails(self.run_daemon("--data", "/proc/no/such", *listen), 73, "/proc/no/such")
        self.assertIn(self.run_daemon("--data", plain, *listen).returncode, (65, 73))
        self.assertIn(self.run_daemon("--data", plain + "/below", *listen).returncode, (65, 73))
        with open(plain) as file:
            self.assertEqual(file.read(), "mine")
        self.assertFalse(os.path.exists(os.path.join(daemon.folder, "other")))

    def test_the_directory_is_for_its_owner_alone(self):
        daemon = self.daemon()
        self.assertEqual(stat.S_IMODE(os.stat(daemon.data).st_mode), 0o700)

    def test_a_held_directory(self):
        daemon = self.daemon()
        before = self.client(daemon).begin("k")
        second = self.run_daemon("--data", daemon.data, "--listen", "unix:" + daemon.folder + "/other")
        self.assert_fails(second, 75, daemon.data, f"process {daemon.process.pid}")
        self.assertEqual(before.answer, EXECUTE)
        self.assertEqual(self.client(daemon).begin("k").answer, RUNNING)

    def test_an_address_in_use(self):
        daemon = self.daemon(listen=["tcp:127.0.0.1:0"])
        data = os.path.join(daemon.folder, "second")
        self.assert_fails(self.run_daemon("--data", data, "--listen", daemon.addresses[0]), 69, daemon.addresses[0])
        # A socket that somebody else listens on, idemd or not, is left alone.
        path = os.path.join(daemon.folder, "theirs")
        with socket.socket(socket.AF_UNIX) as theirs:
            theirs.bind(path)
            theirs.listen(1)
            self.assert_fails(self.run_daemon("--data", data, "--listen", "unix:" + path), 69, path)
            self.assertTrue(stat.S_ISSOCK(os.stat(path).st_mode))
        # And so is a file that is no socket.
        plain = os.path.join(daemon.folder, "plain")
        with open(plain, "w") as file:
            file.write("mine")
        self.assertEqual(self.run_daemon("--data", data, "--listen", "unix:" + plain).returncode, 69)
        with open(plain) as file:
            self.assertEqual(file.read(), "mine")

    def test_a_stale_socket_of_a_killed_daemon(self):
        daemon = self.daemon()
        daemon.kill()
        self.assertTrue(stat.S_ISSOCK(os.stat(daemon.socket).st_mode))
        daemon.start()
        self.assertEqual(self.client(daemon).begin("k").answer, EXECUTE)

    def test_a_store_that_was_never_finished_is_made_anew(self):
        daemon = self.daemon()
        daemon.terminate()
        os.rename(os.path.join(daemon.data, "store"), os.path.join(daemon.data, "store.new"))
        daemon.start()
        self.assertEqual(self.client(daemon).begin("k").answer, EXECUTE)
        self.assertEqual(set(os.listdir(daemon.data)), {"lock", "store"})

    def test_who_may_connect(self):
        """The mode and group of the socket are those asked for, whatever the umask is."""
        for mask in (0, 0o077, 0o777):
            for options, mode in (((), 0o600), (("--socket-group", "4321"), 0o660), (("--socket-mode", "0606"), 0o606)):
                daemon = self.daemon(*options, expect_ready=False)
                before = os.umask(mask)
                try:
                    daemon.start()
                finally:
                    os.umask(before)
                found = os.stat(daemon.socket)
                self.assertEqual(stat.S_IMODE(found.st_mode), mode)
                self.assertEqual(found.st_gid, 4321 if "--socket-group" in options else os.getegid())
                self.assertEqual(self.client(daemon).begin("k").answer, EXECUTE)

    @unittest.skipIf(os.geteuid() != 0, "only root can become somebody who may not")
    def test_a_group_that_cannot_be_given(self):
        daemon = self.daemon(expect_ready=False)
        os.mkdir(daemon.data)
        os.chmod(daemon.folder, 0o777)
        os.chown(daemon.data, 65534, 65534)
        program = shutil.copy(IDEMD, daemon.folder)  # the build may be where that user cannot read
        result = subprocess.run([program, "--data", daemon.data, "--listen", "unix:" + daemon.socket, "--socket-group", "4321"],
                                stderr=subprocess.PIPE, stdout=subprocess.PIPE, timeout=PATIENCE, user=65534, group=65534,
                                extra_groups=[])
        self.assert_fails(result, 77, daemon.socket, "group")
        self.assertFalse(os.path.exists(daemon.socket))

    def test_a_successors_socket_stays(self):
        first = self.daemon()
        os.unlink(first.socket)
        second = self.daemon(listen=["unix:" + first.socket])
        self.assertEqual(first.terminate(), 0)
        self.assertEqual(self.client(second).begin("k").answer, EXECUTE)
        self.assertEqual(second.terminate(), 0)
        self.assertFalse(os.path.exists(first.socket), "its own it removes")

    def test_several_addresses(self):
        daemon = self.daemon()
        first, second = daemon.folder + "/1", daemon.folder + "/2"
        daemon.terminate()
        daemon.listen = ["unix:" + first, "unix:" + second, "tcp:127.0.0.1:0"]
        daemon.start()
        self.assertEqual(daemon.addresses[:2], daemon.listen[:2])
        self.assertRegex(daemon.addresses[2], r"^tcp:127\.0\.0\.1:[1-9][0-9]+$")
        answers = [self.client(daemon, address=address).begin("k").answer for address in daemon.addresses]
        self.assertEqual(answers, [EXECUTE, RUNNING, RUNNING])

    def test_variables_and_options(self):
        variables = {"IDEMD_LEASE": "70s", "IDEMD_KEEP": "3h", "IDEMD_MAX_OUTCOME": "128KiB", "IDEMD_IF_INTERRUPTED": "take-over"}
        daemon = self.daemon("--keep", "4h", environment=variables)
        hello = self.client(daemon, hello=pb.HelloRequest()).hello
        self.assertEqual((hello.policy.lease_ms, hello.policy.keep_ms, hello.max_outcome_bytes, hello.policy.if_interrupted),
                         (70000, 4 * HOUR_MS, 128 * 1024, pb.IF_INTERRUPTED_TAKE_OVER))

    def test_another_policy_with_the_same_store(self):
        daemon = self.daemon()
        client = self.client(daemon)
        body = random.Random(1).randbytes(1 << 20)
        client.complete("k", client.begin("k").grant.fence, body)
        daemon.terminate()
        # A smaller limit is for what comes: what is stored is given as it is.
        daemon.options = ["--max-outcome", "64KiB", "--keep", "1s", "--keep-max", "1h"]
        daemon.start()
        client = self.client(daemon, hello=pb.HelloRequest())
        # It has to fit a frame all the same.
        self.assertGreater(client.hello.max_frame_bytes, 1 << 20)
        reply = client.begin("k")
        self.assertEqual(reply.answer, REPLAY)
        self.assertEqual((reply.outcome.body == body, reply.outcome.body_dropped), (True, False))

    def test_ready_is_told_to_the_service_manager(self):
        daemon = self.daemon()
        for path in (daemon.folder + "/notify", "@idemd-test-" + os.path.basename(daemon.folder)):
            with self.subTest(path), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
                manager.settimeout(PATIENCE)
                manager.bind(path.replace("@", "\0"))
                daemon.terminate()
                daemon.environment = {"NOTIFY_SOCKET": path}
                daemon.start()
                self.assertEqual(manager.recv(100), b"READY=1")

    def test_names_of_this_start_of_this_store_of_this_connection(self):
        daemon = self.daemon()
        hellos = []
        for _ in range(3):
            hellos += [self.client(daemon, hello=pb.HelloRequest()).hello for _ in range(2)]
            daemon.kill()
            daemon.start()
        self.assertEqual(len({h.store_id for h in hellos}), 1)
        self.assertEqual(len({h.instance for h in hellos}), 3)
        self.assertEqual(len({h.connection for h in hellos}), 6)
        other = self.client(self.daemon(), hello=pb.HelloRequest()).hello
        self.assertNotEqual(other.store_id, hellos[0].store_id)


class Logging(Process):
    def test_every_line_is_json(self):
        daemon = self.daemon("--log-format", "json", "--log-level", "debug", expect_ready=False)
        # The harness looks for logfmt; here it is read by hand.
        process = subprocess.Popen([IDEMD, "--data", daemon.data, "--listen", "unix:" + daemon.socket, *daemon.options],
                                   stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
        self.addCleanup(process.stderr.close)
        self.addCleanup(process.kill)
        first = json.loads(process.stderr.readline())
        while first["event"] != "ready":
            first = json.loads(process.stderr.readline())
        self.assertEqual((first["level"], first["listen"]), ("info", "unix:" + daemon.socket))
        client = Client(daemon, address="unix:" + daemon.socket, hello=pb.HelloRequest(client='a "quoted"\nname'))
        client.send_raw(b"\x01\0\0\0\0")
        client.at_end()
        client.close()
        process.send_signal(signal.SIGTERM)
        events = [json.loads(line)["event"] for line in process.stderr]
        self.assertEqual(process.wait(PATIENCE), 0)
        self.assertEqual((events[-1], "draining" in events), ("stopped", True))

    def test_a_pipe_that_nobody_reads(self):
        daemon = self.daemon(expect_ready=False)
        process = subprocess.Popen([IDEMD, "--data", daemon.data, "--listen", "unix:" + daemon.socket, "--log-level", "debug"],
                                   stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
        self.addCleanup(process.stderr.close)
        self.addCleanup(process.kill)
        while b"event=ready" not in process.stderr.readline():
            pass
        for i in range(1500):  # each is a line
            client = Client(daemon, address="unix:" + daemon.socket, hello=pb.HelloRequest(client="c" * 64))
            if i < 1499:
                client.close()
        self.assertEqual(client.begin("k").answer, EXECUTE)
        client.close()
        process.send_signal(signal.SIGTERM)
        lines = process.stderr.readlines()
        self.assertEqual(process.wait(PATIENCE), 0)
        self.assertLess(len(lines), 1500)
        for line in lines:
            self.assertTrue(line.startswith(b"time=") and line.endswith(b"\n"), line)

    def test_what_operators_do_and_who_they_are(self):
        for listen in (None, ["tcp:127.0.0.1:0"]):
            daemon = self.daemon(listen=listen)
            owner, client = self.client(daemon), self.client(daemon)
            self.assertEqual(owner.begin("k=1\n", caller="ann \u202e", bind_to_connection=True).answer, EXECUTE)
            owner.call(release=pb.ReleaseRequest(op=op("k=1\n", "ann \u202e"), fence=client.call(
                get=pb.GetRequest(op=op("k=1\n", "ann \u202e"))).get.info.revision, effect=pb.EFFECT_UNKNOWN))
            revision = client.call(get=pb.GetRequest(op=op("k=1\n", "ann \u202e"))).get.info.revision
            wrong = client.call(resolve=pb.ResolveRequest(op=op("k=1\n", "ann \u202e"), revision=revision + 1,
                                                          verdict=pb.VERDICT_DID_NOT_HAPPEN, reason="guessed"))
            self.assertEqual(wrong.status.code, pb.CODE_FAILED_PRECONDITION)
            happened = pb.ResolveRequest(op=op("k=1\n", "ann \u202e"), revision=revision, verdict=pb.VERDICT_HAPPENED,
                                         outcome=pb.Outcome(kind=pb.OUTCOME_KIND_SUCCEEDED), reason='seen "in" the bank')
            self.assertEqual(client.call(resolve=happened).resolve.ownership, HELD)
            done = client.call(get=pb.GetRequest(op=op("k=1\n", "ann \u202e"))).get.info.revision
            forget = pb.ForgetRequest(op=op("k=1\n", "ann \u202e"), revision=done, reason="a test")
            self.assertEqual(client.call(forget=forget).forget.ownership, HELD)
            self.until(lambda: daemon.logged("forget"), "logged")
            refused, resolved, = daemon.logged("resolve")
            forgotten, = daemon.logged("forget")
            if listen:
                by = "by=tcp:%s:%d " % client.socket.getsockname()
            else:
                by = f'by="unix uid {os.getuid()} pid {os.getpid()}" '
            for line, says in ((refused, f"revision={revision + 1} result=FAILED_PRECONDITION reason=guessed"),
                               (resolved, f'revision={revision} result=HELD reason="seen \\"in\\" the bank"'),
                               (resolved, "verdict=HAPPENED"), (refused, "verdict=DID_NOT_HAPPEN"),
                               (forgotten, f'revision={done} result=HELD reason="a test"')):
                self.assertIn(says, line)
                self.assertIn("level=info", line)
                self.assertIn('namespace=test caller="ann \\u202e" key="k=1\\u000a" ', line)
                self.assertIn(by, line)
            self.assertNotIn("verdict", forgotten)

    def test_what_operators_are_refused_is_logged_now_and_then(self):
        daemon = self.daemon()
        client = self.client(daemon)
        sent = [client.send(forget=pb.ForgetRequest(op=op("nobody"), revision=1, reason="again")) for _ in range(500)]
        for request in sent:
            self.assertTrue(client.reply(request).forget)
        fence = client.begin("k").grant.fence
        client.complete("k", fence)
        client.call(forget=pb.ForgetRequest(op=op("k"), revision=client.call(get=pb.GetRequest(op=op("k"))).get.info.revision,
                                            reason="done"))
        self.until(lambda: any("key=k " in line for line in daemon.logged("forget")), "what was done is logged")
        self.assertLess(len(daemon.logged("forget")), 250)

    def test_bad_frames_are_logged_now_and_then(self):
        daemon = self.daemon()
        for _ in range(200):
            client = self.client(daemon)
            client.send_raw(b"\x01\0\0\0\0")
            self.assertTrue(client.at_end())
            client.close()
        self.until(lambda: daemon.logged("bad_frame"), "logged")
        first = daemon.logged("bad_frame")[0]
        self.assertIn(f'by="unix uid {os.getuid()} pid {os.getpid()}"', first)
        self.assertIn("others=0", first)
        self.assertIn("flag byte", first)
        self.assertLess(len(daemon.logged("bad_frame")), 100)

    def test_hello_is_for_debugging(self):
        for level in ("info", "debug"):
            daemon = self.daemon("--log-level", level)
            hello = self.client(daemon, hello=pb.HelloRequest(client="till 3.1")).hello
            daemon.terminate()
            lines = daemon.logged("hello")
            self.assertEqual(len(lines), level == "debug")
            for line in lines:
                self.assertIn(f'client="till 3.1" connection={hello.connection} replaces=0 by="unix uid ', line)

    def test_only_errors(self):
        daemon = self.daemon(expect_ready=False)
        data, told = os.path.join(daemon.folder, "d"), os.path.join(daemon.folder, "told")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.settimeout(PATIENCE)
            manager.bind(told)
            process = subprocess.Popen([IDEMD, "--data", data, "--listen", "unix:" + daemon.socket, "--log-level", "error"],
                                       stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, env={**os.environ, "NOTIFY_SOCKET": told})
            self.addCleanup(process.stderr.close)
            self.addCleanup(process.kill)
            self.assertEqual(manager.recv(100), b"READY=1")
        process.send_signal(signal.SIGTERM)
        self.assertEqual((process.stderr.read(), process.wait(PATIENCE)), (b"", 0))


class Draining(Process):
    def drain(self, daemon, how):
        began = time.monotonic()
        daemon.process.send_signal(how)
        self.assertEqual(daemon.wait(), 0)
        return time.monotonic() - began

    def test_both_signals(self):
        for how in (signal.SIGTERM, signal.SIGINT):
            with self.subTest(how):
                daemon = self.daemon()
                client = self.client(daemon)
                client.begin("k")
                parked = [client.send(begin=begin("k", wait_ms=60000)), client.send(get=pb.GetRequest(op=op("k"), wait_ms=60000)),
                          client.send(recover=pb.RecoverRequest(namespace="test", wait_ms=60000))]
                client.call(get=pb.GetRequest(op=op("k")))
                self.drain(daemon, how)
                for request in parked:
                    status = client.reply(request).status
                    self.assertEqual((status.code, status.reason), (pb.CODE_UNAVAILABLE, "DRAINING"))
                self.assertTrue(client.at_end())
                self.assertFalse(os.path.exists(daemon.socket))

    def test_one_who_does_not_read_holds_nothing_up(self):
        daemon = self.daemon()
        client = self.client(daemon)
        client.complete("k", client.begin("k").grant.fence, os.urandom(1 << 20))
        slow = self.client(daemon)
        for _ in range(20):
            slow.send(begin=begin("k"))
        client.begin("k")
        # Within 5 s; the rest is for a machine that is busy with other tests.
        self.assertLess(self.drain(daemon, signal.SIGTERM), 15)

    def test_what_was_answered_is_kept(self):
        daemon = self.daemon()
        client = self.client(daemon)
        fences = [client.begin(f"k{i}", lease_ms=HOUR_MS).grant.fence for i in range(300)]
        ids = [client.send(complete=complete(f"k{i}", fence, b"x" * 3000)) for i, fence in enumerate(fences)]
        daemon.process.send_signal(signal.SIGTERM)
        self.assertEqual(daemon.wait(), 0)
        answers = []
        for request in ids:
            try:
                answers.append(client.reply(request))
            except ConnectionResetError:
                answers.append(None)
        daemon.start()
        client = self.client(daemon)
        for i, answer in enumerate(answers):
            found = client.begin(f"k{i}")
            if answer is not None and answer.status.code == pb.CODE_OK:
                self.assertEqual((answer.complete.ownership, found.answer, found.outcome.body), (HELD, REPLAY, b"x" * 3000))
            else:
                self.assertIn(found.answer, (REPLAY, RUNNING))

    def test_hangup_is_logged_and_changes_nothing(self):
        daemon = self.daemon()
        client = self.client(daemon)
        grant = client.begin("k").grant
        daemon.process.send_signal(signal.SIGHUP)
        self.until(lambda: "event=hangup" in "".join(daemon.log), "not logged")
        self.assertEqual(client.call(complete=complete("k", grant.fence)).complete.ownership, HELD)
        self.assertEqual(self.client(daemon).begin("k").answer, REPLAY)

    def test_a_second_signal_changes_nothing(self):
        daemon = self.daemon()
        self.client(daemon).begin("k")
        for _ in range(3):
            daemon.process.send_signal(signal.SIGTERM)
        self.assertEqual(daemon.wait(), 0)


class Killed(Process):
    """SIGKILL under load, again and again. What was acknowledged is there, whatever was not is in a state that is allowed."""

    ROUNDS = 10
    WORKERS = 4
    PIPELINE = 8

    def setUp(self):
        self.d = self.daemon()
        self.lock = threading.Lock()
        self.acknowledged = {}  # key -> body
        self.granted = {}       # key -> (fence, attempt_id), its Complete not acknowledged
        self.fences = set()
        self.broken = []

    @staticmethod
    def body(key, fence):
        generator = random.Random(f"{key} {fence}")
        return generator.randbytes(generator.choice((0, 10, 500, 4000, 20000)))

    def grant(self, key, reply, attempt):
        grant = reply.begin.grant
        with self.lock:
            if reply.begin.answer != EXECUTE or grant.attempt != 1:
                self.broken.append((key, str(reply)))
            if grant.fence in self.fences:
                self.broken.append((key, "fence twice"))
            self.fences.add(grant.fence)
            self.granted[key] = (grant.fence, attempt)

    def worker(self, name):
        try:
            client = Client(self.d)
        except OSError:
            return
        try:
            for i in range(1000000):
                keys = [f"{name}-{i}-{k}" for k in range(self.PIPELINE)]
                attempts = {key: os.urandom(16) for key in keys}
                sent = {key: client.send(begin=begin(key, attempt_id=attempts[key], lease_ms=HOUR_MS, input=b"i" * 700))
                        for key in keys}
                for key, request in sent.items():
                    reply = client.reply(request)
                    if reply is None:
                        return
                    self.grant(key, reply, attempts[key])
                completes = {key: client.send(complete=complete(key, self.granted[key][0], self.body(key, self.granted[key][0])))
                             for key in keys[1:]}  # one stays unfinished
                for key, request in completes.items():
                    reply = client.reply(request)
                    if reply is None:
                        return
                    with self.lock:
                        if reply.complete.ownership != HELD:
                            self.broken.append((key, str(reply)))
                        self.acknowledged[key] = self.body(key, self.granted.pop(key)[0])
        except OSError:
            pass
        finally:
            client.close()

    def check(self):
        client = self.client(self.d)
        for key, body in self.acknowledged.items():
            reply = client.begin(key)
            self.assertEqual(reply.answer, REPLAY, key)
            self.assertTrue(reply.outcome.body == body, key)
        for key, (fence, attempt) in list(self.granted.items()):
            # Another is told RUNNING, or what the Complete that was not acknowledged has stored.
            reply = client.begin(key)
            self.assertIn(reply.answer, (RUNNING, REPLAY), key)
            if reply.answer == REPLAY:
                self.assertTrue(reply.outcome.body == self.body(key, fence), key)
                continue
            resumed = client.begin(key, attempt_id=attempt, lease_ms=HOUR_MS)
            self.assertEqual((resumed.answer, resumed.grant.fence, resumed.grant.resumed), (EXECUTE, fence, True), key)
        fence = client.begin(f"after-{len(self.fences)}").grant.fence
        self.assertGreater(fence, max(self.fences))
        self.fences.add(fence)
        client.close()

    def test_ten_times(self):
        for round_ in range(self.ROUNDS):
            before = len(self.acknowledged)
            threads = [threading.Thread(target=self.worker, args=(f"{round_}-{i}",)) for i in range(self.WORKERS)]
            for thread in threads:
                thread.start()
            self.until(lambda: len(self.acknowledged) > before + 60, "some load")
            self.d.kill()
            for thread in threads:
                thread.join(PATIENCE)
                self.assertFalse(thread.is_alive())
            self.d.start()
            self.assertEqual(self.broken, [])
            self.check()
        # Every one that was in flight can still be brought to its end.
        client = self.client(self.d)
        for key, (fence, _) in self.granted.items():
            self.assertEqual(client.complete(key, fence, self.body(key, fence)).ownership, HELD, key)
        self.d.terminate()
        checked = self.run_daemon("--check-data", self.d.data)
        self.assertEqual((checked.returncode, checked.stderr), (0, b""), checked.stdout)
        self.d.start()

    def test_killed_while_starting(self):
        """With a store to load, at any moment of the start."""
        client = self.client(self.d)
        for i in range(500):
            fence = client.begin(f"k{i}", lease_ms=HOUR_MS).grant.fence
            if i % 3:
                client.complete(f"k{i}", fence, b"x" * 100)
        self.d.kill()
        for i in range(10):
            process = subprocess.Popen([IDEMD, "--data", self.d.data, "--listen", "unix:" + self.d.socket],
                                       stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
            try:
                process.wait(0.01 * i)  # how far it gets is up to the machine
            except subprocess.TimeoutExpired:
                pass
            process.kill()
            process.wait(PATIENCE)
            process.stderr.close()
        self.d.start()
        client = self.client(self.d)
        for i in range(500):
            self.assertEqual(client.begin(f"k{i}").answer, REPLAY if i % 3 else RUNNING)

    def test_killed_while_the_store_is_made(self):
        self.d.terminate()
        for i in range(15):
            folder = os.path.join(self.d.folder, f"new{i}")
            command = [IDEMD, "--data", folder, "--listen", "unix:" + self.d.socket]
            process = subprocess.Popen(command, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
            try:
                process.wait(0.004 * i)
            except subprocess.TimeoutExpired:
                pass
            process.kill()
            process.wait(PATIENCE)
            process.stderr.close()
            self.d.data = folder
            self.d.start()
            self.assertEqual(self.client(self.d).begin("k").answer, EXECUTE)
            self.d.terminate()
        self.d.start()


if __name__ == "__main__":
    unittest.main()
