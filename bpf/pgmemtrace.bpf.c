// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * pgmemtrace.bpf.c - the kernel half: read, compare, count, hand over.  No judgement.
 *
 * One program per probed PostgreSQL function; the daemon attaches them by site
 * (attach/probes.cpp), so SEC() names no target.  Every hit is a tax on somebody's query:
 * a boundary does O(1) work, everything beyond it is taken only when its cost is small
 * against the time since it was last taken (affordable()).
 *
 * PostgreSQL's structs are relocated by libbpf against the BTF of the server at hand
 * (bpf/layouts/, DESIGN: "CO-RE on PostgreSQL's own structs").  Therefore no vmlinux.h
 * here: its types would be relocated against that BTF too.
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

/* ---- PostgreSQL's structs: names decide, offsets come from the server's BTF ---- */

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct MemoryContextData {
	int type;
	unsigned long mem_allocated;
	struct MemoryContextData *parent;
	struct MemoryContextData *firstchild;
	struct MemoryContextData *nextchild;
	const char *name;
	const char *ident;
};

struct AllocBlockData {
	struct AllocBlockData *prev;
	struct AllocBlockData *next;
	char *freeptr;
	char *endptr;
};

struct AllocSetContext {
	struct AllocBlockData *blocks;
	void *freelist[11];
	unsigned long allocChunkLimit;
};

struct dlist_node {
	struct dlist_node *prev;
	struct dlist_node *next;
};

struct dlist_head {
	struct dlist_node head;
};

struct dclist_head {
	struct dlist_head dlist;
	unsigned int count;
};

struct GenerationBlock {
	int nchunks;
	char *freeptr;
	char *endptr;
};

struct GenerationContext {
	unsigned long blockSize; /* 13, 14 */
	unsigned long allocChunkLimit;
	struct GenerationBlock *block;
	struct GenerationBlock *freeblock; /* 15 */
	struct GenerationBlock *keeper;	   /* 15, 16 */
	struct dlist_head blocks;
};

struct SlabBlock {
	int firstFreeChunk; /* up to 15 */
	void *freehead;
	void *unused;
};

struct SlabContext {
	unsigned long fullChunkSize;
	int chunksPerBlock;
	int minFreeChunks; /* this and the next one: up to 15 */
	struct dlist_head freelist[1];
	int curBlocklistIndex;
	int blocklist_shift;
	struct dclist_head emptyblocks;
	struct dlist_head blocklist[3];
};

struct PlannedStmt {
	unsigned long queryId;
	int stmt_location;
	int stmt_len;
};

struct EState {
	struct MemoryContextData *es_query_cxt;
};

struct QueryDesc {
	struct PlannedStmt *plannedstmt;
	const char *sourceText;
	struct EState *estate;
};

struct Port {
	int sock;
};

struct PgBackendStatus {
	long st_activity_start_timestamp;
	char *st_activity_raw;
	unsigned long st_query_id;
};

#pragma clang attribute pop

#define FIELD(type, field) bpf_core_field_offset(struct type, field)
#define CONTEXT(field) FIELD(MemoryContextData, field)

/* ---- knobs: fixed at load time ---- */

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

/* Raised whenever the level rose: between two values nobody knows what a process did. */
volatile __u32 level_epoch;

/* ---- maps: shared by the objects of all binaries, but for postmasters ---- */

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1024); /* resized by the daemon */
	__type(key, __u32);
	__type(value, struct pgmt_process);
} processes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, 1024); /* as processes */
	__uint(value_size, sizeof(__u32));
} free_slots SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, struct pgmt_context_key);
	__type(value, struct pgmt_context);
} contexts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1024 * 1024);
} events SEC(".maps");

/* tgids that the user asked for, and enum pgmt_selected; only looked at with select_only. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, __u32);
	__type(value, __u32);
} selection SEC(".maps");

/* [0]: raised by the daemon whenever `selection` changed, so that the refused ask again. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} selection_epoch SEC(".maps");

/* Postmasters that run this binary, and their load bias, which all that they fork share. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, __u64);
} postmasters SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, PGMT_LOSSES);
	__type(key, __u32);
	__type(value, __u64);
} losses SEC(".maps");

/* Level block. */

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 16384);
	__type(key, struct pgmt_context_key);
	__type(value, struct pgmt_name);
} names SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, struct pgmt_growth_key);
	__type(value, struct pgmt_growth);
} growths SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 16384);
	__type(key, struct pgmt_stack_key);
	__type(value, struct pgmt_stack);
} stacks SEC(".maps");

