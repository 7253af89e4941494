// SPDX-License-Identifier: BSD-2-Clause
// module_cache.h - the executables and libraries of processes, opened once for all of them.
//
// A module is a file (device, inode, size, time), not a path: containers and upgrades give one
// path to many files.  Bounded by number and by memory; what was used longest ago goes first.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "attach/proc.h"
#include "attach/rooted_file.h"
#include "symbols/module.h"
#include "symbols/process_maps.h"

namespace pgmemtrace {

class ModuleCache {
public:
  struct Limits {
    std::size_t modules = 256;
    std::size_t bytes = 64 << 20; // of Module::memory_bytes(); what was used last may go beyond
  };

  ModuleCache(Proc proc, Limits limits, DebugFilePlaces places);

  struct Opened {
    Proc::File file; // to find it again; all zero for the vdso
    std::shared_ptr<Module> module;
  };

  // The file behind a region of a process.  nullopt if it cannot be had: the process is gone, the
  // file is no ELF, or what is at its path now has another build-id (or, without one, inode).
  std::optional<Opened> of_process(pid_t pid, const ProcessMaps &maps,
                                   const ProcessMaps::Region &region);

  // The file at this path of the host, if it has this build-id; without one nothing is certain.
  std::optional<Opened> of_recording(const CodeAddress &code);

  // What was opened before; null if it had to go.
  std::shared_ptr<Module> again(const Proc::File &file);

  std::size_t size() const { return cached_.size(); }

private:
  struct Cached {
    std::shared_ptr<Module> module; // null: it was looked at, and cannot be used
    std::string build_id;
    std::uint64_t used = 0;
  };

  std::optional<Opened> open(const RootedFile &file, const CodeAddress &code,
                             const std::string &root);
  Cached read(const RootedFile &file, const CodeAddress &code, const std::string &root) const;
  std::optional<Opened> vdso(const std::string &build_id);
  std::optional<Opened> use(const Proc::File &file, Cached &cached, const std::string &build_id);
  void keep_limits();

  Proc proc_;
  Limits limits_;
  DebugFilePlaces places_;
  std::map<Proc::File, Cached> cached_;
  std::uint64_t uses_ = 0;
};

} // namespace pgmemtrace
