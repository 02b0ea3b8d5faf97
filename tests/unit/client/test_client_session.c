/* The session, fed in every way bytes can come; and the transport under it: addresses, deadlines, short reads and
 * writes, ends. */
#include "client/session.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "client/transport.h"
#include "proto/frame.h"
#include "proto/limits.h"

enum { SHORT_MS = 50, LONG_MS = 20000, MESSAGE_MOST = 100 * 1000 };

/* ---- Session ------------------------------------------------------------------------------- */

static void put(struct session *session, const uint8_t *data, size_t size)
{
    while (size > 0) {
        size_t room;
        uint8_t *to = session_room(session, &room);

        assert_non_null(to);
        assert_true(room >= 4096);
        const size_t part = size < room ? size : room;
        memcpy(to, data, part);
        session_fed(session, part);
        data += part;
        size -= part;
    }
}

/* Frames of many sizes one behind the other; message i holds bytes of value i. Returns how long they are. */
static size_t make_stream(uint8_t *stream, const uint32_t *sizes, size_t count)
{
    size_t at = 0;

    for (size_t i = 0; i < count; i++) {
        frame_put_header(stream + at, sizes[i]);
        memset(stream + at + IDEM_FRAME_HEADER_BYTES, (int)i, sizes[i]);
        at += IDEM_FRAME_HEADER_BYTES + sizes[i];
    }
    return at;
}

static void frames_come_out_whole_however_they_go_in(void **state)
{
    static const uint32_t sizes[] = {0, 1, 4095, 4096, 4097, 16379, 16384, 40000, MESSAGE_MOST, 3};
    static const size_t parts[] = {1, 2, 5, 7, 4096, 5000, 1000000};
    static uint8_t stream[300 * 1000];
    const size_t count = sizeof sizes / sizeof sizes[0], total = make_stream(stream, sizes, count);

    (void)state;
    for (size_t p = 0; p < sizeof parts / sizeof parts[0]; p++) {
        struct session session = {0};
        size_t next = 0;

        session_reset(&session, MESSAGE_MOST);
        for (size_t at = 0; at < total; at += parts[p]) {
            const uint8_t *message;
            uint32_t size;

            put(&session, stream + at, total - at < parts[p] ? total - at : parts[p]);
            while (session_next(&session, &message, &size) == SESSION_MESSAGE) {
                assert_true(next < count);
                assert_int_equal(size, sizes[next]);
                for (uint32_t i = 0; i < size; i++)
                    if (message[i] != next)
                        fail_msg("byte %u of message %zu", i, next);
                next++;
            }
        }
        assert_int_equal(next, count);
        session_free(&session);
    }
}

static void what_is_no_frame_is_broken_at_once(void **state)
{
    static const uint8_t long_header[] = {0, 0, 1, 0x86, 0xa1}; /* 100,001 */
    struct session session = {0};
    const uint8_t *message;
    uint32_t size;

    (void)state;
    session_reset(&session, MESSAGE_MOST);
    assert_int_equal(session_next(&session, &message, &size), SESSION_MORE); /* nothing was fed yet */
    put(&session, (const uint8_t *)"\1", 1);
    assert_int_equal(session_next(&session, &message, &size), SESSION_BROKEN);
    assert_int_equal(session_next(&session, &message, &size), SESSION_BROKEN); /* and stays so */
    session_reset(&session, MESSAGE_MOST);
    put(&session, long_header, 4);
    assert_int_equal(session_next(&session, &message, &size), SESSION_MORE);
    put(&session, long_header + 4, 1);
    assert_int_equal(session_next(&session, &message, &size), SESSION_BROKEN);
    session_reset(&session, MESSAGE_MOST + 1);
    put(&session, long_header, 5);
    assert_int_equal(session_next(&session, &message, &size), SESSION_MORE);
    session_free(&session);
}

/* ---- Transport -------------------------------------------------------------------------------- */

static void addresses(void **state)
{
    static const char *const good[] = {"unix:/a",         "tcp:localhost:1", "tcp:127.0.0.1:4336",
                                       "tcp:[::1]:65535", "tcp:::1:9",       "tcp:a:00080"};
    static const char *const bad[] = {
        "",          "unix:",     "unix:relative", "unix",    "/a",          "tcp:",         "tcp:host",
        "tcp:host:", "tcp::4336", "tcp:[]:1",      "tcp:h:0", "tcp:h:65536", "tcp:h:99999",  "tcp:h:+1",
        "tcp:h: 1",  "tcp:h:1x",  "http://h:1",    "UNIX:/a", "tcp:h:-1",    "tcp:h:000001", "tcp:[::1]x"};
    char path[200] = "unix:/";

    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++)
        if (!transport_address_good(good[i]))
            fail_msg("%s is good", good[i]);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        if (transport_address_good(bad[i]))
            fail_msg("%s is bad", bad[i]);
    /* A path fits sun_path with its NUL, or not. */
    memset(path + 6, 'p', sizeof((struct sockaddr_un *)0)->sun_path - 2);
    assert_true(transport_address_good(path));
    path[strlen(path)] = 'p';
    assert_false(transport_address_good(path));
}

