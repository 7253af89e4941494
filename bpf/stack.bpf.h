/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * stack.bpf.h - who asked: the call stack of a hit.
 *
 * A part of pgmemtrace.bpf.c.  Frame pointers are quick to follow, and wrong wherever code on the
 * stack does not keep them.  Only the unwind rules of the binaries say where that is: the daemon
 * asks them about each stack once (stack_copies.h).  Until it has, and for those that turn
 * out to be broken, and where the server keeps none at all, a piece of the stack is copied, with
 * the growth that it belongs to, and unwound there.  A stack that was unwound is known again by its
 * return addresses, where they were.
 *
 * A copy goes straight into its ring-buffer record, and a process may take only so many: what is
 * beyond that has the stack that frame pointers gave, or none, and is counted.
 */

static __always_inline __u64 hash_of(const struct pgmt_stack *stack)
{
	__u64 hash = 0;

	for (int i = 0; i < PGMT_STACK_FRAMES; i++) {
		if (!stack->ip[i])
			break;
		hash = (hash ^ stack->ip[i]) * 0x9e3779b97f4a7c15ULL;
		hash ^= hash >> 29;
	}
	return hash & ~PGMT_HASH_UNWOUND;
}

#define PAGE_BYTES 4096

/* Page by page: it ends where the stack does, which is not at a multiple of anything from sp. */
static __always_inline __u64 copy_pages(struct pgmt_stack_copy *copy)
{
	__u64 size = 0, part;

	for (int i = 0; i < PGMT_STACK_BYTES / PAGE_BYTES; i++) {
		if (size > PGMT_STACK_BYTES - PAGE_BYTES)
			break;
		part = PAGE_BYTES - ((copy->sp + size) & (PAGE_BYTES - 1));
		if (bpf_probe_read_user(copy->stack + size, part, (void *)(copy->sp + size)))
			break;
		size += part;
	}
	return size;
}

/* May this process take one more copy now?  Then it is paid for. */
static __always_inline bool copy_affordable(struct pgmt_process *p)
{
	__u64 now = p->growth.last_ns;

	if (p->copies_ns + copy_burst_ns < now)
		p->copies_ns = now - copy_burst_ns;
	if (p->copies_ns > now)
		return false;
	p->copies_ns += copy_every_ns;
	return true;
}

/* Returns 0, or why there is none: enum pgmt_loss. */
static __noinline __u32 copy_stack(struct pt_regs *ctx, struct pgmt_process *p)
{
	struct pgmt_stack_copy *copy;

	if (!p)
		return PGMT_LOSS_STACK;
	if (!copy_affordable(p))
		return PGMT_LOSS_COPY_RATE;
	copy = bpf_ringbuf_reserve(&stack_copies, sizeof(*copy), 0);
	if (!copy)
		return PGMT_LOSS_COPIES_FULL;
	copy->key = p->growth_key;
	copy->growth = p->growth;
	copy->ip = PT_REGS_IP(ctx);
	copy->sp = PT_REGS_SP(ctx);
	copy->bp = PT_REGS_FP(ctx);
	copy->size = copy_pages(copy);
	if (!copy->size) {
		bpf_ringbuf_discard(copy, 0);
		return PGMT_LOSS_STACK;
	}
	bpf_ringbuf_submit(copy, 0);
	return 0;
}

#define PIECE_BYTES 2048

struct piece {
	__u64 words[PIECE_BYTES / 8];
};

/*
 * Room for a piece of each process's stack.  Not in task storage: at every read into it the
 * kernel would look up the slab behind it as well (mm/usercopy.c).
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1); /* resized by the daemon: as processes, where stacks are taken */
	__type(key, __u32);
	__type(value, struct piece);
} pieces SEC(".maps");

/* How much there is from `at` on; less than a piece where the stack ends. */
static __always_inline __u64 read_piece(struct piece *piece, __u64 at)
{
	__u64 size = PAGE_BYTES - (at & (PAGE_BYTES - 1));

	if (!bpf_probe_read_user(piece, PIECE_BYTES, (void *)at))
		return PIECE_BYTES;
	if (size > PIECE_BYTES || bpf_probe_read_user(piece, size, (void *)at))
		return 0;
	return size;
}

#define FRAME_BYTES 16 /* the caller's frame pointer, the return address */

/*
 * Where frame pointers lead to, behind the `n` addresses that are there; returns how many there are
 * then.  bpf_get_stack does the same, but reads each word by itself, and each such read is guarded.
 * A caller's frame lies above its callee's; what does not is none.  Such an end is common: code
 * that starts a process keeps no frame pointer.  To read there costs more than the walk.
 */
