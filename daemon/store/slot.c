/* Writing and reading the head of a slot. */
#include "daemon/store/slot.h"

#include <string.h>
#include <xxhash.h>

#define MAGIC 0x33736469u /* "ids3" */

/* As it lies in a file. */
struct head {
    uint64_t checksum;
    uint32_t magic, slot;
    uint64_t bytes, zero;
};
_Static_assert(sizeof(struct head) == 32, "no holes");

static uint64_t head_checksum(const struct head *head, const uint8_t secret[RECORD_SECRET_BYTES])
{
    return XXH3_64bits_withSecret(&head->magic, sizeof *head - sizeof head->checksum, secret, RECORD_SECRET_BYTES);
}

void slot_write_head(uint8_t *head, uint32_t slot, uint64_t bytes, const uint8_t secret[RECORD_SECRET_BYTES])
{
    struct head fields = {.magic = MAGIC, .slot = slot, .bytes = bytes};

    fields.checksum = head_checksum(&fields, secret);
    memset(head, 0, SLOT_HEAD_BYTES);
    memcpy(head, &fields, sizeof fields);
    memcpy(head + SLOT_FIRST_BATCH_AT, &fields, sizeof fields);
}

static bool is_zero(const uint8_t *data, size_t size)
{
    while (size > 0 && data[size - 1] == 0)
        size--;
    return size == 0;
}

const char *slot_damage(const uint8_t *data, uint64_t size, uint32_t slot, const uint8_t secret[RECORD_SECRET_BYTES])
{
    struct head head;

    memcpy(&head, data, sizeof head);
    if (size == 0)
        return "it is empty";
    if (head.checksum != head_checksum(&head, secret))
        return is_zero(data, SLOT_FIRST_BATCH_AT) ? "its first page is zeros"
                                                  : "its first page is damaged, or was written by another store than "
                                                    "the one in data.mdb";
    if (head.magic != MAGIC || head.slot != slot)
        return "it is another file of the log, under a wrong name";
    if (size < head.bytes)
        return "it is shorter than it was made";
    if (is_zero(data + SLOT_FIRST_BATCH_AT, BATCH_HEADER_BYTES))
        return "it has zeros where its first batch was";
    return NULL;
}
