/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * answer.c - what the daemon calls: who waits, and the answer to one of them.
 */
#include "requests.h"

#include "compat.h"
#include "fmgr.h"
#include "storage/proc.h"
#include "utils/builtins.h"

/* Bytes of an answer; some 100,000 contexts. */
#define MAX_ANSWER (64 * 1024 * 1024)

PG_FUNCTION_INFO_V1(pgmt_requests);
PG_FUNCTION_INFO_V1(pgmt_answer);

static const char *kind_name(PgmtRequestKind kind)
{
  switch (kind) {
  case PGMT_BEGIN_WINDOW: return "begin_window";
  case PGMT_END_WINDOW: return "end_window";
  case PGMT_CONTEXTS: return "contexts";
  case PGMT_CHECKPOINT: return "checkpoint";
  case PGMT_CHECK_ON_COPY: return "check_on_copy";
  }
  return "unknown";
}

/* Everything that waits, for a daemon that lost a marker's event. */
Datum pgmt_requests(PG_FUNCTION_ARGS)
{
  ReturnSetInfo *result = (ReturnSetInfo *)fcinfo->resultinfo;
  PgmtRequests *copy;

  pgmt_require_preloaded();
  InitMaterializedSRF(fcinfo, 0);
  copy = palloc(sizeof(PgmtRequests));
  LWLockAcquire(pgmt_lock(PGMT_REQUESTS_LOCK), LW_SHARED);
  memcpy(copy, pgmt_requests_shared, sizeof(PgmtRequests));
  LWLockRelease(pgmt_lock(PGMT_REQUESTS_LOCK));
  for (int i = 0; i < PGMT_MAX_WAITING; i++) {
    PgmtSlot *slot = &copy->slots[i];
    Datum values[5];
    bool nulls[5] = {false};

    if (slot->id == 0 || slot->state != PGMT_WAITING)
      continue;
    values[0] = Int64GetDatum((int64)slot->id);
    values[1] = Int32GetDatum(slot->pid);
    values[2] = CStringGetTextDatum(kind_name(slot->kind));
    values[3] = DirectFunctionCall1(jsonb_in, CStringGetDatum(pgmt_from_utf8(slot->json)));
    values[4] = TimestampTzGetDatum(slot->asked_at);
    tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
  }
  return (Datum)0;
}

static PgmtSlot *find_slot(int64 id)
{
  for (int i = 0; id > 0 && i < PGMT_MAX_WAITING; i++) {
    if (pgmt_requests_shared->slots[i].id == (uint64)id)
      return &pgmt_requests_shared->slots[i];
  }
  return NULL;
}

/* NULL: the request is not waiting, and *refusal says why.  Under the lock. */
static PgmtSlot *find_waiting(int pid, int64 id, const char **refusal)
{
  PgmtSlot *slot = find_slot(id);

  if (slot == NULL)
    *refusal = id > 0 && (uint64)id <= pgmt_requests_shared->last_id ? "too late" : "unknown";
  else if (slot->pid != pid)
    *refusal = "unknown";
  else if (slot->state != PGMT_WAITING)
    *refusal = "answered already";
  else
    return slot;
  return NULL;
}

/* A segment that holds the varlena until it is unpinned. */
static dsm_handle share(const struct varlena *payload)
{
  dsm_segment *segment = dsm_create(VARSIZE(payload), 0);
  dsm_handle handle = dsm_segment_handle(segment);

  memcpy(dsm_segment_address(segment), payload, VARSIZE(payload));
  dsm_pin_segment(segment);
  dsm_detach(segment);
  return handle;
}

/* Returns why not, or NULL. */
static const char *deliver(int pid, int64 id, PgmtAnswerState state, const struct varlena *payload)
{
  const char *refusal = NULL;
  dsm_handle handle = DSM_HANDLE_INVALID;
  PgmtSlot *slot;

  /* First a look: what nobody waits for needs no memory. */
  LWLockAcquire(pgmt_lock(PGMT_REQUESTS_LOCK), LW_SHARED);
  slot = find_waiting(pid, id, &refusal);
  LWLockRelease(pgmt_lock(PGMT_REQUESTS_LOCK));
  if (slot == NULL)
    return refusal;

  if (payload != NULL)
    handle = share(payload);
  LWLockAcquire(pgmt_lock(PGMT_REQUESTS_LOCK), LW_EXCLUSIVE);
  slot = find_waiting(pid, id, &refusal);
  if (slot != NULL) {
    slot->answer = handle;
    slot->state = state;
    SetLatch(slot->latch); /* under the lock: the backend cannot be gone yet */
  }
  LWLockRelease(pgmt_lock(PGMT_REQUESTS_LOCK));
  if (slot == NULL && handle != DSM_HANDLE_INVALID)
    dsm_unpin_segment(handle);
  return slot == NULL ? refusal : NULL;
}

Datum pgmt_answer(PG_FUNCTION_ARGS)
{
  PgmtAnswerState state = PGMT_ANSWERED;
  const struct varlena *payload = NULL;
  const char *refusal;

  pgmt_require_preloaded();
  pgmt_forget_statement();
  if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
    PG_RETURN_TEXT_P(cstring_to_text("unknown"));
  if (!PG_ARGISNULL(3)) {
    state = PGMT_FAILED;
    payload =
        (struct varlena *)cstring_to_text(pgmt_to_utf8(text_to_cstring(PG_GETARG_TEXT_PP(3))));
  } else if (!PG_ARGISNULL(2)) {
    payload = (struct varlena *)PG_GETARG_JSONB_P(2);
  }
  if (payload != NULL && VARSIZE(payload) > MAX_ANSWER)
    PG_RETURN_TEXT_P(cstring_to_text("too large"));
  refusal = deliver(PG_GETARG_INT32(0), PG_GETARG_INT64(1), state, payload);
  PG_RETURN_TEXT_P(cstring_to_text(refusal == NULL ? "delivered" : refusal));
}
