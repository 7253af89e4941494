/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * abi.h - the one contract between the kernel half and the daemon.
 *
 * Plain C, fixed-width fields, explicit padding: the BPF object (clang -target bpf)
 * and the daemon (g++) must lay these out identically; the asserts at the bottom say
 * so on both sides.  Nothing here is re-declared anywhere else.
 *
 * Two ways lead from the kernel to the daemon:
 *   - struct pgmt_process, one slot per watched process in a memory-mapped array. Only
 *     the process itself writes its slot, the daemon reads it without a system call;
 *   - struct pgmt_event, records in a ring buffer, for what is rare.
 * Slots are handed out through a queue that the daemon fills: a process takes one at
 * its first hit, the daemon gives it back when the process is gone.
 */
#ifndef PGMEMTRACE_ABI_H
#define PGMEMTRACE_ABI_H

#include <linux/types.h>

#define PGMT_QUERY_LEN 1024 /* bytes of query text kept, with its NUL */
#define PGMT_NO_SLOT 0xffffffffu
#define PGMT_WALK_MAX 16384 /* steps below one root at most: each context, and each way up */
#define PGMT_SITES 64	    /* of level block, per binary; a power of two */
#define PGMT_STACK_FRAMES 64
#define PGMT_METHOD_SITES 32 /* of level alloc, per binary; a power of two */
#define PGMT_PASSERS 32
#define PGMT_HINTS 4096	       /* of the slots of processes; a power of two */
#define PGMT_STACK_BYTES 16384 /* of a stack that is copied to be unwound, at most */

/* The programs, in the order of hits[] and of the metric label "probe". */
enum pgmt_probe {
	PGMT_PROBE_SAMPLE,  /* the clock of each CPU: bpf/sample.bpf.h */
	PGMT_PROBE_START,   /* standard_ExecutorStart */
	PGMT_PROBE_END,	    /* standard_ExecutorEnd */
	PGMT_PROBE_UTILITY, /* standard_ProcessUtility */
	PGMT_PROBE_SETTLE,  /* ReadyForQuery, or the send of its answer: bpf/answer.bpf.h */
	PGMT_PROBE_XACT,    /* AtEOXact_Snapshot; by pid, only processes that never settle */
	PGMT_PROBE_EXIT,    /* proc_exit */
	PGMT_PROBE_DSM,	    /* dsm_impl_op: a segment of dynamic shared memory is made */
	PGMT_PROBE_BLOCK,   /* calls of malloc, realloc and free in the allocators: pgmt_site */
	PGMT_PROBE_ALLOC,   /* methods of the allocators: pgmt_method_site */
	PGMT_PROBES,
};

/* The kernel's tracepoint behind each send, where settle is seen: Linux 6.3 and newer. */
#define PGMT_ANSWER_TRACEPOINT "sock_send_length"

/* How many of its arguments a probed function is read for. */
#define PGMT_PROBE_ARGUMENTS 3

/*
 * The root contexts that the O(1) check compares: those that nothing empties.  MessageContext is
 * empty at settle, and TopTransactionContext grows with every statement of a healthy
 * transaction: what piles up there is the sweep's to judge.
 */
enum pgmt_root {
	PGMT_ROOT_TOP,	 /* TopMemoryContext */
	PGMT_ROOT_CACHE, /* CacheMemoryContext */
	PGMT_ROOT_ERROR, /* ErrorContext */
	PGMT_ROOTS,
};

enum pgmt_phase {
	PGMT_PHASE_IDLE,
	PGMT_PHASE_PLAN,
	PGMT_PHASE_EXECUTE,
	PGMT_PHASE_UTILITY,
};

/* Values of the selection map. */
enum pgmt_selected {
	PGMT_SELECTED = 1,
	PGMT_SELECTED_WITH_CHILDREN = 2, /* a postmaster, and whoever it forks */
};

