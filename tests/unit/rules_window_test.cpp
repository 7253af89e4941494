// SPDX-License-Identifier: BSD-2-Clause
// rules_window_test - what two snapshots say of the time between them.
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "rules/growth_shape.h"
#include "rules/window.h"
#include "rules_fake_process.h"

namespace pgmemtrace::test {
namespace {

const std::string kTop = "TopMemoryContext";
const std::string kCache = "TopMemoryContext|CacheMemoryContext";

// "rule context" of all that it finds.
std::vector<std::string> names(const std::vector<Violation> &violations)
{
  std::vector<std::string> out;
  for (const auto &violation : violations)
    out.push_back(violation.rule + " " + violation.context);
  return out;
}

class WindowTest : public testing::Test {
protected:
  template <typename Change>
  std::vector<Violation> window(Change change, const WindowLimits &limits = {})
  {
    const auto before = process_.advance(1, 1).take();
    change(process_);
    return judge_window(before, process_.advance(1, 3).take(), limits, {});
  }

  FakeProcess process_;
};

using testing::ElementsAre;
using testing::IsEmpty;

TEST_F(WindowTest, finds_nothing_where_nothing_changed)
{
  EXPECT_THAT(window([](FakeProcess &) {}), IsEmpty());
}

TEST_F(WindowTest, one_context_that_stays_is_a_leak)
{
  const auto found = window([](FakeProcess &p) { p.set(kTop + "|my_extension", 1, 500, 8192); });
  ASSERT_THAT(names(found), ElementsAre("context_leak my_extension"));
  EXPECT_EQ(found.front().path, "TopMemoryContext/my_extension");
  EXPECT_EQ(found.front().before_bytes, 0U);
  EXPECT_EQ(found.front().delta_bytes, 500);
  EXPECT_EQ(found.front().occurrences, 1U);
  EXPECT_EQ(found.front().severity, Severity::info);
}

TEST_F(WindowTest, counts_what_came_and_not_what_was_there)
{
  process_.set(kTop + "|my_extension", 40, 40 * 90e3, 40 * 100e3);
  EXPECT_THAT(window([](FakeProcess &) {}), IsEmpty());
  const auto found =
      window([](FakeProcess &p) { p.set(kTop + "|my_extension", 60, 60 * 90e3, 60 * 100e3); });
  ASSERT_THAT(names(found), ElementsAre("context_leak my_extension"));
  EXPECT_EQ(found.front().occurrences, 20U);
  EXPECT_EQ(found.front().severity, Severity::error); // 1.8 MB
}

TEST_F(WindowTest, is_silent_below_its_own_limits)
{
  WindowLimits limits{.min_leak_bytes = 10'000, .bloat_min_bytes = 20'000};
  process_.set(kTop + "|grower", 1, 1000, 8192);
  const auto grow = [](double by) {
    return [by](FakeProcess &p) {
      p.set(kTop + "|grower", 1, 1000 + by, 65536);
      p.set(kTop + "|newcomer", 1, by, by);
    };
  };
  EXPECT_THAT(names(window(grow(9'999), limits)), IsEmpty());
  process_.set(kTop + "|newcomer", 0, 0, 0).set(kTop + "|grower", 1, 1000, 8192);
  EXPECT_THAT(names(window(grow(15'000), limits)), ElementsAre("context_leak newcomer"));
}

TEST_F(WindowTest, a_context_that_was_there_and_grew_is_bloat)
{
  process_.set(kTop + "|grower", 1, 1000, 8192);
  const auto found = window([](FakeProcess &p) { p.set(kTop + "|grower", 1, 200'000, 262'144); });
  ASSERT_THAT(names(found), ElementsAre("ctx_bloat grower"));
  EXPECT_EQ(found.front().severity, Severity::warning);
}

TEST_F(WindowTest, memory_in_the_top_context_is_in_the_wrong_one)
{
  EXPECT_THAT(names(window([](FakeProcess &p) { p.set(kTop, 1, 190'000, 200'000); })),
              ElementsAre("wrong_ctx_alloc TopMemoryContext"));
}

TEST_F(WindowTest, at_level_alloc_whoever_gained_most_in_the_top_context_is_named)
{
  const auto holds = [](std::uint64_t caller, std::uint64_t bytes, std::string context = kTop) {
    return AllocCalls{.name = std::move(context), .caller = caller, .live_bytes = bytes};
  };
  process_.values().alloc_calls = {holds(1, 500'000), holds(2, 10'000)};
  const auto found = window([&](FakeProcess &p) {
    p.set(kTop, 1, 190'000, 200'000);
    p.values().alloc_calls = {holds(1, 505'000), holds(2, 40'000), holds(3, 20'000),
                              holds(4, 90'000, "CacheMemoryContext")};
  });
  ASSERT_EQ(found.size(), 1U);
  EXPECT_EQ(found.front().caller, 2U);
}

TEST_F(WindowTest, core_notes_its_locks_there)
{
  process_.set(kTop + "|LOCALLOCK hash", 1, 8'000, 8192);
  EXPECT_THAT(names(window([](FakeProcess &p) {
                p.set(kTop + "|LOCALLOCK hash", 1, 48'000, 65'536);
                p.set(kTop, 1, 90'000 + 100'000, 262'144);
              })),
              IsEmpty());
}

TEST_F(WindowTest, caches_that_fill_are_no_finding)
{
  EXPECT_THAT(names(window([](FakeProcess &p) {
                p.set(kCache, 1, 900'000, 1'048'576);
                p.set(kCache + "|index info", 200, 300'000, 400'000);
                p.set(kTop + "|CFuncHash", 1, 7'000, 8192);
                p.set(kTop + "|PL/pgSQL function", 3, 50'000, 60'000);
              })),
              IsEmpty());
}

TEST_F(WindowTest, the_statements_that_open_and_close_it_are_not_looked_at)
{
  EXPECT_THAT(names(window([](FakeProcess &p) {
                p.set(kTop + "|MessageContext", 1, 100'000, 131'072);
                p.set(kTop + "|MessageContext|my_extension", 4, 100'000, 131'072);
                p.set(kTop + "|TopPortalContext|PortalContext", 1, 1000, 1024);
                p.set(kTop + "|TopPortalContext|PortalContext|ExecutorState", 1, 90'000, 131'072);
              })),
              IsEmpty());
}

TEST_F(WindowTest, its_pattern_and_its_allowances_are_likes)
{
  const auto leak = [](FakeProcess &p) {
    p.set(kTop + "|one_cache", 1, 9000, 9000).set(kTop + "|other", 1, 9000, 9000);
  };
  const auto forget = [&] {
    process_.set(kTop + "|one_cache", 0, 0, 0).set(kTop + "|other", 0, 0, 0);
  };
  EXPECT_THAT(names(window(leak, {.pattern = "oth_r"})), ElementsAre("context_leak other"));
  forget();
  EXPECT_THAT(names(window(leak, {.allowed_contexts = {"%cache"}})),
              ElementsAre("context_leak other"));
}

TEST_F(WindowTest, blames_no_query_of_before)
{
  process_.values().activity.growth = {{.query = "SELECT 1", .bytes = 9'000, .new_contexts = 1}};
  const auto found = window([](FakeProcess &p) { p.set(kTop + "|my_extension", 1, 500, 8192); });
  ASSERT_EQ(found.size(), 1U);
  EXPECT_EQ(found.front().query, "");
}

TEST_F(WindowTest, names_the_query_and_the_code_of_the_time_between)
{
  const auto found = window([](FakeProcess &p) {
    p.set(kTop + "|my_extension", 5, 50'000, 50'000);
    p.values().activity.growth = {{.query = "SELECT leak()",
                                   .phase = Phase::execute,
                                   .bytes = 50'000,
                                   .new_contexts = 5,
                                   .occurrences = 5}};
    p.values().block_growth = {{.context = 0,
                                .made = true,
                                .name = "my_extension",
                                .bytes = 50'000,
                                .raised = 50'000,
                                .blocks = 5,
                                .stack = 77}};
  });
  ASSERT_EQ(found.size(), 1U);
  EXPECT_EQ(found.front().query, "SELECT leak()");
  EXPECT_EQ(found.front().stack_id, 77U);
}

TEST_F(WindowTest, within_a_transaction_what_lives_as_long_is_a_finding)
{
  const std::string transaction = kTop + "|TopTransactionContext";
  process_.set(transaction, 1, 1000, 8192);
  const auto grow = [&](FakeProcess &p) {
    p.set(transaction, 1, 50'000, 65'536).set(transaction + "|my_extension", 1, 20'000, 20'480);
  };
  EXPECT_THAT(names(window(grow)), IsEmpty());
  process_.set(transaction, 1, 1000, 8192).set(transaction + "|my_extension", 0, 0, 0);
  EXPECT_THAT(names(window(grow, {.within_transaction = true})),
              testing::UnorderedElementsAre("ctx_bloat TopTransactionContext",
                                            "context_leak my_extension"));
}

// ---- with moments in between ----

class GrowthShapeTest : public testing::Test {
protected:
  // `used` of a context after so many executions, from 0 on.
  static std::vector<Violation> shape(const std::vector<std::pair<std::uint32_t, double>> &used)
  {
    FakeProcess process;
    std::vector<GrowthPoint> points;
    for (const auto &[executions, bytes] : used) {
      process.set(kTop + "|grower", 1, bytes, 8e6);
      points.push_back(
          {executions, std::make_shared<ProcessSnapshot>(process.advance(1, 1).take())});
    }
    return keep_growing(judge_window(*points.front().snapshot, *points.back().snapshot, {}, {}),
                        points);
  }
};

TEST_F(GrowthShapeTest, the_same_for_each_execution_is_linear)
{
  const auto found = shape({{0, 1e3}, {2, 3e3}, {10, 11e3}, {46, 47e3}, {100, 101e3}});
  ASSERT_THAT(names(found), ElementsAre("ctx_bloat grower"));
  EXPECT_EQ(found.front().shape, "linear");
  EXPECT_EQ(found.front().severity, Severity::warning);
}

TEST_F(GrowthShapeTest, ever_more_is_superlinear_and_worse)
{
  const auto found = shape({{0, 1e3}, {2, 1.1e3}, {10, 2e3}, {46, 22e3}, {100, 101e3}});
  ASSERT_THAT(names(found), ElementsAre("ctx_bloat grower"));
  EXPECT_EQ(found.front().shape, "superlinear");
  EXPECT_EQ(found.front().severity, Severity::error);
}

TEST_F(GrowthShapeTest, what_is_filled_once_is_nothing)
{
  EXPECT_THAT(shape({{0, 1e3}, {2, 9e3}, {10, 90e3}, {46, 90e3}, {100, 90e3}}), IsEmpty());
  // Nor what goes back in the end.
  EXPECT_THAT(shape({{0, 1e3}, {2, 9e3}, {10, 90e3}, {46, 99e3}, {100, 80e3}}), IsEmpty());
}

TEST_F(GrowthShapeTest, a_begin_and_an_end_tell_no_shape)
{
  const auto found = shape({{0, 1e3}, {100, 101e3}});
  ASSERT_THAT(names(found), ElementsAre("ctx_bloat grower"));
  EXPECT_EQ(found.front().shape, "step");
}

TEST_F(WindowTest, what_core_took_for_its_first_parallel_query_is_not_in_the_wrong_context)
{
  DsmSnapshot none, area;
  area.segments.push_back({.handle = 2, .mappings = {{.process = process_.values().process}}});
  area.segments.front().mappings.front().session = true;
  const auto &id = process_.values().process.id;
  const auto bytes = core_bytes_of(id, none, area);
  EXPECT_GT(bytes, 40 * kKiB);
  EXPECT_EQ(core_bytes_of(id, area, area), 0U);
  EXPECT_EQ(core_bytes_of({id.pid + 1, 1}, none, area), 0U);
  const auto grows_by = [&](double more) {
    process_.set(kTop, 1, 90'000, 300'000);
    const auto before = process_.advance(1, 1).take();
    process_.set(kTop, 1, 90'000 + more, 300'000);
    return judge_window(before, process_.advance(1, 1).take(), {}, {}, bytes);
  };
  EXPECT_THAT(grows_by(42'000), IsEmpty());
  EXPECT_EQ(grows_by(60'000).size(), 1U);
}

// ---- dynamic shared memory ----

constexpr ProcessId kSession{101, 1};

DsmSegment segment(std::uint32_t handle = 1234)
{
  return {.handle = handle, .seen = true, .settled = true, .bytes = 65536};
}

// In the third request of the session, which closes the window.
DsmMapping of_session(bool pinned)
{
  return {.process = {.id = kSession}, .pinned = pinned, .requests = 3};
}

DsmOrigin made_in(std::uint32_t request)
{
  return {.process = kSession, .request = request, .query = "SELECT leak()", .stack = {1, 2}};
}

std::vector<Violation> dsm_window(const std::vector<DsmSegment> &after,
                                  const std::vector<DsmSegment> &before = {})
{
  return judge_window_dsm({.id = kSession}, DsmSnapshot{.segments = before},
                          DsmSnapshot{.segments = after});
}

TEST(DsmWindow, a_mapping_that_is_pinned_is_left_behind)
{
  auto left = segment();
  left.attachments = 1;
  left.mappings = {of_session(true)};
  left.origin = made_in(2);
  const auto found = dsm_window({left});
  ASSERT_EQ(found.size(), 1U);
  EXPECT_EQ(found[0].rule, "dsm_leak");
  EXPECT_EQ(found[0].process.id, kSession);
  EXPECT_EQ(found[0].delta_bytes, 65536);
  EXPECT_EQ(found[0].query, "SELECT leak()");
  EXPECT_THAT(found[0].detail, testing::HasSubstr("handle 1234"));
  ASSERT_EQ(found[0].segments.size(), 1U);
  EXPECT_THAT(dsm_window({left}, {segment()}), IsEmpty()); // it was there before
  left.origin.reset();                                     // made by whomever
  EXPECT_EQ(dsm_window({left}).size(), 1U);
}

TEST(DsmWindow, a_segment_that_it_pinned_and_let_go_is_left_behind)
{
  auto left = segment();
  left.pinned = true;
  left.origin = made_in(2);
  EXPECT_EQ(dsm_window({left}).size(), 1U);
}

TEST(DsmWindow, what_a_resource_owner_has_is_left_behind_by_an_earlier_statement_only)
{
  auto left = segment();
  left.mappings = {of_session(false)};
  left.origin = made_in(2);
  EXPECT_EQ(dsm_window({left}).size(), 1U);
  left.origin = made_in(3); // of the statement that closes the window
  EXPECT_THAT(dsm_window({left}), IsEmpty());
  left.origin = made_in(2);
  left.mappings.front().requests = 0; // they are not counted
  EXPECT_THAT(dsm_window({left}), IsEmpty());
}

TEST(DsmWindow, one_finding_for_each_place_that_made_some)
{
  std::vector<DsmSegment> left;
  for (std::uint32_t handle = 2; handle <= 10; handle += 2) {
    left.push_back(segment(handle));
    left.back().mappings = {of_session(true)};
    left.back().origin = made_in(2);
  }
  left.back().origin->stack = {3, 2};
  const auto found = dsm_window(left);
  ASSERT_EQ(found.size(), 2U);
  EXPECT_EQ(found[0].occurrences, 4U);
  EXPECT_EQ(found[1].occurrences, 1U);
}

TEST(DsmWindow, is_silent_about_what_is_looked_after_or_anothers)
{
  auto left = segment();
  left.pinned = true;
  left.mappings = {of_session(true)};
  left.origin = made_in(2);
  ASSERT_EQ(dsm_window({left}).size(), 1U);
  for (bool DsmSegment::*fact : {&DsmSegment::area, &DsmSegment::registered}) {
    auto healthy = left;
    healthy.*fact = true;
    EXPECT_THAT(dsm_window({healthy}), IsEmpty());
  }
  auto unseen = left; // it may be an area
  unseen.seen = false;
  EXPECT_THAT(dsm_window({unseen}), IsEmpty());
  auto core = left; // for parallel query
  core.mappings.front().session = true;
  EXPECT_THAT(dsm_window({core}), IsEmpty());
  auto of_another = left;
  of_another.mappings.front().process.id.pid = 102;
  of_another.origin->process.pid = 102;
  EXPECT_THAT(dsm_window({of_another}), IsEmpty());
  auto handed_over = left; // goes with the worker that has it now
  handed_over.pinned = false;
  handed_over.mappings.front().process.id.pid = 102;
  EXPECT_THAT(dsm_window({handed_over}), IsEmpty());
}

} // namespace
} // namespace pgmemtrace::test
