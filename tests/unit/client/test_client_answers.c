/* The calls one by one: what is asked for arrives as it was given, what is answered is read as it was sent, and an
 * answer that says something unknown is an error that leaves the reply alone. */
#include "client/idem.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "proto/limits.h"
#include "tests/unit/client/fake_server.h"

static const uint8_t binary[] = {0, 255, 0, 1, '\n', 0};

static idem_client *open_client(const struct fake_server *server)
{
    idem_options options;
    idem_client *client;

    idem_options_init(&options);
    options.address = server->address;
    options.namespace_ = "team";
    options.caller = "tenant";
    options.owner = "worker 1";
    assert_int_equal(idem_open(&options, &client), IDEM_OK);
    return client;
}

static bool is(ProtobufCBinaryData bytes, const void *data, size_t size)
{
    return bytes.len == size && (size == 0 || memcmp(bytes.data, data, size) == 0);
}

static bool is_binary(ProtobufCBinaryData bytes)
{
    return is(bytes, binary, sizeof binary);
}

static bool is_op(const Idem__V1__OperationId *op)
{
    return op && strcmp(op->namespace_, "team") == 0 && strcmp(op->caller, "tenant") == 0 && strcmp(op->key, "k") == 0;
}

/* ---- Requests -------------------------------------------------------------------------------- */

static void check_begin(struct fake_server *server, const Idem__V1__Request *request)
{
    const Idem__V1__BeginRequest *begin = request->begin;

    FAKE_CHECK(server, is_op(begin->op));
    FAKE_CHECK(server, strcmp(begin->operation, "charge") == 0);
    FAKE_CHECK(server, is_binary(begin->fingerprint));
    FAKE_CHECK(server, begin->n_other_fingerprints == 2 && is_binary(begin->other_fingerprints[0]) &&
                           is(begin->other_fingerprints[1], "b", 1));
    FAKE_CHECK(server, strcmp(begin->owner, "worker 1") == 0);
    FAKE_CHECK(server, begin->lease_ms == 7000 && begin->wait_ms == 0 && begin->keep_ms == 1ull << 40);
    FAKE_CHECK(server, begin->if_interrupted == IDEM__V1__IF_INTERRUPTED__IF_INTERRUPTED_TAKE_OVER);
    FAKE_CHECK(server, begin->first_sent_ms == 1234567890123ull && begin->take_over_revision == 1ull << 52);
    FAKE_CHECK(server, is_binary(begin->input) && begin->bind_to_connection);
    FAKE_CHECK(server, strcmp(request->traceparent, "00-trace") == 0);
}

static void check_outcome(struct fake_server *server, const Idem__V1__Outcome *outcome)
{
    FAKE_CHECK(server, outcome->kind == IDEM__V1__OUTCOME_KIND__OUTCOME_KIND_FAILED && outcome->code == -5);
    FAKE_CHECK(server, outcome->n_attributes == 2 && strcmp(outcome->attributes[0]->name, "a") == 0 &&
                           is_binary(outcome->attributes[0]->value) && !*outcome->attributes[1]->name &&
                           outcome->attributes[1]->value.len == 0);
    FAKE_CHECK(server, is_binary(outcome->body) && !outcome->body_dropped && !outcome->attributes_dropped);
}

static void check_rest(struct fake_server *server, const Idem__V1__Request *request)
{
    switch (request->call_case) {
    case IDEM__V1__REQUEST__CALL_RELEASE:
        FAKE_CHECK(server, is_op(request->release->op) && request->release->fence == 6);
        FAKE_CHECK(server, request->release->effect == IDEM__V1__EFFECT__EFFECT_NONE);
        break;
    case IDEM__V1__REQUEST__CALL_RENEW:
        FAKE_CHECK(server, is_op(request->renew->op) && request->renew->fence == 6 && request->renew->lease_ms == 9000);
        break;
    case IDEM__V1__REQUEST__CALL_CHECKPOINT:
        FAKE_CHECK(server, is_op(request->checkpoint->op) && request->checkpoint->fence == 6);
        FAKE_CHECK(server, strcmp(request->checkpoint->checkpoint->name, "half") == 0);
        FAKE_CHECK(server, is_binary(request->checkpoint->checkpoint->data) && request->checkpoint->lease_ms == 9000);
        break;
    case IDEM__V1__REQUEST__CALL_GET:
        FAKE_CHECK(server, is_op(request->get->op) && request->get->wait_ms == 0);
        break;
    case IDEM__V1__REQUEST__CALL_RECOVER:
        FAKE_CHECK(server, strcmp(request->recover->namespace_, "team") == 0);
        FAKE_CHECK(server, strcmp(request->recover->operation, "charge") == 0 && request->recover->limit == 2);
        FAKE_CHECK(server, strcmp(request->recover->owner, "other") == 0 && request->recover->lease_ms == 9000);
        FAKE_CHECK(server, request->recover->bind_to_connection && request->recover->attempt_id.len == 16);
        break;
    case IDEM__V1__REQUEST__CALL_FORGET:
        FAKE_CHECK(server, is_op(request->forget->op) && request->forget->revision == 8);
        FAKE_CHECK(server, strcmp(request->forget->reason, "why") == 0);
        break;
    case IDEM__V1__REQUEST__CALL_LIST:
        FAKE_CHECK(server, !*request->list->namespace_ && request->list->limit == 3);
        FAKE_CHECK(server, request->list->state == IDEM__V1__STATE__STATE_DONE && is_binary(request->list->cursor));
        break;
    default:
        FAKE_CHECK(server, request->call_case == IDEM__V1__REQUEST__CALL_STATS);
        FAKE_CHECK(server, strcmp(request->stats->namespace_, "one") == 0);
    }
}

