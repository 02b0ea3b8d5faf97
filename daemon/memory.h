/* The daemon's one door to memory. It never returns NULL: a daemon without memory stops with exit code 71, which is
 * safe (what it acknowledged is on disk) and the only answer that cannot be wrong halfway through a change. What peers
 * can make it ask for is bounded before they get here. Thread-safe. */
#ifndef IDEMD_MEMORY_H
#define IDEMD_MEMORY_H

#include <stddef.h>

void *mem_alloc(size_t size);              /* not cleared; size may be 0 */
void *mem_zero(size_t count, size_t size); /* cleared; the product is checked */
void *mem_resize(void *old, size_t size);
void *mem_pages(size_t size); /* not cleared; starts at a page */
char *mem_string(const char *string);
void mem_free(void *memory); /* NULL is fine */

/* Once, before any other: large pieces of memory are kept apart from small ones, so that they go back when they are
 * freed. */
void mem_set_up(void);
/* Gives back what is free. May take milliseconds; meant for a quiet moment. */
void mem_give_back(void);

/* Address space that costs nothing until parts of it are made usable: cleared memory, from a page's start on. */
void *mem_reserve(size_t size);
void mem_use_reserved(void *start, size_t size);
void mem_unreserve(void *reserved, size_t size); /* usable or not; NULL is fine */

#endif
