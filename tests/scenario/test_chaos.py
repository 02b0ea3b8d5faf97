#!/usr/bin/env python3
"""Every call with anything in it, from several connections at once that come, go, stop reading and send rubbish, while the
daemon is killed now and then. Whatever is asked, each answer is one that can be read, is the only one, and nothing is granted
twice. $IDEMD_CHAOS_SEED and $IDEMD_CHAOS_CALLS make another or a longer run."""
import os
import random
import select
import socket
import subprocess
import unittest

from harness import (Case, Client, EXECUTE, IDEMD, PATIENCE, REPLAY, frame, op, pb)

SEED = int(os.environ.get("IDEMD_CHAOS_SEED", "1"))
CALLS = int(os.environ.get("IDEMD_CHAOS_CALLS", "6000"))
KEYS = 12
CONNECTIONS = 8
NAMES = ("hello", "begin", "complete", "release", "renew", "checkpoint", "get", "recover", "resolve", "forget", "list", "stats",
         "cancel")
WEIGHTS = (1, 30, 20, 6, 6, 6, 8, 6, 5, 3, 3, 1, 4)


class Chaos(Case):
    def setUp(self):
        self.random = random.Random(SEED)
        self.daemon_ = self.daemon("--max-outcome", "64KiB", "--grace", "0s", "--keep", "2s")
        self.clients = []
        self.fences, self.revisions = {}, {}  # by (caller, key), those learned last at the end
        self.connections, self.cursors = [1], [b""]
        self.attempts = [self.random.randbytes(16) for _ in range(6)]
        self.counts = {name: 0 for name in NAMES}
        self.granted = set()

    # ---- What is sent

    def pick(self, *values):
        return self.random.choice(values)

    def bytes_(self, most):
        return self.random.randbytes(self.pick(0, 1, 10, most - 1, most, most + 1 if self.random.random() < 0.1 else 3))

    def op(self):
        if self.random.random() < 0.02:
            return op(self.pick("", "k" * 255, "k" * 256, "\u00fc" * 127), namespace=self.pick("", "test", "n" * 65))
        return op(f"k{self.random.randrange(KEYS)}", caller=self.pick("", "", "", "c"))

    def op_and_number(self, numbers):
        """An operation, and mostly a fence or revision that it has or had."""
        where = self.op()
        known = numbers.get((where.caller, where.key), [1])
        other = self.pick(*known[-5:], 0, 1, (1 << 64) - 1)
        return where, known[-1] if self.random.random() < 0.7 else other

    def outcome(self):
        outcome = pb.Outcome(kind=self.pick(1, 1, 1, 1, 2, 2, 0), code=self.pick(0, 200, -1), body=self.bytes_(65536))
        for i in range(self.pick(0, 0, 1, 3, 64, 65)):
            outcome.attributes.add(name=f"n{i}", value=self.bytes_(60))
        return outcome

    def make(self, name):
        fenced = dict(zip(("op", "fence"), self.op_and_number(self.fences)))
        revised = dict(zip(("op", "revision"), self.op_and_number(self.revisions)))
        lease_ms = self.pick(0, 0, 1000, 1000, 60000, 999)
        wait_ms = self.pick(0, 0, 0, 5, 50, 60000)
        attempt = self.pick(b"", *self.attempts)
        if name == "hello":
            return pb.HelloRequest(client="chaos", replaces=self.pick(0, 0, *self.connections[-4:]))
        if name == "begin":
            return pb.BeginRequest(op=revised["op"], operation=self.pick(*[""] * 9, "o"), fingerprint=self.pick(*[b""] * 9, b"f"),
                                   attempt_id=attempt, owner="w", lease_ms=lease_ms, wait_ms=wait_ms,
                                   if_interrupted=self.pick(0, 1, 2, 2), first_sent_ms=self.pick(*[0] * 9, 1, 1 << 62),
                                   input=self.bytes_(65536) if self.random.random() < 0.2 else b"",
                                   bind_to_connection=self.random.random() < 0.3, keep_ms=self.pick(0, 1000, 1 << 63),
                                   take_over_revision=self.pick(0, 0, 0, revised["revision"]),
                                   other_fingerprints=self.pick([], [b"f"], [b""]))
        if name == "complete":
            return pb.CompleteRequest(**fenced, outcome=self.outcome(), keep_ms=self.pick(0, 1000, 5000),
                                      keep_body_ms=self.pick(0, 0, 1, 1000))
        if name == "release":
            return pb.ReleaseRequest(**fenced, effect=self.pick(0, 1, 2, 3))
        if name == "renew":
            return pb.RenewRequest(**fenced, lease_ms=lease_ms)
        if name == "checkpoint":
            return pb.CheckpointRequest(**fenced, lease_ms=lease_ms,
                                        checkpoint=pb.Checkpoint(name=self.pick("c", "", "d" * 64), data=self.bytes_(65536)))
        if name == "get":
            return pb.GetRequest(op=self.op(), wait_ms=wait_ms)
        if name == "recover":
            return pb.RecoverRequest(namespace="test", operation=self.pick("", "o"), lease_ms=lease_ms, limit=self.pick(0, 1, 5, 100),
                                     wait_ms=wait_ms, attempt_id=attempt, bind_to_connection=self.random.random() < 0.3)
        if name == "resolve":
            verdict = self.pick(0, 1, 2)
            return pb.ResolveRequest(**revised, verdict=verdict, reason="r",
                                     outcome=self.outcome() if verdict == 1 else None)
        if name == "forget":
            return pb.ForgetRequest(**revised)
        if name == "list":
            return pb.ListRequest(namespace="test", state=self.pick(0, 0, 1, 2, 3), limit=self.pick(0, 1, 3, 1000),
                                  cursor=self.pick(*self.cursors[-4:]))
        if name == "stats":
            return pb.StatsRequest(namespace=self.pick("", "test"))
        return pb.CancelRequest(id=self.random.randrange(1, 50))

    # ---- What comes back

    def learn(self, client, response):
        self.assertNotIn(response.id, client.answered, "answered twice")
        self.assertIn(response.id, client.asked)
        client.answered.add(response.id)
        name, where = client.asked[response.id]
        self.counts[name] += 1
        if response.status.code:
            self.assertIn(response.status.code, (pb.CODE_INVALID_ARGUMENT, pb.CODE_NOT_FOUND, pb.CODE_FAILED_PRECONDITION,
                                                 pb.CODE_DEADLINE_EXCEEDED, pb.CODE_CANCELLED, pb.CODE_RESOURCE_EXHAUSTED))
            self.assertTrue(response.status.message)
            self.assertIsNone(response.WhichOneof("result"))
            return
        self.assertEqual(response.WhichOneof("result"), name)
        result = getattr(response, name)
        if name == "hello":
            self.connections.append(result.connection)
        elif name == "begin":
            self.learn_begin(result, where)
        elif name == "recover":
            for recovered in result.operations:
                self.learn_grant(recovered.grant, recovered.op)
        elif name == "list":
            self.cursors.append(result.cursor)
            for listed in result.operations:
                self.note(self.revisions, listed.op, listed.info.revision)
        elif name == "get":
            self.assertEqual(result.HasField("outcome"), result.info.state == pb.STATE_DONE)
            self.note(self.revisions, where, result.info.revision)
        elif name != "cancel" and name != "stats":
            self.assertIn(result.ownership, (1, 2, 3, 4))
            if name in ("complete", "resolve"):
                self.assertEqual(result.HasField("outcome"), result.ownership == pb.OWNERSHIP_FINAL)

    def learn_begin(self, begin, where):
        self.assertIn(begin.answer, range(1, 7))
        self.assertEqual(begin.HasField("grant"), begin.answer == EXECUTE)
        self.assertEqual(begin.HasField("outcome"), begin.answer == REPLAY)
        if begin.answer == EXECUTE:
            self.learn_grant(begin.grant, where)
        if begin.HasField("info") and begin.info.revision:
            self.note(self.revisions, where, begin.info.revision)

    @staticmethod
    def note(numbers, where, number):
        numbers.setdefault((where.caller, where.key), []).append(number)

    def learn_grant(self, grant, where):
        if not grant.resumed:
            self.assertNotIn(grant.fence, self.granted, "granted twice")
            self.granted.add(grant.fence)
        self.note(self.fences, where, grant.fence)

    # ---- Who sends it

    def connect(self):
        client = Client(self.daemon_)
        client.asked, client.answered = {}, set()
        self.clients.append(client)
        return client

    def leave(self, client):
        self.clients.remove(client)
        client.close()

    def read(self, client, patience):
        """Reads what is there. The end of the connection is the end of the client."""
        try:
            while select.select([client.socket], [], [], patience)[0]:
                more = client.socket.recv(1 << 16)
                if not more:
                    self.leave(client)
                    return
                client.data += more
                while len(client.data) >= 5 and len(client.data) >= 5 + int.from_bytes(client.data[1:5], "big"):
                    self.learn(client, client._read_one())
                patience = 0
        except OSError:
            self.leave(client)

    def send(self, client):
        name = self.random.choices(NAMES, WEIGHTS)[0]
        request = pb.Request(id=client.next_id, timeout_ms=self.pick(0, 0, 0, 1, 30), traceparent=self.pick("", "t" * 64))
        call = getattr(request, name)
        call.CopyFrom(self.make(name))
        client.next_id += 1
        client.asked[request.id] = (name, getattr(call, "op", None))
        try:
            client.send_raw(frame(request))
        except OSError:
            self.leave(client)

    def rubbish(self):
        """A connection of its own that sends a Request with some of its bytes changed."""
        client = Client(self.daemon_)
        data = bytearray(b"".join(frame(pb.Request(id=i + 1, begin=self.make("begin"))) for i in range(3)))
        for _ in range(self.pick(1, 2, 10)):
            data[self.random.randrange(len(data))] = self.random.randrange(256)
        try:
            client.send_raw(bytes(data[:self.random.randrange(len(data)) + 1]))
            client.socket.shutdown(socket.SHUT_WR)
            client.at_end()
        except OSError:
            pass
        client.close()

    def test_chaos(self):
        print(f"seed {SEED}", flush=True)
        for step in range(CALLS):
            if len(self.clients) < CONNECTIONS:
                self.connect()
            client = self.random.choice(self.clients)
            what = self.random.random()
            if what < 0.004:
                self.leave(client)
            elif what < 0.008:
                self.rubbish()
            elif what < 0.012:
                client.socket.shutdown(socket.SHUT_WR)
                self.read(client, 0)
            elif step % (CALLS // 4 + 1) == CALLS // 4:
                self.daemon_.kill()
                self.daemon_.start()
                for other in list(self.clients):
                    self.read(other, 0)
                    if other in self.clients:
                        self.leave(other)
            else:
                self.send(client)
                if client in self.clients and self.random.random() < 0.8:
                    self.read(client, 0.02 if self.random.random() < 0.1 else 0)
        for client in list(self.clients):
            self.leave(client)
        self.assertEqual(self.daemon_.terminate(), 0)
        for name in NAMES:
            self.assertGreater(self.counts[name], 0, name)
        self.assertGreater(len(self.granted), 20)
        checked = subprocess.run([IDEMD, "--check-data", self.daemon_.data], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                 timeout=PATIENCE)
        self.assertEqual((checked.returncode, checked.stderr), (0, b""), checked.stdout)
        self.daemon_.start()


if __name__ == "__main__":
    unittest.main()
