"""The frames of proto/vectors/, in one list.

Most of them are one conversation: what a client says on one connection to a daemon whose store is empty, and what it is answered. The
numbers that a daemon makes - fences, revisions, times, connections - are examples; test_other_client.py holds the conversation with a
real daemon and compares all else. Then there are refusals, frames that are no Request, frames that look odd and are good, and answers
that a client must not take for permission."""
import struct

from google.protobuf import json_format

from messages import frame, pb

NUMBER = (1700000000 << 20) + 1  # the first of a store made at 1700000000 s after 1970
FIRST, RENEWED, SAVED, DOUBTED, AGAIN, FINISHED, SECOND, IN_DOUBT = (NUMBER + i for i in range(8))
THIRD = NUMBER + 10  # after Resolve and Forget
BEGUN_MS, INTERRUPTED_MS, DONE_MS = 1700000000500, 1700000002000, 1700000003000
EXPIRES_MS = DONE_MS + 86400000

BR = pb.BeginResponse
ORDER = pb.OperationId(namespace="pay", caller="acme", key="order-17")
OTHER = pb.OperationId(namespace="pay", caller="acme", key="order-18")
ATTEMPT = bytes(range(16))
FINGERPRINT = b"\x11" * 32
CHECKPOINT = pb.Checkpoint(name="captured", data=b"ch_1")
OUTCOME = pb.Outcome(kind=pb.OUTCOME_KIND_SUCCEEDED, code=201, body=b"receipt 17",
                     attributes=[pb.Attribute(name="content-type", value=b"text/plain")])
STORED = pb.Outcome(body_bytes=10)
STORED.MergeFrom(OUTCOME)
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def begin(op=ORDER, **fields):
    return {"begin": pb.BeginRequest(op=op, **fields)}


def begin_order(**fields):
    return begin(operation="POST /charges", **{"fingerprint": FINGERPRINT, **fields})


def running(revision, **fields):
    return pb.OperationInfo(**{"state": pb.STATE_RUNNING, "revision": revision, "operation": "POST /charges", "attempt": 1,
                               "owner": "api-7", "begun_ms": BEGUN_MS, "lease_left_ms": 30000, **fields})


def finished(replays):
    return pb.OperationInfo(state=pb.STATE_DONE, revision=FINISHED, operation="POST /charges", attempt=2, owner="sweeper",
                            begun_ms=BEGUN_MS, done_ms=DONE_MS, expires_ms=EXPIRES_MS, kind=pb.OUTCOME_KIND_SUCCEEDED,
                            replays=replays)


def refusal(code, reason="", field="", message=""):
    return {"status": pb.Status(code=code, reason=reason, field=field, message=message)}


def invalid(field, why):
    return refusal(pb.CODE_INVALID_ARGUMENT, "INVALID_ARGUMENT", field, f"{field} {why}")


# What a daemon whose store is empty says to these bytes, where nothing went before them.
OK = {"code": "CODE_OK"}
GONE = {"code": "CODE_OK", "ownership": "OWNERSHIP_GONE"}
EXECUTE = {"code": "CODE_OK", "answer": "ANSWER_EXECUTE"}
NOT_FOUND = {"code": "CODE_NOT_FOUND", "reason": "NOT_FOUND", "field": "get.op"}


def bad(field, reason="INVALID_ARGUMENT"):
    return {"code": "CODE_INVALID_ARGUMENT", "reason": reason, "field": field}