static void check_script(struct fake_server *server, int fd, int number)
{
    Idem__V1__Request *request;
    uint64_t last_id = 0;

    if (!fake_hello(server, fd, number))
        return;
    while ((request = fake_receive(fd))) {
        FAKE_CHECK(server, request->id > last_id); /* never one twice */
        last_id = request->id;
        FAKE_CHECK(server, request->timeout_ms > 0 && request->timeout_ms <= 10000);
        if (request->call_case == IDEM__V1__REQUEST__CALL_BEGIN) {
            check_begin(server, request);
        } else if (request->call_case == IDEM__V1__REQUEST__CALL_COMPLETE) {
            FAKE_CHECK(server, is_op(request->complete->op) && request->complete->fence == 6);
            FAKE_CHECK(server, request->complete->keep_ms == 11 && request->complete->keep_body_ms == 12);
            check_outcome(server, request->complete->outcome);
        } else if (request->call_case == IDEM__V1__REQUEST__CALL_RESOLVE) {
            FAKE_CHECK(server, is_op(request->resolve->op) && request->resolve->revision == 8);
            FAKE_CHECK(server, strcmp(request->resolve->reason, "why") == 0);
            FAKE_CHECK(server, (request->resolve->verdict == IDEM__V1__VERDICT__VERDICT_HAPPENED) ==
                                   (request->resolve->outcome != NULL));
            if (request->resolve->outcome)
                check_outcome(server, request->resolve->outcome);
        } else {
            check_rest(server, request);
        }
        fake_good(fd, request);
        fake_free(request);
    }
}

static const idem_operation_id op = {.key = "k"};
static const idem_bytes bytes = {binary, sizeof binary};

static void assert_bytes(idem_bytes is_bytes, const char *want)
{
    assert_int_equal(is_bytes.size, strlen(want));
    assert_memory_equal(is_bytes.data, want, strlen(want));
}

static void assert_good_outcome(const idem_outcome *outcome)
{
    assert_int_equal(outcome->kind, IDEM_FAILED);
    assert_int_equal(outcome->code, -402);
    assert_int_equal(outcome->attribute_count, 1);
    assert_string_equal(outcome->attributes[0].name, "n");
    assert_bytes(outcome->attributes[0].value, "v");
    assert_bytes(outcome->body, "body");
}

static void assert_good_grant(const idem_grant *grant)
{
    assert_int_equal(grant->fence, 5);
    assert_int_equal(grant->lease_ms, 30000);
    assert_int_equal(grant->attempt, 2);
    assert_string_equal(grant->checkpoint.name, "half");
    assert_bytes(grant->checkpoint.data, "cp");
    assert_bytes(grant->input, "in");
}

static void the_owners_calls(idem_client *client)
{
    const idem_bytes others[] = {{binary, sizeof binary}, {"b", 1}};
    const idem_begin_request begin = {.op = op,
                                      .operation = "charge",
                                      .fingerprint = bytes,
                                      .other_fingerprints = others,
                                      .other_fingerprint_count = 2,
                                      .lease_ms = 7000,
                                      .if_interrupted = IDEM_TAKE_OVER,
                                      .first_sent_ms = 1234567890123ull,
                                      .input = bytes,
                                      .bind_to_connection = true,
                                      .keep_ms = 1ull << 40,
                                      .take_over_revision = 1ull << 52,
                                      .traceparent = "00-trace"};
    const idem_attribute attributes[] = {{"a", bytes}, {NULL, {NULL, 0}}};
    const idem_complete_request complete = {
        .op = op,
        .fence = 6,
        .keep_ms = 11,
        .keep_body_ms = 12,
        .outcome = {.kind = IDEM_FAILED, .code = -5, .attributes = attributes, .attribute_count = 2, .body = bytes}};
    const idem_release_request release = {op, 6, IDEM_EFFECT_NONE};
    const idem_renew_request renew = {op, 6, 9000};
    const idem_checkpoint_request store = {op, 6, {"half", bytes}, 9000};
    idem_begin_reply begun;
    idem_complete_reply completed;
    idem_release_reply released;
    idem_renew_reply renewed;

    assert_int_equal(idem_begin(client, &begin, 0, &begun), IDEM_OK);
    assert_int_equal(begun.answer, IDEM_EXECUTE);
    assert_good_grant(&begun.grant);
    assert_int_equal(begun.info.revision, 8);
    assert_int_equal(idem_complete(client, &complete, 0, &completed), IDEM_OK);
    assert_int_equal(completed.ownership, IDEM_HELD);
    assert_int_equal(completed.expires_ms, 77);
    assert_int_equal(idem_release(client, &release, 0, &released), IDEM_OK);
    assert_int_equal(released.state, IDEM_INTERRUPTED);
    assert_int_equal(idem_renew(client, &renew, 0, &renewed), IDEM_OK);
    assert_int_equal(renewed.lease_ms, 40000);
    assert_int_equal(idem_checkpoint_store(client, &store, 0, &renewed), IDEM_OK);
    assert_int_equal(renewed.lease_ms, 50000);
}