/* Why something was not recorded; the index of the losses map. */
enum pgmt_loss {
	PGMT_LOSS_RING_FULL,	 /* an event was dropped */
	PGMT_LOSS_SLOTS_FULL,	 /* more processes than slots: hit not attributed */
	PGMT_LOSS_TASK_STORAGE,	 /* the kernel gave no task storage */
	PGMT_LOSS_CONTEXTS_FULL, /* the contexts map was full */
	PGMT_LOSS_READ_ROOT,	 /* a root context could not be read */
	PGMT_LOSS_READ_WALK,	 /* a context in a walk could not be read */
	PGMT_LOSS_READ_TEXT,	 /* the query text could not be read */
	PGMT_LOSS_WALK_BOUND,	 /* a walk ended before the tree did */
	PGMT_LOSS_READ_BLOCK,	 /* a block or its context could not be read, or is none */
	PGMT_LOSS_BLOCKS_UNSEEN, /* a context's size had changed without a probe seeing it */
	PGMT_LOSS_GROWTHS_FULL,	 /* the growths or the names map was full */
	PGMT_LOSS_STACKS_FULL,	 /* the stacks map was full */
	PGMT_LOSS_STACK,	 /* a call stack could not be read */
	PGMT_LOSS_STACK_CUT,	 /* ... was longer than PGMT_STACK_FRAMES */
	PGMT_LOSS_QUERIES_FULL,	 /* a statement was counted as one of the others */
	PGMT_LOSS_HEAP_CALL,   /* level malloc: a call never returned, or was of an unknown kind */
	PGMT_LOSS_HEAP_STALE,  /* ... a chunk was gone without its free being seen */
	PGMT_LOSS_READ_CHUNK,  /* a chunk or its context could not be read, or is none */
	PGMT_LOSS_READ_CALLER, /* who asked could not be read */
	PGMT_LOSS_CALLS_FULL,  /* the map of calls, of held contexts or of lives was full */
	PGMT_LOSS_CHUNKS_FULL, /* the map of chunks (level malloc: of heap_chunks) was full */
	PGMT_LOSS_CHUNK_UNKNOWN, /* a chunk was not where it was foretold */
	PGMT_LOSS_COPY_RATE,	 /* a stack had to be copied, and too many were just before */
	PGMT_LOSS_COPIES_FULL,	 /* ... had to be copied, and the ring of copies was full */
	PGMT_LOSSES,
};

/* What a probed call does to a context's blocks. */
enum pgmt_site_kind {
	PGMT_SITE_GAIN,	  /* malloc for a context that is there: size in the first argument */
	PGMT_SITE_CREATE, /* malloc for a context to be: size as above */
	PGMT_SITE_RESIZE, /* realloc of a block: it and its new size in the first two arguments */
	PGMT_SITE_RETURN, /* free of a block, or of a whole context */
};

/* Where a site's context is (of PGMT_SITE_CREATE: its name), besides places of registers. */
enum pgmt_holder {
	PGMT_HOLDER_FRAME = 0x80, /* in the word at frame_offset from the frame pointer */
	PGMT_HOLDER_BLOCK,	  /* in the block, at owner_at */
};

/* How large a block is. */
enum pgmt_block_size {
	PGMT_SIZE_TO_END,     /* up to the pointer at size_at in the block */
	PGMT_SIZE_IN_BLOCK,   /* the word there */
	PGMT_SIZE_IN_CONTEXT, /* the 4 bytes there in its context: all blocks are alike */
};

/* A probed call of malloc, realloc or free; its index is the cookie. */
struct pgmt_site {
	__u64 address;	   /* link-time */
	__u32 context_tag; /* NodeTag of the contexts of this allocator */
	__u8 kind;	   /* enum pgmt_site_kind */
	__u8 holder; /* place of a register in struct pt_regs, in words; or enum pgmt_holder */
	__s16 frame_offset;
	__u16 owner_at;
	__u16 size_at;
	__u8 size_from; /* enum pgmt_block_size */
	__u8 unused[3];
};

/*
 * What the O(1) check remembers of one root context.  A first child that was replaced by
 * another one at the same address (aset.c recycles) goes unnoticed: nothing grew.
 */
struct pgmt_root_state {
	__u64 context;	     /* its address; 0: not there */
	__u64 mem_allocated; /* MemoryContextData.mem_allocated */
	__u64 firstchild;    /* newest child: children are pushed at the front */
	__u64 settled_first; /* firstchild at the last settle */
	__u64 settled_child; /* the newest one that stays, then */
	__u64 settled_bytes; /* its mem_allocated then */
	__u64 settled_next;  /* the one behind it: first, once the settled child is deleted */
	__u64 gone_bytes;    /* of such a deleted one that none has replaced yet; 0: none */
	__u64 new_child;     /* the newest, the number and the bytes of those ... */
	__u64 new_children;  /* ... before the settled one, while a settle counts them */
	__u64 new_bytes;
	__u64 head_block; /* AllocSetContext.blocks */
	__u64 freeptr;	  /* of that block: chunks taken move it */
};