/* struct pgmt_stack_copy: apart from `events`, which must not be lost for them. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4 * 1024 * 1024); /* resized by the daemon */
} stack_copies SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 16384); /* as stacks */
	__type(key, struct pgmt_stack_place);
	__type(value, struct pgmt_known_stack);
} known_stacks SEC(".maps");

/* Level alloc. */

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 131072);
	__type(key, struct pgmt_call_key);
	__type(value, struct pgmt_calls);
} callers SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, struct pgmt_context_key);
	__type(value, struct pgmt_held);
} helds SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 262144);
	__type(key, struct pgmt_life_key);
	__type(value, struct pgmt_life);
} lives SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1048576);
	__type(key, struct pgmt_context_key);
	__type(value, struct pgmt_chunk);
} chunks SEC(".maps");

struct task_state {
	__u32 slot;    /* index in processes, plus one; 0: none */
	__u32 refused; /* low half of selection_epoch when it was refused, plus one */
	__u32 epoch;   /* of the level that its slot's state belongs to */
};

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct task_state);
} tasks SEC(".maps");

/* ---- helpers ---- */

static __always_inline void lose(__u32 reason)
{
	__u64 *count = bpf_map_lookup_elem(&losses, &reason);

	if (count)
		__sync_fetch_and_add(count, 1);
}

static __always_inline __u64 read_word(__u64 address)
{
	__u64 word = 0;

	bpf_probe_read_user(&word, sizeof(word), (void *)address);
	return word;
}

/*
 * The time as of the process's first hit in this tick, never ahead of the clock: good enough for
 * what is done every so many milliseconds, and the clock takes up to 50 ns.
 */
static __always_inline __u64 coarse_time(struct pgmt_process *p)
{
	__u64 tick = bpf_jiffies64();

	if (p->tick != tick) {
		p->tick = tick;
		p->tick_ns = bpf_ktime_get_ns();
	}
	return p->tick_ns;
}

static __always_inline void send_header(struct pgmt_process *p, __u32 type, __u32 tgid)
{
	struct pgmt_event_header *e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);

	if (!e) {
		lose(PGMT_LOSS_RING_FULL);
		return;
	}
	e->type = type;
	e->tgid = tgid;
	e->time_ns = bpf_ktime_get_ns();
	e->phase = p ? p->phase : PGMT_PHASE_IDLE;
	e->slot = p ? p->slot : PGMT_NO_SLOT;
	bpf_ringbuf_submit(e, 0);
}

static __always_inline __u32 parent_tgid(void)
{
	__u64 parent = 0;
	__u32 tgid = 0;

	if (!task_tgid)
		return 0;
	bpf_probe_read_kernel(&parent, sizeof(parent),
			      (void *)bpf_get_current_task() + task_real_parent);
	bpf_probe_read_kernel(&tgid, sizeof(tgid), (void *)parent + task_tgid);
	return tgid;
}

/* Asked for by its own pid, or born to a postmaster whose whole server was. */
static __always_inline bool is_selected(__u32 tgid)
{
	__u32 parent, *selected;

	if (bpf_map_lookup_elem(&selection, &tgid))
		return true;
	parent = parent_tgid();
	selected = bpf_map_lookup_elem(&selection, &parent);
	return selected && *selected == PGMT_SELECTED_WITH_CHILDREN;
}

