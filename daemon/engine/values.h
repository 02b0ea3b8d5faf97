/* What an operation has beside its record: input, checkpoint, and the attributes and body of its outcome. */
#ifndef IDEMD_VALUES_H
#define IDEMD_VALUES_H

#include "daemon/engine/operation.h"

/* What an answer shows of an operation's values. Release after use. */
struct values {
    struct bytes input, checkpoint;
    struct slice outcome;
    bool body_dropped;
    struct blob *scratch;
};
enum { VALUES_INPUT = 1, VALUES_CHECKPOINT = 2, VALUES_OUTCOME = 4 };
/* Fetches them, from memory or the store. False: what is stored does not read, and nothing was fetched. */
bool values_fetch(struct engine *engine, const struct lookup *found, unsigned which, const struct now *now,
                  struct values *values);
void values_release(struct values *values);

#endif
