/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * process.bpf.h - whose hit it is, and what each program begins and ends with.
 *
 * A part of pgmemtrace.bpf.c.  A process has a slot from its first hit on until the daemon has seen
 * it end; whom the user did not ask for gets none.
 */

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

/* Room for an event; NULL: it is lost, and counted. */
static __always_inline void *reserve_event(__u64 size)
{
	void *event = bpf_ringbuf_reserve(&events, size, 0);

	if (!event)
		lose(PGMT_LOSS_RING_FULL);
	return event;
}

static __always_inline void send_header(struct pgmt_process *p, __u32 type, __u32 tgid)
{
	struct pgmt_event_header *e = reserve_event(sizeof(*e));

	if (!e)
		return;
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
	/* Interrupted by a sample, which would take a slot of its own. */
	if (task->admitting)
		return NULL;
	task->admitting = 1;
	p = admit(load_bias, task);
	task->admitting = 0;
	return p;
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
