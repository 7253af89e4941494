/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * request.c - asks the daemon, and waits for its answer.
 *
 *   backend                                  daemon
 *   takes a slot, calls the marker   ---->   its probe hands over id, kind, JSON
 *   sleeps on its latch                      works; then, over libpq:
 *   wakes up, copies, frees the slot <----   SELECT pgmemtrace.answer(pid, id, answer, error)
 *
 * An answer is one DSM segment of its own, pinned until it is fetched or its slot is freed.
 */
#include "requests.h"

#include "compat.h"
#include "fmgr.h"
#include "pgstat.h"
#include "portability/instr_time.h"
#include "storage/ipc.h"
#include "storage/proc.h"
#include "storage/shmem.h"
#include "utils/builtins.h"
#include "utils/json.h"

PG_FUNCTION_INFO_V1(pgmt_watched);
PG_FUNCTION_INFO_V1(pgmt_request_contexts);

PgmtRequests *pgmt_requests_shared = NULL;

Size pgmt_requests_size(void) { return sizeof(PgmtRequests); }

void pgmt_requests_startup(void)
{
  bool found;

  pgmt_requests_shared = ShmemInitStruct("pgmemtrace requests", sizeof(PgmtRequests), &found);
  if (!found)
    MemSet(pgmt_requests_shared, 0, sizeof(PgmtRequests));
}

static PgmtSlot *take_slot(PgmtRequestKind kind, const char *json)
{
  PgmtSlot *slot = NULL;

  LWLockAcquire(pgmt_lock(PGMT_REQUESTS_LOCK), LW_EXCLUSIVE);
  for (int i = 0; i < PGMT_MAX_WAITING && slot == NULL; i++) {
    if (pgmt_requests_shared->slots[i].id == 0)
      slot = &pgmt_requests_shared->slots[i];
  }
  if (slot != NULL) {
    slot->id = ++pgmt_requests_shared->last_id;
    slot->pid = MyProcPid;
    slot->latch = MyLatch;
    slot->kind = kind;
    slot->asked_at = GetCurrentTimestamp();
    slot->state = PGMT_WAITING;
    slot->answer = DSM_HANDLE_INVALID;
    strlcpy(slot->json, json, sizeof(slot->json));
  }
  LWLockRelease(pgmt_lock(PGMT_REQUESTS_LOCK));
  if (slot == NULL)
    ereport(ERROR,
            (errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
             errmsg("%d sessions wait for the pgmemtrace daemon already", PGMT_MAX_WAITING)));
  return slot;
}

/* Also when the backend is terminated: nobody else frees its slot. */
static void free_slot(int code, Datum slot_pointer)
{
  PgmtSlot *slot = (PgmtSlot *)DatumGetPointer(slot_pointer);
  dsm_handle answer;

  LWLockAcquire(pgmt_lock(PGMT_REQUESTS_LOCK), LW_EXCLUSIVE);
  answer = slot->answer;
  slot->answer = DSM_HANDLE_INVALID;
  slot->id = 0;
  LWLockRelease(pgmt_lock(PGMT_REQUESTS_LOCK));
  if (answer != DSM_HANDLE_INVALID)
    dsm_unpin_segment(answer);
}

static PgmtAnswerState state_of(PgmtSlot *slot)
{
  PgmtAnswerState state;

  LWLockAcquire(pgmt_lock(PGMT_REQUESTS_LOCK), LW_SHARED);
  state = slot->state;
  LWLockRelease(pgmt_lock(PGMT_REQUESTS_LOCK));
  return state;
}

static void report_silence(int timeout)
{
  ereport(ERROR,
          (errcode(ERRCODE_EXTERNAL_ROUTINE_INVOCATION_EXCEPTION),
           timeout > 0 ? errmsg("the pgmemtrace daemon did not answer within %d ms", timeout)
                       : errmsg("the pgmemtrace daemon did not answer"),
           pgmemtrace_watchers > 0
               ? errhint("It watches, but could not answer over SQL: look at its messages and its "
                         "--dsn, or raise pgmemtrace.ack_timeout.")
               : errhint("It has ended meanwhile.")));
}

/* How often it is made sure that somebody still watches. */
#define WATCHED_EVERY 1000 /* ms */

