/* Connections over socketpairs, with a service and a clock that the test makes: how long a call takes is up to it. Each
 * connection has its share of a turn, a turn has an end, and whoever is not read waits at most for the others. */
#include "daemon/server/conns.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

enum {
    PEERS_MAX = 128,
    TURN_MS = 10,       /* as conn.c has it */
    READ_TOGETHER = 16, /* a turn is over when these are decided */
    LAG_MS = 1000,
};

struct peer {
    struct session *session; /* NULL: closed */
    int fd;
    unsigned decided;
    bool input_ended;
};

static const struct response answer = {.head = (const uint8_t *)"answer", .head_bytes = 6};

static struct {
    struct ev_loop *loop;
    struct conns conns;
    struct now now; /* of the last reading of the clock */
    struct service_outlet outlet;
    struct peer peers[PEERS_MAX];
    unsigned peer_count;
    uint64_t now_ms, cost_ms;
    bool keep_open; /* calls are not answered */
    bool slow_calls;
    unsigned idle_closed;
} world;

/* ---- Instead of the clock and the service ---------------------------------------------- */

struct now __wrap_clock_now(struct clock *clock);
struct now __wrap_clock_now(struct clock *clock)
{
    (void)clock;
    return (struct now){.boot_ms = world.now_ms, .boot_ns = world.now_ms * 1000000};
}

static struct peer *peer_of(const struct session *session)
{
    for (unsigned i = 0; i < world.peer_count; i++)
        if (world.peers[i].session == session)
            return &world.peers[i];
    fail();
    return NULL;
}

void service_session_open(struct service *service, struct session *session)
{
    *session = (struct session){.service = service};
    world.peers[world.peer_count].session = session;
}

void service_session_input_ended(struct session *session, const struct now *now)
{
    (void)now;
    peer_of(session)->input_ended = true;
}

void service_session_close(struct session *session, const struct now *now)
{
    (void)now;
    peer_of(session)->session = NULL;
}

void service_read(struct service *service, const struct service_message *messages, unsigned count)
{
    (void)service, (void)messages, (void)count;
}

bool service_is_brief(const struct service *service, unsigned number)
{
    (void)service, (void)number;
    return !world.slow_calls;
}

void service_read_end(struct service *service)
{
    (void)service;
}

bool service_decide(struct session *session, unsigned number, uint64_t read_ms, const struct now *now)
{
    (void)number;
    assert_true(read_ms <= now->boot_ms);
    peer_of(session)->decided++;
    session->open_calls += world.keep_open;
    world.now_ms += world.cost_ms;
    return true;
}

uint32_t service_message_bytes_max(const struct service *service)
{
    (void)service;
    return 1024;
}

void service_bad_frame(struct session *session, const char *message)
{
    (void)session, (void)message;
    fail();
}

void service_no_memory(struct session *session)
{
    (void)session;
    fail();
}

void service_idle_closed(struct service *service, uint64_t connections, const struct now *now)
{
    (void)service, (void)connections, (void)now;
    world.idle_closed++;
}

bool service_session_is_bound(const struct session *session)
{
    return session->party.parked_count > 0; /* as the test has set it */
}

void service_reader_dropped(struct service *service, uint64_t unsent_bytes, const struct now *now)
{
    (void)service, (void)unsent_bytes, (void)now;
}

/* ---- The world -------------------------------------------------------------------------- */

static int set_up(void **state)
{
    (void)state;
    memset(&world, 0, sizeof world);
    world.loop = ev_loop_new(EVFLAG_AUTO);
    assert_non_null(world.loop);
    world.now_ms = 1000000;
    world.cost_ms = 1;
    world.now = __wrap_clock_now(NULL);
    conns_open(&world.conns, world.loop, NULL, &world.now);
    world.outlet = conns_outlet(&world.conns);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    conns_close(&world.conns);
    for (unsigned i = 0; i < world.peer_count; i++)
        if (world.peers[i].fd >= 0)
            close(world.peers[i].fd);
    ev_loop_destroy(world.loop);
    return 0;
}

static struct peer *add_peer(void)
{
    struct peer *peer = &world.peers[world.peer_count];
    int fds[2];

    assert_true(world.peer_count < PEERS_MAX && socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0);
    peer->fd = fds[0];
    conn_open(&world.conns, fds[1]);
    world.peer_count++;
    return peer;
}

