#!/usr/bin/env python3
"""Sends the bytes of every request in proto/vectors/ to a real daemon, each as the first on its connection and while the store is empty,
and holds what comes back against the vector's verdict; needs $IDEMD_BUILD."""
import unittest

from google.protobuf import json_format

from messages import conversation_of, load_vectors, pb
from other_client import Case, Connection, Daemon

ALL = load_vectors()


class Alone(Case):
    @classmethod
    def setUpClass(cls):
        cls.the_daemon = Daemon()
        cls.addClassCleanup(cls.the_daemon.close)

    def answer(self, vector):
        connection = Connection(self.the_daemon)
        try:
            connection.next_id = 1 << 32  # none of the vectors'
            connection.send_bytes(bytes.fromhex(vector["hex"]))
            response = connection.receive()
            self.assertIsNotNone(response)
            if vector["verdict"].get("closes"):
                self.assertTrue(connection.at_end())
            else:
                self.assertEqual(connection.call(stats=pb.StatsRequest()).status.code, pb.CODE_OK)
            self.free(connection, vector, response)
        finally:
            connection.close()
        return response

    def free(self, connection, vector, response):
        """What was begun is let go: the store is empty again."""
        if response.begin.answer != pb.BeginResponse.ANSWER_EXECUTE:
            return
        op = pb.Request.FromString(bytes.fromhex(vector["hex"])[5:]).begin.op
        freed = connection.call(release=pb.ReleaseRequest(op=op, fence=response.begin.grant.fence, effect=pb.EFFECT_NONE))
        self.assertEqual(freed.release.ownership, pb.OWNERSHIP_HELD)

    def says(self, response, verdict):
        """What the response says of what the verdict speaks of."""
        result = getattr(response, response.WhichOneof("result") or "status")
        said = {"id": str(response.id), "code": pb.Code.Name(response.status.code), "reason": response.status.reason,
                "field": response.status.field, "closes": verdict.get("closes")}
        if "answer" in verdict:
            said["answer"] = pb.BeginResponse.Answer.Name(result.answer)
        if "ownership" in verdict:
            said["ownership"] = pb.Ownership.Name(result.ownership)
        return {key: said[key] for key in verdict}

    def check(self, vectors):
        for vector in vectors:
            with self.subTest(vector["name"]):
                response = self.answer(vector)
                self.assertEqual(self.says(response, vector["verdict"]), vector["verdict"], response)

    def test_conversation(self):
        vectors = [vector for vector in conversation_of(ALL) if "waits" not in vector["verdict"]]
        self.assertGreater(len(vectors), 40)
        self.check(vectors)

    def test_no_requests(self):
        vectors = [vector for name, vector in ALL.items() if name.startswith("bad.")]
        self.assertGreater(len(vectors), 20)
        self.check(vectors)
        self.assertEqual(json_format.MessageToDict(self.answer(ALL["bad.flag-byte"])), ALL["refusals.frame"]["meaning"])

    def test_odd_requests(self):
        vectors = [vector for name, vector in ALL.items() if name.startswith("odd.")]
        self.assertGreater(len(vectors), 4)
        self.check(vectors)


if __name__ == "__main__":
    unittest.main()
