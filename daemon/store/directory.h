/* The data directory: whose it is, who holds it, and how a store comes to be in it whole or not at all. */
#ifndef IDEMD_DIRECTORY_H
#define IDEMD_DIRECTORY_H

#include <stdbool.h>

#include "daemon/base/failure.h"

struct directory {
    char path[4000]; /* of the directory */
    /* Each is open and locked, or -1. */
    int fd;       /* the directory itself: it stays, whatever is done to the files in it */
    int lock_fd;  /* DIR/lock: where an older idemd looks */
    int store_fd; /* DIR/store, once there is one: its files are made here, whoever has the path by then */
    int data_fd;  /* the tables' file: it is held also where it has another name, in another directory */
};

/* One that is not open. */
static inline struct directory directory_none(void)
{
    return (struct directory){.fd = -1, .lock_fd = -1, .store_fd = -1, .data_fd = -1};
}

enum directory_use {
    DIRECTORY_READ, /* only looks, and writes nothing: several may at once, while no daemon holds it */
    DIRECTORY_HOLD, /* makes DIR (mode 0700) where it is not there; nobody else may use it meanwhile */
};

/* Takes DIR, which holds a store of ours or, to be held, nothing. Refuses one that holds other things, or a store whose
 * file is missing or empty (65); 75 where another process has it. */
bool directory_open(struct directory *directory, const char *path, enum directory_use use, struct failure *error);
/* Takes the file of the store that is there. */
bool directory_open_data(struct directory *directory, enum directory_use use, struct failure *error);
/* Gives everything back. */
void directory_close(struct directory *directory);

bool directory_has_store(const struct directory *directory);
/* DIR/store and DIR/store.new, as paths. */
void directory_store_path(const struct directory *directory, bool building, char path[4096]);
/* Removes what an interrupted build left, and makes an empty DIR/store.new. */
bool directory_begin_build(const struct directory *directory, struct failure *error);
/* What was built is flushed, and becomes DIR/store. */
bool directory_end_build(const struct directory *directory, struct failure *error);
/* Flushes the tables' file, and the names of everything on the way to it: a daemon that was killed may have left either
 * unflushed, where a power cut would still undo it. */
bool directory_flush(const struct directory *directory, struct failure *error);

#endif
