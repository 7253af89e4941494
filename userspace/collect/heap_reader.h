// SPDX-License-Identifier: BSD-2-Clause
// heap_reader.h - level malloc: what processes hold of their C library's heap, by call stack.
//
// The kernel half counts in hashes (heaps, sums, chunks); this reads them, all processes at once.
// Whose library asked is told by the stack, so by who has symbols: a function.
#pragma once

#include <cstdint>
#include <functional>
#include <set>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include <sys/types.h>

#include <pgmemtrace/abi.h>

#include "attach/kernel_maps.h"
#include "collect/growth_reader.h"

namespace pgmemtrace {

class HeapReader final : public GrowthReader {
public:
  // What a sum is counted under -> the hash of its stack: StackCopies::id_of_call().
  using StackOf = std::function<std::uint64_t(pid_t, std::uint64_t)>;
  // Name of what asked for memory by a stack of a process: "libxml2.so.2".
  using AskerOf = std::function<std::string(pid_t, std::uint64_t stack)>;

  HeapReader(const KernelMaps &maps, StackOf stack_of, AskerOf asker_of)
      : maps_(maps), stack_of_(std::move(stack_of)), asker_of_(std::move(asker_of))
  {
  }

  void read() override;
  std::vector<pid_t> processes() const override;
  std::vector<BlockGrowth> growth(pid_t pid) override;
  std::vector<NameTotals> names(pid_t pid) override;
  void forget(pid_t pid) override;
  std::uint64_t unmatched() const override;

private:
  struct Sum {
    pgmt_heap_key key;
    pgmt_heap_sum sum;
  };

  void drop_chunks();

  const KernelMaps &maps_;
  StackOf stack_of_;
  AskerOf asker_of_;
  std::unordered_map<pid_t, std::vector<Sum>> sums_;
  std::unordered_map<pid_t, std::uint64_t> unmatched_; // of processes that are counted
  std::uint64_t unmatched_gone_ = 0;                   // of those that are not any more
  std::set<std::uint64_t> gone_;                       // whose chunks are still in the map
};

} // namespace pgmemtrace
