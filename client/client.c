/* A client, and one call's way:
 *
 *     call --> connect, Hello (replaces the connection given up) --> send --> receive until the answer with its id
 *                 ^                                                              |
 *                 `------- backoff <--- give the connection up <--- lost, UNAVAILABLE, INTERNAL
 *
 * A call whose time is over gives its connection up, so that a late answer has nowhere to arrive, and what waits at the
 * daemon is withdrawn. Whatever may be unread on a connection given up is dead once the next Hello, which names it, was
 * answered; only then anything is sent again.
 *
 * From the first copy that was sent and not answered, the call is in doubt: that a later copy was refused says nothing
 * of the first. */
#include "client/client.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "client/memory.h"
#include "client/transport.h"
#include "proto/frame.h"
#include "proto/limits.h"

enum {
    OPTIONS_BYTES_FIRST = sizeof(idem_options), /* as it was in the first version */
    OPTIONS_BYTES_MOST = 4096,                  /* more is no size */
    TIMEOUT_MS_DEFAULT = 10 * 1000,
    BACKOFF_MS_FIRST = 10,
    BACKOFF_MS_MAX = 2000,
    HELLO_MESSAGE_BYTES_MAX = 64 * 1024, /* before Hello told the limit */
    /* The limits that a daemon can tell: what goes around a body fits always. */
    FRAME_BYTES_LEAST = IDEM_FRAME_OVERHEAD_BYTES,
    FRAME_BYTES_MOST = IDEM_BODY_BYTES_MOST + IDEM_FRAME_OVERHEAD_BYTES,
    PART_PAUSE_MS = 10, /* between two parts of one wait */
};

/* ---- Opening and closing ------------------------------------------------------------ */

void idem_options_init(idem_options *options)
{
    if (options)
        *options = (idem_options){.size = sizeof *options};
}

static bool exists(const char *path)
{
    struct stat status;

    return stat(path, &status) == 0;
}

static char *choose_address(const char *given)
{
    const char *variable = secure_getenv("IDEM_ADDRESS"), *runtime = secure_getenv("XDG_RUNTIME_DIR");
    char path[sizeof "unix:" + sizeof((struct sockaddr_un *)0)->sun_path];

    if (given)
        return idem__string(given);
    if (variable && *variable)
        return idem__string(variable);
    /* One that is cut off here is too long to be a socket's. */
    if (runtime && snprintf(path, sizeof path, "unix:%s/idemd.sock", runtime) < (int)sizeof path &&
        transport_address_good(path) && exists(path + 5))
        return idem__string(path);
    return idem__string("unix:" IDEM_UNIX_SOCKET);
}

