/* Outboxes over socketpairs: every byte comes once and in order, however slowly it is taken, and what is kept for them
 * is counted and given back. */
#include "daemon/server/outbox.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

enum { HEAD_BYTES_MAX = 20000, STREAM_BYTES_MAX = 4 * 1024 * 1024 };

static struct {
    struct outboxes all;
    struct outbox outbox;
    int fd, peer; /* -1: closed */
    uint8_t *expected, *got;
    size_t expected_bytes, got_bytes;
    uint8_t next; /* byte of what is made up */
} world;

static int set_up(void **state)
{
    const int small = 4096;
    int fds[2];

    (void)state;
    memset(&world, 0, sizeof world);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    assert_int_equal(setsockopt(fds[0], SOL_SOCKET, SO_SNDBUF, &small, sizeof small), 0);
    world.fd = fds[0];
    world.peer = fds[1];
    world.expected = malloc(STREAM_BYTES_MAX);
    world.got = malloc(STREAM_BYTES_MAX);
    outboxes_open(&world.all);
    outbox_open(&world.outbox, &world.all);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    outbox_clear(&world.outbox);
    assert_int_equal(world.all.bytes, 0);
    outboxes_close(&world.all);
    close(world.fd);
    if (world.peer >= 0)
        close(world.peer);
    free(world.expected);
    free(world.got);
    return 0;
}

static void make_up(uint8_t *data, uint32_t size)
{
    for (uint32_t i = 0; i < size; i++)
        data[i] = world.next += 7;
}

static struct blob *make_blob(uint32_t size)
{
    struct blob *blob = blob_new(size);

    make_up(blob->data + blob_extend(blob, size), size);
    return blob;
}

static void expect(const uint8_t *data, size_t size)
{
    assert_true(size <= STREAM_BYTES_MAX - world.expected_bytes);
    memcpy(world.expected + world.expected_bytes, data, size);
    world.expected_bytes += size;
}

/* Adds an answer with a head that is made up. */
static void add(uint32_t head_bytes, struct slice shared)
{
    static uint8_t head[HEAD_BYTES_MAX];
    const struct response response = {.head = head, .head_bytes = head_bytes, .shared = shared};

    assert_true(head_bytes <= sizeof head);
    make_up(head, head_bytes);
    outbox_add(&world.outbox, &response);
    expect(head, head_bytes);
    if (shared.blob)
        expect(slice_bytes(shared).data, shared.size);
    memset(head, 0, head_bytes); /* it was copied */
}

static const struct slice none = {0};

/* Takes what is there, `most` bytes at a time. */
static size_t take(size_t most)
{
    const ssize_t size = recv(world.peer, world.got + world.got_bytes, most, MSG_DONTWAIT);

    if (size < 0)
        assert_true(errno == EAGAIN);
    else
        world.got_bytes += (size_t)size;
    return size > 0 ? (size_t)size : 0;
}

static void assert_all_came(void)
{
    assert_true(outbox_is_empty(&world.outbox));
    while (take(65536))
        ;
    assert_int_equal(world.got_bytes, world.expected_bytes);
    assert_memory_equal(world.got, world.expected, world.expected_bytes);
}

/* ---- The tests ---------------------------------------------------------------------------- */

static void bytes_come_in_order_one_at_a_time(void **state)
{
    struct blob *blob = make_blob(3000);

    (void)state;
    for (uint32_t i = 1; i < 40; i++) {
        add(i * 37, i % 3 ? none : (struct slice){blob, i, i % 2 ? 2000 + i : 10});
        assert_true(outbox_send(&world.outbox, world.fd));
        take(1);
    }
    while (!outbox_is_empty(&world.outbox)) {
        assert_true(outbox_send(&world.outbox, world.fd));
        take(1);
    }
    assert_all_came();
    assert_int_equal(blob->references, 1);
    blob_release(blob);
}

