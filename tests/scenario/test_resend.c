/* Sending again. A proxy between libidem and a real daemon cuts the first connection at every byte of the request, and
 * of the reply; the library has to get each call done all the same, with its effect once. In the late variant the proxy
 * keeps what it did not deliver, and delivers it after the call was answered over another connection: a copy that
 * arrives late must change nothing. In the refusing variant no second copy gets through: then an error that says "not
 * done" has to be true. */
#include "client/idem.h"

#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "idem/v1/idem.pb-c.h"
#include "proto/frame.h"
#include "proto/limits.h"
#include "tests/scenario/daemon.h"

/* ---- The proxy ----------------------------------------------------------------------- */

enum direction { TO_DAEMON, TO_CLIENT };
enum { PAIRS_MAX = 64, BUFFER_BYTES = 65536 };

/* One connection through the proxy. */
struct pair {
    int client, daemon; /* -1: closed */
    bool refused;       /* no daemon: its Hello is answered with an error */
    size_t passed[2];
    uint8_t held[BUFFER_BYTES]; /* read from the client and not delivered */
    size_t held_bytes;
};

static struct {
    char address[128];
    const char *daemon_address;
    int listener, wake[2];
    pthread_t thread;
    pthread_mutex_t mutex; /* all below */
    struct pair pairs[PAIRS_MAX];
    int count;
    bool armed, late; /* the next connection is cut */
    bool refusing;    /* those after it are refused */
    int cut_pair;
    enum direction direction;
    size_t at;
    bool fired;
} proxy;

static void need(bool good, const char *what)
{
    if (good)
        return;
    perror(what);
    abort();
}

static int connect_to(const char *address)
{
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    strcpy(name.sun_path, address + 5);
    need(fd >= 0 && connect(fd, (struct sockaddr *)&name, sizeof name) == 0, "connect");
    return fd;
}

