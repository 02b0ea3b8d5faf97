/* libidem against a daemon that misbehaves: replies too late, torn, to nobody, unknown; connections cut; waits in
 * parts. */
#include "client/idem.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "client/client.h"
#include "client/memory.h"
#include "client/transport.h"
#include "tests/unit/client/fake_server.h"

static idem_client *open_client(const struct fake_server *server, uint32_t timeout_ms)
{
    idem_options options;
    idem_client *client;

    idem_options_init(&options);
    options.address = server->address;
    options.namespace_ = "test";
    options.timeout_ms = timeout_ms;
    assert_int_equal(idem_open(&options, &client), IDEM_OK);
    return client;
}

static void free_request(Idem__V1__Request *request)
{
    idem__v1__request__free_unpacked(request, NULL);
}

/* ---- A late reply ------------------------------------------------------------------ */

/* The first connection answers its Begin only when the second call is under way, with permission to run; then comes
 * that call. */
static void late_script(struct fake_server *server, int fd, int number)
{
    Idem__V1__Request *request;

    if (!fake_hello(server, fd, number))
        return;
    while ((request = fake_receive(fd))) {
        if (number == 0) {
            fake_wait(&server->go, 1); /* the call has timed out */
            fake_execute(fd, request->id, 666);
            fake_execute(fd, request->id + 1, 667); /* as if it were the next call's */
        } else {
            assert_string_equal(request->begin->op->key, "second");
            fake_execute(fd, request->id - 1, 668);
            fake_execute(fd, request->id, 7);
        }
        free_request(request);
    }
}

static void a_late_reply_is_given_to_nobody(void **state)
{
    struct fake_server server;
    idem_begin_request request = {.op = {.key = "first"}};
    idem_begin_reply reply;

    (void)state;
    fake_server_start(&server, late_script, NULL);
    idem_client *client = open_client(&server, 0);
    assert_int_equal(idem_begin(client, &request, 200, &reply), IDEM_ERR_LOST);
    assert_int_equal(idem_error_class(IDEM_ERR_LOST), IDEM_CLASS_UNKNOWN);
    atomic_store(&server.go, 1);
    request.op.key = "second";
    assert_int_equal(idem_begin(client, &request, 0, &reply), IDEM_OK);
    assert_int_equal(reply.grant.fence, 7);
    idem_close(client);
    fake_server_stop(&server);
    assert_int_equal(server.replaced[0], 0);
    assert_int_equal(server.replaced[1], 100);
}

/* ---- Lost connections ------------------------------------------------------------------ */

struct cut {
    size_t reply_bytes; /* of the first reply that are sent before the connection is cut */
    uint8_t attempt_id[16];
    bool same_attempt;
};

static void cut_script(struct fake_server *server, int fd, int number)
{
    struct cut *cut = server->user;
    Idem__V1__Request *request;

    if (!fake_hello(server, fd, number) || !(request = fake_receive(fd)))
        return;
    if (number == 0) {
        memcpy(cut->attempt_id, request->begin->attempt_id.data, 16);
        fake_send_bytes(fd, "\0\0\0\0\x20\x08\x02\x5a", cut->reply_bytes);
    } else {
        cut->same_attempt = memcmp(cut->attempt_id, request->begin->attempt_id.data, 16) == 0;
        fake_execute(fd, request->id, 42);
        free_request(fake_receive(fd));
    }
    free_request(request);
}

static void a_lost_reply_is_asked_for_again(void **state)
{
    const idem_begin_request request = {.op = {.key = "k"}};
    idem_begin_reply reply;

    (void)state;
    for (size_t bytes = 0; bytes <= 8; bytes++) {
        struct cut cut = {.reply_bytes = bytes};
        struct fake_server server;

        fake_server_start(&server, cut_script, &cut);
        idem_client *client = open_client(&server, 0);
        assert_int_equal(idem_begin(client, &request, 0, &reply), IDEM_OK);
        assert_int_equal(reply.grant.fence, 42);
        idem_close(client);
        fake_server_stop(&server);
        assert_true(cut.same_attempt);
        assert_int_equal(server.replaced[1], 100);
    }
}

