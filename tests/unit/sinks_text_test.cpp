// SPDX-License-Identifier: BSD-2-Clause
// sinks_text_test - foreign bytes made fit for JSON, terminals and labels.
#include "util/text.h"

#include <cstdint>
#include <limits>

#include <gtest/gtest.h>

namespace pgmemtrace::test {
namespace {

TEST(ValidUtf8, keeps_what_is_valid)
{
  EXPECT_EQ(valid_utf8("a\u00e4\u20ac\U0001F600"), "a\u00e4\u20ac\U0001F600");
}

TEST(ValidUtf8, cuts_between_characters)
{
  EXPECT_EQ(valid_utf8("a\u20acb", 2), "a");
  EXPECT_EQ(valid_utf8("a\u20acb", 3), "a");
  EXPECT_EQ(valid_utf8("a\u20acb", 4), "a\u20ac");
}

TEST(ValidUtf8, replaces_what_is_not)
{
  EXPECT_EQ(valid_utf8("a\xff"
                       "b\x80"),
            "a\uFFFDb\uFFFD");
  EXPECT_EQ(valid_utf8("\xC0\xAF"), "\uFFFD\uFFFD");             // overlong
  EXPECT_EQ(valid_utf8("\xED\xA0\x80x"), "\uFFFD\uFFFD\uFFFDx"); // a surrogate
  EXPECT_EQ(valid_utf8("\xF5x"), "\uFFFDx");
}

TEST(OneLine, folds_blanks_and_controls)
{
  EXPECT_EQ(one_line("  SELECT\n\t1\x1b[31m \x7f\u0085 x  "), "SELECT 1 [31m x");
}

TEST(OneLine, says_that_it_was_cut)
{
  EXPECT_EQ(one_line("SELECT 1", 8), "SELECT 1");
  EXPECT_EQ(one_line("SELECT 12", 8), "SELECT 1...");
  EXPECT_EQ(one_line("\u20ac\u20ac", 5), "\u20ac...");
}

TEST(HumanBytes, has_three_digits_at_most)
{
  EXPECT_EQ(human_bytes(0), "0 B");
  EXPECT_EQ(human_bytes(1023), "1023 B");
  EXPECT_EQ(human_bytes(1024), "1.0 KiB");
  EXPECT_EQ(human_bytes(1258291), "1.2 MiB");
  EXPECT_EQ(human_bytes(340 * 1024 * 1024), "340 MiB");
  EXPECT_EQ(human_bytes(1024 * 1024 - 1), "1.0 MiB");
  EXPECT_EQ(human_bytes(std::numeric_limits<std::uint64_t>::max()), "16.0 EiB");
}

TEST(HumanDelta, has_a_sign)
{
  EXPECT_EQ(human_delta(9017754), "+8.6 MiB");
  EXPECT_EQ(human_delta(-512), "-512 B");
  EXPECT_EQ(human_delta(std::numeric_limits<std::int64_t>::min()), "-8.0 EiB");
}

} // namespace
} // namespace pgmemtrace::test
