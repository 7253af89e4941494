// SPDX-License-Identifier: BSD-2-Clause
// history.h - how one process's contexts developed, in bounded space.
//
// Contexts with the same path of names form a group (idents are left out: below level
// block nobody sees a deletion, and addresses are recycled).  A context that bears its
// parent's name joins the parent's group, so that a chain of savepoints is one group.
// Per group a series of points is kept; when a series is full every second older point
// goes, so that it stays log-spaced: dense now, sparse long ago.  Equal neighbours are
// folded.
//
//   process --+-- "TopMemoryContext"                      [t,count,kept,used,total] ...
//             +-- "TopMemoryContext/CacheMemoryContext"   [t,count,kept,used,total] ...
//             +-- (outside the contexts)                  [t,private,contexts]  ...
//
// It does not judge: that is what rules/ does.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "snapshot/snapshot.h"

namespace pgmemtrace {

// What a context ends with at the latest, told by where it hangs.
enum class Scope : std::uint8_t {
  session,     // nothing but the process's end: TopMemoryContext, CacheMemoryContext, ...
  transaction, // TopTransactionContext and what core keeps there
  portal,      // PortalContext, PortalHoldContext
  statement,   // below a portal, MessageContext or an SPI call
};

// A moment on the axes that growth is measured on.
struct HistoryTime {
  double seconds = 0;           // since the first snapshot
  float active = 0;             // of these, while the process was seen to do something
  std::uint32_t statements = 0; // since the first snapshot; stays 0 at level sweep
};

struct HistoryPoint {
  HistoryTime time;
  std::uint32_t count = 0; // contexts in the group
  std::uint32_t kept = 0;  // of these, how many the snapshot before had too
  std::uint64_t used = 0;
  std::uint64_t total = 0;
};

// What one caller's chunks hold in a context: `count` is theirs, `used` and `total` their bytes.
struct CallerSeries {
  std::uint64_t caller = 0; // AllocCalls::caller
  std::vector<HistoryPoint> points;
};

struct ContextGroup {
  std::string name;
  std::int32_t parent = -1; // index of a group; -1: the root
  Scope scope = Scope::session;
  std::uint32_t absent = 0;  // snapshots in a row that did not have it
  std::uint64_t largest = 0; // total_bytes of its largest context now
  std::string ident;         // of one of its newest contexts, shortened; may be empty
  // Level block: the stacks that added most bytes to its contexts, and made most contexts of its
  // name; 0: not known.
  std::uint64_t grown_by = 0;
  std::uint64_t made_by = 0;
  // Level alloc: who holds most of it, in the order of their addresses.
  std::vector<CallerSeries> callers;
  std::vector<HistoryPoint> points; // never empty
};

// Memory that no context accounts for.
struct OutsidePoint {
  HistoryTime time;
  std::uint64_t private_bytes = 0;
  std::uint64_t context_bytes = 0;
  // The most that the contexts have held until then: malloc may keep what they gave back.
  std::uint64_t context_high = 0;
};

// The largest that the contexts below statements were, by name of the largest of them.
struct StatementHigh {
  std::string context;
  std::string path;                // empty if only the kernel half saw it
  std::uint64_t context_bytes = 0; // that context
  std::uint64_t bytes = 0;         // all contexts of the statement
  std::string query;
  std::uint64_t query_id = 0;
  HistoryTime seen;              // last time it was near that size
  std::uint64_t occurrences = 0; // snapshots and statements
};

struct HistoryLimits {
  std::size_t points = 40;               // per series
  std::size_t groups = 512;              // more fold into their parent's group
  std::size_t queries = 8;               // growing queries remembered
  std::size_t highs = 8;                 // statement highs remembered
  std::size_t callers = 16;              // per group, those that hold most
  std::uint64_t high_bytes = 8ULL << 20; // a statement's context below that is no high
};

class ProcessHistory final {
public:
  static constexpr std::size_t kNone = std::numeric_limits<std::size_t>::max();

  explicit ProcessHistory(HistoryLimits limits = {}) : limits_(limits) {}

  // Snapshots of one process, in the order of their time; an older one is ignored.
  void push(const ProcessSnapshot &snapshot);

  // What the newest snapshot said.
  const ProcessIdentity &process() const { return process_; }
  Clock::time_point taken_at() const { return taken_at_; }
  std::uint64_t work_mem_bytes() const { return work_mem_bytes_; }
  bool jit_loaded() const { return jit_loaded_; }
  bool in_statement() const { return in_statement_; }
  const std::string &current_query() const { return current_query_; }
  std::uint64_t current_query_id() const { return current_query_id_; }

  std::uint64_t snapshots() const { return snapshots_; }
  HistoryTime now() const { return now_; }
  std::span<const ContextGroup> groups() const { return groups_; }
  std::span<const OutsidePoint> outside() const { return outside_; }
  std::span<const QueryGrowth> queries() const { return queries_; } // largest first
  std::span<const StatementHigh> highs() const { return highs_; }

  std::string path(std::size_t group) const;     // "TopMemoryContext/CacheMemoryContext"
  std::size_t find(std::string_view path) const; // kNone if there is no such group
  // Is `group` below `ancestor`?  Not if they are the same.
  bool is_below(std::size_t group, std::size_t ancestor) const;

private:
  struct Seen {
    std::uint64_t address;
    std::uint32_t group;
  };
  struct Sum {
    std::uint32_t count = 0;
    std::uint32_t kept = 0;
    std::uint64_t used = 0;
    std::uint64_t total = 0;
    std::uint64_t largest = 0;
    const Context *newest = nullptr; // one that was not there before
  };

  void advance_time(const ProcessSnapshot &snapshot);
  std::vector<Sum> sum_by_group(const ProcessSnapshot &snapshot);
  std::uint32_t group_of(const Context &context, std::int32_t parent_group);
  std::uint32_t add_group(std::string_view name, std::int32_t parent);
  void add_points(const ProcessSnapshot &snapshot, const std::vector<Sum> &sums);
  void add_outside(const ProcessSnapshot &snapshot);
  void note_stacks(std::span<const BlockGrowth> growth);
  void note_callers(std::span<const AllocCalls> calls);
  void merge_queries(const Activity &activity);
  void note_statement(const ProcessSnapshot &snapshot);
  void note_high(StatementHigh high);
  void drop_stale_groups();

  HistoryLimits limits_;
  ProcessIdentity process_;
  Clock::time_point taken_at_;
  std::chrono::steady_clock::time_point moment_;
  HistoryTime now_;
  HistoryTime before_; // `now_` of the snapshot before
  std::uint64_t snapshots_ = 0;
  std::uint64_t first_statements_ = 0;
  std::uint64_t last_events_ = 0; // requests + statements + transactions
  std::uint64_t last_cpu_ticks_ = 0;
  std::uint64_t work_mem_bytes_ = 0;
  std::uint64_t context_high_ = 0;
  bool jit_loaded_ = false;
  bool in_statement_ = false;
  std::string current_query_;
  std::uint64_t current_query_id_ = 0;
  std::vector<ContextGroup> groups_; // parents before children
  std::vector<Seen> seen_;           // the newest snapshot's contexts, by address
  std::vector<OutsidePoint> outside_;
  std::vector<QueryGrowth> queries_;
  std::vector<StatementHigh> highs_;
};

} // namespace pgmemtrace
