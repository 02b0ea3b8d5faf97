/* Which operation comes next: what a scenario means, the same for every loop and target. */
#ifndef IDEM_BENCH_PLAN_H
#define IDEM_BENCH_PLAN_H

#include <stdbool.h>
#include <stdint.h>

#include "bench/load.h"
#include "bench/target.h"

struct plan_operation {
    uint64_t began_ns, key, fence;
    uint64_t attempt; /* new with every operation */
    enum target_step step;
    bool completes; /* a claim that is followed by its outcome */
};

struct plan {
    const struct load_options *options;
    uint64_t next_key, started, replay_cursor;
    bool filling; /* the keys are made that are asked for later */
    bool ending;  /* nothing new begins */
};

/* Chooses what is next; began_ns is the caller's. */
void plan_next(struct plan *plan, struct plan_operation *operation);
/* Nothing more is to begin. */
bool plan_exhausted(const struct plan *plan);
/* An operation is done. */
void plan_done(struct plan *plan, const struct plan_operation *operation);
/* The scenario asks for keys that have to be made first. */
bool plan_fills(const struct plan *plan);
/* The request for where the operation stands. */
struct target_request plan_request(const struct plan *plan, const struct plan_operation *operation);

uint64_t plan_now_ns(void);
/* What this process has run so far. */
double plan_cpu_seconds(void);

#define PLAN_PROGRESS_NS 500000000u /* between two of these */
void plan_progress(uint64_t began_ns, uint64_t operations);
void plan_progress_end(void);

#endif
