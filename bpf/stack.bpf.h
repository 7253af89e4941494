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

/* May one more copy be taken now?  Then it is paid for, until `paid_until`. */
static __always_inline bool copy_affordable(__u64 *paid_until, __u64 now)
{
	if (*paid_until + copy_burst_ns < now)
		*paid_until = now - copy_burst_ns;
	if (*paid_until > now)
		return false;
	*paid_until += copy_every_ns;
	return true;
}

/* Returns 0, or why there is none: enum pgmt_loss.  `call`: see there. */
static __noinline __u32 copy_stack(struct pt_regs *ctx, const struct pgmt_growth_key *key,
				   const struct pgmt_growth *growth, __u64 call)
{
	struct pgmt_stack_copy *copy;

	if (!key || !growth)
		return PGMT_LOSS_STACK;
	copy = bpf_ringbuf_reserve(&stack_copies, sizeof(*copy), 0);
	if (!copy)
		return PGMT_LOSS_COPIES_FULL;
	copy->key = *key;
	copy->growth = *growth;
	copy->call = call;
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

/* What is known of the stack that frame pointers led to, whose hash is in `key`. */
static __noinline __u32 state_of_stack(struct pgmt_stack_key *key, const struct pgmt_stack *stack)
{
	struct pgmt_stack *known;

	if (!key || !stack)
		return PGMT_STACK_BROKEN;
	known = bpf_map_lookup_elem(&stacks, key);
	if (known)
		return known->state;
	if (bpf_map_update_elem(&stacks, key, stack, BPF_ANY)) { /* unchecked */
		lose(PGMT_LOSS_STACKS_FULL);
		key->hash = 0;
	}
	return PGMT_STACK_UNCHECKED;
}

struct recall {
	struct pgmt_stack_key *key;
	struct pgmt_stack_place *place;
	struct piece *piece; /* of the stack, from sp on */
	__u64 words;	     /* in there */
	bool found;
};

static __always_inline bool is_same(const struct pgmt_known_stack *known,
				    const struct recall *recall)
{
	__s64 beyond;
	__u64 at;
	__u32 i = 0;

	/* One loop for both takes the verifier twice as long. */
	for (; i < PGMT_STACK_FRAMES && known->ip[i]; i++) {
		at = known->at[i];
		beyond = at - recall->words;
		barrier_var(beyond); /* the verifier would tell all that `words` may be apart */
		if (beyond >= 0)
			break;
		if (recall->piece->words[at & (PIECE_BYTES / 8 - 1)] != known->ip[i])
			return false;
	}
	for (; i < PGMT_STACK_FRAMES && known->ip[i]; i++)
		if (read_word(recall->place->sp + known->at[i] * 8) != known->ip[i])
			return false;
	return true;
}

static long recall_way(__u64 way, struct recall *recall)
{
	struct pgmt_known_stack *known;

	recall->place->way = way;
	known = bpf_map_lookup_elem(&known_stacks, recall->place);
	if (!known)
		return 1;
	if (!way)
		recall->words = read_piece(recall->piece, recall->place->sp) / 8;
	if (!is_same(known, recall))
		return 0;
	/* The daemon may have dropped it since: nobody referred to it. */
	recall->key->hash = known->hash;
	recall->found = bpf_map_lookup_elem(&stacks, recall->key);
	return 1;
}

/*
 * Was this stack unwound before?  Then its hash is in `key`.  `place`, whose caller is set, and
 * `piece` are room.
 */
static __noinline bool recall_stack(struct pt_regs *ctx, struct pgmt_stack_key *key,
				    struct pgmt_stack_place *place, struct piece *piece)
{
	struct recall recall = {.key = key, .place = place, .piece = piece};
	__u64 walked;

	if (!key || !place || !piece)
		return false;
	walked = key->hash;
	place->tgid = key->tgid;
	place->ip = PT_REGS_IP(ctx);
	place->sp = PT_REGS_SP(ctx);
	bpf_loop(PGMT_STACK_WAYS, recall_way, &recall, 0);
	key->hash = recall.found ? key->hash & ~PGMT_HASH_UNWOUND : walked;
	return recall.found;
}

/*
 * Whose stack growth_key has a hash of, if it was `walked`, and what else is to be done about it.
 * True: the growth went to the daemon with a copy of the stack, to be counted there.
 */
static __noinline bool settle_stack(struct pt_regs *ctx, struct pgmt_process *p, bool walked)
{
	__u32 state = PGMT_STACK_BROKEN, why;

	if (!p)
		return false;
	if (walked)
		state = state_of_stack(&p->growth_key.stack, &p->stack);
	p->growth.proven = state == PGMT_STACK_PROVEN;
	if (state == PGMT_STACK_PROVEN || recall_stack(ctx, &p->growth_key.stack, &p->place,
						       bpf_map_lookup_elem(&pieces, &p->slot)))
		return false;
	why = PGMT_LOSS_COPY_RATE;
	if (copy_affordable(&p->copies_ns, p->growth.last_ns))
		why = copy_stack(ctx, &p->growth_key, &p->growth, 0);
	if (why && state == PGMT_STACK_BROKEN)
		lose(why);
	return !why;
}
