// SPDX-License-Identifier: BSD-2-Clause
// contexts_test.cpp - `pgmemtrace contexts` against what backends say of themselves.
#include <csignal>
#include <map>
#include <regex>

#include <gmock/gmock.h>
#include <nlohmann/json.hpp>

#include "support/context_report.h"
#include "support/runtime_test.h"

namespace pgmemtrace::test {
namespace {

using nlohmann::json;
using testing::HasSubstr;

struct ContextsTest : RuntimeTest {
  static void SetUpTestSuite() { use_cluster({.conf = conf_for_reports({"wal_level = logical"})}); }
};

std::map<std::string, int> count_types(const json &contexts)
{
  std::map<std::string, int> types;
  for (const auto &context : contexts)
    ++types[context["type"].get<std::string>()];
  return types;
}

// ---- equal to what the process says of itself ----------------------------------------

TEST_F(ContextsTest, fresh_backend_is_as_it_says)
{
  auto session = cluster().connect();
  EXPECT_FALSE(expect_same_as_reported(cluster(), session.backend_pid()).empty());
}

TEST_F(ContextsTest, busy_life_is_as_it_says)
{
  auto session = cluster().connect();
  session.exec("CREATE TEMP TABLE t AS SELECT i, repeat('x', i % 300) AS x "
               "FROM generate_series(1, 2000) i");
  session.exec("CREATE INDEX ON t (i); ANALYZE t");
  for (int i = 0; i < 10; ++i) {
    const auto number = std::to_string(i);
    session.exec("PREPARE p" + number + " AS SELECT x,\n\t'" + std::string(40, 'q') +
                 "' FROM t WHERE i = $1 AND i <> " + number);
    for (int run = 0; run < 7; ++run) // a generic plan from the sixth on
      session.exec("EXECUTE p" + number + "(" + std::to_string(run) + ")");
  }
  session.exec("CREATE FUNCTION pg_temp.f(n int) RETURNS text LANGUAGE plpgsql AS $$\n"
               "DECLARE s text := ''; r record;\n"
               "BEGIN FOR r IN SELECT x FROM t ORDER BY i LIMIT n LOOP s := s || r.x; END LOOP;\n"
               "BEGIN PERFORM 1/0; EXCEPTION WHEN division_by_zero THEN s := s || '!'; END;\n"
               "RETURN s; END $$");
  session.exec("SELECT length(pg_temp.f(500))");
  session.exec("DEALLOCATE p3; DEALLOCATE p7");
  session.exec("SELECT 'a' ~ ('b' || i) FROM generate_series(1, 20) i");
  session.exec("BEGIN; DECLARE c SCROLL CURSOR FOR SELECT * FROM t ORDER BY x");
  session.exec("FETCH 500 FROM c");
  session.exec("SAVEPOINT s; DECLARE h CURSOR WITH HOLD FOR SELECT i FROM t");
  const auto contexts = expect_same_as_reported(cluster(), session.backend_pid());
  EXPECT_GT(contexts.size(), 80U);
}

TEST_F(ContextsTest, open_sort_is_as_it_says)
{
  auto session = cluster().connect();
  session.exec("BEGIN; DECLARE sorted CURSOR FOR SELECT g, repeat('x', 100) FROM "
               "generate_series(1, 5000) g ORDER BY 1 DESC");
  session.exec("FETCH 10 FROM sorted");
  const auto types = count_types(expect_same_as_reported(cluster(), session.backend_pid()));
  // Tuplesort keeps its tuples in a Bump since 17, with the keys in memory of its own.
  EXPECT_EQ(types.contains("Bump"), cluster().major().number >= 17);
}

TEST_F(ContextsTest, walsender_that_decodes_is_as_it_says)
{
  auto admin = cluster().connect();
  admin.exec("CREATE TABLE decoded (i int, x text)");
  admin.exec("SELECT pg_create_logical_replication_slot('slot', 'test_decoding')");
  auto client = cluster().spawn_client({"pg_recvlogical", "--dbname", "postgres", "--slot", "slot",
                                        "--start", "--file", "/dev/null"});
  ASSERT_TRUE(client);
  admin.exec("INSERT INTO decoded SELECT i, repeat('y', i % 500) FROM generate_series(1, 3000) i");
  admin.exec("BEGIN; UPDATE decoded SET i = i + 1; ROLLBACK");
  admin.exec("DELETE FROM decoded WHERE i % 3 = 0");
  const auto end = admin.value("SELECT pg_current_wal_lsn()");
  EXPECT_TRUE(eventually([&] {
    return admin.value("SELECT bool_and(sent_lsn >= '" + end + "') FROM pg_stat_replication") ==
           "t";
  }));
  const auto types =
      count_types(expect_same_as_reported(cluster(), process_of_type(cluster(), "walsender")));
  EXPECT_TRUE(types.contains("Generation"));
  EXPECT_TRUE(types.contains("Slab"));
  client->signal(SIGTERM);
  EXPECT_TRUE(client->wait(std::chrono::seconds(20)));
}

TEST_F(ContextsTest, background_processes_are_as_they_say)
{
  for (const char *type : {"logical replication launcher", "checkpointer", "autovacuum launcher"}) {
    SCOPED_TRACE(type);
    EXPECT_FALSE(expect_same_as_reported(cluster(), process_of_type(cluster(), type)).empty());
  }
}

// ---- forms -----------------------------------------------------------------------------

TEST_F(ContextsTest, json_has_the_views_columns)
{
  auto session = cluster().connect();
  const auto contexts = json_contexts(session.backend_pid());
  ASSERT_FALSE(contexts.empty());
  const auto &top = contexts[0];
  EXPECT_EQ(top["name"], "TopMemoryContext");
  EXPECT_EQ(top["type"], "AllocSet");
  EXPECT_EQ(top["level"], 1);
  EXPECT_EQ(top["path"], json::array({1}));
  EXPECT_TRUE(top["ident"].is_null());
  for (const auto &context : contexts) {
    EXPECT_EQ(context.size(), 10U);
    EXPECT_EQ(context["path"].size(), context["level"].get<std::size_t>());
    EXPECT_EQ(context["used_bytes"].get<std::int64_t>(),
              context["total_bytes"].get<std::int64_t>() -
                  context["free_bytes"].get<std::int64_t>());
  }
}

TEST_F(ContextsTest, text_says_whose_tree_it_is_and_the_sum)
{
  auto session = cluster().connect();
  session.exec("SELECT count(*) FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid");
  const auto result = contexts_of(session.backend_pid());
  EXPECT_EQ(result.status, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("process " + std::to_string(session.backend_pid()) +
                                    ": client backend, database postgres, user postgres"));
  EXPECT_THAT(result.out, HasSubstr("TopMemoryContext"));
  EXPECT_TRUE(std::regex_search(result.out, std::regex(R"(\n.*index info x \d+\n)"))) << result.out;
  EXPECT_THAT(result.out, HasSubstr("\ntotal: "));
  const auto csv = contexts_of(session.backend_pid(), {"--format", "csv"});
  EXPECT_THAT(csv.out, testing::StartsWith(
                           "name,ident,type,level,path,total_bytes,total_nblocks,free_bytes,"
                           "free_chunks,used_bytes\n\"TopMemoryContext\",,AllocSet,1,\"{1}\","));
  const auto summary = contexts_of(session.backend_pid(), {"--summary"});
  EXPECT_THAT(summary.out, HasSubstr("index info"));
}

TEST_F(ContextsTest, every_process_of_a_server_can_be_read)
{
  EXPECT_EQ(contexts_of(cluster().postmaster_pid()).status, 0);
  for (const char *type : {"background writer", "walwriter"}) {
    const auto result = contexts_of(process_of_type(cluster(), type));
    EXPECT_EQ(result.status, 0) << result.err;
    EXPECT_THAT(result.out, HasSubstr(type));
  }
}

// ---- processes that do not hold still, or are none --------------------------------------

TEST_F(ContextsTest, a_running_backend_is_read_or_says_that_it_moved)
{
  auto session = cluster().connect();
  session.exec("PREPARE busy AS SELECT count(*), string_agg(relname, ',') FROM pg_class "
               "GROUP BY relkind");
  session.send_async("DO $$BEGIN FOR i IN 1..100000000 LOOP "
                     "PERFORM string_agg(relname, ',') FROM pg_class GROUP BY relkind; "
                     "END LOOP; END$$");
  for (int i = 0; i < 200; ++i) {
    const auto result = contexts_of(session.backend_pid(), {"--format", "json"});
    ASSERT_EQ(result.status, 0) << result.err;
    ASSERT_TRUE(json::parse(result.out, nullptr, false).is_array()) << result.out;
    if (!result.err.empty()) {
      ASSERT_THAT(result.err, HasSubstr("warning: the tree is incomplete"));
    }
  }
  cluster().connect().exec("SELECT pg_terminate_backend(" + std::to_string(session.backend_pid()) +
                           ")");
}

TEST_F(ContextsTest, a_stopped_backend_is_read)
{
  auto session = cluster().connect();
  const pid_t pid = session.backend_pid();
  ASSERT_EQ(kill(pid, SIGSTOP), 0);
  const auto result = contexts_of(pid, {"--format", "json"});
  ASSERT_EQ(kill(pid, SIGCONT), 0);
  EXPECT_EQ(result.status, 0) << result.err;
  EXPECT_TRUE(result.err.empty()) << result.err;
  EXPECT_EQ(session.value("SELECT 1"), "1") << "and it goes on as if nothing had been";
}

TEST_F(ContextsTest, a_backend_that_exits_is_read_or_an_error)
{
  for (int i = 0; i < 20; ++i) {
    auto session = cluster().connect();
    const pid_t pid = session.backend_pid();
    session.close();
    const auto result = contexts_of(pid, {"--format", "json"});
    if (result.status == 0) {
      EXPECT_TRUE(json::parse(result.out, nullptr, false).is_array()) << result.out;
    } else {
      EXPECT_EQ(result.status, 3);
      EXPECT_TRUE(result.out.empty());
      EXPECT_THAT(result.err, testing::StartsWith("error: "));
    }
  }
}

TEST_F(ContextsTest, what_is_no_server_process_is_an_error)
{
  auto other = ChildProcess::spawn({"/bin/sleep", "600"});
  ASSERT_TRUE(other);
  pid_t missing = 4194303; // above it the kernel gives no pids; walk down to a free one
  while (kill(missing, 0) == 0)
    --missing;
  for (const pid_t pid : {other->pid(), missing}) {
    const auto result = contexts_of(pid, {"--format", "json"});
    EXPECT_EQ(result.status, 3);
    EXPECT_TRUE(result.out.empty());
    EXPECT_THAT(result.err, testing::StartsWith("error: "));
  }
}

} // namespace
} // namespace pgmemtrace::test
