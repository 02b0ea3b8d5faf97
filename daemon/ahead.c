/* Blocks beyond the end of the file, by fallocate(2); they stay the file's when the daemon ends. */
#include "daemon/ahead.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/resource.h>

enum {
    LEAST_BYTES = 64 * 1024 * 1024, /* beyond what the log holds */
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

/* On a disk that has less: what there is, by halves. Returns why there was not all. */
static int extend(struct ahead *ahead, int fd, uint64_t end, uint64_t bytes)
{
    const int code = allocate(fd, end, bytes);
    uint64_t got = code == 0 ? bytes : 0;

    if (code == EOPNOTSUPP)
        return code;
    for (uint64_t part = bytes / 2; code != 0 && part >= PART_BYTES_LEAST; part /= 2)
        if (allocate(fd, end + got, part) == 0)
            got += part;
    if (ahead->allocated < end + got)
        ahead->allocated = end + got;
    return code;
}

bool ahead_keep(struct ahead *ahead, const struct tables *tables, uint64_t used_bytes, uint64_t log_bytes, bool ask,
                uint64_t *room_bytes)
{
    const uint64_t least = LEAST_BYTES + log_bytes;
    MDB_envinfo info;
    mdb_filehandle_t fd;

    *room_bytes = 0;
    if (mdb_env_info(tables->env, &info) != 0 || mdb_env_get_fd(tables->env, &fd) != 0)
        return false;
    const uint64_t end = (info.me_last_pgno + 1) * TABLES_PAGE_BYTES;
    /* Half as much again, so that not every commit asks. */
    if (ask && ahead->allocated < end + least && extend(ahead, fd, end, least + least / 2) == EOPNOTSUPP) {
        *room_bytes = UINT64_MAX;
        return true;
    }
    /* Pages that are free within the file are room too. */
    const uint64_t whole = ahead->allocated > end ? ahead->allocated : end;
    *room_bytes = whole > used_bytes ? whole - used_bytes : 0;
    return *room_bytes >= least;
}
