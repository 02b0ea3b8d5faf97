/* idem_run in all its endings: what it tells the daemon after each word of the callback, what it tells the caller where
 * that could not be stored, and that nothing is ever run without permission. */
#include "client/idem.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include <cmocka.h>

#include "client/transport.h"
#include "tests/unit/client/fake_server.h"

enum { SHORT_MS = 250 };

/* What a callback does, and what it and the daemon saw. */
struct run {
    struct fake_server server;
    idem_client *client;
    idem_done says;
    int calls, renewals, checkpoints;
    bool bad_outcome; /* its outcome cannot be sent */
    int answer;       /* to Begin, or */
    Idem__V1__Ownership ownership;
    int status; /* to the call after the callback, or 0 */
    Idem__V1__Request__CallCase then;
    int detail; /* its kind, or effect */
    uint64_t fence;
};

/* ---- The daemon's side ------------------------------------------------------------------- */

static void answer_begin(const struct run *run, int fd, const Idem__V1__Request *request)
{
    Idem__V1__BeginResponse begin = IDEM__V1__BEGIN_RESPONSE__INIT;
    Idem__V1__Outcome outcome = IDEM__V1__OUTCOME__INIT;
    Idem__V1__Response response = IDEM__V1__RESPONSE__INIT;

    if (run->answer == 0 || run->answer == IDEM_EXECUTE) {
        fake_good(fd, request);
        return;
    }
    outcome.kind = IDEM__V1__OUTCOME_KIND__OUTCOME_KIND_SUCCEEDED;
    outcome.body = (ProtobufCBinaryData){6, (uint8_t *)(uintptr_t) "stored"};
    begin.answer = (Idem__V1__BeginResponse__Answer)run->answer;
    begin.outcome = run->answer == IDEM_REPLAY ? &outcome : NULL;
    response.result_case = IDEM__V1__RESPONSE__RESULT_BEGIN;
    response.begin = &begin;
    fake_answer(fd, request, &response);
}

static void answer_end(struct run *run, int fd, const Idem__V1__Request *request)
{
    Idem__V1__CompleteResponse complete = IDEM__V1__COMPLETE_RESPONSE__INIT;
    Idem__V1__ReleaseResponse release = IDEM__V1__RELEASE_RESPONSE__INIT;
    Idem__V1__Outcome outcome = IDEM__V1__OUTCOME__INIT;
    Idem__V1__Response response = IDEM__V1__RESPONSE__INIT;
    const bool completes = request->call_case == IDEM__V1__REQUEST__CALL_COMPLETE;

    run->then = request->call_case;
    run->detail = completes ? (int)request->complete->outcome->kind : (int)request->release->effect;
    run->fence = completes ? request->complete->fence : request->release->fence;
    if (run->status) {
        fake_status(fd, request, run->status);
        return;
    }
    outcome.kind = IDEM__V1__OUTCOME_KIND__OUTCOME_KIND_FAILED;
    outcome.code = 99;
    complete.ownership = release.ownership = run->ownership;
    complete.outcome = run->ownership == IDEM__V1__OWNERSHIP__OWNERSHIP_FINAL ? &outcome : NULL;
    response.result_case = completes ? IDEM__V1__RESPONSE__RESULT_COMPLETE : IDEM__V1__RESPONSE__RESULT_RELEASE;
    if (completes)
        response.complete = &complete;
    else
        response.release = &release;
    fake_answer(fd, request, &response);
}

static void run_script(struct fake_server *server, int fd, int number)
{
    struct run *run = server->user;
    Idem__V1__Request *request;

    if (!fake_hello(server, fd, number))
        return;
    while ((request = fake_receive(fd))) {
        if (request->call_case == IDEM__V1__REQUEST__CALL_BEGIN)
            answer_begin(run, fd, request);
        else if (request->call_case == IDEM__V1__REQUEST__CALL_COMPLETE ||
                 request->call_case == IDEM__V1__REQUEST__CALL_RELEASE)
            answer_end(run, fd, request);
        else
            fake_good(fd, request);
        fake_free(request);
    }
}

