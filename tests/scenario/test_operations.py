#!/usr/bin/env python3
"""What a service meets: one owner, equal replays, waiting, taking over, resuming, leases over restarts."""
import os
import random
import signal
import threading
import time
import unittest

from harness import (Case, Client, EXECUTE, EXPIRED, INTERRUPTED, MISMATCH, REPLAY, RUNNING, begin, complete, op, pb)


class OneOwner(Case):
    def test_two_hundred_clients_on_one_key(self):
        daemon = self.daemon()
        clients = [self.client(daemon) for _ in range(200)]
        sent = [client.send(begin=begin("k", wait_ms=60000)) for client in clients]
        owners, rest = [], []
        # The first reply is the owner's; the others wait for what it stores.
        self.until(lambda: any(c.has_reply(i) for c, i in zip(clients, sent)), "an owner")
        for client, request in zip(clients, sent):
            (owners if client.has_reply(request) else rest).append((client, request))
        self.assertEqual(len(owners), 1)
        owner, request = owners[0]
        grant = owner.reply(request).begin
        self.assertEqual(grant.answer, EXECUTE)
        body = os.urandom(5000)
        done = owner.complete("k", grant.grant.fence, body)
        self.assertEqual(done.ownership, pb.OWNERSHIP_HELD)
        outcomes = set()
        for client, request in rest:
            reply = client.reply(request).begin
            self.assertEqual(reply.answer, REPLAY)
            outcomes.add(reply.outcome.SerializeToString(deterministic=True))
            self.assertEqual(reply.outcome.body, body)
        self.assertEqual(len(rest), 199)
        self.assertEqual(len(outcomes), 1)

    def test_mismatch_and_identity(self):
        daemon = self.daemon()
        client = self.client(daemon)
        self.assertEqual(client.begin("k", operation="a", fingerprint=b"1").answer, EXECUTE)
        reply = client.begin("k", operation="b", fingerprint=b"1")
        self.assertEqual((reply.answer, reply.mismatch.operation, reply.mismatch.fingerprint), (MISMATCH, True, False))
        reply = client.begin("k", operation="a", fingerprint=b"2")
        self.assertEqual((reply.answer, reply.mismatch.operation, reply.mismatch.fingerprint), (MISMATCH, False, True))
        self.assertEqual(reply.info.owner, "")
        self.assertEqual(client.begin("k", operation="a", fingerprint=b"9", other_fingerprints=[b"1"]).answer, RUNNING)
        self.assertEqual(client.begin("k", caller="other").answer, EXECUTE)
        self.assertEqual(client.begin("k", namespace="other").answer, EXECUTE)
        # Parts are never run together.
        self.assertEqual(client.begin("bc", caller="a").answer, EXECUTE)
        self.assertEqual(client.begin("c", caller="ab").answer, EXECUTE)

    def test_waiters_in_order(self):
        daemon = self.daemon()
        owner = self.client(daemon)
        fence = owner.begin("k").grant.fence
        waiters = []
        for _ in range(5):
            client = self.client(daemon)
            waiters.append((client, client.send(begin=begin("k", wait_ms=60000))))
            # It is parked once the daemon has answered what was sent after it.
            client.call(get=pb.GetRequest(op=op("k")))
        for i, (client, request) in enumerate(waiters):
            released = owner.call(release=pb.ReleaseRequest(op=op("k"), fence=fence, effect=pb.EFFECT_NONE)).release
            self.assertEqual(released.ownership, pb.OWNERSHIP_HELD)
            reply = client.reply(request).begin
            self.assertEqual(reply.answer, EXECUTE)
            self.assertGreater(reply.grant.fence, fence)
            self.assertFalse(any(later.has_reply(waits) for later, waits in waiters[i + 1:]))
            fence, owner = reply.grant.fence, client

    def test_running_tells_how_long(self):
        daemon = self.daemon()
        client = self.client(daemon)
        client.begin("k", owner="worker 7", lease_ms=20000)
        reply = client.begin("k")
        self.assertEqual((reply.answer, reply.running.owner), (RUNNING, "worker 7"))
        self.assertGreater(reply.running.retry_after_ms, 0)
        self.assertLessEqual(reply.running.retry_after_ms, reply.running.lease_left_ms)
        self.assertLessEqual(reply.running.lease_left_ms, 20000)