# Name of the request, what it is, what it is answered alone; name of the answer, what that is. In the order of the conversation.
CONVERSATION = [
    ("hello.request", {"hello": pb.HelloRequest(client="example 1.0", namespace="pay")}, OK,
     "hello.answer", {"hello": pb.HelloResponse(
         server="idemd 0.1.0", instance=0x1111111111111111, store_id=0x2222222222222222, connection=0x3333333333333333,
         now_ms=1700000000000, durable=True, max_frame_bytes=1310720, max_outcome_bytes=1048576, max_wait_ms=60000,
         policy=pb.Policy(keep_ms=86400000, keep_min_ms=1000, keep_max_ms=7776000000, lease_ms=30000, grace_ms=5000,
                          if_interrupted=pb.IF_INTERRUPTED_REPORT))}),
    ("hello.second", {"hello": pb.HelloRequest()}, OK,
     "hello.twice", refusal(pb.CODE_FAILED_PRECONDITION, "HELLO_TWICE", "hello", "hello: a connection says it once")),

    ("begin.request", begin_order(attempt_id=ATTEMPT, owner="api-7", input=b"17 EUR"), EXECUTE,
     "begin.execute", {"begin": BR(answer=BR.ANSWER_EXECUTE, grant=pb.Grant(fence=FIRST, lease_ms=30000, attempt=1),
                                   info=running(FIRST))}),
    ("begin.resend", begin_order(attempt_id=ATTEMPT, owner="api-7", input=b"17 EUR"), EXECUTE,
     "begin.resumed", {"begin": BR(answer=BR.ANSWER_EXECUTE, info=running(FIRST),
                                   grant=pb.Grant(fence=FIRST, lease_ms=30000, attempt=1, resumed=True))}),
    ("begin.by-another", begin_order(attempt_id=ATTEMPT[::-1], owner="api-8"), EXECUTE,
     "begin.running", {"begin": BR(answer=BR.ANSWER_RUNNING, info=running(FIRST, lease_left_ms=29000), running=pb.Running(
         owner="api-7", lease_left_ms=29000, retry_after_ms=1000))}),
    ("begin.other-request", begin_order(fingerprint=b"\x22" * 32), EXECUTE,
     "begin.mismatch", {"begin": BR(answer=BR.ANSWER_MISMATCH, mismatch=pb.Mismatch(fingerprint=True), info=pb.OperationInfo(
         state=pb.STATE_RUNNING, begun_ms=BEGUN_MS, lease_left_ms=29000))}),
    ("begin.too-old", begin(op=pb.OperationId(namespace="pay", key="order-9"), first_sent_ms=1600000000000),
     {"code": "CODE_OK", "answer": "ANSWER_EXPIRED"},
     "begin.expired", {"begin": BR(answer=BR.ANSWER_EXPIRED, window=pb.Window(now_ms=1700000001000, keep_ms=86400000))}),
    ("begin.without-a-key", begin(op=pb.OperationId(namespace="pay")), bad("begin.op.key"),
     "begin.refused", invalid("begin.op.key", "is missing; it takes 1 to 255 bytes")),

    ("renew.request", {"renew": pb.RenewRequest(op=ORDER, fence=FIRST, lease_ms=60000)}, GONE,
     "renew.held", {"renew": pb.RenewResponse(ownership=pb.OWNERSHIP_HELD, lease_ms=60000)}),
    ("renew.too-short", {"renew": pb.RenewRequest(op=ORDER, fence=FIRST, lease_ms=500)}, bad("renew.lease_ms"),
     "renew.refused", invalid("renew.lease_ms", "is 500; it takes 0 or 1000 to 86400000")),
    ("checkpoint.request", {"checkpoint": pb.CheckpointRequest(op=ORDER, fence=FIRST, checkpoint=CHECKPOINT)}, GONE,
     "checkpoint.held", {"checkpoint": pb.CheckpointResponse(ownership=pb.OWNERSHIP_HELD, lease_ms=60000)}),
    ("checkpoint.without-a-name", {"checkpoint": pb.CheckpointRequest(op=ORDER, fence=FIRST, checkpoint=pb.Checkpoint(data=b"x"))},
     bad("checkpoint.checkpoint.name"),
     "checkpoint.refused", invalid("checkpoint.checkpoint.name", "is missing; it takes 1 to 64 bytes")),
    ("get.while-running", {"get": pb.GetRequest(op=ORDER)}, NOT_FOUND,
     "get.running", {"get": pb.GetResponse(info=running(SAVED, lease_left_ms=59000), checkpoint=CHECKPOINT)}),
    ("resolve.too-early", {"resolve": pb.ResolveRequest(op=ORDER, revision=SAVED, verdict=pb.VERDICT_DID_NOT_HAPPEN)}, GONE,
     "resolve.refused", refusal(pb.CODE_FAILED_PRECONDITION, "NOT_INTERRUPTED", "resolve.revision",
                                "resolve: only an interrupted operation, at the revision that it has")),

    ("release.request", {"release": pb.ReleaseRequest(op=ORDER, fence=FIRST, effect=pb.EFFECT_UNKNOWN)}, GONE,
     "release.held", {"release": pb.ReleaseResponse(ownership=pb.OWNERSHIP_HELD, state=pb.STATE_INTERRUPTED)}),
    ("release.without-effect", {"release": pb.ReleaseRequest(op=ORDER, fence=FIRST)}, bad("release.effect"),
     "release.refused", invalid("release.effect", "is missing; it takes 1 to 3")),
    ("begin.report", begin_order(attempt_id=ATTEMPT[::-1], if_interrupted=pb.IF_INTERRUPTED_REPORT), EXECUTE,
     "begin.interrupted", {"begin": BR(answer=BR.ANSWER_INTERRUPTED, checkpoint=CHECKPOINT, info=running(
         DOUBTED, state=pb.STATE_INTERRUPTED, lease_left_ms=0, interrupted_ms=INTERRUPTED_MS))}),

    ("recover.request", {"recover": pb.RecoverRequest(
        namespace="pay", operation="POST /charges", owner="sweeper", limit=10, attempt_id=ATTEMPT)}, OK,
     "recover.granted", {"recover": pb.RecoverResponse(operations=[pb.Recovered(
         op=ORDER, fingerprint=FINGERPRINT, info=running(AGAIN, attempt=2, owner="sweeper"), grant=pb.Grant(
             fence=AGAIN, lease_ms=30000, attempt=2, checkpoint=CHECKPOINT, input=b"17 EUR"))])}),
    ("recover.too-many", {"recover": pb.RecoverRequest(namespace="pay", limit=101)}, bad("recover.limit"),
     "recover.refused", invalid("recover.limit", "is 101; it takes 0 to 100")),
    ("renew.by-the-first", {"renew": pb.RenewRequest(op=ORDER, fence=FIRST)}, GONE,
     "renew.lost", {"renew": pb.RenewResponse(ownership=pb.OWNERSHIP_LOST)}),

    ("complete.request", {"complete": pb.CompleteRequest(op=ORDER, fence=AGAIN, outcome=OUTCOME)}, GONE,
     "complete.held", {"complete": pb.CompleteResponse(ownership=pb.OWNERSHIP_HELD, expires_ms=EXPIRES_MS)}),
    ("complete.otherwise", {"complete": pb.CompleteRequest(
        op=ORDER, fence=AGAIN, outcome=pb.Outcome(kind=pb.OUTCOME_KIND_FAILED, code=-2))}, GONE,
     "complete.final", {"complete": pb.CompleteResponse(ownership=pb.OWNERSHIP_FINAL, outcome=STORED, expires_ms=EXPIRES_MS)}),
    ("complete.without-outcome", {"complete": pb.CompleteRequest(op=ORDER, fence=AGAIN)}, bad("complete.outcome"),
     "complete.refused", invalid("complete.outcome", "is missing")),
    ("begin.late", begin_order(attempt_id=ATTEMPT[::-1], wait_ms=1000), EXECUTE,
     "begin.replay", {"begin": BR(answer=BR.ANSWER_REPLAY, outcome=STORED, info=finished(1))}),
    ("get.request", {"get": pb.GetRequest(op=ORDER)}, NOT_FOUND,
     "get.done", {"get": pb.GetResponse(info=finished(1), outcome=STORED)}),
    ("list.request", {"list": pb.ListRequest(namespace="pay", state=pb.STATE_DONE)}, OK,
     "list.page", {"list": pb.ListResponse(operations=[pb.Listed(op=ORDER, info=finished(1))])}),

    ("begin.least", begin(op=OTHER), EXECUTE,
     "begin.least-execute", {"begin": BR(answer=BR.ANSWER_EXECUTE, grant=pb.Grant(fence=SECOND, lease_ms=30000, attempt=1),
                                         info=running(SECOND, operation="", owner=""))}),
    ("begin.in-time", {"timeout_ms": 1, **begin(op=OTHER, wait_ms=60000)}, EXECUTE,
     "begin.timeout", refusal(pb.CODE_DEADLINE_EXCEEDED, "TIMEOUT", "timeout_ms",
                              "timeout_ms passed while the call waited; it had no effect")),
    ("list.first", {"list": pb.ListRequest(limit=1)}, OK,
     "list.more", {"list": pb.ListResponse(cursor=b"\x01\x23\x45\x67", operations=[pb.Listed(
         op=OTHER, info=running(SECOND, operation="", owner="", lease_left_ms=29000))])}),
    ("list.bad-cursor", {"list": pb.ListRequest(cursor=b"none of ours")}, bad("list.cursor", "BAD_CURSOR"),
     "list.refused", refusal(pb.CODE_INVALID_ARGUMENT, "BAD_CURSOR", "list.cursor",
                             "list.cursor: not a cursor that this daemon gave")),
    ("stats.request", {"stats": pb.StatsRequest(namespace="pay")}, OK,
     "stats.answer", {"stats": pb.StatsResponse(metrics=[
         pb.Metric(name="idemd_started_ms", value=1700000000000,
                   help="Unix time at which this daemon started, and counts from"),
         pb.Metric(name="idemd_running", labels=[pb.Label(name="namespace", value="pay")], value=1,
                   help="operations with an owner"),
         pb.Metric(name="idemd_interrupted", labels=[pb.Label(name="namespace", value="pay")],
                   help="operations whose owner is gone and whose effect nobody knows")])}),
    ("stats.too-long", {"stats": pb.StatsRequest(namespace="n" * 65)}, bad("stats.namespace"),
     "stats.refused", invalid("stats.namespace", "has 65 bytes; it takes 0 to 64")),

    ("begin.waiting", begin(op=OTHER, wait_ms=60000), EXECUTE, "begin.cancelled", refusal(
        pb.CODE_CANCELLED, "CANCELLED", "", "cancelled by its own connection")),
    ("cancel.request", {"cancel": pb.CancelRequest(id=0)}, OK,  # its id becomes that of begin.waiting
     "cancel.answer", {"cancel": pb.CancelResponse(cancelled=True)}),
    ("cancel.nothing", {"cancel": pb.CancelRequest()}, bad("cancel.id"),
     "cancel.refused", invalid("cancel.id", "is missing; it takes 1 to 18446744073709551615")),

    ("release.in-doubt", {"release": pb.ReleaseRequest(op=OTHER, fence=SECOND, effect=pb.EFFECT_UNKNOWN)}, GONE,
     "release.interrupted", {"release": pb.ReleaseResponse(ownership=pb.OWNERSHIP_HELD, state=pb.STATE_INTERRUPTED)}),
    ("get.in-doubt", {"get": pb.GetRequest(op=OTHER)}, NOT_FOUND,
     "get.interrupted", {"get": pb.GetResponse(info=running(IN_DOUBT, state=pb.STATE_INTERRUPTED, operation="", owner="", lease_left_ms=0,
                                                            interrupted_ms=INTERRUPTED_MS))}),
    ("resolve.request", {"resolve": pb.ResolveRequest(
        op=OTHER, revision=IN_DOUBT, verdict=pb.VERDICT_HAPPENED, reason="seen in the ledger",
        outcome=pb.Outcome(kind=pb.OUTCOME_KIND_SUCCEEDED, code=201))}, GONE,
     "resolve.held", {"resolve": pb.ResolveResponse(ownership=pb.OWNERSHIP_HELD, expires_ms=EXPIRES_MS)}),

    ("forget.request", {"forget": pb.ForgetRequest(op=ORDER, revision=FINISHED, reason="ticket 88")}, GONE,
     "forget.held", {"forget": pb.ForgetResponse(ownership=pb.OWNERSHIP_HELD)}),
    ("forget.stale", {"forget": pb.ForgetRequest(op=OTHER, revision=IN_DOUBT)}, GONE,
     "forget.refused", refusal(pb.CODE_FAILED_PRECONDITION, "WRONG_REVISION", "forget.revision",
                               "forget: only a finished operation, at the revision that it has")),
    ("get.absent", {"get": pb.GetRequest(op=ORDER)}, NOT_FOUND,
     "get.not-found", refusal(pb.CODE_NOT_FOUND, "NOT_FOUND", "get.op",
                              "get.op: there is no operation with this namespace, caller and key")),
    ("complete.too-late", {"complete": pb.CompleteRequest(op=ORDER, fence=AGAIN, outcome=OUTCOME)}, GONE,
     "complete.gone", {"complete": pb.CompleteResponse(ownership=pb.OWNERSHIP_GONE)}),

    ("begin.traced", {"traceparent": TRACEPARENT, **begin(op=ORDER, bind_to_connection=True)}, EXECUTE,
     "begin.traced-execute", {"begin": BR(answer=BR.ANSWER_EXECUTE, grant=pb.Grant(fence=THIRD, lease_ms=30000, attempt=1),
                                          info=running(THIRD, operation="", owner="", traceparent=TRACEPARENT))}),
    ("release.nothing-done", {"release": pb.ReleaseRequest(op=ORDER, fence=THIRD, effect=pb.EFFECT_NONE_BY_ME)}, GONE,
     "release.free-again", {"release": pb.ReleaseResponse(ownership=pb.OWNERSHIP_HELD)}),
    ("recover.waiting", {"recover": pb.RecoverRequest(namespace="pay", wait_ms=60000)}, None,  # it waits
     "recover.draining", refusal(pb.CODE_UNAVAILABLE, "DRAINING", "", "the daemon is shutting down; ask again when it is back")),
]
DRAINED = "recover.waiting"  # answered when the daemon is told to end
CANCELLED = "begin.waiting"  # answered when cancel.request comes

