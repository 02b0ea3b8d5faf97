/* A library to be preloaded into the daemon. It stands between it and the disk, for the suites `power`, `faults`
 * and `shortage`.
 *
 * Of memory see memory.c; of the rest it looks at the calls on paths below $TORTURE_TREE alone, and does up to four
 * things with each:
 *     - fails it, where the control block in the file $TORTURE_FAULTS says so (struct faults; the suite maps it too);
 *     - records it in the file $TORTURE_RECORD, once when it begins and once when it has returned, in one order for all
 *       threads, together with what is sent to clients (struct record);
 *     - does it wrongly, where $TORTURE_BREAK names a way: that is a build that is broken on purpose;
 *     - takes $TORTURE_SLOW_US microseconds longer, if it is a write or a flush of LMDB's file.
 * The real call is the system call itself.
 *
 * What is not recorded, since nothing of it outlives a power cut: reads, locks, and LMDB's lock file, whose content is
 * written through a map. A suite compares what was recorded with what is there, so a call that is missing here is
 * noticed. */
#define _GNU_SOURCE
#include "interpose.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { FILES_MAX = 4096, PATH_BYTES = 1024 };

struct record {
    uint32_t bytes; /* of all of it, the payload behind it included */
    uint16_t kind;
    uint16_t ended; /* 0: the call begins; 1: it has returned */
    uint32_t call;  /* pairs the two */
    int32_t fd;
    int64_t a, b;
    int64_t result; /* once it has returned: as the system call gives it, an error as -errno */
};
_Static_assert(sizeof(struct record) == 40, "the suite reads it");

struct file {
    bool known, folder, synchronous;
    char path[PATH_BYTES];
};

static struct file files[FILES_MAX];
static char tree[PATH_BYTES], broken[PATH_BYTES];
static size_t tree_bytes;
static int record_fd = -1;
static long slow_us;
struct faults *interpose_faults;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static uint32_t calls;

static long answer(long result)
{
    if (result >= 0 || result < -4095)
        return result;
    errno = (int)-result;
    return -1;
}

/* A system call; an error as -errno. */
static long real(long number, long a, long b, long c, long d, long e, long f)
{
    const long result = syscall(number, a, b, c, d, e, f);

    return result == -1 ? -errno : result;
}

__attribute__((constructor)) static void set_up(void)
{
    const char *value;
    int fd;

    if ((value = getenv("TORTURE_TREE")) && strlen(value) < sizeof tree)
        strcpy(tree, value);
    tree_bytes = strlen(tree);
    if ((value = getenv("TORTURE_BREAK")) && strlen(value) < sizeof broken)
        strcpy(broken, value);
    if ((value = getenv("TORTURE_SLOW_US")))
        slow_us = atol(value);
    if ((value = getenv("TORTURE_RECORD")))
        record_fd = (int)real(SYS_open, (long)value, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600, 0, 0, 0);
    if ((value = getenv("TORTURE_FAULTS"))) {
        fd = (int)real(SYS_open, (long)value, O_RDWR | O_CLOEXEC, 0, 0, 0, 0);
        void *found =
            (void *)syscall(SYS_mmap, NULL, sizeof(struct faults), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0L);
        real(SYS_close, fd, 0, 0, 0, 0, 0);
        if (found == MAP_FAILED)
            abort();
        interpose_faults = found;
    }
}

static bool is_broken(const char *way)
{
    const char *at = strstr(broken, way);

    return at && (at[strlen(way)] == '\0' || at[strlen(way)] == ',');
}

/* ---- What is looked at ------------------------------------------------------------------- */

static struct file *file_of(int fd)
{
    return tree_bytes && fd >= 0 && fd < FILES_MAX && files[fd].known ? &files[fd] : NULL;
}

/* The whole path, if it is below the tree. A descriptor of a folder may stand before it. */
static bool in_tree(int folder, const char *path, char whole[PATH_BYTES])
{
    const struct file *base = folder == AT_FDCWD ? NULL : file_of(folder);

    if (*path == '/' || !base)
        snprintf(whole, PATH_BYTES, "%s", path);
    else
        snprintf(whole, PATH_BYTES, "%s/%s", base->path, path);
    return tree_bytes && strncmp(whole, tree, tree_bytes) == 0 &&
           (whole[tree_bytes] == '/' || whole[tree_bytes] == '\0');
}

static bool ends_with(const char *path, const char *end)
{
    const size_t path_bytes = strlen(path), end_bytes = strlen(end);

    return path_bytes >= end_bytes && strcmp(path + path_bytes - end_bytes, end) == 0;
}

