#!/usr/bin/env python3
"""The tables of PROTOCOL.md, row by row, as a client meets them."""
import os
import time
import unittest

from harness import (Case, EXECUTE, EXPIRED, INTERRUPTED, MISMATCH, PATIENCE, REPLAY, RUNNING, begin, frame, op, pb)

HELD, LOST, FINAL, GONE = pb.OWNERSHIP_HELD, pb.OWNERSHIP_LOST, pb.OWNERSHIP_FINAL, pb.OWNERSHIP_GONE
TAKE_OVER, REPORT = pb.IF_INTERRUPTED_TAKE_OVER, pb.IF_INTERRUPTED_REPORT
HOUR_MS = 3600 * 1000
ABSENT = pb.STATE_UNSPECIFIED
OUTCOME = pb.Outcome(kind=pb.OUTCOME_KIND_SUCCEEDED, code=201, body=b"as it was",
                     attributes=[pb.Attribute(name="content-type", value=b"text/plain")])
STORED = pb.Outcome(body_bytes=len(OUTCOME.body))  # as it is given to others: its body's size is told
STORED.MergeFrom(OUTCOME)


class Table(Case):
    """A daemon, a client, and operations in every state by calls alone: nothing waits for a lease."""

    OPTIONS = ()

    def setUp(self):
        self.d = self.daemon(*self.OPTIONS)
        self.c = self.client(self.d)

    def release(self, key, fence, effect):
        return self.c.call(release=pb.ReleaseRequest(op=op(key), fence=fence, effect=effect)).release

    def complete(self, key, fence, outcome=OUTCOME, **fields):
        return self.c.call(complete=pb.CompleteRequest(op=op(key), fence=fence, outcome=outcome, **fields)).complete

    def renew(self, key, fence, **fields):
        return self.c.call(renew=pb.RenewRequest(op=op(key), fence=fence, **fields)).renew

    def checkpoint(self, key, fence, name="step", data=b"", **fields):
        point = pb.Checkpoint(name=name, data=data)
        return self.c.call(checkpoint=pb.CheckpointRequest(op=op(key), fence=fence, checkpoint=point, **fields)).checkpoint

    def get(self, key):
        return self.c.call(get=pb.GetRequest(op=op(key)))

    def state(self, key):
        reply = self.get(key)
        if reply.status.code == pb.CODE_NOT_FOUND:
            return ABSENT
        self.assertEqual(reply.status.code, pb.CODE_OK)
        return reply.get.info.state

    def take_over(self, key, **fields):
        return self.c.begin(key, if_interrupted=TAKE_OVER, **fields)

    def interrupt(self, key, **fields):
        """A new operation, interrupted. Returns its first fence."""
        fence = self.c.begin(key, **fields).grant.fence
        self.assertEqual(self.release(key, fence, pb.EFFECT_UNKNOWN).state, pb.STATE_INTERRUPTED)
        return fence

    def prepare(self, key, state):
        """An operation in a state, with fences of an earlier life, of an earlier grant of this life, and the current one."""
        earlier = self.c.begin(key).grant.fence
        self.release(key, earlier, pb.EFFECT_NONE)
        another = self.interrupt(key)
        current = self.take_over(key, lease_ms=HOUR_MS).grant.fence
        if state == pb.STATE_INTERRUPTED:
            self.release(key, current, pb.EFFECT_UNKNOWN)
        elif state == pb.STATE_DONE:
            self.complete(key, current)
        elif state == ABSENT:
            self.release(key, current, pb.EFFECT_NONE)
        self.assertLess(earlier, another)
        self.assertLess(another, current)
        self.assertEqual(self.state(key), state)
        return {"earlier": earlier, "another": another, "current": current}


