/* See fake_server.h. What goes wrong here is the test's fault: it aborts. */
#include "tests/unit/client/fake_server.h"

#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "proto/frame.h"
#include "proto/limits.h"
#include "tests/unit/folder.h"

static void need(bool good, const char *what)
{
    if (good)
        return;
    perror(what);
    abort();
}

static void *serve(void *argument)
{
    struct fake_server *server = argument;

    for (;;) {
        const int fd = accept(server->listener, NULL, NULL);
        if (fd < 0)
            return NULL;
        const int number = atomic_fetch_add(&server->connections, 1);
        server->script(server, fd, number);
        close(fd);
    }
}

void fake_server_start(struct fake_server *server, void (*script)(struct fake_server *server, int fd, int number),
                       void *user)
{
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    char folder[TEST_FOLDER_BYTES];
    pthread_t thread;

    *server = (struct fake_server){.script = script, .user = user};
    test_folder(folder);
    snprintf(name.sun_path, sizeof name.sun_path, "%s/s", folder);
    snprintf(server->address, sizeof server->address, "unix:%s", name.sun_path);
    server->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    need(bind(server->listener, (struct sockaddr *)&name, sizeof name) == 0, "bind");
    need(listen(server->listener, 16) == 0, "listen");
    need(pthread_create(&thread, NULL, serve, server) == 0, "pthread_create");
    server->thread = thread;
}

void fake_server_stop(struct fake_server *server)
{
    shutdown(server->listener, SHUT_RDWR);
    pthread_join(server->thread, NULL);
    close(server->listener);
    if (server->failed[0]) {
        fprintf(stderr, "%s\n", server->failed);
        abort();
    }
}

static bool read_all(int fd, uint8_t *data, size_t size)
{
    while (size > 0) {
        const ssize_t got = recv(fd, data, size, 0);
        if (got <= 0)
            return false;
        data += got;
        size -= (size_t)got;
    }
    return true;
}

Idem__V1__Request *fake_receive(int fd)
{
    uint8_t header[IDEM_FRAME_HEADER_BYTES], *message;
    uint32_t size = 0;
    Idem__V1__Request *request;

    if (!read_all(fd, header, sizeof header))
        return NULL;
    for (int i = 1; i < 5; i++)
        size = size << 8 | header[i];
    message = malloc(size + 1);
    need(message, "malloc");
    request = read_all(fd, message, size) ? idem__v1__request__unpack(NULL, size, message) : NULL;
    free(message);
    return request;
}

void fake_send_bytes(int fd, const void *data, size_t size)
{
    const char *at = data;

    while (size > 0) {
        const ssize_t sent = send(fd, at, size, MSG_NOSIGNAL);
        if (sent <= 0)
            return;
        at += sent;
        size -= (size_t)sent;
    }
}

void fake_send(int fd, const Idem__V1__Response *response)
{
    const size_t size = idem__v1__response__get_packed_size(response);
    uint8_t *frame = malloc(IDEM_FRAME_HEADER_BYTES + size);

    need(frame, "malloc");
    frame_put_header(frame, (uint32_t)size);
    idem__v1__response__pack(response, frame + IDEM_FRAME_HEADER_BYTES);
    fake_send_bytes(fd, frame, IDEM_FRAME_HEADER_BYTES + size);
    free(frame);
}

void fake_check(struct fake_server *server, bool good, const char *what, const char *file, int line)
{
    if (!good && !server->failed[0])
        snprintf(server->failed, sizeof server->failed, "%s:%d: %s", file, line, what);
}

void fake_free(Idem__V1__Request *request)
{
    if (request)
        idem__v1__request__free_unpacked(request, NULL);
}

void fake_answer(int fd, const Idem__V1__Request *request, const Idem__V1__Response *response)
{
    Idem__V1__Response answer = *response;

    answer.id = request->id;
    fake_send(fd, &answer);
}