static bool is_lock_file(const struct file *file)
{
    return ends_with(file->path, "/lock.mdb");
}

/* ---- Recording ------------------------------------------------------------------------------ */

static uint32_t record(struct record *head, const struct iovec *payload, int payloads)
{
    struct iovec parts[1 + 1024] = {{head, sizeof *head}};
    int count = 1;

    if (record_fd < 0)
        return 0;
    head->bytes = sizeof *head;
    for (int i = 0; i < payloads && i < 1024; i++) {
        parts[count++] = payload[i];
        head->bytes += (uint32_t)payload[i].iov_len;
    }
    pthread_mutex_lock(&mutex);
    if (!head->ended)
        head->call = ++calls;
    if (real(SYS_writev, record_fd, (long)parts, count, 0, 0, 0) != (long)head->bytes)
        abort(); /* a recording with a hole proves nothing */
    pthread_mutex_unlock(&mutex);
    return head->call;
}

static uint32_t record_begin(enum kind kind, int fd, int64_t a, int64_t b, const void *data, size_t bytes)
{
    struct record head = {.kind = (uint16_t)kind, .fd = fd, .a = a, .b = b};
    const struct iovec payload = {(void *)(uintptr_t)data, bytes};

    return record(&head, &payload, 1);
}

static void record_end(enum kind kind, uint32_t call, int fd, int64_t a, long result)
{
    struct record head = {.kind = (uint16_t)kind, .ended = 1, .call = call, .fd = fd, .a = a, .result = result};

    record(&head, NULL, 0);
}

static uint32_t record_paths(enum kind kind, const char *from, const char *to)
{
    struct record head = {.kind = (uint16_t)kind};
    const struct iovec payload[] = {{(void *)(uintptr_t)from, strlen(from) + 1},
                                    {(void *)(uintptr_t)to, strlen(to) + 1}};

    return record(&head, payload, 2);
}

/* ---- Failing ----------------------------------------------------------------------------------- */

int interpose_fault(enum kind kind)
{
    struct faults *faults = interpose_faults;

    if (!faults || !atomic_load(&faults->armed))
        return GOES_ON;
    atomic_fetch_add(&faults->counts[kind], 1);
    if (!(faults->kinds >> kind & 1))
        return GOES_ON;
    const uint32_t n = atomic_fetch_add(&faults->seen, 1) + 1;
    if (!faults->nth || !(n == faults->nth || (faults->from_then_on && n > faults->nth)))
        return GOES_ON;
    atomic_fetch_add(&faults->hits, 1);
    return faults->error;
}

static void slow(const struct file *file)
{
    const struct timespec rest = {slow_us / 1000000, slow_us % 1000000 * 1000};

    if (slow_us && ends_with(file->path, "/data.mdb"))
        nanosleep(&rest, NULL);
}

/* ---- Opening and closing ------------------------------------------------------------------------ */

static int do_open(int folder, const char *path, int flags, mode_t mode)
{
    char whole[PATH_BYTES];
    struct stat status;

    if (!in_tree(folder, path, whole))
        return (int)answer(real(SYS_openat, folder, (long)path, flags, mode, 0, 0));
    const int code = interpose_fault(KIND_OPEN);
    if (code > 0)
        return (int)answer(-code);
    const bool makes = (flags & O_CREAT) && fstatat(folder, path, &status, AT_SYMLINK_NOFOLLOW) != 0;
    const uint32_t call = record_begin(KIND_OPEN, -1, flags, makes, whole, strlen(whole) + 1);
    const int fd = (int)real(SYS_openat, folder, (long)path, flags, mode, 0, 0);
    if (fd >= FILES_MAX)
        abort();
    if (fd >= 0) {
        files[fd].folder = fstat(fd, &status) == 0 && S_ISDIR(status.st_mode);
        files[fd].synchronous = (flags & O_DSYNC) != 0;
        strcpy(files[fd].path, whole);
        files[fd].known = true;
    }
    record_end(KIND_OPEN, call, -1, makes && fd >= 0, fd);
    return (int)answer(fd);
}

int openat(int folder, const char *path, int flags, ...)
{
    va_list rest;
    mode_t mode = 0;

    if (flags & (O_CREAT | O_TMPFILE)) {
        va_start(rest, flags);
        mode = va_arg(rest, mode_t);
        va_end(rest);
    }
    return do_open(folder, path, flags, mode);
}

int open(const char *path, int flags, ...)
{
    va_list rest;
    mode_t mode = 0;

    if (flags & (O_CREAT | O_TMPFILE)) {
        va_start(rest, flags);
        mode = va_arg(rest, mode_t);
        va_end(rest);
    }
    return do_open(AT_FDCWD, path, flags, mode);
}

