/* Linear hashing, after Litwin (1980), as in index.c: an entry belongs to bucket (hash mod 2s) where that is below the
 * count of buckets, else to (hash mod s), s being the largest power of two not above that count. Adding a bucket splits
 * one, taking the last away joins two. Buckets lie in segments, the first of BUCKETS_LEAST and each later one as large
 * as all before it: memory for one comes cleared, page by page as it is touched. */
#include "daemon/base/table.h"

#include <assert.h>
#include <stdbool.h>

#include "daemon/base/memory.h"

enum {
    BUCKETS_LEAST = 64,
    LEAST_BITS = 6,
    SPARSE = 4, /* buckets for each entry, above which they are too many */
};
_Static_assert(BUCKETS_LEAST == 1 << LEAST_BITS, "the first segment's size");
#define BUCKETS_MAX (1u << 31)

static uint32_t log2_of(uint32_t number)
{
    return 31 - (uint32_t)__builtin_clz(number);
}

/* 2^n buckets that come after all before them, but for the first. */
static uint32_t segment_of(uint32_t number)
{
    return number < BUCKETS_LEAST ? 0 : log2_of(number) - LEAST_BITS + 1;
}

static uint32_t segment_start(uint32_t segment)
{
    return segment == 0 ? 0 : (uint32_t)BUCKETS_LEAST << (segment - 1);
}

static uint32_t segment_size(uint32_t segment)
{
    return segment == 0 ? BUCKETS_LEAST : segment_start(segment);
}

static struct table_entry **bucket_at(const struct table *table, uint32_t number)
{
    const uint32_t segment = segment_of(number);

    return &table->segments[segment][number - segment_start(segment)];
}

static uint32_t number_of(const struct table *table, uint32_t hash)
{
    const uint32_t size = 1u << log2_of(table->buckets), number = hash & (2 * size - 1);

    return number < table->buckets ? number : hash & (size - 1);
}

static void put(struct table *table, struct table_entry *entry)
{
    struct table_entry **bucket = bucket_at(table, number_of(table, entry->hash));

    entry->next = *bucket;
    *bucket = entry;
}

/* Where the entries of a bucket above the first segment were before it was there. */
static uint32_t split_from(uint32_t number)
{
    return number - (1u << log2_of(number));
}

static void grow(struct table *table)
{
    const uint32_t added = table->buckets, segment = segment_of(added);
    struct table_entry **from = bucket_at(table, split_from(added)), *next;

    if (!table->segments[segment])
        table->segments[segment] = mem_zero(segment_size(segment), sizeof *table->segments[segment]);
    table->buckets++;
    struct table_entry *entry = *from;
    *from = NULL;
    for (; entry; entry = next) {
        next = entry->next;
        put(table, entry);
    }
}

static void shrink(struct table *table)
{
    const uint32_t last = table->buckets - 1, segment = segment_of(last);
    struct table_entry *next;

    struct table_entry *entry = *bucket_at(table, last);
    *bucket_at(table, last) = NULL;
    table->buckets--;
    for (; entry; entry = next) {
        next = entry->next;
        put(table, entry);
    }
    /* One empty segment stays, so that a table that goes up and down at its start does not ask for it each time. */
    if (last == segment_start(segment) && table->segments[segment + 1]) {
        mem_free(table->segments[segment + 1]);
        table->segments[segment + 1] = NULL;
    }
}

void table_add(struct table *table, struct table_entry *entry, uint32_t hash)
{
    if (table->buckets == 0) {
        table->segments[0] = mem_zero(BUCKETS_LEAST, sizeof *table->segments[0]);
        table->buckets = BUCKETS_LEAST;
    }
    entry->hash = hash;
    put(table, entry);
    table->entries++;
    if (table->entries > table->buckets && table->buckets < BUCKETS_MAX)
        grow(table);
}

void table_remove(struct table *table, struct table_entry *entry)
{
    struct table_entry **at = bucket_at(table, number_of(table, entry->hash));

    while (*at != entry) {
        assert(*at);
        at = &(*at)->next;
    }
    *at = entry->next;
    *entry = (struct table_entry){0};
    table->entries--;
    for (int i = 0; i < SPARSE && table->buckets > BUCKETS_LEAST && table->buckets / SPARSE > table->entries; i++)
        shrink(table);
}

static struct table_entry *of_hash(struct table_entry *entry, uint32_t hash)
{
    while (entry && entry->hash != hash)
        entry = entry->next;
    return entry;
}

struct table_entry *table_first(const struct table *table, uint32_t hash)
{
    return table->buckets ? of_hash(*bucket_at(table, number_of(table, hash)), hash) : NULL;
}

struct table_entry *table_next(const struct table_entry *entry)
{
    return of_hash(entry->next, entry->hash);
}

void table_free(struct table *table)
{
    for (size_t i = 0; i < sizeof table->segments / sizeof table->segments[0]; i++)
        mem_free(table->segments[i]);
    *table = (struct table){0};
}

void table_clear(struct table *table, void (*visit)(void *context, struct table_entry *entry), void *context)
{
    struct table_entry *next;

    for (uint32_t number = 0; number < table->buckets; number++)
        for (struct table_entry *entry = *bucket_at(table, number); entry; entry = next) {
            next = entry->next;
            visit(context, entry);
        }
    table_free(table);
}

size_t table_memory_bytes(const struct table *table)
{
    return (size_t)table->buckets * sizeof *table->segments[0];
}

void table_check(const struct table *table)
{
    uint32_t entries = 0;

    assert(table->buckets == 0 || table->buckets >= BUCKETS_LEAST);
    for (uint32_t number = 0; number < table->buckets; number++)
        for (const struct table_entry *entry = *bucket_at(table, number); entry; entry = entry->next) {
            assert(number_of(table, entry->hash) == number);
            entries++;
        }
    assert(entries == table->entries);
}
