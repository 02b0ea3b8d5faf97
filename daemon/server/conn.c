/* One connection's bytes. Most reads end where a frame ends, so they go into one shared buffer; only what is left of a
 * frame is kept with its connection. Answers are gathered in its outbox, which is emptied once a turn. */
#include "daemon/server/conn.h"

#include <assert.h>
#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/base/logging.h"
#include "daemon/base/memory.h"
#include "proto/frame.h"
#include "proto/limits.h"

enum {
    SCRATCH_BYTES = 64 * 1024,
    READ_TOGETHER_BYTES = 64 * 1024, /* of frames that are read before the first of them is decided */
    READS_A_TURN = 4,                /* so that one busy peer leaves room for others; and so does */
    SHARE_NS_MAX = 2000000,          /* what one is read and decided for in a turn; less if many wait, */
    SHARE_NS_MIN = 100000,           /* but no less than this; */
    SHARE_BEHIND_NS_MIN = 250000,    /* or this, if it is behind: putting it by costs a copy of what it sent */
    TURN_MS = 10,                    /* all of them together: then leases, batches and answers have their turn */
    HALF_TURN_NS = TURN_MS * 1000000 / 2,
    SHARE_LAG_MS_MAX = 1000,     /* who needs more than a share holds up the end of leases no longer than this */
    EVENTS_SURE = 48,            /* so many events and fewer libev fetches in one wait, from the beginning */
    OUT_BYTES_MAX = 1024 * 1024, /* of answers not sent yet; over that no call is decided */
    UNSENT_BYTES_MAX = 256 * 1024 * 1024, /* of the memory of such answers, over all connections; and */
    UNSENT_PART = 4,                      /* no more than this part of the memory that may be used, or, */
    UNSENT_PART_SHORT = 32,               /* while memory is short, than this */
    IN_BYTES_MAX = 256 * 1024 * 1024,     /* of unfinished frames, over all connections */
    TAKEN_BYTES_MAX = 32 * 1024 * 1024,   /* decided in one turn, over all connections; the rest waits for the next */
    FRAME_MS_MAX = 10 * 1000,             /* a frame that has begun is there after this long */
    LINGER_MS_MAX = 2 * 1000,             /* a peer that was told of a bad frame closes within this */
    STUCK_MS_MAX = 60 * 1000,             /* a peer takes some of its answers within this */
    DROP_LOG_MS = 10 * 1000,              /* between two lines about peers that did not */
    SILENT_MS = 100,                      /* a peer that has just been accepted has this long to say something */
    IDLE_LOG_MS = 1000,                   /* between two lines about idle connections that were closed */
    IDLE_LOOKS_MAX = 256,                 /* so many are looked at to find one that is idle */
};

enum conn_state { CONN_READING, CONN_ENDED, CONN_REFUSED, CONN_LINGERING, CONN_DROPPED };

struct conn {
    struct session session;   /* first member */
    struct deadline deadline; /* of a frame, or of lingering */
    struct deadline stuck;    /* of answers that do not move */
    struct conns *conns;
    struct conn *previous, *next;
    struct link dirty;
    struct link ready;   /* in conns->ready, ->behind, ->later or ->fresh */
    struct link waiting; /* likewise, in conns->waiting */
    struct link idle;    /* in conns->silent or conns->idle */
    ev_io readable, writable;
    int fd;
    enum conn_state state;
    bool heard;  /* its peer has said something */
    bool behind; /* when it was read last, there was more than its share was enough for */
    bool unread; /* there may be something in the socket */
    bool more;   /* whole frames were read and not decided */
    bool eof;    /* the peer's input has ended; what was read before is still decided */
    uint8_t *in; /* what was read and not decided */
    uint32_t in_size, in_capacity;
    uint64_t read_ms;  /* when it was read last; accepted, if it never was */
    uint64_t since_ms; /* while it is ready: what it has not been read for arrived after this, if within its share */
    struct outbox out;
};

static struct conn *conn_of(struct session *session)
{
    return (struct conn *)(void *)session;
}

static struct conn *conn_of_dirty(struct link *link)
{
    return (struct conn *)(void *)((char *)link - offsetof(struct conn, dirty));
}

static struct conn *conn_of_ready(struct link *link)
{
    return (struct conn *)(void *)((char *)link - offsetof(struct conn, ready));
}

