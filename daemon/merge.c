/* Operations by life, in a hash table that lives as long as one transaction. */
#include "daemon/merge.h"

#include <errno.h>

#include "daemon/memory.h"

static uint32_t slot_of(const struct merge *merge, uint64_t life)
{
    uint32_t slot = (uint32_t)(life * 0x9e3779b97f4a7c15u >> 32) & merge->slot_mask;

    while (merge->slots[slot] && merge->merged[merge->slots[slot] - 1].life != life)
        slot = (slot + 1) & merge->slot_mask;
    return slot;
}

static void grow(struct merge *merge)
{
    merge->capacity = merge->capacity ? 2 * merge->capacity : 256;
    merge->merged = mem_resize(merge->merged, merge->capacity * sizeof *merge->merged);
    mem_free(merge->slots);
    merge->slot_mask = 2 * merge->capacity - 1;
    merge->slots = mem_zero(merge->slot_mask + 1, sizeof *merge->slots);
    for (uint32_t at = 0; at < merge->count; at++)
        merge->slots[slot_of(merge, merge->merged[at].life)] = at + 1;
}

static struct merged *merged_of(struct merge *merge, const struct store_change *change)
{
    const uint64_t life = change->life ? change->life : change->place;
    uint32_t slot;

    if (merge->count == merge->capacity)
        grow(merge);
    slot = slot_of(merge, life);
    if (!merge->slots[slot]) {
        merge->merged[merge->count] = (struct merged){.life = life, .born = change->life >= merge->next_number};
        merge->slots[slot] = ++merge->count;
    }
    return &merge->merged[merge->slots[slot] - 1];
}

static void merge_change(struct merge *merge, const struct store_change *change)
{
    struct merged *merged;

    if (change->kind == STORE_TOUCH)
        return;
    merged = merged_of(merge, change);
    /* What is removed before it was ever in the tables leaves nothing to do but what its life has there. */
    merged->kind =
        change->kind == STORE_REMOVE_FINISHED && merged->kind == STORE_FINISH ? STORE_REMOVE_UNFINISHED : change->kind;
    merged->place = change->place;
    merged->body_place = change->body_place;
    merged->record = change->record;
    for (int kind = 1; kind < BLOB_KINDS; kind++)
        if (change->kind != STORE_PUT_UNFINISHED || change->values[kind].data)
            merged->values[kind] = change->values[kind];
}

int merge_batches(struct merge *merge, const struct bytes *batches, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        struct batch_reader reader;
        struct store_change change;

        batch_read(batches[i].data, &reader);
        while (batch_next(&reader, &change))
            merge_change(merge, &change);
        if (reader.bad)
            return EBADMSG;
    }
    return 0;
}

void merge_free(struct merge *merge)
{
    mem_free(merge->merged);
    mem_free(merge->slots);
}
