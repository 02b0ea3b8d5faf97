/* Operations by life, in a hash table that lives as long as one transaction.
 *
 * The rest of an operation's record is always two views, what it shares and what is its own. When the next change
 * comes, what it shares with this one is nearly always a part of only one of them. */
#include "daemon/store/merge.h"

#include <errno.h>

#include "daemon/base/memory.h"

struct merge_copy {
    struct merge_copy *next;
    uint8_t bytes[];
};

/* ---- Operations --------------------------------------------------------------------- */

static uint32_t slot_of(const struct merge *merge, uint64_t generation)
{
    uint32_t slot = (uint32_t)(generation * 0x9e3779b97f4a7c15u >> 32) & merge->slot_mask;

    while (merge->slots[slot] && merge->merged[merge->slots[slot] - 1].generation != generation)
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
        merge->slots[slot_of(merge, merge->merged[at].generation)] = at + 1;
}

static struct merged *merged_of(struct merge *merge, const struct store_change *change)
{
    const uint64_t generation = change->generation ? change->generation : change->expiry_key;
    uint32_t slot;

    if (merge->count == merge->capacity)
        grow(merge);
    slot = slot_of(merge, generation);
    if (!merge->slots[slot]) {
        merge->merged[merge->count] =
            (struct merged){.generation = generation, .born = change->generation >= merge->next_number};
        merge->slots[slot] = ++merge->count;
    }
    return &merge->merged[merge->slots[slot] - 1];
}

/* ---- Bases ------------------------------------------------------------------------------ */

/* Zeros. */
static uint8_t *make_copy(struct merge *merge, uint32_t size)
{
    struct merge_copy *copy = mem_zero(1, sizeof *copy + size);

    copy->next = merge->copies;
    merge->copies = copy;
    return copy->bytes;
}

/* The first `size` bytes of the rest of the record that the tables have of a life. Zeros where there are none:
 * record_delta_apply sees that they are not the base. */
static int base_in_tables(struct merge *merge, const struct merged *merged, uint32_t size, const uint8_t **base)
{
    uint64_t generation = merged->generation;
    MDB_val key = {sizeof generation, &generation}, value = {0, NULL};
    const int code = merged->born ? MDB_NOTFOUND : mdb_get(merge->txn, merge->tables->unfinished, &key, &value);
    const struct bytes rest = record_rest(bytes_of(value.mv_data, (uint32_t)value.mv_size));
    uint8_t *copy;

    if (code != 0 && code != MDB_NOTFOUND)
        return code;
    *base = copy = make_copy(merge, size);
    if (rest.size > 0)
        memcpy(copy, rest.data, rest.size < size ? rest.size : size);
    return 0;
}

/* The same of the record that was merged before. */
static const uint8_t *base_before(struct merge *merge, const struct merged *merged, uint32_t size)
{
    const struct record_delta *before = &merged->record;
    uint8_t *copy;

    if (size <= before->shared)
        return merged->base;
    if (before->shared == 0 && size <= before->own.size)
        return before->own.data;
    copy = make_copy(merge, size);
    if (size > before->shared + before->own.size)
        return copy;
    memcpy(copy, merged->base, before->shared);
    memcpy(copy + before->shared, before->own.data, size - before->shared);
    return copy;
}

static int merge_base(struct merge *merge, struct merged *merged, const struct record_delta *part)
{
    if (part->shared == 0)
        return 0;
    if (!merged->kind)
        return base_in_tables(merge, merged, part->shared, &merged->base);
    merged->base = base_before(merge, merged, part->shared);
    return 0;
}

/* ---- Changes -------------------------------------------------------------------------------- */

static int merge_change(struct merge *merge, const struct batch_change *merging)
{
    const struct store_change *change = &merging->is;
    struct merged *merged;
    int code;

    if (change->kind == STORE_TOUCH)
        return 0;
    merged = merged_of(merge, change);
    if ((code = merge_base(merge, merged, &merging->record)) != 0)
        return code;
    /* What is removed before it was ever in the tables leaves nothing to do but what its life has there. */
    merged->kind =
        change->kind == STORE_REMOVE_FINISHED && merged->kind == STORE_FINISH ? STORE_REMOVE_UNFINISHED : change->kind;
    merged->expiry_key = change->expiry_key;
    merged->body_expiry_key = change->body_expiry_key;
    merged->record = merging->record;
    for (int kind = 1; kind < BLOB_KINDS; kind++)
        if (change->kind != STORE_PUT_UNFINISHED || change->values[kind].data)
            merged->values[kind] = change->values[kind];
    return 0;
}

static int merge_batch(struct merge *merge, const uint8_t *batch)
{
    struct batch_header header;
    struct batch_reader reader;
    struct batch_change change;
    int code = 0;

    batch_read_header(batch, &header);
    if (header.first < merge->next_number)
        return EBADMSG;
    batch_read(batch, &reader);
    while (code == 0 && batch_next(&reader, &change))
        code = merge_change(merge, &change);
    return reader.bad ? EBADMSG : code;
}

int merge_batches(struct merge *merge, const struct bytes *batches, uint32_t count)
{
    int code = 0;

    for (uint32_t i = 0; i < count && code == 0; i++)
        code = merge_batch(merge, batches[i].data);
    return code;
}

uint32_t merge_record(const struct merged *merged, uint8_t out[RECORD_BYTES_MAX], bool *good)
{
    return record_delta_apply(&merged->record, merged->generation, merged->base, out, good);
}

void merge_free(struct merge *merge)
{
    struct merge_copy *next;

    for (struct merge_copy *copy = merge->copies; copy; copy = next) {
        next = copy->next;
        mem_free(copy);
    }
    mem_free(merge->merged);
    mem_free(merge->slots);
}
