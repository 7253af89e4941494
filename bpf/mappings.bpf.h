/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * mappings.bpf.h - level malloc: memory taken from the kernel, by mmap, mremap, sbrk and brk.
 *
 * A part of malloc.bpf.h.  Unlike chunks, mappings are given back in parts, from either end and
 * from the middle, and several at once.  So they are kept as stretches that can be cut, in numbered
 * slots of each process which are looked through: few processes have more than a handful.
 *
 *   mappings  (tgid, number) -> a stretch, and whose it is
 *
 * What malloc takes for itself does not come here: it is the inner one of two calls, or (free)
 * gives back what nobody knows.
 */

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1); /* resized by the daemon */
	__type(key, struct pgmt_context_key);
	__type(value, struct pgmt_mapping);
} mappings SEC(".maps");

#define PAGE_END(address) (((address) + 4095) & ~4095ULL)

/* Where the heap of this process ends, to the byte (Linux mm_struct.brk). */
static __always_inline __u64 program_break(void)
{
	__u64 mm = 0, end = 0;

	if (!mm_brk) {
		lose(PGMT_LOSS_HEAP_CALL);
		return 0;
	}
	bpf_probe_read_kernel(&mm, sizeof(mm), (void *)bpf_get_current_task() + task_mm);
	bpf_probe_read_kernel(&end, sizeof(end), (void *)mm + mm_brk);
	return end;
}

/* Whose mappings, and the call that changes them. */
struct mappings_of {
	struct pgmt_heap *heap;
	struct heap_call *call;
};

/* Takes a slot that is free: whoever else is about to take it fails. */
static long keep_in_slot(__u64 number, struct mappings_of *of)
{
	struct heap_call *call = of->call;

	call->place.address = (of->heap->mappings + number) & (PGMT_MAPPINGS - 1);
	if (bpf_map_update_elem(&mappings, &call->place, &call->mapping, BPF_NOEXIST))
		return 0;
	__sync_fetch_and_add(&of->heap->mappings, 1);
	call->found = 1;
	return 1;
}

/* call->mapping is there from now on. */
static __noinline bool keep_mapping(struct pgmt_heap *heap, struct heap_call *call)
{
	struct mappings_of of = {.heap = heap, .call = call};

	if (!heap || !call)
		return false;
	call->found = 0;
	bpf_loop(PGMT_MAPPINGS, keep_in_slot, &of, 0);
	if (!call->found)
		lose(PGMT_LOSS_CHUNKS_FULL);
	return call->found;
}

/* What lies within call->from and call->to goes; its middle leaves two, the second in
 * call->mapping. */
static __noinline void cut_mapping(struct pgmt_heap *heap, struct heap_call *call,
				   struct pgmt_mapping *mapping)
{
	__u64 from, to, end;

	if (!heap || !call || !mapping)
		return;
	end = mapping->start + mapping->bytes;
	from = call->from > mapping->start ? call->from : mapping->start;
	to = call->to < end ? call->to : end;
	if (from == mapping->start && to == end) {
		returns(heap, &mapping->key, to - from, 1);
		bpf_map_delete_elem(&mappings, &call->place);
		__sync_fetch_and_add(&heap->mappings, -1);
		call->seen--;
		return;
	}
	returns(heap, &mapping->key, to - from, 0);
	if (from == mapping->start) {
		mapping->start = to;
		mapping->bytes = end - to;
		return;
	}
	mapping->bytes = from - mapping->start;
	if (to == end)
		return;
	call->mapping = *mapping;
	call->mapping.start = to;
	call->mapping.bytes = end - to;
}

static long cut_slot(__u64 number, struct mappings_of *of)
{
	struct heap_call *call = of->call;
	struct pgmt_mapping *mapping;

	if (call->seen >= of->heap->mappings) /* of those that are still there */
		return 1;
	call->place.address = number;
	mapping = bpf_map_lookup_elem(&mappings, &call->place);
	if (!mapping)
		return 0;
	call->seen++;
	if (call->from >= mapping->start + mapping->bytes || call->to <= mapping->start)
		return 0;
	call->found++;
	cut_mapping(of->heap, call, mapping);
	return 0;
}

/* What is known from `from` up to `to` is gone.  Was there any? */
static __noinline bool unmap(struct pgmt_heap *heap, struct heap_call *call, __u64 from, __u64 to)
{
	struct mappings_of of = {.heap = heap, .call = call};
	bool found;

	if (!heap || !call || from >= to)
		return false;
	call->from = from;
	call->to = to;
	call->seen = 0;
	call->found = 0;
	call->mapping.bytes = 0;
	bpf_loop(PGMT_MAPPINGS, cut_slot, &of, 0);
	found = call->found;
	if (call->mapping.bytes && keep_mapping(heap, call))
		returns(heap, &call->mapping.key, 0, -1); /* it ends twice */
	return found;
}

/* munmap fails if it does not begin with a page (Linux mm/mmap.c). */
static __always_inline void unmap_pages(struct pgmt_heap *heap, struct heap_call *call)
{
	if (!(call->old & 4095))
		unmap(heap, call, call->old, PAGE_END(call->old + call->bytes));
}

/* What lies at `address` is new. */
static __noinline void map(struct pgmt_heap *heap, struct heap_call *call, __u64 address)
{
	struct pgmt_heap_sum *sum;

	if (!heap || !call)
		return;
	if (unmap(heap, call, address, PAGE_END(address + call->bytes)) && !call->replaces)
		lose(PGMT_LOSS_HEAP_STALE);
	if (!call->counts)
		return;
	sum = sum_of(call);
	if (!sum) {
		lose(PGMT_LOSS_GROWTHS_FULL);
		return;
	}
	call->mapping.start = address;
	call->mapping.bytes = call->bytes;
	call->mapping.key = call->chunk.key;
	if (keep_mapping(heap, call))
		gains(heap, sum, call->bytes);
}

/* A call that is over, and gave `address`; 0: it failed. */
static __noinline void mapped(struct pgmt_heap *heap, struct heap_call *call, __u64 address)
{
	__u64 end;

	if (!heap || !call)
		return;
	if (call->kind == PGMT_HEAP_BRK) {
		end = program_break();
		call->bytes = end - call->old;
		if (end > call->old)
			map(heap, call, call->old);
		else if (end < call->old)
			unmap(heap, call, end, call->old);
		return;
	}
	if (!address)
		return;
	if (call->kind == PGMT_HEAP_MREMAP &&
	    !unmap(heap, call, call->old, PAGE_END(call->old + call->old_bytes))) {
		__sync_fetch_and_add(&heap->unmatched, 1);
		call->counts = 0;
	}
	map(heap, call, address);
}
