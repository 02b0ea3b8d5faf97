/* idem run: a command, once for its key.
 *
 *     Begin --EXECUTE--> start the command; pass its output through, keep it; renew the lease --> Complete or Release
 *       `----REPLAY----> write the kept output again, exit as it did
 *
 * What is kept is the output in the order in which it came: parts of one byte stream (1 standard output, 2 standard
 * error), four bytes length, big-endian, and as many bytes; the exit status is the outcome's code. */
#include "client/command/command.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
    PART_HEADER_BYTES = 5,
    STDIN_BYTES_MAX = 16 * 1024 * 1024, /* with --stdin it is read before the command starts */
    READ_BYTES = 65536,
};

enum on_failure { ON_FAILURE_DOUBT, ON_FAILURE_RELEASE, ON_FAILURE_KEEP };

struct run {
    struct command *command;
    idem_begin_request begin;
    enum on_failure on_failure;
    bool use_stdin;
    char **argv; /* of the command */
    uint8_t *input;
    size_t input_bytes, input_sent;
    uint8_t fingerprint[IDEM_FINGERPRINT_BYTES];

    /* While it runs. */
    idem_running *running;
    pid_t child;
    int exit_status;  /* as a shell has it */
    bool not_started; /* nothing was run */
    bool lost;        /* somebody else has the operation now */
    uint64_t renew_at_ms;
    uint8_t *kept;
    size_t kept_bytes, kept_capacity, kept_max;
    uint64_t output_bytes; /* all of it, kept or not */
};

static volatile sig_atomic_t forward_to;

static uint64_t now_ms(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000 + (uint64_t)time.tv_nsec / 1000000;
}

/* ---- Options ---------------------------------------------------------------------- */

static struct run the_run;

static const struct option_line lines[] = {
    {"key", "KEY", "the idempotency key: runs with the same key are one run", 0},
    {"operation", "TEXT", "what is done, for people; part of the match", 0},
    {"lease", "D", "after how long another may find the run interrupted if this process vanishes; it is renewed", 0},
    {"wait", "D", "how long to wait for the outcome if the command runs elsewhere; by default not at all", 0},
    {"keep", "D", "how long the outcome is given again", 0},
    {"if-interrupted", "report|take-over",
     "what to do if an earlier run ended without an outcome: say so and run nothing, or run the command again", 0},
    {"on-failure", "doubt|release|keep",
     "what an exit status other than 0 means. doubt: it may have taken effect, and the next run is told that it was "
     "interrupted; this is the default. release: it did nothing, and the next run runs it again. keep: it failed for "
     "good, and every later run gets the same output and exit status",
     0},
    {"stdin", NULL, "read standard input first, up to 16 MiB, and give it to the command; part of the match", 0},
};

static const char *set_word(const char *value, const char *const *words, int *place)
{
    static char wrong[64];
    size_t size = 0;

    for (int i = 0; words[i]; i++) {
        if (strcmp(words[i], value) == 0) {
            *place = i;
            return NULL;
        }
        size += (size_t)snprintf(wrong + size, sizeof wrong - size, "%s%s", i ? "|" : "one of ", words[i]);
    }
    return wrong;
}

static const char *set_milliseconds(const char *value, uint32_t *ms)
{
    uint64_t read_ms = 0;
    const char *wrong = command_duration(value, UINT32_MAX, &read_ms);

    *ms = (uint32_t)read_ms;
    return wrong;
}

static const char *set_option(void *user, const char *name, const char *value)
{
    static const char *const if_interrupted[] = {"report", "take-over", NULL};
    static const char *const on_failure[] = {"doubt", "release", "keep", NULL};
    struct run *run = user;
    const char *wrong = NULL;
    int place = 0;

    if (strcmp(name, "key") == 0)
        run->begin.op.key = value;
    else if (strcmp(name, "operation") == 0)
        run->begin.operation = value;
    else if (strcmp(name, "keep") == 0)
        wrong = command_duration(value, UINT64_MAX, &run->begin.keep_ms);
    else if (strcmp(name, "lease") == 0)
        wrong = set_milliseconds(value, &run->begin.lease_ms);
    else if (strcmp(name, "wait") == 0)
        wrong = set_milliseconds(value, &run->begin.wait_ms);
    else if (strcmp(name, "if-interrupted") == 0) {
        wrong = set_word(value, if_interrupted, &place);
        run->begin.if_interrupted = place ? IDEM_TAKE_OVER : IDEM_REPORT;
    } else if (strcmp(name, "on-failure") == 0) {
        wrong = set_word(value, on_failure, &place);
        run->on_failure = (enum on_failure)place;
    } else {
        run->use_stdin = true;
    }
    return wrong;
}

