/* Blocks beyond the end of the file, by fallocate(2); they stay the file's when the daemon ends. */
#include "daemon/store/ahead.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/statvfs.h>

enum {
    LEAST_BYTES = 64 * 1024 * 1024, /* beyond what the log holds */
    STEP_BYTES = 4 * 1024 * 1024,   /* asked for at once: some file systems keep what they had found when they fail */
    PART_BYTES_LEAST = 64 * 1024,   /* of a full disk less is not asked for */
};

/* A limit on the size of files (ulimit -f) is met by a write, and on some file systems not by fallocate. */
static bool is_above_limit(uint64_t bytes)
{
    struct rlimit limit;

    return getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY && bytes > limit.rlim_cur;
}

static int allocate(int fd, uint64_t from, uint64_t bytes)
{
    int code;

    if (is_above_limit(from + bytes))
        return EFBIG;
    do
        code = fallocate(fd, FALLOC_FL_KEEP_SIZE, (off_t)from, (off_t)bytes) == 0 ? 0 : errno;
    while (code == EINTR);
    return code;
}

/* On a disk that has less: what there is, the last of it by halves. Returns why there was not all. */
static int extend(struct ahead *ahead, int fd, uint64_t end, uint64_t bytes)
{
    uint64_t got = 0, step = STEP_BYTES;
    int code = 0;

    while (got < bytes && step >= PART_BYTES_LEAST) {
        const uint64_t part = bytes - got < step ? bytes - got : step;
        const int failed = allocate(fd, end + got, part);
        if (failed == EOPNOTSUPP)
            return failed;
        if (failed == 0)
            got += part;
        else
            step = part / 2;
        code = failed ? failed : code;
    }
    if (ahead->allocated < end + got)
        ahead->allocated = end + got;
    return got == bytes ? 0 : code;
}

/* Half as much again, so that not every commit asks; of a small disk only what is needed, and others have the rest. */
static uint64_t wanted(int fd, uint64_t least)
{
    struct statvfs status;
    const bool plenty = fstatvfs(fd, &status) == 0 && status.f_bavail * status.f_frsize >= 4 * least;

    return plenty ? least + least / 2 : least;
}

bool ahead_keep(struct ahead *ahead, const struct tables *tables, uint64_t used_bytes, uint64_t wal_bytes, bool ask,
                uint64_t *room_bytes)
{
    const uint64_t least = LEAST_BYTES + wal_bytes;
    MDB_envinfo info;
    mdb_filehandle_t fd;

    *room_bytes = 0;
    if (mdb_env_info(tables->env, &info) != 0 || mdb_env_get_fd(tables->env, &fd) != 0)
        return false;
    const uint64_t end = (info.me_last_pgno + 1) * TABLES_PAGE_BYTES;
    if (ask && ahead->allocated < end + least && extend(ahead, fd, end, wanted(fd, least)) == EOPNOTSUPP) {
        *room_bytes = UINT64_MAX;
        return true;
    }
    /* A file that was restored with holes has no room where it seems to. */
    if (ask && !ahead->whole) {
        if (allocate(fd, 0, end) != 0)
            return false;
        ahead->whole = true;
    }
    /* Pages that are free within the file are room too. */
    const uint64_t whole = ahead->allocated > end ? ahead->allocated : end;
    *room_bytes = whole > used_bytes ? whole - used_bytes : 0;
    return *room_bytes >= least;
}
