#!/usr/bin/env python3
"""The frames of proto/vectors/ and of PROTOCOL.md's examples, from one list.

    vectors.py            checks files and document against the list, byte for byte, and the bytes against idem.proto
    vectors.py --write    writes them

Needs $IDEMD_BUILD for the generated messages (by way of tests/scenario/harness.py)."""
import json
import os
import re
import struct
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "scenario"))
from harness import TOP, pb  # noqa: E402
from google.protobuf import json_format  # noqa: E402

FOLDER = os.path.join(TOP, "proto", "vectors")
DOCUMENT = os.path.join(TOP, "proto", "PROTOCOL.md")
FENCE = (1700000000 << 20) + 1
OP = pb.OperationId(namespace="pay", caller="acme", key="order-17")
OUTCOME = pb.Outcome(kind=pb.OUTCOME_KIND_SUCCEEDED, code=201, body=b"receipt 17",
                     attributes=[pb.Attribute(name="content-type", value=b"text/plain")])
STORED = pb.Outcome(body_bytes=10)
STORED.MergeFrom(OUTCOME)
RUNNING = pb.OperationInfo(state=pb.STATE_RUNNING, revision=FENCE, operation="POST /charges", attempt=1, owner="api-7",
                           begun_ms=1700000000500, lease_left_ms=30000)
DONE = pb.OperationInfo(state=pb.STATE_DONE, revision=FENCE + 1, operation="POST /charges", attempt=1, owner="api-7",
                        begun_ms=1700000000500, done_ms=1700000000900, expires_ms=1700086400900,
                        kind=pb.OUTCOME_KIND_SUCCEEDED)
ATTEMPT = bytes(range(16))


def request(number, **call):
    return pb.Request(id=number, **call)


def response(number, **result):
    return pb.Response(id=number, **result)


def refused(number, code, reason, field, message):
    return pb.Response(id=number, status=pb.Status(code=code, reason=reason, field=field, message=message))


