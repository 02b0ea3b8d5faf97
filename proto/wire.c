/* Fields of any kind, read part by part; and the one field that is written here: what takes the place of others. */
#include "proto/wire.h"

#include <assert.h>
#include <endian.h>
#include <string.h>

#include "proto/frame.h"

/* The readers return how many bytes they took, 0 where there is no such thing. */
static size_t read_tag(const uint8_t *data, size_t size, struct wire_field *field)
{
    uint64_t tag = 0;
    const size_t taken = frame_get_varint(data, size, &tag);

    if (taken == 0 || taken > WIRE_TAG_BYTES_MAX || tag >> 3 == 0 || tag >> 3 > WIRE_NUMBER_MAX)
        return 0;
    field->number = (uint32_t)(tag >> 3);
    field->type = (ProtobufCWireType)(tag & 7);
    return taken;
}

static size_t read_fixed(const uint8_t *data, size_t size, size_t width, uint64_t *value)
{
    uint64_t found = 0;

    if (size < width)
        return 0;
    memcpy(&found, data, width);
    *value = le64toh(found);
    return width;
}

static size_t read_bytes(const uint8_t *data, size_t size, struct wire_field *field)
{
    const size_t taken = frame_get_varint(data, size, &field->value);

    if (taken == 0 || taken > WIRE_LENGTH_BYTES_MAX || field->value > size - taken)
        return 0;
    field->bytes = data + taken;
    return taken + (size_t)field->value;
}

static size_t read_value(const uint8_t *data, size_t size, struct wire_field *field)
{
    field->bytes = data;
    switch ((int)field->type) {
    case PROTOBUF_C_WIRE_TYPE_VARINT:
        return frame_get_varint(data, size, &field->value);
    case PROTOBUF_C_WIRE_TYPE_64BIT:
        return read_fixed(data, size, 8, &field->value);
    case PROTOBUF_C_WIRE_TYPE_32BIT:
        return read_fixed(data, size, 4, &field->value);
    case PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED:
        return read_bytes(data, size, field);
    default: /* groups, and two that mean nothing */
        return 0;
    }
}

bool wire_read_any(const uint8_t *data, size_t size, struct wire_field *field)
{
    const size_t tag_bytes = read_tag(data, size, field);
    size_t value_bytes;

    if (tag_bytes == 0)
        return false;
    value_bytes = read_value(data + tag_bytes, size - tag_bytes, field);
    field->size = tag_bytes + value_bytes;
    return value_bytes > 0;
}

void wire_put_filler(uint8_t *out, size_t size, uint32_t number)
{
    size_t length = size - WIRE_FILLER_BYTES_MIN;

    assert(size >= WIRE_FILLER_BYTES_MIN && length <= INT32_MAX);
    assert(number >= 1 && number <= 15);
    memset(out, 0, size);
    out[0] = (uint8_t)(number << 3 | PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED);
    for (size_t i = 1; i <= WIRE_LENGTH_BYTES_MAX; i++) {
        out[i] = (uint8_t)(length & 0x7f) | (i < WIRE_LENGTH_BYTES_MAX ? 0x80 : 0);
        length >>= 7;
    }
    assert(length == 0);
}
