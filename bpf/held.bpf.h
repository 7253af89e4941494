/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * held.bpf.h - level alloc: who holds what in which context.
 *
 * A part of alloc.bpf.h.
 *
 * Nobody sees which address a method returns.  Where it matters who holds what, of the roots and,
 * when recording, of all contexts, the address is foretold from the free list or the block that
 * the chunk will be taken from; a chunk that needs a new block is found at the next request, as
 * the first in it.  When it is freed its header must say what was foretold.
 */

static __always_inline struct pgmt_held *held_at(struct pgmt_process *p, __u64 context)
{
	p->request.key.tgid = p->tgid;
	p->request.key.address = context;
	return bpf_map_lookup_elem(&helds, &p->request.key);
}

/* Another name is another context at a recycled address. */
static __noinline struct pgmt_held *held_of(struct pgmt_process *p, __u64 context, __u64 name)
{
	struct pgmt_request *r;
	struct pgmt_held *held;

	if (!p)
		return NULL;
	r = &p->request;
	held = held_at(p, context);
	if (held && held->name == name)
		return held;
	r->held.name = name;
	r->held.generation = ++r->generations;
	if (bpf_map_update_elem(&helds, &r->key, &r->held, BPF_ANY)) {
		lose(PGMT_LOSS_CALLS_FULL);
		return NULL;
	}
	return bpf_map_lookup_elem(&helds, &r->key);
}

static __noinline struct pgmt_life *life_of(struct pgmt_process *p, const struct pgmt_chunk *chunk,
					    struct pgmt_held *held)
{
	struct pgmt_request *r;
	struct pgmt_life *life;

	if (!p || !chunk || !held)
		return NULL;
	r = &p->request;
	r->life_key.tgid = p->tgid;
	r->life_key.context = chunk->context;
	r->life_key.asker = chunk->asker;
	life = bpf_map_lookup_elem(&lives, &r->life_key);
	if (life && life->generation == held->generation)
		return life;
	r->life.name = held->name;
	r->life.generation = held->generation;
	if (bpf_map_update_elem(&lives, &r->life_key, &r->life, BPF_ANY)) {
		lose(PGMT_LOSS_CALLS_FULL);
		return NULL;
	}
	return bpf_map_lookup_elem(&lives, &r->life_key);
}

static __noinline void name_gains(struct pgmt_process *p, __u64 name,
				  const struct pgmt_asker *asker, __u64 bytes)
{
	struct pgmt_calls *calls;
	struct pgmt_name *n;
	__s64 beyond;

	if (!p || !asker)
		return;
	n = name_of(p, name);
	if (!n)
		return;
	n->gained += bytes;
	n->blocks++;
	beyond = (__s64)(n->gained - n->returned - n->peak);
	if (beyond < 0)
		beyond = 0;
	n->peak += beyond;
	p->request.call_key.tgid = p->tgid;
	p->request.call_key.name = name;
	p->request.call_key.asker = *asker;
	calls = bpf_map_lookup_elem(&callers, &p->request.call_key);
	if (!calls)
		return;
	calls->taken += bytes;
	calls->raised += beyond;
}

static __noinline void name_returns(struct pgmt_process *p, __u64 name, __u64 bytes, __u64 chunks)
{
	struct pgmt_name *n;

	if (!p)
		return;
	n = name_of(p, name);
	if (!n)
		return;
	n->returned += bytes;
	n->blocks -= chunks;
}

static __always_inline void hold(struct pgmt_process *p, struct pgmt_held *held,
				 const struct pgmt_asker *asker, __u64 bytes)
{
	held->bytes += bytes;
	held->chunks++;
	if (record_calls)
		name_gains(p, held->name, asker, bytes);
}

static __always_inline void release(struct pgmt_process *p, struct pgmt_held *held, __u64 bytes)
{
	held->bytes -= bytes;
	held->chunks--;
	if (record_calls)
		name_returns(p, held->name, bytes, 1);
}

