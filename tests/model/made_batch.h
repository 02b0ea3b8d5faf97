/* Batches for tests of the log, made from a few numbers and known again by them. */
#ifndef IDEMD_TESTS_MADE_BATCH_H
#define IDEMD_TESTS_MADE_BATCH_H

#include "daemon/store/batch.h"

enum { MADE_BYTES_MIN = 160 };

struct made {
    uint64_t first;
    uint32_t changes;
    uint32_t bytes; /* without padding; at least MADE_BYTES_MIN + changes */
    uint64_t salt;  /* what it is filled with: two batches of the same numbers differ */
};

static inline uint64_t made_last(const struct made *made)
{
    return made->first + made->changes - 1;
}

/* Sealed, not signed. */
struct batch make_made(const struct made *made);
/* Is it that one, byte for byte but for place and checksums? */
bool is_made(struct bytes batch, const struct made *made);

#endif
