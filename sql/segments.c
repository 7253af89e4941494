/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * segments.c - where a segment of shared memory lies, and what lies beside it.
 *
 * ShmemIndex itself is static (storage/ipc/shmem.c); pg_get_shmem_allocations() shows its
 * offsets and sizes, and ShmemInitStruct() the address of a segment that is there.
 */
#include "pgmemtrace.h"

#include "catalog/pg_authid.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/shmem.h"
#include "utils/builtins.h"

static const char *const query =
    "SELECT s.off, s.size, s.allocated_size, b.name, b.size, b.allocated_size,"
    "       a.name, a.size, a.allocated_size"
    "  FROM pg_catalog.pg_get_shmem_allocations() s"
    "  LEFT JOIN pg_catalog.pg_get_shmem_allocations() b"
    "         ON b.off + b.allocated_size = s.off AND b.allocated_size > 0"
    "  LEFT JOIN pg_catalog.pg_get_shmem_allocations() a"
    "         ON a.off = s.off + s.allocated_size AND a.allocated_size > 0"
    " WHERE s.name = $1 AND s.off IS NOT NULL";

static int64 number(int column)
{
  bool is_null;
  Datum value = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, column, &is_null);

  return is_null ? 0 : DatumGetInt64(value);
}

/* From the columns that begin there: name, size, allocated_size.  Not there: no name. */
static PgmtSegment neighbour(int column)
{
  PgmtSegment segment = {0};
  char *name = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, column);

  if (name != NULL) {
    strlcpy(segment.name, name, sizeof(segment.name));
    segment.size = (Size)number(column + 1);
    segment.allocated = (Size)number(column + 2);
  }
  return segment;
}

/* Under a role that may see the allocations; the caller's path is pinned by its SQL function. */
static bool read_allocations(const char *name, PgmtSegment *segment, PgmtSegment *below,
                             PgmtSegment *above)
{
  Oid types[] = {TEXTOID};
  Datum values[] = {CStringGetTextDatum(name)};
  Oid user;
  int context;
  bool there;

  GetUserIdAndSecContext(&user, &context);
  SetUserIdAndSecContext(BOOTSTRAP_SUPERUSERID, context | SECURITY_LOCAL_USERID_CHANGE);
  if (SPI_connect() != SPI_OK_CONNECT ||
      SPI_execute_with_args(query, 1, types, values, NULL, true, 1) != SPI_OK_SELECT)
    elog(ERROR, "could not read the shared memory allocations");
  there = SPI_processed > 0;
  if (there) {
    strlcpy(segment->name, name, sizeof(segment->name));
    segment->size = (Size)number(2);
    segment->allocated = (Size)number(3);
    *below = neighbour(4);
    *above = neighbour(7);
  }
  SPI_finish();
  SetUserIdAndSecContext(user, context);
  return there;
}

bool pgmt_find_segment(const char *name, PgmtSegment *segment, PgmtSegment *below,
                       PgmtSegment *above)
{
  bool found;

  if (strlen(name) >= sizeof(segment->name) || !read_allocations(name, segment, below, above))
    return false;
  /* Entries of ShmemIndex stay: this finds, and makes nothing. */
  segment->start = ShmemInitStruct(name, segment->size, &found);
  if (!found)
    elog(ERROR, "segment \"%s\" was there a moment ago", name);
  if (below->name[0] != '\0')
    below->start = segment->start - below->allocated;
  if (above->name[0] != '\0')
    above->start = segment->start + segment->allocated;
  return true;
}