static void the_other_calls(idem_client *client)
{
    const idem_get_request get = {.op = op};
    const idem_recover_request recover = {
        .operation = "charge", .owner = "other", .lease_ms = 9000, .limit = 2, .bind_to_connection = true};
    const idem_list_request list = {.state = IDEM_DONE, .limit = 3, .cursor = bytes};
    idem_get_reply got;
    idem_recover_reply recovered;
    idem_list_reply listed;
    idem_stats_reply counted;

    assert_int_equal(idem_get(client, &get, 0, &got), IDEM_OK);
    assert_int_equal(got.info.state, IDEM_DONE);
    assert_string_equal(got.info.owner, "me");
    assert_good_outcome(&got.outcome);
    assert_int_equal(idem_recover(client, &recover, 0, &recovered), IDEM_OK);
    assert_int_equal(recovered.count, 2);
    assert_string_equal(recovered.operations[1].op.key, "key");
    assert_good_grant(&recovered.operations[1].grant);
    assert_bytes(recovered.operations[1].fingerprint, "print");
    assert_int_equal(idem_list(client, &list, 0, &listed), IDEM_OK);
    assert_int_equal(listed.count, 1);
    assert_string_equal(listed.operations[0].op.caller, "caller");
    assert_string_equal(listed.operations[0].info.operation, "charge");
    assert_bytes(listed.cursor, "next");
    assert_int_equal(idem_stats(client, "one", 0, &counted), IDEM_OK);
    assert_int_equal(counted.count, 1);
    assert_string_equal(counted.metrics[0].name, "calls");
    assert_string_equal(counted.metrics[0].label_names[0], "call");
    assert_string_equal(counted.metrics[0].label_values[0], "begin");
    assert_null(counted.metrics[0].label_names[1]);
    assert_true(counted.metrics[0].value == 1.5);
}

static void the_operators_calls(idem_client *client)
{
    const idem_attribute attributes[] = {{"a", bytes}, {NULL, {NULL, 0}}};
    idem_resolve_request resolve = {
        .op = op,
        .revision = 8,
        .verdict = IDEM_HAPPENED,
        .reason = "why",
        .outcome = {.kind = IDEM_FAILED, .code = -5, .attributes = attributes, .attribute_count = 2, .body = bytes}};
    const idem_forget_request forget = {op, 8, "why"};
    idem_complete_reply resolved;
    idem_ownership ownership;

    assert_int_equal(idem_resolve(client, &resolve, 0, &resolved), IDEM_OK);
    assert_int_equal(resolved.ownership, IDEM_FINAL);
    assert_int_equal(resolved.expires_ms, 78);
    assert_good_outcome(&resolved.outcome);
    resolve.verdict = IDEM_DID_NOT_HAPPEN;
    assert_int_equal(idem_resolve(client, &resolve, 0, &resolved), IDEM_OK);
    assert_int_equal(idem_forget(client, &forget, 0, &ownership), IDEM_OK);
    assert_int_equal(ownership, IDEM_GONE);
}

static void what_is_asked_arrives_and_what_is_answered_is_read(void **state)
{
    struct fake_server server;

    (void)state;
    fake_server_start(&server, check_script, NULL);
    idem_client *client = open_client(&server);
    the_owners_calls(client);
    the_other_calls(client);
    the_operators_calls(client);
    idem_close(client);
    fake_server_stop(&server);
    assert_int_equal(atomic_load(&server.connections), 1);
}

static void hello_script(struct fake_server *server, int fd, int number)
{
    Idem__V1__HelloResponse hello = IDEM__V1__HELLO_RESPONSE__INIT;
    Idem__V1__Policy policy = IDEM__V1__POLICY__INIT;

    (void)number;
    hello.server = (char *)(uintptr_t) "fake 1";
    hello.instance = 1ull << 63;
    hello.store_id = 3;
    hello.connection = 4;
    hello.now_ms = 5;
    hello.durable = true;
    hello.max_frame_bytes = 1280 * 1024;
    hello.max_outcome_bytes = 1024 * 1024;
    hello.max_wait_ms = 60000;
    hello.policy = &policy;
    policy.keep_ms = 6;
    policy.keep_min_ms = 7;
    policy.keep_max_ms = 8;
    policy.lease_ms = 9;
    policy.grace_ms = 10;
    policy.if_interrupted = IDEM__V1__IF_INTERRUPTED__IF_INTERRUPTED_TAKE_OVER;
    if (fake_hello_as(server, fd, 0, &hello))
        fake_free(fake_receive(fd));
}

static void hello_tells_what_the_daemon_said(void **state)
{
    struct fake_server server;
    idem_hello_reply reply;

    (void)state;
    fake_server_start(&server, hello_script, NULL);
    idem_client *client = open_client(&server);
    for (int i = 0; i < 2; i++) {
        memset(&reply, 0xa5, sizeof reply);
        assert_int_equal(idem_hello(client, 0, &reply), IDEM_OK);
        assert_string_equal(reply.server, "fake 1");
        assert_true(reply.instance == 1ull << 63 && reply.store_id == 3 && reply.connection == 4 && reply.now_ms == 5);
        assert_true(reply.durable && reply.max_frame_bytes == 1280 * 1024 && reply.max_outcome_bytes == 1024 * 1024);
        assert_true(reply.max_wait_ms == 60000 && reply.keep_ms == 6 && reply.keep_min_ms == 7);
        assert_true(reply.keep_max_ms == 8 && reply.lease_ms == 9 && reply.grace_ms == 10);
        assert_int_equal(reply.if_interrupted, IDEM_TAKE_OVER);
    }
    idem_close(client);
    fake_server_stop(&server);
    assert_int_equal(atomic_load(&server.connections), 1); /* it is said once */
}

/* ---- Requests that point into the last reply ----------------------------------------------------- */

static void into_script(struct fake_server *server, int fd, int number)
{
    Idem__V1__Request *request;

    if (!fake_hello(server, fd, number))
        return;
    while ((request = fake_receive(fd))) {
        const Idem__V1__OperationId *id = request->call_case == IDEM__V1__REQUEST__CALL_COMPLETE ? request->complete->op
                                          : request->call_case == IDEM__V1__REQUEST__CALL_RENEW  ? request->renew->op
                                                                                                 : NULL;
        if (id)
            FAKE_CHECK(server, strcmp(id->namespace_, "ns") == 0 && strcmp(id->key, "key") == 0);
        if (request->call_case == IDEM__V1__REQUEST__CALL_LIST && request->list->cursor.len)
            FAKE_CHECK(server, is(request->list->cursor, "next", 4));
        fake_good(fd, request);
        fake_free(request);
    }
}

