/* Where an operation's values are depends on how far it has got: in the batch that brought them, which is not applied
 * yet; in the store, under its life or its place; or, where they are small and it is done, in its record. */
#include "daemon/engine/values.h"

#include <assert.h>

static bool read_value(struct engine *engine, struct values *values, uint64_t key, enum blob_kind kind, uint32_t size)
{
    const uint32_t offset = blob_extend(values->scratch, size);

    if (size == 0)
        return true;
    const uint64_t began_ns = durations_sampled_begin(engine->options.cold_reads);
    const enum store_read read = store_read_value(engine->store, key, kind, size, values->scratch->data + offset);
    durations_sampled_end(engine->options.cold_reads, began_ns);
    return read == STORE_FOUND;
}

/* Room for so many bytes: the same as the last time, unless they are many or an answer has kept it. */
static struct blob *take_scratch(struct engine *engine, uint32_t size)
{
    if (size > RECORD_BYTES_MAX)
        return blob_new(size);
    if (!engine->scratch || engine->scratch->references > 1) {
        blob_release(engine->scratch);
        engine->scratch = blob_new(RECORD_BYTES_MAX);
    }
    engine->scratch->size = 0;
    return blob_hold(engine->scratch);
}

static bool fetch_outcome(struct engine *engine, const struct lookup *found, const struct now *now,
                          struct values *values)
{
    const struct record *record = &found->record;
    const bool body_over = now->retention_ms >= record->body_expires_ms;
    const uint32_t body_bytes = body_over ? 0 : record->body_field_bytes;
    const uint32_t size = record->attributes_bytes + body_bytes;

    values->body_dropped = record->flags & RECORD_BODY_DROPPED || (body_over && record->body_field_bytes);
    if (found->operation && found->operation->value.blob) {
        values->outcome = found->operation->value;
        values->outcome.size = size;
        return true;
    }
    values->scratch = take_scratch(engine, size);
    values->outcome = (struct slice){values->scratch, 0, size};
    if (record->inline_values.size) {
        const uint32_t offset = blob_extend(values->scratch, size);
        memcpy(values->scratch->data + offset, record->inline_values.data, size);
        return true;
    }
    const uint64_t body_key = record->body_expiry_key ? record->body_expiry_key : found->expiry_key;
    return read_value(engine, values, found->expiry_key, BLOB_ATTRIBUTES, record->attributes_bytes) &&
           read_value(engine, values, body_key, BLOB_BODY, body_bytes);
}

/* One value of an unfinished operation, from the batch it is still in or from the store. A copy, since the open batch
 * moves as it grows. */
static bool fetch_value(struct engine *engine, const struct lookup *found, enum blob_kind kind, uint32_t size,
                        struct slice in_memory, struct values *values, struct bytes *value)
{
    if (size == 0)
        return true;
    const uint32_t offset = values->scratch->size;
    if (in_memory.blob) {
        assert(in_memory.size == size);
        blob_extend(values->scratch, size);
        memcpy(values->scratch->data + offset, slice_bytes(in_memory).data, size);
    } else if (!read_value(engine, values, found->record.generation, kind, size)) {
        return false;
    }
    *value = bytes_of(values->scratch->data + offset, size);
    return true;
}

static bool fetch_unfinished(struct engine *engine, const struct lookup *found, unsigned which, struct values *values)
{
    const struct record *record = &found->record;
    const struct operation *operation = found->operation;

    if (!record->input_bytes && !record->checkpoint_bytes)
        return true;
    /* Both fit without the blob moving, so that the views stay good. */
    values->scratch = take_scratch(engine, record->input_bytes + record->checkpoint_bytes);
    if (which & VALUES_INPUT &&
        !fetch_value(engine, found, BLOB_INPUT, record->input_bytes, operation->input, values, &values->input))
        return false;
    return !(which & VALUES_CHECKPOINT) || fetch_value(engine, found, BLOB_CHECKPOINT, record->checkpoint_bytes,
                                                       operation->value, values, &values->checkpoint);
}

bool values_fetch(struct engine *engine, const struct lookup *found, unsigned which, const struct now *now,
                  struct values *values)
{
    bool good = true;

    *values = (struct values){0};
    if (!found->there)
        return true;
    if (found->record.state == RECORD_DONE) {
        if (which & VALUES_OUTCOME)
            good = fetch_outcome(engine, found, now, values);
    } else if (which & (VALUES_INPUT | VALUES_CHECKPOINT)) {
        good = fetch_unfinished(engine, found, which, values);
    }
    if (!good)
        values_release(values);
    return good;
}

void values_release(struct values *values)
{
    blob_release(values->scratch);
    *values = (struct values){0};
}
