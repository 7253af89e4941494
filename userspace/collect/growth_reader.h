// SPDX-License-Identifier: BSD-2-Clause
// growth_reader.h - what a level counts in BPF hashes for a recording, as values.
//
// By process, and within it by name: of contexts at level block, of libraries at level malloc.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <sys/types.h>

#include "snapshot/snapshot.h"

namespace pgmemtrace {

// What contexts of one name gained and returned, all together; or one library.
struct NameTotals {
  std::string name;
  std::uint64_t made = 0;     // contexts, with fresh memory
  std::uint64_t gained = 0;   // bytes
  std::uint64_t returned = 0; // bytes, at level block of what was there before as well
  std::uint64_t peak = 0;     // the most that was gained and not returned
  std::int64_t blocks = 0;    // gained less returned
};

class GrowthReader {
public:
  virtual ~GrowthReader() = default;

  // Reads what all processes gained until now; what follows is as of then.
  virtual void read() = 0;
  // Processes that have any.
  virtual std::vector<pid_t> processes() const = 0;
  virtual std::vector<BlockGrowth> growth(pid_t pid) = 0;
  virtual std::vector<NameTotals> names(pid_t pid) = 0;
  // Deletes what was read of one process that is gone.
  virtual void forget(pid_t pid) = 0;
  // What could not be counted, besides KernelMaps::losses().
  virtual std::uint64_t unmatched() const { return 0; }
};

} // namespace pgmemtrace
