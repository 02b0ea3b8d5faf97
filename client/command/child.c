/* One loop with poll: the command's output as it comes, our standard output and error as they take it, the command's
 * input, the end of the command, and the keeper's news. Nothing in it waits for anything else. */
#include "client/command/child.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

enum { READ_BYTES = 65536 };

/* ---- Signals ---------------------------------------------------------------------- */

static volatile sig_atomic_t child_pid; /* 0: there is none */
static int wake[2];                     /* SIGCHLD writes a byte */
static struct sigaction before[_NSIG];  /* what each signal did when we started */
static bool watched[_NSIG];
static sigset_t mask_before;
static bool masked; /* signals are not as they were */

/* A terminal sends these to the command as well; then it must not get them twice. */
static bool from_terminal(int number, const siginfo_t *info)
{
    return info->si_code == SI_KERNEL && (number == SIGINT || number == SIGQUIT || number == SIGTSTP);
}

/* Stops as if we had not caught SIGTSTP; the kernel decides whether there is anybody who could continue us. */
static void stop(void)
{
    struct sigaction action = {.sa_handler = SIG_DFL}, caught;
    sigset_t set, mask;

    sigemptyset(&set);
    sigaddset(&set, SIGTSTP);
    sigaction(SIGTSTP, &action, &caught);
    raise(SIGTSTP);
    sigprocmask(SIG_UNBLOCK, &set, &mask); /* here we stop */
    sigprocmask(SIG_SETMASK, &mask, NULL);
    sigaction(SIGTSTP, &caught, NULL);
}

static void on_signal(int number, siginfo_t *info, void *context)
{
    const int failed = errno;

    (void)context;
    if (number == SIGCHLD) {
        const ssize_t written = write(wake[1], "", 1);
        (void)written; /* if it is full we wake up anyway */
    } else if (child_pid > 0 && !from_terminal(number, info)) {
        kill((pid_t)child_pid, number);
    }
    if (number == SIGTSTP)
        stop();
    errno = failed;
}

/* Not watched: what cannot be caught or is a fault of our own; what does nothing to us; and SIGTTIN and SIGTTOU, which
 * a terminal sends to whole jobs. */
static bool is_passed_on(int number)
{
    static const int others[] = {SIGKILL, SIGSTOP, SIGSEGV, SIGBUS,  SIGILL, SIGFPE,   SIGABRT, SIGTRAP,
                                 SIGSYS,  SIGPIPE, SIGXFSZ, SIGCHLD, SIGURG, SIGWINCH, SIGTTIN, SIGTTOU};

    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
        if (others[i] == number)
            return false;
    return true;
}

static void watch(int number, struct sigaction action)
{
    if (sigaction(number, &action, NULL) == 0)
        watched[number] = true;
}

/* Everything is blocked from here on: a signal that comes before the command is started is for it as well. */
static bool watch_signals(void)
{
    struct sigaction catch = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO};
    const struct sigaction ignore = {.sa_handler = SIG_IGN};
    sigset_t all;

    if (pipe2(wake, O_CLOEXEC | O_NONBLOCK) != 0)
        return false;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, &mask_before);
    masked = true;
    sigfillset(&catch.sa_mask);
    for (int number = 1; number < _NSIG; number++)
        if (sigaction(number, NULL, &before[number]) == 0 && before[number].sa_handler != SIG_IGN &&
            is_passed_on(number))
            watch(number, catch);
    watch(SIGCHLD, catch);
    watch(SIGPIPE, ignore); /* a write says it */
    watch(SIGXFSZ, ignore);
    return true;
}

static void restore_signals(void)
{
    for (int number = 1; number < _NSIG; number++)
        if (watched[number])
            sigaction(number, &before[number], NULL);
}

/* A signal that was blocked when we started stays so, but for the one that we live on. */
static void let_signals_come(void)
{
    sigset_t mask = mask_before;

    sigdelset(&mask, SIGCHLD);
    sigprocmask(SIG_SETMASK, &mask, NULL);
}

static void block_signals(void)
{
    sigset_t all;

    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
}

