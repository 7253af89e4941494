/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * malloc.bpf.h - level malloc: what chosen processes take from the C library and give back.
 *
 * A part of pgmemtrace.bpf.c, loaded when recording at this level.  Its probes are on the library's
 * file, by pid: others that map it have no breakpoint.  A program at the entry of each function
 * notes what is asked for and by whom, one at its return what came of it: these functions are not
 * left by longjmp as PostgreSQL's are.  free and munmap need no return.
 *
 *   heaps   tgid -> totals; only processes that have an entry are counted
 *   heap_chunks  (tgid, address) -> size, and whose it is
 *   sums    (stack, query) -> bytes gained and returned
 *
 * What mmap and its kin give is in mappings.bpf.h.
 *
 * The library calls itself: realloc(NULL) is malloc, malloc maps memory or moves the break.  Only
 * the outermost call counts; one within it lies deeper on the stack.
 */

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__type(key, __u64);
	__type(value, struct pgmt_heap);
} heaps SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1); /* resized by the daemon, as sums */
	__type(key, struct pgmt_context_key);
	__type(value, struct pgmt_heap_chunk);
} heap_chunks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, struct pgmt_heap_key);
	__type(value, struct pgmt_heap_sum);
} sums SEC(".maps");

/* A call that has not returned yet, and scratch: one per thread, since libraries have threads. */
struct heap_call {
	__u64 sp; /* stack pointer at the entry; 0: none is under way */
	__u64 bytes;
	__u64 old; /* realloc's chunk; posix_memalign's place for the result; what mremap moves; the
		    * break before */
	__u64 old_bytes; /* of what mremap moves */
	__u64 kind;
	__u32 counts;	/* what it gives; else only what that replaces */
	__u32 replaces; /* it may lie where something else is */
	struct pgmt_context_key place;
	struct pgmt_heap_chunk chunk;
	struct pgmt_heap_sum none; /* all zero */
	struct pgmt_mapping mapping;
	__u64 from, to;	   /* what is being cut */
	__u64 seen, found; /* so far: mappings, and those that are concerned */
	struct pgmt_stack stack;
	/* Of stacks that frame pointers do not tell: */
	struct pgmt_stack_place stack_place;
	struct pgmt_growth_key copy_key;
	struct pgmt_growth no_growth; /* all zero */
	__u64 copies_ns;	      /* copies are paid for until then */
	__u32 copies;		      /* taken so far */
	__u32 kept;		      /* stacks that may be wrong */
};

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct heap_call);
} calls SEC(".maps");

/* ---- who asked ---- */

/* A process has many threads, maybe, which take stacks at the same time. */
struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct piece);
} thread_pieces SEC(".maps");

/* Where the function returns to: frame pointers begin with the caller of its caller. */
static __always_inline __u64 caller(struct pt_regs *ctx)
{
#if defined(__TARGET_ARCH_arm64)
	return PT_REGS_RET(ctx);
#else
	return read_word(PT_REGS_SP(ctx));
#endif
}

/* Of one thread: */
#define COPIES_MAX 8192 /* each has a sum of its own */
#define KEPT_MAX 2048	/* stacks that frame pointers led to, right or not */

/*
 * A call has to be counted now, since it may be freed before the daemon has seen the copy of its
 * stack: under a number of its own, which the daemon is told with the copy.  Those that find no
 * room for one the daemon counts, by what they are counted under.
 */
static __noinline void copy_call(struct pt_regs *ctx, struct heap_call *call)
{
	__u64 number;

	if (!call || call->copies >= COPIES_MAX ||
	    !copy_affordable(&call->copies_ns, bpf_ktime_get_ns()))
		return;
	number = bpf_get_current_pid_tgid() << 32 | (call->copies + 1); /* by thread */
	call->copy_key.stack = call->chunk.key.stack;
	if (copy_stack(ctx, &call->copy_key, &call->no_growth, number))
		return;
	call->chunk.key.stack.hash = number;
	call->copies++;
}

