// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * extension.bpf.c - hands over what a session asks of the daemon by way of the extension.
 *
 * An object of its own: it reads nothing of PostgreSQL's, so one is enough for all majors and all
 * servers, and it is not loaded where no server has the extension.  The request itself stays
 * where it is: the session waits, so the daemon reads it in its own time.
 */
#include <linux/bpf.h>
#include <linux/ptrace.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include <pgmemtrace/abi.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 16 * 1024);
} requests SEC(".maps");

/* [0]: events that found the ring full.  Whoever asked still waits, and requests() lists them. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} lost SEC(".maps");

/* At the entry of pgmemtrace_request(id, kind, json, length). */
SEC("uprobe.multi")
int extension_ask(struct pt_regs *ctx)
{
	struct pgmt_request_event *e = bpf_ringbuf_reserve(&requests, sizeof(*e), 0);
	__u32 zero = 0;

	if (!e) {
		__u64 *count = bpf_map_lookup_elem(&lost, &zero);

		if (count)
			__sync_fetch_and_add(count, 1);
		return 0;
	}
	e->id = PT_REGS_PARM1(ctx);
	e->json = PT_REGS_PARM3(ctx);
	e->tgid = bpf_get_current_pid_tgid() >> 32;
	e->kind = PT_REGS_PARM2(ctx);
	e->length = PT_REGS_PARM4(ctx);
	e->unused = 0;
	bpf_ringbuf_submit(e, 0);
	return 0;
}