class Interrupted(Case):
    def test_report_then_take_over(self):
        daemon = self.daemon()
        worker = self.client(daemon)
        first = worker.begin("k", lease_ms=1000, input=b"what to do").grant
        worker.call(checkpoint=pb.CheckpointRequest(op=op("k"), fence=first.fence,
                                                    checkpoint=pb.Checkpoint(name="half", data=b"\0\1")))
        worker.close()
        client = self.client(daemon)
        reply = client.begin("k", wait_ms=60000, if_interrupted=pb.IF_INTERRUPTED_REPORT)
        self.assertEqual(reply.answer, INTERRUPTED)
        self.assertEqual((reply.checkpoint.name, reply.checkpoint.data), ("half", b"\0\1"))
        wrong = client.begin("k", if_interrupted=pb.IF_INTERRUPTED_TAKE_OVER, take_over_revision=reply.info.revision + 1)
        self.assertEqual(wrong.answer, INTERRUPTED)
        taken = client.begin("k", if_interrupted=pb.IF_INTERRUPTED_TAKE_OVER, take_over_revision=reply.info.revision)
        self.assertEqual(taken.answer, EXECUTE)
        self.assertGreater(taken.grant.fence, first.fence)
        self.assertEqual((taken.grant.attempt, taken.grant.input, taken.grant.checkpoint.name), (2, b"what to do", "half"))
        # The worker that was thought dead comes back.
        late = self.client(daemon)
        self.assertEqual(late.complete("k", first.fence).ownership, pb.OWNERSHIP_LOST)
        self.assertEqual(client.complete("k", taken.grant.fence, b"mine").ownership, pb.OWNERSHIP_HELD)
        final = late.complete("k", first.fence, b"other")
        self.assertEqual((final.ownership, final.outcome.body), (pb.OWNERSHIP_FINAL, b"mine"))

    def test_a_waiter_that_takes_over_gets_it(self):
        daemon = self.daemon()
        worker = self.client(daemon)
        worker.begin("k", lease_ms=1000)
        reporter, taker = self.client(daemon), self.client(daemon)
        waits = reporter.send(begin=begin("k", wait_ms=60000, if_interrupted=pb.IF_INTERRUPTED_REPORT))
        reporter.call(get=pb.GetRequest(op=op("k")))
        taken = taker.begin("k", wait_ms=60000, if_interrupted=pb.IF_INTERRUPTED_TAKE_OVER)
        self.assertEqual((taken.answer, taken.grant.attempt), (EXECUTE, 2))
        self.assertFalse(reporter.has_reply(waits))
        taker.complete("k", taken.grant.fence, b"x")
        self.assertEqual(reporter.reply(waits).begin.answer, REPLAY)

    def test_resume_by_attempt_id(self):
        daemon = self.daemon()
        client = self.client(daemon)
        attempt = os.urandom(16)
        first = client.begin("k", attempt_id=attempt)
        again = self.client(daemon).begin("k", attempt_id=attempt)
        self.assertEqual((again.answer, again.grant.fence, again.grant.resumed), (EXECUTE, first.grant.fence, True))
        self.assertEqual(client.begin("k", attempt_id=os.urandom(16)).answer, RUNNING)
        daemon.kill()
        daemon.start()
        client = self.client(daemon)
        again = client.begin("k", attempt_id=attempt)
        self.assertEqual((again.answer, again.grant.fence, again.grant.resumed), (EXECUTE, first.grant.fence, True))

    def test_last_owner_completes_late(self):
        daemon = self.daemon()
        client = self.client(daemon)
        fence = client.begin("k", lease_ms=1000).grant.fence
        self.assertEqual(client.begin("k", wait_ms=60000).answer, INTERRUPTED)
        self.assertEqual(client.complete("k", fence, b"late").ownership, pb.OWNERSHIP_HELD)
        self.assertEqual(client.begin("k").outcome.body, b"late")

    def test_recover_resolve_forget_list(self):
        daemon = self.daemon()
        client = self.client(daemon)
        for key in ("a", "b", "c"):
            client.begin(key, lease_ms=1000, operation="pay", fingerprint=key.encode())
            self.assertEqual(client.begin(key, wait_ms=60000, operation="pay", fingerprint=key.encode()).answer, INTERRUPTED)
        attempt = os.urandom(16)
        got = client.call(recover=pb.RecoverRequest(namespace="test", operation="pay", limit=2, attempt_id=attempt)).recover
        self.assertEqual([r.op.key for r in got.operations], ["a", "b"])
        self.assertEqual([r.grant.attempt for r in got.operations], [2, 2])
        again = client.call(recover=pb.RecoverRequest(namespace="test", operation="pay", limit=2, attempt_id=attempt)).recover
        self.assertEqual({r.grant.fence for r in again.operations}, {r.grant.fence for r in got.operations})
        self.assertTrue(all(r.grant.resumed for r in again.operations))
        info = client.call(get=pb.GetRequest(op=op("c"))).get.info
        wrong = client.call(resolve=pb.ResolveRequest(op=op("c"), revision=info.revision + 9, verdict=pb.VERDICT_DID_NOT_HAPPEN))
        self.assertEqual((wrong.status.code, wrong.status.reason), (pb.CODE_FAILED_PRECONDITION, "WRONG_REVISION"))
        happened = dict(op=op("c"), revision=info.revision, verdict=pb.VERDICT_HAPPENED,
                        outcome=pb.Outcome(kind=pb.OUTCOME_KIND_SUCCEEDED, body=b"seen"))
        self.assertEqual(client.call(resolve=pb.ResolveRequest(**happened)).resolve.ownership, pb.OWNERSHIP_HELD)
        self.assertEqual(client.call(resolve=pb.ResolveRequest(**happened)).resolve.ownership, pb.OWNERSHIP_HELD)
        done = client.call(get=pb.GetRequest(op=op("c"))).get
        self.assertTrue(done.info.resolved)
        listed = client.call(list=pb.ListRequest(namespace="test")).list
        self.assertEqual({l.op.key: l.info.state for l in listed.operations},
                         {"a": pb.STATE_RUNNING, "b": pb.STATE_RUNNING, "c": pb.STATE_DONE})
        forget = pb.ForgetRequest(op=op("c"), revision=done.info.revision)
        self.assertEqual(client.call(forget=forget).forget.ownership, pb.OWNERSHIP_HELD)
        self.assertEqual(client.call(forget=forget).forget.ownership, pb.OWNERSHIP_GONE)
        self.assertEqual(client.call(get=pb.GetRequest(op=op("c"))).status.code, pb.CODE_NOT_FOUND)

    def test_stats(self):
        daemon = self.daemon()
        client = self.client(daemon)

        def stats(**request):
            metrics = client.call(stats=pb.StatsRequest(**request)).stats.metrics
            return {(m.name, *((l.name, l.value) for l in m.labels)): m.value for m in metrics}

        fence = client.begin("a").grant.fence
        client.begin("b")
        client.begin("c", namespace="other")
        client.call(release=pb.ReleaseRequest(op=op("a"), fence=fence, effect=pb.EFFECT_UNKNOWN))
        client.call(get=pb.GetRequest(op=op("nobody")))
        whole = stats()
        self.assertEqual((whole[("idemd_running",)], whole[("idemd_interrupted",)]), (2, 1))
        self.assertEqual(whole[("idemd_calls_total", ("call", "begin"), ("code", "OK"))], 3)
        self.assertEqual(whole[("idemd_calls_total", ("call", "get"), ("code", "NOT_FOUND"))], 1)
        self.assertEqual(whole[("idemd_begins_total", ("answer", "EXECUTE"))], 3)
        self.assertGreater(whole[("idemd_started_ms",)], 1.7e12)
        self.assertEqual(whole[("idemd_durable_changes_total",)], 4)  # three grants and a release, each answered when flushed
        self.assertGreaterEqual(whole[("idemd_batches_total",)], 4)
        for namespace, running, interrupted in (("test", 1, 1), ("other", 1, 0), ("none", 0, 0)):
            label = ("namespace", namespace)
            of = stats(namespace=namespace)
            self.assertEqual((of[("idemd_running", label)], of[("idemd_interrupted", label)]), (running, interrupted))

    def test_list_pages_see_everything(self):
        daemon = self.daemon()
        client = self.client(daemon)
        keys = {f"k{i}" for i in range(50)}
        for i, key in enumerate(sorted(keys)):
            fence = client.begin(key).grant.fence
            if i % 2:
                client.complete(key, fence)
        seen, cursor, pages = set(), b"", 0
        while True:
            page = client.call(list=pb.ListRequest(namespace="test", limit=7, cursor=cursor)).list
            seen |= {l.op.key for l in page.operations}
            pages += 1
            cursor = page.cursor
            if not cursor:
                break
        self.assertEqual(seen, keys)
        self.assertGreaterEqual(pages, 7)


