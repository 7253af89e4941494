/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * report_on_signal.c - a module for PostgreSQL 13: a process that gets SIGRTMIN writes its
 * contexts to stderr.
 *
 * 13 has neither pg_log_backend_memory_contexts() nor a view.  A function to call would show
 * the caller in the middle of a statement, and no other kind of process.  The handler runs
 * at once, which is safe where the process waits for something to do: a test asks no other.
 * Built against 13's headers by context_report.cpp, for shared_preload_libraries.
 */
#include "postgres.h"

#include <signal.h>

#include "fmgr.h"
#include "utils/memutils.h"

PG_MODULE_MAGIC;

void _PG_init(void);

static void report(int number)
{
  int saved_errno = errno;

  (void)number;
  MemoryContextStats(TopMemoryContext);
  errno = saved_errno;
}

void _PG_init(void)
{
  struct sigaction action;

  memset(&action, 0, sizeof(action));
  action.sa_handler = report;
  action.sa_flags = SA_RESTART;
  sigaction(SIGRTMIN, &action, NULL);
}
