/* One field of a protobuf message, as it stands on the wire: read it, know which type it may have.
 * Fields are as protobuf's encoding guide has them: a tag, then a varint, 4 or 8 bytes, or a length and so many bytes.
 * Groups are long gone from the language and are refused. Narrower than the guide where protobuf-c is: a tag or a
 * length takes at most five bytes, so that what is read here is read there. Pure; allocates nothing; for the scan, and
 * for what reads on where the scan has passed. */
#ifndef IDEM_PROTO_WIRE_H
#define IDEM_PROTO_WIRE_H

#include <endian.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <protobuf-c/protobuf-c.h>

#include "proto/frame.h"

struct wire_field {
    uint32_t number;
    ProtobufCWireType type;
    uint64_t value;       /* of one with a length (LEN): how many bytes it holds */
    const uint8_t *bytes; /* of LEN: where they start, in what was read from; of others: where the value does */
    size_t size;          /* of all of it, from its tag on */
};

enum {
    WIRE_TAG_BYTES_MAX = 5,
    WIRE_LENGTH_BYTES_MAX = 5,
    WIRE_NUMBER_MAX = (1 << 29) - 1,
};

/* What stands below up to wire_read is inline since every field of every message goes through it. The readers return
 * how many bytes they took, 0 where there is no such thing. */
static inline size_t wire_read_tag(const uint8_t *data, size_t size, struct wire_field *field)
{
    uint64_t tag = 0;

    if (size > 0 && data[0] < 0x80) { /* nearly all */
        field->number = data[0] >> 3;
        field->type = (ProtobufCWireType)(data[0] & 7);
        return field->number != 0;
    }
    const size_t taken = frame_get_varint(data, size, &tag);
    if (taken == 0 || taken > WIRE_TAG_BYTES_MAX || tag >> 3 == 0 || tag >> 3 > WIRE_NUMBER_MAX)
        return 0;
    field->number = (uint32_t)(tag >> 3);
    field->type = (ProtobufCWireType)(tag & 7);
    return taken;
}

static inline size_t wire_read_fixed(const uint8_t *data, size_t size, size_t width, uint64_t *value)
{
    uint64_t found = 0;

    if (size < width)
        return 0;
    memcpy(&found, data, width);
    *value = le64toh(found);
    return width;
}

static inline size_t wire_read_bytes(const uint8_t *data, size_t size, struct wire_field *field)
{
    const size_t taken = frame_get_varint(data, size, &field->value);

    if (taken == 0 || taken > WIRE_LENGTH_BYTES_MAX || field->value > size - taken)
        return 0;
    field->bytes = data + taken;
    return taken + (size_t)field->value;
}

static inline size_t wire_read_value(const uint8_t *data, size_t size, struct wire_field *field)
{
    field->bytes = data;
    switch ((int)field->type) {
    case PROTOBUF_C_WIRE_TYPE_VARINT:
        return frame_get_varint(data, size, &field->value);
    case PROTOBUF_C_WIRE_TYPE_64BIT:
        return wire_read_fixed(data, size, 8, &field->value);
    case PROTOBUF_C_WIRE_TYPE_32BIT:
        return wire_read_fixed(data, size, 4, &field->value);
    case PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED:
        return wire_read_bytes(data, size, field);
    default: /* groups, and two that mean nothing */
        return 0;
    }
}

/* Reads the field at the start of data[0 .. size). False where none is there: cut off, a group, a field number that
 * cannot be, a varint too long, a length beyond the end. */
__attribute__((always_inline)) static inline bool wire_read(const uint8_t *data, size_t size, struct wire_field *field)
{
    const size_t tag_bytes = wire_read_tag(data, size, field);
    size_t value_bytes;

    if (tag_bytes == 0)
        return false;
    value_bytes = wire_read_value(data + tag_bytes, size - tag_bytes, field);
    field->size = tag_bytes + value_bytes;
    return value_bytes > 0;
}

enum {
    WIRE_FILLER_BYTES_MIN = 6, /* a tag of one byte, a length of five */
};

/* Writes one LEN field of zeros that takes exactly out[0 .. size), its length padded. number: 1 .. 15. */
void wire_put_filler(uint8_t *out, size_t size, uint32_t number);

#endif
