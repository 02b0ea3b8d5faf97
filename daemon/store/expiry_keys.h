/* Where finished records go: by when they may be swept, at few insertion points.
 *
 * A place is 64 bits: seconds of the retention clock, 34 bits, then a count, 30 bits. The seconds are the record's end
 * rounded up to a multiple of the largest power of two (of seconds) not above an eighth of how long it is kept: nothing
 * goes early, nothing stays more than an eighth longer. Loop thread only. */
#ifndef IDEMD_EXPIRY_KEYS_H
#define IDEMD_EXPIRY_KEYS_H

#include <stdint.h>

enum {
    EXPIRY_KEYS_COUNT_BITS = 30,
    EXPIRY_KEYS_POINTS_MAX =
        1024, /* remembered: at most 17 multiples of each step lie ahead, and there are 23 steps up to 90 days */
};

/* Embedded in its owner; start with {0}, and the last two filled. */
struct expiry_keys {
    struct point {
        uint64_t seconds, next_count;
    } points[EXPIRY_KEYS_POINTS_MAX];
    uint32_t point_count;
    /* The largest place of these seconds that is in use; 0 where there is none. Asked once for each point. */
    uint64_t (*last)(void *context, uint64_t seconds);
    void *context;
};

/* A place that was never given out, for what is over at expires_ms (retention clock) and was to be kept keep_ms. What
 * is before now_s is never asked for again. */
uint64_t expiry_keys_next(struct expiry_keys *expiry_keys, uint64_t expires_ms, uint64_t keep_ms, uint64_t now_s);

#endif