static idem_done renew_and_succeed(idem_running *running, idem_outcome *outcome, void *user)
{
    idem_ownership ownership;

    (void)outcome;
    /* What the handle shows outlives the calls. */
    for (int i = 0; i < 3; i++) {
        assert_int_equal(idem_running_renew(running, &ownership), IDEM_OK);
        assert_string_equal(idem_running_checkpoint(running).name, "half");
        assert_bytes(idem_running_input(running), "in");
    }
    ++*(int *)user;
    return IDEM_DONE_SUCCEEDED;
}

static void a_request_may_point_into_the_reply_before_it(void **state)
{
    const idem_recover_request recover = {0};
    struct fake_server server;
    idem_recover_reply recovered;
    idem_complete_reply completed;
    idem_list_request list = {0};
    idem_list_reply listed;
    idem_run_reply ran;
    int runs = 0;

    (void)state;
    fake_server_start(&server, into_script, NULL);
    idem_client *client = open_client(&server);
    assert_int_equal(idem_recover(client, &recover, 0, &recovered), IDEM_OK);
    const idem_complete_request complete = {.op = recovered.operations[0].op, .fence = 5, .outcome = {.kind = 1}};
    assert_int_equal(idem_complete(client, &complete, 0, &completed), IDEM_OK);
    for (int page = 0; page < 3; page++) {
        assert_int_equal(idem_list(client, &list, 0, &listed), IDEM_OK);
        list.cursor = listed.cursor;
    }
    const idem_begin_request begin = {.op = listed.operations[0].op};
    assert_int_equal(idem_run(client, &begin, 0, renew_and_succeed, &runs, &ran), IDEM_OK);
    assert_int_equal(runs, 1);
    idem_close(client);
    fake_server_stop(&server);
}

/* ---- Answers that are not known ------------------------------------------------------------------- */

static void answer_script(struct fake_server *server, int fd, int number)
{
    const Idem__V1__Response *response = server->user;
    Idem__V1__Request *request;

    if (!fake_hello(server, fd, number))
        return;
    while ((request = fake_receive(fd))) {
        fake_answer(fd, request, response);
        fake_free(request);
    }
}

/* Every call, of which one is answered so; its reply is 0xa5 before. Returns its error; *touched: the reply was. */
static idem_error answered(Idem__V1__Response *response, Idem__V1__Request__CallCase call, bool *touched)
{
    union {
        uint8_t bytes[1];
        idem_begin_reply begin;
        idem_complete_reply complete;
        idem_release_reply release;
        idem_renew_reply renew;
        idem_get_reply get;
        idem_recover_reply recover;
        idem_list_reply list;
        idem_ownership forget;
        idem_stats_reply stats;
    } reply;
    struct fake_server server;
    idem_error error = IDEM_OK;

    memset(&reply, 0xa5, sizeof reply);
    fake_server_start(&server, answer_script, response);
    idem_client *client = open_client(&server);
    if (call == IDEM__V1__REQUEST__CALL_BEGIN)
        error = idem_begin(client, &(idem_begin_request){.op = op}, 0, &reply.begin);
    else if (call == IDEM__V1__REQUEST__CALL_COMPLETE)
        error = idem_complete(client, &(idem_complete_request){.op = op, .outcome.kind = 1}, 0, &reply.complete);
    else if (call == IDEM__V1__REQUEST__CALL_RELEASE)
        error = idem_release(client, &(idem_release_request){.op = op}, 0, &reply.release);
    else if (call == IDEM__V1__REQUEST__CALL_RENEW)
        error = idem_renew(client, &(idem_renew_request){.op = op}, 0, &reply.renew);
    else if (call == IDEM__V1__REQUEST__CALL_CHECKPOINT)
        error = idem_checkpoint_store(client, &(idem_checkpoint_request){.op = op}, 0, &reply.renew);
    else if (call == IDEM__V1__REQUEST__CALL_GET)
        error = idem_get(client, &(idem_get_request){.op = op}, 0, &reply.get);
    else if (call == IDEM__V1__REQUEST__CALL_RECOVER)
        error = idem_recover(client, &(idem_recover_request){0}, 0, &reply.recover);
    else if (call == IDEM__V1__REQUEST__CALL_RESOLVE)
        error = idem_resolve(client, &(idem_resolve_request){.op = op}, 0, &reply.complete);
    else if (call == IDEM__V1__REQUEST__CALL_FORGET)
        error = idem_forget(client, &(idem_forget_request){.op = op}, 0, &reply.forget);
    else if (call == IDEM__V1__REQUEST__CALL_LIST)
        error = idem_list(client, &(idem_list_request){0}, 0, &reply.list);
    else
        error = idem_stats(client, NULL, 0, &reply.stats);
    *touched = false;
    for (size_t i = 0; i < sizeof reply; i++)
        *touched |= (&reply.bytes[0])[i] != 0xa5;
    idem_close(client);
    fake_server_stop(&server);
    return error;
}

static void assert_refused(Idem__V1__Response *response, Idem__V1__Request__CallCase call)
{
    bool touched;

    assert_int_equal(answered(response, call, &touched), IDEM_ERR_PROTOCOL);
    assert_false(touched);
}

static void assert_taken(Idem__V1__Response *response, Idem__V1__Request__CallCase call)
{
    bool touched;

    assert_int_equal(answered(response, call, &touched), IDEM_OK);
    assert_true(touched);
}

