// SPDX-License-Identifier: BSD-2-Clause
// block_reader.h - level block: what contexts gained, by call stack, as values.
//
// The kernel half counts in hashes (growths, stacks, names); this reads them, all processes at
// once, and drops what nobody needs any more.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include <sys/types.h>

#include <pgmemtrace/abi.h>

#include "attach/kernel_maps.h"
#include "collect/growth_reader.h"
#include "snapshot/snapshot.h"

namespace pgmemtrace {

class BlockReader final : public GrowthReader {
public:
  // Reads a context's name in a process.
  using NameAt = std::function<std::string(pid_t, std::uint64_t address)>;

  BlockReader(const KernelMaps &maps, NameAt name_at) : maps_(maps), name_at_(std::move(name_at)) {}

  // Reads what all processes gained until now.
  void refresh();
  void refresh_names(); // for names()
  void read() override  // both
  {
    refresh();
    refresh_names();
  }
  // Of one process, since it was first watched at this level, as of the last refresh().
  std::vector<BlockGrowth> growth(pid_t pid) override;
  // When recording, of one process, as of the last refresh_names().
  std::vector<NameTotals> names(pid_t pid) override;
  // Processes that have any, as of the last refresh_names().
  std::vector<pid_t> processes() const override;

  // Deletes what the last refresh() and refresh_names() read of one process that is gone.
  void forget(pid_t pid) override;
  // Deletes what is of processes that do not live, stacks that nothing refers to, and, where the
  // map of growths is nearly full, what is oldest in it.
  void tidy(const std::function<bool(pid_t)> &alive);

  std::size_t growths_used() const { return growths_used_; }
  std::size_t stacks_used() const { return stacks_used_; }

private:
  struct Grown {
    pgmt_growth_key key;
    pgmt_growth growth;
  };

  const std::string &name(pid_t pid, std::uint64_t address);

  const KernelMaps &maps_;
  NameAt name_at_;
  std::unordered_map<pid_t, std::vector<Grown>> grown_;
  std::unordered_map<pid_t, std::vector<std::pair<std::uint64_t, pgmt_name>>> totals_; // by address
  std::unordered_map<pid_t, std::unordered_map<std::uint64_t, std::string>> names_;    // by address
  std::size_t growths_used_ = 0;
  std::size_t stacks_used_ = 0;
};

} // namespace pgmemtrace
