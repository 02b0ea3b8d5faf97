/* Linear hashing, after Litwin (1980): buckets 0 .. count-1; an entry belongs to bucket (tag mod 2^level+1) where that
 * is below count, else to (tag mod 2^level). The table grows by one bucket at a time, which takes its entries from the
 * one bucket that it was split off. Buckets lie in one piece of address space that is reserved at once and used from
 * its start, so growing copies nothing; in huge pages, since every look-up is at another place.
 *
 * A bucket is one cache line: five entries and a link to an overflow bucket, which lies in a piece of its own. An entry
 * with place 0 is free. */
#include "daemon/base/index.h"

#include <assert.h>
#include <string.h>
#include <sys/mman.h>

#include "daemon/base/memory.h"

enum {
    ENTRIES = 5,
    ENTRY_BYTES = 12,
    LOAD_OF_TEN = 9,              /* entries per bucket's place, in tenths, over which it grows */
    STEP_BYTES = 2 * 1024 * 1024, /* a huge page: made usable at a time */
    STEP_BUCKETS = STEP_BYTES / 64,
    BUCKETS_MAX = 1 << 28, /* 1,200 million entries; beyond, chains grow longer */
};

struct bucket {
    uint8_t entries[ENTRIES * ENTRY_BYTES];
    uint32_t overflow; /* 1 + number of an overflow bucket; 0: none */
};
_Static_assert(sizeof(struct bucket) == 64, "a bucket is a cache line");

/* Buckets by number. */
struct buckets {
    struct bucket *first; /* aligned to STEP_BYTES */
    uint32_t count, usable;
    void *reserved;
};

struct index {
    struct buckets main, overflow;
    uint32_t level;         /* the table has between 2^level and 2^(level+1) buckets */
    uint32_t free_overflow; /* 1 + number of the first free overflow bucket */
    uint64_t entries;
};

static struct bucket *at(const struct buckets *buckets, uint32_t number)
{
    assert(number < buckets->count);
    return buckets->first + number;
}

enum { RESERVED_STEPS = BUCKETS_MAX / STEP_BUCKETS + 1 };
#define RESERVED_BYTES ((size_t)RESERVED_STEPS * STEP_BYTES)

static void buckets_reserve(struct buckets *buckets)
{
    void *const start = mem_reserve(RESERVED_BYTES);
    const uintptr_t aligned = ((uintptr_t)start + STEP_BYTES - 1) / STEP_BYTES * STEP_BYTES;

    *buckets = (struct buckets){.first = (struct bucket *)aligned, .reserved = start};
}

/* The first step is of small pages, or an empty index would cost two megabytes. */
static void use_step(struct buckets *buckets)
{
    void *const step = buckets->first + buckets->usable;

    mem_use_reserved(step, STEP_BYTES);
    if (buckets->usable > 0)
        madvise(step, STEP_BYTES, MADV_HUGEPAGE);
    buckets->usable += STEP_BUCKETS;
}

static uint32_t buckets_add(struct buckets *buckets)
{
    assert(buckets->count < BUCKETS_MAX);
    if (buckets->count == buckets->usable)
        use_step(buckets);
    return buckets->count++;
}

static void buckets_free(struct buckets *buckets)
{
    mem_unreserve(buckets->reserved, RESERVED_BYTES, (size_t)buckets->usable / STEP_BUCKETS * STEP_BYTES);
}

static uint32_t entry_tag(const struct bucket *bucket, int i)
{
    uint32_t tag;

    memcpy(&tag, bucket->entries + i * ENTRY_BYTES, sizeof tag);
    return tag;
}

static uint64_t entry_value(const struct bucket *bucket, int i)
{
    uint64_t value;

    memcpy(&value, bucket->entries + i * ENTRY_BYTES + 4, sizeof value);
    return value;
}

