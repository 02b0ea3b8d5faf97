/* See conns.h. */
#include "daemon/server/conns.h"

#include <stddef.h>

#include "daemon/base/memory.h"
#include "daemon/base/number.h"
#include "daemon/server/peer.h"

enum {
    UNSENT_BYTES_MAX = 256 * 1024 * 1024, /* of the memory of answers that were not sent, over all connections; and */
    UNSENT_PART = 4,                      /* no more than this part of the memory that may be used, or, */
    UNSENT_PART_SHORT = 32,               /* while memory is short, than this */
    SILENT_MS = 100,                      /* a peer that has just been accepted has this long to say something */
    IDLE_LOOKS_MAX = 256,                 /* so many are looked at to find one that is idle */
};

static struct conn *conn_of_session(struct session *session)
{
    return (struct conn *)(void *)session;
}

static struct conn *conn_of_dirty(struct link *link)
{
    return (struct conn *)(void *)((char *)link - offsetof(struct conn, dirty));
}

static struct conn *conn_of_idle(struct link *link)
{
    return (struct conn *)(void *)((char *)link - offsetof(struct conn, idle));
}

static struct conn *conn_of_turn(struct turn *turn)
{
    return (struct conn *)(void *)((char *)turn - offsetof(struct conn, turn));
}

static struct conn *conn_of_deadline(struct deadline *deadline)
{
    return (struct conn *)(void *)((char *)deadline - offsetof(struct conn, deadline));
}

static struct conn *conn_of_stuck(struct deadline *deadline)
{
    return (struct conn *)(void *)((char *)deadline - offsetof(struct conn, stuck));
}

/* ---- Those that have to go -------------------------------------------------------------- */

/* The first on the list that is idle indeed, and was not read since then; NULL: there is none, as far as was looked. */
static struct conn *find_idle(struct link *list, uint64_t before_ms)
{
    struct link *first;

    for (int i = 0; i < IDLE_LOOKS_MAX && (first = links_first(list)); i++) {
        struct conn *conn = conn_of_idle(first);

        if (conn->read_ms > before_ms)
            break;
        if (!peer_has_input(conn->fd) && !service_session_is_bound(&conn->session))
            return conn;
        /* The next ones are looked at before this one is again. What it has sent is read soon. */
        link_remove(first);
        link_append(list, first);
    }
    return NULL;
}

bool conns_close_idle(struct conns *conns)
{
    struct conn *conn = find_idle(&conns->silent, conns->now->boot_ms - SILENT_MS);

    if (!conn)
        conn = find_idle(&conns->idle, UINT64_MAX);
    if (!conn)
        conn = find_idle(&conns->silent, UINT64_MAX);
    if (!conn)
        return false;
    service_idle_closed(conns->service, conns->count, conns->now);
    conn_close(conn);
    return true;
}

/* A peer that does not take its answers is closed. */
static void drop_reader(struct conn *conn)
{
    struct conns *conns = conn->conns;

    service_reader_dropped(conns->service, conns->unsent.bytes, conns->now);
    conn_close(conn);
}

static uint64_t unsent_bytes_max(void)
{
    const uint64_t limit = mem_limited(), part = limit / (mem_is_short() ? UNSENT_PART_SHORT : UNSENT_PART);

    return limit ? number_min(part, UNSENT_BYTES_MAX) : UNSENT_BYTES_MAX;
}

/* If unread answers take too much memory, those have to go whose answers have not moved for the longest. */
static void bound_unsent(struct conns *conns)
{
    struct deadline *slowest;

    while (conns->unsent.bytes > unsent_bytes_max() && (slowest = deadlines_first(&conns->stuck)))
        drop_reader(conn_of_stuck(slowest));
}

void conns_end_deadlines(struct conns *conns)
{
    struct deadline *first;

    while ((first = deadlines_first(&conns->deadlines)) && first->at_ms <= conns_peer_time(conns))
        conn_is_late(conn_of_deadline(first));
    while ((first = deadlines_first(&conns->stuck)) && first->at_ms <= conns_peer_time(conns))
        drop_reader(conn_of_stuck(first));
}

