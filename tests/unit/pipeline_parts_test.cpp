// SPDX-License-Identifier: BSD-2-Clause
// pipeline_parts_test.cpp - what decides when to sweep, how much to probe, and what a user's
// numbers mean.
#include <map>

#include <gtest/gtest.h>

#include "cli/units.h"
#include "collect/kernel_reader.h"
#include "collect/sweep_schedule.h"
#include "escalation.h"
#include "governor.h"

namespace pgmemtrace {
namespace {

using namespace std::chrono_literals;
const auto kStart = std::chrono::steady_clock::time_point(1h);

// ---- governor -----------------------------------------------------------------

Governor::Period period(double ratio, double cpu = 1.0) { return {ratio * cpu, cpu}; }

TEST(Governor, falls_level_by_level_and_stays_at_the_sweep)
{
  Governor governor({.wanted = Level::statement, .budget = 0.05});
  EXPECT_EQ(governor.judge(period(0.2), kStart), Level::request);
  EXPECT_EQ(governor.judge(period(0.2), kStart + 1s), Level::sweep);
  EXPECT_EQ(governor.judge(period(0.2), kStart + 2s), std::nullopt);
}

TEST(Governor, leaves_a_server_alone_that_stays_within_the_budget)
{
  Governor governor({.wanted = Level::statement, .budget = 0.05});
  for (int second = 0; second < 100; ++second)
    EXPECT_EQ(governor.judge(period(0.049), kStart + second * 1s), std::nullopt);
  EXPECT_EQ(governor.level(), Level::statement);
}

TEST(Governor, off_never_falls_but_still_tells_the_ratio)
{
  Governor governor({.wanted = Level::statement, .budget = 0});
  EXPECT_EQ(governor.judge(period(0.9), kStart), std::nullopt);
  EXPECT_DOUBLE_EQ(governor.ratio(), 0.9);
}

TEST(Governor, does_not_judge_a_server_that_hardly_works)
{
  Governor governor({.wanted = Level::statement, .budget = 0.05});
  EXPECT_EQ(governor.judge(period(0.2, 0.01), kStart), std::nullopt);
  EXPECT_LT(governor.ratio(), 0.05); // and what it shows agrees with what it does
}

TEST(Governor, climbs_back_only_after_the_hold)
{
  Governor governor({.wanted = Level::statement, .budget = 0.05, .first_hold = 10s});
  governor.judge(period(0.2), kStart);
  EXPECT_EQ(governor.judge(period(0), kStart + 9s), std::nullopt);
  EXPECT_EQ(governor.judge(period(0), kStart + 10s), Level::statement);
}

TEST(Governor, holds_twice_as_long_after_a_climb_that_failed)
{
  Governor governor({.wanted = Level::statement, .budget = 0.05, .first_hold = 10s});
  governor.judge(period(0.2), kStart);                                  // falls
  EXPECT_EQ(governor.judge(period(0), kStart + 10s), Level::statement); // climbs
  EXPECT_EQ(governor.judge(period(0.2), kStart + 11s), Level::request); // falls at once
  EXPECT_EQ(governor.judge(period(0), kStart + 25s), std::nullopt);     // 10 s are over
  EXPECT_EQ(governor.judge(period(0), kStart + 31s), Level::statement); // 20 s are over
}

TEST(Governor, does_not_climb_while_the_lower_level_is_dear_itself)
{
  Governor governor({.wanted = Level::statement, .budget = 0.05, .first_hold = 10s});
  governor.judge(period(0.2), kStart);
  EXPECT_EQ(governor.judge(period(0.04), kStart + 60s), std::nullopt);
}

// The daemon was stopped for a minute: the server's idleness is that of the minute, too.
TEST(Governor, judges_a_long_period_like_many_short_ones)
{
  Governor governor({.wanted = Level::statement, .budget = 0.05});
  EXPECT_EQ(governor.judge({.probe_seconds = 0.002, .cpu_seconds = 0.01}, kStart), std::nullopt);
  EXPECT_EQ(
      governor.judge({.probe_seconds = 0.12, .cpu_seconds = 0.6, .seconds = 60}, kStart + 60s),
      std::nullopt);
  EXPECT_EQ(governor.judge({.probe_seconds = 12, .cpu_seconds = 60, .seconds = 60}, kStart + 120s),
            Level::request);
}

TEST(Governor, keeps_level_block_whatever_it_costs_until_its_time_is_up)
{
  Governor governor({.wanted = Level::block, .budget = 0.05, .exempt_for = 60s});
  for (auto now = kStart; now < kStart + 60s; now += 1s)
    EXPECT_EQ(governor.judge(period(3.0), now), std::nullopt);
  EXPECT_EQ(governor.level(), Level::block);
  EXPECT_EQ(governor.wanted(), Level::block);
  EXPECT_EQ(governor.judge(period(3.0), kStart + 60s), Level::statement);
  EXPECT_EQ(governor.wanted(), Level::statement); // nobody is to be alarmed that it is lower
  EXPECT_EQ(governor.judge(period(3.0), kStart + 61s), Level::request); // judged like any other
  for (auto now = kStart + 62s; now < kStart + 600s; now += 1s)
    governor.judge(period(0), now);
  EXPECT_EQ(governor.level(), Level::statement); // and never climbs above
}

TEST(Governor, ends_level_block_without_a_budget_too)
{
  Governor governor({.wanted = Level::block, .budget = 0, .exempt_for = 60s});
  EXPECT_EQ(governor.judge(period(0.1), kStart), std::nullopt);
  EXPECT_EQ(governor.judge(period(0.1), kStart + 60s), Level::statement);
}

// ---- escalation -----------------------------------------------------------------

Violation suspect(pid_t pid, const std::string &rule = "ctx_bloat")
{
  Violation violation;
  violation.process.id = {pid, 1};
  violation.rule = rule;
  violation.path = "TopMemoryContext/x";
  return violation;
}

std::vector<ProcessId> raise(Escalation &escalation, std::vector<Violation> changes,
                             Escalation::Time now)
{
  return escalation.raise(changes, now);
}

TEST(Escalation, is_off_unless_asked_for)
{
  Escalation escalation({});
  EXPECT_TRUE(raise(escalation, {suspect(1)}, kStart).empty());
}

TEST(Escalation, raises_a_suspect_for_a_while_and_not_again_soon)
{
  Escalation escalation({.on = true, .look_for = 60s, .again_after = 600s});
  const std::vector<ProcessId> one{{1, 1}};
  EXPECT_EQ(raise(escalation, {suspect(1), suspect(1)}, kStart), one);
  EXPECT_TRUE(raise(escalation, {suspect(1)}, kStart + 30s).empty());
  EXPECT_TRUE(escalation.lower(kStart + 59s).empty());
  EXPECT_EQ(escalation.lower(kStart + 60s), one);
  EXPECT_TRUE(escalation.lower(kStart + 61s).empty());
  EXPECT_TRUE(raise(escalation, {suspect(1)}, kStart + 599s).empty());
  EXPECT_EQ(raise(escalation, {suspect(1)}, kStart + 600s), one);
}

TEST(Escalation, raises_few_at_a_time)
{
  Escalation escalation({.on = true, .at_a_time = 2, .look_for = 60s});
  EXPECT_EQ(raise(escalation, {suspect(1), suspect(2), suspect(3)}, kStart).size(), 2U);
  EXPECT_TRUE(raise(escalation, {suspect(3)}, kStart + 1s).empty());
  escalation.forget({1, 1});
  EXPECT_EQ(raise(escalation, {suspect(3)}, kStart + 2s).size(), 1U);
}

TEST(Escalation, leaves_alone_what_level_block_cannot_explain)
{
  Escalation escalation({.on = true});
  auto outside = suspect(1, "unattributed_growth");
  outside.path.clear();
  auto over = suspect(2);
  over.state = ViolationState::cleared;
  auto known = suspect(3);
  known.stack_id = 7;
  EXPECT_TRUE(raise(escalation, {outside, over, known, suspect(4, "peak")}, kStart).empty());
}

// ---- schedule -----------------------------------------------------------------

const ProcessId kOne{100, 1}, kTwo{200, 2};

TEST(SweepSchedule, a_new_process_is_due_at_once_and_then_every_interval)
{
  SweepSchedule schedule({.interval = 10s, .shortest = 250ms, .steady = 1s});
  schedule.add(kOne, kStart);
  EXPECT_EQ(schedule.due(kStart), std::vector{kOne});
  auto now = kStart;
  int sweeps = 0;
  for (; now < kStart + 100s; now += 100ms)
    for (const auto &process : schedule.due(now)) {
      schedule.swept(process, now, 50us, SweepSchedule::Found::the_same);
      ++sweeps;
    }
  // It backs off from the shortest gap to the interval: a handful more than ten.
  EXPECT_GE(sweeps, 10);
  EXPECT_LE(sweeps, 20);
}

TEST(SweepSchedule, one_that_changes_is_swept_at_the_shortest_gap)
{
  SweepSchedule schedule({.interval = 10s, .shortest = 250ms, .steady = 1s});
  schedule.add(kOne, kStart);
  schedule.swept(kOne, kStart, 50us, SweepSchedule::Found::growth);
  EXPECT_TRUE(schedule.due(kStart + 200ms).empty());
  EXPECT_EQ(schedule.due(kStart + 250ms), std::vector{kOne});
}

TEST(SweepSchedule, one_that_only_works_is_looked_at_less_and_less_often)
{
  SweepSchedule schedule({.interval = 10s, .shortest = 50ms, .steady = 1s});
  schedule.add(kOne, kStart);
  int early = 0, late = 0;
  for (auto now = kStart; now < kStart + 10s; now += 50ms) {
    schedule.active(kOne);
    for (const auto &process : schedule.due(now)) {
      schedule.swept(process, now, 50us, SweepSchedule::Found::a_change);
      ++(now < kStart + 1s ? early : late);
    }
  }
  EXPECT_GE(early, 4);
  EXPECT_LE(late, 10);
  schedule.growing(kOne); // until it grows
  EXPECT_EQ(schedule.due(kStart + 10s), std::vector{kOne});
}

TEST(SweepSchedule, one_that_begins_to_work_does_not_wait_for_the_interval)
{
  SweepSchedule schedule({.interval = 10s, .shortest = 250ms, .steady = 1s});
  schedule.add(kOne, kStart);
  for (auto now = kStart; now < kStart + 30s; now += 100ms)
    for (const auto &process : schedule.due(now))
      schedule.swept(process, now, 50us, SweepSchedule::Found::the_same);
  schedule.active(kOne);
  EXPECT_EQ(schedule.due(kStart + 30s), std::vector{kOne});
}

TEST(SweepSchedule, extra_sweeps_stop_when_their_budget_is_spent_and_the_interval_does_not)
{
  SweepSchedule schedule({.interval = 10s, .shortest = 50ms, .steady = 1s, .extra_share = 0.01});
  std::vector<ProcessId> processes;
  for (int i = 0; i < 100; ++i)
    processes.push_back({1000 + i, 1});
  for (const auto &process : processes)
    schedule.add(process, kStart);
  std::chrono::steady_clock::duration spent{};
  std::map<ProcessId, int> sweeps;
  for (auto now = kStart; now < kStart + 60s; now += 50ms)
    for (const auto &process : schedule.due(now)) {
      schedule.swept(process, now, 1ms, SweepSchedule::Found::growth);
      spent += 1ms;
      ++sweeps[process];
    }
  for (const auto &process : processes)
    EXPECT_GE(sweeps[process], 6) << process.pid;
  // One percent of 60 s, seven regular sweeps each, and what may be saved up or owed.
  EXPECT_LE(spent, 600ms + 100 * 7 * 1ms + 450ms);
}

TEST(SweepSchedule, one_dear_process_does_not_starve_the_others)
{
  SweepSchedule schedule({.interval = 10s, .shortest = 50ms, .steady = 1s, .extra_share = 0.01});
  schedule.add(kOne, kStart);
  schedule.add(kTwo, kStart);
  int cheap = 0;
  for (auto now = kStart; now < kStart + 5s; now += 50ms) {
    for (const auto &process : schedule.due(now)) {
      const bool dear = process == kOne;
      schedule.swept(process, now, dear ? std::chrono::microseconds(80ms) : 100us,
                     SweepSchedule::Found::growth);
      cheap += !dear;
    }
  }
  EXPECT_GE(cheap, 20);
}

// A daemon that was stopped, a virtual machine that was paused: nobody makes up for what was
// missed.
TEST(SweepSchedule, hours_without_a_look_are_worth_one_sweep_each)
{
  SweepSchedule schedule({.interval = 10s, .shortest = 50ms, .steady = 1s, .extra_share = 0.01});
  std::vector<ProcessId> processes;
  for (int i = 0; i < 100; ++i)
    processes.push_back({1000 + i, 1});
  for (const auto &process : processes) {
    schedule.add(process, kStart);
    schedule.swept(process, kStart, 1ms, SweepSchedule::Found::growth);
  }
  const auto later = kStart + 5h;
  EXPECT_EQ(schedule.due(later), processes);
  for (const auto &process : processes)
    schedule.swept(process, later, 1ms, SweepSchedule::Found::growth);
  // What was saved up in these hours is a burst and no more.
  std::chrono::steady_clock::duration spent{};
  for (auto now = later + 50ms; now < later + 5s; now += 50ms)
    for (const auto &process : schedule.due(now)) {
      schedule.swept(process, now, 1ms, SweepSchedule::Found::growth);
      spent += 1ms;
    }
  EXPECT_LE(spent, 500ms);
}

TEST(SweepSchedule, a_removed_process_is_never_due)
{
  SweepSchedule schedule({});
  schedule.add(kOne, kStart);
  schedule.remove(kOne);
  EXPECT_TRUE(schedule.due(kStart + 1h).empty());
}

// ---- what users write -----------------------------------------------------------

TEST(Units, durations)
{
  EXPECT_EQ(parse_duration("250ms"), 250ms);
  EXPECT_EQ(parse_duration("10s"), 10s);
  EXPECT_EQ(parse_duration("10"), 10s);
  EXPECT_EQ(parse_duration("1.5m"), 90s);
  EXPECT_EQ(parse_duration("2h"), 2h);
  for (const char *bad : {"", "s", "-1s", "1d", "1e300s", "nan", "inf", "10 s", "10sx"})
    EXPECT_EQ(parse_duration(bad), std::nullopt) << bad;
}

TEST(Units, ratios)
{
  EXPECT_EQ(parse_ratio("off"), 0);
  EXPECT_EQ(parse_ratio("5%"), 0.05);
  EXPECT_EQ(parse_ratio("0.05"), 0.05);
  for (const char *bad : {"", "%", "0", "0%", "-5%", "101%", "5 %", "on"})
    EXPECT_EQ(parse_ratio(bad), std::nullopt) << bad;
}

// ---- query text -------------------------------------------------------------------

TEST(StatementText, is_the_statements_part_of_its_string)
{
  const std::string two = "SELECT 1;\n SELECT 22;";
  EXPECT_EQ(statement_text(two, 0, 8), "SELECT 1");
  EXPECT_EQ(statement_text(two, 9, 0), "SELECT 22");
  EXPECT_EQ(statement_text(two, -1, 0), "SELECT 1;\n SELECT 22");
  EXPECT_EQ(statement_text(two, 1000, 5), ""); // cut off before it began
  EXPECT_EQ(statement_text("", 3, 9), "");
  EXPECT_EQ(statement_text("x", 0, 2'000'000'000), "x");
}

} // namespace
} // namespace pgmemtrace
