/* A client, and one call's way:
 *
 *     call --> connect, Hello (replaces the connection given up) --> send --> receive until the answer with its id
 *                 ^                                                              |
 *                 `------- backoff <--- give the connection up <--- lost, or UNAVAILABLE
 *
 * A call whose time is over gives its connection up, so that a late answer has nowhere to arrive, and what waits at the
 * daemon is withdrawn. Whatever may be unread on a connection given up is dead once the next Hello, which names it, was
 * answered; only then anything is sent again. */
#include "client/client.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "client/memory.h"
#include "client/transport.h"
#include "proto/frame.h"
#include "proto/limits.h"

enum {
    TIMEOUT_MS_DEFAULT = 10 * 1000,
    BACKOFF_MS_FIRST = 10,
    BACKOFF_MS_MAX = 2000,
    HELLO_MESSAGE_BYTES_MAX = 64 * 1024, /* before Hello told the limit */
};

/* ---- Errors --------------------------------------------------------------------- */

idem_error client_fail(idem_client *client, idem_error error, const char *message)
{
    snprintf(client->message, sizeof client->message, "%s", message ? message : "");
    return error;
}

const char *idem_message(const idem_client *client)
{
    return client ? client->message : "";
}

const char *idem_reason(const idem_client *client)
{
    return client ? client->reason : "";
}

const char *idem_field(const idem_client *client)
{
    return client ? client->field : "";
}

uint32_t idem_retry_after_ms(const idem_client *client)
{
    return client ? client->retry_after_ms : 0;
}

static idem_error error_of(Idem__V1__Code code)
{
    switch (code) {
    case IDEM__V1__CODE__CODE_INVALID_ARGUMENT:
        return IDEM_ERR_INVALID_ARGUMENT;
    case IDEM__V1__CODE__CODE_UNAUTHENTICATED:
        return IDEM_ERR_UNAUTHENTICATED;
    case IDEM__V1__CODE__CODE_PERMISSION_DENIED:
        return IDEM_ERR_PERMISSION_DENIED;
    case IDEM__V1__CODE__CODE_NOT_FOUND:
        return IDEM_ERR_NOT_FOUND;
    case IDEM__V1__CODE__CODE_FAILED_PRECONDITION:
        return IDEM_ERR_FAILED_PRECONDITION;
    case IDEM__V1__CODE__CODE_RESOURCE_EXHAUSTED:
        return IDEM_ERR_RESOURCE_EXHAUSTED;
    case IDEM__V1__CODE__CODE_DEADLINE_EXCEEDED:
        return IDEM_ERR_DEADLINE_EXCEEDED;
    case IDEM__V1__CODE__CODE_CANCELLED:
        return IDEM_ERR_CANCELLED;
    case IDEM__V1__CODE__CODE_UNIMPLEMENTED:
        return IDEM_ERR_UNIMPLEMENTED;
    case IDEM__V1__CODE__CODE_DATA_LOSS:
        return IDEM_ERR_DATA_LOSS;
    case IDEM__V1__CODE__CODE_UNAVAILABLE:
        return IDEM_ERR_UNAVAILABLE;
    case IDEM__V1__CODE__CODE_INTERNAL:
        return IDEM_ERR_INTERNAL;
    default:
        return IDEM_ERR_PROTOCOL;
    }
}

static idem_error fail_status(idem_client *client, const Idem__V1__Status *status)
{
    snprintf(client->reason, sizeof client->reason, "%s", status->reason);
    snprintf(client->field, sizeof client->field, "%s", status->field);
    client->retry_after_ms = status->retry_after_ms;
    return client_fail(client, error_of(status->code), status->message);
}

/* ---- Opening and closing ------------------------------------------------------------ */

void idem_options_init(idem_options *options)
{
    *options = (idem_options){.size = sizeof *options};
}

static bool exists(const char *path)
{
    struct stat status;

    return stat(path, &status) == 0;
}

static char *choose_address(const char *given)
{
    const char *variable = getenv("IDEM_ADDRESS"), *runtime = getenv("XDG_RUNTIME_DIR");
    char path[256];

    if (given)
        return idem__string(given);
    if (variable && *variable)
        return idem__string(variable);
    if (runtime && snprintf(path, sizeof path, "unix:%s/idemd.sock", runtime) < (int)sizeof path && exists(path + 5))
        return idem__string(path);
    return idem__string("unix:" IDEM_UNIX_SOCKET);
}