/* Closes each connection at once. */
static void closing_script(struct fake_server *server, int fd, int number)
{
    (void)server, (void)fd, (void)number;
}

static void nobody_there(void **state)
{
    const idem_begin_request request = {.op = {.key = "k"}};
    struct fake_server server;
    idem_begin_reply reply;

    (void)state;
    fake_server_start(&server, closing_script, NULL);
    idem_client *client = open_client(&server, 0);
    const uint64_t before_ms = transport_now_ms();
    assert_int_equal(idem_begin(client, &request, 300, &reply), IDEM_ERR_UNREACHABLE);
    assert_int_equal(idem_error_class(IDEM_ERR_UNREACHABLE), IDEM_CLASS_NOT_DONE);
    assert_true(transport_now_ms() - before_ms >= 290);
    assert_true(atomic_load(&server.connections) > 2);
    fake_server_stop(&server);
    assert_int_equal(idem_begin(client, &request, 50, &reply), IDEM_ERR_UNREACHABLE);
    idem_close(client);
}

/* What each connection is answered with before it is closed; user is the text, NULL: nothing is answered, and the
 * connection stays open. */
static void stranger_script(struct fake_server *server, int fd, int number)
{
    const char *says = server->user;
    uint8_t data[512];

    (void)number;
    if (recv(fd, data, sizeof data, 0) > 0 && says)
        fake_send_bytes(fd, says, strlen(says));
    else
        recv(fd, data, sizeof data, 0);
}

