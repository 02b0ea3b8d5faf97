/* Twice as long as a value may be: one may start anywhere in the first half. splitmix64 (Steele, Lea and Flood 2014)
 * makes the bytes and spreads the places. */
#include "bench/pool.h"

#include <assert.h>
#include <stdbool.h>
#include <string.h>

enum { STARTS = 1 << 20 };
static uint8_t pool[STARTS + POOL_VALUE_BYTES_MAX];

static uint64_t mixed(uint64_t value)
{
    value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9u;
    value = (value ^ (value >> 27)) * 0x94d049bb133111ebu;
    return value ^ (value >> 31);
}

static void fill(void)
{
    uint64_t state = 0;

    for (size_t at = 0; at < sizeof pool; at += sizeof state) {
        const uint64_t word = mixed(state += 0x9e3779b97f4a7c15u);
        memcpy(pool + at, &word, sizeof word);
    }
}

const uint8_t *pool_value(uint64_t key, enum pool_use use)
{
    static bool filled;

    if (!filled)
        fill();
    filled = true;
    return pool + mixed(4 * key + use) % STARTS;
}

void pool_put_attempt(uint8_t out[16], uint64_t number)
{
    const uint64_t words[2] = {mixed(number), mixed(~number)};

    memcpy(out, words, sizeof words);
}

void pool_put_key(uint8_t out[POOL_KEY_BYTES], uint64_t key)
{
    static const char digits[] = "0123456789abcdef";

    for (int at = POOL_KEY_BYTES - 1; at >= 0; at--, key >>= 4)
        out[at] = (uint8_t)digits[key & 15];
}