class OwnersCalls(Table):
    STATES = (ABSENT, pb.STATE_RUNNING, pb.STATE_INTERRUPTED, pb.STATE_DONE)

    def expected(self, call, state, which):
        if state == ABSENT or which == "earlier":
            return GONE
        if state == pb.STATE_DONE:
            return HELD if call == "complete" and which == "current" else FINAL
        return HELD if which == "current" else LOST

    def test_every_call_in_every_state_with_every_fence(self):
        calls = {
            "complete": self.complete,
            "renew": self.renew,
            "checkpoint": self.checkpoint,
            "release": lambda key, fence: self.release(key, fence, pb.EFFECT_UNKNOWN),
        }
        becomes = {"complete": pb.STATE_DONE, "renew": pb.STATE_RUNNING, "checkpoint": pb.STATE_RUNNING,
                   "release": pb.STATE_INTERRUPTED}
        for call, send in calls.items():
            for state in self.STATES:
                for which in ("earlier", "another", "current"):
                    with self.subTest(call=call, state=pb.State.Name(state), fence=which):
                        key = f"{call}-{state}-{which}"
                        self.c = self.client(self.d)
                        fences = self.prepare(key, state)
                        reply = send(key, fences[which])
                        expected = self.expected(call, state, which)
                        self.assertEqual(reply.ownership, expected)
                        if call == "complete" and expected == FINAL:
                            self.assertEqual(reply.outcome, STORED)
                            self.assertGreater(reply.expires_ms, 0)
                        self.assertEqual(self.state(key), becomes[call] if expected == HELD else state)
                        # Sent again it says the same, and nothing else has happened.
                        self.assertEqual(send(key, fences[which]).ownership, expected)

    def test_another_outcome_is_told_what_is_stored(self):
        fences = self.prepare("k", pb.STATE_DONE)
        for i, other in enumerate((
                pb.Outcome(kind=pb.OUTCOME_KIND_FAILED, code=201, body=b"as it was", attributes=OUTCOME.attributes),
                pb.Outcome(kind=pb.OUTCOME_KIND_SUCCEEDED, code=200, body=b"as it was", attributes=OUTCOME.attributes),
                pb.Outcome(kind=pb.OUTCOME_KIND_SUCCEEDED, code=201, body=b"as it is", attributes=OUTCOME.attributes),
                pb.Outcome(kind=pb.OUTCOME_KIND_SUCCEEDED, code=201, body=b"as it was"))):
            with self.subTest(i):
                reply = self.complete("k", fences["current"], other)
                self.assertEqual((reply.ownership, reply.outcome), (FINAL, STORED))
        self.assertEqual(self.c.begin("k").outcome, STORED)

    def test_complete_again_changes_nothing(self):
        fence = self.c.begin("k").grant.fence
        first = self.complete("k", fence, keep_ms=2 * HOUR_MS)
        revision = self.get("k").get.info.revision
        for keep_ms in (0, HOUR_MS, 40 * HOUR_MS):
            again = self.complete("k", fence, keep_ms=keep_ms)
            self.assertEqual(again.ownership, HELD)
            # Told in Unix time, which may be set meanwhile; a second is far less than any of the keep times.
            self.assertLess(abs(again.expires_ms - first.expires_ms), 1000)
        self.assertEqual(self.get("k").get.info.revision, revision)

    def test_keep_is_brought_within_its_bounds(self):
        now_ms = self.c.call(hello=pb.HelloRequest()).hello.now_ms
        for key, keep_ms, least_ms, most_ms in (("short", 1, 0, HOUR_MS), ("long", 1 << 62, 89 * 24 * HOUR_MS, 91 * 24 * HOUR_MS)):
            expires_ms = self.complete(key, self.c.begin(key).grant.fence, keep_ms=keep_ms).expires_ms
            self.assertGreater(expires_ms, now_ms + least_ms)
            self.assertLess(expires_ms, now_ms + most_ms)

    def test_release_says_what_the_caller_knows(self):
        for attempt in (1, 2):
            for from_state in (pb.STATE_RUNNING, pb.STATE_INTERRUPTED):
                for effect, after in ((pb.EFFECT_UNKNOWN, pb.STATE_INTERRUPTED),
                                      (pb.EFFECT_NONE_BY_ME, ABSENT if attempt == 1 else pb.STATE_INTERRUPTED),
                                      (pb.EFFECT_NONE, ABSENT)):
                    with self.subTest(attempt=attempt, state=from_state, effect=effect):
                        key = f"{attempt}-{from_state}-{effect}"
                        if attempt == 1:
                            fence = self.c.begin(key).grant.fence
                        else:
                            self.interrupt(key)
                            fence = self.take_over(key).grant.fence
                        if from_state == pb.STATE_INTERRUPTED:
                            self.release(key, fence, pb.EFFECT_UNKNOWN)
                        reply = self.release(key, fence, effect)
                        self.assertEqual((reply.ownership, reply.state), (HELD, after))
                        self.assertEqual(self.state(key), after)

    def test_release_without_an_effect_is_refused(self):
        fence = self.c.begin("k").grant.fence
        for effect in (pb.EFFECT_UNSPECIFIED, 4):
            call = pb.ReleaseRequest(op=op("k"), fence=fence, effect=effect)
            self.assertEqual(self.c.call(release=call).status.code, pb.CODE_INVALID_ARGUMENT)
        self.assertEqual(self.state("k"), pb.STATE_RUNNING)

    def test_a_renewal_never_moves_the_end_nearer(self):
        fence = self.c.begin("k", lease_ms=2 * HOUR_MS).grant.fence
        self.assertEqual(self.renew("k", fence, lease_ms=1000).ownership, HELD)
        self.assertGreater(self.get("k").get.info.lease_left_ms, HOUR_MS)
        self.assertEqual(self.checkpoint("k", fence, lease_ms=1000).ownership, HELD)
        self.assertGreater(self.get("k").get.info.lease_left_ms, HOUR_MS)
        self.assertEqual(self.renew("k", fence, lease_ms=5 * HOUR_MS).lease_ms, 5 * HOUR_MS)
        self.assertGreater(self.get("k").get.info.lease_left_ms, 4 * HOUR_MS)
        # 0 is as long as before.
        self.assertEqual(self.renew("k", fence).lease_ms, 5 * HOUR_MS)

    def test_a_renewed_length_survives_a_restart(self):
        fence = self.c.begin("k", lease_ms=HOUR_MS).grant.fence
        self.renew("k", fence, lease_ms=9 * HOUR_MS)
        self.d.kill()
        self.d.start()
        self.c = self.client(self.d)
        self.assertGreater(self.get("k").get.info.lease_left_ms, 8 * HOUR_MS)

    def test_the_last_checkpoint_is_kept(self):
        fence = self.c.begin("k").grant.fence
        self.checkpoint("k", fence, "first", b"1")
        self.checkpoint("k", fence, "second", b"\0" * 65536)
        self.assertEqual(self.get("k").get.checkpoint.name, "second")
        self.release("k", fence, pb.EFFECT_UNKNOWN)
        point = self.c.begin("k").checkpoint
        self.assertEqual((point.name, point.data), ("second", b"\0" * 65536))
        self.d.kill()
        self.d.start()
        self.c = self.client(self.d)
        point = self.take_over("k").grant.checkpoint
        self.assertEqual((point.name, point.data), ("second", b"\0" * 65536))


