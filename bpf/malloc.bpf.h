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
 * The library calls itself: realloc(NULL) is malloc, malloc maps memory.  Only the outermost call
 * counts; one within it lies deeper on the stack.
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
	__u64 old; /* realloc's chunk; posix_memalign's place for the result */
	__u64 kind;
	struct pgmt_context_key place;
	struct pgmt_heap_chunk chunk;
	struct pgmt_heap_sum none; /* all zero */
	struct pgmt_stack stack;
};

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct heap_call);
} calls SEC(".maps");

/* ---- who asked ---- */

/* Where the function returns to: frame pointers begin with the caller of its caller. */
static __always_inline __u64 caller(struct pt_regs *ctx)
{
#if defined(__TARGET_ARCH_arm64)
	return PT_REGS_RET(ctx);
#else
	return read_word(PT_REGS_SP(ctx));
#endif
}

/* The function, its caller, and those above by frame pointers. */
static __noinline void capture_call(struct pt_regs *ctx, struct heap_call *call)
{
	struct pgmt_stack_key *key;
	__u32 frames;

	if (!call)
		return;
	key = &call->chunk.key.stack;
	call->stack.ip[0] = PT_REGS_IP(ctx);
	call->stack.ip[1] = caller(ctx);
	frames = follow_frames(&call->stack, PT_REGS_FP(ctx), 2);
	if (frames <= 2)
		lose(PGMT_LOSS_STACK); /* the caller is known at least */
	if (frames == PGMT_STACK_FRAMES)
		lose(PGMT_LOSS_STACK_CUT);
	key->tgid = call->place.tgid;
	key->hash = hash_of(&call->stack);
	if (bpf_map_lookup_elem(&stacks, key))
		return;
	if (bpf_map_update_elem(&stacks, key, &call->stack, BPF_ANY)) {
		lose(PGMT_LOSS_STACKS_FULL);
		key->hash = 0;
	}
}

/* The statement, where this process's boundaries are watched. */
static __always_inline __u64 asking_task(__u64 tgid)
{
	struct task_state *task = bpf_task_storage_get(&tasks, bpf_get_current_task_btf(), NULL, 0);
	struct pgmt_process *p;
	__u32 slot;

	if (!task || !task->slot)
		return PGMT_QUERY_NONE;
	slot = task->slot - 1;
	p = bpf_map_lookup_elem(&processes, &slot);
	if (!p || p->tgid != tgid || p->binary != binary_index)
		return PGMT_QUERY_NONE;
	return asking(p);
}

/* ---- the chunks ---- */

/* The chunk at call->place is gone. */
static __noinline void forget_chunk(struct pgmt_heap *heap, struct heap_call *call, __u64 address)
{
	struct pgmt_heap_sum *sum;
	struct pgmt_heap_chunk *chunk;

	if (!heap || !call)
		return;
	call->place.address = address;
	chunk = bpf_map_lookup_elem(&heap_chunks, &call->place);
	if (!chunk) {
		__sync_fetch_and_add(&heap->unmatched, 1);
		return;
	}
	__sync_fetch_and_add(&heap->returned, chunk->bytes);
	sum = bpf_map_lookup_elem(&sums, &chunk->key);
	if (sum) {
		__sync_fetch_and_add(&sum->returned, chunk->bytes);
		__sync_fetch_and_add(&sum->chunks_returned, 1);
	}
	bpf_map_delete_elem(&heap_chunks, &call->place);
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

static __noinline void remember_chunk(struct pgmt_heap *heap, struct heap_call *call, __u64 address)
{
	struct pgmt_heap_sum *sum;
	__s64 beyond;

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
	__sync_fetch_and_add(&heap->gained, call->bytes);
	__sync_fetch_and_add(&sum->gained, call->bytes);
	__sync_fetch_and_add(&sum->chunks, 1);
	beyond = (__s64)(heap->gained - heap->returned - heap->peak);
	if (beyond > 0) {
		__sync_fetch_and_add(&heap->peak, beyond);
		__sync_fetch_and_add(&sum->raised, beyond);
	}
}

/* ---- the calls ---- */

#define PRIVATE_ANONYMOUS 0x22 /* MAP_PRIVATE | MAP_ANONYMOUS */

/* False: nothing that counts. */
static __always_inline bool note_arguments(struct pt_regs *ctx, struct heap_call *call)
{
	__u64 first = PT_REGS_PARM1(ctx), second = PT_REGS_PARM2(ctx);

	call->old = first;
	call->bytes = second;
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
		return (PT_REGS_PARM4(ctx) & PRIVATE_ANONYMOUS) == PRIVATE_ANONYMOUS;
	default:
		return true;
	}
}

/* A part of a mapping that goes makes it smaller; its rest keeps its place. */
static __noinline void unmap(struct pgmt_heap *heap, struct heap_call *call)
{
	struct pgmt_heap_chunk *chunk;

	if (!heap || !call)
		return;
	call->place.address = call->old;
	chunk = bpf_map_lookup_elem(&heap_chunks, &call->place);
	if (chunk && chunk->bytes > ((call->bytes + 4095) & ~4095ULL))
		lose(PGMT_LOSS_HEAP_STALE);
	else if (chunk)
		forget_chunk(heap, call, call->old);
}

SEC("?uprobe.multi")
int heap_enter(struct pt_regs *ctx)
{
	__u64 tgid = bpf_get_current_pid_tgid() >> 32, kind = bpf_get_attach_cookie(ctx);
	struct pgmt_heap *heap = bpf_map_lookup_elem(&heaps, &tgid);
	struct heap_call *call;

	if (!heap)
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
		unmap(heap, call);
		return 0;
	}
	call->chunk.key.query = by_query ? asking_task(tgid) : PGMT_QUERY_NONE;
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
	if (!heap)
		return 0;
	address = outcome(ctx, call);
	/* realloc to nothing is free; if it fails, the chunk stays what it was. */
	if (call->kind == PGMT_HEAP_REALLOC && call->old && (address || !call->bytes))
		forget_chunk(heap, call, call->old);
	if (address)
		remember_chunk(heap, call, address);
	return 0;
}