# Answers that are no part of the conversation: the daemon's other refusals.
REFUSALS = [
    ("refusals.store-full", refusal(pb.CODE_RESOURCE_EXHAUSTED, "STORE_FULL", "", "the store is full")),
    ("refusals.later", {"status": pb.Status(code=pb.CODE_RESOURCE_EXHAUSTED, reason="TOO_MANY_WAITERS", field="begin.wait_ms",
                                            message="wait_ms: 256 calls of this connection wait, and no more can",
                                            retry_after_ms=500)}),
    ("refusals.token", refusal(pb.CODE_UNAUTHENTICATED, "", "hello.token", "hello.token is not one of this listener's")),
    ("refusals.right", refusal(pb.CODE_PERMISSION_DENIED, "", "", "resolve needs the right to operate")),
    ("refusals.damaged", refusal(pb.CODE_DATA_LOSS, "DAMAGED", "",
                                 "the stored record of this operation is damaged; Forget removes it")),
    ("refusals.bug", refusal(pb.CODE_INTERNAL, "UNPACK", "", "the request could not be unpacked")),
    ("refusals.frame", refusal(pb.CODE_INVALID_ARGUMENT, "BAD_FRAME", "", "frame: its flag byte is not 0")),
]


def varint(value):
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def field(number, data):
    """A field that is a length and bytes."""
    return varint(number << 3 | 2) + varint(len(data)) + data


