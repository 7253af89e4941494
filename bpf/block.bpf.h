/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * block.bpf.h - level block: what contexts gain from malloc and give back, and who asked.
 *
 * A part of pgmemtrace.bpf.c.  One program, at each call of malloc, realloc and free in the
 * allocators that the planner proved (attach/block_sites.h): `sites` says where the context is
 * found there.  What a register or a block says is believed only if a context's tag is read at
 * that address.
 *
 * mem_allocated still is what it was before when malloc and realloc are called: it is foretold,
 * and checked at the next gain.  What changed in between was not seen, and is counted; unless
 * it became less, and calls of free in AllocSetReset, AllocSetFree and their likes have no probes:
 * when not recording, what they return is the difference.
 *
 * Stacks (stack.bpf.h) are taken only where a context outgrows its earlier peak; when
 * recording (record_all) for every block, and under the name of the context instead of its
 * address: so what contexts of a name gain and return adds up, however short they live.
 */

#if defined(__TARGET_ARCH_arm64)
#define ARGUMENT_PLACE(i) (i) /* x0, x1, x2 of struct user_pt_regs */
#else
#define ARGUMENT_PLACE(i) (14 - (i)) /* rdi, rsi, rdx of struct pt_regs */
#endif

/*
 * The first three arguments, where most things are, at constant offsets: a direct access must have
 * one, and a helper costs some 25 ns.  The barriers keep the compiler from making one access of
 * the three.
 */
static __always_inline __u64 register_of(struct pt_regs *ctx, __u32 place)
{
	__u64 value = 0;

	if (place == ARGUMENT_PLACE(0)) {
		value = PT_REGS_PARM1(ctx);
		barrier_var(value);
	} else if (place == ARGUMENT_PLACE(1)) {
		value = PT_REGS_PARM2(ctx);
		barrier_var(value);
	} else if (place == ARGUMENT_PLACE(2)) {
		value = PT_REGS_PARM3(ctx);
		barrier_var(value);
	} else {
		bpf_probe_read_kernel(&value, sizeof(value),
				      (void *)ctx + (place & 31) * sizeof(value));
	}
	return value;
}

/* What the planner proved to be there; the block, where it tells, lies in scratch. */
static __always_inline __u64 held(struct pt_regs *ctx, struct pgmt_process *p,
				  const volatile struct pgmt_site *site)
{
	if (site->holder == PGMT_HOLDER_FRAME)
		return read_word(PT_REGS_FP(ctx) + site->frame_offset);
	if (site->holder == PGMT_HOLDER_BLOCK)
		return WORD(p->scratch, site->owner_at);
	return register_of(ctx, site->holder);
}

#define BLOCK_HEADER_BYTES 64 /* more than any has */
#define CONTEXT_HEADER_BYTES 80

static __always_inline bool read_block(struct pgmt_process *p, __u64 block)
{
	if (!bpf_probe_read_user(p->scratch, BLOCK_HEADER_BYTES, (void *)block))
		return true;
	lose(PGMT_LOSS_READ_BLOCK);
	return false;
}

static __always_inline bool is_context(struct pgmt_process *p,
				       const volatile struct pgmt_site *site)
{
	return (__u32)WORD(p->scratch, CONTEXT(type)) == site->context_tag;
}

static __always_inline bool read_context(struct pgmt_process *p,
					 const volatile struct pgmt_site *site, __u64 context)
{
	if (!bpf_probe_read_user(p->scratch, CONTEXT_HEADER_BYTES, (void *)context) &&
	    is_context(p, site))
		return true;
	lose(PGMT_LOSS_READ_BLOCK);
	return false;
}

/* ---- who asked ---- */

static __always_inline void add_growth(struct pgmt_growth *g, const struct pgmt_growth *more)
{
	g->bytes += more->bytes;
	g->raised += more->raised;
	g->blocks++;
	g->last_ns = more->last_ns;
}

/* Whose growth, and how much of it raised a peak, is in growth_key and growth.raised. */
static __noinline void count_growth(struct pt_regs *ctx, struct pgmt_process *p, __u64 bytes)
{
	struct pgmt_growth *g = NULL;
	bool walked;

	if (!p)
		return;
	p->growth.bytes = bytes;
	p->growth.blocks = 1;
	p->growth.last_ns = coarse_time(p);
	p->growth.proven = 0;
	p->growth_key.stack.tgid = p->tgid;
	p->growth_key.stack.hash = 0;
	walked = !no_frame_pointers && walk_frames(ctx, p);
	if (walked)
		g = bpf_map_lookup_elem(&growths, &p->growth_key);
	if (g && g->proven) {
		add_growth(g, &p->growth);
		return;
	}
	if (settle_stack(ctx, p, walked))
		return; /* the daemon counts it */
	/* Under another hash, maybe. */
	g = bpf_map_lookup_elem(&growths, &p->growth_key);
	if (g) {
		add_growth(g, &p->growth);
		g->proven = p->growth.proven;
		return;
	}
	if (bpf_map_update_elem(&growths, &p->growth_key, &p->growth, BPF_ANY))
		lose(PGMT_LOSS_GROWTHS_FULL);
}

