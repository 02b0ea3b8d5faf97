/* Where a store lies. A start compares that with where it lay at the start before, and so notices that the directory
 * was copied or restored from a backup, while the original, or what it gave out since, may still be about. */
#ifndef IDEMD_ORIGIN_H
#define IDEMD_ORIGIN_H

#include "daemon/base/host.h"

struct origin {
    uint64_t device, inode; /* of the tables' file */
    uint64_t born_ns;       /* when that file was made; 0: its file system does not say */
    uint8_t machine_id[HOST_ID_BYTES];
    uint8_t boot_id[HOST_ID_BYTES];
};

/* Of an open file. */
void origin_read(int fd, struct origin *origin);
/* Why `here` is another place than `before`, in a sentence; NULL: it is none, as far as can be told. A file keeps its
 * inode and its birth over renames and reboots; the number of its device can change with a boot, and is compared within
 * one only. */
const char *origin_difference(const struct origin *before, const struct origin *here);

#endif
