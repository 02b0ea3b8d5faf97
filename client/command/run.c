/* idem run: a command, once for its key.
 *
 *     Begin --EXECUTE--> start the command (child.c); pass its output on and keep it (output.c), while a process of its
 *       |                own renews the lease (keeper.c) --> Complete or Release --> write what is left of the output
 *       `----REPLAY----> write the kept output again, exit as it did
 *
 * The exit status is the outcome's code. */
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "client/client.h"
#include "client/command/child.h"
#include "proto/text.h"

enum {
    STDIN_BYTES_MAX = 16 * 1024 * 1024, /* with --stdin it is read before the command starts */
    DIGITS = 24,
};

enum on_failure { ON_FAILURE_DOUBT, ON_FAILURE_RELEASE, ON_FAILURE_KEEP };

struct run {
    struct command *command;
    idem_begin_request begin;
    enum on_failure on_failure;
    bool use_stdin;
    char **argv; /* of the command */
    uint8_t *input;
    size_t input_bytes;
    uint8_t fingerprint[IDEM_FINGERPRINT_BYTES];
    struct output output;
    idem_run_reply reply;
    int exit_status;  /* of the command, as a shell has it */
    bool not_started; /* nothing was run */
};

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

/* A lease or a keep time of 0 would become the namespace's in silence. */
static const char *set_length(const char *value, uint64_t most_ms, uint64_t *ms)
{
    const char *wrong = command_duration(value, most_ms, ms);

    return wrong || *ms ? wrong : "not 0";
}