/* ---- The program's side ------------------------------------------------------------------- */

static idem_done callback(idem_running *running, idem_outcome *outcome, void *user)
{
    static const idem_attribute bad = {"n", {NULL, 7}};
    struct run *run = user;
    idem_ownership ownership = 0;

    run->calls++;
    assert_int_equal(idem_running_fence(running), 5);
    assert_int_equal(idem_running_attempt(running), 2);
    assert_string_equal(idem_running_checkpoint(running).name, "half");
    assert_memory_equal(idem_running_checkpoint(running).data.data, "cp", 2);
    assert_int_equal(idem_running_input(running).size, 2);
    assert_in_range(idem_running_lease_left_ms(running), 1, 30000);
    for (int i = 0; i < run->renewals; i++) {
        assert_int_equal(idem_running_renew(running, &ownership), IDEM_OK);
        assert_int_equal(ownership, IDEM_HELD);
        assert_in_range(idem_running_lease_left_ms(running), 30001, 40000); /* fake_good gives 40 s */
    }
    for (int i = 0; i < run->checkpoints; i++) {
        assert_int_equal(idem_running_store(running, "more", (idem_bytes){"x", 1}, &ownership), IDEM_OK);
        assert_in_range(idem_running_lease_left_ms(running), 40001, 50000); /* and 50 s with a checkpoint */
    }
    outcome->code = 7;
    outcome->body = (idem_bytes){"mine", 4};
    if (run->bad_outcome) {
        outcome->attributes = &bad;
        outcome->attribute_count = 1;
    }
    return run->says;
}

static idem_client *open_client(const struct fake_server *server, uint32_t timeout_ms)
{
    idem_options options;
    idem_client *client;

    idem_options_init(&options);
    options.address = server->address;
    options.timeout_ms = timeout_ms;
    assert_int_equal(idem_open(&options, &client), IDEM_OK);
    return client;
}

static const idem_begin_request request = {.op = {.key = "k"}};

/* Runs once, with a script; the reply's views are good until the client is closed by the caller. */
static idem_error go(struct run *run, uint32_t timeout_ms, idem_run_reply *reply)
{
    idem_hello_reply hello;

    fake_server_start(&run->server, run_script, run);
    run->client = open_client(&run->server, 0);
    assert_int_equal(idem_hello(run->client, 0, &hello), IDEM_OK);
    memset(reply, 0xa5, sizeof *reply);
    return idem_run(run->client, &request, timeout_ms, callback, run, reply);
}

static void done(struct run *run)
{
    idem_close(run->client);
    fake_server_stop(&run->server);
}

/* ---- Endings ------------------------------------------------------------------------------- */

static void each_word_of_the_callback_and_each_answer_to_it(void **state)
{
    static const struct {
        idem_done says;
        Idem__V1__Request__CallCase then;
        int detail;
    } words[] = {
        {IDEM_DONE_SUCCEEDED, IDEM__V1__REQUEST__CALL_COMPLETE, IDEM_SUCCEEDED},
        {IDEM_DONE_FAILED, IDEM__V1__REQUEST__CALL_COMPLETE, IDEM_FAILED},
        {IDEM_DONE_NOTHING, IDEM__V1__REQUEST__CALL_RELEASE, IDEM_EFFECT_NONE_BY_ME},
        {IDEM_DONE_UNKNOWN, IDEM__V1__REQUEST__CALL_RELEASE, IDEM_EFFECT_UNKNOWN},
        {(idem_done)0, IDEM__V1__REQUEST__CALL_RELEASE, IDEM_EFFECT_UNKNOWN},
        {(idem_done)77, IDEM__V1__REQUEST__CALL_RELEASE, IDEM_EFFECT_UNKNOWN},
    };

    (void)state;
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        for (int ownership = IDEM_HELD; ownership <= IDEM_GONE; ownership++) {
            struct run run = {.says = words[i].says, .ownership = (Idem__V1__Ownership)ownership, .renewals = 1};
            const bool completes = words[i].then == IDEM__V1__REQUEST__CALL_COMPLETE;
            idem_run_reply reply;

            assert_int_equal(go(&run, 0, &reply), IDEM_OK);
            assert_int_equal(run.calls, 1);
            assert_int_equal(run.then, words[i].then);
            assert_int_equal(run.detail, words[i].detail);
            assert_int_equal(run.fence, 5);
            assert_true(reply.ran);
            assert_int_equal(reply.begin.answer, IDEM_EXECUTE);
            assert_int_equal(reply.ownership, ownership);
            /* There is an outcome only where one is stored. */
            if (completes && ownership == IDEM_HELD) {
                assert_int_equal(reply.outcome.kind, words[i].detail);
                assert_int_equal(reply.outcome.code, 7);
                assert_memory_equal(reply.outcome.body.data, "mine", 4);
            } else if (completes && ownership == IDEM_FINAL) {
                assert_int_equal(reply.outcome.kind, IDEM_FAILED);
                assert_int_equal(reply.outcome.code, 99);
            } else {
                assert_int_equal(reply.outcome.kind, 0);
                assert_null(reply.outcome.body.data);
            }
            done(&run);
        }
}

