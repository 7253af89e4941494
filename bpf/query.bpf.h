/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * query.bpf.h - which statement asked for memory: the client's, not those within its functions.
 *
 * A part of pgmemtrace.bpf.c; used with by_query alone.  A statement's text is looked at once, when
 * the first growth of it is seen.  Statements that differ in numbers, in quoted text and in how
 * they end (what pg_stat_activity shows has its semicolon, what the executor knows has not) share a
 * key of the map, so that it holds kinds of statements and not each one; the daemon tells them
 * apart further, or puts them together, by their ids and texts.
 */

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1024);
	__type(key, __u64);
	__type(value, struct pgmt_query);
} queries SEC(".maps");

/* Letters, and some signs, after which a number is merely kept. */
static __always_inline bool is_name_byte(__u8 c, bool named)
{
	return c >= 'A' || c == '$' || (named && c >= '0' && c <= '9');
}

/* Its state is in the slot: what lies on the stack the verifier would follow through each way that
 * a text can go, a million of instructions. */
struct hashed {
	struct pgmt_process *p;
};

static long hash_byte(__u64 index, struct hashed *hashed)
{
	struct pgmt_text_hash *h = &hashed->p->text_hash;
	__u8 c = hashed->p->query[index & (PGMT_QUERY_LEN - 1)];

	if (!c)
		return 1;
	if (h->quoted && c == '\\')
		h->literal = 1;
	if (c == '\'')
		h->quoted = !h->quoted;
	h->named = is_name_byte(c, h->named);
	if (h->literal || !(h->quoted || (c >= '0' && c <= '9' && !h->named)))
		h->hash = (h->hash ^ c) * 0x100000001b3ULL;
	if (c > ' ' && c != ';')
		h->trimmed = h->hash;
	return 0;
}

static __always_inline __u64 hash_of_text(struct pgmt_process *p)
{
	struct hashed hashed = {.p = p};

	__builtin_memset(&p->text_hash, 0, sizeof(p->text_hash));
	p->text_hash.hash = 0xcbf29ce484222325ULL;
	bpf_loop(PGMT_QUERY_LEN, hash_byte, &hashed, 0);
	return p->text_hash.trimmed;
}

/* The key of the text in p->query, which is put into the map. */
static __noinline __u64 key_of_text(struct pgmt_process *p)
{
	struct pgmt_query *known;
	__u64 hash;

	if (!p || !p->query[0])
		return PGMT_QUERY_NONE;
	hash = hash_of_text(p);
	if (hash <= PGMT_QUERY_OTHERS)
		return PGMT_QUERY_NONE;
	known = bpf_map_lookup_elem(&queries, &hash);
	if (known) {
		if (p->query_id)
			known->id = p->query_id;
		return hash;
	}
	if (bpf_map_update_elem(&queries, &hash, &p->query_id, BPF_ANY)) {
		lose(PGMT_LOSS_QUERIES_FULL);
		return PGMT_QUERY_OTHERS;
	}
	return hash;
}

/* The part of a query string that is one statement. */
static __noinline void read_statement(struct pgmt_process *p, __u64 planned, __u64 text)
{
	if (!p)
		return;
	capture_text(p, planned, text);
	p->text_request = 0; /* no event is to take it for the whole string */
	if (p->stmt_location > 0)
		read_text(p->query, text + p->stmt_location);
	if (p->stmt_len > 0 && p->stmt_len < PGMT_QUERY_LEN)
		p->query[p->stmt_len & (PGMT_QUERY_LEN - 1)] = 0;
}

static __always_inline __u64 activity_start(__u64 entry)
{
	return read_word(entry + FIELD(PgBackendStatus, st_activity_start_timestamp));
}

/* At settle: what pg_stat_activity shows from now on, until it changes, is over. */
static __always_inline void note_activity(struct pgmt_process *p)
{
	__u64 entry = backend_status(p);

	p->settled_activity = entry ? activity_start(entry) + 1 : 0;
}

/*
 * Executor and utility statements are known.  What is parsed, planned or sent is what
 * pg_stat_activity shows, if that has changed since the last settle, or since
 * the probes came.  A global function: the
 * verifier looks at it once, and not for every way that leads here.
 */
__noinline __u64 asking(struct pgmt_process *p)
{
	__u64 entry = 0, stamp;
	bool statement;

	if (!p)
		return PGMT_QUERY_NONE;
	statement = p->query_desc || p->phase == PGMT_PHASE_UTILITY;
	if (statement) {
		stamp = p->statements << 1 | 1;
	} else {
		entry = backend_status(p);
		if (!entry)
			return PGMT_QUERY_NONE;
		stamp = activity_start(entry);
		if (p->settled_activity ? stamp + 1 == p->settled_activity : stamp < starts_since)
			return PGMT_QUERY_NONE;
		stamp <<= 1;
	}
	if (stamp == p->asking_stamp)
		return p->asking;
	p->asking_stamp = stamp;
	if (p->query_desc) {
		read_statement(p, read_word(p->query_desc + FIELD(QueryDesc, plannedstmt)),
			       read_word(p->query_desc + FIELD(QueryDesc, sourceText)));
	} else if (statement && p->utility_stmt) {
		read_statement(p, p->utility_stmt, p->utility_text);
	} else {
		capture_activity(p);
		p->text_request = 0;
	}
	p->asking = key_of_text(p);
	return p->asking;
}
