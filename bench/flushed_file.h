/* The cheapest durable log there is: a file allocated and written full beforehand, into which a batch goes with one
 * write that is also its flush. It starts over at the file's end; nobody ever reads it. */
#ifndef IDEM_BENCH_FLUSHED_FILE_H
#define IDEM_BENCH_FLUSHED_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct flushed_file;

/* Makes the file in `directory`, nameless, so that it is gone with its process. NULL: standard error says why not. */
struct flushed_file *flushed_file_open(const char *directory);
void flushed_file_close(struct flushed_file *file);

/* Room for `bytes` at the end of the batch, until the next call. */
uint8_t *flushed_file_room(struct flushed_file *file, size_t bytes);
/* So many of them were filled. */
void flushed_file_take(struct flushed_file *file, size_t bytes);
/* Writes the batch, padded to whole pages, and empties it. When it returns true the batch is on the disk; false:
 * standard error says what went wrong. An empty batch is none. */
bool flushed_file_flush(struct flushed_file *file);

#endif