static void close_one(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

static void cut(struct pair *pair)
{
    proxy.fired = true;
    proxy.cut_pair = -1;
    close_one(&pair->client);
    if (!proxy.late)
        close_one(&pair->daemon);
}

static void send_to(int fd, const uint8_t *data, size_t size)
{
    while (size > 0) {
        const ssize_t sent = send(fd, data, size, MSG_NOSIGNAL);
        if (sent <= 0)
            return;
        data += sent;
        size -= (size_t)sent;
    }
}

/* Says to whoever says Hello that its token is wrong. */
static void refuse(struct pair *pair)
{
    Idem__V1__Response response = IDEM__V1__RESPONSE__INIT;
    Idem__V1__Status status = IDEM__V1__STATUS__INIT;
    uint8_t data[BUFFER_BYTES];
    const ssize_t got = recv(pair->client, data, sizeof data, MSG_DONTWAIT);
    Idem__V1__Request *request;

    if (got <= 0) {
        close_one(&pair->client);
        return;
    }
    /* Such a small frame comes whole. */
    request = idem__v1__request__unpack(NULL, (size_t)got - IDEM_FRAME_HEADER_BYTES, data + IDEM_FRAME_HEADER_BYTES);
    need(request && request->call_case == IDEM__V1__REQUEST__CALL_HELLO, "a Hello comes first");
    status.code = IDEM__V1__CODE__CODE_UNAUTHENTICATED;
    response.id = request->id;
    response.status = &status;
    const size_t size = idem__v1__response__pack(&response, data + IDEM_FRAME_HEADER_BYTES);
    frame_put_header(data, (uint32_t)size);
    send_to(pair->client, data, IDEM_FRAME_HEADER_BYTES + size);
    idem__v1__request__free_unpacked(request, NULL);
}

/* Passes what came one way on. */
static void pass(int number, enum direction direction)
{
    struct pair *pair = &proxy.pairs[number];
    int *from = direction == TO_DAEMON ? &pair->client : &pair->daemon;
    int *to = direction == TO_DAEMON ? &pair->daemon : &pair->client;
    uint8_t data[BUFFER_BYTES];
    ssize_t got;
    const bool cuts = proxy.cut_pair == number && proxy.direction == direction;
    size_t size;

    if (pair->refused) {
        refuse(pair);
        return;
    }
    got = recv(*from, data, sizeof data, MSG_DONTWAIT);
    if (got <= 0) {
        close_one(from);
        close_one(to);
        return;
    }
    size = (size_t)got;
    if (cuts && pair->passed[direction] + size > proxy.at) {
        const size_t part = proxy.at - pair->passed[direction];
        send_to(*to, data, part);
        if (direction == TO_DAEMON) {
            memcpy(pair->held, data + part, size - part);
            pair->held_bytes = size - part;
        }
        cut(pair);
        return;
    }
    pair->passed[direction] += size;
    if (*to >= 0)
        send_to(*to, data, size);
}

static void accept_one(void)
{
    struct pair *pair = &proxy.pairs[proxy.count];
    const int fd = accept4(proxy.listener, NULL, NULL, SOCK_CLOEXEC);

    if (fd < 0)
        return;
    need(proxy.count < PAIRS_MAX, "few connections a call");
    *pair = (struct pair){.client = fd, .daemon = -1, .refused = proxy.refusing && proxy.fired};
    if (!pair->refused)
        pair->daemon = connect_to(proxy.daemon_address);
    if (proxy.armed) {
        proxy.armed = false;
        proxy.cut_pair = proxy.count;
    }
    proxy.count++;
}

static void *proxy_run(void *nothing)
{
    for (;;) {
        struct pollfd looks[2 + 2 * PAIRS_MAX];
        int count = 2;

        pthread_mutex_lock(&proxy.mutex);
        looks[0] = (struct pollfd){.fd = proxy.wake[0], .events = POLLIN};
        looks[1] = (struct pollfd){.fd = proxy.listener, .events = POLLIN};
        for (int i = 0; i < proxy.count; i++) {
            looks[count++] = (struct pollfd){.fd = proxy.pairs[i].client, .events = POLLIN};
            looks[count++] = (struct pollfd){.fd = proxy.pairs[i].daemon, .events = POLLIN};
        }
        pthread_mutex_unlock(&proxy.mutex);
        poll(looks, (nfds_t)count, -1);
        if (looks[0].revents) {
            char byte;
            need(read(proxy.wake[0], &byte, 1) == 1, "read");
            if (byte == 'q')
                return nothing;
            continue; /* the pairs have changed */
        }
        pthread_mutex_lock(&proxy.mutex);
        for (int i = 0; 2 + 2 * i < count && i < proxy.count; i++) {
            if (looks[2 + 2 * i].revents && proxy.pairs[i].client == looks[2 + 2 * i].fd)
                pass(i, TO_DAEMON);
            if (looks[3 + 2 * i].revents && proxy.pairs[i].daemon == looks[3 + 2 * i].fd && proxy.pairs[i].daemon >= 0)
                pass(i, TO_CLIENT);
        }
        if (looks[1].revents)
            accept_one();
        pthread_mutex_unlock(&proxy.mutex);
    }
}

static void wake(char byte)
{
    need(write(proxy.wake[1], &byte, 1) == 1, "write");
}

static void proxy_start(const struct test_daemon *daemon)
{
    struct sockaddr_un name = {.sun_family = AF_UNIX};

    snprintf(name.sun_path, sizeof name.sun_path, "%s/p", daemon->folder);
    snprintf(proxy.address, sizeof proxy.address, "unix:%s", name.sun_path);
    proxy.daemon_address = daemon->address;
    proxy.listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    proxy.cut_pair = -1;
    need(bind(proxy.listener, (struct sockaddr *)&name, sizeof name) == 0 && listen(proxy.listener, 64) == 0, "listen");
    need(pipe(proxy.wake) == 0, "pipe");
    pthread_mutex_init(&proxy.mutex, NULL);
    need(pthread_create(&proxy.thread, NULL, proxy_run, NULL) == 0, "pthread_create");
}

static void proxy_stop(void)
{
    wake('q');
    pthread_join(proxy.thread, NULL);
    close(proxy.listener);
    unlink(proxy.address + 5);
}

/* Forgets all connections, and cuts the next one after `at` bytes. */
static void proxy_arm(enum direction direction, size_t at, bool late, bool refusing)
{
    pthread_mutex_lock(&proxy.mutex);
    for (int i = 0; i < proxy.count; i++) {
        close_one(&proxy.pairs[i].client);
        close_one(&proxy.pairs[i].daemon);
    }
    proxy.count = 0;
    proxy.armed = true;
    proxy.late = late;
    proxy.refusing = refusing;
    proxy.direction = direction;
    proxy.at = at;
    proxy.fired = false;
    pthread_mutex_unlock(&proxy.mutex);
    wake('w');
}

/* Delivers what was held back. Returns whether anything was cut. */
static bool proxy_finish(void)
{
    bool fired;

    pthread_mutex_lock(&proxy.mutex);
    for (int i = 0; i < proxy.count; i++)
        if (proxy.pairs[i].held_bytes && proxy.pairs[i].daemon >= 0)
            send_to(proxy.pairs[i].daemon, proxy.pairs[i].held, proxy.pairs[i].held_bytes);
    fired = proxy.fired;
    proxy.cut_pair = -1;
    pthread_mutex_unlock(&proxy.mutex);
    return fired;
}

/* ---- The calls ---------------------------------------------------------------------------- */

static struct test_daemon daemon_;
static idem_client *direct; /* not through the proxy: prepares, and looks */

static idem_client *open_client(const char *address)
{
    idem_options options;
    idem_client *client;

    idem_options_init(&options);
    options.address = address;
    options.namespace_ = "test";
    options.timeout_ms = 60000;
    assert_int_equal(idem_open(&options, &client), IDEM_OK);
    return client;
}

static uint64_t begin(const char *key, uint32_t lease_ms)
{
    const idem_begin_request request = {.op = {.key = key}, .operation = key, .lease_ms = lease_ms};
    idem_begin_reply reply;

    assert_int_equal(idem_begin(direct, &request, 0, &reply), IDEM_OK);
    assert_int_equal(reply.answer, IDEM_EXECUTE);
    return reply.grant.fence;
}

static idem_get_reply look(const char *key)
{
    const idem_get_request request = {.op = {.key = key}};
    idem_get_reply reply;

    assert_int_equal(idem_get(direct, &request, 0, &reply), IDEM_OK);
    return reply;
}

static void look_absent(const char *key)
{
    const idem_get_request request = {.op = {.key = key}};
    idem_get_reply reply;

    assert_int_equal(idem_get(direct, &request, 0, &reply), IDEM_ERR_NOT_FOUND);
}

/* Leaves an operation interrupted; returns its fence. */
static uint64_t interrupt(const char *key)
{
    const uint64_t fence = begin(key, 0);
    const idem_release_request request = {.op = {.key = key}, .fence = fence, .effect = IDEM_EFFECT_UNKNOWN};
    idem_release_reply reply;

    assert_int_equal(idem_release(direct, &request, 0, &reply), IDEM_OK);
    assert_int_equal(reply.state, IDEM_INTERRUPTED);
    return fence;
}

/* What is known of a call before it is made. */
struct prepared {
    char key[64];
    uint64_t fence, revision;
    idem_info info; /* what the call was answered, where that has to be compared */
    uint64_t granted;
};

static void prepare_nothing(struct prepared *prepared)
{
    (void)prepared;
}

static void prepare_running(struct prepared *prepared)
{
    prepared->fence = begin(prepared->key, 0);
}

static void prepare_interrupted(struct prepared *prepared)
{
    prepared->fence = interrupt(prepared->key);
    prepared->revision = look(prepared->key).info.revision;
}

static void complete_directly(struct prepared *prepared)
{
    const idem_complete_request request = {
        .op = {.key = prepared->key}, .fence = prepared->fence, .outcome = {.kind = IDEM_SUCCEEDED, .body = {"b", 1}}};
    idem_complete_reply reply;

    assert_int_equal(idem_complete(direct, &request, 0, &reply), IDEM_OK);
    assert_int_equal(reply.ownership, IDEM_HELD);
}

static void prepare_done(struct prepared *prepared)
{
    prepare_running(prepared);
    complete_directly(prepared);
    prepared->revision = look(prepared->key).info.revision;
}

static void call_begin(idem_client *client, struct prepared *prepared)
{
    const idem_begin_request request = {.op = {.key = prepared->key}, .operation = prepared->key};
    idem_begin_reply reply;

    assert_int_equal(idem_begin(client, &request, 0, &reply), IDEM_OK);
    assert_int_equal(reply.answer, IDEM_EXECUTE);
    assert_int_equal(reply.grant.attempt, 1);
    prepared->granted = reply.grant.fence;
}

/* One grant, and it is the one that the library was told of: its owner can complete. */
static void after_begin(struct prepared *prepared)
{
    assert_int_equal(look(prepared->key).info.attempt, 1);
    prepared->fence = prepared->granted;
    complete_directly(prepared);
}

/* A copy of the Begin that is read only after its attempt let the key go would be granted to nobody: it must not be
 * read. */
static void call_begin_and_release(idem_client *client, struct prepared *prepared)
{
    call_begin(client, prepared);
    const idem_release_request request = {
        .op = {.key = prepared->key}, .fence = prepared->granted, .effect = IDEM_EFFECT_NONE};
    idem_release_reply reply;
    assert_int_equal(idem_release(client, &request, 0, &reply), IDEM_OK);
    assert_true(reply.ownership == IDEM_HELD || reply.ownership == IDEM_GONE);
}

static void after_all_is_absent(struct prepared *prepared)
{
    look_absent(prepared->key);
}

static void call_take_over(idem_client *client, struct prepared *prepared)
{
    const idem_begin_request request = {
        .op = {.key = prepared->key}, .operation = prepared->key, .if_interrupted = IDEM_TAKE_OVER};
    idem_begin_reply reply;

    assert_int_equal(idem_begin(client, &request, 0, &reply), IDEM_OK);
    assert_int_equal(reply.answer, IDEM_EXECUTE);
    assert_int_equal(reply.grant.attempt, 2);
    prepared->granted = reply.grant.fence;
}

static void after_take_over(struct prepared *prepared)
{
    assert_int_equal(look(prepared->key).info.attempt, 2);
    prepared->fence = prepared->granted;
    complete_directly(prepared);
}

static void call_complete(idem_client *client, struct prepared *prepared)
{
    const idem_complete_request request = {
        .op = {.key = prepared->key}, .fence = prepared->fence, .outcome = {.kind = IDEM_FAILED, .body = {"body", 4}}};
    idem_complete_reply reply;

    assert_int_equal(idem_complete(client, &request, 0, &reply), IDEM_OK);
    assert_int_equal(reply.ownership, IDEM_HELD);
}

static void after_complete(struct prepared *prepared)
{
    const idem_get_reply reply = look(prepared->key);

    assert_int_equal(reply.info.state, IDEM_DONE);
    assert_int_equal(reply.outcome.kind, IDEM_FAILED);
    assert_memory_equal(reply.outcome.body.data, "body", 4);
    /* Numbers are the daemon's, not the key's: another operation's lease may have ended in between. */
    assert_true(reply.info.revision > prepared->fence);
}

static void call_release(idem_client *client, struct prepared *prepared)
{
    const idem_release_request request = {
        .op = {.key = prepared->key}, .fence = prepared->fence, .effect = IDEM_EFFECT_NONE_BY_ME};
    idem_release_reply reply;

    assert_int_equal(idem_release(client, &request, 0, &reply), IDEM_OK);
    assert_true(reply.ownership == IDEM_HELD || reply.ownership == IDEM_GONE);
}

/* Absent; and the next life of the key is not touched by a copy that arrives late. */
static void after_release(struct prepared *prepared)
{
    look_absent(prepared->key);
    begin(prepared->key, 0);
    proxy_finish();
    assert_int_equal(look(prepared->key).info.state, IDEM_RUNNING);
}

static void call_renew(idem_client *client, struct prepared *prepared)
{
    const idem_renew_request request = {.op = {.key = prepared->key}, .fence = prepared->fence, .lease_ms = 3600000};
    idem_renew_reply reply;

    assert_int_equal(idem_renew(client, &request, 0, &reply), IDEM_OK);
    assert_int_equal(reply.ownership, IDEM_HELD);
}

static void after_renew(struct prepared *prepared)
{
    const idem_info info = look(prepared->key).info;

    assert_true(info.lease_left_ms > 3000000);
    assert_true(info.revision > prepared->fence);
}

static void call_checkpoint(idem_client *client, struct prepared *prepared)
{
    const idem_checkpoint_request request = {
        .op = {.key = prepared->key}, .fence = prepared->fence, .checkpoint = {"half", {"data", 4}}};
    idem_renew_reply reply;

    assert_int_equal(idem_checkpoint_store(client, &request, 0, &reply), IDEM_OK);
    assert_int_equal(reply.ownership, IDEM_HELD);
}

static void after_checkpoint(struct prepared *prepared)
{
    const idem_get_reply reply = look(prepared->key);

    assert_int_equal(reply.info.state, IDEM_RUNNING);
    assert_string_equal(reply.checkpoint.name, "half");
    assert_memory_equal(reply.checkpoint.data.data, "data", 4);
}

static void call_get(idem_client *client, struct prepared *prepared)
{
    const idem_get_request request = {.op = {.key = prepared->key}};
    idem_get_reply reply;

    assert_int_equal(idem_get(client, &request, 0, &reply), IDEM_OK);
    assert_int_equal(reply.info.revision, prepared->revision);
}

static void call_recover(idem_client *client, struct prepared *prepared)
{
    /* Only its own: what other cases left behind may be interrupted by now. */
    const idem_recover_request request = {.operation = prepared->key, .limit = 1};
    idem_recover_reply reply;

    assert_int_equal(idem_recover(client, &request, 0, &reply), IDEM_OK);
    assert_int_equal(reply.count, 1);
    assert_string_equal(reply.operations[0].op.key, prepared->key);
    assert_int_equal(reply.operations[0].grant.attempt, 2);
    prepared->granted = reply.operations[0].grant.fence;
}

static void call_resolve(idem_client *client, struct prepared *prepared)
{
    const idem_resolve_request request = {.op = {.key = prepared->key},
                                          .revision = prepared->revision,
                                          .verdict = IDEM_HAPPENED,
                                          .outcome = {.kind = IDEM_SUCCEEDED, .body = {"seen", 4}}};
    idem_complete_reply reply;

    assert_int_equal(idem_resolve(client, &request, 0, &reply), IDEM_OK);
    assert_int_equal(reply.ownership, IDEM_HELD);
}

static void after_resolve(struct prepared *prepared)
{
    const idem_get_reply reply = look(prepared->key);

    assert_true(reply.info.resolved);
    assert_true(reply.info.revision > prepared->revision);
}

static void call_forget(idem_client *client, struct prepared *prepared)
{
    const idem_forget_request request = {.op = {.key = prepared->key}, .revision = prepared->revision};
    idem_ownership ownership;

    assert_int_equal(idem_forget(client, &request, 0, &ownership), IDEM_OK);
    assert_true(ownership == IDEM_HELD || ownership == IDEM_GONE);
}

static void call_list(idem_client *client, struct prepared *prepared)
{
    const idem_list_request request = {.namespace_ = "test", .limit = 1};
    idem_list_reply reply;

    (void)prepared;
    assert_int_equal(idem_list(client, &request, 0, &reply), IDEM_OK);
}

static void call_stats(idem_client *client, struct prepared *prepared)
{
    idem_stats_reply reply;

    (void)prepared;
    assert_int_equal(idem_stats(client, NULL, 0, &reply), IDEM_OK);
    assert_true(reply.count > 10);
}

static void call_hello(idem_client *client, struct prepared *prepared)
{
    idem_hello_reply reply;

    (void)prepared;
    assert_int_equal(idem_hello(client, 0, &reply), IDEM_OK);
    assert_true(reply.durable);
}

static const struct call_case {
    const char *name;
    void (*prepare)(struct prepared *prepared);
    void (*call)(idem_client *client, struct prepared *prepared);
    void (*after)(struct prepared *prepared);
    size_t step; /* every how manieth byte of a reply that says nothing about an operation */
} cases[] = {
    {"hello", prepare_nothing, call_hello, prepare_nothing, 1},
    {"begin", prepare_nothing, call_begin, after_begin, 1},
    {"begin, release", prepare_nothing, call_begin_and_release, after_all_is_absent, 1},
    {"take-over", prepare_interrupted, call_take_over, after_take_over, 1},
    {"complete", prepare_running, call_complete, after_complete, 1},
    {"release", prepare_running, call_release, after_release, 1},
    {"renew", prepare_running, call_renew, after_renew, 1},
    {"checkpoint", prepare_running, call_checkpoint, after_checkpoint, 1},
    {"get", prepare_done, call_get, prepare_nothing, 1},
    {"recover", prepare_interrupted, call_recover, after_take_over, 1},
    {"resolve", prepare_interrupted, call_resolve, after_resolve, 1},
    {"forget", prepare_done, call_forget, prepare_nothing, 1},
    {"list", prepare_nothing, call_list, prepare_nothing, 1},
    {"stats", prepare_nothing, call_stats, prepare_nothing, 97},
};

/* How many bytes Hello takes each way: where the other calls begin. */
static size_t hello_bytes[2];

static bool one(const struct call_case *which, enum direction direction, size_t at, bool late)
{
    static unsigned number;
    struct prepared prepared = {.fence = 0};
    bool fired;

    snprintf(prepared.key, sizeof prepared.key, "%s-%u", which->name, number++);
    which->prepare(&prepared);
    proxy_arm(direction, at, late, false);
    idem_client *client = open_client(proxy.address);
    which->call(client, &prepared);
    fired = proxy_finish();
    which->after(&prepared);
    idem_close(client);
    return fired;
}

static void measure_hello(void)
{
    struct prepared prepared = {.fence = 0};

    proxy_arm(TO_DAEMON, SIZE_MAX, false, false);
    idem_client *client = open_client(proxy.address);
    call_hello(client, &prepared);
    idem_close(client);
    pthread_mutex_lock(&proxy.mutex);
    hello_bytes[TO_DAEMON] = proxy.pairs[0].passed[TO_DAEMON];
    hello_bytes[TO_CLIENT] = proxy.pairs[0].passed[TO_CLIENT];
    pthread_mutex_unlock(&proxy.mutex);
    assert_true(hello_bytes[TO_DAEMON] > 5 && hello_bytes[TO_CLIENT] > 5);
}

static void every_byte(enum direction direction, bool late)
{
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        /* The lengths of two Hellos differ by the bytes of numbers in them: begin a little before. */
        size_t at = i == 0 ? 0 : hello_bytes[direction] - 4, cuts = 0;
        while (one(&cases[i], direction, at, late)) {
            at += direction == TO_CLIENT ? cases[i].step : 1;
            cuts++;
        }
        assert_true(cuts > 4);
        print_message("%s: %zu cuts\n", cases[i].name, cuts);
    }
}

