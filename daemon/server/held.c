/* See held.h. */
#include "daemon/server/held.h"

#include <assert.h>
#include <stdalign.h>

#include "daemon/base/memory.h"

enum {
    BLOCK_BYTES = 32 * 1024,
    SPARES_MAX = 8, /* blocks that are kept for the next answers */
};

struct held {
    struct held *next;        /* in its queue */
    struct held_owner *owner; /* NULL: it is gone */
    struct held *owner_previous, *owner_next;
    uint64_t depends;
    struct slice shared; /* held */
    uint32_t head_bytes;
    uint8_t head[];
};

struct held_block {
    struct held_block *next;
    size_t capacity, used;
    alignas(struct held) uint8_t bytes[];
};

static void queue_clear(struct held_queue *queue)
{
    *queue = (struct held_queue){.last = &queue->first};
}

static void queue_move(struct held_queue *to, struct held_queue *from)
{
    assert(!to->first && !to->blocks);
    if (!from->first)
        return;
    *to = *from;
    queue_clear(from);
}

/* ---- Blocks ---------------------------------------------------------------------- */

static struct held_block *block_new(struct held_answers *answers, size_t need)
{
    struct held_block *block = answers->spare;
    const size_t capacity = need > BLOCK_BYTES ? need : BLOCK_BYTES;

    if (block && capacity == BLOCK_BYTES) {
        answers->spare = block->next;
        answers->spares--;
    } else {
        block = mem_alloc(sizeof *block + capacity);
    }
    block->capacity = capacity;
    block->used = 0;
    return block;
}

static void block_free(struct held_answers *answers, struct held_block *block)
{
    if (block->capacity != BLOCK_BYTES || answers->spares == SPARES_MAX) {
        mem_free(block);
        return;
    }
    block->next = answers->spare;
    answers->spare = block;
    answers->spares++;
}

static struct held *allocate(struct held_answers *answers, struct held_queue *queue, uint32_t head_bytes)
{
    const size_t align = alignof(struct held), need = (sizeof(struct held) + head_bytes + align - 1) / align * align;
    struct held_block *block = queue->blocks;

    if (!block || block->capacity - block->used < need) {
        block = block_new(answers, need);
        block->next = queue->blocks;
        queue->blocks = block;
    }
    block->used += need;
    return (struct held *)(void *)(block->bytes + block->used - need);
}

/* ---- Answers ------------------------------------------------------------------------ */

void held_add(struct held_answers *answers, struct held_owner *owner, uint64_t depends, const struct response *response)
{
    /* A batch in flight covers every number that was given before it was handed over. */
    struct held_queue *queue = depends <= answers->flight_end ? &answers->flight : &answers->open;
    struct held *held = allocate(answers, queue, response->head_bytes);

    *held = (struct held){.owner = owner,
                          .owner_next = owner->first,
                          .depends = depends,
                          .shared = response->shared,
                          .head_bytes = response->head_bytes};
    memcpy(held->head, response->head, response->head_bytes);
    if (held->shared.blob)
        blob_hold(held->shared.blob);
    if (owner->first)
        owner->first->owner_previous = held;
    owner->first = held;
    owner->bytes += held->head_bytes + held->shared.size;
    answers->bytes += held->head_bytes + held->shared.size;
    *queue->last = held;
    queue->last = &held->next;
}

static void leave_owner(struct held *held)
{
    struct held_owner *owner = held->owner;

    if (held->owner_previous)
        held->owner_previous->owner_next = held->owner_next;
    else
        owner->first = held->owner_next;
    if (held->owner_next)
        held->owner_next->owner_previous = held->owner_previous;
    owner->bytes -= held->head_bytes + held->shared.size;
    held->owner = NULL;
}

void held_forget(struct held_owner *owner)
{
    while (owner->first)
        leave_owner(owner->first);
}

void held_submitted(struct held_answers *answers, uint64_t newest)
{
    queue_move(&answers->flight, &answers->open);
    answers->flight_end = newest;
}

static void queue_end(struct held_answers *answers, struct held_queue *queue)
{
    struct held_block *next;

    for (const struct held *held = queue->first; held; held = held->next) {
        answers->bytes -= held->head_bytes + held->shared.size;
        blob_release(held->shared.blob);
    }
    for (struct held_block *block = queue->blocks; block; block = next) {
        next = block->next;
        block_free(answers, block);
    }
    queue_clear(queue);
}

void held_release(struct held_answers *answers, uint64_t durable, held_send *send, void *context)
{
    for (struct held *held = answers->flight.first; held; held = held->next) {
        const struct response response = {held->head, held->head_bytes, held->shared};
        struct held_owner *owner = held->owner;

        if (!owner)
            continue;
        assert(held->depends <= durable);
        leave_owner(held);
        send(context, owner, &response);
    }
    queue_end(answers, &answers->flight);
}

void held_open(struct held_answers *answers)
{
    *answers = (struct held_answers){0};
    queue_clear(&answers->open);
    queue_clear(&answers->flight);
}

void held_close(struct held_answers *answers)
{
    struct held_block *next;

    queue_end(answers, &answers->flight);
    queue_end(answers, &answers->open);
    for (struct held_block *block = answers->spare; block; block = next) {
        next = block->next;
        mem_free(block);
    }
    answers->spare = NULL;
    answers->spares = 0;
}
