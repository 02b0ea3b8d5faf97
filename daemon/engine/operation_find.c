/* Finding operations: identity hash -> index -> in memory, or the store. Two identities may share an index entry's tag,
 * so each candidate's own identity is compared. */
#include <assert.h>

#include "daemon/engine/operation.h"

/* ---- Several that come together ---------------------------------------------------------- */

static void prefetch(const void *start, size_t size)
{
    enum { LINE_BYTES = 64 };

    for (size_t at = 0; at < size; at += LINE_BYTES)
        __builtin_prefetch((const uint8_t *)start + at);
}

static enum store_read read_finished(struct engine *engine, uint64_t expiry_key, struct bytes *record)
{
    const uint64_t began_ns = durations_sampled_begin(engine->options.cold_reads);
    const enum store_read read = store_read_finished(engine->store, expiry_key, record);

    durations_sampled_end(engine->options.cold_reads, began_ns);
    return read;
}

static void prefetch_stored(struct engine *engine, uint64_t expiry_key)
{
    struct prefetched *prefetched = &engine->prefetched[engine->prefetched_count++];

    *prefetched = (struct prefetched){.expiry_key = expiry_key};
    prefetched->read = read_finished(engine, expiry_key, &prefetched->record);
    prefetch(prefetched->record.data, prefetched->record.size);
}

/* As read_finished, of what may have been expected. */
static enum store_read read_prefetched(struct engine *engine, uint64_t expiry_key, struct bytes *record)
{
    for (unsigned i = 0; i < engine->prefetched_count; i++)
        if (engine->prefetched[i].expiry_key == expiry_key) {
            *record = engine->prefetched[i].record;
            return engine->prefetched[i].read;
        }
    return read_finished(engine, expiry_key, record);
}

void operation_prefetch(struct engine *engine, const uint64_t *hashes, unsigned count)
{
    const struct operation *operations[PREFETCH_MAX];
    unsigned found = 0;

    assert(count <= PREFETCH_MAX);
    engine->prefetched_count = 0;
    for (unsigned i = 0; i < count; i++)
        index_prefetch(engine->index, hashes[i]);
    for (unsigned i = 0; i < count; i++) {
        struct index_cursor cursor = {0};
        const uint64_t entry = index_find(engine->index, hashes[i], &cursor);
        if (operation_is_entry(entry)) {
            operations[found++] = operation_at_entry(entry);
            prefetch(operation_at_entry(entry), sizeof(struct operation));
        } else if (entry) {
            prefetch_stored(engine, entry);
        }
    }
    for (unsigned i = 0; i < found; i++)
        prefetch(operations[i]->record, operations[i]->record_bytes);
}

/* ---- One --------------------------------------------------------------------------------- */

static bool same_identity(const struct identity *a, const struct identity *b)
{
    return bytes_equal(a->namespace, b->namespace) && bytes_equal(a->caller, b->caller) && bytes_equal(a->key, b->key);
}

static bool find_in_memory(struct operation *operation, const struct identity *id, uint64_t hash, const struct now *now,
                           struct lookup *found)
{
    if (operation->hash != hash || operation->state == RECORD_ABSENT)
        return false;
    if (operation->damaged) {
        found->damaged = true;
        found->record = (struct record){.generation = operation->generation};
    } else {
        operation_read(operation, &found->record);
        if (!same_identity(&found->record.id, id) || rules_expired(&found->record, now))
            return false;
        found->there = true;
    }
    found->operation = operation;
    return true;
}

static bool find_in_store(struct engine *engine, uint64_t expiry_key, const struct identity *id, uint64_t hash,
                          const struct now *now, struct lookup *found)
{
    struct bytes data = {0};

    /* A place is never before the exact end, so this is over without a look; it may be swept already. */
    if (expiry_key_seconds(expiry_key) <= now->retention_ms / 1000)
        return false;
    const enum store_read read = read_prefetched(engine, expiry_key, &data);
    const enum record_check check = read == STORE_FOUND ? record_decode(data, &found->record) : RECORD_BAD_HEAD;
    if (check != RECORD_BAD_HEAD && (found->record.hash != hash || rules_expired(&found->record, now)))
        return false;
    if (check == RECORD_GOOD && !same_identity(&found->record.id, id))
        return false;
    if (check == RECORD_BAD_HEAD) /* whose it is, nobody knows: all that come here must not think it absent */
        found->record = (struct record){0};
    found->damaged = check != RECORD_GOOD;
    found->there = !found->damaged;
    found->expiry_key = expiry_key;
    found->stored_bytes = (uint64_t)data.size + found->record.values_bytes;
    return true;
}

void operation_find(struct engine *engine, const struct identity *id, uint64_t hash, const struct now *now,
                    struct lookup *found)
{
    struct index_cursor cursor = {0};
    uint64_t entry;

    found->operation = NULL;
    found->expiry_key = 0;
    found->there = found->damaged = false;
    while ((entry = index_find(engine->index, hash, &cursor))) {
        if (operation_is_entry(entry) ? find_in_memory(operation_at_entry(entry), id, hash, now, found)
                                      : find_in_store(engine, entry, id, hash, now, found))
            return;
    }
}

bool operation_is_at(const struct engine *engine, uint64_t hash, uint64_t expiry_key)
{
    struct index_cursor cursor = {0};
    uint64_t entry;

    while ((entry = index_find(engine->index, hash, &cursor)))
        if (entry == expiry_key)
            return true;
    return false;
}
