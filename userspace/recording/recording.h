// SPDX-License-Identifier: BSD-2-Clause
// recording.h - what was recorded: a plain value, the same on any machine.
//
// Who grew what, by which call stack.  Processes have contexts by name, contexts have allocations,
// allocations name a stack, stacks name frames; all by index, so that each is kept once.  The file
// that it becomes: docs/recording.md.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "symbols/frame.h"

namespace pgmemtrace {

struct Recording {
  // What one caller asked of contexts of one name, in calls and bytes.
  struct Requests {
    std::uint64_t allocs = 0, reallocs = 0, frees = 0, resets = 0, deletes = 0;
    std::uint64_t asked = 0; // by allocs and reallocs, as they were called
    std::uint64_t live = 0;  // bytes of its chunks that are still there, where that is known
  };

  // What one call stack gave to contexts of one name.
  struct Allocation {
    std::optional<std::uint32_t> stack; // index; nothing: it was not captured
    std::optional<std::uint32_t> query; // index; nothing: no statement ran, or it is not known
    std::uint64_t bytes = 0;
    std::uint64_t blocks = 0;
    // Of the bytes, those that made the contexts (level malloc: the process) larger than before.
    std::uint64_t raised = 0;
    std::optional<std::uint64_t> returned; // of the bytes, where that is known: level malloc
    // Level alloc, where `bytes` are those of chunks and `blocks` are requests.
    std::optional<Requests> requests;
  };

  // All contexts of one name in one process, since the recording began.  At level malloc: what one
  // library asked for, or kContextBlocks.
  struct Context {
    std::string name;           // empty: it could not be read
    std::uint64_t made = 0;     // contexts, with fresh memory
    std::uint64_t grown = 0;    // bytes from malloc
    std::uint64_t returned = 0; // bytes; beyond `grown` if there was something before
    std::uint64_t peak = 0;     // the most that was grown and not returned
    std::vector<Allocation> allocations;
  };

  struct Process {
    std::int64_t pid = 0;        // as the host sees it
    std::int64_t server_pid = 0; // as pg_stat_activity shows it; 0: unknown
    std::string instance, backend_type, database, user;
    bool exited = false; // before the recording ended: what was left then was left at its exit
    std::vector<Context> contexts;
  };

  // Statements that differ in literals alone.  Neither an id nor a text: all that were too many.
  struct Query {
    std::int64_t id = 0; // as pg_stat_statements shows it; 0: the server computed none
    std::uint64_t fingerprint = 0;
    std::string text; // without literals, and perhaps cut
  };

  struct Server {
    std::string instance, version;
  };

  // How much was held of what was grown, at one time, in processes that lived then.
  struct Sample {
    struct Held {
      std::uint32_t name = 0; // index in `names`
      std::int64_t bytes = 0; // grown less returned
      std::int64_t blocks = 0;
    };
    std::uint64_t ms = 0; // after the start
    std::vector<Held> contexts;
  };

  std::string program; // "0.1.0"
  std::string host;
  std::uint64_t started_ms = 0; // Unix time
  std::uint64_t duration_ms = 0;
  std::string level; // "block", "alloc", "malloc"
  bool by_query = false;
  std::map<std::string, std::uint64_t> losses;
  std::vector<Server> servers;
  std::vector<Process> processes;
  std::vector<Frame> frames;
  std::vector<std::vector<std::uint32_t>> stacks; // of frames, innermost first
  std::vector<std::string> names;                 // of the samples' contexts
  std::vector<Sample> samples;                    // by time
  std::vector<Query> queries;
};

// At level malloc: what memory contexts asked for, apart from all else.
inline constexpr const char *kContextBlocks = "(blocks of memory contexts)";
inline constexpr const char *kLevelMalloc = "malloc";

} // namespace pgmemtrace
