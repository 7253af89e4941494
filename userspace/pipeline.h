// SPDX-License-Identifier: BSD-2-Clause
// pipeline.h - the stages, in the order of the data: attach, collect, snapshot, rules, sinks.
//
// step() is the whole program; read it first.  One thread, one loop: the only lock is in the
// Prometheus sink, whose scrapes come from another thread.
#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "attach/attachments.h"
#include "attach/calibrate.h"
#include "attach/direct_map.h"
#include "attach/kernel_maps.h"
#include "attach/servers.h"
#include "close_looks.h"
#include "collect/alloc_reader.h"
#include "collect/block_reader.h"
#include "collect/dsm_watch.h"
#include "collect/kernel_reader.h"
#include "collect/process_reader.h"
#include "collect/sweep.h"
#include "collect/sweep_schedule.h"
#include "escalation.h"
#include "extension/extension.h"
#include "rules/rule_set.h"
#include "sinks/sink.h"
#include "snapshot/snapshot.h"
#include "stack_copies.h"
#include "symbols/symbolizer.h"
#include "util/poll_set.h"
#include "util/result.h"

namespace pgmemtrace {

class Pipeline {
public:
  struct Options {
    Attachments::Options attachments;
    KernelMaps::Options maps;
    SweepSchedule::Options schedule;
    SweepLimits sweep_limits;
    bool direct_reads = true; // where this machine can: attach/direct_map.h
    Calibration calibration;
    Escalation::Options escalation;
    std::shared_ptr<Extension> extension;    // null: servers are not asked whether they have it
    std::function<void(const Error &)> warn; // what does not end the run
  };

  // Attaches to everything that `servers` found and takes the baseline with the first step().
  // Error: no probe could be attached at all, and the level asks for one.
  static Result<std::unique_ptr<Pipeline>> create(ServerList servers, RuleSet rules,
                                                  std::vector<std::unique_ptr<Sink>> sinks,
                                                  Options options);
  ~Pipeline();

  void step();

  // How long to wait before the next step() unless poll_fd() becomes readable.
  std::chrono::milliseconds idle_time() const;
  int poll_fd() const { return events_.fd(); }
  static bool over() { return false; } // it never ends by itself

private:
  using Time = std::chrono::steady_clock::time_point;
  using Duration = std::chrono::steady_clock::duration;

  struct Watched {
    const Binary *binary;
    pid_t postmaster;
    Sweeper sweeper;
    ProcessReader reader;
    std::shared_ptr<const ProcessSnapshot> last;
    Time exact_after{};           // the next exact pass
    Duration header_cost{};       // CPU time of the last pass that was none
    std::uint64_t boundaries = 0; // how many it had passed when we last looked
    std::uint64_t grew_ns = 0;    // pgmt_process.event_ns then
    // When the governor last looked; nothing while it never did.
    struct Measured {
      KernelReader::Totals totals;
      std::uint64_t cpu_ticks = 0;
    };
    std::optional<Measured> measured;
  };

  Pipeline(ServerList servers, RuleSet rules, std::vector<std::unique_ptr<Sink>> sinks,
           Options options);

  void follow_servers(Time now);
  void apply(const ServerList::Changes &changes, Time now);
  void notice_activity(Time now);
  bool probed(const Watched &watched) const;
  Probes *probes_of(const ProcessId &id) const;
  void sweep_due(Time now);
  // nullopt: as deep as is due.  False: it could not be read.
  bool sweep(const ServerProcess &process, Watched &watched, Time now,
             std::optional<Pass> pass = std::nullopt);
  void look_closely(Time now);
  void read_counts(Time now);
  void serve_extension(Time now);
  Extension::View look(const ProcessId &id, Time now);
  void note_dsm_made();
  void look_at_dsm(Time now);
  std::uint64_t requests_of(pid_t pid) const;
  void escalate(std::span<const Violation> changes, Time now);
  void govern(Time now);
  Governor::Period measure(const ServerProcess &process, Watched &watched) const;
  pid_t server_of(const pgmt_process &process) const;
  Snapshot assemble() const;
  Health health() const;
  void write(const Snapshot &snapshot, std::span<const Violation> changes);

  Options options_;
  ServerList servers_;
  KernelMaps maps_;
  Attachments attachments_;
  std::shared_ptr<DirectMap> direct_;    // null where only process_vm_readv serves
  std::unique_ptr<KernelReader> reader_; // null at level sweep
  BlockReader blocks_;
  AllocReader allocs_;
  DsmWatch dsm_;
  Symbolizer symbols_;
  std::unique_ptr<StackCopies> copies_; // null at level sweep
  Escalation escalation_;
  CloseLooks close_looks_;
  SweepSchedule schedule_;
  RuleSet rules_;
  std::vector<std::unique_ptr<Sink>> sinks_;
  std::shared_ptr<Extension> extension_;
  PollSet events_; // what has to wake us

  std::map<ProcessId, Watched> watched_;
  SweepStats sweep_stats_; // of processes that are gone
  double sweep_seconds_ = 0;
  std::map<pid_t, Governor::Period> periods_; // by postmaster, the last one
  Time followed_{}, follow_after_{}, governed_{}, written_{}, tidied_{}, read_counts_after_{},
      looked_at_dsm_{};
  std::uint64_t counted_hits_ = 0; // when counts were last read
  bool newcomers_ = false;         // the kernel half saw processes that we do not know yet
  bool changed_ = false;           // anything that sinks show, since the last write
  bool news_ = true;     // swept, looked at DSM, or somebody went, since the rules last looked
  bool working_ = false; // some process was, when we last looked
};

} // namespace pgmemtrace
