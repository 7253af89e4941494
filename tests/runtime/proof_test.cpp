// SPDX-License-Identifier: BSD-2-Clause
// proof_test.cpp - what an extension can do wrong with memory is found, named, and blamed on the
// right function and module; its twin, which does the same work as it should be done, is not.
#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include <gmock/gmock.h>

#include "support/copy_test.h"
#include "support/recording_test.h"

namespace pgmemtrace::test {
namespace {

using nlohmann::json;
using testing::HasSubstr;

// sql/test/module, with the faults and without.
struct Module {
  std::string name, schema;
};
const Module kBuggy{"buggy", "public"};
const Module kRepaired{"repaired", "repaired"};

std::string library(const Module &module) { return "pgmemtrace_" + module.name + ".so"; }

// "$" stands for the module's name.
struct Fault {
  std::string name;
  std::vector<std::string> before; // the window
  std::string sql;
  int times = 1;
  std::string rule, context;
  std::string function; // whose fault it is; empty: a write is not seen as it happens
};

void PrintTo(const Fault &fault, std::ostream *out) { *out << fault.name; }

std::string of(const Module &module, std::string text)
{
  for (std::size_t at = 0; (at = text.find('$', at)) != std::string::npos;)
    text.replace(at, 1, module.name);
  return text;
}

Session session_of(Session session, const Module &module)
{
  session.exec("SET search_path = " + module.schema + ", pg_catalog");
  return session;
}

// Names of a violation's stack, innermost first.
std::vector<std::string> functions_of(const json &violation)
{
  std::vector<std::string> out;
  for (const auto &frame : violation["stack"])
    out.push_back(frame["function"].is_string() ? frame["function"] : "");
  return out;
}

// ---- in a test window ---------------------------------------------------------------

class Proof : public CopyTest, public testing::WithParamInterface<Fault> {
protected:
  static json window(const Module &module)
  {
    const Fault &fault = GetParam();
    auto session = session_of(connect(), module);
    for (const auto &sql : fault.before)
      session.exec(of(module, sql));
    session.exec("SELECT pgmemtrace.begin()");
    for (int i = 0; i < fault.times; ++i)
      session.exec(of(module, fault.sql));
    return json::parse(session.value("SELECT coalesce(jsonb_agg(to_jsonb(v)), '[]') "
                                     "FROM pgmemtrace.end() AS v"));
  }
};

TEST_P(Proof, is_found_and_its_repair_is_not)
{
  const Fault &fault = GetParam();
  const auto daemon = watch({"--level", "alloc", "--max-overhead", "off"});
  const auto found = window(kBuggy);
  ASSERT_EQ(found.size(), 1U) << found;
  EXPECT_EQ(found[0]["rule"], fault.rule);
  const auto context = found[0]["context"];
  EXPECT_EQ(context.is_string() ? context.get<std::string>() : "", of(kBuggy, fault.context));
  if (fault.function.empty()) {
    EXPECT_THAT(found[0]["detail"].get<std::string>(), HasSubstr(of(kBuggy, fault.sql)));
  } else {
    EXPECT_EQ(found[0]["module"], library(kBuggy)) << found[0];
    EXPECT_THAT(functions_of(found[0]), testing::Contains(fault.function)) << found[0];
    // Not each of many short statements is looked at; but no other one is blamed.
    EXPECT_THAT(found[0]["query"], testing::AnyOf(json(nullptr), json(fault.sql)));
  }
  EXPECT_EQ(window(kRepaired), json::array());
}

INSTANTIATE_TEST_SUITE_P(
    All, Proof,
    testing::Values(Fault{.name = "a_context_per_call",
                          .before = {},
                          .sql = "SELECT leak_context(3000)",
                          .times = 10,
                          .rule = "context_leak",
                          .context = "$ leak",
                          .function = "buggy_leak_context"},
                    Fault{.name = "memory_in_TopMemoryContext_by_call",
                          .before = {},
                          .sql = "SELECT leak_in_top(200)",
                          .times = 200,
                          .rule = "wrong_ctx_alloc",
                          .context = "TopMemoryContext",
                          .function = "buggy_leak_in_top"},
                    Fault{.name = "memory_in_TopMemoryContext_of_each_query",
                          .before = {"SET pgmemtrace_$.bytes_per_query = 200"},
                          .sql = "SELECT 1",
                          .times = 200,
                          .rule = "wrong_ctx_alloc",
                          .context = "TopMemoryContext",
                          .function = "take_notes_of_query"},
                    Fault{.name = "a_pinned_dsm_segment",
                          .before = {},
                          .sql = "SELECT make_dsm(70000, true)",
                          .rule = "dsm_leak",
                          .context = "",
                          .function = "buggy_make_dsm"},
                    Fault{.name = "an_attached_dsm_segment",
                          .before = {},
                          .sql = "SELECT make_dsm(70000, false)",
                          .rule = "dsm_leak",
                          .context = "",
                          .function = "buggy_make_dsm"},
                    Fault{.name = "one_byte_past_its_segment",
                          .before = {"SELECT pgmemtrace.register_shmem_probe('$ first')"},
                          .sql = R"(SELECT write_to_segment('$ first', 1000, '\x2a'))",
                          .rule = "shmem_overrun",
                          .context = "$ first",
                          .function = ""}),
    [](const auto &fault) { return fault.param.name; });

// ---- outside of all contexts ----------------------------------------------------------

class MallocProof : public CopyTest, protected Recordings {};

TEST_F(MallocProof, growth_that_no_context_accounts_for_is_found_in_a_window)
{
  const auto daemon = watch();
  constexpr const char *kFault = "SELECT malloc_and_forget(1000000)";
  const auto raised = [&](Session &session) {
    const auto lines = daemon->json_lines();
    return std::ranges::any_of(lines, [&](const json &line) {
      return line["type"] == "violation" && line["rule"] == "unattributed_growth" &&
             line["server_pid"] == session.backend_pid();
    });
  };
  const auto end = [](Session &session) {
    return session.exec("SELECT rule FROM pgmemtrace.end()");
  };
  auto buggy = session_of(connect(), kBuggy);
  buggy.exec("SELECT pgmemtrace.begin()");
  int calls = 0;
  ASSERT_TRUE(eventually([&] {
    buggy.exec(kFault);
    ++calls;
    return raised(buggy);
  }));
  EXPECT_THAT(end(buggy), testing::ElementsAre(testing::ElementsAre("unattributed_growth")));

  auto repaired = session_of(connect(), kRepaired);
  repaired.exec("SELECT pgmemtrace.begin()");
  for (int i = 0; i < calls; ++i)
    repaired.exec(kFault);
  const auto statuses = [&] {
    return std::ranges::count_if(daemon->json_lines(),
                                 [](const json &line) { return line["type"] == "status"; });
  };
  const auto looks = statuses();
  EXPECT_TRUE(eventually([&] { return statuses() >= looks + 2; }));
  EXPECT_THAT(end(repaired), testing::IsEmpty());
}

TEST_F(MallocProof, a_recording_names_who_asked_for_what_it_forgot)
{
  constexpr int kCalls = 20;
  auto buggy = session_of(connect(), kBuggy);
  auto repaired = session_of(connect(), kRepaired);
  auto daemon = record(cluster().postmaster_pid(), {"--level", "malloc"});
  ASSERT_TRUE(daemon);
  for (int i = 0; i < kCalls; ++i)
    for (auto *session : {&buggy, &repaired})
      session->exec("SELECT malloc_and_forget(50000)");
  EXPECT_EQ(daemon->stop(), 0);
  const auto report = report_as_json({"--view", "live"});
  std::map<std::string, std::int64_t> forgotten; // by module
  for (const auto &one : report["allocations"])
    if (testing::Value(functions(one), testing::Contains("buggy_malloc_and_forget")))
      forgotten[one["module"]] += one["live_bytes"].get<std::int64_t>();
  EXPECT_EQ(forgotten, (std::map<std::string, std::int64_t>{{library(kBuggy), kCalls * 50000},
                                                            {library(kRepaired), 0}}));
}

} // namespace
} // namespace pgmemtrace::test