class Beginning(Table):
    def test_begun_too_long_ago_is_refused(self):
        now_ms = self.c.call(hello=pb.HelloRequest()).hello.now_ms
        reply = self.c.begin("k", first_sent_ms=now_ms - 24 * HOUR_MS)
        self.assertEqual((reply.answer, reply.window.keep_ms), (EXPIRED, 24 * HOUR_MS))
        self.assertGreaterEqual(reply.window.now_ms, now_ms)
        self.assertEqual(self.state("k"), ABSENT)
        # The shorter of keep_ms and the namespace's default counts.
        self.assertEqual(self.c.begin("k", first_sent_ms=now_ms - HOUR_MS, keep_ms=HOUR_MS).answer, EXPIRED)
        self.assertEqual(self.c.begin("k", first_sent_ms=now_ms - 24 * HOUR_MS, keep_ms=48 * HOUR_MS).answer, EXPIRED)
        self.assertEqual(self.c.begin("k", first_sent_ms=now_ms - HOUR_MS, keep_ms=2 * HOUR_MS).answer, EXECUTE)
        # What is there is found, however old the call.
        self.assertEqual(self.c.begin("k", first_sent_ms=1).answer, RUNNING)

    def test_a_first_send_in_the_future_is_not_too_long_ago(self):
        self.assertEqual(self.c.begin("k", first_sent_ms=1 << 60).answer, EXECUTE)

    def test_a_mismatch_in_every_state(self):
        match = dict(operation="pay", fingerprint=b"f")
        for state in (pb.STATE_RUNNING, pb.STATE_INTERRUPTED, pb.STATE_DONE):
            with self.subTest(pb.State.Name(state)):
                key = f"k{state}"
                fence = self.c.begin(key, owner="secret", attempt_id=b"a" * 16, **match).grant.fence
                if state == pb.STATE_INTERRUPTED:
                    self.release(key, fence, pb.EFFECT_UNKNOWN)
                if state == pb.STATE_DONE:
                    self.complete(key, fence)
                for fields, differs in ((dict(operation="pay", fingerprint=b"g"), (False, True)),
                                        (dict(operation="paid", fingerprint=b"f"), (True, False)),
                                        (dict(operation="", fingerprint=b""), (True, True))):
                    reply = self.c.begin(key, if_interrupted=TAKE_OVER, attempt_id=b"a" * 16, wait_ms=60000, **fields)
                    self.assertEqual(reply.answer, MISMATCH)
                    self.assertEqual((reply.mismatch.operation, reply.mismatch.fingerprint), differs)
                    # Of the operation only state and times are told.
                    self.assertEqual((reply.info.state, reply.info.owner, reply.info.operation), (state, "", ""))
                    self.assertGreater(reply.info.begun_ms, 0)
                    self.assertFalse(reply.HasField("outcome") or reply.HasField("grant") or reply.HasField("checkpoint"))
                self.assertNotEqual(self.c.begin(key, other_fingerprints=[b"x", b"y", b"f"], operation="pay",
                                                 fingerprint=b"new").answer, MISMATCH)

    def test_resumed_in_both_states(self):
        attempt = os.urandom(16)
        first = self.c.begin("k", attempt_id=attempt, lease_ms=HOUR_MS, input=b"in").grant
        again = self.c.begin("k", attempt_id=attempt, lease_ms=2 * HOUR_MS)
        self.assertEqual((again.answer, again.grant.fence, again.grant.resumed, again.grant.attempt),
                         (EXECUTE, first.fence, True, 1))
        self.assertGreater(self.get("k").get.info.lease_left_ms, HOUR_MS)
        self.release("k", first.fence, pb.EFFECT_UNKNOWN)
        again = self.c.begin("k", attempt_id=attempt, if_interrupted=REPORT)
        self.assertEqual((again.answer, again.grant.fence, again.grant.resumed), (EXECUTE, first.fence, True))
        self.assertEqual(self.state("k"), pb.STATE_RUNNING)
        # No attempt_id never resumes, not even one begun with none.
        self.c.begin("bare")
        self.assertEqual(self.c.begin("bare").answer, RUNNING)

    def test_an_attempt_that_was_taken_over_does_not_resume(self):
        attempt = os.urandom(16)
        fence = self.c.begin("k", attempt_id=attempt).grant.fence
        self.release("k", fence, pb.EFFECT_UNKNOWN)
        taken = self.take_over("k", attempt_id=os.urandom(16)).grant
        self.assertGreater(taken.fence, fence)
        self.assertEqual(self.c.begin("k", attempt_id=attempt).answer, RUNNING)

    def test_take_over_of_this_interruption_alone(self):
        self.interrupt("k", input=b"first", lease_ms=HOUR_MS)
        seen = self.c.begin("k").info.revision
        fence = self.take_over("k", take_over_revision=seen, input=b"second").grant
        self.assertEqual((fence.attempt, fence.input), (2, b"first"))
        self.release("k", fence.fence, pb.EFFECT_UNKNOWN)
        stale = self.take_over("k", take_over_revision=seen)
        self.assertEqual(stale.answer, INTERRUPTED)
        self.assertGreater(stale.info.revision, seen)
        self.assertEqual(self.take_over("k", take_over_revision=stale.info.revision).grant.attempt, 3)

    def test_running_tells_an_honest_wait(self):
        self.c.begin("k", owner="api-7 pid 4121", lease_ms=2000)
        running = self.c.begin("k").running
        self.assertEqual(running.owner, "api-7 pid 4121")
        self.assertLessEqual(running.lease_left_ms, 2000)
        self.assertGreater(running.retry_after_ms, 0)
        self.assertLessEqual(running.retry_after_ms, max(running.lease_left_ms, 1))

    def test_fences_grow_over_all_keys(self):
        fences = [self.c.begin(f"k{i}").grant.fence for i in range(20)]
        self.assertEqual(fences, sorted(set(fences)))
        # They start at seconds since 1970 times 2^20, and stay below 2^53.
        self.assertGreater(fences[0], 1600000000 << 20)
        self.assertLess(fences[-1], 1 << 53)

    def test_the_parts_of_an_identity_are_apart(self):
        for i, (namespace, caller, key) in enumerate((("a", "b", "c"), ("a", "", "bc"), ("ab", "", "c"), ("a", "bc", "c"),
                                                      ("a", "c", "b"), ("A", "b", "c"), ("a", "b", "c "))):
            with self.subTest(i):
                self.assertEqual(self.c.begin(key, caller=caller, namespace=namespace).answer, EXECUTE)

    def test_the_trace_of_the_attempt_that_ran_it(self):
        request = pb.Request(id=1000, traceparent="00-aa-bb-01", begin=begin("k", owner="o"))
        self.c.send_raw(frame(request))
        fence = self.c.reply(1000).begin.grant.fence
        self.complete("k", fence)
        info = self.get("k").get.info
        self.assertEqual((info.traceparent, info.owner, info.attempt, info.kind), ("00-aa-bb-01", "o", 1, OUTCOME.kind))
        self.assertGreaterEqual(info.done_ms, info.begun_ms)
        self.assertGreater(info.expires_ms, info.done_ms)


