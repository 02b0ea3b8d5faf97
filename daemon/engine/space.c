/* See space.h. What is interrupted stands in two lists: its namespace's, and its name's where it has one. */
#include "daemon/engine/space.h"

#include <assert.h>
#include <stddef.h>

#include "daemon/base/memory.h"

LIST_FUNCTIONS(interrupted)
LIST_FUNCTIONS(named)

static struct bytes namespace_of(const struct space *space)
{
    return bytes_of(space->text, space->namespace_bytes);
}

static bool is_of(const struct space *space, struct bytes namespace, struct bytes operation)
{
    return space->operation_bytes == operation.size && bytes_equal(namespace_of(space), namespace) &&
           (operation.size == 0 ||
            bytes_equal(bytes_of(space->text + space->namespace_bytes, space->operation_bytes), operation));
}

struct space *space_find(const struct engine *engine, struct bytes namespace, struct bytes operation)
{
    struct table_entry *entry = table_first(&engine->spaces, operation_hash(engine, namespace, operation));

    while (entry && !is_of((struct space *)(void *)entry, namespace, operation))
        entry = table_next(entry);
    return (struct space *)(void *)entry;
}

static size_t size_of(const struct space *space)
{
    return sizeof *space + space->namespace_bytes + space->operation_bytes;
}

static struct space *make(struct engine *engine, struct bytes namespace, struct bytes operation)
{
    struct space *space = mem_zero(1, sizeof *space + namespace.size + operation.size);

    assert(namespace.size <= UINT8_MAX && operation.size <= UINT8_MAX);
    space->namespace_bytes = (uint8_t) namespace.size;
    space->operation_bytes = (uint8_t)operation.size;
    if (namespace.size)
        memcpy(space->text, namespace.data, namespace.size);
    if (operation.size)
        memcpy(space->text + namespace.size, operation.data, operation.size);
    table_add(&engine->spaces, &space->entry, operation_hash(engine, namespace, operation));
    engine->space_bytes += size_of(space);
    return space;
}

/* The namespace's own. */
static struct space *get_whole(struct engine *engine, struct bytes namespace)
{
    const struct bytes any = bytes_of("", 0);

    if (!engine->last_space || !is_of(engine->last_space, namespace, any)) {
        engine->last_space = space_find(engine, namespace, any);
        if (!engine->last_space)
            engine->last_space = make(engine, namespace, any);
    }
    return engine->last_space;
}

struct space *space_get(struct engine *engine, struct bytes namespace, struct bytes operation)
{
    struct space *whole = get_whole(engine, namespace), *space = whole;

    if (operation.size && !(space = space_find(engine, namespace, operation))) {
        space = make(engine, namespace, operation);
        space->whole = whole;
        whole->names++;
    }
    return space;
}

void space_let_go(struct engine *engine, struct space *space)
{
    struct space *whole = space->whole;

    if (space->running_count || space->interrupted_count || space->names || space->recovers.count || space->waiting ||
        space->stored_bytes)
        return;
    if (engine->last_space == space)
        engine->last_space = NULL;
    engine->space_bytes -= size_of(space);
    table_remove(&engine->spaces, &space->entry);
    mem_free(space);
    if (!whole)
        return;
    whole->names--;
    space_let_go(engine, whole);
}

static struct space *whole_of(const struct operation *operation)
{
    return operation->space->whole ? operation->space->whole : operation->space;
}

void space_enter(struct engine *engine, struct operation *operation, const struct record *record)
{
    if (record->state == RECORD_RUNNING) {
        operation->space = get_whole(engine, record->id.namespace);
        operation->space->running_count++;
        return;
    }
    operation->space = space_get(engine, record->id.namespace, record->operation);
    whole_of(operation)->interrupted_count++;
    interrupted_append(&whole_of(operation)->interrupted, operation);
    if (operation->space->whole) {
        operation->space->interrupted_count++;
        named_append(&operation->space->interrupted, operation);
    }
}

void space_leave(struct engine *engine, struct operation *operation)
{
    struct space *space = operation->space;

    if (operation->state == RECORD_RUNNING) {
        space->running_count--;
    } else {
        whole_of(operation)->interrupted_count--;
        interrupted_remove(&whole_of(operation)->interrupted, operation);
        if (space->whole) {
            space->interrupted_count--;
            named_remove(&space->interrupted, operation);
        }
    }
    operation->space = NULL;
    space_let_go(engine, space);
}

void space_store(struct engine *engine, struct bytes namespace, uint64_t bytes, uint64_t before, bool finished)
{
    struct space *space = get_whole(engine, namespace);

    assert(space->stored_bytes >= before);
    space->finished += finished;
    space->stored_bytes += bytes - before;
    engine->stored_bytes += bytes - before;
}

static struct space *find_whole(const struct engine *engine, uint64_t namespace_hash)
{
    struct table_entry *entry = table_first(&engine->spaces, (uint32_t)namespace_hash);
    struct space *space;

    for (; (space = (struct space *)(void *)entry); entry = table_next(entry))
        if (!space->whole && record_namespace_hash(engine->secret, namespace_of(space)) == namespace_hash)
            break;
    return space;
}

void space_unstore(struct engine *engine, uint64_t namespace_hash, uint64_t bytes, bool finished)
{
    struct space *space = find_whole(engine, namespace_hash);

    /* A record whose rest is damaged may have been counted for another namespace than it now seems to be of. */
    if (!space || space->finished < finished || space->stored_bytes < bytes)
        return;
    space->finished -= finished;
    space->stored_bytes -= bytes;
    engine->stored_bytes -= bytes;
    space_let_go(engine, space);
}

struct space *space_add_waiting(struct engine *engine, struct bytes namespace)
{
    struct space *space = get_whole(engine, namespace);

    space->waiting++;
    return space;
}

void space_remove_waiting(struct engine *engine, struct space *space)
{
    assert(space->waiting > 0);
    space->waiting--;
    space_let_go(engine, space);
}

void space_stand_last(struct operation *operation)
{
    interrupted_remove(&whole_of(operation)->interrupted, operation);
    interrupted_append(&whole_of(operation)->interrupted, operation);
    if (!operation->space->whole)
        return;
    named_remove(&operation->space->interrupted, operation);
    named_append(&operation->space->interrupted, operation);
}

struct parked *space_first_recover(const struct operation *operation)
{
    struct parked *any = whole_of(operation)->recovers.first;
    struct parked *named = operation->space->whole ? operation->space->recovers.first : NULL;

    return !any || (named && named->arrival < any->arrival) ? named : any;
}

static void free_left(void *context, struct table_entry *entry)
{
    struct space *space = (struct space *)(void *)entry;

    (void)context;
    assert(!space->whole && !space->running_count && !space->interrupted_count && !space->waiting);
    mem_free(space);
}

void space_free_all(struct engine *engine)
{
    engine->last_space = NULL;
    table_clear(&engine->spaces, free_left, NULL);
}

void space_check(const struct operation *operation)
{
    const struct space *space = operation->space;

    assert(space->whole == NULL || (space->operation_bytes && space->whole->names));
    assert(operation->state == RECORD_RUNNING ? !space->whole && space->running_count
                                              : space->interrupted_count && whole_of(operation)->interrupted_count);
    assert(operation->state == RECORD_RUNNING || whole_of(operation)->interrupted.first);
}
