// SPDX-License-Identifier: BSD-2-Clause
#include "sinks/metrics.h"

#include <algorithm>
#include <array>
#include <iterator>
#include <utility>

#include "sinks/metric_labels.h"

namespace pgmemtrace {
namespace {

// Instances come and go with their servers; what was raised in them stays counted.
constexpr std::size_t kMaxCountedInstances = 200;
// Families of add_contexts(): each has a series per instance, backend type and name, and all
// of them together may take half of the cap.
constexpr std::size_t kContextMetrics = 3;

} // namespace

void MonotoneCounters::observe(const std::string &label, double value)
{
  double &last = last_[label];
  totals_[label] += value >= last ? value - last : value;
  last = value;
}

Metrics::Metrics(MetricsOptions options) : options_(std::move(options)) {}

std::vector<prometheus::MetricFamily> Metrics::render(const Snapshot &snapshot,
                                                      std::span<const Violation> changes,
                                                      std::span<const Violation> active)
{
  update_names(snapshot, active);
  count_violations(snapshot, changes);
  observe_hits(snapshot);
  observe_health(snapshot.health);

  // What the cap must not cost us comes first.
  SeriesSet out(options_.max_series > 0 ? options_.max_series - 1 : 0);
  add_tool(snapshot, out);
  add_health(snapshot.health, out);
  add_servers(snapshot, out);
  add_dsm(snapshot, out);
  add_violations(active, out);
  add_processes(snapshot, out);
  add_databases(snapshot, out);
  add_contexts(snapshot, out);

  series_dropped_ += number(out.dropped());
  SeriesSet last(1);
  Family dropped("series_dropped_total",
                 "Series that were not exported because of the cap on their number, summed over "
                 "the snapshots.",
                 prometheus::MetricType::Counter, {});
  dropped.add({}, series_dropped_);
  last.add(std::move(dropped));
  auto families = out.take();
  std::ranges::move(last.take(), std::back_inserter(families));
  return families;
}

void Metrics::update_names(const Snapshot &snapshot, std::span<const Violation> active)
{
  struct Sizes {
    TopK::Sizes contexts;
    TopK::Sizes databases;
    TopK::Sizes backend_types;
  };
  std::map<std::string, Sizes> sizes;
  for (const ServerStatus &server : snapshot.servers)
    sizes[known(server.instance)];
  for (const auto &process : snapshot.processes) {
    Sizes &of = sizes[known(process->process.instance)];
    for (const Context &context : process->contexts)
      of.contexts[context.name] += context.total_bytes;
    const std::uint64_t total = total_bytes(*process);
    of.databases[database_of(process->process)] += total;
    of.backend_types[known(process->process.backend_type)] += total;
  }
  // A context that is reported counts twice, to be seen beside larger ones that only stay.
  for (const Violation &violation : active) {
    Sizes &of = sizes[known(violation.process.instance)];
    if (!violation.context.empty())
      of.contexts[violation.context] += violation.after_bytes;
  }

  std::size_t pairs = 1;
  for (const auto &[instance, of] : sizes)
    pairs += std::min(of.backend_types.size(), options_.top_backend_types + 1);
  const std::size_t affordable = options_.max_series / 2 / kContextMetrics / pairs;
  const std::size_t top_contexts = std::min(options_.top_contexts, affordable);

  std::erase_if(names_, [&](const auto &entry) { return !sizes.contains(entry.first); });
  for (const auto &[instance, of] : sizes) {
    Names &names = names_[instance];
    names.contexts.update(of.contexts, top_contexts);
    names.databases.update(of.databases, options_.top_databases);
    names.backend_types.update(of.backend_types, options_.top_backend_types);
  }
}

std::string Metrics::backend_type_label(const ProcessIdentity &process) const
{
  return names_.at(known(process.instance)).backend_types.label(known(process.backend_type));
}

void Metrics::count_violations(const Snapshot &snapshot, std::span<const Violation> changes)
{
  std::erase_if(raised_, [this](const auto &entry) {
    return entry.second == 0 && !names_.contains(std::get<0>(entry.first));
  });
  std::erase_if(counted_instances_, [this](const std::string &instance) {
    const auto first = raised_.lower_bound({instance, "", ""});
    return first == raised_.end() || std::get<0>(first->first) != instance;
  });
  const auto instance_label = [this](const std::string &instance) -> std::string {
    if (!counted_instances_.contains(instance) && counted_instances_.size() < kMaxCountedInstances)
      counted_instances_.insert(instance);
    return counted_instances_.contains(instance) ? instance : TopK::kOther;
  };
  static constexpr std::array kSeverities{Severity::info, Severity::warning, Severity::error};
  for (const ServerStatus &server : snapshot.servers) {
    const std::string instance = instance_label(known(server.instance));
    for (const std::string &rule : options_.rules)
      for (const Severity severity : kSeverities)
        raised_.try_emplace({instance, rule, std::string(to_string(severity))}, 0);
  }
  for (const Violation &violation : changes) {
    if (violation.state != ViolationState::raised)
      continue;
    ++raised_[{instance_label(known(violation.process.instance)), violation.rule,
               std::string(to_string(violation.severity))}];
  }
}

void Metrics::observe_hits(const Snapshot &snapshot)
{
  const std::string stray = known("");
  std::erase_if(probe_hits_, [&](const auto &entry) {
    return entry.first != stray && !names_.contains(entry.first);
  });
  for (const auto &[probe, hits] : snapshot.health.stray_hits)
    probe_hits_[stray].observe(probe, number(hits));
  for (const ServerStatus &server : snapshot.servers)
    for (const auto &[probe, hits] : server.probe_hits)
      probe_hits_[known(server.instance)].observe(probe, number(hits));
}

void Metrics::observe_health(const Health &health)
{
  for (const auto &[probe, seconds] : health.program_run_seconds)
    run_seconds_.observe(probe, seconds);
  for (const auto &[reason, count] : health.events_lost)
    events_lost_.observe(reason, number(count));
  for (const auto &[site, count] : health.read_errors)
    read_errors_.observe(site, number(count));
  rounds_.observe("sweeps", number(health.sweeps));
  rounds_.observe("incomplete", number(health.incomplete_snapshots));
}

} // namespace pgmemtrace
