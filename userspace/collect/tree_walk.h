// SPDX-License-Identifier: BSD-2-Clause
// tree_walk.h - the context tree of a process: addresses, links, headers.
//
// Two ways to get there:
//   read_headers()  the addresses of last time in a few calls: whoever holds the tree of
//                   last time compares the links, and is done if they are the same.
//   walk_tree()     from the root, all open ends of the tree at once.  Contexts whose headers
//                   are known already cost no read.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "collect/context_header.h"
#include "collect/page_cache.h"
#include "util/foreign_memory.h"
#include "util/result.h"

namespace pgmemtrace {

struct TreeNode {
  ContextHeader header;
  std::int32_t parent = -1; // index; -1: the root
  std::int32_t level = 1;
};

struct WalkedTree {
  std::vector<TreeNode> nodes; // depth first, children in PostgreSQL's list order
  std::string torn;            // what contradicts itself: read again; empty if nothing does
  std::string cut;             // which bound was hit; reading again would not help
};

struct WalkLimits {
  std::size_t contexts = 0, depth = 0;
};

using KnownHeaders = std::unordered_map<std::uint64_t, ContextHeader>;

// Headers at `addresses` (ascending), in their order; type unknown where there is none.
Result<std::vector<ContextHeader>> read_headers(const HeaderDecoder &decoder, ForeignMemory &memory,
                                                std::span<const std::uint64_t> addresses);

// One of them: the whole image, or as much of it as a Slab has.
Result<ContextHeader> read_header(const HeaderDecoder &decoder, ForeignMemory &memory,
                                  std::uint64_t address);

// The head blocks of headers that have one outside of their image; sorts `open`.
Result<> read_heads(const HeaderDecoder &decoder, ForeignMemory &memory,
                    std::span<ContextHeader *> open);

Result<WalkedTree> walk_tree(const HeaderDecoder &decoder, PageCache &cache, std::uint64_t root,
                             KnownHeaders known, const WalkLimits &limits);

} // namespace pgmemtrace