void child_end(void)
{
    if (masked)
        sigprocmask(SIG_SETMASK, &mask_before, NULL);
    masked = false;
}

/* ---- The start --------------------------------------------------------------------- */

struct pipes {
    int in[2], out[2], err[2], failed[2]; /* failed: says why the command did not start */
};

static void close_one(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

static void close_pipes(struct pipes *pipes)
{
    int *const all[] = {pipes->in, pipes->out, pipes->err, pipes->failed};

    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        close_one(&all[i][0]);
        close_one(&all[i][1]);
    }
}

static bool open_pipes(struct pipes *pipes)
{
    memset(pipes, -1, sizeof *pipes);
    return pipe2(pipes->in, O_CLOEXEC) == 0 && pipe2(pipes->out, O_CLOEXEC) == 0 && pipe2(pipes->err, O_CLOEXEC) == 0 &&
           pipe2(pipes->failed, O_CLOEXEC) == 0;
}

static _Noreturn void become(const struct child *child, const struct pipes *pipes)
{
    for (const struct meaning *extra = child->extras; extra->word; extra++)
        setenv(extra->word, extra->text, 1);
    if (child->input)
        dup2(pipes->in[0], STDIN_FILENO);
    dup2(pipes->out[1], STDOUT_FILENO);
    dup2(pipes->err[1], STDERR_FILENO);
    restore_signals();
    child_end();
    execvp(child->argv[0], child->argv);
    const int failed = errno;
    const ssize_t written = write(pipes->failed[1], &failed, sizeof failed);
    (void)written;
    _exit(EXIT_NO_COMMAND);
}

/* Why it did not start; 0: it did. */
static int read_failure(int fd)
{
    int failed = 0;
    ssize_t got;

    while ((got = read(fd, &failed, sizeof failed)) < 0 && errno == EINTR)
        ;
    return got == sizeof failed ? failed : 0;
}

static int wait_for(pid_t pid)
{
    int status = 0;

    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    return status;
}

/* Returns its process, or 0: *status is the exit status for that. */
static pid_t start(const struct child *child, struct pipes *pipes, int *status)
{
    pid_t pid;
    int failed;

    *status = EXIT_NOT_STARTED;
    if (!open_pipes(pipes) || (pid = fork()) < 0) {
        command_say("the command cannot be started: %s", strerror(errno));
        return 0;
    }
    if (pid == 0)
        become(child, pipes);
    close_one(&pipes->in[0]);
    close_one(&pipes->out[1]);
    close_one(&pipes->err[1]);
    close_one(&pipes->failed[1]);
    if ((failed = read_failure(pipes->failed[0])) == 0)
        return pid;
    wait_for(pid);
    command_say("%s: %s", child->argv[0], strerror(failed));
    if (failed == ENOENT)
        *status = EXIT_NO_COMMAND;
    return 0;
}

/* ---- Until its end ------------------------------------------------------------------- */

struct attending {
    const struct child *child;
    int from[OUTPUT_STREAMS], to; /* its output, its input; -1: closed */
    size_t sent;                  /* of the input */
};

/* Takes up to `most` bytes of what came on one stream. */
static void take(struct attending *attending, enum output_stream stream, size_t most)
{
    static uint8_t data[READ_BYTES];
    const ssize_t size = read(attending->from[stream], data, most < sizeof data ? most : sizeof data);

    if (size > 0) {
        output_add(attending->child->output, stream, data, (size_t)size);
        output_pass(attending->child->output, stream);
    } else if (size == 0 || (errno != EINTR && errno != EAGAIN)) {
        close_one(&attending->from[stream]);
    }
    if (output_in_vain(attending->child->output, stream))
        close_one(&attending->from[stream]); /* the command learns it as it would from a pipe without a reader */
}

/* Gives the command more of its input, until it has all or wants no more. */
static void feed(struct attending *attending)
{
    const struct child *child = attending->child;
    const ssize_t size = write(attending->to, child->input + attending->sent, child->input_bytes - attending->sent);

    if (size > 0)
        attending->sent += (size_t)size;
    if ((size < 0 && errno != EINTR && errno != EAGAIN) || attending->sent == child->input_bytes)
        close_one(&attending->to);
}