static const Idem__V1__Request__CallCase all_calls[] = {
    IDEM__V1__REQUEST__CALL_BEGIN,   IDEM__V1__REQUEST__CALL_COMPLETE,   IDEM__V1__REQUEST__CALL_RELEASE,
    IDEM__V1__REQUEST__CALL_RENEW,   IDEM__V1__REQUEST__CALL_CHECKPOINT, IDEM__V1__REQUEST__CALL_GET,
    IDEM__V1__REQUEST__CALL_RECOVER, IDEM__V1__REQUEST__CALL_RESOLVE,    IDEM__V1__REQUEST__CALL_FORGET,
    IDEM__V1__REQUEST__CALL_LIST,    IDEM__V1__REQUEST__CALL_STATS,
};
enum { ALL_CALLS = sizeof all_calls / sizeof all_calls[0] };

static void neither_status_nor_result(void **state)
{
    Idem__V1__Response nothing = IDEM__V1__RESPONSE__INIT;
    Idem__V1__Response cancel = IDEM__V1__RESPONSE__INIT;
    Idem__V1__CancelResponse cancelled = IDEM__V1__CANCEL_RESPONSE__INIT;

    (void)state;
    cancel.result_case = IDEM__V1__RESPONSE__RESULT_CANCEL;
    cancel.cancel = &cancelled;
    for (int i = 0; i < ALL_CALLS; i++) {
        assert_refused(&nothing, all_calls[i]);
        assert_refused(&cancel, all_calls[i]); /* another call's result */
    }
}

/* Ownerships are HELD, LOST, FINAL, GONE: 1 .. 4. */
static void an_unknown_ownership_is_refused(void **state)
{
    static const int unknown[] = {0, 5, -1, 1 << 30};
    Idem__V1__CompleteResponse complete = IDEM__V1__COMPLETE_RESPONSE__INIT;
    Idem__V1__ResolveResponse resolve = IDEM__V1__RESOLVE_RESPONSE__INIT;
    Idem__V1__ReleaseResponse release = IDEM__V1__RELEASE_RESPONSE__INIT;
    Idem__V1__RenewResponse renew = IDEM__V1__RENEW_RESPONSE__INIT;
    Idem__V1__CheckpointResponse checkpoint = IDEM__V1__CHECKPOINT_RESPONSE__INIT;
    Idem__V1__ForgetResponse forget = IDEM__V1__FORGET_RESPONSE__INIT;
    Idem__V1__Response response = IDEM__V1__RESPONSE__INIT;
    const struct {
        Idem__V1__Request__CallCase call;
        void *result;
        Idem__V1__Ownership *ownership;
    } cases[] = {
        {IDEM__V1__REQUEST__CALL_COMPLETE, &complete, &complete.ownership},
        {IDEM__V1__REQUEST__CALL_RESOLVE, &resolve, &resolve.ownership},
        {IDEM__V1__REQUEST__CALL_RELEASE, &release, &release.ownership},
        {IDEM__V1__REQUEST__CALL_RENEW, &renew, &renew.ownership},
        {IDEM__V1__REQUEST__CALL_CHECKPOINT, &checkpoint, &checkpoint.ownership},
        {IDEM__V1__REQUEST__CALL_FORGET, &forget, &forget.ownership},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        response.result_case = (Idem__V1__Response__ResultCase)cases[i].call;
        response.hello = cases[i].result;
        for (size_t k = 0; k < sizeof unknown / sizeof unknown[0]; k++) {
            *cases[i].ownership = (Idem__V1__Ownership)unknown[k];
            assert_refused(&response, cases[i].call);
        }
        *cases[i].ownership = IDEM__V1__OWNERSHIP__OWNERSHIP_LOST;
        assert_taken(&response, cases[i].call);
        *cases[i].ownership = IDEM__V1__OWNERSHIP__OWNERSHIP_FINAL;
        /* FINAL tells what is stored, where the call can be answered with it. */
        if (i < 2)
            assert_refused(&response, cases[i].call);
        else
            assert_taken(&response, cases[i].call);
    }
    release.ownership = IDEM__V1__OWNERSHIP__OWNERSHIP_HELD;
    release.state = (Idem__V1__State)4;
    response.result_case = IDEM__V1__RESPONSE__RESULT_RELEASE;
    response.release = &release;
    assert_refused(&response, IDEM__V1__REQUEST__CALL_RELEASE);
}

static void an_unknown_begin_is_no_permission(void **state)
{
    static const int unknown[] = {0, 7, -1, 1 << 30};
    Idem__V1__BeginResponse begin = IDEM__V1__BEGIN_RESPONSE__INIT;
    Idem__V1__OperationInfo info = IDEM__V1__OPERATION_INFO__INIT;
    Idem__V1__Outcome outcome = IDEM__V1__OUTCOME__INIT;
    Idem__V1__Grant grant = IDEM__V1__GRANT__INIT;
    Idem__V1__Response response = IDEM__V1__RESPONSE__INIT;

    (void)state;
    response.result_case = IDEM__V1__RESPONSE__RESULT_BEGIN;
    response.begin = &begin;
    grant.fence = 1;
    grant.attempt = 1;
    begin.grant = &grant;
    begin.outcome = &outcome;
    outcome.kind = IDEM__V1__OUTCOME_KIND__OUTCOME_KIND_SUCCEEDED;
    for (size_t i = 0; i < sizeof unknown / sizeof unknown[0]; i++) {
        begin.answer = (Idem__V1__BeginResponse__Answer)unknown[i];
        assert_refused(&response, IDEM__V1__REQUEST__CALL_BEGIN);
    }
    for (int answer = IDEM_EXECUTE; answer <= IDEM_EXPIRED; answer++) {
        begin.answer = (Idem__V1__BeginResponse__Answer)answer;
        begin.info = NULL;
        assert_taken(&response, IDEM__V1__REQUEST__CALL_BEGIN);
        begin.info = &info;
        info.state = (Idem__V1__State)4;
        assert_refused(&response, IDEM__V1__REQUEST__CALL_BEGIN);
        info.state = IDEM__V1__STATE__STATE_RUNNING;
        info.kind = (Idem__V1__OutcomeKind)3;
        assert_refused(&response, IDEM__V1__REQUEST__CALL_BEGIN);
        info.kind = IDEM__V1__OUTCOME_KIND__OUTCOME_KIND_UNSPECIFIED;
    }
}

