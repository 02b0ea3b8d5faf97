/* How long things took: counts in fixed buckets, from 10 us to 10 s in steps of 1, 2, 5, as Prometheus takes a
 * histogram. The edges never change, so that what was gathered by different daemons can be added. */
#ifndef IDEMD_DURATION_H
#define IDEMD_DURATION_H

#include <stdint.h>

enum { DURATION_EDGES = 19, DURATION_BUCKETS = DURATION_EDGES + 1 };

/* Start with {0}. */
struct durations {
    uint64_t buckets[DURATION_BUCKETS]; /* each alone; the last has what is over every edge */
    uint64_t sum_ns;                    /* enough for 584 years */
};

/* Counts one of `ns`; what lasted exactly as long as an edge is under it. */
void durations_add(struct durations *durations, uint64_t ns);
/* The upper edge of a bucket in seconds, as a label `le`: "1e-05" .. "10.0", then "+Inf". Static. */
const char *durations_edge(unsigned bucket);

/* Of what happens so often that two readings of the clock for each would show: one in DURATION_SAMPLE is timed,
 * beginning with the first. A prime, so that of things that take turns by twos, threes or fours each is timed. Start
 * with {0}. */
enum { DURATION_SAMPLE = 17 };
struct durations_sampled {
    struct durations durations;
    uint32_t untimed; /* so many go by before the next that is timed */
};

/* One begins; returns what its end is to be told. NULL is fine: nothing is timed. */
uint64_t durations_sampled_begin(struct durations_sampled *sampled);
void durations_sampled_end(struct durations_sampled *sampled, uint64_t began_ns);

#endif