static char *choose_namespace(const char *given)
{
    const char *variable = getenv("IDEM_NAMESPACE");

    return idem__string(given ? given : variable && *variable ? variable : "default");
}

static char *choose_owner(const char *given)
{
    char host[65] = "", owner[IDEM_OWNER_BYTES_MAX + 1];

    if (given)
        return idem__string(given);
    gethostname(host, sizeof host - 1);
    snprintf(owner, sizeof owner, "%s pid %ld", host, (long)getpid());
    return idem__string(owner);
}

idem_error idem_open(const idem_options *options, idem_client **out)
{
    idem_options given;
    idem_client *client;

    if (!out)
        return IDEM_ERR_MISUSE;
    *out = NULL;
    idem_options_init(&given);
    if (options) {
        if (options->size < sizeof options->size || options->size > sizeof given)
            return IDEM_ERR_MISUSE;
        memcpy(&given, options, options->size);
    }
    if (!(client = idem__zero(sizeof *client)))
        return IDEM_ERR_NO_MEMORY;
    client->fd = -1;
    client->next_id = 1;
    client->timeout_ms = given.timeout_ms ? given.timeout_ms : TIMEOUT_MS_DEFAULT;
    client->address = choose_address(given.address);
    client->namespace_ = choose_namespace(given.namespace_);
    client->caller = idem__string(given.caller);
    client->client = idem__string(given.client ? given.client : "libidem " IDEMD_VERSION);
    client->token = idem__string(given.token);
    client->owner = choose_owner(given.owner);
    if (getrandom(&client->seed, sizeof client->seed, 0) != sizeof client->seed)
        client->seed = transport_now_ms();
    idem_error error = !client->address || !client->namespace_ || !client->caller || !client->client ||
                               !client->token || !client->owner
                           ? IDEM_ERR_NO_MEMORY
                       : !transport_address_good(client->address) ? IDEM_ERR_ADDRESS
                                                                  : IDEM_OK;
    if (error != IDEM_OK) {
        idem_close(client);
        return error;
    }
    *out = client;
    return IDEM_OK;
}

static void free_response(Idem__V1__Response **response);

void idem_close(idem_client *client)
{
    if (!client)
        return;
    if (client->fd >= 0)
        close(client->fd);
    session_free(&client->session);
    free_response(&client->response);
    free_response(&client->hello);
    idem__free(client->reply_memory);
    idem__free(client->address);
    idem__free(client->namespace_);
    idem__free(client->caller);
    idem__free(client->client);
    idem__free(client->token);
    idem__free(client->owner);
    idem__free(client);
}

const char *idem_address(const idem_client *client)
{
    return client ? client->address : "";
}

/* ---- Messages ---------------------------------------------------------------------------- */

static void *allocate(void *nothing, size_t size)
{
    (void)nothing;
    return idem__alloc(size);
}

static void release(void *nothing, void *memory)
{
    (void)nothing;
    idem__free(memory);
}

static ProtobufCAllocator allocator = {allocate, release, NULL};

static void free_response(Idem__V1__Response **response)
{
    if (*response)
        idem__v1__response__free_unpacked(*response, &allocator);
    *response = NULL;
}

void client_begin_call(idem_client *client)
{
    free_response(&client->response);
    idem__free(client->reply_memory);
    client->reply_memory = NULL;
    client->message[0] = client->reason[0] = client->field[0] = '\0';
    client->retry_after_ms = 0;
}

void *client_reply_memory(idem_client *client, size_t size)
{
    idem__free(client->reply_memory);
    client->reply_memory = idem__zero(size);
    return client->reply_memory;
}

uint32_t client_message_bytes_max(const idem_client *client)
{
    return client->max_frame_bytes ? client->max_frame_bytes : HELLO_MESSAGE_BYTES_MAX;
}

uint64_t client_deadline(const idem_client *client, uint32_t timeout_ms, uint32_t wait_ms)
{
    return transport_now_ms() + (timeout_ms ? timeout_ms : (uint64_t)client->timeout_ms + wait_ms);
}

/* ---- The connection -------------------------------------------------------------------------- */

/* What was sent on it may be unread yet: the next Hello replaces it. */
static void give_up(idem_client *client)
{
    if (client->fd < 0)
        return;
    close(client->fd);
    client->fd = -1;
    if (client->connection)
        client->given_up = client->connection;
    client->connection = 0;
}

