/* What libidem sends again, what it says before, and what it may say after: a call of which one copy was sent and not
 * answered is in doubt, whatever its next copy is told. */
#include "client/idem.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include <cmocka.h>

#include "client/transport.h"
#include "proto/frame.h"
#include "proto/limits.h"
#include "tests/unit/client/fake_server.h"

enum { SHORT_MS = 250, ATTEMPT_BYTES = 16, FLOOD_BYTES = 128 * 1024 };

static idem_client *open_client(const struct fake_server *server)
{
    idem_options options;
    idem_client *client;

    idem_options_init(&options);
    options.address = server->address;
    options.namespace_ = "test";
    assert_int_equal(idem_open(&options, &client), IDEM_OK);
    return client;
}

/* One server and one client, and what a script may want to know. */
struct world {
    struct fake_server server;
    idem_client *client;
    int code;         /* what a script answers with */
    int numbers_fail; /* connections below that number fail */
    uint8_t attempts[4][ATTEMPT_BYTES];
    uint32_t waits[4];
};

static void start(struct world *world, void (*script)(struct fake_server *server, int fd, int number))
{
    fake_server_start(&world->server, script, world);
    world->client = open_client(&world->server);
}

static void stop(struct world *world)
{
    idem_close(world->client);
    fake_server_stop(&world->server);
}

static idem_error begin(struct world *world, const char *key, uint32_t timeout_ms, idem_begin_reply *reply)
{
    const idem_begin_request request = {.op = {.key = key}};

    return idem_begin(world->client, &request, timeout_ms, reply);
}

/* Says Hello, so that a short call that follows has all its time for itself. */
static void greet(struct world *world)
{
    idem_hello_reply reply;

    assert_int_equal(idem_hello(world->client, 0, &reply), IDEM_OK);
}

static idem_error complete(struct world *world, uint32_t timeout_ms)
{
    const idem_complete_request request = {.op = {.key = "k"}, .fence = 5, .outcome = {.kind = IDEM_SUCCEEDED}};
    idem_complete_reply reply;

    return idem_complete(world->client, &request, timeout_ms, &reply);
}

/* ---- Answers that come too late, or to nobody ------------------------------------------------- */

/* Answers each call after it was given up, with what would be permission to run. */
static void always_late_script(struct fake_server *server, int fd, int number)
{
    Idem__V1__Request *request;

    if (!fake_hello(server, fd, number) || !(request = fake_receive(fd)))
        return;
    if (number < 3) {
        fake_wait(&server->go, number + 1);
        fake_execute(fd, request->id, 660 + (uint64_t)number);
        fake_execute(fd, request->id + 2, 670 + (uint64_t)number); /* the id of the next call, after its Hello */
    } else {
        fake_execute(fd, request->id, 7);
    }
    fake_free(request);
    fake_free(fake_receive(fd));
}

static void late_replies_are_given_to_no_other_call(void **state)
{
    static const char *const keys[] = {"a", "b", "c"};
    struct world world = {0};
    idem_begin_reply reply = {.grant.fence = 1};

    (void)state;
    start(&world, always_late_script);
    for (int i = 0; i < 3; i++) {
        greet(&world);
        assert_int_equal(begin(&world, keys[i], SHORT_MS, &reply), IDEM_ERR_LOST);
        assert_int_equal(reply.grant.fence, 1); /* not touched */
        atomic_store(&world.server.go, i + 1);
    }
    assert_int_equal(begin(&world, "d", 0, &reply), IDEM_OK);
    assert_int_equal(reply.grant.fence, 7);
    stop(&world);
    /* Each connection replaced the one that was given up with its call. */
    for (int i = 1; i <= 3; i++)
        assert_int_equal(world.server.replaced[i], 100 + i - 1);
}

/* Many answers that nobody asked for, in one piece, so that they come faster than they can be thrown away. */
static size_t make_flood(uint8_t flood[FLOOD_BYTES], uint64_t id)
{
    Idem__V1__Response response = IDEM__V1__RESPONSE__INIT;
    Idem__V1__ForgetResponse forget = IDEM__V1__FORGET_RESPONSE__INIT;
    size_t at = 0;

    response.id = id;
    response.result_case = IDEM__V1__RESPONSE__RESULT_FORGET;
    response.forget = &forget;
    const size_t size = idem__v1__response__get_packed_size(&response);
    for (; at + IDEM_FRAME_HEADER_BYTES + size <= FLOOD_BYTES; at += IDEM_FRAME_HEADER_BYTES + size) {
        frame_put_header(flood + at, (uint32_t)size);
        idem__v1__response__pack(&response, flood + at + IDEM_FRAME_HEADER_BYTES);
    }
    return at;
}