GET = pb.GetRequest(op=ORDER).SerializeToString(deterministic=True)


def get(number):
    return b"\x08" + varint(number) + field(16, GET)


def with_key(key):
    """A Begin whose key is these bytes, whatever they are."""
    return b"\x08\x01" + field(11, field(1, field(1, b"pay") + field(3, key)))


NO_FRAME = {"id": "0", "code": "CODE_INVALID_ARGUMENT", "reason": "BAD_FRAME", "closes": True}
UNKNOWN_CALL = {"code": "CODE_UNIMPLEMENTED", "reason": "UNKNOWN_CALL"}

# Whole frames that are no Request, or no good one; what that is; the daemon's word.
BAD = [
    ("bad.flag-byte", frame(get(1), flag=1), "The flag byte is not 0.", NO_FRAME),
    ("bad.too-long", struct.pack(">BI", 0, 1310721), "One byte longer than max_frame_bytes: refused at the header.", NO_FRAME),
    ("bad.empty", frame(b""), "No id.", NO_FRAME),
    ("bad.id-0", frame(b"\x08\x00" + field(16, GET)), "The id is 0.", NO_FRAME),
    ("bad.truncated-varint", frame(b"\x08\xff"), "A varint that is cut off.", NO_FRAME),
    ("bad.endless-varint", frame(b"\x08" + b"\xff" * 10 + b"\x01"), "A varint of more than ten bytes.", NO_FRAME),
    ("bad.length", frame(b"\x08\x01\x82\x01\x7f"), "A length that reaches beyond the message.", NO_FRAME),
    ("bad.field-0", frame(b"\x00\x01" + get(1)), "Field number 0.", NO_FRAME),
    ("bad.group", frame(get(1) + b"\x9b\x06\x9c\x06"), "A group: wire types 3 and 4 are of an older protobuf.", NO_FRAME),
    ("bad.wire-type", frame(b"\x08\x01\x80\x01\x00"), "get (16) is written as a number, and is a message.", NO_FRAME),
    ("bad.no-call", frame(b"\x08\x01"), "A Request without a call.", bad("call")),
    ("bad.two-calls", frame(get(1) + field(20, b"")), "Two calls in one Request.", bad("call")),
    ("bad.call-twice", frame(get(1) + field(16, GET)), "The same call twice: nothing is merged.", bad("call")),
    ("bad.field-twice", frame(b"\x08\x01" + field(16, GET + b"\x10\x01\x10\x00")), "get.wait_ms twice.", bad("get.wait_ms")),
    ("bad.nul", frame(with_key(b"a\0b")), "A string with U+0000.", bad("begin.op.key")),
    ("bad.no-utf8", frame(with_key(b"a\xffb")), "A string with a byte that UTF-8 never has.", bad("begin.op.key")),
    ("bad.overlong", frame(with_key(b"a\xc0\xafb")), "A string with an overlong form of '/'.", bad("begin.op.key")),
    ("bad.surrogate", frame(with_key(b"a\xed\xa0\x80b")), "A string with half of a surrogate pair.", bad("begin.op.key")),
    ("bad.empty-key", frame(with_key(b"")), "A key of 0 bytes.", bad("begin.op.key")),
    ("bad.key-of-256", frame(with_key(b"k" * 256)), "A key of 256 bytes.", bad("begin.op.key")),
    ("bad.enum", frame(b"\x08\x01" + field(20, b"\x10\x04")), "A state that no daemon knows: list.state is 4.", bad("list.state")),
    ("bad.33-bits", frame(b"\x08\x01" + field(16, GET + b"\x10" + varint(1 << 32))), "A number that its 32 bits do not hold.",
     bad("get.wait_ms")),
    ("bad.17-unknown", frame(get(1) + 17 * b"\xa0\x06\x01"), "17 unknown fields in one message.", bad("")),
    ("bad.unknown-call", frame(b"\x08\x01\xfa\x3f\x00"), "A call that this daemon does not know: field 1023.", UNKNOWN_CALL),
]