static struct conn *conn_of_waiting(struct link *link)
{
    return (struct conn *)(void *)((char *)link - offsetof(struct conn, waiting));
}

static void mark_dirty(struct conn *conn)
{
    link_append(&conn->conns->dirty, &conn->dirty);
}

/* ---- Out ------------------------------------------------------------------------ */

static void on_send(void *context, struct session *session, const struct response *response)
{
    struct conn *conn = conn_of(session);

    (void)context;
    mark_dirty(conn);
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

/* ---- In -------------------------------------------------------------------------- */

/* May another call of this connection be decided, if the turn has time for it? */
static bool may_decide(const struct conn *conn)
{
    return conn->state == CONN_READING && !conn->conns->paused && !conn->conns->draining &&
           conn->session.open_calls < IDEM_OPEN_CALLS_MAX && conn->out.bytes + conn->session.held.bytes < OUT_BYTES_MAX;
}

static bool can_decide(const struct conn *conn)
{
    return may_decide(conn) && conn->conns->taken_bytes < TAKEN_BYTES_MAX;
}

/* As of when the clock was last read. */
static bool turn_is_over(const struct conns *conns)
{
    return conns->now.boot_ms - conns->turn_ms >= TURN_MS || conns->taken_bytes >= TAKEN_BYTES_MAX;
}

static bool share_is_over(const struct conns *conns)
{
    return conns->now.boot_ns - conns->share_from_ns >= conns->share_ns || turn_is_over(conns);
}

/* Those on ready go first, but not for long if there are others: then both get the same time. */
static void charge(struct conns *conns, uint64_t ns)
{
    if (conns->charged > 0 && links_first(&conns->behind))
        conns->owed_ns = conns->owed_ns + ns < 2 * (uint64_t)HALF_TURN_NS ? conns->owed_ns + ns : 2 * HALF_TURN_NS;
    else if (conns->charged < 0)
        conns->owed_ns -= conns->owed_ns < ns ? conns->owed_ns : ns;
}

static void read_clock(struct conns *conns)
{
    const uint64_t before_ns = conns->now.boot_ns;

    conns->now = clock_now(conns->clock);
    charge(conns, conns->now.boot_ns - before_ns);
}

/* The first one in its share: what passed before was not its time. */
static void start_share(struct conn *conn)
{
    struct conns *conns = conn->conns;

    if (conns->share_from_ns)
        return;
    conns->share_from_ns = conns->now.boot_ns;
    conns->charged = conn->behind ? -1 : 1;
}

/* Of a connection that is ready, or behind. */
static uint64_t share_ns(const struct conn *conn)
{
    const uint64_t least_ns = conn->behind ? SHARE_BEHIND_NS_MIN : SHARE_NS_MIN;
    const uint64_t part_ns = HALF_TURN_NS / (conn->behind ? conn->conns->behind_count : conn->conns->ready_count);

    return part_ns < least_ns ? least_ns : part_ns > SHARE_NS_MAX ? SHARE_NS_MAX : part_ns;
}

static uint32_t *count_of(const struct conn *conn)
{
    return conn->behind ? &conn->conns->behind_count : &conn->conns->ready_count;
}

/* Will be read and decided for, this turn or next. It keeps its place in conns->waiting if it has one. */
static void mark_ready(struct conn *conn, struct link *list)
{
    if (link_is_listed(&conn->ready))
        return;
    link_remove(&conn->idle);
    link_append(list, &conn->ready);
    ++*count_of(conn);
    if (!link_is_listed(&conn->waiting)) {
        conn->since_ms = conn->conns->looked_ms;
        link_append(&conn->conns->waiting, &conn->waiting);
    }
}

static void unmark_ready(struct conn *conn)
{
    if (!link_is_listed(&conn->ready))
        return;
    link_remove(&conn->ready);
    --*count_of(conn);
}

/* It has nothing, or may have nothing, that is to be read. */
static void wait_no_more(struct conn *conn)
{
    unmark_ready(conn);
    link_remove(&conn->waiting);
}

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

/* The time that peers are held to: the daemon's own stalls are not theirs. */
static uint64_t peer_time(const struct conns *conns)
{
    return conns->now.boot_ms - conns->stalled_ms;
}

static void set_deadline(struct conn *conn, uint64_t ms)
{
    deadline_set(&conn->conns->deadlines, &conn->deadline, peer_time(conn->conns) + ms);
}

static void clear_deadline(struct conn *conn)
{
    deadline_clear(&conn->conns->deadlines, &conn->deadline);
}

static void stop_reading(struct conn *conn)
{
    ev_io_stop(conn->conns->loop, &conn->readable);
    clear_deadline(conn);
}

static void end_input(struct conn *conn, enum conn_state state)
{
    assert(conn->state == CONN_READING);
    conn->state = state;
    stop_reading(conn);
    conn->in_size = 0;
    conn->more = false;
    set_in_capacity(conn, 0);
    service_session_input_ended(&conn->session, &conn->conns->now);
    mark_dirty(conn);
}

static void refuse_frame(struct conn *conn, const char *message)
{
    service_bad_frame(&conn->session, message);
    end_input(conn, CONN_REFUSED);
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
    conn->conns->taken_bytes += frames->messages[number].size;
    clear_deadline(conn);
    if (!service_decide(&conn->session, number, conn->read_ms, &conn->conns->now))
        end_input(conn, CONN_REFUSED);
}

/* Decides the frames in data[0 .. size), as far as it may. Returns how many bytes were taken. */
static uint32_t decide_frames(struct conn *conn, uint8_t *data, uint32_t size)
{
    struct service *service = conn->session.service;
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
                read_clock(conn->conns);
                over = share_is_over(conn->conns);
            }
        }
        service_read_end(service);
        if (frames.next != FRAME_WHOLE)
            break;
        read_clock(conn->conns);
        over |= share_is_over(conn->conns);
    }
    conn->more = conn->state == CONN_READING && at < size && (decided < frames.count || frames.next != FRAME_PARTIAL);
    if (frames.next != FRAME_WHOLE && frames.next != FRAME_PARTIAL && decided == frames.count && can_decide(conn))
        refuse_frame(conn, frames.next == FRAME_BAD_FLAG ? "frame: its flag byte is not 0"
                                                         : "frame: longer than max_frame_bytes, as Hello tells it");
    return at;
}

