/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * pg16.h - the PostgreSQL 16 structs that pgmemtrace reads, as that major lays them out.
 *
 * Compiled with clang -target bpf -g into a BTF blob; the kernel half is relocated against
 * it, and the sweep takes its offsets from it.  Offsets were compared with the server
 * headers by scripts/check-layouts.sh.  Source: src/include/nodes/memnodes.h,
 * src/backend/utils/mmgr/{aset,generation,slab}.c, executor/execdesc.h, nodes/plannodes.h,
 * libpq/libpq-be.h, postmaster/bgworker.h,
 * utils/backend_status.h,
 * utils/{catcache,plancache}.h, src/backend/utils/hash/dynahash.c, storage/pg_shmem.h,
 * access/session.h, src/backend/storage/ipc/dsm.c of REL_16.
 *
 * Only fields that are read have their names; the rest is padding of the right size.
 */
#ifndef PGMEMTRACE_LAYOUTS_PG16_H
#define PGMEMTRACE_LAYOUTS_PG16_H

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

/* executor/execdesc.h, nodes/plannodes.h */

struct PlannedStmt {
	int type;
	int commandType;
	unsigned long queryId;
	char unread1[112];
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
	char unread1[328];
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
	unsigned long st_query_id;
};

/* lib/ilist.h, access/htup.h, utils/catcache.h */

struct slist_node {
	struct slist_node *next;
};

struct slist_head {
	struct slist_node head;
};

struct HeapTupleData {
	unsigned int t_len;
	char unread1[20];
};

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

struct catctup {
	int ct_magic;
	unsigned int hash_value;
	char unread1[32];
	struct dlist_node cache_elem;
	int refcount;
	_Bool dead;
	_Bool negative;
	struct HeapTupleData tuple;
	void *c_list;
	struct catcache *my_cache;
};

struct catclist {
	int cl_magic;
	unsigned int hash_value;
	struct dlist_node cache_elem;
	char unread1[32];
	int refcount;
	_Bool dead;
	_Bool ordered;
	short nkeys;
	int n_members;
	struct catcache *my_cache;
	struct catctup *members[];
};

struct catcacheheader {
	struct slist_head ch_caches;
	int ch_ntup;
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

struct HTAB {
	struct HASHHDR *hctl;
	char unread1[48];
	char *tabname;
	_Bool isshared;
	char unread2[31];
};

/* storage/pg_shmem.h */

struct PGShmemHeader {
	int magic;
	int creatorPID;
	Size totalsize;
	Size freeoffset;
	unsigned int dsm_control;
	char unread1[28];
};

/* access/session.h */

struct Session {
	struct dsm_segment *segment;
	char unread1[32];
};

/* dsm.c */

struct dsm_segment {
	struct dlist_node node;
	void *resowner; /* NULL: the mapping is pinned */
	unsigned int handle;
	unsigned int control_slot;
	void *impl_private;
	void *mapped_address;
	Size mapped_size;
	char unread1[8];
};

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
struct AllocBlockData pgmt_keep_aset_block;
struct MemoryChunk pgmt_keep_chunk;
struct GenerationContext pgmt_keep_generation;
struct GenerationBlock pgmt_keep_generation_block;
struct SlabContext pgmt_keep_slab;
struct SlabBlock pgmt_keep_slab_block;
struct QueryDesc pgmt_keep_query_desc;
struct PlannedStmt pgmt_keep_planned_stmt;
struct Port pgmt_keep_port;
struct PgBackendStatus pgmt_keep_backend_status;
struct BackgroundWorker pgmt_keep_background_worker;
struct catcacheheader pgmt_keep_catcache_header;
struct catcache pgmt_keep_catcache;
struct catctup pgmt_keep_catctup;
struct catclist pgmt_keep_catclist;
struct CachedPlanSource pgmt_keep_plan_source;
struct HTAB pgmt_keep_htab;
struct HASHHDR pgmt_keep_hash_header;
struct PGShmemHeader pgmt_keep_shmem_header;
struct Session pgmt_keep_session;
struct dsm_segment pgmt_keep_dsm_segment;
struct dsm_control_header pgmt_keep_dsm_control_header;
struct dsm_control_item pgmt_keep_dsm_control_item;

#endif /* PGMEMTRACE_LAYOUTS_PG16_H */
