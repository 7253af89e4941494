// SPDX-License-Identifier: BSD-2-Clause
// kernel_maps.h - the maps that the BPF objects of all binaries share.
//
// One object is loaded per PostgreSQL binary, all of them write to the same maps.  The
// first one to load creates them; this class keeps them alive after it is gone, and maps
// the arrays into our memory, so that reading a process's slot costs no system call.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>

#include <sys/types.h>

#include <pgmemtrace/abi.h>

#include "util/result.h"

struct bpf_map;
struct pgmemtrace_bpf;

namespace pgmemtrace {

class KernelMaps {
public:
  struct Options {
    std::uint32_t processes = 1024;         // slots; 4.5 KiB of kernel memory each
    std::uint32_t contexts = 65536;         // grows on demand
    std::uint32_t ring_bytes = 1024 * 1024; // a power of two
    std::uint32_t growths = 65536;          // level block; grows on demand, as does stacks
    std::uint32_t stacks = 16384;           // 0.5 KiB each
    bool takes_stacks = true;               // level block: 2 KiB more for each slot
    std::uint32_t heap_chunks = 1;          // level malloc; grows on demand, as mappings
    std::uint32_t mappings = 1;
    // A power of two, of pages; 16 KiB for each stack that waits.  A new session of a server
    // without frame pointers sends 200 at once.
    std::uint32_t copies_bytes = 4 << 20;
    std::uint32_t calls = 131072; // level alloc; all of these grow on demand
    std::uint32_t lives = 262144;
    std::uint32_t chunks = 1048576;
  };

  explicit KernelMaps(Options options) : options_(options) { fds_.fill(-1); }
  ~KernelMaps();
  KernelMaps(const KernelMaps &) = delete;
  KernelMaps &operator=(const KernelMaps &) = delete;

  // Before load: sizes the maps of the first object, hands ours to the others.
  Result<> prepare(pgmemtrace_bpf &object);
  // After load: keeps the maps of the first object.
  Result<> adopt(pgmemtrace_bpf &object);
  bool created() const { return fds_.at(kProcesses) >= 0; }

  std::span<const pgmt_process> processes() const;
  std::uint64_t losses(pgmt_loss reason) const;
  // All of them by name, zeros too.
  struct Losses {
    std::map<std::string, std::uint64_t> unrecorded;
    std::map<std::string, std::uint64_t> unreadable; // memory of servers
  };
  Losses losses() const;
  // By the hash that growth or a heap's sum has; without addresses if it was not captured or is
  // forgotten.
  pgmt_stack stack(pid_t pid, std::uint64_t hash) const;
  int events_fd() const { return fds_[kEvents]; }
  int contexts_fd() const { return fds_[kContexts]; }
  int names_fd() const { return fds_[kNames]; }
  int growths_fd() const { return fds_[kGrowths]; }
  int stacks_fd() const { return fds_[kStacks]; }
  int queries_fd() const { return fds_[kQueries]; }
  int heaps_fd() const { return fds_[kHeaps]; }
  int heap_chunks_fd() const { return fds_[kHeapChunks]; }
  int mappings_fd() const { return fds_[kMappings]; }
  int sums_fd() const { return fds_[kSums]; }
  int stack_copies_fd() const { return fds_[kStackCopies]; }
  int known_stacks_fd() const { return fds_[kKnownStacks]; }
  int callers_fd() const { return fds_[kCallers]; }
  int helds_fd() const { return fds_[kHelds]; }
  int lives_fd() const { return fds_[kLives]; }
  int chunks_fd() const { return fds_[kChunks]; }
  const Options &options() const { return options_; }

  // Gives a slot back: zeroed, at the end of the queue.  Only for processes that are gone or
  // were detached: a live one that is probed would go on writing to it.
  void release(std::uint32_t slot);
  // With Probes::Options::select_only: admits a process, and, `with_children`, those that it
  // forks from now on, at once.  (Where the kernel does not tell who forked whom, children are
  // refused until they are selected themselves.)
  Result<> select(pid_t pid, bool with_children);
  void deselect(pid_t pid);
  // Level malloc: counts a process from now on.
  Result<> count_heap(pid_t pid);

private:
  enum Map {
    kProcesses,
    kFreeSlots,
    kContexts,
    kEvents,
    kSelection,
    kEpoch,
    kLosses,
    kTasks,
    kNames,
    kGrowths,
    kStacks,
    kQueries,
    kHeaps,
    kHeapChunks,
    kMappings,
    kSums,
    kCallers,
    kHelds,
    kLives,
    kChunks,
    kStackCopies,
    kKnownStacks,
    kPieces,
    kMaps
  };
  static std::array<bpf_map *, kMaps> maps_of(pgmemtrace_bpf &object);

  Options options_;
  std::array<int, kMaps> fds_;
  pgmt_process *processes_ = nullptr;
  std::uint64_t *epoch_ = nullptr;
  const std::uint64_t *losses_ = nullptr;
};

} // namespace pgmemtrace
