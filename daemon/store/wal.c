/* Slots, segments and recovery; see wal.h. */
#include "daemon/store/wal.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/store/batch.h"
#include "daemon/base/logging.h"
#include "daemon/base/memory.h"
#include "daemon/store/slot.h"

enum { STAGED_BYTES_KEPT = 1024 * 1024 };
_Static_assert((int)BATCH_ALIGN_BYTES == (int)DISK_ALIGN_BYTES, "batches are written as they are");

struct slot {
    int file;        /* -1: it is not there */
    uint64_t bytes;  /* of the file, written full */
    uint64_t newest; /* number of the last change in it: free when that is applied */
    bool found;      /* recovery read a batch of this store in it */
    bool damaged;    /* accepted: its head is written anew, or the whole file */
};

/* A batch that is to be applied. */
struct wal_batch_found {
    uint8_t *data;
    uint64_t first, last, segment;
    uint32_t slot;
    uint64_t end; /* where the next one would be */
    uint32_t bytes;
};

struct wal {
    const struct disk *disk;
    char directory[4096];
    int folder;
    uint8_t secret[RECORD_SECRET_BYTES];
    uint64_t change_bytes_max;
    pthread_mutex_t mutex; /* of what follows, but for found */
    struct slot slots[WAL_SLOTS_MAX];
    uint32_t slot_count;
    struct slot prepared; /* file -1: none */
    uint32_t current;     /* slot of the current segment */
    uint64_t segment, offset;
    uint64_t newest;  /* number of the last change written */
    uint64_t applied; /* number of the last change that is in the tables */

    uint8_t *staged; /* what is written from, aligned; the writing thread's */
    uint64_t staged_bytes;

    bool lost;
    struct wal_batch_found *found;
    uint32_t found_count, found_capacity;
};

static void slot_path(const char *directory, uint32_t slot, char path[WAL_PATH_BYTES])
{
    snprintf(path, WAL_PATH_BYTES, "%s/log.%u", directory, slot);
}

enum { NAME_BYTES = 16 };

/* Within the log's directory. */
static void slot_name(uint32_t slot, char name[NAME_BYTES])
{
    snprintf(name, NAME_BYTES, "log.%u", slot);
}

/* The largest batch that has room in an empty slot of so many bytes. */
static uint64_t room_of(uint64_t slot_bytes)
{
    return slot_bytes > SLOT_FIRST_BATCH_AT ? slot_bytes - SLOT_FIRST_BATCH_AT : 0;
}

/* What a new slot takes: each is twice the one before, and each has room for the largest change. */
static uint64_t slot_bytes(uint32_t slot, uint64_t change_bytes_max)
{
    const uint64_t doubled = (uint64_t)WAL_SLOT_BYTES_FIRST << slot;
    const uint64_t least = doubled < WAL_SLOT_BYTES_MAX ? doubled : WAL_SLOT_BYTES_MAX;
    const uint64_t largest = batch_padded_bytes(BATCH_HEADER_BYTES + change_bytes_max);

    return SLOT_FIRST_BATCH_AT + (largest > least ? largest : least);
}

/* Writes a slot's head, and flushes it. */
static int write_head(const struct disk *disk, int file, uint32_t slot, uint64_t bytes, const uint8_t *secret)
{
    uint8_t *head = mem_pages(SLOT_HEAD_BYTES);

    slot_write_head(head, slot, bytes, secret);
    const int code = disk->write(file, 0, head, SLOT_HEAD_BYTES);
    mem_free(head);
    return code;
}

/* Makes a slot of which nobody knows yet. What an attempt that was cut off has left of it is replaced. */
static int make_slot(const struct disk *disk, int folder, uint32_t slot, uint64_t bytes, const uint8_t *secret,
                     int *file)
{
    char name[NAME_BYTES];
    int made, code;

    slot_name(slot, name);
    code = disk->make(folder, name, bytes, &made);
    if (code != 0)
        return code;
    if ((code = write_head(disk, made, slot, bytes, secret)) != 0) {
        disk->close(made);
        return code;
    }
    *file = made;
    return 0;
}

