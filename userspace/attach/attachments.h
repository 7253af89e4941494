// SPDX-License-Identifier: BSD-2-Clause
// attachments.h - probes on every binary that is in use, and their level.
//
// One Probes and one Governor per executable file: servers that run it share its breakpoints, so
// that the dearest one decides for all.  A file may be several binaries: containers of one image
// each see it under numbers of their own, while a breakpoint is in all of them.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "attach/kernel_maps.h"
#include "attach/probes.h"
#include "attach/servers.h"
#include "governor.h"
#include "snapshot/snapshot.h"
#include "util/result.h"

namespace pgmemtrace {

class Attachments {
public:
  // Level malloc: each process has links of its own.
  static constexpr std::size_t kMaxHeaps = 128;

  struct Options {
    Level level = Level::statement;
    Selection selection;
    bool record_all = false; // these three: see Probes::Options; at level alloc its record_calls
    bool by_query = false;
    bool heap = false; // of every process that is found, up to kMaxHeaps at a time
    bool uprobe_multi = true;
    std::string postgres_btf;
    std::string online_cpus = kOnlineCpus;
    Governor::Options governor; // `wanted` is taken from `level`
  };

  struct Attachment {
    Probes probes;
    Governor governor;
    std::set<const Binary *> binaries; // that are this file
  };

  Attachments(KernelMaps &maps, Options options);

  // To begin with: follow() for everybody.  Error: of the level that was asked for nothing could
  // be attached; what went wrong beside that goes to `warn`.
  Result<> start(const ServerList &servers, const std::function<void(const Error &)> &warn);

  // Follows the servers: attaches to binaries that came, lets go of those that nobody runs any
  // more, selects processes, puts the xact probe on those that never settle, samples on the CPUs
  // that are online.  Each error is
  // returned once; a binary that cannot be probed is watched by the sweep alone.
  std::vector<Error> follow(const ServerList &servers, const ServerList::Changes &changes);

  // nullptr: this binary is watched by the sweep alone.
  Attachment *find(const Binary *binary) const;
  const std::vector<std::unique_ptr<Attachment>> &all() const { return attached_; }
  // Level malloc, of a server's processes; empty: nothing is attached there.
  std::span<const HeapLibrary> heap_libraries(pid_t postmaster) const;

private:
  Result<> attach(const Binary &binary, const ServerList &servers);
  Result<Attachment *> attached_by_another_name(const Binary &binary) const;
  std::optional<Error> coverage(const Binary &binary) const;
  Result<> select(pid_t pid, const ServerList &servers);
  static Result<> introduce(const ServerList &servers, const Binary &binary, Probes &probes);
  std::vector<Error> follow_heaps(const ServerList &servers);
  Result<> attach_heap(const ServerProcess &process, const ServerList &servers);

  KernelMaps &maps_;
  Options options_;
  std::vector<std::unique_ptr<Attachment>> attached_;
  std::set<const Binary *> refused_;
  std::set<pid_t> selected_;
  std::uint32_t next_binary_ = 1;
  // Processes of a server are forks: its libraries are theirs.
  std::map<pid_t, std::vector<HeapLibrary>> heap_libraries_; // by postmaster
  std::set<pid_t> heaps_;                                    // attached, or refused
  bool too_many_heaps_ = false;                              // was said
};

// Runs transactions without ever reaching ReadyForQuery in between: its boundary is their end.
bool never_settles(const std::string &backend_type);

} // namespace pgmemtrace
