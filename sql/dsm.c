/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * dsm.c - DSM handles that somebody wants to follow: are they still alive, and how large?
 *
 * Asked when it is read, by attaching for a moment, as any backend may (storage/ipc/dsm.c).
 */
#include "pgmemtrace.h"

#include "compat.h"
#include "fmgr.h"
#include "storage/dsm.h"
#include "storage/shmem.h"
#include "utils/builtins.h"

#define MAX_TRACKED 128

PG_FUNCTION_INFO_V1(pgmt_track_dsm_handle);
PG_FUNCTION_INFO_V1(pgmt_dsm_tracking);
PG_FUNCTION_INFO_V1(pgmt_clear_dsm_tracking);

typedef struct Tracked {
  dsm_handle handle;
  int backend_pid; /* who asked to follow it */
  TimestampTz since;
  int64 bytes; /* when it was last seen alive */
} Tracked;

typedef struct Tracking {
  int count;
  Tracked segments[MAX_TRACKED];
} Tracking;

static Tracking *tracking = NULL;

Size pgmt_dsm_size(void) { return sizeof(Tracking); }

void pgmt_dsm_startup(void)
{
  bool found;

  tracking = ShmemInitStruct("pgmemtrace DSM handles", sizeof(Tracking), &found);
  if (!found)
    tracking->count = 0;
}

/* Its size in bytes, -1 if it is gone. */
static int64 size_of(dsm_handle handle)
{
  dsm_segment *mapped = dsm_find_mapping(handle);
  dsm_segment *attached;
  int64 bytes;

  /* Attaching twice is an error; one that this backend has needs no attaching. */
  if (mapped != NULL)
    return (int64)dsm_segment_map_length(mapped);
  attached = dsm_attach(handle);
  if (attached == NULL)
    return -1;
  bytes = (int64)dsm_segment_map_length(attached);
  dsm_detach(attached);
  return bytes;
}

static Tracked *find(dsm_handle handle)
{
  for (int i = 0; i < tracking->count; i++) {
    if (tracking->segments[i].handle == handle)
      return &tracking->segments[i];
  }
  return NULL;
}

Datum pgmt_track_dsm_handle(PG_FUNCTION_ARGS)
{
  int64 handle = PG_GETARG_INT64(0);
  int64 bytes;
  Tracked *tracked;

  pgmt_require_preloaded();
  if (handle <= 0 || handle > PG_UINT32_MAX)
    ereport(ERROR, (errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
                    errmsg("a DSM handle is a number from 1 to %u", PG_UINT32_MAX)));
  bytes = size_of((dsm_handle)handle);
  if (bytes < 0)
    ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT),
                    errmsg("there is no DSM segment with handle " INT64_FORMAT, handle)));

  LWLockAcquire(pgmt_lock(PGMT_DSM_LOCK), LW_EXCLUSIVE);
  tracked = find((dsm_handle)handle);
  if (tracked == NULL && tracking->count < MAX_TRACKED)
    tracked = &tracking->segments[tracking->count++];
  if (tracked != NULL) {
    tracked->handle = (dsm_handle)handle;
    tracked->backend_pid = MyProcPid;
    tracked->since = GetCurrentTimestamp();
    tracked->bytes = bytes;
  }
  LWLockRelease(pgmt_lock(PGMT_DSM_LOCK));
  if (tracked == NULL)
    ereport(ERROR, (errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
                    errmsg("%d DSM segments are tracked, and no more can be", MAX_TRACKED),
                    errhint("pgmemtrace.clear_dsm_tracking() forgets them.")));
  PG_RETURN_INT64(bytes);
}

Datum pgmt_dsm_tracking(PG_FUNCTION_ARGS)
{
  ReturnSetInfo *result = (ReturnSetInfo *)fcinfo->resultinfo;
  Tracking *copy;

  pgmt_require_preloaded();
  InitMaterializedSRF(fcinfo, 0);
  copy = palloc(sizeof(Tracking));
  LWLockAcquire(pgmt_lock(PGMT_DSM_LOCK), LW_SHARED);
  memcpy(copy, tracking, sizeof(Tracking));
  LWLockRelease(pgmt_lock(PGMT_DSM_LOCK));
  for (int i = 0; i < copy->count; i++) {
    const Tracked *tracked = &copy->segments[i];
    int64 bytes = size_of(tracked->handle);
    Datum values[5];
    bool nulls[5] = {false};

    values[0] = Int64GetDatum((int64)tracked->handle);
    values[1] = Int32GetDatum(tracked->backend_pid);
    values[2] = TimestampTzGetDatum(tracked->since);
    values[3] = Int64GetDatum(bytes < 0 ? tracked->bytes : bytes);
    values[4] = BoolGetDatum(bytes >= 0);
    tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
  }
  return (Datum)0;
}

Datum pgmt_clear_dsm_tracking(PG_FUNCTION_ARGS)
{
  pgmt_require_preloaded();
  LWLockAcquire(pgmt_lock(PGMT_DSM_LOCK), LW_EXCLUSIVE);
  tracking->count = 0;
  LWLockRelease(pgmt_lock(PGMT_DSM_LOCK));
  PG_RETURN_VOID();
}