static void requests_cut(void **state)
{
    (void)state;
    every_byte(TO_DAEMON, false);
}

static void requests_cut_and_delivered_late(void **state)
{
    (void)state;
    every_byte(TO_DAEMON, true);
}

static void replies_cut(void **state)
{
    (void)state;
    every_byte(TO_CLIENT, false);
}

static void replies_cut_and_the_old_connection_left_open(void **state)
{
    (void)state;
    every_byte(TO_CLIENT, true);
}

/* The daemon is killed and comes back between a call and its copy. */
static void restarts_in_between(void **state)
{
    (void)state;
    for (size_t i = 1; i < sizeof cases / sizeof cases[0]; i++) {
        struct prepared prepared = {.fence = 0};

        snprintf(prepared.key, sizeof prepared.key, "restart-%s", cases[i].name);
        cases[i].prepare(&prepared);
        /* The reply is lost whole, then the daemon with it. */
        proxy_arm(TO_CLIENT, hello_bytes[TO_CLIENT] + 2, true, false);
        idem_client *client = open_client(proxy.address);
        cases[i].call(client, &prepared);
        idem_close(client);
        daemon_restart(&daemon_);
        cases[i].after(&prepared);
    }
}

/* A connection with a bound lease ends, and then the answers to some Hellos are lost, whole or in part: the library
 * names the connection that it knows, and the lease goes on. */
