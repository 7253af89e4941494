// SPDX-License-Identifier: BSD-2-Clause
// metric_families.cpp - the half of Metrics that writes: one function per group of families.
#include <algorithm>
#include <chrono>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "sinks/metric_labels.h"
#include "sinks/metrics.h"
#include "snapshot/dsm.h"

namespace pgmemtrace {
namespace {

using Merge = Family::Merge;

constexpr double kMiB = 1024.0 * 1024.0;

Family gauge(std::string_view name, std::string_view help,
             std::initializer_list<const char *> labels, Merge merge = Merge::sum)
{
  return {name, help, prometheus::MetricType::Gauge, labels, merge};
}

Family counter(std::string_view name, std::string_view help,
               std::initializer_list<const char *> labels)
{
  return {name, help, prometheus::MetricType::Counter, labels};
}

std::uint64_t outside_contexts(const ProcessSnapshot &process)
{
  const std::uint64_t inside = total_bytes(process);
  return process.private_bytes > inside ? process.private_bytes - inside : 0;
}

void add_all(Family &family, const std::map<std::string, double> &values)
{
  for (const auto &[label, value] : values)
    family.add({label}, value);
}

} // namespace

void Metrics::add_tool(const Snapshot &snapshot, SeriesSet &out) const
{
  Family build =
      gauge("build_info", "What this pgmemtrace is; always 1.", {"version", "commit"}, Merge::max);
  build.add({options_.version, options_.commit}, 1);
  out.add(std::move(build));

  Family taken = gauge("snapshot_timestamp_seconds",
                       "When the exported snapshot was taken; time() minus it is its age.", {});
  taken.add({}, std::chrono::duration<double>(snapshot.taken_at.time_since_epoch()).count());
  out.add(std::move(taken));
}

void Metrics::add_health(const Health &health, SeriesSet &out) const
{
  const auto add_labelled = [&](Family family, const std::map<std::string, double> &values) {
    add_all(family, values);
    out.add(std::move(family));
  };
  const auto add_single = [&](Family family, double value) {
    family.add({}, value);
    out.add(std::move(family));
  };
  add_labelled(
      counter("events_lost_total", "Events that the kernel half could not deliver.", {"reason"}),
      events_lost_.totals());
  add_labelled(counter("read_errors_total", "Reads of server memory that failed.", {"reason"}),
               read_errors_.totals());
  add_labelled(counter("program_run_seconds_total",
                       "Time spent in the probes' programs; the cost of the traps comes on top.",
                       {"probe"}),
               run_seconds_.totals());
  Family attached = gauge("probe_attached", "Sites that a probe is attached to.", {"probe"});
  for (const auto &[probe, sites] : health.probes_attached)
    attached.add({probe}, number(sites));
  out.add(std::move(attached));

  Family entries = gauge("map_entries", "Entries in use of a BPF map.", {"map"});
  Family max_entries = gauge("map_max_entries", "Entries that a BPF map can hold.", {"map"});
  for (const auto &[map, fill] : health.map_entries) {
    entries.add({map}, number(fill.first));
    max_entries.add({map}, number(fill.second));
  }
  out.add(std::move(entries));
  out.add(std::move(max_entries));

  add_single(gauge("overhead_budget_ratio",
                   "Share of a server's CPU time that the probes may cost; 0: no limit.", {}),
             health.overhead_budget_ratio);
  add_single(gauge("calibrated_hit_seconds", "Measured cost of one empty probe.", {}),
             health.calibrated_hit_seconds);
  add_single(gauge("sweep_duration_seconds", "CPU time of the last round of sweeps.", {}),
             health.sweep_seconds);
  add_single(gauge("direct_reads",
                   "1: sweeps read through the kernel's direct map of memory; 0: by "
                   "process_vm_readv, in three times the time.",
                   {}),
             health.direct_reads ? 1 : 0);
  add_single(counter("sweeps_total", "Processes whose contexts were read.", {}),
             rounds_.totals().at("sweeps"));
  add_single(counter("incomplete_snapshots_total",
                     "Sweeps that could not read a whole tree; its sums are a lower bound.", {}),
             rounds_.totals().at("incomplete"));
}

// Two servers may carry one cluster_name: then the worse of the two shows.
void Metrics::add_servers(const Snapshot &snapshot, SeriesSet &out) const
{
  Family about = gauge("instance_info", "What a server is; always 1.",
                       {"instance", "version", "major", "data_directory"}, Merge::max);
  Family level =
      gauge("level", "Level in force: 0 sweep, 1 request, 2 statement, 3 block, 4 alloc.",
            {"instance"}, Merge::min);
  Family wanted = gauge("wanted_level", "Level that was asked for, in the numbers of level.",
                        {"instance"}, Merge::max);
  Family overhead = gauge("estimated_overhead_ratio",
                          "Estimated cost of the probes, as a share of the server's CPU time.",
                          {"instance"}, Merge::max);
  for (const ServerStatus &server : snapshot.servers) {
    const std::string &instance = known(server.instance);
    about.add({instance, server.version, std::to_string(server.major), server.data_directory}, 1);
    level.add({instance}, static_cast<double>(server.level));
    wanted.add({instance}, static_cast<double>(server.wanted_level));
    overhead.add({instance}, server.overhead_ratio);
  }
  Family hits = counter("probe_hits_total", "Times a probe was hit.", {"instance", "probe"});
  for (const auto &[instance, by_probe] : probe_hits_)
    for (const auto &[probe, count] : by_probe.totals())
      hits.add({instance, probe}, count);
  out.add(std::move(about));
  out.add(std::move(hits));
  out.add(std::move(level));
  out.add(std::move(wanted));
  out.add(std::move(overhead));
}

void Metrics::add_dsm(const Snapshot &snapshot, SeriesSet &out) const
{
  Family segments =
      gauge("dsm_segments",
            "Segments of dynamic shared memory. kind: area (a piece of a shared area), "
            "pinned (stays without users), shared (goes with its last user).",
            {"instance", "kind"});
  Family bytes = gauge("dsm_bytes", "Their size, where it is known.", {"instance", "kind"});
  for (const ServerStatus &server : snapshot.servers) {
    if (!server.dsm)
      continue;
    const std::string &instance = known(server.instance);
    for (const char *kind : {"area", "pinned", "shared"}) {
      segments.add({instance, kind}, 0);
      bytes.add({instance, kind}, 0);
    }
    for (const DsmSegment &segment : server.dsm->segments) {
      const char *kind = segment.area ? "area" : segment.pinned ? "pinned" : "shared";
      segments.add({instance, kind}, 1);
      bytes.add({instance, kind}, number(segment.bytes));
    }
  }
  out.add(std::move(segments));
  out.add(std::move(bytes));
}

void Metrics::add_violations(std::span<const Violation> active, SeriesSet &out) const
{
  Family total =
      counter("violations_total", "Violations raised.", {"instance", "rule", "severity"});
  Family now =
      gauge("violations_active", "Violations that hold now.", {"instance", "rule", "severity"});
  for (const auto &[labels, count] : raised_) {
    const auto &[instance, rule, severity] = labels;
    total.add({instance, rule, severity}, number(count));
    if (names_.contains(instance))
      now.add({instance, rule, severity}, 0);
  }
  Family bloat = gauge("ctx_bloat_bytes", "Growth of the contexts that rule ctx_bloat reports now.",
                       {"instance", "context"});
  for (const Violation &violation : active) {
    const std::string &instance = known(violation.process.instance);
    now.add({instance, violation.rule, std::string(to_string(violation.severity))}, 1);
    if (violation.rule == "ctx_bloat")
      bloat.add({instance, names_.at(instance).contexts.label(violation.context)},
                static_cast<double>(std::max<std::int64_t>(violation.delta_bytes, 0)));
  }
  out.add(std::move(total));
  out.add(std::move(now));
  out.add(std::move(bloat));
}

void Metrics::add_processes(const Snapshot &snapshot, SeriesSet &out) const
{
  // 256 KiB (an idle auxiliary process) to 64 GiB.
  std::vector<double> bounds(19);
  std::ranges::generate(bounds, [bound = kMiB / 8]() mutable { return bound *= 2; });
  Family count = gauge("processes", "Server processes.", {"instance", "backend_type"});
  Family incomplete = gauge("incomplete_processes",
                            "Processes whose latest tree could not be read whole.", {"instance"});
  Family largest = gauge("backend_max_total_bytes", "Memory in contexts of the largest process.",
                         {"instance"}, Merge::max);
  Family private_memory =
      gauge("process_private_bytes", "Anonymous memory of the processes, resident or swapped out.",
            {"instance", "backend_type"});
  Family outside = gauge("unattributed_bytes",
                         "Anonymous memory beyond what the contexts hold: malloc, JIT, libraries.",
                         {"instance", "backend_type"});
  Distribution sizes("backend_total_bytes",
                     "Memory in contexts per process, over the processes that exist now: use the "
                     "buckets as they are, without rate().",
                     {"instance"}, std::move(bounds));
  for (const auto &process : snapshot.processes) {
    const std::string &instance = known(process->process.instance);
    const std::string type = backend_type_label(process->process);
    count.add({instance, type}, 1);
    incomplete.add({instance}, process->complete ? 0 : 1);
    largest.add({instance}, number(total_bytes(*process)));
    private_memory.add({instance, type}, number(process->private_bytes));
    outside.add({instance, type}, number(outside_contexts(*process)));
    sizes.add({instance}, number(total_bytes(*process)));
  }
  out.add(std::move(count));
  out.add(std::move(incomplete));
  out.add(std::move(largest));
  out.add(std::move(private_memory));
  out.add(std::move(outside));
  out.add(std::move(sizes));
}

void Metrics::add_databases(const Snapshot &snapshot, SeriesSet &out) const
{
  Family databases = gauge("database_total_bytes",
                           "Memory in contexts of the processes that are connected to a database.",
                           {"instance", "database"});
  for (const auto &process : snapshot.processes) {
    const std::string &instance = known(process->process.instance);
    const TopK &top = names_.at(instance).databases;
    databases.add({instance, top.label(database_of(process->process))},
                  number(total_bytes(*process)));
  }
  out.add(std::move(databases));
}

void Metrics::add_contexts(const Snapshot &snapshot, SeriesSet &out) const
{
  struct Sum {
    std::uint64_t total = 0;
    std::uint64_t used = 0;
    std::uint64_t count = 0;
  };
  // By name first: a server has tens of thousands of contexts and some hundred names.
  std::map<std::pair<std::string, std::string>, std::unordered_map<std::string_view, Sum>> sums;
  for (const auto &process : snapshot.processes) {
    auto &by_name = sums[{known(process->process.instance), backend_type_label(process->process)}];
    for (const Context &context : process->contexts) {
      Sum &sum = by_name[context.name];
      sum.total += context.total_bytes;
      sum.used += context.used_bytes();
      ++sum.count;
    }
  }
  Family total = gauge("context_total_bytes", "Memory that contexts hold in blocks.",
                       {"instance", "backend_type", "context"});
  Family used = gauge("context_used_bytes", "Memory that contexts gave out in chunks.",
                      {"instance", "backend_type", "context"});
  Family count = gauge("contexts", "Number of contexts.", {"instance", "backend_type", "context"});
  for (const auto &[labels, by_name] : sums) {
    const auto &[instance, type] = labels;
    const TopK &top = names_.at(instance).contexts;
    for (const auto &[name, sum] : by_name) {
      const std::string context = top.label(name);
      total.add({instance, type, context}, number(sum.total));
      used.add({instance, type, context}, number(sum.used));
      count.add({instance, type, context}, number(sum.count));
    }
  }
  out.add(std::move(total));
  out.add(std::move(used));
  out.add(std::move(count));
}

} // namespace pgmemtrace
