/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * log.c - the violation log: a ring in shared memory, which the worker writes to a table
 * (log_flush.c).
 *
 *         tail                    head
 *   ......[len|json][len|json]....            offsets only rise; a byte's place is offset % size
 *
 * Anybody appends; the worker alone takes out, and only after the rows are committed.  So a
 * violation is in the ring, in the table, or, after a crash at the wrong moment, in the table
 * already.  What finds no room is counted.
 */
#include "log.h"

#include "access/xlog.h"
#include "compat.h"
#include "fmgr.h"
#include "pgstat.h"
#include "storage/condition_variable.h"
#include "storage/latch.h"
#include "storage/shmem.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"

PG_FUNCTION_INFO_V1(pgmt_append_violation);
PG_FUNCTION_INFO_V1(pgmt_flush_violations);
PG_FUNCTION_INFO_V1(pgmt_log_state);

PgmtLog *pgmt_log = NULL;

static uint64 ring_size(void) { return (uint64)pgmt_log_buffer * 1024; }

Size pgmt_log_size(void) { return add_size(offsetof(PgmtLog, ring), ring_size()); }

void pgmt_log_startup(void)
{
  bool found;

  pgmt_log = ShmemInitStruct("pgmemtrace log", pgmt_log_size(), &found);
  if (!found) {
    MemSet(pgmt_log, 0, offsetof(PgmtLog, ring));
    ConditionVariableInit(&pgmt_log->round_done);
  }
}

/* ---- the ring: under its lock ---- */

static void copy_in(uint64 offset, const void *bytes, Size length)
{
  uint64 place = offset % ring_size();
  Size first = Min(length, ring_size() - place);

  memcpy(pgmt_log->ring + place, bytes, first);
  memcpy(pgmt_log->ring, (const char *)bytes + first, length - first);
}

static void copy_out(uint64 offset, void *bytes, Size length)
{
  uint64 place = offset % ring_size();
  Size first = Min(length, ring_size() - place);

  memcpy(bytes, pgmt_log->ring + place, first);
  memcpy((char *)bytes + first, pgmt_log->ring, length - first);
}

bool pgmt_log_append(const char *violation, Size length)
{
  uint32 header = (uint32)length;
  bool fits;

  LWLockAcquire(pgmt_lock(PGMT_LOG_LOCK), LW_EXCLUSIVE);
  fits = length <= PGMT_MAX_VIOLATION &&
         ring_size() - (pgmt_log->head - pgmt_log->tail) >= sizeof(header) + length;
  if (fits) {
    copy_in(pgmt_log->head, &header, sizeof(header));
    copy_in(pgmt_log->head + sizeof(header), violation, length);
    pgmt_log->head += sizeof(header) + length;
  } else {
    pgmt_log->lost++;
  }
  if (pgmt_log->worker != NULL && pgmt_log->head - pgmt_log->tail > ring_size() / 2)
    SetLatch(pgmt_log->worker);
  LWLockRelease(pgmt_lock(PGMT_LOG_LOCK));
  return fits;
}

char *pgmt_log_read(uint64 *offset)
{
  char *violation = NULL;
  uint32 length;

  LWLockAcquire(pgmt_lock(PGMT_LOG_LOCK), LW_SHARED);
  if (*offset < pgmt_log->head) {
    copy_out(*offset, &length, sizeof(length));
    violation = palloc((Size)length + 1);
    copy_out(*offset + sizeof(length), violation, length);
    violation[length] = '\0';
    *offset += sizeof(length) + length;
  }
  LWLockRelease(pgmt_lock(PGMT_LOG_LOCK));
  return violation;
}

void pgmt_log_advance(uint64 offset, int64 written, int64 lost)
{
  LWLockAcquire(pgmt_lock(PGMT_LOG_LOCK), LW_EXCLUSIVE);
  pgmt_log->tail = offset;
  pgmt_log->written += written;
  pgmt_log->lost += lost;
  LWLockRelease(pgmt_lock(PGMT_LOG_LOCK));
}

bool pgmt_log_is_empty(void)
{
  bool empty;

  LWLockAcquire(pgmt_lock(PGMT_LOG_LOCK), LW_SHARED);
  empty = pgmt_log->head == pgmt_log->tail;
  LWLockRelease(pgmt_lock(PGMT_LOG_LOCK));
  return empty;
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
  done = pgmt_log->rounds_done >= round;
  LWLockRelease(pgmt_lock(PGMT_LOG_LOCK));
  return done;
}

static void wait_for_round(int64 round)
{
  TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), pgmt_ack_timeout);

  ConditionVariablePrepareToSleep(&pgmt_log->round_done);
  while (!round_is_done(round)) {
    long left = (long)((deadline - GetCurrentTimestamp()) / 1000);

    if (left <= 0 || ConditionVariableTimedSleep(&pgmt_log->round_done, left, PG_WAIT_EXTENSION)) {
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
  char failure[sizeof(pgmt_log->failure)];

  pgmt_require_preloaded();
  if (RecoveryInProgress())
    ereport(ERROR, (errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
                    errmsg("violations cannot be written during recovery"),
                    errdetail("They stay in memory until the server is promoted.")));
  LWLockAcquire(pgmt_lock(PGMT_LOG_LOCK), LW_EXCLUSIVE);
  round = pgmt_log->rounds_begun + 1; /* one that begins now or later */
  before = pgmt_log->written;
  if (pgmt_log->worker != NULL)
    SetLatch(pgmt_log->worker);
  LWLockRelease(pgmt_lock(PGMT_LOG_LOCK));

  wait_for_round(round);

  LWLockAcquire(pgmt_lock(PGMT_LOG_LOCK), LW_SHARED);
  after = pgmt_log->written;
  strlcpy(failure, pgmt_log->failure, sizeof(failure));
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
  values[0] = Int64GetDatum((int64)(pgmt_log->head - pgmt_log->tail));
  values[1] = Int64GetDatum((int64)ring_size());
  values[2] = Int64GetDatum(pgmt_log->written);
  values[3] = Int64GetDatum(pgmt_log->lost);
  LWLockRelease(pgmt_lock(PGMT_LOG_LOCK));
  PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(row), values, nulls)));
}
