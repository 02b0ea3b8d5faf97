#!/usr/bin/env python3
"""idem-bench: every scenario against every target for a moment, so that the bench does not rot. Nothing here asks how fast."""
import json
import os
import shutil
import socket
import subprocess
import unittest

import harness

BENCH = os.path.join(harness.BUILD, "bench", "idem-bench")
SCENARIOS = ("claim", "cycle", "replay", "mixed", "hot-key")
PERCENTILES = ("p50_us", "p90_us", "p99_us", "p999_us", "p9999_us", "max_us")
# Debian's redis-tools has the whole server, which acts as it is called; redis-server is a link to it.
REDIS = shutil.which("redis-server") or "/usr/bin/redis-check-rdb"


class Bench(harness.Case):
    def setUp(self):
        self.folder = self.temporary()

    def bench(self, *options, status=0):
        done = subprocess.run([BENCH, *options, "--json", "-"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                              timeout=harness.PATIENCE)
        self.assertEqual(done.returncode, status, done.stderr)
        return json.loads(done.stdout) if status == 0 else done.stderr

    def check(self, target, scenario, *options):
        with self.subTest(target=target, scenario=scenario, options=options):
            result = self.bench("--target", target, "--scenario", scenario, *options)
            self.assertEqual(result["scenario"], scenario)
            self.assertTrue(target.startswith(result["target"]))
            self.assertGreater(result["operations"], 0)
            self.assertEqual(result["errors"], 0)
            percentiles = [result[name] for name in PERCENTILES]
            self.assertEqual(percentiles, sorted(percentiles))
            return result

    def check_all(self, target):
        for scenario in SCENARIOS:
            self.check(target, scenario, "--seconds", "0.7", "--connections", "5", "--pipeline", "4", "--body-bytes", "200",
                       "--keys", "1000000" if scenario in ("claim", "cycle") else "500")
        self.check(target, "cycle", "--seconds", "0.5", "--rate", "200", "--connections", "3", "--body-bytes", "4096")
        self.check(target, "cycle", "--seconds", "20", "--keys", "50", "--connections", "3", "--body-bytes", "65536")
        self.assertEqual(self.check(target, "claim", "--seconds", "20", "--keys", "100", "--connections", "7")["operations"], 100)
        self.assertEqual(os.listdir(self.folder), [])  # what was made for it is gone

    def test_idem(self):
        self.check_all("idem:unix:" + self.daemon().socket)

    def test_keys_that_are_stored_already(self):
        target = "idem:unix:" + self.daemon().socket
        keys = ("--keys", "300", "--first-key", "1000")
        self.check(target, "cycle", *keys)
        self.check(target, "replay", *keys, "--stored", "--seconds", "0.3")
        # Asked of an empty daemon, each is granted, which is an error to who wants what is stored.
        empty = "idem:unix:" + self.daemon().socket
        self.bench("--target", empty, "--scenario", "replay", *keys, "--stored", "--seconds", "0.3", status=70)

    def redis(self):
        folder = self.temporary()
        path = os.path.join(folder, "s")
        process = subprocess.Popen(["redis-server", "--port", "0", "--unixsocket", path, "--dir", folder, "--save", "",
                                    "--appendonly", "yes", "--appendfsync", "always"],
                                   executable=REDIS, stdout=subprocess.DEVNULL)
        self.addCleanup(process.wait)
        self.addCleanup(process.terminate)

        def answers():
            self.assertIsNone(process.poll())
            with socket.socket(socket.AF_UNIX) as client:
                try:
                    client.connect(path)
                except OSError:
                    return False
                client.sendall(b"PING\r\n")
                return client.recv(7) == b"+PONG\r\n"

        self.until(answers, "Redis does not start")
        return path

    def test_redis(self):
        self.check_all("redis:unix:" + self.redis())

    def test_floor_echo(self):
        self.check_all("floor:echo")

    def test_floor_durable(self):
        self.check_all("floor:durable:" + self.folder)

    def test_floor_log(self):
        self.check_all("floor:log:" + self.folder)

    def test_floor_lmdb(self):
        self.check_all("floor:lmdb:" + self.folder)

    def test_what_is_not_there(self):
        self.bench("--target", "idem:unix:" + self.folder + "/none", "--scenario", "claim", status=69)
        self.bench("--target", "floor:durable:" + self.folder + "/none", "--scenario", "claim", status=69)
        self.bench("--target", "floor:log:" + self.folder + "/none", "--scenario", "claim", status=69)
        self.bench("--target", "floor:lmdb:" + self.folder + "/none", "--scenario", "claim", status=69)

    def test_a_floor_ends_with_its_generator(self):
        process = subprocess.Popen([BENCH, "--target", "floor:echo", "--scenario", "claim", "--seconds", "60"],
                                   stdout=subprocess.DEVNULL)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)

        def children():
            with open(f"/proc/{process.pid}/task/{process.pid}/children") as file:
                return file.read().split()

        self.until(children, "no server was started")
        server = int(children()[0])
        process.kill()
        self.until(lambda: not os.path.exists(f"/proc/{server}/exe"), "the server runs on")

    def test_the_comparison(self):
        """Only that it runs and writes its results: the cells that take little time, with little stored."""
        work = self.temporary(harness.BUILD)  # on a disk, which /tmp need not be
        command = [os.path.join(harness.TOP, "bench", "compare"), "--build", harness.BUILD, "--work", work, "--output", self.folder,
                   "--rounds", "1", "--seconds", "0.3", "--millions", "0.002"]
        cells = "claim-50x16|replay-50|cycle-1|floors|hot-key|stored|memory|start|stored-redis|written"
        done = subprocess.run(command + ["--cells", cells], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=240)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        with open(os.path.join(self.folder, "RESULTS.md")) as file:
            text = file.read()
        self.assertNotIn("failed", text)
        for what in ("claim, 50×16", "floor:durable", "Redis everysec", "RssAnon per operation", "start to ready", "bytes written"):
            self.assertIn(what, text)
        with open(os.path.join(self.folder, "RESULTS.json")) as file:
            self.assertGreater(len(json.load(file)), 10)
        with open(os.path.join(self.folder, "RESULTS.svg")) as file:
            self.assertIn("</svg>", file.read())
        self.assertEqual(os.listdir(work), [])

    def test_misuse(self):
        for options in (["--target", "nothing", "--scenario", "claim"], ["--target", "floor:log:", "--scenario", "claim"],
                        ["--target", "floor:echo:here", "--scenario", "claim"], ["--target", "floor:echo"],
                        ["--target", "floor:echo", "--scenario", "sing"], ["--scenario", "claim"],
                        ["--target", "floor:echo", "--scenario", "claim", "--pipeline", "0"]):
            self.assertIn("idem-bench:", self.bench(*options, status=64))


if __name__ == "__main__":
    unittest.main()