class Outcomes(Case):
    def test_bodies_of_all_sizes(self):
        daemon = self.daemon()
        client = self.client(daemon)
        for size in (0, 1, 1000, 4071, 4072, 4073, 100000, 1 << 20):
            body = random.Random(size).randbytes(size)
            key = f"k{size}"
            fence = client.begin(key).grant.fence
            self.assertEqual(client.complete(key, fence, body).ownership, pb.OWNERSHIP_HELD)
            self.assertEqual(client.begin(key).outcome.body, body)
        # Once more, from the store, after a restart.
        daemon.kill()
        daemon.start()
        client = self.client(daemon)
        for size in (0, 1, 1000, 4071, 4072, 4073, 100000, 1 << 20):
            reply = client.begin(f"k{size}")
            self.assertEqual(reply.outcome.body, random.Random(size).randbytes(size))
            self.assertEqual(reply.outcome.body_bytes, size)

    def test_complete_is_never_refused_for_what_it_carries(self):
        daemon = self.daemon()
        client = self.client(daemon)
        fence = client.begin("k").grant.fence
        outcome = pb.Outcome(kind=pb.OUTCOME_KIND_SUCCEEDED, code=7, body=b"x" * ((1 << 20) + 1),
                             attributes=[pb.Attribute(name=f"n{i}", value=b"v") for i in range(65)])
        call = pb.CompleteRequest(op=op("k"), fence=fence, outcome=outcome, keep_ms=1 << 60)
        self.assertEqual(client.call(complete=call).complete.ownership, pb.OWNERSHIP_HELD)
        reply = client.begin("k").outcome
        self.assertEqual((reply.code, reply.body_dropped, reply.body_bytes, reply.attributes_dropped, len(reply.attributes)),
                         (7, True, (1 << 20) + 1, True, 0))
        # Sent again it is the same; otherwise it is not.
        self.assertEqual(client.call(complete=call).complete.ownership, pb.OWNERSHIP_HELD)
        call.outcome.attributes[0].value = b"w"
        self.assertEqual(client.call(complete=call).complete.ownership, pb.OWNERSHIP_FINAL)

    def test_expiry(self):
        daemon = self.daemon()
        client = self.client(daemon)
        fence = client.begin("k").grant.fence
        done = client.complete("k", fence, b"short", keep_ms=1000)
        self.assertGreater(done.expires_ms, 0)
        self.until(lambda: client.call(get=pb.GetRequest(op=op("k"))).status.code == pb.CODE_NOT_FOUND, "it expires")
        self.assertEqual(client.complete("k", fence, b"short").ownership, pb.OWNERSHIP_GONE)
        again = client.begin("k")
        self.assertEqual(again.answer, EXECUTE)
        self.assertGreater(again.grant.fence, fence)
        self.until(lambda: self.stat(client, "idemd_swept_total") == 1, "it is swept")
        now = client.call(hello=pb.HelloRequest()).hello.now_ms
        self.assertEqual(client.begin("old", first_sent_ms=now - 25 * 3600 * 1000).answer, EXPIRED)
        self.assertEqual(client.begin("old", first_sent_ms=now - 3600 * 1000).answer, EXECUTE)

    @staticmethod
    def stat(client, name):
        for metric in client.call(stats=pb.StatsRequest()).stats.metrics:
            if metric.name == name:
                return metric.value
        raise AssertionError(name)

    def test_keep_body(self):
        daemon = self.daemon()
        client = self.client(daemon)
        for key, body in (("small", b"x" * 10), ("large", b"x" * 50000)):
            fence = client.begin(key).grant.fence
            client.complete(key, fence, body, keep_body_ms=1000)
            self.until(lambda: client.begin(key).outcome.body_dropped, "the body goes")
            outcome = client.begin(key).outcome
            self.assertEqual((outcome.code, outcome.body, outcome.body_bytes), (200, b"", len(body)))
        daemon.kill()
        daemon.start()
        self.assertTrue(self.client(daemon).begin("large").outcome.body_dropped)


