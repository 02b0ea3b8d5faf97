/* See outbox.h. */
#include "daemon/server/outbox.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "daemon/base/memory.h"

enum {
    PIECE_BYTES = 4096,
    SPARES_MAX = 64,
    PIECES_A_SEND = 64,
    COPIED_BYTES = 1024,      /* shared bytes up to this many are copied: cheaper than one more part of a send */
    SHARED_PART = 16,         /* so are those that are a smaller part of their blob than this, up to this size: */
    SHARED_BYTES = 64 * 1024, /* holding it would keep the whole blob while a peer is slow */
};

/* Bytes of its own, or shared ones. */
struct piece {
    struct link link;    /* first member */
    struct slice shared; /* held; blob NULL: bytes of its own */
    uint32_t size, sent, capacity;
    uint8_t bytes[];
};

static struct piece *piece_of(struct link *link)
{
    return (struct piece *)(void *)link;
}

/* ---- Pieces ---------------------------------------------------------------------- */

static struct piece *piece_new(struct outboxes *all, uint32_t bytes)
{
    const uint32_t capacity = bytes > PIECE_BYTES ? bytes : PIECE_BYTES;
    struct piece *piece = capacity == PIECE_BYTES ? spares_take(&all->spares) : mem_alloc(sizeof *piece + capacity);

    *piece = (struct piece){.capacity = capacity};
    all->bytes += sizeof *piece + capacity;
    return piece;
}

/* The memory behind shared bytes, which may be far more than they are, counts with the first piece that holds it. */
static struct piece *piece_of_shared(struct outboxes *all, struct slice shared)
{
    struct piece *piece = mem_alloc(sizeof *piece);

    *piece = (struct piece){.shared = shared, .size = shared.size};
    blob_hold(shared.blob);
    all->bytes += sizeof *piece;
    if (shared.blob->unsent++ == 0)
        all->bytes += shared.blob->capacity;
    return piece;
}

static void piece_free(struct outboxes *all, struct piece *piece)
{
    struct blob *blob = piece->shared.blob;

    link_remove(&piece->link);
    all->bytes -= sizeof *piece + piece->capacity;
    if (blob && --blob->unsent == 0)
        all->bytes -= blob->capacity;
    blob_release(blob);
    if (piece->capacity == PIECE_BYTES)
        spares_give(&all->spares, piece);
    else
        mem_free(piece);
}

/* ---- Adding ---------------------------------------------------------------------- */

static struct piece *last_piece(const struct outbox *outbox)
{
    return links_first(&outbox->pieces) ? piece_of(outbox->pieces.previous) : NULL;
}

static void add_bytes(struct outbox *outbox, const uint8_t *data, uint32_t size)
{
    struct piece *piece = last_piece(outbox);

    if (!piece || piece->shared.blob || piece->capacity - piece->size < size) {
        piece = piece_new(outbox->all, size);
        link_append(&outbox->pieces, &piece->link);
    }
    memcpy(piece->bytes + piece->size, data, size);
    piece->size += size;
}

static void add_shared(struct outbox *outbox, struct slice shared)
{
    if (shared.size <= COPIED_BYTES ||
        (shared.size <= SHARED_BYTES && shared.size < shared.blob->capacity / SHARED_PART))
        add_bytes(outbox, slice_bytes(shared).data, shared.size);
    else
        link_append(&outbox->pieces, &piece_of_shared(outbox->all, shared)->link);
}

void outbox_add(struct outbox *outbox, const struct response *response)
{
    assert(response->head_bytes > 0);
    add_bytes(outbox, response->head, response->head_bytes);
    if (response->shared.blob && response->shared.size)
        add_shared(outbox, response->shared);
    outbox->bytes += (uint64_t)response->head_bytes + response->shared.size;
}

/* ---- Sending --------------------------------------------------------------------- */

static void note_sent(struct outbox *outbox, size_t size)
{
    assert(size <= outbox->bytes);
    outbox->bytes -= size;
    while (size > 0) {
        struct piece *piece = piece_of(links_first(&outbox->pieces));
        const uint32_t left = piece->size - piece->sent;

        if (size < left) {
            piece->sent += (uint32_t)size;
            return;
        }
        size -= left;
        piece_free(outbox->all, piece);
    }
}

static size_t gather(const struct outbox *outbox, struct iovec parts[PIECES_A_SEND])
{
    size_t count = 0;

    for (struct link *link = outbox->pieces.next; link != &outbox->pieces && count < PIECES_A_SEND;
         link = link->next, count++) {
        const struct piece *piece = piece_of(link);
        const uint8_t *data = piece->shared.blob ? slice_bytes(piece->shared).data : piece->bytes;
        parts[count].iov_base = (uint8_t *)(uintptr_t)data + piece->sent;
        parts[count].iov_len = piece->size - piece->sent;
    }
    return count;
}

bool outbox_send(struct outbox *outbox, int fd)
{
    while (!outbox_is_empty(outbox)) {
        struct iovec parts[PIECES_A_SEND];
        const struct msghdr message = {.msg_iov = parts, .msg_iovlen = gather(outbox, parts)};
        const int flags = MSG_NOSIGNAL | MSG_DONTWAIT;
        /* Mostly there is one part, and the kernel has less to look at. */
        const ssize_t size = message.msg_iovlen == 1 ? send(fd, parts[0].iov_base, parts[0].iov_len, flags)
                                                     : sendmsg(fd, &message, flags);

        if (size >= 0)
            note_sent(outbox, (size_t)size);
        else if (errno == EAGAIN || errno == EWOULDBLOCK)
            break;
        else if (errno != EINTR)
            return false;
    }
    return true;
}

/* ---- Opening and closing --------------------------------------------------------- */

void outbox_clear(struct outbox *outbox)
{
    struct link *first;

    while ((first = links_first(&outbox->pieces)))
        piece_free(outbox->all, piece_of(first));
    outbox->bytes = 0;
}

void outbox_open(struct outbox *outbox, struct outboxes *all)
{
    *outbox = (struct outbox){.all = all};
    links_open(&outbox->pieces);
}

void outboxes_open(struct outboxes *all)
{
    *all = (struct outboxes){.spares = spares_of(sizeof(struct piece) + PIECE_BYTES, SPARES_MAX)};
}

void outboxes_close(struct outboxes *all)
{
    assert(all->bytes == 0);
    spares_free(&all->spares);
}