static void a_lost_hello_loses_no_bound_lease(void **state)
{
    enum { HOUR_MS = 3600 * 1000 };
    const idem_begin_request request = {.op = {.key = "bound"}, .lease_ms = HOUR_MS, .bind_to_connection = true};
    const idem_get_request look_request = {.op = {.key = "other"}};
    idem_begin_reply begun;
    idem_get_reply got;

    (void)state;
    proxy_arm(TO_CLIENT, SIZE_MAX, false, false);
    idem_client *client = open_client(proxy.address);
    assert_int_equal(idem_begin(client, &request, 0, &begun), IDEM_OK);
    assert_int_equal(begun.answer, IDEM_EXECUTE);
    for (size_t at = 0; at < hello_bytes[TO_CLIENT] - 4; at += 9) {
        proxy_arm(TO_CLIENT, at, false, false);
        /* Anything but a call about the operation itself. */
        assert_int_equal(idem_get(client, &look_request, 0, &got), IDEM_ERR_NOT_FOUND);
        assert_true(proxy_finish());
        assert_true(look("bound").info.lease_left_ms > HOUR_MS / 2);
    }
    idem_close(client);
}

/* ---- What "not done" means ------------------------------------------------------------------- */

static idem_error try_begin(idem_client *client, const struct prepared *prepared)
{
    const idem_begin_request request = {
        .op = {.key = prepared->key}, .operation = prepared->key, .if_interrupted = IDEM_TAKE_OVER};
    idem_begin_reply reply;

    return idem_begin(client, &request, 0, &reply);
}

