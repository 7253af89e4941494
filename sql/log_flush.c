/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * log_flush.c - the worker's side of the log: from the ring to the table.
 */
#include "log.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "compat.h"
#include "executor/spi.h"
#include "pgstat.h"
#include "storage/ipc.h"
#include "storage/proc.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"

/* Rows of one transaction. */
#define BATCH 500

static void detach_worker(int code, Datum argument)
{
  LWLockAcquire(pgmt_lock(PGMT_LOG_LOCK), LW_EXCLUSIVE);
  pgmt_log->worker = NULL;
  LWLockRelease(pgmt_lock(PGMT_LOG_LOCK));
}

void pgmt_log_attach_worker(void)
{
  before_shmem_exit(detach_worker, (Datum)0);
  LWLockAcquire(pgmt_lock(PGMT_LOG_LOCK), LW_EXCLUSIVE);
  pgmt_log->worker = MyLatch;
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
  while (rows < limit && (violation = pgmt_log_read(offset)) != NULL) {
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
  uint64 offset = pgmt_log->tail; /* only the worker moves it */
  volatile bool written = false;

  SetCurrentStatementStartTimestamp();
  StartTransactionCommand();
  PG_TRY();
  {
    int rows = insert_rows(&offset, limit);

    CommitTransactionCommand();
    pgmt_log_advance(offset, rows, 0);
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
  uint64 offset = pgmt_log->tail;
  char *violation = pgmt_log_read(&offset);

  ereport(WARNING, (errmsg("pgmemtrace drops a violation that its log refuses: %s", error->message),
                    errdetail("%s", violation)));
  pgmt_log_advance(offset, 0, 1);
}

static bool is_bad_data(const ErrorData *error)
{
  int category = ERRCODE_TO_CATEGORY(error->sqlerrcode);

  return category == ERRCODE_DATA_EXCEPTION || category == ERRCODE_INTEGRITY_CONSTRAINT_VIOLATION ||
         error->sqlerrcode == ERRCODE_UNTRANSLATABLE_CHARACTER;
}

/* Returns why not everything was written, NULL if it was. */
static const char *write_all(MemoryContext context)
{
  int limit = BATCH;

  while (!pgmt_log_is_empty()) {
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
  round = ++pgmt_log->rounds_begun;
  LWLockRelease(pgmt_lock(PGMT_LOG_LOCK));

  pgstat_report_activity(STATE_RUNNING, "writing pgmemtrace.violation_log");
  failure = write_all(CurrentMemoryContext);
  pgstat_report_activity(STATE_IDLE, NULL);
  pgstat_report_stat(true);

  LWLockAcquire(pgmt_lock(PGMT_LOG_LOCK), LW_EXCLUSIVE);
  pgmt_log->rounds_done = round;
  failed_before = pgmt_log->failure[0] != '\0';
  strlcpy(pgmt_log->failure, failure == NULL ? "" : failure, sizeof(pgmt_log->failure));
  LWLockRelease(pgmt_lock(PGMT_LOG_LOCK));
  ConditionVariableBroadcast(&pgmt_log->round_done);
  if (failure != NULL && !failed_before)
    ereport(LOG, (errmsg("pgmemtrace keeps its violations in memory: %s", failure)));
}
