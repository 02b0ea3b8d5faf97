/* See sim_disk.h. */
#include "tests/model/sim_disk.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "daemon/base/memory.h"

enum { FILES_MAX = 32, NAME_BYTES = 32, CALL_KINDS = 5 };

struct file {
    char name[NAME_BYTES]; /* empty: no file */
    uint8_t *data;
    uint64_t size, capacity; /* the memory is used again by the next file here */
    unsigned opened;
};

static struct {
    pthread_mutex_t mutex;
    struct file files[FILES_MAX];
    uint64_t seed;
    uint64_t calls[CALL_KINDS];

    unsigned fail_calls, cut_calls;
    uint32_t fail_in, cut_in; /* 1: the next one; 0: none */
    bool fail_on, failing, off;
    int fail_code;
    uint32_t failed;

    void (*hook)(void *context, enum sim_call call);
    void *hook_context;
} sim = {.mutex = PTHREAD_MUTEX_INITIALIZER, .seed = 1};

/* xorshift64* */
static uint64_t random_below(uint64_t end)
{
    sim.seed ^= sim.seed >> 12;
    sim.seed ^= sim.seed << 25;
    sim.seed ^= sim.seed >> 27;
    return (sim.seed * 2685821657736338717ull >> 16) % end;
}

static struct file *find_file(const char *path)
{
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;

    for (unsigned i = 0; i < FILES_MAX; i++)
        if (strcmp(sim.files[i].name, name) == 0)
            return &sim.files[i];
    return NULL;
}

/* What is new at its end is zero. */
static void set_size(struct file *file, uint64_t bytes)
{
    if (bytes > file->capacity) {
        file->capacity = bytes;
        file->data = mem_resize(file->data, bytes);
    }
    if (bytes > file->size)
        memset(file->data + file->size, 0, bytes - file->size);
    file->size = bytes;
}

/* A place for a new file; one that is still open is not used again. */
static struct file *new_file(const char *path, uint64_t bytes)
{
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    unsigned i = 0;

    while (i < FILES_MAX && (sim.files[i].name[0] || sim.files[i].opened))
        i++;
    assert(i < FILES_MAX && strlen(name) > 0 && strlen(name) < NAME_BYTES);
    struct file *file = &sim.files[i];
    strcpy(file->name, name);
    file->size = 0;
    set_size(file, bytes);
    return file;
}

/* ---- Tearing ------------------------------------------------------------------------- */

static void write_part(struct file *file, uint64_t offset, const uint8_t *data, size_t from, size_t end)
{
    if (offset + end > file->size)
        set_size(file, offset + end);
    memcpy(file->data + offset + from, data + from, end - from);
}

/* Some sectors of a write, in whatever order they came. */
static void write_sectors(struct file *file, uint64_t offset, const uint8_t *data, size_t bytes, size_t sector)
{
    const uint64_t odds = 1 + random_below(16);

    for (size_t at = 0; at < bytes; at += sector)
        if (random_below(17) < odds)
            write_part(file, offset, data, at, at + sector < bytes ? at + sector : bytes);
}

/* What is left of a write that did not return. */
static void tear(struct file *file, uint64_t offset, const uint8_t *data, size_t bytes)
{
    switch (random_below(6)) {
    case 0:
        return;
    case 1:
        write_part(file, offset, data, 0, bytes);
        return;
    case 2:
        write_part(file, offset, data, 0, random_below(bytes + 1));
        return;
    case 3:
        write_sectors(file, offset, data, bytes, 4096);
        return;
    default:
        write_sectors(file, offset, data, bytes, 512);
    }
}

/* ---- Faults -------------------------------------------------------------------------- */

enum fate { FINE, FAILS, POWER_CUT, NO_POWER };

static unsigned kind_of(enum sim_call call)
{
    return (unsigned)__builtin_ctz((unsigned)call);
}

/* Takes the lock, which the caller lets go. */
static enum fate begin(enum sim_call call)
{
    if (sim.hook)
        sim.hook(sim.hook_context, call);
    pthread_mutex_lock(&sim.mutex);
    if (sim.off)
        return NO_POWER;
    sim.calls[kind_of(call)]++;
    if (sim.cut_in && (sim.cut_calls & call) && --sim.cut_in == 0) {
        sim.off = true;
        return POWER_CUT;
    }
    if (sim.fail_in && (sim.fail_calls & call) && --sim.fail_in == 0)
        sim.failing = true;
    if (!sim.failing || !(sim.fail_calls & call))
        return FINE;
    sim.failing = sim.fail_on;
    sim.failed++;
    return FAILS;
}

static int end(enum fate fate, int code)
{
    const int fail_code = sim.fail_code;

    pthread_mutex_unlock(&sim.mutex);
    return fate == FINE ? code : fate == FAILS ? fail_code : EIO;
}

/* ---- The door ------------------------------------------------------------------------ */

static int on_open(int folder, const char *path, int *file)
{
    (void)folder;
    const enum fate fate = begin(SIM_OPEN);
    struct file *found = find_file(path);

    const bool held = found && found->opened;
    if (fate == FINE && found && !held) {
        found->opened++;
        *file = (int)(found - sim.files);
    }
    return end(fate, !found ? ENOENT : held ? EWOULDBLOCK : 0);
}

