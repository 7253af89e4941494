/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * marker.c - the function that the daemon probes, and the counter that says whether it does.
 */
#include "pgmemtrace.h"

/*
 * The kernel counts in mappings of the file alone, so not in .bss, where a zero would be put
 * (kernel/events/uprobes.c: valid_ref_ctr_vma).
 */
volatile uint16 pgmemtrace_watchers __attribute__((section(".probes"))) = 0;

/* A nop at the entry is the cheapest place for a probe: the kernel emulates it. */
PGMT_NO_LANDING_PAD __attribute__((noinline, used, patchable_function_entry(1, 0))) void
pgmemtrace_request(uint64 id, uint32 kind, const char *json, uint32 length)
{
  /* The arguments are used, so that no caller leaves one out. */
  __asm__ volatile("" : : "r"(id), "r"(kind), "r"(json), "r"(length) : "memory");
}
