// SPDX-License-Identifier: BSD-2-Clause
// rule_set.h - all rules over all processes, and what was raised before.
//
//   snapshots --> histories --> rules --> fold --> filter --> raised, updated, cleared
//
// Owns the histories, of processes and of servers' dynamic shared memory; those of what vanishes
// go, and their violations with them.
#pragma once

#include <map>
#include <memory>
#include <vector>

#include "rules/options.h"
#include "rules/rules.h"
#include "snapshot/dsm_history.h"
#include "snapshot/history.h"

namespace pgmemtrace {

class RuleSet final {
public:
  // Options that check() refuses are not an error here: an unknown name names no rule.
  explicit RuleSet(RuleOptions options = {}, HistoryLimits history_limits = {});

  // Everything that is new in `snapshot`: processes that were seen before at the same time
  // are skipped, processes that are not in it have ended.  Returns what changed.
  std::vector<Violation> apply(const Snapshot &snapshot);

  // The same for one process, where the caller has no whole snapshot.
  std::vector<Violation> apply(const ProcessSnapshot &process);
  std::vector<Violation> forget(const ProcessId &process, Clock::time_point time);

  // All that hold now, by process, rule and path.
  std::vector<Violation> active() const;

  const ProcessHistory *history(const ProcessId &process) const;

private:
  using Active = std::map<ViolationKey, Violation>;
  struct Watched {
    explicit Watched(const HistoryLimits &limits) : history(limits) {}
    ProcessHistory history;
    Active active;
  };

  struct WatchedServer {
    DsmHistory dsm;
    Active active;
  };

  void apply(const DsmSnapshot &dsm, std::vector<Violation> &changes);
  std::vector<Finding> find(const Watched &watched) const;
  bool wanted(const Violation &violation) const;

  RuleOptions options_;
  HistoryLimits history_limits_;
  std::vector<std::unique_ptr<Rule>> rules_;
  std::unique_ptr<ServerRule> dsm_leak_;
  std::map<ProcessId, Watched> processes_;
  std::map<ProcessId, WatchedServer> servers_; // by postmaster
};

} // namespace pgmemtrace