static idem_error try_complete(idem_client *client, const struct prepared *prepared)
{
    const idem_complete_request request = {
        .op = {.key = prepared->key}, .fence = prepared->fence, .outcome = {.kind = IDEM_SUCCEEDED}};
    idem_complete_reply reply;

    return idem_complete(client, &request, 0, &reply);
}

static idem_error try_release(idem_client *client, const struct prepared *prepared)
{
    const idem_release_request request = {
        .op = {.key = prepared->key}, .fence = prepared->fence, .effect = IDEM_EFFECT_NONE};
    idem_release_reply reply;

    return idem_release(client, &request, 0, &reply);
}

static idem_error try_renew(idem_client *client, const struct prepared *prepared)
{
    const idem_renew_request request = {.op = {.key = prepared->key}, .fence = prepared->fence, .lease_ms = 3600000};
    idem_renew_reply reply;

    return idem_renew(client, &request, 0, &reply);
}

static idem_error try_checkpoint(idem_client *client, const struct prepared *prepared)
{
    const idem_checkpoint_request request = {
        .op = {.key = prepared->key}, .fence = prepared->fence, .checkpoint = {"half", {"data", 4}}};
    idem_renew_reply reply;

    return idem_checkpoint_store(client, &request, 0, &reply);
}

static idem_error try_recover(idem_client *client, const struct prepared *prepared)
{
    const idem_recover_request request = {.operation = prepared->key, .limit = 1};
    idem_recover_reply reply;

    return idem_recover(client, &request, 0, &reply);
}