static void entry_set(struct bucket *bucket, int i, uint32_t tag, uint64_t value)
{
    memcpy(bucket->entries + i * ENTRY_BYTES, &tag, sizeof tag);
    memcpy(bucket->entries + i * ENTRY_BYTES + 4, &value, sizeof value);
}

static struct bucket *next_of(const struct index *index, const struct bucket *bucket)
{
    return bucket->overflow ? at(&index->overflow, bucket->overflow - 1) : NULL;
}

static uint32_t number_of(const struct index *index, uint32_t tag)
{
    const uint32_t number = tag & (uint32_t)((2ull << index->level) - 1);

    return number < index->main.count ? number : tag & ((1u << index->level) - 1);
}

static struct bucket *bucket_of(const struct index *index, uint64_t hash)
{
    return at(&index->main, number_of(index, (uint32_t)hash));
}

struct index *index_new(void)
{
    struct index *index = mem_zero(1, sizeof *index);

    buckets_reserve(&index->main);
    buckets_reserve(&index->overflow);
    buckets_add(&index->main);
    return index;
}

void index_free(struct index *index)
{
    if (!index)
        return;
    buckets_free(&index->main);
    buckets_free(&index->overflow);
    mem_free(index);
}

/* ---- Adding ------------------------------------------------------------------ */

static uint32_t take_overflow(struct index *index)
{
    uint32_t number = index->free_overflow;

    if (!number)
        return 1 + buckets_add(&index->overflow);
    struct bucket *bucket = at(&index->overflow, number - 1);
    index->free_overflow = bucket->overflow;
    bucket->overflow = 0;
    return number;
}

static void insert(struct index *index, struct bucket *bucket, uint32_t tag, uint64_t value)
{
    for (;; bucket = next_of(index, bucket)) {
        for (int i = 0; i < ENTRIES; i++)
            if (entry_value(bucket, i) == 0) {
                entry_set(bucket, i, tag, value);
                return;
            }
        if (!bucket->overflow)
            bucket->overflow = take_overflow(index);
    }
}

/* Takes a chain apart: its entries to `from`, its overflow buckets to the free list. */
static void scatter(struct index *index, struct bucket *first)
{
    struct bucket chain = *first;

    *first = (struct bucket){.overflow = 0};
    for (;;) {
        for (int i = 0; i < ENTRIES; i++)
            if (entry_value(&chain, i))
                insert(index, bucket_of(index, entry_tag(&chain, i)), entry_tag(&chain, i), entry_value(&chain, i));
        const uint32_t number = chain.overflow;
        if (!number)
            return;
        struct bucket *next = at(&index->overflow, number - 1);
        chain = *next;
        *next = (struct bucket){.overflow = index->free_overflow};
        index->free_overflow = number;
    }
}

static void grow(struct index *index)
{
    const uint32_t added = buckets_add(&index->main);

    if (added == 2u << index->level)
        index->level++;
    scatter(index, at(&index->main, added - (1u << index->level)));
}

void index_add(struct index *index, uint64_t hash, uint64_t value)
{
    assert(value != 0);
    insert(index, bucket_of(index, hash), (uint32_t)hash, value);
    index->entries++;
    if (index->entries * 10 > (uint64_t)index->main.count * ENTRIES * LOAD_OF_TEN && index->main.count < BUCKETS_MAX)
        grow(index);
}

/* ---- Finding -------------------------------------------------------------------- */

static struct bucket *find(const struct index *index, uint64_t hash, uint64_t value, int *i)
{
    for (struct bucket *bucket = bucket_of(index, hash); bucket; bucket = next_of(index, bucket))
        for (*i = 0; *i < ENTRIES; ++*i)
            if (entry_value(bucket, *i) == value && entry_tag(bucket, *i) == (uint32_t)hash)
                return bucket;
    return NULL;
}

bool index_replace(struct index *index, uint64_t hash, uint64_t from, uint64_t to)
{
    int i;
    struct bucket *bucket = find(index, hash, from, &i);

    assert(from != 0 && to != 0);
    if (!bucket)
        return false;
    entry_set(bucket, i, (uint32_t)hash, to);
    return true;
}

