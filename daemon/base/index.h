/* Where each operation is: identity hash -> place. Twelve bytes an entry, by linear hashing, so that no step pauses the
 * loop.
 *
 * Entries are (32-bit tag, 64-bit place), five to a 64-byte bucket; the tag is the low half of the hash and also says
 * in which bucket an entry is, so a bucket can be split without reading a record. Two identities may share a tag: who
 * finds a place compares the record's own identity. Loop thread only. */
#ifndef IDEMD_INDEX_H
#define IDEMD_INDEX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct index;

struct index *index_new(void);
void index_free(struct index *index); /* NULL is fine */

/* Adds an entry, beside others of the same tag. place is not 0 and not there yet under this hash. */
void index_add(struct index *index, uint64_t hash, uint64_t value);
/* Makes the entry (hash, from) say `to`. Returns false where there is none. */
bool index_replace(struct index *index, uint64_t hash, uint64_t from, uint64_t to);
/* Removes the entry (hash, place). Returns false where there is none. */
bool index_remove(struct index *index, uint64_t hash, uint64_t value);

/* Goes through the places under a hash's tag: start with *cursor = 0, call until it returns 0 (no more). Valid until
 * the index is changed. */
struct index_cursor {
    uint32_t step;
};
uint64_t index_find(const struct index *index, uint64_t hash, struct index_cursor *cursor);

/* Brings what index_find, index_add or index_remove of this hash will look at into the cache. */
void index_prefetch(const struct index *index, uint64_t hash);
/* An empty index gets the size at once that so many entries will need. */
void index_reserve(struct index *index, uint64_t entries);

uint64_t index_count(const struct index *index);
size_t index_memory_bytes(const struct index *index);
/* Walks the whole structure and asserts what must hold. For tests. */
void index_check(const struct index *index);

#endif
