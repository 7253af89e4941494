/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * foretell.bpf.h - level alloc: which address a method is about to return.
 *
 * A part of held.bpf.h.  As aset.c, generation.c and slab.c of PostgreSQL 13 to 18 decide it, read
 * from the context and from the block that the chunk will be taken from.  0: it will be the first
 * in a block that is not there yet, and the next request finds it (`pending`).
 */

/* The new block will be found through the pointer at `at`. */
static __always_inline __u64 first_in_block(struct pgmt_request *r, __u64 at)
{
	r->pending.at = at;
	r->pending.before = read_word(at);
	return 0;
}

/* ---- AllocSet ---- */

#define SET_BLOCKS FIELD(AllocSetContext, blocks)
#define FREE_LISTS 11

static __always_inline __u64 free_chunk(struct pgmt_request *r)
{
	__u32 list = 0;

	for (__u64 bytes = 8; bytes < r->bytes && list < FREE_LISTS - 1; bytes <<= 1)
		list++;
	return SET_WORD(r, FIELD(AllocSetContext, freelist) + list * 8);
}

/* The pointer to the block behind this one; behind none is the first. */
static __always_inline __u64 next_of(struct pgmt_request *r, __u64 block)
{
	return block ? block + FIELD(AllocBlockData, next) : r->context + SET_BLOCKS;
}

/* The free end of a block, if so much fits in. */
static __always_inline __u64 free_end(struct pgmt_request *r, __u64 freeptr, __u64 bytes)
{
	if (bpf_probe_read_user(r->frame, sizeof(r->frame), (void *)freeptr) ||
	    r->frame[1] < r->frame[0] || r->frame[1] - r->frame[0] < bytes)
		return 0;
	return r->frame[0];
}

static __noinline __u64 foretell_set(struct pgmt_process *p,
				     const volatile struct pgmt_method_site *site)
{
	struct pgmt_request *r;
	__u64 head, chunk;

	if (!p)
		return 0;
	r = &p->request;
	head = SET_WORD(r, SET_BLOCKS);
	if (r->size > chunk_limit(r))
		return first_in_block(r, next_of(r, head));
	chunk = free_chunk(r);
	if (!chunk)
		chunk = free_end(r, head + FIELD(AllocBlockData, freeptr),
				 r->bytes + site->chunk_header);
	return chunk ? chunk + site->chunk_header : first_in_block(r, r->context + SET_BLOCKS);
}

/* ---- Generation ---- */

/* Larger chunks have a block of their own. */
static __always_inline __u64 generation_limit(struct pgmt_request *r)
{
	if (bpf_core_field_exists(((struct GenerationContext *)0)->allocChunkLimit))
		return SET_FIELD(r, GenerationContext, allocChunkLimit);
	return SET_FIELD(r, GenerationContext, blockSize) / 8; /* 13, 14 */
}

static __always_inline __u64 generation_end(struct pgmt_request *r, __u64 block, __u64 bytes)
{
	return free_end(r, block + FIELD(GenerationBlock, freeptr), bytes);
}

/* A block that stands by is used if nothing is in it. */
static __always_inline __u64 spare_end(struct pgmt_request *r, __u64 block, __u64 bytes)
{
	__u32 chunks = 0;

	if (!block ||
	    bpf_probe_read_user(&chunks, sizeof(chunks),
				(void *)(block + FIELD(GenerationBlock, nchunks))) ||
	    chunks)
		return 0;
	return generation_end(r, block, bytes);
}