/* ---- Recovery ------------------------------------------------------------------ */

static bool fail(struct failure *error, int exit_code, const char *what, const char *path, const char *reason)
{
    error->exit_code = exit_code;
    snprintf(error->message, sizeof error->message, "%.200s: %s: %.250s", path, what, reason);
    return false;
}

static bool fail_errno(struct failure *error, const char *what, const char *path, int code)
{
    const int exit_code = code == EWOULDBLOCK                                  ? 75
                          : code == EACCES || code == EPERM                    ? 77
                          : code == EMFILE || code == ENFILE || code == ENOMEM ? 71
                                                                               : 74;

    return fail(error, exit_code, what, path,
                code == EWOULDBLOCK ? "another daemon has it open: it is a part of two stores (a hard link)"
                                    : strerror(code));
}

static void keep_found(struct wal *wal, const uint8_t *data, const struct batch_header *header, uint32_t slot,
                       uint64_t offset)
{
    if (wal->found_count == wal->found_capacity) {
        wal->found_capacity = wal->found_capacity ? wal->found_capacity * 2 : 64;
        wal->found = mem_resize(wal->found, wal->found_capacity * sizeof *wal->found);
    }
    struct wal_batch_found *found = &wal->found[wal->found_count++];
    *found = (struct wal_batch_found){.data = mem_alloc(header->bytes),
                                      .first = header->first,
                                      .last = header->last,
                                      .segment = header->segment,
                                      .slot = slot,
                                      .end = offset + batch_padded_bytes(header->bytes),
                                      .bytes = header->bytes};
    memcpy(found->data, data, header->bytes);
}

/* Not torn, and nothing to skip: what it says was acknowledged, by a daemon that is not this one. */
static bool refuse_version(const struct wal *wal, uint32_t slot, char version, struct failure *error)
{
    char path[WAL_PATH_BYTES], text[120];

    slot_path(wal->directory, slot, path);
    snprintf(text, sizeof text, "of format idb%c, which this idemd does not read: start the idemd that wrote it",
             version >= ' ' && version <= '~' ? version : '?');
    return fail(error, 65, "has changes of another version of idemd", path, text);
}

/* Goes through one slot's bytes. What is applied already is what is left of an older use of the slot, or waits to be
 * overwritten; so is what was applied in part: a torn batch that reads after all, and whose first numbers were given
 * out again. After something that does not read the search goes on: whether anything follows decides what it is. */
static bool find_batches(struct wal *wal, const uint8_t *data, uint64_t size, uint32_t slot, uint64_t applied,
                         struct failure *error)
{
    uint64_t at = SLOT_FIRST_BATCH_AT;

    while (at < size) {
        struct batch_header header;
        char version;

        if (!batch_good(data + at, size - at, wal->secret)) {
            if (batch_of_other_version(data + at, size - at, wal->secret, &version))
                return refuse_version(wal, slot, version, error);
            at += BATCH_ALIGN_BYTES;
            continue;
        }
        batch_read_header(data + at, &header);
        wal->slots[slot].found = true;
        if (wal->segment < header.segment)
            wal->segment = header.segment;
        if (header.first > applied && header.offset == at)
            keep_found(wal, data + at, &header, slot, at);
        at += batch_padded_bytes(header.bytes);
    }
    return true;
}

/* A slot that the tables know of is not as it was left. What it held may be lost, and numbers with it. */
static bool lose_slot(struct wal *wal, uint32_t slot, const char *what, const struct wal_options *options,
                      struct failure *error)
{
    char path[WAL_PATH_BYTES], text[240];

    slot_path(wal->directory, slot, path);
    if (options->accept_loss) {
        log_event(LOG_ERROR, "lost", "log", path, "reason", what, NULL);
        wal->lost = wal->slots[slot].damaged = true;
        return true;
    }
    snprintf(text, sizeof text, "%s; what it held may be lost: put the file back, or --accept-loss starts without it",
             what);
    return fail(error, 65, "is not as it was left", path, text);
}