class PolicyTakesOver(Table):
    OPTIONS = ("--if-interrupted", "take-over")

    def test_the_policy_holds_where_a_call_does_not_say(self):
        first = self.interrupt("k")
        self.assertEqual(self.c.begin("k", if_interrupted=REPORT).answer, INTERRUPTED)
        taken = self.c.begin("k")
        self.assertEqual((taken.answer, taken.grant.attempt), (EXECUTE, 2))
        self.assertGreater(taken.grant.fence, first)


class Waiting(Table):
    def park(self, client, **call):
        """Sends a call that will wait, and makes sure that it was read."""
        request = client.send(**call)
        client.call(get=pb.GetRequest(op=op("no such key")))
        self.assertFalse(client.has_reply(request))
        return request

    def waiter(self, key, **fields):
        client = self.client(self.d)
        return client, self.park(client, begin=begin(key, wait_ms=60000, **fields))

    def test_released_goes_to_the_first_alone(self):
        fence = self.c.begin("k").grant.fence
        waiters = [self.waiter("k") for _ in range(4)]
        for i, (client, request) in enumerate(waiters):
            self.release("k", fence, pb.EFFECT_NONE)
            grant = client.reply(request).begin
            self.assertEqual((grant.answer, grant.grant.attempt), (EXECUTE, 1))
            self.assertGreater(grant.grant.fence, fence)
            fence = grant.grant.fence
            for later, waits in waiters[i + 1:]:
                self.assertFalse(later.has_reply(waits))

    def test_interrupted_is_told_to_all_unless_one_takes_over(self):
        fence = self.c.begin("k").grant.fence
        waiters = [self.waiter("k", if_interrupted=REPORT) for _ in range(3)]
        self.release("k", fence, pb.EFFECT_UNKNOWN)
        for client, request in waiters:
            self.assertEqual(client.reply(request).begin.answer, INTERRUPTED)
        fence = self.take_over("k").grant.fence
        report = self.waiter("k", if_interrupted=REPORT)
        first, second = self.waiter("k", if_interrupted=TAKE_OVER), self.waiter("k", if_interrupted=TAKE_OVER)
        self.release("k", fence, pb.EFFECT_UNKNOWN)
        grant = first[0].reply(first[1]).begin
        self.assertEqual((grant.answer, grant.grant.attempt), (EXECUTE, 3))
        for client, request in (report, second):
            client.call(get=pb.GetRequest(op=op("k")))
            self.assertFalse(client.has_reply(request))
        self.complete("k", grant.grant.fence)
        for client, request in (report, second):
            self.assertEqual(client.reply(request).begin.outcome, STORED)

    def test_the_same_attempt_twice_among_the_waiters_resumes(self):
        fence = self.c.begin("k").grant.fence
        attempt = os.urandom(16)
        one, other, two = (self.waiter("k", attempt_id=a) for a in (attempt, os.urandom(16), attempt))
        self.release("k", fence, pb.EFFECT_NONE)
        first, second = one[0].reply(one[1]).begin, two[0].reply(two[1]).begin
        self.assertEqual((first.answer, second.answer), (EXECUTE, EXECUTE))
        self.assertEqual(first.grant.fence, second.grant.fence)
        self.assertTrue(second.grant.resumed)
        self.assertFalse(other[0].has_reply(other[1]))

    def test_a_waiting_begin_comes_before_a_waiting_recover(self):
        fence = self.c.begin("k").grant.fence
        recoverer = self.client(self.d)
        recover = self.park(recoverer, recover=pb.RecoverRequest(namespace="test", wait_ms=60000))
        taker = self.waiter("k", if_interrupted=TAKE_OVER)
        self.release("k", fence, pb.EFFECT_UNKNOWN)
        grant = taker[0].reply(taker[1]).begin
        self.assertEqual((grant.answer, grant.grant.attempt), (EXECUTE, 2))
        recoverer.call(get=pb.GetRequest(op=op("k")))
        self.assertFalse(recoverer.has_reply(recover))
        # Those that only want to know are told, then the Recover gets it.
        reporter = self.waiter("k", if_interrupted=REPORT)
        self.release("k", grant.grant.fence, pb.EFFECT_UNKNOWN)
        self.assertEqual(reporter[0].reply(reporter[1]).begin.answer, INTERRUPTED)
        recovered = recoverer.reply(recover).recover.operations
        self.assertEqual([(r.op.key, r.grant.attempt) for r in recovered], [("k", 3)])

    def test_the_end_of_a_wait_tells_the_state(self):
        self.c.begin("k", lease_ms=HOUR_MS)
        self.assertEqual(self.c.begin("k", wait_ms=30).answer, RUNNING)
        reply = self.c.call(get=pb.GetRequest(op=op("k"), wait_ms=30))
        self.assertEqual(reply.get.info.state, pb.STATE_RUNNING)
        reply = self.c.call(recover=pb.RecoverRequest(namespace="test", wait_ms=30))
        self.assertEqual((reply.status.code, len(reply.recover.operations)), (pb.CODE_OK, 0))
        # Nothing to wait for: no waiting.
        self.assertEqual(self.c.call(get=pb.GetRequest(op=op("none"), wait_ms=60000)).status.code, pb.CODE_NOT_FOUND)

    def test_get_waits_until_done_or_absent(self):
        fence = self.c.begin("k").grant.fence
        other = self.client(self.d)
        request = self.park(other, get=pb.GetRequest(op=op("k"), wait_ms=60000))
        self.release("k", fence, pb.EFFECT_UNKNOWN)
        other.call(get=pb.GetRequest(op=op("k")))
        self.assertFalse(other.has_reply(request))
        self.complete("k", fence)
        self.assertEqual(other.reply(request).get.outcome, STORED)
        fence = self.c.begin("gone").grant.fence
        request = self.park(other, get=pb.GetRequest(op=op("gone"), wait_ms=60000))
        self.release("gone", fence, pb.EFFECT_NONE)
        self.assertEqual(other.reply(request).status.code, pb.CODE_NOT_FOUND)

    def test_a_waiter_meets_the_resolution(self):
        self.interrupt("k")
        fence = self.take_over("k").grant.fence
        other = self.waiter("k", if_interrupted=TAKE_OVER)
        get = self.park(self.c, get=pb.GetRequest(op=op("k"), wait_ms=60000))
        self.release("k", fence, pb.EFFECT_NONE)
        # Told that no attempt took effect, so a new life begins.
        grant = other[0].reply(other[1]).begin
        self.assertEqual((grant.answer, grant.grant.attempt), (EXECUTE, 1))
        self.assertGreater(grant.grant.fence, fence)
        self.assertFalse(self.c.has_reply(get) and self.c.replies[get].get.info.state == pb.STATE_DONE)

    def test_cancel_is_for_parked_calls_of_this_connection(self):
        fence = self.c.begin("k").grant.fence
        client, request = self.waiter("k")
        self.assertFalse(self.client(self.d).call(cancel=pb.CancelRequest(id=request)).cancel.cancelled)
        self.assertFalse(client.call(cancel=pb.CancelRequest(id=999)).cancel.cancelled)
        self.assertTrue(client.call(cancel=pb.CancelRequest(id=request)).cancel.cancelled)
        self.assertEqual(client.reply(request).status.code, pb.CODE_CANCELLED)
        self.release("k", fence, pb.EFFECT_NONE)
        self.assertEqual(self.state("k"), ABSENT)

    def test_after_its_deadline_a_call_is_no_owner(self):
        fence = self.c.begin("k").grant.fence
        reply = self.client(self.d).call(timeout_ms=30, begin=begin("k", wait_ms=60000))
        self.assertEqual(reply.status.code, pb.CODE_DEADLINE_EXCEEDED)
        self.release("k", fence, pb.EFFECT_NONE)
        self.assertEqual(self.state("k"), ABSENT)


