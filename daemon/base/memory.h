/* The daemon's one door to memory. It knows how much is in use, and it keeps a reserve.
 *
 * No function here returns NULL. What peers can make the daemon ask for is refused before it gets here, from the moment
 * that mem_is_short: either as much is in use as mem_limit allows, or the system refused a piece. When the system
 * refuses, the reserve is given back and the same piece is asked for again; so the calls that are under way come to
 * their end, and what comes next is refused by name. Only if that does not help either does the daemon stop with exit
 * code 71. That is safe, since what it acknowledged is on disk, and it is the only answer that cannot be wrong halfway
 * through a change. Thread-safe, but for mem_set_up, mem_limit and mem_refill, which are for the loop thread. */
#ifndef IDEMD_MEMORY_H
#define IDEMD_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

void *mem_alloc(size_t size);              /* not cleared; size may be 0 */
void *mem_zero(size_t count, size_t size); /* cleared; the product is checked */
void *mem_resize(void *old, size_t size);
void *mem_pages(size_t size); /* not cleared; starts at a page */
char *mem_string(const char *string);
void mem_free(void *memory); /* NULL is fine */

/* Once, before any other: large pieces of memory are kept apart from small ones, so that they go back when they are
 * freed; and the reserve is made. */
void mem_set_up(void);
/* Gives back what is free. May take milliseconds; meant for a quiet moment. */
void mem_give_back(void);

/* Bytes in use: what was asked for here and not freed, as malloc rounds it, and reserved address space that was made
 * usable. Right to within 64 KiB a thread. */
uint64_t mem_used(void);
/* From how many bytes on memory counts as short; 0: no limit, which is how it starts. */
void mem_limit(uint64_t bytes);
uint64_t mem_limited(void); /* that limit */
/* Nothing new may be taken on: the limit is reached, or the system refused a piece and the reserve is not there again.
 * Cheap. */
bool mem_is_short(void);
/* Gives the reserve back for somebody who asks the system for memory at another door, as LMDB does, and was refused: a
 * second try may succeed, and what comes next is refused by name. Any thread. */
void mem_give_reserve(void);
/* Makes the reserve again if it was given back and the system has room for it now. Once a turn of the loop. */
void mem_refill(void);
/* A limit that suits this machine: three quarters of the least of its memory, the limit of the process's cgroup (v2)
 * and those of its control groups above it, and what RLIMIT_AS and RLIMIT_DATA leave beyond what is in use now. */
uint64_t mem_suitable_limit(void);

/* Address space that costs nothing until parts of it are made usable: cleared memory, from a page's start on. */
void *mem_reserve(size_t size);
void mem_use_reserved(void *start, size_t size);
/* `used`: how much of it was made usable. `reserved` may be NULL. */
void mem_unreserve(void *reserved, size_t size, size_t used);

#endif