/* Of a slot that nobody knows of, in which no batch is, nothing is asked: its making was cut off. */
static bool check_head(struct wal *wal, uint32_t slot, const uint8_t *data, const struct wal_options *options,
                       struct failure *error)
{
    struct slot *at = &wal->slots[slot];
    const char *damage = slot_damage(data, at->bytes, slot, wal->secret);

    return !damage || (slot >= options->slots && !at->found) || lose_slot(wal, slot, damage, options, error);
}

static bool read_slot(struct wal *wal, uint32_t slot, const struct wal_options *options, struct failure *error)
{
    struct slot *at = &wal->slots[slot];
    char path[WAL_PATH_BYTES];
    uint8_t *data;
    int code = wal->disk->size(at->file, &at->bytes);

    slot_path(wal->directory, slot, path);
    if (code != 0)
        return fail_errno(error, "cannot be read", path, code);
    const uint64_t padded = batch_padded_bytes(at->bytes);
    const uint64_t bytes = padded < SLOT_HEAD_BYTES ? (uint64_t)SLOT_HEAD_BYTES : padded;
    data = mem_pages(bytes);
    code = wal->disk->read(at->file, 0, data, bytes);
    const bool good = code == 0 ? find_batches(wal, data, bytes, slot, options->applied, error) &&
                                      check_head(wal, slot, data, options, error)
                                : fail_errno(error, "cannot be read", path, code);
    at->bytes = at->bytes / BATCH_ALIGN_BYTES * BATCH_ALIGN_BYTES; /* a part at the end is written anew */
    mem_free(data);
    return good;
}

static void close_slot(struct wal *wal, uint32_t slot)
{
    if (wal->slots[slot].file >= 0)
        wal->disk->close(wal->slots[slot].file);
    wal->slots[slot].file = -1;
}

/* Reads every file that is there: the tables may be one commit behind, and not know of a slot that has batches. */
static bool read_slots(struct wal *wal, const struct wal_options *options, struct failure *error)
{
    char path[WAL_PATH_BYTES], name[NAME_BYTES];

    for (uint32_t slot = 0; slot < WAL_SLOTS_MAX; slot++) {
        slot_path(wal->directory, slot, path);
        slot_name(slot, name);
        const int code = wal->disk->open(wal->folder, name, &wal->slots[slot].file);
        if (code != 0)
            wal->slots[slot].file = -1;
        if (code != 0 && code != ENOENT)
            return fail_errno(error, "cannot be opened", path, code);
        if (code == 0 && !read_slot(wal, slot, options, error))
            return false;
        if (slot < options->slots || wal->slots[slot].found)
            wal->slot_count = slot + 1;
    }
    return true;
}

static bool open_slots(struct wal *wal, const struct wal_options *options, struct failure *error)
{
    if (!read_slots(wal, options, error))
        return false;
    for (uint32_t slot = 0; slot < WAL_SLOTS_MAX; slot++)
        if (slot >= wal->slot_count)
            close_slot(wal, slot);
        else if (wal->slots[slot].file < 0 && !lose_slot(wal, slot, "it is missing", options, error))
            return false;
        else if (slot >= options->slots && !wal->slots[slot].found)
            wal->slots[slot].damaged = true; /* nobody knew of it, but of one that was made after it: nothing is lost */
    return true;
}

/* By their numbers; of two with the same ones the newer first. */
static int by_first(const void *a, const void *b)
{
    const struct wal_batch_found *x = a, *y = b;

    if (x->first != y->first)
        return x->first > y->first ? 1 : -1;
    return (x->segment < y->segment) - (x->segment > y->segment);
}

/* A torn last batch, whose numbers were given out again by the segment that came after it, may read whole after all.
 * Nobody was told of it. It goes also where of what came after it not all reads: what was acknowledged has bases in the
 * changes that counted. */
static void drop_superseded(struct wal *wal)
{
    uint32_t kept = 0;

    for (uint32_t n = 0; n < wal->found_count; n++) {
        const struct wal_batch_found *at = &wal->found[n];
        while (kept > 0 && at->first <= wal->found[kept - 1].last && at->segment > wal->found[kept - 1].segment)
            mem_free(wal->found[--kept].data);
        if (kept > 0 && at->first <= wal->found[kept - 1].last && at->segment < wal->found[kept - 1].segment)
            mem_free(at->data);
        else
            wal->found[kept++] = *at;
    }
    wal->found_count = kept;
}