static idem_error send_request(idem_client *client, const Idem__V1__Request *request, uint64_t deadline_ms)
{
    const size_t size = idem__v1__request__get_packed_size(request);
    uint8_t *frame;
    bool sent;

    if (size > client_message_bytes_max(client) && request->call_case != IDEM__V1__REQUEST__CALL_HELLO)
        return client_fail(client, IDEM_ERR_INVALID_ARGUMENT, "the call is longer than a frame of the daemon may be");
    if (!(frame = idem__alloc(IDEM_FRAME_HEADER_BYTES + size)))
        return IDEM_ERR_NO_MEMORY;
    frame_put_header(frame, (uint32_t)size);
    idem__v1__request__pack(request, frame + IDEM_FRAME_HEADER_BYTES);
    sent = transport_send(client->fd, frame, IDEM_FRAME_HEADER_BYTES + size, deadline_ms);
    idem__free(frame);
    return sent ? IDEM_OK : client_fail(client, IDEM_ERR_LOST, strerror(errno));
}

/* Waits for the answer to one call. Answers to others are to calls that are no more: thrown away. */
static idem_error receive(idem_client *client, uint64_t id, uint64_t deadline_ms, Idem__V1__Response **response)
{
    for (;;) {
        const uint8_t *message;
        uint32_t size;
        const enum session_next next = session_next(&client->session, &message, &size);

        if (next == SESSION_BROKEN)
            return client_fail(client, IDEM_ERR_PROTOCOL, "the daemon sent what is no frame, or one over the limit");
        if (next == SESSION_MESSAGE) {
            *response = idem__v1__response__unpack(&allocator, size, message);
            if (!*response)
                return client_fail(client, IDEM_ERR_PROTOCOL, "the daemon sent what is no response");
            if ((*response)->id == id || (*response)->id == 0)
                return IDEM_OK;
            free_response(response);
            continue;
        }
        size_t room;
        uint8_t *to = session_room(&client->session, &room);
        if (!to)
            return client_fail(client, IDEM_ERR_NO_MEMORY, "no memory for the answer");
        const ssize_t got = transport_receive(client->fd, to, room, deadline_ms);
        if (got <= 0)
            return client_fail(client, IDEM_ERR_LOST, got == 0 ? "the daemon closed the connection" : strerror(errno));
        session_fed(&client->session, (size_t)got);
    }
}

/* One call on the connection that there is; *sent: some of it may have gone out. The answer may be an error of the
 * daemon. */
static idem_error call_once(idem_client *client, Idem__V1__Request *request, uint64_t deadline_ms,
                            Idem__V1__Response **response, bool *sent)
{
    const uint64_t now_ms = transport_now_ms();
    idem_error error;

    request->id = client->next_id++;
    request->timeout_ms =
        deadline_ms > now_ms ? (deadline_ms - now_ms < UINT32_MAX ? (uint32_t)(deadline_ms - now_ms) : UINT32_MAX) : 1;
    error = send_request(client, request, deadline_ms);
    *sent |= error == IDEM_OK || error == IDEM_ERR_LOST;
    return error == IDEM_OK ? receive(client, request->id, deadline_ms, response) : error;
}

static idem_error say_hello(idem_client *client, uint64_t deadline_ms)
{
    Idem__V1__HelloRequest hello = IDEM__V1__HELLO_REQUEST__INIT;
    Idem__V1__Request request = IDEM__V1__REQUEST__INIT;
    Idem__V1__Response *response = NULL;
    bool sent = false;
    idem_error error;

    hello.client = client->client;
    hello.token = (ProtobufCBinaryData){strlen(client->token), (uint8_t *)client->token};
    hello.replaces = client->given_up;
    hello.namespace_ = client->namespace_;
    request.call_case = IDEM__V1__REQUEST__CALL_HELLO;
    request.hello = &hello;
    error = call_once(client, &request, deadline_ms, &response, &sent);
    if (error != IDEM_OK)
        return error;
    if (response->status && response->status->code != IDEM__V1__CODE__CODE_OK) {
        error = fail_status(client, response->status);
    } else if (response->result_case != IDEM__V1__RESPONSE__RESULT_HELLO) {
        error = client_fail(client, IDEM_ERR_PROTOCOL, "the daemon's answer to Hello is none that is known");
    } else {
        free_response(&client->hello);
        client->hello = response;
        client->connection = response->hello->connection;
        client->max_frame_bytes = response->hello->max_frame_bytes;
        client->max_wait_ms = response->hello->max_wait_ms;
        client->session.message_bytes_max = client_message_bytes_max(client);
        client->given_up = 0;
        return IDEM_OK;
    }
    free_response(&response);
    return error;
}