static int on_make(int folder, const char *path, uint64_t bytes, int *file)
{
    (void)folder;
    const enum fate fate = begin(SIM_MAKE);
    struct file *found = find_file(path);

    assert(!found || !found->opened);
    if (found && (fate == FINE || fate == FAILS || (fate == POWER_CUT && random_below(2))))
        found->name[0] = '\0';
    if (fate == FINE) {
        struct file *made = new_file(path, bytes);
        made->opened = 1;
        *file = (int)(made - sim.files);
    }
    if (fate == POWER_CUT && !find_file(path) && random_below(2))
        new_file(path, random_below(2) ? random_below(bytes + 1) : random_below(2) * bytes);
    return end(fate, 0);
}

static struct file *file_of(int number)
{
    assert(number >= 0 && number < FILES_MAX && sim.files[number].opened > 0);
    return &sim.files[number];
}

static int on_size(int file, uint64_t *bytes)
{
    const enum fate fate = begin(SIM_SIZE);

    if (fate == FINE)
        *bytes = file_of(file)->size;
    return end(fate, 0);
}

static int on_read(int number, uint64_t offset, void *data, size_t bytes)
{
    const enum fate fate = begin(SIM_READ);
    const struct file *file = file_of(number);
    const uint64_t left = offset < file->size ? file->size - offset : 0, there = bytes < left ? bytes : left;

    assert(offset % DISK_ALIGN_BYTES == 0 && bytes % DISK_ALIGN_BYTES == 0);
    assert((uintptr_t)data % DISK_ALIGN_BYTES == 0);
    if (fate == FINE) {
        if (there > 0)
            memcpy(data, file->data + offset, there);
        memset((uint8_t *)data + there, 0, bytes - there);
    }
    return end(fate, 0);
}

static int on_write(int number, uint64_t offset, const void *data, size_t bytes)
{
    const enum fate fate = begin(SIM_WRITE);
    struct file *file = file_of(number);

    if (fate == FINE)
        write_part(file, offset, data, 0, bytes);
    if (fate == FAILS || fate == POWER_CUT)
        tear(file, offset, data, bytes);
    return end(fate, 0);
}

static void on_close(int number)
{
    pthread_mutex_lock(&sim.mutex);
    file_of(number)->opened--;
    pthread_mutex_unlock(&sim.mutex);
}

const struct disk sim_disk = {on_open, on_make, on_size, on_read, on_write, on_close};

/* ---- What a test does to it ------------------------------------------------------------ */

unsigned sim_disk_open_files(void)
{
    unsigned opened = 0;

    for (unsigned i = 0; i < FILES_MAX; i++)
        opened += sim.files[i].opened;
    return opened;
}

unsigned sim_disk_end(void)
{
    const unsigned opened = sim_disk_open_files();

    for (unsigned i = 0; i < FILES_MAX; i++)
        mem_free(sim.files[i].data);
    memset(sim.files, 0, sizeof sim.files);
    return opened;
}

void sim_disk_reset(uint64_t seed)
{
    assert(sim_disk_open_files() == 0);
    for (unsigned i = 0; i < FILES_MAX; i++)
        sim.files[i].name[0] = 0;
    memset(sim.calls, 0, sizeof sim.calls);
    sim.seed = seed * 2 + 1;
    sim.off = false;
    sim_disk_cut_power(0, 0);
    sim_disk_fail(0, 0, false, 0);
    sim_disk_hook(NULL, NULL);
}

void sim_disk_fail(unsigned calls, uint32_t nth, bool from_then_on, int code)
{
    sim.fail_calls = calls;
    sim.fail_in = nth;
    sim.fail_on = from_then_on;
    sim.fail_code = code;
    sim.failing = false;
    sim.failed = 0;
}

uint32_t sim_disk_failed(void)
{
    return sim.failed;
}

uint64_t sim_disk_calls(unsigned calls)
{
    uint64_t count = 0;

    for (unsigned kind = 0; kind < CALL_KINDS; kind++)
        if (calls & 1u << kind)
            count += sim.calls[kind];
    return count;
}

void sim_disk_cut_power(unsigned calls, uint32_t nth)
{
    sim.cut_calls = calls;
    sim.cut_in = nth;
}

bool sim_disk_is_off(void)
{
    return sim.off;
}

void sim_disk_power_on(void)
{
    sim.off = false;
    sim_disk_cut_power(0, 0);
    sim_disk_fail(0, 0, false, 0);
}

void sim_disk_hook(void (*hook)(void *context, enum sim_call call), void *context)
{
    sim.hook = hook;
    sim.hook_context = context;
}

const uint8_t *sim_disk_data(const char *name, uint64_t *bytes)
{
    const struct file *file = find_file(name);

    if (!file)
        return NULL;
    *bytes = file->size;
    return file->data;
}

void sim_disk_put(const char *name, const void *data, uint64_t bytes)
{
    struct file *file = find_file(name);

    if (file)
        set_size(file, bytes);
    else
        file = new_file(name, bytes);
    if (bytes > 0)
        memcpy(file->data, data, bytes);
}

void sim_disk_flip(const char *name, uint64_t byte, unsigned bit)
{
    struct file *file = find_file(name);

    assert(file && byte < file->size && bit < 8);
    file->data[byte] = (uint8_t)(file->data[byte] ^ 1u << bit);
}

void sim_disk_cut(const char *name, uint64_t bytes)
{
    struct file *file = find_file(name);

    assert(file && bytes <= file->size);
    set_size(file, bytes);
}

void sim_disk_drop(const char *name)
{
    struct file *file = find_file(name);

    assert(file);
    file->name[0] = 0;
}
