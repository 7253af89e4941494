// SPDX-License-Identifier: BSD-2-Clause
// catcache_report_test.cpp - caches as a table and as JSON.
#include "cli/catcache_report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace pgmemtrace::test {
namespace {

using nlohmann::json;
using testing::HasSubstr;
using testing::Not;

CacheSnapshot small()
{
  CacheSnapshot snapshot;
  snapshot.process.id.pid = 4711;
  snapshot.process.backend_type = "client backend";
  snapshot.process.major = 15;
  snapshot.tuples = 12;
  snapshot.relations = 140;
  snapshot.plans = SavedPlans{.plans = 3, .generic = 2, .invalid = 1};
  snapshot.prepared_statements = 2;
  snapshot.portals = 1;
  snapshot.caches = {
      {.id = 1, .catalog_oid = 1249, .index_oid = 2659, .tuples = 2, .buckets = 8, .bytes = 900},
      {.id = 2, .catalog_oid = 1247, .index_oid = 2703, .buckets = 16, .bytes = 272},
      {.id = 55,
       .catalog_oid = 1259,
       .index_oid = 2662,
       .catalog = "pg_class",
       .index = "pg_class_oid_index",
       .tuples = 10,
       .negative = 4,
       .lists = 3,
       .buckets = 128,
       .bytes = 5120}};
  return snapshot;
}

TEST(PrintCaches, the_biggest_comes_first_and_empty_ones_are_counted)
{
  const std::string text = print_caches(small(), nullptr);
  EXPECT_THAT(text, HasSubstr("process 4711: client backend, PostgreSQL 15\n"));
  EXPECT_LT(text.find("pg_class by pg_class_oid_index"), text.find("1249 by 2659"));
  EXPECT_THAT(text, Not(HasSubstr("1247")));
  EXPECT_THAT(text, HasSubstr("(1 more are empty)"));
  EXPECT_THAT(text, HasSubstr("total: 12 tuples in 3 caches, 4 of them negative"));
  EXPECT_THAT(text, HasSubstr("relation cache: 140 relations; saved plans: 3 (2 with a generic "
                              "plan, 1 to be made again); prepared statements: 2; portals: 1\n"));
  EXPECT_THAT(text, Not(HasSubstr("advice:")));
}

TEST(PrintCaches, growth_shows_a_cache_that_was_emptied)
{
  CacheGrowth growth{.interval = std::chrono::seconds(2), .changes = {{}, {}, {}}};
  growth.changes[1] = {.tuples = -7, .bytes = -700, .removed = 7};
  growth.changes[2] = {.tuples = 5, .bytes = 800, .added = 6, .removed = 1};
  const std::string text = print_caches(small(), &growth);
  EXPECT_THAT(text, testing::ContainsRegex(" 0 +-7 +0 +7 .* 1247 by 2703\n"));
  EXPECT_THAT(text, testing::ContainsRegex(" 10 +\\+5 +6 +1 .* pg_class by"));
  EXPECT_THAT(text, HasSubstr("in 2.0 s: -2 tuples (6 added, 8 removed), +100 B\n"));
}

TEST(PrintCaches, what_is_large_gets_advice)
{
  CacheSnapshot negative = small();
  negative.tuples = 3000;
  negative.caches[2].tuples = 2998;
  negative.caches[2].negative = 2900;
  EXPECT_THAT(print_caches(negative, nullptr), HasSubstr("advice: most tuples are negative: "));
  CacheSnapshot large = small();
  large.caches[0].bytes = 64 << 20;
  EXPECT_THAT(print_caches(large, nullptr), HasSubstr("advice: large for one session: "));
  CacheSnapshot plans = small();
  plans.plans->plans = 5000;
  EXPECT_THAT(print_caches(plans, nullptr), HasSubstr("advice: many saved plans: "));
}

TEST(PrintCaches, what_could_not_be_seen_is_said)
{
  CacheSnapshot snapshot = small();
  snapshot.portals.reset();
  snapshot.plans.reset();
  snapshot.unseen = {"find PortalHashTable: why\nnot"};
  const std::string text = print_caches(snapshot, nullptr);
  EXPECT_THAT(text, HasSubstr("saved plans: ?; prepared statements: 2; portals: ?\n"
                              "not seen: find PortalHashTable: why not\n"));
}

TEST(JsonOfCaches, is_one_line_with_null_for_the_unknown)
{
  CacheSnapshot snapshot = small();
  snapshot.portals.reset();
  const std::string line = json_of_caches(snapshot, nullptr);
  EXPECT_EQ(line.find('\n'), line.size() - 1);
  const auto object = json::parse(line);
  EXPECT_EQ(object["type"], "catcache");
  EXPECT_EQ(object["pid"], 4711);
  EXPECT_EQ(object["tuples"], 12);
  EXPECT_EQ(object["negative"], 4);
  EXPECT_EQ(object["estimated_bytes"], 6292);
  EXPECT_EQ(object["saved_plans"], 3);
  EXPECT_TRUE(object["portals"].is_null());
  EXPECT_TRUE(object["database"].is_null());
  EXPECT_TRUE(object["interval_seconds"].is_null());
  ASSERT_EQ(object["caches"].size(), 3u) << "empty ones, too";
  EXPECT_EQ(object["caches"][0]["index"], "pg_class_oid_index");
  EXPECT_EQ(object["caches"][0]["buckets"], 128);
  EXPECT_TRUE(object["caches"][0]["added"].is_null());
  EXPECT_TRUE(object["caches"][1]["catalog"].is_null());
}

TEST(JsonOfCaches, bytes_that_are_no_text_do_not_break_it)
{
  CacheSnapshot snapshot = small();
  snapshot.caches[0].catalog = "pg\xff\"\n";
  const auto object = json::parse(json_of_caches(snapshot, nullptr), nullptr, false);
  EXPECT_TRUE(object.is_object());
}

// ---- what changed ------------------------------------------------------------------------

TEST(ChangesBetween, entries_are_told_by_address_and_hash)
{
  CacheSnapshot older;
  older.caches = {{.id = 5, .tuples = 3, .bytes = 300, .entries = {{10, 1}, {20, 2}, {30, 3}}}};
  CacheSnapshot newer;
  newer.caches = {{.id = 6, .tuples = 1, .bytes = 50, .entries = {{90, 9}}},
                  {.id = 5, .tuples = 3, .bytes = 250, .entries = {{10, 1}, {20, 7}, {40, 4}}}};
  const auto changes = changes_between(older, newer);
  ASSERT_EQ(changes.size(), 2u);
  EXPECT_EQ(changes[0].added, 1u) << "a cache that was not there had nothing";
  EXPECT_EQ(changes[0].tuples, 1);
  EXPECT_EQ(changes[1].tuples, 0);
  EXPECT_EQ(changes[1].bytes, -50);
  EXPECT_EQ(changes[1].added, 2u);
  EXPECT_EQ(changes[1].removed, 2u);
}

} // namespace
} // namespace pgmemtrace::test
