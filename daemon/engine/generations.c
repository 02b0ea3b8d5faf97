/* See generations.h. More is squeezed with each step than can come or go in it, so it comes to its end. */
#include "daemon/engine/generations.h"

#include <assert.h>

#include "daemon/base/memory.h"

enum {
    CAPACITY_LEAST = 4096,
    HOLES_LEAST = 64, /* fewer are left alone */
    SQUEEZED_A_STEP = 8,
    GIVEN_BACK_A_STEP = 64 * 1024, /* entries: a megabyte */
};

static bool squeezes(const struct generations *generations)
{
    return generations->from > 0;
}

static void squeeze_one(struct generations *generations)
{
    const struct generation generation = generations->at[generations->from++];

    if (generation.operation)
        generations->at[generations->to++] = generation;
    else
        generations->holes--;
}

/* What a busy minute took is given back. */
static void give_back(struct generations *generations)
{
    if (squeezes(generations) || generations->capacity <= CAPACITY_LEAST ||
        generations->count >= generations->capacity / 8)
        return;
    generations->capacity -=
        generations->capacity / 2 < GIVEN_BACK_A_STEP ? generations->capacity / 2 : GIVEN_BACK_A_STEP;
    generations->at = mem_resize(generations->at, generations->capacity * sizeof *generations->at);
}

static void step(struct generations *generations)
{
    if (!squeezes(generations) && (generations->holes <= HOLES_LEAST || generations->holes <= generations->count / 2)) {
        give_back(generations);
        return;
    }
    for (int i = 0; i < SQUEEZED_A_STEP && generations->from < generations->count; i++)
        squeeze_one(generations);
    if (generations->from < generations->count)
        return;
    generations->count = generations->to;
    generations->to = generations->from = 0;
}

void generations_append(struct generations *generations, uint64_t generation, struct operation *operation)
{
    assert(generations->count == generations->from || generations->at[generations->count - 1].generation < generation);
    if (generations->count == generations->capacity) {
        generations->capacity = generations->capacity ? generations->capacity * 2 : 64;
        generations->at = mem_resize(generations->at, generations->capacity * sizeof *generations->at);
    }
    generations->at[generations->count++] = (struct generation){generation, operation};
    step(generations);
}

uint32_t generations_find(const struct generations *generations, uint64_t generation)
{
    const bool squeezed = generations->to > 0 && generation <= generations->at[generations->to - 1].generation;
    uint32_t low = squeezed ? 0 : generations->from, high = squeezed ? generations->to : generations->count;

    while (low < high) {
        const uint32_t middle = low + (high - low) / 2;
        if (generations->at[middle].generation < generation)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

uint32_t generations_next(const struct generations *generations, uint32_t position)
{
    return position + 1 == generations->to ? generations->from : position + 1;
}

void generations_remove(struct generations *generations, uint64_t generation, const struct operation *operation)
{
    const uint32_t position = generations_find(generations, generation);

    assert(position < generations->count && generations->at[position].operation == operation);
    generations->at[position].operation = NULL;
    generations->holes++;
    step(generations);
}

uint32_t generations_operations(const struct generations *generations)
{
    return generations->count - (generations->from - generations->to) - generations->holes;
}

void generations_free(struct generations *generations)
{
    mem_free(generations->at);
    *generations = (struct generations){0};
}

void generations_check(const struct generations *generations)
{
    uint32_t entries = 0, holes = 0;
    uint64_t last = 0;

    assert(generations->to <= generations->from && generations->from <= generations->count &&
           generations->count <= generations->capacity);
    for (uint32_t i = generations_find(generations, 0); i < generations->count; i = generations_next(generations, i)) {
        assert(generations->at[i].generation > last);
        last = generations->at[i].generation;
        entries++;
        holes += generations->at[i].operation == NULL;
    }
    assert(entries == generations->count - (generations->from - generations->to) && holes == generations->holes);
}
