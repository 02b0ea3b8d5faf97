/* Most reads end where a frame ends, so they go into one shared buffer; only what is left of a frame is kept with its
 * connection. Answers are gathered in its outbox, which is emptied once a turn. */
#include "daemon/server/conn.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/base/memory.h"
#include "daemon/base/number.h"
#include "daemon/server/peer.h"
#include "proto/frame.h"
#include "proto/limits.h"

enum {
    READ_TOGETHER_BYTES = 64 * 1024,  /* of frames that are read before the first of them is decided */
    READS_A_TURN = 4,                 /* so that one busy peer leaves room for others */
    OUT_BYTES_MAX = 1024 * 1024,      /* of answers not sent yet; over that no call is decided */
    IN_BYTES_MAX = 256 * 1024 * 1024, /* of unfinished frames, over all connections */
    FRAME_MS_MAX = 10 * 1000,         /* a frame that has begun is there after this long */
    LINGER_MS_MAX = 2 * 1000,         /* a peer that was told of a bad frame closes within this */
    STUCK_MS_MAX = 60 * 1000,         /* a peer takes some of its answers within this */
};

void conn_mark_dirty(struct conn *conn)
{
    link_append(&conn->conns->dirty, &conn->dirty);
}

/* ---- The end of reading ------------------------------------------------------------- */

static void set_in_capacity(struct conn *conn, uint32_t capacity)
{
    conn->conns->in_bytes += capacity;
    conn->conns->in_bytes -= conn->in_capacity;
    conn->in_capacity = capacity;
    if (capacity) {
        conn->in = mem_resize(conn->in, capacity);
    } else {
        mem_free(conn->in);
        conn->in = NULL;
    }
}

static void set_deadline(struct conn *conn, uint64_t ms)
{
    deadline_set(&conn->conns->deadlines, &conn->deadline, conns_peer_time(conn->conns) + ms);
}

static void clear_deadline(struct conn *conn)
{
    deadline_clear(&conn->conns->deadlines, &conn->deadline);
}

/* Until conn_resume. */
static void pause_reading(struct conn *conn)
{
    ev_io_stop(conn->conns->loop, &conn->readable);
    clear_deadline(conn);
}

void conn_stop_reading(struct conn *conn)
{
    if (conn->state != CONN_READING)
        return;
    pause_reading(conn);
    turns_leave(&conn->conns->turns, &conn->turn);
}

void conn_drop(struct conn *conn)
{
    pause_reading(conn);
    conn->state = CONN_DROPPED;
    conn_mark_dirty(conn);
}

static void end_input(struct conn *conn, enum conn_state state)
{
    assert(conn->state == CONN_READING);
    conn->state = state;
    pause_reading(conn);
    conn->in_size = 0;
    conn->more = false;
    set_in_capacity(conn, 0);
    service_session_input_ended(&conn->session, conn->conns->now);
    conn_mark_dirty(conn);
}

static void refuse_frame(struct conn *conn, const char *message)
{
    service_bad_frame(&conn->session, message);
    end_input(conn, CONN_REFUSED);
}

/* ---- Frames -------------------------------------------------------------------------- */

/* May another call of this connection be decided, if the turn has time for it? */
static bool may_decide(const struct conn *conn)
{
    return conn->state == CONN_READING && !conn->conns->paused && !conn->conns->draining &&
           conn->session.open_calls < IDEM_OPEN_CALLS_MAX && conn->out.bytes + conn->session.held.bytes < OUT_BYTES_MAX;
}

static bool can_decide(const struct conn *conn)
{
    return may_decide(conn) && turns_has_room(&conn->conns->turns);
}

/* Frames that were cut out and are to be decided. */
struct frames {
    struct service_message messages[SERVICE_READ_MAX];
    unsigned count;
    uint32_t end[SERVICE_READ_MAX]; /* where each ends */
    enum frame_cut next;            /* FRAME_WHOLE: there may be more */
};

/* Cuts frames out of data[at .. size), as many as are read together. */
static void cut_frames(const struct conn *conn, uint8_t *data, uint32_t size, uint32_t at, struct frames *frames)
{
    const uint32_t bytes_max = service_message_bytes_max(conn->session.service), start = at;
    uint32_t message_bytes;

    frames->count = 0;
    frames->next = FRAME_WHOLE;
    while (frames->count < SERVICE_READ_MAX && at - start < READ_TOGETHER_BYTES) {
        frames->next = frame_cut(data + at, size - at, bytes_max, &message_bytes);
        if (frames->next != FRAME_WHOLE)
            return;
        frames->messages[frames->count] = (struct service_message){data + at + IDEM_FRAME_HEADER_BYTES, message_bytes};
        at += IDEM_FRAME_HEADER_BYTES + message_bytes;
        frames->end[frames->count++] = at;
    }
}

