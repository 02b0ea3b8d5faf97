/* A log-bucketed histogram of durations: 64 buckets a power of two, so that a percentile is at most 1.6 % off. */
#ifndef IDEM_BENCH_HISTOGRAM_H
#define IDEM_BENCH_HISTOGRAM_H

#include <stdint.h>

enum { HISTOGRAM_BITS = 6, HISTOGRAM_BUCKETS = (64 - HISTOGRAM_BITS + 1) << HISTOGRAM_BITS };

struct histogram {
    uint64_t count, most;
    uint64_t buckets[HISTOGRAM_BUCKETS];
};

void histogram_add(struct histogram *histogram, uint64_t value);
/* The value that `part` (0 .. 1) of all values do not exceed, to the precision above; 0 where there are none. */
uint64_t histogram_quantile(const struct histogram *histogram, double part);

#endif
