// SPDX-License-Identifier: BSD-2-Clause
// dsm_reader.h - the dynamic shared memory of one server, read from outside.
//
// The control segment (PostgreSQL storage/ipc/dsm.c) has every segment of the server; it lies in
// the postmaster's memory, under a mapping that bears its handle.  Each process's own list says
// which of them it has, and whether it pinned its mapping.  Nothing is locked: the control
// segment is read before and after the lists, and what changed meanwhile says so.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <unordered_map>
#include <vector>

#include "attach/dsm_variables.h"
#include "attach/layout.h"
#include "attach/proc.h"
#include "snapshot/dsm.h"
#include "util/foreign_memory.h"
#include "util/result.h"

namespace pgmemtrace {

struct DsmLimits {
  std::uint32_t items = 65536;        // of the control segment
  std::size_t mappings = 1024;        // of a process
  std::uint64_t search = 64ULL << 20; // bytes of areas looked through for the registry, per look
  std::uint32_t searches = 4;         // for one segment: its name comes with it, or never
};

class DsmReader {
public:
  struct Process {
    ProcessIdentity identity;
    std::uint64_t requests = 0; // 0: not counted
  };
  using Memory = std::function<std::unique_ptr<ForeignMemory>(pid_t)>;

  // All processes of a server are loaded where its postmaster is.
  DsmReader(ProcessIdentity postmaster, Layout layout, DsmVariables variables,
            std::uint64_t load_bias, Proc proc, Memory memory, DsmLimits limits = {});

  // `processes`: of this server; `everybody`: all of them.  Error: the server is gone, has no
  // control segment yet, or what should be one is none.
  Result<DsmSnapshot> read(std::span<const Process> processes, bool everybody);

private:
  struct Item {
    std::uint32_t handle = 0, refcnt = 0;
    bool pinned = false;
    std::uint64_t npages = 0;
    bool operator==(const Item &) const = default;
  };
  struct Control {
    std::vector<Item> items; // active ones
    bool complete = true;
  };
  struct Place { // of a segment in a process that has it
    pid_t pid;
    std::uint64_t address;
  };

  Result<> find_control(ForeignMemory &postmaster);
  Result<Control> read_control(ForeignMemory &postmaster);
  void read_mappings(const Process &process, DsmSnapshot &snapshot);
  bool read_list(ForeignMemory &memory, std::uint64_t first, std::uint64_t session,
                 const DsmMapping &mapping, DsmSnapshot &snapshot);
  void look_inside(DsmSnapshot &snapshot);
  void look_for_names(DsmSnapshot &snapshot);
  DsmSegment *find(DsmSnapshot &snapshot, std::uint32_t handle) const;

  ProcessIdentity postmaster_;
  Layout layout_;
  DsmVariables variables_;
  std::uint64_t load_bias_;
  Proc proc_;
  Memory memory_;
  DsmLimits limits_;
  std::uint32_t control_handle_ = 0;
  std::uint64_t control_ = 0, control_end_ = 0; // addresses in the postmaster
  // Of the running read(), by handle: where in the snapshot a segment is, and who has it.
  std::unordered_map<std::uint32_t, std::size_t> numbers_;
  std::map<std::uint32_t, Place> places_;
  struct Known { // while somebody had it: a segment of System V is no file
    std::uint64_t bytes;
    bool area;
  };
  std::map<std::uint32_t, Known> known_;            // by handle
  std::set<std::uint32_t> registered_;              // found once: the registry forgets nothing
  std::map<std::uint32_t, std::uint32_t> searches_; // by handle, of those without a name
};

} // namespace pgmemtrace