static void decide_frame(struct conn *conn, const struct frames *frames, unsigned number)
{
    turns_take(&conn->conns->turns, frames->messages[number].size);
    clear_deadline(conn);
    if (!service_decide(&conn->session, number, conn->read_ms, conn->conns->now))
        end_input(conn, CONN_REFUSED);
}

/* Decides the frames in data[0 .. size), as far as it may. Returns how many bytes were taken. */
static uint32_t decide_frames(struct conn *conn, uint8_t *data, uint32_t size)
{
    struct service *service = conn->session.service;
    struct turns *turns = &conn->conns->turns;
    struct frames frames = {.next = FRAME_WHOLE};
    uint32_t at = 0;
    unsigned decided = 0;
    bool over = false;

    while (!over && frames.next == FRAME_WHOLE && can_decide(conn)) {
        cut_frames(conn, data, size, at, &frames);
        service_read(service, frames.messages, frames.count);
        for (decided = 0; decided < frames.count && !over && can_decide(conn); decided++) {
            at = frames.end[decided];
            decide_frame(conn, &frames, decided);
            if (!service_is_brief(service, decided)) {
                turns_read_clock(turns);
                over = turns_share_is_over(turns);
            }
        }
        service_read_end(service);
        if (frames.next != FRAME_WHOLE)
            break;
        turns_read_clock(turns);
        over |= turns_share_is_over(turns);
    }
    conn->more = conn->state == CONN_READING && at < size && (decided < frames.count || frames.next != FRAME_PARTIAL);
    if (frames.next != FRAME_WHOLE && frames.next != FRAME_PARTIAL && decided == frames.count && can_decide(conn))
        refuse_frame(conn, frames.next == FRAME_BAD_FLAG ? "frame: its flag byte is not 0"
                                                         : "frame: longer than max_frame_bytes, as Hello tells it");
    return at;
}

/* ---- In ------------------------------------------------------------------------------ */

/* Of the others: whose frame has been on its way for the longest. NULL: nobody else has one. */
static struct conn *slowest_but(const struct conn *conn)
{
    const struct link *list = &conn->conns->list;
    struct conn *slowest = NULL;

    for (struct link *link = list->next; link != list; link = link->next) {
        struct conn *other = conn_of_link(link);
        if (other != conn && other->state == CONN_READING && other->in_capacity > 0 &&
            deadline_is_set(&other->deadline) && (!slowest || other->deadline.at_ms < slowest->deadline.at_ms))
            slowest = other;
    }
    return slowest;
}

/* Makes room in the memory for unfinished frames: the slowest sender has to go, and gets no answer but the end. False:
 * there is none but this one, and it was told. */
static bool have_memory(struct conn *conn, uint32_t capacity)
{
    struct conns *conns = conn->conns;

    while (conns->in_bytes + capacity - conn->in_capacity > IN_BYTES_MAX) {
        struct conn *slowest = slowest_but(conn);

        if (!slowest) {
            service_no_memory(&conn->session);
            end_input(conn, CONN_REFUSED);
            return false;
        }
        set_in_capacity(slowest, 0);
        slowest->in_size = 0;
        conn_drop(slowest);
    }
    return true;
}

/* Keeps what is left of data after `at`, which may be the connection's own buffer or the shared one. */
static void keep_rest(struct conn *conn, const uint8_t *data, uint32_t size, uint32_t at)
{
    const uint32_t rest = size - at;

    if (conn->state != CONN_READING)
        return;
    if (rest == 0) {
        conn->in_size = 0;
        set_in_capacity(conn, 0);
        return;
    }
    if (data != conn->in && conn->in_capacity < rest) {
        if (!have_memory(conn, rest))
            return;
        set_in_capacity(conn, rest);
    }
    memmove(conn->in, data + at, rest);
    conn->in_size = rest;
}

