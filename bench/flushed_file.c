/* RWF_DSYNC makes the write its own flush. Whole pages, so that no page that was flushed is written again until the
 * file starts over, and past the page cache, where that can be had: a flush is some 10 % sooner then. */
#include "bench/flushed_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "bench/need.h"
#include "bench/pool.h"

enum { FILE_BYTES = 128 * 1024 * 1024, PAGE_BYTES = 4096 };

struct flushed_file {
    int fd;
    off_t end; /* of the last batch */
    uint8_t *batch;
    size_t size, capacity;
};

static bool complain(const char *what)
{
    fprintf(stderr, "idem-bench: floor: %s: %s\n", what, strerror(errno));
    return false;
}

/* Each block is written once, so that the file has no block that the file system still has to mark as written. */
static bool write_full(int fd)
{
    for (off_t at = 0; at < FILE_BYTES; at += POOL_VALUE_BYTES_MAX)
        if (pwrite(fd, pool_value((uint64_t)at, POOL_BODY), POOL_VALUE_BYTES_MAX, at) != POOL_VALUE_BYTES_MAX)
            return false;
    return fsync(fd) == 0;
}

static bool prepare(int fd)
{
    int flags;

    if (posix_fallocate(fd, 0, FILE_BYTES) != 0 || !write_full(fd))
        return false;
    flags = fcntl(fd, F_GETFL);
    if (flags >= 0)
        (void)!fcntl(fd, F_SETFL, flags | O_DIRECT);
    return true;
}

struct flushed_file *flushed_file_open(const char *directory)
{
    struct flushed_file *file = need(calloc(1, sizeof *file));

    file->fd = open(directory, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (file->fd < 0 || !prepare(file->fd)) {
        complain(directory);
        flushed_file_close(file);
        return NULL;
    }
    return file;
}

void flushed_file_close(struct flushed_file *file)
{
    if (!file)
        return;
    if (file->fd >= 0)
        close(file->fd);
    free(file->batch);
    free(file);
}

/* The batch starts at a page, as direct writes want it, and has room for whole pages, so that padding always fits. */
static void grow(struct flushed_file *file, size_t bytes)
{
    const size_t capacity = (2 * file->capacity + bytes + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;
    uint8_t *batch = need(aligned_alloc(PAGE_BYTES, capacity));

    if (file->size)
        memcpy(batch, file->batch, file->size);
    free(file->batch);
    file->batch = batch;
    file->capacity = capacity;
}

uint8_t *flushed_file_room(struct flushed_file *file, size_t bytes)
{
    if (file->capacity - file->size < bytes)
        grow(file, bytes);
    return file->batch + file->size;
}

void flushed_file_take(struct flushed_file *file, size_t bytes)
{
    file->size += bytes;
}

static void pad(struct flushed_file *file)
{
    const size_t padded = (file->size + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;

    memset(file->batch + file->size, 0, padded - file->size);
    file->size = padded;
}

bool flushed_file_flush(struct flushed_file *file)
{
    size_t done = 0;

    if (file->size == 0)
        return true;
    pad(file);
    while (done < file->size) {
        if (file->end == FILE_BYTES)
            file->end = 0;
        const size_t left = file->size - done, room = (size_t)(FILE_BYTES - file->end);
        const struct iovec part = {file->batch + done, left < room ? left : room};
        const ssize_t size = pwritev2(file->fd, &part, 1, file->end, RWF_DSYNC);
        if (size < 0 && errno == EINTR)
            continue;
        if (size <= 0)
            return complain("flush");
        file->end += size;
        done += (size_t)size;
    }
    file->size = 0;
    return true;
}