struct pgmt_context_key {
	__u64 tgid;
	__u64 address;
};

/* One context of one process that gained or returned a block at level block. */
struct pgmt_context {
	__u64 parent;
	__u64 name;	  /* address of a constant in the binary or a library */
	__u64 ident;	  /* address; may dangle */
	__u64 bytes;	  /* mem_allocated when last seen or foretold; 0: not known */
	__u64 peak_bytes; /* largest that was seen since it came */
	__u64 seen_ns;	  /* when `bytes` was last set */
	/* since the context was first seen */
	__u64 gained;	/* bytes */
	__u64 returned; /* bytes; when not recording, as of the last gain */
	__u64 gains;	/* blocks from malloc, or enlarged */
};

/*
 * Contexts of one name (the key's address) in one process that were made with fresh memory.
 * Those that aset.c takes from its free list count neither when made nor when deleted.
 */
struct pgmt_name {
	__u64 made;
	__u64 freed;
	__u64 most; /* at one time */
	/* when recording: bytes of contexts of this name, however they were made */
	__u64 gained;
	__u64 returned;
	__u64 peak;   /* the most that `gained` was ahead of `returned` */
	__s64 blocks; /* gained less returned */
};

/* What is known of a stack; the daemon finds it out. */
enum pgmt_stack_state {
	/* walked by frame pointers ... */
	PGMT_STACK_UNCHECKED, /* ... and maybe wrong: code without them may be among it */
	PGMT_STACK_PROVEN,    /* ... which all its code keeps */
	PGMT_STACK_BROKEN,    /* ... which some of its code does not keep: wanted as a copy */
	/* unwound by the daemon ... */
	PGMT_STACK_UNWOUND,	 /* ... down to main() */
	PGMT_STACK_UNWOUND_PART, /* ... as far as could be */
};

/* A call stack of a process, innermost first; 0: the end. */
struct pgmt_stack {
	__u64 ip[PGMT_STACK_FRAMES];
	__u32 state; /* enum pgmt_stack_state */
	/* 1: at a function's entry. No frame pointer told who called it, and that is right. */
	__u32 at_entry;
};

/*
 * In the hashes of stacks that the daemon unwound.  It counts under them; what the kernel half
 * counts for the same stacks lacks this bit, so that each key has one writer.
 */
#define PGMT_HASH_UNWOUND (1ULL << 63)

struct pgmt_stack_key {
	__u64 tgid;
	__u64 hash; /* of its addresses; 0: not captured */
};

/* Values of pgmt_growth_key.context that are no addresses: all contexts of the name together. */
enum pgmt_contexts {
	PGMT_CONTEXTS_MADE,
	PGMT_CONTEXTS_SMALL, /* below alone_min_bytes: thousands may leak, each of them small */
	PGMT_CONTEXTS_ALL,   /* when recording */
};

/* Who made what grow: beyond its earlier peak, or, when recording, at all. */
struct pgmt_growth_key {
	struct pgmt_stack_key stack;
	__u64 context; /* its address, or enum pgmt_contexts */
	__u64 name;    /* address of the context's name */
	__u64 query;   /* key of the queries map, or enum pgmt_query_key */
};

struct pgmt_growth {
	__u64 bytes;
	__u64 raised; /* those that were more than ever before */
	__u64 blocks;
	__u64 last_ns;
	__u64 proven; /* its stack was PGMT_STACK_PROVEN: it need not be asked again */
};

/* Growth whose stack frame pointers do not tell, for the daemon to unwind and to count. */
struct pgmt_stack_copy {
	struct pgmt_growth_key key; /* stack.hash: of what frame pointers led to; 0: of nothing */
	struct pgmt_growth growth;
	__u64 call; /* level malloc: what it was counted under instead; 0: it was not counted */
	__u64 ip;
	__u64 sp;
	__u64 bp;
	__u64 size;		      /* bytes of stack that were copied */
	__u8 stack[PGMT_STACK_BYTES]; /* from sp on */
};

