/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * pgmemtrace.c - loads the extension: its settings, its shared memory, its hooks and its worker.
 */
#include "pgmemtrace.h"

#include <limits.h>

#include "compat.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "storage/ipc.h"
#include "storage/shmem.h"

PG_MODULE_MAGIC;

extern PGDLLEXPORT void _PG_init(void);

int pgmt_ack_timeout = 5000;
int pgmt_check_interval = 10000;
int pgmt_log_buffer = 1024;
int pgmt_min_leak_bytes = 8192;
int pgmt_bloat_min_bytes = 8192;
bool pgmt_statement_texts = true;
char *pgmt_database = NULL;

static const char tranche[] = "pgmemtrace";
static LWLockPadded *locks = NULL;
static shmem_request_hook_type prev_shmem_request_hook;
static shmem_startup_hook_type prev_shmem_startup_hook;

LWLock *pgmt_lock(PgmtLock lock) { return &locks[lock].lock; }

void pgmt_require_preloaded(void)
{
  if (locks == NULL)
    ereport(ERROR,
            (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
             errmsg("pgmemtrace has no shared memory"),
             errhint("Put pgmemtrace into shared_preload_libraries and restart the server.")));
}

char *pgmt_to_utf8(const char *text)
{
  char *converted = pg_server_to_any(text, (int)strlen(text), PG_UTF8);

  return converted == text ? pstrdup(text) : converted;
}

char *pgmt_from_utf8(const char *text)
{
  char *converted = pg_any_to_server(text, (int)strlen(text), PG_UTF8);

  return converted == text ? pstrdup(text) : converted;
}

/* ---- settings: docs/extension.md has a paragraph on each ---- */

static void define_settings(void)
{
  DefineCustomIntVariable(
      "pgmemtrace.ack_timeout", "How long a function waits for the daemon, or for the worker.",
      NULL, &pgmt_ack_timeout, 5000, 1, 3600 * 1000, PGC_USERSET, GUC_UNIT_MS, NULL, NULL, NULL);
  DefineCustomIntVariable(
      "pgmemtrace.min_leak_bytes", "What a test window calls a leak begins here.", NULL,
      &pgmt_min_leak_bytes, 8192, 0, INT_MAX, PGC_USERSET, GUC_UNIT_BYTE, NULL, NULL, NULL);
  DefineCustomIntVariable(
      "pgmemtrace.bloat_min_bytes", "What a test window calls bloat begins here.", NULL,
      &pgmt_bloat_min_bytes, 8192, 0, INT_MAX, PGC_USERSET, GUC_UNIT_BYTE, NULL, NULL, NULL);
  DefineCustomIntVariable(
      "pgmemtrace.check_interval", "How often the worker looks at sentinels and writes the log.",
      NULL, &pgmt_check_interval, 10000, 10, INT_MAX, PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
  DefineCustomBoolVariable("pgmemtrace.statement_texts",
                           "Sentinels' findings quote the last statements.", NULL,
                           &pgmt_statement_texts, true, PGC_SUSET, 0, NULL, NULL, NULL);
  DefineCustomIntVariable(
      "pgmemtrace.log_buffer", "Shared memory for violations that are not in the table yet.", NULL,
      &pgmt_log_buffer, 1024, 64, 1024 * 1024, PGC_POSTMASTER, GUC_UNIT_KB, NULL, NULL, NULL);
  DefineCustomStringVariable("pgmemtrace.database", "The database whose violation_log is written.",
                             NULL, &pgmt_database, "postgres", PGC_POSTMASTER, 0, NULL, NULL, NULL);
  MarkGUCPrefixReserved("pgmemtrace");
}

/* ---- shared memory ---- */

static void shmem_request(void)
{
  Size size = 0;

  if (prev_shmem_request_hook != NULL)
    prev_shmem_request_hook();
  size = add_size(size, pgmt_requests_size());
  size = add_size(size, pgmt_dsm_size());
  size = add_size(size, pgmt_sentinels_size());
  size = add_size(size, pgmt_statements_size());
  size = add_size(size, pgmt_log_size());
  RequestAddinShmemSpace(size);
  RequestNamedLWLockTranche(tranche, PGMT_LOCKS);
}

static void shmem_startup(void)
{
  if (prev_shmem_startup_hook != NULL)
    prev_shmem_startup_hook();
  LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
  locks = GetNamedLWLockTranche(tranche);
  pgmt_requests_startup();
  pgmt_dsm_startup();
  pgmt_sentinels_startup();
  pgmt_statements_startup();
  pgmt_log_startup();
  LWLockRelease(AddinShmemInitLock);
}

void _PG_init(void)
{
  /* Later there is no shared memory to be had; the functions say so when they are called. */
  if (!process_shared_preload_libraries_in_progress)
    return;
  define_settings();
  PGMT_HOOK_SHMEM_REQUEST(prev_shmem_request_hook, shmem_request);
  prev_shmem_startup_hook = shmem_startup_hook;
  shmem_startup_hook = shmem_startup;
  pgmt_hook_statements();
  pgmt_register_worker();
}
