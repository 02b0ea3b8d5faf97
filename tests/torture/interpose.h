/* The preloaded library's inside: what is to fail, and how it is said. */
#ifndef TORTURE_INTERPOSE_H
#define TORTURE_INTERPOSE_H

#include <stdatomic.h>
#include <stdint.h>

/* The kinds of calls, and their numbers in records and in the mask of struct faults. */
enum kind {
    KIND_OPEN = 1, /* path; a: flags. End: result is the descriptor, a: 1 if it made the file */
    KIND_WRITE,    /* fd; a: offset, b: 1 if it is flushed when it returns; the data */
    KIND_FLUSH,    /* fd; a: 1 if sizes that shrank are flushed too (fsync) */
    KIND_FLUSH_NAMES,
    KIND_TRUNCATE, /* fd; a: size */
    KIND_ALLOCATE, /* fd; a: offset, b: bytes: the file is at least so long, what is new is zeros */
    KIND_RENAME,   /* two paths */
    KIND_LINK,     /* two paths */
    KIND_UNLINK,   /* path */
    KIND_MKDIR,    /* path */
    KIND_MAP,      /* fd; recorded only if it can be written through */
    KIND_CLOSE,    /* fd */
    KIND_SEND,     /* fd; the data */
    KIND_RESERVE,  /* fallocate that changes neither size nor content; not recorded */
    KIND_MEMORY,   /* an allocation, or address space; not recorded */
};

/* Shared with the suite. The n-th call among those of `kinds` that come while it is armed fails. */
struct faults {
    _Atomic uint32_t armed;
    uint32_t kinds; /* 1 << kind */
    uint32_t nth;   /* from 1 on; 0: none fails, they are counted */
    uint32_t from_then_on;
    int32_t error; /* an errno; 0: half of a write is done */
    _Atomic uint32_t seen, hits;
    _Atomic uint32_t counts[32]; /* by kind, while armed */
    char where[1024];            /* the stack of the first allocation that failed, as module+offset */
};

enum { GOES_ON = -1 };

/* The control block; NULL: the environment names none, or it is not read yet. */
extern struct faults *interpose_faults __attribute__((visibility("hidden")));

/* What the call that comes now is to fail with; 0: half of it is done; GOES_ON: it does not. */
__attribute__((visibility("hidden"))) int interpose_fault(enum kind kind);

#endif
