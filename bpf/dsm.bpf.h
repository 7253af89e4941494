/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * dsm.bpf.h - who makes segments of dynamic shared memory: a part of pgmemtrace.bpf.c.
 *
 * What becomes of a segment, the server's control segment says without a probe
 * (collect/dsm_reader.h).  What it does not say is who made it: that is told here, once per
 * segment that is asked of the kernel.
 */

#define DSM_OP_CREATE 0 /* dsm_op of storage/dsm_impl.h, the same in 13 to 18 */

static __noinline void send_dsm(struct pt_regs *ctx, struct pgmt_process *p)
{
	struct pgmt_dsm_event *e;

	if (!p)
		return;
	e = reserve_event(sizeof(*e));
	if (!e)
		return;
	fill_header(&e->header, p, PGMT_EVENT_DSM, p->phase, coarse_time(p));
	e->handle = argument(ctx, PGMT_PROBE_DSM, 1);
	e->size = argument(ctx, PGMT_PROBE_DSM, 2);
	e->request = p->requests;
	/* What it does not fill is zeros, also when it fails. */
	if (bpf_get_stack(ctx, e->stack, sizeof(e->stack), BPF_F_USER_STACK) < 0)
		lose(PGMT_LOSS_STACK);
	COPY_STATEMENT(e, p, true);
	bpf_ringbuf_submit(e, 0);
}

/*
 * dsm_impl_op(op, handle, request_size, ...).  It also attaches, detaches and destroys, for a
 * parallel query some 14 times: those go before anything is looked up, so they are no hits.
 */
SEC("uprobe.multi")
int dsm_made(struct pt_regs *ctx)
{
	struct pgmt_process *p;

	if ((__u32)argument(ctx, PGMT_PROBE_DSM, 0) != DSM_OP_CREATE)
		return 0;
	p = begin(ctx, PGMT_PROBE_DSM);
	if (!p)
		return 0;
	capture_running(p);
	send_dsm(ctx, p);
	finish(p, PGMT_PROBE_DSM);
	return 0;
}
