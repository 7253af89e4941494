// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * direct.bpf.c - pieces of another process's memory, by way of its page tables.
 *
 * What process_vm_readv and bpf_copy_from_user_task() spend on a piece is mostly the lock, the
 * look-up of the mapping and the pin of the page.  Here the page tables (x86-64: four levels or
 * five) are read where they lie, and the page through the kernel's direct map of all memory:
 *
 *   address --root--> ... --region entry--> table of 512 pages --entry--> page in the direct map
 *           \__________ once per region of 2 MiB __________/
 *
 * Nothing is held, pinned or faulted in, so anything may move meanwhile.  Therefore everything is
 * looked at again after the bytes were copied: the page's entry each time, the way to the table
 * when the region is left, the process's memory at the end.  What changed counts as not read,
 * and the daemon reads it in the other way.  Where the direct map begins, and how many levels
 * there are, the daemon finds out on its own memory (attach/direct_map.cpp).
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <pgmemtrace/abi.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* ---- the kernel's ---- */

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct mm_struct {
	void *pgd;
};

struct task_struct {
	struct mm_struct *mm;
};

/* Any struct that begins with a plain word: see load(). */
struct timespec64 {
	__s64 tv_sec;
};

#pragma clang attribute pop

extern struct task_struct *bpf_task_from_pid(__s32 pid) __ksym __weak;
extern struct task_struct *bpf_task_from_vpid(__s32 pid) __ksym __weak; /* of our pid namespace */
extern void bpf_task_release(struct task_struct *task) __ksym __weak;
extern void *bpf_rdonly_cast(const void *object, __u32 btf_id) __ksym __weak;
extern void bpf_rcu_read_lock(void) __ksym __weak;
extern void bpf_rcu_read_unlock(void) __ksym __weak;

/* Entries of page tables (Linux arch/x86/include/asm/pgtable_types.h). */
#define PRESENT 0x001ull
#define USER 0x004ull
#define HUGE 0x080ull
#define ADDRESS 0x000ffffffffff000ull
#define HUGE_ADDRESS 0x000fffffffe00000ull

#define PAGE_SHIFT 12
#define REGION_SHIFT 21 /* what one table of pages covers, or a huge page */
#define BELOW(shift) ((1ull << (shift)) - 1)

/* ---- what the daemon asks, and gets ---- */

__s32 pid;
__u32 count;
__u64 direct_map; /* its address */
__u64 memory_end; /* no page is beyond: what says so is no entry of a page table */
__u32 levels;
__u64 root;    /* of the page tables that were read */
__u32 changed; /* on the way to some table, or all of it: nothing counts as read */
struct pgmt_direct_piece pieces[PGMT_DIRECT_PIECES];
unsigned char bytes[PGMT_DIRECT_BYTES + PGMT_DIRECT_LONGEST];

/* ---- the walk; state is here rather than on the stack, of which there is little ---- */

static __u64 region;	   /* the number of the one we are in */
static __u64 region_entry; /* what leads to its table, or to its huge page */

/* A word of the kernel's memory without a call; 0 where there is none. */
static __always_inline __u64 load(__u64 address)
{
	const struct timespec64 *word =
	    bpf_rdonly_cast((const void *)address, bpf_core_type_id_kernel(struct timespec64));

	return word->tv_sec;
}

static __always_inline __u64 slot(__u64 table, __u64 address, int shift)
{
	return table + ((address >> shift & 511) << 3);
}

/* The table that an entry leads to; 0: none. */
static __always_inline __u64 table_of(__u64 entry)
{
	return (entry & (PRESENT | HUGE)) == PRESENT && (entry & ADDRESS) < memory_end
		   ? direct_map + (entry & ADDRESS)
		   : 0;
}

static __always_inline __u64 find_region_entry(__u64 address)
{
	__u64 table = root;

	if (levels == 5)
		table = table_of(load(slot(table, address, 48)));
	if (table)
		table = table_of(load(slot(table, address, 39)));
	if (table)
		table = table_of(load(slot(table, address, 30)));
	return table ? load(slot(table, address, REGION_SHIFT)) : 0;
}

/* Do both lead to the same place?  The processor sets bits of its own meanwhile. */
static __always_inline _Bool same(__u64 entry, __u64 again)
{
	return !((entry ^ again) & (ADDRESS | PRESENT | USER | HUGE));
}

static __always_inline void leave_region(void)
{
	if (region_entry && !same(region_entry, find_region_entry(region << REGION_SHIFT)))
		changed = 1;
}

/* `from`: a physical address. */
static __always_inline _Bool copy(struct pgmt_direct_piece *piece, __u64 from)
{
	__u64 at = piece->at;
	__u64 size = piece->size;

	barrier_var(at);
	barrier_var(size);
	return at <= PGMT_DIRECT_BYTES && size <= PGMT_DIRECT_LONGEST && from < memory_end &&
	       !bpf_probe_read_kernel(bytes + at, size, (const void *)(direct_map + from));
}

static __always_inline _Bool read_piece(struct pgmt_direct_piece *piece)
{
	const __u64 address = piece->address;
	__u64 table, from, entry;

	if (address >> REGION_SHIFT != region) {
		leave_region();
		region = address >> REGION_SHIFT;
		region_entry = find_region_entry(address);
	}
	if (!(region_entry & PRESENT))
		return 0;
	if (region_entry & HUGE)
		return region_entry & USER &&
		       copy(piece, (region_entry & HUGE_ADDRESS) + (address & BELOW(REGION_SHIFT)));
	table = table_of(region_entry);
	if (!table)
		return 0;
	from = slot(table, address, PAGE_SHIFT);
	entry = load(from);
	return (entry & (PRESENT | USER)) == (PRESENT | USER) &&
	       copy(piece, (entry & ADDRESS) + (address & BELOW(PAGE_SHIFT))) &&
	       same(entry, load(from));
}

/* No piece crosses the end of a page. */
SEC("syscall")
int direct_read(void *ctx)
{
	struct task_struct *task =
	    bpf_ksym_exists(bpf_task_from_vpid) ? bpf_task_from_vpid(pid) : bpf_task_from_pid(pid);
	const __u32 wanted = count;
	struct mm_struct *mm;
	__u32 i;

	(void)ctx;
	changed = 1;
	if (!task)
		return 0;
	changed = 0;
	region = ~0ull;
	region_entry = 0;
	/* Page tables that are let go of stay as they are while we look, where kernels free
	   them by way of RCU. */
	bpf_rcu_read_lock();
	mm = BPF_CORE_READ(task, mm);
	root = mm ? (__u64)BPF_CORE_READ(mm, pgd) : 0;
	bpf_for(i, 0, wanted)
	{
		__u64 at = i;

		barrier_var(at);
		if (at < PGMT_DIRECT_PIECES)
			pieces[at].read = root && read_piece(&pieces[at]);
	}
	leave_region();
	if (!mm || BPF_CORE_READ(task, mm) != mm)
		changed = 1;
	bpf_rcu_read_unlock();
	bpf_task_release(task);
	return 0;
}
