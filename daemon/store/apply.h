/* Brings batches into the tables: many in one transaction, of which each operation's last state is what is written. */
#ifndef IDEMD_APPLY_H
#define IDEMD_APPLY_H

#include "daemon/store/tables.h"

enum { APPLY_SWEPT_MAX = 4096 };

struct apply {
    struct tables *tables;
    const struct bytes *batches; /* good ones, oldest first, without a gap; may be none */
    uint32_t batch_count;
    struct tables_state *state; /* as it is in the tables; afterwards as it became. Its wal_slots is the caller's */
    bool throttle;              /* it rests now and then, for threads that somebody waits for */
    uint64_t sweep_s; /* first sweeps what may go at this time (seconds of the retention clock), one slice; 0: no */
    const uint8_t *secret;     /* of namespaces' hashes; with sweep_s */
    struct store_swept *swept; /* room for APPLY_SWEPT_MAX, with sweep_s */
    uint32_t swept_count;      /* out */
    uint32_t done_count;       /* out, of apply_parts: so many batches are in the tables, also if it failed */
};

/* Returns 0; ENOMEM, also after a second try: it had no effect, and may be called again; or another of LMDB's or
 * errno's errors: then nothing may be assumed of the disk. An operation whose record cannot be made whole is logged,
 * and written damaged. */
int apply(struct apply *apply);
/* The same, but if the disk has no room for all of it in one commit, by several smaller ones: each gives back pages
 * which those after it use. What was applied before a failure stays. */
int apply_parts(struct apply *apply);

#endif