uint64_t conns_next_ms(const struct conns *conns)
{
    const struct deadline *frame = deadlines_first(&conns->deadlines), *stuck = deadlines_first(&conns->stuck);
    const uint64_t at_ms = number_min(frame ? frame->at_ms : UINT64_MAX, stuck ? stuck->at_ms : UINT64_MAX);

    if (!conns->paused && turns_any_waits(&conns->turns))
        return conns->now->boot_ms;
    return at_ms == UINT64_MAX ? UINT64_MAX : at_ms + conns->stalled_ms;
}

void conns_stalled(struct conns *conns, uint64_t stalled_ms)
{
    conns->stalled_ms += stalled_ms;
}

/* ---- A turn ---------------------------------------------------------------------------- */

void conns_begin_turn(struct conns *conns, uint64_t looked_ms)
{
    turns_begin(&conns->turns, looked_ms);
}

void conns_ready(struct conns *conns)
{
    turns_go_on(&conns->turns);
    for (struct link *link = conns->dirty.next; link != &conns->dirty; link = link->next)
        conn_resume(conn_of_dirty(link));
}

void conns_read(struct conns *conns)
{
    struct turn *turn;

    /* One at least, whatever else the turn had to do. */
    while (!conns->paused && (turn = turns_next(&conns->turns))) {
        turns_begin_share(&conns->turns, turn);
        conn_read(conn_of_turn(turn));
        turn_end_share(turn);
        if (turns_is_over(&conns->turns))
            break;
    }
    turns_end_charge(&conns->turns);
}

bool conns_can_read(const struct conns *conns)
{
    return !conns->paused && turns_next(&conns->turns) && !turns_is_over(&conns->turns);
}

uint64_t conns_seen_ms(struct conns *conns)
{
    return turns_seen_ms(&conns->turns);
}

void conns_flush(struct conns *conns)
{
    struct link *first;

    turns_clear_taken(&conns->turns);
    while ((first = links_first(&conns->dirty)))
        conn_flush(conn_of_dirty(first));
    bound_unsent(conns);
}

/* ---- All of them ---------------------------------------------------------------------- */

static void mark_all(struct conns *conns)
{
    for (struct link *link = conns->list.next; link != &conns->list; link = link->next)
        conn_mark_dirty(conn_of_link(link));
}

void conns_pause(struct conns *conns, bool paused)
{
    if (conns->paused == paused)
        return;
    conns->paused = paused;
    mark_all(conns);
}

void conns_drain(struct conns *conns)
{
    conns->draining = true;
    for (struct link *link = conns->list.next; link != &conns->list; link = link->next)
        conn_stop_reading(conn_of_link(link));
    mark_all(conns);
}

void conns_open(struct conns *conns, struct ev_loop *loop, struct clock *clock, struct now *now)
{
    *conns = (struct conns){.loop = loop, .now = now};
    links_open(&conns->list);
    links_open(&conns->dirty);
    links_open(&conns->silent);
    links_open(&conns->idle);
    turns_open(&conns->turns, clock, now);
    outboxes_open(&conns->unsent);
    conns->scratch = mem_alloc(CONN_SCRATCH_BYTES);
}

void conns_close(struct conns *conns)
{
    struct link *first;

    while ((first = links_first(&conns->list)))
        conn_close(conn_of_link(first));
    outboxes_close(&conns->unsent);
    deadlines_free(&conns->deadlines);
    deadlines_free(&conns->stuck);
    mem_free(conns->scratch);
}

/* ---- What the service asks ---------------------------------------------------------------- */

static void on_send(void *context, struct session *session, const struct response *response)
{
    (void)context;
    conn_send(conn_of_session(session), response);
}

static void on_drop(void *context, struct session *session)
{
    (void)context;
    conn_drop(conn_of_session(session));
}

static bool on_alive(void *context, struct session *session)
{
    (void)context;
    return conn_is_alive(conn_of_session(session));
}

static void on_peer(void *context, struct session *session, char text[PEER_BYTES])
{
    (void)context;
    peer_describe(conn_of_session(session)->fd, text);
}

static void on_count(void *context, uint64_t *connections, uint64_t *buffered_bytes)
{
    const struct conns *conns = context;

    *connections = conns->count;
    *buffered_bytes = conns->in_bytes + conns->unsent.bytes;
}

struct service_outlet conns_outlet(struct conns *conns)
{
    return (struct service_outlet){
        .send = on_send, .drop = on_drop, .alive = on_alive, .peer = on_peer, .count = on_count, .context = conns};
}
