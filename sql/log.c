/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * log.c - the violation log: a ring in shared memory, which the worker writes to a table.
 *
 *         tail                    head
 *   ......[len|json][len|json]....            offsets only rise; a byte's place is offset % size
 *
 * Anybody appends; the worker alone takes out, and only after the rows are committed.  So a
 * violation is in the ring, in the table, or, after a crash at the wrong moment, in the table
 * already.  What finds no room is counted.
 */
#include "pgmemtrace.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "compat.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "pgstat.h"
#include "storage/condition_variable.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "storage/shmem.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/snapmgr.h"

/* Rows of one transaction. */
#define BATCH 500

PG_FUNCTION_INFO_V1(pgmt_append_violation);
PG_FUNCTION_INFO_V1(pgmt_flush_violations);
PG_FUNCTION_INFO_V1(pgmt_log_state);

typedef struct Log {
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
} Log;

static Log *shared_log = NULL;

static uint64 ring_size(void) { return (uint64)pgmt_log_buffer * 1024; }

Size pgmt_log_size(void) { return add_size(offsetof(Log, ring), ring_size()); }

void pgmt_log_startup(void)
{
  bool found;

  shared_log = ShmemInitStruct("pgmemtrace log", pgmt_log_size(), &found);
  if (!found) {
    MemSet(shared_log, 0, offsetof(Log, ring));
    ConditionVariableInit(&shared_log->round_done);
  }
}

/* ---- the ring: under its lock ---- */

static void copy_in(uint64 offset, const void *bytes, Size length)
{
  uint64 place = offset % ring_size();
  Size first = Min(length, ring_size() - place);

  memcpy(shared_log->ring + place, bytes, first);
  memcpy(shared_log->ring, (const char *)bytes + first, length - first);
}

static void copy_out(uint64 offset, void *bytes, Size length)
{
  uint64 place = offset % ring_size();
  Size first = Min(length, ring_size() - place);

  memcpy(bytes, shared_log->ring + place, first);
  memcpy((char *)bytes + first, shared_log->ring, length - first);
}

bool pgmt_log_append(const char *violation, Size length)
{
  uint32 header = (uint32)length;
  bool fits;

  LWLockAcquire(pgmt_lock(PGMT_LOG_LOCK), LW_EXCLUSIVE);
  fits = length <= PGMT_MAX_VIOLATION &&
         ring_size() - (shared_log->head - shared_log->tail) >= sizeof(header) + length;
  if (fits) {
    copy_in(shared_log->head, &header, sizeof(header));
    copy_in(shared_log->head + sizeof(header), violation, length);
    shared_log->head += sizeof(header) + length;
  } else {
    shared_log->lost++;
  }
  if (shared_log->worker != NULL && shared_log->head - shared_log->tail > ring_size() / 2)
    SetLatch(shared_log->worker);
  LWLockRelease(pgmt_lock(PGMT_LOG_LOCK));
  return fits;
}

/* The violation at an offset, and the next one's offset; NULL at the end. */
static char *read_entry(uint64 *offset)
{
  char *violation = NULL;
  uint32 length;

  LWLockAcquire(pgmt_lock(PGMT_LOG_LOCK), LW_SHARED);
  if (*offset < shared_log->head) {
    copy_out(*offset, &length, sizeof(length));
    violation = palloc((Size)length + 1);
    copy_out(*offset + sizeof(length), violation, length);
    violation[length] = '\0';
    *offset += sizeof(length) + length;
  }
  LWLockRelease(pgmt_lock(PGMT_LOG_LOCK));
  return violation;
}

static void advance_tail(uint64 offset, int64 written, int64 lost)
{
  LWLockAcquire(pgmt_lock(PGMT_LOG_LOCK), LW_EXCLUSIVE);
  shared_log->tail = offset;
  shared_log->written += written;
  shared_log->lost += lost;
  LWLockRelease(pgmt_lock(PGMT_LOG_LOCK));
}

/* ---- the worker's side ---- */

static void detach_worker(int code, Datum argument)
{
  LWLockAcquire(pgmt_lock(PGMT_LOG_LOCK), LW_EXCLUSIVE);
  shared_log->worker = NULL;
  LWLockRelease(pgmt_lock(PGMT_LOG_LOCK));
}

