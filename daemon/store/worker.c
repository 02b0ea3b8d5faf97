/* A mutex and a condition on the way in, a flag on the way out. */
#include "daemon/store/worker.h"

#include <assert.h>
#include <signal.h>
#include <sys/resource.h>

static void *work(void *argument)
{
    struct worker *worker = argument;

    setpriority(PRIO_PROCESS, 0, worker->nice); /* on Linux of this thread alone; setpriority(2) */
    pthread_mutex_lock(&worker->mutex);
    for (;;) {
        while (!worker->given && !worker->stopping)
            pthread_cond_wait(&worker->condition, &worker->mutex);
        if (!worker->given)
            break;
        worker->given = false;
        pthread_mutex_unlock(&worker->mutex);
        worker->run(worker->context);
        atomic_store_explicit(&worker->done, true, memory_order_release);
        worker->wake(worker->wake_context);
        pthread_mutex_lock(&worker->mutex);
    }
    pthread_mutex_unlock(&worker->mutex);
    return NULL;
}

int worker_start(struct worker *worker)
{
    sigset_t all, before;
    int code;

    pthread_mutex_init(&worker->mutex, NULL);
    pthread_cond_init(&worker->condition, NULL);
    sigfillset(&all);
    sigdelset(&all, SIGBUS); /* of the thread that causes it: mapped.h */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    code = pthread_create(&worker->thread, NULL, work, worker);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    worker->started = code == 0;
    return code;
}

void worker_stop(struct worker *worker)
{
    if (!worker->started)
        return;
    pthread_mutex_lock(&worker->mutex);
    worker->stopping = true;
    pthread_cond_signal(&worker->condition);
    pthread_mutex_unlock(&worker->mutex);
    pthread_join(worker->thread, NULL);
    worker->started = false;
    pthread_mutex_destroy(&worker->mutex);
    pthread_cond_destroy(&worker->condition);
}

void worker_give(struct worker *worker)
{
    assert(!worker->busy && worker->started);
    worker->busy = true;
    pthread_mutex_lock(&worker->mutex);
    worker->given = true;
    pthread_cond_signal(&worker->condition);
    pthread_mutex_unlock(&worker->mutex);
}

bool worker_take(struct worker *worker)
{
    if (!worker->busy || !atomic_load_explicit(&worker->done, memory_order_acquire))
        return false;
    atomic_store_explicit(&worker->done, false, memory_order_relaxed);
    worker->busy = false;
    return true;
}
