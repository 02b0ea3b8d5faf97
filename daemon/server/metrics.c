/* The tables of names, and one walk over them. Names follow the Prometheus habit: a prefix, the unit last, _total for
 * what only grows. */
#include "daemon/server/metrics.h"

#include <stddef.h>
#include <string.h>

static const char *const call_names[METRICS_CALLS] = {"hello",      "begin", "complete", "release", "renew",
                                                      "checkpoint", "get",   "recover",  "resolve", "forget",
                                                      "list",       "stats", "cancel"};

static const char *const code_names[METRICS_CODES] = {
    "OK",        "CANCELLED",      "UNKNOWN",           "INVALID_ARGUMENT",   "DEADLINE_EXCEEDED",
    "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION",
    "ABORTED",   "OUT_OF_RANGE",   "UNIMPLEMENTED",     "INTERNAL",           "UNAVAILABLE",
    "DATA_LOSS", "UNAUTHENTICATED"};

static const char *const answer_names[METRICS_ANSWERS] = {NULL,       "EXECUTE",     "REPLAY", "RUNNING",
                                                          "MISMATCH", "INTERRUPTED", "EXPIRED"};

const char *metrics_call_name(unsigned call)
{
    return call >= 10 && call < 10 + METRICS_CALLS ? call_names[call - 10] : NULL;
}

const char *metrics_code_name(unsigned code)
{
    return code < METRICS_CODES ? code_names[code] : NULL;
}

struct entry {
    const char *name, *help;
    size_t offset;
};

#define COUNTED(member, help_text)                                                                                     \
    {                                                                                                                  \
        "idemd_" #member "_total", help_text, offsetof(struct metrics, member)                                         \
    }
static const struct entry counted[] = {
    COUNTED(resumed, "grants given again to the attempt that held them: a reply was lost"),
    COUNTED(taken_over, "grants of operations that an earlier owner had left interrupted"),
    COUNTED(lost, "owner's calls with a fence that a later grant had overtaken"),
    COUNTED(final, "owner's calls on operations that were done otherwise"),
    COUNTED(bad_frames, "frames that could not be read as a request"),
    COUNTED(readers_dropped, "connections closed since their peers did not take the answers"),
    COUNTED(idle_closed, "idle connections closed since descriptors ran out"),
    COUNTED(batches, "batches flushed"),
    COUNTED(durable_changes, "changes flushed"),
    COUNTED(stalls, "times that the daemon did not turn for a while"),
    COUNTED(stalled_ms, "milliseconds by which running leases were extended for that"),
    COUNTED(swept, "finished operations swept after their end"),
};

#define GAUGE(name, member, help_text)                                                                                 \
    {                                                                                                                  \
        "idemd_" name, help_text, offsetof(struct metrics_gauges, member)                                              \
    }
static const struct entry gauges_table[] = {
    GAUGE("started_ms", started_ms, "Unix time at which this daemon started, and counts from"),
    GAUGE("now_ms", now_ms, "Unix time of this daemon"),
    GAUGE("running", running, "operations with an owner"),
    GAUGE("interrupted", interrupted, "operations whose owner is gone and whose effect nobody knows"),
    GAUGE("finished", finished, "operations with a stored outcome, expired ones not yet swept included"),
    GAUGE("stored_bytes", stored_bytes, "what records and their values take in the store, without its own overhead"),
    GAUGE("waiting", waiting, "calls that wait"),
    GAUGE("waiting_bytes", waiting_bytes, "memory of calls that wait"),
    GAUGE("operation_memory_bytes", memory_bytes, "memory of unfinished operations and the index"),
    GAUGE("memory_used_bytes", memory_used_bytes, "memory in use, all of it"),
    GAUGE("memory_limit_bytes", memory_limit_bytes, "memory that may be in use before new grants are refused"),
    GAUGE("memory_full", memory_full, "1 while new grants are refused for want of memory"),
    GAUGE("connections", connections, "open connections"),
    GAUGE("buffered_bytes", buffered_bytes, "bytes read and not decided, or answered and not sent"),
    GAUGE("held_bytes", held_bytes, "answers that wait for the disk"),
    GAUGE("store_used_bytes", store_used_bytes, "pages of the store in use"),
    GAUGE("store_quota_bytes", store_quota_bytes, "pages that the store may use"),
    GAUGE("log_bytes", wal_bytes, "files of the commit log"),
    GAUGE("tail_bytes", backlog_bytes, "changes in the commit log that are not in the tables yet"),
    GAUGE("store_full", store_full, "1 while new grants are refused for want of space"),
};