static void send_frames(const struct peer *peer, unsigned count)
{
    static const char frame[] = {0, 0, 0, 0, 1, 'x'};
    char frames[4096 * sizeof frame];

    assert_true(count * sizeof frame <= sizeof frames);
    for (unsigned i = 0; i < count; i++)
        memcpy(frames + i * sizeof frame, frame, sizeof frame);
    assert_int_equal(send(peer->fd, frames, count * sizeof frame, MSG_DONTWAIT), count * sizeof frame);
}

/* Waits and reads, as the server does. Returns how long that took. */
static uint64_t turn(uint64_t looked_ms)
{
    const uint64_t began_ms = world.now_ms;

    world.now = __wrap_clock_now(NULL);
    conns_begin_turn(&world.conns, looked_ms);
    ev_run(world.loop, EVRUN_NOWAIT);
    conns_ready(&world.conns);
    conns_read(&world.conns);
    world.now = __wrap_clock_now(NULL);
    return world.now_ms - began_ms;
}

static unsigned decided_of_all(void)
{
    unsigned decided = 0;

    for (unsigned i = 0; i < world.peer_count; i++)
        decided += world.peers[i].decided;
    return decided;
}

/* ---- The tests ---------------------------------------------------------------------------- */

static void a_turn_ends_and_the_next_goes_on(void **state)
{
    enum { COUNT = 100 };
    unsigned turns = 0;

    (void)state;
    for (int i = 0; i < COUNT; i++)
        send_frames(add_peer(), 1);
    turn(1000);
    /* Leases are not ended for what was not read; and a wait that found more than any before it may not show all. */
    assert_int_equal(conns_seen_ms(&world.conns), 1000);
    for (turns = 1; decided_of_all() < COUNT; turns++) {
        const unsigned before = decided_of_all();
        assert_int_equal(conns_seen_ms(&world.conns), 1000);
        assert_true(!conns_can_read(&world.conns) && conns_next_ms(&world.conns) == world.now_ms);
        conns_flush(&world.conns);
        assert_in_range(turn(1000 + turns), 1, TURN_MS + READ_TOGETHER);
        assert_true(decided_of_all() > before);
        for (int i = 0; i < COUNT; i++)
            assert_true(world.peers[i].decided <= 1);
    }
    assert_in_range(turns, 2, COUNT / TURN_MS + 1);
    turn(2000);
    assert_int_equal(conns_seen_ms(&world.conns), 2000);
    assert_int_equal(conns_next_ms(&world.conns), UINT64_MAX);
}

static void nobody_waits_for_more_than_all_others(void **state)
{
    enum { COUNT = 60, TURNS = 100 };
    unsigned sent[COUNT] = {0}, last[COUNT] = {0};

    (void)state;
    for (int i = 0; i < COUNT; i++)
        add_peer();
    for (unsigned now = 0; now < TURNS; now++) {
        /* Whoever was read sends again. */
        for (int i = 0; i < COUNT; i++)
            if (sent[i] == world.peers[i].decided) {
                send_frames(&world.peers[i], 1);
                sent[i]++;
                last[i] = now;
            }
        turn(1000);
        conns_flush(&world.conns);
        for (int i = 0; i < COUNT; i++)
            if (sent[i] > world.peers[i].decided)
                assert_true(now - last[i] <= COUNT / TURN_MS);
    }
    assert_true(decided_of_all() >= TURNS * TURN_MS);
}

static void a_busy_peer_has_its_share(void **state)
{
    struct peer *busy = add_peer(), *other = add_peer();

    (void)state;
    send_frames(busy, 1000);
    turn(1000);
    for (unsigned i = 1; i <= 20; i++) {
        assert_int_equal(busy->decided, i * READ_TOGETHER);
        send_frames(other, 1);
        turn(1000 + i);
        conns_flush(&world.conns);
        assert_int_equal(other->decided, i);
    }
}

