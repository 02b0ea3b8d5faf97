#!/usr/bin/env python3
"""A store that is full, damaged, or swept, seen through a real daemon."""
import ctypes
import itertools
import os
import shutil
import subprocess
import tempfile
import unittest

from harness import (Case, EXECUTE, IDEMD, PATIENCE, REPLAY, RUNNING, begin, complete, op, pb)

MIB = 1 << 20


class Full(Case):
    def test_a_full_store_refuses_only_what_is_new(self):
        daemon = self.daemon("--lease", "1h", "--quota", "64MiB", "--namespace-share", "100")
        client = self.client(daemon)
        done = client.begin("done").grant.fence
        client.complete("done", done, b"body")
        running = client.begin("running").grant.fence
        fences = []
        for i in range(2000):
            reply = client.call(begin=begin(f"k{i}", input=os.urandom(65536)))
            if reply.status.code:
                break
            fences.append((f"k{i}", reply.begin.grant.fence))
        self.assertEqual((reply.status.code, reply.status.reason), (pb.CODE_RESOURCE_EXHAUSTED, "STORE_FULL"))
        self.assertGreater(len(fences), 300)
        self.until(lambda: daemon.logged("store_full"), "the log has that it is full")
        # A checkpoint needs a little less than a grant: one or two may still fit.
        checkpoint = pb.CheckpointRequest(op=op("running"), fence=running,
                                          checkpoint=pb.Checkpoint(name="n", data=os.urandom(65536)))
        reasons = [client.call(checkpoint=checkpoint).status.reason for _ in range(5)]
        self.assertEqual(reasons[-1], "STORE_FULL")
        # Everything else goes on.
        self.assertEqual(client.begin("done").outcome.body, b"body")
        self.assertEqual(client.begin("running").answer, RUNNING)
        self.assertEqual(client.call(renew=pb.RenewRequest(op=op("running"), fence=running, lease_ms=60000)).renew.ownership,
                         pb.OWNERSHIP_HELD)
        self.assertEqual(client.complete("running", running, b"x" * MIB).ownership, pb.OWNERSHIP_HELD)
        for key, fence in fences[:200]:
            self.assertEqual(client.complete(key, fence, b"x" * 1000).ownership, pb.OWNERSHIP_HELD)
        for key, fence in fences[200:]:
            released = client.call(release=pb.ReleaseRequest(op=op(key), fence=fence, effect=pb.EFFECT_NONE)).release
            self.assertEqual(released.ownership, pb.OWNERSHIP_HELD)
        # What was freed can be used, once the tables have followed the log.
        self.until(lambda: not client.call(begin=begin("fresh", input=os.urandom(65536))).status.code, "there is room")
        self.until(lambda: client.call(renew=pb.RenewRequest(op=op("fresh"), fence=1)) and daemon.logged("store_free"),
                   "the log has that it is full no more")

    def test_as_many_unfinished_as_allowed(self):
        daemon = self.daemon("--max-unfinished", "3", "--namespace-share", "100")
        client = self.client(daemon)
        fences = [client.begin(f"k{i}").grant.fence for i in range(3)]
        reply = client.call(begin=begin("k3"))
        self.assertEqual((reply.status.code, reply.status.reason), (pb.CODE_RESOURCE_EXHAUSTED, "TOO_MANY_UNFINISHED"))
        self.assertEqual(client.begin("k0").answer, RUNNING)
        client.complete("k0", fences[0])
        self.assertEqual(client.begin("k3").answer, EXECUTE)