void fake_status(int fd, const Idem__V1__Request *request, int code)
{
    Idem__V1__Response response = IDEM__V1__RESPONSE__INIT;
    Idem__V1__Status status = IDEM__V1__STATUS__INIT;

    status.code = (Idem__V1__Code)code;
    status.message = (char *)(uintptr_t) "no";
    status.reason = (char *)(uintptr_t) "REASON";
    status.field = (char *)(uintptr_t) "a.field";
    status.retry_after_ms = 17;
    response.status = &status;
    fake_answer(fd, request, &response);
}

bool fake_hello_as(struct fake_server *server, int fd, int number, const Idem__V1__HelloResponse *hello)
{
    Idem__V1__Request *request = fake_receive(fd);
    Idem__V1__HelloResponse copy = *hello;
    Idem__V1__Response response = IDEM__V1__RESPONSE__INIT;

    if (!request)
        return false;
    need(request->call_case == IDEM__V1__REQUEST__CALL_HELLO, "the first call is Hello");
    if (number < 16)
        server->replaced[number] = request->hello->replaces;
    response.result_case = IDEM__V1__RESPONSE__RESULT_HELLO;
    response.hello = &copy;
    fake_answer(fd, request, &response);
    fake_free(request);
    return true;
}

bool fake_hello(struct fake_server *server, int fd, int number)
{
    Idem__V1__HelloResponse hello = IDEM__V1__HELLO_RESPONSE__INIT;

    hello.server = (char *)(uintptr_t) "fake";
    hello.connection = 100 + (uint64_t)number;
    hello.max_frame_bytes = 300 * 1024;
    hello.max_outcome_bytes = 64 * 1024;
    hello.max_wait_ms = 50;
    return fake_hello_as(server, fd, number, &hello);
}

static void send_begin(int fd, uint64_t id, Idem__V1__BeginResponse *begin)
{
    Idem__V1__Response response = IDEM__V1__RESPONSE__INIT;

    response.id = id;
    response.result_case = IDEM__V1__RESPONSE__RESULT_BEGIN;
    response.begin = begin;
    fake_send(fd, &response);
}

void fake_execute(int fd, uint64_t id, uint64_t fence)
{
    Idem__V1__BeginResponse begin = IDEM__V1__BEGIN_RESPONSE__INIT;
    Idem__V1__Grant grant = IDEM__V1__GRANT__INIT;

    begin.answer = IDEM__V1__BEGIN_RESPONSE__ANSWER__ANSWER_EXECUTE;
    grant.fence = fence;
    grant.lease_ms = 30000;
    grant.attempt = 1;
    begin.grant = &grant;
    send_begin(fd, id, &begin);
}

void fake_replay(int fd, uint64_t id, const char *body)
{
    Idem__V1__BeginResponse begin = IDEM__V1__BEGIN_RESPONSE__INIT;
    Idem__V1__Outcome outcome = IDEM__V1__OUTCOME__INIT;

    begin.answer = IDEM__V1__BEGIN_RESPONSE__ANSWER__ANSWER_REPLAY;
    outcome.kind = IDEM__V1__OUTCOME_KIND__OUTCOME_KIND_SUCCEEDED;
    outcome.body = (ProtobufCBinaryData){strlen(body), (uint8_t *)(uintptr_t)body};
    begin.outcome = &outcome;
    send_begin(fd, id, &begin);
}

void fake_wait(atomic_int *value, int least)
{
    while (atomic_load(value) < least)
        sched_yield();
}

/* ---- Where all is well ------------------------------------------------------------------ */

static char *text(const char *string)
{
    return (char *)(uintptr_t)string;
}

static ProtobufCBinaryData bytes(const char *string)
{
    return (ProtobufCBinaryData){strlen(string), (uint8_t *)(uintptr_t)string};
}

/* What the answers of fake_good are made of. */
struct parts {
    Idem__V1__OperationId op;
    Idem__V1__OperationInfo info;
    Idem__V1__Checkpoint checkpoint;
    Idem__V1__Grant grant;
    Idem__V1__Attribute attribute, *attributes[1];
    Idem__V1__Outcome outcome;
};

