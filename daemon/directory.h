/* The data directory: whose it is, who holds it, and how a store comes to be in it whole or not at all. */
#ifndef IDEMD_DIRECTORY_H
#define IDEMD_DIRECTORY_H

#include <stdbool.h>

#include "daemon/store.h"

struct directory {
    char path[4000]; /* of the directory */
    int lock_fd;     /* holds DIR/lock; -1: not */
};

/* Makes DIR (mode 0700) where it is not there, refuses one that holds other things, or a store whose file is missing or
 * empty (65), and takes its lock (75 where another daemon has it). make: false only looks. */
bool directory_open(struct directory *directory, const char *path, bool make, struct store_error *error);
/* Gives the lock back. */
void directory_close(struct directory *directory);

bool directory_has_store(const struct directory *directory);
/* DIR/store and DIR/store.new, as paths. */
void directory_store_path(const struct directory *directory, bool building, char path[4096]);
/* Removes what an interrupted build left, and makes an empty DIR/store.new. */
bool directory_begin_build(const struct directory *directory, struct store_error *error);
/* What was built is flushed, and becomes DIR/store. */
bool directory_end_build(const struct directory *directory, struct store_error *error);

#endif
