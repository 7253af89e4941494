/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * log.h - the violations in shared memory: what log.c and log_flush.c share.
 */
#ifndef PGMT_LOG_H
#define PGMT_LOG_H

#include "pgmemtrace.h"

#include "storage/condition_variable.h"
#include "storage/latch.h"

typedef struct PgmtLog {
  uint64 head;
  uint64 tail;
  int64 written; /* rows, since the server started */
  int64 lost;    /* no room for them, or the table would not have them */
  Latch *worker; /* NULL: it does not run */
  int64 rounds_begun;
  int64 rounds_done;
  char failure[256]; /* of the last round; empty: it wrote everything */
  ConditionVariable round_done;
  char ring[FLEXIBLE_ARRAY_MEMBER];
} PgmtLog;

/* In shared memory, under PGMT_LOG_LOCK. */
extern PgmtLog *pgmt_log;

/* The violation at an offset, which moves behind it; NULL at the end. */
extern char *pgmt_log_read(uint64 *offset);
/* The worker's: what is before the offset is done with. */
extern void pgmt_log_advance(uint64 offset, int64 written, int64 lost);
extern bool pgmt_log_is_empty(void);

#endif /* PGMT_LOG_H */
