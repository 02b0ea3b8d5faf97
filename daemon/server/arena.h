/* The loop's one arena: what a frame is unpacked into and a reply is built from. Bounded, and reset after each frame,
 * so that no peer can make the daemon keep memory. Loop thread only. */
#ifndef IDEMD_ARENA_H
#define IDEMD_ARENA_H

#include <stddef.h>
#include <stdint.h>

#include "daemon/base/bytes.h"

struct arena;

/* size: the most it will ever hold. Only what is touched costs memory. */
struct arena *arena_new(size_t size);
void arena_free(struct arena *arena); /* NULL is fine */

/* Aligned for anything. NULL where the arena is full. */
void *arena_alloc(struct arena *arena, size_t size);
/* As arena_alloc, cleared; asserts that there is room: for what its caller has bounded. */
void *arena_zero(struct arena *arena, size_t size);
/* A string with its NUL, as protobuf-c wants it. Asserts that there is room. */
char *arena_string(struct arena *arena, struct bytes bytes);

/* Everything allocated since the mark goes. */
size_t arena_mark(const struct arena *arena);
void arena_rewind(struct arena *arena, size_t mark);

#endif
