/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * workload.h - running somebody's SQL again and again in sessions of its own: what scenario.c, who
 * asks for it, workload.c, a session, and execute.c, which executes the text once, share.
 *
 *   caller's backend                                background worker, one per session
 *   makes the job, starts the workers   ---DSM--->  warms up, opens a test window
 *   waits until all stand ready         <---------  is ready
 *   lets them go                        --------->  runs, closes the window
 *   gathers                             <--shm_mq-  its report, as JSON
 */
#ifndef PGMT_WORKLOAD_H
#define PGMT_WORKLOAD_H

#include "pgmemtrace.h"

#include "port/atomics.h"
#include "storage/condition_variable.h"

/* Sessions of one job. */
#define PGMT_MAX_SESSIONS 16
/* Cursors that are open at the same time. */
#define PGMT_OPEN_CURSORS 32

/* How each execution ends. */
typedef enum PgmtManner {
  PGMT_COMMITTED,       /* as a client would send it: each in a transaction of its own */
  PGMT_ABORTED,         /* in a transaction that is rolled back */
  PGMT_CURSORS,         /* queries as cursors that are read one row and closed */
  PGMT_ONE_TRANSACTION, /* all in the same transaction, and judged before it ends */
} PgmtManner;

/* At the start of its segment; offsets are from there. */
typedef struct PgmtJob {
  Oid database;
  Oid user;
  PgmtManner manner;
  int sessions;
  int warm_up; /* executions before the window */
  int iterations;
  bool checkpoints; /* measured in between, for the shape of what grows */
  bool check_guards;
  Size text;     /* the workload */
  Size pattern;  /* of the window */
  Size options;  /* of the window, as JSON; empty: none */
  Size settings; /* as a JSON object of strings */
  Size queues;   /* shm_mq, sessions times */
  ConditionVariable changed;
  pg_atomic_uint32 ready; /* sessions that stand at the line */
  pg_atomic_uint32 go;
} PgmtJob;

/* Bytes of a session's queue; a report may be longer. */
#define PGMT_QUEUE_BYTES 65536

/* ---- workload.c ---- */

extern PGDLLEXPORT void pgmt_workload_main(Datum argument);

/* ---- execute.c: outside of transactions, apart from what begin() began ---- */

/*
 * Executes the text as PostgresMain does for a simple query, and reads the rows as a client
 * would.  Errors are raised; then pgmt_execute_failed() ends what was begun.
 */
extern void pgmt_execute(const char *text);
/* The same, but queries stay open as cursors; returns how many that were. */
extern int pgmt_execute_as_cursors(const char *text);
extern void pgmt_close_cursors(void);
extern void pgmt_execute_failed(void);

/* What BEGIN, COMMIT and ROLLBACK do. */
extern void pgmt_begin_transaction(void);
extern void pgmt_end_transaction(bool commit);

#endif /* PGMT_WORKLOAD_H */