/* After deciding: goes on reading, now or later, waits until it can, or has come to the end. */
static void settle(struct conn *conn)
{
    if (conn->state != CONN_READING)
        return;
    conn->turn.behind = conn->more || conn->unread;
    if (!may_decide(conn)) {
        pause_reading(conn);
    } else if (conn->eof && !conn->more) {
        end_input(conn, CONN_ENDED);
    } else {
        if (conn->turn.behind)
            turns_again(&conn->conns->turns, &conn->turn);
        else if (conn->in_size && !deadline_is_set(&conn->deadline))
            set_deadline(conn, FRAME_MS_MAX);
        if (!conn->eof)
            ev_io_start(conn->conns->loop, &conn->readable);
    }
    conn_mark_dirty(conn);
}

/* Room for the rest of the frame that has begun, or for a good read of it. */
static bool make_room(struct conn *conn)
{
    uint32_t message_bytes, want = conn->in_size + CONN_SCRATCH_BYTES;

    frame_cut(conn->in, conn->in_size, UINT32_MAX, &message_bytes);
    /* Memory follows what was really sent, not what was announced. */
    if (want < 2 * conn->in_size)
        want = 2 * conn->in_size;
    if (message_bytes && message_bytes + IDEM_FRAME_HEADER_BYTES < want &&
        message_bytes + IDEM_FRAME_HEADER_BYTES > conn->in_size)
        want = message_bytes + IDEM_FRAME_HEADER_BYTES;
    if (conn->in_capacity - conn->in_size > 0)
        return true;
    if (!have_memory(conn, want))
        return false;
    set_in_capacity(conn, want);
    return true;
}

/* One read, and what can be decided of it. */
static void read_once(struct conn *conn)
{
    struct turns *turns = &conn->conns->turns;
    const bool shared = conn->in_size == 0;
    uint8_t *data;
    uint32_t room;
    ssize_t size;

    conn->unread = false;
    if (!shared && !make_room(conn))
        return;
    data = shared ? conn->conns->scratch : conn->in + conn->in_size;
    room = shared ? CONN_SCRATCH_BYTES : conn->in_capacity - conn->in_size;
    size = recv(conn->fd, data, room, MSG_DONTWAIT);
    if (size < 0) {
        if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)
            conn->eof = true; /* broken: as good as ended */
        return;
    }
    conn->eof = size == 0;
    conn->heard |= size > 0;
    conn->unread = (uint32_t)size == room;
    turns_read_clock(turns);
    turns_start_share(turns, &conn->turn);
    conn->read_ms = conn->conns->now->boot_ms;
    const uint32_t total = (shared ? 0 : conn->in_size) + (uint32_t)size;
    uint8_t *start = shared ? data : conn->in;
    keep_rest(conn, start, total, decide_frames(conn, start, total));
}

void conn_read(struct conn *conn)
{
    struct turns *turns = &conn->conns->turns;

    if (conn->state != CONN_READING)
        return;
    if (conn->more) {
        turns_read_clock(turns);
        turns_start_share(turns, &conn->turn);
        keep_rest(conn, conn->in, conn->in_size, decide_frames(conn, conn->in, conn->in_size));
    }
    for (int i = 0; i < READS_A_TURN && conn->unread && !conn->more && can_decide(conn); i++) {
        if (i > 0 && turns_share_is_over(turns))
            break;
        read_once(conn);
    }
    settle(conn);
}

void conn_resume(struct conn *conn)
{
    if (conn->state != CONN_READING || ev_is_active(&conn->readable) || !may_decide(conn))
        return;
    link_remove(&conn->idle);
    turns_resume(&conn->conns->turns, &conn->turn);
}

void conn_is_late(struct conn *conn)
{
    if (conn->state == CONN_READING && turn_is_waiting(&conn->turn)) {
        set_deadline(conn, FRAME_MS_MAX); /* the rest may be there: it was not read for want of time */
        return;
    }
    clear_deadline(conn);
    if (conn->state == CONN_READING)
        refuse_frame(conn, "frame: it did not arrive within 10 s");
    else
        conn->state = CONN_DROPPED;
    conn_mark_dirty(conn);
}

/* ---- Out ------------------------------------------------------------------------ */

void conn_send(struct conn *conn, const struct response *response)
{
    conn_mark_dirty(conn);
    if (conn->state != CONN_DROPPED && conn->state != CONN_LINGERING)
        outbox_add(&conn->out, response);
}

/* Sends what the socket takes. False: the connection is broken. */
static bool send_out(struct conn *conn)
{
    if (!outbox_send(&conn->out, conn->fd))
        return false;
    if (outbox_is_empty(&conn->out))
        ev_io_stop(conn->conns->loop, &conn->writable);
    else
        ev_io_start(conn->conns->loop, &conn->writable);
    return true;
}

