// SPDX-License-Identifier: BSD-2-Clause
// rules_callers_test - level alloc: what single callers hold in a context that lives as long as the
// session, while its used bytes say nothing.
#include <functional>

#include <gtest/gtest.h>

#include "rules/limits.h"
#include "rules/rules.h"
#include "rules_fake_process.h"

namespace pgmemtrace::test {
namespace {

constexpr std::uint64_t kLeaky = 0x55001234, kBusy = 0x55005678;

// Findings after so many snapshots, a second and ten statements apart; each caller's bytes by the
// number of the snapshot.
std::vector<Finding> findings(int snapshots, std::function<double(int)> leaky,
                              std::function<double(int)> busy, const std::string &context)
{
  FakeProcess process;
  ProcessHistory history;
  const auto calls = [&](std::uint64_t caller, double bytes) {
    return AllocCalls{.name = context,
                      .caller = caller,
                      .live_bytes = static_cast<std::uint64_t>(bytes),
                      .live_chunks = static_cast<std::uint64_t>(bytes / 256)};
  };
  for (int i = 0; i < snapshots; ++i) {
    process.advance(1, 10);
    process.values().alloc_calls = {calls(kLeaky, leaky(i)), calls(kBusy, busy(i))};
    history.push(process.take());
  }
  return make_wrong_ctx_alloc({})->check(history);
}

double nothing(int) { return 0; }
double sawtooth(int i) { return i % 2 ? 20'000 : 3'000; }

TEST(Callers, one_whose_chunks_pile_up_is_named_beside_one_that_gives_back)
{
  const auto found = findings(
      30, [](int i) { return 256.0 * i; }, sawtooth, "TopMemoryContext");
  ASSERT_EQ(found.size(), 1U);
  EXPECT_EQ(found[0].violation.caller, kLeaky);
  EXPECT_EQ(found[0].violation.context, "TopMemoryContext");
  EXPECT_GE(found[0].violation.delta_bytes, 4096);
  EXPECT_LE(found[0].violation.after_bytes, 90'000U); // of the context, as it is
}

TEST(Callers, those_that_come_to_rest_are_silent)
{
  const auto warm_up = [](int i) { return 1000.0 * std::min(i, 8); };
  const auto step = [](int i) { return i < 15 ? 0.0 : 30'000.0; };
  const auto little = [](int i) { return 64.0 * i; };
  EXPECT_TRUE(findings(40, warm_up, sawtooth, "TopMemoryContext").empty());
  EXPECT_TRUE(findings(30, step, nothing, "TopMemoryContext").empty());
  EXPECT_TRUE(findings(30, little, nothing, "TopMemoryContext").empty());
}

// A cache may grow: cache_growth judges it.
TEST(Callers, other_contexts_are_other_rules_to_judge)
{
  EXPECT_TRUE(findings(
                  30, [](int i) { return 1000.0 * i; }, nothing, "CacheMemoryContext")
                  .empty());
}

} // namespace
} // namespace pgmemtrace::test
