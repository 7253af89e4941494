// SPDX-License-Identifier: BSD-2-Clause
// history_test - what is kept of many snapshots.
#include <string>

#include <gtest/gtest.h>

#include "rules_fake_process.h"
#include "snapshot/history.h"

namespace pgmemtrace::test {
namespace {

const std::string kCache = "TopMemoryContext|CacheMemoryContext";

const ContextGroup *group(const ProcessHistory &history, const std::string &path)
{
  const std::size_t at = history.find(path);
  return at == ProcessHistory::kNone ? nullptr : &history.groups()[at];
}

TEST(History, groups_by_path_of_names)
{
  FakeProcess process;
  ProcessHistory history;
  history.push(process.take());
  const ContextGroup *indexes = group(history, "TopMemoryContext/CacheMemoryContext/index info");
  ASSERT_NE(indexes, nullptr);
  EXPECT_EQ(indexes->points.back().count, 90U);
  EXPECT_NEAR(static_cast<double>(indexes->points.back().used), 120'000, 90);
  EXPECT_EQ(indexes->points.back().kept, 0U) << "nothing was there before";
  EXPECT_EQ(history.find("CacheMemoryContext/index info"), ProcessHistory::kNone);
}

TEST(History, tells_survivors_from_newcomers)
{
  FakeProcess process;
  ProcessHistory history;
  process.set(kCache + "|CachedPlanSource", 10, 1e4, 1e4);
  process.set("TopMemoryContext|restless", 10, 1e4, 1e4, true);
  history.push(process.take());
  process.set(kCache + "|CachedPlanSource", 15, 1.5e4, 1.5e4);
  history.push(process.advance(1).take());
  EXPECT_EQ(
      group(history, "TopMemoryContext/CacheMemoryContext/CachedPlanSource")->points.back().kept,
      10U);
  EXPECT_EQ(group(history, "TopMemoryContext/restless")->points.back().kept, 0U);
}

TEST(History, an_address_that_comes_back_under_another_name_is_no_survivor)
{
  FakeProcess process;
  ProcessHistory history;
  ProcessSnapshot before = process.set("TopMemoryContext|one", 5).take();
  ProcessSnapshot after = process.advance(1).take();
  after.contexts.back().name = "two";
  history.push(before);
  history.push(after);
  EXPECT_EQ(group(history, "TopMemoryContext/two")->points.back().kept, 0U);
  EXPECT_EQ(group(history, "TopMemoryContext/one")->points.back().count, 0U);
}

TEST(History, a_chain_of_savepoints_is_one_group)
{
  FakeProcess process;
  ProcessSnapshot snapshot = process.set("TopMemoryContext|TopTransactionContext", 500).take();
  for (int depth = 0; depth < 3000; ++depth) {
    Context context;
    context.address = 0x7000'0000ULL + 64ULL * static_cast<unsigned>(depth);
    context.parent = static_cast<std::int32_t>(snapshot.contexts.size()) - 1;
    context.level = depth + 3;
    context.name = "CurTransactionContext";
    context.total_bytes = 8192;
    snapshot.contexts.push_back(context);
  }
  ProcessHistory history;
  history.push(snapshot);
  const ContextGroup *chain =
      group(history, "TopMemoryContext/TopTransactionContext/CurTransactionContext");
  ASSERT_NE(chain, nullptr);
  EXPECT_EQ(chain->points.back().count, 3000U);
  EXPECT_EQ(chain->scope, Scope::transaction);
}

TEST(History, recursive_functions_do_not_make_groups_without_end)
{
  FakeProcess process;
  ProcessSnapshot snapshot = process.set("TopMemoryContext|TopTransactionContext", 500).take();
  for (int depth = 0; depth < 1000; ++depth) {
    Context context;
    context.address = 0x7000'0000ULL + 64ULL * static_cast<unsigned>(depth);
    context.parent = static_cast<std::int32_t>(snapshot.contexts.size()) - 1;
    context.level = depth + 3;
    context.name = depth % 2 == 0 ? "SPI Proc" : "ExecutorState";
    snapshot.contexts.push_back(context);
  }
  ProcessHistory history;
  history.push(snapshot);
  EXPECT_LT(history.groups().size(), 40U);
}

TEST(History, scope_follows_from_where_a_context_hangs)
{
  FakeProcess process;
  process.set("TopMemoryContext|TopTransactionContext", 500)
      .set("TopMemoryContext|TopTransactionContext|SPI Proc", 500)
      .set("TopMemoryContext|TopPortalContext|PortalContext", 500)
      .set("TopMemoryContext|TopPortalContext|PortalContext|ExecutorState", 500)
      .set("TopMemoryContext|MessageContext|my_plan", 500)
      .set("TopMemoryContext|my_extension", 500);
  ProcessHistory history;
  history.push(process.take());
  const auto scope = [&](const std::string &path) { return group(history, path)->scope; };
  EXPECT_EQ(scope("TopMemoryContext/CacheMemoryContext"), Scope::session);
  EXPECT_EQ(scope("TopMemoryContext/TopTransactionContext"), Scope::transaction);
  EXPECT_EQ(scope("TopMemoryContext/TopTransactionContext/SPI Proc"), Scope::statement);
  EXPECT_EQ(scope("TopMemoryContext/TopPortalContext"), Scope::session);
  EXPECT_EQ(scope("TopMemoryContext/TopPortalContext/PortalContext"), Scope::portal);
  EXPECT_EQ(scope("TopMemoryContext/TopPortalContext/PortalContext/ExecutorState"),
            Scope::statement);
  EXPECT_EQ(scope("TopMemoryContext/MessageContext/my_plan"), Scope::statement);
  EXPECT_EQ(scope("TopMemoryContext/my_extension"), Scope::session);
}

TEST(History, a_series_is_bounded_and_keeps_its_ends)
{
  FakeProcess process;
  ProcessHistory history({.points = 24});
  for (int i = 0; i < 10'000; ++i)
    history.push(process.set(kCache, 500e3 + i * 100.0).advance(1).take());
  const auto &points = group(history, "TopMemoryContext/CacheMemoryContext")->points;
  EXPECT_LE(points.size(), 24U);
  EXPECT_EQ(points.front().used, 500'000U);
  EXPECT_EQ(points.back().used, 1'499'900U);
  EXPECT_LT(points.back().time.seconds - points[points.size() - 2].time.seconds, 1.5)
      << "dense now";
  for (std::size_t i = 1; i < points.size(); ++i)
    EXPECT_LT(points[i - 1].time.seconds, points[i].time.seconds);
}

TEST(History, what_does_not_change_costs_two_points)
{
  FakeProcess process;
  ProcessHistory history;
  for (int i = 0; i < 1000; ++i)
    history.push(process.idle(10).take());
  for (const ContextGroup &g : history.groups())
    EXPECT_EQ(g.points.size(), 2U) << g.name;
  EXPECT_NEAR(history.groups()[0].points.back().time.seconds, 9990, 1);
}

TEST(History, a_context_that_ends_leaves_a_zero)
{
  FakeProcess process;
  ProcessHistory history;
  history.push(process.take());
  history.push(process.set("TopMemoryContext|PortalContext", 5e6).advance(1).take());
  history.push(process.set("TopMemoryContext|PortalContext", 0, 0, 0).advance(1).take());
  const auto &points = group(history, "TopMemoryContext/PortalContext")->points;
  ASSERT_EQ(points.size(), 3U);
  EXPECT_EQ(points[0].used, 0U) << "it was not there at first";
  EXPECT_EQ(points[1].used, 5'000'000U);
  EXPECT_EQ(points[2].used, 0U);
}

TEST(History, an_incomplete_snapshot_does_not_pass_for_memory_given_back)
{
  FakeProcess process;
  ProcessHistory history;
  history.push(process.take());
  ProcessSnapshot torn = process.advance(1).take();
  torn.contexts.resize(2);
  torn.complete = false;
  history.push(torn);
  EXPECT_EQ(group(history, "TopMemoryContext/CacheMemoryContext/index info")->points.back().count,
            90U);
}

TEST(History, names_without_end_fold_into_their_parents)
{
  FakeProcess process;
  ProcessSnapshot snapshot = process.take();
  for (int i = 0; i < 5000; ++i) {
    Context context;
    context.address = 0x7000'0000ULL + 64ULL * static_cast<unsigned>(i);
    context.parent = 0;
    context.level = 2;
    context.name = "random " + std::to_string(i);
    context.total_bytes = 1024;
    snapshot.contexts.push_back(context);
  }
  ProcessHistory history;
  history.push(snapshot);
  EXPECT_LE(history.groups().size(), HistoryLimits{}.groups);
  std::uint64_t total = 0;
  for (const ContextGroup &g : history.groups())
    total += g.points.back().total;
  std::uint64_t expected = 0;
  for (const Context &context : snapshot.contexts)
    expected += context.total_bytes;
  EXPECT_EQ(total, expected) << "nothing is lost";
}

TEST(History, groups_that_are_gone_make_room)
{
  ProcessHistory history({.groups = 20});
  FakeProcess process;
  for (int i = 0; i < 2000; ++i) {
    ProcessSnapshot snapshot = process.advance(1).take();
    Context context;
    context.address = 0x7000'0000;
    context.parent = 0;
    context.level = 2;
    context.name = "name " + std::to_string(i / 100);
    snapshot.contexts.push_back(context);
    history.push(snapshot);
  }
  EXPECT_LE(history.groups().size(), 20U);
  EXPECT_NE(group(history, "TopMemoryContext/name 19"), nullptr);
  EXPECT_NE(group(history, "TopMemoryContext/CacheMemoryContext/index info"), nullptr);
}

TEST(History, an_older_or_empty_snapshot_is_ignored)
{
  FakeProcess process;
  ProcessHistory history;
  const ProcessSnapshot old = process.take();
  history.push(process.advance(1).take());
  history.push(old);
  history.push({});
  EXPECT_EQ(history.snapshots(), 1U);
}

TEST(History, a_torn_parent_does_no_harm)
{
  FakeProcess process;
  ProcessSnapshot snapshot = process.take();
  snapshot.contexts[3].parent = 77;
  snapshot.contexts[4].parent = -1;
  ProcessHistory history;
  history.push(snapshot);
  EXPECT_EQ(history.snapshots(), 1U);
}

TEST(History, only_activity_moves_the_active_axis)
{
  FakeProcess process;
  ProcessHistory history;
  history.push(process.take());
  history.push(process.idle(100).take());
  EXPECT_FLOAT_EQ(history.now().active, 0);
  history.push(process.advance(0.5, 7).take());
  EXPECT_FLOAT_EQ(history.now().active, 0.5);
  EXPECT_EQ(history.now().statements, 7U);
  EXPECT_NEAR(history.now().seconds, 100.5, 1e-6);
}

TEST(History, growing_queries_are_merged_and_sorted)
{
  FakeProcess process;
  ProcessHistory history;
  for (int i = 0; i < 50; ++i) {
    QueryGrowth growth;
    growth.query = "SELECT " + std::to_string(i % 10);
    growth.bytes = i % 10 == 3 ? 5000 : 10;
    growth.occurrences = 1;
    process.values().activity.growth = {growth};
    history.push(process.advance(1, 1).take());
  }
  ASSERT_FALSE(history.queries().empty());
  EXPECT_LE(history.queries().size(), HistoryLimits{}.queries);
  EXPECT_EQ(history.queries()[0].query, "SELECT 3");
  EXPECT_EQ(history.queries()[0].bytes, 25'000U);
}

TEST(History, the_largest_state_of_a_statement_is_remembered)
{
  FakeProcess process;
  ProcessHistory history;
  history.push(process.take());
  process.values().activity.peak = StatementPeak{.query = "SELECT 1",
                                                 .query_id = 9,
                                                 .bytes = 60ULL << 20,
                                                 .context_bytes = 50ULL << 20,
                                                 .context = "HashBatchContext"};
  history.push(process.advance(1, 1).take());
  process.set("TopMemoryContext|MessageContext|HashBatchContext", 20e6);
  history.push(process.advance(1, 1).take());
  ASSERT_EQ(history.highs().size(), 1U);
  EXPECT_EQ(history.highs()[0].context_bytes, 50ULL << 20);
  EXPECT_EQ(history.highs()[0].query, "SELECT 1");
  EXPECT_EQ(history.highs()[0].occurrences, 2U);
  EXPECT_EQ(history.highs()[0].path, "TopMemoryContext/MessageContext/HashBatchContext");
}

} // namespace
} // namespace pgmemtrace::test