/* Waits until something can be done, and does it. */
static void turn(struct attending *attending)
{
    enum { FROM, TO = OUTPUT_STREAMS, IN = 2 * OUTPUT_STREAMS, WAKE, NEWS, LOOKS };
    struct output *output = attending->child->output;
    struct keeper *keeper = attending->child->keeper;
    const int wait_ms = keeper_restart(keeper);
    struct pollfd looks[LOOKS];
    char bytes[64];

    for (int stream = 0; stream < OUTPUT_STREAMS; stream++) {
        const bool room = output_has_room(output, (enum output_stream)stream);
        looks[FROM + stream] = (struct pollfd){.fd = room ? attending->from[stream] : -1, .events = POLLIN};
        const bool waits = output_waits(output, (enum output_stream)stream);
        looks[TO + stream] = (struct pollfd){.fd = waits ? STDOUT_FILENO + stream : -1, .events = POLLOUT};
    }
    looks[IN] = (struct pollfd){.fd = attending->to, .events = POLLOUT};
    looks[WAKE] = (struct pollfd){.fd = wake[0], .events = POLLIN};
    looks[NEWS] = (struct pollfd){.fd = keeper->news, .events = POLLIN};
    if (poll(looks, LOOKS, wait_ms) <= 0)
        return;
    for (int stream = 0; stream < OUTPUT_STREAMS; stream++) {
        if (looks[TO + stream].revents)
            output_pass(output, (enum output_stream)stream);
        if (looks[FROM + stream].revents)
            take(attending, (enum output_stream)stream, READ_BYTES);
    }
    if (looks[IN].revents)
        feed(attending);
    if (looks[WAKE].revents)
        while (read(wake[0], bytes, sizeof bytes) > 0)
            ;
    if (looks[NEWS].revents)
        keeper_hear(keeper);
}

/* What the command had written when it ended is in the pipe. A process that it left behind may write for ever. */
static void take_rest(struct attending *attending)
{
    for (int stream = 0; stream < OUTPUT_STREAMS; stream++) {
        int left = 0;
        if (attending->from[stream] < 0 || ioctl(attending->from[stream], FIONREAD, &left) != 0)
            continue;
        while (left > 0 && attending->from[stream] >= 0) {
            take(attending, (enum output_stream)stream, (size_t)left);
            left -= left < READ_BYTES ? left : READ_BYTES;
        }
    }
}

static int attend(struct attending *attending, pid_t pid)
{
    int status = 0;
    bool ended = false;

    while (!ended) {
        turn(attending);
        block_signals(); /* nobody must be signalled who gets its number after it */
        ended = waitpid(pid, &status, WNOHANG) == pid;
        if (ended)
            child_pid = 0;
        else
            let_signals_come();
    }
    take_rest(attending);
    return status;
}

bool child_run(const struct child *child, int *status)
{
    struct pipes pipes;
    pid_t pid;

    if (!watch_signals()) {
        command_say("the command cannot be started: %s", strerror(errno));
        *status = EXIT_NOT_STARTED;
        return false;
    }
    pid = start(child, &pipes, status);
    if (pid) {
        struct attending attending = {child, {pipes.out[0], pipes.err[0]}, -1, 0};
        if (child->input && child->input_bytes) {
            attending.to = pipes.in[1];
            pipes.in[1] = -1;
            fcntl(attending.to, F_SETFL, O_NONBLOCK);
        }
        close_one(&pipes.in[1]);
        pipes.out[0] = pipes.err[0] = -1;
        for (int stream = 0; stream < OUTPUT_STREAMS; stream++)
            fcntl(attending.from[stream], F_SETFL, O_NONBLOCK);
        child_pid = pid;
        let_signals_come();
        *status = attend(&attending, pid);
        close_one(&attending.to);
        for (int stream = 0; stream < OUTPUT_STREAMS; stream++)
            close_one(&attending.from[stream]);
    }
    restore_signals();
    close_pipes(&pipes);
    close(wake[0]);
    close(wake[1]);
    return pid != 0;
}
