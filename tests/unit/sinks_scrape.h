// SPDX-License-Identifier: BSD-2-Clause
// sinks_scrape.h - rendered metrics, asked as Prometheus would ask them.
#pragma once

#include <algorithm>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include <prometheus/metric_family.h>
#include <prometheus/text_serializer.h>

namespace pgmemtrace::test {

using Labels = std::map<std::string, std::string>;

class Scrape {
public:
  explicit Scrape(std::vector<prometheus::MetricFamily> families) : families_(std::move(families))
  {
  }

  // The value of the one series with exactly these labels.
  std::optional<double> value(const std::string &name, const Labels &labels = {}) const
  {
    const auto *metric = find(name, labels);
    if (metric == nullptr)
      return std::nullopt;
    return type_ == prometheus::MetricType::Counter ? metric->counter.value : metric->gauge.value;
  }

  const prometheus::ClientMetric *find(const std::string &name, const Labels &labels) const
  {
    for (const auto &family : families_)
      for (const auto &metric : family.metric)
        if (family.name == "pgmemtrace_" + name && labels_of(metric) == labels) {
          type_ = family.type;
          return &metric;
        }
    return nullptr;
  }

  // The values that a label has in a family.
  std::vector<std::string> label_values(const std::string &name, const std::string &label) const
  {
    std::vector<std::string> out;
    for (const auto &family : families_)
      for (const auto &metric : family.metric)
        if (family.name == "pgmemtrace_" + name)
          out.push_back(labels_of(metric).at(label));
    return out;
  }

  double sum(const std::string &name) const
  {
    double out = 0;
    for (const auto &family : families_)
      for (const auto &metric : family.metric)
        if (family.name == "pgmemtrace_" + name)
          out += metric.gauge.value + metric.counter.value;
    return out;
  }

  // As Prometheus counts: a line of the exposition each.
  std::size_t series() const
  {
    const std::string body = text();
    std::size_t count = 0;
    for (std::size_t at = 0; at < body.size(); at = body.find('\n', at) + 1)
      count += body[at] != '#' ? 1 : 0;
    return count;
  }

  std::string text() const { return prometheus::TextSerializer().Serialize(families_); }

private:
  static Labels labels_of(const prometheus::ClientMetric &metric)
  {
    Labels out;
    for (const auto &label : metric.label)
      out[label.name] = label.value;
    return out;
  }

  std::vector<prometheus::MetricFamily> families_;
  mutable prometheus::MetricType type_ = prometheus::MetricType::Untyped;
};

} // namespace pgmemtrace::test
