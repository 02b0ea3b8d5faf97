#!/usr/bin/env python3
"""Holds PROTOCOL.md and the vectors against each other and against what they speak of, without the program that wrote them: every frame
of the document is in the vectors; the bytes mean what is said of them; every message, field, enum, limit and reason has its row, and no
other has."""
import json
import os
import re
import struct
import sys

from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor as F

from document import Document, number
from messages import PROTO, TOP, VECTORS, pb

CALLS = [field.name for field in pb.Request.DESCRIPTOR.oneofs_by_name["call"].fields]
TYPES = {F.TYPE_UINT64: "uint64", F.TYPE_UINT32: "uint32", F.TYPE_FIXED64: "fixed64", F.TYPE_SINT32: "sint32", F.TYPE_STRING: "string",
         F.TYPE_BYTES: "bytes", F.TYPE_BOOL: "bool", F.TYPE_DOUBLE: "double"}
problems = []


def hold(condition, what):
    if not condition:
        problems.append(what)


def load():
    vectors = {}
    for name in sorted(os.listdir(VECTORS)):
        with open(os.path.join(VECTORS, name), encoding="utf-8") as file:
            for vector in json.load(file):
                hold(vector["name"] not in vectors, f"{vector['name']} twice")
                hold(vector["name"].split(".")[0] + ".json" == name, f"{vector['name']} is in {name}")
                vectors[vector["name"]] = vector
    return vectors


# ---- The document and the vectors ----

def check_blocks(document, vectors):
    shown = set()
    for block in document.blocks:
        if block.kind != "frame":
            continue
        vector = vectors.get(block.name)
        hold(vector and "".join(left_of(line) for line in block.lines) == vector["hex"], f"{block.name}: other bytes than the vector's")
        hold(block.name not in shown, f"{block.name} is shown twice")
        shown.add(block.name)
        if vector:
            check_reading(block, vector)
    for call in CALLS:
        read = {vectors[name]["direction"] for name in shown if name in vectors and name.startswith(call + ".")}
        hold(read == {"request", "answer"}, f"{call}: no request and answer read field by field")


# ---- Readings ----

def left_of(line):
    return re.match(r" *([0-9a-f]+)", line)[1]


def leaves(message, path=()):
    """(path of names and numbers, value as a reading shows it), in the order of the field numbers."""
    for field, value in message.ListFields():
        for one in value if field.label == F.LABEL_REPEATED else [value]:
            here = path + (f"{field.name} ({field.number})",)
            if field.type == F.TYPE_MESSAGE:
                yield here, f"{one.ByteSize()} bytes"
                yield from leaves(one, here)
            else:
                yield here, shown_value(field, one)


def shown_value(field, value):
    if field.type == F.TYPE_BYTES:
        return f"{len(value)} bytes"
    if field.type == F.TYPE_ENUM:
        return f"{value} {field.enum_type.values_by_number[value].name}"
    return json.dumps(value)


def read_lines(lines):
    """The same out of the lines of a reading."""
    path = []
    for line in lines:
        depth = (len(line) - len(line.lstrip(" "))) // 2
        right = line.strip().partition(" ")[2].strip()
        if not right:  # a long value goes on
            continue
        label, _, value = right.partition(" = ") if " = " in right else right.rstrip(":").partition(", ")
        path[depth:] = [label]
        yield tuple(path), value


def check_reading(block, vector):
    kind = pb.Request if vector["direction"] == "request" else pb.Response
    message = json_format.ParseDict(vector["meaning"], kind())
    hold(block.lines[0].endswith("flag byte: not compressed"), f"{block.name}: no flag byte")
    hold(block.lines[1].endswith(f"length: {message.ByteSize()} bytes"), f"{block.name}: no length")
    hold(list(read_lines(block.lines[2:])) == list(leaves(message)), f"{block.name} is read otherwise than it is")


# ---- The vectors and idem.proto ----

def may_run(data, number):
    """Is this answer to the Begin of that id permission to run? As PROTOCOL.md has it."""
    if len(data) < 5 or data[0] != 0 or len(data) - 5 != struct.unpack(">I", data[1:5])[0]:
        return False
    try:
        response = pb.Response.FromString(data[5:])
    except Exception:  # not the same class in every version of python3-protobuf
        return False
    begin = response.begin
    return (response.id == number and response.status.code == pb.CODE_OK and response.WhichOneof("result") == "begin"
            and begin.answer == pb.BeginResponse.ANSWER_EXECUTE and begin.HasField("grant") and begin.grant.fence != 0)


CLASSES = {
    "wrong": ["INVALID_ARGUMENT"], "final": ["NOT_FOUND", "FAILED_PRECONDITION", "DATA_LOSS"], "unknown": ["UNAVAILABLE", "INTERNAL"],
    "not done": ["RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED", "CANCELLED", "UNAUTHENTICATED", "PERMISSION_DENIED", "UNIMPLEMENTED"]}