static PgmtAnswerState wait_for_answer(PgmtSlot *slot, int timeout)
{
  instr_time start;
  PgmtAnswerState state;

  INSTR_TIME_SET_CURRENT(start);
  while ((state = state_of(slot)) == PGMT_WAITING) {
    instr_time elapsed;
    long left = WATCHED_EVERY;

    INSTR_TIME_SET_CURRENT(elapsed);
    INSTR_TIME_SUBTRACT(elapsed, start);
    if (timeout > 0)
      left = timeout - (long)INSTR_TIME_GET_MILLISEC(elapsed);
    if (left <= 0 || (timeout == 0 && pgmemtrace_watchers == 0))
      report_silence(timeout);
    (void)WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, left,
                    PG_WAIT_EXTENSION);
    ResetLatch(MyLatch);
    CHECK_FOR_INTERRUPTS();
  }
  return state;
}

/* A copy of the answer in this backend's memory, NULL if it is empty. */
static struct varlena *fetch_answer(PgmtSlot *slot)
{
  dsm_segment *segment;
  struct varlena *shared;
  struct varlena *copy;

  if (slot->answer == DSM_HANDLE_INVALID)
    return NULL;
  segment = dsm_attach(slot->answer);
  if (segment == NULL)
    elog(ERROR, "the answer to request " UINT64_FORMAT " is gone", slot->id);
  shared = dsm_segment_address(segment);
  copy = palloc(VARSIZE(shared));
  memcpy(copy, shared, VARSIZE(shared));
  dsm_detach(segment);
  return copy;
}

/* The body with who asks: pids are the server's own, which another pid namespace numbers anew. */
static char *complete_body(const char *body)
{
  StringInfoData json;

  Assert(body[0] == '{');
  initStringInfo(&json);
  appendStringInfo(&json, "{\"backend_pid\":%d%s%s", MyProcPid, body[1] == '}' ? "" : ",",
                   body + 1);
  if (json.len >= PGMT_MAX_REQUEST)
    ereport(ERROR,
            (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
             errmsg("the request to the pgmemtrace daemon is too long"),
             errdetail("It has %d bytes as JSON, of at most %d.", json.len, PGMT_MAX_REQUEST - 1)));
  return json.data;
}

void pgmt_require_watched(void)
{
  pgmt_require_preloaded();
  if (pgmemtrace_watchers == 0)
    ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                    errmsg("no pgmemtrace daemon watches this server"),
                    errhint("Start one on the server's host: sudo pgmemtrace --pid all")));
}

/* What the asker should know of the answer, if the daemon says so. */
static void pass_warning_on(Jsonb *answer)
{
  JsonbValue *warning = NULL;

  if (answer != NULL && JB_ROOT_IS_OBJECT(answer))
    warning = getKeyJsonValueFromContainer(&answer->root, "warning", (int)strlen("warning"), NULL);
  if (warning != NULL && warning->type == jbvString)
    ereport(WARNING,
            (errmsg("pgmemtrace daemon: %.*s", warning->val.string.len, warning->val.string.val)));
}

Jsonb *pgmt_ask(PgmtRequestKind kind, const char *body)
{
  return pgmt_ask_for(kind, body, pgmt_ack_timeout);
}

Jsonb *pgmt_ask_for(PgmtRequestKind kind, const char *body, int timeout)
{
  char *json;
  PgmtSlot *slot;
  struct varlena *volatile answer = NULL;
  volatile PgmtAnswerState state = PGMT_WAITING;

  pgmt_require_preloaded();
  json = complete_body(pgmt_to_utf8(body));
  pgmt_require_watched();

  slot = take_slot(kind, json);
  PG_ENSURE_ERROR_CLEANUP(free_slot, PointerGetDatum(slot));
  {
    pgmemtrace_request(slot->id, kind, json, (uint32)strlen(json));
    state = wait_for_answer(slot, timeout);
    answer = fetch_answer(slot);
  }
  PG_END_ENSURE_ERROR_CLEANUP(free_slot, PointerGetDatum(slot));
  free_slot(0, PointerGetDatum(slot));

  if (state == PGMT_FAILED)
    ereport(ERROR,
            (errcode(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
             errmsg("pgmemtrace daemon: %s", pgmt_from_utf8(text_to_cstring((text *)answer)))));
  pass_warning_on((Jsonb *)answer);
  return (Jsonb *)answer;
}

Datum pgmt_watched(PG_FUNCTION_ARGS) { PG_RETURN_BOOL(pgmemtrace_watchers > 0); }

Datum pgmt_request_contexts(PG_FUNCTION_ARGS)
{
  Jsonb *answer = pgmt_ask(PGMT_CONTEXTS, psprintf("{\"pid\":%d}", PG_GETARG_INT32(0)));

  if (answer == NULL)
    PG_RETURN_NULL();
  PG_RETURN_JSONB_P(answer);
}
