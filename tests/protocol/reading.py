"""Reads a frame aloud: each field on a line of its own, its bytes on the left, what they say on the right."""
import json
import struct

from google.protobuf.descriptor import FieldDescriptor as F

WIDTH = 32   # hex digits of one line
COLUMN = 44  # where the right side starts
FIXED = {1: 8, 5: 4}


def varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        shift, at = shift + 7, at + 1
        if byte < 128:
            return value, at


def _number(field, value):
    if field.type == F.TYPE_ENUM:
        return f"{value} {field.enum_type.values_by_number[value].name}"
    if field.type == F.TYPE_BOOL:
        return "true" if value else "false"
    if field.type == F.TYPE_SINT32:
        return str(value >> 1 ^ -(value & 1))
    if field.type == F.TYPE_DOUBLE:
        return repr(struct.unpack("<d", struct.pack("<Q", value))[0])
    return str(value)


def _lines(hex_text, depth, right):
    """Long values go on below."""
    pad = "  " * depth
    out = [f"{pad + hex_text[:WIDTH]:<{COLUMN}}{right}"]
    return out + [pad + hex_text[i:i + WIDTH] for i in range(WIDTH, len(hex_text), WIDTH)]


def _message(descriptor, data, depth):
    out, at = [], 0
    while at < len(data):
        start = at
        key, at = varint(data, at)
        field, wire = descriptor.fields_by_number[key >> 3], key & 7
        label = f"{field.name} ({field.number})"
        if wire == 2:
            size, at = varint(data, at)
            value, end = data[at:at + size], at + size
            if field.message_type:
                out += _lines(data[start:at].hex(), depth, f"{label}, {size} bytes:")
                out += _message(field.message_type, value, depth + 1)
            elif field.type == F.TYPE_STRING:
                out += _lines(data[start:end].hex(), depth, f"{label} = {json.dumps(value.decode())}")
            else:
                out += _lines(data[start:end].hex(), depth, f"{label} = {size} bytes")
            at = end
            continue
        if wire == 0:
            value, at = varint(data, at)
        else:
            value = int.from_bytes(data[at:at + FIXED[wire]], "little")
            at += FIXED[wire]
        out += _lines(data[start:at].hex(), depth, f"{label} = {_number(field, value)}")
    return out


def read(frame, descriptor):
    """A frame that holds one message of that kind, in lines."""
    out = _lines(frame[:1].hex(), 0, "flag byte: not compressed")
    out += _lines(frame[1:5].hex(), 0, f"length: {len(frame) - 5} bytes")
    return "\n".join(out + _message(descriptor, frame[5:], 0))