/*
 * A stack that was unwound once, by where it began: if the words where its return addresses were
 * found still hold them, it is the same stack, and need not be copied again.  Several may
 * begin alike.
 */
struct pgmt_stack_place {
	__u64 tgid;
	__u64 ip;
	__u64 sp;
	__u64 caller; /* at a function's entry: where it returns to; else 0 */
	__u64 way;    /* below PGMT_STACK_WAYS */
};

#define PGMT_STACK_WAYS 32

struct pgmt_known_stack {
	__u64 hash; /* of its stack, with PGMT_HASH_UNWOUND; the kernel half counts without that bit
		     */
	__u64 ip[PGMT_STACK_FRAMES]; /* return addresses; 0: the end */
	__u16 at[PGMT_STACK_FRAMES]; /* in words from sp */
};

/* ---- level alloc ---- */

enum pgmt_method {
	PGMT_METHOD_ALLOC,
	PGMT_METHOD_FREE,
	PGMT_METHOD_REALLOC,
	PGMT_METHOD_RESET,
	PGMT_METHOD_DELETE,
	PGMT_METHODS,
};

enum pgmt_allocator { PGMT_ALLOC_SET, PGMT_GENERATION, PGMT_SLAB, PGMT_BUMP };

#define PGMT_NOWHERE 0xff

/* A probed method of an allocator; its index is the cookie. */
struct pgmt_method_site {
	__u64 address; /* of the probed instruction, link-time */
	__u32 context_tag;
	__u8 method;	 /* enum pgmt_method */
	__u8 allocator;	 /* enum pgmt_allocator */
	__u8 context_in; /* places of registers in struct pt_regs, in words; PGMT_NOWHERE: */
	__u8 chunk_in;	 /* ... it has no such argument (of the context: the chunk tells) */
	__u8 size_in;
	__u8 tracked;	     /* so are all methods of its allocator: what is held can be known */
	__u16 chunk_header;  /* bytes before a chunk's payload */
	__u16 block_header;  /* ... before a block's first chunk */
	__u16 owner_at;	     /* in a block: its context */
	__u16 end_at;	     /* in a block: where it ends */
	__u16 chunk_size_at; /* in a context of Slab: what all its chunks have */
	__u16 node_at;	     /* in a block: what its context's list of blocks points to */
	__u8 framed; /* the frame pointer is its own already; else the return address is on top */
	__u8 unused;
};

/* Code that asks for others: the caller is whoever called it.  Its frame pointer leads there. */
struct pgmt_passer {
	__u64 address; /* link-time */
	__u64 end;
	__u64 is_method; /* of an allocator: what it calls is no request of its own */
};

/* Who asks for memory. */
struct pgmt_asker {
	__u64 caller; /* return address; 0: could not be read */
	__u64 query;  /* key of the queries map, or enum pgmt_query_key */
};

/* Requests of one asker for contexts of one name, in one process. */
struct pgmt_call_key {
	__u64 tgid;
	__u64 name; /* address of the contexts' name */
	struct pgmt_asker asker;
};

struct pgmt_calls {
	__u64 count[8]; /* by enum pgmt_method */
	__u64 asked;	/* bytes that alloc was asked for */
	__u64 reasked;	/* ... and realloc: the new sizes */
	/* when recording */
	__u64 taken;  /* bytes of the chunks that were made, without their headers */
	__u64 raised; /* those of them that were more than ever before */
	__u64 last_jiffies;
};

/*
 * What is held of chunks that were seen being made; of contexts that are tracked: the roots, or,
 * when recording, all.  A reset or a delete ends a generation, and all that is held in it.
 */
struct pgmt_held {
	__u64 name;
	__u64 generation;
	__s64 bytes;
	__s64 chunks;
};

struct pgmt_life_key {
	__u64 tgid;
	__u64 context;
	struct pgmt_asker asker;
};

/* What one asker's chunks hold in one context. */
struct pgmt_life {
	__u64 name;
	__u64 generation; /* another one than the context's: it holds nothing any more */
	__u64 bytes;
	__u64 chunks;
};

/* A chunk of a tracked context (not Bump); the key's address is what palloc returned. */
struct pgmt_chunk {
	__u64 context;
	__u64 generation;
	struct pgmt_asker asker;
	__u64 bytes;
};