/* Without end: they are thrown away, but not for ever. */
static void flood_script(struct fake_server *server, int fd, int number)
{
    static uint8_t flood[FLOOD_BYTES];
    Idem__V1__Request *request;

    if (!fake_hello(server, fd, number) || !(request = fake_receive(fd)))
        return;
    const size_t size = make_flood(flood, request->id + 1000);
    while (!atomic_load(&server->go))
        fake_send_bytes(fd, flood, size);
    fake_free(request);
}

static void answers_to_nobody_do_not_keep_a_call_alive(void **state)
{
    struct world world = {0};
    idem_begin_reply reply;

    (void)state;
    start(&world, flood_script);
    greet(&world);
    assert_int_equal(begin(&world, "k", SHORT_MS, &reply), IDEM_ERR_LOST);
    atomic_store(&world.server.go, 1);
    stop(&world);
}

/* A call is answered, and something more comes that nobody asked for. */
static void more_script(struct fake_server *server, int fd, int number)
{
    Idem__V1__Request *request;

    if (!fake_hello(server, fd, number))
        return;
    while ((request = fake_receive(fd))) {
        fake_execute(fd, request->id, 10 + (uint64_t)number);
        if (number == 0) {
            fake_execute(fd, request->id + 1, 666);
            atomic_store(&server->go, 1);
        }
        fake_free(request);
    }
}

static void what_nobody_asked_for_ends_the_connection(void **state)
{
    struct world world = {0};
    idem_begin_reply reply;

    (void)state;
    start(&world, more_script);
    assert_int_equal(begin(&world, "a", 0, &reply), IDEM_OK);
    assert_int_equal(reply.grant.fence, 10);
    fake_wait(&world.server.go, 1);
    assert_int_equal(begin(&world, "b", 0, &reply), IDEM_OK);
    assert_int_equal(reply.grant.fence, 11);
    stop(&world);
    assert_int_equal(world.server.replaced[1], 100);
}

/* ---- The connection rule ------------------------------------------------------------------------- */

/* Cuts the first connections in one way or another after the call was read. The Hello of the next is answered only
 * after a look that nothing was sent behind it. */
static void rule_script(struct fake_server *server, int fd, int number)
{
    struct world *world = server->user;
    Idem__V1__HelloResponse hello = IDEM__V1__HELLO_RESPONSE__INIT;
    Idem__V1__Response response = IDEM__V1__RESPONSE__INIT;
    Idem__V1__Request *request = fake_receive(fd);
    char byte;

    if (!request)
        return;
    FAKE_CHECK(server, request->call_case == IDEM__V1__REQUEST__CALL_HELLO);
    FAKE_CHECK(server, request->hello->replaces == (number ? 100u + (unsigned)number - 1 : 0));
    FAKE_CHECK(server, recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0);
    hello.connection = 100 + (uint64_t)number;
    hello.max_frame_bytes = 300 * 1024;
    response.result_case = IDEM__V1__RESPONSE__RESULT_HELLO;
    response.hello = &hello;
    fake_answer(fd, request, &response);
    fake_free(request);
    if (!(request = fake_receive(fd)))
        return;
    FAKE_CHECK(server, request->begin->attempt_id.len == ATTEMPT_BYTES);
    if (number < 4 && request->begin->attempt_id.len == ATTEMPT_BYTES)
        memcpy(world->attempts[number], request->begin->attempt_id.data, ATTEMPT_BYTES);
    if (number == 0)
        shutdown(fd, SHUT_WR); /* half a close: no answer will come */
    else if (number == 1)
        fake_send_bytes(fd, "\0\0\0\1\0\x08", 6); /* a reply torn in two */
    else if (number == 2)
        fake_status(fd, request, IDEM__V1__CODE__CODE_INTERNAL);
    else
        fake_execute(fd, request->id, 9);
    fake_free(request);
    if (number != 1)
        fake_free(fake_receive(fd));
}

