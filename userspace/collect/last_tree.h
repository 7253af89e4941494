// SPDX-License-Identifier: BSD-2-Clause
// last_tree.h - what a sweeper remembers of its process: every context, as last seen.
//
// As long as no link changes, a sweep is reread(): headers, and the head blocks where they
// were last time, in few calls and in place.  Anything else is a walk, whose result adopt()
// takes over, with what is known of the contexts that are still the same.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "collect/context_header.h"
#include "collect/exact.h"
#include "collect/tree_walk.h"
#include "util/foreign_memory.h"
#include "util/result.h"

namespace pgmemtrace {

// One context.
struct Record {
  TreeNode node;
  std::uint64_t head_tail = 0; // the last that was read
  bool ident_known = false;
  std::optional<std::string> ident;
  const std::string *name = nullptr; // the sweeper's; nullptr: to be looked up
  // The last exact count, and what of its free bytes was not the head block's tail.
  bool counted = false;
  ExactCounters counters;
  std::uint64_t counted_fingerprint = 0;
  std::uint64_t rest_free = 0;
  std::vector<std::uint64_t> places; // see ExactJob

  const ContextHeader &header() const { return node.header; }
  // Takes over what a new read of the same context says.
  void update(const ContextHeader &now);
  void set_counted(const ExactCounters &now);
  bool changed_since_counted() const;
};

bool same_context(const ContextHeader &left, const ContextHeader &right);

class LastTree {
public:
  using Index = std::vector<std::pair<std::uint64_t, std::uint32_t>>;

  std::vector<Record> &records() { return records_; } // in the tree's order
  const std::vector<Record> &records() const { return records_; }
  const Index &by_address() const { return by_address_; } // -> index in records()
  std::uint32_t index_of(std::uint64_t address) const;    // of a context that is known

  // True: the tree is the same and whole, records() are up to date.  False: it has to be
  // walked; `known` has the headers that were there.
  Result<bool> reread(const HeaderDecoder &decoder, ForeignMemory &memory, KnownHeaders &known);
  void adopt(const std::vector<TreeNode> &nodes, bool whole);

private:
  // What reread() reads of a context.
  struct Place {
    std::uint64_t address = 0;
    std::uint32_t slot = 0; // of the context, in its batch
    bool head = false;      // its head block, not its header
  };
  struct Reread;

  void plan(const HeaderDecoder &decoder);
  Result<> reread_batch(Reread &run, std::size_t number);

  std::vector<Record> records_;
  bool whole_ = false; // nothing was cut off or could not be read
  Index by_address_;
  std::vector<Place> places_;             // batch after batch, ascending in each
  std::vector<std::uint32_t> batch_ends_; // in places_
};

} // namespace pgmemtrace
