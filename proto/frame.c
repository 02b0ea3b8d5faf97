/* Frames and varints: the few bytes of arithmetic that both sides of a connection share.
 *
 * A reader calls frame_cut() on what it has until a message is whole; a writer puts a header before
 * its message. Nothing is kept between calls. What a peer sends is only ever looked at below the
 * size given; a frame that cannot be one is known by its first byte, or by its first five. */
#include "proto/frame.h"

#include <assert.h>
#include <endian.h>
#include <string.h>

#include "proto/limits.h"

enum {
    VARINT_BYTES_MAX = 10, /* 64 bits in groups of 7 */
    VARINT_MORE = 0x80,    /* another byte follows */
    VARINT_BITS = 0x7f,
};

static uint32_t get_be32(const uint8_t *in)
{
    return (uint32_t)in[0] << 24 | (uint32_t)in[1] << 16 | (uint32_t)in[2] << 8 | in[3];
}

enum frame_cut frame_cut(const uint8_t *data, size_t size, uint32_t message_bytes_max, uint32_t *message_bytes)
{
    assert(data != NULL || size == 0);
    *message_bytes = 0;
    if (size == 0)
        return FRAME_PARTIAL;
    if (data[0] != 0)
        return FRAME_BAD_FLAG;
    if (size < IDEM_FRAME_HEADER_BYTES)
        return FRAME_PARTIAL;
    *message_bytes = get_be32(data + 1);
    if (*message_bytes > message_bytes_max)
        return FRAME_TOO_LONG;
    return size - IDEM_FRAME_HEADER_BYTES < *message_bytes ? FRAME_PARTIAL : FRAME_WHOLE;
}

void frame_put_header(uint8_t *out, uint32_t message_bytes)
{
    out[0] = 0;
    out[1] = (uint8_t)(message_bytes >> 24);
    out[2] = (uint8_t)(message_bytes >> 16);
    out[3] = (uint8_t)(message_bytes >> 8);
    out[4] = (uint8_t)message_bytes;
}

static size_t put_bytewise(uint8_t *out, uint64_t value)
{
    size_t bytes = 0;

    while (value > VARINT_BITS) {
        out[bytes++] = (uint8_t)(value | VARINT_MORE);
        value >>= 7;
    }
    out[bytes++] = (uint8_t)value;
    assert(bytes <= VARINT_BYTES_MAX);
    return bytes;
}

/* The low bytes of a word, three to eight of them: two moves that may overlap. */
static void put_low(uint8_t *out, uint64_t word, size_t bytes)
{
    const size_t half = bytes > 4 ? 4 : 2, last_at = bytes - half;
    const uint64_t first = htole64(word), last = htole64(word >> 8 * last_at);

    if (half == 4) {
        memcpy(out, &first, 4);
        memcpy(out + last_at, &last, 4);
    } else {
        memcpy(out, &first, 2);
        memcpy(out + last_at, &last, 2);
    }
}

size_t frame_put_long_varint(uint8_t *out, uint64_t value)
{
    const size_t bytes = frame_varint_bytes(value);

    if (bytes < 3 || bytes > 8)
        return put_bytewise(out, value);
    put_low(out, frame_varint_word(value, bytes), bytes);
    return bytes;
}

/* The tenth byte has room for one bit. What stands above it is dropped, as protobuf-c does, so that
 * the scan and the unpacked message never see two numbers. */
static size_t get_bytewise(const uint8_t *data, size_t size, uint64_t *value)
{
    uint64_t found = 0;

    for (size_t i = 0; i < size && i < VARINT_BYTES_MAX; i++) {
        found |= (uint64_t)(data[i] & VARINT_BITS) << (7 * i);
        if ((data[i] & VARINT_MORE) == 0) {
            *value = found;
            return i + 1;
        }
    }
    return 0;
}

/* Eight groups of 7 bits, one in each byte, moved together: two by two, then four, then all. */
static uint64_t join_groups(uint64_t groups)
{
    groups = (groups & 0x007f007f007f007f) | (groups & 0x7f007f007f007f00) >> 1;
    groups = (groups & 0x00003fff00003fff) | (groups & 0x3fff00003fff0000) >> 2;
    return (groups & 0x000000000fffffff) | (groups & 0x0fffffff00000000) >> 4;
}

/* Where eight bytes are there and it ends within them, they are taken at once. */
size_t frame_get_long_varint(const uint8_t *data, size_t size, uint64_t *value)
{
    uint64_t word, last;

    assert(data != NULL || size == 0);
    if (size < sizeof(word))
        return get_bytewise(data, size, value);
    memcpy(&word, data, sizeof(word));
    word = le64toh(word);
    last = ~word & 0x8080808080808080; /* bytes that no other follows */
    if (last == 0)
        return get_bytewise(data, size, value);
    *value = join_groups(word & (last ^ (last - 1)) & 0x7f7f7f7f7f7f7f7f); /* up to the first of them */
    return (size_t)__builtin_ctzll(last) / 8 + 1;
}
