// SPDX-License-Identifier: BSD-2-Clause
// alloc_reader.h - level alloc: who asked contexts for memory, as values.
//
// The kernel half counts in hashes (callers, lives, helds, chunks); this reads them, all processes
// at once, and drops what nobody needs any more.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include <sys/types.h>

#include <pgmemtrace/abi.h>

#include "attach/kernel_maps.h"
#include "snapshot/snapshot.h"

namespace pgmemtrace {

class AllocReader {
public:
  // Reads a context's name in a process.
  using NameAt = std::function<std::string(pid_t, std::uint64_t address)>;

  AllocReader(const KernelMaps &maps, NameAt name_at) : maps_(maps), name_at_(std::move(name_at)) {}

  // Reads what all processes asked for until now.
  void refresh();
  // Of one process, as of the last refresh().
  std::vector<AllocCalls> calls(pid_t pid);
  // Those of them whose chunks are still there.
  std::vector<AllocCalls> holders(pid_t pid);
  // Processes that asked for anything, as of the last refresh().
  std::vector<pid_t> processes() const;

  // Deletes what is of processes that do not live, and, where a map is nearly full, what went with
  // its context, or is oldest.
  void tidy(const std::function<bool(pid_t)> &alive);
  // The same of what went with its context or process alone: who asked stays.
  void tidy_chunks(const std::function<bool(pid_t)> &alive);
  // Deletes what the last refresh() read of one process that is gone.
  void forget(pid_t pid);

  std::size_t calls_used() const { return calls_used_; }
  std::size_t lives_used() const { return lives_used_; }
  std::size_t chunks_used() const { return chunks_used_; }

private:
  struct Live {
    std::uint64_t bytes = 0, chunks = 0;
  };
  struct Process {
    std::vector<std::pair<pgmt_call_key, pgmt_calls>> calls;
    std::vector<std::pair<pgmt_life_key, pgmt_life>> lives;
    std::unordered_map<std::uint64_t, pgmt_held> helds; // by context
  };

  const std::string &name(pid_t pid, std::uint64_t address);
  void drop(pid_t pid, const Process &process) const;

  const KernelMaps &maps_;
  NameAt name_at_;
  std::unordered_map<pid_t, Process> processes_;
  std::unordered_map<pid_t, std::unordered_map<std::uint64_t, std::string>> names_; // by address
  std::size_t calls_used_ = 0, lives_used_ = 0, chunks_used_ = 0;
};

} // namespace pgmemtrace
