/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * worker.c - the background worker: looks at the sentinels and writes the log, at an interval.
 */
#include "pgmemtrace.h"

#include "access/xact.h"
#include "compat.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/memutils.h"

/* Seconds until it is started again: its database may have to be made first. */
#define RESTART_AFTER 5

bool pgmt_is_worker = false;

void pgmt_register_worker(void)
{
  BackgroundWorker worker;

  MemSet(&worker, 0, sizeof(worker));
  worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
  worker.bgw_start_time = BgWorkerStart_RecoveryFinished; /* it writes */
  worker.bgw_restart_time = RESTART_AFTER;
  strlcpy(worker.bgw_name, "pgmemtrace", BGW_MAXLEN);
  strlcpy(worker.bgw_type, "pgmemtrace", BGW_MAXLEN);
  strlcpy(worker.bgw_library_name, "pgmemtrace", BGW_MAXLEN);
  strlcpy(worker.bgw_function_name, "pgmt_worker_main", BGW_MAXLEN);
  RegisterBackgroundWorker(&worker);
}

void pgmt_worker_main(Datum argument)
{
  MemoryContext round;

  pgmt_is_worker = true;
  pqsignal(SIGHUP, SignalHandlerForConfigReload);
  /* Not die(): what is in memory is written before the end. */
  pqsignal(SIGTERM, SignalHandlerForShutdownRequest);
  BackgroundWorkerUnblockSignals();
  BackgroundWorkerInitializeConnection(pgmt_database, NULL, 0);
  /* A lock on the log must not hold up the server's end. */
  SetConfigOption("lock_timeout", "2s", PGC_USERSET, PGC_S_OVERRIDE);
  pgmt_log_attach_worker();
  round = AllocSetContextCreate(TopMemoryContext, "pgmemtrace round", ALLOCSET_DEFAULT_SIZES);

  for (;;) {
    bool last_round = ShutdownRequestPending;

    CHECK_FOR_INTERRUPTS();
    if (ConfigReloadPending) {
      ConfigReloadPending = false;
      ProcessConfigFile(PGC_SIGHUP);
    }
    MemoryContextSwitchTo(round);
    pgmt_check_sentinels();
    pgmt_log_flush();
    MemoryContextReset(round);
    if (last_round)
      proc_exit(1); /* with 0 it would not be started again */
    (void)WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, pgmt_check_interval,
                    PG_WAIT_EXTENSION);
    ResetLatch(MyLatch);
  }
}