class Shares(Case):
    def test_one_namespace_leaves_room_for_the_others(self):
        daemon = self.daemon("--lease", "1h", "--quota", "64MiB")
        client = self.client(daemon)
        fences = []
        for i in range(2000):
            reply = client.call(begin=begin(f"k{i}", namespace="greedy", input=os.urandom(65536)))
            if reply.status.code:
                break
            fences.append(reply.begin.grant.fence)
        self.assertEqual((reply.status.code, reply.status.reason), (pb.CODE_RESOURCE_EXHAUSTED, "STORE_FULL"))
        self.assertIn("namespace", reply.status.message)
        self.assertGreater(len(fences), 100)
        for i in range(20):
            self.assertEqual(client.begin(f"k{i}", namespace="modest", input=os.urandom(65536)).answer, EXECUTE)

    def test_what_a_namespace_has_is_known_after_a_restart(self):
        daemon = self.daemon()
        client = self.client(daemon)

        def counts(namespace):
            metrics = self.client(daemon).call(stats=pb.StatsRequest(namespace=namespace)).stats.metrics
            return {m.name: m.value for m in metrics if m.name != "idemd_started_ms"}

        for namespace, many in (("a", 5), ("b", 2)):
            for i in range(many):
                fence = client.begin(f"k{i}", namespace=namespace).grant.fence
                if i:
                    client.call(complete=pb.CompleteRequest(op=op(f"k{i}", namespace=namespace), fence=fence, outcome=pb.Outcome(
                        kind=pb.OUTCOME_KIND_SUCCEEDED, body=os.urandom(3000))))
        before = counts("a"), counts("b")
        self.assertEqual((before[0]["idemd_running"], before[0]["idemd_finished"]), (1, 4))
        self.assertGreater(before[0]["idemd_stored_bytes"], 4 * 3000)
        daemon.kill()
        daemon.start()
        self.assertEqual((counts("a"), counts("b")), before)
        self.assertEqual(counts("nobody")["idemd_stored_bytes"], 0)


class Short(Case):
    """Memory is short: the daemon has as much in use as it may."""
    numbers = itertools.count()

    def begin_until_refused(self, client, begun):
        """Begins many at a time until none of them is granted. Unfinished operations stay in memory. Returns the refusal."""
        large = {"operation": "o" * 128, "owner": "w" * 128, "fingerprint": b"f" * 64}
        while True:
            keys = [f"k{next(self.numbers):0200}" for _ in range(500)]
            sent = [client.send(begin=begin(key, caller="c" * 128, **large)) for key in keys]
            replies = [client.reply(request) for request in sent]
            grants = {key: reply.begin.grant.fence for key, reply in zip(keys, replies) if not reply.status.code}
            if not grants:
                return replies[-1].status
            begun.update(grants)

    def test_short_of_memory_it_refuses_only_what_is_new(self):
        daemon = self.daemon("--lease", "1h", "--max-memory", "64MiB")
        client = self.client(daemon)
        done = client.begin("done").grant.fence
        client.complete("done", done, b"body")
        begun = {}
        refused = self.begin_until_refused(client, begun)
        self.assertEqual((refused.code, refused.reason), (pb.CODE_RESOURCE_EXHAUSTED, "MEMORY_FULL"))
        self.assertGreater(len(begun), 10000)
        self.until(lambda: any("event=memory_full" in line for line in daemon.log), "it says so")
        # Everything else goes on.
        self.assertEqual(client.begin("done").outcome.body, b"body")
        some = next(iter(begun))
        again = begin(some, caller="c" * 128, operation="o" * 128, fingerprint=b"f" * 64)
        self.assertEqual(client.call(begin=again).begin.answer, RUNNING)
        self.assertEqual(client.call(complete=pb.CompleteRequest(op=again.op, fence=begun.pop(some), outcome=pb.Outcome(
            kind=pb.OUTCOME_KIND_SUCCEEDED, body=b"x" * MIB))).complete.ownership, pb.OWNERSHIP_HELD)
        begun = list(begun.items())
        for first in range(0, len(begun), 500):
            sent = [client.send(release=pb.ReleaseRequest(op=op(key, caller="c" * 128), fence=fence, effect=pb.EFFECT_NONE))
                    for key, fence in begun[first:first + 500]]
            for request in sent:
                self.assertEqual(client.reply(request).release.ownership, pb.OWNERSHIP_HELD)
        self.until(lambda: not client.call(begin=begin("fresh")).status.code, "there is room again")
        self.until(lambda: any("event=memory_free" in line for line in daemon.log), "it says so")