static bool is_empty(const struct bucket *bucket)
{
    for (int i = 0; i < ENTRIES; i++)
        if (entry_value(bucket, i))
            return false;
    return true;
}

/* The last entry of a chain takes the place of one that went, so that chains stay dense; an overflow bucket that is
 * empty by that goes back to the free list. */
static void fill_hole(struct index *index, struct bucket *first, struct bucket *holed, int hole)
{
    struct bucket *before = NULL, *last = first;
    int i = ENTRIES - 1;

    for (struct bucket *next; (next = next_of(index, last)); last = next)
        before = last;
    while (i >= 0 && !entry_value(last, i))
        i--;
    if (i >= 0) {
        entry_set(holed, hole, entry_tag(last, i), entry_value(last, i));
        entry_set(last, i, 0, 0);
    }
    if (before && is_empty(last)) {
        last->overflow = index->free_overflow;
        index->free_overflow = before->overflow;
        before->overflow = 0;
    }
}

bool index_remove(struct index *index, uint64_t hash, uint64_t value)
{
    int i;
    struct bucket *bucket = find(index, hash, value, &i);

    assert(value != 0);
    if (!bucket)
        return false;
    entry_set(bucket, i, 0, 0);
    index->entries--;
    fill_hole(index, bucket_of(index, hash), bucket, i);
    return true;
}

uint64_t index_find(const struct index *index, uint64_t hash, struct index_cursor *cursor)
{
    const struct bucket *bucket = bucket_of(index, hash);

    for (uint32_t skip = cursor->step / ENTRIES; skip > 0; skip--)
        bucket = next_of(index, bucket);
    while (bucket) {
        for (int i = (int)(cursor->step % ENTRIES); i < ENTRIES; i++) {
            cursor->step++;
            if (entry_tag(bucket, i) == (uint32_t)hash && entry_value(bucket, i))
                return entry_value(bucket, i);
        }
        bucket = next_of(index, bucket);
    }
    return 0;
}

void index_prefetch(const struct index *index, uint64_t hash)
{
    __builtin_prefetch(bucket_of(index, hash));
}

void index_reserve(struct index *index, uint64_t entries)
{
    const uint64_t buckets = entries * 10 / (ENTRIES * LOAD_OF_TEN) + 1;

    assert(index->entries == 0);
    while (index->main.count < buckets && index->main.count < BUCKETS_MAX)
        if (buckets_add(&index->main) == 2u << index->level)
            index->level++;
}

/* ---- Numbers --------------------------------------------------------------------- */

uint64_t index_count(const struct index *index)
{
    return index->entries;
}

static size_t buckets_memory(const struct buckets *buckets)
{
    return (size_t)buckets->count * sizeof(struct bucket);
}

size_t index_memory_bytes(const struct index *index)
{
    return sizeof *index + buckets_memory(&index->main) + buckets_memory(&index->overflow);
}

void index_check(const struct index *index)
{
    uint64_t entries = 0;
    uint32_t overflow = 0;

    for (uint32_t number = 0; number < index->main.count; number++) {
        const struct bucket *first = at(&index->main, number);
        for (const struct bucket *bucket = first; bucket; bucket = next_of(index, bucket)) {
            overflow += bucket != first;
            assert(bucket == first || !is_empty(bucket));
            for (int i = 0; i < ENTRIES; i++) {
                if (!entry_value(bucket, i))
                    continue;
                entries++;
                assert(number_of(index, entry_tag(bucket, i)) == number);
            }
        }
    }
    for (uint32_t number = index->free_overflow; number; number = at(&index->overflow, number - 1)->overflow) {
        assert(is_empty(at(&index->overflow, number - 1)));
        overflow++;
    }
    assert(entries == index->entries && overflow == index->overflow.count);
}