static void what_is_no_permission_runs_nothing(void **state)
{
    (void)state;
    for (int answer = IDEM_REPLAY; answer <= IDEM_EXPIRED; answer++) {
        struct run run = {.says = IDEM_DONE_SUCCEEDED, .answer = answer};
        idem_run_reply reply;

        assert_int_equal(go(&run, 0, &reply), IDEM_OK);
        assert_int_equal(run.calls, 0);
        assert_false(reply.ran);
        assert_int_equal(reply.begin.answer, answer);
        assert_int_equal(reply.ownership, 0);
        assert_int_equal(reply.outcome.kind, answer == IDEM_REPLAY ? IDEM_SUCCEEDED : 0);
        if (answer == IDEM_REPLAY)
            assert_memory_equal(reply.outcome.body.data, "stored", 6);
        done(&run);
        assert_int_equal(run.then, 0);
    }
    /* Nor does an answer that is not known, and nothing is left of it in the reply. */
    struct run run = {.says = IDEM_DONE_SUCCEEDED, .answer = 7};
    idem_run_reply reply, zero = {0};
    assert_int_equal(go(&run, 0, &reply), IDEM_ERR_PROTOCOL);
    assert_int_equal(run.calls, 0);
    assert_memory_equal(&reply, &zero, sizeof reply);
    done(&run);
}

static void a_handle_renews_and_stores(void **state)
{
    struct run run = {.says = IDEM_DONE_SUCCEEDED, .renewals = 3, .checkpoints = 2};
    idem_run_reply reply;

    (void)state;
    run.ownership = IDEM__V1__OWNERSHIP__OWNERSHIP_HELD;
    assert_int_equal(go(&run, 0, &reply), IDEM_OK);
    assert_int_equal(run.calls, 1);
    done(&run);
}

/* ---- Where it could not be stored ----------------------------------------------------------- */