static char *choose_namespace(const char *given)
{
    const char *variable = secure_getenv("IDEM_NAMESPACE");

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

/* A shorter struct is of an earlier version; of a longer one all that is not known here has to be unset. */
static bool read_options(const idem_options *options, idem_options *given)
{
    const uint8_t *bytes = (const uint8_t *)options;

    idem_options_init(given);
    if (!options)
        return true;
    if (options->size < OPTIONS_BYTES_FIRST || options->size > OPTIONS_BYTES_MOST)
        return false;
    for (size_t at = sizeof *given; at < options->size; at++)
        if (bytes[at])
            return false;
    memcpy(given, options, options->size < sizeof *given ? options->size : sizeof *given);
    return given->reserved == 0;
}

static void *allocate(void *client, size_t size)
{
    void *memory = idem__alloc(size);

    if (!memory)
        ((idem_client *)client)->no_memory = true;
    return memory;
}

static void release(void *client, void *memory)
{
    (void)client;
    idem__free(memory);
}

static idem_error fill_client(idem_client *client, const idem_options *given)
{
    client->fd = -1;
    client->pid = getpid();
    client->next_id = 1;
    client->allocator = (ProtobufCAllocator){allocate, release, client};
    client->timeout_ms = given->timeout_ms ? given->timeout_ms : TIMEOUT_MS_DEFAULT;
    client->address = choose_address(given->address);
    client->namespace_ = choose_namespace(given->namespace_);
    client->caller = idem__string(given->caller);
    client->client = idem__string(given->client ? given->client : "libidem " IDEMD_VERSION);
    client->token = idem__string(given->token);
    client->owner = choose_owner(given->owner);
    if (getrandom(&client->seed, sizeof client->seed, 0) != sizeof client->seed)
        client->seed = transport_now_ms() ^ (uint64_t)client->pid << 32;
    if (!client->address || !client->namespace_ || !client->caller || !client->client || !client->token ||
        !client->owner)
        return IDEM_ERR_NO_MEMORY;
    return transport_address_good(client->address) ? IDEM_OK : IDEM_ERR_ADDRESS;
}

idem_error idem_open(const idem_options *options, idem_client **out)
{
    idem_options given;
    idem_client *client;
    idem_error error;

    client_opened(IDEM_ERR_MISUSE, NULL);
    if (!out)
        return IDEM_ERR_MISUSE;
    *out = NULL;
    if (!read_options(options, &given))
        return IDEM_ERR_MISUSE;
    client_opened(IDEM_ERR_NO_MEMORY, NULL);
    if (!(client = idem__zero(sizeof *client)))
        return IDEM_ERR_NO_MEMORY;
    error = fill_client(client, &given);
    client_opened(error, client->address);
    if (error == IDEM_OK)
        *out = client;
    else
        idem_close(client);
    return error;
}

static void free_response(idem_client *client, Idem__V1__Response **response)
{
    if (*response)
        idem__v1__response__free_unpacked(*response, &client->allocator);
    *response = NULL;
}

struct reply_memory client_take_reply(idem_client *client)
{
    const struct reply_memory memory = {client->response, client->reply_memory};

    client->response = NULL;
    client->reply_memory = NULL;
    return memory;
}

void client_free_reply(idem_client *client, struct reply_memory *memory)
{
    free_response(client, &memory->response);
    idem__free(memory->made);
    memory->made = NULL;
}

static void drop_reply(idem_client *client)
{
    struct reply_memory last = client_take_reply(client);

    client_free_reply(client, &last);
}

void idem_close(idem_client *client)
{
    if (!client)
        return;
    if (client->fd >= 0)
        close(client->fd);
    session_free(&client->session);
    drop_reply(client);
    client_free_reply(client, &client->before);
    free_response(client, &client->hello);
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

/* ---- Calls' memory -------------------------------------------------------------------- */

void client_begin_call(idem_client *client)
{
    client_free_reply(client, &client->before);
    client->before = client_take_reply(client);
    client_forget_error(client);
}

idem_error client_end_call(idem_client *client, idem_error error)
{
    client_free_reply(client, &client->before);
    if (error != IDEM_OK)
        drop_reply(client);
    return error;
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

/* A connection that ended between two calls is known to have before anything is sent: a daemon that was started again
 * meanwhile leaves no call in doubt. Bytes that answer nobody end it too. */
static void give_up_dead(idem_client *client)
{
    if (client->fd >= 0 && (client->session.size > client->session.taken || !transport_quiet(client->fd)))
        give_up(client);
}

/* Why nothing more came of the connection. failed: an errno, or 0 if the other side closed it. */
static idem_error lost(idem_client *client, int failed)
{
    const bool closed = failed == 0 || failed == ECONNRESET || failed == EPIPE;
    const char *what = strerror(failed);

    if (closed)
        what = client->greeting
                   ? "it closed the connection before it answered Hello: it is not idemd, or is shutting down"
                   : "the daemon closed the connection";
    else if (failed == ETIMEDOUT)
        what = client->greeting ? "it did not answer Hello in time: it is not idemd, or is very busy"
                                : "the daemon did not answer in time";
    return client_fail_there(client, IDEM_ERR_LOST, what);
}

/* What came is nothing that idemd sends. If it is text, as of a web server, its beginning is shown. */
static idem_error not_idemd(idem_client *client, const uint8_t *said, size_t size)
{
    char what[256] = "what answers there is not idemd";
    size_t end = strlen(what), shown = 0;

    while (shown < size && shown < 40 && said[shown] >= ' ' && said[shown] < 0x7f)
        shown++;
    if (shown >= 4)
        snprintf(what + end, sizeof what - end, ": it says \"%.*s\"", (int)shown, (const char *)said);
    return client_fail_there(client, IDEM_ERR_PROTOCOL, what);
}

static idem_error send_request(idem_client *client, const Idem__V1__Request *request, uint64_t deadline_ms, bool *sent)
{
    const size_t size = idem__v1__request__get_packed_size(request);
    uint8_t *frame;
    bool whole;

    if (size > client_message_bytes_max(client) && request->call_case != IDEM__V1__REQUEST__CALL_HELLO)
        return client_fail(client, IDEM_ERR_INVALID_ARGUMENT, "the call is longer than a frame of the daemon may be");
    if (!(frame = idem__alloc(IDEM_FRAME_HEADER_BYTES + size)))
        return client_fail(client, IDEM_ERR_NO_MEMORY, "no memory for the call");
    frame_put_header(frame, (uint32_t)size);
    idem__v1__request__pack(request, frame + IDEM_FRAME_HEADER_BYTES);
    *sent = true;
    client->sent_ms = transport_now_ms();
    whole = transport_send(client->fd, frame, IDEM_FRAME_HEADER_BYTES + size, deadline_ms);
    idem__free(frame);
    /* A daemon that hung up may have said why before. */
    if (whole || errno == EPIPE || errno == ECONNRESET)
        return IDEM_OK;
    return lost(client, errno);
}

/* Reads more into the session. Of what keeps coming only so much as the deadline allows. */
static idem_error feed(idem_client *client, uint64_t deadline_ms, bool first)
{
    size_t room;
    uint8_t *to = session_room(&client->session, &room);

    if (!to)
        return client_fail(client, IDEM_ERR_NO_MEMORY, "no memory for the answer");
    if (!first && transport_now_ms() >= deadline_ms)
        return lost(client, ETIMEDOUT);
    const ssize_t got = transport_receive(client->fd, to, room, deadline_ms);
    if (got <= 0)
        return lost(client, got == 0 ? 0 : errno);
    session_fed(&client->session, (size_t)got);
    return IDEM_OK;
}

static idem_error unpack(idem_client *client, const uint8_t *message, uint32_t size, Idem__V1__Response **response)
{
    client->no_memory = false;
    *response = idem__v1__response__unpack(&client->allocator, size, message);
    if (*response)
        return IDEM_OK;
    if (client->no_memory)
        return client_fail(client, IDEM_ERR_NO_MEMORY, "no memory for the answer");
    return client->greeting ? not_idemd(client, message, size)
                            : client_fail_there(client, IDEM_ERR_PROTOCOL, "the daemon sent what is no response");
}

/* Waits for the answer to one call. Answers to others are to calls that are no more: thrown away. */
static idem_error receive(idem_client *client, uint64_t id, uint64_t deadline_ms, Idem__V1__Response **response)
{
    bool first = true;
    idem_error error = IDEM_OK;

    while (error == IDEM_OK) {
        const uint8_t *message;
        uint32_t size;

        switch (session_next(&client->session, &message, &size)) {
        case SESSION_BROKEN:
            return client->greeting ? not_idemd(client, client->session.data + client->session.taken,
                                                client->session.size - client->session.taken)
                                    : client_fail_there(client, IDEM_ERR_PROTOCOL,
                                                        "the daemon sent what is no frame, or one over the limit");
        case SESSION_MORE:
            error = feed(client, deadline_ms, first);
            first = false;
            break;
        case SESSION_MESSAGE:
            error = unpack(client, message, size, response);
            if (error == IDEM_OK && ((*response)->id == id || (*response)->id == 0))
                return IDEM_OK;
            free_response(client, response);
            break;
        }
    }
    return error;
}

/* ---- One call ---------------------------------------------------------------------------------- */

/* A call on its way, and what of its request depends on the connection and the time at which it is sent. */
struct call {
    Idem__V1__Request *request;
    uint64_t deadline_ms;
    uint32_t *wait_ms; /* NULL: it does not wait */
    uint64_t wait_end_ms;
    Idem__V1__Outcome *outcome; /* NULL: it carries none */
};

static struct call make_call(Idem__V1__Request *request, uint64_t deadline_ms)
{
    struct call call = {.request = request, .deadline_ms = deadline_ms};

    switch (request->call_case) {
    case IDEM__V1__REQUEST__CALL_BEGIN:
        call.wait_ms = &request->begin->wait_ms;
        break;
    case IDEM__V1__REQUEST__CALL_GET:
        call.wait_ms = &request->get->wait_ms;
        break;
    case IDEM__V1__REQUEST__CALL_RECOVER:
        call.wait_ms = &request->recover->wait_ms;
        break;
    case IDEM__V1__REQUEST__CALL_COMPLETE:
        call.outcome = request->complete->outcome;
        break;
    case IDEM__V1__REQUEST__CALL_RESOLVE:
        call.outcome = request->resolve->outcome;
        break;
    default:
        break;
    }
    call.wait_end_ms = transport_now_ms() + (call.wait_ms ? *call.wait_ms : 0);
    return call;
}

static uint64_t left_until(uint64_t end_ms)
{
    const uint64_t now_ms = transport_now_ms();

    return end_ms > now_ms ? end_ms - now_ms : 0;
}

static uint32_t at_most(uint64_t value, uint32_t most)
{
    return value < most ? (uint32_t)value : most;
}

/* A body that no frame can carry is dropped here; the rest of the outcome is stored. */
static void fit_body(const idem_client *client, const struct call *call)
{
    const uint32_t most = client_message_bytes_max(client);
    Idem__V1__Outcome *outcome = call->outcome;

    /* The first comparison keeps the sum of the second from wrapping around. */
    if (!outcome || outcome->body.len == 0 ||
        (outcome->body.len <= most && idem__v1__request__get_packed_size(call->request) <= most))
        return;
    outcome->body_dropped = true;
    outcome->body_bytes = outcome->body.len;
    outcome->body = (ProtobufCBinaryData){0, NULL};
}

/* One copy of a call on the connection that there is; *sent: some of it may have gone out. The answer may be an error
 * of the daemon. */
static idem_error call_once(idem_client *client, const struct call *call, Idem__V1__Response **response, bool *sent)
{
    Idem__V1__Request *request = call->request;
    const uint64_t left_ms = left_until(call->deadline_ms);
    idem_error error;

    *sent = false;
    if (left_ms == 0)
        return client_fail_there(client, IDEM_ERR_UNREACHABLE, "the time was over before the call could be sent");
    request->id = client->next_id++;
    request->timeout_ms = at_most(left_ms, UINT32_MAX);
    if (call->wait_ms)
        *call->wait_ms =
            at_most(left_until(call->wait_end_ms), client->max_wait_ms ? client->max_wait_ms : IDEM_WAIT_MS_MAX);
    fit_body(client, call);
    error = send_request(client, request, call->deadline_ms, sent);
    return error == IDEM_OK ? receive(client, request->id, call->deadline_ms, response) : error;
}

/* What an answer is: OK with a result of this call, the daemon's error, or nothing that this call can be answered with,
 * and then nothing on this connection can be trusted. */
static idem_error judge(idem_client *client, const Idem__V1__Request *request, const Idem__V1__Response *response)
{
    if (response->id == 0)
        return client_fail(client, IDEM_ERR_PROTOCOL,
                           response->status ? response->status->message : "the daemon could not read the call");
    if (response->status && response->status->code != IDEM__V1__CODE__CODE_OK)
        return client_fail_status(client, response->status);
    if ((int)response->result_case != (int)request->call_case)
        return client_fail_there(client, IDEM_ERR_PROTOCOL, "the answer is none that this call can have");
    return IDEM_OK;
}

/* A connection without a name could not be replaced, and without frames for all that goes around a body nothing could
 * be relied upon. */
static bool hello_good(const Idem__V1__HelloResponse *hello)
{
    return hello->connection != 0 && hello->max_frame_bytes >= FRAME_BYTES_LEAST;
}

static void greeted(idem_client *client, Idem__V1__Response *response)
{
    free_response(client, &client->hello);
    client->hello = response;
    client->connection = response->hello->connection;
    client->max_frame_bytes = at_most(response->hello->max_frame_bytes, FRAME_BYTES_MOST);
    client->max_wait_ms = response->hello->max_wait_ms;
    client->session.message_bytes_max = client->max_frame_bytes;
    client->given_up = 0;
}

static idem_error say_hello(idem_client *client, uint64_t deadline_ms)
{
    Idem__V1__HelloRequest hello = IDEM__V1__HELLO_REQUEST__INIT;
    Idem__V1__Request request = IDEM__V1__REQUEST__INIT;
    Idem__V1__Response *response = NULL;
    bool sent;
    idem_error error;

    hello.client = client->client;
    hello.token = (ProtobufCBinaryData){strlen(client->token), (uint8_t *)client->token};
    hello.replaces = client->given_up;
    hello.namespace_ = client->namespace_;
    request.call_case = IDEM__V1__REQUEST__CALL_HELLO;
    request.hello = &hello;
    const struct call call = make_call(&request, deadline_ms);
    error = call_once(client, &call, &response, &sent);
    if (error != IDEM_OK)
        return error;
    error = judge(client, &request, response);
    if (error == IDEM_OK && !hello_good(response->hello))
        error = client_fail_there(client, IDEM_ERR_PROTOCOL,
                                  "the daemon's answer to Hello is none that can be worked with");
    if (error == IDEM_OK)
        greeted(client, response);
    else
        free_response(client, &response);
    return error;
}

static idem_error not_connected(idem_client *client, int failed)
{
    char what[256];

    snprintf(what, sizeof what, "%s%s", failed == ENXIO ? "the host's name is not known" : strerror(failed),
             failed == ENOENT || failed == ECONNREFUSED ? ": is idemd running there?"
             : failed == EACCES                         ? ": the socket's mode and group do not let this user connect"
                                                        : "");
    return client_fail_there(client, IDEM_ERR_UNREACHABLE, what);
}

static idem_error connect_once(idem_client *client, uint64_t deadline_ms)
{
    idem_error error;

    client->fd = transport_connect(client->address, deadline_ms);
    if (client->fd < 0)
        return not_connected(client, errno);
    session_reset(&client->session, HELLO_MESSAGE_BYTES_MAX);
    client->connection = 0;
    client->greeting = true;
    error = say_hello(client, deadline_ms);
    client->greeting = false;
    if (error != IDEM_OK)
        give_up(client);
    return error;
}

/* Full jitter: anything up to the backoff, which doubles (Marc Brooker, "Exponential Backoff And Jitter", 2015), but
 * never beyond the deadline, before which one more try is made. False: there is no time left for one. */
static bool back_off(idem_client *client, uint64_t deadline_ms)
{
    const uint64_t left_ms = left_until(deadline_ms);
    const uint32_t shift = client->backoff < 8 ? client->backoff++ : 8;
    const uint32_t most_ms = at_most((uint64_t)BACKOFF_MS_FIRST << shift, BACKOFF_MS_MAX);

    if (left_ms < 2)
        return false;
    client->seed = client->seed * 6364136223846793005u + 1442695040888963407u; /* Knuth's MMIX generator */
    transport_pause(transport_now_ms() + 1 + (client->seed >> 33) % at_most(left_ms - 1, most_ms));
    return true;
}

/* Is it worth sending again? */
static bool is_passing(idem_error error)
{
    return error == IDEM_ERR_UNREACHABLE || error == IDEM_ERR_LOST || error == IDEM_ERR_UNAVAILABLE ||
           error == IDEM_ERR_INTERNAL;
}

idem_error client_connect(idem_client *client, uint64_t deadline_ms)
{
    idem_error error = IDEM_OK;
    char why[sizeof client->message] = "";

    give_up_dead(client);
    while (client->fd < 0) {
        error = connect_once(client, deadline_ms);
        /* That the time is over ends the last try; what ended those before it is the better reason. */
        if (error != IDEM_OK && (!*why || left_until(deadline_ms) > 0))
            strcpy(why, client->message);
        else if (error == IDEM_ERR_UNREACHABLE || error == IDEM_ERR_LOST)
            client_fail(client, error, why);
        if (error != IDEM_OK && (!is_passing(error) || !back_off(client, deadline_ms)))
            break;
    }
    /* Hello has no effect: without an answer to it nothing was done. */
    return is_passing(error) ? IDEM_ERR_UNREACHABLE : error;
}

/* One copy, and its answer judged. *doubt: this copy may have acted, and no answer says so. */
static idem_error try_call(idem_client *client, const struct call *call, bool *doubt)
{
    Idem__V1__Response *response = NULL;
    bool sent, answered;
    idem_error error = client_connect(client, call->deadline_ms);

    if (error != IDEM_OK)
        return error;
    error = call_once(client, call, &response, &sent);
    answered = error == IDEM_OK;
    if (answered)
        error = judge(client, call->request, response);
    if (error == IDEM_OK) {
        client->response = response;
        return IDEM_OK;
    }
    free_response(client, &response);
    if (sent && (!answered || idem_error_class(error) == IDEM_CLASS_UNKNOWN)) {
        give_up(client);
        *doubt = true;
    }
    return error;
}

static idem_error try_until_answered(idem_client *client, const struct call *call)
{
    bool doubt = false;
    idem_error error;

    client->backoff = 0;
    do
        error = try_call(client, call, &doubt);
    while (is_passing(error) && back_off(client, call->deadline_ms));
    /* That this copy was refused, or could not be sent, says nothing of those before it. */
    if (doubt && (idem_error_class(error) == IDEM_CLASS_NOT_DONE || idem_error_class(error) == IDEM_CLASS_MISUSE))
        return IDEM_ERR_LOST;
    return error;
}

/* Does the answer say that what was waited for has not come? */
static bool still_waits(const Idem__V1__Response *response)
{
    switch (response->result_case) {
    case IDEM__V1__RESPONSE__RESULT_BEGIN:
        return response->begin->answer == IDEM__V1__BEGIN_RESPONSE__ANSWER__ANSWER_RUNNING;
    case IDEM__V1__RESPONSE__RESULT_GET:
        return response->get->info && (response->get->info->state == IDEM__V1__STATE__STATE_RUNNING ||
                                       response->get->info->state == IDEM__V1__STATE__STATE_INTERRUPTED);
    case IDEM__V1__RESPONSE__RESULT_RECOVER:
        return response->recover->n_operations == 0;
    default:
        return false;
    }
}

/* A wait that is longer than the daemon's longest is asked for in parts, by one attempt. */
idem_error client_exchange(idem_client *client, Idem__V1__Request *request, uint64_t deadline_ms)
{
    const struct call call = make_call(request, deadline_ms);
    idem_error error;

    for (;;) {
        error = try_until_answered(client, &call);
        if (error != IDEM_OK || !still_waits(client->response) || left_until(call.wait_end_ms) <= PART_PAUSE_MS ||
            left_until(deadline_ms) <= PART_PAUSE_MS)
            return error;
        free_response(client, &client->response);
        transport_pause(transport_now_ms() + PART_PAUSE_MS);
    }
}