static void a_slow_reader_gets_the_rest_later(void **state)
{
    (void)state;
    for (int i = 0; i < 20; i++)
        add(HEAD_BYTES_MAX, none); /* larger than a piece */
    assert_true(outbox_send(&world.outbox, world.fd));
    while (!outbox_is_empty(&world.outbox)) {
        /* The socket is full: nothing goes until somebody takes something. */
        const uint64_t before = world.outbox.bytes;
        assert_true(outbox_send(&world.outbox, world.fd));
        assert_int_equal(world.outbox.bytes, before);
        while (take(5000))
            ;
        assert_int_equal(world.outbox.bytes + world.got_bytes, world.expected_bytes);
        assert_true(outbox_send(&world.outbox, world.fd));
        assert_true(world.outbox.bytes < before);
    }
    assert_all_came();
}

static void more_parts_than_one_send_takes(void **state)
{
    struct blob *blob = make_blob(5000);

    (void)state;
    for (uint32_t i = 0; i < 200; i++)
        add(5, (struct slice){blob, i, 2000});
    while (!outbox_is_empty(&world.outbox)) {
        assert_true(outbox_send(&world.outbox, world.fd));
        while (take(65536))
            ;
    }
    assert_all_came();
    blob_release(blob);
}

static void a_peer_that_is_gone(void **state)
{
    struct blob *blob = make_blob(50000);

    (void)state;
    add(100, (struct slice){blob, 0, 50000});
    assert_true(outbox_send(&world.outbox, world.fd));
    assert_false(outbox_is_empty(&world.outbox));
    close(world.peer);
    world.peer = -1;
    assert_false(outbox_send(&world.outbox, world.fd));
    assert_int_equal(blob->references, 2);
    outbox_clear(&world.outbox);
    assert_true(outbox_is_empty(&world.outbox));
    assert_int_equal(blob->references, 1);
    assert_int_equal(blob->unsent, 0);
    assert_int_equal(world.all.bytes, 0);
    blob_release(blob);
}

static void shared_memory_counts_once(void **state)
{
    enum { BLOB_BYTES = 1024 * 1024 };
    struct blob *blob = make_blob(BLOB_BYTES);
    struct outbox other;
    const struct response response = {
        .head = (const uint8_t *)"head", .head_bytes = 4, .shared = {blob, 0, BLOB_BYTES / 2}};

    (void)state;
    outbox_open(&other, &world.all);
    outbox_add(&other, &response);
    assert_in_range(world.all.bytes, BLOB_BYTES, BLOB_BYTES + 8192);
    outbox_add(&world.outbox, &response);
    outbox_add(&world.outbox, &response);
    assert_in_range(world.all.bytes, BLOB_BYTES, BLOB_BYTES + 2 * 8192);
    assert_int_equal(world.outbox.bytes, 2 * (4 + BLOB_BYTES / 2));
    outbox_clear(&world.outbox);
    assert_in_range(world.all.bytes, BLOB_BYTES, BLOB_BYTES + 8192);
    outbox_clear(&other);
    assert_int_equal(world.all.bytes, 0);
    blob_release(blob);
}

static void a_small_part_of_much_is_copied(void **state)
{
    enum { BLOB_BYTES = 1024 * 1024 };
    struct blob *blob = make_blob(BLOB_BYTES);

    (void)state;
    add(10, (struct slice){blob, 0, 1024});
    add(10, (struct slice){blob, 1, BLOB_BYTES / 16 - 1});
    assert_int_equal(blob->references, 1);
    assert_in_range(world.all.bytes, BLOB_BYTES / 16, BLOB_BYTES / 8);
    add(10, (struct slice){blob, 0, BLOB_BYTES / 16 + 1});
    assert_int_equal(blob->references, 2);
    assert_true(world.all.bytes > BLOB_BYTES);
    while (!outbox_is_empty(&world.outbox)) {
        assert_true(outbox_send(&world.outbox, world.fd));
        while (take(65536))
            ;
    }
    assert_all_came();
    blob_release(blob);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(bytes_come_in_order_one_at_a_time, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_slow_reader_gets_the_rest_later, set_up, tear_down),
        cmocka_unit_test_setup_teardown(more_parts_than_one_send_takes, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_peer_that_is_gone, set_up, tear_down),
        cmocka_unit_test_setup_teardown(shared_memory_counts_once, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_small_part_of_much_is_copied, set_up, tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
