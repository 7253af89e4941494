// SPDX-License-Identifier: BSD-2-Clause
// metrics.h - snapshots as metric families: what /metrics shows, without the server for it.
//
// Holds what must outlive a snapshot: counters, which never go back although processes and
// servers vanish, and which names have a series of their own.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <span>
#include <string>
#include <tuple>
#include <vector>

#include <prometheus/metric_family.h>

#include "rules/violation.h"
#include "sinks/series.h"
#include "sinks/top_k.h"
#include "snapshot/snapshot.h"

namespace pgmemtrace {

struct MetricsOptions {
  std::size_t top_contexts = 50; // per instance; the rest is context="other"
  std::size_t top_databases = 20;
  std::size_t top_backend_types = 30; // core has 15; extensions name their workers freely
  std::size_t max_series = 10'000;
  std::string version = "unknown";
  std::string commit = "unknown";
  std::vector<std::string>
      rules; // exported at 0 before they fire, so that increase() sees the first
};

// Keeps the sum of a counter whose source may start again from zero or disappear.
class MonotoneCounters {
public:
  void observe(const std::string &label, double value);
  const std::map<std::string, double> &totals() const { return totals_; }

private:
  std::map<std::string, double> last_;
  std::map<std::string, double> totals_;
};

class Metrics {
public:
  explicit Metrics(MetricsOptions options);

  // One call per snapshot.
  std::vector<prometheus::MetricFamily> render(const Snapshot &snapshot,
                                               std::span<const Violation> changes,
                                               std::span<const Violation> active);

private:
  struct Names {
    TopK contexts;
    TopK databases;
    TopK backend_types;
  };
  using ViolationLabels = std::tuple<std::string, std::string, std::string>;

  void update_names(const Snapshot &snapshot, std::span<const Violation> active);
  std::string backend_type_label(const ProcessIdentity &process) const;
  void count_violations(const Snapshot &snapshot, std::span<const Violation> changes);
  void observe_hits(const Snapshot &snapshot);
  void observe_health(const Health &health);

  void add_tool(const Snapshot &snapshot, SeriesSet &out) const;
  void add_health(const Health &health, SeriesSet &out) const;
  void add_servers(const Snapshot &snapshot, SeriesSet &out) const;
  void add_dsm(const Snapshot &snapshot, SeriesSet &out) const;
  void add_violations(std::span<const Violation> active, SeriesSet &out) const;
  void add_processes(const Snapshot &snapshot, SeriesSet &out) const;
  void add_databases(const Snapshot &snapshot, SeriesSet &out) const;
  void add_contexts(const Snapshot &snapshot, SeriesSet &out) const;

  MetricsOptions options_;
  std::map<std::string, Names> names_; // by instance
  std::map<ViolationLabels, std::uint64_t> raised_;
  std::set<std::string> counted_instances_;
  std::map<std::string, MonotoneCounters> probe_hits_; // by instance, of those that are there
  MonotoneCounters run_seconds_;
  MonotoneCounters events_lost_;
  MonotoneCounters read_errors_;
  MonotoneCounters rounds_; // "sweeps", "incomplete"
  double series_dropped_ = 0;
};

} // namespace pgmemtrace
