/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * pgmemtrace_buggy.c - a server extension that does with memory what none should, when it is told.
 *
 *   write_to_segment(segment, at, bytes)  writes into one of its shared segments, or past it
 *   make_dsm(bytes, pinned), unpin_dsm()  a DSM segment that stays, for the session or for good
 *   leak_context(bytes)                   a context below TopMemoryContext that nobody deletes
 *   leak_in_top(bytes)                    memory in TopMemoryContext itself that nobody frees
 *   hold_pointer(), hold_text()           read in each call what the one before left in a context
 * that was reset since: through a pointer, and as it is unchecked_malloc(bytes) writes to what
 * malloc() returned, whatever that is; checked_malloc(bytes) looks before watch(by) what the kernel
 * does to a process when a probe with a reference counter comes (1) and goes (-1)
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "storage/dsm.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "../../compat.h"

PG_MODULE_MAGIC;

extern PGDLLEXPORT void _PG_init(void);

PG_FUNCTION_INFO_V1(buggy_watch);
PG_FUNCTION_INFO_V1(buggy_marker_begins_with_nop);
PG_FUNCTION_INFO_V1(buggy_write_to_segment);
PG_FUNCTION_INFO_V1(buggy_make_dsm);
PG_FUNCTION_INFO_V1(buggy_unpin_dsm);
PG_FUNCTION_INFO_V1(buggy_leak_context);
PG_FUNCTION_INFO_V1(buggy_leak_in_top);
PG_FUNCTION_INFO_V1(buggy_hold_pointer);
PG_FUNCTION_INFO_V1(buggy_hold_text);
PG_FUNCTION_INFO_V1(buggy_unchecked_malloc);
PG_FUNCTION_INFO_V1(buggy_checked_malloc);

/* As far as write_to_segment() goes: into what aligning leaves over, never to a neighbour. */
#define BEYOND 24

/* In the order in which they are made; 1000 bytes leave 24 to the next cache line. */
static struct {
  const char *name;
  Size size;
  char *start;
} segments[] = {
    {"buggy first", 1000, NULL},    {"buggy second", 1000, NULL},
    {"buggy full", 1024, NULL},                                    /* leaves nothing */
    {"buggy full too", 1024, NULL}, {"buggy reserve", 2048, NULL}, /* uses its first 1500 bytes */
};

static shmem_request_hook_type prev_shmem_request_hook;
static shmem_startup_hook_type prev_shmem_startup_hook;

static void shmem_request(void)
{
  if (prev_shmem_request_hook != NULL)
    prev_shmem_request_hook();
  for (int i = 0; i < (int)lengthof(segments); i++)
    RequestAddinShmemSpace(segments[i].size + PG_CACHE_LINE_SIZE);
}

static void shmem_startup(void)
{
  bool found;

  if (prev_shmem_startup_hook != NULL)
    prev_shmem_startup_hook();
  LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
  for (int i = 0; i < (int)lengthof(segments); i++)
    segments[i].start = ShmemInitStruct(segments[i].name, segments[i].size, &found);
  LWLockRelease(AddinShmemInitLock);
}

void _PG_init(void)
{
  if (!process_shared_preload_libraries_in_progress)
    return;
  PGMT_HOOK_SHMEM_REQUEST(prev_shmem_request_hook, shmem_request);
  prev_shmem_startup_hook = shmem_startup_hook;
  shmem_startup_hook = shmem_startup;
}

Datum buggy_watch(PG_FUNCTION_ARGS)
{
  volatile uint16 *watchers =
      (volatile uint16 *)load_external_function("pgmemtrace", "pgmemtrace_watchers", true, NULL);

  *watchers = (uint16)(*watchers + PG_GETARG_INT32(0));
  PG_RETURN_VOID();
}

Datum buggy_marker_begins_with_nop(PG_FUNCTION_ARGS)
{
  const unsigned char *code =
      (const unsigned char *)load_external_function("pgmemtrace", "pgmemtrace_request", true, NULL);
#if defined(__x86_64__)
  static const unsigned char nop[] = {0x90};
#elif defined(__aarch64__)
  static const unsigned char nop[] = {0x1f, 0x20, 0x03, 0xd5};
#endif

  PG_RETURN_BOOL(memcmp(code, nop, sizeof(nop)) == 0);
}

