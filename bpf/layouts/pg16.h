/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * pg16.h - the PostgreSQL 16 structs that pgmemtrace reads, as that major lays them out.
 *
 * Compiled with clang -target bpf -g into a BTF blob; the kernel half is relocated against
 * it, and the sweep takes its offsets from it.  Offsets were compared with the server
 * headers by scripts/check-layouts.sh.  Source: src/backend/utils/mmgr/{aset,generation,slab}.c,
 * nodes/{execnodes,plannodes}.h, libpq/libpq-be.h, utils/backend_status.h,
 * utils/{catcache,plancache}.h, src/backend/utils/hash/dynahash.c, src/backend/storage/ipc/dsm.c of
 * REL_16.
 *
 * Only fields that are read have their names; the rest is padding of the right size.
 */
#ifndef PGMEMTRACE_LAYOUTS_PG16_H
#define PGMEMTRACE_LAYOUTS_PG16_H

#include "common.h"

struct dclist_head {
	struct dlist_head dlist;
	unsigned int count;
};

/* Every chunk's header.  A free chunk of an AllocSet keeps the next one in its payload. */
struct MemoryChunk {
#ifdef MEMORY_CONTEXT_CHECKING
	Size requested_size;
#endif
	unsigned long hdrmask;
};

/* aset.c */

struct AllocSetContext {
	struct MemoryContextData header;
	struct AllocBlockData *blocks;
	struct MemoryChunk *freelist[11];
	Size initBlockSize;
	Size maxBlockSize;
	Size nextBlockSize;
	Size allocChunkLimit;
	struct AllocBlockData *keeper;
	int freeListIndex;
};

/* generation.c */

struct GenerationBlock {
	struct dlist_node node;
	struct GenerationContext *context;
	Size blksize;
	int nchunks;
	int nfree;
	char *freeptr;
	char *endptr;
};

struct GenerationContext {
	struct MemoryContextData header;
	Size initBlockSize;
	Size maxBlockSize;
	Size nextBlockSize;
	Size allocChunkLimit;
	struct GenerationBlock *block;
	struct GenerationBlock *freeblock;
	struct GenerationBlock *keeper;
	struct dlist_head blocks;
};

/* slab.c */

struct SlabBlock {
	struct SlabContext *slab;
	int nfree;
	int nunused;
	struct MemoryChunk *freehead;
	struct MemoryChunk *unused;
	struct dlist_node node;
};

struct SlabContext {
	struct MemoryContextData header;
	Size chunkSize;
	Size fullChunkSize;
	Size blockSize;
	int chunksPerBlock;
	int curBlocklistIndex;
#ifdef MEMORY_CONTEXT_CHECKING
	_Bool *isChunkFree;
#endif
	int blocklist_shift;
	struct dclist_head emptyblocks;
	struct dlist_head blocklist[3];
};

/* nodes/execnodes.h; longer than what is declared here */

struct EState {
	char unread1[160];
	MemoryContext es_query_cxt;
};

/* nodes/plannodes.h */

struct PlannedStmt {
	int type;
	int commandType;
	unsigned long queryId;
	char unread1[112];
	int stmt_location;
	int stmt_len;
};

/* libpq/libpq-be.h */

struct Port {
	int sock; /* pgsocket */
	char unread1[324];
	char *database_name;
	char *user_name;
};

/* utils/backend_status.h */

struct PgBackendStatus {
	char unread1[32];
	long st_activity_start_timestamp;
	char unread2[208];
	char *st_activity_raw;
	char unread3[168];
	unsigned long st_query_id;
};

/* utils/catcache.h */

struct catcache {
	int id;
	int cc_nbuckets;
	char unread1[8];
	struct dlist_head *cc_bucket;
	char unread2[80];
	struct dlist_head cc_lists; /* unused since 16.3 */
	int cc_ntup;
	int cc_nkeys;
	const char *cc_relname;
	unsigned int cc_reloid;
	unsigned int cc_indexoid;
	_Bool cc_relisshared;
	struct slist_node cc_next;
	char unread3[288];
	/* Since 16.3: */
	int cc_nlist;
	int cc_nlbuckets;
	struct dlist_head *cc_lbucket;
};

/* utils/plancache.h */

struct CachedPlanSource {
	int magic;
	char unread1[132];
	void *gplan;
	_Bool is_oneshot;
	_Bool is_complete;
	_Bool is_saved;
	_Bool is_valid;
	int generation;
	struct dlist_node node;
	char unread2[32];
};

/* dynahash.c */

typedef struct {
	char mutex; /* slock_t: int on some machines */
	long nentries;
	void *freeList;
} FreeListData;

struct HASHHDR {
	FreeListData freeList[32];
	char unread1[80];
};

/* dsm.c */

struct dsm_control_item {
	unsigned int handle;
	unsigned int refcnt; /* 2+: active, 1: about to go, 0: free */
	Size first_page;     /* of the part of main shared memory */
	Size npages;
	void *impl_private_pm_handle;
	_Bool pinned;
};

struct dsm_control_header {
	unsigned int magic;
	unsigned int nitems;
	unsigned int maxitems;
	struct dsm_control_item item[];
};

/* One variable each, so that the compiler keeps the type in the BTF. */
struct AllocSetContext pgmt_keep_aset;
struct MemoryChunk pgmt_keep_chunk;
struct GenerationContext pgmt_keep_generation;
struct GenerationBlock pgmt_keep_generation_block;
struct SlabContext pgmt_keep_slab;
struct SlabBlock pgmt_keep_slab_block;
struct EState pgmt_keep_estate;
struct PlannedStmt pgmt_keep_planned_stmt;
struct Port pgmt_keep_port;
struct PgBackendStatus pgmt_keep_backend_status;
struct catcache pgmt_keep_catcache;
struct CachedPlanSource pgmt_keep_plan_source;
struct HASHHDR pgmt_keep_hash_header;
struct dsm_control_header pgmt_keep_dsm_control_header;
struct dsm_control_item pgmt_keep_dsm_control_item;

#endif /* PGMEMTRACE_LAYOUTS_PG16_H */
