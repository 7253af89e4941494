// SPDX-License-Identifier: BSD-2-Clause
#include "rules/trend.h"

#include <algorithm>
#include <array>
#include <cmath>

namespace pgmemtrace {
namespace {

constexpr double kSuperlinear = 1.5;
// Rates of two halves are compared when there are that many rises: fewer are chance.
constexpr std::uint32_t kRisesForShape = 6;

std::vector<double> floor_of(std::span<const TrendSample> samples)
{
  std::vector<double> floor(samples.size());
  double least = samples.back().value;
  for (std::size_t i = samples.size(); i-- > 0;)
    floor[i] = least = std::min(least, samples[i].value);
  return floor;
}

// The floor at some moment of the active-time axis, between points by a straight line.
double floor_at(std::span<const TrendSample> samples, std::span<const double> floor, double active)
{
  const auto after = std::ranges::lower_bound(
      samples, active, {}, [](const TrendSample &s) { return double{s.time.active}; });
  if (after == samples.begin())
    return floor.front();
  if (after == samples.end())
    return floor.back();
  const auto i = static_cast<std::size_t>(after - samples.begin());
  const double from = double{samples[i - 1].time.active};
  const double to = double{samples[i].time.active};
  const double part = to > from ? (active - from) / (to - from) : 1;
  return floor[i - 1] + part * (floor[i] - floor[i - 1]);
}

// Early and late rates around the moment at which half of the growth's time had passed.
void set_rates(Trend &trend, std::span<const TrendSample> samples, std::span<const double> floor)
{
  const double begin = double{samples.front().time.active};
  const double end = double{samples.back().time.active};
  const double middle = begin + (end - begin) / 2;
  const auto split = std::ranges::lower_bound(
      samples, middle, {}, [](const TrendSample &s) { return double{s.time.active}; });
  const auto m = static_cast<std::size_t>(split - samples.begin());
  if (m == 0 || m + 1 >= samples.size())
    return;
  const auto length = [&](std::size_t from, std::size_t to) {
    const HistoryTime &a = samples[from].time;
    const HistoryTime &b = samples[to].time;
    return trend.statements >= 16 ? double(b.statements) - double(a.statements)
                                  : double{b.active} - double{a.active};
  };
  const std::size_t last = samples.size() - 1;
  const double early = length(0, m);
  const double late = length(m, last);
  if (early <= 0 || late <= 0)
    return;
  trend.early_rate = (floor[m] - floor.front()) / early;
  trend.late_rate = (floor[last] - floor[m]) / late;
  trend.superlinear = trend.rises >= kRisesForShape && trend.early_rate > 0 &&
                      trend.late_rate > kSuperlinear * trend.early_rate;
}

Trend judge(std::span<const TrendSample> samples, const TrendLimits &limits)
{
  const std::vector<double> floor = floor_of(samples);
  const std::size_t n = samples.size();
  Trend trend{.before = floor.front(),
              .after = floor.back(),
              .seconds = samples.back().time.seconds - samples.front().time.seconds,
              .statements = samples.back().time.statements - samples.front().time.statements};
  const double growth = trend.growth();
  // The newest value may be that of something short-lived: only what was seen again counts.
  const double confirmed = floor[n - 2] - floor.front();
  if (growth <= 0 || confirmed < limits.min_growth)
    return trend;

  double largest_step = 0;
  double movement = 0;
  for (std::size_t i = 1; i < n; ++i) {
    const double rise = floor[i] - floor[i - 1];
    largest_step = std::max(largest_step, rise);
    if (rise > growth / 200)
      ++trend.rises;
    movement += std::abs(samples[i].value - samples[i - 1].value);
  }
  const double begin = double{samples.front().time.active};
  const double end = double{samples.back().time.active};
  if (end <= begin)
    return trend;
  const double late = floor.back() - floor_at(samples, floor, begin + (end - begin) * 0.5);
  const double recent = floor.back() - floor_at(samples, floor, begin + (end - begin) * 0.75);
  const std::uint32_t wanted =
      confirmed >= limits.steep_growth ? limits.steep_rises : limits.min_rises;
  trend.growing = trend.rises >= wanted && late >= limits.min_late_share * growth &&
                  recent >= limits.min_recent_share * growth &&
                  largest_step <= limits.max_step_share * growth &&
                  growth >= limits.min_straightness * movement;
  if (trend.growing)
    set_rates(trend, samples, floor);
  return trend;
}

} // namespace

std::vector<TrendSample> samples_of(std::span<const HistoryPoint> points, Measure measure)
{
  std::vector<TrendSample> samples;
  samples.reserve(points.size());
  for (const HistoryPoint &point : points) {
    double value = 0;
    switch (measure) {
    case Measure::count: value = point.count; break;
    case Measure::used: value = static_cast<double>(point.used); break;
    case Measure::total: value = static_cast<double>(point.total); break;
    }
    samples.push_back({point.time, value});
  }
  return samples;
}

Trend trend_of(std::span<const TrendSample> samples, const TrendLimits &limits)
{
  constexpr std::size_t kLeastPoints = 4;
  Trend best;
  const std::size_t n = samples.size();
  if (n < kLeastPoints)
    return best;
  // A stretch that happens to rise amid ups and downs must stand out from these.
  double largest_drop = 0;
  for (std::size_t i = 1; i < n; ++i)
    largest_drop = std::max(largest_drop, samples[i - 1].value - samples[i].value);
  double high = 0; // before the stretch
  std::size_t seen = 0;
  for (const std::size_t first : {std::size_t{0}, std::size_t{1}, n / 4, n / 2, n * 3 / 4}) {
    if (n - first < kLeastPoints)
      continue;
    for (; seen <= first; ++seen)
      high = std::max(high, samples[seen].value);
    Trend trend = judge(samples.subspan(first), limits);
    trend.first = first;
    // Coming back to where it was before is no growth: a cache that was emptied fills again.
    const double beyond = trend.after - high;
    if (trend.growth() < limits.min_drops * largest_drop || beyond < limits.min_growth ||
        beyond < trend.growth() / 2)
      continue;
    if (trend.growing && (!best.growing || trend.growth() > best.growth()))
      best = trend;
  }
  return best;
}

double floor_growth(std::span<const TrendSample> samples, std::size_t first)
{
  if (samples.size() < first + 2)
    return 0;
  const std::vector<double> floor = floor_of(samples.subspan(first));
  return floor.back() - floor.front();
}

double quiet_seconds(std::span<const TrendSample> samples)
{
  if (samples.size() < 2)
    return 0;
  const std::vector<double> floor = floor_of(samples);
  for (std::size_t i = samples.size() - 1; i > 0; --i)
    if (floor[i] > floor[i - 1])
      return samples.back().time.seconds - samples[i].time.seconds;
  return samples.back().time.seconds - samples.front().time.seconds;
}

} // namespace pgmemtrace