# call, name, message, what a daemon with an empty store answers (requests), as "CODE" or as a field of the result.
MESSAGES = [
    ("hello", "request", request(1, hello=pb.HelloRequest(client="example 1.0")), "OK"),
    ("hello", "response", response(1, hello=pb.HelloResponse(
        server="idemd 0.1.0", instance=1, store_id=2, connection=3, now_ms=1700000000000, durable=True,
        max_frame_bytes=1310720, max_outcome_bytes=1048576, max_wait_ms=60000,
        policy=pb.Policy(keep_ms=86400000, keep_min_ms=1000, keep_max_ms=7776000000, lease_ms=30000, grace_ms=5000,
                         if_interrupted=pb.IF_INTERRUPTED_REPORT))), None),
    ("hello", "error", refused(2, pb.CODE_FAILED_PRECONDITION, "HELLO_TWICE", "hello", "hello: a connection says it once"), None),
    ("begin", "request", request(2, begin=pb.BeginRequest(
        op=OP, operation="POST /charges", fingerprint=b"\x11" * 32, attempt_id=ATTEMPT, owner="api-7")), "ANSWER_EXECUTE"),
    ("begin", "response-execute", response(2, begin=pb.BeginResponse(
        answer=pb.BeginResponse.ANSWER_EXECUTE, grant=pb.Grant(fence=FENCE, lease_ms=30000, attempt=1), info=RUNNING)), None),
    ("begin", "response-replay", response(2, begin=pb.BeginResponse(
        answer=pb.BeginResponse.ANSWER_REPLAY, outcome=STORED, info=DONE)), None),
    ("begin", "request-other", request(3, begin=pb.BeginRequest(
        op=OP, operation="POST /charges", fingerprint=b"\x22" * 32, wait_ms=1000)), "ANSWER_MISMATCH"),
    ("begin", "response-mismatch", response(3, begin=pb.BeginResponse(
        answer=pb.BeginResponse.ANSWER_MISMATCH, mismatch=pb.Mismatch(fingerprint=True),
        info=pb.OperationInfo(state=pb.STATE_RUNNING, begun_ms=1700000000500, lease_left_ms=29000))), None),
    ("begin", "request-bad", request(4, begin=pb.BeginRequest(op=pb.OperationId(namespace="pay"))), "INVALID_ARGUMENT"),
    ("begin", "error", refused(4, pb.CODE_INVALID_ARGUMENT, "INVALID_ARGUMENT", "begin.op.key",
                               "begin.op.key is missing; it takes 1 to 255 bytes"), None),
    ("renew", "request", request(5, renew=pb.RenewRequest(op=OP, fence=FENCE, lease_ms=60000)), "OWNERSHIP_GONE"),
    ("renew", "response", response(5, renew=pb.RenewResponse(ownership=pb.OWNERSHIP_HELD, lease_ms=60000)), None),
    ("renew", "error", refused(5, pb.CODE_INVALID_ARGUMENT, "INVALID_ARGUMENT", "renew.lease_ms",
                               "renew.lease_ms is out of its range"), None),
    ("checkpoint", "request", request(6, checkpoint=pb.CheckpointRequest(
        op=OP, fence=FENCE, checkpoint=pb.Checkpoint(name="captured", data=b"ch_1"))), "OWNERSHIP_GONE"),
    ("checkpoint", "response", response(6, checkpoint=pb.CheckpointResponse(ownership=pb.OWNERSHIP_HELD, lease_ms=60000)), None),
    ("checkpoint", "error", refused(6, pb.CODE_RESOURCE_EXHAUSTED, "STORE_FULL", "", "the store is full"), None),
    ("complete", "request", request(7, complete=pb.CompleteRequest(op=OP, fence=FENCE, outcome=OUTCOME)), "OWNERSHIP_GONE"),
    ("complete", "response-held", response(7, complete=pb.CompleteResponse(
        ownership=pb.OWNERSHIP_HELD, expires_ms=1700086400900)), None),
    ("complete", "response-final", response(7, complete=pb.CompleteResponse(
        ownership=pb.OWNERSHIP_FINAL, outcome=STORED, expires_ms=1700086400900)), None),
    ("complete", "error", refused(7, pb.CODE_UNAVAILABLE, "DRAINING", "", "the daemon is shutting down"), None),
    ("release", "request", request(8, release=pb.ReleaseRequest(op=OP, fence=FENCE, effect=pb.EFFECT_NONE_BY_ME)), "OWNERSHIP_GONE"),
    ("release", "response", response(8, release=pb.ReleaseResponse(
        ownership=pb.OWNERSHIP_HELD, state=pb.STATE_INTERRUPTED)), None),
    ("release", "request-bad", request(9, release=pb.ReleaseRequest(op=OP, fence=FENCE)), "INVALID_ARGUMENT"),
    ("release", "error", refused(9, pb.CODE_INVALID_ARGUMENT, "INVALID_ARGUMENT", "release.effect",
                                 "release.effect is missing"), None),
    ("get", "request", request(10, get=pb.GetRequest(op=OP)), "STATE_RUNNING"),
    ("get", "response", response(10, get=pb.GetResponse(info=DONE, outcome=STORED)), None),
    ("get", "request-absent", request(11, get=pb.GetRequest(op=pb.OperationId(namespace="pay", key="nobody"))), "NOT_FOUND"),
    ("get", "error", refused(11, pb.CODE_NOT_FOUND, "NOT_FOUND", "get.op",
                             "get.op: there is no operation with this namespace, caller and key"), None),
    ("recover", "request", request(12, recover=pb.RecoverRequest(
        namespace="pay", operation="POST /charges", owner="sweeper", limit=10, attempt_id=ATTEMPT)), "OK"),
    ("recover", "response", response(12, recover=pb.RecoverResponse(operations=[pb.Recovered(
        op=OP, grant=pb.Grant(fence=FENCE + 9, lease_ms=30000, attempt=2, input=b"17"), info=RUNNING, fingerprint=b"\x11" * 32)])), None),
    ("recover", "error", refused(12, pb.CODE_INVALID_ARGUMENT, "INVALID_ARGUMENT", "recover.limit", "recover.limit is over 100"), None),
    ("resolve", "request", request(13, resolve=pb.ResolveRequest(
        op=OP, revision=FENCE, verdict=pb.VERDICT_HAPPENED, outcome=OUTCOME, reason="seen in the ledger")), "FAILED_PRECONDITION"),
    ("resolve", "response", response(13, resolve=pb.ResolveResponse(
        ownership=pb.OWNERSHIP_HELD, expires_ms=1700086400900)), None),
    ("resolve", "error", refused(13, pb.CODE_FAILED_PRECONDITION, "NOT_INTERRUPTED", "resolve.revision",
                                 "resolve: only an interrupted operation, at the revision that it has"), None),
    ("forget", "request", request(14, forget=pb.ForgetRequest(
        op=pb.OperationId(namespace="pay", key="nobody"), revision=FENCE)), "OWNERSHIP_GONE"),
    ("forget", "response", response(14, forget=pb.ForgetResponse(ownership=pb.OWNERSHIP_HELD)), None),
    ("forget", "error", refused(14, pb.CODE_FAILED_PRECONDITION, "WRONG_REVISION", "forget.revision",
                                "forget: only a finished operation, at the revision that it has"), None),
    ("list", "request", request(15, list=pb.ListRequest(namespace="pay", state=pb.STATE_RUNNING, limit=50)), "OK"),
    ("list", "response", response(15, list=pb.ListResponse(
        operations=[pb.Listed(op=OP, info=RUNNING)], cursor=b"\x02\0\0\0\0\0\0\0\1")), None),
    ("list", "request-bad", request(16, list=pb.ListRequest(cursor=b"none of ours")), "INVALID_ARGUMENT"),
    ("list", "error", refused(16, pb.CODE_INVALID_ARGUMENT, "BAD_CURSOR", "list.cursor",
                              "list.cursor: not a cursor that this daemon gave"), None),
    ("stats", "request", request(17, stats=pb.StatsRequest()), "OK"),
    ("stats", "response", response(17, stats=pb.StatsResponse(metrics=[pb.Metric(
        name="idemd_begins_total", labels=[pb.Label(name="answer", value="REPLAY")], value=12, help="answers to Begin")])), None),
    ("stats", "error", refused(17, pb.CODE_PERMISSION_DENIED, "", "", "not permitted"), None),
    ("cancel", "request", request(18, cancel=pb.CancelRequest(id=99)), "OK"),
    ("cancel", "response", response(18, cancel=pb.CancelResponse(cancelled=True)), None),
    ("cancel", "error", refused(99, pb.CODE_CANCELLED, "CANCELLED", "", "cancelled by its own connection"), None),
]