static void who_is_quiet_waits_for_no_crowd(void **state)
{
    enum { CROWD = 50, TURNS = 400 };
    struct peer *quiet = add_peer();
    unsigned before[CROWD + 1], least = UINT32_MAX, most = 0;

    (void)state;
    for (unsigned i = 0; i < CROWD; i++)
        send_frames(add_peer(), 300);
    /* All of the crowd have been read once after this. */
    for (unsigned i = 0; i < 2 * CROWD; i++) {
        turn(1000);
        conns_flush(&world.conns);
    }
    for (unsigned i = 1; i <= CROWD; i++)
        before[i] = world.peers[i].decided;
    for (unsigned i = 1; i <= TURNS; i++) {
        struct peer *newcomer = i % 8 ? NULL : add_peer();

        send_frames(quiet, 1);
        if (newcomer)
            send_frames(newcomer, 1);
        turn(1000 + i);
        /* Leases wait for what the crowd sent before. */
        assert_true(conns_seen_ms(&world.conns) < 1000 + i);
        conns_flush(&world.conns);
        assert_int_equal(quiet->decided, i);
        assert_true(!newcomer || newcomer->decided == 1);
        if (decided_of_all() > CROWD * 200)
            break;
    }
    /* Nor does one of the crowd wait for more than all others. */
    for (unsigned i = 1; i <= CROWD; i++) {
        const unsigned decided = world.peers[i].decided - before[i];
        least = decided < least ? decided : least;
        most = decided > most ? decided : most;
    }
    assert_true(most > 0 && most - least <= READ_TOGETHER);
}

static void those_who_are_behind_get_half(void **state)
{
    enum { QUIET = 60, BUSY = 8, TURNS = 200 };
    unsigned sent[QUIET] = {0}, quiet = 0, busy = 0;

    (void)state;
    world.slow_calls = true; /* a share ends between any two calls */
    for (unsigned i = 0; i < QUIET; i++)
        add_peer();
    for (unsigned i = 0; i < BUSY; i++)
        send_frames(add_peer(), 1000);
    for (unsigned now = 0; now < TURNS; now++) {
        for (unsigned i = 0; i < QUIET; i++)
            if (sent[i] == world.peers[i].decided) {
                send_frames(&world.peers[i], 1);
                sent[i]++;
            }
        turn(1000);
        conns_flush(&world.conns);
    }
    for (unsigned i = 0; i < world.peer_count; i++)
        *(i < QUIET ? &quiet : &busy) += world.peers[i].decided;
    assert_in_range(busy, quiet * 9 / 10, quiet * 11 / 10);
}

static void calls_that_take_long_count_one_by_one(void **state)
{
    struct peer *busy = add_peer(), *other = add_peer();

    (void)state;
    world.slow_calls = true;
    world.cost_ms = 2;
    send_frames(busy, 100);
    for (unsigned i = 1; i <= 20; i++) {
        send_frames(other, 1);
        turn(1000 + i);
        conns_flush(&world.conns);
        assert_int_equal(busy->decided, i);
        assert_int_equal(other->decided, i);
    }
}

static void many_shares_hold_leases_up_for_a_second(void **state)
{
    struct peer *busy = add_peer();
    const uint64_t began_ms = world.now_ms;

    (void)state;
    send_frames(busy, 4000);
    world.cost_ms = 3;
    while (busy->decided < 4000) {
        turn(world.now_ms);
        conns_flush(&world.conns);
        const uint64_t seen_ms = conns_seen_ms(&world.conns);
        if (world.now_ms - began_ms < LAG_MS)
            assert_int_equal(seen_ms, began_ms);
        else
            assert_true(world.now_ms - seen_ms <= LAG_MS + 2 * 3 * READ_TOGETHER);
    }
}

static void a_connection_that_ends_is_on_no_list(void **state)
{
    struct peer *busy = add_peer(), *waiting[TURN_MS + 2];

    (void)state;
    send_frames(busy, 100);
    for (int i = 0; i < TURN_MS + 2; i++)
        send_frames(waiting[i] = add_peer(), 1);
    turn(1000);
    assert_true(links_first(&world.conns.turns.ready) && links_first(&world.conns.turns.later));
    for (unsigned i = 0; i < world.peer_count; i++)
        world.outlet.drop(NULL, world.peers[i].session);
    conns_flush(&world.conns);
    assert_int_equal(world.conns.count, 0);
    assert_true(!links_first(&world.conns.turns.ready) && !links_first(&world.conns.turns.later));
    turn(1001);
}

static void what_came_before_the_end_is_decided(void **state)
{
    struct peer *peer = add_peer();

    (void)state;
    send_frames(peer, 100);
    close(peer->fd);
    peer->fd = -1;
    for (int i = 0; i < 20 && peer->session; i++) {
        assert_true(!peer->input_ended || peer->decided == 100);
        turn(1000);
        conns_flush(&world.conns);
    }
    assert_int_equal(peer->decided, 100);
    assert_null(peer->session);
}

