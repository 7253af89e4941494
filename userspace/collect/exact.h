// SPDX-License-Identifier: BSD-2-Clause
// exact.h - the four counters of a context, as PostgreSQL's own *Stats functions count them.
//
// All blocks and free lists of many contexts are followed at once (see page_cache.h).  What
// is read from a running process may be torn: sums must add up to mem_allocated + K, free
// chunks must lie in the context's own blocks, and together they must fit in.  A context for
// which that does not hold is reported as torn, for the caller to try again.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "attach/layout.h"
#include "collect/page_cache.h"
#include "snapshot/snapshot.h"
#include "util/result.h"

namespace pgmemtrace {

struct ExactCounters {
  std::uint64_t total_bytes = 0, total_nblocks = 0, free_bytes = 0, free_chunks = 0;
};

// What one call may read; counted down.
struct ExactBudget {
  std::size_t blocks = 0, free_chunks = 0;
};

enum class ExactState {
  pending,
  done,
  torn,        // what was read contradicts itself
  over_budget, // more blocks or free chunks than the budget had left
};

struct ExactJob {
  std::uint64_t context = 0; // its address
  ContextType type = ContextType::unknown;
  ExactState state = ExactState::pending;
  ExactCounters counters; // valid when done
  // Where its blocks and the first free chunks were last time: read at once rather than one
  // after the other.  A guess; the walk does not rely on it, and puts down where they are now.
  std::vector<std::uint64_t> *places = nullptr;
};

// Reads all pending jobs.  An Error only if nothing can be read any more: ESRCH, EPERM.
Result<> read_exact(const Layout &layout, PageCache &cache, std::span<ExactJob> jobs,
                    ExactBudget &budget);

} // namespace pgmemtrace