static idem_error try_resolve(idem_client *client, const struct prepared *prepared)
{
    const idem_resolve_request request = {
        .op = {.key = prepared->key}, .revision = prepared->revision, .verdict = IDEM_DID_NOT_HAPPEN};
    idem_complete_reply reply;

    return idem_resolve(client, &request, 0, &reply);
}

static idem_error try_forget(idem_client *client, const struct prepared *prepared)
{
    const idem_forget_request request = {.op = {.key = prepared->key}, .revision = prepared->revision};
    idem_ownership ownership;

    return idem_forget(client, &request, 0, &ownership);
}

static const struct refused_case {
    const char *name;
    void (*prepare)(struct prepared *prepared);
    idem_error (*call)(idem_client *client, const struct prepared *prepared);
} refused_cases[] = {
    {"begin", prepare_nothing, try_begin},         {"take over", prepare_interrupted, try_begin},
    {"complete", prepare_running, try_complete},   {"release", prepare_running, try_release},
    {"renew", prepare_running, try_renew},         {"checkpoint", prepare_running, try_checkpoint},
    {"recover", prepare_interrupted, try_recover}, {"resolve", prepare_interrupted, try_resolve},
    {"forget", prepare_done, try_forget},
};

/* What there is of an operation: each call above changes it. 0: nothing. */
static uint64_t revision_of(const char *key)
{
    const idem_get_request request = {.op = {.key = key}};
    idem_get_reply reply;
    const idem_error error = idem_get(direct, &request, 0, &reply);

    assert_true(error == IDEM_OK || error == IDEM_ERR_NOT_FOUND);
    return error == IDEM_OK ? reply.info.revision : 0;
}