static __noinline __u64 foretell_generation(struct pgmt_process *p,
					    const volatile struct pgmt_method_site *site)
{
	struct pgmt_request *r;
	__u64 bytes, chunk = 0;

	if (!p)
		return 0;
	r = &p->request;
	bytes = r->bytes + site->chunk_header;
	if (r->bytes <= generation_limit(r)) {
		chunk = generation_end(r, SET_WORD(r, FIELD(GenerationContext, block)), bytes);
		if (!chunk &&
		    bpf_core_field_exists(((struct GenerationContext *)0)->freeblock)) /* 15 */
			chunk =
			    spare_end(r, SET_WORD(r, FIELD(GenerationContext, freeblock)), bytes);
		if (!chunk &&
		    bpf_core_field_exists(((struct GenerationContext *)0)->keeper)) /* 15, 16 */
			chunk = spare_end(r, SET_WORD(r, FIELD(GenerationContext, keeper)), bytes);
	}
	if (chunk)
		return chunk + site->chunk_header;
	return first_in_block(r, r->context + FIELD(GenerationContext, blocks.head.next));
}

/* ---- Slab ---- */

#define FIRST_OF_LIST FIELD(dlist_head, head.next)
#define LIST_SIZE sizeof(struct dlist_head)

/* Up to 15: lists of blocks by how many of their chunks are free, and these by number. */
static __noinline __u64 foretell_in_lists(struct pgmt_request *r,
					  const volatile struct pgmt_method_site *site)
{
	__u64 lists, block;
	__u32 least, index = 0;

	if (!r || !bpf_core_field_exists(((struct SlabContext *)0)->minFreeChunks))
		return 0;
	lists = r->context + FIELD(SlabContext, freelist) + FIRST_OF_LIST;
	least = SET_FIELD(r, SlabContext, minFreeChunks);
	if (!least) /* a new block goes where it belongs without its first chunk */
		return first_in_block(r, lists + (SET_FIELD(r, SlabContext, chunksPerBlock) - 1) *
						     LIST_SIZE);
	block = read_word(lists + least * LIST_SIZE) - site->node_at;
	if (bpf_probe_read_user(&index, sizeof(index),
				(void *)(block + FIELD(SlabBlock, firstFreeChunk))))
		return first_in_block(r, 0);
	return block + site->block_header + index * SET_FIELD(r, SlabContext, fullChunkSize) +
	       site->chunk_header;
}

/* From 16 on: three lists, the fullest blocks first, and empty ones. */
static __noinline __u64 foretell_in_blocklist(struct pgmt_request *r,
					      const volatile struct pgmt_method_site *site)
{
	__u64 lists, block, chunk;
	__u32 index, free;

	if (!r || !bpf_core_field_exists(((struct SlabContext *)0)->curBlocklistIndex))
		return 0;
	lists = r->context + FIELD(SlabContext, blocklist) + FIRST_OF_LIST;
	index = SET_FIELD(r, SlabContext, curBlocklistIndex);
	if (!index && !SET_FIELD(r, SlabContext, emptyblocks.count)) {
		free = SET_FIELD(r, SlabContext, chunksPerBlock) - 1;
		index = SET_FIELD(r, SlabContext, blocklist_shift) & 31;
		index = (free + (1U << index) - 1) >> index; /* SlabBlocklistIndex() */
		return first_in_block(r, lists + index * LIST_SIZE);
	}
	if (!index)
		lists = r->context + FIELD(SlabContext, emptyblocks.dlist) + FIRST_OF_LIST;
	block = read_word(lists + index * LIST_SIZE) - site->node_at;
	chunk = read_word(block + FIELD(SlabBlock, freehead));
	if (!chunk)
		chunk = read_word(block + FIELD(SlabBlock, unused));
	return chunk ? chunk + site->chunk_header : first_in_block(r, 0);
}

static __always_inline __u64 foretell(struct pgmt_process *p,
				      const volatile struct pgmt_method_site *site)
{
	switch (site->allocator) {
	case PGMT_ALLOC_SET:
		return foretell_set(p, site);
	case PGMT_GENERATION:
		return foretell_generation(p, site);
	default:
		return chunk_value_shift ? foretell_in_blocklist(&p->request, site)
					 : foretell_in_lists(&p->request, site);
	}
}