class Recovering(Table):
    def recover(self, **fields):
        reply = self.c.call(recover=pb.RecoverRequest(namespace="test", **fields))
        self.assertEqual(reply.status.code, pb.CODE_OK, reply.status.message)
        return reply.recover.operations

    def test_longest_interrupted_first(self):
        for key in ("c", "a", "b"):
            self.interrupt(key, operation="pay", fingerprint=key.encode(), input=b"in " + key.encode())
        got = self.recover(limit=2, owner="worker")
        self.assertEqual([r.op.key for r in got], ["c", "a"])
        for recovered in got:
            key = recovered.op.key.encode()
            self.assertEqual((recovered.grant.attempt, recovered.grant.input, recovered.fingerprint), (2, b"in " + key, key))
            self.assertEqual((recovered.info.state, recovered.info.operation, recovered.info.owner),
                             (pb.STATE_RUNNING, "pay", "worker"))
        self.assertEqual([r.op.key for r in self.recover()], ["b"])
        self.assertEqual(len(self.recover()), 0)

    def test_only_of_its_namespace_and_operation(self):
        self.interrupt("pays", operation="pay")
        self.interrupt("mails", operation="mail")
        self.assertEqual(len(self.c.call(recover=pb.RecoverRequest(namespace="other", limit=10)).recover.operations), 0)
        self.assertEqual([r.op.key for r in self.recover(operation="mail", limit=10)], ["mails"])
        self.assertEqual([r.op.key for r in self.recover(limit=10)], ["pays"])

    def test_sent_again_it_gives_what_is_still_current(self):
        attempt = os.urandom(16)
        for key in ("a", "b", "c"):
            self.interrupt(key)
        first = self.recover(limit=2, attempt_id=attempt)
        self.complete("a", first[0].grant.fence)
        # One is done, one is still current, a third waits: only the second is given, for it is what the first call gave.
        again = self.recover(limit=2, attempt_id=attempt)
        self.assertEqual([(r.op.key, r.grant.fence, r.grant.resumed) for r in again], [("b", first[1].grant.fence, True)])
        self.complete("b", first[1].grant.fence)
        fresh = self.recover(limit=2, attempt_id=attempt)
        self.assertEqual([(r.op.key, r.grant.resumed) for r in fresh], [("c", False)])

    def test_over_a_restart_too(self):
        attempt = os.urandom(16)
        self.interrupt("a")
        first = self.recover(attempt_id=attempt)
        self.d.kill()
        self.d.start()
        self.c = self.client(self.d)
        again = self.recover(attempt_id=attempt)
        self.assertEqual([(r.grant.fence, r.grant.resumed) for r in again], [(first[0].grant.fence, True)])

    def test_its_attempts_are_a_space_of_their_own(self):
        attempt = os.urandom(16)
        self.c.begin("begun", attempt_id=attempt)
        self.assertEqual(len(self.recover(attempt_id=attempt)), 0)
        self.interrupt("recovered")
        self.assertEqual([r.op.key for r in self.recover(attempt_id=attempt)], ["recovered"])
        self.assertEqual(self.c.begin("recovered", attempt_id=attempt).answer, RUNNING)

    def test_never_more_than_fit_a_frame(self):
        for i in range(40):
            self.interrupt(f"k{i}", input=os.urandom(65536))
        got = self.recover(limit=100)
        self.assertGreater(len(got), 0)
        rest = self.recover(limit=100)
        self.assertGreater(len(rest), 0)
        seen = [r.op.key for r in got] + [r.op.key for r in rest]
        self.assertEqual(seen, [f"k{i}" for i in range(len(seen))])


