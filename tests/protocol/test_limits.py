#!/usr/bin/env python3
"""What PROTOCOL.md's tables say that a field takes, a real daemon takes, to the edge and no further; needs $IDEMD_BUILD.

Each field of each call is set to its least, its most and the middle, and to what lies just beyond, in a call that is good otherwise."""
import unittest

from google.protobuf.descriptor import FieldDescriptor as F

from document import Document, number, spans
from messages import pb
from other_client import Case

OP = pb.OperationId(namespace="edges", key="none")
OUTCOME = pb.Outcome(kind=pb.OUTCOME_KIND_SUCCEEDED)
GOOD = {
    "hello": pb.HelloRequest(),
    "begin": pb.BeginRequest(op=OP),
    "complete": pb.CompleteRequest(op=OP, fence=1, outcome=OUTCOME),
    "release": pb.ReleaseRequest(op=OP, fence=1, effect=pb.EFFECT_UNKNOWN),
    "renew": pb.RenewRequest(op=OP, fence=1),
    "checkpoint": pb.CheckpointRequest(op=OP, fence=1, checkpoint=pb.Checkpoint(name="n")),
    "get": pb.GetRequest(op=OP),
    "recover": pb.RecoverRequest(namespace="edges"),
    "resolve": pb.ResolveRequest(op=OP, revision=1, verdict=pb.VERDICT_HAPPENED, outcome=OUTCOME),
    "forget": pb.ForgetRequest(op=OP, revision=1),
    "list": pb.ListRequest(),
    "stats": pb.StatsRequest(),
    "cancel": pb.CancelRequest(id=1),
}
LARGEST = {F.TYPE_UINT64: 2**64 - 1, F.TYPE_FIXED64: 2**64 - 1, F.TYPE_UINT32: 2**32 - 1, F.TYPE_SINT32: 2**31 - 1, F.TYPE_ENUM: 2**31 - 1,
           F.TYPE_BOOL: True}
TEXT = (F.TYPE_STRING, F.TYPE_BYTES)


