#!/usr/bin/env python3
"""Sends the vectors' requests to a real daemon, and compares its answers with what they say. Knows nothing but the files of proto/vectors/
and idem.proto."""
import json
import os
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "scenario"))
from harness import Case, TOP, pb  # noqa: E402

FOLDER = os.path.join(TOP, "proto", "vectors")


def read(name):
    with open(os.path.join(FOLDER, name), encoding="utf-8") as file:
        return json.load(file)


def says(response, answer):
    """Does a response say this: its code, or its answer, ownership or state?"""
    if response.status.code or answer == "OK" or hasattr(pb, "CODE_" + answer):
        return pb.Code.Name(response.status.code) == "CODE_" + answer
    kind = response.WhichOneof("result")
    result = getattr(response, kind)
    if kind == "begin":
        return pb.BeginResponse.Answer.Name(result.answer) == answer
    if kind == "get":
        return pb.State.Name(result.info.state) == answer
    return pb.Ownership.Name(result.ownership) == answer


class Vectors(Case):
    def test_requests_in_order(self):
        daemon = self.daemon()
        client = self.client(daemon)
        requests = []
        for name in os.listdir(FOLDER):
            requests += [v for v in read(name) if v.get("message") == "Request"]
        requests.sort(key=lambda vector: int(vector["meaning"]["id"]))
        self.assertGreater(len(requests), 13)
        calls = set()
        for vector in requests:
            client.send_raw(bytes.fromhex(vector["hex"]))
            response = client.reply(int(vector["meaning"]["id"]))
            self.assertTrue(says(response, vector["answer"]), (vector["name"], vector["meaning"], response))
            calls |= set(vector["meaning"]) - {"id"}
        self.assertEqual(calls, {field.name for field in pb.Request.DESCRIPTOR.oneofs_by_name["call"].fields})

    def test_what_is_none(self):
        daemon = self.daemon()
        for vector in read("bad.json"):
            with self.subTest(vector["name"]):
                client = self.client(daemon)
                client.send_raw(bytes.fromhex(vector["hex"]))
                response = client.reply(vector["answer"]["id"])
                self.assertTrue(says(response, vector["answer"]["code"]), response)
                if vector["answer"]["closed"]:
                    self.assertTrue(client.at_end())
                else:
                    self.assertEqual(client.call(get=pb.GetRequest(op=pb.OperationId(namespace="n", key="k"))).status.code,
                                     pb.CODE_NOT_FOUND)


if __name__ == "__main__":
    unittest.main()
