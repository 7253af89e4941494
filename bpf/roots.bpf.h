/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * roots.bpf.h - the O(1) check: what the long-lived contexts gained.
 *
 * A part of pgmemtrace.bpf.c.  TopMemoryContext, CacheMemoryContext and ErrorContext are compared
 * with what they were at the last look, and their new children counted.
 */

#define WORD(buffer, offset) (*(__u64 *)((char *)(buffer) + ((offset)&120)))

/*
 * Looks at one root context.  What it gained since the last look goes to growth_bytes; the
 * first look is the baseline.  The fill of its head block, one read of user memory more, is
 * looked at only with `closely`: the next close look finds what was gained until then, by
 * nobody in particular unless the last one is as `recent` as the last request.
 */
static __always_inline void compare_root(struct pgmt_process *p, __u32 root, __u64 context,
					 bool closely, bool recent)
{
	struct pgmt_root_state *was = &p->roots[root];
	/* On a busy server each line of user memory is a cache miss: no more than is wanted. */
	__u32 size = closely ? FIELD(AllocSetContext, blocks) + 8 : CONTEXT(firstchild) + 8;
	__u64 mem_allocated, firstchild, block, freeptr;
	bool known = was->context == context;

	if (size > sizeof(p->scratch))
		return;
	if (bpf_probe_read_user(p->scratch, size, (void *)context)) {
		lose(PGMT_LOSS_READ_ROOT);
		return;
	}
	mem_allocated = WORD(p->scratch, CONTEXT(mem_allocated));
	firstchild = WORD(p->scratch, CONTEXT(firstchild));
	if (known && mem_allocated > was->mem_allocated) {
		p->growth_bytes += mem_allocated - was->mem_allocated;
		p->unknown_growth |= closely && !recent && root > PGMT_ROOT_CACHE;
	}
	if (closely) {
		block = WORD(p->scratch, FIELD(AllocSetContext, blocks));
		freeptr = read_word(block + FIELD(AllocBlockData, freeptr));
		if (known && mem_allocated == was->mem_allocated && block == was->head_block &&
		    freeptr > was->freeptr) {
			p->growth_bytes += freeptr - was->freeptr;
			p->unknown_growth |= !recent;
		}
		was->head_block = block;
		was->freeptr = freeptr;
	}
	if (!known) /* found by the settle: what is first here may be the transaction's */
		was->settled_first = was->settled_child = was->settled_next = 0;
	was->context = context;
	was->mem_allocated = mem_allocated;
	was->firstchild = firstchild;
}

/*
 * Top, Cache and Error are created once and never move: their address is read from the
 * variable until it is known, then from the slot.
 */
static __noinline void compare_lasting(struct pgmt_process *p, __u32 root, bool closely,
				       bool recent)
{
	__u64 context;

	if (!p || root >= PGMT_ROOTS)
		return;
	context = p->roots[root].context;

	if (!context && root_variables[root])
		context = read_word(p->load_bias + root_variables[root]);
	if (context)
		compare_root(p, root, context, closely, recent);
}

/* Whether there is growth that was not there before. */
static __always_inline bool compare_lasting_roots(struct pgmt_process *p, bool closely)
{
	__u64 before = p->growth_bytes;

	compare_lasting(p, PGMT_ROOT_TOP, closely, p->looked_closely);
	compare_lasting(p, PGMT_ROOT_CACHE, closely, p->looked_closely);
	if (closely)
		compare_lasting(p, PGMT_ROOT_ERROR, true, p->looked_closely);
	p->looked_closely = closely;
	return p->growth_bytes != before;
}

#define NEW_CHILDREN_MAX 16
#define CLOSE_LOOKS 64 /* at so many requests after one that grew */

/*
 * TopTransactionContext is a child of TopMemoryContext while a transaction is open: no growth.
 * Its address seldom changes, since aset.c recycles contexts: the variable is read when it does.
 */
static __always_inline bool is_transaction(struct pgmt_process *p, __u64 node)
{
	if (node != p->transaction_context && top_transaction_context)
		p->transaction_context = read_word(p->load_bias + top_transaction_context);
	return node == p->transaction_context;
}

/* The next settle counts from `node`, a child of the root `r`. */
static __always_inline void settle_at(struct pgmt_process *p, struct pgmt_root_state *r, __u64 node)
{
	if (node && bpf_probe_read_user(p->scratch, 80, (void *)node))
		node = 0;
	r->settled_child = node;
	r->settled_bytes = node ? WORD(p->scratch, CONTEXT(mem_allocated)) : 0;
	r->settled_next = node ? WORD(p->scratch, CONTEXT(nextchild)) : 0;
}

/*
 * The new children of `root` were counted, up to `node`.  If that is the one behind the settled
 * child, this was deleted: a new one takes its place, and only what it has more is growth.  Up
 * to 14, a session drops and makes a context for its table counters twice a second (pgstat.c,
 * pgStatTabHash).  If it is neither, nothing can be said here; the sweep sees the tree change.
 */
static __noinline void account_new_children(struct pgmt_process *p, __u32 root, __u64 node)
{
	struct pgmt_root_state *r;

	if (!p || root >= PGMT_ROOTS)
		return;
	r = &p->roots[root];
	if (!node || (node != r->settled_child && node != r->settled_next)) {
		r->gone_bytes = 0;
		r->new_children = r->new_bytes = 0;
		p->detail_wanted = CLOSE_LOOKS; /* there may be too many at a time */
	} else if (node != r->settled_child) {
		r->gone_bytes = r->settled_bytes;
	}
	if (r->new_children && r->gone_bytes) {
		r->new_children--;
		r->new_bytes -= r->new_bytes < r->gone_bytes ? r->new_bytes : r->gone_bytes;
		r->gone_bytes = 0;
	}
	p->new_children += r->new_children;
	p->growth_bytes += r->new_bytes;
	if (r->new_child || node != r->settled_child)
		settle_at(p, r, r->new_child ? r->new_child : node);
}

/*
 * Children that `root` got since the last settle.  New ones are pushed at the front: those
 * before the newest one of then are new.
 */
static __noinline void count_new_children(struct pgmt_process *p, __u32 root)
{
	struct pgmt_root_state *r;
	__u64 node;

	if (!p || root >= PGMT_ROOTS)
		return;
	r = &p->roots[root];
	barrier_var(r); /* one register for it, not a spilled address for each field */
	r->new_child = r->new_children = r->new_bytes = 0;
	node = r->firstchild;
	for (int i = 0; i < NEW_CHILDREN_MAX; i++) {
		if (node == r->settled_child || node == r->settled_next || !node)
			break;
		if (bpf_probe_read_user(p->scratch, 80, (void *)node))
			return;
		if (!is_transaction(p, node)) {
			r->new_bytes += WORD(p->scratch, CONTEXT(mem_allocated));
			r->new_children++;
			if (!r->new_child)
				r->new_child = node;
		}
		node = WORD(p->scratch, CONTEXT(nextchild));
	}
	account_new_children(p, root, node);
}

/* In a transaction its context is the first at each settle: no news, and no look at it. */
static __always_inline void settle_children(struct pgmt_process *p, __u32 root)
{
	if (p->roots[root].firstchild == p->roots[root].settled_first)
		return;
	p->roots[root].settled_first = p->roots[root].firstchild;
	count_new_children(p, root);
}
