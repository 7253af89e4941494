/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * statements.c - which statements ran last, on the whole server.
 *
 * Kept only while sentinels stand; without any, a statement costs the look at one number.  Only
 * what clients send: what a function runs inside belongs to the statement that called it.
 *
 * The hooks end in tail calls, so they have no frame in anybody's call stack: who allocates in
 * the executor would else be taken for us (scripts/regress.sh looks at the machine code).
 */
#include "pgmemtrace.h"

#include "access/parallel.h"
#include "access/xact.h"
#include "compat.h"
#include "executor/executor.h"
#include "mb/pg_wchar.h"
#include "storage/shmem.h"
#include "tcop/tcopprot.h"

#define REMEMBERED 32
#define SHOWN 5
#define TEXT_BYTES 200

typedef struct Statement {
  int pid;
  TimestampTz began;
  char text[TEXT_BYTES];
} Statement;

typedef struct Statements {
  uint64 count; /* since the server started; the newest is at (count - 1) % REMEMBERED */
  Statement ring[REMEMBERED];
} Statements;

static Statements *statements = NULL;
static ExecutorStart_hook_type prev_executor_start;
static ProcessUtility_hook_type prev_process_utility;

Size pgmt_statements_size(void) { return sizeof(Statements); }

void pgmt_statements_startup(void)
{
  bool found;

  statements = ShmemInitStruct("pgmemtrace statements", sizeof(Statements), &found);
  if (!found)
    MemSet(statements, 0, sizeof(Statements));
}

/* One line of UTF-8, without the semicolon at its end.  Nothing here may fail: it is somebody
 * else's statement. */
static void copy_text(char *to, const char *text)
{
  int length = pg_mbcliplen(text, (int)strlen(text), TEXT_BYTES - 1);

  while (length > 0 && strchr("; \n", text[length - 1]) != NULL)
    length--;
  for (int i = 0; i < length; i++) {
    if (IS_HIGHBIT_SET(text[i]))
      to[i] = GetDatabaseEncoding() == PG_UTF8 ? text[i] : '?';
    else
      to[i] = text[i] < ' ' ? ' ' : text[i];
  }
  to[length] = '\0';
}

static pg_noinline void remember(const char *text)
{
  static TimestampTz last = 0;
  TimestampTz began = GetCurrentStatementStartTimestamp();
  Statement *statement;

  if (!pgmt_sentinels_stand() || IsParallelWorker() || pgmt_is_worker || began == last)
    return;
  last = began;
  if (debug_query_string != NULL)
    text = debug_query_string;
  LWLockAcquire(pgmt_lock(PGMT_STATEMENTS_LOCK), LW_EXCLUSIVE);
  statement = &statements->ring[statements->count++ % REMEMBERED];
  statement->pid = MyProcPid;
  statement->began = began;
  if (pgmt_statement_texts)
    copy_text(statement->text, text);
  else
    strlcpy(statement->text, "(not shown)", sizeof(statement->text));
  LWLockRelease(pgmt_lock(PGMT_STATEMENTS_LOCK));
}

static void executor_start(QueryDesc *query, int flags)
{
  remember(query->sourceText);
  if (prev_executor_start != NULL)
    prev_executor_start(query, flags);
  else
    standard_ExecutorStart(query, flags);
}

static void process_utility(PGMT_UTILITY_PARAMS)
{
  remember(text);
  if (prev_process_utility != NULL)
    prev_process_utility(PGMT_UTILITY_ARGS);
  else
    standard_ProcessUtility(PGMT_UTILITY_ARGS);
}

void pgmt_hook_statements(void)
{
  prev_executor_start = ExecutorStart_hook;
  ExecutorStart_hook = executor_start;
  prev_process_utility = ProcessUtility_hook;
  ProcessUtility_hook = process_utility;
}

void pgmt_forget_statement(void)
{
  if (!pgmt_sentinels_stand())
    return;
  LWLockAcquire(pgmt_lock(PGMT_STATEMENTS_LOCK), LW_EXCLUSIVE);
  for (uint64 back = 1; back <= REMEMBERED && back <= statements->count; back++) {
    Statement *statement = &statements->ring[(statements->count - back) % REMEMBERED];

    if (statement->pid == MyProcPid) {
      statement->pid = 0; /* nobody's */
      break;
    }
  }
  LWLockRelease(pgmt_lock(PGMT_STATEMENTS_LOCK));
}

void pgmt_append_last_statements(StringInfo out)
{
  TimestampTz mine = GetCurrentStatementStartTimestamp();
  int shown = 0;

  LWLockAcquire(pgmt_lock(PGMT_STATEMENTS_LOCK), LW_SHARED);
  for (uint64 back = 1; back <= REMEMBERED && back <= statements->count && shown < SHOWN; back++) {
    const Statement *statement = &statements->ring[(statements->count - back) % REMEMBERED];

    if (statement->pid == 0 ||
        (statement->pid == MyProcPid && statement->began == mine && !pgmt_is_workload))
      continue;
    appendStringInfo(out, "%spid %d: %s", shown++ > 0 ? "; " : "", statement->pid, statement->text);
  }
  LWLockRelease(pgmt_lock(PGMT_STATEMENTS_LOCK));
  if (shown == 0)
    appendStringInfoString(out, "none known");
}