def check_answer(vector, data):
    name, verdict, meaning = vector["name"], vector["verdict"], vector["meaning"] or {}
    recovered = bool(meaning.get("recover", {}).get("operations"))
    hold(verdict["run"] == (may_run(data, int(meaning.get("id", "3"))) or recovered), f"{name}: run")
    code = meaning.get("status", {}).get("code")
    classes = [key for key, codes in CLASSES.items() if isinstance(code, str) and code[len("CODE_"):] in codes]
    expected = classes[0] if classes else "answered" if code is None and not name.startswith("strange.") else "unknown"
    hold(verdict["class"] == ("answered" if verdict["run"] else expected), f"{name}: class")


def check_vector(vector):
    name, data = vector["name"], bytes.fromhex(vector["hex"])
    kind = pb.Request if vector["direction"] == "request" else pb.Response
    if vector["meaning"] is None:
        hold("says" in vector and not vector["canonical"], f"{name}: means nothing, and nothing is said of it")
    else:
        hold(data[:5] == struct.pack(">BI", 0, len(data) - 5), f"{name}: header")
        message = kind.FromString(data[5:])
        hold(json_format.MessageToDict(message) == vector["meaning"], f"{name}: the bytes mean something else")
        again = json_format.ParseDict(vector["meaning"], kind()).SerializeToString(deterministic=True)
        hold((again == data[5:]) == vector["canonical"], f"{name}: canonical")
    if vector["direction"] == "answer":
        check_answer(vector, data)
    else:
        hold("waits" in vector["verdict"] or {"id", "code"} <= set(vector["verdict"]), f"{name}: no verdict")


def check_vectors(vectors):
    for vector in vectors.values():
        check_vector(vector)
    for call in CALLS:
        mine = [vector for name, vector in vectors.items() if name.startswith(call + ".")]
        answers = [vector["meaning"] for vector in mine if vector["direction"] == "answer"]
        hold(any(call in vector["meaning"] for vector in mine if vector["direction"] == "request"), f"{call}: no request")
        hold(any(call in answer for answer in answers), f"{call}: no answer")
        hold(any("status" in answer for answer in answers), f"{call}: no error answer")
    for name, vector in vectors.items():
        if "answered_by" in vector:
            answer = vectors[vector["answered_by"]]
            hold(answer["meaning"]["id"] == vector["meaning"]["id"], f"{name}: answered under another id")


# ---- The tables ----

def type_of(field):
    name = field.message_type.name if field.message_type else field.enum_type.name if field.enum_type else TYPES[field.type]
    return name + (", repeated" if field.label == F.LABEL_REPEATED else "")


def check_tables(document):
    file = pb.DESCRIPTOR
    enums = dict(file.enum_types_by_name)
    for name, message in file.message_types_by_name.items():
        enums.update(message.enum_types_by_name)
        expected = [[f"`{field.name}`", str(field.number), type_of(field)] for field in message.fields]
        hold([row[:3] for row in document.rows(name)] == expected, f"the table of {name}")
    for name, enum in enums.items():
        expected = [[f"`{value.name}`", str(value.number)] for value in enum.values]
        hold([row[:2] for row in document.rows(name)] == expected, f"the table of {name}")
    calls = [re.sub(r"\[(\w+)\].*", r"\1", row[0]).lower() for row in document.rows("The calls")]
    hold(calls == CALLS, "the table of calls")


def check_limits(document):
    with open(os.path.join(PROTO, "limits.h"), encoding="utf-8") as file:
        text = file.read()
    found = re.findall(r"^\s+(IDEM_\w+) = ([^,]+),", text, re.M) + re.findall(r"^#define (IDEM_\w+)\s+\((.+)\)$", text, re.M)
    # limits.h has arithmetic of C, which is Python's once its suffixes are gone.
    limits = {name: eval(re.sub(r"(?<=\d)u?l+\b", "", value)) for name, value in found}  # noqa: S307
    hold({row[0].strip("`"): number(row[1]) for row in document.rows("Limits")} == limits, "the table of limits")


def check_errors(document):
    used = set()
    for folder, _, names in os.walk(os.path.join(TOP, "daemon")):
        for name in names:
            if name.endswith(".c"):
                with open(os.path.join(folder, name), encoding="utf-8") as file:
                    used |= set(re.findall(r"\bCODE_([A-Z_]+), \"([A-Z_]+)\"", re.sub(r"\s+", " ", file.read())))
    told = {(row[1].split(",")[0], row[0]) for row in document.rows("Errors", 1)}
    hold(told == used, f"reasons that only one of document and daemon has: {sorted(told ^ used)}")
    codes = {row[0]: int(row[1]) for row in document.rows("Errors")}
    classed = {code for codes_of in CLASSES.values() for code in codes_of}
    hold(codes == {name: pb.Code.Value("CODE_" + name) for name in classed}, "the table of codes")


def main():
    document, vectors = Document(), load()
    check_blocks(document, vectors)
    check_vectors(vectors)
    check_tables(document)
    check_limits(document)
    check_errors(document)
    for problem in problems:
        print(problem)
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
