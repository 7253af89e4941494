/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * postgres.bpf.h - PostgreSQL's structs, as far as they are read.
 *
 * A part of pgmemtrace.bpf.c.  Names decide: libbpf relocates each access against the BTF of the
 * server at hand (bpf/layouts/, DESIGN: "CO-RE on PostgreSQL's own structs").  Therefore no
 * vmlinux.h here: its types would be relocated against that BTF too.
 */

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct MemoryContextData {
	int type;
	unsigned long mem_allocated;
	struct MemoryContextData *parent;
	struct MemoryContextData *firstchild;
	struct MemoryContextData *nextchild;
	const char *name;
	const char *ident;
};

struct AllocBlockData {
	struct AllocBlockData *prev;
	struct AllocBlockData *next;
	char *freeptr;
	char *endptr;
};

struct AllocSetContext {
	struct AllocBlockData *blocks;
	void *freelist[11];
	unsigned long allocChunkLimit;
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

struct GenerationBlock {
	int nchunks;
	char *freeptr;
	char *endptr;
};

struct GenerationContext {
	unsigned long blockSize; /* 13, 14 */
	unsigned long allocChunkLimit;
	struct GenerationBlock *block;
	struct GenerationBlock *freeblock; /* 15 */
	struct GenerationBlock *keeper;	   /* 15, 16 */
	struct dlist_head blocks;
};

struct SlabBlock {
	int firstFreeChunk; /* up to 15 */
	void *freehead;
	void *unused;
};

struct SlabContext {
	unsigned long fullChunkSize;
	int chunksPerBlock;
	int minFreeChunks; /* this and the next one: up to 15 */
	struct dlist_head freelist[1];
	int curBlocklistIndex;
	int blocklist_shift;
	struct dclist_head emptyblocks;
	struct dlist_head blocklist[3];
};

struct PlannedStmt {
	unsigned long queryId;
	int stmt_location;
	int stmt_len;
};

struct EState {
	struct MemoryContextData *es_query_cxt;
};

struct QueryDesc {
	struct PlannedStmt *plannedstmt;
	const char *sourceText;
	struct EState *estate;
};

struct Port {
	int sock;
};

struct PgBackendStatus {
	long st_activity_start_timestamp;
	char *st_activity_raw;
	unsigned long st_query_id;
};

#pragma clang attribute pop

#define FIELD(type, field) bpf_core_field_offset(struct type, field)
#define CONTEXT(field) FIELD(MemoryContextData, field)