Datum buggy_write_to_segment(PG_FUNCTION_ARGS)
{
  char *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
  int32 at = PG_GETARG_INT32(1);
  bytea *bytes = PG_GETARG_BYTEA_PP(2);
  int64 end = (int64)at + VARSIZE_ANY_EXHDR(bytes);

  for (int i = 0; i < (int)lengthof(segments); i++) {
    if (strcmp(segments[i].name, name) != 0)
      continue;
    if (at < -BEYOND || end > (int64)segments[i].size + BEYOND)
      elog(ERROR, "that far is too far even for this extension");
    memcpy(segments[i].start + at, VARDATA_ANY(bytes), VARSIZE_ANY_EXHDR(bytes));
    PG_RETURN_VOID();
  }
  elog(ERROR, "there is no segment \"%s\"", name);
}

Datum buggy_make_dsm(PG_FUNCTION_ARGS)
{
  dsm_segment *segment = dsm_create(PG_GETARG_INT32(0), 0);

  dsm_pin_mapping(segment); /* outlives the statement */
  if (PG_GETARG_BOOL(1))
    dsm_pin_segment(segment); /* and the session */
  PG_RETURN_INT64(dsm_segment_handle(segment));
}

Datum buggy_unpin_dsm(PG_FUNCTION_ARGS)
{
  dsm_unpin_segment((dsm_handle)PG_GETARG_INT64(0));
  PG_RETURN_VOID();
}

Datum buggy_leak_context(PG_FUNCTION_ARGS)
{
  MemoryContext context =
      AllocSetContextCreate(TopMemoryContext, "buggy leak", ALLOCSET_SMALL_SIZES);

  (void)MemoryContextAlloc(context, PG_GETARG_INT32(0));
  PG_RETURN_VOID();
}

Datum buggy_leak_in_top(PG_FUNCTION_ARGS)
{
  (void)MemoryContextAlloc(TopMemoryContext, PG_GETARG_INT32(0));
  PG_RETURN_VOID();
}

/* Memory that lasts for one call, by a context that nobody else allocates in. */
static MemoryContext per_call(void)
{
  static MemoryContext context;

  if (context == NULL)
    context = AllocSetContextCreate(TopMemoryContext, "buggy per call", ALLOCSET_SMALL_SIZES);
  return context;
}

Datum buggy_hold_pointer(PG_FUNCTION_ARGS)
{
  static struct {
    int *value;
  } * held;
  int value = held == NULL ? 42 : *held->value;

  held = MemoryContextAlloc(per_call(), sizeof(*held));
  held->value = MemoryContextAlloc(per_call(), sizeof(*held->value));
  *held->value = value;
  MemoryContextReset(per_call());
  PG_RETURN_INT32(value);
}

Datum buggy_hold_text(PG_FUNCTION_ARGS)
{
  static char *held;
  char text[12] = "remembered";

  if (held != NULL)
    memcpy(text, held, sizeof(text) - 1);
  held = MemoryContextStrdup(per_call(), text);
  MemoryContextReset(per_call());
  PG_RETURN_TEXT_P(cstring_to_text(text));
}

/* Through a volatile pointer: what is freed unread, a compiler does not even write. */
static int32 fill_and_free(char *volatile memory, int32 bytes)
{
  int32 sum = 0;

  for (int32 i = 0; i < bytes; i++)
    memory[i] = (char)i;
  for (int32 i = 0; i < bytes; i++)
    sum += memory[i];
  free(memory);
  return sum;
}

Datum buggy_unchecked_malloc(PG_FUNCTION_ARGS)
{
  int32 bytes = PG_GETARG_INT32(0);

  PG_RETURN_INT32(fill_and_free(malloc(bytes), bytes));
}

Datum buggy_checked_malloc(PG_FUNCTION_ARGS)
{
  int32 bytes = PG_GETARG_INT32(0);
  char *memory = malloc(bytes);

  if (memory == NULL)
    ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory")));
  PG_RETURN_INT32(fill_and_free(memory, bytes));
}
