/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * ranges.h - the memory that a context has handed out, of each type.
 *
 * Apart from faults.h: what this is made of is declared in bpf/layouts, under the names that
 * PostgreSQL's own headers use.
 */
#ifndef PGMT_RANGES_H
#define PGMT_RANGES_H

typedef enum { PGMT_ALLOC_SET, PGMT_GENERATION, PGMT_SLAB, PGMT_BUMP } PgmtContextType;

/* Chunks and their headers, from `start` to `end`; what a block keeps for itself is not in it. */
typedef void (*PgmtRange)(char *start, char *end, void *state);

extern void pgmt_used_ranges(void *context, PgmtContextType type, PgmtRange visit, void *state);

/* What stands before a chunk, and before the first chunk of a block. */
extern unsigned long pgmt_chunk_header(PgmtContextType type);
extern unsigned long pgmt_block_header(PgmtContextType type);

#endif /* PGMT_RANGES_H */