def edges(takes):
    """(what it takes, what lies just beyond), as numbers or lengths, of a cell like "0 or 1,000..86,400,000"."""
    taken = spans(takes)
    good = sorted({value for least, most in taken for value in (least, (least + most) // 2, most)})
    beyond = {edge for least, most in taken for edge in (least - 1, most + 1)}
    return good, sorted(edge for edge in beyond if edge >= 0 and not any(least <= edge <= most for least, most in taken))


def value_of(field, edge):
    if field.type == F.TYPE_STRING:
        return "x" * edge
    return b"x" * edge if field.type == F.TYPE_BYTES else edge


class Limits(Case):
    def setUp(self):
        self.document = Document()
        self.connection = self.connect(self.daemon())
        self.probes = 0

    def is_refused(self, call, request, path):
        """Is the call refused for that field? One for another is a mistake."""
        timeout_ms = 1 if "wait_ms" in request.DESCRIPTOR.fields_by_name else 0  # the deadline is looked at after all fields
        status = self.connection.call(timeout_ms, **{call: request}).status
        self.probes += 1
        if status.reason != "INVALID_ARGUMENT":
            return False
        self.assertEqual((status.code, status.field), (pb.CODE_INVALID_ARGUMENT, path))
        return True

    def probe(self, call, names, value):
        """Sets one field of a good call; None takes it away."""
        request = type(GOOD[call])()
        request.CopyFrom(GOOD[call])
        message = request
        for name in names[:-1]:
            message = getattr(message, name)
        message.ClearField(names[-1])
        if isinstance(value, list):
            getattr(message, names[-1]).extend(value)
        elif value is not None:
            setattr(message, names[-1], value)
        return self.is_refused(call, request, ".".join([call, *names]))

    def check_repeated(self, call, names, takes):
        (_, times), (_, length) = spans(takes)
        self.assertFalse(self.probe(call, names, [b"x" * length] * times))
        self.assertTrue(self.probe(call, names, [b"x"] * (times + 1)))
        self.assertTrue(self.probe(call, names, [b"x" * (length + 1)]))

    def check_field(self, call, names, field, takes):
        good, beyond = edges(takes)
        if "needed" in takes or "needs it" in takes:
            self.assertTrue(self.probe(call, names, None))
        if field.type == F.TYPE_MESSAGE:
            return
        if takes == "any":
            self.assertFalse(self.probe(call, names, value_of(field, 1000) if field.type in TEXT else LARGEST[field.type]))
            return
        self.assertGreater(len(good), 1, takes)
        for edge in good:
            self.assertFalse(self.probe(call, names, value_of(field, edge)), edge)
        for edge in beyond:
            if field.type in TEXT or edge <= LARGEST[field.type]:
                self.assertTrue(self.probe(call, names, value_of(field, edge)), edge)

    def check_message(self, call, names, message):
        for name, takes in self.document.takes(message.name).items():
            field, path = message.fields_by_name[name], [*names, name]
            with self.subTest(".".join([call, *path]), takes=takes):
                if field.label == F.LABEL_REPEATED and field.type == F.TYPE_MESSAGE:
                    self.assertEqual(takes, "any")  # test_attributes has these
                elif field.label == F.LABEL_REPEATED:
                    self.check_repeated(call, path, takes)
                else:
                    self.check_field(call, path, field, takes)
            if field.type == F.TYPE_MESSAGE and field.label != F.LABEL_REPEATED:
                self.check_message(call, path, field.message_type)

    def test_fields(self):
        for call, request in GOOD.items():
            self.check_message(call, [], request.DESCRIPTOR)
        self.assertGreater(self.probes, 250)

    def test_request(self):
        takes = self.document.takes("Request")
        good, beyond = edges(takes["traceparent"])
        for edge in good + beyond:
            self.connection.send_message(pb.Request(id=1 + edge, traceparent="x" * edge, stats=pb.StatsRequest()))
            status = self.connection.answer_to(1 + edge).status
            self.assertEqual(status.field, "traceparent" if edge in beyond else "")

    # ---- What is never refused ----

    def stored(self, outcome, **fields):
        """What a replay gives of an outcome that was completed."""
        begun = self.connection.call(begin=pb.BeginRequest(op=OP)).begin
        done = self.connection.call(complete=pb.CompleteRequest(op=OP, fence=begun.grant.fence, outcome=outcome, **fields)).complete
        self.assertEqual(done.ownership, pb.OWNERSHIP_HELD)
        replay = self.connection.call(begin=pb.BeginRequest(op=OP)).begin
        self.assertEqual(replay.answer, pb.BeginResponse.ANSWER_REPLAY)
        forgotten = self.connection.call(forget=pb.ForgetRequest(op=OP, revision=replay.info.revision)).forget
        self.assertEqual(forgotten.ownership, pb.OWNERSHIP_HELD)
        return replay

    def attributes(self, count, size=1):
        outcome = pb.Outcome(kind=pb.OUTCOME_KIND_FAILED, code=-7, attributes=[pb.Attribute(name="n", value=b"v" * (size - 1))] * count)
        kept = self.stored(outcome).outcome
        self.assertEqual((kept.kind, kept.code), (outcome.kind, outcome.code))
        self.assertEqual(list(kept.attributes), [] if kept.attributes_dropped else list(outcome.attributes))
        return not kept.attributes_dropped

    def test_attributes(self):
        limits = {row[0].strip("`"): number(row[1]) for row in self.document.rows("Limits")}
        count, size = limits["IDEM_ATTRIBUTES_MAX"], limits["IDEM_ATTRIBUTES_BYTES_MAX"]
        self.assertTrue(self.attributes(count))
        self.assertFalse(self.attributes(count + 1))
        self.assertTrue(self.attributes(1, size))
        self.assertFalse(self.attributes(1, size + 1))

    def test_body(self):
        hello = self.connection.call(hello=pb.HelloRequest()).hello
        most = hello.max_outcome_bytes
        for size in (0, 1, most, most + 1):
            body = b"b" * size
            kept = self.stored(pb.Outcome(kind=pb.OUTCOME_KIND_SUCCEEDED, body=body)).outcome
            self.assertEqual((kept.body_dropped, kept.body_bytes), (size > most, size))
            self.assertEqual(kept.body, b"" if size > most else body)
        sent = pb.Outcome(kind=pb.OUTCOME_KIND_SUCCEEDED, body_dropped=True, body_bytes=5 << 30)
        self.assertEqual(self.stored(sent).outcome, sent)

    def test_keep_is_brought_within_its_bounds(self):
        policy = self.connection.call(hello=pb.HelloRequest()).hello.policy
        for keep_ms, is_kept in ((1, policy.keep_min_ms), (2**64 - 1, policy.keep_max_ms), (0, policy.keep_ms)):
            info = self.stored(OUTCOME, keep_ms=keep_ms, keep_body_ms=2**64 - 1).info
            self.assertAlmostEqual(info.expires_ms - info.done_ms, is_kept, delta=60000)  # two clocks, which may drift

    def test_frame(self):
        """The largest message is taken; the vectors have one that is longer."""
        most = self.connection.call(hello=pb.HelloRequest()).hello.max_frame_bytes
        request = pb.Request(id=99, complete=pb.CompleteRequest(op=OP, fence=1, outcome=OUTCOME))
        request.complete.outcome.body = b"b" * (most - 60)
        request.complete.outcome.body += b"b" * (most - request.ByteSize())
        self.assertEqual(request.ByteSize(), most)
        self.connection.send_message(request)
        self.assertEqual(self.connection.answer_to(99).complete.ownership, pb.OWNERSHIP_GONE)


if __name__ == "__main__":
    unittest.main()
