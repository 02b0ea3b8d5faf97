/* A value's bucket is its highest bit and the six bits below that. */
#include "bench/histogram.h"

static unsigned bucket_of(uint64_t value)
{
    const unsigned least = 1u << HISTOGRAM_BITS;
    unsigned shift;

    if (value < least)
        return (unsigned)value;
    shift = 63 - (unsigned)__builtin_clzll(value) - HISTOGRAM_BITS;
    return ((shift + 1) << HISTOGRAM_BITS) + (unsigned)(value >> shift) - least;
}

/* The largest value of a bucket. */
static uint64_t top_of(unsigned bucket)
{
    const unsigned least = 1u << HISTOGRAM_BITS;
    const unsigned shift = bucket >> HISTOGRAM_BITS;

    if (shift == 0)
        return bucket;
    return (((uint64_t)(bucket & (least - 1)) + least + 1) << (shift - 1)) - 1;
}

void histogram_add(struct histogram *histogram, uint64_t value)
{
    histogram->count++;
    histogram->buckets[bucket_of(value)]++;
    if (value > histogram->most)
        histogram->most = value;
}

uint64_t histogram_quantile(const struct histogram *histogram, double part)
{
    const double wanted = part * (double)histogram->count;
    uint64_t seen = 0;

    for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++) {
        seen += histogram->buckets[i];
        if (seen && (double)seen >= wanted)
            return top_of(i) < histogram->most ? top_of(i) : histogram->most;
    }
    return histogram->most;
}