/* One copy is cut, and no other gets through. *unknown counts the calls that took effect, and were said to be unknown.
 */
static bool one_refused(const struct refused_case *which, enum direction direction, size_t at, bool late,
                        unsigned *unknown)
{
    static unsigned number;
    struct prepared prepared = {.fence = 0};
    idem_hello_reply hello;
    bool fired;

    snprintf(prepared.key, sizeof prepared.key, "refused %s-%u", which->name, number++);
    which->prepare(&prepared);
    const uint64_t before = revision_of(prepared.key);
    proxy_arm(direction, at, late, true);
    idem_client *client = open_client(proxy.address);
    assert_int_equal(idem_hello(client, 0, &hello), IDEM_OK);
    const idem_error error = which->call(client, &prepared);
    fired = proxy_finish();
    const bool changed = revision_of(prepared.key) != before;
    assert_int_equal(error == IDEM_OK, !fired);
    if (changed && fired)
        assert_int_equal(idem_error_class(error), IDEM_CLASS_UNKNOWN);
    *unknown += changed && fired;
    idem_close(client);
    return fired;
}

static void no_error_says_not_done_of_what_was_done(void **state)
{
    enum { STEP = 5, AFTER_HELLO = 4 }; /* bytes. The lengths of two Hellos differ by the numbers in them */

    (void)state;
    for (size_t i = 0; i < sizeof refused_cases / sizeof refused_cases[0]; i++) {
        unsigned cuts = 0, unknown = 0;

        for (int variant = 0; variant < 4; variant++) {
            const enum direction direction = variant < 2 ? TO_DAEMON : TO_CLIENT;
            size_t at = hello_bytes[direction] + AFTER_HELLO;

            for (; one_refused(&refused_cases[i], direction, at, variant % 2, &unknown); at += STEP)
                cuts++;
        }
        assert_true(unknown > 0); /* else nothing was tried */
        print_message("%s: %u cuts, %u of them took effect\n", refused_cases[i].name, cuts, unknown);
    }
}

