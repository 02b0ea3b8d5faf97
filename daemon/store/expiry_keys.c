/* The points that are ahead are remembered with their counts; a new one begins after what is in use there. */
#include "daemon/store/expiry_keys.h"

#include <assert.h>

static void drop_points(struct expiry_keys *expiry_keys, uint64_t before_s)
{
    uint32_t kept = 0;

    for (uint32_t i = 0; i < expiry_keys->point_count; i++)
        if (expiry_keys->points[i].seconds >= before_s)
            expiry_keys->points[kept++] = expiry_keys->points[i];
    expiry_keys->point_count = kept;
}

static struct point *point_of(struct expiry_keys *expiry_keys, uint64_t seconds, uint64_t now_s)
{
    for (uint32_t i = 0; i < expiry_keys->point_count; i++)
        if (expiry_keys->points[i].seconds == seconds)
            return &expiry_keys->points[i];
    if (expiry_keys->point_count == EXPIRY_KEYS_POINTS_MAX)
        drop_points(expiry_keys, now_s);
    assert(expiry_keys->point_count < EXPIRY_KEYS_POINTS_MAX);
    const uint64_t last = expiry_keys->last(expiry_keys->context, seconds);
    struct point *point = &expiry_keys->points[expiry_keys->point_count++];
    *point = (struct point){seconds, last ? (last & ((1u << EXPIRY_KEYS_COUNT_BITS) - 1)) + 1 : 0};
    return point;
}

uint64_t expiry_keys_next(struct expiry_keys *expiry_keys, uint64_t expires_ms, uint64_t keep_ms, uint64_t now_s)
{
    uint64_t step_s = 1, seconds = expires_ms / 1000 + (expires_ms % 1000 != 0);

    while (step_s * 2 <= keep_ms / 1000 / 8)
        step_s *= 2;
    seconds = (seconds + step_s - 1) / step_s * step_s;
    assert(seconds < 1ull << 33);
    for (;; seconds++) {
        struct point *point = point_of(expiry_keys, seconds, now_s);
        if (point->next_count < 1ull << EXPIRY_KEYS_COUNT_BITS)
            return seconds << EXPIRY_KEYS_COUNT_BITS | point->next_count++;
    }
}
