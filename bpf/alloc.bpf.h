/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * alloc.bpf.h - level alloc: every request for memory, by context and by who asked: code, and, when
 * recording, a statement.
 *
 * A part of pgmemtrace.bpf.c.  One program, near the entry of each method of the allocators
 * (attach/alloc_sites.h): `methods` says where its arguments are.  The return address is on top of
 * the stack there, or behind the frame pointer; `passers` are those who only hand a request on.
 */

/* Of what lies in a context, or on top of the stack, as far as it was read. */
#define SET_WORD(r, offset)                                                                        \
	(*(__u64 *)((char *)(r)->set + ((offset) < sizeof((r)->set) ? (offset) & ~7 : 0)))

/* ---- who asked ---- */

static __always_inline const volatile struct pgmt_passer *passer_at(__u64 address)
{
	for (int i = 0; i < PGMT_PASSERS; i++) {
		if (address < passers[i].address || !passers[i].end) /* they are in order */
			return NULL;
		if (address < passers[i].end)
			return &passers[i];
	}
	return NULL;
}

/* Deeper are only contexts that delete their children, each by a call of its own (16 and older). */
#define PASSERS_DEEP 12

/* What is read of the stack at once: the return address, and mostly the passer's frame. */
#define STACK_TOP 64

/* The frame that r->frame[0] points to: the caller's frame pointer and return address. */
static __always_inline bool read_frame(struct pgmt_request *r, __u64 stack)
{
	__u64 above = r->frame[0] - stack;

	if (above > STACK_TOP - sizeof(r->frame))
		return !bpf_probe_read_user(r->frame, sizeof(r->frame), (void *)r->frame[0]);
	r->frame[0] = SET_WORD(r, above);
	r->frame[1] = SET_WORD(r, above + 8);
	return true;
}

static __noinline __u64 caller_of(struct pt_regs *ctx, struct pgmt_process *p,
				  const volatile struct pgmt_method_site *site)
{
	const volatile struct pgmt_passer *passer;
	__u64 address, frame = PT_REGS_FP(ctx), stack = PT_REGS_SP(ctx);
	struct pgmt_request *r;
	bool framed;

	barrier_var(frame); /* two accesses of the context, at constant offsets */
	barrier_var(stack);
	if (!p)
		return 0;
	r = &p->request;
	r->nested = 0;
	framed = site->framed;
	if (framed)
		stack = frame;
	if (bpf_probe_read_user(r->set, STACK_TOP, (void *)stack)) {
		lose(PGMT_LOSS_READ_CALLER);
		return 0;
	}
	address = framed ? r->set[1] : r->set[0];
	r->frame[0] = framed ? r->set[0] : frame;
	for (int i = 0; i < PASSERS_DEEP; i++) {
		passer = passer_at(address - 1 - p->load_bias); /* of the call itself */
		if (!passer)
			break;
		r->nested |= passer->is_method;
		if (!read_frame(r, stack)) {
			lose(PGMT_LOSS_READ_CALLER);
			break;
		}
		address = r->frame[1];
	}
	return address;
}

/* ---- what is asked for ---- */

/* Bits 34 and up of a chunk's header: how far behind its block's start it is, times 8 with two bits
 * of another field below (PostgreSQL memutils_memorychunk.h, 16 to 18). */
#define BLOCK_OFFSET(header) ((header) >> 34 & 0x3ffffff8)

/* Who owns the chunk: up to 15 an argument.  From 16 on its header leads to its block, and that to
 * its owner. */
static __always_inline bool find_owner(struct pgmt_request *r,
				       const volatile struct pgmt_method_site *site)
{
	__u64 header, block, value;
	bool own_block;

	if (!chunk_value_shift)
		return true;
	if (bpf_probe_read_user(&header, sizeof(header), (void *)(r->chunk - sizeof(header))))
		return false;
	own_block = header >> (chunk_value_shift - 1) & 1;
	value = header >> chunk_value_shift & 0x3fffffff;
	block = own_block ? r->chunk - site->chunk_header - site->block_header
			  : r->chunk - sizeof(header) - BLOCK_OFFSET(header);
	r->context = read_word(block + site->owner_at);
	if (own_block)
		r->bytes = read_word(block + site->end_at) - r->chunk;
	else
		r->bytes = site->allocator == PGMT_ALLOC_SET ? 8ULL << (value & 15) : value;
	return r->context;
}

/* How large it is, where that is not known from the way to its owner. */
static __always_inline bool read_bytes(struct pgmt_request *r,
				       const volatile struct pgmt_method_site *site)
{
	if (site->allocator == PGMT_SLAB)
		return !bpf_probe_read_user(&r->bytes, 4,
					    (void *)(r->context + site->chunk_size_at));
	return chunk_value_shift || !bpf_probe_read_user(&r->bytes, sizeof(r->bytes),
							 (void *)(r->chunk - site->chunk_header));
}

/* Is it told who holds what in it? */
static __always_inline bool is_tracked(struct pgmt_process *p, __u64 context)
{
	return record_calls || context == p->roots[PGMT_ROOT_TOP].context ||
	       context == p->roots[PGMT_ROOT_CACHE].context ||
	       context == p->roots[PGMT_ROOT_ERROR].context;
}

/*
 * A context keeps its name until it is deleted, which no probe misses where all methods of its
 * allocator have one: until then it need not be read again.
 */
static __always_inline struct pgmt_owner *remembered(struct pgmt_process *p, __u64 context,
						     const volatile struct pgmt_method_site *site)
{
	if (!methods_complete || !site->tracked)
		return NULL;
	return &p->owners[(context >> 4 ^ context >> 10) & (PGMT_OWNERS - 1)];
}

