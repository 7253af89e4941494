/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * sentinels.c - guard bytes between segments of shared memory.
 *
 *   |  segment A, in use  | reserve |align| front |  segment B, in use  | reserve |align|
 *                         ^-------- guard --------^                     ^---- guard ----^
 *                                         ^ boundary                                    ^ boundary
 *
 * A guard stands at the boundary of two segments, in bytes that nobody uses: what aligning to a
 * cache line leaves over (storage/ipc/shmem.c rounds sizes up to it), and what the owner of a
 * segment says that it keeps in reserve.  One that is written to from its low end is an overrun
 * of the segment below, from its high end an under-run of the one above.
 *
 * Guards are written when they are set up, if all their bytes are zero as the server left them,
 * and never again: what was found changed is reported once and is from then on what is expected.
 */
#include "pgmemtrace.h"

#include "compat.h"
#include "fmgr.h"
#include "port/pg_crc32c.h"
#include "storage/shmem.h"
#include "utils/builtins.h"
#include "utils/json.h"

#define MAX_GUARDS 64
/* Of one guard: each look reads them all. */
#define MAX_GUARD_BYTES (64 * 1024)
/* Of the bytes that changed; as many are quoted. */
#define QUOTED_BYTES 16
/* A finding as JSON, with the last statements in it: quotes and backslashes doubled. */
#define MAX_FINDING 4096

PG_FUNCTION_INFO_V1(pgmt_register_shmem_probe);
PG_FUNCTION_INFO_V1(pgmt_check_shmem_sentinels);
PG_FUNCTION_INFO_V1(pgmt_clear_shmem_registry);

typedef struct Guard {
  char below[PGMT_SEGMENT_NAME_BYTES]; /* empty: nothing that has a name */
  char above[PGMT_SEGMENT_NAME_BYTES];
  char *below_start;
  char *boundary;
  char *low; /* guard bytes are [low, high) */
  char *high;
  pg_crc32c expected;
  TimestampTz found_at; /* of the finding, if there is one */
  char finding[MAX_FINDING];
} Guard;

typedef struct Sentinels {
  int count;
  Guard guards[MAX_GUARDS];
} Sentinels;

static Sentinels *sentinels = NULL;

Size pgmt_sentinels_size(void) { return sizeof(Sentinels); }

void pgmt_sentinels_startup(void)
{
  bool found;

  sentinels = ShmemInitStruct("pgmemtrace sentinels", sizeof(Sentinels), &found);
  if (!found)
    MemSet(sentinels, 0, sizeof(Sentinels));
}

/* Without the lock: a statement too many or too few that is remembered does not matter. */
bool pgmt_sentinels_stand(void) { return sentinels != NULL && sentinels->count > 0; }

/* Not one value for all: a memset of it would go unseen.  Never zero, the end of each string. */
static char guard_byte(const char *address) { return (char)(0xDE ^ ((uintptr_t)address & 7)); }

static pg_crc32c checksum(const char *low, const char *high)
{
  pg_crc32c crc;

  INIT_CRC32C(crc);
  COMP_CRC32C(crc, low, high - low);
  FIN_CRC32C(crc);
  return crc;
}

/* ---- looking ---- */

/* What is not as it was written. */
typedef struct Damage {
  const char *first; /* NULL: nothing */
  const char *last;
  int bytes;
} Damage;

static Damage damage_of(const Guard *guard)
{
  Damage damage = {NULL, NULL, 0};

  for (const char *at = guard->low; at < guard->high; at++) {
    if (*at == guard_byte(at))
      continue;
    if (damage.first == NULL)
      damage.first = at;
    damage.last = at;
    damage.bytes++;
  }
  return damage;
}

/* Which neighbour wrote: the one from whose end the damage reaches into the guard. */
static bool came_from_above(const Guard *guard, const Damage *damage)
{
  if (guard->above[0] == '\0')
    return false;
  return guard->below[0] == '\0' || guard->high - damage->last < damage->first - guard->low;
}