static __always_inline void note_new_peak(struct pt_regs *ctx, struct pgmt_process *p,
					  __u64 context, __u64 name, __u64 bytes)
{
	p->growth_key.context = context;
	p->growth_key.name = name;
	p->growth.raised = bytes;
	count_growth(ctx, p, bytes);
}

/* ---- by name ---- */

static __noinline struct pgmt_name *name_of(struct pgmt_process *p, __u64 name)
{
	struct pgmt_context_key *key;
	struct pgmt_name *n;

	if (!p)
		return NULL;
	key = &p->context_key;
	key->tgid = p->tgid;
	key->address = name;
	n = bpf_map_lookup_elem(&names, key);
	if (n)
		return n;
	if (bpf_map_update_elem(&names, key, &p->name, BPF_ANY)) /* all zero */
		lose(PGMT_LOSS_GROWTHS_FULL);
	return bpf_map_lookup_elem(&names, key);
}

/* `returned` may be ahead: what was there before the recording is returned as well. */
static __noinline void record_gain(struct pt_regs *ctx, struct pgmt_process *p,
				   const volatile struct pgmt_site *site, __u64 name, __u64 bytes)
{
	struct pgmt_name *n;
	__s64 beyond = 0;

	if (!p)
		return;
	n = name_of(p, name);
	if (n) {
		n->gained += bytes;
		n->blocks += site->kind != PGMT_SITE_RESIZE;
		beyond = (__s64)(n->gained - n->returned - n->peak);
		if (beyond > 0)
			n->peak += beyond;
	}
	p->growth_key.context = PGMT_CONTEXTS_ALL;
	p->growth_key.name = name;
	p->growth_key.query = by_query ? asking(p) : PGMT_QUERY_NONE;
	p->growth.raised = beyond > 0 ? beyond : 0;
	count_growth(ctx, p, bytes);
}

static __noinline void record_return(struct pgmt_process *p, const volatile struct pgmt_site *site,
				     __u64 name, __u64 bytes)
{
	struct pgmt_name *n;

	if (!p)
		return;
	n = name_of(p, name);
	if (!n)
		return;
	n->returned += bytes;
	n->blocks -= site->kind != PGMT_SITE_RESIZE;
}

/* ---- what a context gains ---- */

/*
 * The record of the context whose header lies in scratch, made if there is none; NULL: no room.
 * Another name is another context at a recycled address.  So is another parent, unless it holds
 * what was last known of it: then it was moved.
 */
static __noinline struct pgmt_context *record_of(struct pgmt_process *p, __u64 address)
{
	struct pgmt_context_key *key;
	struct pgmt_context *c, *made;

	if (!p)
		return NULL;
	key = &p->context_key;
	made = &p->context;
	key->tgid = p->tgid;
	key->address = address;
	made->parent = WORD(p->scratch, CONTEXT(parent));
	made->name = WORD(p->scratch, CONTEXT(name));
	made->ident = WORD(p->scratch, CONTEXT(ident));
	c = bpf_map_lookup_elem(&contexts, key);
	if (c && !made->parent) /* MemoryContextDelete unlinks it before it frees its blocks */
		made->parent = c->parent;
	if (c && c->name == made->name &&
	    (c->parent == made->parent || c->bytes == WORD(p->scratch, CONTEXT(mem_allocated)))) {
		c->parent = made->parent;
		c->ident = made->ident;
		return c;
	}
	if (bpf_map_update_elem(&contexts, key, made, BPF_ANY)) {
		lose(PGMT_LOSS_CONTEXTS_FULL);
		return NULL;
	}
	return bpf_map_lookup_elem(&contexts, key);
}

static __noinline void gain(struct pt_regs *ctx, struct pgmt_process *p,
			    const volatile struct pgmt_site *site, __u64 context, __u64 bytes)
{
	struct pgmt_context *c;
	__u64 before;

	if (!p || !read_context(p, site, context))
		return;
	before = WORD(p->scratch, CONTEXT(mem_allocated));
	c = record_of(p, context);
	if (!c)
		return;
	if (c->bytes && c->bytes != before && c->seen_ns >= blocks_since) {
		if (before > c->bytes || record_all)
			lose(PGMT_LOSS_BLOCKS_UNSEEN);
		else
			c->returned += c->bytes - before;
	}
	if (before > c->peak_bytes)
		c->peak_bytes = before;
	c->bytes = before + bytes;
	c->seen_ns = coarse_time(p);
	c->gained += bytes;
	c->gains++;
	if (record_all) {
		record_gain(ctx, p, site, c->name, bytes);
	} else if (c->bytes > c->peak_bytes) {
		c->peak_bytes = c->bytes;
		note_new_peak(ctx, p, c->bytes < alone_min_bytes ? PGMT_CONTEXTS_SMALL : context,
			      c->name, bytes);
	}
}

