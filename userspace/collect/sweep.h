// SPDX-License-Identifier: BSD-2-Clause
// sweep.h - one process's context tree, read from outside.
//
// Header pass: links, allocated bytes and the head block's free tail of every context; the
// addresses of the last sweep are re-read in calls of 128 contexts each and re-walked only where
// links changed.  Exact pass: blocks and free lists too, for the contexts that ask for it.
// A tree that changes while it is read is noticed (child->parent, block->aset,
// total == mem_allocated + K) and read again; what stays inconsistent makes the snapshot
// incomplete, never wrong.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "attach/direct_map.h"
#include "attach/servers.h"
#include "snapshot/snapshot.h"
#include "util/foreign_memory.h"
#include "util/result.h"

namespace pgmemtrace {

enum class Pass {
  header,  // what every interval does
  changed, // exact for the contexts that changed since this Sweeper last saw them
  exact,   // exact for all: baseline, suspects, `contexts`
};

struct SweepLimits {
  std::size_t contexts = 65536; // per process
  std::size_t depth = 16384;    // each savepoint of a transaction is a level
  std::size_t blocks = 1 << 20; // per process and pass
  std::size_t free_chunks = 4 << 20;
  int retries = 3;
};

struct SweepStats {
  std::uint64_t sweeps = 0, contexts = 0, blocks = 0, chunks = 0;
  std::uint64_t read_errors = 0, retries = 0, incomplete = 0;

  SweepStats &operator+=(const SweepStats &other);
};

// Remembers what it saw last, one per process.  The Layout (that of the process's Binary) must
// outlive it.
class Sweeper {
public:
  // Through `direct` where it is not null, which is cheaper.
  explicit Sweeper(const ServerProcess &process, SweepLimits limits = {},
                   std::shared_ptr<DirectMap> direct = nullptr);
  // For tests and fuzzing: memory that is not a process.
  Sweeper(const Layout &layout, std::uint64_t top_memory_context_variable,
          std::unique_ptr<ForeignMemory> memory, SweepLimits limits = {});
  Sweeper(Sweeper &&) noexcept;
  Sweeper &operator=(Sweeper &&) noexcept;
  ~Sweeper();

  // The context tree only: contexts, complete, incomplete_reason.  Error: the process is
  // gone (ESRCH), not readable (EPERM), or has no TopMemoryContext.
  struct Tree {
    std::vector<Context> contexts;
    bool complete = true;
    std::string incomplete_reason;
  };
  Result<Tree> sweep(Pass pass);

  const SweepStats &stats() const;

private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

} // namespace pgmemtrace
