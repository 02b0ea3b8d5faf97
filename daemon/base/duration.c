/* No two edges share their highest bit, since each is at least twice the one before. So the highest bit of a duration
 * leaves one edge to compare it with. */
#include "daemon/base/duration.h"

#include <assert.h>

#include "daemon/base/clock.h"

static const struct {
    uint64_t ns;
    const char *seconds; /* as OpenMetrics writes them */
} edges[DURATION_BUCKETS] = {
    {10000, "1e-05"},    {20000, "2e-05"},    {50000, "5e-05"},    {100000, "0.0001"},    {200000, "0.0002"},
    {500000, "0.0005"},  {1000000, "0.001"},  {2000000, "0.002"},  {5000000, "0.005"},    {10000000, "0.01"},
    {20000000, "0.02"},  {50000000, "0.05"},  {100000000, "0.1"},  {200000000, "0.2"},    {500000000, "0.5"},
    {1000000000, "1.0"}, {2000000000, "2.0"}, {5000000000, "5.0"}, {10000000000, "10.0"}, {UINT64_MAX, "+Inf"},
};

/* By how many bits a duration has: how many edges have fewer. */
static const uint8_t edges_below[65] = {
    0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  1,  2,  3,  4,  5,  6,  7,
    8,  8,  9,  10, 11, 12, 13, 14, 15, 16, 17, 17, 18, 19, 19, 19, 19, 19, 19, 19, 19, 19,
    19, 19, 19, 19, 19, 19, 19, 19, 19, 19, 19, 19, 19, 19, 19, 19, 19, 19, 19, 19, 19,
};

void durations_add(struct durations *durations, uint64_t ns)
{
    const unsigned bits = ns ? 64 - (unsigned)__builtin_clzll(ns) : 0;
    const unsigned below = edges_below[bits];

    durations->buckets[below + (ns > edges[below].ns)]++;
    durations->sum_ns += ns;
}

const char *durations_edge(unsigned bucket)
{
    assert(bucket < DURATION_BUCKETS);
    return edges[bucket].seconds;
}

uint64_t durations_sampled_begin(struct durations_sampled *sampled)
{
    if (!sampled || sampled->untimed-- > 0)
        return 0;
    sampled->untimed = DURATION_SAMPLE - 1;
    return clock_read_ns();
}

void durations_sampled_end(struct durations_sampled *sampled, uint64_t began_ns)
{
    if (began_ns)
        durations_add(&sampled->durations, clock_read_ns() - began_ns);
}
