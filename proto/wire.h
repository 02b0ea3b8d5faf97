/* One field of a protobuf message, as it stands on the wire: read it, know which type it may have.
 * Pure; allocates nothing; for the scan. */
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
    const uint8_t *bytes; /* of LEN: where they start, in what was read from */
    size_t size;          /* of all of it, from its tag on */
};

/* Reads the field at the start of data[0 .. size). False where none is there: cut off, a group, a field number that
 * cannot be, a varint too long, a length beyond the end. */
bool wire_read(const uint8_t *data, size_t size, struct wire_field *field);

/* How a field that is declared so is written, where it is not packed. */
ProtobufCWireType wire_type_of(ProtobufCType declared);

enum {
    WIRE_FILLER_BYTES_MIN = 6, /* a tag of one byte, a length of five */
};

/* Writes one LEN field of zeros that takes exactly out[0 .. size), its length padded. number: 1 .. 15. */
void wire_put_filler(uint8_t *out, size_t size, uint32_t number);

#endif
