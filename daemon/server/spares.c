/* Each piece that is kept points to the next. */
#include "daemon/server/spares.h"

#include <assert.h>

#include "daemon/base/memory.h"

struct spare {
    struct spare *next;
};

void *spares_take(struct spares *spares)
{
    struct spare *spare = spares->first;

    assert(spares->bytes >= sizeof *spare);
    if (!spare)
        return mem_alloc(spares->bytes);
    spares->first = spare->next;
    spares->count--;
    return spare;
}

void spares_give(struct spares *spares, void *memory)
{
    struct spare *spare = memory;

    if (spares->count == spares->most) {
        mem_free(memory);
        return;
    }
    spare->next = spares->first;
    spares->first = spare;
    spares->count++;
}

void spares_free(struct spares *spares)
{
    while (spares->first)
        mem_free(spares_take(spares));
}
