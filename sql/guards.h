/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * guards.h - guard bytes between segments of shared memory.
 *
 *   |  segment A, in use  | reserve |align| front |  segment B, in use  | reserve |align|
 *                         ^-------- guard --------^                     ^---- guard ----^
 *                                         ^ boundary                                    ^ boundary
 *
 * A guard stands at the boundary of two segments, in bytes that nobody uses: what aligning to a
 * cache line leaves over (storage/ipc/shmem.c rounds sizes up to it), and what the owner of a
 * segment says that it keeps in reserve.  One that is written to from its low end is an overrun
 * of the segment below, from its high end an under-run of the one above.
 *
 * Guards are written when they are set up, if all their bytes are zero as the server left them,
 * and never again: what was found changed is reported once and is from then on what is expected.
 */
#ifndef PGMT_GUARDS_H
#define PGMT_GUARDS_H

#include "pgmemtrace.h"

#include "port/pg_crc32c.h"

#define PGMT_MAX_GUARDS 128
/* A finding as JSON, with the last statements in it: quotes and backslashes doubled. */
#define PGMT_MAX_FINDING 4096

typedef struct PgmtGuard {
  char below[PGMT_SEGMENT_NAME_BYTES]; /* empty: nothing that has a name */
  char above[PGMT_SEGMENT_NAME_BYTES];
  char *below_start;
  char *boundary;
  char *low; /* guard bytes are [low, high) */
  char *high;
  pg_crc32c expected;
  TimestampTz found_at; /* of the finding, if there is one */
  char finding[PGMT_MAX_FINDING];
} PgmtGuard;

typedef struct PgmtSentinels {
  int count;
  PgmtGuard guards[PGMT_MAX_GUARDS];
} PgmtSentinels;

/* In shared memory; it and all below under PGMT_SENTINELS_LOCK. */
extern PgmtSentinels *pgmt_sentinels;

/* Is there something that was not there at the last look?  Then it is in the guard's finding. */
extern bool pgmt_guard_look(PgmtGuard *guard);
extern bool pgmt_guard_is_intact(const PgmtGuard *guard);
/* Would a look at it find something?  Writes nothing. */
extern bool pgmt_guard_changed(const PgmtGuard *guard);

/* ---- culprit.c: in a session that runs a workload ---- */

typedef struct PgmtCulprit {
  char function[NAMEDATALEN * 2]; /* its C symbol, or its name in SQL; empty: not known */
  char module[NAMEDATALEN * 2];   /* file name; empty: not written in C */
} PgmtCulprit;

/* Who is to blame for what the look that is taken now finds; NULL: nobody knows. */
extern PgmtCulprit *pgmt_culprit;

/* Errors: of a segment about to be guarded, what would speak against it. */
/* No guard may stand in [first, end): what is in use is overwritten rightly. */
extern void pgmt_guard_require_none(const PgmtSegment *segment, const char *first, const char *end);
/* [low, high), but for what a guard at this boundary has already, must be as the server left it. */
extern void pgmt_guard_require_room(const char *boundary, const char *low, const char *high,
                                    const PgmtSegment *segment);

/* Sets up a guard, or widens the one at this boundary; there is room.  Returns its bytes. */
extern int32 pgmt_guard_set_up(char *boundary, char *low, char *high, const PgmtSegment *below,
                               const PgmtSegment *above);
/* Zeros its bytes again, but for those that others wrote. */
extern void pgmt_guard_take_down(PgmtGuard *guard);

#endif /* PGMT_GUARDS_H */
