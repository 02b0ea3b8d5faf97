/* A thread that does one job at a time: what the job is, lies with its owner. */
#ifndef IDEMD_WORKER_H
#define IDEMD_WORKER_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

struct worker {
    void (*run)(void *context);  /* on the thread */
    void (*wake)(void *context); /* on the thread, after each run: worker_take has something */
    void *context, *wake_context;
    int nice; /* how much it yields to other threads: 0 .. 19, nice(2) */
    pthread_t thread;
    bool started;
    pthread_mutex_t mutex;
    pthread_cond_t condition;
    bool given, stopping; /* under the mutex */
    atomic_bool done;
    bool busy; /* the owner's: from give to take */
};

/* Starts the thread, with all signals but SIGBUS blocked: they are the loop's. Fields above `thread` are set. Returns 0
 * or an errno. */
int worker_start(struct worker *worker);
/* Waits for the job at work, then ends the thread. Not started: fine. */
void worker_stop(struct worker *worker);

/* The job is run: until worker_take says true it is the thread's. Not while busy. */
void worker_give(struct worker *worker);
/* It is done: once for each. Without a lock or a system call. */
bool worker_take(struct worker *worker);
static inline bool worker_busy(const struct worker *worker)
{
    return worker->busy;
}

#endif