/* What makes a run the same run: the command, its arguments, and what it is given. */
static void take_fingerprint(struct run *run)
{
    idem_fingerprint fingerprint;

    idem_fingerprint_init(&fingerprint);
    for (char **word = run->argv; *word; word++)
        idem_fingerprint_add(&fingerprint, "argument", *word, strlen(*word));
    if (run->use_stdin)
        idem_fingerprint_add(&fingerprint, "stdin", run->input, run->input_bytes);
    idem_fingerprint_final(&fingerprint, run->fingerprint);
    run->begin.fingerprint = (idem_bytes){run->fingerprint, sizeof run->fingerprint};
}

/* ---- Output ----------------------------------------------------------------------------- */

static void write_all(int fd, const uint8_t *data, size_t size)
{
    while (size > 0) {
        const ssize_t written = write(fd, data, size);
        if (written < 0 && errno != EINTR && errno != EAGAIN)
            return; /* whoever read it is gone; it is kept all the same */
        if (written > 0) {
            data += written;
            size -= (size_t)written;
        }
    }
}

static void keep(struct run *run, uint8_t stream, const uint8_t *data, size_t size)
{
    const size_t bytes = PART_HEADER_BYTES + size;

    run->output_bytes += bytes;
    if (run->output_bytes > run->kept_max)
        return; /* over the limit nothing is kept: half an output would be taken for all of it */
    if (run->kept_capacity - run->kept_bytes < bytes) {
        const size_t capacity = 2 * run->kept_capacity + bytes;
        uint8_t *larger = realloc(run->kept, capacity);
        if (!larger) {
            run->output_bytes = run->kept_max + 1;
            return;
        }
        run->kept = larger;
        run->kept_capacity = capacity;
    }
    uint8_t *at = run->kept + run->kept_bytes;
    at[0] = stream;
    for (int i = 0; i < 4; i++)
        at[1 + i] = (uint8_t)(size >> (24 - 8 * i));
    memcpy(at + PART_HEADER_BYTES, data, size);
    run->kept_bytes += bytes;
}

/* Writes a kept output again. */
static void write_kept(idem_bytes kept)
{
    const uint8_t *at = kept.data, *end = at + kept.size;

    while (at && end - at >= PART_HEADER_BYTES) {
        const size_t size = (size_t)at[1] << 24 | (size_t)at[2] << 16 | (size_t)at[3] << 8 | at[4];
        if (size > (size_t)(end - at - PART_HEADER_BYTES)) {
            command_say("the kept output does not read: it was not stored by idem run");
            return;
        }
        write_all(at[0] == 2 ? STDERR_FILENO : STDOUT_FILENO, at + PART_HEADER_BYTES, size);
        at += PART_HEADER_BYTES + size;
    }
}

/* ---- The command ---------------------------------------------------------------------------- */

struct pipes {
    int in[2], out[2], err[2], failed[2]; /* failed: says why the command did not start */
};

static bool open_pipes(struct pipes *pipes)
{
    return pipe2(pipes->in, O_CLOEXEC) == 0 && pipe2(pipes->out, O_CLOEXEC) == 0 && pipe2(pipes->err, O_CLOEXEC) == 0 &&
           pipe2(pipes->failed, O_CLOEXEC) == 0;
}

