// SPDX-License-Identifier: BSD-2-Clause
// layout.h - where one PostgreSQL major keeps the fields that we read.
//
// The source is the BTF blob compiled from bpf/layouts/pgNN.h (or --postgres-btf FILE): the
// kernel half is relocated against the same blob, so that both halves agree.  What BTF
// cannot say (node tags, values of enums) is data in layout.cpp, from facts/enums.csv.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "snapshot/snapshot.h"
#include "util/result.h"

namespace pgmemtrace {

// Offsets in bytes; kAbsent where this major has no such field.
inline constexpr std::uint32_t kAbsent = ~0u;

struct Layout {
  int major = 0;

  // MemoryContextData
  struct {
    std::uint32_t size, type, mem_allocated, methods, parent, firstchild, prevchild, nextchild,
        name, ident;
  } context{};
  // AllocSetContext; `freelists`: number of elements of `freelist`
  struct {
    std::uint32_t size, blocks, freelist, freelists, keeper, freelist_index;
  } aset{};
  // AllocBlockData
  struct {
    std::uint32_t size, aset, prev, next, freeptr, endptr;
  } aset_block{};
  // From 16: where in a chunk's header its size begins (PostgreSQL memutils_memorychunk.h); 0: none
  std::uint32_t chunk_value_shift = 0;
  std::uint32_t aset_chunk_header = 0; // bytes before a chunk's payload: 16 up to 15, 8 from 16
  // Where a free chunk keeps the next one, from its payload, modulo 2^32: -8 up to 15, 0 from 16.
  // What it points to is a chunk with its header, in every major.
  std::uint32_t aset_chunk_link = 0;
  struct {
    std::uint32_t size, blocks, keeper, freeblock;
  } generation{};
  struct {
    std::uint32_t size, node, blksize, nchunks, nfree, freeptr, endptr, context;
  } generation_block{};
  std::uint32_t generation_chunk_header = 0; // as aset_chunk_header: 24 up to 15, 8 from 16
  // The three sizes are 8 bytes wide up to 16 and 4 from 17: read 4, no slab is larger.
  // `freelist` up to 15; `emptyblocks`, `emptyblocks_count` and `blocklist` from 16, the
  // latter with `blocklists` elements.
  struct {
    std::uint32_t size, chunk_size, full_chunk_size, block_size, header_size, chunks_per_block,
        nblocks, freelist, emptyblocks, emptyblocks_count, blocklist, blocklists;
    std::uint32_t is_chunk_free; // from 16 with MEMORY_CONTEXT_CHECKING, else kAbsent
  } slab{};
  struct {
    std::uint32_t size, node, nfree, slab; // `slab`: from 16
  } slab_block{};
  // Bump: from 17, else all kAbsent
  struct {
    std::uint32_t size, blocks;
  } bump{};
  struct {
    std::uint32_t size, node, freeptr, endptr;
  } bump_block{};
  struct {
    std::uint32_t database_name, user_name;
  } port{};
  // QueryDesc, and PlannedStmt: `query_id` is 8 bytes wide, the other two 4 and signed
  struct {
    std::uint32_t planned_stmt, source_text;
  } query_desc{};
  struct {
    std::uint32_t query_id, location, length;
  } planned_stmt{};
  // The catalog caches: `lists` up to 16.2; `nlist`, `nlbuckets` and `lbucket` from 16.3
  struct {
    std::uint32_t size, caches, ntup;
  } catcache_header{};
  struct {
    std::uint32_t size, id, nbuckets, bucket, lists, ntup, relname, reloid, indexoid, next, nlist,
        nlbuckets, lbucket;
  } catcache{};
  // `tuple_length`: t_len of the tuple that it holds
  struct {
    std::uint32_t size, magic, hash_value, cache_elem, dead, negative, tuple_length, my_cache;
  } catctup{};
  struct {
    std::uint32_t size, magic, hash_value, cache_elem, n_members, my_cache;
  } catclist{};
  // CachedPlanSource
  struct {
    std::uint32_t size, magic, gplan, is_saved, is_valid, node;
  } plan_source{};
  // HTAB and its HASHHDR; `entries`: nentries of the first free list, 8 bytes wide and signed
  struct {
    std::uint32_t size, header, name, entries;
  } hash_table{};
  // Dynamic shared memory.  PGShmemHeader: `control` is a handle; Session: `segment`, a
  // dsm_segment.
  struct {
    std::uint32_t size, magic, control;
  } shared_memory{};
  struct {
    std::uint32_t segment;
  } session{};
  struct {
    std::uint32_t size, node, resowner, handle, mapped_address, mapped_size;
  } dsm_segment{};
  struct {
    std::uint32_t magic, nitems, maxitems, items;
  } dsm_control{};
  // `npages` from 14: of a segment that is a part of main shared memory
  struct {
    std::uint32_t size, handle, refcnt, npages, pinned;
  } dsm_item{};
  // BackgroundWorker: `type` is an array of `type_size` characters
  struct {
    std::uint32_t type, type_size;
  } bgworker{};

  struct {
    std::uint32_t aset, generation, slab, bump;
  } tag{};                                // NodeTag values; 0 where absent
  std::vector<std::string> backend_types; // by value of MyBackendType, pg_stat_activity's words

  ContextType type_of_tag(std::uint32_t tag) const;
};

// The blob of a major; empty if this build carries none.  `checking`: of a server built with
// MEMORY_CONTEXT_CHECKING, as --enable-cassert does: chunks carry the size that was asked for.
std::span<const std::byte> layout_btf(int major, bool checking = false);
std::vector<int> supported_majors();

// `btf`: a raw BTF blob.  Fails if a struct or field that we need is missing.
Result<Layout> parse_layout(int major, std::span<const std::byte> btf);
// The built-in layout of a major, or that of `btf_file` when it is not empty.
Result<Layout> load_layout(int major, bool checking = false, const std::string &btf_file = {});

} // namespace pgmemtrace