static void hello_replaces_and_is_answered_before_anything_is_sent_again(void **state)
{
    struct world world = {0};
    idem_begin_reply reply;

    (void)state;
    start(&world, rule_script);
    assert_int_equal(begin(&world, "k", 0, &reply), IDEM_OK);
    assert_int_equal(reply.grant.fence, 9);
    stop(&world);
    assert_int_equal(atomic_load(&world.server.connections), 4);
    for (int i = 1; i < 4; i++)
        assert_memory_equal(world.attempts[0], world.attempts[i], ATTEMPT_BYTES);
}

/* The first Hello after the lost connection is not answered: the next one has to name the same connection. */
static void lost_hello_script(struct fake_server *server, int fd, int number)
{
    Idem__V1__Request *request;

    if (number == 1) {
        request = fake_receive(fd);
        FAKE_CHECK(server, request && request->hello->replaces == 100);
        fake_free(request);
        return;
    }
    if (!fake_hello(server, fd, number) || !(request = fake_receive(fd)))
        return;
    if (number == 2)
        fake_execute(fd, request->id, 3);
    fake_free(request);
    if (number == 2)
        fake_free(fake_receive(fd));
}

static void a_lost_hello_forgets_nothing(void **state)
{
    struct world world = {0};
    idem_begin_reply reply;

    (void)state;
    start(&world, lost_hello_script);
    assert_int_equal(begin(&world, "k", 0, &reply), IDEM_OK);
    stop(&world);
    assert_int_equal(world.server.replaced[2], 100);
}

/* Hello is never answered. */
static void mute_script(struct fake_server *server, int fd, int number)
{
    Idem__V1__Request *request = fake_receive(fd);

    (void)number;
    FAKE_CHECK(server, request && request->call_case == IDEM__V1__REQUEST__CALL_HELLO);
    fake_free(request);
    request = fake_receive(fd);
    FAKE_CHECK(server, !request); /* nothing but Hello was sent */
    fake_free(request);
}

static void without_an_answer_to_hello_nothing_is_sent(void **state)
{
    struct world world = {0};
    idem_begin_reply reply;

    (void)state;
    start(&world, mute_script);
    assert_int_equal(begin(&world, "k", SHORT_MS, &reply), IDEM_ERR_UNREACHABLE);
    stop(&world);
}

/* ---- Doubt ------------------------------------------------------------------------------------------- */

/* The first copies get no answer, the next gets a status. */
static void refused_script(struct fake_server *server, int fd, int number)
{
    const struct world *world = server->user;
    Idem__V1__Request *request;

    if (!fake_hello(server, fd, number) || !(request = fake_receive(fd)))
        return;
    if (number >= world->numbers_fail) {
        fake_status(fd, request, world->code);
        fake_free(request);
        request = fake_receive(fd);
    }
    fake_free(request);
}

static idem_error refused(int code, int numbers_fail)
{
    struct world world = {.code = code, .numbers_fail = numbers_fail};

    start(&world, refused_script);
    const idem_error error = complete(&world, 0);
    assert_string_equal(idem_message(world.client), "no");
    assert_string_equal(idem_reason(world.client), "REASON");
    assert_string_equal(idem_field(world.client), "a.field");
    assert_int_equal(idem_retry_after_ms(world.client), 17);
    stop(&world);
    return error;
}