/* The function, its caller, and those above by frame pointers, if these tell. */
static __noinline void capture_call(struct pt_regs *ctx, struct heap_call *call)
{
	struct pgmt_stack_key *key;
	struct pgmt_stack *known;
	struct piece *piece;

	if (!call)
		return;
	piece = bpf_task_storage_get(&thread_pieces, bpf_get_current_task_btf(), NULL,
				     BPF_LOCAL_STORAGE_GET_F_CREATE);
	key = &call->chunk.key.stack;
	call->stack.at_entry = 1;
	call->stack.ip[0] = PT_REGS_IP(ctx);
	call->stack.ip[1] = caller(ctx);
	if (follow_frames(&call->stack, piece, PT_REGS_FP(ctx), 2) == PGMT_STACK_FRAMES)
		lose(PGMT_LOSS_STACK_CUT);
	key->tgid = call->place.tgid;
	key->hash = hash_of(&call->stack);
	known = bpf_map_lookup_elem(&stacks, key);
	if (known && known->state == PGMT_STACK_PROVEN)
		return;
	call->stack_place.caller = call->stack.ip[1];
	if (recall_stack(ctx, key, &call->stack_place, piece))
		return;
	/* Where rbp is any number, so is what it leads to, and no two may be alike. */
	if (!known) {
		if (call->kept == KEPT_MAX) {
			call->stack.ip[2] = 0;
			key->hash = hash_of(&call->stack);
		} else {
			call->kept++;
		}
		(void)state_of_stack(key, &call->stack);
	}
	copy_call(ctx, call);
}

/* The statement, where this process's boundaries are watched. */
static __always_inline __u64 asking_task(__u64 tgid)
{
	struct task_state *task = bpf_task_storage_get(&tasks, bpf_get_current_task_btf(), NULL, 0);
	struct pgmt_process *p = NULL;

	if (task && task->slot)
		p = process_in(task->slot - 1, tgid);
	return p ? asking(p) : PGMT_QUERY_NONE;
}

/* ---- what it comes to ---- */

/* `chunks`: of them that are gone as a whole. */
static __noinline void returns(struct pgmt_heap *heap, const struct pgmt_heap_key *key, __u64 bytes,
			       __s64 chunks)
{
	struct pgmt_heap_sum *sum;

	if (!heap || !key)
		return;
	__sync_fetch_and_add(&heap->returned, bytes);
	sum = bpf_map_lookup_elem(&sums, key);
	if (!sum)
		return;
	__sync_fetch_and_add(&sum->returned, bytes);
	__sync_fetch_and_add(&sum->chunks_returned, chunks);
}

static __always_inline void gains(struct pgmt_heap *heap, struct pgmt_heap_sum *sum, __u64 bytes)
{
	__s64 beyond;

	__sync_fetch_and_add(&heap->gained, bytes);
	__sync_fetch_and_add(&sum->gained, bytes);
	__sync_fetch_and_add(&sum->chunks, 1);
	beyond = (__s64)(heap->gained - heap->returned - heap->peak);
	if (beyond > 0) {
		__sync_fetch_and_add(&heap->peak, beyond);
		__sync_fetch_and_add(&sum->raised, beyond);
	}
}

static __noinline struct pgmt_heap_sum *sum_of(struct heap_call *call)
{
	struct pgmt_heap_sum *sum;

	if (!call)
		return NULL;
	sum = bpf_map_lookup_elem(&sums, &call->chunk.key);
	if (sum)
		return sum;
	bpf_map_update_elem(&sums, &call->chunk.key, &call->none, BPF_NOEXIST);
	return bpf_map_lookup_elem(&sums, &call->chunk.key);
}

/* ---- the chunks ---- */

/* The chunk at `address` is gone. */
static __noinline void forget_chunk(struct pgmt_heap *heap, struct heap_call *call, __u64 address)
{
	struct pgmt_heap_chunk *chunk;

	if (!heap || !call)
		return;
	call->place.address = address;
	chunk = bpf_map_lookup_elem(&heap_chunks, &call->place);
	if (!chunk) {
		__sync_fetch_and_add(&heap->unmatched, 1);
		return;
	}
	returns(heap, &chunk->key, chunk->bytes, 1);
	bpf_map_delete_elem(&heap_chunks, &call->place);
}

static __noinline void remember_chunk(struct pgmt_heap *heap, struct heap_call *call, __u64 address)
{
	struct pgmt_heap_sum *sum;

	if (!heap || !call)
		return;
	call->place.address = address;
	if (bpf_map_lookup_elem(&heap_chunks, &call->place)) {
		lose(PGMT_LOSS_HEAP_STALE);
		forget_chunk(heap, call, address);
	}
	call->chunk.bytes = call->bytes;
	sum = sum_of(call);
	if (!sum) {
		lose(PGMT_LOSS_GROWTHS_FULL);
		return;
	}
	if (bpf_map_update_elem(&heap_chunks, &call->place, &call->chunk, BPF_ANY)) {
		lose(PGMT_LOSS_CHUNKS_FULL);
		return;
	}
	gains(heap, sum, call->bytes);
}

#include "mappings.bpf.h"

/* ---- the calls ---- */

/* Linux uapi/asm-generic/mman-common.h, mman.h */
#define MAP_KIND 0x2f /* MAP_TYPE | MAP_ANONYMOUS */
#define PRIVATE_ANONYMOUS 0x22
#define MAP_FIXED 0x10
#define MREMAP_FIXED 2