static __noinline __u32 follow_frames(struct pgmt_stack *stack, struct piece *piece, __u64 frame,
				      __u32 n)
{
	__u64 begin = 0, size = 0, callee = 0, at;

	if (!stack)
		return 0;
	for (; piece && n < PGMT_STACK_FRAMES; n++) {
		/* Neither compared with each other nor known to be the same value: the verifier
		 * would tell each turn from the last, a million instructions long. */
		if ((__s64)(frame - callee) <= 0)
			break;
		callee = frame;
		barrier_var(callee);
		at = frame - begin;
		if (at + FRAME_BYTES > size || at > PIECE_BYTES - FRAME_BYTES) {
			size = read_piece(piece, frame);
			if (size < FRAME_BYTES)
				break;
			begin = frame;
			at = 0;
		}
		at = at / 8 & (PIECE_BYTES / 8 - 1);
		frame = piece->words[at];
		stack->ip[n] = piece->words[(at + 1) & (PIECE_BYTES / 8 - 1)];
		if (!stack->ip[n])
			break;
	}
	for (__u32 i = n; i < PGMT_STACK_FRAMES && stack->ip[i]; i++)
		stack->ip[i] = 0; /* of the one before */
	return n;
}

/* Fewer than the caller of the caller say nothing. */
#define STACK_LEAST 3

/* What frame pointers lead to; its hash goes to growth_key. */
static __noinline bool walk_frames(struct pt_regs *ctx, struct pgmt_process *p)
{
	struct piece *piece;
	__u32 frames;

	if (!p)
		return false;
	piece = bpf_map_lookup_elem(&pieces, &p->slot);
	p->stack.ip[0] = PT_REGS_IP(ctx);
	frames = follow_frames(&p->stack, piece, PT_REGS_FP(ctx), 1);
	if (frames < STACK_LEAST)
		return false;
	if (frames == PGMT_STACK_FRAMES)
		lose(PGMT_LOSS_STACK_CUT);
	p->growth_key.stack.hash = hash_of(&p->stack);
	return true;
}

/* What is known of the stack that walk_frames() found. */
static __noinline __u64 state_of_stack(struct pgmt_process *p)
{
	struct pgmt_stack_key *key;
	struct pgmt_stack *known;

	if (!p)
		return PGMT_STACK_BROKEN;
	key = &p->growth_key.stack;
	known = bpf_map_lookup_elem(&stacks, key);
	if (known)
		return known->state;
	if (bpf_map_update_elem(&stacks, key, &p->stack, BPF_ANY)) { /* unchecked */
		lose(PGMT_LOSS_STACKS_FULL);
		key->hash = 0;
	}
	return PGMT_STACK_UNCHECKED;
}

static __noinline bool is_same(const struct pgmt_known_stack *known, __u64 sp)
{
	if (!known)
		return false;
	for (int i = 0; i < PGMT_STACK_FRAMES; i++) {
		if (!known->ip[i])
			break;
		if (read_word(sp + known->at[i] * 8) != known->ip[i])
			return false;
	}
	return true;
}

/* Was this stack unwound before?  Then its hash is in growth_key. */
static __noinline bool recall_stack(struct pt_regs *ctx, struct pgmt_process *p)
{
	struct pgmt_known_stack *known;
	__u64 walked;

	if (!p)
		return false;
	walked = p->growth_key.stack.hash;
	p->place.tgid = p->tgid;
	p->place.ip = PT_REGS_IP(ctx);
	p->place.sp = PT_REGS_SP(ctx);
	for (__u32 way = 0; way < PGMT_STACK_WAYS; way++) {
		p->place.way = way;
		known = bpf_map_lookup_elem(&known_stacks, &p->place);
		if (!known)
			break;
		if (!is_same(known, p->place.sp))
			continue;
		/* The daemon may have dropped it since: nobody referred to it. */
		p->growth_key.stack.hash = known->hash;
		if (!bpf_map_lookup_elem(&stacks, &p->growth_key.stack))
			break;
		p->growth_key.stack.hash &= ~PGMT_HASH_UNWOUND;
		return true;
	}
	p->growth_key.stack.hash = walked;
	return false;
}

/*
 * Whose stack growth_key has a hash of, if it was `walked`, and what else is to be done about it.
 * True: the growth went to the daemon with a copy of the stack, to be counted there.
 */
static __noinline bool settle_stack(struct pt_regs *ctx, struct pgmt_process *p, bool walked)
{
	__u64 state = PGMT_STACK_BROKEN;
	__u32 why;

	if (!p)
		return false;
	if (walked)
		state = state_of_stack(p);
	p->growth.proven = state == PGMT_STACK_PROVEN;
	if (state == PGMT_STACK_PROVEN || recall_stack(ctx, p))
		return false;
	why = copy_stack(ctx, p);
	if (why && state == PGMT_STACK_BROKEN)
		lose(why);
	return !why;
}
