/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * sentinels.c - the guards of guards.c, in SQL: who is guarded, and what was found.
 */
#include "guards.h"

#include "compat.h"
#include "fmgr.h"
#include "storage/shmem.h"
#include "utils/builtins.h"

PG_FUNCTION_INFO_V1(pgmt_register_shmem_probe);
PG_FUNCTION_INFO_V1(pgmt_check_shmem_sentinels);
PG_FUNCTION_INFO_V1(pgmt_clear_shmem_registry);

PgmtSentinels *pgmt_sentinels = NULL;

Size pgmt_sentinels_size(void) { return sizeof(PgmtSentinels); }

void pgmt_sentinels_startup(void)
{
  bool found;

  pgmt_sentinels = ShmemInitStruct("pgmemtrace sentinels", sizeof(PgmtSentinels), &found);
  if (!found)
    MemSet(pgmt_sentinels, 0, sizeof(PgmtSentinels));
}

/* Without the lock: a statement too many or too few that is remembered does not matter. */
bool pgmt_sentinels_stand(void) { return pgmt_sentinels != NULL && pgmt_sentinels->count > 0; }

bool pgmt_guards_changed(void)
{
  bool changed = false;

  if (!pgmt_sentinels_stand())
    return false;
  LWLockAcquire(pgmt_lock(PGMT_SENTINELS_LOCK), LW_SHARED);
  for (int i = 0; i < pgmt_sentinels->count && !changed; i++)
    changed = pgmt_guard_changed(&pgmt_sentinels->guards[i]);
  LWLockRelease(pgmt_lock(PGMT_SENTINELS_LOCK));
  return changed;
}

void pgmt_check_sentinels(void)
{
  List *findings = NIL;
  ListCell *cell;

  if (!pgmt_sentinels_stand())
    return;
  LWLockAcquire(pgmt_lock(PGMT_SENTINELS_LOCK), LW_EXCLUSIVE);
  for (int i = 0; i < pgmt_sentinels->count; i++) {
    if (pgmt_guard_look(&pgmt_sentinels->guards[i]))
      findings = lappend(findings, pstrdup(pgmt_sentinels->guards[i].finding));
  }
  LWLockRelease(pgmt_lock(PGMT_SENTINELS_LOCK));

  foreach (cell, findings) {
    char *finding = lfirst(cell);

    (void)pgmt_log_append(finding, strlen(finding));
    ereport(LOG, (errmsg("pgmemtrace: a shared memory segment was overrun"),
                  errdetail_internal("%s", finding)));
  }
}

char *pgmt_sentinel_violations(TimestampTz since)
{
  StringInfoData array;

  initStringInfo(&array);
  appendStringInfoChar(&array, '[');
  LWLockAcquire(pgmt_lock(PGMT_SENTINELS_LOCK), LW_SHARED);
  for (int i = 0; i < pgmt_sentinels->count; i++) {
    const PgmtGuard *guard = &pgmt_sentinels->guards[i];

    if (guard->finding[0] != '\0' && guard->found_at >= since)
      appendStringInfo(&array, "%s%s", array.len > 1 ? "," : "", guard->finding);
  }
  LWLockRelease(pgmt_lock(PGMT_SENTINELS_LOCK));
  appendStringInfoChar(&array, ']');
  return array.data;
}

/* check_shmem_sentinels(): looks, and shows every guard. */
Datum pgmt_check_shmem_sentinels(PG_FUNCTION_ARGS)
{
  ReturnSetInfo *result = (ReturnSetInfo *)fcinfo->resultinfo;
  PgmtSentinels *copy;

  pgmt_require_preloaded();
  pgmt_check_sentinels();
  InitMaterializedSRF(fcinfo, 0);
  copy = palloc(sizeof(PgmtSentinels));
  LWLockAcquire(pgmt_lock(PGMT_SENTINELS_LOCK), LW_SHARED);
  memcpy(copy, pgmt_sentinels, sizeof(PgmtSentinels));
  LWLockRelease(pgmt_lock(PGMT_SENTINELS_LOCK));
  for (int i = 0; i < copy->count; i++) {
    const PgmtGuard *guard = &copy->guards[i];
    bool found = guard->finding[0] != '\0';
    Datum values[6] = {0};
    bool nulls[6] = {
        guard->below[0] == '\0', guard->above[0] == '\0', false, false, !found, !found};

    if (!nulls[0])
      values[0] = CStringGetTextDatum(guard->below);
    if (!nulls[1])
      values[1] = CStringGetTextDatum(guard->above);
    values[2] = Int32GetDatum((int32)(guard->high - guard->low));
    values[3] = BoolGetDatum(pgmt_guard_is_intact(guard));
    if (found) {
      values[4] = TimestampTzGetDatum(guard->found_at);
      values[5] = DirectFunctionCall1(jsonb_in, CStringGetDatum(pgmt_from_utf8(guard->finding)));
    }
    tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
  }
  return (Datum)0;
}