/* One try. IDEM_ERR_UNREACHABLE and IDEM_ERR_LOST are worth another. */
static idem_error connect_once(idem_client *client, uint64_t deadline_ms)
{
    idem_error error;

    client->fd = transport_connect(client->address, deadline_ms);
    if (client->fd < 0)
        return client_fail(client, IDEM_ERR_UNREACHABLE, strerror(errno));
    session_reset(&client->session, HELLO_MESSAGE_BYTES_MAX);
    client->connection = 0;
    error = say_hello(client, deadline_ms);
    if (error != IDEM_OK)
        give_up(client);
    return error;
}

/* Full jitter: anything from 0 to the backoff, which doubles (Marc Brooker, "Exponential Backoff And Jitter", 2015).
 * False: the deadline comes first. */
static bool back_off(idem_client *client, uint64_t deadline_ms)
{
    const uint64_t now_ms = transport_now_ms();
    const uint32_t shift = client->backoff < 8 ? client->backoff++ : 8;
    uint64_t most_ms = (uint64_t)BACKOFF_MS_FIRST << shift;

    if (most_ms > BACKOFF_MS_MAX)
        most_ms = BACKOFF_MS_MAX;
    client->seed = client->seed * 6364136223846793005u + 1442695040888963407u; /* Knuth's MMIX generator */
    const uint64_t until_ms = now_ms + 1 + (client->seed >> 33) % most_ms;
    transport_pause(until_ms < deadline_ms ? until_ms : deadline_ms);
    return until_ms < deadline_ms;
}

static bool is_passing(idem_error error)
{
    return error == IDEM_ERR_UNREACHABLE || error == IDEM_ERR_LOST || error == IDEM_ERR_UNAVAILABLE;
}

idem_error client_connect(idem_client *client, uint64_t deadline_ms)
{
    idem_error error = IDEM_OK;

    while (client->fd < 0) {
        error = connect_once(client, deadline_ms);
        if (error != IDEM_OK && (!is_passing(error) || !back_off(client, deadline_ms)))
            break;
    }
    /* Hello has no effect: without an answer to it nothing was done. */
    return is_passing(error) && client->fd < 0 ? IDEM_ERR_UNREACHABLE : error;
}

static idem_error judge(idem_client *client, const Idem__V1__Request *request, Idem__V1__Response *response)
{
    if (response->id == 0)
        return client_fail(client, IDEM_ERR_PROTOCOL,
                           response->status ? response->status->message : "the daemon could not read the call");
    if (response->status && response->status->code != IDEM__V1__CODE__CODE_OK)
        return fail_status(client, response->status);
    if ((int)response->result_case != (int)request->call_case)
        return client_fail(client, IDEM_ERR_PROTOCOL, "the answer is none that this call can have");
    client->response = response;
    return IDEM_OK;
}

/* What a copy was refused for says nothing of the copies before it: one of them may have acted. */
static idem_error refused(idem_error error, bool copied)
{
    return copied && idem_error_class(error) == IDEM_CLASS_NOT_DONE ? IDEM_ERR_LOST : error;
}

idem_error client_exchange(idem_client *client, Idem__V1__Request *request, uint64_t deadline_ms)
{
    bool copied = false; /* a copy was sent before this one */

    for (;; copied = true) {
        Idem__V1__Response *response = NULL;
        bool sent = false;
        idem_error error = client_connect(client, deadline_ms);

        if (error == IDEM_OK)
            error = call_once(client, request, deadline_ms, &response, &sent);
        if (!sent)
            return refused(error, copied);
        if (error == IDEM_OK) {
            error = judge(client, request, response);
            if (error == IDEM_OK) {
                client->backoff = 0;
                return IDEM_OK;
            }
            const bool broken = response->id == 0 || error == IDEM_ERR_UNAVAILABLE;
            free_response(&response);
            if (!broken)
                return refused(error, copied);
        }
        give_up(client);
        if (error == IDEM_ERR_NO_MEMORY)
            return IDEM_ERR_LOST;
        if (!is_passing(error) || !back_off(client, deadline_ms))
            return error;
    }
}
