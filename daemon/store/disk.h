/* The commit log's door to the disk: one small table of functions, so that a test can be the disk.
 *
 * Memory, offsets and sizes are multiples of DISK_ALIGN_BYTES, so that the disk may be written past the page cache.
 * Each returns 0 or an errno. A file is a number of at least 0. What is written is on the disk - data, size, and the
 * name of a file that was made - when the function that says so returns, and not before. Functions for different files
 * may be called at the same time on several threads. */
#ifndef IDEMD_DISK_H
#define IDEMD_DISK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { DISK_ALIGN_BYTES = 4096 };

struct disk {
    /* Opens a file that is there, in a directory that the caller holds open: whatever becomes of the directory's path,
     * it is the same one. The file is the caller's alone until it is closed. ENOENT: it is not there. EWOULDBLOCK:
     * somebody else has it open, under this name or another. */
    int (*open)(int folder, const char *name, int *file);
    /* Makes a file of so many zero bytes, each of them written, so that a later write changes no metadata; file and
     * name are flushed. It is the caller's alone, as above. A file of that name loses the name and keeps what it holds:
     * it may have another name, and belong to somebody else. On failure nothing is left. */
    int (*make)(int folder, const char *name, uint64_t bytes, int *file);
    int (*size)(int file, uint64_t *bytes);
    /* Reads so many bytes; what lies behind the file's end reads as zeros. */
    int (*read)(int file, uint64_t offset, void *data, size_t bytes);
    /* Writes, over the file's end too, and flushes what it wrote. After a failure nothing may be assumed of it. */
    int (*write)(int file, uint64_t offset, const void *data, size_t bytes);
    void (*close)(int file);
};

/* The one of the operating system. */
extern const struct disk disk_system;

#endif