/* Changes are missing before found[n]. */
static bool report_gap(const struct wal *wal, uint32_t n, uint64_t after, const struct wal_options *options,
                       struct failure *error)
{
    const struct wal_batch_found *found = &wal->found[n], *before = n > 0 ? found - 1 : NULL;
    char path[WAL_PATH_BYTES], text[200];

    slot_path(wal->directory, before ? before->slot : found->slot, path);
    snprintf(text, sizeof text, "the changes %llu to %llu do not read, and later ones do (%s byte %llu)",
             (unsigned long long)after + 1, (unsigned long long)found->first - 1, before ? "from" : "before",
             (unsigned long long)(before ? before->end : found->end - batch_padded_bytes(found->bytes)));
    if (options->accept_loss) {
        log_event(LOG_ERROR, "lost", "log", path, "what", text, NULL);
        return true;
    }
    return fail(error, 65, "is damaged", path, text);
}

/* One chain from the applied change on, or damage. */
static bool check_chain(struct wal *wal, const struct wal_options *options, struct failure *error)
{
    uint64_t last = options->applied;

    if (wal->found_count > 0)
        qsort(wal->found, wal->found_count, sizeof *wal->found, by_first);
    drop_superseded(wal);
    for (uint32_t n = 0; n < wal->found_count; last = wal->found[n++].last)
        if (wal->found[n].first != last + 1 && !report_gap(wal, n, last, options, error))
            return false;
    wal->newest = last;
    return true;
}

static void drop_found(struct wal *wal)
{
    for (uint32_t n = 0; n < wal->found_count; n++)
        mem_free(wal->found[n].data);
    mem_free(wal->found);
    wal->found = NULL;
    wal->found_count = wal->found_capacity = 0;
}

int wal_make(const struct disk *disk, int folder, const uint8_t *secret, uint64_t change_bytes_max)
{
    int file, code;

    if ((code = make_slot(disk, folder, 0, slot_bytes(0, change_bytes_max), secret, &file)) == 0)
        disk->close(file);
    return code;
}

struct wal *wal_open(const struct wal_options *options, struct failure *error)
{
    struct wal *wal = mem_zero(1, sizeof *wal);

    assert(strlen(options->directory) < sizeof wal->directory);
    wal->disk = options->disk;
    strcpy(wal->directory, options->directory);
    wal->folder = options->folder;
    memcpy(wal->secret, options->secret, sizeof wal->secret);
    wal->applied = options->applied;
    wal->segment = options->segment;
    wal->change_bytes_max = options->change_bytes_max;
    wal->prepared.file = -1;
    for (uint32_t slot = 0; slot < WAL_SLOTS_MAX; slot++)
        wal->slots[slot].file = -1;
    pthread_mutex_init(&wal->mutex, NULL);
    if (open_slots(wal, options, error) && check_chain(wal, options, error)) {
        /* The segment after the last one may have been begun, with a first batch that is torn. */
        wal->segment += 2;
        return wal;
    }
    wal_close(wal);
    return NULL;
}

void wal_close(struct wal *wal)
{
    if (!wal)
        return;
    drop_found(wal);
    for (uint32_t slot = 0; slot < WAL_SLOTS_MAX; slot++)
        close_slot(wal, slot);
    if (wal->prepared.file >= 0)
        wal->disk->close(wal->prepared.file);
    pthread_mutex_destroy(&wal->mutex);
    mem_free(wal->staged);
    mem_free(wal);
}

uint32_t wal_found(const struct wal *wal)
{
    return wal->found_count;
}

bool wal_lost(const struct wal *wal)
{
    return wal->lost;
}

struct bytes wal_batch(const struct wal *wal, uint32_t n)
{
    assert(n < wal->found_count);
    return bytes_of(wal->found[n].data, wal->found[n].bytes);
}