static void drop(struct conn *conn)
{
    stop_reading(conn);
    conn->state = CONN_DROPPED;
    mark_dirty(conn);
}

/* Of the others: whose frame has been on its way for the longest. NULL: nobody else has one. */
static struct conn *slowest_but(const struct conn *conn)
{
    struct conn *slowest = NULL;

    for (struct conn *other = conn->conns->first; other; other = other->next)
        if (other != conn && other->state == CONN_READING && other->in_capacity > 0 &&
            deadline_is_set(&other->deadline) && (!slowest || other->deadline.at_ms < slowest->deadline.at_ms))
            slowest = other;
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
        drop(slowest);
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

/* It has had its share, and there is more. Nothing it sent so far is passed over by the end of leases, unless it takes
 * too many shares. */
static void go_on_later(struct conn *conn)
{
    struct conns *conns = conn->conns;

    if (conns->now.boot_ms - conn->since_ms >= SHARE_LAG_MS_MAX)
        link_remove(&conn->waiting);
    mark_ready(conn, &conns->later);
}

/* After deciding: goes on reading, now or later, waits until it can, or has come to the end. */
static void settle(struct conn *conn)
{
    if (conn->state != CONN_READING)
        return;
    conn->behind = conn->more || conn->unread;
    if (!may_decide(conn)) {
        stop_reading(conn);
    } else if (conn->eof && !conn->more) {
        end_input(conn, CONN_ENDED);
    } else {
        if (conn->behind)
            go_on_later(conn);
        else if (conn->in_size && !deadline_is_set(&conn->deadline))
            set_deadline(conn, FRAME_MS_MAX);
        if (!conn->eof)
            ev_io_start(conn->conns->loop, &conn->readable);
    }
    mark_dirty(conn);
}

/* Room for the rest of the frame that has begun, or for a good read of it. */
static bool make_room(struct conn *conn)
{
    uint32_t message_bytes, want = conn->in_size + SCRATCH_BYTES;

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
    const bool shared = conn->in_size == 0;
    uint8_t *data;
    uint32_t room;
    ssize_t size;

    conn->unread = false;
    if (!shared && !make_room(conn))
        return;
    data = shared ? conn->conns->scratch : conn->in + conn->in_size;
    room = shared ? SCRATCH_BYTES : conn->in_capacity - conn->in_size;
    size = recv(conn->fd, data, room, MSG_DONTWAIT);
    if (size < 0) {
        if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)
            conn->eof = true; /* broken: as good as ended */
        return;
    }
    conn->eof = size == 0;
    conn->heard |= size > 0;
    conn->unread = (uint32_t)size == room;
    read_clock(conn->conns);
    start_share(conn);
    conn->read_ms = conn->conns->now.boot_ms;
    const uint32_t total = (shared ? 0 : conn->in_size) + (uint32_t)size;
    uint8_t *start = shared ? data : conn->in;
    keep_rest(conn, start, total, decide_frames(conn, start, total));
}

