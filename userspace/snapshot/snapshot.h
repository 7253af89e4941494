// SPDX-License-Identifier: BSD-2-Clause
// snapshot.h - what was seen, as plain values.
//
// Everything downstream of the sweep (history, rules, sinks) works on these and on
// nothing else, so it is tested without root, kernel or server.
//
//   Snapshot
//     +- servers[]    one per postmaster: label, major, level, overhead
//     +- processes[]  one per server process: who it is, its context tree, its
//     |               private memory, what the kernel half saw it do
//     +- health       the tool about itself: losses, costs, map fill
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <sys/types.h>

namespace pgmemtrace {

using Clock = std::chrono::system_clock;

// ---- contexts ---------------------------------------------------------------

enum class ContextType : std::uint8_t { unknown, alloc_set, generation, slab, bump };

// "AllocSet", "Generation", "Slab", "Bump" (pg_backend_memory_contexts.type of PG 18),
// "???" if unknown.
std::string_view to_string(ContextType type);

// One MemoryContext.  Sizes are those of pg_backend_memory_contexts
// (PostgreSQL src/backend/utils/mmgr/*.c, the *Stats functions).
struct Context {
  std::uint64_t address = 0; // of its MemoryContextData in the process
  std::int32_t parent = -1;  // index in ProcessSnapshot::contexts; -1: the root
  std::int32_t level = 1;    // 1: TopMemoryContext, as PG 18 counts
  ContextType type = ContextType::unknown;
  bool exact = false;               // the four counters below come from the exact pass
  std::string name;                 // for "dynahash" contexts: the table's name, as PG shows it
  std::optional<std::string> ident; // may hold SQL text: never a metric label
  std::uint64_t total_bytes = 0;    // always exact: mem_allocated + K(type, major)
  // Exact pass: as the server's own view.  Header pass: the free tail of the head
  // block (AllocSet, Generation, Bump) corrected by what the last exact pass knew of
  // the rest, so that growth of used bytes shows at once.
  std::uint64_t free_bytes = 0;
  std::uint64_t total_nblocks = 0; // 0 until an exact pass saw it
  std::uint64_t free_chunks = 0;   // 0 until an exact pass saw it

  std::uint64_t used_bytes() const
  {
    return free_bytes < total_bytes ? total_bytes - free_bytes : 0;
  }
};

// ---- processes --------------------------------------------------------------

// A pid can be reused; (pid, start) cannot.
struct ProcessId {
  pid_t pid = 0;           // as the host sees it
  std::uint64_t start = 0; // field 22 of /proc/PID/stat, clock ticks after boot

