/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * request.c - asks the daemon, and waits for its answer.
 *
 *   backend                                  daemon
 *   takes a slot, calls the marker   ---->   its probe hands over id, kind, JSON
 *   sleeps on its latch                      works; then, over libpq:
 *   wakes up, copies, frees the slot <----   SELECT pgmemtrace.answer(pid, id, answer, error)
 *
 * A slot belongs to the backend from taking it to freeing it, whatever ends its waiting; so an
 * answer that comes later finds no slot with its id and is refused.  Ids are never used twice.
 * An answer is one DSM segment of its own, pinned until it is fetched or its slot is freed.
 */
#include "pgmemtrace.h"

#include "compat.h"
#include "fmgr.h"
#include "pgstat.h"
#include "portability/instr_time.h"
#include "storage/dsm.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "storage/shmem.h"
#include "utils/builtins.h"
#include "utils/json.h"

/* Backends that wait at the same time. */
#define MAX_WAITING 64
/* Bytes of JSON in a request, its zero included: what a marker hands over at once. */
#define MAX_REQUEST 4096
/* Bytes of an answer; some 100,000 contexts. */
#define MAX_ANSWER (64 * 1024 * 1024)

PG_FUNCTION_INFO_V1(pgmt_watched);
PG_FUNCTION_INFO_V1(pgmt_requests);
PG_FUNCTION_INFO_V1(pgmt_answer);
PG_FUNCTION_INFO_V1(pgmt_request_contexts);

typedef enum AnswerState { WAITING, ANSWERED, FAILED } AnswerState;

typedef struct Slot {
  uint64 id; /* 0: free */
  int pid;
  Latch *latch;
  PgmtRequestKind kind;
  TimestampTz asked_at;
  AnswerState state;
  dsm_handle answer; /* a varlena: jsonb if answered, text if failed; DSM_HANDLE_INVALID: none */
  char json[MAX_REQUEST];
} Slot;

typedef struct Requests {
  uint64 last_id;
  Slot slots[MAX_WAITING];
} Requests;

static Requests *requests = NULL;

Size pgmt_requests_size(void) { return sizeof(Requests); }

void pgmt_requests_startup(void)
{
  bool found;

  requests = ShmemInitStruct("pgmemtrace requests", sizeof(Requests), &found);
  if (!found)
    MemSet(requests, 0, sizeof(Requests));
}

static const char *kind_name(PgmtRequestKind kind)
{
  switch (kind) {
  case PGMT_BEGIN_WINDOW: return "begin_window";
  case PGMT_END_WINDOW: return "end_window";
  case PGMT_CONTEXTS: return "contexts";
  }
  return "unknown";
}

/* ---- the backend's side ---- */

static Slot *take_slot(PgmtRequestKind kind, const char *json)
{
  Slot *slot = NULL;

  LWLockAcquire(pgmt_lock(PGMT_REQUESTS_LOCK), LW_EXCLUSIVE);
  for (int i = 0; i < MAX_WAITING && slot == NULL; i++) {
    if (requests->slots[i].id == 0)
      slot = &requests->slots[i];
  }
  if (slot != NULL) {
    slot->id = ++requests->last_id;
    slot->pid = MyProcPid;
    slot->latch = MyLatch;
    slot->kind = kind;
    slot->asked_at = GetCurrentTimestamp();
    slot->state = WAITING;
    slot->answer = DSM_HANDLE_INVALID;
    strlcpy(slot->json, json, sizeof(slot->json));
  }
  LWLockRelease(pgmt_lock(PGMT_REQUESTS_LOCK));
  if (slot == NULL)
    ereport(ERROR, (errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
                    errmsg("%d sessions wait for the pgmemtrace daemon already", MAX_WAITING)));
  return slot;
}

/* Also when the backend is terminated: nobody else frees its slot. */
static void free_slot(int code, Datum slot_pointer)
{
  Slot *slot = (Slot *)DatumGetPointer(slot_pointer);
  dsm_handle answer;

  LWLockAcquire(pgmt_lock(PGMT_REQUESTS_LOCK), LW_EXCLUSIVE);
  answer = slot->answer;
  slot->answer = DSM_HANDLE_INVALID;
  slot->id = 0;
  LWLockRelease(pgmt_lock(PGMT_REQUESTS_LOCK));
  if (answer != DSM_HANDLE_INVALID)
    dsm_unpin_segment(answer);
}

static AnswerState state_of(Slot *slot)
{
  AnswerState state;

  LWLockAcquire(pgmt_lock(PGMT_REQUESTS_LOCK), LW_SHARED);
  state = slot->state;
  LWLockRelease(pgmt_lock(PGMT_REQUESTS_LOCK));
  return state;
}

