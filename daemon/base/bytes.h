/* Views of bytes that somebody else owns, and counted bytes that several share. */
#ifndef IDEMD_BYTES_H
#define IDEMD_BYTES_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

/* A view: borrowed, valid as long as its owner says. {NULL, 0} is empty. */
struct bytes {
    const uint8_t *data;
    uint32_t size;
};

static inline bool bytes_equal(struct bytes a, struct bytes b)
{
    return a.size == b.size && (a.size == 0 || memcmp(a.data, b.data, a.size) == 0);
}

static inline struct bytes bytes_of(const void *data, uint32_t size)
{
    return (struct bytes){data, size};
}

/* Copies them to `out`; returns the end of it. Short ones, as nearly all strings are, take two moves that may overlap,
 * and no call. */
static inline uint8_t *bytes_put(uint8_t *out, struct bytes bytes)
{
    const uint32_t size = bytes.size;
    uint8_t *end = out + size;
    struct {
        uint64_t a, b;
    } first, last;

    if (size > 32) {
        memcpy(out, bytes.data, size);
    } else if (size >= 16) {
        memcpy(&first, bytes.data, 16);
        memcpy(&last, bytes.data + size - 16, 16);
        memcpy(out, &first, 16);
        memcpy(end - 16, &last, 16);
    } else if (size >= 8) {
        memcpy(&first.a, bytes.data, 8);
        memcpy(&last.a, bytes.data + size - 8, 8);
        memcpy(out, &first.a, 8);
        memcpy(end - 8, &last.a, 8);
    } else {
        for (uint32_t i = 0; i < size; i++)
            out[i] = bytes.data[i];
    }
    return end;
}

/* Counted bytes of the loop thread: they may still grow (and move) while their maker fills them, and never change once
 * they were shared. Freed when the last reference goes. */
struct blob {
    uint32_t references;
    uint32_t size;
    uint32_t capacity;
    uint32_t unsent; /* how many parts of answers that were not sent yet hold it: kept by outbox.c */
    uint8_t *data;
};

struct blob *blob_new(uint32_t capacity);  /* one reference, size 0 */
struct blob *blob_hold(struct blob *blob); /* one more; returns blob */
void blob_release(struct blob *blob);      /* one less; NULL is fine */
/* Room for `size` more bytes at the end, which then belong to the blob. Returns their offset. */
uint32_t blob_extend(struct blob *blob, uint32_t size);

/* Some bytes of a blob, by offset since the blob may still move. blob NULL: none. Holding the reference is up to
 * whoever stores the slice. */
struct slice {
    struct blob *blob;
    uint32_t offset;
    uint32_t size;
};

static inline struct bytes slice_bytes(struct slice slice)
{
    return slice.blob ? (struct bytes){slice.blob->data + slice.offset, slice.size} : (struct bytes){NULL, 0};
}

#endif