  auto operator<=>(const ProcessId &) const = default;
};

// Who a process is.  Unknown strings are empty.
struct ProcessIdentity {
  ProcessId id;
  pid_t server_pid = 0;     // as pg_stat_activity shows it (its own pid namespace)
  pid_t postmaster = 0;     // as the host sees it
  std::string instance;     // label of its server
  int major = 0;            // 15
  std::string backend_type; // "client backend", "autovacuum worker": pg_stat_activity's words
  std::string database;
  std::string user;
};

enum class Phase : std::uint8_t { idle, plan, execute, utility };
std::string_view to_string(Phase phase);

// Growth of long-lived contexts that the kernel half saw across one request.
struct QueryGrowth {
  std::string query;          // first 1,024 bytes; empty if it was not captured
  std::uint64_t query_id = 0; // 0: compute_query_id is off
  Phase phase = Phase::idle;
  std::uint64_t bytes = 0;        // gained by TopMemoryContext + CacheMemoryContext
  std::uint64_t new_contexts = 0; // new direct children of these two
  std::uint64_t occurrences = 0;  // requests folded into this entry
};

// The largest state of one statement's tree that a walk at its end saw.
struct StatementPeak {
  std::string query;
  std::uint64_t query_id = 0;
  std::uint64_t bytes = 0;         // sum of total_bytes over all contexts, gained since its start
  std::uint64_t context_bytes = 0; // the largest single context of it ...
  std::string context;             // ... and its name
};

// What one call stack added to a context beyond its earlier peak (level block and above); when
// recording, all that it added to contexts of one name.
struct BlockGrowth {
  std::uint64_t context = 0; // address; 0: contexts of this name together ...
  bool made = false;         // ... that were made with fresh memory; else small ones that grew
  std::string name;
  std::uint64_t bytes = 0;  // since the process was first watched at this level
  std::uint64_t raised = 0; // of these, what made it larger than ever before
  std::uint64_t blocks = 0; // or contexts
  std::uint64_t stack = 0;  // tells the process's stacks apart; 0: it was not captured
  // When recording: key of the statement, see pgmt_query_key; and, where it is known by stack
  // (level malloc), what of the bytes was returned.
  std::uint64_t query = 0;
  std::optional<std::uint64_t> returned;
};

// What one caller asked of contexts of one name (level alloc), since the process was first watched
// at this level.
struct AllocCalls {
  std::string name;
  // Where the call returns to; tells the process's callers apart; 0: unknown.
  std::uint64_t caller = 0;
  std::uint64_t query = 0; // when recording by statement: key of its text; 0: none
  std::uint64_t allocs = 0, frees = 0, reallocs = 0, resets = 0, deletes = 0;
  std::uint64_t asked = 0;   // bytes, by allocs
  std::uint64_t reasked = 0; // ... and by reallocs: the new sizes
  std::uint64_t taken = 0;   // when recording: bytes of the chunks that came of it
  std::uint64_t raised = 0;  // of these, what was more than ever before
  // Of its chunks that are still there: in contexts that live as long as the process, or, when
  // recording, in every AllocSet.
  std::uint64_t live_bytes = 0, live_chunks = 0;
};

// What the kernel half counted for one process; all zero at level sweep.
struct Activity {
  std::uint64_t requests = 0;     // ReadyForQuery
  std::uint64_t statements = 0;   // top-level executor starts + utilities
  std::uint64_t transactions = 0; // only processes that never settle (walsender, workers)
  std::uint64_t hits = 0;         // probe hits, all kinds
  bool in_statement = false;
  std::chrono::nanoseconds busy{0}; // since the current request began; 0 if idle
  std::string current_query;        // while in_statement
  std::uint64_t current_query_id = 0;
  std::vector<QueryGrowth> growth;   // since the last snapshot of this process, largest first
  std::optional<StatementPeak> peak; // since the last snapshot of this process
};

struct ProcessSnapshot {
  ProcessIdentity process;
  Clock::time_point taken_at; // for people
  // The same on a clock that nobody sets and that stands still while the machine is suspended: what
  // differences are taken of.
  std::chrono::steady_clock::time_point moment;
  std::vector<Context>
      contexts;         // depth first, children in PG's list order; [0] is TopMemoryContext
  bool complete = true; // false: the tree could not be read whole, sums are a lower bound
  std::string incomplete_reason; // "tree larger than 65536 contexts"
  bool first = false;            // the baseline taken when the process was first seen
  std::uint64_t private_bytes =
      0; // RssAnon + VmSwap of /proc/PID/status, our own probed pages subtracted
  std::uint64_t cpu_ticks = 0; // utime + stime
  std::uint64_t work_mem_bytes =
      0;                   // work_mem x hash_mem_multiplier as the process has it now; 0: unknown
  bool jit_loaded = false; // llvmjit.so is mapped
  Activity activity;
  std::vector<BlockGrowth> block_growth; // in no order
  std::vector<AllocCalls> alloc_calls;   // in no order
};

// Sum of total_bytes over all contexts.
std::uint64_t total_bytes(const ProcessSnapshot &process);
std::uint64_t used_bytes(const ProcessSnapshot &process);

// "TopMemoryContext/CacheMemoryContext/index info": names only, no idents.
std::string path_of(const ProcessSnapshot &process, std::size_t context);

struct DsmSnapshot; // snapshot/dsm.h

// ---- servers, the tool itself -------------------------------------------------

enum class Level : std::uint8_t { sweep, request, statement, block, alloc };
std::string_view to_string(Level level);
std::optional<Level> level_from_string(std::string_view text);

struct ServerStatus {
  pid_t postmaster = 0;
  std::string instance;       // cluster_name, or "PORT:DATA_DIRECTORY"
  std::string data_directory; // as the server sees it
  std::string binary;         // path of the postgres executable
  std::string version;        // "15.20 (Debian 15.20-0+deb12u1)"
  int major = 0;
  int port = 0;
  Level level = Level::sweep;        // what is attached now
  Level wanted_level = Level::sweep; // what the user asked for
  double overhead_ratio = 0;         // estimated cost of our probes / the server's CPU time
  double cpu_seconds = 0;            // of the server's processes in the last governor period
  std::map<std::string, std::uint64_t> probe_hits; // by probe name, since the server was found
  std::shared_ptr<const DsmSnapshot> dsm;          // the latest; null: none could be taken
};

struct Health {
  std::map<std::string, std::uint64_t> stray_hits;      // by probe name: of no server that is known
  std::map<std::string, std::uint64_t> probes_attached; // by probe name: number of sites
  std::map<std::string, double> program_run_seconds;    // by probe name
  std::map<std::string, std::uint64_t> events_lost;     // by reason
  std::map<std::string, std::uint64_t> read_errors; // by site ("sweep", "boundary", "walk", "text")
  std::map<std::string, std::pair<std::uint64_t, std::uint64_t>> map_entries; // name -> {used, max}
  double overhead_budget_ratio = 0;                                           // 0: off
  bool direct_reads = false; // else by process_vm_readv alone
  double sweep_seconds = 0;  // CPU time of the last round of sweeps
  std::uint64_t sweeps = 0;  // processes swept so far
  std::uint64_t incomplete_snapshots = 0;
  double calibrated_hit_seconds = 0; // one empty emulated probe
};

struct Snapshot {
  Clock::time_point taken_at;
  std::vector<ServerStatus> servers;
  std::vector<std::shared_ptr<const ProcessSnapshot>> processes; // the latest of each, by pid
  Health health;
};

} // namespace pgmemtrace