static __noinline void live(struct pgmt_process *p, const struct pgmt_chunk *chunk,
			    struct pgmt_held *held)
{
	struct pgmt_life *life;

	if (!p || !chunk || !held)
		return;
	life = life_of(p, chunk, held);
	if (!life)
		return;
	life->bytes += chunk->bytes;
	life->chunks++;
}

/* Forgets a chunk of this generation of its context. */
static __noinline void die(struct pgmt_process *p, const struct pgmt_chunk *chunk,
			   struct pgmt_held *held)
{
	struct pgmt_life *life;

	if (!p || !chunk || !held)
		return;
	release(p, held, chunk->bytes);
	life = life_of(p, chunk, held);
	if (!life)
		return;
	life->bytes -= chunk->bytes;
	life->chunks--;
}

static __always_inline bool is_of(const struct pgmt_chunk *chunk, __u64 context,
				  const struct pgmt_held *held)
{
	return chunk && chunk->context == context && chunk->generation == held->generation;
}

/* `chunk` lies at `address`.  One that was there and has not been freed was foretold wrongly. */
static __noinline void keep_chunk(struct pgmt_process *p, __u64 address, struct pgmt_chunk *chunk,
				  struct pgmt_held *held)
{
	struct pgmt_chunk *old;

	if (!p || !chunk || !held)
		return;
	chunk->generation = held->generation;
	p->request.key.tgid = p->tgid;
	p->request.key.address = address;
	old = bpf_map_lookup_elem(&chunks, &p->request.key);
	if (is_of(old, chunk->context, held)) {
		lose(PGMT_LOSS_CHUNK_UNKNOWN);
		die(p, old, held);
	}
	p->request.key.address = address;
	if (bpf_map_update_elem(&chunks, &p->request.key, chunk, BPF_ANY)) {
		lose(PGMT_LOSS_CHUNKS_FULL);
		return;
	}
	hold(p, held, &chunk->asker, chunk->bytes);
	live(p, chunk, held);
}

#include "foretell.bpf.h"

static __always_inline void wait_for_chunk(struct pt_regs *ctx, struct pgmt_request *r)
{
	r->pending.chunk = r->chunk_value;
	r->pending.name = r->name;
	r->pending.site = bpf_get_attach_cookie(ctx) & (PGMT_METHOD_SITES - 1);
}

/* Up to 15 a block of Generation and of Slab does not say whose it is, and GenerationFree begins
 * with taking a chunk's context away: it is the chunk that says which block it is in. */
static __always_inline bool is_owned(struct pgmt_request *r, __u64 block,
				     const volatile struct pgmt_method_site *site)
{
	if (chunk_value_shift || site->allocator == PGMT_ALLOC_SET)
		return read_word(block + site->owner_at) == r->context;
	return read_word(r->chunk - 2 * sizeof(__u64)) == block;
}

/* The request before this one is over: its block is there, or it failed. */
static __noinline void find_pending(struct pgmt_process *p)
{
	const volatile struct pgmt_method_site *site;
	struct pgmt_pending *pending;
	struct pgmt_request *r;
	struct pgmt_held *held;
	__u64 block;

	if (!p)
		return;
	r = &p->request;
	pending = &r->pending;
	site = &methods[pending->site & (PGMT_METHOD_SITES - 1)];
	r->context = pending->chunk.context;
	r->bytes = 0;
	pending->chunk.context = 0;
	block = read_word(pending->at);
	r->chunk = block - site->node_at + site->block_header + site->chunk_header;
	if (!block || block == pending->before || !is_owned(r, block - site->node_at, site) ||
	    !find_owner(r, site) || !read_bytes(r, site) ||
	    (pending->before && r->bytes != pending->chunk.bytes)) {
		lose(PGMT_LOSS_CHUNK_UNKNOWN);
		return;
	}
	held = held_of(p, r->context, pending->name);
	if (!held)
		return;
	r->chunk_value.context = r->context;
	r->chunk_value.asker = pending->chunk.asker;
	r->chunk_value.bytes = r->bytes;
	keep_chunk(p, r->chunk, &r->chunk_value, held);
}

