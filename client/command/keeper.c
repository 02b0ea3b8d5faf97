/* The process has a client of its own, a session of its own, so that no terminal stops it, and no descriptor but the
 * pipe on which it tells what happens, in letters. */
#include "client/command/keeper.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
    NEWS_LOST = 'l',  /* it is the last one */
    NEWS_LATE = 'u',  /* the lease may have ended: renewing did not succeed in time */
    NEWS_AGAIN = 'a', /* after that it did */
    NEWS_FD = 3,
    RETRY_MS = 100,      /* between two tries to renew */
    TRY_MS_MIN = 200,    /* how long one try may take at least */
    RESTART_MS = 1000,   /* between two starts */
    TIMEOUT_MS = 10000,  /* of a call, if the command line says none */
    DESCRIPTORS_OWN = 4, /* 0 .. NEWS_FD */
};

uint64_t keeper_now_ms(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000 + (uint64_t)time.tv_nsec / 1000000;
}

/* ---- The process ------------------------------------------------------------------ */

static void tell(char news)
{
    if (write(NEWS_FD, &news, 1) != 1)
        _exit(1); /* nobody is there to hear it */
}

/* Ends the process if idem has ended: then nobody reads the news any more, which is an error to be polled. */
static void pause_until(uint64_t until_ms)
{
    struct pollfd look = {.fd = NEWS_FD};
    uint64_t now_ms;
    int wait_ms;

    do {
        now_ms = keeper_now_ms();
        wait_ms = until_ms <= now_ms ? 0 : until_ms - now_ms > INT_MAX ? INT_MAX : (int)(until_ms - now_ms);
        if (poll(&look, 1, wait_ms) > 0)
            _exit(1);
    } while (wait_ms > 0);
}

/* Renews until somebody else has the operation. */
static void renew_on(const struct keeper *keeper, idem_client *client, uint32_t lease_left_ms)
{
    const idem_renew_request request = {.op = keeper->op, .fence = keeper->fence};
    const uint32_t timeout_ms = keeper->command->timeout_ms ? keeper->command->timeout_ms : TIMEOUT_MS;
    uint64_t now_ms = keeper_now_ms(), end_ms = now_ms + lease_left_ms, next_ms = now_ms + lease_left_ms / 3;
    bool late = false;

    for (;;) {
        idem_renew_reply reply;

        pause_until(next_ms);
        now_ms = keeper_now_ms();
        const uint64_t left_ms = end_ms > now_ms ? end_ms - now_ms : 0;
        const uint64_t try_ms = late || left_ms > timeout_ms ? timeout_ms : left_ms > TRY_MS_MIN ? left_ms : TRY_MS_MIN;
        const idem_error error = idem_renew(client, &request, (uint32_t)try_ms, &reply);
        if (error == IDEM_OK && reply.ownership != IDEM_HELD) {
            tell(NEWS_LOST);
            return;
        }
        if (error == IDEM_OK) {
            if (late)
                tell(NEWS_AGAIN);
            late = false;
            end_ms = now_ms + reply.lease_ms; /* it counts from when the call was sent */
            next_ms = now_ms + reply.lease_ms / 3;
            continue;
        }
        now_ms = keeper_now_ms();
        next_ms = now_ms + RETRY_MS;
        if (now_ms >= end_ms && !late) {
            tell(NEWS_LATE);
            late = true;
        }
    }
}

/* Everything that it got from idem and that somebody else would wait for goes: the terminal, and the ends of pipes.
 * Signals are blocked: one that came for the whole job before it left must not stop it. */
static bool leave(int news)
{
    sigset_t none;

    setsid();
    for (int number = 1; number <= SIGRTMAX; number++)
        signal(number, SIG_DFL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    if (news != NEWS_FD && dup2(news, NEWS_FD) < 0)
        return false;
    closefrom(DESCRIPTORS_OWN);
    const int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    return null >= 0 && dup2(null, STDIN_FILENO) >= 0 && dup2(null, STDOUT_FILENO) >= 0 &&
           dup2(null, STDERR_FILENO) >= 0;
}

static _Noreturn void be_keeper(const struct keeper *keeper, int news, uint32_t lease_left_ms)
{
    idem_client *client;

    if (!leave(news) || idem_open(&keeper->command->options, &client) != IDEM_OK)
        _exit(1);
    renew_on(keeper, client, lease_left_ms);
    _exit(0);
}

/* ---- Its parent ---------------------------------------------------------------------- */

bool keeper_start(struct keeper *keeper, uint32_t lease_left_ms)
{
    sigset_t all, before;
    int news[2];

    keeper->pid = 0;
    keeper->news = -1;
    if (pipe2(news, O_CLOEXEC | O_NONBLOCK) != 0)
        return false;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, &before);
    const pid_t pid = fork();
    if (pid == 0)
        be_keeper(keeper, news[1], lease_left_ms);
    const int failed = errno;
    sigprocmask(SIG_SETMASK, &before, NULL);
    close(news[1]);
    if (pid < 0) {
        close(news[0]);
        errno = failed;
        return false;
    }
    keeper->pid = pid;
    keeper->news = news[0];
    keeper->start_at_ms = keeper_now_ms() + RESTART_MS;
    return true;
}

void keeper_stop(struct keeper *keeper)
{
    if (keeper->pid) {
        kill(keeper->pid, SIGKILL);
        while (waitpid(keeper->pid, NULL, 0) < 0 && errno == EINTR)
            ;
        close(keeper->news);
    }
    keeper->pid = 0;
    keeper->news = -1;
}

static void say_news(struct keeper *keeper, char news)
{
    if (news == NEWS_LOST) {
        keeper->lost = true;
        command_say("somebody else owns this operation now; the command runs on");
    } else if (news == NEWS_LATE) {
        command_say("the lease could not be renewed in time: another run may find this one interrupted; still trying");
    } else {
        command_say("the lease is renewed again");
    }
}

void keeper_hear(struct keeper *keeper)
{
    char news;
    ssize_t got;

    while ((got = read(keeper->news, &news, 1)) == 1)
        say_news(keeper, news);
    if (got != 0)
        return;
    if (!keeper->lost)
        command_say("the process that renews the lease has ended; another one is started");
    keeper_stop(keeper);
}

int keeper_restart(struct keeper *keeper)
{
    const uint64_t now_ms = keeper_now_ms();

    if (keeper->pid || keeper->lost)
        return -1;
    if (now_ms < keeper->start_at_ms)
        return (int)(keeper->start_at_ms - now_ms);
    if (keeper_start(keeper, 0))
        return -1;
    keeper->start_at_ms = now_ms + RESTART_MS;
    return RESTART_MS;
}
