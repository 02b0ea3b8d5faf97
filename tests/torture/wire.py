"""The messages of idem.proto as dictionaries: encode("Request", {"id": 1, "get": {...}}), decode("Response", bytes).

idem.proto itself is read, so nothing here knows a field. An enum's value is its number; VALUES has it by name. What is decoded is a
Message: a dictionary with the fields that were there, and as attributes all of them, absent ones with their defaults."""
import os
import re
import struct

from .run import TOP

VARINTS = {"uint32", "uint64", "int32", "int64", "bool"}


class Message(dict):
    """What was decoded: message["field"] or message.field."""
    __slots__ = ("schema",)

    def __getattr__(self, name):
        if name in self:
            return self[name]
        field = self.schema.by_name.get(name)
        if field is None:
            raise AttributeError(name)
        return field.default()


class Field:
    def __init__(self, number, name, kind, repeated):
        self.number, self.name, self.kind, self.repeated = number, name, kind, repeated

    def default(self):
        if self.repeated:
            return []
        if self.kind in MESSAGES:
            message = Message()
            message.schema = MESSAGES[self.kind]
            return message
        return {"string": "", "bytes": b"", "bool": False}.get(self.kind, 0)


class Schema:
    def __init__(self):
        self.by_name, self.by_number = {}, {}

    def add(self, field):
        self.by_name[field.name] = self.by_number[field.number] = field


MESSAGES, VALUES = {}, {}


def _read_enum(tokens):
    while (name := next(tokens)) != "}":
        next(tokens)
        VALUES[name] = int(next(tokens))
        next(tokens)


def _read_message(tokens, schema):
    while (word := next(tokens)) != "}":
        if word == "enum":
            next(tokens), next(tokens)
            _read_enum(tokens)
        elif word == "oneof":
            next(tokens), next(tokens)
            _read_message(tokens, schema)
        else:
            repeated = word == "repeated"
            kind = next(tokens) if repeated else word
            name = next(tokens)
            next(tokens)
            schema.add(Field(int(next(tokens)), name, kind, repeated))
            next(tokens)


def _read_proto(path):
    with open(path, encoding="utf-8") as proto:
        text = re.sub(r"//[^\n]*", "", proto.read())
    tokens = iter(re.findall(r'"[^"]*"|[\w.]+|[{}=;()]', text))
    for word in tokens:
        if word == "message":
            schema = MESSAGES[next(tokens)] = Schema()
            next(tokens)
            _read_message(tokens, schema)
        elif word == "enum":
            next(tokens), next(tokens)
            _read_enum(tokens)
        elif word == "service":
            while next(tokens) != "}":
                pass


_read_proto(os.path.join(TOP, "proto", "idem", "v1", "idem.proto"))


def _varint(value):
    data = bytearray()
    while value > 0x7f:
        data.append(value & 0x7f | 0x80)
        value >>= 7
    data.append(value)
    return bytes(data)


def _encode_value(field, value):
    kind = field.kind
    if kind == "fixed64":
        return _varint(field.number << 3 | 1) + struct.pack("<Q", value)
    if kind in MESSAGES or kind in ("string", "bytes"):
        data = encode(kind, value) if kind in MESSAGES else value.encode() if kind == "string" else bytes(value)
        return _varint(field.number << 3 | 2) + _varint(len(data)) + data
    if kind == "sint32":
        value = value << 1 if value >= 0 else (-value << 1) - 1
    return _varint(field.number << 3) + _varint(int(value))


def encode(name, fields):
    schema = MESSAGES[name]
    parts = []
    for key, value in fields.items():
        field = schema.by_name[key]
        if field.repeated:
            parts.extend(_encode_value(field, one) for one in value)
        elif value or field.kind in MESSAGES:
            parts.append(_encode_value(field, value))
    return b"".join(parts)


def _read_varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7f) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _decode_value(kind, wire, data, at):
    if wire == 0:
        value, at = _read_varint(data, at)
        if kind == "sint32":
            value = (value >> 1) ^ -(value & 1)
        return bool(value) if kind == "bool" else value, at
    if wire == 1:
        return struct.unpack_from("<Q", data, at)[0], at + 8
    if wire == 5:
        return struct.unpack_from("<I", data, at)[0], at + 4
    size, at = _read_varint(data, at)
    value = data[at:at + size]
    if len(value) != size:
        raise ValueError("a length reaches beyond the message")
    if kind in MESSAGES:
        value = decode(kind, value)
    elif kind == "string":
        value = value.decode()
    return value, at + size


def decode(name, data):
    message = Message()
    message.schema = MESSAGES[name]
    at = 0
    while at < len(data):
        tag, at = _read_varint(data, at)
        field = message.schema.by_number.get(tag >> 3)
        value, at = _decode_value(field.kind if field else "bytes", tag & 7, data, at)
        if field and field.kind == "double":
            value = struct.unpack("<d", struct.pack("<Q", value))[0]
        if field and field.repeated:
            message.setdefault(field.name, []).append(value)
        elif field:
            message[field.name] = value
    return message


def frame(request):
    """A Request, as a dictionary, as it goes over the wire."""
    data = encode("Request", request)
    return b"\0" + struct.pack(">I", len(data)) + data


class Reader:
    """Takes a stream's bytes and gives out its Responses."""

    def __init__(self):
        self.data = b""

    def feed(self, data):
        """Returns the Responses that are whole now."""
        self.data += data
        found, at = [], 0
        while len(self.data) - at >= 5:
            size = struct.unpack_from(">I", self.data, at + 1)[0]
            if len(self.data) - at < 5 + size:
                break
            found.append(decode("Response", self.data[at + 5:at + 5 + size]))
            at += 5 + size
        self.data = self.data[at:]
        return found
