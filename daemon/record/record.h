/* One operation as bytes: what is in memory while it is unfinished, in a batch, and in the store.
 *
 * Layout, version 2. All integers little-endian, all reads by memcpy (LMDB aligns values to 2).
 *   head, RECORD_HEAD_BYTES, with a checksum of its own, so that a start can rebuild the index from heads alone:
 *      0  u32  low half of XXH3-64 over bytes 4..33 of the head
 *      4  u32  low half of XXH3-64 over the rest
 *      8  u64  identity hash (record_hash)
 *     16  u32  stored bytes of this record's values (input, checkpoint, attributes, body), for space accounting
 *     20  u48  expires_ms on the retention clock; 0 where unfinished
 *     26  u56  life
 *     33  u8   format version (2) * 16 + state (enum record_state)
 *   rest: varints and length-prefixed strings, see record.c. It begins with what stays as it is from the grant on, so
 *   that the commit log need not say it again with each change: record_delta_make.
 * An upgrade reads the version and converts as it reads; nothing is rewritten in place. */
#ifndef IDEMD_RECORD_H
#define IDEMD_RECORD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/base/bytes.h"

enum {
    RECORD_HEAD_BYTES = 34,
    RECORD_BYTES_MAX = 1900, /* a record never leaves its LMDB leaf page */
    RECORD_SECRET_BYTES = 192,
};

/* The numbers of idem.v1.State. */
enum record_state { RECORD_ABSENT = 0, RECORD_RUNNING = 1, RECORD_INTERRUPTED = 2, RECORD_DONE = 3 };

enum record_flags {
    RECORD_RESOLVED = 1,            /* an operator gave its outcome */
    RECORD_BOUND = 2,               /* its grant is bound to a connection */
    RECORD_RECOVERED = 4,           /* its grant was made by Recover: attempt_id is of that space */
    RECORD_BODY_DROPPED = 8,        /* the body was over its limit, or not sent */
    RECORD_ATTRIBUTES_DROPPED = 16, /* the attributes were */
};

/* What names an operation; compared byte for byte. */
struct identity {
    struct bytes namespace, caller, key;
};

/* Values an operation can have beside its record; the number is part of the format. */
enum blob_kind { BLOB_INPUT = 1, BLOB_CHECKPOINT = 2, BLOB_ATTRIBUTES = 3, BLOB_BODY = 4, BLOB_KINDS = 5 };

/* A record, unpacked. Views point into the bytes it was decoded from, or into the call it was made from. */
struct record {
    struct identity id;
    uint64_t hash; /* record_hash of id */
    enum record_state state;
    uint8_t flags; /* enum record_flags */

    uint64_t generation;   /* fence of the first grant of this life of the key */
    uint64_t fence;        /* of the current, or last, grant */
    uint32_t values_bytes; /* from the head: of all its values; encoding computes it */
    uint64_t revision;     /* number of the last stored change */
    uint32_t attempt;      /* 1 for the first grant */

    uint64_t begun_ms, interrupted_ms, done_ms; /* Unix time; 0 where not yet */

    struct bytes operation, fingerprint, owner, traceparent;

    /* Unfinished only: once it is done, nobody asks for them, and they are not stored. */
    struct bytes attempt_id;
    struct bytes checkpoint_name;           /* empty: no checkpoint */
    uint32_t input_bytes, checkpoint_bytes; /* sizes of those blobs */
    uint32_t lease_ms;                      /* length that runs from a restart on: no acknowledged one has more left */
    uint32_t lease_left_ms;                 /* RUNNING: of the lease, where its reader knows; not stored */
    uint64_t keep_ms;                       /* what the grant's Begin said; 0: the namespace's default */

    /* DONE only. */
    uint64_t expires_ms;      /* retention clock: absent from then on */
    uint64_t body_expires_ms; /* retention clock: the body is not served from then on; at most expires_ms */
    uint64_t body_expiry_key; /* where the BODY blob is kept if it goes earlier than the record; else 0 */
    uint8_t outcome_kind;     /* idem.v1.OutcomeKind */
    int32_t outcome_code;
    uint64_t body_bytes;  /* the size that the body had when it was sent */
    uint64_t digest[2];   /* of the outcome as it was sent; ask record_has_digest */
    bool digest_left_out; /* the digest is not filled, and is that of record_plain_digest */
    /* The outcome's attributes and body as they stand in an idem.v1.Outcome on the wire: repeated field 3, then field 4
     * with tag and length. Sizes of what is stored, 0 where dropped. */
    uint32_t attributes_bytes, body_field_bytes;
    struct bytes
        inline_values; /* both, one after the other, where the record has room for them; else empty: in blobs */
};

