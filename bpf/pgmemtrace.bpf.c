// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * pgmemtrace.bpf.c - the kernel half: read, compare, count, hand over.  No judgement.
 *
 * One program per probed PostgreSQL function; the daemon attaches them by site
 * (attach/probes.cpp), so SEC() names no target.  Every hit is a tax on somebody's query:
 * a boundary does O(1) work, everything beyond it is taken only when its cost is small
 * against the time since it was last taken (affordable()).
 *
 * All memory that a program needs beyond a few words lies in the process's own slot:
 * uprobe programs may be preempted, so per-CPU scratch is unsafe, and stack frames of
 * 64 bytes and more get a private stack per CPU from 6.13 on, which is as unsafe.
 */
#include <linux/bpf.h>
#include <linux/ptrace.h>
#include <stdbool.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include <bpf/bpf_core_read.h>
#include <pgmemtrace/abi.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* Its parts: each uses those above it. */
/* clang-format off */
#include "postgres.bpf.h" /* PostgreSQL's structs */
#include "knobs.bpf.h"    /* what the daemon tells us */
#include "maps.bpf.h"     /* where all is kept */
#include "process.bpf.h"  /* whose hit it is */
#include "roots.bpf.h"    /* what long-lived contexts gained */
#include "walk.bpf.h"     /* what a statement holds */
#include "text.bpf.h"     /* which statement it is */
#include "query.bpf.h"    /* ... and whose growth, with --by-query */
#include "events.bpf.h"   /* what is handed over at once */
/* clang-format on */

/* ---- boundaries: of statements, round trips, transactions, processes ---- */

/* Notes that the long-lived contexts have grown, and in which phase. */
static __always_inline void note_growth(struct pgmt_process *p)
{
	p->growth_phase = p->phase;
	p->pending_growth = 1;
}

static __always_inline void compare_with_last_settle(struct pgmt_process *p, __u64 now)
{
	bool due = now - p->settle_detail_ns > detail_every_ns;

	compare_lasting_roots(p, due || p->detail_wanted);
	settle_children(p, PGMT_ROOT_TOP);
	settle_children(p, PGMT_ROOT_CACHE);
	if (due)
		p->settle_detail_ns = now;
	p->settled_ns = now;
}

/*
 * A request or a stretch of background work is over: errors get here too.  Several within one tick
 * of the kernel are compared once, unless somebody grows: what is found then may be any of theirs.
 */
static __always_inline void settled(struct pgmt_process *p, __u64 now)
{
	__u64 before = p->growth_bytes;
	if (now == p->settled_ns && !p->detail_wanted) {
		p->skipped = 1;
	} else {
		compare_with_last_settle(p, now);
		p->unknown_growth |= p->skipped && p->growth_bytes != before;
		p->skipped = 0;
	}
	if (p->growth_bytes != before && !p->pending_growth)
		note_growth(p);
	if (p->pending_growth) {
		p->grown_requests++;
		p->detail_wanted = CLOSE_LOOKS;
		p->pending_growth = 0;
		if (now - p->event_ns > event_every_ns) {
			if (p->text_request != p->requests + 1 && !p->unknown_growth)
				capture_activity(p);
			send_growth(p, now);
		}
	} else if (p->detail_wanted) {
		p->detail_wanted--;
	}
	p->busy_since_ns = 0;
	p->query_desc = 0;
	p->nesting = 0;
	p->phase = PGMT_PHASE_IDLE;
	if (by_query)
		note_activity(p);
}

/*
 * Within a request: growth so far belongs to the phase that ends here.  Growing processes
 * are looked at each time, others now and then: settle finds what is missed here.
 */
static __always_inline bool detail_due(struct pgmt_process *p, __u64 now)
{
	return p->detail_wanted || now - p->detail_ns > detail_every_ns;
}

