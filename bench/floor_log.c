/* The floor of the disk: the bytes of the requests, one write and one flush a batch, and no server. */
#include "bench/batches.h"
#include "bench/flushed_file.h"

static struct flushed_file *file;

static bool open_log(const struct load_options *options)
{
    target_idem.open(options->body_bytes);
    file = flushed_file_open(options->address);
    return file != NULL;
}

static bool put(const struct target_request *request, uint64_t *fence)
{
    (void)fence;
    flushed_file_take(file, target_idem.put(request, flushed_file_room(file, target_idem.request_bytes_max())));
    return true;
}

static bool flush(void)
{
    return flushed_file_flush(file);
}

static void close_log(void)
{
    flushed_file_close(file);
    file = NULL;
}

static bool run(const struct load_options *options, struct load_result *result)
{
    static const struct batches log = {open_log, put, flush, close_log};

    return batches_run(options, result, &log);
}

const struct target target_floor_log = {.name = "floor:log:", .run = run};