void pgmt_log_attach_worker(void)
{
  before_shmem_exit(detach_worker, (Datum)0);
  LWLockAcquire(pgmt_lock(PGMT_LOG_LOCK), LW_EXCLUSIVE);
  shared_log->worker = MyLatch;
  LWLockRelease(pgmt_lock(PGMT_LOG_LOCK));
}

static void insert_row(const char *violation)
{
  static const char *const insert =
      "SELECT pgmemtrace.store_violation($1::pg_catalog.text::pg_catalog.jsonb)";
  Oid types[] = {TEXTOID};
  Datum values[] = {CStringGetTextDatum(pgmt_from_utf8(violation))};

  if (SPI_execute_with_args(insert, 1, types, values, NULL, false, 0) != SPI_OK_SELECT)
    elog(ERROR, "could not store a violation");
}

/* At most limit rows, in the transaction that is open; *offset ends behind the last. */
static int insert_rows(uint64 *offset, int limit)
{
  int rows = 0;
  char *violation;

  if (!OidIsValid(get_extension_oid("pgmemtrace", true)))
    ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT),
                    errmsg("extension pgmemtrace is not in database \"%s\"", pgmt_database)));
  if (SPI_connect() != SPI_OK_CONNECT)
    elog(ERROR, "could not connect to SPI");
  PushActiveSnapshot(GetTransactionSnapshot());
  while (rows < limit && (violation = read_entry(offset)) != NULL) {
    insert_row(violation);
    rows++;
  }
  PopActiveSnapshot();
  SPI_finish();
  return rows;
}

/* One transaction.  False: nothing was written, and *error says why. */
static bool write_batch(int limit, MemoryContext context, ErrorData **error)
{
  uint64 offset = shared_log->tail; /* only the worker moves it */
  volatile bool written = false;

  SetCurrentStatementStartTimestamp();
  StartTransactionCommand();
  PG_TRY();
  {
    int rows = insert_rows(&offset, limit);

    CommitTransactionCommand();
    advance_tail(offset, rows, 0);
    written = true;
  }
  PG_CATCH();
  {
    MemoryContextSwitchTo(context);
    *error = CopyErrorData();
    FlushErrorState();
    AbortCurrentTransaction();
  }
  PG_END_TRY();
  MemoryContextSwitchTo(context);
  return written;
}

/* A row that the table will never have: with it in the way no other would get there. */
static void drop_first(const ErrorData *error)
{
  uint64 offset = shared_log->tail;
  char *violation = read_entry(&offset);

  ereport(WARNING, (errmsg("pgmemtrace drops a violation that its log refuses: %s", error->message),
                    errdetail("%s", violation)));
  advance_tail(offset, 0, 1);
}

static bool is_bad_data(const ErrorData *error)
{
  int category = ERRCODE_TO_CATEGORY(error->sqlerrcode);

  return category == ERRCODE_DATA_EXCEPTION || category == ERRCODE_INTEGRITY_CONSTRAINT_VIOLATION ||
         error->sqlerrcode == ERRCODE_UNTRANSLATABLE_CHARACTER;
}

static bool ring_is_empty(void)
{
  bool empty;

  LWLockAcquire(pgmt_lock(PGMT_LOG_LOCK), LW_SHARED);
  empty = shared_log->head == shared_log->tail;
  LWLockRelease(pgmt_lock(PGMT_LOG_LOCK));
  return empty;
}

/* Returns why not everything was written, NULL if it was. */
static const char *write_all(MemoryContext context)
{
  int limit = BATCH;

  while (!ring_is_empty()) {
    ErrorData *error = NULL;

    if (write_batch(limit, context, &error))
      continue;
    if (limit > 1)
      limit = 1; /* which one is it? */
    else if (is_bad_data(error))
      drop_first(error);
    else
      return error->message; /* of the table or the database: try again later */
  }
  return NULL;
}

void pgmt_log_flush(void)
{
  const char *failure;
  bool failed_before;
  int64 round;

  LWLockAcquire(pgmt_lock(PGMT_LOG_LOCK), LW_EXCLUSIVE);
  round = ++shared_log->rounds_begun;
  LWLockRelease(pgmt_lock(PGMT_LOG_LOCK));

  pgstat_report_activity(STATE_RUNNING, "writing pgmemtrace.violation_log");
  failure = write_all(CurrentMemoryContext);
  pgstat_report_activity(STATE_IDLE, NULL);
  pgstat_report_stat(true);

  LWLockAcquire(pgmt_lock(PGMT_LOG_LOCK), LW_EXCLUSIVE);
  shared_log->rounds_done = round;
  failed_before = shared_log->failure[0] != '\0';
  strlcpy(shared_log->failure, failure == NULL ? "" : failure, sizeof(shared_log->failure));
  LWLockRelease(pgmt_lock(PGMT_LOG_LOCK));
  ConditionVariableBroadcast(&shared_log->round_done);
  if (failure != NULL && !failed_before)
    ereport(LOG, (errmsg("pgmemtrace keeps its violations in memory: %s", failure)));
}