static void a_refused_resend_does_not_say_not_done(void **state)
{
    static const struct {
        int code;
        idem_error at_once, again; /* its first copy answered so; its second */
    } cases[] = {
        {IDEM__V1__CODE__CODE_CANCELLED, IDEM_ERR_CANCELLED, IDEM_ERR_LOST},
        {IDEM__V1__CODE__CODE_INVALID_ARGUMENT, IDEM_ERR_INVALID_ARGUMENT, IDEM_ERR_LOST},
        {IDEM__V1__CODE__CODE_DEADLINE_EXCEEDED, IDEM_ERR_DEADLINE_EXCEEDED, IDEM_ERR_LOST},
        {IDEM__V1__CODE__CODE_NOT_FOUND, IDEM_ERR_NOT_FOUND, IDEM_ERR_NOT_FOUND},
        {IDEM__V1__CODE__CODE_PERMISSION_DENIED, IDEM_ERR_PERMISSION_DENIED, IDEM_ERR_LOST},
        {IDEM__V1__CODE__CODE_RESOURCE_EXHAUSTED, IDEM_ERR_RESOURCE_EXHAUSTED, IDEM_ERR_LOST},
        {IDEM__V1__CODE__CODE_FAILED_PRECONDITION, IDEM_ERR_FAILED_PRECONDITION, IDEM_ERR_FAILED_PRECONDITION},
        {IDEM__V1__CODE__CODE_UNIMPLEMENTED, IDEM_ERR_UNIMPLEMENTED, IDEM_ERR_LOST},
        {IDEM__V1__CODE__CODE_DATA_LOSS, IDEM_ERR_DATA_LOSS, IDEM_ERR_DATA_LOSS},
        {IDEM__V1__CODE__CODE_UNAUTHENTICATED, IDEM_ERR_UNAUTHENTICATED, IDEM_ERR_LOST},
        {IDEM__V1__CODE__CODE_ABORTED, IDEM_ERR_PROTOCOL, IDEM_ERR_PROTOCOL},
        {99, IDEM_ERR_PROTOCOL, IDEM_ERR_PROTOCOL},
        {-1, IDEM_ERR_PROTOCOL, IDEM_ERR_PROTOCOL},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_int_equal(refused(cases[i].code, 0), cases[i].at_once);
        assert_int_equal(refused(cases[i].code, 1), cases[i].again);
    }
}

/* After the first, lost copy even the connection is refused. */
static void denied_script(struct fake_server *server, int fd, int number)
{
    Idem__V1__Request *request;

    if (number == 0) {
        if (fake_hello(server, fd, number))
            fake_free(fake_receive(fd));
        return;
    }
    request = fake_receive(fd);
    if (request)
        fake_status(fd, request, IDEM__V1__CODE__CODE_UNAUTHENTICATED);
    fake_free(request);
    fake_free(fake_receive(fd));
}

static void a_refused_hello_does_not_say_not_done(void **state)
{
    struct world world = {0};

    (void)state;
    start(&world, denied_script);
    assert_int_equal(complete(&world, 0), IDEM_ERR_LOST);
    assert_int_equal(complete(&world, 0), IDEM_ERR_UNAUTHENTICATED); /* this one was not sent */
    stop(&world);
}

static void unavailable_to_the_end(void **state)
{
    static const struct {
        int code;
        idem_error error;
    } cases[] = {{IDEM__V1__CODE__CODE_UNAVAILABLE, IDEM_ERR_UNAVAILABLE},
                 {IDEM__V1__CODE__CODE_INTERNAL, IDEM_ERR_INTERNAL}};

    (void)state;
    for (size_t i = 0; i < 2; i++) {
        struct world world = {.code = cases[i].code};

        start(&world, refused_script);
        greet(&world);
        const idem_error error = complete(&world, SHORT_MS);
        /* The last copy may have been cut off by the deadline. */
        assert_true(error == cases[i].error || error == IDEM_ERR_LOST);
        assert_int_equal(idem_error_class(error), IDEM_CLASS_UNKNOWN);
        assert_true(atomic_load(&world.server.connections) > 1);
        stop(&world);
    }
}

/* UNAVAILABLE, with its reason, and then nobody is there any more. */
static void gone_script(struct fake_server *server, int fd, int number)
{
    Idem__V1__Request *request;

    if (number > 0 || !fake_hello(server, fd, number) || !(request = fake_receive(fd)))
        return;
    fake_status(fd, request, IDEM__V1__CODE__CODE_UNAVAILABLE);
    fake_free(request);
    fake_free(fake_receive(fd));
}

static void the_texts_are_those_of_the_last_error(void **state)
{
    struct world world = {0};
    idem_hello_reply reply;

    (void)state;
    start(&world, gone_script);
    greet(&world);
    assert_int_equal(complete(&world, SHORT_MS), IDEM_ERR_LOST);
    assert_true(*idem_message(world.client) && strcmp(idem_message(world.client), "no") != 0);
    assert_string_equal(idem_reason(world.client), "");
    assert_string_equal(idem_field(world.client), "");
    assert_int_equal(idem_retry_after_ms(world.client), 0);
    assert_int_equal(idem_hello(world.client, 1, &reply), IDEM_ERR_UNREACHABLE);
    stop(&world);
}