class Restarts(Case):
    def test_running_leases(self):
        daemon = self.daemon()
        client = self.client(daemon)
        attempt = os.urandom(16)
        fence = client.begin("k", lease_ms=3600 * 1000, attempt_id=attempt).grant.fence
        daemon.kill()
        daemon.start()
        client = self.client(daemon)
        reply = client.begin("k", attempt_id=os.urandom(16))
        self.assertEqual(reply.answer, RUNNING)
        self.assertGreater(reply.running.lease_left_ms, 3500 * 1000)
        self.assertEqual(client.call(renew=pb.RenewRequest(op=op("k"), fence=fence)).renew.ownership, pb.OWNERSHIP_HELD)
        self.assertEqual(client.complete("k", fence).ownership, pb.OWNERSHIP_HELD)

    def test_a_stopped_daemon_ends_no_lease(self):
        # Its owners cannot renew while it does not run, so leases are that much longer.
        daemon = self.daemon()
        client = self.client(daemon)
        client.begin("k", lease_ms=3000)
        daemon.process.send_signal(signal.SIGSTOP)
        end = time.monotonic() + 4
        self.until(lambda: time.monotonic() > end, "time passes")
        daemon.process.send_signal(signal.SIGCONT)
        self.assertEqual(client.begin("k").answer, RUNNING)
        self.until(lambda: any("event=stalled" in line for line in daemon.log), "it says so")
        # A stall is no reprieve: with nobody there the lease ends.
        self.assertEqual(client.begin("k", wait_ms=60000).answer, INTERRUPTED)

    def test_policy_of_the_options(self):
        daemon = self.daemon("--keep", "2h", "--keep-min", "1m", "--keep-max", "3h", "--lease", "10s", "--grace", "1s",
                             "--if-interrupted", "take-over", "--max-outcome", "64KiB")
        client = self.client(daemon)
        hello = client.call(hello=pb.HelloRequest()).hello
        policy = hello.policy
        self.assertEqual((policy.keep_ms, policy.keep_min_ms, policy.keep_max_ms, policy.lease_ms, policy.grace_ms,
                          policy.if_interrupted, hello.max_outcome_bytes, hello.max_frame_bytes),
                         (7200000, 60000, 10800000, 10000, 1000, pb.IF_INTERRUPTED_TAKE_OVER, 65536, 65536 + 262144))
        fence = client.begin("k").grant.fence
        client.call(release=pb.ReleaseRequest(op=op("k"), fence=fence, effect=pb.EFFECT_UNKNOWN))
        taken = client.begin("k")
        self.assertEqual((taken.answer, taken.grant.attempt, taken.grant.lease_ms), (EXECUTE, 2, 10000))
        now = client.call(get=pb.GetRequest(op=op("k"))).get.info.begun_ms
        done = client.complete("k", taken.grant.fence, b"x" * 65537, keep_ms=1)
        self.assertGreaterEqual(done.expires_ms - now, 60000)
        outcome = client.begin("k").outcome
        self.assertEqual((outcome.body_dropped, outcome.body_bytes), (True, 65537))
        for keep_ms, code in ((59999, pb.CODE_INVALID_ARGUMENT), (60000, pb.CODE_OK), (10800001, pb.CODE_INVALID_ARGUMENT)):
            self.assertEqual(client.call(begin=begin(f"keep{keep_ms}", keep_ms=keep_ms)).status.code, code)

    def test_killed_under_load_ten_times(self):
        daemon = self.daemon()
        acknowledged, fences, lock = {}, set(), threading.Lock()
        broken = []

        def load(worker, round_):
            try:
                client = Client(daemon)
            except OSError:
                return
            try:
                for i in range(1000000):
                    key = f"{round_}-{worker}-{i}"
                    grant = client.call(begin=begin(key)).begin
                    if grant.answer != EXECUTE or grant.grant.attempt != 1:
                        broken.append((key, grant))
                    with lock:
                        if grant.grant.fence in fences:
                            broken.append((key, "fence twice"))
                        fences.add(grant.grant.fence)
                    body = f"{key} {grant.grant.fence}".encode()
                    done = client.call(complete=complete(key, grant.grant.fence, body)).complete
                    if done.ownership != pb.OWNERSHIP_HELD:
                        broken.append((key, done))
                    with lock:
                        acknowledged[key] = body
            except (OSError, AssertionError):
                pass
            finally:
                client.close()

        for round_ in range(10):
            before = len(acknowledged)
            most = max(fences, default=0)
            threads = [threading.Thread(target=load, args=(worker, round_)) for worker in range(8)]
            for thread in threads:
                thread.start()
            self.until(lambda: len(acknowledged) > before + 50, "some load")
            daemon.kill()
            for thread in threads:
                thread.join(60)
                self.assertFalse(thread.is_alive())
            daemon.start()
            self.assertEqual(broken, [])
            client = self.client(daemon)
            for key, body in list(acknowledged.items()):
                reply = client.begin(key)
                self.assertEqual((reply.answer, reply.outcome.body), (REPLAY, body))
            fresh = client.begin(f"after-{round_}").grant.fence
            self.assertGreater(fresh, max(most, max(fences)))
            fences.add(fresh)
            client.close()


if __name__ == "__main__":
    unittest.main()
