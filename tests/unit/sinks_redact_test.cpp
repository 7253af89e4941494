// SPDX-License-Identifier: BSD-2-Clause
// sinks_redact_test - what leaves a query when its literals must go, and its fingerprint.
#include "util/redact.h"

#include <string>

#include <gtest/gtest.h>

namespace pgmemtrace::test {
namespace {

struct Case {
  const char *sql;
  const char *redacted;
};

TEST(Redact, drops_literals_and_keeps_the_rest)
{
  // A backslash does not escape in '...': standard_conforming_strings is on.
  const Case cases[] = {
      {"", ""},
      {"SELECT 1", "SELECT ?"},
      {"WHERE v = 'secret' AND w=''", "WHERE v = ? AND w=?"},
      {"'it''s' x", "? x"},
      {R"('back\' x)", "? x"},
      {R"(E'it\'s' x)", "? x"},
      {R"(e'a\\' x)", "? x"},
      // A string goes on in the next line, with the escapes that it began with.
      {"E'a'\n 'it\\'s' x", "? x"},
      {"e'a' -- it's\n\t-- a secret\r\n'it\\'s' x", "? x"},
      {"E'a' 'it\\' x", "? ? x"},
      {"'a'\n'it\\' x", "?\n? x"},
      {"B'01' X'ff' N'n'", "? ? ?"},
      {"U&'d\\0061t' x", "? x"},
      {"$$body 'x'$$ y", "? y"},
      {"$a$ $b$ 'x' $$ $a$ y", "? y"},
      {"$a$ $A$ y", "?"},
      {"$1 + $23", "$1 + $23"},
      {"a$b$c $1$2", "a$b$c $1$2"},
      {"$", "$"},
      {"$tag", "?"},
      {"t1.c2 = 3", "t1.c2 = ?"},
      {"\"a'1\"\"b\" = 1", "\"a'1\"\"b\" = ?"},
      {"é1 = 1", "é1 = ?"},
      {"1.5+.5-1e-3*2E+4/0x1F%1_000", "?+?-?*?/?%?"},
      {"a[1:2], f(-5)", "a[?:?], f(-?)"},
      {"FOR i IN 1..10", "FOR i IN ?..?"},
      {"0x1e+5", "?+?"},
      {"1 -- it's a secret\n+ 2", "?  \n+ ?"},
      {"1 /* a /* b */ 'c' */ + 2", "?   + ?"},
      {"a->>'k' - 1", "a->>? - ?"},
  };
  for (const Case &c : cases)
    EXPECT_EQ(redact(c.sql), c.redacted) << c.sql;
}

// Queries are cut after 1,024 bytes: what has no end must not come through.
TEST(Redact, drops_literals_that_are_cut)
{
  const Case cases[] = {
      {"v = 'secre", "v = ?"}, {"v = E'secre\\", "v = ?"}, {"v = $x$secre", "v = ?"},
      {"v /* secre", "v  "},   {"v -- secre", "v  "},      {"v = \"na", "v = \"na"},
      {"v = 'it'", "v = ?"},   {"v = U&'x", "v = ?"},
  };
  for (const Case &c : cases)
    EXPECT_EQ(redact(c.sql), c.redacted) << c.sql;
}

TEST(Redact, ends_on_any_bytes)
{
  std::string bytes;
  for (unsigned i = 0; i < 70'000; ++i)
    bytes += static_cast<char>((i * 7919U + i / 251U) & 0xFFU);
  for (std::size_t cut = 0; cut < 600; ++cut)
    EXPECT_LE(redact(std::string_view(bytes).substr(cut, cut * 3)).size(), cut * 3);
}

TEST(Fingerprint, is_the_same_for_other_literals_and_layout)
{
  EXPECT_EQ(fingerprint("SELECT * FROM t WHERE id = 1"),
            fingerprint("  SELECT *\n FROM t -- note\n WHERE\tid = 'x'  "));
}

TEST(Fingerprint, differs_for_other_statements)
{
  EXPECT_NE(fingerprint("SELECT * FROM t"), fingerprint("SELECT * FROM u"));
  EXPECT_NE(fingerprint("SELECT ab"), fingerprint("SELECT a b"));
}

// Stored next to violations: it must not change from release to release.
TEST(Fingerprint, is_stable) { EXPECT_EQ(fingerprint(""), 0xcbf29ce484222325ULL); }

} // namespace
} // namespace pgmemtrace::test