/* One call is answered, then the connection ends while nobody calls; the next connection refuses. */
static void idle_end_script(struct fake_server *server, int fd, int number)
{
    Idem__V1__Request *request;

    if (!fake_hello(server, fd, number) || !(request = fake_receive(fd)))
        return;
    if (number == 0) {
        fake_execute(fd, request->id, 1);
        shutdown(fd, SHUT_RDWR);
        atomic_store(&server->go, 1);
    } else {
        fake_status(fd, request, IDEM__V1__CODE__CODE_RESOURCE_EXHAUSTED);
        fake_free(fake_receive(fd));
    }
    fake_free(request);
}

static void a_connection_that_ended_between_calls_leaves_no_doubt(void **state)
{
    struct world world = {0};
    idem_begin_reply reply;

    (void)state;
    start(&world, idle_end_script);
    assert_int_equal(begin(&world, "k", 0, &reply), IDEM_OK);
    fake_wait(&world.server.go, 1);
    assert_int_equal(begin(&world, "l", 0, &reply), IDEM_ERR_RESOURCE_EXHAUSTED);
    stop(&world);
    assert_int_equal(world.server.replaced[1], 100); /* what was bound to it goes on */
}

/* The daemon says why it hangs up, and reads no further. */
static void hang_up_script(struct fake_server *server, int fd, int number)
{
    Idem__V1__Response response = IDEM__V1__RESPONSE__INIT;
    Idem__V1__Status status = IDEM__V1__STATUS__INIT;
    char byte;

    if (!fake_hello(server, fd, number) || recv(fd, &byte, 1, 0) != 1)
        return;
    status.code = IDEM__V1__CODE__CODE_INVALID_ARGUMENT;
    status.message = (char *)(uintptr_t) "that was no frame";
    response.status = &status;
    fake_send(fd, &response);
}

static void what_a_daemon_says_while_it_hangs_up_is_heard(void **state)
{
    static const char body[250 * 1024]; /* more than a socket takes at once */
    const idem_complete_request request = {
        .op = {.key = "k"}, .fence = 5, .outcome = {.kind = IDEM_SUCCEEDED, .body = {body, sizeof body}}};
    struct world world = {0};
    idem_complete_reply reply;

    (void)state;
    start(&world, hang_up_script);
    assert_int_equal(idem_complete(world.client, &request, 0, &reply), IDEM_ERR_PROTOCOL);
    assert_string_equal(idem_message(world.client), "that was no frame");
    stop(&world);
    assert_int_equal(atomic_load(&world.server.connections), 1);
}

/* ---- Attempts ------------------------------------------------------------------------------------------ */

/* Keeps the attempt ids; the first call is not answered. */
static void attempt_script(struct fake_server *server, int fd, int number)
{
    struct world *world = server->user;
    Idem__V1__Request *request;

    if (!fake_hello(server, fd, number))
        return;
    while ((request = fake_receive(fd))) {
        const int at = atomic_fetch_add(&server->go, 1);
        const ProtobufCBinaryData id = request->call_case == IDEM__V1__REQUEST__CALL_BEGIN
                                           ? request->begin->attempt_id
                                           : request->recover->attempt_id;

        FAKE_CHECK(server, id.len == ATTEMPT_BYTES);
        if (at < 4 && id.len == ATTEMPT_BYTES)
            memcpy(world->attempts[at], id.data, ATTEMPT_BYTES);
        if (at > 0)
            fake_good(fd, request);
        fake_free(request);
    }
}

static void assert_same_attempt(const struct world *world, int a, int b, bool same)
{
    assert_int_equal(memcmp(world->attempts[a], world->attempts[b], ATTEMPT_BYTES) == 0, same);
}

static void a_begin_that_is_called_again_is_the_same_attempt(void **state)
{
    struct world world = {0};
    idem_begin_reply reply;

    (void)state;
    start(&world, attempt_script);
    greet(&world);
    assert_int_equal(begin(&world, "k", SHORT_MS, &reply), IDEM_ERR_LOST);
    assert_int_equal(begin(&world, "other", 0, &reply), IDEM_OK);
    assert_int_equal(begin(&world, "k", 0, &reply), IDEM_OK); /* finds the grant that was made unseen */
    assert_int_equal(begin(&world, "k", 0, &reply), IDEM_OK); /* it was seen: this is another attempt */
    stop(&world);
    assert_same_attempt(&world, 0, 1, false);
    assert_same_attempt(&world, 0, 2, true);
    assert_same_attempt(&world, 0, 3, false);
}

