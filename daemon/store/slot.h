/* The first two pages of a slot: whose file it is, before any batch is in it.
 *
 * Page 0 is written when the slot is made, and never again. A slot that the tables know of and whose page 0 does not
 * read is damaged, or is another file: its batches may be lost. Page 1 is where the first batch of each use goes. It is
 * made with a copy of page 0, so that zeros there mean that what was written is gone, and not that nothing was.
 *
 * Format, little-endian, the rest of the page zeros:
 *      0  u64  XXH3-64 over bytes 8 .. 31, under the store's secret: another store's slot does not read
 *      8  u32  "ids3"
 *     12  u32  number of the slot
 *     16  u64  bytes of the file at least
 *     24  u64  0 */
#ifndef IDEMD_SLOT_H
#define IDEMD_SLOT_H

#include "daemon/store/batch.h"

enum {
    SLOT_FIRST_BATCH_AT = BATCH_ALIGN_BYTES, /* the offset of the first batch */
    SLOT_HEAD_BYTES = 2 * BATCH_ALIGN_BYTES, /* what slot_write_head writes */
};

/* Writes the two pages of a slot of so many bytes to `head`, which has SLOT_HEAD_BYTES. */
void slot_write_head(uint8_t *head, uint32_t slot, uint64_t bytes, const uint8_t secret[RECORD_SECRET_BYTES]);

/* What is wrong with a slot whose file is `size` bytes long and holds `data`; NULL: nothing. `data` has SLOT_HEAD_BYTES
 * at least, whatever the size. */
const char *slot_damage(const uint8_t *data, uint64_t size, uint32_t slot, const uint8_t secret[RECORD_SECRET_BYTES]);

#endif