VALID = request(7, get=pb.GetRequest(op=OP)).SerializeToString()
# What is no Request, or no valid one: name, bytes of the whole frame, meaning, id and code of the answer, is the connection closed?
BAD = [
    ("flag-byte", b"\1" + struct.pack(">I", len(VALID)) + VALID, "the flag byte is not 0", 0, "INVALID_ARGUMENT", True),
    ("too-long", b"\0" + struct.pack(">I", 0x7fffffff), "longer than max_frame_bytes", 0, "INVALID_ARGUMENT", True),
    ("empty", b"\0\0\0\0\0", "a Request without an id", 0, "INVALID_ARGUMENT", True),
    ("id-zero", b"\0" + struct.pack(">I", 2) + b"\x08\0", "id 0", 0, "INVALID_ARGUMENT", True),
    ("truncated-varint", b"\0" + struct.pack(">I", 2) + b"\x08\xff", "a varint that is cut off", 0, "INVALID_ARGUMENT", True),
    ("two-calls", None, "two calls in one Request", 7, "INVALID_ARGUMENT", False),
    ("nul-in-a-string", None, "begin.op.key holds U+0000", 8, "INVALID_ARGUMENT", False),
    ("no-utf8", None, "begin.op.key is not UTF-8", 9, "INVALID_ARGUMENT", False),
    ("unknown-call", None, "a call that this daemon does not know", 10, "UNIMPLEMENTED", False),
]


