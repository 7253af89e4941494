/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * text.bpf.h - which statement it is: its text and id.
 *
 * A part of pgmemtrace.bpf.c.
 */

/* What pg_stat_activity shows of a process; 0: this build or this process has none. */
static __always_inline __u64 backend_status(struct pgmt_process *p)
{
	return my_be_entry ? read_word(p->load_bias + my_be_entry) : 0;
}

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