class Operating(Table):
    def resolve(self, key, revision, verdict=pb.VERDICT_HAPPENED, outcome=OUTCOME):
        fields = dict(outcome=outcome) if verdict == pb.VERDICT_HAPPENED else {}
        return self.c.call(resolve=pb.ResolveRequest(op=op(key), revision=revision, verdict=verdict, reason="seen in the bank",
                                                     **fields))

    def forget(self, key, revision):
        return self.c.call(forget=pb.ForgetRequest(op=op(key), revision=revision))

    def revision(self, key):
        return self.get(key).get.info.revision

    def test_resolve_in_every_state(self):
        self.assertEqual(self.resolve("absent", 1).resolve.ownership, GONE)
        self.c.begin("running")
        reply = self.resolve("running", self.revision("running"))
        self.assertEqual((reply.status.code, reply.status.reason), (pb.CODE_FAILED_PRECONDITION, "NOT_INTERRUPTED"))
        self.interrupt("interrupted")
        reply = self.resolve("interrupted", self.revision("interrupted") + 1)
        self.assertEqual((reply.status.code, reply.status.reason), (pb.CODE_FAILED_PRECONDITION, "WRONG_REVISION"))
        reply = self.resolve("interrupted", self.revision("interrupted"))
        self.assertEqual(reply.resolve.ownership, HELD)
        done = self.get("interrupted").get
        self.assertEqual((done.info.state, done.info.resolved, done.outcome), (pb.STATE_DONE, True, STORED))
        self.assertEqual(self.resolve("interrupted", 1).resolve.ownership, HELD)
        reply = self.resolve("interrupted", 1, outcome=pb.Outcome(kind=pb.OUTCOME_KIND_FAILED)).resolve
        self.assertEqual((reply.ownership, reply.outcome), (FINAL, STORED))

    def test_resolved_as_not_happened_is_free_again(self):
        first = self.interrupt("k")
        self.assertEqual(self.resolve("k", self.revision("k"), pb.VERDICT_DID_NOT_HAPPEN).resolve.ownership, HELD)
        self.assertEqual(self.state("k"), ABSENT)
        self.assertEqual(self.complete("k", first).ownership, GONE)
        again = self.c.begin("k").grant
        self.assertEqual(again.attempt, 1)
        self.assertGreater(again.fence, first)

    def test_after_a_resolution_its_last_owner_is_told(self):
        fence = self.interrupt("k")
        self.resolve("k", self.revision("k"))
        self.assertEqual(self.complete("k", fence, pb.Outcome(kind=pb.OUTCOME_KIND_FAILED)).ownership, FINAL)

    def test_no_verdict_is_refused(self):
        self.interrupt("k")
        for verdict in (pb.VERDICT_UNSPECIFIED, 3):
            self.assertEqual(self.resolve("k", self.revision("k"), verdict).status.code, pb.CODE_INVALID_ARGUMENT)
        self.assertEqual(self.state("k"), pb.STATE_INTERRUPTED)

    def test_forget_in_every_state(self):
        self.assertEqual(self.forget("absent", 1).forget.ownership, GONE)
        self.c.begin("running")
        self.assertEqual(self.forget("running", self.revision("running")).status.code, pb.CODE_FAILED_PRECONDITION)
        self.interrupt("interrupted")
        self.assertEqual(self.forget("interrupted", self.revision("interrupted")).status.code, pb.CODE_FAILED_PRECONDITION)
        fence = self.c.begin("done").grant.fence
        self.complete("done", fence)
        reply = self.forget("done", self.revision("done") - 1)
        self.assertEqual((reply.status.code, reply.status.reason), (pb.CODE_FAILED_PRECONDITION, "WRONG_REVISION"))
        self.assertEqual(self.forget("done", self.revision("done")).forget.ownership, HELD)
        self.assertEqual(self.forget("done", 1).forget.ownership, GONE)
        self.assertEqual(self.complete("done", fence).ownership, GONE)
        self.assertEqual(self.c.begin("done").grant.attempt, 1)

    def test_list_by_state_and_namespace(self):
        self.c.begin("running")
        self.interrupt("interrupted")
        self.complete("done", self.c.begin("done").grant.fence)
        self.c.begin("elsewhere", namespace="other")

        def listed(namespace="test", **fields):
            keys, cursor = set(), b""
            while True:
                page = self.c.call(list=pb.ListRequest(namespace=namespace, cursor=cursor, **fields)).list
                keys |= {(l.op.namespace, l.op.key, l.info.state) for l in page.operations}
                cursor = page.cursor
                if not cursor:
                    return keys

        everything = {("test", "running", pb.STATE_RUNNING), ("test", "interrupted", pb.STATE_INTERRUPTED),
                      ("test", "done", pb.STATE_DONE)}
        self.assertEqual(listed(), everything)
        self.assertEqual(listed(limit=1), everything)
        for one in everything:
            self.assertEqual(listed(state=one[2]), {one})
        self.assertEqual(listed("other"), {("other", "elsewhere", pb.STATE_RUNNING)})
        self.assertEqual(listed("third"), set())

    def test_a_listing_survives_a_restart_and_changes(self):
        stays = {f"k{i:02}" for i in range(30)}
        for key in sorted(stays):
            fence = self.c.begin(key, lease_ms=HOUR_MS).grant.fence
            if key > "k14":
                self.complete(key, fence)
        seen, cursor = set(), b""
        for page_number in range(1000):
            page = self.c.call(list=pb.ListRequest(namespace="test", limit=4, cursor=cursor)).list
            seen |= {l.op.key for l in page.operations}
            cursor = page.cursor
            if not cursor:
                break
            if page_number == 2:
                self.d.kill()
                self.d.start()
                self.c = self.client(self.d)
            self.complete(f"new{page_number}", self.c.begin(f"new{page_number}").grant.fence)
        self.assertEqual(cursor, b"")
        self.assertLessEqual(stays, seen)

    def test_a_cursor_that_is_none(self):
        reply = self.c.call(list=pb.ListRequest(namespace="test", cursor=b"nonsense"))
        self.assertEqual((reply.status.code, reply.status.field), (pb.CODE_INVALID_ARGUMENT, "list.cursor"))

    def test_stats(self):
        self.interrupt("k")
        metrics = self.c.call(stats=pb.StatsRequest()).stats.metrics
        values = {m.name: m.value for m in metrics if not m.labels}
        self.assertEqual(values["idemd_interrupted"], 1)
        for metric in metrics:
            self.assertTrue(metric.help, metric.name)
        # It counts since the start, and says when that was.
        self.assertLess(abs(values["idemd_started_ms"] - time.time() * 1000), 600000)

    HISTOGRAMS = ("idemd_queue_wait_seconds", "idemd_flush_seconds", "idemd_apply_seconds", "idemd_cold_read_seconds",
                  "idemd_loop_turn_seconds")

    def histograms(self):
        """Name -> (count, sum), when each has the shape that Prometheus takes."""
        metrics = self.c.call(stats=pb.StatsRequest()).stats.metrics
        self.assertEqual({m.name for m in metrics if "_seconds" in m.name},
                         {name + part for name in self.HISTOGRAMS for part in ("_bucket", "_sum", "_count")})
        found = {}
        for name in self.HISTOGRAMS:
            buckets = [m for m in metrics if m.name == name + "_bucket"]
            self.assertTrue(all([label.name for label in m.labels] == ["le"] for m in buckets))
            edges, counts = [float(m.labels[0].value) for m in buckets], [m.value for m in buckets]
            self.assertEqual((edges[0], edges[-2], buckets[-1].labels[0].value), (1e-5, 10, "+Inf"))
            self.assertEqual(edges, sorted(set(edges)))
            self.assertEqual(counts, sorted(counts))
            (total,), (count,) = [[m for m in metrics if m.name == name + part] for part in ("_sum", "_count")]
            self.assertFalse(total.labels or count.labels)
            self.assertEqual(count.value, counts[-1])
            # The sum lies where the buckets say.
            alone = [count - before for count, before in zip(counts, [0] + counts)]
            least = sum(n * edge for n, edge in zip(alone, [0] + edges))
            self.assertGreaterEqual(total.value, least * (1 - 1e-9))
            if not alone[-1]:
                self.assertLessEqual(total.value, sum(n * edge for n, edge in zip(alone[:-1], edges)) * (1 + 1e-9))
            found[name] = (count.value, total.value)
        return found

    def test_durations(self):
        self.complete("k", self.c.begin("k").grant.fence)
        then = self.histograms()
        for name in ("idemd_queue_wait_seconds", "idemd_flush_seconds"):
            self.assertGreaterEqual(then[name][0], 2, name)  # the grant and the outcome, each in a batch of its own
        self.assertGreater(then["idemd_loop_turn_seconds"][0], 2)
        # Of a stored outcome that nobody has asked for since the start, the first look is a read from the store.
        self.d.kill()
        self.d.start()
        self.c = self.client(self.d)
        self.assertEqual(self.histograms()["idemd_cold_read_seconds"], (0, 0))
        self.assertEqual(self.c.begin("k").answer, REPLAY)
        now = self.histograms()
        self.assertEqual(now["idemd_cold_read_seconds"][0], 1)
        for histograms in (then, now):
            for name, (count, total) in histograms.items():
                self.assertEqual(count > 0, total > 0, name)
                self.assertLess(total, PATIENCE, name)

    def test_durations_are_not_known_by_namespace(self):
        metrics = self.c.call(stats=pb.StatsRequest(namespace="test")).stats.metrics
        self.assertFalse([m.name for m in metrics if "_seconds" in m.name])