# Odd, and good.
ODD = [
    ("odd.16-unknown", frame(get(1) + 16 * b"\xa0\x06\x01"), "16 unknown fields are skipped.", {"id": "1", **NOT_FOUND}),
    ("odd.order", frame(field(16, GET) + b"\x08\x01"), "Fields in another order.", {"id": "1", **NOT_FOUND}),
    ("odd.defaults", frame(b"\x08\x01\x10\x00" + field(16, GET + b"\x10\x00")), "Defaults that are written out.",
     {"id": "1", **NOT_FOUND}),
    ("odd.long-varint", frame(b"\x08\x81\x80\x00" + field(16, GET)), "A varint with zeros in front.", {"id": "1", **NOT_FOUND}),
    ("odd.largest-id", frame(get((1 << 64) - 1)), "The largest id.", {"id": "18446744073709551615", **NOT_FOUND}),
    ("odd.utf8", frame(with_key("süß 🂡".encode())), "A key in UTF-8.", {"id": "1", **EXECUTE}),
]


def begun(**fields):
    return frame(pb.Response(id=3, begin=BR(**fields)))


GRANT = pb.Grant(fence=FIRST, lease_ms=30000, attempt=1)
GRANTED = pb.Response(id=3, begin=BR(answer=BR.ANSWER_EXECUTE, grant=GRANT)).SerializeToString(deterministic=True)
# Answers to a Begin with id 3, and whether the client may run.
STRANGE = [
    ("strange.nothing", frame(pb.Response(id=3)), "Neither status nor result.", False),
    ("strange.ok-and-nothing", frame(b"\x08\x03\x12\x02\x08\x00"), "Status OK, and no result.", False),
    ("strange.no-answer", begun(), "A result without an answer.", False),
    ("strange.answer-7", begun(answer=7, grant=GRANT), "An answer of a later version, even with a grant.", False),
    ("strange.no-grant", begun(answer=BR.ANSWER_EXECUTE), "EXECUTE without a grant.", False),
    ("strange.fence-0", begun(answer=BR.ANSWER_EXECUTE, grant=pb.Grant(lease_ms=30000, attempt=1)), "A grant without a fence.", False),
    ("strange.other-call", frame(pb.Response(id=3, renew=pb.RenewResponse(ownership=pb.OWNERSHIP_HELD))),
     "The result of another call.", False),
    ("strange.status-and-grant", frame(pb.Response(id=3, status=pb.Status(code=pb.CODE_INTERNAL), begin=BR(
        answer=BR.ANSWER_EXECUTE, grant=GRANT))), "A status that is not OK, and a grant: the status counts.", False),
    ("strange.code-99", frame(pb.Response(id=3, status=pb.Status(code=99))), "A status code of a later version.", False),
    ("strange.flag-byte", frame(GRANTED, flag=1), "The flag byte is not 0.", False),
    ("strange.truncated", frame(b"\x08\x03\x5a\x7f\x08\x01"), "No Response: a length that reaches beyond it.", False),
    ("strange.unknown-field", frame(GRANTED + b"\xfa\x3f\x00"), "EXECUTE, and a field of a later version, which is skipped.", True),
]
UNREADABLE = ("strange.flag-byte", "strange.truncated")

