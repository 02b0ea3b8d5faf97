/* Slots, segments and recovery; see log.h. */
#include "daemon/store/log.h"

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
struct found {
    uint8_t *data;
    uint64_t first, last, segment;
    uint32_t slot;
    uint64_t end; /* where the next one would be */
    uint32_t bytes;
};

struct log {
    const struct disk *disk;
    char directory[4096];
    int folder;
    uint8_t secret[RECORD_SECRET_BYTES];
    uint64_t change_bytes_max;
    pthread_mutex_t mutex; /* of what follows, but for found */
    struct slot slots[LOG_SLOTS_MAX];
    uint32_t slot_count;
    struct slot prepared; /* file -1: none */
    uint32_t current;     /* slot of the current segment */
    uint64_t segment, offset;
    uint64_t newest;  /* number of the last change written */
    uint64_t applied; /* number of the last change that is in the tables */

    uint8_t *staged; /* what is written from, aligned; the writing thread's */
    uint64_t staged_bytes;

    bool lost;
    struct found *found;
    uint32_t found_count, found_capacity;
};

static void slot_path(const char *directory, uint32_t slot, char path[LOG_PATH_BYTES])
{
    snprintf(path, LOG_PATH_BYTES, "%s/log.%u", directory, slot);
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
    const uint64_t doubled = (uint64_t)LOG_SLOT_BYTES_FIRST << slot;
    const uint64_t least = doubled < LOG_SLOT_BYTES_MAX ? doubled : LOG_SLOT_BYTES_MAX;
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

static bool fail(struct store_error *error, int exit_code, const char *what, const char *path, const char *reason)
{
    error->exit_code = exit_code;
    snprintf(error->message, sizeof error->message, "%.200s: %s: %.250s", path, what, reason);
    return false;
}

static bool fail_errno(struct store_error *error, const char *what, const char *path, int code)
{
    const int exit_code = code == EWOULDBLOCK                                  ? 75
                          : code == EACCES || code == EPERM                    ? 77
                          : code == EMFILE || code == ENFILE || code == ENOMEM ? 71
                                                                               : 74;

    return fail(error, exit_code, what, path,
                code == EWOULDBLOCK ? "another daemon has it open: it is a part of two stores (a hard link)"
                                    : strerror(code));
}

static void keep_found(struct log *log, const uint8_t *data, const struct batch_header *header, uint32_t slot,
                       uint64_t offset)
{
    if (log->found_count == log->found_capacity) {
        log->found_capacity = log->found_capacity ? log->found_capacity * 2 : 64;
        log->found = mem_resize(log->found, log->found_capacity * sizeof *log->found);
    }
    struct found *found = &log->found[log->found_count++];
    *found = (struct found){.data = mem_alloc(header->bytes),
                            .first = header->first,
                            .last = header->last,
                            .segment = header->segment,
                            .slot = slot,
                            .end = offset + batch_padded_bytes(header->bytes),
                            .bytes = header->bytes};
    memcpy(found->data, data, header->bytes);
}

/* Not torn, and nothing to skip: what it says was acknowledged, by a daemon that is not this one. */
static bool refuse_version(const struct log *log, uint32_t slot, char version, struct store_error *error)
{
    char path[LOG_PATH_BYTES], text[120];

    slot_path(log->directory, slot, path);
    snprintf(text, sizeof text, "of format idb%c, which this idemd does not read: start the idemd that wrote it",
             version >= ' ' && version <= '~' ? version : '?');
    return fail(error, 65, "has changes of another version of idemd", path, text);
}

/* Goes through one slot's bytes. What is applied already is what is left of an older use of the slot, or waits to be
 * overwritten; so is what was applied in part: a torn batch that reads after all, and whose first numbers were given
 * out again. After something that does not read the search goes on: whether anything follows decides what it is. */
static bool find_batches(struct log *log, const uint8_t *data, uint64_t size, uint32_t slot, uint64_t applied,
                         struct store_error *error)
{
    uint64_t at = SLOT_FIRST_BATCH_AT;

    while (at < size) {
        struct batch_header header;
        char version;

        if (!batch_good(data + at, size - at, log->secret)) {
            if (batch_of_other_version(data + at, size - at, log->secret, &version))
                return refuse_version(log, slot, version, error);
            at += BATCH_ALIGN_BYTES;
            continue;
        }
        batch_read_header(data + at, &header);
        log->slots[slot].found = true;
        if (log->segment < header.segment)
            log->segment = header.segment;
        if (header.first > applied && header.offset == at)
            keep_found(log, data + at, &header, slot, at);
        at += batch_padded_bytes(header.bytes);
    }
    return true;
}

/* A slot that the tables know of is not as it was left. What it held may be lost, and numbers with it. */
static bool lose_slot(struct log *log, uint32_t slot, const char *what, const struct log_options *options,
                      struct store_error *error)
{
    char path[LOG_PATH_BYTES], text[240];

    slot_path(log->directory, slot, path);
    if (options->accept_loss) {
        log_event(LOG_ERROR, "lost", "log", path, "reason", what, NULL);
        log->lost = log->slots[slot].damaged = true;
        return true;
    }
    snprintf(text, sizeof text, "%s; what it held may be lost: put the file back, or --accept-loss starts without it",
             what);
    return fail(error, 65, "is not as it was left", path, text);
}

/* Of a slot that nobody knows of, in which no batch is, nothing is asked: its making was cut off. */
static bool check_head(struct log *log, uint32_t slot, const uint8_t *data, const struct log_options *options,
                       struct store_error *error)
{
    struct slot *at = &log->slots[slot];
    const char *damage = slot_damage(data, at->bytes, slot, log->secret);

    return !damage || (slot >= options->slots && !at->found) || lose_slot(log, slot, damage, options, error);
}

static bool read_slot(struct log *log, uint32_t slot, const struct log_options *options, struct store_error *error)
{
    struct slot *at = &log->slots[slot];
    char path[LOG_PATH_BYTES];
    uint8_t *data;
    int code = log->disk->size(at->file, &at->bytes);

    slot_path(log->directory, slot, path);
    if (code != 0)
        return fail_errno(error, "cannot be read", path, code);
    const uint64_t padded = batch_padded_bytes(at->bytes);
    const uint64_t bytes = padded < SLOT_HEAD_BYTES ? (uint64_t)SLOT_HEAD_BYTES : padded;
    data = mem_pages(bytes);
    code = log->disk->read(at->file, 0, data, bytes);
    const bool good = code == 0 ? find_batches(log, data, bytes, slot, options->applied, error) &&
                                      check_head(log, slot, data, options, error)
                                : fail_errno(error, "cannot be read", path, code);
    at->bytes = at->bytes / BATCH_ALIGN_BYTES * BATCH_ALIGN_BYTES; /* a part at the end is written anew */
    mem_free(data);
    return good;
}

static void close_slot(struct log *log, uint32_t slot)
{
    if (log->slots[slot].file >= 0)
        log->disk->close(log->slots[slot].file);
    log->slots[slot].file = -1;
}

/* Reads every file that is there: the tables may be one commit behind, and not know of a slot that has batches. */
static bool read_slots(struct log *log, const struct log_options *options, struct store_error *error)
{
    char path[LOG_PATH_BYTES], name[NAME_BYTES];

    for (uint32_t slot = 0; slot < LOG_SLOTS_MAX; slot++) {
        slot_path(log->directory, slot, path);
        slot_name(slot, name);
        const int code = log->disk->open(log->folder, name, &log->slots[slot].file);
        if (code != 0)
            log->slots[slot].file = -1;
        if (code != 0 && code != ENOENT)
            return fail_errno(error, "cannot be opened", path, code);
        if (code == 0 && !read_slot(log, slot, options, error))
            return false;
        if (slot < options->slots || log->slots[slot].found)
            log->slot_count = slot + 1;
    }
    return true;
}

static bool open_slots(struct log *log, const struct log_options *options, struct store_error *error)
{
    if (!read_slots(log, options, error))
        return false;
    for (uint32_t slot = 0; slot < LOG_SLOTS_MAX; slot++)
        if (slot >= log->slot_count)
            close_slot(log, slot);
        else if (log->slots[slot].file < 0 && !lose_slot(log, slot, "it is missing", options, error))
            return false;
        else if (slot >= options->slots && !log->slots[slot].found)
            log->slots[slot].damaged = true; /* nobody knew of it, but of one that was made after it: nothing is lost */
    return true;
}

/* By their numbers; of two with the same ones the newer first. */
static int by_first(const void *a, const void *b)
{
    const struct found *x = a, *y = b;

    if (x->first != y->first)
        return x->first > y->first ? 1 : -1;
    return (x->segment < y->segment) - (x->segment > y->segment);
}

/* A torn last batch, whose numbers were given out again by the segment that came after it, may read whole after all.
 * Nobody was told of it. It goes also where of what came after it not all reads: what was acknowledged has bases in the
 * changes that counted. */
static void drop_superseded(struct log *log)
{
    uint32_t kept = 0;

    for (uint32_t n = 0; n < log->found_count; n++) {
        const struct found *at = &log->found[n];
        while (kept > 0 && at->first <= log->found[kept - 1].last && at->segment > log->found[kept - 1].segment)
            mem_free(log->found[--kept].data);
        if (kept > 0 && at->first <= log->found[kept - 1].last && at->segment < log->found[kept - 1].segment)
            mem_free(at->data);
        else
            log->found[kept++] = *at;
    }
    log->found_count = kept;
}

/* Changes are missing before found[n]. */
static bool report_gap(const struct log *log, uint32_t n, uint64_t after, const struct log_options *options,
                       struct store_error *error)
{
    const struct found *found = &log->found[n], *before = n > 0 ? found - 1 : NULL;
    char path[LOG_PATH_BYTES], text[200];

    slot_path(log->directory, before ? before->slot : found->slot, path);
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
static bool check_chain(struct log *log, const struct log_options *options, struct store_error *error)
{
    uint64_t last = options->applied;

    if (log->found_count > 0)
        qsort(log->found, log->found_count, sizeof *log->found, by_first);
    drop_superseded(log);
    for (uint32_t n = 0; n < log->found_count; last = log->found[n++].last)
        if (log->found[n].first != last + 1 && !report_gap(log, n, last, options, error))
            return false;
    log->newest = last;
    return true;
}

static void drop_found(struct log *log)
{
    for (uint32_t n = 0; n < log->found_count; n++)
        mem_free(log->found[n].data);
    mem_free(log->found);
    log->found = NULL;
    log->found_count = log->found_capacity = 0;
}

int log_make(const struct disk *disk, int folder, const uint8_t *secret, uint64_t change_bytes_max)
{
    int file, code;

    if ((code = make_slot(disk, folder, 0, slot_bytes(0, change_bytes_max), secret, &file)) == 0)
        disk->close(file);
    return code;
}

struct log *log_open(const struct log_options *options, struct store_error *error)
{
    struct log *log = mem_zero(1, sizeof *log);

    assert(strlen(options->directory) < sizeof log->directory);
    log->disk = options->disk;
    strcpy(log->directory, options->directory);
    log->folder = options->folder;
    memcpy(log->secret, options->secret, sizeof log->secret);
    log->applied = options->applied;
    log->segment = options->segment;
    log->change_bytes_max = options->change_bytes_max;
    log->prepared.file = -1;
    for (uint32_t slot = 0; slot < LOG_SLOTS_MAX; slot++)
        log->slots[slot].file = -1;
    pthread_mutex_init(&log->mutex, NULL);
    if (open_slots(log, options, error) && check_chain(log, options, error)) {
        /* The segment after the last one may have been begun, with a first batch that is torn. */
        log->segment += 2;
        return log;
    }
    log_close(log);
    return NULL;
}

void log_close(struct log *log)
{
    if (!log)
        return;
    drop_found(log);
    for (uint32_t slot = 0; slot < LOG_SLOTS_MAX; slot++)
        close_slot(log, slot);
    if (log->prepared.file >= 0)
        log->disk->close(log->prepared.file);
    pthread_mutex_destroy(&log->mutex);
    mem_free(log->staged);
    mem_free(log);
}

uint32_t log_found(const struct log *log)
{
    return log->found_count;
}

bool log_lost(const struct log *log)
{
    return log->lost;
}

struct bytes log_batch(const struct log *log, uint32_t n)
{
    assert(n < log->found_count);
    return bytes_of(log->found[n].data, log->found[n].bytes);
}

/* Writes a slot full, from where its file ends. */
static int fill_slot(struct log *log, uint32_t at, uint64_t bytes)
{
    struct slot *slot = &log->slots[at];
    int code = 0;

    if (slot->bytes < bytes) {
        uint8_t *zeros = mem_pages(bytes - slot->bytes);
        memset(zeros, 0, bytes - slot->bytes);
        code = log->disk->write(slot->file, slot->bytes, zeros, bytes - slot->bytes);
        mem_free(zeros);
    }
    if (code == 0 && slot->bytes < bytes)
        slot->bytes = bytes;
    return code;
}

/* A slot whose loss was accepted is one again. */
static int mend_slot(struct log *log, uint32_t at)
{
    const uint64_t bytes = slot_bytes(at, log->change_bytes_max);
    struct slot *slot = &log->slots[at];
    int code;

    if (slot->file < 0) {
        code = make_slot(log->disk, log->folder, at, bytes, log->secret, &slot->file);
        slot->bytes = code == 0 ? bytes : 0;
    } else if ((code = fill_slot(log, at, bytes)) == 0) {
        code = write_head(log->disk, slot->file, at, bytes, log->secret);
    }
    slot->damaged = slot->damaged && code != 0;
    return code;
}

static uint32_t largest_slot(const struct log *log)
{
    uint32_t best = 0;

    for (uint32_t slot = 1; slot < log->slot_count; slot++)
        if (log->slots[slot].bytes > log->slots[best].bytes)
            best = slot;
    return best;
}

int log_start(struct log *log)
{
    int code = 0;

    drop_found(log);
    assert(log->slot_count > 0);
    log->applied = log->newest;
    for (uint32_t slot = 0; slot < log->slot_count && code == 0; slot++)
        if (log->slots[slot].damaged)
            code = mend_slot(log, slot);
    /* The largest change has room in the largest slot: now, and not when there is no more to be had. */
    const uint32_t largest = largest_slot(log);
    if (code == 0)
        code = fill_slot(log, largest, slot_bytes(0, log->change_bytes_max));
    log->current = largest;
    log->offset = SLOT_FIRST_BATCH_AT;
    return code;
}

uint64_t log_segment(struct log *log)
{
    pthread_mutex_lock(&log->mutex);
    const uint64_t segment = log->segment;
    pthread_mutex_unlock(&log->mutex);
    return segment;
}

/* ---- Appending ----------------------------------------------------------------------- */

/* The largest free slot; slot_count: none. */
static uint32_t free_slot(const struct log *log)
{
    uint32_t best = log->slot_count;

    for (uint32_t slot = 0; slot < log->slot_count; slot++)
        if (log->slots[slot].newest <= log->applied &&
            (best == log->slot_count || log->slots[slot].bytes > log->slots[best].bytes))
            best = slot;
    return best;
}

/* The largest free slot has room for so many bytes. */
static bool fits_free(const struct log *log, uint64_t bytes)
{
    const uint32_t slot = free_slot(log);

    return slot < log->slot_count && room_of(log->slots[slot].bytes) >= bytes;
}

static bool fits_current(const struct log *log, uint64_t bytes)
{
    return log->offset + bytes <= log->slots[log->current].bytes;
}

bool log_has_room(struct log *log, uint64_t padded_bytes)
{
    pthread_mutex_lock(&log->mutex);
    const bool room = fits_current(log, padded_bytes) || fits_free(log, padded_bytes);
    pthread_mutex_unlock(&log->mutex);
    return room;
}

uint64_t log_batch_bytes_max(struct log *log)
{
    pthread_mutex_lock(&log->mutex);
    const uint64_t bytes = room_of(log->slots[largest_slot(log)].bytes);
    pthread_mutex_unlock(&log->mutex);
    return bytes;
}

/* Takes the place for a batch of so many bytes. Returns its file. */
static int take_place(struct log *log, uint64_t bytes, uint64_t last, uint64_t *segment, uint64_t *offset)
{
    pthread_mutex_lock(&log->mutex);
    if (!fits_current(log, bytes)) {
        assert(fits_free(log, bytes));
        log->current = free_slot(log);
        log->segment++;
        log->offset = SLOT_FIRST_BATCH_AT;
    }
    struct slot *slot = &log->slots[log->current];
    *segment = log->segment;
    *offset = log->offset;
    slot->newest = last;
    log->offset += bytes;
    const int file = slot->file;
    pthread_mutex_unlock(&log->mutex);
    return file;
}

/* A copy in memory that may be written from. */
static uint8_t *stage(struct log *log, const uint8_t *batch, uint64_t bytes)
{
    if (log->staged_bytes < bytes || log->staged_bytes > STAGED_BYTES_KEPT) {
        mem_free(log->staged);
        log->staged_bytes = bytes < STAGED_BYTES_KEPT / 4 ? STAGED_BYTES_KEPT / 4 : bytes;
        log->staged = mem_pages(log->staged_bytes);
    }
    memcpy(log->staged, batch, bytes);
    return log->staged;
}

int log_append(struct log *log, const uint8_t *batch)
{
    struct batch_header header;
    uint64_t segment, offset;

    batch_read_header(batch, &header);
    assert(header.first > log->newest);
    log->newest = header.last;
    const uint64_t bytes = batch_padded_bytes(header.bytes);
    const int file = take_place(log, bytes, header.last, &segment, &offset);
    uint8_t *const staged = stage(log, batch, bytes);
    batch_sign(staged, segment, offset, log->secret);
    return log->disk->write(file, offset, staged, bytes);
}

void log_applied(struct log *log, uint64_t number)
{
    pthread_mutex_lock(&log->mutex);
    log->applied = number;
    pthread_mutex_unlock(&log->mutex);
}

/* ---- Slots ---------------------------------------------------------------------------------- */

bool log_wants_slot(struct log *log)
{
    pthread_mutex_lock(&log->mutex);
    const bool wants = log->slot_count < LOG_SLOTS_MAX && free_slot(log) == log->slot_count &&
                       log->offset > log->slots[log->current].bytes / 4;
    pthread_mutex_unlock(&log->mutex);
    return wants;
}

int log_prepare(struct log *log)
{
    const uint32_t slot = log->slot_count; /* only this thread adds one */

    if (!log_wants_slot(log) || log->prepared.file >= 0)
        return 0;
    log->prepared = (struct slot){.file = -1, .bytes = slot_bytes(slot, log->change_bytes_max)};
    return make_slot(log->disk, log->folder, slot, log->prepared.bytes, log->secret, &log->prepared.file);
}

void log_add_slot(struct log *log)
{
    if (log->prepared.file < 0)
        return;
    pthread_mutex_lock(&log->mutex);
    log->slots[log->slot_count++] = log->prepared;
    pthread_mutex_unlock(&log->mutex);
    log->prepared.file = -1;
}

uint32_t log_slots(struct log *log)
{
    pthread_mutex_lock(&log->mutex);
    const uint32_t slots = log->slot_count + (log->prepared.file >= 0);
    pthread_mutex_unlock(&log->mutex);
    return slots;
}

uint64_t log_bytes(struct log *log)
{
    uint64_t bytes = 0;

    pthread_mutex_lock(&log->mutex);
    for (uint32_t slot = 0; slot < log->slot_count; slot++)
        bytes += log->slots[slot].bytes;
    pthread_mutex_unlock(&log->mutex);
    return bytes;
}

void log_slot_path(const struct log *log, uint32_t slot, char path[LOG_PATH_BYTES])
{
    slot_path(log->directory, slot, path);
}

uint32_t log_current(struct log *log)
{
    pthread_mutex_lock(&log->mutex);
    const uint32_t current = log->current;
    pthread_mutex_unlock(&log->mutex);
    return current;
}
