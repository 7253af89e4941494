// SPDX-License-Identifier: BSD-2-Clause
#include "sinks/series.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "util/text.h"

namespace pgmemtrace {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricType;

constexpr std::size_t kMaxLabelBytes = 128;

std::vector<std::string> fit(std::vector<std::string> values)
{
  for (std::string &value : values)
    value = one_line(value, kMaxLabelBytes);
  return values;
}

std::vector<ClientMetric::Label> with_names(const std::vector<std::string> &names,
                                            const std::vector<std::string> &values)
{
  std::vector<ClientMetric::Label> labels;
  labels.reserve(names.size());
  for (std::size_t i = 0; i < names.size() && i < values.size(); ++i)
    labels.push_back({names[i], values[i]});
  return labels;
}

prometheus::MetricFamily named(std::string_view name, std::string_view help, MetricType type)
{
  return {"pgmemtrace_" + std::string(name), std::string(help), type, {}};
}

} // namespace

Family::Family(std::string_view name, std::string_view help, MetricType type,
               std::initializer_list<const char *> labels, Merge merge)
    : family_(named(name, help, type)), labels_(labels.begin(), labels.end()), merge_(merge)
{
}

void Family::add(std::vector<std::string> label_values, double value)
{
  const auto [entry, is_new] = values_.try_emplace(fit(std::move(label_values)), value);
  if (is_new)
    return;
  switch (merge_) {
  case Merge::sum: entry->second += value; break;
  case Merge::max: entry->second = std::max(entry->second, value); break;
  case Merge::min: entry->second = std::min(entry->second, value); break;
  }
}

Distribution::Distribution(std::string_view name, std::string_view help,
                           std::initializer_list<const char *> labels, std::vector<double> bounds)
    : family_(named(name, help, MetricType::Histogram)), labels_(labels.begin(), labels.end()),
      bounds_(std::move(bounds))
{
}

void Distribution::add(std::vector<std::string> label_values, double value)
{
  Counts &counts = values_[fit(std::move(label_values))];
  counts.at_most.resize(bounds_.size());
  const auto bound = std::ranges::lower_bound(bounds_, value);
  if (bound != bounds_.end())
    ++counts.at_most[static_cast<std::size_t>(bound - bounds_.begin())];
  ++counts.count;
  counts.sum += value;
}

bool SeriesSet::make_room(std::size_t series)
{
  if (series_ + series > max_series_) {
    dropped_ += series;
    return false;
  }
  series_ += series;
  return true;
}

void SeriesSet::keep(prometheus::MetricFamily family)
{
  if (!family.metric.empty())
    families_.push_back(std::move(family));
}

void SeriesSet::add(Family family)
{
  for (const auto &[values, value] : family.values_) {
    if (!make_room(1))
      continue;
    ClientMetric &metric = family.family_.metric.emplace_back();
    metric.label = with_names(family.labels_, values);
    if (family.family_.type == MetricType::Counter)
      metric.counter.value = value;
    else
      metric.gauge.value = value;
  }
  keep(std::move(family.family_));
}

void SeriesSet::add(Distribution distribution)
{
  const std::size_t series_each = distribution.bounds_.size() + 3; // +Inf, _sum, _count
  for (const auto &[values, counts] : distribution.values_) {
    if (!make_room(series_each))
      continue;
    ClientMetric &metric = distribution.family_.metric.emplace_back();
    metric.label = with_names(distribution.labels_, values);
    metric.histogram.sample_count = counts.count;
    metric.histogram.sample_sum = counts.sum;
    std::uint64_t cumulative = 0;
    for (std::size_t i = 0; i < distribution.bounds_.size(); ++i) {
      cumulative += counts.at_most[i];
      metric.histogram.bucket.push_back({cumulative, distribution.bounds_[i]});
    }
    metric.histogram.bucket.push_back({counts.count, std::numeric_limits<double>::infinity()});
  }
  keep(std::move(distribution.family_));
}

} // namespace pgmemtrace
