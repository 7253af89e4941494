/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * events.bpf.h - what is handed over at once: growth, and peaks.
 *
 * A part of pgmemtrace.bpf.c.  All else lies in maps until the daemon comes by.
 */

static __always_inline void fill_header(struct pgmt_event_header *e, struct pgmt_process *p,
					__u32 type, __u32 phase, __u64 now)
{
	e->type = type;
	e->tgid = p->tgid;
	e->time_ns = now;
	e->phase = phase;
	e->slot = p->slot;
}

/* What all of these events say of the statement. */
#define COPY_STATEMENT(e, p, with_text)                                                            \
	do {                                                                                       \
		(e)->query_id = 0;                                                                 \
		(e)->stmt_location = 0;                                                            \
		(e)->stmt_len = 0;                                                                 \
		(e)->query[0] = 0;                                                                 \
		if ((p)->text_request == (p)->requests + 1 && (with_text)) {                       \
			(e)->query_id = (p)->query_id;                                             \
			(e)->stmt_location = (p)->stmt_location;                                   \
			(e)->stmt_len = (p)->stmt_len;                                             \
			bpf_probe_read_kernel((e)->query, sizeof((e)->query), (p)->query);         \
		}                                                                                  \
	} while (0)

static __noinline void send_growth(struct pgmt_process *p, __u64 now)
{
	struct pgmt_growth_event *e;

	if (!p)
		return;
	e = reserve_event(sizeof(*e));
	if (!e)
		return;
	fill_header(&e->header, p, PGMT_EVENT_GROWTH, p->growth_phase, now);
	e->bytes = p->growth_bytes;
	e->occurrences = p->grown_requests;
	e->new_children = p->new_children;
	COPY_STATEMENT(e, p, !p->unknown_growth);
	bpf_ringbuf_submit(e, 0);
	p->event_ns = now;
	p->growth_bytes = 0;
	p->grown_requests = 0;
	p->new_children = 0;
	p->unknown_growth = 0;
}

/* Into the event itself: whoever was interrupted may be writing the slot's text. */
static __always_inline void put_activity(struct pgmt_process *p, struct pgmt_peak_event *e)
{
	__u64 entry = backend_status(p);

	e->query_id = 0;
	e->stmt_location = 0;
	e->stmt_len = 0;
	e->query[0] = 0;
	if (entry)
		read_activity(entry, &e->query_id, e->query);
}

/* `captured`: its text is in the slot; else it is what pg_stat_activity shows. */
static __noinline void send_peak(struct pgmt_process *p, struct pgmt_walk *w, bool captured,
				 __u64 now)
{
	struct pgmt_peak_event *e;

	if (!p || !w)
		return;
	e = reserve_event(sizeof(*e));
	if (!e)
		return;
	fill_header(&e->header, p, PGMT_EVENT_PEAK, PGMT_PHASE_EXECUTE, now);
	e->bytes = w->bytes;
	e->context = w->largest;
	e->context_name = w->largest_name;
	e->context_bytes = w->largest_bytes;
	if (captured)
		COPY_STATEMENT(e, p, true);
	else
		put_activity(p, e);
	bpf_ringbuf_submit(e, 0);
}
