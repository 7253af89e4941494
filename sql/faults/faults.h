/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * faults.h - the parts of pgmemtrace_faults, the library that goes into disposable copies of
 * servers.
 *
 * Never into a server that anybody needs: it makes memory unreadable and allocations fail.
 */
#ifndef PGMT_FAULTS_H
#define PGMT_FAULTS_H

#include "postgres.h"

#include "utils/guc.h"

/* What others must be able to call, in builds that hide everything else (PGXS of 16 and newer). */
#define PGMT_EXPORT __attribute__((visibility("default")))

/* wipe.c */
typedef enum { PGMT_WIPE_OFF, PGMT_WIPE_ON, PGMT_WIPE_ALL } PgmtWipe;
extern int pgmt_wipe; /* pgmemtrace_faults.wipe */
extern void pgmt_install_wiping(void);

/* allocations.c */
extern void pgmt_define_allocation_settings(void);
extern void pgmt_stop_failing(void);

/* crash.c */
extern void pgmt_install_crash_handler(void);

#endif /* PGMT_FAULTS_H */
