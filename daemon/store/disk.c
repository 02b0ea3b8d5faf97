/* Linux's files. A write and its flush are one system call (RWF_DSYNC, pwritev2(2)): into a file whose blocks are all
 * written that flushes the data alone, with no journal of the file system in the way. It goes past the page cache
 * (O_DIRECT, open(2)) where the file system lets it: nobody reads what is written here but a recovery. */
#include "daemon/store/disk.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "daemon/base/memory.h"

enum { ZEROS_BYTES = 1024 * 1024 };

/* A file with a second name may be part of another store too. So each one that is open is locked. */
static int open_direct(int folder, const char *name, int flags, int *file)
{
    const int fd = openat(folder, name, O_RDWR | O_CLOEXEC | O_NOFOLLOW | flags, 0600);

    if (fd < 0)
        return errno;
    if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        const int code = errno;
        close(fd);
        return code;
    }
    fcntl(fd, F_SETFL, O_DIRECT); /* as good as it goes */
    *file = fd;
    return 0;
}

static int on_open(int folder, const char *name, int *file)
{
    return open_direct(folder, name, 0, file);
}

static int write_zeros(int fd, uint64_t bytes)
{
    uint8_t *zeros = mem_pages(ZEROS_BYTES);
    int code = 0;

    memset(zeros, 0, ZEROS_BYTES);
    for (uint64_t at = 0; at < bytes && code == 0;) {
        const size_t part = bytes - at < ZEROS_BYTES ? (size_t)(bytes - at) : ZEROS_BYTES;
        const ssize_t written = pwrite(fd, zeros, part, (off_t)at);
        if (written > 0)
            at += (uint64_t)written;
        else if (written == 0 || errno != EINTR)
            code = written == 0 ? EIO : errno;
    }
    mem_free(zeros);
    return code;
}

static int on_make(int folder, const char *name, uint64_t bytes, int *file)
{
    int code, fd = -1;

    if (unlinkat(folder, name, 0) != 0 && errno != ENOENT)
        return errno;
    if ((code = open_direct(folder, name, O_CREAT | O_EXCL, &fd)) != 0)
        return code;
    /* Asked for first, so that a full disk says so before a second's worth of writing. */
    code = posix_fallocate(fd, 0, (off_t)bytes);
    if (code == 0 || code == EOPNOTSUPP || code == EINVAL)
        code = write_zeros(fd, bytes);
    if (code == 0 && fsync(fd) != 0)
        code = errno;
    /* The name of a file is on the disk when its directory is. */
    if (code == 0 && fsync(folder) != 0)
        code = errno;
    if (code == 0) {
        *file = fd;
        return 0;
    }
    close(fd);
    unlinkat(folder, name, 0);
    return code;
}

static int on_size(int file, uint64_t *bytes)
{
    struct stat status;

    if (fstat(file, &status) != 0)
        return errno;
    *bytes = (uint64_t)status.st_size;
    return 0;
}

static int on_read(int file, uint64_t offset, void *data, size_t bytes)
{
    for (size_t at = 0; at < bytes;) {
        const ssize_t size = pread(file, (uint8_t *)data + at, bytes - at, (off_t)(offset + at));
        if (size < 0 && errno != EINTR)
            return errno;
        if (size == 0) {
            memset((uint8_t *)data + at, 0, bytes - at);
            return 0;
        }
        if (size > 0)
            at += (size_t)size;
    }
    return 0;
}

static int on_write(int file, uint64_t offset, const void *data, size_t bytes)
{
    for (size_t at = 0; at < bytes;) {
        const struct iovec part = {(uint8_t *)(uintptr_t)data + at, bytes - at};
        const ssize_t size = pwritev2(file, &part, 1, (off_t)(offset + at), RWF_DSYNC);
        if (size == 0)
            return EIO;
        if (size < 0 && errno != EINTR)
            return errno;
        if (size > 0)
            at += (size_t)size;
    }
    return 0;
}

static void on_close(int file)
{
    close(file);
}

const struct disk disk_system = {on_open, on_make, on_size, on_read, on_write, on_close};
