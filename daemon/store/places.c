/* The points that are ahead are remembered with their counts; a new one begins after what is in use there. */
#include "daemon/store/places.h"

#include <assert.h>

static void drop_points(struct places *places, uint64_t before_s)
{
    uint32_t kept = 0;

    for (uint32_t i = 0; i < places->point_count; i++)
        if (places->points[i].seconds >= before_s)
            places->points[kept++] = places->points[i];
    places->point_count = kept;
}

static struct point *point_of(struct places *places, uint64_t seconds, uint64_t now_s)
{
    for (uint32_t i = 0; i < places->point_count; i++)
        if (places->points[i].seconds == seconds)
            return &places->points[i];
    if (places->point_count == PLACES_POINTS_MAX)
        drop_points(places, now_s);
    assert(places->point_count < PLACES_POINTS_MAX);
    const uint64_t last = places->last(places->context, seconds);
    struct point *point = &places->points[places->point_count++];
    *point = (struct point){seconds, last ? (last & ((1u << PLACES_COUNT_BITS) - 1)) + 1 : 0};
    return point;
}

uint64_t places_next(struct places *places, uint64_t expires_ms, uint64_t keep_ms, uint64_t now_s)
{
    uint64_t step_s = 1, seconds = expires_ms / 1000 + (expires_ms % 1000 != 0);

    while (step_s * 2 <= keep_ms / 1000 / 8)
        step_s *= 2;
    seconds = (seconds + step_s - 1) / step_s * step_s;
    assert(seconds < 1ull << 33);
    for (;; seconds++) {
        struct point *point = point_of(places, seconds, now_s);
        if (point->next_count < 1ull << PLACES_COUNT_BITS)
            return seconds << PLACES_COUNT_BITS | point->next_count++;
    }
}
