/* A store in memory, behind daemon/store/store.h, whose thread is the test: what was handed over becomes durable when
 * the test says so, or never. What is durable is on a "disk" named by its directory, which outlives every crash.
 *
 *      store_append --> open batch --store_submit--> in flight --fake_store_finish--> disk, and an event to poll
 *                                                        '-------fake_store_crash---> lost, or not
 *      store_apply  --> applying --fake_store_apply--> what readers see, and an event to poll
 *
 * It also asserts what the engine owes it: numbers in order, records that decode, places used once, nothing handed over
 * while a batch is in flight. Record views go stale at the end of a turn, and then reading them is an error that the
 * address sanitizer sees. */
#ifndef IDEMD_TESTS_FAKE_STORE_H
#define IDEMD_TESTS_FAKE_STORE_H

#include "daemon/store/store.h"

/* Number of the first change of a new disk. */
#define FAKE_FIRST_NUMBER (UINT64_C(1700000000) << 20)

/* ---- The thread ---- */

/* The batch in flight is flushed: durable at the next poll. */
void fake_store_finish(struct store *store);
/* What store_apply began is done at once (not lazy, as a store is that was opened), or when fake_store_apply says; the
 * next poll tells it. */
void fake_store_lazy(struct store *store, bool lazy);
void fake_store_apply(struct store *store);
/* There is something that fake_store_apply would do. */
bool fake_store_lags(const struct store *store);
/* The log has no room: nothing can be handed over. */
void fake_store_set_no_room(struct store *store, bool no_room);
/* The commit of the batch in flight fails. */
void fake_store_fail(struct store *store);
/* Reads see what is committed before the poll that says so, as a snapshot taken late would. */
void fake_store_read_ahead(struct store *store, bool ahead);
/* The power goes: the store is freed, and what was not durable is lost. Nobody knows of a batch in flight: it may have
 * reached the disk. */
void fake_store_crash(struct store *store, bool flight_survives);

/* ---- Trouble ---- */

void fake_store_set_full(struct store *store, bool full);
/* How many bytes of pages it says that it uses and has; from the start it uses one page, of a GiB. */
void fake_store_set_space(struct store *store, uint64_t used_bytes, uint64_t quota_bytes);
/* How many sweeps one commit does at most. */
void fake_store_sweep_slice(struct store *store, uint32_t records);
/* From now on, opening this directory fails with this exit code (0: works again), and loading says that a head is bad.
 */
void fake_disk_refuse_open(const char *directory, int exit_code);
void fake_disk_refuse_load(const char *directory, bool refuse);
/* Damages the rest of the record under this key (a place, or a life), on the disk and for readers. False: none. */
bool fake_disk_damage(const char *directory, uint64_t key);
/* Damages a value. */
bool fake_disk_damage_value(const char *directory, uint64_t key, enum blob_kind kind);
/* All disks are thrown away. No store is open. */
void fake_disks_free(void);

/* ---- Looking ---- */

/* Called for each change that is appended. */
void fake_store_observe(struct store *store, void (*observe)(void *context, const struct store_change *change),
                        void *context);
struct fake_disk_counts {
    uint32_t unfinished, finished, values; /* records and values on the disk */
};
struct fake_disk_counts fake_disk_counts(const char *directory);
/* The n-th record on the disk: its key; 0 where there are fewer. */
uint64_t fake_disk_unfinished(const char *directory, uint32_t n);
uint64_t fake_disk_finished(const char *directory, uint32_t n);

#endif
