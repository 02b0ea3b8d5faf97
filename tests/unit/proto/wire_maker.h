/* Makes Requests for tests of the wire: whole valid ones, and from them, by a field's path, ones with that field
 * replaced, doubled or taken away. Bytes go into buffers of WIRE_ROOM. */
#ifndef IDEM_TESTS_WIRE_MAKER_H
#define IDEM_TESTS_WIRE_MAKER_H

#include <stddef.h>
#include <stdint.h>

#include <protobuf-c/protobuf-c.h>

enum {
    WIRE_ROOM = 2 * 1024 * 1024,
    WIRE_ID = 7, /* of every Request made */
    WIRE_CALL_FIRST = 10,
    WIRE_CALL_LAST = 22,
};

/* Packs a Request with this call and every one of its fields set to something valid. */
size_t wire_make(uint32_t call, uint8_t *out);

/* The Request of the call that `path` starts with; of Begin where it starts with none. */
size_t wire_make_for(const char *path, uint8_t *out);

/* The descriptor of the field at a path; fails the test where there is none. */
const ProtobufCFieldDescriptor *wire_field_at(const char *path);

/* Writes a field: a string or bytes of `value` times 'a', or the number `value`. */
size_t wire_put(uint8_t *out, const ProtobufCFieldDescriptor *field, uint64_t value);
size_t wire_put_bytes(uint8_t *out, uint32_t number, const void *bytes, size_t size);
size_t wire_put_varint(uint8_t *out, uint32_t number, uint64_t value);

/* Copies the message in[0 .. size) of a Request to out, with raw[0 .. raw_bytes) in place of every field at the path,
 * or at the end of the message it would stand in where it stands there nowhere. Lengths around it are put right. A last
 * name that is no field's, as in "begin.op.?", stands nowhere. */
size_t wire_replace(uint8_t *out, const uint8_t *in, size_t size, const char *path, const uint8_t *raw,
                    size_t raw_bytes);

/* The bytes of the first field at a path, tag and all; fails the test where there is none. */
const uint8_t *wire_find(const uint8_t *in, size_t size, const char *path, size_t *field_bytes);

/* Calls visit for every field that a Request can hold, Request's own and nested ones. */
void wire_each_field(void (*visit)(const char *path, const ProtobufCFieldDescriptor *field));

#endif
