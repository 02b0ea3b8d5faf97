/* A table of entries that live in their owners' structs, found by a hash. It grows by one bucket with an entry that
 * comes, and shrinks by a few with one that goes, so that no step is long whatever the table holds, and nothing is ever
 * copied. Loop thread only. */
#ifndef IDEMD_TABLE_H
#define IDEMD_TABLE_H

#include <stddef.h>
#include <stdint.h>

/* Embedded in its owner. */
struct table_entry {
    struct table_entry *next; /* of the same bucket */
    uint32_t hash;
};

/* Embedded in its owner; start with {0}. */
struct table {
    struct table_entry **segments[32]; /* each as large as all before it */
    uint32_t buckets, entries;
};

/* Frees the buckets; the entries are their owners'. */
void table_free(struct table *table);
/* The same, and `visit` gets each entry before, which it may free. It does not look at the table. */
void table_clear(struct table *table, void (*visit)(void *context, struct table_entry *entry), void *context);
/* Adds an entry, beside others of the same hash. */
void table_add(struct table *table, struct table_entry *entry, uint32_t hash);
/* Takes an entry out that is in the table. Looks at its bucket only. */
void table_remove(struct table *table, struct table_entry *entry);
/* The entries of this hash, in no order: the first, then the one after another; NULL: no more. Several keys may share a
 * hash. Valid until the table is changed. */
struct table_entry *table_first(const struct table *table, uint32_t hash);
struct table_entry *table_next(const struct table_entry *entry);
size_t table_memory_bytes(const struct table *table);
/* Walks the whole table and asserts what must hold. For tests. */
void table_check(const struct table *table);

#endif