def frame(message):
    return b"\0" + struct.pack(">I", len(message)) + message


def bad_frames():
    key = request(8, begin=pb.BeginRequest(op=pb.OperationId(namespace="pay", key="a\0b"))).SerializeToString()
    utf8 = request(9, begin=pb.BeginRequest(op=pb.OperationId(namespace="pay", key="abc"))).SerializeToString()
    made = {"two-calls": frame(VALID + request(0, list=pb.ListRequest(limit=1)).SerializeToString()),
            "nul-in-a-string": frame(key), "no-utf8": frame(utf8.replace(b"abc", b"a\xffc")),
            "unknown-call": frame(b"\x08\x0a\xfa\x3f\x00")}
    for name, data, meaning, number, code, closed in BAD:
        yield {"name": name, "hex": made.get(name, data).hex(), "meaning": meaning,
               "answer": {"id": number, "code": code, "closed": closed}}


def vectors():
    """File name -> what stands in it."""
    files = {}
    for call, name, message, answer in MESSAGES:
        data = message.SerializeToString(deterministic=True)
        vector = {"name": name, "message": "Request" if answer else "Response", "hex": frame(data).hex(),
                  "meaning": json_format.MessageToDict(message)}
        if answer:
            vector["answer"] = answer
        files.setdefault(call + ".json", []).append(vector)
    files["bad.json"] = list(bad_frames())
    return files


def folded(text, width=96):
    return "\n".join(text[i:i + width] for i in range(0, len(text), width))


def examples():
    out = []
    for name, content in vectors().items():
        out.append(f"### {name[:-5]}\n")
        for vector in content:
            meaning = vector["meaning"]
            text = meaning if isinstance(meaning, str) else json.dumps(meaning)
            out.append(f"{vector['name']}: `{text}`\n\n```hex\n{folded(vector['hex'])}\n```\n")
    return "\n".join(out)


def check_meanings():
    """The bytes say what they are said to mean, and the meaning makes the same bytes."""
    for content in vectors().values():
        for vector in content:
            if "message" not in vector:
                continue
            kind = getattr(pb, vector["message"])
            data = bytes.fromhex(vector["hex"])
            assert data[0] == 0 and struct.unpack(">I", data[1:5])[0] == len(data) - 5
            assert json_format.MessageToDict(kind.FromString(data[5:])) == vector["meaning"], vector["name"]
            again = json_format.ParseDict(vector["meaning"], kind()).SerializeToString(deterministic=True)
            assert again == data[5:], vector["name"]


def check_document(text):
    shown = {block.replace("\n", "") for block in re.findall(r"```hex\n(.*?)```", text, re.S)}
    kept = {vector["hex"] for content in vectors().values() for vector in content}
    assert shown == kept, "PROTOCOL.md's hex and the vectors differ: vectors.py --write"
    calls = {field.name for field in pb.Request.DESCRIPTOR.oneofs_by_name["call"].fields}
    assert {name[:-5] for name in vectors()} == calls | {"bad"}, "a call without vectors"


def main():
    with open(DOCUMENT, encoding="utf-8") as file:
        document = file.read()
    start, end = "<!-- examples -->\n", "<!-- end of examples -->"
    head, rest = document.split(start)
    made = head + start + examples() + end + rest.split(end)[1]
    files = {name: json.dumps(content, indent=1) + "\n" for name, content in vectors().items()}
    if sys.argv[1:] == ["--write"]:
        os.makedirs(FOLDER, exist_ok=True)
        for name, content in files.items():
            with open(os.path.join(FOLDER, name), "w", encoding="utf-8") as file:
                file.write(content)
        with open(DOCUMENT, "w", encoding="utf-8") as file:
            file.write(made)
        return
    check_meanings()
    check_document(document)
    assert sorted(os.listdir(FOLDER)) == sorted(files)
    for name, content in files.items():
        with open(os.path.join(FOLDER, name), encoding="utf-8") as file:
            assert file.read() == content, name
    assert document == made
    print("ok")


if __name__ == "__main__":
    main()