static void describe(const Guard *guard, const Damage *damage, StringInfo out)
{
  bool underrun = came_from_above(guard, damage);
  const char *origin = underrun ? guard->boundary : guard->below_start;
  const char *edge = underrun ? guard->high : guard->low;

  appendStringInfo(
      out, "%d %s changed %s segment \"%s\", from offset %ld to %ld (its memory %s at %ld):",
      damage->bytes, damage->bytes == 1 ? "byte" : "bytes",
      underrun ? "before the start of" : "past the end of", underrun ? guard->above : guard->below,
      (long)(damage->first - origin), (long)(damage->last - origin), underrun ? "begins" : "ends",
      (long)(edge - origin));
  for (const char *at = damage->first; at <= damage->last; at++) {
    if (at == damage->first + QUOTED_BYTES) {
      appendStringInfoString(out, " ...");
      break;
    }
    appendStringInfo(out, " %02x", (unsigned char)*at);
  }
  if (!underrun && guard->above[0] != '\0')
    appendStringInfo(out, "; segment \"%s\" begins at %ld", guard->above,
                     (long)(guard->boundary - origin));
  else if (underrun && guard->below[0] != '\0')
    appendStringInfo(out, "; segment \"%s\" is below", guard->below);
  appendStringInfoString(out, "; last statements: ");
  pgmt_append_last_statements(out);
}

static void write_finding(Guard *guard, const Damage *damage)
{
  StringInfoData detail;
  StringInfoData json;

  initStringInfo(&detail);
  initStringInfo(&json);
  describe(guard, damage, &detail);
  guard->found_at = GetCurrentTimestamp();
  appendStringInfo(&json,
                   "{\"state\":\"raised\",\"time\":\"%s\",\"rule\":\"shmem_overrun\","
                   "\"severity\":\"ERROR\",\"context\":",
                   timestamptz_to_str(guard->found_at));
  escape_json(&json, came_from_above(guard, damage) ? guard->above : guard->below);
  appendStringInfoString(&json, ",\"detail\":");
  escape_json(&json, detail.data);
  appendStringInfoChar(&json, '}');
  Assert(json.len < MAX_FINDING);
  strlcpy(guard->finding, json.data, sizeof(guard->finding));
}

/* Is there something that was not there at the last look?  Under the lock. */
static bool look_at(Guard *guard)
{
  pg_crc32c crc = checksum(guard->low, guard->high);
  Damage damage;

  if (EQ_CRC32C(crc, guard->expected))
    return false;
  guard->expected = crc;
  damage = damage_of(guard);
  if (damage.first == NULL)
    return false; /* somebody put the guard's own bytes back */
  write_finding(guard, &damage);
  return true;
}

