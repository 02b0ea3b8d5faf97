/* See lives.h. More is squeezed with each step than can come or go in it, so it comes to its end. */
#include "daemon/engine/lives.h"

#include <assert.h>

#include "daemon/base/memory.h"

enum {
    CAPACITY_LEAST = 4096,
    HOLES_LEAST = 64, /* fewer are left alone */
    SQUEEZED_A_STEP = 8,
    GIVEN_BACK_A_STEP = 64 * 1024, /* entries: a megabyte */
};

static bool squeezes(const struct lives *lives)
{
    return lives->from > 0;
}

static void squeeze_one(struct lives *lives)
{
    const struct life life = lives->at[lives->from++];

    if (life.operation)
        lives->at[lives->to++] = life;
    else
        lives->holes--;
}

/* What a busy minute took is given back. */
static void give_back(struct lives *lives)
{
    if (squeezes(lives) || lives->capacity <= CAPACITY_LEAST || lives->count >= lives->capacity / 8)
        return;
    lives->capacity -= lives->capacity / 2 < GIVEN_BACK_A_STEP ? lives->capacity / 2 : GIVEN_BACK_A_STEP;
    lives->at = mem_resize(lives->at, lives->capacity * sizeof *lives->at);
}

static void step(struct lives *lives)
{
    if (!squeezes(lives) && (lives->holes <= HOLES_LEAST || lives->holes <= lives->count / 2)) {
        give_back(lives);
        return;
    }
    for (int i = 0; i < SQUEEZED_A_STEP && lives->from < lives->count; i++)
        squeeze_one(lives);
    if (lives->from < lives->count)
        return;
    lives->count = lives->to;
    lives->to = lives->from = 0;
}

void lives_append(struct lives *lives, uint64_t life, struct operation *operation)
{
    assert(lives->count == lives->from || lives->at[lives->count - 1].life < life);
    if (lives->count == lives->capacity) {
        lives->capacity = lives->capacity ? lives->capacity * 2 : 64;
        lives->at = mem_resize(lives->at, lives->capacity * sizeof *lives->at);
    }
    lives->at[lives->count++] = (struct life){life, operation};
    step(lives);
}

uint32_t lives_find(const struct lives *lives, uint64_t life)
{
    const bool squeezed = lives->to > 0 && life <= lives->at[lives->to - 1].life;
    uint32_t low = squeezed ? 0 : lives->from, high = squeezed ? lives->to : lives->count;

    while (low < high) {
        const uint32_t middle = low + (high - low) / 2;
        if (lives->at[middle].life < life)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

uint32_t lives_next(const struct lives *lives, uint32_t position)
{
    return position + 1 == lives->to ? lives->from : position + 1;
}

void lives_remove(struct lives *lives, uint64_t life, const struct operation *operation)
{
    const uint32_t position = lives_find(lives, life);

    assert(position < lives->count && lives->at[position].operation == operation);
    lives->at[position].operation = NULL;
    lives->holes++;
    step(lives);
}

uint32_t lives_operations(const struct lives *lives)
{
    return lives->count - (lives->from - lives->to) - lives->holes;
}

void lives_free(struct lives *lives)
{
    mem_free(lives->at);
    *lives = (struct lives){0};
}

void lives_check(const struct lives *lives)
{
    uint32_t entries = 0, holes = 0;
    uint64_t last = 0;

    assert(lives->to <= lives->from && lives->from <= lives->count && lives->count <= lives->capacity);
    for (uint32_t i = lives_find(lives, 0); i < lives->count; i = lives_next(lives, i)) {
        assert(lives->at[i].life > last);
        last = lives->at[i].life;
        entries++;
        holes += lives->at[i].operation == NULL;
    }
    assert(entries == lives->count - (lives->from - lives->to) && holes == lives->holes);
}