/* ---- SQL ---- */

/* append_violation(jsonb): what log_violation() has checked. */
Datum pgmt_append_violation(PG_FUNCTION_ARGS)
{
  Jsonb *violation = PG_GETARG_JSONB_P(0);
  char *json;

  pgmt_require_preloaded();
  json = pgmt_to_utf8(JsonbToCString(NULL, &violation->root, 0));
  if (strlen(json) > PGMT_MAX_VIOLATION)
    ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED), errmsg("the violation is too long"),
                    errdetail("It has %zu bytes as JSON, of at most %d.", strlen(json),
                              PGMT_MAX_VIOLATION)));
  PG_RETURN_BOOL(pgmt_log_append(json, strlen(json)));
}

static bool round_is_done(int64 round)
{
  bool done;

  LWLockAcquire(pgmt_lock(PGMT_LOG_LOCK), LW_SHARED);
  done = shared_log->rounds_done >= round;
  LWLockRelease(pgmt_lock(PGMT_LOG_LOCK));
  return done;
}

static void wait_for_round(int64 round)
{
  TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), pgmt_ack_timeout);

  ConditionVariablePrepareToSleep(&shared_log->round_done);
  while (!round_is_done(round)) {
    long left = (long)((deadline - GetCurrentTimestamp()) / 1000);

    if (left <= 0 ||
        ConditionVariableTimedSleep(&shared_log->round_done, left, PG_WAIT_EXTENSION)) {
      ConditionVariableCancelSleep();
      ereport(ERROR,
              (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
               errmsg("the worker did not write the violations within %d ms", pgmt_ack_timeout),
               errhint("Does database \"%s\" exist?  The server's log says why a worker ends.",
                       pgmt_database)));
    }
  }
  ConditionVariableCancelSleep();
}

/* Rows that reached the table.  The worker writes, so that a rollback here loses nothing. */
Datum pgmt_flush_violations(PG_FUNCTION_ARGS)
{
  int64 round;
  int64 before;
  int64 after;
  char failure[sizeof(shared_log->failure)];

  pgmt_require_preloaded();
  LWLockAcquire(pgmt_lock(PGMT_LOG_LOCK), LW_EXCLUSIVE);
  round = shared_log->rounds_begun + 1; /* one that begins now or later */
  before = shared_log->written;
  if (shared_log->worker != NULL)
    SetLatch(shared_log->worker);
  LWLockRelease(pgmt_lock(PGMT_LOG_LOCK));

  wait_for_round(round);

  LWLockAcquire(pgmt_lock(PGMT_LOG_LOCK), LW_SHARED);
  after = shared_log->written;
  strlcpy(failure, shared_log->failure, sizeof(failure));
  LWLockRelease(pgmt_lock(PGMT_LOG_LOCK));
  if (failure[0] != '\0')
    ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                    errmsg("the violations are still in memory: %s", failure)));
  PG_RETURN_INT64(after - before);
}

/* log_state(): what waits, in bytes, what was written and what was lost, in violations. */
Datum pgmt_log_state(PG_FUNCTION_ARGS)
{
  TupleDesc row;
  Datum values[4];
  bool nulls[4] = {false};

  pgmt_require_preloaded();
  if (get_call_result_type(fcinfo, NULL, &row) != TYPEFUNC_COMPOSITE)
    elog(ERROR, "return type must be a row type");
  LWLockAcquire(pgmt_lock(PGMT_LOG_LOCK), LW_SHARED);
  values[0] = Int64GetDatum((int64)(shared_log->head - shared_log->tail));
  values[1] = Int64GetDatum((int64)ring_size());
  values[2] = Int64GetDatum(shared_log->written);
  values[3] = Int64GetDatum(shared_log->lost);
  LWLockRelease(pgmt_lock(PGMT_LOG_LOCK));
  PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(row), values, nulls)));
}