static void half_a_grant_and_half_an_outcome_are_none(void **state)
{
    Idem__V1__BeginResponse begin = IDEM__V1__BEGIN_RESPONSE__INIT;
    Idem__V1__Outcome outcome = IDEM__V1__OUTCOME__INIT;
    Idem__V1__Grant grant = IDEM__V1__GRANT__INIT;
    Idem__V1__Response response = IDEM__V1__RESPONSE__INIT;
    const struct {
        uint64_t fence;
        uint32_t attempt;
    } grants[] = {{0, 1}, {1, 0}, {IDEM_FENCE_MAX + 1, 1}, {UINT64_MAX, 1}};

    (void)state;
    response.result_case = IDEM__V1__RESPONSE__RESULT_BEGIN;
    response.begin = &begin;
    begin.answer = IDEM__V1__BEGIN_RESPONSE__ANSWER__ANSWER_EXECUTE;
    assert_refused(&response, IDEM__V1__REQUEST__CALL_BEGIN);
    begin.grant = &grant;
    for (size_t i = 0; i < sizeof grants / sizeof grants[0]; i++) {
        grant.fence = grants[i].fence;
        grant.attempt = grants[i].attempt;
        assert_refused(&response, IDEM__V1__REQUEST__CALL_BEGIN);
    }
    begin.answer = IDEM__V1__BEGIN_RESPONSE__ANSWER__ANSWER_REPLAY;
    assert_refused(&response, IDEM__V1__REQUEST__CALL_BEGIN);
    begin.outcome = &outcome;
    for (int kind = -1; kind < 5; kind++) {
        outcome.kind = (Idem__V1__OutcomeKind)kind;
        if (kind == 1 || kind == 2)
            assert_taken(&response, IDEM__V1__REQUEST__CALL_BEGIN);
        else
            assert_refused(&response, IDEM__V1__REQUEST__CALL_BEGIN);
    }
}

static void unknown_states_are_refused(void **state)
{
    Idem__V1__GetResponse get = IDEM__V1__GET_RESPONSE__INIT;
    Idem__V1__OperationInfo info = IDEM__V1__OPERATION_INFO__INIT;
    Idem__V1__Response response = IDEM__V1__RESPONSE__INIT;
    Idem__V1__Listed listed = IDEM__V1__LISTED__INIT, *all[] = {&listed};
    Idem__V1__OperationId id = IDEM__V1__OPERATION_ID__INIT;
    Idem__V1__ListResponse list = IDEM__V1__LIST_RESPONSE__INIT;

    (void)state;
    response.result_case = IDEM__V1__RESPONSE__RESULT_GET;
    response.get = &get;
    assert_refused(&response, IDEM__V1__REQUEST__CALL_GET);
    get.info = &info;
    for (int is_state = -1; is_state < 6; is_state++) {
        info.state = (Idem__V1__State)is_state;
        if (is_state == IDEM_RUNNING || is_state == IDEM_INTERRUPTED)
            assert_taken(&response, IDEM__V1__REQUEST__CALL_GET);
        else
            assert_refused(&response, IDEM__V1__REQUEST__CALL_GET); /* DONE has no outcome here */
    }
    response.result_case = IDEM__V1__RESPONSE__RESULT_LIST;
    response.list = &list;
    list.operations = all;
    list.n_operations = 1;
    listed.info = &info;
    assert_refused(&response, IDEM__V1__REQUEST__CALL_LIST); /* no name, and state 5 */
    listed.op = &id;
    assert_refused(&response, IDEM__V1__REQUEST__CALL_LIST);
    info.state = IDEM__V1__STATE__STATE_DONE;
    assert_taken(&response, IDEM__V1__REQUEST__CALL_LIST);
}

static void recovered_without_a_grant_is_refused(void **state)
{
    enum { MANY = IDEM_RECOVER_MAX + 1 };
    Idem__V1__Recovered one = IDEM__V1__RECOVERED__INIT, *all[MANY];
    Idem__V1__OperationId id = IDEM__V1__OPERATION_ID__INIT;
    Idem__V1__Grant grant = IDEM__V1__GRANT__INIT;
    Idem__V1__RecoverResponse recover = IDEM__V1__RECOVER_RESPONSE__INIT;
    Idem__V1__Response response = IDEM__V1__RESPONSE__INIT;

    (void)state;
    for (int i = 0; i < MANY; i++)
        all[i] = &one;
    response.result_case = IDEM__V1__RESPONSE__RESULT_RECOVER;
    response.recover = &recover;
    recover.operations = all;
    recover.n_operations = 1;
    one.op = &id;
    assert_refused(&response, IDEM__V1__REQUEST__CALL_RECOVER);
    one.grant = &grant;
    assert_refused(&response, IDEM__V1__REQUEST__CALL_RECOVER);
    grant.fence = 1;
    grant.attempt = 2;
    recover.n_operations = MANY;
    assert_refused(&response, IDEM__V1__REQUEST__CALL_RECOVER);
    recover.n_operations = MANY - 1;
    assert_taken(&response, IDEM__V1__REQUEST__CALL_RECOVER);
    one.op = NULL;
    assert_refused(&response, IDEM__V1__REQUEST__CALL_RECOVER);
}