int open64(const char *path, int flags, ...) __attribute__((alias("open")));
int openat64(int folder, const char *path, int flags, ...) __attribute__((alias("openat")));

/* What the C library's checking headers make of an open. */
int __open_2(const char *path, int flags);
int __open_2(const char *path, int flags)
{
    return do_open(AT_FDCWD, path, flags, 0);
}

int __open64_2(const char *path, int flags) __attribute__((alias("__open_2")));
int __openat_2(int folder, const char *path, int flags);
int __openat_2(int folder, const char *path, int flags)
{
    return do_open(folder, path, flags, 0);
}
int __openat64_2(int folder, const char *path, int flags) __attribute__((alias("__openat_2")));

int close(int fd)
{
    if (file_of(fd)) {
        record_begin(KIND_CLOSE, fd, 0, 0, NULL, 0);
        files[fd].known = false;
    }
    return (int)answer(real(SYS_close, fd, 0, 0, 0, 0, 0));
}

/* ---- Writing --------------------------------------------------------------------------------------- */

static size_t total(const struct iovec *parts, int count)
{
    size_t bytes = 0;

    for (int i = 0; i < count; i++)
        bytes += parts[i].iov_len;
    return bytes;
}

static long write_half(int fd, const struct iovec *parts, int count, off_t offset, int flags)
{
    const size_t half = total(parts, count) / 2;
    struct iovec some[1024];
    size_t left = half;
    int used = 0;

    if (half == 0)
        return 0;
    for (int i = 0; i < count && left > 0; i++) {
        some[used] = parts[i];
        if (some[used].iov_len > left)
            some[used].iov_len = left;
        left -= some[used++].iov_len;
    }
    return real(SYS_pwritev2, fd, (long)some, used, (long)offset, 0, flags);
}

static ssize_t do_write(int fd, const struct iovec *parts, int count, off_t offset, int flags, bool moves)
{
    const struct file *file = file_of(fd);
    struct record head = {.kind = KIND_WRITE, .fd = fd};
    long result;

    if (!file && moves)
        return answer(real(SYS_writev, fd, (long)parts, count, 0, 0, 0));
    if (!file)
        return answer(real(SYS_pwritev2, fd, (long)parts, count, (long)offset, 0, flags));
    const int code = interpose_fault(KIND_WRITE);
    if (code > 0)
        return answer(-code);
    if (moves)
        offset = (off_t)real(SYS_lseek, fd, 0, SEEK_CUR, 0, 0, 0);
    slow(file);
    if (is_broken("no-dsync"))
        flags &= ~RWF_DSYNC;
    head.a = offset;
    head.b = (flags & RWF_DSYNC) != 0 || file->synchronous;
    const uint32_t call = is_lock_file(file) ? 0 : record(&head, parts, count);
    if (code == 0)
        result = write_half(fd, parts, count, offset, flags);
    else
        result = real(SYS_pwritev2, fd, (long)parts, count, (long)offset, 0, flags);
    if (moves && result > 0)
        real(SYS_lseek, fd, offset + result, SEEK_SET, 0, 0, 0);
    if (call)
        record_end(KIND_WRITE, call, fd, 0, result);
    return answer(result);
}

ssize_t write(int fd, const void *data, size_t bytes)
{
    const struct iovec part = {(void *)(uintptr_t)data, bytes};

    return do_write(fd, &part, 1, 0, 0, true);
}

ssize_t writev(int fd, const struct iovec *parts, int count)
{
    return do_write(fd, parts, count, 0, 0, true);
}

ssize_t pwrite(int fd, const void *data, size_t bytes, off_t offset)
{
    const struct iovec part = {(void *)(uintptr_t)data, bytes};

    return do_write(fd, &part, 1, offset, 0, false);
}

ssize_t pwrite64(int fd, const void *data, size_t bytes, off64_t offset) __attribute__((alias("pwrite")));

ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t offset)
{
    return do_write(fd, parts, count, offset, 0, false);
}

ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t offset) __attribute__((alias("pwritev")));

ssize_t pwritev2(int fd, const struct iovec *parts, int count, off_t offset, int flags)
{
    return do_write(fd, parts, count, offset, flags, false);
}

ssize_t pwritev64v2(int fd, const struct iovec *parts, int count, off64_t offset, int flags)
    __attribute__((alias("pwritev2")));