class Greeting(Table):
    OPTIONS = ("--keep", "2h", "--keep-min", "1m", "--keep-max", "3d", "--lease", "45s", "--grace", "7s", "--max-outcome", "64KiB")

    def test_hello_tells_everything(self):
        hello = self.c.call(hello=pb.HelloRequest(client="test/1", namespace="test")).hello
        self.assertIn("idemd", hello.server)
        self.assertTrue(hello.instance and hello.store_id and hello.connection)
        self.assertLess(abs(hello.now_ms - time.time() * 1000), 60000)
        self.assertTrue(hello.durable)
        self.assertEqual((hello.max_outcome_bytes, hello.max_frame_bytes, hello.max_wait_ms),
                         (65536, 65536 + 256 * 1024, 60000))
        self.assertEqual(hello.policy, pb.Policy(keep_ms=2 * HOUR_MS, keep_min_ms=60000, keep_max_ms=72 * HOUR_MS, lease_ms=45000,
                                                 grace_ms=7000, if_interrupted=REPORT))
        self.assertEqual(self.c.call(hello=pb.HelloRequest()).status.code, pb.CODE_FAILED_PRECONDITION)
        self.assertEqual(self.c.begin("k").grant.lease_ms, 45000)

    def test_hello_may_come_late_or_never(self):
        self.assertEqual(self.c.begin("k").answer, EXECUTE)
        self.assertEqual(self.c.call(hello=pb.HelloRequest()).status.code, pb.CODE_OK)

    def test_the_largest_body_is_the_daemons(self):
        for size, kept in ((65536, True), (65537, False)):
            key = f"k{size}"
            self.assertEqual(self.complete(key, self.c.begin(key).grant.fence,
                                           pb.Outcome(kind=pb.OUTCOME_KIND_SUCCEEDED, body=b"x" * size)).ownership, HELD)
            outcome = self.c.begin(key).outcome
            self.assertEqual((len(outcome.body), outcome.body_dropped, outcome.body_bytes), (size if kept else 0, not kept, size))

    def test_the_policy_bounds_what_calls_ask(self):
        now_ms = self.c.call(hello=pb.HelloRequest()).hello.now_ms
        for key, keep_ms, about_ms in (("least", 1000, 60000), ("most", 90 * 24 * HOUR_MS, 72 * HOUR_MS), ("none", 0, 2 * HOUR_MS)):
            expires_ms = self.complete(key, self.c.begin(key).grant.fence, keep_ms=keep_ms).expires_ms
            self.assertLess(abs(expires_ms - now_ms - about_ms), 30000, key)
        # What Begin said counts where Complete says nothing.
        expires_ms = self.complete("begun", self.c.begin("begun", keep_ms=HOUR_MS).grant.fence).expires_ms
        self.assertLess(abs(expires_ms - now_ms - HOUR_MS), 30000)