static void one_who_is_not_idemd_is_named(void **state)
{
    static const struct {
        const char *says;
        uint32_t timeout_ms;
        idem_error error;
        const char *message;
    } strangers[] = {
        {"HTTP/1.1 400 Bad Request\r\nServer: x\r\n\r\n", 60000, IDEM_ERR_PROTOCOL,
         ": what answers there is not idemd: it says \"HTTP/1.1 400 Bad Request\""},
        {"-ERR unknown command\r\n", 60000, IDEM_ERR_PROTOCOL, "it says \"-ERR unknown command\""},
        {"\x15\x03\x01", 60000, IDEM_ERR_PROTOCOL, ": what answers there is not idemd"},
        {"\x1b[2Jboo", 60000, IDEM_ERR_PROTOCOL, ": what answers there is not idemd"},
        {"", 1000, IDEM_ERR_UNREACHABLE, ": it closed the connection before it answered Hello: it is not idemd"},
        {NULL, 300, IDEM_ERR_UNREACHABLE, ": it did not answer Hello in time: it is not idemd"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof strangers / sizeof strangers[0]; i++) {
        struct fake_server server;
        const idem_begin_request request = {.op = {.key = "k"}};
        idem_begin_reply reply;

        fake_server_start(&server, stranger_script, (void *)(uintptr_t)strangers[i].says);
        idem_client *client = open_client(&server, 0);
        const idem_error error = idem_begin(client, &request, strangers[i].timeout_ms, &reply);
        const char *message = idem_message(client);
        assert_int_equal(error, strangers[i].error);
        assert_memory_equal(message, server.address, strlen(server.address));
        if (!strstr(message, strangers[i].message))
            fail_msg("\"%s\" does not say \"%s\"", message, strangers[i].message);
        assert_null(strchr(message, '\x1b'));
        idem_close(client);
        fake_server_stop(&server);
    }
}

static void unavailable_script(struct fake_server *server, int fd, int number)
{
    Idem__V1__Response response = IDEM__V1__RESPONSE__INIT;
    Idem__V1__Status status = IDEM__V1__STATUS__INIT;
    Idem__V1__Request *request;

    if (!fake_hello(server, fd, number) || !(request = fake_receive(fd)))
        return;
    if (number < 2) {
        status.code = IDEM__V1__CODE__CODE_UNAVAILABLE;
        response.id = request->id;
        response.status = &status;
        fake_send(fd, &response);
    } else {
        fake_execute(fd, request->id, 9);
    }
    free_request(request);
    free_request(fake_receive(fd));
}

static void unavailable_is_sent_again(void **state)
{
    const idem_begin_request request = {.op = {.key = "k"}};
    struct fake_server server;
    idem_begin_reply reply;

    (void)state;
    fake_server_start(&server, unavailable_script, NULL);
    idem_client *client = open_client(&server, 0);
    assert_int_equal(idem_begin(client, &request, 0, &reply), IDEM_OK);
    assert_int_equal(reply.grant.fence, 9);
    idem_close(client);
    fake_server_stop(&server);
    assert_int_equal(server.replaced[1], 100);
    assert_int_equal(server.replaced[2], 101);
}

/* The first copy is read and not answered; the second is refused. */
static void refusing_script(struct fake_server *server, int fd, int number)
{
    Idem__V1__Response response = IDEM__V1__RESPONSE__INIT;
    Idem__V1__Status status = IDEM__V1__STATUS__INIT;
    Idem__V1__Request *request;

    if (!fake_hello(server, fd, number) || !(request = fake_receive(fd)))
        return;
    if (number > 0) {
        status.code = IDEM__V1__CODE__CODE_RESOURCE_EXHAUSTED;
        response.id = request->id;
        response.status = &status;
        fake_send(fd, &response);
        free_request(fake_receive(fd));
    }
    free_request(request);
}

static void a_refused_copy_says_nothing_of_the_first(void **state)
{
    const idem_checkpoint_request request = {.op = {.key = "k"}, .fence = 1, .checkpoint = {"n", {NULL, 0}}};
    struct fake_server server;
    idem_renew_reply reply;

    (void)state;
    fake_server_start(&server, refusing_script, NULL);
    idem_client *client = open_client(&server, 0);
    assert_int_equal(idem_checkpoint_store(client, &request, 0, &reply), IDEM_ERR_LOST);
    idem_close(client);
    fake_server_stop(&server);
}

/* ---- Answers that are none ---------------------------------------------------------------- */

struct answer {
    const Idem__V1__Response *response; /* its id is the request's */
    const char *bytes;                  /* or these */
    size_t size;
};

static void answer_script(struct fake_server *server, int fd, int number)
{
    const struct answer *answer = server->user;
    Idem__V1__Request *request;

    if (!fake_hello(server, fd, number))
        return;
    while ((request = fake_receive(fd))) {
        if (answer->response) {
            Idem__V1__Response response = *answer->response;
            response.id = request->id;
            fake_send(fd, &response);
        } else {
            fake_send_bytes(fd, answer->bytes, answer->size);
        }
        free_request(request);
    }
}

static idem_error begin_answered(const struct answer *answer)
{
    const idem_begin_request request = {.op = {.key = "k"}};
    struct answer copy = *answer;
    struct fake_server server;
    idem_begin_reply reply;

    fake_server_start(&server, answer_script, &copy);
    idem_client *client = open_client(&server, 500);
    const idem_error error = idem_begin(client, &request, 0, &reply);
    idem_close(client);
    fake_server_stop(&server);
    return error;
}

static void what_is_not_known_is_no_permission(void **state)
{
    Idem__V1__Response response = IDEM__V1__RESPONSE__INIT;
    Idem__V1__BeginResponse begin = IDEM__V1__BEGIN_RESPONSE__INIT;
    Idem__V1__ReleaseResponse release = IDEM__V1__RELEASE_RESPONSE__INIT;
    Idem__V1__Status status = IDEM__V1__STATUS__INIT;

    (void)state;
    /* Neither status nor result. */
    assert_int_equal(begin_answered(&(struct answer){.response = &response}), IDEM_ERR_PROTOCOL);
    response.result_case = IDEM__V1__RESPONSE__RESULT_BEGIN;
    response.begin = &begin;
    assert_int_equal(begin_answered(&(struct answer){.response = &response}), IDEM_ERR_PROTOCOL);
    begin.answer = (Idem__V1__BeginResponse__Answer)7;
    assert_int_equal(begin_answered(&(struct answer){.response = &response}), IDEM_ERR_PROTOCOL);
    /* EXECUTE without a grant. */
    begin.answer = IDEM__V1__BEGIN_RESPONSE__ANSWER__ANSWER_EXECUTE;
    assert_int_equal(begin_answered(&(struct answer){.response = &response}), IDEM_ERR_PROTOCOL);
    /* Another call's result. */
    response.result_case = IDEM__V1__RESPONSE__RESULT_RELEASE;
    response.release = &release;
    assert_int_equal(begin_answered(&(struct answer){.response = &response}), IDEM_ERR_PROTOCOL);
    response.status = &status;
    status.code = IDEM__V1__CODE__CODE_RESOURCE_EXHAUSTED;
    assert_int_equal(begin_answered(&(struct answer){.response = &response}), IDEM_ERR_RESOURCE_EXHAUSTED);
    status.code = (Idem__V1__Code)99;
    assert_int_equal(begin_answered(&(struct answer){.response = &response}), IDEM_ERR_PROTOCOL);
    /* Bytes that are no frame, and a frame over the limit. */
    assert_int_equal(begin_answered(&(struct answer){.bytes = "\1\0\0\0\0", .size = 5}), IDEM_ERR_PROTOCOL);
    assert_int_equal(begin_answered(&(struct answer){.bytes = "\0\x7f\0\0\0", .size = 5}), IDEM_ERR_PROTOCOL);
    assert_int_equal(begin_answered(&(struct answer){.bytes = "\0\0\0\0\2\xff\xff", .size = 7}), IDEM_ERR_PROTOCOL);
}

/* ---- Waits, sizes, bytes ---------------------------------------------------------------------- */

static void wait_script(struct fake_server *server, int fd, int number)
{
    Idem__V1__BeginResponse begin = IDEM__V1__BEGIN_RESPONSE__INIT;
    Idem__V1__Response response = IDEM__V1__RESPONSE__INIT;
    Idem__V1__Request *request;
    int parts = 0;

    if (!fake_hello(server, fd, number))
        return;
    while ((request = fake_receive(fd))) {
        assert_true(request->begin->wait_ms <= 50);
        if (++parts < 4) {
            begin.answer = IDEM__V1__BEGIN_RESPONSE__ANSWER__ANSWER_RUNNING;
            response.id = request->id;
            response.result_case = IDEM__V1__RESPONSE__RESULT_BEGIN;
            response.begin = &begin;
            fake_send(fd, &response);
        } else {
            fake_replay(fd, request->id, "done");
        }
        free_request(request);
    }
}

static void a_long_wait_is_asked_for_in_parts(void **state)
{
    const idem_begin_request request = {.op = {.key = "k"}, .wait_ms = 3600 * 1000};
    struct fake_server server;
    idem_begin_reply reply;
    idem_hello_reply hello;

    (void)state;
    fake_server_start(&server, wait_script, NULL);
    idem_client *client = open_client(&server, 0);
    assert_int_equal(idem_hello(client, 0, &hello), IDEM_OK);
    assert_int_equal(hello.max_wait_ms, 50);
    assert_int_equal(idem_begin(client, &request, 0, &reply), IDEM_OK);
    assert_int_equal(reply.answer, IDEM_REPLAY);
    assert_memory_equal(reply.outcome.body.data, "done", 4);
    idem_close(client);
    fake_server_stop(&server);
}

static void large_script(struct fake_server *server, int fd, int number)
{
    Idem__V1__CompleteResponse complete = IDEM__V1__COMPLETE_RESPONSE__INIT;
    Idem__V1__Response response = IDEM__V1__RESPONSE__INIT;
    Idem__V1__Request *request;

    if (!fake_hello(server, fd, number))
        return;
    while ((request = fake_receive(fd))) {
        const Idem__V1__Outcome *outcome = request->complete->outcome;
        const bool dropped = outcome->body_dropped && outcome->body.len == 0 && outcome->body_bytes == 400000 &&
                             outcome->n_attributes == 0 && outcome->attributes_dropped && outcome->code == -7;
        complete.ownership = dropped ? IDEM__V1__OWNERSHIP__OWNERSHIP_HELD : IDEM__V1__OWNERSHIP__OWNERSHIP_LOST;
        response.id = request->id;
        response.result_case = IDEM__V1__RESPONSE__RESULT_COMPLETE;
        response.complete = &complete;
        fake_send(fd, &response);
        free_request(request);
    }
}

static void what_no_frame_can_carry_is_dropped(void **state)
{
    static const char body[400000];
    static char value[5000];
    const idem_attribute attribute = {"n", {value, sizeof value}};
    const idem_complete_request request = {.op = {.key = "k"},
                                           .fence = 1,
                                           .outcome = {.kind = IDEM_SUCCEEDED,
                                                       .code = -7,
                                                       .body = {body, sizeof body},
                                                       .attributes = &attribute,
                                                       .attribute_count = 1}};
    struct fake_server server;
    idem_complete_reply reply;

    (void)state;
    fake_server_start(&server, large_script, NULL);
    idem_client *client = open_client(&server, 0);
    assert_int_equal(idem_complete(client, &request, 0, &reply), IDEM_OK);
    assert_int_equal(reply.ownership, IDEM_HELD);
    idem_close(client);
    fake_server_stop(&server);
}

static void byte_script(struct fake_server *server, int fd, int number)
{
    Idem__V1__Request *request;

    if (!fake_hello(server, fd, number) || !(request = fake_receive(fd)))
        return;
    /* id 2 (Hello had 1), REPLAY, an outcome with a body of one byte */
    static const uint8_t reply[] = {0, 0, 0, 0, 13, 0x08, 0x02, 0x5a, 9, 0x08, 0x02, 0x1a, 5, 0x08, 0x01, 0x22, 1, 'x'};
    for (size_t i = 0; i < sizeof reply; i++)
        fake_send_bytes(fd, reply + i, 1);
    free_request(request);
    free_request(fake_receive(fd));
}

static void one_byte_at_a_time(void **state)
{
    const idem_begin_request request = {.op = {.key = "k"}};
    struct fake_server server;
    idem_begin_reply reply;

    (void)state;
    fake_server_start(&server, byte_script, NULL);
    idem_client *client = open_client(&server, 0);
    assert_int_equal(idem_begin(client, &request, 0, &reply), IDEM_OK);
    assert_int_equal(reply.answer, IDEM_REPLAY);
    assert_int_equal(reply.outcome.body.size, 1);
    idem_close(client);
    fake_server_stop(&server);
}

/* ---- Running ------------------------------------------------------------------------------------- */

struct ran {
    int calls;
    idem_done says;
    Idem__V1__Request__CallCase then; /* what the daemon got after the callback */
    int detail;                       /* its outcome kind, or effect */
};

static void run_script(struct fake_server *server, int fd, int number)
{
    struct ran *ran = server->user;
    Idem__V1__CompleteResponse complete = IDEM__V1__COMPLETE_RESPONSE__INIT;
    Idem__V1__ReleaseResponse release = IDEM__V1__RELEASE_RESPONSE__INIT;
    Idem__V1__Response response = IDEM__V1__RESPONSE__INIT;
    Idem__V1__Request *request;

    if (!fake_hello(server, fd, number))
        return;
    while ((request = fake_receive(fd))) {
        response.id = request->id;
        complete.ownership = release.ownership = IDEM__V1__OWNERSHIP__OWNERSHIP_HELD;
        if (request->call_case == IDEM__V1__REQUEST__CALL_BEGIN) {
            fake_execute(fd, request->id, 5);
        } else if (request->call_case == IDEM__V1__REQUEST__CALL_COMPLETE) {
            ran->then = request->call_case;
            ran->detail = (int)request->complete->outcome->kind;
            response.result_case = IDEM__V1__RESPONSE__RESULT_COMPLETE;
            response.complete = &complete;
            fake_send(fd, &response);
        } else {
            ran->then = request->call_case;
            ran->detail = (int)request->release->effect;
            response.result_case = IDEM__V1__RESPONSE__RESULT_RELEASE;
            response.release = &release;
            fake_send(fd, &response);
        }
        free_request(request);
    }
}

static idem_done run_callback(idem_running *running, idem_outcome *outcome, void *user)
{
    struct ran *ran = user;

    assert_int_equal(idem_running_fence(running), 5);
    assert_int_equal(idem_running_attempt(running), 1);
    assert_true(idem_running_lease_left_ms(running) > 0);
    ran->calls++;
    outcome->body = (idem_bytes){"b", 1};
    return ran->says;
}

static void each_way_to_end_a_run(void **state)
{
    static const struct {
        idem_done says;
        Idem__V1__Request__CallCase then;
        int detail;
    } cases[] = {
        {IDEM_DONE_SUCCEEDED, IDEM__V1__REQUEST__CALL_COMPLETE, IDEM_SUCCEEDED},
        {IDEM_DONE_FAILED, IDEM__V1__REQUEST__CALL_COMPLETE, IDEM_FAILED},
        {IDEM_DONE_NOTHING, IDEM__V1__REQUEST__CALL_RELEASE, IDEM_EFFECT_NONE_BY_ME},
        {IDEM_DONE_UNKNOWN, IDEM__V1__REQUEST__CALL_RELEASE, IDEM_EFFECT_UNKNOWN},
        {(idem_done)0, IDEM__V1__REQUEST__CALL_RELEASE, IDEM_EFFECT_UNKNOWN},
    };
    const idem_begin_request request = {.op = {.key = "k"}};

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct ran ran = {.says = cases[i].says};
        struct fake_server server;
        idem_run_reply reply;

        fake_server_start(&server, run_script, &ran);
        idem_client *client = open_client(&server, 0);
        assert_int_equal(idem_run(client, &request, 0, run_callback, &ran, &reply), IDEM_OK);
        assert_true(reply.ran);
        assert_int_equal(reply.ownership, IDEM_HELD);
        idem_close(client);
        fake_server_stop(&server);
        assert_int_equal(ran.calls, 1);
        assert_int_equal(ran.then, cases[i].then);
        assert_int_equal(ran.detail, cases[i].detail);
    }
}

