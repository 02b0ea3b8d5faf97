/* One call of the protocol, its fields as options, its reply printed whole. The calls are those of idem.v1.Request:
 * what is added there is a command here. */
#include "client/command/command.h"

#include <stdlib.h>
#include <string.h>

#include "client/calls.h"
#include "client/client.h"
#include "client/command/show.h"

static const struct meaning begin_exits[] = {
    {"0", "execute: it may run"},
    {"10", "replay: it is done, and here is its outcome"},
    {"11", "running: another owner has it"},
    {"12", "mismatch: the key belongs to another request"},
    {"13", "interrupted: its owner is gone, and nobody knows whether it took effect"},
    {"14", "expired: the key was first sent too long ago to tell"},
    {NULL, NULL},
};

static const struct meaning owner_exits[] = {
    {"0", "held: the call took effect, or had already"},
    {"15", "lost: a later grant owns the operation"},
    {"16", "final: it is done, otherwise than this call says"},
    {"17", "gone: it is no more: released, forgotten, resolved or expired"},
    {NULL, NULL},
};

static const struct meaning look_exits[] = {
    {"0", "found"},
    {"17", "there is no such operation"},
    {NULL, NULL},
};

/* Hello is the connection's, and Cancel makes no sense alone. */
static bool is_call(const ProtobufCFieldDescriptor *field)
{
    return field->type == PROTOBUF_C_TYPE_MESSAGE && strcmp(field->name, "hello") != 0 &&
           strcmp(field->name, "cancel") != 0;
}

/* The request that the options fill in. It and what hangs from it live until the process ends. */
static ProtobufCMessage *message;
static const ProtobufCFieldDescriptor *called;

static bool prometheus;

static const char *set(void *user, const char *name, const char *value)
{
    const ProtobufCMessageDescriptor *descriptor = user;

    if (strcmp(name, "prometheus") == 0) {
        prometheus = true;
        return NULL;
    }
    if (!message) {
        message = command_need(malloc(descriptor->sizeof_message));
        descriptor->message_init(message);
    }
    return message_set(message, name, value);
}

static void fill_id(const idem_client *client, Idem__V1__OperationId **op)
{
    if (!*op) {
        *op = command_need(malloc(sizeof **op));
        idem__v1__operation_id__init(*op);
    }
    if (!*(*op)->namespace_)
        (*op)->namespace_ = client->namespace_;
    if (!*(*op)->caller)
        (*op)->caller = client->caller;
}

static void fill_attempt(ProtobufCBinaryData *attempt_id)
{
    static uint8_t made[IDEM_ATTEMPT_ID_BYTES];

    if (attempt_id->len == 0 && calls_attempt_id(made))
        *attempt_id = (ProtobufCBinaryData){sizeof made, made};
}

/* What an option did not say is the client's. */
static uint32_t fill_defaults(const struct command *command, Idem__V1__Request *request)
{
    const idem_client *client = command->client;
    char *given = (char *)(uintptr_t)command->options.namespace_;

    switch (request->call_case) {
    case IDEM__V1__REQUEST__CALL_BEGIN:
        fill_id(client, &request->begin->op);
        fill_attempt(&request->begin->attempt_id);
        if (!*request->begin->owner)
            request->begin->owner = client->owner;
        return request->begin->wait_ms;
    case IDEM__V1__REQUEST__CALL_RECOVER:
        fill_attempt(&request->recover->attempt_id);
        if (!*request->recover->namespace_)
            request->recover->namespace_ = client->namespace_;
        if (!*request->recover->owner)
            request->recover->owner = client->owner;
        return request->recover->wait_ms;
    case IDEM__V1__REQUEST__CALL_GET:
        fill_id(client, &request->get->op);
        return request->get->wait_ms;
    /* These are about all namespaces, unless the command line names one. */
    case IDEM__V1__REQUEST__CALL_LIST:
        if (given)
            request->list->namespace_ = given;
        return 0;
    case IDEM__V1__REQUEST__CALL_STATS:
        if (given)
            request->stats->namespace_ = given;
        return 0;
    default:
        /* All others have their op first. */
        fill_id(client, &request->complete->op);
        return 0;
    }
}
_Static_assert(offsetof(Idem__V1__CompleteRequest, op) == offsetof(Idem__V1__ReleaseRequest, op) &&
                   offsetof(Idem__V1__CompleteRequest, op) == offsetof(Idem__V1__RenewRequest, op) &&
                   offsetof(Idem__V1__CompleteRequest, op) == offsetof(Idem__V1__CheckpointRequest, op) &&
                   offsetof(Idem__V1__CompleteRequest, op) == offsetof(Idem__V1__ResolveRequest, op) &&
                   offsetof(Idem__V1__CompleteRequest, op) == offsetof(Idem__V1__ForgetRequest, op),
               "their ops lie at the same place");

static int exit_of_ownership(Idem__V1__Ownership ownership)
{
    static const int codes[] = {EXIT_OTHER, 0, EXIT_LOST, EXIT_FINAL, EXIT_GONE};

    return ownership < sizeof codes / sizeof codes[0] ? codes[ownership] : EXIT_OTHER;
}