class LargestBodies(Table):
    OPTIONS = ("--max-outcome", "16MiB")

    def test_sixteen_mebibytes(self):
        body = os.urandom(16 << 20)
        fence = self.c.begin("k").grant.fence
        self.assertEqual(self.complete("k", fence, pb.Outcome(kind=pb.OUTCOME_KIND_SUCCEEDED, body=body)).ownership, HELD)
        self.assertEqual(self.c.begin("k").outcome.body, body)
        self.d.kill()
        self.d.start()
        self.c = self.client(self.d)
        self.assertEqual(self.c.begin("k").outcome.body, body)


class Arguments(Table):
    def refused(self, field, **call):
        reply = self.c.call(**call)
        self.assertEqual((reply.status.code, reply.status.field), (pb.CODE_INVALID_ARGUMENT, field), reply)
        self.assertTrue(reply.status.message)

    def test_each_begin_field_over_its_limit(self):
        for field, over in (("operation", "x" * 129), ("fingerprint", b"x" * 65), ("attempt_id", b"x" * 15),
                            ("attempt_id", b"x" * 17), ("owner", "x" * 129), ("lease_ms", 999), ("lease_ms", 24 * HOUR_MS + 1),
                            ("wait_ms", 60001), ("input", b"x" * 65537), ("other_fingerprints", [b"1", b"2", b"3", b"4"]),
                            ("other_fingerprints", [b"x" * 65]), ("if_interrupted", 3)):
            with self.subTest(field):
                self.refused("begin." + field, begin=begin("k", **{field: over}))
        self.refused("begin.op.caller", begin=begin("k", caller="x" * 129))
        self.refused("begin.op.namespace", begin=begin("k", namespace="x" * 65))
        self.refused("begin.op.namespace", begin=begin("k", namespace=""))
        self.refused("begin.op.key", begin=begin("x" * 256))
        self.refused("begin.op", begin=pb.BeginRequest())
        self.assertEqual(self.state("k"), ABSENT)

    def test_each_begin_field_at_its_limit(self):
        reply = self.c.begin("x" * 255, caller="c" * 128, namespace="n" * 64, operation="o" * 128, fingerprint=b"f" * 64,
                             attempt_id=b"a" * 16, owner="w" * 128, lease_ms=24 * HOUR_MS, wait_ms=60000, input=b"i" * 65536,
                             other_fingerprints=[b"1" * 64] * 3)
        self.assertEqual(reply.answer, EXECUTE)

    def test_the_other_calls(self):
        fence = self.c.begin("k").grant.fence
        good = dict(op=op("k"), fence=fence)
        self.refused("complete.fence", complete=pb.CompleteRequest(op=op("k"), outcome=OUTCOME))
        self.refused("complete.outcome", complete=pb.CompleteRequest(**good))
        self.refused("complete.outcome.kind", complete=pb.CompleteRequest(outcome=pb.Outcome(body=b"x"), **good))
        self.refused("renew.lease_ms", renew=pb.RenewRequest(lease_ms=999, **good))
        self.refused("checkpoint.checkpoint", checkpoint=pb.CheckpointRequest(**good))
        self.refused("checkpoint.checkpoint.name", checkpoint=pb.CheckpointRequest(checkpoint=pb.Checkpoint(), **good))
        self.refused("checkpoint.checkpoint.name", checkpoint=pb.CheckpointRequest(checkpoint=pb.Checkpoint(name="x" * 65), **good))
        self.refused("checkpoint.checkpoint.data",
                     checkpoint=pb.CheckpointRequest(checkpoint=pb.Checkpoint(name="x", data=b"x" * 65537), **good))
        self.refused("release.effect", release=pb.ReleaseRequest(**good))
        self.refused("get.wait_ms", get=pb.GetRequest(op=op("k"), wait_ms=60001))
        self.refused("recover.namespace", recover=pb.RecoverRequest())
        self.refused("recover.limit", recover=pb.RecoverRequest(namespace="test", limit=101))
        self.refused("recover.attempt_id", recover=pb.RecoverRequest(namespace="test", attempt_id=b"x"))
        self.refused("resolve.verdict", resolve=pb.ResolveRequest(op=op("k"), revision=1))
        self.refused("resolve.reason", resolve=pb.ResolveRequest(op=op("k"), revision=1, verdict=pb.VERDICT_DID_NOT_HAPPEN,
                                                                 reason="x" * 257))
        self.refused("list.limit", list=pb.ListRequest(namespace="test", limit=1001))
        self.refused("list.state", list=pb.ListRequest(namespace="test", state=4))
        self.refused("list.cursor", list=pb.ListRequest(namespace="test", cursor=b"x" * 65))
        self.refused("hello.client", hello=pb.HelloRequest(client="x" * 65))
        self.refused("hello.token", hello=pb.HelloRequest(token=b"x" * 1025))
        self.c.send_raw(frame(pb.Request(id=5000, traceparent="x" * 65, begin=begin("t"))))
        status = self.c.reply(5000).status
        self.assertEqual((status.code, status.field), (pb.CODE_INVALID_ARGUMENT, "traceparent"))
        # Nothing of all that has moved the operation, or hurt the connection.
        self.assertEqual(self.renew("k", fence).ownership, HELD)

    def test_strings_are_text(self):
        for bad in (b"\xff", b"\xc3", b"\xed\xa0\x80", b"a\0b"):
            with self.subTest(bad):
                key = b"\x0a\x04test\x1a" + bytes([len(bad)]) + bad
                call = b"\x0a" + bytes([len(key)]) + key
                request = b"\x08\x07\x5a" + bytes([len(call)]) + call
                client = self.client(self.d)
                client.send_raw(frame(request))
                status = client.reply(7).status
                self.assertEqual((status.code, status.field), (pb.CODE_INVALID_ARGUMENT, "begin.op.key"))


if __name__ == "__main__":
    unittest.main()