/* A chunk whose address is not known before the next request. */
struct pgmt_pending {
	struct pgmt_chunk chunk; /* context 0: there is none */
	__u64 name;
	__u64 site;   /* index of the method */
	__u64 at;     /* where the pointer to its block will be */
	__u64 before; /* what is there; 0: it does not matter */
};

#define PGMT_OWNERS 64 /* of a process, remembered at level alloc; a power of two */

/* A context that was asked lately. */
struct pgmt_owner {
	__u64 context; /* 0: none */
	__u64 name;
};

/* Scratch space of one request. */
struct pgmt_request {
	__u64 context;
	__u64 name;
	__u64 chunk; /* as pfree gets it */
	__u64 size;  /* asked for */
	__u64 bytes; /* of the chunk that comes of it, or is freed or resized */
	struct pgmt_asker asker;
	__u64 frame[2];
	__u32 nested;  /* inside another method: no request of its own */
	__u32 tracked; /* who holds what in its context is told */
	__u64 set[26]; /* the stack's top; then a context, as much as there is of AllocSetContext */
	struct pgmt_call_key call_key;
	struct pgmt_calls zero_calls;
	struct pgmt_context_key key;
	struct pgmt_life_key life_key;
	struct pgmt_held held;
	struct pgmt_life life;
	struct pgmt_chunk chunk_value;
	struct pgmt_pending pending;
	__u64 generations; /* so many began */
};

/* A walk over the contexts of a statement, while it runs and what it found. */
struct pgmt_walk {
	__u64 node;	/* context to read next; 0: done */
	__u64 root;	/* where it began and where climbing ends */
	__u64 climbing; /* node's children were seen: go on with its siblings */
	__u64 query;	/* es_query_cxt, until it was met; 0: it was, or there is none */
	__u64 contexts;
	__u64 bytes;	     /* sum of mem_allocated */
	__u64 largest_bytes; /* the largest single context ... */
	__u64 largest;	     /* ... its address */
	__u64 largest_name;  /* ... and the address of its name */
	__u64 header[16];    /* of the context that is looked at */
};

/* ---- which statement asked: bpf/query.bpf.h ---- */

/* Keys of the queries map that are no statement. */
enum pgmt_query_key {
	PGMT_QUERY_NONE,   /* between statements, or not known */
	PGMT_QUERY_OTHERS, /* there were too many */
};

struct pgmt_query {
	__u64 id;		   /* as the server computed it; 0: it did not */
	char text[PGMT_QUERY_LEN]; /* its beginning */
};

/* State of a text that is being hashed. */
struct pgmt_text_hash {
	__u64 hash;
	__u64 trimmed; /* the hash without what may follow a statement: blanks and semicolons */
	__u32 quoted;  /* within '...' */
	__u32 named;   /* within a name, whose digits belong to it */
	__u32 literal; /* a backslash within quotes: nothing is left out from here on */
	__u32 unused;
};

/* ---- level malloc: bpf/malloc.bpf.h ---- */

/* What a probed function does; the cookie of its probes. */
enum pgmt_heap_call {
	PGMT_HEAP_MALLOC,	  /* (size) */
	PGMT_HEAP_CALLOC,	  /* (count, size) */
	PGMT_HEAP_REALLOC,	  /* (chunk, size) */
	PGMT_HEAP_ALIGNED_ALLOC,  /* (alignment, size) */
	PGMT_HEAP_POSIX_MEMALIGN, /* (where to put it, alignment, size) */
	PGMT_HEAP_MMAP,		  /* (address, size, protection, flags) */
	PGMT_HEAP_MREMAP,	  /* (address, old size, new size, flags) */
	PGMT_HEAP_BRK,		  /* brk and sbrk: where the heap ended before and after tells */
	PGMT_HEAP_FREE,		  /* (chunk); and all that follows does not wait for a return */
	PGMT_HEAP_MUNMAP,	  /* (address, size) */
	PGMT_HEAP_CALLS,
};

/* One chosen process; its key is the tgid.  The daemon makes the entry. */
struct pgmt_heap {
	__u64 gained;	 /* bytes, as asked for */
	__u64 returned;	 /* ... of those gained */
	__u64 peak;	 /* the most that `gained` was ahead of `returned` */
	__u64 unmatched; /* frees of what was there before, or was not kept */
	__u64 mappings;	 /* so many live */
};

