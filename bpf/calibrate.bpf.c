// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// calibrate.bpf.c - the program that does nothing, to learn what a hit itself costs.
//
// Two ways to attach it to code, userspace loads the one that this kernel has; and one to sends.
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>
#include <pgmemtrace/abi.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

SEC("?uprobe.multi")
int calibrate_multi(void *ctx)
{
	(void)ctx;
	return 0;
}

SEC("?uprobe")
int calibrate_perf(void *ctx)
{
	(void)ctx;
	return 0;
}

SEC("?raw_tp/" PGMT_ANSWER_TRACEPOINT)
int calibrate_send(void *ctx)
{
	(void)ctx;
	return 0;
}
