// SPDX-License-Identifier: BSD-2-Clause
// stack_copies.h - stacks that the kernel half could not walk: from a copy to a stack like any
// other.
//
// Each copy carries the growth that it belongs to.  It is unwound, and counted in the same maps in
// which the kernel half counts, under hashes of its own (PGMT_HASH_UNWOUND): whoever reads growth
// need not know where a stack came from.  At level malloc the kernel half has counted already,
// under a number: id_of_call() says which stack that is.  The kernel half is told what became of a
// stack, and copies it no more: one of frame pointers that is right is marked so, of others it
// learns where their return addresses lie.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <sys/types.h>

#include <pgmemtrace/abi.h>

#include "attach/kernel_maps.h"
#include "symbols/symbolizer.h"
#include "util/result.h"

struct ring_buffer;

namespace pgmemtrace {

class StackCopies {
public:
  // Of a process that is not known yet: its start is 0.
  using TargetOf = std::function<Symbolizer::Target(pid_t)>;

  // Both must outlive it.
  static Result<std::unique_ptr<StackCopies>> create(const KernelMaps &maps, Symbolizer &symbols,
                                                     TargetOf target_of);
  ~StackCopies();

  // Takes all copies that wait, and not what comes meanwhile: processes may be quicker than we are.
  // Never blocks.  Before growths are read, and after sums of level malloc.
  void drain();
  int poll_fd() const; // readable when copies wait

  // What KernelMaps::stack() is asked for instead of `id`: that itself, unless it is a call's
  // number.
  std::uint64_t id_of_call(pid_t pid, std::uint64_t id) const;
  // Calls of a process that is gone.
  void forget(pid_t pid);

  // What could not be told of copies, by reason.
  std::map<std::string, std::uint64_t> losses() const;

private:
  struct FreeRing {
    void operator()(ring_buffer *ring) const;
  };

  StackCopies(const KernelMaps &maps, Symbolizer &symbols, TargetOf target_of)
      : maps_(maps), symbols_(symbols), target_of_(std::move(target_of))
  {
  }
  static int on_copy(void *self, void *copy, std::size_t size);
  void take(const pgmt_stack_copy &copy);
  bool prove(const pgmt_stack_key &key, const Symbolizer::Target &target, pgmt_stack &walked);
  UnwoundStack unwind(const pgmt_stack_copy &copy, const Symbolizer::Target &target);
  bool look_again(const Symbolizer::Target &target);
  pgmt_stack stack_of(const UnwoundStack &unwound);
  void make_known(const pgmt_stack_copy &copy, const UnwoundStack &unwound, std::uint64_t hash);
  void count(const pgmt_growth_key &key, const pgmt_growth &growth);

  const KernelMaps &maps_;
  Symbolizer &symbols_;
  TargetOf target_of_;
  std::unique_ptr<ring_buffer, FreeRing> ring_;
  std::size_t due_ = 0;                                            // copies, until drain() ends
  std::set<ProcessId> looked_again_;                               // since drain() began
  std::vector<pgmt_stack_place> known_;                            // that the kernel half was told
  std::map<std::pair<pid_t, std::uint64_t>, std::uint64_t> calls_; // number -> hash of the stack
  std::uint64_t truncated_ = 0, no_rules_ = 0, cut_ = 0, full_ = 0;
};

} // namespace pgmemtrace
