/* What the daemon counts since its start: plain numbers of the loop thread, and one table that names them for Stats. */
#ifndef IDEMD_METRICS_H
#define IDEMD_METRICS_H

#include <stdbool.h>
#include <stdint.h>

#include "daemon/base/duration.h"

enum { METRICS_CALLS = 13, METRICS_CODES = 17, METRICS_ANSWERS = 7, METRICS_HISTOGRAMS = 5 };
/* The most that metrics_each visits; 64 for the plain ones. */
enum {
    METRICS_MAX = METRICS_CALLS * METRICS_CODES + METRICS_ANSWERS + METRICS_HISTOGRAMS * (DURATION_BUCKETS + 2) + 64
};

struct metrics {
    uint64_t calls[METRICS_CALLS][METRICS_CODES]; /* answers by call (field number less 10) and status code */
    uint64_t begins[METRICS_ANSWERS];             /* Begin's answers, by number */
    uint64_t resumed;                             /* EXECUTE to an attempt that held it already */
    uint64_t taken_over;                          /* EXECUTE with attempt above 1 */
    uint64_t lost, final;                         /* owner's calls that came too late */
    uint64_t bad_frames;
    uint64_t readers_dropped; /* connections closed since their answers were not taken */
    uint64_t idle_closed;     /* connections closed since they were idle and another one needed the descriptor */
    uint64_t batches, durable_changes;
    uint64_t stalls, stalled_ms;
    uint64_t swept;
    struct durations queue_wait, flush, apply; /* of batches */
    struct durations loop_turn;
    struct durations_sampled cold_read; /* the engine's */
};

/* Values that are asked for, not counted. */
struct metrics_gauges {
    uint64_t started_ms, now_ms; /* Unix time */
    uint64_t running, interrupted, finished, stored_bytes, waiting, waiting_bytes, memory_bytes;
    uint64_t memory_used_bytes, memory_limit_bytes, memory_full;
    uint64_t connections, buffered_bytes, held_bytes;
    uint64_t store_used_bytes, store_quota_bytes, store_full, wal_bytes, backlog_bytes;
};

/* Visits every metric that has a value (a counter by call and code only where it is not 0): name, at most two labels
 * (NULL: none), value, help. Strings are static. A histogram is as many metrics as it has buckets, cumulative and in
 * order, then its sum in seconds and its count, which is that of the last bucket. */
typedef void metrics_visit(void *context, const char *name, const char *label_name, const char *label_value,
                           const char *label2_name, const char *label2_value, double value, const char *help);
void metrics_each(const struct metrics *metrics, const struct metrics_gauges *gauges, metrics_visit *visit,
                  void *context);

/* The few that are known by namespace (running, interrupted, finished, stored_bytes and waiting of `gauges`), with it
 * as their label; and started_ms. */
void metrics_each_of_namespace(const char *namespace, const struct metrics_gauges *gauges, metrics_visit *visit,
                               void *context);

/* The name of a call by its field number ("begin"), NULL where there is none; of a status code ("NOT_FOUND"). */
const char *metrics_call_name(unsigned call);
const char *metrics_code_name(unsigned code);

#endif