static void nothing_is_read_while_it_is_paused(void **state)
{
    struct peer *peer = add_peer();

    (void)state;
    conns_pause(&world.conns, true);
    conns_flush(&world.conns);
    send_frames(peer, 1);
    turn(1000);
    assert_int_equal(conns_seen_ms(&world.conns), 1000);
    assert_int_equal(conns_next_ms(&world.conns), UINT64_MAX);
    turn(1001);
    assert_int_equal(conns_seen_ms(&world.conns), 1000);
    assert_int_equal(peer->decided, 0);
    conns_pause(&world.conns, false);
    conns_flush(&world.conns);
    assert_true(conns_can_read(&world.conns));
    conns_read(&world.conns);
    assert_int_equal(peer->decided, 1);
    send_frames(peer, 1);
    turn(1002);
    assert_int_equal(peer->decided, 2);
}

static void open_calls_are_no_reason_to_wait(void **state)
{
    struct peer *peer = add_peer();

    (void)state;
    world.keep_open = true;
    world.cost_ms = 0;
    send_frames(peer, 1100);
    turn(1000);
    assert_int_equal(peer->decided, 1024);
    conns_flush(&world.conns);
    /* It has more open calls than it may have: nobody waits for it. */
    turn(1001);
    assert_int_equal(conns_seen_ms(&world.conns), 1001);
    assert_int_equal(conns_next_ms(&world.conns), UINT64_MAX);
    peer->session->open_calls = 0;
    world.outlet.send(NULL, peer->session, &answer);
    conns_flush(&world.conns);
    assert_true(conns_can_read(&world.conns));
    conns_read(&world.conns);
    assert_int_equal(peer->decided, 1100);
}

static void the_longest_idle_one_goes_first(void **state)
{
    enum { COUNT = 8 };
    struct peer *peers[COUNT];

    (void)state;
    turn(999);
    for (unsigned i = 0; i < COUNT; i++)
        peers[i] = add_peer();
    /* In this order they said something: 3, 2, 4, 5. */
    for (unsigned i = 0; i < 4; i++) {
        send_frames(peers[(const unsigned[]){3, 2, 4, 5}[i]], 1);
        turn(1000 + i);
        conns_flush(&world.conns);
    }
    peers[2]->session->party.parked_count = 1;
    world.keep_open = true;
    send_frames(peers[4], 1);                                         /* has an open call */
    assert_int_equal(send(peers[5]->fd, "\0\0", 2, MSG_DONTWAIT), 2); /* half a frame */
    turn(1010);
    conns_flush(&world.conns);
    send_frames(peers[6], 1); /* was not read yet */
    for (unsigned i = 0; i < 4; i++) {
        /* Newcomers have a while to say something: it is over after the first of these. */
        const struct peer *next = peers[(const unsigned[]){3, 0, 1, 7}[i]];
        if (i == 1)
            world.now.boot_ms = world.now_ms += 100;
        assert_non_null(next->session);
        assert_true(conns_close_idle(&world.conns));
        assert_null(next->session);
        assert_int_equal(world.idle_closed, i + 1);
    }
    assert_false(conns_close_idle(&world.conns));
    /* Nothing is bound to it any more. */
    peers[2]->session->party.parked_count = 0;
    assert_true(conns_close_idle(&world.conns));
    assert_null(peers[2]->session);
    /* And this one was answered. */
    peers[4]->session->open_calls = 0;
    world.outlet.send(NULL, peers[4]->session, &answer);
    conns_flush(&world.conns);
    assert_true(conns_close_idle(&world.conns));
    assert_null(peers[4]->session);
    assert_false(conns_close_idle(&world.conns));
    assert_int_equal(world.conns.count, 2);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_turn_ends_and_the_next_goes_on, set_up, tear_down),
        cmocka_unit_test_setup_teardown(nobody_waits_for_more_than_all_others, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_busy_peer_has_its_share, set_up, tear_down),
        cmocka_unit_test_setup_teardown(who_is_quiet_waits_for_no_crowd, set_up, tear_down),
        cmocka_unit_test_setup_teardown(those_who_are_behind_get_half, set_up, tear_down),
        cmocka_unit_test_setup_teardown(calls_that_take_long_count_one_by_one, set_up, tear_down),
        cmocka_unit_test_setup_teardown(many_shares_hold_leases_up_for_a_second, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_connection_that_ends_is_on_no_list, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_came_before_the_end_is_decided, set_up, tear_down),
        cmocka_unit_test_setup_teardown(nothing_is_read_while_it_is_paused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_longest_idle_one_goes_first, set_up, tear_down),
        cmocka_unit_test_setup_teardown(open_calls_are_no_reason_to_wait, set_up, tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
