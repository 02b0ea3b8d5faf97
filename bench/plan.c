/* New keys count up from the first; keys asked for again are visited with a stride. */
#include "bench/plan.h"

#include <stdio.h>
#include <sys/resource.h>
#include <time.h>

enum { STRIDE = 7919, HOT_WAIT_MS = 60000 };

static bool asks(const struct plan *plan)
{
    const enum load_scenario scenario = plan->options->scenario;

    return !plan->filling && (scenario == LOAD_REPLAY || (scenario == LOAD_MIXED && plan->started % 10 != 0));
}

void plan_next(struct plan *plan, struct plan_operation *operation)
{
    const struct load_options *options = plan->options;

    *operation = (struct plan_operation){.step = STEP_CLAIM, .attempt = options->first_key + ++plan->started};
    if (asks(plan)) {
        /* An order of all keys that is none for a cache. */
        plan->replay_cursor = (plan->replay_cursor + STRIDE) % options->keys;
        operation->step = STEP_REPLAY;
        operation->key = options->first_key + plan->replay_cursor;
        return;
    }
    operation->completes = options->scenario != LOAD_CLAIM;
    operation->key = options->scenario == LOAD_HOT_KEY ? plan->next_key : plan->next_key++;
}

bool plan_exhausted(const struct plan *plan)
{
    const struct load_options *options = plan->options;
    const bool limited = plan->filling || options->scenario == LOAD_CLAIM || options->scenario == LOAD_CYCLE;

    return plan->ending || (limited && options->keys && plan->started >= options->keys);
}

void plan_done(struct plan *plan, const struct plan_operation *operation)
{
    /* The hot key is done: the next one gets hot. */
    if (plan->options->scenario == LOAD_HOT_KEY && operation->step == STEP_COMPLETE && operation->key == plan->next_key)
        plan->next_key++;
}

bool plan_fills(const struct plan *plan)
{
    const struct load_options *options = plan->options;

    return (options->scenario == LOAD_REPLAY || options->scenario == LOAD_MIXED) && !options->stored;
}

struct target_request plan_request(const struct plan *plan, const struct plan_operation *operation)
{
    return (struct target_request){.step = operation->step,
                                   .key = operation->key,
                                   .attempt = operation->attempt,
                                   .fence = operation->fence,
                                   .wait_ms = plan->options->scenario == LOAD_HOT_KEY ? HOT_WAIT_MS : 0};
}

uint64_t plan_now_ns(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

double plan_cpu_seconds(void)
{
    struct rusage used;

    getrusage(RUSAGE_SELF, &used);
    return (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
           (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
}

void plan_progress(uint64_t began_ns, uint64_t operations)
{
    const double seconds = (double)(plan_now_ns() - began_ns) / 1e9;

    fprintf(stderr, "\r%5.1f s  %10llu operations  %9.0f/s ", seconds, (unsigned long long)operations,
            (double)operations / seconds);
}

void plan_progress_end(void)
{
    fprintf(stderr, "\r%60s\r", "");
}