/* False: nothing that counts. */
static __always_inline bool note_arguments(struct pt_regs *ctx, struct heap_call *call)
{
	__u64 first = PT_REGS_PARM1(ctx), second = PT_REGS_PARM2(ctx);

	call->old = first;
	call->bytes = second;
	call->counts = 1;
	switch (call->kind) {
	case PGMT_HEAP_MALLOC:
		call->bytes = first;
		return true;
	case PGMT_HEAP_CALLOC:
		call->bytes = first * second; /* overflows only where it returns NULL */
		return true;
	case PGMT_HEAP_POSIX_MEMALIGN:
		call->bytes = PT_REGS_PARM3(ctx);
		return true;
	case PGMT_HEAP_MMAP:
		call->counts = (PT_REGS_PARM4(ctx) & MAP_KIND) == PRIVATE_ANONYMOUS;
		call->replaces = !!(PT_REGS_PARM4(ctx) & MAP_FIXED);
		return call->counts || call->replaces;
	case PGMT_HEAP_MREMAP:
		call->old_bytes = second;
		call->bytes = PT_REGS_PARM3(ctx);
		call->replaces = !!(PT_REGS_PARM4(ctx) & MREMAP_FIXED);
		return true;
	case PGMT_HEAP_BRK:
		call->old = program_break();
		call->replaces = 0;
		return true;
	default:
		return true;
	}
}

SEC("?uprobe.multi")
int heap_enter(struct pt_regs *ctx)
{
	__u64 tgid = bpf_get_current_pid_tgid() >> 32, kind = bpf_get_attach_cookie(ctx);
	struct pgmt_heap *heap = bpf_map_lookup_elem(&heaps, &tgid);
	struct heap_call *call;

	if (!heap || heaps_closed)
		return 0;
	call = bpf_task_storage_get(&calls, bpf_get_current_task_btf(), NULL,
				    BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!call) {
		lose(PGMT_LOSS_TASK_STORAGE);
		return 0;
	}
	if (call->sp) {
		/* At the same depth another function is a jump from the first one's end. */
		if (PT_REGS_SP(ctx) < call->sp ||
		    (PT_REGS_SP(ctx) == call->sp && kind != call->kind))
			return 0;
		lose(PGMT_LOSS_HEAP_CALL);
		call->sp = 0;
	}
	call->kind = kind;
	call->place.tgid = tgid;
	if (!note_arguments(ctx, call))
		return 0;
	if (kind == PGMT_HEAP_FREE) {
		if (call->old)
			forget_chunk(heap, call, call->old);
		return 0;
	}
	if (kind == PGMT_HEAP_MUNMAP) {
		unmap_pages(heap, call);
		return 0;
	}
	call->chunk.key.query = by_query ? asking_task(tgid) : PGMT_QUERY_NONE;
	if (call->counts)
		capture_call(ctx, call);
	call->sp = PT_REGS_SP(ctx);
	return 0;
}

#define IS_ERROR(address) ((address) >= (__u64)-4095)

/* What the call gave; 0: nothing. */
static __always_inline __u64 outcome(struct pt_regs *ctx, struct heap_call *call)
{
	__u64 value = PT_REGS_RC(ctx);

	if (call->kind == PGMT_HEAP_POSIX_MEMALIGN)
		return (__u32)value ? 0 : read_word(call->old);
	return IS_ERROR(value) ? 0 : value;
}

SEC("?uprobe.multi")
int heap_return(struct pt_regs *ctx)
{
	__u64 tgid = bpf_get_current_pid_tgid() >> 32, address;
	struct heap_call *call;
	struct pgmt_heap *heap;

	call = bpf_task_storage_get(&calls, bpf_get_current_task_btf(), NULL, 0);
	if (!call || !call->sp || PT_REGS_SP(ctx) < call->sp)
		return 0;
	call->sp = 0;
	heap = bpf_map_lookup_elem(&heaps, &tgid);
	if (!heap || heaps_closed)
		return 0;
	address = outcome(ctx, call);
	if (call->kind == PGMT_HEAP_MMAP || call->kind == PGMT_HEAP_MREMAP ||
	    call->kind == PGMT_HEAP_BRK) {
		mapped(heap, call, address);
		return 0;
	}
	/* realloc to nothing is free; if it fails, the chunk stays what it was. */
	if (call->kind == PGMT_HEAP_REALLOC && call->old && (address || !call->bytes))
		forget_chunk(heap, call, call->old);
	if (address)
		remember_chunk(heap, call, address);
	return 0;
}