static const char *set_option(void *user, const char *name, const char *value)
{
    static const char *const if_interrupted[] = {"report", "take-over", NULL};
    static const char *const on_failure[] = {"doubt", "release", "keep", NULL};
    struct run *run = user;
    const char *wrong = NULL;
    uint64_t ms = 0;
    int place = 0;

    if (strcmp(name, "key") == 0)
        run->begin.op.key = value;
    else if (strcmp(name, "operation") == 0)
        run->begin.operation = value;
    else if (strcmp(name, "keep") == 0)
        wrong = set_length(value, UINT64_MAX, &run->begin.keep_ms);
    else if (strcmp(name, "lease") == 0) {
        wrong = set_length(value, UINT32_MAX, &ms);
        run->begin.lease_ms = (uint32_t)ms;
    } else if (strcmp(name, "wait") == 0) {
        wrong = command_duration(value, UINT32_MAX, &ms);
        run->begin.wait_ms = (uint32_t)ms;
    } else if (strcmp(name, "if-interrupted") == 0) {
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

/* ---- The command ---------------------------------------------------------------------------- */

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

/* Runs the command with the variables that tell it what it is; *status as child_run has it. */
static bool run_child(struct run *run, idem_running *running, struct keeper *keeper, int *status)
{
    char attempt[DIGITS], fence[DIGITS];
    const struct meaning extras[] = {
        {"IDEM_KEY", run->begin.op.key},
        {"IDEM_ATTEMPT", attempt},
        {"IDEM_FENCE", fence},
        {"IDEM_RESUMED", run->reply.begin.grant.resumed ? "1" : "0"},
        /* So that the command reaches its own operation. What was not given as an option it has already. */
        {"IDEM_ADDRESS", idem_address(run->command->client)},
        {run->command->options.namespace_ ? "IDEM_NAMESPACE" : NULL, run->command->options.namespace_},
        {NULL, NULL},
    };
    const struct child child = {
        .argv = run->argv,
        .extras = extras,
        .input = run->input,
        .input_bytes = run->input_bytes,
        .output = &run->output,
        .keeper = keeper,
    };

    snprintf(attempt, sizeof attempt, "%" PRIu32, idem_running_attempt(running));
    snprintf(fence, sizeof fence, "%" PRIu64, idem_running_fence(running));
    return child_run(&child, status);
}

static idem_done execute(idem_running *running, idem_outcome *outcome, void *user)
{
    struct run *run = user;
    struct keeper keeper = {.command = run->command, .op = run->begin.op, .fence = idem_running_fence(running)};
    int status;

    if (!keeper_start(&keeper, idem_running_lease_left_ms(running))) {
        command_say("the command cannot be started: %s", strerror(errno));
        run->exit_status = EXIT_NOT_STARTED;
        run->not_started = true;
        return IDEM_DONE_NOTHING;
    }
    run->not_started = !run_child(run, running, &keeper, &status);
    keeper_stop(&keeper);
    if (run->not_started) {
        run->exit_status = status;
        return IDEM_DONE_NOTHING;
    }
    const idem_done done = judge(run, status);
    outcome->code = run->exit_status;
    outcome->body_bytes = run->output.all_bytes;
    outcome->body_dropped = run->output.all_bytes > run->output.kept_max;
    if (outcome->body_dropped)
        command_say("its output is more than the %" PRIu64
                    " bytes that the daemon keeps (--max-outcome): a later run will "
                    "write none of it",
                    (uint64_t)run->output.kept_max);
    else
        outcome->body = (idem_bytes){run->output.kept, run->output.kept_bytes};
    return done;
}

/* ---- What becomes of it ------------------------------------------------------------------------- */

/* A failure must not look like success, whatever code it was stored with; nor the other way round. */
static int stored_exit(const idem_outcome *outcome)
{
    if (outcome->kind == IDEM_SUCCEEDED)
        return 0;
    return outcome->code >= 1 && outcome->code <= 255 ? outcome->code : 1;
}

static int replay(struct run *run, const idem_outcome *outcome)
{
    output_replay(&run->output, outcome->body);
    if (outcome->body_dropped)
        command_say("its output of %" PRIu64 " bytes was not kept: more than the daemon's --max-outcome",
                    outcome->body_bytes);
    return output_exit(&run->output, stored_exit(outcome));
}

/* Is every character such that a shell, or a terminal, makes nothing else of it? */
static bool is_shown_as_it_is(const char *text)
{
    size_t left = strlen(text);

    while (left > 0) {
        char escaped[TEXT_CHARACTER_BYTES_MAX];
        size_t taken;
        const size_t written = text_escape(escaped, text, left, TEXT_PLAIN, &taken);
        if (*text != '\\' && (written != taken || memcmp(escaped, text, taken) != 0))
            return false;
        text += taken;
        left -= taken;
    }
    return true;
}

/* Prints a word that a shell takes as it was. */
static void print_quoted(FILE *out, const char *word)
{
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789@%+:,./_-";

    if (*word && !word[strspn(word, plain)]) {
        fputs(word, out);
    } else if (is_shown_as_it_is(word)) {
        fputc('\'', out);
        for (; *word; word++)
            fputs(*word == '\'' ? "'\\''" : (const char[]){*word, '\0'}, out);
        fputc('\'', out);
    } else {
        fputs("$'", out);
        for (; *word; word++) {
            const unsigned char c = (unsigned char)*word;
            fprintf(out, strchr(plain, c) ? "%c" : "\\%03o", c);
        }
        fputc('\'', out);
    }
}

/* A line that can be pasted. It names everything, because it may be pasted where the environment is another. */
static void offer_resolve(const struct run *run, uint64_t revision, const char *verdict)
{
    const idem_client *client = run->command->client;

    fputs("  idem --address=", stderr);
    print_quoted(stderr, client->address);
    fputs(" --namespace=", stderr);
    print_quoted(stderr, client->namespace_);
    if (*client->caller) {
        fputs(" --caller=", stderr);
        print_quoted(stderr, client->caller);
    }
    fputs(" resolve --key=", stderr);
    print_quoted(stderr, run->begin.op.key);
    fprintf(stderr, " --revision=%" PRIu64 " --verdict=%s\n", revision, verdict);
}

static int say_interrupted(const struct run *run, const idem_begin_reply *begin)
{
    command_say("interrupted: attempt %" PRIu32 " by %s ended without an outcome, and nobody knows whether it took "
                "effect",
                begin->info.attempt, *begin->info.owner ? begin->info.owner : "(unknown)");
    if (*begin->checkpoint.name)
        command_say("its last checkpoint: %s", begin->checkpoint.name);
    command_say(
        "find out, then run it again with --if-interrupted take-over, or say what happened, with one of these:");
    offer_resolve(run, begin->info.revision, "did-not-happen");
    offer_resolve(run, begin->info.revision, "happened --kind=succeeded");
    return EXIT_INTERRUPTED;
}

static int not_run(struct run *run)
{
    const idem_run_reply *reply = &run->reply;

    switch (reply->begin.answer) {
    case IDEM_REPLAY:
        return replay(run, &reply->outcome);
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

static int was_run(const struct run *run, idem_error error)
{
    const idem_ownership ownership = run->reply.ownership;

    if (error != IDEM_OK) {
        command_failed(run->command, error);
        if (run->not_started)
            return run->exit_status;
        command_say("the command ran (exit status %d), and whether that is stored is unknown", run->exit_status);
        return EXIT_INTERRUPTED;
    }
    if (ownership == IDEM_HELD || run->not_started || (ownership == IDEM_GONE && run->exit_status))
        return output_exit(&run->output, run->exit_status);
    command_say("the command ran (exit status %d), but somebody else had decided this operation before: %s",
                run->exit_status, ownership == IDEM_FINAL ? "another outcome is stored" : "it was taken over");
    return EXIT_INTERRUPTED;
}

static int run_command(struct command *command, int argc, char **argv)
{
    struct run *run = &the_run;
    idem_hello_reply hello;
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
        run->output.kept_max = hello.max_outcome_bytes;
        error = idem_run(command->client, &run->begin, command->timeout_ms, execute, run, &run->reply);
    }
    if (run->reply.ran) {
        child_end();
        output_finish(&run->output);
        exit_code = was_run(run, error);
    } else {
        exit_code = error != IDEM_OK ? command_failed(command, error) : not_run(run);
    }
    free(run->input);
    output_free(&run->output);
    return exit_code;
}

static const struct meaning exits[] = {
    {"0 .. 255", "the exit status of the command, as it ran now or as it is stored; 128 + N if signal N killed it"},
    {"64", "the command line is wrong; nothing was run"},
    {"65", "mismatch: the key belongs to another command, other arguments or another input"},
    {"69", "the daemon was not reached; nothing was run"},
    {"70", "the daemon answered with another error; nothing was run"},
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
    {"IDEM_ADDRESS, IDEM_NAMESPACE",
     "of this daemon and of the key, so that the command reaches its operation with idem"},
    {NULL, NULL},
};

const struct subcommand run_subcommand = {
    .name = "run",
    .usage = "--key KEY [OPTION]... -- COMMAND [ARG]...",
    .about = "Run a command once for its key. Its output and exit status are passed on as they come, and stored: every "
             "later run with that key writes the same again and runs nothing. Output of more than the daemon keeps, by "
             "default 1 MiB, is not stored, and that is said. While the command runs, a process of its "
             "own renews the lease, also while the output is not read or the job is stopped. Signals are passed on to "
             "the command. Messages of idem itself start with \"idem:\", on standard error.",
    .table = {lines, sizeof lines / sizeof lines[0], set_option, &the_run},
    .exits = exits,
    .variables = variables,
    .example = "  idem run --key backup-2026-11-24 --on-failure release -- pg_dump -f backup.sql shop\n",
    .needs_client = true,
    .takes_words = true,
    .run = run_command,
};