int ftruncate(int fd, off_t bytes)
{
    const struct file *file = file_of(fd);

    if (!file)
        return (int)answer(real(SYS_ftruncate, fd, (long)bytes, 0, 0, 0, 0));
    const int code = interpose_fault(KIND_TRUNCATE);
    if (code > 0)
        return (int)answer(-code);
    const uint32_t call = is_lock_file(file) ? 0 : record_begin(KIND_TRUNCATE, fd, bytes, 0, NULL, 0);
    const long result = real(SYS_ftruncate, fd, (long)bytes, 0, 0, 0, 0);
    if (call)
        record_end(KIND_TRUNCATE, call, fd, 0, result);
    return (int)answer(result);
}

int ftruncate64(int fd, off64_t bytes) __attribute__((alias("ftruncate")));

/* Only room that is reserved changes nothing that a power cut shows. Where nothing is to fail, it is not even done: on
 * a file system in memory it would take that memory. */
static long do_allocate(int fd, int mode, off_t offset, off_t bytes)
{
    const struct file *file = file_of(fd);

    if (!file)
        return real(SYS_fallocate, fd, mode, (long)offset, (long)bytes, 0, 0);
    if (mode == FALLOC_FL_KEEP_SIZE) {
        const int code = interpose_fault(KIND_RESERVE);
        return code > 0 ? -code : 0;
    }
    if (mode != 0)
        return -EOPNOTSUPP;
    const int code = interpose_fault(KIND_ALLOCATE);
    if (code > 0)
        return -code;
    const uint32_t call = record_begin(KIND_ALLOCATE, fd, offset, bytes, NULL, 0);
    const long result = real(SYS_fallocate, fd, mode, (long)offset, (long)bytes, 0, 0);
    record_end(KIND_ALLOCATE, call, fd, 0, result);
    return result;
}

int fallocate(int fd, int mode, off_t offset, off_t bytes)
{
    return (int)answer(do_allocate(fd, mode, offset, bytes));
}

int fallocate64(int fd, int mode, off64_t offset, off64_t bytes) __attribute__((alias("fallocate")));

int posix_fallocate(int fd, off_t offset, off_t bytes)
{
    return (int)-do_allocate(fd, 0, offset, bytes);
}

int posix_fallocate64(int fd, off64_t offset, off64_t bytes) __attribute__((alias("posix_fallocate")));

/* ---- Flushing ------------------------------------------------------------------------------------------ */

/* The flush of a folder that is left out on purpose. */
static bool is_left_out(const struct file *file)
{
    const bool inner = ends_with(file->path, "/store") || ends_with(file->path, "/store.new");

    return file->folder && is_broken(inner ? "no-name-flush" : "no-rename-flush");
}

static int do_flush(int fd, long number)
{
    const struct file *file = file_of(fd);

    if (!file)
        return (int)answer(real(number, fd, 0, 0, 0, 0, 0));
    const enum kind kind = file->folder ? KIND_FLUSH_NAMES : KIND_FLUSH;
    const int code = interpose_fault(kind);
    if (code > 0)
        return (int)answer(-code);
    if (is_left_out(file))
        return 0;
    slow(file);
    const uint32_t call = record_begin(kind, fd, number == SYS_fsync, 0, NULL, 0);
    const long result = real(number, fd, 0, 0, 0, 0, 0);
    record_end(kind, call, fd, 0, result);
    return (int)answer(result);
}

int fsync(int fd)
{
    return do_flush(fd, SYS_fsync);
}

int fdatasync(int fd)
{
    return do_flush(fd, SYS_fdatasync);
}

/* ---- Names ------------------------------------------------------------------------------------------------ */

int renameat2(int from_folder, const char *from, int to_folder, const char *to, unsigned flags)
{
    char whole_from[PATH_BYTES], whole_to[PATH_BYTES];
    const bool inside = in_tree(from_folder, from, whole_from) && in_tree(to_folder, to, whole_to);
    const int code = inside ? interpose_fault(KIND_RENAME) : GOES_ON;

    if (code > 0)
        return (int)answer(-code);
    const uint32_t call = inside ? record_paths(KIND_RENAME, whole_from, whole_to) : 0;
    const long result = real(SYS_renameat2, from_folder, (long)from, to_folder, (long)to, (long)flags, 0);
    if (call)
        record_end(KIND_RENAME, call, -1, 0, result);
    return (int)answer(result);
}

int renameat(int from_folder, const char *from, int to_folder, const char *to)
{
    return renameat2(from_folder, from, to_folder, to, 0);
}

int rename(const char *from, const char *to)
{
    return renameat2(AT_FDCWD, from, AT_FDCWD, to, 0);
}

