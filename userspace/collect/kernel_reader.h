// SPDX-License-Identifier: BSD-2-Clause
// kernel_reader.h - what the kernel half saw, as values.
//
// Slots are read in place (KernelMaps); the ring buffer brings what is rare.  Events are
// gathered per process until its next snapshot takes them.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include <sys/types.h>

#include <pgmemtrace/abi.h>

#include "attach/kernel_maps.h"
#include "snapshot/dsm.h"
#include "snapshot/snapshot.h"
#include "util/result.h"

struct ring_buffer;

namespace pgmemtrace {

// The part of a query string that is one statement: PlannedStmt.stmt_location and stmt_len
// (PostgreSQL nodes/plannodes.h: -1 or 0 and 0 mean "all of it").
std::string statement_text(std::string_view query, std::int32_t location, std::int32_t length);

class KernelReader {
public:
  // `name_at` reads a context's name in a process: its page may not be mapped yet when the
  // kernel half looks, so names travel as addresses.
  using NameAt = std::function<std::string(pid_t, std::uint64_t address)>;

  // The postmaster of a process that has a slot, and may be gone; 0: no server that is known.
  using ServerOf = std::function<pid_t(const pgmt_process &process)>;

  static Result<std::unique_ptr<KernelReader>> create(KernelMaps &maps, NameAt name_at,
                                                      ServerOf server_of);
  ~KernelReader();

  int poll_fd() const; // readable when events wait
  // Takes all waiting events; never blocks.  Frees the slots of processes that ended: many live
  // too briefly for anybody else to know them.
  void drain();
  // Finds slots whose first event was lost, those of processes that ended without a word, and
  // entries of the contexts map that nobody needs any more.  About once per interval, and soon
  // when it is `untidy()`: slots or events were lost since the last time.
  void tidy();
  bool untidy() const;

  // The slot of a process, nullptr if it never hit a probe.
  const pgmt_process *slot(pid_t pid) const;
  // What its long-lived contexts gained since its last snapshot, as far as events told.
  std::uint64_t growth_bytes(pid_t pid) const;
  // Everything since the last call for this process.  `current_since`: CLOCK_MONOTONIC time since
  // when statements are probed without a gap; what the slot says of a request that began
  // before is stale.  The text of the statement that runs is ProcessReader's to read.
  Activity take_activity(pid_t pid, std::uint64_t current_since);
  // The process is gone: its slot is free again.
  void forget(pid_t pid);

  // Processes that had their first hit since the last call.
  std::vector<pid_t> take_new_processes();

  // A segment of dynamic shared memory that was made.
  struct DsmMade {
    pid_t pid = 0;
    pid_t postmaster = 0; // 0: of no server that is known
    std::uint32_t handle = 0;
    DsmOrigin origin; // but for the process's start
  };
  // Since the last call; what nobody takes is forgotten at some time.
  std::vector<DsmMade> take_dsm_made();

  struct Totals {
    std::uint64_t hits[PGMT_PROBES] = {};
    double run_seconds[PGMT_PROBES] = {}; // programs, from sampled runs
    double walk_seconds = 0;

    Totals &operator+=(const Totals &other);
  };
  // Of one process; walk time is in `walk_seconds` only.
  static Totals totals(const pgmt_process &process);
  // Over all processes, those that are gone included: by postmaster, 0 for whose is not known.
  std::map<pid_t, Totals> totals() const;
  // Of one probe, ever; only good to see whether there were more.
  std::uint64_t hits(pgmt_probe probe) const;
  // A server is gone, and with it what its processes did.
  void forget_server(pid_t postmaster) { retired_.erase(postmaster); }

  std::size_t slots_used() const { return slots_.size(); }
  std::size_t contexts_used() const { return contexts_used_; }

private:
  struct Pending {
    std::vector<QueryGrowth> growth;
    std::optional<StatementPeak> peak;
  };

  KernelReader(KernelMaps &maps, NameAt name_at, ServerOf server_of)
      : maps_(maps), name_at_(std::move(name_at)), server_of_(std::move(server_of))
  {
  }
  static int on_event(void *self, void *event, std::size_t size);
  void take(const pgmt_event_header &event, std::size_t size);
  void take_growth(const pgmt_growth_event &event);
  void take_peak(const pgmt_peak_event &event);
  void take_dsm(const pgmt_dsm_event &event);
  void know_slot(pid_t pid, std::uint32_t slot);
  void bury_the_exiting();
  std::uint64_t losses_of_slots() const;
  void release(std::uint32_t slot);

  struct FreeRing {
    void operator()(ring_buffer *ring) const;
  };

  KernelMaps &maps_;
  NameAt name_at_;
  ServerOf server_of_;
  std::unique_ptr<ring_buffer, FreeRing> ring_;
  std::unordered_map<pid_t, std::uint32_t> slots_;
  std::unordered_map<pid_t, Pending> pending_;
  std::vector<pid_t> new_processes_;
  std::vector<DsmMade> dsm_made_;
  std::vector<pid_t> exiting_;      // said so, and may not be gone yet
  std::uint64_t losses_seen_ = 0;   // losses_of_slots() at the last tidy()
  std::map<pid_t, Totals> retired_; // of processes that are gone, by postmaster
  std::size_t contexts_used_ = 0;
};

} // namespace pgmemtrace
