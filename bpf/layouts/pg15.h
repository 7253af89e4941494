/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * pg15.h - the PostgreSQL 15 structs that pgmemtrace reads, as that major lays them out.
 *
 * Compiled with clang -target bpf -g into a BTF blob; the kernel half is relocated against
 * it, and the sweep takes its offsets from it.  Offsets were compared with the server
 * headers by scripts/check-layouts.sh.  Source: src/backend/utils/mmgr/{aset,generation,slab}.c,
 * nodes/{execnodes,plannodes}.h, libpq/libpq-be.h, utils/backend_status.h,
 * utils/{catcache,plancache}.h, src/backend/utils/hash/dynahash.c, src/backend/storage/ipc/dsm.c of
 * REL_15.
 *
 * Only fields that are read have their names; the rest is padding of the right size.
 */
#ifndef PGMEMTRACE_LAYOUTS_PG15_H
#define PGMEMTRACE_LAYOUTS_PG15_H

#include "common.h"

/* aset.c */

struct AllocChunkData {
	Size size;
#ifdef MEMORY_CONTEXT_CHECKING
	Size requested_size;
#endif
	void *aset; /* of a free chunk: the next one in its free list */
};

struct AllocSetContext {
	struct MemoryContextData header;
	struct AllocBlockData *blocks;
	struct AllocChunkData *freelist[11];
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
	Size blksize;
	int nchunks;
	int nfree;
	char *freeptr;
	char *endptr;
};

struct GenerationChunk {
	Size size;
#ifdef MEMORY_CONTEXT_CHECKING
	Size requested_size;
#endif
	struct GenerationBlock *block;
	void *context;
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
	struct dlist_node node;
	int nfree;
	int firstFreeChunk;
};

struct SlabContext {
	struct MemoryContextData header;
	Size chunkSize;
	Size fullChunkSize;
	Size blockSize;
	Size headerSize;
	int chunksPerBlock;
	int minFreeChunks;
	int nblocks;
#ifdef MEMORY_CONTEXT_CHECKING
	_Bool *freechunks;
#endif
	struct dlist_head freelist[];
};

/* nodes/execnodes.h; longer than what is declared here */

struct EState {
	char unread1[152];
	MemoryContext es_query_cxt;
};

/* nodes/plannodes.h */

struct PlannedStmt {
	int type;
	int commandType;
	unsigned long queryId;
	char unread1[104];
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
	struct dlist_head cc_lists;
	int cc_ntup;
	int cc_nkeys;
	const char *cc_relname;
	unsigned int cc_reloid;
	unsigned int cc_indexoid;
	_Bool cc_relisshared;
	struct slist_node cc_next;
	char unread3[288];
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
struct AllocChunkData pgmt_keep_aset_chunk;
struct GenerationContext pgmt_keep_generation;
struct GenerationBlock pgmt_keep_generation_block;
struct GenerationChunk pgmt_keep_generation_chunk;
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

#endif /* PGMEMTRACE_LAYOUTS_PG15_H */