static void report_timeout(void)
{
  ereport(ERROR,
          (errcode(ERRCODE_EXTERNAL_ROUTINE_INVOCATION_EXCEPTION),
           errmsg("the pgmemtrace daemon did not answer within %d ms", pgmt_ack_timeout),
           pgmemtrace_watchers > 0
               ? errhint("It watches, but could not answer over SQL: look at its messages and its "
                         "--dsn, or raise pgmemtrace.ack_timeout.")
               : errhint("It has ended meanwhile.")));
}

static AnswerState wait_for_answer(Slot *slot)
{
  instr_time start;
  AnswerState state;

  INSTR_TIME_SET_CURRENT(start);
  while ((state = state_of(slot)) == WAITING) {
    instr_time elapsed;
    long left;

    INSTR_TIME_SET_CURRENT(elapsed);
    INSTR_TIME_SUBTRACT(elapsed, start);
    left = pgmt_ack_timeout - (long)INSTR_TIME_GET_MILLISEC(elapsed);
    if (left <= 0)
      report_timeout();
    (void)WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, left,
                    PG_WAIT_EXTENSION);
    ResetLatch(MyLatch);
    CHECK_FOR_INTERRUPTS();
  }
  return state;
}

/* A copy of the answer in this backend's memory, NULL if it is empty. */
static struct varlena *fetch_answer(Slot *slot)
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
  if (json.len >= MAX_REQUEST)
    ereport(ERROR,
            (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
             errmsg("the request to the pgmemtrace daemon is too long"),
             errdetail("It has %d bytes as JSON, of at most %d.", json.len, MAX_REQUEST - 1)));
  return json.data;
}

Jsonb *pgmt_ask(PgmtRequestKind kind, const char *body)
{
  char *json;
  Slot *slot;
  struct varlena *volatile answer = NULL;
  volatile AnswerState state = WAITING;

  pgmt_require_preloaded();
  json = complete_body(pgmt_to_utf8(body));
  if (pgmemtrace_watchers == 0)
    ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                    errmsg("no pgmemtrace daemon watches this server"),
                    errhint("Start one on the server's host: sudo pgmemtrace --pid all")));

  slot = take_slot(kind, json);
  PG_ENSURE_ERROR_CLEANUP(free_slot, PointerGetDatum(slot));
  {
    pgmemtrace_request(slot->id, kind, json, (uint32)strlen(json));
    state = wait_for_answer(slot);
    answer = fetch_answer(slot);
  }
  PG_END_ENSURE_ERROR_CLEANUP(free_slot, PointerGetDatum(slot));
  free_slot(0, PointerGetDatum(slot));

  if (state == FAILED)
    ereport(ERROR,
            (errcode(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
             errmsg("pgmemtrace daemon: %s", pgmt_from_utf8(text_to_cstring((text *)answer)))));
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

/* ---- the daemon's side ---- */

/* Everything that waits, for a daemon that lost a marker's event. */
Datum pgmt_requests(PG_FUNCTION_ARGS)
{
  ReturnSetInfo *result = (ReturnSetInfo *)fcinfo->resultinfo;
  Requests *copy;

  pgmt_require_preloaded();
  InitMaterializedSRF(fcinfo, 0);
  copy = palloc(sizeof(Requests));
  LWLockAcquire(pgmt_lock(PGMT_REQUESTS_LOCK), LW_SHARED);
  memcpy(copy, requests, sizeof(Requests));
  LWLockRelease(pgmt_lock(PGMT_REQUESTS_LOCK));
  for (int i = 0; i < MAX_WAITING; i++) {
    Slot *slot = &copy->slots[i];
    Datum values[5];
    bool nulls[5] = {false};

    if (slot->id == 0 || slot->state != WAITING)
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

static Slot *find_slot(int64 id)
{
  for (int i = 0; id > 0 && i < MAX_WAITING; i++) {
    if (requests->slots[i].id == (uint64)id)
      return &requests->slots[i];
  }
  return NULL;
}

/* NULL: the request is not waiting, and *refusal says why.  Under the lock. */
static Slot *find_waiting(int pid, int64 id, const char **refusal)
{
  Slot *slot = find_slot(id);

  if (slot == NULL)
    *refusal = id > 0 && (uint64)id <= requests->last_id ? "too late" : "unknown";
  else if (slot->pid != pid)
    *refusal = "unknown";
  else if (slot->state != WAITING)
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
static const char *deliver(int pid, int64 id, AnswerState state, const struct varlena *payload)
{
  const char *refusal = NULL;
  dsm_handle handle = DSM_HANDLE_INVALID;
  Slot *slot;

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
  AnswerState state = ANSWERED;
  const struct varlena *payload = NULL;
  const char *refusal;

  pgmt_require_preloaded();
  if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
    PG_RETURN_TEXT_P(cstring_to_text("unknown"));
  if (!PG_ARGISNULL(3)) {
    state = FAILED;
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
