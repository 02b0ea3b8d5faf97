/* Keeps disk allocated beyond the tables' file, so that a commit does not meet a full disk. What was acknowledged is in
 * the log, and has to find room in the tables whatever else fills the disk.
 *
 * The applying thread's; before there is one, the loop's. */
#ifndef IDEMD_AHEAD_H
#define IDEMD_AHEAD_H

#include "daemon/store/tables.h"

struct ahead {
    bool whole;         /* the file has no holes */
    uint64_t allocated; /* of the file, so many bytes are known to be */
};

/* After each commit. used_bytes: pages in use; wal_bytes: the log's files; ask: whether the disk may be asked for more,
 * which takes its time if it is full. False: the disk has not as much as is to be
 * kept. *room_bytes: what the tables can take without it; UINT64_MAX if the file system allocates nothing ahead: then a
 * commit that meets the end stops the daemon. */
bool ahead_keep(struct ahead *ahead, const struct tables *tables, uint64_t used_bytes, uint64_t wal_bytes, bool ask,
                uint64_t *room_bytes);

#endif
