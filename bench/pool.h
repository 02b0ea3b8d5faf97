/* The bytes of bodies, fingerprints and attempt ids: the same for every target, different for every key, and such that
 * nothing on the way to the disk can make them smaller. A value is a place in a pool of pseudo-random bytes, so that
 * making one costs a multiplication or two. */
#ifndef IDEM_BENCH_POOL_H
#define IDEM_BENCH_POOL_H

#include <stddef.h>
#include <stdint.h>

enum {
    POOL_VALUE_BYTES_MAX = 1 << 20,
    POOL_KEY_BYTES = 24, /* a key as it is sent */
};

/* What a value is for: two values of one key differ. */
enum pool_use { POOL_BODY, POOL_FINGERPRINT, POOL_OWNER };

/* At least `POOL_VALUE_BYTES_MAX` bytes, the same at each call with the same arguments. */
const uint8_t *pool_value(uint64_t key, enum pool_use use);
/* 16 bytes that no other number has. */
void pool_put_attempt(uint8_t out[16], uint64_t number);
/* The key as 24 hexadecimal digits, without a byte after them. */
void pool_put_key(uint8_t out[POOL_KEY_BYTES], uint64_t key);

#endif
