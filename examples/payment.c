/* A payment worker: charges a card once for its idempotency key, whatever is lost on the way.
 *
 *     payment --ledger FILE --key KEY --amount CENTS [--socket ADDRESS] [--wait MS] [--lease MS] [--die before|after]
 *
 * The ledger stands for the world outside: a file with one line a charge, appended and flushed. It knows nothing of
 * idemd. What this example teaches is in charge(): a worker that takes over looks the key up in the ledger before it
 * charges, since somebody before it may have charged and died before it could say so.
 *
 * Prints "KEY AMOUNT TRANSACTION" for the charge that was made, now or earlier. Exit status 0: it is made; 65: the key
 * belongs to another amount; 75: another worker has it and was not done in time; 1: anything else. --die ends the
 * worker by SIGKILL right before or right after it appends: what a crash does. */
#include <fcntl.h>
#include <idem.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { LINE_BYTES = 256 };

struct payment {
    const char *ledger, *key, *amount, *die;
    char transaction[64];
};

static void die_if(const struct payment *payment, const idem_running *running, const char *when)
{
    if (idem_running_attempt(running) == 1 && payment->die && strcmp(payment->die, when) == 0)
        raise(SIGKILL);
}

/* Has this key been charged? Then its transaction is filled in. */
static bool look_up(struct payment *payment)
{
    FILE *ledger = fopen(payment->ledger, "re");
    char line[LINE_BYTES], key[LINE_BYTES], amount[LINE_BYTES];
    bool found = false;

    while (ledger && !found && fgets(line, sizeof line, ledger))
        found =
            sscanf(line, "%255s %255s %63s", key, amount, payment->transaction) == 3 && strcmp(key, payment->key) == 0;
    if (ledger)
        fclose(ledger);
    return found;
}

/* Charges: one line, whole, flushed. */
static bool append(struct payment *payment)
{
    char line[LINE_BYTES], transaction[IDEM_KEY_CHARS];
    const int ledger = open(payment->ledger, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);

    if (ledger < 0 || idem_key_v4(transaction) != IDEM_OK)
        return false;
    snprintf(payment->transaction, sizeof payment->transaction, "tx-%s", transaction);
    const int size = snprintf(line, sizeof line, "%s %s %s\n", payment->key, payment->amount, payment->transaction);
    const bool done = write(ledger, line, (size_t)size) == size && fsync(ledger) == 0;
    close(ledger);
    return done;
}

/* The operation. Runs in one worker at a time; the outcome it fills in is what all others get. */
static idem_done charge(idem_running *running, idem_outcome *outcome, void *user)
{
    struct payment *payment = user;
    const bool charged_before = idem_running_attempt(running) > 1 && look_up(payment);

    if (!charged_before) {
        die_if(payment, running, "before");
        if (!append(payment))
            return IDEM_DONE_UNKNOWN;
        die_if(payment, running, "after");
    }
    outcome->code = 200;
    outcome->body = (idem_bytes){payment->transaction, strlen(payment->transaction)};
    return IDEM_DONE_SUCCEEDED;
}

static int report(const struct payment *payment, const idem_client *client, idem_error error,
                  const idem_run_reply *reply)
{
    if (error != IDEM_OK) {
        fprintf(stderr, "payment: %s: %s\n", idem_error_name(error), idem_message(client));
        return 1;
    }
    switch (reply->begin.answer) {
    case IDEM_EXECUTE:
    case IDEM_REPLAY:
        if (reply->outcome.kind != IDEM_SUCCEEDED)
            break;
        printf("%s %s %.*s\n", payment->key, payment->amount, (int)reply->outcome.body.size,
               (const char *)reply->outcome.body.data);
        return 0;
    case IDEM_MISMATCH:
        fprintf(stderr, "payment: this key belongs to another payment\n");
        return 65;
    case IDEM_ANSWER_RUNNING:
        fprintf(stderr, "payment: %s is at it, and was not done in time\n", reply->begin.owner);
        return 75;
    default:
        break;
    }
    fprintf(stderr, "payment: not charged, or not known to be\n");
    return 1;
}

static int pay(struct payment *payment, const idem_options *options, uint32_t wait_ms, uint32_t lease_ms)
{
    uint8_t digest[IDEM_FINGERPRINT_BYTES];
    idem_fingerprint fingerprint;
    idem_client *client;
    idem_run_reply reply;

    idem_fingerprint_init(&fingerprint);
    idem_fingerprint_add(&fingerprint, "amount", payment->amount, strlen(payment->amount));
    idem_fingerprint_final(&fingerprint, digest);
    const idem_begin_request request = {
        .op = {.key = payment->key},
        .operation = "charge",
        .fingerprint = {digest, sizeof digest},
        .lease_ms = lease_ms,
        .wait_ms = wait_ms,
        .if_interrupted = IDEM_TAKE_OVER, /* we look before we charge, so we may */
    };
    if (idem_open(options, &client) != IDEM_OK)
        return 1;
    const idem_error error = idem_run(client, &request, 0, charge, payment, &reply);
    const int exit_code = report(payment, client, error, &reply);
    idem_close(client);
    return exit_code;
}

int main(int argc, char **argv)
{
    struct payment payment = {0};
    uint32_t wait_ms = 30000, lease_ms = 0;
    idem_options options;

    idem_options_init(&options);
    options.client = "payment example";
    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--ledger") == 0)
            payment.ledger = argv[i + 1];
        else if (strcmp(argv[i], "--key") == 0)
            payment.key = argv[i + 1];
        else if (strcmp(argv[i], "--amount") == 0)
            payment.amount = argv[i + 1];
        else if (strcmp(argv[i], "--die") == 0)
            payment.die = argv[i + 1];
        else if (strcmp(argv[i], "--socket") == 0)
            options.address = argv[i + 1];
        else if (strcmp(argv[i], "--wait") == 0)
            wait_ms = (uint32_t)strtoul(argv[i + 1], NULL, 10);
        else if (strcmp(argv[i], "--lease") == 0)
            lease_ms = (uint32_t)strtoul(argv[i + 1], NULL, 10);
    }
    if (!payment.ledger || !payment.key || !payment.amount) {
        fputs("usage: payment --ledger FILE --key KEY --amount CENTS [--socket ADDRESS] [--wait MS] [--lease MS]\n"
              "               [--die before|after]\n",
              stderr);
        return 64;
    }
    return pay(&payment, &options, wait_ms, lease_ms);
}
