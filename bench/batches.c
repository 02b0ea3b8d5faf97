/* A cycle's claim goes into one batch and its outcome into the next, as a client would have it. */
#include "bench/batches.h"

#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>

#include "bench/need.h"
#include "bench/plan.h"

struct batch_run {
    const struct load_options *options;
    const struct batches *batches;
    struct load_result *result;
    struct plan plan;
    struct plan_operation *operations; /* those under way */
    uint32_t count, capacity;
    uint64_t began_ns, due_count; /* as in load.c */
};

static void append(struct batch_run *run, uint64_t began_ns)
{
    if (run->count == run->capacity) {
        run->capacity = 2 * run->capacity + 1024;
        run->operations = need(realloc(run->operations, run->capacity * sizeof *run->operations));
    }
    plan_next(&run->plan, &run->operations[run->count]);
    run->operations[run->count++].began_ns = began_ns;
}

static uint64_t due_ns(const struct batch_run *run)
{
    return run->began_ns + (uint64_t)((double)run->due_count * 1e9 / run->options->rate);
}

static bool is_closed(const struct batch_run *run)
{
    return run->plan.filling || run->options->rate == 0;
}

/* Adds what begins now. */
static void begin(struct batch_run *run)
{
    const uint64_t now = plan_now_ns();

    if (is_closed(run)) {
        while (run->count < run->options->connections * run->options->pipeline && !plan_exhausted(&run->plan))
            append(run, now);
        return;
    }
    for (; due_ns(run) <= now && !plan_exhausted(&run->plan); run->due_count++)
        append(run, due_ns(run));
}

static void sleep_until_due(const struct batch_run *run)
{
    const uint64_t at = due_ns(run);
    const struct timespec when = {.tv_sec = (time_t)(at / 1000000000u), .tv_nsec = (long)(at % 1000000000u)};

    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &when, NULL);
}

/* Takes out what is done, as of now; what goes on stays. */
static void settle(struct batch_run *run)
{
    const uint64_t now = plan_now_ns();
    uint32_t left = 0;

    for (uint32_t i = 0; i < run->count; i++) {
        struct plan_operation *operation = &run->operations[i];
        if (operation->step == STEP_CLAIM && operation->completes) {
            operation->step = STEP_COMPLETE;
            run->operations[left++] = *operation;
            continue;
        }
        run->result->operations++;
        histogram_add(&run->result->latency_ns, now - operation->began_ns);
        plan_done(&run->plan, operation);
    }
    run->count = left;
}

static bool run_batch(struct batch_run *run)
{
    for (uint32_t i = 0; i < run->count; i++) {
        struct plan_operation *operation = &run->operations[i];
        const struct target_request request = plan_request(&run->plan, operation);
        if (!run->batches->put(&request, &operation->fence))
            run->result->errors++;
    }
    if (!run->batches->flush())
        return false;
    settle(run);
    return true;
}

/* Batch after batch until nothing is to begin and nothing is under way. */
static bool run_all(struct batch_run *run, double seconds)
{
    const uint64_t end_ns = plan_now_ns() + (uint64_t)(seconds * 1e9);
    uint64_t tick_ns = 0;

    run->began_ns = plan_now_ns();
    for (;;) {
        begin(run);
        if (run->count == 0 && plan_exhausted(&run->plan))
            break;
        if (run->count == 0)
            sleep_until_due(run);
        else if (!run_batch(run))
            return false;
        if (plan_now_ns() >= end_ns)
            run->plan.ending = true;
        if (run->options->progress && plan_now_ns() >= tick_ns) {
            plan_progress(run->began_ns, run->result->operations);
            tick_ns = plan_now_ns() + PLAN_PROGRESS_NS;
        }
    }
    return true;
}

static bool fill(struct batch_run *run)
{
    struct load_result *made = need(calloc(1, sizeof *made)), *result = run->result;
    bool good;

    run->plan.filling = true;
    run->result = made;
    good = run_all(run, 3600) && made->errors == 0;
    run->plan.filling = run->plan.ending = false;
    run->plan.started = 0;
    run->result = result;
    free(made);
    return good;
}

static bool measure(struct batch_run *run)
{
    const double cpu_before = plan_cpu_seconds();
    const bool good = run_all(run, run->options->seconds);

    run->result->seconds = (double)(plan_now_ns() - run->began_ns) / 1e9;
    run->result->busy = (plan_cpu_seconds() - cpu_before) / run->result->seconds;
    if (run->options->progress)
        plan_progress_end();
    return good;
}

bool batches_run(const struct load_options *options, struct load_result *result, const struct batches *batches)
{
    struct batch_run run = {.options = options,
                            .batches = batches,
                            .result = result,
                            .plan = {.options = options, .next_key = options->first_key}};
    bool good;

    *result = (struct load_result){0};
    prctl(PR_SET_TIMERSLACK, 1ul); /* ns: what is due begins in time */
    good = batches->open(options) && (!plan_fills(&run.plan) || fill(&run)) && measure(&run);
    batches->close();
    free(run.operations);
    return good;
}
