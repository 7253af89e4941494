/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * wipe.c - memory contexts overwrite what they held when they are reset or deleted.
 *
 * As builds with assertions do (CLOBBER_FREED_MEMORY, utils/mmgr/memdebug.c), so that core itself
 * is known to live with it: who follows a pointer into such memory finds 0x7f7f..., which is no
 * address.
 *
 * A stock server is made to do it through its method tables: each type of context has one, and a
 * context points to it. They are constant, in pages that the linker had made read-only; these are
 * made writable and `reset` and `delete_context` (and `free_p`) replaced, before the first child is
 * forked.
 */
#include "faults.h"

#include <sys/mman.h>
#include <unistd.h>

#include "nodes/memnodes.h"
#include "utils/memutils.h"
#if PG_VERSION_NUM >= 160000
#include "utils/memutils_memorychunk.h"
#endif

#include "ranges.h"

#define WIPED 0x7F

int pgmt_wipe = PGMT_WIPE_OFF;

static MemoryContextMethods originals[PGMT_BUMP + 1];

static PgmtContextType type_of(MemoryContext context)
{
  switch (nodeTag(context)) {
  case T_GenerationContext: return PGMT_GENERATION;
  case T_SlabContext: return PGMT_SLAB;
#if PG_VERSION_NUM >= 170000
  case T_BumpContext: return PGMT_BUMP;
#endif
  default: return PGMT_ALLOC_SET;
  }
}

static void overwrite(char *start, char *end, void *state) { memset(start, WIPED, end - start); }

static void wipe(MemoryContext context)
{
  if (pgmt_wipe != PGMT_WIPE_OFF)
    pgmt_used_ranges(context, type_of(context), overwrite, NULL);
}

static void wiping_reset(MemoryContext context)
{
  wipe(context);
  originals[type_of(context)].reset(context);
}

static void wiping_delete(MemoryContext context)
{
  wipe(context);
  originals[type_of(context)].delete_context(context);
}

/* ---- wipe = all: what is given back chunk by chunk ---- */

static Size payload(void *pointer, PgmtContextType type)
{
  Size size = GetMemoryChunkSpace(pointer) - pgmt_chunk_header(type);

#if PG_VERSION_NUM >= 160000
  /* AllocSetGetChunkSpace() counts the header of a block that is one chunk's own. */
  if (type == PGMT_ALLOC_SET && MemoryChunkIsExternal(PointerGetMemoryChunk(pointer)))
    size -= pgmt_block_header(type);
#endif
  return size;
}

static void wipe_chunk(void *pointer, PgmtContextType type)
{
  if (pgmt_wipe == PGMT_WIPE_ALL)
    memset(pointer, WIPED, payload(pointer, type));
}

#if PG_VERSION_NUM >= 160000
/* One function per type: the table that led here is all that says which. */
#define WIPING_FREE(name, type)                                                                    \
  static void name(void *pointer)                                                                  \
  {                                                                                                \
    wipe_chunk(pointer, type);                                                                     \
    originals[type].free_p(pointer);                                                               \
  }
WIPING_FREE(wiping_free_alloc_set, PGMT_ALLOC_SET)
WIPING_FREE(wiping_free_generation, PGMT_GENERATION)
WIPING_FREE(wiping_free_slab, PGMT_SLAB)
#else
static void wiping_free(MemoryContext context, void *pointer)
{
  wipe_chunk(pointer, type_of(context));
  originals[type_of(context)].free_p(context, pointer);
}
#define wiping_free_alloc_set wiping_free
#define wiping_free_generation wiping_free
#define wiping_free_slab wiping_free
#endif

/* ---- installing it ---- */

typedef struct {
  char *start, *end; /* a chunk */
  bool found;        /* in one of the ranges, as a whole */
  Size ranges_bytes;
} Search;

static void look(char *start, char *end, void *state)
{
  Search *search = state;

  if (end < start)
    elog(FATAL, "pgmemtrace_faults: the blocks of this server are not laid out as those of "
                "PostgreSQL " PG_VERSION);
  search->ranges_bytes += end - start;
  if (search->start >= start && search->end <= end)
    search->found = true;
}