/* What one stack gained; or, as a chunk's, what it is counted in. */
struct pgmt_heap_key {
	struct pgmt_stack_key stack;
	__u64 query; /* key of the queries map, or enum pgmt_query_key */
};

struct pgmt_heap_sum {
	__u64 gained;
	__u64 returned;
	__u64 raised; /* of `gained`, what raised the process's peak */
	__u64 chunks;
	__u64 chunks_returned;
};

/* A chunk that lives; its key is a pgmt_context_key. */
struct pgmt_heap_chunk {
	__u64 bytes;
	struct pgmt_heap_key key;
};

#define PGMT_MAPPINGS 1024 /* of a process that are known; a power of two */

/* A stretch of address space that lives; its key has a number below PGMT_MAPPINGS. */
struct pgmt_mapping {
	__u64 start;
	__u64 bytes;
	struct pgmt_heap_key key;
};

/* What tells a session's answers from all else that it sends: bpf/answer.bpf.h. */
struct pgmt_client {
	__u64 message_context; /* MessageContext; 0: not known yet */
	__u32 fd;	       /* of the socket that answers go to */
	__u32 unused;
};

/*
 * One watched process.  Written by the process itself, read by the daemon.
 *
 * What every boundary touches comes first: on a busy server these lines are cold at each
 * hit, and each costs as much as the program itself.
 */
struct pgmt_process {
	/* line 1: who it is, what runs, and when each dearer look was last taken */
	__u32 tgid;	     /* 0: free slot; as the initial pid namespace sees it */
	__u32 binary;	     /* which loaded object owns it: hits through others are ignored */
	__u64 busy_since_ns; /* first start of a statement after a settle; 0: none was seen */
	__u64 query_desc;    /* QueryDesc of the top-level statement that runs; 0: none */
	__u32 nesting;
	__u32 phase;	    /* enum pgmt_phase */
	__u64 statements;   /* top-level executor starts and utilities; round trips without any */
	__u64 detail_ns;    /* when text and roots were last looked at within a request */
	__u64 walked_ns;    /* when the last walk began */
	__u64 walk_cost_ns; /* what it took */

	/* line 2: what settle touches besides */
	__u64 requests;		/* settles */
	__u64 settle_detail_ns; /* when settle last looked closely because it was due */
	__u64 growth_bytes;	/* of Top, Cache and their new children; only gains are summed */
	__u32 detail_wanted;	/* look closely at this many more requests, hot or not */
	__u8 pending_growth;	/* growth was seen earlier in this request ... */
	__u8 growth_phase;	/* ... in this phase */
	__u8 looked_closely;	/* the last comparison did: what the next one finds is new */
	__u8 unknown_growth;	/* some may be older than this request: nobody to blame */
	__u64 timed_ns;		/* when this run of a program began; 0: it is not timed */
	__u64 walk_total_ns;	/* what all walks took */
	__u64 utility_sp;	/* stack pointer at the start of the top-level utility statement */
	__u32 starts_epoch;	/* its starts of statements are seen since; 0: none was yet */
	__u32 skipped;		/* some settle since the last comparison was not compared */

	/* line 3 */
	__u64 transaction_context; /* TopTransactionContext when it was last looked up */
	struct pgmt_client client;
	__u64 tick;    /* of the last hit that read the clock: jiffies */
	__u64 tick_ns; /* ... and what it said */
	__u64 hits[PGMT_PROBES];
	__u64 settled_ns;    /* when settle last compared */
	__u64 walked_cpu_ns; /* CPU time of the thread at walked_ns */

	struct pgmt_root_state roots[PGMT_ROOTS];

	__u64 load_bias; /* runtime address - link-time address of the executable */

	/* the top-level utility statement that runs */
	__u64 utility_stmt; /* its PlannedStmt; 0: joined midway, only the text is known */
	__u64 utility_text; /* the query string that it is part of */

	/* growth not yet handed over in an event */
	__u64 event_ns; /* when the last growth event was sent */
	__u64 new_children;
	__u64 grown_requests; /* requests with growth since then */

	__u64 walks;
	__u64 peak_event_ns; /* when the last peak event was sent */

	__u64 transactions; /* xact boundaries */
	__u64 first_hit_ns;
	__u32 slot; /* its own index in the array */
	__u32 exited;

