/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * faults.c - pgmemtrace_faults: what `pgmemtrace check` has in its disposable copy of a server.
 *
 * By LD_PRELOAD, for the C library's functions, and as the last of shared_preload_libraries, for
 * everything else.
 */
#include "faults.h"

#include "fmgr.h"
#include "lib/ilist.h"
#include "miscadmin.h"
#include "postmaster/bgworker_internals.h"

PG_MODULE_MAGIC;

extern PGMT_EXPORT void _PG_init(void);

static const struct config_enum_entry wipe_values[] = {{"off", PGMT_WIPE_OFF, false},
                                                       {"on", PGMT_WIPE_ON, false},
                                                       {"all", PGMT_WIPE_ALL, false},
                                                       {NULL, 0, false}};

/*
 * Nobody is to work in a copy but who was asked to: a scheduler would run its jobs twice, and a
 * subscriber take what its publisher keeps for the original.  Workers that a statement starts,
 * such as those of parallel queries, are not in this list.
 */
static void dismiss_workers(void)
{
#if PG_VERSION_NUM >= 180000
  dlist_init(&BackgroundWorkerList);
#else
  slist_init(&BackgroundWorkerList);
#endif
}

void _PG_init(void)
{
  if (!process_shared_preload_libraries_in_progress)
    ereport(ERROR,
            (errmsg("pgmemtrace_faults belongs into shared_preload_libraries, of a copy of a "
                    "server that `pgmemtrace check` made")));
  DefineCustomEnumVariable("pgmemtrace_faults.wipe",
                           "Overwrite the memory of contexts that are reset or deleted (on), and "
                           "chunks that are freed, too (all).",
                           NULL, &pgmt_wipe, PGMT_WIPE_OFF, wipe_values, PGC_USERSET, 0, NULL, NULL,
                           NULL);
  pgmt_define_allocation_settings();
  pgmt_install_wiping();
  pgmt_install_crash_handler();
  dismiss_workers();
}
