// SPDX-License-Identifier: BSD-2-Clause
// knowledge_test - the compiled-in table and how its prose is read.
#include <string>

#include <gtest/gtest.h>

#include "knowledge/known_contexts.h"

namespace pgmemtrace::test {
namespace {

struct Row {
  std::string name;
  Lifetime lifetime;
  Growth growth;
  Family family;
};

class Known : public testing::TestWithParam<Row> {};

TEST_P(Known, is_read_as_meant)
{
  const KnownContext *known = lookup(GetParam().name, 15);
  ASSERT_NE(known, nullptr);
  EXPECT_EQ(to_string(known->lifetime), to_string(GetParam().lifetime));
  EXPECT_EQ(to_string(known->growth), to_string(GetParam().growth));
  EXPECT_EQ(known->family, GetParam().family);
}

const Row kRows[] = {
    {"TopMemoryContext", Lifetime::process, Growth::constant, Family::none},
    {"ErrorContext", Lifetime::process, Growth::constant, Family::none},
    {"CacheMemoryContext", Lifetime::session_cache, Growth::objects, Family::relations},
    {"index info", Lifetime::cache_entry, Growth::objects, Family::relations},
    {"Relcache by OID", Lifetime::session_cache, Growth::objects, Family::relations},
    {"CachedPlanSource", Lifetime::cache_entry, Growth::objects, Family::plans},
    {"CachedPlan", Lifetime::cache_entry, Growth::objects, Family::plans},
    {"SPI Plan", Lifetime::cache_entry, Growth::objects, Family::plans},
    {"PL/pgSQL function", Lifetime::cache_entry, Growth::objects, Family::functions},
    {"TopTransactionContext", Lifetime::transaction, Growth::data, Family::none},
    {"CurTransactionContext", Lifetime::transaction, Growth::data, Family::none},
    {"AfterTriggerEvents", Lifetime::transaction, Growth::data, Family::none},
    {"PortalContext", Lifetime::portal, Growth::data, Family::none},
    {"PortalHoldContext", Lifetime::portal, Growth::work_mem, Family::none},
    {"MessageContext", Lifetime::message, Growth::data, Family::none},
    {"ExecutorState", Lifetime::statement, Growth::data, Family::none},
    {"SPI Proc", Lifetime::statement, Growth::data, Family::none},
    {"expanded array", Lifetime::statement, Growth::data, Family::none},
    {"HashBatchContext", Lifetime::statement, Growth::work_mem, Family::none},
    {"TupleSort sort", Lifetime::statement, Growth::maintenance, Family::none},
    {"Caller tuples", Lifetime::statement, Growth::maintenance, Family::none},
    {"ExprContext", Lifetime::scratch, Growth::constant, Family::none},
    {"LocalBufferContext", Lifetime::session_cache, Growth::work_mem, Family::none},
    {"LOCALLOCK hash", Lifetime::session_cache, Growth::objects, Family::none},
};

INSTANTIATE_TEST_SUITE_P(Contexts, Known, testing::ValuesIn(kRows), [](const auto &param) {
  std::string name = param.param.name;
  for (char &c : name)
    if (!std::isalnum(static_cast<unsigned char>(c)))
      c = '_';
  return name;
});

TEST(KnownContexts, another_one_s_name_is_unknown)
{
  EXPECT_EQ(lookup("BuggyPlannerLeakCtx", 15), nullptr);
  EXPECT_EQ(lookup("", 15), nullptr);
}

TEST(KnownContexts, the_row_of_the_major_is_taken)
{
  ASSERT_NE(lookup("Caller tuples", 17), nullptr);
  EXPECT_EQ(lookup("GUCMemoryContext", 16)->since_major, 16);
}

TEST(KnownContexts, fields_with_commas_are_whole)
{
  const KnownContext *known = lookup("Filesystem", 15);
  ASSERT_NE(known, nullptr);
  EXPECT_EQ(lookup("AfterTriggerEvents", 15)->growth_text.substr(0, 18), "Deferred/AFTER tri");
  EXPECT_TRUE(lookup("AfterTriggerEvents", 15)->growth_text.ends_with("cannot spill to disk."));
}

TEST(Advice, every_context_gets_one_sentence)
{
  for (const char *name : {"", "TopMemoryContext", "CachedPlanSource", "Attopt cache", "GEQO",
                           "WAL record construction", "my_extension"}) {
    const std::string advice{advice_for(name, 15)};
    EXPECT_TRUE(advice.ends_with('.')) << name << ": " << advice;
  }
  EXPECT_NE(advice_for("my_extension", 15).find("extension"), std::string::npos);
  EXPECT_NE(advice_for("CachedPlanSource", 15).find("DEALLOCATE"), std::string::npos);
}

} // namespace
} // namespace pgmemtrace::test