/* Of most contexts the header: each line of memory more is a cache miss on a busy server. */
static __always_inline bool read_owner(struct pgmt_process *p, struct pgmt_request *r,
				       const volatile struct pgmt_method_site *site)
{
	struct pgmt_owner *owner = remembered(p, r->context, site);
	__u32 size = CONTEXT(name) + sizeof(r->name);

	r->tracked = site->tracked && is_tracked(p, r->context);
	if (r->tracked)
		size = sizeof(r->set);
	else if (owner && owner->context == r->context) {
		r->name = owner->name;
		if (site->method == PGMT_METHOD_DELETE)
			owner->context = 0;
		return true;
	}
	if (size > sizeof(r->set) || bpf_probe_read_user(r->set, size, (void *)r->context) ||
	    (__u32)SET_WORD(r, CONTEXT(type)) != site->context_tag)
		return false;
	r->name = SET_WORD(r, CONTEXT(name));
	if (owner) {
		owner->context = site->method == PGMT_METHOD_DELETE ? 0 : r->context;
		owner->name = r->name;
	}
	return true;
}

/* A field of the context in `set`, 4 or 8 bytes wide: that depends on the major. */
#define SET_FIELD(r, type, field)                                                                  \
	narrow(SET_WORD(r, FIELD(type, field)), FIELD(type, field),                                \
	       bpf_core_field_size(((struct type *)0)->field))

static __always_inline __u64 narrow(__u64 word, __u32 offset, __u32 size)
{
	if (offset & 4)
		word >>= 32;
	return size == 4 ? (__u32)word : word;
}

/* Larger chunks of an AllocSet have a block of their own. */
static __always_inline __u64 chunk_limit(struct pgmt_request *r)
{
	return SET_FIELD(r, AllocSetContext, allocChunkLimit);
}

/* Of a chunk for so much. */
static __always_inline __u64 chunk_bytes(struct pgmt_request *r,
					 const volatile struct pgmt_method_site *site)
{
	__u64 bytes = (r->size + 7) & ~7ULL;

	if (site->allocator == PGMT_SLAB)
		return r->size;
	if (site->allocator != PGMT_ALLOC_SET || r->size > chunk_limit(r))
		return bytes;
	for (bytes = 8; bytes < 8192 && bytes < r->size;)
		bytes <<= 1;
	return bytes;
}

static __noinline bool read_request(struct pt_regs *ctx, struct pgmt_process *p,
				    const volatile struct pgmt_method_site *site)
{
	struct pgmt_request *r;

	if (!p)
		return false;
	r = &p->request;
	r->context = site->context_in == PGMT_NOWHERE ? 0 : register_of(ctx, site->context_in);
	r->chunk = site->chunk_in == PGMT_NOWHERE ? 0 : register_of(ctx, site->chunk_in);
	r->size = site->size_in == PGMT_NOWHERE ? 0 : register_of(ctx, site->size_in);
	r->bytes = 0;
	if ((r->chunk && !find_owner(r, site)) || !read_owner(p, r, site) ||
	    (r->chunk && r->tracked && !read_bytes(r, site))) {
		lose(PGMT_LOSS_READ_CHUNK);
		return false;
	}
	if (r->tracked && site->method == PGMT_METHOD_ALLOC)
		r->bytes = chunk_bytes(r, site);
	return true;
}

/* ---- counting ---- */

static __noinline struct pgmt_calls *calls_of(struct pgmt_process *p)
{
	struct pgmt_request *r;
	struct pgmt_calls *calls;

	if (!p)
		return NULL;
	r = &p->request;
	r->call_key.tgid = p->tgid;
	r->call_key.name = r->name;
	r->call_key.asker = r->asker;
	calls = bpf_map_lookup_elem(&callers, &r->call_key);
	if (calls)
		return calls;
	if (bpf_map_update_elem(&callers, &r->call_key, &r->zero_calls, BPF_ANY)) {
		lose(PGMT_LOSS_CALLS_FULL);
		return NULL;
	}
	return bpf_map_lookup_elem(&callers, &r->call_key);
}

static __always_inline void count(struct pgmt_request *r,
				  const volatile struct pgmt_method_site *site,
				  struct pgmt_calls *calls)
{
	calls->last_jiffies = bpf_jiffies64();
	if (r->nested)
		return;
	calls->count[site->method & 7]++;
	if (site->method == PGMT_METHOD_ALLOC)
		calls->asked += r->size;
	else if (site->method == PGMT_METHOD_REALLOC)
		calls->reasked += r->size;
}

#include "held.bpf.h"

/* ---- the program ---- */

SEC("uprobe.multi")
int method_called(struct pt_regs *ctx)
{
	const volatile struct pgmt_method_site *site = method_of(ctx);
	struct pgmt_calls *calls;
	struct pgmt_process *p;

	p = begin(ctx, PGMT_PROBE_ALLOC);
	if (!p)
		return 0;
	if (p->request.pending.chunk.context)
		find_pending(p);
	p->request.asker.caller = caller_of(ctx, p, site);
	p->request.asker.query = by_query ? asking(p) : PGMT_QUERY_NONE;
	if (read_request(ctx, p, site)) {
		calls = calls_of(p);
		if (calls)
			count(&p->request, site, calls);
		if (p->request.tracked)
			track(ctx, p, site);
	}
	finish(p, PGMT_PROBE_ALLOC);
	return 0;
}