static void discard(struct conn *conn)
{
    for (int i = 0; i < READS_A_TURN; i++) {
        const ssize_t size = recv(conn->fd, conn->conns->scratch, SCRATCH_BYTES, MSG_DONTWAIT);
        if (size > 0 || (size < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)))
            continue;
        conn->state = CONN_DROPPED;
        break;
    }
    mark_dirty(conn);
}

static void on_readable(struct ev_loop *loop, ev_io *watcher, int events)
{
    struct conn *conn = watcher->data;
    struct conns *conns = conn->conns;

    (void)loop, (void)events;
    conns->events++;
    if (conn->state == CONN_LINGERING) {
        discard(conn);
        return;
    }
    conn->unread = true;
    /* libev names them from the last to the first. */
    mark_ready(conn, conns->fresh.next);
    if (conns->paused)
        stop_reading(conn);
}

static void on_writable(struct ev_loop *loop, ev_io *watcher, int events)
{
    (void)loop, (void)events;
    mark_dirty(watcher->data);
}

/* ---- A connection's life ------------------------------------------------------------ */

void conn_open(struct conns *conns, int fd)
{
    struct conn *conn = mem_zero(1, sizeof *conn);

    conn->conns = conns;
    conn->fd = fd;
    conn->read_ms = conns->now.boot_ms;
    conn->next = conns->first;
    if (conns->first)
        conns->first->previous = conn;
    conns->first = conn;
    conns->count++;
    outbox_open(&conn->out, &conns->unsent);
    service_session_open(conns->service, &conn->session);
    ev_io_init(&conn->readable, on_readable, fd, EV_READ);
    ev_io_init(&conn->writable, on_writable, fd, EV_WRITE);
    conn->readable.data = conn->writable.data = conn;
    ev_io_start(conns->loop, &conn->readable);
    link_append(&conns->silent, &conn->idle);
}

static void conn_close(struct conn *conn)
{
    struct conns *conns = conn->conns;

    link_remove(&conn->dirty);
    link_remove(&conn->idle);
    wait_no_more(conn);
    ev_io_stop(conns->loop, &conn->readable);
    ev_io_stop(conns->loop, &conn->writable);
    clear_deadline(conn);
    deadline_clear(&conns->stuck, &conn->stuck);
    service_session_close(&conn->session, &conns->now);
    outbox_clear(&conn->out);
    set_in_capacity(conn, 0);
    close(conn->fd);
    if (conn->previous)
        conn->previous->next = conn->next;
    else
        conns->first = conn->next;
    if (conn->next)
        conn->next->previous = conn->previous;
    conns->count--;
    conns->closed++;
    mem_free(conn);
}

static bool all_answered(const struct conn *conn)
{
    return conn->session.open_calls == 0 && outbox_is_empty(&conn->out);
}

/* Told, and nothing more to say: the peer reads it before it meets the end. */
static void linger(struct conn *conn)
{
    conn->state = CONN_LINGERING;
    shutdown(conn->fd, SHUT_WR);
    set_deadline(conn, LINGER_MS_MAX);
    ev_io_start(conn->conns->loop, &conn->readable);
}

static void resume_later(struct conn *conn)
{
    if (conn->state == CONN_READING && !ev_is_active(&conn->readable) && may_decide(conn))
        mark_ready(conn, conn->behind ? &conn->conns->behind : &conn->conns->ready);
}

/* Leases that are bound to it are looked at when it is to be closed: they end without its doing. */
static void note_idle(struct conn *conn)
{
    if (conn->state == CONN_READING && all_answered(conn) && !conn->in_size && !link_is_listed(&conn->ready))
        link_append(conn->heard ? &conn->conns->idle : &conn->conns->silent, &conn->idle);
}