static _Noreturn void become(const struct run *run, const struct pipes *pipes)
{
    signal(SIGPIPE, SIG_DFL);
    signal(SIGINT, SIG_DFL);
    signal(SIGTERM, SIG_DFL);
    signal(SIGHUP, SIG_DFL);
    if (run->use_stdin)
        dup2(pipes->in[0], STDIN_FILENO);
    dup2(pipes->out[1], STDOUT_FILENO);
    dup2(pipes->err[1], STDERR_FILENO);
    execvp(run->argv[0], run->argv);
    const int failed = errno;
    const ssize_t written = write(pipes->failed[1], &failed, sizeof failed);
    (void)written;
    _exit(127);
}

static void on_signal(int number)
{
    if (forward_to > 0)
        kill((pid_t)forward_to, number);
}

/* The command gets what is sent to us; we stay, to say what became of it. */
static void watch_signals(void)
{
    struct sigaction action = {.sa_handler = on_signal};

    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGHUP, &action, NULL);
    signal(SIGINT, SIG_IGN); /* a terminal sends it to the command as well */
    signal(SIGPIPE, SIG_IGN);
}

static bool start(struct run *run, struct pipes *pipes)
{
    int failed = 0;

    if (!open_pipes(pipes) || (run->child = fork()) < 0) {
        command_say("the command cannot be started: %s", strerror(errno));
        run->exit_status = 126;
        return false;
    }
    if (run->child == 0)
        become(run, pipes);
    close(pipes->in[0]);
    close(pipes->out[1]);
    close(pipes->err[1]);
    close(pipes->failed[1]);
    forward_to = run->child;
    if (!run->use_stdin)
        close(pipes->in[1]);
    if (read(pipes->failed[0], &failed, sizeof failed) == sizeof failed) {
        waitpid(run->child, NULL, 0);
        forward_to = 0;
        command_say("%s: %s", run->argv[0], strerror(failed));
        run->exit_status = failed == ENOENT ? 127 : 126;
        return false;
    }
    return true;
}

static void renew(struct run *run)
{
    idem_ownership ownership = IDEM_HELD;
    const idem_error error = idem_running_renew(run->running, &ownership);

    if (error == IDEM_OK && ownership != IDEM_HELD && !run->lost) {
        run->lost = true;
        command_say("somebody else owns this operation now; the command runs on");
    }
    const uint32_t left_ms = idem_running_lease_left_ms(run->running);
    run->renew_at_ms = now_ms() + (run->lost ? 60 * 1000 : left_ms / 3 + 100);
}

/* Passes on what came on one stream. False: it has ended. */
static bool pass(struct run *run, int from, uint8_t stream)
{
    static uint8_t data[READ_BYTES];
    const ssize_t size = read(from, data, sizeof data);

    if (size < 0)
        return errno == EINTR || errno == EAGAIN;
    if (size == 0)
        return false;
    write_all(stream == 2 ? STDERR_FILENO : STDOUT_FILENO, data, (size_t)size);
    keep(run, stream, data, (size_t)size);
    return true;
}

/* Gives the command more of its input. False: it has all, or wants no more. */
static bool feed(struct run *run, int to)
{
    const ssize_t size = write(to, run->input + run->input_sent, run->input_bytes - run->input_sent);

    if (size < 0)
        return errno == EINTR || errno == EAGAIN;
    run->input_sent += (size_t)size;
    return run->input_sent < run->input_bytes;
}

static void close_one(struct pollfd *look)
{
    if (look->fd >= 0)
        close(look->fd);
    look->fd = -1;
}

/* Until the command has ended and its output is here. A process that it left behind may hold the pipes: what it writes
 * later is not the command's. */
