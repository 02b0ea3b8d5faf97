/* The one field that is written here: what takes the place of others. */
#include "proto/wire.h"

#include <assert.h>
#include <string.h>

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
