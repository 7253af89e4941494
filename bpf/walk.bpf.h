/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * walk.bpf.h - what a statement holds: all contexts that end with it.
 *
 * A part of pgmemtrace.bpf.c.  Every walk is bounded, and taken only where its cost is small
 * against what has been done since the last one (affordable()).
 */

struct walk_frame {
	struct pgmt_walk *walk;
};

/* One step: read a context, count it if we come from above, choose the next one. */
static long walk_step(__u64 index, struct walk_frame *frame)
{
	struct pgmt_walk *w = frame->walk;
	__u64 bytes, next;
	__u32 tag;

	(void)index;
	if (bpf_probe_read_user(w->header, 80, (void *)w->node)) {
		lose(PGMT_LOSS_READ_WALK);
		return 1;
	}
	tag = WORD(w->header, CONTEXT(type));
	if (tag < first_context_tag || tag > last_context_tag) {
		lose(PGMT_LOSS_READ_WALK);
		return 1;
	}
	if (!w->climbing) {
		bytes = WORD(w->header, CONTEXT(mem_allocated));
		w->contexts++;
		w->bytes += bytes;
		if (bytes > w->largest_bytes) {
			w->largest_bytes = bytes;
			w->largest = w->node;
			w->largest_name = WORD(w->header, CONTEXT(name));
		}
		if (w->node == w->query) /* it lies below another root */
			w->query = 0;
		next = WORD(w->header, CONTEXT(firstchild));
		if (next) {
			w->node = next;
			return 0;
		}
	}
	if (w->node == w->root) {
		w->node = 0;
		return 1;
	}
	next = WORD(w->header, CONTEXT(nextchild));
	if (next) {
		w->climbing = 0;
		w->node = next;
		return 0;
	}
	w->climbing = 1;
	w->node = WORD(w->header, CONTEXT(parent));
	return !w->node;
}

/* CPU time of this thread, as of the last tick or switch; 0: this kernel does not tell where. */
static __always_inline __u64 cpu_time(void)
{
	__u64 ns = 0;

	if (task_cpu_ns)
		bpf_probe_read_kernel(&ns, sizeof(ns),
				      (void *)bpf_get_current_task() + task_cpu_ns);
	return ns;
}

/*
 * Is the cost of the last walk small against what has been done since then?  Time alone would
 * let each of many sessions that wait for one another take its share of the same second.
 */
static __always_inline bool affordable(struct pgmt_process *p, __u64 now)
{
	__u64 since = now - p->walked_ns;

	if (since <= p->walk_cost_ns * walk_share)
		return false;
	return !task_cpu_ns || since > p->walk_cost_ns * idle_walk_share ||
	       cpu_time() - p->walked_cpu_ns > p->walk_cost_ns * walk_share;
}

/*
 * A context takes some 0.1 to 0.5 us.  What a walk took beyond this, it was preempted: one slice of
 * a busy machine, paid like a cost, would make it the last walk for a minute.
 */
#define WALK_CONTEXT_MAX_NS 2000

static __noinline void walk_below(struct pgmt_walk *w, __u64 root, __u32 steps)
{
	struct walk_frame frame = {.walk = w};

	if (!w || !root)
		return;
	w->root = root;
	w->node = root;
	w->climbing = 0;
	bpf_loop(steps, walk_step, &frame, 0);
	if (w->node)
		lose(PGMT_LOSS_WALK_BOUND);
}

static __always_inline __u64 context_of_query(__u64 query_desc)
{
	__u64 estate;

	if (!bpf_core_field_exists(((struct EState *)0)->es_query_cxt)) /* a BTF that lacks it */
		return 0;
	estate = read_word(query_desc + FIELD(QueryDesc, estate));
	return estate ? read_word(estate + FIELD(EState, es_query_cxt)) : 0;
}

/*
 * All contexts that do not outlive the statement or its transaction: `query`, its QueryDesc's own,
 * and those that it or who runs it works in.  They are disjoint, but that the first mostly lies
 * below one of the others; a cursor's does not, nor does that of a portal that is dropped.
 */
static __noinline void walk_statement(struct pgmt_process *p, struct pgmt_walk *w, __u64 query,
				      __u32 steps)
{
	if (!p || !w)
		return;
	w->contexts = 0;
	w->bytes = 0;
	w->largest_bytes = 0;
	w->query = query;
	if (top_transaction_context)
		walk_below(w, read_word(p->load_bias + top_transaction_context), steps);
	if (portal_context)
		walk_below(w, read_word(p->load_bias + portal_context), steps);
	if (message_context)
		walk_below(w, read_word(p->load_bias + message_context), steps);
	walk_below(w, w->query, steps);
}
