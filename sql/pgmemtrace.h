/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * pgmemtrace.h - what the files of the extension offer one another.
 *
 *   request.c     asks the daemon and waits for what comes through answer.c; marker.c is what the
 *                 daemon probes
 *   window.c      test windows: begin() and end()
 *   scenario.c    runs a workload in sessions of its own (workload.c), again and again (execute.c)
 *   log.c         violations: a ring in shared memory, written to a table by log_flush.c
 *   sentinels.c   guard bytes (guards.c) around segments of shared memory; segments.c finds those
 *   culprit.c     which function wrote over a guard, where a scenario wants to know
 *   worker.c      the background worker: looks at the guards, writes the log
 *   statements.c  which statements ran last, for the sentinels' findings
 *   dsm.c         DSM handles that somebody wants to follow
 *
 * docs/extension_protocol.md is the contract with the daemon.  Text in shared memory is UTF-8:
 * its readers are in other databases.
 */
#ifndef PGMT_PGMEMTRACE_H
#define PGMT_PGMEMTRACE_H

#include "postgres.h"

#include "lib/stringinfo.h"
#include "nodes/pg_list.h"
#include "storage/lwlock.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"

/* One lock for each structure in shared memory.  Sentinels may take those that come later. */
typedef enum PgmtLock {
  PGMT_REQUESTS_LOCK,
  PGMT_DSM_LOCK,
  PGMT_SENTINELS_LOCK,
  PGMT_STATEMENTS_LOCK,
  PGMT_LOG_LOCK,
  PGMT_LOCKS
} PgmtLock;

/* What begins each name in ShmemIndex: at most SHMEM_INDEX_KEYSIZE bytes with the zero. */
#define PGMT_SEGMENT_NAME_BYTES 48
/* Longest violation as JSON, in bytes; what the log takes at most. */
#define PGMT_MAX_VIOLATION (16 * 1024)

/* ---- pgmemtrace.c: settings and shared memory ---- */

extern int pgmt_ack_timeout;     /* ms */
extern int pgmt_check_interval;  /* ms */
extern int pgmt_log_buffer;      /* kB */
extern int pgmt_min_leak_bytes;  /* bytes */
extern int pgmt_bloat_min_bytes; /* bytes */
extern bool pgmt_statement_texts;
extern char *pgmt_database;

extern LWLock *pgmt_lock(PgmtLock lock);
/* Raises an error unless the server started with the library. */
extern void pgmt_require_preloaded(void);
/* A copy in UTF-8, and one in the database's encoding. */
extern char *pgmt_to_utf8(const char *text);
extern char *pgmt_from_utf8(const char *text);

/* ---- marker.c ---- */

typedef enum PgmtRequestKind {
  PGMT_BEGIN_WINDOW = 1,
  PGMT_END_WINDOW = 2,
  PGMT_CONTEXTS = 3,
  PGMT_CHECKPOINT = 4,
  PGMT_CHECK_ON_COPY = 5,
} PgmtRequestKind;

/*
 * The daemon's probe counts itself here, in every process that has the library mapped
 * (uprobe's reference counter).  Zero: nobody would see the marker.
 */
extern PGDLLEXPORT volatile uint16 pgmemtrace_watchers;
/* Beginning with endbr64, the marker would be single-stepped by the kernel. */
#if defined(__CET__) && (__CET__ & 1)
#define PGMT_NO_LANDING_PAD __attribute__((nocf_check))
#else
#define PGMT_NO_LANDING_PAD
#endif
/* What the daemon probes.  json: UTF-8, length bytes. */
extern PGDLLEXPORT PGMT_NO_LANDING_PAD void pgmemtrace_request(uint64 id, uint32 kind,
                                                               const char *json, uint32 length);

/* ---- request.c ---- */

/*
 * Asks the daemon: body is a JSON object, completed with who asks.  Returns its answer, NULL if
 * that is empty; raises an error if nobody watches or nobody answers in time, and the daemon's
 * errors and warnings.
 */
extern Jsonb *pgmt_ask(PgmtRequestKind kind, const char *body);
/* The same, for what may take longer than pgmemtrace.ack_timeout; ms, 0: as long as it takes. */
extern Jsonb *pgmt_ask_for(PgmtRequestKind kind, const char *body, int timeout);
/* Raises an error if nobody would see what is asked. */
extern void pgmt_require_watched(void);
extern Size pgmt_requests_size(void);
extern void pgmt_requests_startup(void);

/* ---- window.c: errors as those of begin() and end() ---- */

/* options: NULL, or what begin() takes.  within_transaction: what lives as long as the transaction
 * is judged like what stays. */
extern void pgmt_open_window(const char *pattern, Jsonb *options, bool within_transaction);
/* Its violations, as a jsonb array. */
extern Datum pgmt_close_window(void);

/* ---- log.c, log_flush.c ---- */

/* Appends JSON to the ring.  False, and counted: no room. */
extern bool pgmt_log_append(const char *violation, Size length);
extern void pgmt_log_attach_worker(void);
/* Writes what is in the ring to the table; in the worker only, outside of transactions.  What it
 * allocates in the current context stays there. */
extern void pgmt_log_flush(void);
extern Size pgmt_log_size(void);
extern void pgmt_log_startup(void);

/* ---- segments.c ---- */

/* A segment of ShmemIndex: its owner uses size bytes, up to allocated the rest is alignment. */
typedef struct PgmtSegment {
  char name[PGMT_SEGMENT_NAME_BYTES]; /* empty: not in ShmemIndex */
  char *start;
  Size size;
  Size allocated;
} PgmtSegment;

/* False: no such segment.  below and above are its neighbours without a gap. */
extern bool pgmt_find_segment(const char *name, PgmtSegment *segment, PgmtSegment *below,
                              PgmtSegment *above);

/* ---- sentinels.c ---- */

/* Looks at every guard, logs what is new, and tells the server's log. */
extern void pgmt_check_sentinels(void);
/* Would that find something? */
extern bool pgmt_guards_changed(void);
/* The violations found at or after a moment, as a JSON array. */
extern char *pgmt_sentinel_violations(TimestampTz since);
/* For statements.c, on every statement: is there anything to remember them for? */
extern bool pgmt_sentinels_stand(void);
extern Size pgmt_sentinels_size(void);
extern void pgmt_sentinels_startup(void);

/* ---- culprit.c ---- */

/* From now on this session looks at the guards after each call of a function that is not core's. */
extern void pgmt_watch_calls(void);

/* ---- statements.c ---- */

/* "pid 4711: SELECT ...", newest first, but not the one that asks, unless it is a workload; UTF-8.
 */
extern void pgmt_append_last_statements(StringInfo out);
/* The one that runs is none that others want to know of. */
extern void pgmt_forget_statement(void);
extern Size pgmt_statements_size(void);
extern void pgmt_statements_startup(void);
extern void pgmt_hook_statements(void);

/* ---- dsm.c ---- */

extern Size pgmt_dsm_size(void);
extern void pgmt_dsm_startup(void);

/* ---- workload.c ---- */

extern bool pgmt_is_workload; /* this process runs one */

/* ---- worker.c ---- */

extern bool pgmt_is_worker;
extern void pgmt_register_worker(void);
extern PGDLLEXPORT void pgmt_worker_main(Datum argument);

#endif /* PGMT_PGMEMTRACE_H */
