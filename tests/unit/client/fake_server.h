/* A daemon that does what a test tells it: a thread with a listening Unix socket, and a script that is run for each
 * connection. */
#ifndef IDEM_TESTS_FAKE_SERVER_H
#define IDEM_TESTS_FAKE_SERVER_H

#include <stdatomic.h>
#include <stdbool.h>

#include "idem/v1/idem.pb-c.h"

struct fake_server {
    char address[128];
    int listener;
    unsigned long thread;
    /* Called for each connection, numbered from 0, on the server's thread; the connection is closed when it returns. */
    void (*script)(struct fake_server *server, int fd, int number);
    void *user;
    atomic_int connections;
    uint64_t replaced[16]; /* Hello.replaces of each connection */
    atomic_int go;         /* for scripts and tests to wait for each other */
    char failed[160];      /* the first check of a script that failed; stopping tells */
};

/* For scripts, which run outside the test's thread: what has to be so. The test fails when the server is stopped. */
#define FAKE_CHECK(server, condition) fake_check((server), (condition), #condition, __FILE__, __LINE__)
void fake_check(struct fake_server *server, bool good, const char *what, const char *file, int line);

void fake_server_start(struct fake_server *server, void (*script)(struct fake_server *server, int fd, int number),
                       void *user);
void fake_server_stop(struct fake_server *server);

/* For scripts. The next request; NULL: the connection ended. Freed with idem__v1__request__free_unpacked(request,
 * NULL). */
Idem__V1__Request *fake_receive(int fd);
void fake_send(int fd, const Idem__V1__Response *response);
void fake_send_bytes(int fd, const void *data, size_t size);
/* Receives Hello and answers it: connection is 100 + number. False: it ended. */
bool fake_hello(struct fake_server *server, int fd, int number);
/* Hello with another answer than the usual. */
bool fake_hello_as(struct fake_server *server, int fd, int number, const Idem__V1__HelloResponse *hello);
/* As an answer to this request: its id, or a status. */
void fake_answer(int fd, const Idem__V1__Request *request, const Idem__V1__Response *response);
void fake_status(int fd, const Idem__V1__Request *request, int code);
/* As a daemon would where all is well: EXECUTE with fence 5, HELD, and something in every field. */
void fake_good(int fd, const Idem__V1__Request *request);
void fake_free(Idem__V1__Request *request);
/* A script: Hello, then fake_good for each call. */
void fake_good_script(struct fake_server *server, int fd, int number);
/* Sends BeginResponse EXECUTE with this fence, or REPLAY with this body. */
void fake_execute(int fd, uint64_t id, uint64_t fence);
void fake_replay(int fd, uint64_t id, const char *body);
/* Waits until `value` is at least `least`. */
void fake_wait(atomic_int *value, int least);

#endif