static void once_run_no_error_says_not_done(void **state)
{
    static const int codes[] = {IDEM__V1__CODE__CODE_INVALID_ARGUMENT,   IDEM__V1__CODE__CODE_UNAUTHENTICATED,
                                IDEM__V1__CODE__CODE_PERMISSION_DENIED,  IDEM__V1__CODE__CODE_RESOURCE_EXHAUSTED,
                                IDEM__V1__CODE__CODE_DEADLINE_EXCEEDED,  IDEM__V1__CODE__CODE_CANCELLED,
                                IDEM__V1__CODE__CODE_UNIMPLEMENTED,      IDEM__V1__CODE__CODE_DATA_LOSS,
                                IDEM__V1__CODE__CODE_FAILED_PRECONDITION};
    static const idem_done words[] = {IDEM_DONE_SUCCEEDED, IDEM_DONE_FAILED, IDEM_DONE_NOTHING, IDEM_DONE_UNKNOWN};

    (void)state;
    for (size_t i = 0; i < sizeof codes / sizeof codes[0]; i++)
        for (size_t k = 0; k < sizeof words / sizeof words[0]; k++) {
            struct run run = {.says = words[k], .status = codes[i]};
            idem_run_reply reply;

            assert_int_equal(go(&run, 0, &reply), IDEM_ERR_NOT_STORED);
            assert_true(reply.ran);
            assert_int_equal(reply.begin.answer, IDEM_EXECUTE);
            assert_int_equal(reply.ownership, 0);
            assert_int_equal(reply.outcome.kind, 0);
            assert_non_null(strstr(idem_message(run.client), "IDEM_ERR_")); /* the cause, */
            assert_non_null(strstr(idem_message(run.client), ": no"));      /* and what the daemon said */
            assert_string_equal(idem_field(run.client), "a.field");
            done(&run);
        }
    assert_int_equal(idem_error_class(IDEM_ERR_NOT_STORED), IDEM_CLASS_UNKNOWN);
}

static void an_outcome_that_cannot_be_sent_says_so(void **state)
{
    struct run run = {.says = IDEM_DONE_SUCCEEDED, .bad_outcome = true};
    idem_run_reply reply;

    (void)state;
    assert_int_equal(go(&run, 0, &reply), IDEM_ERR_NOT_STORED);
    assert_true(reply.ran);
    assert_non_null(strstr(idem_message(run.client), "IDEM_ERR_MISUSE"));
    done(&run);
    assert_int_equal(run.then, 0);
}

/* The daemon goes while the callback runs, and does not come back. */
static void vanish_script(struct fake_server *server, int fd, int number)
{
    Idem__V1__Request *call;

    if (number > 0 || !fake_hello(server, fd, number) || !(call = fake_receive(fd)))
        return;
    fake_good(fd, call);
    fake_free(call);
    fake_wait(&server->go, 1); /* the callback runs */
    shutdown(fd, SHUT_RDWR);
    atomic_store(&server->go, 2);
}

static idem_done wait_for_the_end(idem_running *running, idem_outcome *outcome, void *user)
{
    struct run *run = user;

    (void)running, (void)outcome;
    run->calls++;
    atomic_store(&run->server.go, 1);
    fake_wait(&run->server.go, 2);
    return run->says;
}

static void a_daemon_that_vanished_leaves_it_unknown(void **state)
{
    static const idem_done words[] = {IDEM_DONE_SUCCEEDED, IDEM_DONE_NOTHING};

    (void)state;
    for (size_t i = 0; i < 2; i++) {
        struct run run = {.says = words[i]};
        idem_run_reply reply;
        idem_hello_reply hello;

        fake_server_start(&run.server, vanish_script, &run);
        run.client = open_client(&run.server, 0);
        assert_int_equal(idem_hello(run.client, 0, &hello), IDEM_OK);
        assert_int_equal(idem_run(run.client, &request, SHORT_MS, wait_for_the_end, &run, &reply), IDEM_ERR_NOT_STORED);
        assert_int_equal(run.calls, 1);
        assert_true(reply.ran);
        assert_int_equal(reply.ownership, 0);
        done(&run);
    }
}

/* The first Complete is lost; the next connection replaces the first, and takes it. */
static void lose_complete_script(struct fake_server *server, int fd, int number)
{
    Idem__V1__Request *call;

    if (!fake_hello(server, fd, number))
        return;
    while ((call = fake_receive(fd))) {
        const bool lost = number == 0 && call->call_case == IDEM__V1__REQUEST__CALL_COMPLETE;

        if (call->call_case == IDEM__V1__REQUEST__CALL_COMPLETE) {
            FAKE_CHECK(server, call->complete->fence == 5);
            FAKE_CHECK(server, call->complete->outcome->body.len == 4);
            atomic_fetch_add(&server->go, 1);
        }
        if (!lost)
            fake_good(fd, call);
        fake_free(call);
        if (lost)
            return;
    }
}

