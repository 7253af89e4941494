// SPDX-License-Identifier: BSD-2-Clause
// trend.h - whether a series of numbers grows and keeps growing.
//
// What is judged is the floor of the series: at each point the least value from there to
// the end.  What was given back later never counts, so noise, sawtooths and statements
// that happened to run when we looked have a flat floor, while a leak's floor is the leak.
//
//   value  .  /|  /|  /|  .      floor  ____________   sawtooth: silent
//          . / | / | / |/ .
//   value  .     ________ .      floor     ________    step, plateau: growth, but none
//          . ___/         .             ___/           in the later part: silent
//   value  .        /\  / .      floor        __/      growth with transients on top
//          .  /\/\/   \/  .             _/ ¯¯
//
// The axis is the time that the process was active, so that idle hours neither stretch
// nor hide anything; statements, when known, only normalise the rates.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "snapshot/history.h"

namespace pgmemtrace {

struct TrendSample {
  HistoryTime time;
  double value = 0;
};

enum class Measure : std::uint8_t { count, used, total };
std::vector<TrendSample> samples_of(std::span<const HistoryPoint> points, Measure measure);
inline std::vector<TrendSample> samples_of(const ContextGroup &group, Measure measure)
{
  return samples_of(group.points, measure);
}

struct TrendLimits {
  double min_growth = 8192;    // least growth of the floor
  std::uint32_t min_rises = 4; // points at which the floor rose
  // From that growth on fewer will do: a short and steep case has no more points.
  double steep_growth = 1e18;
  std::uint32_t steep_rises = 3;
  double min_late_share = 0.25;   // of the growth, in the later half; linear: 0.5
  double min_recent_share = 0.08; // of the growth, in the last quarter; linear: 0.25
  double max_step_share = 0.6;    // of the growth, in one step
  double min_drops = 3;           // growth / largest drop anywhere in the series
  double min_straightness = 0.6; // growth / sum of all ups and downs; a random walk of n: 1/sqrt(n)
};

struct Trend {
  bool growing = false;
  std::size_t first = 0;        // sample at which the judged stretch begins
  double before = 0;            // floor there
  double after = 0;             // floor now
  double seconds = 0;           // length of the stretch
  std::uint32_t statements = 0; // in the stretch; 0: unknown
  std::uint32_t rises = 0;
  bool superlinear = false; // late rate > 1.5 x early rate
  double early_rate = 0;    // per statement if known, else per active second
  double late_rate = 0;

  double growth() const { return after - before; }
};

// Judges the whole series and its later parts (a warm-up in front must not hide what
// follows) and returns the stretch with the largest growth that passes.
Trend trend_of(std::span<const TrendSample> samples, const TrendLimits &limits);

// How much the floor of a series has grown from `first` on, growing or not.
double floor_growth(std::span<const TrendSample> samples, std::size_t first = 0);

// Seconds since the floor of a series last rose; 0 if it rose at the last point.
double quiet_seconds(std::span<const TrendSample> samples);

} // namespace pgmemtrace