class FullDisk(Case):
    """The data directory is a file system of its own, which another file fills."""

    SIZE = 176 * MIB

    def setUp(self):
        clone_newns = 0x00020000
        if os.geteuid() != 0 or ctypes.CDLL(None, use_errno=True).unshare(clone_newns) != 0:
            self.skipTest("only root may mount a small file system")
        self.folder = tempfile.mkdtemp(prefix="idemd-")
        self.data = os.path.join(self.folder, "data")
        os.mkdir(self.data)
        subprocess.run(["mount", "--make-rprivate", "/"], stderr=subprocess.DEVNULL)
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={self.SIZE},mode=0700", "none", self.data],
                                 stderr=subprocess.PIPE)
        if mounted.returncode != 0:
            os.rmdir(self.data)
            os.rmdir(self.folder)
            self.skipTest("a small file system cannot be mounted: " + mounted.stderr.decode().strip())
        self.addCleanup(shutil.rmtree, self.folder, True)
        self.addCleanup(subprocess.run, ["umount", self.data])

    def fill(self, name):
        with open(os.path.join(self.data, "store", name), "ab", buffering=0) as filler:
            for size in (MIB, 4096):
                try:
                    while True:
                        filler.write(bytes(size))
                except OSError:
                    pass

    def begin_until_full(self, client, prefix):
        fences = []
        for i in range(3000):
            reply = client.call(begin=begin(f"{prefix}{i}", input=os.urandom(65536), lease_ms=3600 * 1000))
            if reply.status.code:
                self.assertEqual((reply.status.code, reply.status.reason), (pb.CODE_RESOURCE_EXHAUSTED, "STORE_FULL"))
                return fences
            fences.append((f"{prefix}{i}", reply.begin.grant.fence))
        self.fail("it is never full")

    def goes_on(self, client, fences, known):
        """What an owner may do on a full disk; takes five of the fences."""
        key, fence = fences.pop()
        self.assertEqual(client.complete(key, fence, b"x" * MIB).ownership, pb.OWNERSHIP_HELD)
        known[key] = b"x" * MIB
        key, fence = fences.pop()
        self.assertEqual(client.complete(key, fence, b"small").ownership, pb.OWNERSHIP_HELD)
        known[key] = b"small"
        key, fence = fences.pop()
        release = pb.ReleaseRequest(op=op(key), fence=fence, effect=pb.EFFECT_NONE)
        self.assertEqual(client.call(release=release).release.ownership, pb.OWNERSHIP_HELD)
        key, fence = fences[-1]
        renew = pb.RenewRequest(op=op(key), fence=fence, lease_ms=3600 * 1000)
        self.assertEqual(client.call(renew=renew).renew.ownership, pb.OWNERSHIP_HELD)
        for key, body in known.items():
            self.assertEqual(client.begin(key).outcome.body, body)

    def test_only_what_is_new_is_refused(self):
        daemon = self.daemon(folder=self.folder)
        client, known = self.client(daemon), {}
        fences = [(f"early{i}", client.begin(f"early{i}", lease_ms=3600 * 1000).grant.fence) for i in range(100)]
        self.fill("filler")
        fences += self.begin_until_full(client, "filling")
        for _ in range(3):
            self.goes_on(client, fences, known)
        daemon.kill()
        filler = os.path.join(self.data, "store", "filler")
        os.truncate(filler, os.path.getsize(filler) - 65536)
        # The making of another file of the log was cut off.
        names = (os.path.join(self.data, "store", f"log.{slot}") for slot in range(8))
        with open(next(name for name in names if not os.path.exists(name)), "wb") as left:
            left.write(bytes(5000))
        self.fill("filler")
        # It starts, and goes on.
        daemon.start()
        client = self.client(daemon)
        self.begin_until_full(client, "again")
        self.goes_on(client, fences, known)
        # Outcomes without end are refused in the end, by name, and the daemon goes on.
        refused = None
        for key, fence in fences[:-10]:
            reply = client.call(complete=complete(key, fence, os.urandom(MIB)))
            if reply.status.code:
                self.assertEqual((reply.status.code, reply.status.reason), (pb.CODE_RESOURCE_EXHAUSTED, "STORE_FULL"))
                refused = key, fence
                break
            known[key] = None
        self.assertIsNotNone(refused)
        renew = pb.RenewRequest(op=op(refused[0]), fence=refused[1], lease_ms=3600 * 1000)
        self.assertEqual(client.call(renew=renew).renew.ownership, pb.OWNERSHIP_HELD)
        daemon.kill()
        daemon.start()
        client = self.client(daemon)
        for key, body in known.items():
            outcome = client.begin(key).outcome
            self.assertEqual(outcome.body_bytes or len(outcome.body), MIB if body is None else len(body))
        self.assertTrue(any("event=disk_full" in line for line in daemon.log))
        # With room again all of it works again.
        os.unlink(filler)
        self.until(lambda: not client.call(begin=begin("fresh")).status.code, "there is room")
        self.assertEqual(client.complete(*refused, b"x" * MIB).ownership, pb.OWNERSHIP_HELD)


