// SPDX-License-Identifier: BSD-2-Clause
// series.h - metric families under one cap on the number of series.
//
// Prometheus refuses a whole scrape that shows one series twice or a label that is not
// UTF-8, and both could come out of a server's memory: here labels are made fit, and
// values for the same labels are merged.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include <prometheus/metric_family.h>

namespace pgmemtrace {

class Family {
public:
  enum class Merge : std::uint8_t { sum, max, min };

  Family(std::string_view name, std::string_view help, prometheus::MetricType type,
         std::initializer_list<const char *> labels, Merge merge = Merge::sum);

  // One value per label, in the order given to the constructor.
  void add(std::vector<std::string> label_values, double value);

private:
  friend class SeriesSet;

  prometheus::MetricFamily family_;
  std::vector<std::string> labels_;
  Merge merge_;
  std::map<std::vector<std::string>, double> values_;
};

// A distribution of what exists now, not of what happened over time.
class Distribution {
public:
  Distribution(std::string_view name, std::string_view help,
               std::initializer_list<const char *> labels, std::vector<double> bounds);

  void add(std::vector<std::string> label_values, double value);

private:
  friend class SeriesSet;

  struct Counts {
    std::vector<std::uint64_t> at_most; // per bound, not cumulative
    std::uint64_t count = 0;
    double sum = 0;
  };

  prometheus::MetricFamily family_;
  std::vector<std::string> labels_;
  std::vector<double> bounds_;
  std::map<std::vector<std::string>, Counts> values_;
};

// Takes families, the most needed first, until `max_series` is reached.
class SeriesSet {
public:
  explicit SeriesSet(std::size_t max_series) : max_series_(max_series) {}

  void add(Family family);
  void add(Distribution distribution);

  std::size_t dropped() const { return dropped_; }
  std::vector<prometheus::MetricFamily> take() { return std::move(families_); }

private:
  bool make_room(std::size_t series);
  void keep(prometheus::MetricFamily family);

  std::size_t max_series_;
  std::size_t series_ = 0;
  std::size_t dropped_ = 0;
  std::vector<prometheus::MetricFamily> families_;
};

} // namespace pgmemtrace