static void a_recover_that_is_called_again_is_the_same_attempt(void **state)
{
    const idem_recover_request request = {.operation = "charge"}, other = {.operation = "refund"};
    struct world world = {0};
    idem_recover_reply reply;

    (void)state;
    start(&world, attempt_script);
    greet(&world);
    assert_int_equal(idem_recover(world.client, &request, SHORT_MS, &reply), IDEM_ERR_LOST);
    assert_int_equal(idem_recover(world.client, &other, 0, &reply), IDEM_OK);
    assert_int_equal(idem_recover(world.client, &request, 0, &reply), IDEM_OK);
    assert_int_equal(idem_recover(world.client, &request, 0, &reply), IDEM_OK);
    stop(&world);
    assert_same_attempt(&world, 0, 1, false);
    assert_same_attempt(&world, 0, 2, true);
    assert_same_attempt(&world, 0, 3, false);
}

static void a_given_attempt_is_sent_as_it_is(void **state)
{
    const uint8_t given[ATTEMPT_BYTES] = {1, 2, 3, 0, 255};
    const idem_begin_request request = {.op = {.key = "k"}, .attempt_id = given};
    struct world world = {0};
    idem_begin_reply reply;

    (void)state;
    start(&world, attempt_script);
    greet(&world);
    assert_int_equal(idem_begin(world.client, &request, SHORT_MS, &reply), IDEM_ERR_LOST);
    assert_int_equal(idem_begin(world.client, &request, 0, &reply), IDEM_OK);
    stop(&world);
    assert_memory_equal(world.attempts[0], given, ATTEMPT_BYTES);
    assert_memory_equal(world.attempts[1], given, ATTEMPT_BYTES);
}

/* ---- Time -------------------------------------------------------------------------------------------------- */

static void closing_script(struct fake_server *server, int fd, int number)
{
    (void)server, (void)fd, (void)number;
}

static void tries_go_on_until_the_deadline_and_are_not_a_storm(void **state)
{
    struct world world = {0};
    idem_begin_reply reply;

    (void)state;
    start(&world, closing_script);
    const uint64_t before_ms = transport_now_ms();
    assert_int_equal(begin(&world, "k", 2 * SHORT_MS, &reply), IDEM_ERR_UNREACHABLE);
    const uint64_t took_ms = transport_now_ms() - before_ms;
    stop(&world);
    assert_true(took_ms >= 2 * SHORT_MS - 2);
    assert_true(atomic_load(&world.server.connections) > 2);
    assert_true((uint64_t)atomic_load(&world.server.connections) <= took_ms + 2); /* a pause is at least 1 ms */
}

/* Keeps what each copy of a waiting call asks for; the first two are cut, two say RUNNING. */
static void wait_script(struct fake_server *server, int fd, int number)
{
    struct world *world = server->user;
    Idem__V1__BeginResponse begin = IDEM__V1__BEGIN_RESPONSE__INIT;
    Idem__V1__Response response = IDEM__V1__RESPONSE__INIT;
    Idem__V1__Request *request;

    if (!fake_hello(server, fd, number))
        return;
    while ((request = fake_receive(fd))) {
        const int at = atomic_fetch_add(&server->go, 1);

        if (at < 4)
            world->waits[at] = request->begin->wait_ms;
        FAKE_CHECK(server, request->timeout_ms > 0);
        begin.answer = IDEM__V1__BEGIN_RESPONSE__ANSWER__ANSWER_RUNNING;
        response.result_case = IDEM__V1__RESPONSE__RESULT_BEGIN;
        response.begin = &begin;
        if (at == 2)
            fake_answer(fd, request, &response);
        else if (at == 3)
            fake_replay(fd, request->id, "done");
        fake_free(request);
        if (at < 2)
            return;
    }
}

static void the_first_wait_knows_the_daemons_longest(void **state)
{
    const idem_begin_request request = {.op = {.key = "k"}, .wait_ms = 3600 * 1000};
    struct world world = {0};
    idem_begin_reply reply;

    (void)state;
    start(&world, wait_script);
    assert_int_equal(idem_begin(world.client, &request, 0, &reply), IDEM_OK);
    assert_int_equal(reply.answer, IDEM_REPLAY);
    stop(&world);
    for (int i = 0; i < 4; i++)
        assert_int_equal(world.waits[i], 50); /* fake_hello's max_wait_ms */
}