CLASSES = {
    pb.CODE_OK: "answered", pb.CODE_INVALID_ARGUMENT: "wrong", pb.CODE_NOT_FOUND: "final", pb.CODE_FAILED_PRECONDITION: "final",
    pb.CODE_DATA_LOSS: "final", pb.CODE_UNAUTHENTICATED: "not done", pb.CODE_PERMISSION_DENIED: "not done",
    pb.CODE_RESOURCE_EXHAUSTED: "not done", pb.CODE_DEADLINE_EXCEEDED: "not done", pb.CODE_CANCELLED: "not done",
    pb.CODE_UNIMPLEMENTED: "not done", pb.CODE_UNAVAILABLE: "unknown", pb.CODE_INTERNAL: "unknown",
}


def _meaning(kind, data):
    """What protobuf reads: as JSON, and whether it would write the same bytes."""
    meaning = json_format.MessageToDict(kind.FromString(data))
    again = json_format.ParseDict(meaning, kind()).SerializeToString(deterministic=True)
    return meaning, again == data


def _vector(name, direction, data, verdict, says=None, answered_by=None, readable=True):
    kind = pb.Request if direction == "request" else pb.Response
    meaning, canonical = _meaning(kind, data[5:]) if readable else (None, False)
    vector = {"name": name, "direction": direction, "says": says, "hex": data.hex(), "canonical": canonical, "meaning": meaning,
              "answered_by": answered_by, "verdict": verdict}
    return {key: value for key, value in vector.items() if value is not None or key == "meaning"}


