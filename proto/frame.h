/* Frames: the gRPC length-prefixed message, one flag byte (0), a 4-byte big-endian length, the message.
 * Source of the format: gRPC over HTTP/2, "Length-Prefixed-Message"; here without HTTP/2.
 * Pure functions over bytes, for both sides; no function allocates, all are thread-safe. */
#ifndef IDEM_PROTO_FRAME_H
#define IDEM_PROTO_FRAME_H

#include <stddef.h>
#include <stdint.h>

enum frame_cut {
    FRAME_WHOLE,    /* a message is there */
    FRAME_PARTIAL,  /* more bytes are needed */
    FRAME_BAD_FLAG, /* the flag byte is not 0: not a frame of ours */
    FRAME_TOO_LONG, /* longer than message_bytes_max */
};

/* Looks at the first frame of `data`. FRAME_WHOLE: *message_bytes is its length, and it starts at
 * data + IDEM_FRAME_HEADER_BYTES. FRAME_PARTIAL: *message_bytes is its length where the header is there, else 0.
 * FRAME_TOO_LONG: *message_bytes is what it claims. message_bytes_max does not count the header. */
enum frame_cut frame_cut(const uint8_t *data, size_t size, uint32_t message_bytes_max, uint32_t *message_bytes);

/* Writes the header of a message of message_bytes to out[0 .. IDEM_FRAME_HEADER_BYTES). */
void frame_put_header(uint8_t *out, uint32_t message_bytes);

/* protobuf's base-128 varint (protobuf encoding guide). Most take one byte or two, which is done in place. */
size_t frame_put_long_varint(uint8_t *out, uint64_t value);
size_t frame_get_long_varint(const uint8_t *data, size_t size, uint64_t *value);

/* Writes at most 10 bytes; returns how many. */
static inline size_t frame_put_varint(uint8_t *out, uint64_t value)
{
    if (value < 0x80) {
        out[0] = (uint8_t)value;
        return 1;
    }
    if (value < 0x4000) {
        out[0] = (uint8_t)(value | 0x80);
        out[1] = (uint8_t)(value >> 7);
        return 2;
    }
    return frame_put_long_varint(out, value);
}

/* protobuf's zigzag, which makes small numbers of either sign small: 0, -1, 1, -2 .. become 0, 1, 2, 3 .. Of a number
 * of 32 bits it is the zigzag of sint32. */
static inline uint64_t frame_zigzag(int64_t value)
{
    return (uint64_t)value << 1 ^ (uint64_t)(value >> 63);
}

static inline int64_t frame_unzigzag(uint64_t value)
{
    return (int64_t)(value >> 1) ^ -(int64_t)(value & 1);
}

/* One for each 7 bits up to the highest that is set: 9/64 is a seventh, and exact as far as 64 bits go. */
static inline size_t frame_varint_bytes(uint64_t value)
{
    const unsigned highest = 63 - (unsigned)__builtin_clzll(value | 1);

    return (highest * 9 + 73) / 64;
}

/* The varint of a value that takes so many bytes, 8 at most, as a number that is written little-endian: seven bits move
 * to each byte, by halves, and all bytes but the last say that another follows. */
static inline uint64_t frame_varint_word(uint64_t value, size_t bytes)
{
    value = (value & 0x000000000fffffff) | (value & 0x00fffffff0000000) << 4;
    value = (value & 0x00003fff00003fff) | (value & 0x0fffc0000fffc000) << 2;
    value = (value & 0x007f007f007f007f) | (value & 0x3f803f803f803f80) << 1;
    return value | (0x8080808080808080 & ((UINT64_C(1) << 8 * (bytes - 1)) - 1));
}

/* Reads one varint from data[0 .. size). Returns how many bytes it took, 0 where it is cut off or longer than 10. */
static inline size_t frame_get_varint(const uint8_t *data, size_t size, uint64_t *value)
{
    if (size >= 1 && data[0] < 0x80) {
        *value = data[0];
        return 1;
    }
    if (size >= 2 && data[1] < 0x80) {
        *value = (data[0] & 0x7f) | (uint64_t)data[1] << 7;
        return 2;
    }
    return frame_get_long_varint(data, size, value);
}

#endif