static void fill_parts(struct parts *parts)
{
    idem__v1__operation_id__init(&parts->op);
    idem__v1__operation_info__init(&parts->info);
    idem__v1__checkpoint__init(&parts->checkpoint);
    idem__v1__grant__init(&parts->grant);
    idem__v1__attribute__init(&parts->attribute);
    idem__v1__outcome__init(&parts->outcome);
    parts->op.namespace_ = text("ns");
    parts->op.caller = text("caller");
    parts->op.key = text("key");
    parts->info.state = IDEM__V1__STATE__STATE_DONE;
    parts->info.revision = 8;
    parts->info.operation = text("charge");
    parts->info.owner = text("me");
    parts->info.kind = IDEM__V1__OUTCOME_KIND__OUTCOME_KIND_FAILED;
    parts->checkpoint.name = text("half");
    parts->checkpoint.data = bytes("cp");
    parts->grant.fence = 5;
    parts->grant.lease_ms = 30000;
    parts->grant.attempt = 2;
    parts->grant.checkpoint = &parts->checkpoint;
    parts->grant.input = bytes("in");
    parts->attribute.name = text("n");
    parts->attribute.value = bytes("v");
    parts->attributes[0] = &parts->attribute;
    parts->outcome.kind = IDEM__V1__OUTCOME_KIND__OUTCOME_KIND_FAILED;
    parts->outcome.code = -402;
    parts->outcome.attributes = parts->attributes;
    parts->outcome.n_attributes = 1;
    parts->outcome.body = bytes("body");
}

#define ANSWER(name, NAME, type, init)                                                                                 \
    type name = init;                                                                                                  \
    response.result_case = IDEM__V1__RESPONSE__RESULT_##NAME;                                                          \
    response.name = &name

static void good_owner(int fd, const Idem__V1__Request *request, struct parts *parts)
{
    Idem__V1__Response response = IDEM__V1__RESPONSE__INIT;
    const Idem__V1__Ownership held = IDEM__V1__OWNERSHIP__OWNERSHIP_HELD;

    if (request->call_case == IDEM__V1__REQUEST__CALL_BEGIN) {
        ANSWER(begin, BEGIN, Idem__V1__BeginResponse, IDEM__V1__BEGIN_RESPONSE__INIT);
        begin.answer = IDEM__V1__BEGIN_RESPONSE__ANSWER__ANSWER_EXECUTE;
        begin.grant = &parts->grant;
        begin.info = &parts->info;
        fake_answer(fd, request, &response);
    } else if (request->call_case == IDEM__V1__REQUEST__CALL_COMPLETE) {
        ANSWER(complete, COMPLETE, Idem__V1__CompleteResponse, IDEM__V1__COMPLETE_RESPONSE__INIT);
        complete.ownership = held;
        complete.expires_ms = 77;
        fake_answer(fd, request, &response);
    } else if (request->call_case == IDEM__V1__REQUEST__CALL_RELEASE) {
        ANSWER(release, RELEASE, Idem__V1__ReleaseResponse, IDEM__V1__RELEASE_RESPONSE__INIT);
        release.ownership = held;
        release.state = IDEM__V1__STATE__STATE_INTERRUPTED;
        fake_answer(fd, request, &response);
    } else if (request->call_case == IDEM__V1__REQUEST__CALL_RENEW) {
        ANSWER(renew, RENEW, Idem__V1__RenewResponse, IDEM__V1__RENEW_RESPONSE__INIT);
        renew.ownership = held;
        renew.lease_ms = 40000;
        fake_answer(fd, request, &response);
    } else {
        ANSWER(checkpoint, CHECKPOINT, Idem__V1__CheckpointResponse, IDEM__V1__CHECKPOINT_RESPONSE__INIT);
        checkpoint.ownership = held;
        checkpoint.lease_ms = 50000;
        fake_answer(fd, request, &response);
    }
}

