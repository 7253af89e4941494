/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * answer.bpf.h - the end of a round trip, seen where its answer is sent: without a trap.
 *
 * A part of pgmemtrace.bpf.c.  ReadyForQuery always sends what is left of the answer, so the
 * kernel's own tracepoint behind each send (PGMT_ANSWER_TRACEPOINT, net/socket.c) sees
 * each settle, for a tenth of what a uprobe there costs.  Unlike that it sees the sends of all
 * processes of the host: who is no concern of ours is told apart by one look at `strangers`.
 *
 * Preemption is off in here: no walks.
 */

/* Those that are nobody's of ours, and when that was found: pids come again. */
__u64 strangers[PGMT_HINTS];

#define STRANGER_SHIFT 6 /* they are asked anew every 64 jiffies */

static __always_inline __u64 stranger(__u32 tgid)
{
	return (__u64)tgid << 32 | (__u32)(bpf_jiffies64() >> STRANGER_SHIFT);
}

/* A session has both until it ends; MessageContext is made when it is ready for queries. */
static __noinline bool find_client(__u64 load_bias, struct pgmt_client *client)
{
	__u64 port = read_word(load_bias + my_proc_port);

	if (!client || !port ||
	    bpf_probe_read_user(&client->fd, sizeof(client->fd),
				(void *)(port + FIELD(Port, sock))))
		return false;
	client->message_context = read_word(load_bias + message_context);
	return client->message_context;
}

/*
 * All that was to be sent to the client has been, and the session is back where it waits for
 * the next message: no query string, and in MessageContext (tcop/postgres.c of 13 to 18).  So
 * it is at ReadyForQuery, or at the answer to a client's Flush: a round trip, too.
 */
static __always_inline bool is_answer(struct bpf_raw_tracepoint_args *ctx, __u64 load_bias,
				      struct pgmt_client *client)
{
	struct pt_regs *call = (struct pt_regs *)bpf_task_pt_regs(bpf_get_current_task_btf());
	__s64 asked = PT_REGS_PARM3(call), sent = (__s32)ctx->args[1];

	if (sent != asked || (!client->message_context && !find_client(load_bias, client)))
		return false;
	return (__u32)PT_REGS_PARM1(call) == client->fd &&
	       read_word(load_bias + current_memory_context) == client->message_context &&
	       !read_word(load_bias + debug_query_string);
}

/* Has no slot that we know by its pid: where its server was loaded; NULL: a stranger, or refused.
 */
static __noinline __u64 *server_of(__u32 tgid, __u32 probe)
{
	__u32 parent = parent_tgid();
	__u64 *load_bias = bpf_map_lookup_elem(&postmasters, &parent);

	if (load_bias && (!select_only || is_selected(tgid)))
		return load_bias;
	if (load_bias)
		find_process(*load_bias, probe); /* which tells the daemon of it */
	strangers[tgid & (PGMT_HINTS - 1)] = stranger(tgid);
	return NULL;
}

/* A server's child, maybe at its first answer. */
static __noinline struct pgmt_process *find_sender(struct bpf_raw_tracepoint_args *ctx, __u32 tgid)
{
	__u64 *load_bias = server_of(tgid, PGMT_PROBE_SETTLE);
	struct pgmt_client client = {};

	if (!load_bias || !is_answer(ctx, *load_bias, &client))
		return NULL;
	return find_process(*load_bias, PGMT_PROBE_SETTLE);
}

/* The process whose answer was sent; NULL: it was none, or nobody's of ours. */
static __always_inline struct pgmt_process *answering(struct bpf_raw_tracepoint_args *ctx)
{
	__u32 tgid = bpf_get_current_pid_tgid() >> 32;
	struct pgmt_process *p = known_process(tgid);

	if (p)
		return is_answer(ctx, p->load_bias, &p->client) ? p : NULL;
	if (strangers[tgid & (PGMT_HINTS - 1)] == stranger(tgid))
		return NULL;
	return find_sender(ctx, tgid);
}

SEC("raw_tp/" PGMT_ANSWER_TRACEPOINT)
int boundary_answer(struct bpf_raw_tracepoint_args *ctx)
{
	struct pgmt_process *p = answering(ctx);

	if (!p)
		return 0;
	count_hit(p, PGMT_PROBE_SETTLE);
	request_settled(p);
	return 0;
}
