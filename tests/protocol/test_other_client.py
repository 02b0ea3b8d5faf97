#!/usr/bin/env python3
"""A client made of sockets and idem.proto alone holds the conversation of proto/vectors/ with a real daemon, and tries what PROTOCOL.md
tells clients to rely on; needs $IDEMD_BUILD.

Fences, revisions, the cursor and the connection are the daemon's own: where the conversation names one, the one that the daemon gave at its
place is sent, and all are told apart as in the vectors and grow as there. Clocks and what depends on them are only there or not. All else
of each answer is compared, the texts for people too."""
import copy
import unittest

from google.protobuf import json_format

from messages import conversation_of, load_vectors, pb
from other_client import Case

GIVEN = ("fence", "revision", "cursor")  # the daemon's, and named again by later calls
OWN = ("server", "instance", "storeId", "connection", "nowMs", "begunMs", "interruptedMs", "doneMs", "expiresMs", "leaseLeftMs",
       "retryAfterMs")
ALL = load_vectors()
CONVERSATION = conversation_of(ALL)
CALLS = {f.name for f in pb.Request.DESCRIPTOR.oneofs_by_name["call"].fields}


class Names:
    """What the daemon gave in the place of what the vectors say, both ways."""

    def __init__(self):
        self.real = {}

    def put_in(self, value):
        """A request's meaning with the daemon's own in it."""
        if isinstance(value, dict):
            return {key: self.real.get(inner, inner) if key in GIVEN else self.put_in(inner) for key, inner in value.items()}
        return value

    def compare(self, test, real, example, path=""):
        """Says a real answer what the vector says?"""
        test.assertIs(type(real), type(example), path)
        if isinstance(example, dict):
            test.assertEqual(set(real), set(example), path)
            for key, inner in example.items():
                self._compare_field(test, key, real[key], inner, path)
        elif isinstance(example, list):
            if path.endswith(".metrics"):  # a daemon may count more: a client skips names that it does not know
                names = [metric["name"] for metric in example]
                real = [metric for metric in real if metric["name"] in names]
            test.assertEqual(len(real), len(example), path)
            for i, inner in enumerate(example):
                self.compare(test, real[i], inner, f"{path}[{i}]")
        else:
            test.assertEqual(real, example, path)

    def _compare_field(self, test, key, real, example, path):
        if key in GIVEN:
            test.assertEqual(self.real.setdefault(example, real), real, path + "." + key)
        elif key not in OWN:
            self.compare(test, real, example, path + "." + key)

    def check_order(self, test):
        numbers = [(int(example), int(real)) for example, real in self.real.items() if example.isdigit()]
        test.assertEqual(sorted(numbers, key=lambda pair: pair[0]), sorted(numbers, key=lambda pair: pair[1]))
        test.assertEqual(len({real for _, real in numbers}), len(numbers))
        test.assertTrue(all(0 < real < 1 << 53 for _, real in numbers))


class Conversation(Case):
    def compare(self, vector, response):
        example = copy.deepcopy(vector["meaning"])
        real = json_format.MessageToDict(response)
        if "stats" in example:  # since when the daemon counts is its own
            for metric in real["stats"]["metrics"][:1] + example["stats"]["metrics"][:1]:
                self.assertGreater(metric.pop("value"), 0)
        with self.subTest(vector["name"]):
            self.names.compare(self, real, example)

    def test_conversation(self):
        daemon = self.daemon()
        connection = self.connect(daemon)
        self.names = Names()
        later, said = [], set()
        for vector in CONVERSATION:
            request = json_format.ParseDict(self.names.put_in(vector["meaning"]), pb.Request())
            connection.send_message(request)
            said.add(request.WhichOneof("call"))
            if vector["name"] in ("begin.waiting", "recover.waiting"):
                later.append(vector)
                continue
            self.compare(ALL[vector["answered_by"]], connection.answer_to(request.id))
            if vector["name"] == "cancel.request":
                self.compare(ALL[later[0]["answered_by"]], connection.answer_to(int(later.pop(0)["meaning"]["id"])))
        self.assertEqual(said, CALLS)
        # A call behind the one that waits is answered: then that one has been read.
        connection.next_id = 1 << 32
        connection.call(stats=pb.StatsRequest())
        daemon.terminate()
        (drained,) = later
        self.compare(ALL[drained["answered_by"]], connection.answer_to(int(drained["meaning"]["id"])))
        self.assertTrue(connection.at_end())
        self.names.check_order(self)


class Connections(Case):
    """What a client relies on when it sends a call again."""

    OP = pb.OperationId(namespace="n", caller="c", key="k")

    def begin(self, connection, **fields):
        return connection.call(begin=pb.BeginRequest(op=self.OP, **fields)).begin

    def test_answers_in_another_order(self):
        connection = self.connect(self.daemon())
        fence = self.begin(connection).grant.fence
        waiting = connection.send(begin=pb.BeginRequest(op=self.OP, wait_ms=60000))
        looked = connection.send(get=pb.GetRequest(op=self.OP))
        outcome = pb.Outcome(kind=pb.OUTCOME_KIND_SUCCEEDED, body=b"all of it")
        completed = connection.send(complete=pb.CompleteRequest(op=self.OP, fence=fence, outcome=outcome))
        self.assertEqual(connection.receive().id, looked)
        self.assertEqual({connection.receive().id, connection.receive().id}, {waiting, completed})

    def test_replaced(self):
        daemon = self.daemon()
        given_up, new = self.connect(daemon), self.connect(daemon)
        name = given_up.call(hello=pb.HelloRequest()).hello.connection
        granted = self.begin(given_up, attempt_id=bytes(16), bind_to_connection=True).grant
        waiting = given_up.send(begin=pb.BeginRequest(op=self.OP, wait_ms=60000))
        hello = new.call(hello=pb.HelloRequest(replaces=name)).hello
        self.assertNotIn(hello.connection, (0, name))
        self.assertTrue(given_up.at_end(), f"{waiting} was withdrawn, so it is not answered")
        resumed = self.begin(new, attempt_id=bytes(16), bind_to_connection=True)
        self.assertEqual(resumed.answer, pb.BeginResponse.ANSWER_EXECUTE)
        self.assertEqual((resumed.grant.fence, resumed.grant.resumed, resumed.grant.attempt), (granted.fence, True, 1))

    def test_what_is_sent_again_changes_nothing(self):
        connection = self.connect(self.daemon())
        fence = self.begin(connection).grant.fence
        complete = pb.CompleteRequest(op=self.OP, fence=fence, keep_ms=3600000, outcome=pb.Outcome(kind=pb.OUTCOME_KIND_FAILED, code=-1))
        answers = [connection.call(complete=complete).complete for _ in range(3)]
        complete.keep_ms = 1000
        answers.append(connection.call(complete=complete).complete)
        for answer in answers:
            self.assertEqual(answer.ownership, pb.OWNERSHIP_HELD)
            self.assertAlmostEqual(answer.expires_ms, answers[0].expires_ms, delta=60000)  # told by two clocks, which may drift
        for call in ({"renew": pb.RenewRequest(op=self.OP, fence=fence)},
                     {"release": pb.ReleaseRequest(op=self.OP, fence=fence, effect=pb.EFFECT_NONE)}):
            (result,) = (getattr(connection.call(**call), name) for name in call)
            self.assertEqual(result.ownership, pb.OWNERSHIP_FINAL)


if __name__ == "__main__":
    unittest.main()