def _answer(name, message):
    run = message.begin.answer == BR.ANSWER_EXECUTE or len(message.recover.operations) > 0
    return _vector(name, "answer", frame(message), {"class": CLASSES[message.status.code], "run": run})


def vectors():
    """All of them, in order."""
    out, waiting = [], 0
    for number, (name, call, verdict, answer_name, result) in enumerate(CONVERSATION, 1):
        waiting = number if name == CANCELLED else waiting
        call = {"cancel": pb.CancelRequest(id=waiting)} if name == "cancel.request" else call
        verdict = {"waits": True} if verdict is None else {"id": str(number), **verdict}
        out.append(_vector(name, "request", frame(pb.Request(id=number, **call)), verdict, answered_by=answer_name))
        out.append(_answer(answer_name, pb.Response(id=number, **result)))
    for number, (name, result) in enumerate(REFUSALS, 1):
        out.append(_answer(name, pb.Response(id=0 if name == "refusals.frame" else number, **result)))
    for name, data, says, verdict in BAD:
        out.append(_vector(name, "request", data, {"id": "1", **verdict}, says, readable=False))
    for name, data, says, verdict in ODD:
        out.append(_vector(name, "request", data, verdict, says))
    for name, data, says, run in STRANGE:
        out.append(_vector(name, "answer", data, {"class": "answered" if run else "unknown", "run": run}, says,
                           readable=name not in UNREADABLE))
    return out
