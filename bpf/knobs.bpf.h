/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * knobs.bpf.h - what the daemon tells the programs, when they are loaded and while they run.
 *
 * A part of pgmemtrace.bpf.c; set in attach/probes.cpp.
 */

/* ---- fixed at load time ---- */

const volatile __u32 binary_index = 0; /* pgmt_process.binary of the processes we own */
const volatile __u32 select_only = 0;  /* only processes in `selection` */

/* Offsets in the kernel's own task_struct; 0: not known. */
const volatile __u32 task_real_parent = 0;
const volatile __u32 task_tgid = 0;
const volatile __u32 task_cpu_ns = 0;
const volatile __u32 task_mm = 0;
const volatile __u32 mm_brk = 0; /* in its mm_struct */

/* Link-time addresses of the server's variables; 0: this build has none. */
const volatile __u64 root_variables[PGMT_ROOTS] = {};
const volatile __u64 top_transaction_context = 0;
const volatile __u64 portal_context = 0;
/* NodeTags of contexts lie between these. */
const volatile __u32 first_context_tag = 0, last_context_tag = ~0U;
const volatile __u64 my_be_entry = 0;
const volatile __u64 my_proc_port = 0;
const volatile __u64 message_context = 0;
const volatile __u64 current_memory_context = 0;
const volatile __u64 debug_query_string = 0;
/* arm64: number of the register that holds a function's argument at the probe's site. */
const volatile __u8 argument_registers[PGMT_PROBES][PGMT_PROBE_ARGUMENTS] = {};

const volatile __u64 detail_every_ns = 10 * 1000 * 1000; /* close looks, when nobody grows */
const volatile __u64 event_every_ns = 20 * 1000 * 1000;	 /* per process */
const volatile __u64 walk_share = 1000;	      /* a walk may take 1/1000 of the CPU time */
const volatile __u64 idle_walk_share = 16000; /* ... or that of the time, where it mostly waits */
const volatile __u64 alone_min_bytes = 64 * 1024;      /* contexts worth an entry of their own */
const volatile __u64 peak_min_bytes = 8 * 1024 * 1024; /* statements worth an event */

const volatile __u32 record_all = 0; /* level block: every block's stack, by name of context */
const volatile __u32 no_frame_pointers = 0;	/* the server was built without */
const volatile __u64 copy_every_ns = 1000000;	/* a stack, per process ... */
const volatile __u64 copy_burst_ns = 256000000; /* ... and what it may be ahead of that */

const volatile __u32 by_query = 0; /* growth is attributed to statements */

/* Sites of level block; a probe's cookie there is its index. */
const volatile struct pgmt_site sites[PGMT_SITES] = {};

/* Level alloc: a probe's cookie is the index of its site; passers by address, then zeros. */
const volatile struct pgmt_method_site methods[PGMT_METHOD_SITES] = {};
const volatile struct pgmt_passer passers[PGMT_PASSERS] = {};
const volatile __u32 chunk_value_shift = 0; /* in a chunk's header; 0: 15 and older have none */
const volatile __u32 record_calls = 0;	    /* track every context, by name */

/* ---- set by the daemon while it runs ---- */

/*
 * Statements are seen from their start, of all processes or of single ones: raised whenever more of
 * them are, and the TimestampTz then.  What began before was joined midway.
 */
volatile __u32 starts_epoch;
volatile __u64 starts_since;
/*
 * bpf_ktime_get_ns() since when every change of a block is seen, where block sites are probed;
 * ~0: they come or go one by one, and nothing is counted.
 */
volatile __u64 blocks_since;

/* Level alloc: all methods have their probes.  0: these come or go one by one. */
volatile __u32 methods_complete;

/* Level malloc: nothing counts any more, while probes go one by one. */
volatile __u32 heaps_closed;

/* Raised whenever the level rose: between two values nobody knows what a process did. */
volatile __u32 level_epoch;