/* After its answers were sent. */
static void go_on(struct conn *conn)
{
    resume_later(conn);
    note_idle(conn);
}

static void flush_one(struct conn *conn)
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
        deadline_set(&conn->conns->stuck, &conn->stuck, peer_time(conn->conns) + STUCK_MS_MAX);
    if (conn->state == CONN_REFUSED && all_answered(conn))
        linger(conn);
    else if (conn->state == CONN_ENDED && all_answered(conn))
        conn_close(conn);
    else if (was_reading && conn->conns->draining && all_answered(conn))
        conn_close(conn);
    else
        go_on(conn);
}

static struct conn *conn_of_stuck(struct deadline *deadline)
{
    return (struct conn *)(void *)((char *)deadline - offsetof(struct conn, stuck));
}

/* A peer that does not take its answers is closed. Says so, but not for each of many. */
static void drop_reader(struct conn *conn)
{
    struct conns *conns = conn->conns;

    service_reader_dropped(conns->service);
    conns->readers_dropped_since++;
    if (conns->now.boot_ms >= conns->readers_dropped_log_ms) {
        log_event(LOG_WARN, "slow_readers_dropped", "connections", log_number(conns->readers_dropped_since),
                  "unsent_bytes", log_number(conns->unsent.bytes), NULL);
        conns->readers_dropped_since = 0;
        conns->readers_dropped_log_ms = conns->now.boot_ms + DROP_LOG_MS;
    }
    conn_close(conn);
}

static struct conn *conn_of_idle(struct link *link)
{
    return (struct conn *)(void *)((char *)link - offsetof(struct conn, idle));
}

/* May there be something to read, if only its end, that was not seen yet? */
static bool has_input(const struct conn *conn)
{
    struct pollfd look = {.fd = conn->fd, .events = POLLIN};

    return poll(&look, 1, 0) != 0;
}

/* The first on the list that is idle indeed, and was not read since then; NULL: there is none, as far as was looked. */
static struct conn *find_idle(struct link *list, uint64_t before_ms)
{
    struct link *first;

    for (int i = 0; i < IDLE_LOOKS_MAX && (first = links_first(list)); i++) {
        struct conn *conn = conn_of_idle(first);

        if (conn->read_ms > before_ms)
            break;
        if (!has_input(conn) && !service_session_is_bound(&conn->session))
            return conn;
        /* The next ones are looked at before this one is again. What it has sent is read soon. */
        link_remove(first);
        link_append(list, first);
    }
    return NULL;
}

bool conns_close_idle(struct conns *conns)
{
    struct conn *conn = find_idle(&conns->silent, conns->now.boot_ms - SILENT_MS);

    if (!conn)
        conn = find_idle(&conns->idle, UINT64_MAX);
    if (!conn)
        conn = find_idle(&conns->silent, UINT64_MAX);
    if (!conn)
        return false;
    service_idle_closed(conns->service);
    conns->idle_closed_since++;
    if (conns->now.boot_ms >= conns->idle_closed_log_ms) {
        log_event(LOG_WARN, "idle_closed", "closed", log_number(conns->idle_closed_since), "connections",
                  log_number(conns->count), "reason", "descriptors ran out", NULL);
        conns->idle_closed_since = 0;
        conns->idle_closed_log_ms = conns->now.boot_ms + IDLE_LOG_MS;
    }
    conn_close(conn);
    return true;
}

static uint64_t unsent_bytes_max(void)
{
    const uint64_t limit = mem_limited(), part = limit / (mem_is_short() ? UNSENT_PART_SHORT : UNSENT_PART);

    return limit && part < UNSENT_BYTES_MAX ? part : UNSENT_BYTES_MAX;
}

/* If unread answers take too much memory, those have to go whose answers have not moved for the longest. */
static void bound_unsent(struct conns *conns)
{
    struct deadline *slowest;

    while (conns->unsent.bytes > unsent_bytes_max() && (slowest = deadlines_first(&conns->stuck)))
        drop_reader(conn_of_stuck(slowest));
}

void conns_flush(struct conns *conns)
{
    struct link *first;

    conns->taken_bytes = 0;
    while ((first = links_first(&conns->dirty)))
        flush_one(conn_of_dirty(first));
    bound_unsent(conns);
}

