/* The load without a network: the loop that the floors share which are no servers. All requests that are at hand make
 * one batch, each takes as long as its batch does, then comes the next. In the closed loop a batch is connections x
 * pipeline requests; in the open loop it is everything that was due when the one before was flushed. */
#ifndef IDEM_BENCH_BATCHES_H
#define IDEM_BENCH_BATCHES_H

#include "bench/load.h"

struct batches {
    /* Makes what is to be written to, in the directory that the options' address names. */
    bool (*open)(const struct load_options *options);
    /* Puts one request into the batch. *fence is what it was granted, or stays. False: it failed. */
    bool (*put)(const struct target_request *request, uint64_t *fence);
    /* Makes the batch durable. */
    bool (*flush)(void);
    void (*close)(void);
};

/* As load_run. */
bool batches_run(const struct load_options *options, struct load_result *result, const struct batches *batches);

#endif