/* The daemon is gone while the callback runs. */
static void vanish_script(struct fake_server *server, int fd, int number)
{
    Idem__V1__Request *request;

    if (number > 0 || !fake_hello(server, fd, number) || !(request = fake_receive(fd)))
        return;
    fake_execute(fd, request->id, 5);
    free_request(request);
    free_request(fake_receive(fd));
}

static void a_run_that_could_not_be_stored_says_so(void **state)
{
    const idem_begin_request request = {.op = {.key = "k"}};
    struct ran ran = {.says = IDEM_DONE_SUCCEEDED};
    struct fake_server server;
    idem_run_reply reply;

    (void)state;
    fake_server_start(&server, vanish_script, NULL);
    idem_client *client = open_client(&server, 300);
    const idem_error error = idem_run(client, &request, 0, run_callback, &ran, &reply);
    assert_int_equal(idem_error_class(error), IDEM_CLASS_UNKNOWN);
    assert_true(reply.ran);
    assert_int_equal(reply.ownership, 0);
    idem_close(client);
    fake_server_stop(&server);
}

/* ---- Misuse, memory -------------------------------------------------------------------------------- */

static void misuse_is_an_error(void **state)
{
    const idem_begin_request begin = {.op = {.key = "k"}, .input = {NULL, 5}};
    struct fake_server server;
    idem_options options;
    idem_begin_reply reply;
    idem_client *client = NULL;

    (void)state;
    assert_int_equal(idem_open(NULL, NULL), IDEM_ERR_MISUSE);
    idem_options_init(&options);
    options.address = "http://example";
    assert_int_equal(idem_open(&options, &client), IDEM_ERR_ADDRESS);
    assert_null(client);
    options.address = "tcp:host:70000000";
    assert_int_equal(idem_open(&options, &client), IDEM_ERR_ADDRESS);
    options.size = 1;
    assert_int_equal(idem_open(&options, &client), IDEM_ERR_MISUSE);
    idem_close(NULL);
    assert_int_equal(idem_begin(NULL, &begin, 0, &reply), IDEM_ERR_MISUSE);
    fake_server_start(&server, answer_script, NULL);
    client = open_client(&server, 0);
    assert_int_equal(idem_begin(client, NULL, 0, &reply), IDEM_ERR_MISUSE);
    assert_int_equal(idem_begin(client, &begin, 0, NULL), IDEM_ERR_MISUSE);
    assert_int_equal(idem_begin(client, &begin, 0, &reply), IDEM_ERR_MISUSE);
    assert_true(*idem_message(client));
    assert_int_equal(idem_run(client, &begin, 0, NULL, NULL, NULL), IDEM_ERR_MISUSE);
    assert_int_equal(atomic_load(&server.connections), 0);
    idem_close(client);
    fake_server_stop(&server);
}