static __always_inline void look_closely(struct pgmt_process *p, __u64 now)
{
	p->detail_ns = now;
	if (compare_lasting_roots(p, true)) {
		p->unknown_growth |= p->skipped;
		note_growth(p);
	}
}

/*
 * The first statement that we see begin may lie anywhere in a request that was running before the
 * probes came.  It is not the client's then, and all until settle is a part of the one that
 * pg_stat_activity shows: deeper on the stack than anything.
 */
static __noinline void join_request(struct pgmt_process *p)
{
	bool counted;
	__u64 entry;

	if (!p)
		return;
	counted = p->busy_since_ns; /* it may be the same request still */
	p->busy_since_ns = 0;
	entry = backend_status(p);
	if (!entry ||
	    read_word(entry + FIELD(PgBackendStatus, st_activity_start_timestamp)) >= starts_since)
		return;
	p->busy_since_ns = bpf_ktime_get_ns();
	if (!counted)
		p->statements++;
	p->phase = PGMT_PHASE_UTILITY;
	p->utility_stmt = 0;
	p->utility_sp = ~0ULL;
	p->utility_text = read_word(entry + FIELD(PgBackendStatus, st_activity_raw));
}

/* A statement begins.  Was that seen of this process before, too? */
static __always_inline void join_if_new(struct pgmt_process *p)
{
	bool through = p->starts_epoch && p->busy_since_ns; /* merely others came */

	if (p->starts_epoch == starts_epoch)
		return;
	p->starts_epoch = starts_epoch;
	if (!through)
		join_request(p);
}

/*
 * Does this boundary lie inside another statement?  DO, CALL, EXECUTE run theirs deeper on
 * the stack than standard_ProcessUtility; what merely follows it in the same request
 * starts at about its depth.
 */
#define DEEPER_BYTES 256

static __always_inline bool nested(struct pgmt_process *p, struct pt_regs *ctx)
{
	return p->nesting ||
	       (p->phase == PGMT_PHASE_UTILITY && PT_REGS_SP(ctx) + DEEPER_BYTES < p->utility_sp);
}

/* Returns whether its text is wanted. */
static __always_inline bool statement_began(struct pgmt_process *p, __u64 now)
{
	bool detail = detail_due(p, now);

	if (!p->busy_since_ns)
		p->busy_since_ns = now;
	p->statements++;
	p->phase = PGMT_PHASE_PLAN; /* what came before execution */
	if (detail)
		look_closely(p, now);
	return detail;
}

SEC("uprobe.multi")
int boundary_start(struct pt_regs *ctx)
{
	struct pgmt_process *p;
	__u64 now;

	p = begin(ctx, PGMT_PROBE_START);
	if (!p)
		return 0;
	now = coarse_time(p);
	join_if_new(p);
	if (!nested(p, ctx)) {
		if (statement_began(p, now))
			capture_query(p, argument(ctx, PGMT_PROBE_START, 0));
		p->query_desc = argument(ctx, PGMT_PROBE_START, 0);
		p->phase = PGMT_PHASE_EXECUTE;
	}
	p->nesting++;
	finish(p, PGMT_PROBE_START);
	return 0;
}

/* All memory of the statement is still there: the one moment to see it whole. */
static __noinline void look_at_peak(struct pgmt_process *p, __u64 query_desc, __u64 now)
{
	__u64 began = bpf_ktime_get_ns(), took, most;

	if (!p)
		return;
	walk_statement(p, &p->walk, context_of_query(query_desc), PGMT_WALK_MAX);
	p->walks++;
	p->walked_ns = now;
	p->walked_cpu_ns = cpu_time();
	took = bpf_ktime_get_ns() - began;
	most = (p->walk.contexts + 16) * WALK_CONTEXT_MAX_NS;
	p->walk_cost_ns = took < most ? took : most;
	p->walk_total_ns += p->walk_cost_ns;
	p->timed_ns = 0;
	if (p->walk.bytes <= peak_min_bytes || now - p->peak_event_ns <= event_every_ns)
		return;
	capture_running(p);
	send_peak(p, &p->walk, true, now);
	p->peak_event_ns = now;
}

