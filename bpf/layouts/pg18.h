/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * pg18.h - the PostgreSQL 18 structs that pgmemtrace reads, as that major lays them out.
 *
 * Compiled with clang -target bpf -g into a BTF blob; the kernel half is relocated against
 * it, and the sweep takes its offsets from it.  Offsets were compared with the server
 * headers by scripts/check-layouts.sh.  Source: src/include/nodes/memnodes.h,
 * src/backend/utils/mmgr/{aset,generation,slab,bump}.c, executor/execdesc.h, nodes/plannodes.h,
 * libpq/libpq-be.h, postmaster/bgworker.h,
 * utils/backend_status.h of REL_18.
 *
 * Only fields that are read have their names; the rest is padding of the right size.
 */
#ifndef PGMEMTRACE_LAYOUTS_PG18_H
#define PGMEMTRACE_LAYOUTS_PG18_H

typedef unsigned long Size;
typedef struct MemoryContextData *MemoryContext;

struct MemoryContextData {
	int type; /* NodeTag */
	_Bool isReset;
	_Bool allowInCritSection;
	Size mem_allocated;
	const void *methods;
	MemoryContext parent;
	MemoryContext firstchild;
	MemoryContext prevchild;
	MemoryContext nextchild;
	const char *name;
	const char *ident;
	void *reset_cbs;
};

struct dlist_node {
	struct dlist_node *prev;
	struct dlist_node *next;
};

struct dlist_head {
	struct dlist_node head;
};

struct dclist_head {
	struct dlist_head dlist;
	unsigned int count;
};

/* aset.c */

struct AllocBlockData {
	struct AllocSetContext *aset;
	struct AllocBlockData *prev;
	struct AllocBlockData *next;
	char *freeptr;
	char *endptr;
};

/* Every chunk's header.  A free chunk of an AllocSet keeps the next one in its payload. */
struct MemoryChunk {
#ifdef MEMORY_CONTEXT_CHECKING
	Size requested_size;
#endif
	unsigned long hdrmask;
};

struct AllocSetContext {
	struct MemoryContextData header;
	struct AllocBlockData *blocks;
	struct MemoryChunk *freelist[11];
	unsigned int initBlockSize;
	unsigned int maxBlockSize;
	unsigned int nextBlockSize;
	unsigned int allocChunkLimit;
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
	unsigned int initBlockSize;
	unsigned int maxBlockSize;
	unsigned int nextBlockSize;
	unsigned int allocChunkLimit;
	struct GenerationBlock *block;
	struct GenerationBlock *freeblock;
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
	unsigned int chunkSize;
	unsigned int fullChunkSize;
	unsigned int blockSize;
	int chunksPerBlock;
	int curBlocklistIndex;
#ifdef MEMORY_CONTEXT_CHECKING
	_Bool *isChunkFree;
#endif
	int blocklist_shift;
	struct dclist_head emptyblocks;
	struct dlist_head blocklist[3];
};

/* bump.c */

struct BumpBlock {
	struct dlist_node node;
#ifdef MEMORY_CONTEXT_CHECKING
	struct BumpContext *context;
#endif
	char *freeptr;
	char *endptr;
};

struct BumpContext {
	struct MemoryContextData header;
	unsigned int initBlockSize;
	unsigned int maxBlockSize;
	unsigned int nextBlockSize;
	unsigned int allocChunkLimit;
	struct dlist_head blocks;
};

/* executor/execdesc.h, nodes/plannodes.h */

struct PlannedStmt {
	int type;
	int commandType;
	unsigned long queryId;
	long planId;
	char unread1[128];
	int stmt_location;
	int stmt_len;
};

struct QueryDesc {
	int operation;
	struct PlannedStmt *plannedstmt;
	const char *sourceText;
	char unread1[56];
	void *estate;
	void *planstate;
	_Bool already_executed;
	void *totaltime;
};

/* libpq/libpq-be.h */

struct Port {
	char unread1[384];
	char *database_name;
	char *user_name;
};

/* postmaster/bgworker.h; longer than what is declared here */

struct BackgroundWorker {
	char bgw_name[96];
	char bgw_type[96];
};

/* utils/backend_status.h */

struct PgBackendStatus {
	char unread1[32];
	long st_activity_start_timestamp;
	char unread2[208];
	char *st_activity_raw;
	char unread3[168];
	long st_query_id;
};

/* One variable each, so that the compiler keeps the type in the BTF. */
struct AllocSetContext pgmt_keep_aset;
struct AllocBlockData pgmt_keep_aset_block;
struct MemoryChunk pgmt_keep_chunk;
struct GenerationContext pgmt_keep_generation;
struct GenerationBlock pgmt_keep_generation_block;
struct SlabContext pgmt_keep_slab;
struct SlabBlock pgmt_keep_slab_block;
struct BumpContext pgmt_keep_bump;
struct BumpBlock pgmt_keep_bump_block;
struct QueryDesc pgmt_keep_query_desc;
struct PlannedStmt pgmt_keep_planned_stmt;
struct Port pgmt_keep_port;
struct PgBackendStatus pgmt_keep_backend_status;
struct BackgroundWorker pgmt_keep_background_worker;

#endif /* PGMEMTRACE_LAYOUTS_PG18_H */