static __noinline void track_alloc(struct pt_regs *ctx, struct pgmt_process *p,
				   const volatile struct pgmt_method_site *site)
{
	struct pgmt_request *r;
	struct pgmt_held *held;
	__u64 chunk;

	if (!p)
		return;
	r = &p->request;
	held = held_of(p, r->context, r->name);
	if (!held)
		return;
	r->chunk_value.context = r->context;
	r->chunk_value.asker = r->asker;
	r->chunk_value.bytes = r->bytes;
	if (site->allocator == PGMT_BUMP) { /* never freed one by one */
		hold(p, held, &r->asker, r->bytes);
		live(p, &r->chunk_value, held);
		return;
	}
	chunk = foretell(p, site);
	if (chunk)
		keep_chunk(p, chunk, &r->chunk_value, held);
	else
		wait_for_chunk(ctx, r);
}

static __noinline void track_free(struct pgmt_process *p)
{
	struct pgmt_request *r;
	struct pgmt_chunk *chunk;
	struct pgmt_held *held;

	if (!p)
		return;
	r = &p->request;
	held = held_of(p, r->context, r->name);
	if (!held)
		return;
	r->key.address = r->chunk;
	chunk = bpf_map_lookup_elem(&chunks, &r->key);
	if (!is_of(chunk, r->context, held))
		return; /* older than our probes */
	if (chunk->bytes != r->bytes)
		lose(PGMT_LOSS_CHUNK_UNKNOWN);
	die(p, chunk, held);
	r->key.address = r->chunk;
	bpf_map_delete_elem(&chunks, &r->key);
}

/* Small chunks, and those of other allocators, stay, or are replaced by requests of the method's
 * own.  The block of a large one is given to realloc, and keeps its neighbours. */
static __noinline void track_realloc(struct pt_regs *ctx, struct pgmt_process *p,
				     const volatile struct pgmt_method_site *site)
{
	struct pgmt_request *r;
	struct pgmt_chunk *chunk;
	struct pgmt_held *held;

	if (!p)
		return;
	r = &p->request;
	if (site->allocator != PGMT_ALLOC_SET || r->bytes <= chunk_limit(r))
		return;
	held = held_of(p, r->context, r->name);
	r->key.address = r->chunk;
	chunk = bpf_map_lookup_elem(&chunks, &r->key);
	if (!held || !is_of(chunk, r->context, held))
		return;
	r->chunk_value = *chunk;
	die(p, &r->chunk_value, held);
	r->key.address = r->chunk;
	bpf_map_delete_elem(&chunks, &r->key);
	wait_for_chunk(ctx, r);
	r->pending.before = 0;
	r->pending.at = next_of(r, read_word(r->chunk - site->chunk_header - site->block_header +
					     FIELD(AllocBlockData, prev)));
}

static __noinline void track_end(struct pgmt_process *p, bool deleted)
{
	struct pgmt_held *held;

	if (!p)
		return;
	held = held_at(p, p->request.context);
	if (!held)
		return;
	if (record_calls && held->bytes > 0)
		name_returns(p, held->name, held->bytes, held->chunks);
	held->bytes = 0;
	held->chunks = 0;
	held->generation = ++p->request.generations;
	if (deleted)
		bpf_map_delete_elem(&helds, &p->request.key);
}

static __always_inline void track(struct pt_regs *ctx, struct pgmt_process *p,
				  const volatile struct pgmt_method_site *site)
{
	switch (site->method) {
	case PGMT_METHOD_ALLOC:
		track_alloc(ctx, p, site);
		break;
	case PGMT_METHOD_FREE:
		track_free(p);
		break;
	case PGMT_METHOD_REALLOC:
		track_realloc(ctx, p, site);
		break;
	default:
		track_end(p, site->method == PGMT_METHOD_DELETE);
		break;
	}
}
