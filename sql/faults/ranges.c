/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * ranges.c - see ranges.h.
 *
 * The structs are private to utils/mmgr/{aset,generation,slab,bump}.c; wipe.c makes sure before it
 * uses this that they are laid out as bpf/layouts says.
 */
#include "pg_config.h"
#include "pg_config_manual.h"

#include <stddef.h>

#if PG_VERSION_NUM >= 190000
#error "bpf/layouts ends with PostgreSQL 18"
#elif PG_VERSION_NUM >= 180000
#include "pg18.h"
#elif PG_VERSION_NUM >= 170000
#include "pg17.h"
#elif PG_VERSION_NUM >= 160000
#include "pg16.h"
#elif PG_VERSION_NUM >= 150000
#include "pg15.h"
#elif PG_VERSION_NUM >= 140000
#include "pg14.h"
#else
#include "pg13.h"
#endif

#include "ranges.h"

#define MAXALIGNED(size) (((size) + MAXIMUM_ALIGNOF - 1) & ~((Size)MAXIMUM_ALIGNOF - 1))
#define OF_NODE(type, at) ((type *)((char *)(at)-offsetof(type, node)))

static void alloc_set_ranges(struct AllocSetContext *set, PgmtRange visit, void *state)
{
  for (struct AllocBlockData *block = set->blocks; block != NULL; block = block->next)
    visit((char *)block + pgmt_block_header(PGMT_ALLOC_SET), block->freeptr, state);
}

static void generation_ranges(struct GenerationContext *set, PgmtRange visit, void *state)
{
  struct dlist_node *head = &set->blocks.head;

  for (struct dlist_node *at = head->next; at != NULL && at != head; at = at->next) {
    struct GenerationBlock *block = OF_NODE(struct GenerationBlock, at);

    visit((char *)block + pgmt_block_header(PGMT_GENERATION), block->freeptr, state);
  }
}

/* Free chunks, too: a reset gives all blocks back and asks none of them what is in it. */
static void slab_list(struct SlabContext *slab, struct dlist_head *list, PgmtRange visit,
                      void *state)
{
  struct dlist_node *head = &list->head;

  for (struct dlist_node *at = head->next; at != NULL && at != head; at = at->next) {
    char *block = (char *)OF_NODE(struct SlabBlock, at);

    visit(block + pgmt_block_header(PGMT_SLAB), block + slab->blockSize, state);
  }
}

static void slab_ranges(struct SlabContext *slab, PgmtRange visit, void *state)
{
#if PG_VERSION_NUM >= 160000
  slab_list(slab, &slab->emptyblocks.dlist, visit, state);
  for (int i = 0; i < (int)(sizeof(slab->blocklist) / sizeof(slab->blocklist[0])); i++)
    slab_list(slab, &slab->blocklist[i], visit, state);
#else
  for (int i = 0; i <= slab->chunksPerBlock; i++) /* by their number of free chunks */
    slab_list(slab, &slab->freelist[i], visit, state);
#endif
}

#if PG_VERSION_NUM >= 170000
static void bump_ranges(struct BumpContext *set, PgmtRange visit, void *state)
{
  struct dlist_node *head = &set->blocks.head;

  for (struct dlist_node *at = head->next; at != NULL && at != head; at = at->next) {
    struct BumpBlock *block = OF_NODE(struct BumpBlock, at);

    visit((char *)block + pgmt_block_header(PGMT_BUMP), block->freeptr, state);
  }
}
#endif

void pgmt_used_ranges(void *context, PgmtContextType type, PgmtRange visit, void *state)
{
  switch (type) {
  case PGMT_ALLOC_SET: alloc_set_ranges(context, visit, state); return;
  case PGMT_GENERATION: generation_ranges(context, visit, state); return;
  case PGMT_SLAB: slab_ranges(context, visit, state); return;
  case PGMT_BUMP:
#if PG_VERSION_NUM >= 170000
    bump_ranges(context, visit, state);
#endif
    return;
  }
}

Size pgmt_chunk_header(PgmtContextType type)
{
#if PG_VERSION_NUM >= 160000
  return sizeof(struct MemoryChunk);
#else
  return type == PGMT_GENERATION ? sizeof(struct GenerationChunk) : sizeof(struct AllocChunkData);
#endif
}

Size pgmt_block_header(PgmtContextType type)
{
  switch (type) {
  case PGMT_ALLOC_SET: return MAXALIGNED(sizeof(struct AllocBlockData));
  case PGMT_GENERATION: return MAXALIGNED(sizeof(struct GenerationBlock));
  case PGMT_SLAB: return MAXALIGNED(sizeof(struct SlabBlock));
  case PGMT_BUMP:
#if PG_VERSION_NUM >= 170000
    return MAXALIGNED(sizeof(struct BumpBlock));
#endif
    break;
  }
  return 0;
}