void pgmt_check_sentinels(void)
{
  List *findings = NIL;
  ListCell *cell;

  if (!pgmt_sentinels_stand())
    return;
  LWLockAcquire(pgmt_lock(PGMT_SENTINELS_LOCK), LW_EXCLUSIVE);
  for (int i = 0; i < sentinels->count; i++) {
    if (look_at(&sentinels->guards[i]))
      findings = lappend(findings, pstrdup(sentinels->guards[i].finding));
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
  for (int i = 0; i < sentinels->count; i++) {
    const Guard *guard = &sentinels->guards[i];

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
  Sentinels *copy;

  pgmt_require_preloaded();
  pgmt_check_sentinels();
  InitMaterializedSRF(fcinfo, 0);
  copy = palloc(sizeof(Sentinels));
  LWLockAcquire(pgmt_lock(PGMT_SENTINELS_LOCK), LW_SHARED);
  memcpy(copy, sentinels, sizeof(Sentinels));
  LWLockRelease(pgmt_lock(PGMT_SENTINELS_LOCK));
  for (int i = 0; i < copy->count; i++) {
    const Guard *guard = &copy->guards[i];
    bool found = guard->finding[0] != '\0';
    Datum values[6] = {0};
    bool nulls[6] = {
        guard->below[0] == '\0', guard->above[0] == '\0', false, false, !found, !found};

    if (!nulls[0])
      values[0] = CStringGetTextDatum(guard->below);
    if (!nulls[1])
      values[1] = CStringGetTextDatum(guard->above);
    values[2] = Int32GetDatum((int32)(guard->high - guard->low));
    values[3] = BoolGetDatum(damage_of(guard).first == NULL);
    if (found) {
      values[4] = TimestampTzGetDatum(guard->found_at);
      values[5] = DirectFunctionCall1(jsonb_in, CStringGetDatum(pgmt_from_utf8(guard->finding)));
    }
    tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
  }
  return (Datum)0;
}

/* ---- setting up and taking down: under the lock ---- */

static Guard *guard_at(const char *boundary)
{
  for (int i = 0; i < sentinels->count; i++) {
    if (sentinels->guards[i].boundary == boundary)
      return &sentinels->guards[i];
  }
  return NULL;
}

/* What is written already would be lost, and who wrote it may rely on it. */
static void require_zeros(const char *from, const char *to, const PgmtSegment *segment)
{
  for (const char *at = from; at < to; at++) {
    if (*at != 0)
      ereport(ERROR,
              (errcode(ERRCODE_OBJECT_IN_USE),
               errmsg("no guard can stand beside segment \"%s\"", segment->name),
               errdetail("The byte at offset %ld is %02x, and nobody should have written it.",
                         (long)(at - segment->start), (unsigned char)*at),
               errhint("Something writes out of bounds already, or the segment has more bytes in "
                       "use than was said.")));
  }
}

/* The bytes that a guard at this boundary has, and [low, high) besides, must be free. */
static void require_room(const char *boundary, const char *low, const char *high,
                         const PgmtSegment *segment)
{
  const Guard *guard = guard_at(boundary);

  if (high - low > MAX_GUARD_BYTES)
    ereport(ERROR,
            (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
             errmsg("the reserve of segment \"%s\" is too large to be guarded", segment->name),
             errdetail("It has %ld bytes, of at most %d.", (long)(high - low), MAX_GUARD_BYTES)));
  if (guard == NULL) {
    require_zeros(low, high, segment);
    return;
  }
  require_zeros(low, Min(high, guard->low), segment);
  require_zeros(Max(low, guard->high), high, segment);
}

static void put_guard_bytes(char *from, const char *to)
{
  for (char *at = from; at < to; at++)
    *at = guard_byte(at);
}

/* Sets up a guard, or widens the one that stands at this boundary.  Returns its bytes. */
static int32 set_up(char *boundary, char *low, char *high, const PgmtSegment *below,
                    const PgmtSegment *above)
{
  Guard *guard = guard_at(boundary);

  if (low >= high)
    return 0;
  if (guard == NULL) {
    guard = &sentinels->guards[sentinels->count];
    MemSet(guard, 0, sizeof(*guard));
    strlcpy(guard->below, below->name, sizeof(guard->below));
    strlcpy(guard->above, above->name, sizeof(guard->above));
    guard->below_start = below->start;
    guard->boundary = boundary;
    guard->low = low;
    guard->high = high;
    put_guard_bytes(low, high);
    sentinels->count++;
  } else {
    if (low < guard->low) {
      put_guard_bytes(low, guard->low);
      guard->low = low;
    }
    if (high > guard->high) {
      put_guard_bytes(guard->high, high);
      guard->high = high;
    }
  }
  guard->expected = checksum(guard->low, guard->high);
  return (int32)(guard->high - guard->low);
}

/* A guard in what is now said to be in use would be overwritten rightly. */
static void require_unguarded(const PgmtSegment *segment, const char *first, const char *end)
{
  for (int i = 0; i < sentinels->count; i++) {
    const Guard *guard = &sentinels->guards[i];

    if (guard->low < end && guard->high > first)
      ereport(ERROR, (errcode(ERRCODE_OBJECT_IN_USE),
                      errmsg("segment \"%s\" is guarded with fewer bytes in use", segment->name),
                      errhint("pgmemtrace.clear_shmem_registry() takes all guards down.")));
  }
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
  if (sentinels->count > MAX_GUARDS - 2)
    ereport(ERROR, (errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
                    errmsg("there are %d guards, and no more can be set up", sentinels->count)));
  require_unguarded(&segment, first, end);
  require_room(segment.start, front, first, &segment);
  require_room(back, end, back, &segment);
  values[0] = Int32GetDatum(set_up(segment.start, front, first, &below, &segment));
  values[1] = Int32GetDatum(set_up(back, end, back, &segment, &above));
  LWLockRelease(pgmt_lock(PGMT_SENTINELS_LOCK));
  PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(row), values, nulls)));
}

/* clear_shmem_registry(): the guards' bytes are zero again, but for those that others wrote. */
Datum pgmt_clear_shmem_registry(PG_FUNCTION_ARGS)
{
  pgmt_require_preloaded();
  pgmt_check_sentinels();
  LWLockAcquire(pgmt_lock(PGMT_SENTINELS_LOCK), LW_EXCLUSIVE);
  for (int i = 0; i < sentinels->count; i++) {
    Guard *guard = &sentinels->guards[i];

    for (char *at = guard->low; at < guard->high; at++) {
      if (*at == guard_byte(at))
        *at = 0;
    }
  }
  sentinels->count = 0;
  LWLockRelease(pgmt_lock(PGMT_SENTINELS_LOCK));
  PG_RETURN_VOID();
}