static void errors_have_names_and_classes(void **state)
{
    (void)state;
    for (int i = 0; i <= IDEM_ERR_INTERNAL; i++) {
        assert_int_equal(strncmp(idem_error_name((idem_error)i), "IDEM_", 5), 0);
        assert_int_equal(idem_error_class((idem_error)i) == IDEM_CLASS_OK, i == 0);
    }
    assert_int_equal(idem_error_class((idem_error)1000), IDEM_CLASS_UNKNOWN);
}

/* Every allocation fails once: the run either works or says why not, nothing leaks, and no failed Begin is taken for
 * permission. */
static void each_allocation_can_fail(void **state)
{
    const idem_begin_request request = {.op = {.key = "k"}};
    struct ran ran = {.says = IDEM_DONE_SUCCEEDED};
    struct fake_server server;
    int worked = 0, failed = 0;

    (void)state;
    fake_server_start(&server, run_script, &ran);
    for (unsigned long n = 1; n < 400 && worked < 20; n++) {
        idem_options options;
        idem_client *client;
        idem_run_reply reply;

        idem_options_init(&options);
        options.address = server.address;
        options.timeout_ms = 100;
        ran.calls = 0;
        idem__fail_allocation(n, 0);
        idem_error error = idem_open(&options, &client);
        if (error == IDEM_OK) {
            error = idem_run(client, &request, 0, run_callback, &ran, &reply);
            assert_int_equal(ran.calls, reply.ran);
            idem_close(client);
        } else {
            assert_int_equal(error, IDEM_ERR_NO_MEMORY);
        }
        idem__fail_allocation(0, 0);
        assert_true(error == IDEM_OK || idem_error_class(error) != IDEM_CLASS_OK);
        worked += error == IDEM_OK;
        failed += error != IDEM_OK;
    }
    assert_true(worked >= 20 && failed > 10);
    fake_server_stop(&server);
}

