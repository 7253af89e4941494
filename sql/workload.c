/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * workload.c - a session of its own that runs a workload, in a test window, and reports.
 *
 *   start --warm_up executions--> warm --window: iterations executions--> end
 *
 * A session of its own, so that each execution is a transaction, errors end nothing else, and
 * what the caller did before is not in the picture.  It keeps nothing between executions that the
 * window could see.
 */
#include "workload.h"

#include <math.h>

#include "access/xact.h"
#include "compat.h"
#include "pgstat.h"
#include "storage/dsm.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "storage/shm_mq.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

/* Moments between the first and the last execution, evenly spaced as logarithms. */
#define CHECKPOINTS 6

/* What an execution left is gone with its message, as in a client's session. */
static void end_message(void)
{
  MemoryContextSwitchTo(MessageContext);
  MemoryContextReset(MessageContext);
  InvalidateCatalogSnapshotConditionally();
  (void)pgstat_report_stat(false);
}

typedef struct Measure {
  bool taken;
  int64 contexts;
  int64 total_bytes;
  int64 used_bytes;
} Measure;

bool pgmt_is_workload = false;

static PgmtJob *job;
static int64 executed = 0;
static int64 failed = 0;
static bool broken = false; /* the one transaction has failed */
static char first_error[1024];
static Measure start;
static Measure warm;
static Measure end;

/* ---- the daemon: asked in a transaction, since text may have to be converted ---- */

static int64 number_of(Jsonb *answer, const char *key)
{
  JsonbValue *value = NULL;

  if (answer != NULL && JB_ROOT_IS_OBJECT(answer))
    value = getKeyJsonValueFromContainer(&answer->root, key, (int)strlen(key), NULL);
  if (value == NULL || value->type != jbvNumeric)
    return 0;
  return DatumGetInt64(DirectFunctionCall1(numeric_int8, NumericGetDatum(value->val.numeric)));
}

static void measure(Measure *result, int iterations)
{
  Jsonb *answer;

  (void)pgstat_report_stat(true); /* what waits there is nobody's leak */
  StartTransactionCommand();
  MemoryContextSwitchTo(MessageContext);
  answer = pgmt_ask(PGMT_CHECKPOINT, psprintf("{\"iterations\":%d}", iterations));
  result->taken = true;
  result->contexts = number_of(answer, "contexts");
  result->total_bytes = number_of(answer, "total_bytes");
  result->used_bytes = number_of(answer, "used_bytes");
  CommitTransactionCommand();
  end_message();
}

static void open_window(void)
{
  const char *text = (const char *)job + job->options;
  Jsonb *options = NULL;

  StartTransactionCommand();
  MemoryContextSwitchTo(MessageContext);
  if (text[0] != '\0')
    options = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(text)));
  pgmt_open_window((const char *)job + job->pattern, options, job->manner == PGMT_ONE_TRANSACTION);
  CommitTransactionCommand();
  end_message();
}

/* As JSON, in context. */
static char *close_window(MemoryContext context)
{
  char *json;
  Jsonb *violations;

  (void)pgstat_report_stat(true);
  StartTransactionCommand();
  MemoryContextSwitchTo(MessageContext);
  violations = DatumGetJsonbP(pgmt_close_window());
  json = MemoryContextStrdup(context, JsonbToCString(NULL, &violations->root, 0));
  CommitTransactionCommand();
  end_message();
  return json;
}

/* ---- executions ---- */

static void note_failure(void)
{
  ErrorData *error;

  HOLD_INTERRUPTS();
  MemoryContextSwitchTo(MessageContext);
  error = CopyErrorData();
  FlushErrorState();
  if (failed++ == 0)
    snprintf(first_error, sizeof(first_error), "%s: %s", unpack_sql_state(error->sqlerrcode),
             error->message);
  pgmt_execute_failed();
  broken = job->manner == PGMT_ONE_TRANSACTION;
  RESUME_INTERRUPTS();
}