static void a_lost_complete_is_sent_again(void **state)
{
    struct run run = {.says = IDEM_DONE_SUCCEEDED};
    idem_run_reply reply;

    (void)state;
    fake_server_start(&run.server, lose_complete_script, &run);
    run.client = open_client(&run.server, 0);
    assert_int_equal(idem_run(run.client, &request, 0, callback, &run, &reply), IDEM_OK);
    assert_int_equal(run.calls, 1);
    assert_int_equal(reply.ownership, IDEM_HELD);
    done(&run);
    assert_int_equal(atomic_load(&run.server.go), 2);
    assert_int_equal(run.server.replaced[1], 100);
}

/* ---- Leases --------------------------------------------------------------------------------------- */

/* RUNNING for a while, then EXECUTE with a lease of 100 s. */
static void waited_script(struct fake_server *server, int fd, int number)
{
    Idem__V1__BeginResponse begin = IDEM__V1__BEGIN_RESPONSE__INIT;
    Idem__V1__Grant grant = IDEM__V1__GRANT__INIT;
    Idem__V1__Response response = IDEM__V1__RESPONSE__INIT;
    Idem__V1__Request *call;

    if (!fake_hello(server, fd, number))
        return;
    grant.fence = 1;
    grant.attempt = 1;
    grant.lease_ms = 100 * 1000;
    begin.grant = &grant;
    response.result_case = IDEM__V1__RESPONSE__RESULT_BEGIN;
    response.begin = &begin;
    while ((call = fake_receive(fd))) {
        const bool last = atomic_fetch_add(&server->go, 1) == 5;

        begin.answer =
            last ? IDEM__V1__BEGIN_RESPONSE__ANSWER__ANSWER_EXECUTE : IDEM__V1__BEGIN_RESPONSE__ANSWER__ANSWER_RUNNING;
        if (last) { /* it takes its time */
            *(uint64_t *)server->user = transport_now_ms();
            transport_pause(transport_now_ms() + 30);
        }
        if (call->call_case == IDEM__V1__REQUEST__CALL_BEGIN)
            fake_answer(fd, call, &response);
        else
            fake_good(fd, call);
        fake_free(call);
    }
}

static idem_done note_lease(idem_running *running, idem_outcome *outcome, void *user)
{
    (void)outcome;
    *(uint64_t *)user = transport_now_ms() + idem_running_lease_left_ms(running);
    return IDEM_DONE_SUCCEEDED;
}

static void a_lease_counts_from_the_part_that_was_answered(void **state)
{
    const idem_begin_request waiting = {.op = {.key = "k"}, .wait_ms = 3600 * 1000};
    struct fake_server server;
    idem_run_reply reply;
    idem_hello_reply hello;
    uint64_t lease_end_ms = 0, arrived_ms = 0;

    (void)state;
    fake_server_start(&server, waited_script, &arrived_ms);
    idem_client *client = open_client(&server, 0);
    assert_int_equal(idem_hello(client, 0, &hello), IDEM_OK);
    const uint64_t before_ms = transport_now_ms();
    assert_int_equal(idem_run(client, &waiting, 0, note_lease, &lease_end_ms, &reply), IDEM_OK);
    /* Five parts went before, with a pause of 10 ms after each; and it was sent before it arrived. */
    assert_in_range(lease_end_ms, before_ms + 100 * 1000 + 50, arrived_ms + 100 * 1000);
    idem_close(client);
    fake_server_stop(&server);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_word_of_the_callback_and_each_answer_to_it),
        cmocka_unit_test(what_is_no_permission_runs_nothing),
        cmocka_unit_test(a_handle_renews_and_stores),
        cmocka_unit_test(once_run_no_error_says_not_done),
        cmocka_unit_test(an_outcome_that_cannot_be_sent_says_so),
        cmocka_unit_test(a_daemon_that_vanished_leaves_it_unknown),
        cmocka_unit_test(a_lost_complete_is_sent_again),
        cmocka_unit_test(a_lease_counts_from_the_part_that_was_answered),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
