#!/usr/bin/env python3
"""The idem command, as a script uses it: exit codes, output, bytes, and run in all its endings."""
import json
import os
import re
import signal
import socket
import subprocess
import unittest

from harness import BUILD, CommandCase, IDEM, IDEMD, PATIENCE, TOP, pb


class Command(CommandCase):
    def test_one_call_each(self):
        begun = self.fields("begin", "--key", "k", "--operation", "pay", "--input", "hex:0001ff", "--lease", "1h",
                            "--fingerprint", "hex:aabb", "--wait", "0s")
        self.assertEqual((begun["answer"], begun["grant.attempt"]), ("execute", "1"))
        fence = begun["grant.fence"]
        self.assertEqual(self.fields("begin", "--key", "k", "--operation", "pay", "--fingerprint", "hex:aabb", expect=11)["answer"],
                         "running")
        self.assertEqual(self.fields("begin", "--key", "k", "--operation", "other", expect=12)["mismatch.operation"], "true")
        self.assertEqual(self.fields("renew", "--key", "k", "--fence", fence)["ownership"], "held")
        self.fields("checkpoint", "--key", "k", "--fence", fence, "--name", "half", "--data", "@/dev/null")
        self.fields("release", "--key", "k", "--fence", "1", "--effect", "unknown", expect=17)
        self.fields("complete", "--key", "k", "--fence", str(int(fence) + 100), "--kind", "succeeded", expect=15)
        body = bytes(range(256))
        done = self.idem("complete", "--key", "k", "--fence", fence, "--kind", "succeeded", "--code", "-3", "--body", "@-",
                         "--attribute", "type=text", "--attribute", "raw=hex:00", data=body)
        self.assertEqual(done.returncode, 0, done.stderr)
        got = self.fields("get", "--key", "k")
        self.assertEqual((got["outcome.code"], got["outcome.body"], got["outcome.attributes.1.value"]),
                         ("-3", "hex:" + body.hex(), "hex:00"))
        self.assertEqual(self.fields("begin", "--key", "k", "--operation", "pay", "--fingerprint", "hex:aabb", expect=10)["answer"],
                         "replay")
        self.fields("complete", "--key", "k", "--fence", fence, "--kind", "failed", expect=16)
        self.fields("forget", "--key", "k", "--revision", got["info.revision"])
        self.assertEqual(self.idem("get", "--key", "k").returncode, 17)

    def listed(self, *words):
        """The table of `idem list`, as a dict a line. The columns are where the headings are."""
        lines = self.idem("list", *words).stdout.decode().splitlines()
        starts = [found.start() for found in re.finditer(r"\S+", lines[0])] if lines else []
        cut = [[line[start:end].strip() for start, end in zip(starts, starts[1:] + [None])] for line in lines]
        return [dict(zip(cut[0], row)) for row in cut[1:]]

    def test_list(self):
        self.assertEqual(self.idem("list").stdout, b"")
        self.fields("-n", "team", "--caller", "gr\u00fcn", "begin", "--key", "a", "--operation", "POST /charges", "--owner", "api 7")
        self.idem("run", "--key", "failed", "--on-failure", "keep", "--", "false")
        self.idem("run", "--key", "unsure", "--", "false")
        self.idem("run", "--key", "good", "--", "true")
        rows = {row["KEY"]: row for row in self.listed()}
        self.assertEqual({key: row["STATE"] for key, row in rows.items()},
                         {"a": "running", "failed": "failed", "unsure": "interrupted", "good": "succeeded"})
        running = rows["a"]
        self.assertEqual([running[name] for name in ("NAMESPACE", "CALLER", "ATTEMPT", "ENDED", "EXPIRES", "OPERATION", "OWNER")],
                         ["team", "gr\u00fcn", "1", "-", "-", "POST /charges", "api 7"])
        for name in ("BEGUN", "ENDED", "EXPIRES"):
            self.assertRegex(rows["good"][name], r"^20\d\d-\d\d-\d\d \d\d:\d\d:\d\dZ$")
        self.assertEqual([row["KEY"] for row in self.listed("-n", "team")], ["a"])
        self.assertEqual([row["KEY"] for row in self.listed("--state", "interrupted")], ["unsure"])
        # Page by page, as it says.
        keys, words = [], ["--limit", "1"]
        while words:
            page = self.idem("list", *words)
            keys += [line.split()[2] for line in page.stdout.decode().splitlines()[1:]]
            words = ["--limit", "1"] + page.stderr.decode().split(": ", 2)[2].split() if page.stderr else []
        self.assertEqual(sorted(keys), sorted(rows))

    def test_stats(self):
        self.idem("run", "--key", "k", "--", "true")
        text = self.idem("stats").stdout.decode()
        for line in (r"idemd_running +0 +operations with an owner", r"idemd_store_quota_bytes +8\.0 GiB ", r"idemd_started_ms +20\d\d-.*Z ",
                     r"idemd_calls_total call=begin code=OK +1 ", r"idemd_flush_seconds +[1-9]\d*, mean [0-9.]+.?s, half <= .*, 99% <= "):
            self.assertRegex(text, "(?m)^" + line)
        self.assertNotIn("_bucket", text)
        self.assertEqual(self.idem("--json", "stats", "--prometheus").returncode, 64)
        text = self.idem("stats", "--prometheus").stdout.decode()
        families, values = {}, {}
        for line in text.splitlines():
            if line.startswith("#"):
                _, what, name, rest = line.split(" ", 3)
                self.assertNotIn((what, name), families)
                families[what, name] = rest
                continue
            sample = re.fullmatch(r'(([a-z_]+)(?:\{((?:[a-z_]+="(?:[^"\\\n]|\\[\\n"])*",?)*)\})?) (\S+)', line)
            self.assertTrue(sample, line)
            self.assertNotIn(sample[1], values)
            values[sample[1]] = float(sample[4])
            family = name if sample[2] in (name, name + "_bucket", name + "_sum", name + "_count") else None
            self.assertEqual(family, name, "a series stands with its metric")
            self.assertEqual(families["TYPE", name], "histogram" if sample[2] != name else
                             "counter" if name.endswith("_total") else "gauge")
        self.assertEqual(values['idemd_flush_seconds_bucket{le="+Inf"}'], values["idemd_flush_seconds_count"])
        self.assertEqual(values['idemd_calls_total{call="begin",code="OK"}'], 1)
        of_one = self.idem("-n", "default", "stats", "--prometheus").stdout.decode()
        self.assertIn('{namespace="default"} 0', of_one)

    def test_what_came_from_elsewhere_is_escaped(self):
        """A title for the terminal, C1 controls, what turns the direction of writing around, a line of its own: in every text."""
        bad = "x\x1b]0;t\x07\x7f\u009b31m\u202e\u2066\u200f\u061c\u2028\nidem: all is well"
        harmful = "[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u200e\u200f\u061c\u2028\u2029]"
        names = ["-n", bad[:-20], "--caller", bad]
        fence = self.fields(*names, "begin", "--key", bad, "--operation", bad, "--owner", bad, "--lease", "1h")["grant.fence"]
        self.fields(*names, "checkpoint", "--key", bad, "--fence", fence, "--name", bad)
        run = [*names, "run", "--key", bad, "--operation", bad, "--", "true"]
        outs = [self.idem(*names, "get", "--key", bad), self.idem("list"), self.idem(*names, "stats"),
                self.idem(*names, "stats", "--prometheus"), self.idem(*names, "begin", "--key", bad, "--operation", bad),
                self.idem(*names, "get", "--key", bad + bad * 4), self.idem("--json", "list"), self.idem("begin", "--key", "k", "--lease", bad),
                self.idem(bad), self.idem("get", "--" + bad), self.idem("get", "--key", "k", bad),
                self.idem("--timeout", "1ms", "get", "--key", "k", address="unix:/" + bad), self.idem(*run)]
        self.fields(*names, "release", "--key", bad, "--fence", fence, "--effect", "unknown")
        outs += [self.idem(*run), self.idem(*names, "run", "--key", "gone", "--", bad)]
        for out in outs:
            for text in (out.stdout.decode(), out.stderr.decode()):
                self.assertNotRegex(text, harmful, out.args)
                self.assertNotRegex(text, "(?m)^idem: all is well")
        self.assertIn(r"info.owner x\x1b]0;t\x07\x7f\u009b31m\u202e\u2066\u200f\u061c\u2028\x0aidem: all is well", outs[0].stdout.decode())
        self.assertEqual(json.loads(outs[6].stdout)["operations"][0]["op"]["key"], bad)
        # What a command wrote is the command's, byte for byte.
        self.assertEqual(self.idem("run", "--key", "raw", "--", "printf", "%s", bad).stdout.decode(), bad)

    def test_interrupted(self):
        fence = self.fields("begin", "--key", "k")["grant.fence"]
        self.assertEqual(self.fields("release", "--key", "k", "--fence", fence, "--effect", "unknown")["state"], "interrupted")
        told = self.fields("begin", "--key", "k", expect=13)
        self.assertEqual(self.fields("resolve", "--key", "k", "--revision", told["info.revision"], "--verdict", "did-not-happen")
                         ["ownership"], "held")
        fence = self.fields("begin", "--key", "k")["grant.fence"]
        self.fields("release", "--key", "k", "--fence", fence, "--effect", "unknown")
        self.assertEqual(self.fields("recover", "--limit", "5")["operations.0.grant.attempt"], "2")

    def test_json_is_the_protobuf_mapping(self):
        from google.protobuf import json_format
        done = self.idem("--json", "begin", "--key", "k", "--owner", 'a "quoted"\nname')
        message = json_format.Parse(done.stdout, pb.BeginResponse())
        self.assertEqual(message.info.owner, 'a "quoted"\nname')
        self.assertEqual(json_format.MessageToDict(message), json.loads(done.stdout))
        done = self.idem("--json", "complete", "--key", "k", "--fence", str(message.grant.fence), "--kind", "succeeded",
                         "--body", "hex:00ff10")
        json_format.Parse(done.stdout, pb.CompleteResponse())
        for words, kind in ((("get", "--key", "k"), pb.GetResponse), (("list",), pb.ListResponse), (("stats",), pb.StatsResponse)):
            out = self.idem("--json", *words).stdout
            self.assertEqual(json_format.MessageToDict(json_format.Parse(out, kind())), json.loads(out))

    def test_misuse_and_unreachable(self):
        for words in ((), ("nonsense",), ("begin", "--nonsense", "1"), ("begin", "--key", "k", "--lease", "1 hour"),
                      ("run", "--key", "k"), ("run", "--", "true"), ("release", "--key", "k", "--fence", "5", "--effect", "maybe"),
                      ("begin", "--key", "k" * 256), ("-s", "http:x", "ping"), ("key", "--v9")):
            done = self.idem(*words)
            self.assertEqual(done.returncode, 64, words)
            self.assertTrue(done.stderr.startswith(b"idem: "), done.stderr)
        gone = "unix:" + self.server.folder + "/nobody"
        self.assertEqual(self.idem("--timeout", "100ms", "get", "--key", "k", address=gone).returncode, 69)
        self.assertEqual(self.idem("--timeout", "100ms", "run", "--key", "k", "--", "touch", self.server.folder + "/ran",
                                   address=gone).returncode, 69)
        self.assertFalse(os.path.exists(self.server.folder + "/ran"))
        self.assertEqual(self.idem("ping", "--wait", "20s").returncode, 0)

    def test_values_are_needed(self):
        """No value, an empty one, or the next option in its place: none of it is a key that many operations would share."""
        for call in (["begin", "--operation", "pay", "--key"], ["begin", "--key="], ["begin", "--key", ""],
                     ["begin", "--key", "--operation=pay"], ["begin", "--key", "--"], ["begin", "--key", "-n", "x"],
                     ["-n", "", "begin", "--key", "k"], ["--caller=", "begin", "--key", "k"], ["begin", "--key", "k", "--lease="],
                     ["begin", "--key", "k", "--attribute", "=x"], ["complete", "--key", "k", "--fence", "1", "--attribute", "=x"],
                     ["run", "--key", "", "--", "true"], ["run", "--key", "--", "true"], ["run", "--key", "sudo", "true"],
                     ["run", "--key", "k", "--operation", "--", "true"], ["run", "--", "true"], ["run", "--key", "k", "--"],
                     ["begin", "--key", "k", "--lease", "0s"], ["begin", "--key", "k", "--keep", "0ms"],
                     ["begin", "--key", "k", "--take-over-revision", "0"], ["run", "--key", "k", "--lease", "0s", "--", "true"],
                     ["key", "--name"], ["key", "--name", ""], ["ping", "--wait"], ["ping", "--wait="], ["-s"], ["-s", "", "ping"]):
            done = self.idem(*call)
            self.assertEqual((done.returncode, done.stdout), (64, b""), (call, done.stderr))
            self.assertIn(b"Try: idem ", done.stderr)
        self.assertEqual(self.fields("list"), {})
        # What looks like an option is a value if it is written so.
        self.fields("begin", "--key=--operation=x", "--operation=pay", "--lease=1h")
        self.assertEqual(self.fields("get", "--key=--operation=x")["info.operation"], "pay")
        self.assertEqual(self.idem("run", "--key=k", "--operation=o", "--", "echo", "x").stdout, b"x\n")
        self.assertEqual(self.fields("get", "--key=k", "-n", "default", "-s", self.server.addresses[0])["info.operation"], "o")

    def test_help(self):
        calls = ["begin", "complete", "release", "renew", "checkpoint", "get", "recover", "resolve", "forget", "list", "stats"]
        nowhere = "unix:" + self.server.folder + "/none"
        whole = self.idem("-h", address=nowhere).stdout.decode()
        for name in ["run", "key", "ping"] + calls:
            self.assertRegex(whole, rf"(?m)^  {name} ")
            helps = [self.idem(name, option, address=nowhere) for option in ("--help", "-h")]
            self.assertEqual((helps[0].returncode, helps[0].stdout), (0, helps[1].stdout), helps[0].stderr)
            text = helps[0].stdout.decode()
            self.assertLessEqual(max(map(len, text.splitlines())), 100 if name == "run" else 80)
            for code in ("64", "69", "70", "74"):
                self.assertRegex(text, rf"(?m)^  {code} ")
            # Each option has its line, and each line says something.
            self.assertNotRegex(text, r"(?m)^  (-., )?--\S+( \S+)? *\n(  -|\n)")
        for name, words in (("begin", "report|take-over"), ("complete", "succeeded|failed"), ("release", "unknown|none-by-me|none"),
                            ("resolve", "happened|did-not-happen"), ("list", "running|interrupted|done"),
                            ("run", "doubt|release|keep"), ("run", "report|take-over")):
            self.assertIn(" " + words + "\n", self.idem(name, "--help").stdout.decode())

    def test_manuals_say_what_help_says(self):
        """idem(1) and idemd(8), as they are installed: every option, word, code and sentence of every --help, and no roff by accident."""
        calls = re.findall(r"(?m)^  ([a-z]+) ", self.idem("--help").stdout.decode().split("Options of all", 1)[0])
        self.assertEqual(len(calls), 14)
        for page, program, helps in (("client/idem.1", IDEM, [[]] + [[name] for name in calls]), ("daemon/idemd.8", IDEMD, [[]])):
            roff = self.content(os.path.join(BUILD, page))
            self.assertRegex(roff, r"^\.TH IDEMD? [18] ")
            for line in roff.splitlines():
                self.assertRegex(line, r"^(\.(TH|SH|SS|TP|PP|B|BR|nf|fi)\b|[^.'])", page)
            manual = " ".join(re.sub(r"(?m)^\.(B|TP|PP|nf|fi) *", "", re.sub(r"\\f[BIR]", "", roff.replace(r"\-", "-"))).split())
            for words in helps:
                text = subprocess.run([program, *words, "--help"], capture_output=True, text=True, check=True).stdout
                for option in re.findall(r"(?m)^  (?:-., )?(--[a-z0-9-]+(?: [A-Za-z|=-]+)?)(?:  |$)", text):
                    self.assertIn(option, manual, page)
                for piece in re.findall(r"(?m)^ {6,}(\S.*)$", text):
                    self.assertIn(" ".join(piece.split()), manual, page)

    def test_ping_keeps_its_timeout(self):
        """Somebody accepts and says nothing: what ping asks for says how long it would wait."""
        path = self.server.folder + "/silent"
        for words in (["--timeout", "1h", "ping"], ["ping", "--timeout=1h"], ["ping", "--wait", "1h", "--timeout", "1ms"]):
            with socket.socket(socket.AF_UNIX) as silent:
                silent.bind(path)
                silent.listen()
                ping = subprocess.Popen([IDEM, "-s", "unix:" + path, *words])
                self.addCleanup(ping.wait)
                self.addCleanup(ping.kill)
                silent.settimeout(PATIENCE)
                asked, _ = silent.accept()
                with asked:
                    asked.settimeout(PATIENCE)
                    head = asked.recv(5, socket.MSG_WAITALL)
                    hello = pb.Request.FromString(asked.recv(int.from_bytes(head[1:], "big"), socket.MSG_WAITALL))
                    self.assertGreater(hello.timeout_ms, 60000, words)  # it used to be 2 s
                    ping.kill()
            os.unlink(path)

    def completed(self, *words):
        script = ("source client/idem.bash-completion; COMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1)); _idem; "
                  "printf '%s\\n' \"${COMPREPLY[@]}\"")
        environment = {**os.environ, "PATH": os.path.dirname(IDEM) + ":" + os.environ["PATH"]}
        return subprocess.run(["bash", "-c", script, "bash", *words], cwd=TOP, capture_output=True, text=True, timeout=PATIENCE,
                              env=environment, check=True).stdout.split()

    def test_completion(self):
        self.assertEqual(self.completed("idem", "re"), ["release", "renew", "recover", "resolve"])
        self.assertEqual(self.completed("idem", "-s", "x", "complete", "--keep"), ["--keep", "--keep-body"])
        self.assertEqual(self.completed("idem", "--address", "x", "complete", "--keep"), ["--keep", "--keep-body"])
        self.assertEqual(self.completed("idem", "--address=x", "--json", "complete", "--keep"), ["--keep", "--keep-body"])
        self.assertEqual(self.completed("idem", "run", "--on"), ["--on-failure"])
        self.assertEqual(self.completed("idem", "key", "--v"), ["--v7", "--v4"])
        self.assertEqual(self.completed("idem", "--na"), ["--namespace"])

    def test_completion_of_values(self):
        self.assertEqual(self.completed("idem", "run", "--on-failure", ""), ["doubt", "release", "keep"])
        self.assertEqual(self.completed("idem", "run", "--on-failure", "=", "d"), ["doubt"])
        self.assertEqual(self.completed("idem", "begin", "--if-interrupted", "t"), ["take-over"])
        self.assertEqual(self.completed("idem", "-n", "x", "list", "--state", "r"), ["running"])
        self.assertEqual(self.completed("idem", "resolve", "--verdict", ""), ["happened", "did-not-happen"])
        self.assertIn("30s", self.completed("idem", "begin", "--lease", "3"))
        self.assertEqual(self.completed("idem", "begin", "--key", ""), [])
        path = os.path.join(self.server.folder, "input")
        with open(path, "w"):
            self.assertEqual(self.completed("idem", "begin", "--input", "@" + path[:-2]), ["@" + path])

    def test_keys(self):
        first, second = self.idem("key").stdout, self.idem("key", "--v7").stdout
        self.assertNotEqual(first, second)
        self.assertEqual((len(first), first[14:15]), (37, b"7"))
        self.assertEqual(self.idem("key", "--name", "x").stdout, self.idem("key", "--name", "x").stdout)

    def run_twice(self, *words, data=None):
        return self.idem("run", *words, data=data), self.idem("run", *words, data=data)

    def test_run_once(self):
        counter = self.server.folder + "/count"
        script = f"echo x >>{counter}; printf 'out\\0\\377'; printf err >&2; exit 0"
        one, two = self.run_twice("--key", "k", "--", "sh", "-c", script)
        self.assertEqual((one.returncode, one.stdout, one.stderr), (0, b"out\0\xff", b"err"))
        self.assertEqual((two.returncode, two.stdout, two.stderr), (0, b"out\0\xff", b"err"))
        self.assertEqual(self.content(counter), "x\n")
        self.assertEqual(self.idem("run", "--key", "k", "--", "true").returncode, 65)

    def test_run_stdin(self):
        one, two = self.run_twice("--key", "k", "--stdin", "--", "cat", data=b"\0\1" * 100000)
        self.assertEqual((one.stdout, two.stdout), (b"\0\1" * 100000,) * 2)
        self.assertEqual(self.idem("run", "--key", "k", "--stdin", "--", "cat", data=b"other").returncode, 65)

    def test_run_failing(self):
        for how, again in (("doubt", 76), ("release", 3), ("keep", 3)):
            counter = f"{self.server.folder}/{how}"
            one, two = self.run_twice("--key", how, "--on-failure", how, "--", "sh", "-c", f"echo x >>{counter}; exit 3")
            self.assertEqual((one.returncode, two.returncode), (3, again), two.stderr)
            self.assertEqual(self.content(counter).count("x"), 2 if how == "release" else 1)
        took = self.idem("run", "--key", "doubt", "--on-failure", "doubt", "--if-interrupted", "take-over", "--", "sh", "-c",
                         f"echo x >>{self.server.folder}/doubt; exit 3")
        self.assertEqual(took.returncode, 3)
        killed = self.idem("run", "--key", "killed", "--on-failure", "keep", "--", "sh", "-c", "kill -KILL $$")
        self.assertEqual(killed.returncode, 137)
        self.assertEqual(self.idem("run", "--key", "killed", "--on-failure", "keep", "--", "sh", "-c", "kill -KILL $$").returncode,
                         76)
        one, two = self.run_twice("--key", "missing", "--", "/no/such/command")
        self.assertEqual((one.returncode, two.returncode), (127, 127))

    def test_run_large_output(self):
        one, two = self.run_twice("--key", "k", "--", "sh", "-c", "head -c 3000000 /dev/zero; exit 0")
        self.assertEqual((one.returncode, len(one.stdout)), (0, 3000000))
        self.assertIn(b"more than the 1048576 bytes that the daemon keeps", one.stderr)
        self.assertEqual((two.returncode, two.stdout), (0, b""))
        self.assertIn(b"not kept", two.stderr)

    def test_run_elsewhere_and_waiting(self):
        ready = self.server.folder + "/fifo"
        os.mkfifo(ready)
        words = ["--key", "k", "--", "sh", "-c", f"cat {ready}"]
        environment = {**os.environ, "IDEM_ADDRESS": self.server.addresses[0]}
        owner = subprocess.Popen([IDEM, "run", *words], stdout=subprocess.PIPE, env=environment)
        self.until(lambda: self.idem("get", "--key", "k").returncode == 0, "it runs")
        self.assertEqual(self.idem("run", *words).returncode, 75)
        waiter = subprocess.Popen([IDEM, "run", "--wait", "1m", *words], stdout=subprocess.PIPE, env=environment)
        with open(ready, "w") as out:
            out.write("done")
        self.assertEqual(owner.communicate(timeout=PATIENCE)[0], b"done")
        self.assertEqual(waiter.communicate(timeout=PATIENCE)[0], b"done")
        self.assertEqual((owner.returncode, waiter.returncode), (0, 0))

    def test_run_terminated(self):
        environment = {**os.environ, "IDEM_ADDRESS": self.server.addresses[0]}
        ready = self.server.folder + "/fifo"
        os.mkfifo(ready)
        os.mkfifo(ready + "2")  # nobody ever writes to it
        running = subprocess.Popen([IDEM, "run", "--key", "k", "--", "sh", "-c", f"echo go >{ready}; exec cat {ready}2"],
                                   env=environment, stderr=subprocess.PIPE)
        with open(ready) as started:
            self.assertEqual(started.read(), "go\n")
        running.send_signal(signal.SIGTERM)
        running.communicate(timeout=PATIENCE)
        self.assertEqual(running.returncode, 128 + signal.SIGTERM)
        self.assertEqual(self.fields("get", "--key", "k")["info.state"], "interrupted")


if __name__ == "__main__":
    unittest.main()