/* register_shmem_probe(segment, used_bytes, used_offset) */
Datum pgmt_register_shmem_probe(PG_FUNCTION_ARGS)
{
  PgmtSegment segment = {0};
  PgmtSegment below = {0};
  PgmtSegment above = {0};
  char *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
  int64 offset = PG_ARGISNULL(2) ? 0 : PG_GETARG_INT64(2);
  int64 used;
  char *front;
  char *first;
  char *end;
  char *back;
  TupleDesc row;
  Datum values[2];
  bool nulls[2] = {false};

  pgmt_require_preloaded();
  if (get_call_result_type(fcinfo, NULL, &row) != TYPEFUNC_COMPOSITE)
    elog(ERROR, "return type must be a row type");
  if (!pgmt_find_segment(name, &segment, &below, &above))
    ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT),
                    errmsg("there is no segment \"%s\" in shared memory", name),
                    errhint("pg_shmem_allocations shows those with a name.")));
  used = PG_ARGISNULL(1) ? (int64)segment.size - offset : PG_GETARG_INT64(1);
  if (offset < 0 || used <= 0 || offset > (int64)segment.size ||
      used > (int64)segment.size - offset)
    ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                    errmsg("the bytes in use must lie within segment \"%s\"", segment.name),
                    errdetail("It has %zu bytes.", segment.size)));

  first = segment.start + offset;
  end = first + used;
  front = below.name[0] == '\0' ? segment.start : below.start + below.size;
  back = segment.start + segment.allocated;
  if (front == first && end == back)
    ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                    errmsg("there is no room for a guard beside segment \"%s\"", segment.name),
                    errdetail("Its %zu bytes leave nothing to be aligned.", segment.size),
                    errhint("Ask for more bytes than you use, and name those in use.")));

  pgmt_check_sentinels(); /* a guard that is widened forgets what it expected */
  LWLockAcquire(pgmt_lock(PGMT_SENTINELS_LOCK), LW_EXCLUSIVE);
  /* All is checked before anything is written. */
  if (pgmt_sentinels->count > PGMT_MAX_GUARDS - 2)
    ereport(ERROR,
            (errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
             errmsg("there are %d guards, and no more can be set up", pgmt_sentinels->count)));
  pgmt_guard_require_none(&segment, first, end);
  pgmt_guard_require_room(segment.start, front, first, &segment);
  pgmt_guard_require_room(back, end, back, &segment);
  values[0] = Int32GetDatum(pgmt_guard_set_up(segment.start, front, first, &below, &segment));
  values[1] = Int32GetDatum(pgmt_guard_set_up(back, end, back, &segment, &above));
  LWLockRelease(pgmt_lock(PGMT_SENTINELS_LOCK));
  PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(row), values, nulls)));
}

/* clear_shmem_registry(): the guards' bytes are zero again, but for those that others wrote. */
Datum pgmt_clear_shmem_registry(PG_FUNCTION_ARGS)
{
  pgmt_require_preloaded();
  pgmt_check_sentinels();
  LWLockAcquire(pgmt_lock(PGMT_SENTINELS_LOCK), LW_EXCLUSIVE);
  for (int i = 0; i < pgmt_sentinels->count; i++)
    pgmt_guard_take_down(&pgmt_sentinels->guards[i]);
  pgmt_sentinels->count = 0;
  LWLockRelease(pgmt_lock(PGMT_SENTINELS_LOCK));
  PG_RETURN_VOID();
}