static void attend(struct run *run, struct pipes *pipes)
{
    struct pollfd looks[] = {{.fd = pipes->out[0], .events = POLLIN},
                             {.fd = pipes->err[0], .events = POLLIN},
                             {.fd = pidfd_open(run->child, 0), .events = POLLIN},
                             {.fd = run->use_stdin ? pipes->in[1] : -1, .events = POLLOUT}};
    bool ended = false;

    fcntl(pipes->out[0], F_SETFL, O_NONBLOCK);
    fcntl(pipes->err[0], F_SETFL, O_NONBLOCK);
    if (run->use_stdin)
        fcntl(pipes->in[1], F_SETFL, O_NONBLOCK);
    while (!ended || looks[0].fd >= 0 || looks[1].fd >= 0) {
        const uint64_t now = now_ms();
        const int wait_ms = ended ? 0 : run->renew_at_ms > now ? (int)(run->renew_at_ms - now) : 0;
        const int ready = poll(looks, 4, wait_ms);

        if (ready == 0 && ended)
            break;
        for (int i = 0; i < 2; i++)
            if (looks[i].revents && !pass(run, looks[i].fd, (uint8_t)(i + 1)))
                close_one(&looks[i]);
        if (looks[3].revents && (looks[3].revents & POLLERR || !feed(run, looks[3].fd)))
            close_one(&looks[3]);
        if (looks[2].revents) {
            ended = true;
            close_one(&looks[2]);
        }
        if (!ended && now_ms() >= run->renew_at_ms)
            renew(run);
    }
    for (int i = 0; i < 4; i++)
        close_one(&looks[i]);
}

static idem_done judge(struct run *run, int status)
{
    if (WIFSIGNALED(status)) {
        run->exit_status = 128 + WTERMSIG(status);
        command_say("the command was killed by signal %d: whether it took effect is unknown", WTERMSIG(status));
        return IDEM_DONE_UNKNOWN;
    }
    run->exit_status = WEXITSTATUS(status);
    if (run->exit_status == 0)
        return IDEM_DONE_SUCCEEDED;
    if (run->on_failure == ON_FAILURE_KEEP)
        return IDEM_DONE_FAILED;
    if (run->on_failure == ON_FAILURE_RELEASE)
        return IDEM_DONE_NOTHING;
    command_say("exit status %d: whether it took effect is unknown, so the operation is left in doubt "
                "(--on-failure says otherwise)",
                run->exit_status);
    return IDEM_DONE_UNKNOWN;
}

static idem_done execute(idem_running *running, idem_outcome *outcome, void *user)
{
    struct run *run = user;
    struct pipes pipes;
    int status;

    run->running = running;
    run->renew_at_ms = now_ms() + idem_running_lease_left_ms(running) / 3;
    watch_signals();
    if (!start(run, &pipes)) {
        run->not_started = true;
        return IDEM_DONE_NOTHING;
    }
    attend(run, &pipes);
    while (waitpid(run->child, &status, 0) < 0 && errno == EINTR)
        ;
    forward_to = 0;
    const idem_done done = judge(run, status);
    outcome->code = run->exit_status;
    outcome->body_bytes = run->output_bytes;
    outcome->body_dropped = run->output_bytes > run->kept_max;
    if (!outcome->body_dropped)
        outcome->body = (idem_bytes){run->kept, run->kept_bytes};
    return done;
}

/* ---- What becomes of it ------------------------------------------------------------------------- */

static int replay(const idem_outcome *outcome)
{
    write_kept(outcome->body);
    if (outcome->body_dropped)
        command_say("its output of %llu bytes was not kept", (unsigned long long)outcome->body_bytes);
    return outcome->code;
}

static int say_interrupted(const struct run *run, const idem_begin_reply *begin)
{
    command_say("interrupted: attempt %u by %s ended without an outcome, and nobody knows whether it took effect",
                begin->info.attempt, *begin->info.owner ? begin->info.owner : "(unknown)");
    if (*begin->checkpoint.name)
        command_say("its last checkpoint: %s", begin->checkpoint.name);
    command_say("find out, then: run it again with --if-interrupted take-over; or say what happened:");
    command_say(
        "idem resolve --key '%s' --revision %llu --verdict did-not-happen (or: --verdict happened --kind succeeded)",
        run->begin.op.key, (unsigned long long)begin->info.revision);
    return EXIT_INTERRUPTED;
}

static int not_run(const struct run *run, const idem_run_reply *reply)
{
    switch (reply->begin.answer) {
    case IDEM_REPLAY:
        return replay(&reply->outcome);
    case IDEM_ANSWER_RUNNING:
        command_say("running elsewhere: %s has it, its lease ends in %u ms", reply->begin.owner,
                    reply->begin.lease_left_ms);
        return EXIT_RUNNING;
    case IDEM_MISMATCH:
        command_say("mismatch: this key belongs to another %s",
                    reply->begin.operation_differs ? "operation" : "command, or other arguments or input");
        return EXIT_MISMATCH;
    case IDEM_ANSWER_INTERRUPTED:
        return say_interrupted(run, &reply->begin);
    default:
        command_say("expired: this key was first sent too long ago to tell whether it was run");
        return EXIT_EXPIRED;
    }
}