/* Writes a slot full, from where its file ends. */
static int fill_slot(struct wal *wal, uint32_t at, uint64_t bytes)
{
    struct slot *slot = &wal->slots[at];
    int code = 0;

    if (slot->bytes < bytes) {
        uint8_t *zeros = mem_pages(bytes - slot->bytes);
        memset(zeros, 0, bytes - slot->bytes);
        code = wal->disk->write(slot->file, slot->bytes, zeros, bytes - slot->bytes);
        mem_free(zeros);
    }
    if (code == 0 && slot->bytes < bytes)
        slot->bytes = bytes;
    return code;
}

/* A slot whose loss was accepted is one again. */
static int mend_slot(struct wal *wal, uint32_t at)
{
    const uint64_t bytes = slot_bytes(at, wal->change_bytes_max);
    struct slot *slot = &wal->slots[at];
    int code;

    if (slot->file < 0) {
        code = make_slot(wal->disk, wal->folder, at, bytes, wal->secret, &slot->file);
        slot->bytes = code == 0 ? bytes : 0;
    } else if ((code = fill_slot(wal, at, bytes)) == 0) {
        code = write_head(wal->disk, slot->file, at, bytes, wal->secret);
    }
    slot->damaged = slot->damaged && code != 0;
    return code;
}

static uint32_t largest_slot(const struct wal *wal)
{
    uint32_t best = 0;

    for (uint32_t slot = 1; slot < wal->slot_count; slot++)
        if (wal->slots[slot].bytes > wal->slots[best].bytes)
            best = slot;
    return best;
}

int wal_start(struct wal *wal)
{
    int code = 0;

    drop_found(wal);
    assert(wal->slot_count > 0);
    wal->applied = wal->newest;
    for (uint32_t slot = 0; slot < wal->slot_count && code == 0; slot++)
        if (wal->slots[slot].damaged)
            code = mend_slot(wal, slot);
    /* The largest change has room in the largest slot: now, and not when there is no more to be had. */
    const uint32_t largest = largest_slot(wal);
    if (code == 0)
        code = fill_slot(wal, largest, slot_bytes(0, wal->change_bytes_max));
    wal->current = largest;
    wal->offset = SLOT_FIRST_BATCH_AT;
    return code;
}

uint64_t wal_segment(struct wal *wal)
{
    pthread_mutex_lock(&wal->mutex);
    const uint64_t segment = wal->segment;
    pthread_mutex_unlock(&wal->mutex);
    return segment;
}

/* ---- Appending ----------------------------------------------------------------------- */

/* The largest free slot; slot_count: none. */
static uint32_t free_slot(const struct wal *wal)
{
    uint32_t best = wal->slot_count;

    for (uint32_t slot = 0; slot < wal->slot_count; slot++)
        if (wal->slots[slot].newest <= wal->applied &&
            (best == wal->slot_count || wal->slots[slot].bytes > wal->slots[best].bytes))
            best = slot;
    return best;
}

/* The largest free slot has room for so many bytes. */
static bool fits_free(const struct wal *wal, uint64_t bytes)
{
    const uint32_t slot = free_slot(wal);

    return slot < wal->slot_count && room_of(wal->slots[slot].bytes) >= bytes;
}

static bool fits_current(const struct wal *wal, uint64_t bytes)
{
    return wal->offset + bytes <= wal->slots[wal->current].bytes;
}

bool wal_has_room(struct wal *wal, uint64_t padded_bytes)
{
    pthread_mutex_lock(&wal->mutex);
    const bool room = fits_current(wal, padded_bytes) || fits_free(wal, padded_bytes);
    pthread_mutex_unlock(&wal->mutex);
    return room;
}

uint64_t wal_batch_bytes_max(struct wal *wal)
{
    pthread_mutex_lock(&wal->mutex);
    const uint64_t bytes = room_of(wal->slots[largest_slot(wal)].bytes);
    pthread_mutex_unlock(&wal->mutex);
    return bytes;
}

