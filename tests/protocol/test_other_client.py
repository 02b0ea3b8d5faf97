#!/usr/bin/env python3
"""A client made of sockets and idem.proto alone holds the conversation of proto/vectors/ with a real daemon, and says everything else that is
there; needs $IDEMD_BUILD.

Fences, revisions, the cursor and the connection are the daemon's own: where the conversation names one, the one that the daemon gave at its
place is sent, and all are told apart as in the vectors and grow as there. Clocks and what depends on them are only there or not. All else
of each answer is compared, the texts for people too."""
import unittest

from google.protobuf import json_format

from messages import conversation_of, frame, load_vectors, pb
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
        example = dict(vector["meaning"])
        real = json_format.MessageToDict(response)
        if "stats" in example:  # since when the daemon counts is its own
            for metric in real["stats"]["metrics"][:1] + example["stats"]["metrics"][:1]:
                self.assertGreater(metric.pop("value"), 0)
        with self.subTest(vector["name"]):
            self.names.compare(self, real, example)

    def test_conversation(self):
        daemon = self.daemon()
        connection = self.connection(daemon)
        self.names = Names()
        later, said = [], set()
        for vector in CONVERSATION:
            request = json_format.ParseDict(self.names.put_in(vector["meaning"]), pb.Request())
            connection.send_bytes(frame(request))
            said.add(request.WhichOneof("call"))
            if vector["name"] in ("begin.waiting", "recover.waiting"):
                later.append(vector)
                continue
            self.compare(ALL[vector["answered_by"]], connection.answer_to(request.id))
            if vector["name"] == "cancel.request":
                self.compare(ALL[later[0]["answered_by"]], connection.answer_to(int(later.pop(0)["meaning"]["id"])))
        self.assertEqual(said, CALLS)
        # A call behind the one that waits is answered: then that one has been read.
        connection.send_bytes(frame(pb.Request(id=1 << 40, stats=pb.StatsRequest())))
        connection.answer_to(1 << 40)
        daemon.terminate()
        (drained,) = later
        self.compare(ALL[drained["answered_by"]], connection.answer_to(int(drained["meaning"]["id"])))
        self.assertTrue(connection.at_end())
        self.names.check_order(self)


if __name__ == "__main__":
    unittest.main()
