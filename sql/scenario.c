/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * scenario.c - run_workload(): starts sessions that run a workload, and gathers what they report.
 *
 * What a scenario is made of is in SQL (run_scenario() in pgmemtrace--1.0.sql).
 */
#include "workload.h"

#include "commands/dbcommands.h"
#include "compat.h"
#include "fmgr.h"
#include "pgstat.h"
#include "storage/dsm.h"
#include "storage/ipc.h"
#include "storage/proc.h"
#include "storage/shm_mq.h"
#include "utils/builtins.h"
#include "utils/json.h"

PG_FUNCTION_INFO_V1(pgmt_run_workload);
PG_FUNCTION_INFO_V1(pgmt_check_on_copy);

/* How often it is looked whether a session has ended early. */
#define LOOK_EVERY 100 /* ms */

typedef struct Sessions {
  int count;
  BackgroundWorkerHandle *workers[PGMT_MAX_SESSIONS];
  shm_mq_handle *queues[PGMT_MAX_SESSIONS];
} Sessions;

static PgmtManner manner_of(const char *name)
{
  static const char *const names[] = {"committed", "aborted", "cursors", "one transaction"};

  for (int i = 0; i < (int)lengthof(names); i++) {
    if (strcmp(names[i], name) == 0)
      return (PgmtManner)i;
  }
  ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                  errmsg("a workload cannot be run in the manner \"%s\"", name),
                  errhint("Manners are committed, aborted, cursors and one transaction.")));
}

static int checked(int value, int least, int most, const char *what)
{
  if (value < least || value > most)
    ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                    errmsg("%s must be from %d to %d", what, least, most)));
  return value;
}

/* ---- the job ---- */

typedef struct Texts {
  const char *workload;
  const char *pattern;
  const char *options;
  const char *settings;
} Texts;

static Size put(char *segment, Size *end, const char *text)
{
  Size offset = *end;
  Size length = strlen(text) + 1;

  if (segment != NULL)
    memcpy(segment + offset, text, length);
  *end = offset + MAXALIGN(length);
  return offset;
}

/* Returns how long the segment has to be; without one, nothing is put there. */
static Size lay_out(char *segment, PgmtJob *job, const Texts *texts)
{
  Size end = MAXALIGN(sizeof(PgmtJob));

  job->text = put(segment, &end, texts->workload);
  job->pattern = put(segment, &end, texts->pattern);
  job->options = put(segment, &end, texts->options);
  job->settings = put(segment, &end, texts->settings);
  job->queues = end;
  return end + (Size)job->sessions * PGMT_QUEUE_BYTES;
}

static dsm_segment *make_segment(PgmtJob *job, const Texts *texts)
{
  dsm_segment *segment = dsm_create(lay_out(NULL, job, texts), 0);
  PgmtJob *shared = dsm_segment_address(segment);

  (void)lay_out((char *)shared, job, texts);
  *shared = *job;
  ConditionVariableInit(&shared->changed);
  pg_atomic_init_u32(&shared->ready, 0);
  pg_atomic_init_u32(&shared->go, 0);
  return segment;
}

/* ---- the sessions ---- */

static void start_session(Sessions *sessions, dsm_segment *segment)
{
  PgmtJob *job = dsm_segment_address(segment);
  int number = sessions->count;
  BackgroundWorker worker;
  BackgroundWorkerHandle *handle;
  shm_mq *queue =
      shm_mq_create((char *)job + job->queues + (Size)number * PGMT_QUEUE_BYTES, PGMT_QUEUE_BYTES);

  shm_mq_set_receiver(queue, MyProc);
  MemSet(&worker, 0, sizeof(worker));
  worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
  worker.bgw_start_time = BgWorkerStart_ConsistentState;
  worker.bgw_restart_time = BGW_NEVER_RESTART;
  strlcpy(worker.bgw_name, "pgmemtrace workload", BGW_MAXLEN);
  strlcpy(worker.bgw_type, "pgmemtrace workload", BGW_MAXLEN);
  strlcpy(worker.bgw_library_name, "pgmemtrace", BGW_MAXLEN);
  strlcpy(worker.bgw_function_name, "pgmt_workload_main", BGW_MAXLEN);
  worker.bgw_main_arg = UInt32GetDatum(dsm_segment_handle(segment));
  memcpy(worker.bgw_extra, &number, sizeof(number));
  worker.bgw_notify_pid = MyProcPid;
  if (!RegisterDynamicBackgroundWorker(&worker, &handle))
    ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_RESOURCES),
                    errmsg("no background worker is left for session %d of %d of the workload",
                           number + 1, job->sessions),
                    errhint("Ask for fewer sessions, or raise max_worker_processes.")));
  sessions->workers[number] = handle;
  sessions->queues[number] = shm_mq_attach(queue, segment, handle);
  sessions->count++;
}

/* Also when the caller is cancelled or terminated. */
static void stop_sessions(int code, Datum sessions_pointer)
{
  Sessions *sessions = (Sessions *)DatumGetPointer(sessions_pointer);

  for (int i = 0; i < sessions->count; i++)
    TerminateBackgroundWorker(sessions->workers[i]);
}

