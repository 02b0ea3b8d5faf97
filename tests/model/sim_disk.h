/* A disk in memory, behind daemon/store/disk.h. There is one, and one directory on it: a file is known by the last part
 * of its path.
 *
 * It knows what is flushed. When the power goes, every byte of a write that had returned is kept; of the one that had
 * not, nothing, all of it, any prefix, or any subset of its sectors of 512 or of 4,096 bytes; a file being made may be
 * there, of any length, or not, or the one that it replaces. Which, the seed decides. From then on every
 * call fails with EIO, as nobody is left to call, until the power is back.
 *
 * A write that is made to fail leaves what a power cut leaves. Any thread may call. */
#ifndef IDEMD_TESTS_SIM_DISK_H
#define IDEMD_TESTS_SIM_DISK_H

#include "daemon/store/disk.h"

extern const struct disk sim_disk;

enum sim_call {
    SIM_OPEN = 1,
    SIM_MAKE = 2,
    SIM_SIZE = 4,
    SIM_READ = 8,
    SIM_WRITE = 16,
    SIM_CHANGES = SIM_MAKE | SIM_WRITE,
    SIM_ALL = 31,
};

/* An empty disk with nothing open, no fault and no hook. */
void sim_disk_reset(uint64_t seed);
/* Frees everything. Returns how many files were left open. */
unsigned sim_disk_end(void);
/* How many are open. */
unsigned sim_disk_open_files(void);

/* The n-th from now of these calls fails (1: the next; 0: none), once or from then on. */
void sim_disk_fail(unsigned calls, uint32_t nth, bool from_then_on, int code);
/* How many failed since. */
uint32_t sim_disk_failed(void);
/* How many of these calls there were since the disk was reset. */
uint64_t sim_disk_calls(unsigned calls);

/* The power goes during the n-th from now of these calls (0: not; pending faults are forgotten). */
void sim_disk_cut_power(unsigned calls, uint32_t nth);
bool sim_disk_is_off(void);
/* Takes it away now, between two calls, and gives it back: what is on the disk is what is kept. */
void sim_disk_power_on(void);

/* Called before each call, on its thread, with no lock held. NULL: none. */
void sim_disk_hook(void (*hook)(void *context, enum sim_call call), void *context);

/* What is in a file; NULL: no such file. Valid until it changes. */
const uint8_t *sim_disk_data(const char *name, uint64_t *bytes);
/* Puts a file there, in place of one of the same name. */
void sim_disk_put(const char *name, const void *data, uint64_t bytes);
void sim_disk_flip(const char *name, uint64_t byte, unsigned bit);
void sim_disk_cut(const char *name, uint64_t bytes);
void sim_disk_drop(const char *name);

#endif