#define HISTOGRAM(name, member, help_text)                                                                             \
    {                                                                                                                  \
        "idemd_" name "_seconds_bucket", "idemd_" name "_seconds_sum", "idemd_" name "_seconds_count", help_text,      \
            offsetof(struct metrics, member)                                                                           \
    }
static const struct {
    const char *bucket, *sum, *count, *help;
    size_t offset;
} histograms[METRICS_HISTOGRAMS] = {
    HISTOGRAM("queue_wait", queue_wait, "from the first change of a batch until the batch was handed to be written"),
    HISTOGRAM("flush", flush, "writing and flushing a batch"),
    HISTOGRAM("apply", apply, "bringing flushed batches into the tables, and sweeping"),
    HISTOGRAM("cold_read", cold_read.durations, "a record or value read from the store; one read in 17 is timed"),
    HISTOGRAM("loop_turn", loop_turn, "a turn of the loop, from the end of its wait until it waits again"),
};
_Static_assert(DURATION_SAMPLE == 17, "the help text says so");
_Static_assert(sizeof counted / sizeof counted[0] + sizeof gauges_table / sizeof gauges_table[0] <= 64,
               "METRICS_MAX has room for so many");

static double value_at(const void *base, size_t offset)
{
    return (double)*(const uint64_t *)(const void *)((const char *)base + offset);
}

static void each_call(const struct metrics *metrics, metrics_visit *visit, void *context)
{
    for (unsigned call = 0; call < METRICS_CALLS; call++)
        for (unsigned code = 0; code < METRICS_CODES; code++)
            if (metrics->calls[call][code])
                visit(context, "idemd_calls_total", "call", call_names[call], "code", code_names[code],
                      (double)metrics->calls[call][code], "calls answered, by call and status code");
}

static void each_histogram(const struct metrics *metrics, metrics_visit *visit, void *context)
{
    for (size_t i = 0; i < METRICS_HISTOGRAMS; i++) {
        const struct durations *durations = (const void *)((const char *)metrics + histograms[i].offset);
        uint64_t count = 0;
        for (unsigned bucket = 0; bucket < DURATION_BUCKETS; bucket++) {
            count += durations->buckets[bucket];
            visit(context, histograms[i].bucket, "le", durations_edge(bucket), NULL, NULL, (double)count,
                  histograms[i].help);
        }
        visit(context, histograms[i].sum, NULL, NULL, NULL, NULL, (double)durations->sum_ns / 1e9, histograms[i].help);
        visit(context, histograms[i].count, NULL, NULL, NULL, NULL, (double)count, histograms[i].help);
    }
}

void metrics_each(const struct metrics *metrics, const struct metrics_gauges *gauges, metrics_visit *visit,
                  void *context)
{
    for (size_t i = 0; i < sizeof gauges_table / sizeof gauges_table[0]; i++)
        visit(context, gauges_table[i].name, NULL, NULL, NULL, NULL, value_at(gauges, gauges_table[i].offset),
              gauges_table[i].help);
    for (size_t i = 0; i < sizeof counted / sizeof counted[0]; i++)
        visit(context, counted[i].name, NULL, NULL, NULL, NULL, value_at(metrics, counted[i].offset), counted[i].help);
    each_call(metrics, visit, context);
    for (unsigned answer = 1; answer < METRICS_ANSWERS; answer++)
        visit(context, "idemd_begins_total", "answer", answer_names[answer], NULL, NULL,
              (double)metrics->begins[answer], "answers to Begin");
    each_histogram(metrics, visit, context);
}

void metrics_each_of_namespace(const char *namespace, const struct metrics_gauges *gauges, metrics_visit *visit,
                               void *context)
{
    static const size_t known[] = {
        offsetof(struct metrics_gauges, running),  offsetof(struct metrics_gauges, interrupted),
        offsetof(struct metrics_gauges, finished), offsetof(struct metrics_gauges, stored_bytes),
        offsetof(struct metrics_gauges, waiting),
    };

    for (size_t i = 0; i < sizeof gauges_table / sizeof gauges_table[0]; i++) {
        const struct entry *gauge = &gauges_table[i];
        bool is_known = false;
        for (size_t k = 0; k < sizeof known / sizeof known[0]; k++)
            is_known |= gauge->offset == known[k];
        if (is_known)
            visit(context, gauge->name, "namespace", namespace, NULL, NULL, value_at(gauges, gauge->offset),
                  gauge->help);
        else if (gauge->offset == offsetof(struct metrics_gauges, started_ms))
            visit(context, gauge->name, NULL, NULL, NULL, NULL, value_at(gauges, gauge->offset), gauge->help);
    }
}
