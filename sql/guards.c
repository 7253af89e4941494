/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * guards.c - guard bytes: set up, looked at, taken down; see guards.h.
 */
#include "guards.h"

#include "port/pg_crc32c.h"
#include "utils/json.h"

/* Of one guard: each look reads them all. */
#define MAX_GUARD_BYTES (64 * 1024)
/* Of the bytes that changed; as many are quoted. */
#define QUOTED_BYTES 16

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

static Damage damage_of(const PgmtGuard *guard)
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

bool pgmt_guard_is_intact(const PgmtGuard *guard) { return damage_of(guard).first == NULL; }

/*
 * Which neighbour wrote: the one from whose end the damage reaches into the guard, in doubt the one
 * below.  A byte that was overwritten by its like is no doubt yet.
 */
static bool came_from_above(const PgmtGuard *guard, const Damage *damage)
{
  if (guard->above[0] == '\0')
    return false;
  return guard->below[0] == '\0' || guard->high - damage->last < damage->first - guard->low;
}

static void describe(const PgmtGuard *guard, const Damage *damage, StringInfo out)
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
  if (pgmt_culprit != NULL && pgmt_culprit->function[0] != '\0')
    appendStringInfo(out, "; seen when %s%s%s%s returned", pgmt_culprit->function,
                     pgmt_culprit->module[0] != '\0' ? " (" : "", pgmt_culprit->module,
                     pgmt_culprit->module[0] != '\0' ? ")" : "");
  appendStringInfoString(out, "; last statements: ");
  pgmt_append_last_statements(out);
}

static void write_finding(PgmtGuard *guard, const Damage *damage)
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
  if (pgmt_culprit != NULL && pgmt_culprit->function[0] != '\0') {
    appendStringInfoString(&json, ",\"stack\":[{\"function\":");
    escape_json(&json, pgmt_culprit->function);
    appendStringInfoString(&json, ",\"module\":");
    escape_json(&json, pgmt_culprit->module);
    appendStringInfoString(&json, "}],\"module\":");
    escape_json(&json, pgmt_culprit->module);
  }
  appendStringInfoChar(&json, '}');
  Assert(json.len < PGMT_MAX_FINDING);
  strlcpy(guard->finding, json.data, sizeof(guard->finding));
}

bool pgmt_guard_changed(const PgmtGuard *guard)
{
  pg_crc32c crc = checksum(guard->low, guard->high);

  return !EQ_CRC32C(crc, guard->expected);
}

bool pgmt_guard_look(PgmtGuard *guard)
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

/* ---- setting up and taking down ---- */

static PgmtGuard *guard_at(const char *boundary)
{
  for (int i = 0; i < pgmt_sentinels->count; i++) {
    if (pgmt_sentinels->guards[i].boundary == boundary)
      return &pgmt_sentinels->guards[i];
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

void pgmt_guard_require_room(const char *boundary, const char *low, const char *high,
                             const PgmtSegment *segment)
{
  const PgmtGuard *guard = guard_at(boundary);

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

int32 pgmt_guard_set_up(char *boundary, char *low, char *high, const PgmtSegment *below,
                        const PgmtSegment *above)
{
  PgmtGuard *guard = guard_at(boundary);

  if (low >= high)
    return 0;
  if (guard == NULL) {
    guard = &pgmt_sentinels->guards[pgmt_sentinels->count];
    MemSet(guard, 0, sizeof(*guard));
    strlcpy(guard->below, below->name, sizeof(guard->below));
    strlcpy(guard->above, above->name, sizeof(guard->above));
    guard->below_start = below->start;
    guard->boundary = boundary;
    guard->low = low;
    guard->high = high;
    put_guard_bytes(low, high);
    pgmt_sentinels->count++;
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

void pgmt_guard_require_none(const PgmtSegment *segment, const char *first, const char *end)
{
  for (int i = 0; i < pgmt_sentinels->count; i++) {
    const PgmtGuard *guard = &pgmt_sentinels->guards[i];

    if (guard->low < end && guard->high > first)
      ereport(ERROR, (errcode(ERRCODE_OBJECT_IN_USE),
                      errmsg("segment \"%s\" is guarded with fewer bytes in use", segment->name),
                      errhint("pgmemtrace.clear_shmem_registry() takes all guards down.")));
  }
}

void pgmt_guard_take_down(PgmtGuard *guard)
{
  for (char *at = guard->low; at < guard->high; at++) {
    if (*at == guard_byte(at))
      *at = 0;
  }
}
