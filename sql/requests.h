/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * requests.h - the slots of those who wait for the daemon: what request.c and answer.c share.
 *
 * A slot belongs to the backend from taking it to freeing it, whatever ends its waiting; so an
 * answer that comes later finds no slot with its id and is refused.  Ids are never used twice.
 */
#ifndef PGMT_REQUESTS_H
#define PGMT_REQUESTS_H

#include "pgmemtrace.h"

#include "storage/dsm.h"
#include "storage/latch.h"

/* Backends that wait at the same time. */
#define PGMT_MAX_WAITING 64
/* Bytes of JSON in a request, its zero included: what a marker hands over at once. */
#define PGMT_MAX_REQUEST 4096

typedef enum PgmtAnswerState { PGMT_WAITING, PGMT_ANSWERED, PGMT_FAILED } PgmtAnswerState;

typedef struct PgmtSlot {
  uint64 id; /* 0: free */
  int pid;
  Latch *latch;
  PgmtRequestKind kind;
  TimestampTz asked_at;
  PgmtAnswerState state;
  dsm_handle answer; /* a varlena: jsonb if answered, text if failed; DSM_HANDLE_INVALID: none */
  char json[PGMT_MAX_REQUEST];
} PgmtSlot;

typedef struct PgmtRequests {
  uint64 last_id;
  PgmtSlot slots[PGMT_MAX_WAITING];
} PgmtRequests;

/* In shared memory, under PGMT_REQUESTS_LOCK. */
extern PgmtRequests *pgmt_requests_shared;

#endif /* PGMT_REQUESTS_H */
