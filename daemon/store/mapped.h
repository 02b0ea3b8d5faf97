/* Pages of data.mdb that cannot be read. It is mapped, so the kernel says by SIGBUS that a page lies beyond the end of
 * a file that was cut short, or that the disk has a bad sector there. Nobody can go on then: the daemon says which page
 * it is, and ends (74). */
#ifndef IDEMD_MAPPED_H
#define IDEMD_MAPPED_H

#include "daemon/store/tables.h"

/* From now on, for all threads that do not block SIGBUS. `path` is the directory of open tables. Only one store is open
 * in a process. */
void mapped_guard(const struct tables *tables, const char *path);
/* No more. Not guarded: fine. */
void mapped_release(void);

#endif
