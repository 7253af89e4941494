// SPDX-License-Identifier: BSD-2-Clause
// process_maps.h - where a process has code: a value that a recording can keep.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "attach/proc.h"
#include "symbols/frame.h"
#include "util/foreign_memory.h"

namespace pgmemtrace {

struct ProcessMaps {
  struct Module {
    std::string path;        // as the process sees it, or a name of frame.h
    std::string build_id;    // hex; empty: none, or it could not be read
    std::uint64_t inode = 0; // 0: no file
    std::uint64_t base = 0;  // where its first byte is mapped; 0: nowhere
    auto operator<=>(const Module &) const = default;
  };
  struct Region { // executable
    std::uint64_t start = 0, end = 0;
    std::uint64_t offset = 0; // in the module's file
    std::uint32_t module = 0; // index
    auto operator<=>(const Region &) const = default;
  };

  std::vector<Module> modules;
  std::vector<Region> regions; // by start, apart from one another

  const Region *region(std::uint64_t address) const; // null: no code there
  // Module kUnmapped where there is no code.
  CodeAddress locate(std::uint64_t address) const;

  bool operator==(const ProcessMaps &) const = default;
};

// Build-ids are read from the process's memory, where they are right even if the file was deleted
// or replaced.  They are taken from `known` for modules that it has at the same place, which spares
// a system call each: processes of one server are forks.
ProcessMaps read_process_maps(const std::vector<Proc::Mapping> &mappings, ForeignMemory &memory,
                              const ProcessMaps *known = nullptr);

} // namespace pgmemtrace