SEC("uprobe.multi")
int boundary_end(struct pt_regs *ctx)
{
	struct pgmt_process *p;
	__u64 now, query_desc;

	p = begin(ctx, PGMT_PROBE_END);
	if (!p)
		return 0;
	now = coarse_time(p);
	query_desc = argument(ctx, PGMT_PROBE_END, 0);
	if (affordable(p, now))
		look_at_peak(p, query_desc, now);
	/* Cursors interleave and errors skip ends: the QueryDesc tells the statement's own. */
	if (p->query_desc == query_desc) {
		if (detail_due(p, now))
			look_closely(p, now);
		p->query_desc = 0;
		p->nesting = 0;
	} else if (p->nesting) {
		p->nesting--;
	}
	finish(p, PGMT_PROBE_END);
	return 0;
}

SEC("uprobe.multi")
int boundary_util(struct pt_regs *ctx)
{
	struct pgmt_process *p;
	__u64 now;

	p = begin(ctx, PGMT_PROBE_UTILITY);
	if (!p)
		return 0;
	now = coarse_time(p);
	join_if_new(p);
	if (!nested(p, ctx)) {
		if (statement_began(p, now))
			capture_text(p, argument(ctx, PGMT_PROBE_UTILITY, 0),
				     argument(ctx, PGMT_PROBE_UTILITY, 1));
		p->query_desc = 0;
		p->utility_stmt = argument(ctx, PGMT_PROBE_UTILITY, 0);
		p->utility_text = argument(ctx, PGMT_PROBE_UTILITY, 1);
		p->utility_sp = PT_REGS_SP(ctx);
		p->phase = PGMT_PHASE_UTILITY;
	}
	finish(p, PGMT_PROBE_UTILITY);
	return 0;
}

/* Where starts are not probed, none was seen; it was one all the same. */
static __always_inline void count_unseen_statement(struct pgmt_process *p)
{
	if (!p->busy_since_ns)
		p->statements++;
}

static __always_inline void request_settled(struct pgmt_process *p)
{
	if (p->requests) /* the first may be a session's greeting */
		count_unseen_statement(p);
	settled(p, coarse_time(p));
	p->requests++;
	finish(p, PGMT_PROBE_SETTLE);
}

SEC("uprobe.multi")
int boundary_settle(struct pt_regs *ctx)
{
	struct pgmt_process *p = begin(ctx, PGMT_PROBE_SETTLE);

	if (p)
		request_settled(p);
	return 0;
}

#include "answer.bpf.h"
#include "sample.bpf.h"

/* Only attached to processes that never settle, by pid. */
SEC("uprobe.multi")
int boundary_xact(struct pt_regs *ctx)
{
	struct pgmt_process *p;

	p = begin(ctx, PGMT_PROBE_XACT);
	if (!p)
		return 0;
	count_unseen_statement(p);
	settled(p, coarse_time(p));
	p->transactions++;
	finish(p, PGMT_PROBE_XACT);
	return 0;
}

/* The last look: afterwards the process and its task storage are gone. */
SEC("uprobe.multi")
int process_exit(struct pt_regs *ctx)
{
	struct pgmt_process *p;

	p = begin(ctx, PGMT_PROBE_EXIT);
	if (!p)
		return 0;
	settled(p, coarse_time(p));
	p->exited = 1;
	hints[p->tgid & (PGMT_HINTS - 1)] = 0; /* its pid may come again before the slot is free */
	send_header(p, PGMT_EVENT_EXIT, p->tgid);
	finish(p, PGMT_PROBE_EXIT);
	return 0;
}

#include "dsm.bpf.h"
#include "stack.bpf.h"
#include "block.bpf.h"
#include "malloc.bpf.h"
#include "alloc.bpf.h"
