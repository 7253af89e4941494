// SPDX-License-Identifier: BSD-2-Clause
// contexts_print_test.cpp - a tree in its three forms.
#include <algorithm>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "snapshot/tree_print.h"

namespace pgmemtrace::test {
namespace {

using nlohmann::json;
using testing::HasSubstr;

Context context(std::int32_t parent, std::int32_t level, const std::string &name,
                std::uint64_t total, std::uint64_t free)
{
  return {.parent = parent,
          .level = level,
          .type = ContextType::alloc_set,
          .exact = true,
          .name = name,
          .total_bytes = total,
          .free_bytes = free,
          .total_nblocks = 1,
          .free_chunks = 2};
}

// Top -- Cache -- index info, index info; Top -- Error
ProcessSnapshot snapshot()
{
  ProcessSnapshot process;
  process.process.id.pid = 4242;
  process.process.backend_type = "client backend";
  process.process.database = "shop";
  process.process.user = "web";
  process.contexts = {context(-1, 1, "TopMemoryContext", 8192, 1000),
                      context(0, 2, "ErrorContext", 8192, 7928),
                      context(0, 2, "CacheMemoryContext", 524288, 4096),
                      context(2, 3, "index info", 2048, 100), context(2, 3, "index info", 1024, 0)};
  process.contexts[3].ident = "pg_class_oid_index";
  return process;
}

TEST(ContextsPrint, json_is_in_the_views_order_with_its_columns)
{
  const auto contexts = json::parse(print_tree(snapshot(), PrintFormat::json));
  ASSERT_EQ(contexts.size(), 5U);
  EXPECT_EQ(contexts[4]["path"], json::array({1, 3, 5}));
  EXPECT_EQ(contexts[3]["ident"], "pg_class_oid_index");
  EXPECT_TRUE(contexts[4]["ident"].is_null());
  EXPECT_EQ(contexts[3]["used_bytes"], 1948);
  EXPECT_EQ(contexts[3]["level"], 3);
  EXPECT_EQ(contexts[3]["type"], "AllocSet");
}

TEST(ContextsPrint, what_is_not_known_is_null)
{
  auto process = snapshot();
  process.contexts[1].exact = false;
  const auto contexts = json::parse(print_tree(process, PrintFormat::json));
  EXPECT_EQ(contexts[1]["total_bytes"], 8192);
  EXPECT_TRUE(contexts[1]["free_bytes"].is_null());
  EXPECT_TRUE(contexts[1]["used_bytes"].is_null());
  EXPECT_THAT(print_tree(process, PrintFormat::csv),
              HasSubstr("\"ErrorContext\",,AllocSet,2,\"{1,2}\",8192,,,,\n"));
}

TEST(ContextsPrint, any_bytes_make_valid_json)
{
  auto process = snapshot();
  process.contexts[1].name = "\xFF\x01\"\x1B[2J\n";
  process.contexts[1].ident = "\xC3";
  const auto contexts = json::parse(print_tree(process, PrintFormat::json), nullptr, false);
  EXPECT_TRUE(contexts.is_array());
  const auto text = print_tree(process, PrintFormat::text);
  EXPECT_EQ(text.find('\x1B'), std::string::npos);
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 2 + 4 + 1);
}

TEST(ContextsPrint, csv_quotes_what_needs_it)
{
  auto process = snapshot();
  process.contexts[3].ident = "SELECT \"a\",\n'b'";
  EXPECT_THAT(
      print_tree(process, PrintFormat::csv),
      HasSubstr("\"index info\",\"SELECT \"\"a\"\",\n'b'\",AllocSet,3,\"{1,3,4}\",2048,1,100,"
                "2,1948\n"));
}

TEST(ContextsPrint, text_is_biggest_first_and_folds_siblings)
{
  const auto text = print_tree(snapshot(), PrintFormat::text);
  EXPECT_THAT(text, HasSubstr("process 4242: client backend, database shop, user web"));
  const auto cache = text.find("  CacheMemoryContext\n");
  const auto folded = text.find("    index info x 2\n");
  const auto error = text.find("  ErrorContext\n");
  ASSERT_NE(error, std::string::npos) << text;
  EXPECT_LT(cache, folded) << text;
  EXPECT_LT(folded, error) << text;
  EXPECT_THAT(text, HasSubstr("in 5 contexts"));
}

TEST(ContextsPrint, summary_adds_up_by_name)
{
  const auto rows = json::parse(print_summary(snapshot(), PrintFormat::json));
  ASSERT_EQ(rows.size(), 4U);
  EXPECT_EQ(rows[0]["name"], "CacheMemoryContext");
  EXPECT_EQ(rows[3]["name"], "index info");
  EXPECT_EQ(rows[3]["contexts"], 2);
  EXPECT_EQ(rows[3]["total_bytes"], 3072);
  EXPECT_THAT(print_summary(snapshot(), PrintFormat::text), HasSubstr("index info"));
  EXPECT_THAT(print_summary(snapshot(), PrintFormat::csv),
              HasSubstr("\"index info\",2,3072,2,100,4,2972\n"));
}

TEST(ContextsPrint, nothing_is_printed_as_nothing)
{
  EXPECT_EQ(print_tree({}, PrintFormat::json), "[]\n");
  EXPECT_THAT(print_tree({}, PrintFormat::text), HasSubstr("in 0 contexts"));
}

} // namespace
} // namespace pgmemtrace::test