static void expect(bool holds, MemoryContext context)
{
  if (!holds)
    ereport(FATAL,
            (errmsg("pgmemtrace_faults cannot wipe the contexts of this server: \"%s\" is not laid "
                    "out as PostgreSQL %s does it",
                    context->name, PG_MAJORVERSION)));
}

/* Does the layout hold?  Every chunk is found, and no more than the context says it has. */
static void check_layout(MemoryContext context, const Size *sizes, int count)
{
  PgmtContextType type = type_of(context);

  for (int i = 0; i < count; i++) {
    char *chunk = MemoryContextAlloc(context, sizes[i]);
    Search search = {chunk, chunk + sizes[i], false, 0};

    memset(chunk, 0, sizes[i]);
    pgmt_used_ranges(context, type, look, &search);
    expect(search.found && search.ranges_bytes <= context->mem_allocated, context);
  }
}

static void make_writable(void *start, Size size)
{
  long page = sysconf(_SC_PAGESIZE);
  uintptr_t first = (uintptr_t)start & ~((uintptr_t)page - 1);

  if (mprotect((void *)first, (uintptr_t)start + size - first, PROT_READ | PROT_WRITE) != 0)
    ereport(FATAL, (errmsg("pgmemtrace_faults cannot change the methods of contexts: %m")));
}

static void replace_methods(MemoryContext context)
{
  PgmtContextType type = type_of(context);
  MemoryContextMethods *methods = unconstify(MemoryContextMethods *, context->methods);

  originals[type] = *methods;
  make_writable(methods, sizeof(*methods));
  methods->reset = wiping_reset;
  methods->delete_context = wiping_delete;
  if (type == PGMT_ALLOC_SET)
    methods->free_p = wiping_free_alloc_set;
  else if (type == PGMT_GENERATION)
    methods->free_p = wiping_free_generation;
  else if (type == PGMT_SLAB)
    methods->free_p = wiping_free_slab;
}

static void overwritten(char *start, char *end, void *state)
{
  bool *all = state;

  for (char *at = start; at < end; at++)
    *all = *all && *at == WIPED;
}

/* Does it work?  Looked at between the wiping and the original's work, which gives blocks back. */
static void check_wiping(MemoryContext context)
{
  PgmtContextType type = type_of(context);
  bool all = true;

  pgmt_wipe = PGMT_WIPE_ON;
  wipe(context);
  pgmt_used_ranges(context, type, overwritten, &all);
  expect(all, context);
  MemoryContextReset(context);
  memset(MemoryContextAlloc(context, 64), 0, 64);
  MemoryContextDelete(context);
  pgmt_wipe = PGMT_WIPE_OFF;
}

void pgmt_install_wiping(void)
{
  static const Size any[] = {1, 64, 1000, 4000, 8000, 100 * 1000, 1000 * 1000, 16};
  static const Size one[] = {64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64};
  MemoryContext contexts[] = {
    AllocSetContextCreate(TopMemoryContext, "pgmemtrace_faults aset", ALLOCSET_DEFAULT_SIZES),
#if PG_VERSION_NUM >= 150000
    GenerationContextCreate(TopMemoryContext, "pgmemtrace_faults generation",
                            ALLOCSET_DEFAULT_SIZES),
#else
    GenerationContextCreate(TopMemoryContext, "pgmemtrace_faults generation",
                            SLAB_DEFAULT_BLOCK_SIZE),
#endif
    SlabContextCreate(TopMemoryContext, "pgmemtrace_faults slab", 1024, 64),
#if PG_VERSION_NUM >= 170000
    BumpContextCreate(TopMemoryContext, "pgmemtrace_faults bump", ALLOCSET_DEFAULT_SIZES),
#endif
  };

  for (int i = 0; i < (int)lengthof(contexts); i++)
    if (type_of(contexts[i]) == PGMT_SLAB)
      check_layout(contexts[i], one, lengthof(one));
    else
      check_layout(contexts[i], any, lengthof(any));
  for (int i = 0; i < (int)lengthof(contexts); i++)
    replace_methods(contexts[i]);
  for (int i = 0; i < (int)lengthof(contexts); i++)
    check_wiping(contexts[i]);
}