/* ---- Descriptors --------------------------------------------------------------------- */

/* In a program that has closed them, what is printed must not reach the daemon. Standard output is left open here: the
 * test's own results go there. */
static void the_socket_is_none_of_the_standard_descriptors(void **state)
{
    const idem_begin_request request = {.op = {.key = "k"}};
    struct ran ran = {.says = IDEM_DONE_SUCCEEDED};
    struct fake_server server;
    idem_begin_reply reply;
    int saved[3];

    (void)state;
    fake_server_start(&server, run_script, &ran);
    for (int fd = 0; fd < 3; fd += 2)
        assert_true((saved[fd] = fcntl(fd, F_DUPFD_CLOEXEC, 10)) >= 0);
    close(STDIN_FILENO);
    close(STDERR_FILENO);
    idem_client *client = open_client(&server, 0);
    const idem_error error = idem_begin(client, &request, 0, &reply);
    const int fd = client->fd;
    idem_close(client);
    fake_server_stop(&server);
    for (int standard = 0; standard < 3; standard += 2) {
        dup2(saved[standard], standard);
        close(saved[standard]);
    }
    assert_int_equal(error, IDEM_OK);
    assert_in_range(fd, 3, 1000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_socket_is_none_of_the_standard_descriptors),
        cmocka_unit_test(a_late_reply_is_given_to_nobody),
        cmocka_unit_test(a_lost_reply_is_asked_for_again),
        cmocka_unit_test(nobody_there),
        cmocka_unit_test(one_who_is_not_idemd_is_named),
        cmocka_unit_test(unavailable_is_sent_again),
        cmocka_unit_test(a_refused_copy_says_nothing_of_the_first),
        cmocka_unit_test(what_is_not_known_is_no_permission),
        cmocka_unit_test(a_long_wait_is_asked_for_in_parts),
        cmocka_unit_test(what_no_frame_can_carry_is_dropped),
        cmocka_unit_test(one_byte_at_a_time),
        cmocka_unit_test(each_way_to_end_a_run),
        cmocka_unit_test(a_run_that_could_not_be_stored_says_so),
        cmocka_unit_test(misuse_is_an_error),
        cmocka_unit_test(errors_have_names_and_classes),
        cmocka_unit_test(each_allocation_can_fail),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