/* XXH3-64 of the identity's parts, each after its length, under the database's secret. */
uint64_t record_hash(const uint8_t secret[RECORD_SECRET_BYTES], const struct identity *id);

/* A namespace's, likewise: what names it where it is not at hand. */
uint64_t record_namespace_hash(const uint8_t secret[RECORD_SECRET_BYTES], struct bytes namespace);

/* Writes the record; returns its bytes, at most RECORD_BYTES_MAX. Asserts that every string is within proto/limits.h.
 */
uint32_t record_encode(const struct record *record, uint8_t out[RECORD_BYTES_MAX]);
/* Would so many bytes of inline_values fit into `record`, were it encoded as it is but with them? */
bool record_has_inline_room(const struct record *record, uint64_t bytes);

/* An outcome as it was sent. */
struct sent_outcome {
    int32_t kind, code;
    uint64_t attributes_digest; /* proto/scan.h */
    uint64_t attributes_count;
    bool body_dropped, attributes_dropped;
    uint64_t body_bytes; /* what it says of a body that it left out */
    struct bytes body;
};
/* The digest by which a call sent again is known to say the same: of everything as it was sent, also of what is dropped
 * here. A record is without it where it can be had from what the record holds. */
void record_digest(const struct sent_outcome *sent, uint64_t digest[2]);
/* That of an outcome that has no attributes, was not dropped in part, and says nothing of a body but what it has:
 * body_field is empty, or one whole field, else it is false. It is reckoned only where somebody asks. */
bool record_plain_digest(uint8_t kind, int32_t code, struct bytes body_field, uint64_t digest[2]);
/* Is this the digest of its outcome? */
bool record_has_digest(const struct record *record, const uint64_t digest[2]);

enum record_check {
    RECORD_GOOD,
    RECORD_BAD_REST, /* the head is good: hash, expires_ms, life and state are filled, nothing else */
    RECORD_BAD_HEAD, /* nothing is filled */
};
/* Unpacks and checks `data`. Views in `record` point into it. */
enum record_check record_decode(struct bytes data, struct record *record);
/* The same of what this process encoded and kept in memory: no checksum is looked at, and it is asserted to read. */
void record_read(struct bytes data, struct record *record);
/* The namespace that an encoded record says it has; empty where that does not read. Not checked: if the rest is damaged
 * it may be any. */
struct bytes record_namespace(struct bytes data);
/* Only the head: hash, state, expires_ms, life, values_bytes. RECORD_GOOD says nothing of the rest. */
enum record_check record_decode_head(struct bytes data, struct record *record);

/* An encoded record without what can be had from elsewhere: from who holds it, or from the record that its operation
 * had before, its base. The rests of the two begin alike. */
struct record_delta {
    enum record_state state;
    uint32_t values_bytes;
    uint64_t hash, expires_ms;
    uint32_t shared;   /* so many bytes the rest begins with like the base's */
    uint32_t checksum; /* of the whole rest; looked at where any are shared, since a base can be the wrong one */
    struct bytes own;  /* the bytes of the rest after those */
};
/* Views in `part` point into `record`. A base without data: there is none. */
void record_delta_make(struct bytes record, struct bytes base, struct record_delta *part);
/* The record again, of this life; `base` are the first part->shared bytes of the base's rest. Returns its bytes. False
 * in *good: that was not the base. Then what is written reads as a record whose rest is damaged, for certain. Asserts
 * that it is no more than RECORD_BYTES_MAX. */
uint32_t record_delta_apply(const struct record_delta *part, uint64_t generation, const uint8_t *base,
                            uint8_t out[RECORD_BYTES_MAX], bool *good);
/* The rest of an encoded record that may be damaged: empty where it is too short. */
struct bytes record_rest(struct bytes data);

/* From an encoded record that may be damaged: the bytes of its values beside it, as its head says; 0 where it is too
 * short. */
uint32_t record_values_bytes(struct bytes data);

#endif