class Damaged(Case):
    """Bytes of the data file are changed while no daemon runs. LMDB keeps old pages, so all places that look alike are changed."""

    def change(self, daemon, pattern, offset):
        path = os.path.join(daemon.data, "store", "data.mdb")
        with open(path, "r+b") as data:
            content = data.read()
            at, found = content.find(pattern), 0
            while at >= 0:
                data.seek(at + offset)
                data.write(bytes([content[at + offset] ^ 0x55]))
                found += 1
                at = content.find(pattern, at + 1)
        self.assertGreater(found, 0)

    def start_fails(self, daemon, *options):
        return subprocess.run([IDEMD, "--data", daemon.data, "--listen", "unix:" + daemon.socket, *options],
                              stderr=subprocess.PIPE, timeout=PATIENCE)

    @staticmethod
    def record_of(key):
        # The rest of a record begins with what else is given (no caller, ...), then namespace and key, each after its length.
        return b"\x00\x04test" + bytes([len(key)]) + key.encode()

    def test_a_bad_record_is_data_loss_for_its_operation_alone(self):
        daemon = self.daemon()
        client = self.client(daemon)
        for key in ("finished-one", "finished-two"):
            client.complete(key, client.begin(key).grant.fence, b"body of " + key.encode())
        client.begin("unfinished-one", lease_ms=3600 * 1000)
        client.begin("unfinished-two", lease_ms=3600 * 1000)
        daemon.terminate()
        for key in ("finished-one", "unfinished-one"):
            self.change(daemon, self.record_of(key), 9)
        daemon.start()
        client = self.client(daemon)
        for key in ("finished-one", "unfinished-one"):
            for call in (dict(begin=begin(key)), dict(begin=begin(key, if_interrupted=pb.IF_INTERRUPTED_TAKE_OVER)),
                         dict(get=pb.GetRequest(op=op(key))), dict(complete=complete(key, 1))):
                self.assertEqual(client.call(**call).status.code, pb.CODE_DATA_LOSS)
        self.assertEqual(client.begin("finished-two").outcome.body, b"body of finished-two")
        self.assertEqual(client.begin("unfinished-two").answer, RUNNING)
        for key in ("finished-one", "unfinished-one"):
            forget = pb.ForgetRequest(op=op(key), revision=1)
            self.assertEqual(client.call(forget=forget).forget.ownership, pb.OWNERSHIP_HELD)
            self.assertEqual(client.begin(key).answer, EXECUTE)
        daemon.terminate()
        checked = subprocess.run([IDEMD, "--check-data", daemon.data], stdout=subprocess.PIPE, timeout=PATIENCE)
        self.assertEqual(checked.returncode, 0, checked.stdout)
        daemon.start()

    def test_a_bad_head_is_not_started_with(self):
        for table, finish in (("finished", True), ("unfinished", False)):
            with self.subTest(table):
                daemon = self.daemon()
                client = self.client(daemon)
                fence = client.begin("lost").grant.fence
                if finish:
                    client.complete("lost", fence)
                client.begin("kept", lease_ms=3600 * 1000)
                daemon.terminate()
                self.change(daemon, self.record_of("lost"), -30)
                failed = self.start_fails(daemon)
                self.assertEqual(failed.returncode, 65)
                self.assertIn(b"--accept-loss", failed.stderr)
                self.assertIn(table.encode(), failed.stderr)
                checked = subprocess.run([IDEMD, "--check-data", daemon.data], stdout=subprocess.PIPE, timeout=PATIENCE)
                self.assertEqual(checked.returncode, 65)
                daemon.options = ["--accept-loss"]
                daemon.start()
                self.assertTrue(any("event=lost" in line and table in line for line in daemon.log))
                client = self.client(daemon)
                self.assertEqual(client.begin("kept").answer, RUNNING)
                self.assertEqual(client.begin("lost").answer, EXECUTE)

    def test_what_lies_behind_a_bad_page_is_not_lost(self):
        daemon = self.daemon()
        client = self.client(daemon)
        keys = [f"key-{i:03}" for i in range(400)]
        for key in keys:
            client.complete(key, client.begin(key).grant.fence, b"x" * 200)
        daemon.terminate()
        with open(os.path.join(daemon.data, "store", "data.mdb"), "r+b") as data:
            content, at = data.read(), -1
            while (at := content.find(self.record_of("key-200"), at + 1)) >= 0:
                data.seek(at // 4096 * 4096)
                data.write(bytes(4096))
        failed = self.start_fails(daemon)
        self.assertEqual(failed.returncode, 65)
        self.assertIn(b"--accept-loss", failed.stderr)
        daemon.options = ["--accept-loss"]
        daemon.start()
        self.assertEqual(sum("event=lost" in line and "read_from" in line for line in daemon.log), 2)
        client = self.client(daemon)
        lost = [key for key in keys if client.begin(key).answer == EXECUTE]
        # Those of one page, side by side.
        self.assertIn("key-200", lost)
        self.assertLess(len(lost), 30)
        self.assertEqual(lost, keys[keys.index(lost[0]):keys.index(lost[-1]) + 1])

    def test_a_file_that_is_no_store(self):
        daemon = self.daemon()
        daemon.terminate()
        with open(os.path.join(daemon.data, "store", "data.mdb"), "r+b") as data:
            data.write(os.urandom(16384))
        self.assertEqual(self.start_fails(daemon).returncode, 65)


class Directory(Case):
    """Who may use a directory, and what a copy of it gives out."""

    def start_fails(self, daemon):
        failed = subprocess.run([IDEMD, "--data", daemon.data, "--listen", "unix:" + daemon.socket + "2"],
                                stderr=subprocess.PIPE, timeout=PATIENCE)
        return failed.returncode, failed.stderr.decode()

    def test_without_its_lock_file_it_is_held_all_the_same(self):
        daemon = self.daemon()
        lock = os.path.join(daemon.data, "lock")
        for change in (lambda: None, lambda: os.unlink(lock), lambda: open(lock, "w").close()):
            change()
            code, text = self.start_fails(daemon)
            self.assertEqual(code, 75, text)
            self.assertIn(f"process {daemon.process.pid}", text)
        checked = subprocess.run([IDEMD, "--check-data", daemon.data], stderr=subprocess.PIPE, timeout=PATIENCE)
        self.assertEqual(checked.returncode, 75)
        self.assertIn(f"process {daemon.process.pid}".encode(), checked.stderr)

    def test_a_copy_gives_no_fence_of_its_original(self):
        original = self.daemon()
        self.client(original).begin("first")
        original.terminate()
        folder = tempfile.mkdtemp(prefix="idemd-")
        shutil.copytree(original.data, os.path.join(folder, "data"))
        original.start()
        client = self.client(original)
        given = [client.begin(f"k{i}").grant.fence for i in range(200)]
        original.kill()
        copy = self.daemon(folder=folder)
        self.assertTrue(any("event=copied" in line for line in copy.log), copy.log)
        client = self.client(copy)
        self.assertGreater(min(client.begin(f"k{i}").grant.fence for i in range(200)), max(given))
        # The original is no copy of itself, also after a kill.
        original.start()
        self.assertFalse(any("event=copied" in line for line in original.log), original.log)
        self.assertEqual(self.client(original).begin("k0").answer, RUNNING)

    @unittest.skipIf(subprocess.run(["unshare", "-m", "true"], stderr=subprocess.DEVNULL).returncode, "may not mount")
    def test_data_on_a_file_system_mounted_to_be_read_are_checked(self):
        daemon = self.daemon()
        client = self.client(daemon)
        client.complete("k", client.begin("k").grant.fence, b"body")
        daemon.kill()
        checked = subprocess.run(["unshare", "-m", "sh", "-c", 'mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" && '
                                  '! touch "$1/lock" 2>/dev/null && exec "$2" --check-data "$1"', "sh", daemon.data, IDEMD],
                                 stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=PATIENCE)
        self.assertEqual(checked.returncode, 0, checked.stdout)
        daemon.start()
        self.assertEqual(self.client(daemon).begin("k").outcome.body, b"body")


class Swept(Case):
    def test_many_go_and_their_space_is_used_again(self):
        daemon = self.daemon()
        client = self.client(daemon)

        def stats():
            return {m.name: m.value for m in client.call(stats=pb.StatsRequest()).stats.metrics if not m.labels}

        # More than one slice of a sweep holds.
        for first in range(0, 6000, 500):
            ids = [client.send(begin=begin(f"k{first + i}")) for i in range(500)]
            fences = [client.reply(i).begin.grant.fence for i in ids]
            ids = [client.send(complete=complete(f"k{first + i}", fence, b"x" * (3000 if i % 50 == 0 else 10), keep_ms=1000))
                   for i, fence in enumerate(fences)]
            for i in ids:
                self.assertEqual(client.reply(i).complete.ownership, pb.OWNERSHIP_HELD)
        self.until(lambda: stats()["idemd_finished"] == 0, "all are swept")
        self.assertEqual(stats()["idemd_swept_total"], 6000)
        used = stats()["idemd_store_used_bytes"]
        self.assertLess(used, 2 * MIB)


if __name__ == "__main__":
    unittest.main()