/* Takes the place for a batch of so many bytes. Returns its file. */
static int take_place(struct wal *wal, uint64_t bytes, uint64_t last, uint64_t *segment, uint64_t *offset)
{
    pthread_mutex_lock(&wal->mutex);
    if (!fits_current(wal, bytes)) {
        assert(fits_free(wal, bytes));
        wal->current = free_slot(wal);
        wal->segment++;
        wal->offset = SLOT_FIRST_BATCH_AT;
    }
    struct slot *slot = &wal->slots[wal->current];
    *segment = wal->segment;
    *offset = wal->offset;
    slot->newest = last;
    wal->offset += bytes;
    const int file = slot->file;
    pthread_mutex_unlock(&wal->mutex);
    return file;
}

/* A copy in memory that may be written from. */
static uint8_t *stage(struct wal *wal, const uint8_t *batch, uint64_t bytes)
{
    if (wal->staged_bytes < bytes || wal->staged_bytes > STAGED_BYTES_KEPT) {
        mem_free(wal->staged);
        wal->staged_bytes = bytes < STAGED_BYTES_KEPT / 4 ? STAGED_BYTES_KEPT / 4 : bytes;
        wal->staged = mem_pages(wal->staged_bytes);
    }
    memcpy(wal->staged, batch, bytes);
    return wal->staged;
}

int wal_append(struct wal *wal, const uint8_t *batch)
{
    struct batch_header header;
    uint64_t segment, offset;

    batch_read_header(batch, &header);
    assert(header.first > wal->newest);
    wal->newest = header.last;
    const uint64_t bytes = batch_padded_bytes(header.bytes);
    const int file = take_place(wal, bytes, header.last, &segment, &offset);
    uint8_t *const staged = stage(wal, batch, bytes);
    batch_sign(staged, segment, offset, wal->secret);
    return wal->disk->write(file, offset, staged, bytes);
}

void wal_applied(struct wal *wal, uint64_t number)
{
    pthread_mutex_lock(&wal->mutex);
    wal->applied = number;
    pthread_mutex_unlock(&wal->mutex);
}

/* ---- Slots ---------------------------------------------------------------------------------- */

bool wal_wants_slot(struct wal *wal)
{
    pthread_mutex_lock(&wal->mutex);
    const bool wants = wal->slot_count < WAL_SLOTS_MAX && free_slot(wal) == wal->slot_count &&
                       wal->offset > wal->slots[wal->current].bytes / 4;
    pthread_mutex_unlock(&wal->mutex);
    return wants;
}

int wal_prepare(struct wal *wal)
{
    const uint32_t slot = wal->slot_count; /* only this thread adds one */

    if (!wal_wants_slot(wal) || wal->prepared.file >= 0)
        return 0;
    wal->prepared = (struct slot){.file = -1, .bytes = slot_bytes(slot, wal->change_bytes_max)};
    return make_slot(wal->disk, wal->folder, slot, wal->prepared.bytes, wal->secret, &wal->prepared.file);
}

void wal_add_slot(struct wal *wal)
{
    if (wal->prepared.file < 0)
        return;
    pthread_mutex_lock(&wal->mutex);
    wal->slots[wal->slot_count++] = wal->prepared;
    pthread_mutex_unlock(&wal->mutex);
    wal->prepared.file = -1;
}

uint32_t wal_slots(struct wal *wal)
{
    pthread_mutex_lock(&wal->mutex);
    const uint32_t slots = wal->slot_count + (wal->prepared.file >= 0);
    pthread_mutex_unlock(&wal->mutex);
    return slots;
}

uint64_t wal_bytes(struct wal *wal)
{
    uint64_t bytes = 0;

    pthread_mutex_lock(&wal->mutex);
    for (uint32_t slot = 0; slot < wal->slot_count; slot++)
        bytes += wal->slots[slot].bytes;
    pthread_mutex_unlock(&wal->mutex);
    return bytes;
}

void wal_slot_path(const struct wal *wal, uint32_t slot, char path[WAL_PATH_BYTES])
{
    slot_path(wal->directory, slot, path);
}

uint32_t wal_current(struct wal *wal)
{
    pthread_mutex_lock(&wal->mutex);
    const uint32_t current = wal->current;
    pthread_mutex_unlock(&wal->mutex);
    return current;
}