static void a_wait_that_is_sent_again_is_what_is_left_of_it(void **state)
{
    const idem_begin_request request = {.op = {.key = "k"}, .wait_ms = 45};
    struct world world = {0};
    idem_begin_reply reply;

    (void)state;
    start(&world, wait_script);
    assert_int_equal(idem_begin(world.client, &request, 0, &reply), IDEM_OK);
    assert_true(reply.answer == IDEM_REPLAY || reply.answer == IDEM_ANSWER_RUNNING);
    stop(&world);
    assert_true(world.waits[0] <= 45);
    /* Between two copies there is a pause of at least 1 ms, unless nothing was left. */
    for (int i = 1; i < 3; i++)
        assert_true(world.waits[i] < world.waits[i - 1] || world.waits[i] == 0);
}

/* A wait that brings nothing ends with the state, not with an error. */
static void running_script(struct fake_server *server, int fd, int number)
{
    Idem__V1__BeginResponse begin = IDEM__V1__BEGIN_RESPONSE__INIT;
    Idem__V1__Running running = IDEM__V1__RUNNING__INIT;
    Idem__V1__Response response = IDEM__V1__RESPONSE__INIT;
    Idem__V1__Request *request;

    if (!fake_hello(server, fd, number))
        return;
    running.owner = (char *)(uintptr_t) "somebody";
    running.retry_after_ms = 12;
    begin.answer = IDEM__V1__BEGIN_RESPONSE__ANSWER__ANSWER_RUNNING;
    begin.running = &running;
    response.result_case = IDEM__V1__RESPONSE__RESULT_BEGIN;
    response.begin = &begin;
    while ((request = fake_receive(fd))) {
        fake_answer(fd, request, &response);
        atomic_fetch_add(&server->go, 1);
        fake_free(request);
    }
}

static void a_wait_in_vain_ends_with_the_state(void **state)
{
    const idem_begin_request request = {.op = {.key = "k"}, .wait_ms = SHORT_MS};
    struct world world = {0};
    idem_begin_reply reply;

    (void)state;
    start(&world, running_script);
    assert_int_equal(idem_begin(world.client, &request, 0, &reply), IDEM_OK);
    assert_int_equal(reply.answer, IDEM_ANSWER_RUNNING);
    assert_string_equal(reply.owner, "somebody");
    assert_int_equal(reply.retry_after_ms, 12);
    stop(&world);
    /* This daemon answers at once; it is not asked as fast as it can answer. */
    assert_true(atomic_load(&world.server.go) <= SHORT_MS / 10 + 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(late_replies_are_given_to_no_other_call),
        cmocka_unit_test(answers_to_nobody_do_not_keep_a_call_alive),
        cmocka_unit_test(what_nobody_asked_for_ends_the_connection),
        cmocka_unit_test(hello_replaces_and_is_answered_before_anything_is_sent_again),
        cmocka_unit_test(a_lost_hello_forgets_nothing),
        cmocka_unit_test(without_an_answer_to_hello_nothing_is_sent),
        cmocka_unit_test(a_refused_resend_does_not_say_not_done),
        cmocka_unit_test(a_refused_hello_does_not_say_not_done),
        cmocka_unit_test(unavailable_to_the_end),
        cmocka_unit_test(the_texts_are_those_of_the_last_error),
        cmocka_unit_test(a_connection_that_ended_between_calls_leaves_no_doubt),
        cmocka_unit_test(what_a_daemon_says_while_it_hangs_up_is_heard),
        cmocka_unit_test(a_begin_that_is_called_again_is_the_same_attempt),
        cmocka_unit_test(a_recover_that_is_called_again_is_the_same_attempt),
        cmocka_unit_test(a_given_attempt_is_sent_as_it_is),
        cmocka_unit_test(tries_go_on_until_the_deadline_and_are_not_a_storm),
        cmocka_unit_test(the_first_wait_knows_the_daemons_longest),
        cmocka_unit_test(a_wait_that_is_sent_again_is_what_is_left_of_it),
        cmocka_unit_test(a_wait_in_vain_ends_with_the_state),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