static void execute_in_its_manner(const char *text)
{
  switch (job->manner) {
  case PGMT_COMMITTED:
  case PGMT_ONE_TRANSACTION: pgmt_execute(text); break;
  case PGMT_ABORTED:
    pgmt_begin_transaction();
    pgmt_execute(text);
    pgmt_end_transaction(false);
    break;
  case PGMT_CURSORS:
    if (!IsTransactionBlock())
      pgmt_begin_transaction();
    if (pgmt_execute_as_cursors(text) >= PGMT_OPEN_CURSORS) {
      pgmt_close_cursors();
      pgmt_end_transaction(true);
    }
    break;
  }
}

static void attempt(void (*work)(const char *), const char *text)
{
  PG_TRY();
  {
    work(text);
  }
  PG_CATCH();
  {
    note_failure();
  }
  PG_END_TRY();
  end_message();
}

/* What a client would have ended before it says the next thing. */
static void settle(const char *unused)
{
  if (job->manner == PGMT_CURSORS && IsTransactionBlock()) {
    pgmt_close_cursors();
    pgmt_end_transaction(true);
  } else if (job->manner != PGMT_ONE_TRANSACTION && IsTransactionOrTransactionBlock()) {
    pgmt_execute_failed(); /* the workload left one open */
  }
}

static void execute_once(void)
{
  CHECK_FOR_INTERRUPTS();
  attempt(execute_in_its_manner, (const char *)job + job->text);
  executed++;
  if (job->manner != PGMT_CURSORS)
    attempt(settle, NULL);
  if (job->check_guards)
    pgmt_check_sentinels();
}

static void warm_up(void)
{
  for (int i = 0; i < job->warm_up && !broken; i++)
    execute_once();
  attempt(settle, NULL);
}

/* The execution after which the next look is due. */
static int next_checkpoint(int done)
{
  double factor = pow(job->iterations, 1.0 / CHECKPOINTS);

  return Min(job->iterations, Max(done + 1, (int)ceil(done * factor)));
}

static void iterate(void)
{
  int checkpoint = next_checkpoint(0);

  for (int i = 1; i <= job->iterations && !broken; i++) {
    execute_once();
    if (job->checkpoints && i == checkpoint) {
      Measure ignored;

      attempt(settle, NULL);
      measure(&ignored, i);
      checkpoint = next_checkpoint(i);
    }
  }
  attempt(settle, NULL);
}

static void stand_ready(void)
{
  pg_atomic_fetch_add_u32(&job->ready, 1);
  ConditionVariableBroadcast(&job->changed);
  ConditionVariablePrepareToSleep(&job->changed);
  while (pg_atomic_read_u32(&job->go) == 0)
    ConditionVariableSleep(&job->changed, PG_WAIT_EXTENSION);
  ConditionVariableCancelSleep();
}

/* ---- the report ---- */

static void append_measure(StringInfo out, const char *name, const Measure *m)
{
  if (m->taken)
    appendStringInfo(out,
                     ",\"%s\":{\"contexts\":" INT64_FORMAT ",\"total_bytes\":" INT64_FORMAT
                     ",\"used_bytes\":" INT64_FORMAT "}",
                     name, m->contexts, m->total_bytes, m->used_bytes);
}

/* Returns the violations as JSON, in context. */
static char *run_session(MemoryContext context)
{
  char *violations = NULL;

  measure(&start, 0);
  if (job->manner == PGMT_ONE_TRANSACTION)
    pgmt_begin_transaction();
  warm_up();
  if (!broken) {
    measure(&warm, 0);
    if (job->iterations > 0)
      open_window();
  }
  stand_ready();
  if (job->iterations > 0 && !broken) {
    iterate();
    if (!broken)
      violations = close_window(context);
  }
  if (!broken)
    measure(&end, 0);
  if (job->manner == PGMT_ONE_TRANSACTION && !broken)
    pgmt_end_transaction(true);
  return violations;
}