/* ---- Hellos that nothing can be built on -------------------------------------------------------------- */

static void bad_hello_script(struct fake_server *server, int fd, int number)
{
    Idem__V1__Request *request;

    if (!fake_hello_as(server, fd, number, server->user))
        return;
    request = fake_receive(fd);
    FAKE_CHECK(server, !request);
    fake_free(request);
}

static void hello_id_script(struct fake_server *server, int fd, int number)
{
    Idem__V1__Request *request = fake_receive(fd);
    Idem__V1__HelloResponse hello = IDEM__V1__HELLO_RESPONSE__INIT;
    Idem__V1__Response response = IDEM__V1__RESPONSE__INIT;

    (void)number;
    hello.connection = 1;
    hello.max_frame_bytes = 300 * 1024;
    response.result_case = IDEM__V1__RESPONSE__RESULT_HELLO;
    response.hello = &hello;
    fake_send(fd, &response); /* id 0: an answer to no Request */
    fake_free(request);
    request = fake_receive(fd);
    FAKE_CHECK(server, !request);
    fake_free(request);
}

static void a_hello_that_says_too_little_is_refused(void **state)
{
    const struct {
        uint64_t connection;
        uint32_t max_frame_bytes;
    } cases[] = {{0, 300 * 1024}, {1, 0}, {1, 4096}, {1, IDEM_FRAME_OVERHEAD_BYTES - 1}};
    struct fake_server server;
    idem_begin_reply reply;

    (void)state;
    for (size_t i = 0; i <= sizeof cases / sizeof cases[0]; i++) {
        Idem__V1__HelloResponse hello = IDEM__V1__HELLO_RESPONSE__INIT;
        const bool good_but_id = i == sizeof cases / sizeof cases[0];

        hello.connection = good_but_id ? 1 : cases[i].connection;
        hello.max_frame_bytes = good_but_id ? 0 : cases[i].max_frame_bytes;
        fake_server_start(&server, good_but_id ? hello_id_script : bad_hello_script, &hello);
        idem_client *client = open_client(&server);
        assert_int_equal(idem_begin(client, &(idem_begin_request){.op = op}, 0, &reply), IDEM_ERR_PROTOCOL);
        idem_close(client);
        fake_server_stop(&server);
    }
}

/* ---- Sizes ------------------------------------------------------------------------------------------------ */

struct sizes {
    size_t largest_frame, kept, dropped;
};

static void size_script(struct fake_server *server, int fd, int number)
{
    struct sizes *sizes = server->user;
    Idem__V1__Request *request;

    if (!fake_hello(server, fd, number))
        return;
    while ((request = fake_receive(fd))) {
        const size_t bytes_sent = idem__v1__request__get_packed_size(request);
        const Idem__V1__Outcome *outcome = request->call_case == IDEM__V1__REQUEST__CALL_COMPLETE
                                               ? request->complete->outcome
                                               : request->resolve->outcome;

        if (bytes_sent > sizes->largest_frame)
            sizes->largest_frame = bytes_sent;
        FAKE_CHECK(server, outcome->kind == IDEM__V1__OUTCOME_KIND__OUTCOME_KIND_SUCCEEDED && outcome->code == 3);
        FAKE_CHECK(server, outcome->body_dropped == (outcome->body.len == 0));
        FAKE_CHECK(server, !outcome->body_dropped || outcome->body_bytes > 300 * 1024 - 512);
        sizes->kept += !outcome->body_dropped;
        sizes->dropped += outcome->body_dropped;
        fake_good(fd, request);
        fake_free(request);
    }
}

/* Bodies around the size at which they no longer fit: none is dropped that would fit, and no frame is too long. */
static void a_body_is_dropped_exactly_where_it_does_not_fit(void **state)
{
    enum { FRAME = 300 * 1024 };
    static const char body[FRAME + 1];
    struct sizes sizes = {0};
    struct fake_server server;
    idem_complete_reply reply;
    size_t calls = 0;

    (void)state;
    fake_server_start(&server, size_script, &sizes);
    idem_client *client = open_client(&server);
    for (size_t size = FRAME - 90; size <= FRAME - 30; size++, calls += 2) {
        const idem_outcome outcome = {.kind = IDEM_SUCCEEDED, .code = 3, .body = {body, size}};
        const idem_complete_request complete = {.op = op, .fence = 1, .outcome = outcome};
        const idem_resolve_request resolve = {.op = op, .revision = 1, .verdict = IDEM_HAPPENED, .outcome = outcome};
        assert_int_equal(idem_complete(client, &complete, 0, &reply), IDEM_OK);
        assert_int_equal(idem_resolve(client, &resolve, 0, &reply), IDEM_OK);
    }
    /* A size that cannot be true is over the limit like any other: it is not read. */
    const idem_complete_request huge = {
        .op = op, .fence = 1, .outcome = {.kind = IDEM_SUCCEEDED, .code = 3, .body = {body, SIZE_MAX - 8}}};
    assert_int_equal(idem_complete(client, &huge, 0, &reply), IDEM_OK);
    idem_close(client);
    fake_server_stop(&server);
    assert_int_equal(sizes.largest_frame, FRAME);
    assert_true(sizes.kept > 0 && sizes.dropped > 1);
    assert_int_equal(sizes.kept + sizes.dropped, calls + 1);
}

static void what_is_longer_than_a_frame_is_refused(void **state)
{
    static char data[310 * 1024];
    const idem_begin_request begin = {.op = op, .input = {data, sizeof data}};
    struct fake_server server;
    idem_begin_reply reply;
    idem_renew_reply renewed;

    (void)state;
    fake_server_start(&server, fake_good_script, NULL);
    idem_client *client = open_client(&server);
    assert_int_equal(idem_begin(client, &begin, 0, &reply), IDEM_ERR_INVALID_ARGUMENT);
    assert_true(*idem_message(client));
    /* Nothing was sent, so the connection is as it was. */
    assert_int_equal(idem_renew(client, &(idem_renew_request){.op = op}, 0, &renewed), IDEM_OK);
    assert_string_equal(idem_message(client), "");
    idem_close(client);
    fake_server_stop(&server);
    assert_int_equal(atomic_load(&server.connections), 1);
}