static bool all_answered(const struct conn *conn)
{
    return conn->session.open_calls == 0 && outbox_is_empty(&conn->out);
}

/* It was told, and there is nothing more to say: the peer reads it before it meets the end. */
static void linger(struct conn *conn)
{
    conn->state = CONN_LINGERING;
    shutdown(conn->fd, SHUT_WR);
    set_deadline(conn, LINGER_MS_MAX);
    ev_io_start(conn->conns->loop, &conn->readable);
}

/* Leases that are bound to it are looked at when it is to be closed: they end without its doing. */
static void note_idle(struct conn *conn)
{
    if (conn->state == CONN_READING && all_answered(conn) && !conn->in_size && !turn_is_waiting(&conn->turn))
        link_append(conn->heard ? &conn->conns->idle : &conn->conns->silent, &conn->idle);
}

void conn_flush(struct conn *conn)
{
    const bool was_reading = conn->state == CONN_READING;
    const uint64_t before_bytes = conn->out.bytes;

    link_remove(&conn->dirty);
    if (conn->state == CONN_DROPPED || !send_out(conn)) {
        conn_close(conn);
        return;
    }
    if (outbox_is_empty(&conn->out))
        deadline_clear(&conn->conns->stuck, &conn->stuck);
    else if (conn->out.bytes < before_bytes || !deadline_is_set(&conn->stuck))
        deadline_set(&conn->conns->stuck, &conn->stuck, conns_peer_time(conn->conns) + STUCK_MS_MAX);
    if (conn->state == CONN_REFUSED && all_answered(conn)) {
        linger(conn);
    } else if (all_answered(conn) && (conn->state == CONN_ENDED || (was_reading && conn->conns->draining))) {
        conn_close(conn);
    } else {
        conn_resume(conn);
        note_idle(conn);
    }
}

/* ---- A connection's life ------------------------------------------------------------ */

/* Of one that lingers: what its peer still sends. */
static void discard(struct conn *conn)
{
    for (int i = 0; i < READS_A_TURN; i++) {
        const ssize_t size = recv(conn->fd, conn->conns->scratch, CONN_SCRATCH_BYTES, MSG_DONTWAIT);
        if (size > 0 || (size < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)))
            continue;
        conn->state = CONN_DROPPED;
        break;
    }
    conn_mark_dirty(conn);
}

static void on_readable(struct ev_loop *loop, ev_io *watcher, int events)
{
    struct conn *conn = watcher->data;

    (void)loop, (void)events;
    if (conn->state == CONN_LINGERING) {
        discard(conn);
        return;
    }
    conn->unread = true;
    link_remove(&conn->idle);
    turns_found(&conn->conns->turns, &conn->turn);
    if (conn->conns->paused)
        pause_reading(conn);
}

static void on_writable(struct ev_loop *loop, ev_io *watcher, int events)
{
    (void)loop, (void)events;
    conn_mark_dirty(watcher->data);
}

bool conn_is_alive(const struct conn *conn)
{
    return conn->state == CONN_READING && !conn->eof && peer_is_alive(conn->fd);
}

void conn_open(struct conns *conns, int fd)
{
    struct conn *conn = mem_zero(1, sizeof *conn);

    conn->conns = conns;
    conn->fd = fd;
    conn->read_ms = conns->now->boot_ms;
    link_append(&conns->list, &conn->link);
    conns->count++;
    outbox_open(&conn->out, &conns->unsent);
    service_session_open(conns->service, &conn->session);
    ev_io_init(&conn->readable, on_readable, fd, EV_READ);
    ev_io_init(&conn->writable, on_writable, fd, EV_WRITE);
    conn->readable.data = conn->writable.data = conn;
    ev_io_start(conns->loop, &conn->readable);
    link_append(&conns->silent, &conn->idle);
}

void conn_close(struct conn *conn)
{
    struct conns *conns = conn->conns;

    link_remove(&conn->link);
    link_remove(&conn->dirty);
    link_remove(&conn->idle);
    turns_leave(&conns->turns, &conn->turn);
    ev_io_stop(conns->loop, &conn->readable);
    ev_io_stop(conns->loop, &conn->writable);
    clear_deadline(conn);
    deadline_clear(&conns->stuck, &conn->stuck);
    service_session_close(&conn->session, conns->now);
    outbox_clear(&conn->out);
    set_in_capacity(conn, 0);
    close(conn->fd);
    conns->count--;
    conns->closed++;
    mem_free(conn);
}