static int exit_of(const Idem__V1__Response *response)
{
    static const int answers[] = {
        EXIT_OTHER,          0, EXIT_REPLAY, EXIT_ANSWER_RUNNING, EXIT_ANSWER_MISMATCH, EXIT_ANSWER_INTERRUPTED,
        EXIT_ANSWER_EXPIRED,
    };

    switch (response->result_case) {
    case IDEM__V1__RESPONSE__RESULT_BEGIN:
        return response->begin->answer < sizeof answers / sizeof answers[0] ? answers[response->begin->answer]
                                                                            : EXIT_OTHER;
    case IDEM__V1__RESPONSE__RESULT_COMPLETE:
        return exit_of_ownership(response->complete->ownership);
    case IDEM__V1__RESPONSE__RESULT_RELEASE:
        return exit_of_ownership(response->release->ownership);
    case IDEM__V1__RESPONSE__RESULT_RENEW:
        return exit_of_ownership(response->renew->ownership);
    case IDEM__V1__RESPONSE__RESULT_CHECKPOINT:
        return exit_of_ownership(response->checkpoint->ownership);
    case IDEM__V1__RESPONSE__RESULT_RESOLVE:
        return exit_of_ownership(response->resolve->ownership);
    case IDEM__V1__RESPONSE__RESULT_FORGET:
        return exit_of_ownership(response->forget->ownership);
    default:
        return 0;
    }
}

static void print(const struct command *command, const Idem__V1__Response *response)
{
    const ProtobufCMessage *result = &response->hello->base;

    if (command->json) {
        message_print_json(stdout, result);
        putchar('\n');
    } else if (response->result_case == IDEM__V1__RESPONSE__RESULT_LIST) {
        show_list(stdout, response->list);
    } else if (prometheus) {
        show_prometheus(stdout, response->stats);
    } else if (response->result_case == IDEM__V1__RESPONSE__RESULT_STATS) {
        show_stats(stdout, response->stats);
    } else {
        message_print_text(stdout, result);
    }
}

/* A page may be empty and not be the last one: then the next one is asked for, within the time of the one call. */
static idem_error exchange(const struct command *command, Idem__V1__Request *request, uint32_t wait_ms)
{
    idem_client *client = command->client;
    const uint64_t deadline_ms = client_deadline(client, command->timeout_ms, wait_ms);

    for (;;) {
        client_begin_call(client);
        const idem_error error = client_exchange(client, request, deadline_ms);
        const Idem__V1__Response *response = client->response;
        if (error != IDEM_OK || response->result_case != IDEM__V1__RESPONSE__RESULT_LIST ||
            response->list->n_operations || !response->list->cursor.len)
            return error;
        request->list->cursor = response->list->cursor; /* good until the next page is here */
    }
}

static int run(struct command *command, int argc, char **argv)
{
    const ProtobufCMessageDescriptor *descriptor = called->descriptor;
    Idem__V1__Request request = IDEM__V1__REQUEST__INIT;
    idem_error error;

    (void)argc;
    (void)argv;
    if (!message) {
        message = command_need(malloc(descriptor->sizeof_message));
        descriptor->message_init(message);
    }
    request.call_case = (Idem__V1__Request__CallCase)called->id;
    request.hello = (Idem__V1__HelloRequest *)(void *)message;
    const uint32_t wait_ms = fill_defaults(command, &request);
    if (prometheus && command->json)
        return command_misuse("--prometheus and --json are two formats");
    error = exchange(command, &request, wait_ms);
    if (error != IDEM_OK)
        return command_failed(command, error);
    print(command, command->client->response);
    return exit_of(command->client->response);
}

/* ---- The commands --------------------------------------------------------------------- */

static const struct {
    const char *name, *about;
    const struct meaning *exits;
} calls[] = {
    {"begin", "Ask whether an operation may run. Only the answer \"execute\" is permission to run it.", begin_exits},
    {"complete", "Store the outcome of an operation that was granted.", owner_exits},
    {"release", "Let go of an operation without an outcome, and say what is known of its effect.", owner_exits},
    {"renew", "Renew the lease of an operation that was granted.", owner_exits},
    {"checkpoint", "Store how far an operation got, for whoever takes over, and renew its lease.", owner_exits},
    {"get", "Look at an operation, and claim nothing.", look_exits},
    {"recover", "Take over operations whose owners are gone, longest interrupted first.", look_exits},
    {"resolve", "Say what became of an interrupted operation, as an operator who has found out.", owner_exits},
    {"forget", "Remove a finished operation, so that its key is new again.", owner_exits},
    {"list", "List operations, of all namespaces unless --namespace names one.", look_exits},
    {"stats", "Print what the daemon counts, of one namespace if --namespace names it.", look_exits},
};

static void find_texts(struct subcommand *subcommand)
{
    for (size_t i = 0; i < sizeof calls / sizeof calls[0]; i++)
        if (strcmp(calls[i].name, subcommand->name) == 0) {
            subcommand->about = calls[i].about;
            subcommand->exits = calls[i].exits;
        }
}

bool one_call_at(unsigned at, struct subcommand *subcommand)
{
    const ProtobufCMessageDescriptor *request = &idem__v1__request__descriptor;
    static struct option_line lines[MESSAGE_OPTIONS_MAX + 1];

    for (unsigned i = 0; i < request->n_fields; i++) {
        if (!is_call(&request->fields[i]) || at-- > 0)
            continue;
        called = &request->fields[i];
        *subcommand = (struct subcommand){
            .name = called->name,
            .usage = "[OPTION]...",
            .about = "",
            .table = {lines, message_options(called->descriptor, lines), set, (void *)(uintptr_t)called->descriptor},
            .needs_client = true,
            .run = run,
        };
        if (strcmp(called->name, "stats") == 0)
            lines[subcommand->table.count++] =
                (struct option_line){"prometheus", NULL, "print it for Prometheus, in its text format", 0};
        find_texts(subcommand);
        return true;
    }
    return false;
}
