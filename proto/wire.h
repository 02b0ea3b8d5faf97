/* One field of a protobuf message, as it stands on the wire: read it, know which type it may have.
 * Fields are as protobuf's encoding guide has them: a tag, then a varint, 4 or 8 bytes, or a length and so many bytes.
 * Groups are long gone from the language and are refused. Narrower than the guide where protobuf-c is: a tag or a
 * length takes at most five bytes, so that what is read here is read there. Pure; allocates nothing; for the scan, and
 * for what reads on where the scan has passed. */
#ifndef IDEM_PROTO_WIRE_H
#define IDEM_PROTO_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <protobuf-c/protobuf-c.h>

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

/* As wire_read, whatever stands there. */
bool wire_read_any(const uint8_t *data, size_t size, struct wire_field *field);

/* Reads the field at the start of data[0 .. size). False where none is there: cut off, a group, a field number that
 * cannot be, a varint too long, a length beyond the end.
 *
 * Every field of every message goes through it, so what nearly all of them are is inline: a tag of one byte, then a
 * number or a length of one or two. *field is written in one place, and its address kept by nobody, so that the
 * caller has it in registers. */
__attribute__((always_inline)) static inline bool wire_read(const uint8_t *data, size_t size, struct wire_field *field)
{
    const ProtobufCWireType type = size >= 3 ? (ProtobufCWireType)(data[0] & 0x87) : PROTOBUF_C_WIRE_TYPE_64BIT;
    const bool has_length = type == PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED;
    struct wire_field any;

    if ((has_length || type == PROTOBUF_C_WIRE_TYPE_VARINT) && data[0] >> 3 != 0 && (data[1] & data[2]) < 0x80) {
        const size_t head = data[1] < 0x80 ? 2 : 3;
        const uint64_t value = data[1] < 0x80 ? data[1] : (data[1] & 0x7f) | (uint64_t)data[2] << 7;
        const size_t follow = has_length ? (size_t)value : 0;
        if (follow > size - head)
            return false;
        *field = (struct wire_field){data[0] >> 3, type, value, data + (has_length ? head : 1), head + follow};
        return true;
    }
    if (!wire_read_any(data, size, &any))
        return false;
    *field = any;
    return true;
}

enum {
    WIRE_FILLER_BYTES_MIN = 6, /* a tag of one byte, a length of five */
};

/* Writes one LEN field of zeros that takes exactly out[0 .. size), its length padded. number: 1 .. 15. */
void wire_put_filler(uint8_t *out, size_t size, uint32_t number);

#endif
