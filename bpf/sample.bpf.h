/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * sample.bpf.h - what statements hold while they run, seen by the clock: without a trap.
 *
 * A part of pgmemtrace.bpf.c.  A hundred times in each second of each CPU, whoever runs there is
 * looked at.  A statement that holds much has to take it first, page by page, and is seen while it
 * does or while it uses it; and those that wait, the sweep sees.  The end of a statement is the
 * better moment, but its trap is paid by all the statements that hold nothing.
 *
 * This interrupts whatever runs, also our own programs in the same process: what it needs in the
 * slot is its own.  The tree may be in the middle of a change: what is read is checked, and
 * bounded.
 */

#define SAMPLE_STEPS 256 /* below one root: interrupts are off */

static __always_inline struct pgmt_process *running(__u32 tgid)
{
	struct pgmt_process *p = known_process(tgid);
	struct task_state *task;
	__u64 *load_bias;

	if (p)
		return p;
	if (strangers[tgid & (PGMT_HINTS - 1)] == stranger(tgid))
		return NULL;
	task = bpf_task_storage_get(&tasks, bpf_get_current_task_btf(), NULL, 0);
	if (task && task->slot)
		return process_in(task->slot - 1, tgid);
	load_bias = server_of(tgid, PGMT_PROBE_SAMPLE);
	return load_bias ? find_process(*load_bias, PGMT_PROBE_SAMPLE) : NULL;
}

/* Once per request, and again when it has become a quarter more. */
static __always_inline bool is_news(struct pgmt_process *p, __u64 now)
{
	if (p->sample.bytes <= peak_min_bytes || now - p->sample_event_ns <= event_every_ns)
		return false;
	return p->sample_request != p->requests + 1 ||
	       p->sample.bytes > p->sample_bytes + p->sample_bytes / 4;
}

SEC("perf_event")
int sampled(void *ctx)
{
	struct pgmt_process *p = running(bpf_get_current_pid_tgid() >> 32);
	__u64 now;

	(void)ctx;
	if (!p)
		return 0;
	now = bpf_ktime_get_ns();
	p->hits[PGMT_PROBE_SAMPLE]++;
	walk_statement(p, &p->sample, 0, SAMPLE_STEPS);
	if (is_news(p, now)) {
		p->sample_event_ns = now;
		p->sample_request = p->requests + 1;
		p->sample_bytes = p->sample.bytes;
		send_peak(p, &p->sample, false, now);
	}
	p->run_ns[PGMT_PROBE_SAMPLE] += bpf_ktime_get_ns() - now;
	p->run_samples[PGMT_PROBE_SAMPLE]++;
	return 0;
}