static void connecting_where_nobody_listens_fails(void **state)
{
    (void)state;
    assert_int_equal(transport_connect("unix:/nonexistent/socket", transport_now_ms() + LONG_MS), -1);
    assert_int_equal(errno, ENOENT);
    assert_int_equal(transport_connect("tcp:256.256.256.256:1", transport_now_ms() + LONG_MS), -1);
    assert_int_equal(errno, ENXIO);
}

/* A listener of ours on a port of the system's choice. */
static int listen_tcp(char *address, size_t size, bool ipv6)
{
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    } name = {0};
    socklen_t bytes = ipv6 ? sizeof name.v6 : sizeof name.v4;
    const int fd = socket(ipv6 ? AF_INET6 : AF_INET, SOCK_STREAM, 0);

    if (fd < 0)
        return -1;
    name.any.sa_family = ipv6 ? AF_INET6 : AF_INET;
    if (ipv6)
        name.v6.sin6_addr = in6addr_loopback;
    else
        name.v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (bind(fd, &name.any, bytes) != 0 || listen(fd, 4) != 0 || getsockname(fd, &name.any, &bytes) != 0) {
        close(fd);
        return -1;
    }
    snprintf(address, size, ipv6 ? "tcp:[::1]:%u" : "tcp:127.0.0.1:%u",
             (unsigned)ntohs(ipv6 ? name.v6.sin6_port : name.v4.sin_port));
    return fd;
}

int __real_getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **found);
int __wrap_getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **found);

/* Which names this machine knows is not the test's to say. "two.test" stands for an address where nobody listens, and
 * for one where the test does. */
int __wrap_getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **found)
{
    int failed;

    if (strcmp(node, "two.test") != 0)
        return __real_getaddrinfo(node, service, hints, found);
    failed = __real_getaddrinfo("127.0.0.2", service, hints, found);
    return failed ? failed : __real_getaddrinfo("127.0.0.1", service, hints, &(*found)->ai_next);
}

static void tcp_connects_by_number_and_by_name(void **state)
{
    char address[64], named[64], byte;

    (void)state;
    for (int ipv6 = 0; ipv6 <= 1; ipv6++) {
        const int listener = listen_tcp(address, sizeof address, ipv6);

        if (listener < 0 && ipv6)
            continue; /* this machine has no IPv6 */
        assert_true(listener >= 0);
        const int fd = transport_connect(address, transport_now_ms() + LONG_MS);
        assert_true(fd >= 0);
        assert_true(transport_send(fd, (const uint8_t *)"x", 1, transport_now_ms() + LONG_MS));
        const int peer = accept(listener, NULL, NULL);
        assert_int_equal(recv(peer, &byte, 1, 0), 1);
        close(peer);
        close(fd);
        if (!ipv6) {
            /* Each address of a name is tried. */
            snprintf(named, sizeof named, "tcp:two.test:%s", strrchr(address, ':') + 1);
            const int by_name = transport_connect(named, transport_now_ms() + LONG_MS);
            assert_true(by_name >= 0);
            close(by_name);
        }
        close(listener);
    }
}

static void make_pair(int pair[2])
{
    const int small = 4096;

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair), 0);
    setsockopt(pair[0], SOL_SOCKET, SO_SNDBUF, &small, sizeof small);
}

static void a_deadline_ends_each_step(void **state)
{
    static uint8_t data[1024 * 1024];
    int pair[2];

    (void)state;
    make_pair(pair);
    const uint64_t before_ms = transport_now_ms();
    assert_int_equal(transport_receive(pair[0], data, sizeof data, before_ms + SHORT_MS), -1);
    assert_int_equal(errno, ETIMEDOUT);
    assert_true(transport_now_ms() >= before_ms + SHORT_MS);
    assert_false(transport_send(pair[0], data, sizeof data, transport_now_ms() + SHORT_MS)); /* nobody reads */
    assert_int_equal(errno, ETIMEDOUT);
    /* What is there is received, deadline or not. */
    assert_true(transport_receive(pair[1], data, sizeof data, 0) > 0);
    transport_pause(before_ms); /* long ago */
    close(pair[0]);
    close(pair[1]);
}

static void quiet_is_open_with_nothing_to_read(void **state)
{
    int pair[2];
    uint8_t byte;

    (void)state;
    make_pair(pair);
    assert_true(transport_quiet(pair[0]));
    assert_int_equal(send(pair[1], "x", 1, 0), 1);
    assert_false(transport_quiet(pair[0]));
    assert_int_equal(transport_receive(pair[0], &byte, 1, 0), 1); /* it was not taken by the look */
    assert_true(transport_quiet(pair[0]));
    shutdown(pair[1], SHUT_WR);
    assert_false(transport_quiet(pair[0]));
    assert_int_equal(transport_receive(pair[0], &byte, 1, transport_now_ms() + LONG_MS), 0);
    close(pair[1]);
    /* No SIGPIPE: this process is still there. */
    assert_false(transport_send(pair[0], &byte, 1, transport_now_ms() + LONG_MS));
    assert_int_equal(errno, EPIPE);
    close(pair[0]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(frames_come_out_whole_however_they_go_in),
        cmocka_unit_test(what_is_no_frame_is_broken_at_once),
        cmocka_unit_test(addresses),
        cmocka_unit_test(connecting_where_nobody_listens_fails),
        cmocka_unit_test(tcp_connects_by_number_and_by_name),
        cmocka_unit_test(a_deadline_ends_each_step),
        cmocka_unit_test(quiet_is_open_with_nothing_to_read),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
