// SPDX-License-Identifier: BSD-2-Clause
// process_reader.h - the rest of a process's snapshot that is read from outside.
//
// Private memory, CPU time, work_mem, JIT, the statement that runs, and who it is where that was
// not known yet.  Cheap: two small files of /proc and one read of its memory each time; its
// mappings, which cost more the more it has, only when private memory has grown enough for JIT to
// have come.
#pragma once

#include <cstdint>
#include <optional>

#include <pgmemtrace/abi.h>

#include "attach/proc.h"
#include "attach/servers.h"
#include "snapshot/snapshot.h"
#include "util/foreign_memory.h"

namespace pgmemtrace {

// Remembers what it saw last, one per process.  The process's Binary must outlive it.
class ProcessReader {
public:
  ProcessReader(const ServerProcess &process, Proc proc);

  // Fills in everything but the contexts, the time and the activity.  `probed_pages`: text
  // pages of this process with a probe of ours; the kernel gives it a private copy of each.
  // What cannot be read stays as it is: the process may be gone.
  void read(ProcessSnapshot &snapshot, std::uint64_t probed_pages = 0);

  // The statement that runs: as `slot` has it, if activity.in_statement says so; else what the
  // process itself had in hand at the last read(): the client's whole query string.  Nothing is
  // filled in if it ended while we read: what its pointers led to may be garbage then.
  void read_statement(const pgmt_process *slot, Activity &activity);

private:
  void read_top_level(const pgmt_process &slot, Activity &activity);
  void read_query_string(Activity &activity);
  void read_globals(ProcessSnapshot &snapshot);
  void read_port();
  void complete_identity(ProcessIdentity &identity) const;
  void look_for_jit(std::uint64_t private_bytes);

  ProcessIdentity identity_;
  const Binary *binary_;
  std::uint64_t load_bias_;
  Proc proc_;
  ForeignMemory memory_;
  bool jit_loaded_ = false;
  bool looked_for_jit_ = false;
  std::uint64_t private_bytes_then_ = 0; // when its mappings were last looked at
  std::uint64_t query_string_ = 0;       // debug_query_string: NULL between a client's messages
};

// The same for callers that look once.
void read_process(const ServerProcess &process, const Proc &proc, ProcessSnapshot &snapshot,
                  std::uint64_t probed_pages = 0);

} // namespace pgmemtrace
