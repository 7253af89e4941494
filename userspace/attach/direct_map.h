// SPDX-License-Identifier: BSD-2-Clause
// direct_map.h - memory of other processes through the kernel's direct map: bpf/direct.bpf.c.
//
// A piece costs a fraction of what it costs process_vm_readv, a run more than a call of that.
// It takes a kernel of 6.4 or newer on x86-64 and the right to load BPF programs.  Whether it
// works is tried, on our own memory.  What a run does not bring (pages that are swapped out, on
// the move or not there at all) process_vm_readv is asked for: what it says stands.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include <sys/types.h>

#include "util/foreign_memory.h"
#include "util/result.h"

struct direct_bpf;

namespace pgmemtrace {

// One for all processes that are read, by one thread.
class DirectMap {
public:
  // Error: this machine, or this process, cannot.
  static Result<std::shared_ptr<DirectMap>> load();

  // Sets ok of each piece.
  void read(pid_t pid, std::span<ForeignMemory::Piece> pieces);

private:
  struct Destroy {
    void operator()(direct_bpf *object) const;
  };

  explicit DirectMap(std::unique_ptr<direct_bpf, Destroy> object);
  bool find();
  std::size_t cut(const ForeignMemory::Piece &piece) const;
  std::size_t stage(std::span<const ForeignMemory::Piece> pieces);
  bool run(pid_t pid);
  void deliver(std::span<ForeignMemory::Piece> pieces, bool ran);

  std::unique_ptr<direct_bpf, Destroy> object_;
  int program_ = -1;
};

class DirectMemory final : public ForeignMemory {
public:
  DirectMemory(pid_t pid, std::shared_ptr<DirectMap> map) : ForeignMemory(pid), map_(std::move(map))
  {
  }

  Result<> read(std::span<Piece> pieces) override;
  std::uint64_t gap() const override { return 0; }

private:
  std::shared_ptr<DirectMap> map_;
};

// By way of `map` unless that is null.
std::unique_ptr<ForeignMemory> foreign_memory(pid_t pid, std::shared_ptr<DirectMap> map);

} // namespace pgmemtrace
