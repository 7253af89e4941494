// SPDX-License-Identifier: BSD-2-Clause
// symbolizer.h - from an address of a process to the functions that it lies in.
//
//   process's address --ProcessMaps--> CodeAddress (to be recorded) --Module--> frames (to be
//   shown)
//
// Mappings are read once per process and again when an address is in none of them: extensions are
// loaded late.  A process that is gone is read as its postmaster: its processes are forks and share
// its mappings.  One thread at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include <pgmemtrace/abi.h>

#include "attach/proc.h"
#include "snapshot/snapshot.h"
#include "symbols/frame.h"
#include "symbols/module_cache.h"
#include "symbols/process_maps.h"
#include "symbols/unwinder.h"
#include "util/clock.h"

namespace pgmemtrace {

// Innermost first.
std::vector<std::uint64_t> addresses_of(const pgmt_stack &stack);

class Symbolizer {
public:
  struct Options {
    Proc proc = Proc();
    ModuleCache::Limits modules;
    DebugFilePlaces debug_files;
    std::size_t processes = 4096;                  // whose mappings are remembered
    std::uint64_t reread_after_ns = 1'000'000'000; // at the earliest, for the same process
    std::function<std::uint64_t()> clock = monotonic_ns;
  };
  struct Target {
    ProcessId process;
    ProcessId postmaster; // whose fork it is; pid 0: unknown
  };
  // Addresses above the first of a stack are those where calls return to.
  enum class Kind : std::uint8_t { instruction, return_address };

  explicit Symbolizer(Options options);

  // Reads the mappings now, to know them when the process is gone.
  void remember(const Target &target);
  // Reads them again, whenever that was last done.
  void reread(const Target &target);
  void forget(ProcessId process);

  CodeAddress locate(const Target &target, std::uint64_t address, Kind kind);

  // Innermost first; at least one.
  std::vector<Frame> frames(const Target &target, std::uint64_t address, Kind kind);
  // Of a recording, perhaps from another machine: by the file of the same build-id here.
  std::vector<Frame> frames(const CodeAddress &code, Kind kind);

  // Of a call stack, innermost first: `addresses` as the kernel half takes them.
  std::vector<Frame> frames(const Target &target, std::span<const std::uint64_t> addresses);

  // The same, and a last frame kTruncated where it may go on.
  std::vector<Frame> frames(const Target &target, const pgmt_stack &stack);

  // `stack`: a copy of the process's memory from registers.sp upward.
  UnwoundStack unwind(const Target &target, const StackRegisters &registers,
                      std::span<const std::byte> stack);

  // How far a stack is right that was walked by frame pointers.
  struct Proven {
    std::size_t addresses = 0; // so many of the first ones
    bool whole = false;        // they lead to main()
    bool mapped = true;        // false: there is no code at the last one

    // As far as there is room for addresses.
    bool right() const { return whole || addresses == PGMT_STACK_FRAMES; }
  };
  Proven prove(const Target &target, const pgmt_stack &stack);
  // Of addresses, innermost first; `at_entry`: see pgmt_stack.
  Proven prove(const Target &target, std::span<const std::uint64_t> addresses,
               bool at_entry = false);
  // Where in a stack main() is, behind which nothing is of interest.
  std::optional<std::size_t> depth_of_main(const Target &target,
                                           std::span<const std::uint64_t> addresses);

  std::size_t modules_open() const { return modules_.size(); }

private:
  // Shared by processes that are forks of one another.
  struct Layout {
    ProcessMaps maps;
    std::vector<std::optional<Proc::File>> files; // what each module's file turned out to be
  };
  struct Known {
    std::shared_ptr<Layout> layout; // null: it was gone already
    std::uint64_t read_at = 0, used = 0;
  };
  struct Place {
    std::shared_ptr<Layout> layout;
    const ProcessMaps::Region *region = nullptr; // null: no code there
  };

  static CodeAddress locate(const Place &place, std::uint64_t address, Kind kind);
  Place place(const Target &target, std::uint64_t address);
  Place place_in(ProcessId process, const std::shared_ptr<Layout> &relative, std::uint64_t address);
  void refresh(ProcessId process, Known &entry, const std::shared_ptr<Layout> &relative);
  std::shared_ptr<Layout> layout_of_postmaster(const Target &target);
  std::shared_ptr<Layout> read(ProcessId process, const std::shared_ptr<Layout> &relative) const;
  Known &known(ProcessId process, const std::shared_ptr<Layout> &relative);
  struct Linked {
    std::shared_ptr<Module> module; // null: no file that can be read
    std::uint64_t address = 0;      // link-time
  };
  std::optional<Linked> linked(const Target &target, std::uint64_t address);
  std::optional<Module::Link> link(const Target &target, std::span<const std::uint64_t> addresses,
                                   std::size_t i);
  std::shared_ptr<Module> module_at(const Target &target, const Place &place);

  Options options_;
  ModuleCache modules_;
  std::map<ProcessId, Known> processes_;
  std::uint64_t uses_ = 0;
};

} // namespace pgmemtrace