/* Two clients with one attempt id are one attempt: both are told of the same grant. */
static void two_clients_one_attempt(void **state)
{
    const uint8_t attempt_id[16] = "two clients one";
    const idem_begin_request request = {.op = {.key = "attempt"}, .attempt_id = attempt_id};
    idem_client *other = open_client(daemon_.address);
    idem_begin_reply one_reply, other_reply;

    (void)state;
    assert_int_equal(idem_begin(direct, &request, 0, &one_reply), IDEM_OK);
    assert_int_equal(idem_begin(other, &request, 0, &other_reply), IDEM_OK);
    assert_int_equal(other_reply.answer, IDEM_EXECUTE);
    assert_true(other_reply.grant.resumed);
    assert_int_equal(one_reply.grant.fence, other_reply.grant.fence);
    idem_close(other);
}

static int set_up(void **state)
{
    (void)state;
    daemon_start(&daemon_);
    proxy_start(&daemon_);
    direct = open_client(daemon_.address);
    measure_hello();
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    idem_close(direct);
    proxy_stop();
    return daemon_stop(&daemon_);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(requests_cut),
        cmocka_unit_test(requests_cut_and_delivered_late),
        cmocka_unit_test(replies_cut),
        cmocka_unit_test(replies_cut_and_the_old_connection_left_open),
        cmocka_unit_test(restarts_in_between),
        cmocka_unit_test(two_clients_one_attempt),
        cmocka_unit_test(a_lost_hello_loses_no_bound_lease),
        cmocka_unit_test(no_error_says_not_done_of_what_was_done),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