int linkat(int from_folder, const char *from, int to_folder, const char *to, int flags)
{
    char whole_from[PATH_BYTES], whole_to[PATH_BYTES];
    const bool inside = in_tree(from_folder, from, whole_from) && in_tree(to_folder, to, whole_to);
    const int code = inside ? interpose_fault(KIND_LINK) : GOES_ON;

    if (code > 0)
        return (int)answer(-code);
    const uint32_t call = inside ? record_paths(KIND_LINK, whole_from, whole_to) : 0;
    const long result = real(SYS_linkat, from_folder, (long)from, to_folder, (long)to, flags, 0);
    if (call)
        record_end(KIND_LINK, call, -1, 0, result);
    return (int)answer(result);
}

int link(const char *from, const char *to)
{
    return linkat(AT_FDCWD, from, AT_FDCWD, to, 0);
}

static int do_path(enum kind kind, long number, int folder, const char *path, long argument)
{
    char whole[PATH_BYTES];
    const bool inside = in_tree(folder, path, whole);
    const int code = inside ? interpose_fault(kind) : GOES_ON;

    if (code > 0)
        return (int)answer(-code);
    const uint32_t call = inside ? record_begin(kind, -1, 0, 0, whole, strlen(whole) + 1) : 0;
    const long result = real(number, folder, (long)path, argument, 0, 0, 0);
    if (call)
        record_end(kind, call, -1, 0, result);
    return (int)answer(result);
}

int unlinkat(int folder, const char *path, int flags)
{
    return do_path(KIND_UNLINK, SYS_unlinkat, folder, path, flags);
}

int unlink(const char *path)
{
    return unlinkat(AT_FDCWD, path, 0);
}

int rmdir(const char *path)
{
    return unlinkat(AT_FDCWD, path, AT_REMOVEDIR);
}

int mkdirat(int folder, const char *path, mode_t mode)
{
    return do_path(KIND_MKDIR, SYS_mkdirat, folder, path, mode);
}

int mkdir(const char *path, mode_t mode)
{
    return mkdirat(AT_FDCWD, path, mode);
}

/* ---- Maps ------------------------------------------------------------------------------------------------------ */

void *mmap(void *at, size_t bytes, int protection, int flags, int fd, off_t offset)
{
    const struct file *file = file_of(fd);
    const int code = file || fd < 0 ? interpose_fault(file ? KIND_MAP : KIND_MEMORY) : GOES_ON;

    if (code > 0) {
        errno = code;
        return MAP_FAILED;
    }
    if (file && (protection & PROT_WRITE) && (flags & MAP_TYPE) != MAP_PRIVATE && !is_lock_file(file))
        record_begin(KIND_MAP, fd, 0, 0, NULL, 0);
    return (void *)answer(real(SYS_mmap, (long)at, (long)bytes, protection, flags, fd, (long)offset));
}

void *mmap64(void *at, size_t bytes, int protection, int flags, int fd, off64_t offset) __attribute__((alias("mmap")));

int mdb_env_open(void *environment, const char *path, unsigned flags, mode_t mode);
int mdb_env_open(void *environment, const char *path, unsigned flags, mode_t mode)
{
    enum { MDB_NOSYNC = 0x10000, MDB_NOMETASYNC = 0x40000 };
    union {
        void *found;
        int (*call)(void *, const char *, unsigned, mode_t);
    } next = {dlsym(RTLD_NEXT, "mdb_env_open")};

    flags |= is_broken("nosync") ? MDB_NOSYNC : 0;
    flags |= is_broken("nometasync") ? MDB_NOMETASYNC : 0;
    return next.call(environment, path, flags, mode);
}

/* ---- What clients are told ------------------------------------------------------------------------------------- */

ssize_t sendmsg(int fd, const struct msghdr *message, int flags)
{
    struct record head = {.kind = KIND_SEND, .fd = fd};
    const uint32_t call = tree_bytes ? record(&head, message->msg_iov, (int)message->msg_iovlen) : 0;
    const long result = real(SYS_sendmsg, fd, (long)message, flags, 0, 0, 0);

    if (call)
        record_end(KIND_SEND, call, fd, 0, result);
    return answer(result);
}

ssize_t send(int fd, const void *data, size_t bytes, int flags)
{
    const uint32_t call = tree_bytes ? record_begin(KIND_SEND, fd, 0, 0, data, bytes) : 0;
    const long result = real(SYS_sendto, fd, (long)data, (long)bytes, flags, 0, 0);

    if (call)
        record_end(KIND_SEND, call, fd, 0, result);
    return answer(result);
}