/* ---- A turn ---------------------------------------------------------------------------- */

void conns_begin_turn(struct conns *conns, uint64_t looked_ms)
{
    conns->turn_ms = conns->now.boot_ms;
    if (!conns->seen_ms)
        conns->seen_ms = looked_ms; /* of the first turn */
    /* A wait that found more events than any before it may not have shown all: libev fetches so many at first, and more
     * when it met more. What the next one shows may be as old as what that one showed. */
    if (conns->events > conns->events_max)
        conns->events_max = conns->events;
    else
        conns->looked_ms = looked_ms;
    conns->events = 0;
    links_append(&conns->behind, &conns->later);
}

static void read_and_decide(struct conn *conn)
{
    struct conns *conns = conn->conns;

    if (conn->more) {
        read_clock(conns);
        start_share(conn);
        keep_rest(conn, conn->in, conn->in_size, decide_frames(conn, conn->in, conn->in_size));
    }
    for (int i = 0; i < READS_A_TURN && conn->unread && !conn->more && can_decide(conn); i++) {
        if (i > 0 && share_is_over(conns))
            break;
        read_once(conn);
    }
    settle(conn);
}

/* Gives a connection its share. */
static void visit(struct conn *conn)
{
    struct conns *conns = conn->conns;

    conns->share_from_ns = 0;
    conns->share_ns = share_ns(conn);
    unmark_ready(conn);
    if (conn->state == CONN_READING)
        read_and_decide(conn);
    if (!link_is_listed(&conn->ready))
        wait_no_more(conn);
}

/* Whose turn it is to be read; NULL: nobody's. */
static struct conn *next_to_read(const struct conns *conns)
{
    struct link *ready = links_first(&conns->ready), *behind = links_first(&conns->behind);

    if (!ready || (behind && conns->owed_ns >= HALF_TURN_NS))
        ready = behind;
    return ready ? conn_of_ready(ready) : NULL;
}

void conns_read(struct conns *conns)
{
    struct conn *next;

    conns->charged = 0;
    /* One at least, whatever else the turn had to do. */
    while (!conns->paused && (next = next_to_read(conns))) {
        visit(next);
        if (turn_is_over(conns))
            break;
    }
    if (conns->charged && next_to_read(conns))
        read_clock(conns); /* what the last one took is charged, too */
    conns->charged = 0;
}

bool conns_can_read(const struct conns *conns)
{
    return !conns->paused && next_to_read(conns) && !turn_is_over(conns);
}

uint64_t conns_seen_ms(struct conns *conns)
{
    struct link *first = links_first(&conns->waiting);
    uint64_t seen_ms = conns->looked_ms;

    if (conns->events > conns->events_max)
        seen_ms = conns->seen_ms;
    if (first && conn_of_waiting(first)->since_ms < seen_ms)
        seen_ms = conn_of_waiting(first)->since_ms;
    return conns->seen_ms = seen_ms;
}

static void end_frames(struct conns *conns)
{
    struct deadline *first;

    while ((first = deadlines_first(&conns->deadlines)) && first->at_ms <= peer_time(conns)) {
        struct conn *conn = (struct conn *)(void *)((char *)first - offsetof(struct conn, deadline));
        if (conn->state == CONN_READING && link_is_listed(&conn->ready)) {
            set_deadline(conn, FRAME_MS_MAX); /* the rest may be there: it was not read for want of time */
            continue;
        }
        clear_deadline(conn);
        if (conn->state == CONN_READING)
            refuse_frame(conn, "frame: it did not arrive within 10 s");
        else
            conn->state = CONN_DROPPED;
        mark_dirty(conn);
    }
}

void conns_end_deadlines(struct conns *conns)
{
    struct deadline *first;

    end_frames(conns);
    while ((first = deadlines_first(&conns->stuck)) && first->at_ms <= peer_time(conns))
        drop_reader(conn_of_stuck(first));
}

uint64_t conns_next_ms(const struct conns *conns)
{
    const struct deadline *frame = deadlines_first(&conns->deadlines), *stuck = deadlines_first(&conns->stuck);
    uint64_t at_ms = frame ? frame->at_ms : UINT64_MAX;

    if (!conns->paused && links_first(&conns->waiting))
        return conns->now.boot_ms;
    if (stuck && stuck->at_ms < at_ms)
        at_ms = stuck->at_ms;
    return at_ms == UINT64_MAX ? UINT64_MAX : at_ms + conns->stalled_ms;
}

