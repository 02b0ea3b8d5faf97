/* Which commit was the last. */
#ifndef IDEMD_COMMITS_H
#define IDEMD_COMMITS_H

#include <stdbool.h>

#include "daemon/store.h"

/* Looks whether both of LMDB's meta pages in the store at `path` say of themselves what the state they lead to says.
 * True where there is no file yet. false: *error, 65. */
bool commits_check(const char *path, struct store_error *error);

#endif