static void report(StringInfo out, const char *violations)
{
  appendStringInfo(out, "{\"pid\":%d,\"executed\":" INT64_FORMAT ",\"failed\":" INT64_FORMAT,
                   MyProcPid, executed, failed);
  if (failed > 0) {
    appendStringInfoString(out, ",\"first_error\":");
    escape_json(out, first_error);
  }
  append_measure(out, "start", &start);
  append_measure(out, "warm", &warm);
  append_measure(out, "end", &end);
  appendStringInfo(out, ",\"judged\":%s,\"violations\":%s}", violations != NULL ? "true" : "false",
                   violations != NULL ? violations : "[]");
}

/* What went wrong beside the workload: with the daemon, or with the settings. */
static void report_error(StringInfo out, MemoryContext context)
{
  ErrorData *error;

  MemoryContextSwitchTo(context);
  error = CopyErrorData();
  FlushErrorState();
  pgmt_execute_failed();
  MemoryContextSwitchTo(context);
  initStringInfo(out);
  appendStringInfoString(out, "{\"error\":");
  escape_json(out, error->message);
  if (error->hint != NULL) {
    appendStringInfoString(out, ",\"hint\":");
    escape_json(out, error->hint);
  }
  appendStringInfoChar(out, '}');
}

/* ---- the worker ---- */

static shm_mq_handle *attach(dsm_segment *segment)
{
  int session;
  shm_mq *queue;

  memcpy(&session, MyBgworkerEntry->bgw_extra, sizeof(session));
  queue = (shm_mq *)((char *)job + job->queues + (Size)session * PGMT_QUEUE_BYTES);
  shm_mq_set_sender(queue, MyProc);
  return shm_mq_attach(queue, segment, NULL);
}

/* As if its client had set them; what the role may not set stays as it is. */
static void take_settings(const char *json)
{
  Jsonb *settings = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(json)));
  JsonbIterator *members = JsonbIteratorInit(&settings->root);
  JsonbIteratorToken token;
  JsonbValue value;
  char *name = NULL;

  while ((token = JsonbIteratorNext(&members, &value, true)) != WJB_DONE) {
    if (token == WJB_KEY)
      name = pnstrdup(value.val.string.val, value.val.string.len);
    else if (token == WJB_VALUE && value.type == jbvString)
      (void)set_config_option(name, pnstrdup(value.val.string.val, value.val.string.len),
                              superuser() ? PGC_SUSET : PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SET,
                              true, WARNING, false);
  }
}

static void become_the_caller(void)
{
  pgmt_is_workload = true;
  BackgroundWorkerInitializeConnectionByOid(job->database, job->user, PGMT_ANY_ROLE);
  StartTransactionCommand();
  take_settings((char *)job + job->settings);
  CommitTransactionCommand();
  if (job->check_guards)
    pgmt_watch_calls();
  MessageContext =
      AllocSetContextCreate(TopMemoryContext, "MessageContext", ALLOCSET_DEFAULT_SIZES);
  MemoryContextSwitchTo(MessageContext);
}

void pgmt_workload_main(Datum segment_handle)
{
  dsm_segment *segment;
  shm_mq_handle *queue;
  MemoryContext context;
  StringInfoData out;

  pqsignal(SIGTERM, die);
  BackgroundWorkerUnblockSignals();
  segment = dsm_attach(DatumGetUInt32(segment_handle));
  if (segment == NULL)
    ereport(ERROR, (errmsg("who asked for this workload is gone")));
  job = dsm_segment_address(segment);
  queue = attach(segment);
  become_the_caller();

  context = AllocSetContextCreate(TopMemoryContext, "pgmemtrace report", ALLOCSET_DEFAULT_SIZES);
  PG_TRY();
  {
    const char *violations = run_session(context);

    MemoryContextSwitchTo(context);
    initStringInfo(&out);
    report(&out, violations);
  }
  PG_CATCH();
  {
    report_error(&out, context);
  }
  PG_END_TRY();
  (void)PGMT_MQ_SEND(queue, (Size)out.len, out.data);
  dsm_detach(segment);
}