/* More contexts of this name than ever before are growth. */
static __noinline void create(struct pt_regs *ctx, struct pgmt_process *p,
			      const volatile struct pgmt_site *site)
{
	__u64 name, bytes = PT_REGS_PARM1(ctx);
	struct pgmt_name *n;

	if (!p)
		return;
	name = held(ctx, p, site);
	n = name_of(p, name);
	if (!n)
		return;
	n->made++;
	if (record_all) {
		record_gain(ctx, p, site, name, bytes);
	} else if (n->made > n->most + n->freed) {
		n->most = n->made - n->freed;
		note_new_peak(ctx, p, PGMT_CONTEXTS_MADE, name, bytes);
	}
}

/* ---- what it returns ---- */

/*
 * A context is freed as a whole; its header lies in scratch, but for what follows.  What
 * mem_allocated still says then is its first block, which is one with it.
 */
static __noinline void destroy(struct pgmt_process *p, const volatile struct pgmt_site *site,
			       __u64 context)
{
	struct pgmt_context_key *key;
	struct pgmt_name *n;

	if (!p || !read_context(p, site, context))
		return;
	if (record_all)
		record_return(p, site, WORD(p->scratch, CONTEXT(name)),
			      WORD(p->scratch, CONTEXT(mem_allocated)));
	key = &p->context_key;
	key->tgid = p->tgid;
	key->address = WORD(p->scratch, CONTEXT(name));
	n = bpf_map_lookup_elem(&names, key);
	if (n && n->made > n->freed)
		n->freed++;
	key->address = context;
	bpf_map_delete_elem(&contexts, key);
}

static __always_inline __u64 block_bytes(struct pgmt_process *p,
					 const volatile struct pgmt_site *site, __u64 block)
{
	__u64 word = WORD(p->scratch, site->size_at);

	return site->size_from == PGMT_SIZE_TO_END ? word - block : word;
}

static __noinline void give_back(struct pgmt_process *p, const volatile struct pgmt_site *site,
				 __u64 context, __u64 bytes)
{
	struct pgmt_context *c;

	if (!p || !read_context(p, site, context))
		return;
	if (site->size_from == PGMT_SIZE_IN_CONTEXT &&
	    bpf_probe_read_user(&bytes, 4, (void *)(context + site->size_at))) {
		lose(PGMT_LOSS_READ_BLOCK);
		return;
	}
	/* Before the free or after it, mem_allocated changes: what it is now says nothing. */
	c = record_of(p, context);
	if (!c)
		return;
	c->bytes = c->bytes > bytes && c->seen_ns >= blocks_since ? c->bytes - bytes : 0;
	c->seen_ns = coarse_time(p);
	c->returned += bytes;
	if (record_all)
		record_return(p, site, c->name, bytes);
}

/* Larger is no block: palloc ends at 1 GB, huge at some TB. */
#define BLOCK_BYTES_MAX (1ULL << 40)

static __always_inline void free_block(struct pt_regs *ctx, struct pgmt_process *p,
				       const volatile struct pgmt_site *site)
{
	__u64 block = PT_REGS_PARM1(ctx), bytes = 0;

	if (!block || !read_block(p, block)) /* free(NULL) is nothing */
		return;
	if (is_context(p, site)) {
		destroy(p, site, block);
		return;
	}
	if (site->size_from != PGMT_SIZE_IN_CONTEXT)
		bytes = block_bytes(p, site, block);
	if (bytes > BLOCK_BYTES_MAX) {
		lose(PGMT_LOSS_READ_BLOCK);
		return;
	}
	give_back(p, site, held(ctx, p, site), bytes);
}

static __noinline void resize_block(struct pt_regs *ctx, struct pgmt_process *p,
				    const volatile struct pgmt_site *site)
{
	__u64 block = PT_REGS_PARM1(ctx), wanted = PT_REGS_PARM2(ctx), context, bytes;

	if (!p || !read_block(p, block))
		return;
	bytes = block_bytes(p, site, block);
	context = held(ctx, p, site);
	if (bytes > BLOCK_BYTES_MAX)
		lose(PGMT_LOSS_READ_BLOCK);
	else if (wanted > bytes)
		gain(ctx, p, site, context, wanted - bytes);
	else
		give_back(p, site, context, bytes - wanted);
}

SEC("uprobe.multi")
int block_change(struct pt_regs *ctx)
{
	const volatile struct pgmt_site *site = site_of(ctx);
	struct pgmt_process *p;

	if (blocks_since == ~0ULL)
		return 0;
	p = begin(ctx, PGMT_PROBE_BLOCK);
	if (!p)
		return 0;
	switch (site->kind) {
	case PGMT_SITE_GAIN:
		gain(ctx, p, site, held(ctx, p, site), PT_REGS_PARM1(ctx));
		break;
	case PGMT_SITE_CREATE:
		create(ctx, p, site);
		break;
	case PGMT_SITE_RESIZE:
		resize_block(ctx, p, site);
		break;
	case PGMT_SITE_RETURN:
		free_block(ctx, p, site);
		break;
	}
	finish(p, PGMT_PROBE_BLOCK);
	return 0;
}