static void good_lists(int fd, const Idem__V1__Request *request, struct parts *parts)
{
    Idem__V1__Response response = IDEM__V1__RESPONSE__INIT;

    if (request->call_case == IDEM__V1__REQUEST__CALL_RECOVER) {
        Idem__V1__Recovered one = IDEM__V1__RECOVERED__INIT, *all[] = {&one, &one};
        ANSWER(recover, RECOVER, Idem__V1__RecoverResponse, IDEM__V1__RECOVER_RESPONSE__INIT);
        one.op = &parts->op;
        one.grant = &parts->grant;
        one.info = &parts->info;
        one.fingerprint = bytes("print");
        recover.operations = all;
        recover.n_operations = 2;
        fake_answer(fd, request, &response);
    } else if (request->call_case == IDEM__V1__REQUEST__CALL_LIST) {
        Idem__V1__Listed one = IDEM__V1__LISTED__INIT, *all[] = {&one};
        ANSWER(list, LIST, Idem__V1__ListResponse, IDEM__V1__LIST_RESPONSE__INIT);
        one.op = &parts->op;
        one.info = &parts->info;
        list.operations = all;
        list.n_operations = 1;
        list.cursor = bytes("next");
        fake_answer(fd, request, &response);
    } else {
        Idem__V1__Label label = IDEM__V1__LABEL__INIT, *labels[] = {&label};
        Idem__V1__Metric metric = IDEM__V1__METRIC__INIT, *all[] = {&metric};
        ANSWER(stats, STATS, Idem__V1__StatsResponse, IDEM__V1__STATS_RESPONSE__INIT);
        label.name = text("call");
        label.value = text("begin");
        metric.name = text("calls");
        metric.help = text("how many");
        metric.value = 1.5;
        metric.labels = labels;
        metric.n_labels = 1;
        stats.metrics = all;
        stats.n_metrics = 1;
        fake_answer(fd, request, &response);
    }
}

static void good_operator(int fd, const Idem__V1__Request *request, struct parts *parts)
{
    Idem__V1__Response response = IDEM__V1__RESPONSE__INIT;

    if (request->call_case == IDEM__V1__REQUEST__CALL_GET) {
        ANSWER(get, GET, Idem__V1__GetResponse, IDEM__V1__GET_RESPONSE__INIT);
        get.info = &parts->info;
        get.outcome = &parts->outcome;
        fake_answer(fd, request, &response);
    } else if (request->call_case == IDEM__V1__REQUEST__CALL_RESOLVE) {
        ANSWER(resolve, RESOLVE, Idem__V1__ResolveResponse, IDEM__V1__RESOLVE_RESPONSE__INIT);
        resolve.ownership = IDEM__V1__OWNERSHIP__OWNERSHIP_FINAL;
        resolve.outcome = &parts->outcome;
        resolve.expires_ms = 78;
        fake_answer(fd, request, &response);
    } else if (request->call_case == IDEM__V1__REQUEST__CALL_FORGET) {
        ANSWER(forget, FORGET, Idem__V1__ForgetResponse, IDEM__V1__FORGET_RESPONSE__INIT);
        forget.ownership = IDEM__V1__OWNERSHIP__OWNERSHIP_GONE;
        fake_answer(fd, request, &response);
    } else {
        good_lists(fd, request, parts);
    }
}

void fake_good(int fd, const Idem__V1__Request *request)
{
    struct parts parts;

    fill_parts(&parts);
    if (request->call_case == IDEM__V1__REQUEST__CALL_BEGIN ||
        (request->call_case >= IDEM__V1__REQUEST__CALL_COMPLETE &&
         request->call_case <= IDEM__V1__REQUEST__CALL_CHECKPOINT))
        good_owner(fd, request, &parts);
    else
        good_operator(fd, request, &parts);
}

void fake_good_script(struct fake_server *server, int fd, int number)
{
    Idem__V1__Request *request;

    if (!fake_hello(server, fd, number))
        return;
    while ((request = fake_receive(fd))) {
        fake_good(fd, request);
        fake_free(request);
    }
}
