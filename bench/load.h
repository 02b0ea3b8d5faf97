/* One load on one target: the loop that all targets share. */
#ifndef IDEM_BENCH_LOAD_H
#define IDEM_BENCH_LOAD_H

#include <stdbool.h>
#include <stdint.h>

#include "bench/histogram.h"
#include "bench/target.h"

enum { LOAD_CONNECTIONS_MAX = 10000, LOAD_PIPELINE_MAX = 1000 };

enum load_scenario {
    LOAD_CLAIM,   /* new keys only */
    LOAD_CYCLE,   /* claim, then complete */
    LOAD_REPLAY,  /* ask for what is stored; the keys are made first */
    LOAD_MIXED,   /* nine of ten ask for what is stored, one is a cycle */
    LOAD_HOT_KEY, /* all on one key, which waits for its owner; the owner completes; then the next key */
};

struct load_options {
    const struct target *target;
    const char *address; /* unix:/path or tcp:host:port */
    enum load_scenario scenario;
    uint32_t connections, pipeline;
    double rate; /* operations a second in all, sent at fixed times (open loop); 0: as fast as answers come (closed
                    loop) */
    double seconds;
    uint32_t body_bytes;
    uint64_t keys; /* of REPLAY and MIXED; CLAIM and CYCLE end after so many, where not 0 */
    bool stored;   /* REPLAY, MIXED: the keys are there already */
    uint64_t first_key;
    bool progress;
};

struct load_result {
    uint64_t operations, errors;
    double seconds;
    double busy;                 /* the part of that in which the generator's thread ran: near 1, it was the limit */
    struct histogram latency_ns; /* of whole operations; in the open loop from when they should have been sent */
};

/* Runs the load. False: the target is not reachable, or stopped answering; standard error says why. */
bool load_run(const struct load_options *options, struct load_result *result);

#endif