	/* text of the last top-level statement that was captured */
	__s32 stmt_location; /* -1 or 0: whole text */
	__s32 stmt_len;	     /* 0: to its end */
	__u64 text_request;  /* value of `requests` then, plus one; 0: never */
	__u64 query_id;	     /* this and the next one: a struct pgmt_query */
	char query[PGMT_QUERY_LEN];

	/* when growth is attributed to statements */
	__u64 asking;		/* key of the queries map of the one that was asked for last ... */
	__u64 asking_stamp;	/* ... and which one that was */
	__u64 settled_activity; /* st_activity_start_timestamp at settle, plus one; 0: not known */

	/* sampled run time of the programs in this process, walks not included */
	__u64 run_ns[PGMT_PROBES];
	__u64 run_samples[PGMT_PROBES];

	/* private to the kernel half: uprobe programs may be preempted, so scratch space is
	 * per process, never per CPU */
	struct pgmt_walk walk;
	struct pgmt_walk sample; /* this and the next three: of samples, which interrupt the rest */
	__u64 sample_event_ns;
	__u64
	    sample_request; /* value of `requests` at the last one that was handed over, plus one */
	__u64 sample_bytes; /* ... and what it said */
	struct pgmt_text_hash text_hash;
	__u64 scratch[16];
	struct pgmt_context_key context_key;
	struct pgmt_context context;
	struct pgmt_growth_key growth_key;
	struct pgmt_growth growth;
	struct pgmt_name name;
	struct pgmt_stack stack;
	struct pgmt_request request;
	struct pgmt_owner owners[PGMT_OWNERS];
	__u64 copies_ns; /* copies of stacks are paid for until then */
	struct pgmt_stack_place place;
} __attribute__((aligned(64)));

enum pgmt_event_type {
	PGMT_EVENT_PROCESS = 1, /* a process had its first hit: struct pgmt_event_header only */
	PGMT_EVENT_GROWTH = 2,	/* Top or Cache grew across a request: struct pgmt_growth_event */
	PGMT_EVENT_PEAK = 3,	/* a statement held much at its end: struct pgmt_peak_event */
	PGMT_EVENT_EXIT = 4,	/* proc_exit was reached: header only */
	PGMT_EVENT_DSM = 5, /* a segment of dynamic shared memory is made: struct pgmt_dsm_event */
};

struct pgmt_event_header {
	__u32 type; /* enum pgmt_event_type */
	__u32 tgid;
	__u64 time_ns; /* CLOCK_MONOTONIC, up to a tick behind */
	__u32 phase;   /* enum pgmt_phase; of growth: where it was seen */
	__u32 slot;    /* of the process; PGMT_NO_SLOT: it was refused */
};

/* Text last: it is copied from the slot in one go. */
struct pgmt_growth_event {
	struct pgmt_event_header header;
	__u64 bytes;	    /* gained by Top, Cache and their new children since the last one */
	__u64 occurrences;  /* requests with growth since then, this one included */
	__u64 new_children; /* of Top and Cache since then */
	__u64 query_id;
	__s32 stmt_location;
	__s32 stmt_len;
	char query[PGMT_QUERY_LEN]; /* empty: not captured in this request */
};

struct pgmt_peak_event {
	struct pgmt_event_header header;
	__u64 bytes;   /* of all contexts that do not outlive the statement or its transaction */
	__u64 context; /* address, name and size of the largest single context */
	__u64 context_name;
	__u64 context_bytes;
	__u64 query_id;
	__s32 stmt_location;
	__s32 stmt_len;
	char query[PGMT_QUERY_LEN];
};

/* A session called pgmemtrace_request() of the extension: docs/extension_protocol.md. */
struct pgmt_request_event {
	__u64 id;
	__u64 json; /* its address there */
	__u32 tgid;
	__u32 kind;   /* enum pgmt_request_kind */
	__u32 length; /* of the JSON */
	__u32 unused;
};

enum pgmt_request_kind {
	PGMT_REQUEST_BEGIN_WINDOW = 1,
	PGMT_REQUEST_END_WINDOW = 2,
	PGMT_REQUEST_CONTEXTS = 3,
	PGMT_REQUEST_CHECKPOINT = 4,
	PGMT_REQUEST_CHECK_ON_COPY = 5,
};