static int count_ended(const Sessions *sessions)
{
  int ended = 0;
  pid_t pid;

  for (int i = 0; i < sessions->count; i++)
    ended += GetBackgroundWorkerPid(sessions->workers[i], &pid) == BGWH_STOPPED ? 1 : 0;
  return ended;
}

/* All at the same moment, those that have ended before left out. */
static void let_them_go(const Sessions *sessions, PgmtJob *job)
{
  ConditionVariablePrepareToSleep(&job->changed);
  while ((int)pg_atomic_read_u32(&job->ready) + count_ended(sessions) < sessions->count)
    (void)ConditionVariableTimedSleep(&job->changed, LOOK_EVERY, PG_WAIT_EXTENSION);
  ConditionVariableCancelSleep();
  pg_atomic_write_u32(&job->go, 1);
  ConditionVariableBroadcast(&job->changed);
}

static void append_report(StringInfo out, shm_mq_handle *queue)
{
  Size length;
  void *report;

  if (shm_mq_receive(queue, &length, &report, false) == SHM_MQ_SUCCESS)
    appendBinaryStringInfo(out, report, (int)length);
  else
    appendStringInfoString(
        out, "{\"ended\":true}"); /* terminated, or its role may not connect: the log says why */
}

static char *run(PgmtJob *job, const Texts *texts)
{
  Sessions *sessions = palloc0(sizeof(Sessions));
  dsm_segment *segment = make_segment(job, texts);
  StringInfoData out;

  initStringInfo(&out);
  appendStringInfoChar(&out, '[');
  PG_ENSURE_ERROR_CLEANUP(stop_sessions, PointerGetDatum(sessions));
  {
    while (sessions->count < job->sessions)
      start_session(sessions, segment);
    let_them_go(sessions, dsm_segment_address(segment));
    for (int i = 0; i < sessions->count; i++) {
      if (i > 0)
        appendStringInfoChar(&out, ',');
      append_report(&out, sessions->queues[i]);
    }
    for (int i = 0; i < sessions->count; i++)
      (void)WaitForBackgroundWorkerShutdown(sessions->workers[i]);
  }
  PG_END_ENSURE_ERROR_CLEANUP(stop_sessions, PointerGetDatum(sessions));
  dsm_detach(segment);
  appendStringInfoChar(&out, ']');
  return out.data;
}

/*
 * run_workload(workload, manner, warm_up, iterations, sessions, checkpoints, check_guards, pattern,
 * options, settings): the reports of the sessions, as a JSON array.
 */
Datum pgmt_run_workload(PG_FUNCTION_ARGS)
{
  PgmtJob job;
  Texts texts;

  for (int i = 0; i < 10; i++) {
    if (i != 8 && PG_ARGISNULL(i))
      ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
                      errmsg("of what a workload needs, only the options may be null")));
  }
  MemSet(&job, 0, sizeof(job));
  job.database = MyDatabaseId;
  job.user = GetUserId();
  job.manner = manner_of(text_to_cstring(PG_GETARG_TEXT_PP(1)));
  job.warm_up = checked(PG_GETARG_INT32(2), 0, INT_MAX, "warm_up");
  job.iterations = checked(PG_GETARG_INT32(3), 0, INT_MAX, "iterations");
  job.sessions = checked(PG_GETARG_INT32(4), 1, PGMT_MAX_SESSIONS, "sessions");
  job.checkpoints = PG_GETARG_BOOL(5);
  job.check_guards = PG_GETARG_BOOL(6);
  texts.workload = text_to_cstring(PG_GETARG_TEXT_PP(0));
  texts.pattern = text_to_cstring(PG_GETARG_TEXT_PP(7));
  texts.options = PG_ARGISNULL(8) ? "" : JsonbToCString(NULL, &PG_GETARG_JSONB_P(8)->root, 0);
  texts.settings = JsonbToCString(NULL, &PG_GETARG_JSONB_P(9)->root, 0);
  pgmt_require_watched(); /* rather than have each session find out */
  PG_RETURN_DATUM(DirectFunctionCall1(jsonb_in, CStringGetDatum(run(&job, &texts))));
}

/* check_on_copy(check, iterations, workload): by the daemon, which takes its time. */
Datum pgmt_check_on_copy(PG_FUNCTION_ARGS)
{
  StringInfoData body;
  Jsonb *answer;

  initStringInfo(&body);
  appendStringInfoString(&body, "{\"check\":");
  escape_json(&body, text_to_cstring(PG_GETARG_TEXT_PP(0)));
  appendStringInfo(&body, ",\"iterations\":%d,\"database\":",
                   checked(PG_GETARG_INT32(1), 1, INT_MAX, "iterations"));
  escape_json(&body, get_database_name(MyDatabaseId));
  appendStringInfoString(&body, ",\"user\":");
  escape_json(&body, GetUserNameFromId(GetUserId(), false));
  appendStringInfoString(&body, ",\"workload\":");
  escape_json(&body, text_to_cstring(PG_GETARG_TEXT_PP(2)));
  appendStringInfoChar(&body, '}');
  answer = pgmt_ask_for(PGMT_CHECK_ON_COPY, body.data, 0);
  if (answer == NULL)
    PG_RETURN_NULL();
  PG_RETURN_JSONB_P(answer);
}