static int was_run(const struct run *run, const idem_run_reply *reply, idem_error error)
{
    if (error != IDEM_OK) {
        command_failed(run->command, error);
        if (run->not_started)
            return run->exit_status;
        command_say("the command ran (exit status %d), and whether that is stored is unknown", run->exit_status);
        return EXIT_INTERRUPTED;
    }
    if (reply->ownership == IDEM_HELD || run->not_started || (reply->ownership == IDEM_GONE && run->exit_status))
        return run->exit_status;
    command_say("the command ran (exit status %d), but somebody else had decided this operation before: %s",
                run->exit_status, reply->ownership == IDEM_FINAL ? "another outcome is stored" : "it was taken over");
    return EXIT_INTERRUPTED;
}

static int run_command(struct command *command, int argc, char **argv)
{
    struct run *run = &the_run;
    idem_hello_reply hello;
    idem_run_reply reply;
    idem_error error;
    int exit_code;

    (void)argc;
    run->command = command;
    run->argv = argv;
    if (!run->begin.op.key)
        return command_misuse("run needs --key");
    if (run->use_stdin && !(run->input = command_read_all(STDIN_FILENO, STDIN_BYTES_MAX, &run->input_bytes))) {
        command_say("standard input: %s", errno == EFBIG ? "more than 16 MiB" : strerror(errno));
        return EXIT_OTHER;
    }
    take_fingerprint(run);
    error = idem_hello(command->client, command->timeout_ms, &hello);
    if (error == IDEM_OK) {
        run->kept_max = hello.max_outcome_bytes;
        error = idem_run(command->client, &run->begin, command->timeout_ms, execute, run, &reply);
    } else {
        reply = (idem_run_reply){0};
    }
    if (reply.ran)
        exit_code = was_run(run, &reply, error);
    else
        exit_code = error != IDEM_OK ? command_failed(command, error) : not_run(run, &reply);
    free(run->input);
    free(run->kept);
    return exit_code;
}

static const struct meaning exits[] = {
    {"0 .. 255", "the exit status of the command, as it ran now or as it is stored; 128 + N if signal N killed it"},
    {"64", "the command line is wrong; nothing was run"},
    {"65", "mismatch: the key belongs to another command, other arguments or another input"},
    {"69", "the daemon was not reached; nothing was run"},
    {"74", "the command's output could not be written; its outcome is stored, and the same run gives it again"},
    {"75", "it runs elsewhere"},
    {"76", "interrupted: it is not known whether it took effect; what is known is said, and how to go on"},
    {"77", "expired: the key was first sent too long ago to tell"},
    {"126, 127", "the command could not be started, or was not found; nothing was run"},
    {NULL, NULL},
};

static const struct meaning variables[] = {
    {"IDEM_KEY", "the key"},
    {"IDEM_ATTEMPT", "1 for the first attempt; above that somebody before may have done it: look before you do it"},
    {"IDEM_FENCE", "grows with every grant; hand it to what the command changes, which refuses a lower one"},
    {"IDEM_RESUMED", "1 if this very attempt had been granted before and the answer was lost, else 0"},
    {NULL, NULL},
};

const struct subcommand run_subcommand = {
    .name = "run",
    .usage = "--key KEY [OPTION]... -- COMMAND [ARG]...",
    .about = "Run a command once for its key. Its output and exit status are passed on as they come, and stored: every "
             "later run with that key writes the same again and runs nothing. Messages of idem itself start with "
             "\"idem:\", on standard error.",
    .table = {lines, sizeof lines / sizeof lines[0], set_option, &the_run},
    .exits = exits,
    .variables = variables,
    .example = "  idem run --key backup-2026-11-24 --on-failure release -- pg_dump -f backup.sql shop\n",
    .needs_client = true,
    .takes_words = true,
    .run = run_command,
};
