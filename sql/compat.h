/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * compat.h - what differs between PostgreSQL 13 and 18, so that no other file asks for a version.
 */
#ifndef PGMT_COMPAT_H
#define PGMT_COMPAT_H

#include "postgres.h"

#include "funcapi.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "tcop/utility.h"
#include "utils/guc.h"

/* ProcessUtility_hook got read_only_tree in 14. */
#if PG_VERSION_NUM >= 140000
#define PGMT_UTILITY_PARAMS                                                                        \
  PlannedStmt *statement, const char *text, bool read_only_tree, ProcessUtilityContext context,    \
      ParamListInfo params, QueryEnvironment *environment, DestReceiver *receiver,                 \
      QueryCompletion *completion
#define PGMT_UTILITY_ARGS                                                                          \
  statement, text, read_only_tree, context, params, environment, receiver, completion
#else
#define PGMT_UTILITY_PARAMS                                                                        \
  PlannedStmt *statement, const char *text, ProcessUtilityContext context, ParamListInfo params,   \
      QueryEnvironment *environment, DestReceiver *receiver, QueryCompletion *completion
#define PGMT_UTILITY_ARGS statement, text, context, params, environment, receiver, completion
#endif

/* From 15 on shared memory may only be asked for in a hook, before that only in _PG_init. */
#if PG_VERSION_NUM >= 150000
#define PGMT_HOOK_SHMEM_REQUEST(previous, function)                                                \
  ((previous) = shmem_request_hook, shmem_request_hook = (function))
#else
typedef void (*shmem_request_hook_type)(void);
#define PGMT_HOOK_SHMEM_REQUEST(previous, function) ((previous) = NULL, (function)())
#endif

#if PG_VERSION_NUM < 150000
#define MarkGUCPrefixReserved(prefix) EmitWarningsOnPlaceholders(prefix)

static inline void InitMaterializedSRF(FunctionCallInfo fcinfo, bits32 flags)
{
  ReturnSetInfo *result = (ReturnSetInfo *)fcinfo->resultinfo;
  MemoryContext previous;

  Assert(flags == 0);
  if (result == NULL || !IsA(result, ReturnSetInfo) || !(result->allowedModes & SFRM_Materialize))
    ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
                    errmsg("set-valued function called in a context that cannot take a set")));
  previous = MemoryContextSwitchTo(result->econtext->ecxt_per_query_memory);
  if (get_call_result_type(fcinfo, NULL, &result->setDesc) != TYPEFUNC_COMPOSITE)
    elog(ERROR, "return type must be a row type");
  result->returnMode = SFRM_Materialize;
  result->setResult = tuplestore_begin_heap(true, false, work_mem);
  MemoryContextSwitchTo(previous);
}
#endif

/* 15 split pg_analyze_and_rewrite(), and asks senders whether the receiver may wait. */
#if PG_VERSION_NUM >= 150000
#define PGMT_ANALYZE(raw, text) pg_analyze_and_rewrite_fixedparams(raw, text, NULL, 0, NULL)
#define PGMT_MQ_SEND(queue, length, data) shm_mq_send(queue, length, data, false, true)
#else
#define PGMT_ANALYZE(raw, text) pg_analyze_and_rewrite(raw, text, NULL, 0, NULL)
#define PGMT_MQ_SEND(queue, length, data) shm_mq_send(queue, length, data, false)
#endif

/* 18 dropped run_once. */
#if PG_VERSION_NUM >= 180000
#define PGMT_PORTAL_RUN(portal, to, completion)                                                    \
  PortalRun(portal, FETCH_ALL, true, to, to, completion)
#else
#define PGMT_PORTAL_RUN(portal, to, completion)                                                    \
  PortalRun(portal, FETCH_ALL, true, true, to, to, completion)
#endif

/* Before 17 no worker could be a role without LOGIN. */
#ifdef BGWORKER_BYPASS_ROLELOGINCHECK
#define PGMT_ANY_ROLE BGWORKER_BYPASS_ROLELOGINCHECK
#else
#define PGMT_ANY_ROLE 0
#endif

/* 13 and 14 tell their own files alone. */
#ifndef DLSUFFIX
#define DLSUFFIX ".so"
#endif

#endif /* PGMT_COMPAT_H */