void conns_stalled(struct conns *conns, uint64_t stalled_ms)
{
    conns->stalled_ms += stalled_ms;
}

void conns_ready(struct conns *conns)
{
    links_append(&conns->ready, &conns->fresh);
    for (struct link *link = links_first(&conns->dirty); link && link != &conns->dirty; link = link->next)
        resume_later(conn_of_dirty(link));
}

/* ---- All of them ---------------------------------------------------------------------- */

static void mark_all(struct conns *conns)
{
    for (struct conn *conn = conns->first; conn; conn = conn->next)
        mark_dirty(conn);
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
    for (struct conn *conn = conns->first; conn; conn = conn->next)
        if (conn->state == CONN_READING) {
            stop_reading(conn);
            wait_no_more(conn);
        }
    mark_all(conns);
}

void conns_open(struct conns *conns, struct ev_loop *loop, struct clock *clock)
{
    *conns = (struct conns){.loop = loop, .clock = clock};
    links_open(&conns->dirty);
    links_open(&conns->ready);
    links_open(&conns->behind);
    links_open(&conns->later);
    links_open(&conns->fresh);
    links_open(&conns->waiting);
    links_open(&conns->silent);
    links_open(&conns->idle);
    conns->events_max = EVENTS_SURE;
    outboxes_open(&conns->unsent);
    conns->scratch = mem_alloc(SCRATCH_BYTES);
}

void conns_close(struct conns *conns)
{
    while (conns->first)
        conn_close(conns->first);
    outboxes_close(&conns->unsent);
    deadlines_free(&conns->deadlines);
    deadlines_free(&conns->stuck);
    mem_free(conns->scratch);
}

/* ---- What the service asks ---------------------------------------------------------------- */

static void on_drop(void *context, struct session *session)
{
    struct conn *conn = conn_of(session);

    (void)context;
    stop_reading(conn);
    conn->state = CONN_DROPPED;
    mark_dirty(conn);
}

static bool on_alive(void *context, struct session *session)
{
    const struct conn *conn = conn_of(session);
    struct pollfd look = {.fd = conn->fd, .events = POLLRDHUP};

    (void)context;
    if (conn->state != CONN_READING || conn->eof)
        return false;
    return poll(&look, 1, 0) <= 0 || !(look.revents & (POLLRDHUP | POLLHUP | POLLERR));
}

static void on_count(void *context, uint64_t *connections, uint64_t *buffered_bytes)
{
    const struct conns *conns = context;

    *connections = conns->count;
    *buffered_bytes = conns->in_bytes + conns->unsent.bytes;
}

static void describe_unix(int fd, char text[NOTES_PEER_BYTES])
{
    struct ucred who;
    socklen_t size = sizeof who;

    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &size) == 0)
        snprintf(text, NOTES_PEER_BYTES, "unix uid %u pid %d", (unsigned)who.uid, (int)who.pid);
}

static void describe_tcp(int fd, char text[NOTES_PEER_BYTES])
{
    struct sockaddr_storage name;
    socklen_t size = sizeof name;
    char host[64], port[16];

    if (getpeername(fd, (struct sockaddr *)&name, &size) == 0 &&
        getnameinfo((struct sockaddr *)&name, size, host, sizeof host, port, sizeof port,
                    NI_NUMERICHOST | NI_NUMERICSERV) == 0)
        snprintf(text, NOTES_PEER_BYTES, strchr(host, ':') ? "tcp:[%s]:%s" : "tcp:%s:%s", host, port);
}

static void on_peer(void *context, struct session *session, char text[NOTES_PEER_BYTES])
{
    const int fd = conn_of(session)->fd;
    int family = AF_UNSPEC;
    socklen_t size = sizeof family;

    (void)context;
    strcpy(text, "unknown"); /* it may be gone */
    if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &family, &size) != 0)
        return;
    if (family == AF_UNIX)
        describe_unix(fd, text);
    else
        describe_tcp(fd, text);
}

struct service_outlet conns_outlet(struct conns *conns)
{
    return (struct service_outlet){
        .send = on_send, .drop = on_drop, .alive = on_alive, .peer = on_peer, .count = on_count, .context = conns};
}
