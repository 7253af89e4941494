/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * common.h - the structs that PostgreSQL 13 to 18 lay out alike; each pgNN.h begins with it.
 *
 * Source: src/include/{nodes/memnodes,lib/ilist,executor/execdesc,postmaster/bgworker,access/htup,
 * utils/catcache,storage/pg_shmem,access/session}.h, src/backend/utils/mmgr/aset.c,
 * src/backend/utils/hash/dynahash.c, src/backend/storage/ipc/dsm.c of REL_13 to REL_18.
 *
 * Only fields that are read have their names; the rest is padding of the right size.
 */
#ifndef PGMEMTRACE_LAYOUTS_COMMON_H
#define PGMEMTRACE_LAYOUTS_COMMON_H

typedef unsigned long Size;
typedef struct MemoryContextData *MemoryContext;

/* nodes/memnodes.h */

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

/* lib/ilist.h */

struct dlist_node {
	struct dlist_node *prev;
	struct dlist_node *next;
};

struct dlist_head {
	struct dlist_node head;
};

struct slist_node {
	struct slist_node *next;
};

struct slist_head {
	struct slist_node head;
};

/* aset.c */

struct AllocBlockData {
	struct AllocSetContext *aset;
	struct AllocBlockData *prev;
	struct AllocBlockData *next;
	char *freeptr;
	char *endptr;
};

/* executor/execdesc.h */

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

/* postmaster/bgworker.h; longer than what is declared here */

struct BackgroundWorker {
	char bgw_name[96];
	char bgw_type[96];
};

/* access/htup.h */

struct HeapTupleData {
	unsigned int t_len;
	char unread1[20];
};

/* utils/catcache.h */

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

/* dynahash.c */

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

/* One variable each, so that the compiler keeps the type in the BTF. */
struct AllocBlockData pgmt_keep_aset_block;
struct QueryDesc pgmt_keep_query_desc;
struct BackgroundWorker pgmt_keep_background_worker;
struct catcacheheader pgmt_keep_catcache_header;
struct catctup pgmt_keep_catctup;
struct catclist pgmt_keep_catclist;
struct HTAB pgmt_keep_htab;
struct PGShmemHeader pgmt_keep_shmem_header;
struct Session pgmt_keep_session;
struct dsm_segment pgmt_keep_dsm_segment;

#endif /* PGMEMTRACE_LAYOUTS_COMMON_H */