/* A replay whose Response is exactly so long. */
static void long_script(struct fake_server *server, int fd, int number)
{
    static char body[300 * 1024 + 1];
    const size_t *response_bytes = server->user;
    Idem__V1__BeginResponse begin = IDEM__V1__BEGIN_RESPONSE__INIT;
    Idem__V1__Outcome outcome = IDEM__V1__OUTCOME__INIT;
    Idem__V1__Response response = IDEM__V1__RESPONSE__INIT;
    Idem__V1__Request *request;

    if (!fake_hello(server, fd, number) || !(request = fake_receive(fd)))
        return;
    begin.answer = IDEM__V1__BEGIN_RESPONSE__ANSWER__ANSWER_REPLAY;
    begin.outcome = &outcome;
    outcome.kind = IDEM__V1__OUTCOME_KIND__OUTCOME_KIND_SUCCEEDED;
    outcome.body = (ProtobufCBinaryData){*response_bytes, (uint8_t *)body};
    response.id = request->id;
    response.result_case = IDEM__V1__RESPONSE__RESULT_BEGIN;
    response.begin = &begin;
    outcome.body.len -= idem__v1__response__get_packed_size(&response) - *response_bytes;
    FAKE_CHECK(server, idem__v1__response__get_packed_size(&response) == *response_bytes);
    memset(body, 'z', outcome.body.len);
    fake_send(fd, &response);
    fake_free(request);
    fake_free(fake_receive(fd));
}

static void an_answer_may_be_as_long_as_a_frame_and_no_longer(void **state)
{
    static const struct {
        size_t bytes;
        idem_error error;
    } cases[] = {{64 * 1024 + 1, IDEM_OK}, {300 * 1024, IDEM_OK}, {300 * 1024 + 1, IDEM_ERR_PROTOCOL}};

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        size_t response_bytes = cases[i].bytes;
        struct fake_server server;
        idem_begin_reply reply;

        fake_server_start(&server, long_script, &response_bytes);
        idem_client *client = open_client(&server);
        assert_int_equal(idem_begin(client, &(idem_begin_request){.op = op}, 0, &reply), cases[i].error);
        if (cases[i].error == IDEM_OK) {
            assert_in_range(reply.outcome.body.size, response_bytes - 64, response_bytes);
            assert_int_equal(((const char *)reply.outcome.body.data)[reply.outcome.body.size - 1], 'z');
        }
        idem_close(client);
        fake_server_stop(&server);
    }
}

static void attributes_script(struct fake_server *server, int fd, int number)
{
    Idem__V1__Request *request;

    if (!fake_hello(server, fd, number))
        return;
    while ((request = fake_receive(fd))) {
        const Idem__V1__Outcome *outcome = request->complete->outcome;

        atomic_store(&server->go, (int)(outcome->attributes_dropped ? 1000 : outcome->n_attributes));
        fake_good(fd, request);
        fake_free(request);
    }
}

static void attributes_are_dropped_exactly_over_their_limit(void **state)
{
    static char value[IDEM_ATTRIBUTES_BYTES_MAX];
    idem_attribute attributes[IDEM_ATTRIBUTES_MAX + 1] = {0};
    idem_complete_request complete = {.op = op, .outcome = {.kind = IDEM_SUCCEEDED, .attributes = attributes}};
    struct fake_server server;
    idem_complete_reply reply;
    const struct {
        size_t count, first_bytes;
        int want;
    } cases[] = {{IDEM_ATTRIBUTES_MAX, 0, IDEM_ATTRIBUTES_MAX},
                 {IDEM_ATTRIBUTES_MAX + 1, 0, 1000},
                 {1, IDEM_ATTRIBUTES_BYTES_MAX - 4, 1},
                 {1, IDEM_ATTRIBUTES_BYTES_MAX - 3, 1000}};

    (void)state;
    fake_server_start(&server, attributes_script, NULL);
    idem_client *client = open_client(&server);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        attributes[0] = (idem_attribute){"name", {value, cases[i].first_bytes}};
        complete.outcome.attribute_count = cases[i].count;
        assert_int_equal(idem_complete(client, &complete, 0, &reply), IDEM_OK);
        assert_int_equal(atomic_load(&server.go), cases[i].want);
    }
    idem_close(client);
    fake_server_stop(&server);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_asked_arrives_and_what_is_answered_is_read),
        cmocka_unit_test(hello_tells_what_the_daemon_said),
        cmocka_unit_test(a_request_may_point_into_the_reply_before_it),
        cmocka_unit_test(neither_status_nor_result),
        cmocka_unit_test(an_unknown_ownership_is_refused),
        cmocka_unit_test(an_unknown_begin_is_no_permission),
        cmocka_unit_test(half_a_grant_and_half_an_outcome_are_none),
        cmocka_unit_test(unknown_states_are_refused),
        cmocka_unit_test(recovered_without_a_grant_is_refused),
        cmocka_unit_test(a_hello_that_says_too_little_is_refused),
        cmocka_unit_test(a_body_is_dropped_exactly_where_it_does_not_fit),
        cmocka_unit_test(what_is_longer_than_a_frame_is_refused),
        cmocka_unit_test(an_answer_may_be_as_long_as_a_frame_and_no_longer),
        cmocka_unit_test(attributes_are_dropped_exactly_over_their_limit),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
