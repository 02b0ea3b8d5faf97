/* poll says that a pipe, a socket or a terminal takes something; up to PIPE_BUF bytes a pipe takes whole. So one write
 * after a poll does not wait, but where somebody else fills the same pipe in between. That is harmless then: the lease
 * is renewed by a process of its own, and signals end the write. */
#include "client/command/output.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PART_HEADER_BYTES = 5, QUEUED_BYTES_MIN = 65536 };

static const int descriptors[OUTPUT_STREAMS] = {STDOUT_FILENO, STDERR_FILENO};

static bool make_room(uint8_t **data, size_t used, size_t *capacity, size_t bytes)
{
    if (*capacity - used >= bytes)
        return true;
    const size_t larger_capacity = 2 * *capacity + bytes;
    uint8_t *larger = realloc(*data, larger_capacity);
    if (!larger)
        return false;
    *data = larger;
    *capacity = larger_capacity;
    return true;
}

static void keep(struct output *output, enum output_stream stream, const uint8_t *data, size_t size)
{
    const size_t bytes = PART_HEADER_BYTES + size;

    output->all_bytes += bytes;
    if (output->all_bytes > output->kept_max)
        return; /* half an output would be taken for all of it */
    if (!make_room(&output->kept, output->kept_bytes, &output->kept_capacity, bytes)) {
        output->all_bytes += output->kept_max;
        return;
    }
    uint8_t *at = output->kept + output->kept_bytes;
    at[0] = (uint8_t)(stream + 1);
    for (int i = 0; i < 4; i++)
        at[1 + i] = (uint8_t)(size >> (24 - 8 * i));
    memcpy(at + PART_HEADER_BYTES, data, size);
    output->kept_bytes += bytes;
}

static void drop(struct outlet *outlet, int failed)
{
    outlet->failed = failed;
    outlet->size = outlet->sent = 0;
}

void output_add(struct output *output, enum output_stream stream, const uint8_t *data, size_t size)
{
    struct outlet *outlet = &output->outlets[stream];

    keep(output, stream, data, size);
    if (outlet->failed)
        return;
    if (outlet->sent) {
        memmove(outlet->queued, outlet->queued + outlet->sent, outlet->size - outlet->sent);
        outlet->size -= outlet->sent;
        outlet->sent = 0;
    }
    if (!make_room(&outlet->queued, outlet->size, &outlet->capacity, size)) {
        drop(outlet, ENOMEM);
        return;
    }
    memcpy(outlet->queued + outlet->size, data, size);
    outlet->size += size;
}

/* Waits until something can be written, or an error be seen. False: not within wait_ms, or a signal came. */
static bool can_write(int fd, int wait_ms)
{
    struct pollfd look = {.fd = fd, .events = POLLOUT};

    return poll(&look, 1, wait_ms) > 0;
}

/* Writes some of what is queued. False: not now. */
static bool write_some(struct outlet *outlet, int fd, int wait_ms)
{
    const size_t left = outlet->size - outlet->sent;

    if (!can_write(fd, wait_ms))
        return false;
    const ssize_t written = write(fd, outlet->queued + outlet->sent, left < PIPE_BUF ? left : PIPE_BUF);
    if (written < 0 && errno != EINTR && errno != EAGAIN)
        drop(outlet, errno);
    if (written < 0)
        return false;
    outlet->sent += (size_t)written;
    return true;
}

void output_pass(struct output *output, enum output_stream stream)
{
    struct outlet *outlet = &output->outlets[stream];

    while (outlet->sent < outlet->size && write_some(outlet, descriptors[stream], 0))
        ;
}

bool output_waits(const struct output *output, enum output_stream stream)
{
    return output->outlets[stream].sent < output->outlets[stream].size;
}

bool output_has_room(const struct output *output, enum output_stream stream)
{
    const struct outlet *outlet = &output->outlets[stream];
    const size_t most = output->kept_max > QUEUED_BYTES_MIN ? output->kept_max : QUEUED_BYTES_MIN;

    return outlet->size - outlet->sent < most;
}

bool output_in_vain(const struct output *output, enum output_stream stream)
{
    return output->outlets[stream].failed && output->all_bytes > output->kept_max;
}

void output_finish(struct output *output)
{
    for (int stream = 0; stream < OUTPUT_STREAMS; stream++)
        while (output_waits(output, (enum output_stream)stream))
            write_some(&output->outlets[stream], descriptors[stream], -1);
}

void output_replay(struct output *output, idem_bytes kept)
{
    const uint8_t *at = kept.data, *end = at + kept.size;

    while (at && end - at >= PART_HEADER_BYTES) {
        const size_t size = (size_t)at[1] << 24 | (size_t)at[2] << 16 | (size_t)at[3] << 8 | at[4];
        if (size > (size_t)(end - at - PART_HEADER_BYTES)) {
            command_say("the kept output does not read: it was not stored by idem run");
            return;
        }
        output_add(output, at[0] == 2 ? OUTPUT_ERROR : OUTPUT_STANDARD, at + PART_HEADER_BYTES, size);
        output_finish(output);
        at += PART_HEADER_BYTES + size;
    }
}

int output_exit(const struct output *output, int exit_status)
{
    static const char *const names[OUTPUT_STREAMS] = {"standard output", "standard error"};
    int code = 0;

    for (int stream = 0; stream < OUTPUT_STREAMS; stream++) {
        const int failed = output->outlets[stream].failed;
        if (failed == EPIPE && code == 0)
            code = 128 + SIGPIPE; /* whoever reads has enough; that is no error to talk about */
        if (failed == 0 || failed == EPIPE)
            continue;
        code = EXIT_OUTPUT;
        command_say("%s cannot be written: %s", names[stream], strerror(failed));
    }
    return exit_status ? exit_status : code;
}

void output_free(struct output *output)
{
    free(output->kept);
    for (int stream = 0; stream < OUTPUT_STREAMS; stream++)
        free(output->outlets[stream].queued);
}