struct pgmt_dsm_event {
	struct pgmt_event_header header;
	__u64 size;    /* bytes */
	__u32 handle;  /* even: those inside main shared memory are not seen */
	__u32 request; /* pgmt_process.requests then, its lower half */
	__u64 query_id;
	__s32 stmt_location;
	__s32 stmt_len;
	__u64 stack[PGMT_STACK_FRAMES]; /* innermost first; 0: the end */
	char query[PGMT_QUERY_LEN];
};

/* What bpf/direct.bpf.c reads in one run. */
#define PGMT_DIRECT_PIECES 4096
#define PGMT_DIRECT_BYTES (1 << 20)
#define PGMT_DIRECT_LONGEST 4096 /* of one piece: a page */

struct pgmt_direct_piece {
	__u64 address;
	__u32 at; /* where its bytes belong */
	__u16 size;
	__u16 read; /* all of it */
};

#ifdef __cplusplus
#define PGMT_ASSERT_SIZE(type, bytes) static_assert(sizeof(type) == (bytes), #type)
#define PGMT_ASSERT_OFFSET(type, field, bytes)                                                     \
	static_assert(__builtin_offsetof(type, field) == (bytes), #field)
#else
#define PGMT_ASSERT_SIZE(type, bytes) _Static_assert(sizeof(type) == (bytes), #type)
#define PGMT_ASSERT_OFFSET(type, field, bytes)                                                     \
	_Static_assert(__builtin_offsetof(type, field) == (bytes), #field)
#endif

PGMT_ASSERT_SIZE(struct pgmt_root_state, 104);
PGMT_ASSERT_SIZE(struct pgmt_context_key, 16);
PGMT_ASSERT_SIZE(struct pgmt_context, 72);
PGMT_ASSERT_SIZE(struct pgmt_site, 24);
PGMT_ASSERT_SIZE(struct pgmt_name, 56);
PGMT_ASSERT_SIZE(struct pgmt_growth_key, 40);
PGMT_ASSERT_SIZE(struct pgmt_growth, 40);
PGMT_ASSERT_SIZE(struct pgmt_query, 8 + PGMT_QUERY_LEN);
PGMT_ASSERT_SIZE(struct pgmt_heap_key, 24);
PGMT_ASSERT_SIZE(struct pgmt_heap_chunk, 32);
PGMT_ASSERT_SIZE(struct pgmt_mapping, 40);
PGMT_ASSERT_SIZE(struct pgmt_stack, 8 * PGMT_STACK_FRAMES + 8);
PGMT_ASSERT_SIZE(struct pgmt_stack_place, 40);
PGMT_ASSERT_SIZE(struct pgmt_known_stack, 8 + 10 * PGMT_STACK_FRAMES);
PGMT_ASSERT_SIZE(struct pgmt_stack_copy, 120 + PGMT_STACK_BYTES);
PGMT_ASSERT_SIZE(struct pgmt_event_header, 24);
PGMT_ASSERT_SIZE(struct pgmt_request_event, 32);
PGMT_ASSERT_SIZE(struct pgmt_method_site, 32);
PGMT_ASSERT_SIZE(struct pgmt_passer, 24);
PGMT_ASSERT_SIZE(struct pgmt_call_key, 32);
PGMT_ASSERT_SIZE(struct pgmt_calls, 104);
PGMT_ASSERT_SIZE(struct pgmt_held, 32);
PGMT_ASSERT_SIZE(struct pgmt_life_key, 32);
PGMT_ASSERT_SIZE(struct pgmt_life, 32);
PGMT_ASSERT_SIZE(struct pgmt_chunk, 40);
PGMT_ASSERT_OFFSET(struct pgmt_process, requests, 64);
PGMT_ASSERT_OFFSET(struct pgmt_process, transaction_context, 128);
PGMT_ASSERT_SIZE(struct pgmt_growth_event, 64 + PGMT_QUERY_LEN);
PGMT_ASSERT_SIZE(struct pgmt_peak_event, 72 + PGMT_QUERY_LEN);
PGMT_ASSERT_SIZE(struct pgmt_direct_piece, 16);
PGMT_ASSERT_SIZE(struct pgmt_dsm_event, 56 + 8 * PGMT_STACK_FRAMES + PGMT_QUERY_LEN);

#endif /* PGMEMTRACE_ABI_H */
