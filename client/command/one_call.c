/* One call of the protocol, its fields as options, its reply printed whole. The calls are those of idem.v1.Request:
 * what is added there is a command here. */
#include "client/command/command.h"

#include <stdlib.h>
#include <string.h>

#include "client/calls.h"
#include "client/client.h"

/* Hello is the connection's, and Cancel makes no sense alone. */
static const ProtobufCFieldDescriptor *call_field(const char *name)
{
    const ProtobufCFieldDescriptor *field =
        protobuf_c_message_descriptor_get_field_by_name(&idem__v1__request__descriptor, name);

    if (!field || field->type != PROTOBUF_C_TYPE_MESSAGE || strcmp(name, "hello") == 0 || strcmp(name, "cancel") == 0)
        return NULL;
    return field;
}

bool one_call_known(const char *name)
{
    return call_field(name) != NULL;
}

void one_call_list(FILE *out)
{
    const ProtobufCMessageDescriptor *request = &idem__v1__request__descriptor;

    fputs("    ", out);
    for (unsigned i = 0; i < request->n_fields; i++)
        if (call_field(request->fields[i].name))
            fprintf(out, " %s", request->fields[i].name);
    fputc('\n', out);
}

static void help(const ProtobufCFieldDescriptor *field)
{
    printf("usage: idem [...] %s OPTIONS\n\n", field->name);
    message_print_help(stdout, field->descriptor);
    fputs("\nD is a duration (500ms, 30s, 5m, 24h, 7d). BYTES are taken as they are; hex:00ff is hex, @FILE a file's "
          "content,\n"
          "@- standard input.\n\n"
          "Exit status: 0 EXECUTE, HELD or found; 10 REPLAY, 11 RUNNING, 12 MISMATCH, 13 INTERRUPTED, 14 EXPIRED, 15 "
          "LOST,\n"
          "16 FINAL, 17 GONE or NOT_FOUND, 64 usage, 69 not reachable, 70 another status.\n",
          stdout);
}

/* One option and its value. Returns how many words it took, 0: it was wrong, and said so. */
static int read_option(ProtobufCMessage *message, int argc, char **argv)
{
    char name[64];
    const char *value = strchr(argv[0], '='), *wrong;
    int taken = 1;
    bool known;

    if (strncmp(argv[0], "--", 2) != 0) {
        command_misuse("%s: not an option", argv[0]);
        return 0;
    }
    const size_t size = value ? (size_t)(value - argv[0] - 2) : strlen(argv[0]) - 2;
    snprintf(name, sizeof name, "%.*s", (int)(size < sizeof name ? size : sizeof name - 1), argv[0] + 2);
    if (value) {
        value++;
    } else if (argc > 1 && strcmp(name, "bind-to-connection") != 0) {
        value = argv[1];
        taken = 2;
    } else {
        value = "true";
    }
    wrong = message_set(message, name, value, &known);
    if (known && !wrong)
        return taken;
    if (known)
        command_misuse("--%s %s: %s", name, value, wrong);
    else
        command_misuse("--%s: no such option of this call", name);
    return 0;
}

static void fill_id(const idem_client *client, Idem__V1__OperationId **op)
{
    if (!*op) {
        *op = malloc(sizeof **op);
        if (!*op)
            abort();
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
static uint32_t fill_defaults(const idem_client *client, Idem__V1__Request *request)
{
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
    case IDEM__V1__REQUEST__CALL_LIST:
    case IDEM__V1__REQUEST__CALL_STATS:
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
    static const int codes[] = {EXIT_OTHER, 0, 15, 16, 17};

    return ownership < sizeof codes / sizeof codes[0] ? codes[ownership] : EXIT_OTHER;
}

static int exit_of(const Idem__V1__Response *response)
{
    static const int answers[] = {EXIT_OTHER, 0, 10, 11, 12, 13, 14};

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

int one_call(struct command *command, int argc, char **argv)
{
    const ProtobufCFieldDescriptor *field = call_field(argv[0]);
    /* Static: it and what hangs from it live until the process ends. */
    static ProtobufCMessage *message;
    Idem__V1__Request request = IDEM__V1__REQUEST__INIT;
    idem_error error;

    message = malloc(((const ProtobufCMessageDescriptor *)field->descriptor)->sizeof_message);
    if (!message)
        abort();
    ((const ProtobufCMessageDescriptor *)field->descriptor)->message_init(message);
    for (int at = 1; at < argc;) {
        if (strcmp(argv[at], "--help") == 0) {
            help(field);
            return 0;
        }
        const int taken = read_option(message, argc - at, argv + at);
        if (taken == 0)
            return EXIT_USAGE;
        at += taken;
    }
    request.call_case = (Idem__V1__Request__CallCase)field->id;
    request.hello = (Idem__V1__HelloRequest *)(void *)message;
    const uint32_t wait_ms = fill_defaults(command->client, &request);
    client_begin_call(command->client);
    error = client_exchange(command->client, &request, client_deadline(command->client, command->timeout_ms, wait_ms));
    if (error != IDEM_OK)
        return command_failed(command, error);
    const ProtobufCMessage *result = &command->client->response->hello->base;
    if (command->json) {
        message_print_json(stdout, result);
        putchar('\n');
    } else {
        message_print_text(stdout, result);
    }
    return exit_of(command->client->response);
}
