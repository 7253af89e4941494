// SPDX-License-Identifier: BSD-2-Clause
// rules_clock_test - the wall clock is set, or the machine was suspended: no verdict depends on
// what a clock on the wall says.
//
// CLOCK_MONOTONIC, which std::chrono::steady_clock and bpf_ktime_get_ns() are, stands still while
// the machine is suspended; the wall clock comes back hours later.
#include <chrono>

#include <gtest/gtest.h>

#include "rules/rule_set.h"
#include "rules_fake_process.h"

namespace pgmemtrace::test {
namespace {

using namespace std::chrono_literals;

const std::string kPlans = "TopMemoryContext|CacheMemoryContext|CachedPlanSource";

// A clock jump in the middle of what `work` does at each of forty looks.
template <typename Work>
std::vector<Violation> with_jump(std::chrono::hours jump, FakeProcess &process, RuleSet &rules,
                                 Work work)
{
  std::vector<Violation> changes;
  for (int look = 0; look < 40; ++look) {
    if (look == 20)
      process.values().taken_at += jump;
    work(process, look);
    for (auto &change : rules.apply(process.advance(0.5, 1).take()))
      changes.push_back(std::move(change));
  }
  return changes;
}

class ClockJump : public testing::TestWithParam<std::chrono::hours> {};

TEST_P(ClockJump, hides_no_leak)
{
  FakeProcess process;
  RuleSet rules;
  const auto changes = with_jump(GetParam(), process, rules, [](FakeProcess &p, int look) {
    if (look >= 20) // all of it after the jump
      p.set(kPlans, static_cast<std::uint32_t>(100 * (look - 19)), 4e5 * (look - 19),
            5e5 * (look - 19));
  });
  ASSERT_FALSE(changes.empty());
  EXPECT_EQ(changes[0].state, ViolationState::raised);
  // What the reader is told of its length is what the session lived.
  EXPECT_EQ(changes[0].detail.find("000 s"), std::string::npos) << changes[0].detail;
}

// JIT'ed code is recycled: growth outside the contexts counts only after a minute of it.
TEST_P(ClockJump, makes_no_leak_of_what_lasted_seconds)
{
  FakeProcess process;
  process.values().jit_loaded = true;
  RuleSet rules;
  std::vector<Violation> changes;
  for (int look = 0; look < 40; ++look) {
    if (look == 20)
      process.values().taken_at += GetParam();
    process.values().private_bytes = (30ULL << 20) + (static_cast<std::uint64_t>(look) << 20);
    for (auto &change : rules.apply(process.advance(0.5).take())) // level sweep: no statements
      changes.push_back(std::move(change));
  }
  for (const auto &change : changes)
    ADD_FAILURE() << change.rule << ": " << change.detail;
  EXPECT_LT(rules.history(process.values().process.id)->now().seconds, 30);
}

TEST_P(ClockJump, clears_nothing)
{
  FakeProcess process;
  RuleSet rules;
  process.take();
  rules.apply(process.advance(1, 1).take());
  process.values().activity.peak = StatementPeak{.query = "SELECT 1",
                                                 .query_id = 0,
                                                 .bytes = 900ULL << 20,
                                                 .context_bytes = 800ULL << 20,
                                                 .context = "TupleSort sort"};
  ASSERT_EQ(rules.apply(process.advance(1, 1).take()).size(), 1U);
  process.values().activity.peak.reset();
  process.values().taken_at += GetParam();
  EXPECT_TRUE(rules.apply(process.advance(1, 1).take()).empty());
  EXPECT_EQ(rules.active().size(), 1U);
}

INSTANTIATE_TEST_SUITE_P(Hours, ClockJump, testing::Values(-5h, 5h), [](const auto &jump) {
  return std::string(jump.param.count() < 0 ? "back" : "ahead");
});

} // namespace
} // namespace pgmemtrace::test
