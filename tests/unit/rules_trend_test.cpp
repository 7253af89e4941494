// SPDX-License-Identifier: BSD-2-Clause
// rules_trend_test - which shapes count as growth.
#include <cmath>
#include <functional>
#include <random>
#include <string>

#include <gtest/gtest.h>

#include "rules/trend.h"

namespace pgmemtrace::test {
namespace {

using Shape = std::function<double(int i, int n)>;

std::vector<TrendSample> series(const Shape &shape, int n)
{
  std::vector<TrendSample> samples;
  samples.reserve(static_cast<std::size_t>(n));
  for (int i = 0; i < n; ++i)
    samples.push_back({{.seconds = 0.25 * i,
                        .active = 0.25F * static_cast<float>(i),
                        .statements = static_cast<std::uint32_t>(100 * i)},
                       shape(i, n)});
  return samples;
}

struct Row {
  std::string name;
  Shape shape;
  bool growing;
  bool superlinear = false;
};

class Shapes : public testing::TestWithParam<Row> {};

TEST_P(Shapes, are_judged_at_every_length)
{
  for (int n = 8; n <= 40; ++n) {
    const Trend trend = trend_of(series(GetParam().shape, n), {.min_growth = 10'000});
    EXPECT_EQ(trend.growing, GetParam().growing) << n << " points";
    if (trend.growing) {
      EXPECT_EQ(trend.superlinear, GetParam().superlinear && trend.rises >= 6) << n << " points";
    }
  }
}

const Row kRows[] = {
    {"flat", [](int, int) { return 5e5; }, false},
    {"linear", [](int i, int) { return 5e5 + 2e4 * i; }, true},
    {"quadratic", [](int i, int) { return 5e5 + 5e3 * i * i; }, true, true},
    {"too_little", [](int i, int) { return 5e5 + 200 * i; }, false},
    {"step", [](int i, int n) { return i < n / 3 ? 5e5 : 5e6; }, false},
    {"late_step", [](int i, int n) { return i < n - 3 ? 5e5 : 5e6; }, false},
    {"sawtooth", [](int i, int) { return 5e5 + 1e5 * (i % 4); }, false},
    {"warm_up_then_level", [](int i, int n) { return 5e5 + 2e6 * std::min(1.0, 3.0 * i / n); },
     false},
    {"slower_and_slower", [](int i, int n) { return 5e5 - 2e6 * std::expm1(-12.0 * i / n); },
     false},
    {"peak_in_the_middle", [](int i, int n) { return i > n / 3 && i < n / 2 ? 1e8 : 5e5; }, false},
    {"peak_now", [](int i, int n) { return i == n - 1 ? 1e8 : 5e5; }, false},
    {"falling", [](int i, int) { return 5e6 - 2e4 * i; }, false},
    {"linear_after_a_step", [](int i, int) { return (i < 2 ? 5e5 : 5e7) + 2e4 * i; }, true},
    {"linear_with_transients_on_top",
     [](int i, int) { return 5e5 + 1e5 * i + (i % 3 == 1 ? 5e4 : 0); }, true},
};

INSTANTIATE_TEST_SUITE_P(Trend, Shapes, testing::ValuesIn(kRows),
                         [](const auto &param) { return param.param.name; });

TEST(Trend, judges_the_whole_series_rather_than_a_part)
{
  const Trend trend = trend_of(series([](int i, int) { return 1e5 * i; }, 20), {});
  EXPECT_EQ(trend.first, 0U);
  EXPECT_DOUBLE_EQ(trend.before, 0);
  EXPECT_DOUBLE_EQ(trend.after, 1.9e6);
  EXPECT_EQ(trend.statements, 1900U);
  EXPECT_NEAR(trend.late_rate, 1000, 1);
}

TEST(Trend, stops_when_the_process_works_on_without_growth)
{
  const Shape shape = [](int i, int) { return 1e5 * std::min(i, 10); };
  EXPECT_TRUE(trend_of(series(shape, 11), {}).growing);
  EXPECT_FALSE(trend_of(series(shape, 30), {}).growing);
}

TEST(Trend, idle_time_hides_nothing)
{
  auto samples = series([](int i, int) { return 1e5 * i; }, 10);
  for (std::size_t i = 5; i < samples.size(); ++i)
    samples[i].time.seconds += 36'000;
  EXPECT_TRUE(trend_of(samples, {}).growing);
}

TEST(Trend, a_steep_short_rise_needs_three_points)
{
  const auto samples = series([](int i, int) { return 1e6 * i; }, 4);
  EXPECT_FALSE(trend_of(samples, {.min_rises = 4}).growing);
  EXPECT_TRUE(trend_of(samples, {.min_rises = 4, .steep_growth = 1e6}).growing);
}

TEST(Trend, too_few_points_are_no_trend)
{
  for (int n = 0; n < 4; ++n)
    EXPECT_FALSE(trend_of(series([](int i, int) { return 1e6 * i; }, n), {}).growing);
}

TEST(Trend, quiet_time_counts_from_the_last_rise)
{
  const auto samples = series([](int i, int) { return 1e5 * std::min(i, 4); }, 9);
  EXPECT_DOUBLE_EQ(quiet_seconds(samples), 1.0);
}

TEST(Trend, noise_around_a_level_is_next_to_silent)
{
  // Eight independent numbers are in order once in 40,320 times, six of them more often.
  std::mt19937 random(1);
  std::normal_distribution<double> noise(0, 3e4);
  int growing = 0;
  for (int run = 0; run < 20'000; ++run) {
    const auto samples = series([&](int, int) { return 1e6 + noise(random); }, 8 + run % 33);
    growing += trend_of(samples, {.min_rises = 5, .max_step_share = 0.5}).growing ? 1 : 0;
  }
  EXPECT_LT(growing, 20);
}

} // namespace
} // namespace pgmemtrace::test
