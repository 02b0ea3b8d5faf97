/* See fake_server.h. What goes wrong here is the test's fault: it aborts. */
#include "tests/unit/fake_server.h"

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
    pthread_t thread;

    *server = (struct fake_server){.script = script, .user = user};
    strcpy(server->folder, "/tmp/idem-fake-XXXXXX");
    need(mkdtemp(server->folder), "mkdtemp");
    snprintf(name.sun_path, sizeof name.sun_path, "%s/s", server->folder);
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
    unlink(server->address + 5);
    rmdir(server->folder);
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

bool fake_hello(struct fake_server *server, int fd, int number)
{
    Idem__V1__Request *request = fake_receive(fd);
    Idem__V1__HelloResponse hello = IDEM__V1__HELLO_RESPONSE__INIT;
    Idem__V1__Response response = IDEM__V1__RESPONSE__INIT;

    if (!request)
        return false;
    need(request->call_case == IDEM__V1__REQUEST__CALL_HELLO, "the first call is Hello");
    if (number < 16)
        server->replaced[number] = request->hello->replaces;
    hello.server = (char *)(uintptr_t) "fake";
    hello.connection = 100 + (uint64_t)number;
    hello.max_frame_bytes = 300 * 1024;
    hello.max_outcome_bytes = 64 * 1024;
    hello.max_wait_ms = 50;
    response.id = request->id;
    response.result_case = IDEM__V1__RESPONSE__RESULT_HELLO;
    response.hello = &hello;
    fake_send(fd, &response);
    idem__v1__request__free_unpacked(request, NULL);
    return true;
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
