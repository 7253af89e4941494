// SPDX-License-Identifier: BSD-2-Clause
// rules_dsm_test.cpp - dynamic shared memory: what is a leak, and what only looks like one.
#include <chrono>
#include <functional>
#include <memory>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "rules/rule_set.h"
#include "snapshot/dsm.h"

namespace pgmemtrace::test {
namespace {

using namespace std::chrono_literals;
using testing::HasSubstr;

DsmMapping held_by(pid_t pid, const std::string &type = "client backend")
{
  return {.process = {.id = {pid, 1}, .backend_type = type}, .idle = true};
}

// One process alone has it, and its transaction is over.
DsmSegment left_behind(std::uint32_t handle = 1234)
{
  return {.handle = handle,
          .attachments = 1,
          .settled = true,
          .bytes = 65536,
          .mappings = {held_by(101)}};
}

DsmSegment orphan()
{
  return {.handle = 1234, .pinned = true, .seen = true, .settled = true, .bytes = 65536};
}

// Looks at a server, ten seconds apart.
class Looks {
public:
  std::vector<Violation> look(std::vector<DsmSegment> segments, bool everybody = true)
  {
    auto dsm = std::make_shared<DsmSnapshot>();
    dsm->postmaster = {.id = {100, 1}, .postmaster = 100, .backend_type = "postmaster"};
    dsm->moment = std::chrono::steady_clock::time_point(10s * ++looks_);
    dsm->segments = std::move(segments);
    dsm->everybody = everybody;
    Snapshot snapshot;
    snapshot.servers.push_back({.postmaster = 100, .dsm = std::move(dsm)});
    return rules_.apply(snapshot);
  }
  // All that changed in so many looks at the same.
  std::vector<Violation> looks(int n, const std::vector<DsmSegment> &segments)
  {
    std::vector<Violation> all;
    for (int i = 0; i < n; ++i)
      for (auto &change : look(segments))
        all.push_back(std::move(change));
    return all;
  }
  RuleSet &rules() { return rules_; }

private:
  RuleSet rules_;
  int looks_ = 0;
};

TEST(DsmLeak, a_session_that_keeps_a_segment_after_its_transaction)
{
  Looks looks;
  EXPECT_THAT(looks.look({left_behind()}), testing::IsEmpty()); // it may be on its way
  const auto raised = looks.look({left_behind()});
  ASSERT_EQ(raised.size(), 1U);
  EXPECT_EQ(raised[0].rule, "dsm_leak");
  EXPECT_EQ(raised[0].severity, Severity::warning);
  EXPECT_EQ(raised[0].process.id.pid, 101);
  EXPECT_EQ(raised[0].after_bytes, 65536U);
  ASSERT_EQ(raised[0].segments.size(), 1U);
  EXPECT_EQ(raised[0].segments[0].handle, 1234U);
  EXPECT_THAT(raised[0].detail, HasSubstr("handle 1234"));
  EXPECT_THAT(looks.looks(5, {left_behind()}), testing::IsEmpty()); // told once
  EXPECT_EQ(looks.rules().active().size(), 1U);
  const auto cleared = looks.look({});
  ASSERT_EQ(cleared.size(), 1U);
  EXPECT_EQ(cleared[0].state, ViolationState::cleared);
}

TEST(DsmLeak, who_made_it_is_told)
{
  auto segment = left_behind();
  segment.origin = DsmOrigin{.process = {99, 1}, .query = "SELECT leak()", .query_id = 7};
  Looks looks;
  const auto raised = looks.looks(2, {segment});
  ASSERT_EQ(raised.size(), 1U);
  EXPECT_EQ(raised[0].query, "SELECT leak()");
  EXPECT_EQ(raised[0].query_id, 7U);
  EXPECT_THAT(raised[0].detail, HasSubstr("made by process 99"));
}

TEST(DsmLeak, a_busy_session_is_found_by_its_requests)
{
  auto segment = left_behind();
  segment.mappings[0].idle = false;
  segment.mappings[0].pinned = true;
  segment.mappings[0].requests = 10;
  Looks looks;
  EXPECT_THAT(looks.looks(5, {segment}), testing::IsEmpty()); // one long request
  segment.mappings[0].requests = 12;
  EXPECT_EQ(looks.look({segment}).size(), 1U);
}

TEST(DsmLeak, several_of_one_session_are_one_finding)
{
  Looks looks;
  const auto raised = looks.looks(2, {left_behind(2), left_behind(4), left_behind(6)});
  ASSERT_EQ(raised.size(), 1U);
  EXPECT_EQ(raised[0].occurrences, 3U);
  EXPECT_EQ(raised[0].after_bytes, 3 * 65536U);
}

TEST(DsmLeak, a_pinned_segment_of_nobody)
{
  Looks looks;
  EXPECT_THAT(looks.looks(2, {orphan()}), testing::IsEmpty());
  const auto raised = looks.look({orphan()});
  ASSERT_EQ(raised.size(), 1U);
  EXPECT_EQ(raised[0].process.id.pid, 100);
  EXPECT_EQ(raised[0].segments[0].handle, 1234U);
}

TEST(DsmLeak, a_segment_with_more_users_than_processes)
{
  auto segment = left_behind();
  segment.attachments = 2;
  Looks looks;
  EXPECT_THAT(looks.looks(3, {segment}), testing::IsEmpty());
  EXPECT_EQ(looks.look({segment}).size(), 1U);
  Looks part; // who does not see everybody cannot say
  for (int i = 0; i < 10; ++i)
    EXPECT_THAT(part.look({segment}, false), testing::IsEmpty());
}

TEST(DsmLeak, segments_pinned_twice_pile_up)
{
  const auto pinned = [](std::uint32_t handle) {
    auto segment = left_behind(handle);
    segment.pinned = true;
    return segment;
  };
  Looks looks;
  EXPECT_THAT(looks.looks(10, {pinned(2), pinned(4)}), testing::IsEmpty());
  EXPECT_EQ(looks.looks(2, {pinned(2), pinned(4), pinned(6)}).size(), 1U);
}

TEST(DsmLeak, areas_that_only_grow)
{
  Looks looks;
  std::vector<DsmSegment> pieces;
  std::vector<Violation> found;
  for (std::uint32_t i = 0; i < 30; ++i) {
    pieces.push_back({.handle = 2 * i + 2,
                      .attachments = 1,
                      .pinned = true,
                      .area = true,
                      .settled = true,
                      .bytes = 1 << 20,
                      .mappings = {held_by(101)}});
    for (auto &change : looks.look(pieces))
      found.push_back(std::move(change));
  }
  ASSERT_FALSE(found.empty());
  EXPECT_EQ(found[0].path, "(dsm areas)");
  EXPECT_GE(found[0].delta_bytes, 8 << 20);
}

// What is healthy, in ten looks without a change.
struct Healthy {
  const char *name;
  std::function<void(DsmSegment &)> make;
};
void PrintTo(const Healthy &healthy, std::ostream *out) { *out << healthy.name; }
class DsmHealthy : public testing::TestWithParam<Healthy> {};

TEST_P(DsmHealthy, is_silent)
{
  auto segment = left_behind();
  GetParam().make(segment);
  Looks looks;
  EXPECT_THAT(looks.looks(10, {segment}), testing::IsEmpty());
}

INSTANTIATE_TEST_SUITE_P(
    All, DsmHealthy,
    testing::Values(
        Healthy{"parallel_query",
                [](auto &s) {
                  s.mappings[0].idle = false;
                  s.mappings.push_back(held_by(102, "parallel worker"));
                  s.attachments = 2;
                }},
        Healthy{"leader_before_its_workers", [](auto &s) { s.mappings[0].idle = false; }},
        Healthy{"core_keeps_it_for_the_session", [](auto &s) { s.mappings[0].session = true; }},
        Healthy{"two_sessions_share_it",
                [](auto &s) {
                  s.mappings.push_back(held_by(102));
                  s.attachments = 2;
                }},
        Healthy{"a_worker_serves_others",
                [](auto &s) { s.mappings[0].process.backend_type = "background worker"; }},
        Healthy{"piece_of_an_area",
                [](auto &s) {
                  s.area = true;
                  s.pinned = true;
                }},
        Healthy{"piece_of_an_area_that_nobody_has",
                [](auto &s) {
                  s = orphan();
                  s.area = true;
                }},
        Healthy{"what_nobody_could_look_into",
                [](auto &s) {
                  s = orphan();
                  s.seen = false;
                }},
        Healthy{"the_registry_has_its_name",
                [](auto &s) {
                  s = orphan();
                  s.registered = true;
                }},
        Healthy{"it_changes_all_the_time", [](auto &s) { s.settled = false; }}),
    [](const auto &healthy) { return std::string(healthy.param.name); });

} // namespace
} // namespace pgmemtrace::test