/* What pg_stat_activity shows of a process; 0: this build or this process has none. */
static __always_inline __u64 backend_status(struct pgmt_process *p)
{
	return my_be_entry ? read_word(p->load_bias + my_be_entry) : 0;
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
 * The level was lower for a while: what the slot says of a request, of its text and of the state
 * before it is of another time.  What grew meanwhile is the sweep's to judge.
 */
static __noinline void come_back(struct pgmt_process *p)
{
	if (!p)
		return;
	p->starts_epoch = 0;
	p->query_desc = 0;
	p->nesting = 0;
	p->phase = PGMT_PHASE_IDLE;
	p->pending_growth = 0;
	p->text_request = 0;
	p->tick = 0;
	__builtin_memset(p->roots, 0, sizeof(p->roots)); /* the next look is the baseline */
	__builtin_memset(p->owners, 0, sizeof(p->owners));
}

static __always_inline const volatile struct pgmt_site *site_of(struct pt_regs *ctx)
{
	return &sites[bpf_get_attach_cookie(ctx) & (PGMT_SITES - 1)];
}

static __always_inline const volatile struct pgmt_method_site *method_of(struct pt_regs *ctx)
{
	return &methods[bpf_get_attach_cookie(ctx) & (PGMT_METHOD_SITES - 1)];
}

/* The link-time address of the instruction that was hit. */
static __always_inline __u64 link_address(struct pt_regs *ctx, __u32 probe)
{
	switch (probe) {
	case PGMT_PROBE_BLOCK:
		return site_of(ctx)->address;
	case PGMT_PROBE_ALLOC:
		return method_of(ctx)->address;
	default:
		return bpf_get_attach_cookie(ctx);
	}
}

/* The slot of this index, if this process has it and this object owns it. */
static __always_inline struct pgmt_process *process_in(__u32 slot, __u32 tgid)
{
	struct pgmt_process *p = bpf_map_lookup_elem(&processes, &slot);

	return p && p->tgid == tgid && p->binary == binary_index ? p : NULL;
}

/* First hit of a process, or the first since the selection changed. */
static __noinline struct pgmt_process *admit(__u64 load_bias, struct task_state *task)
{
	__u32 tgid = bpf_get_current_pid_tgid() >> 32, zero = 0, slot;
	struct pgmt_process *p;

	if (!task)
		return NULL;
	if (select_only && !is_selected(tgid)) {
		__u64 *epoch = bpf_map_lookup_elem(&selection_epoch, &zero);
		__u32 now = epoch ? (__u32)*epoch + 1 : 1;

		if (task->refused != now) {
			task->refused = now;
			send_header(NULL, PGMT_EVENT_PROCESS, tgid);
		}
		return NULL;
	}
	if (bpf_map_pop_elem(&free_slots, &slot)) {
		lose(PGMT_LOSS_SLOTS_FULL);
		return NULL;
	}
	p = bpf_map_lookup_elem(&processes, &slot);
	if (!p)
		return NULL;
	/* The daemon zeroed the slot before it put it into the queue. */
	p->tgid = tgid;
	p->binary = binary_index;
	p->slot = slot;
	p->load_bias = load_bias;
	p->first_hit_ns = bpf_ktime_get_ns();
	task->epoch = level_epoch;
	task->slot = slot + 1;
	send_header(p, PGMT_EVENT_PROCESS, tgid);
	return p;
}

/*
 * The slot of a process, plus one, and above it the epoch of the level for which it was found: by
 * the low bits of its tgid, where others may come to lie.  The slot itself says whose it is.
 * Asking task storage takes some 60 ns more.
 */
__u64 hints[PGMT_HINTS];

/* By task storage, which ends with its task: a pid that comes again has none. */
static __noinline struct pgmt_process *find_process(__u64 load_bias, __u32 probe)
{
	struct task_state *task;
	struct pgmt_process *p;
	__u32 slot;

	task = bpf_task_storage_get(&tasks, bpf_get_current_task_btf(), NULL,
				    BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!task) {
		/* None is made for a sample that interrupts the making of others: nothing is lost,
		 * the process is met by the next one. */
		if (probe != PGMT_PROBE_SAMPLE)
			lose(PGMT_LOSS_TASK_STORAGE);
		return NULL;
	}
	if (task->slot) {
		slot = task->slot - 1;
		p = bpf_map_lookup_elem(&processes, &slot);
		if (p && p->tgid == bpf_get_current_pid_tgid() >> 32) {
			/* On overlayfs a probe through another container's inode fires here
			 * too: one object owns a process, so that each hit counts once. */
			if (p->binary != binary_index)
				return NULL;
			if (task->epoch != level_epoch) {
				task->epoch = level_epoch;
				come_back(p);
			}
			hints[p->tgid & (PGMT_HINTS - 1)] = (__u64)level_epoch << 32 | (slot + 1);
			return p;
		}
		task->slot = 0;
	}
	return admit(load_bias, task);
}

/* Mostly that is all there is to look at. */
static __always_inline struct pgmt_process *known_process(__u32 tgid)
{
	__u64 hint = hints[tgid & (PGMT_HINTS - 1)];

	return hint >> 32 == level_epoch ? process_in((__u32)hint - 1, tgid) : NULL;
}

/* The slot of the process that was hit; NULL if it is not ours to count. */
static __always_inline struct pgmt_process *process_of(struct pt_regs *ctx, __u32 probe)
{
	struct pgmt_process *p = known_process(bpf_get_current_pid_tgid() >> 32);

	return p ? p : find_process(PT_REGS_IP(ctx) - link_address(ctx, probe), probe);
}

#define SAMPLE_MAX_NS 100000

/* One run in 64 is timed, for the governor; walks are timed on their own. */
static __always_inline void count_hit(struct pgmt_process *p, __u32 probe)
{
	if ((++p->hits[probe] & 63) == 0)
		p->timed_ns = bpf_ktime_get_ns();
}

/* Begins a program: whose hit, counted.  NULL: not ours. */
static __always_inline struct pgmt_process *begin(struct pt_regs *ctx, __u32 probe)
{
	struct pgmt_process *p = process_of(ctx, probe);

	if (p)
		count_hit(p, probe);
	return p;
}

/*
 * Argument `i` of the function that was hit.  An arm64 function may have moved it before the
 * first instruction that the kernel simulates (standard_ExecutorEnd of 15, 17, 18: x0 lies in
 * x22).  A program may not read its context at an offset that is no constant to the compiler,
 * though the verifier knows it: hence the helper.
 */
static __always_inline __u64 argument(struct pt_regs *ctx, __u32 probe, __u32 i)
{
#if defined(__TARGET_ARCH_arm64)
	__u64 value = 0;

	bpf_probe_read_kernel(&value, sizeof(value),
			      &__PT_REGS_CAST(ctx)->regs[argument_registers[probe][i] & 31]);
	return value;
#else
	(void)probe;
	return i == 2 ? PT_REGS_PARM3(ctx) : i ? PT_REGS_PARM2(ctx) : PT_REGS_PARM1(ctx);
#endif
}

static __always_inline void finish(struct pgmt_process *p, __u32 probe)
{
	__u64 took;

	if (!p->timed_ns)
		return;
	took = bpf_ktime_get_ns() - p->timed_ns;
	p->timed_ns = 0;
	/* A boundary takes a few us at most.  More: it was preempted, and each sample counts 64
	 * times, so that one of those would look like a second of ours. */
	if (took > SAMPLE_MAX_NS)
		return;
	p->run_ns[probe] += took;
	p->run_samples[probe]++;
}

/* ---- the O(1) check ---- */

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

/* ---- what a statement holds ---- */

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

/* ---- query text ---- */

/* `into` has room for PGMT_QUERY_LEN bytes. */
static __always_inline void read_text(char *into, __u64 text)
{
	if (bpf_probe_read_user_str(into, PGMT_QUERY_LEN, (void *)text) < 0) {
		into[0] = 0;
		lose(PGMT_LOSS_READ_TEXT);
	}
}

static __noinline void capture_text(struct pgmt_process *p, __u64 planned, __u64 text)
{
	if (!p)
		return;
	p->text_request = p->requests + 1; /* 0 is never */
	p->query_id = read_word(planned + FIELD(PlannedStmt, queryId));
	bpf_probe_read_user(&p->stmt_location, sizeof(p->stmt_location),
			    (void *)(planned + FIELD(PlannedStmt, stmt_location)));
	bpf_probe_read_user(&p->stmt_len, sizeof(p->stmt_len),
			    (void *)(planned + FIELD(PlannedStmt, stmt_len)));
	read_text(p->query, text);
}

static __always_inline void capture_query(struct pgmt_process *p, __u64 query_desc)
{
	capture_text(p, read_word(query_desc + FIELD(QueryDesc, plannedstmt)),
		     read_word(query_desc + FIELD(QueryDesc, sourceText)));
}

/* What pg_stat_activity says: the whole text of the last query string, and its id. */
static __always_inline void read_activity(__u64 entry, __u64 *query_id, char *text)
{
	*query_id = 0;
	if (bpf_core_field_exists(struct PgBackendStatus, st_query_id)) /* 14 and newer */
		*query_id = read_word(entry + FIELD(PgBackendStatus, st_query_id));
	read_text(text, read_word(entry + FIELD(PgBackendStatus, st_activity_raw)));
}

/* At settle all else of the request is gone. */
static __noinline void capture_activity(struct pgmt_process *p)
{
	__u64 entry;

	if (!p)
		return;
	entry = backend_status(p);
	if (!entry)
		return;
	p->text_request = p->requests + 1;
	p->stmt_location = 0;
	p->stmt_len = 0;
	read_activity(entry, &p->query_id, p->query);
}

/* The client's statement that runs. */
static __noinline void capture_running(struct pgmt_process *p)
{
	if (!p)
		return;
	if (p->query_desc)
		capture_query(p, p->query_desc);
	else if (p->phase == PGMT_PHASE_UTILITY && p->utility_stmt)
		capture_text(p, p->utility_stmt, p->utility_text);
	else
		capture_activity(p);
}

#include "query.bpf.h"

/* ---- events ---- */

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
	e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);
	if (!e) {
		lose(PGMT_LOSS_RING_FULL);
		return;
	}
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
	e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);
	if (!e) {
		lose(PGMT_LOSS_RING_FULL);
		return;
	}
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

/* ---- boundaries ---- */

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
