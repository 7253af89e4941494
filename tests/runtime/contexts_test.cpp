// SPDX-License-Identifier: BSD-2-Clause
// contexts_test.cpp - `pgmemtrace contexts` against what backends say of themselves.
//
// The reference is the server's log after pg_log_backend_memory_contexts(): depth first,
// levels from 0, idents cut at 100 bytes, children beyond the hundredth summed up.
#include <algorithm>
#include <csignal>
#include <map>
#include <regex>
#include <sstream>

#include <gmock/gmock.h>
#include <nlohmann/json.hpp>

#include "support/runtime_test.h"

namespace pgmemtrace::test {
namespace {

using nlohmann::json;
using testing::HasSubstr;

CommandResult contexts_of(pid_t pid, const std::vector<std::string> &more = {})
{
  std::vector<std::string> argv{pgmemtrace_binary(), "contexts", "--pid", std::to_string(pid)};
  argv.insert(argv.end(), more.begin(), more.end());
  return run_command(argv);
}

json json_contexts(pid_t pid)
{
  const auto result = contexts_of(pid, {"--format", "json"});
  EXPECT_EQ(result.status, 0) << result.err;
  auto parsed = json::parse(result.out, nullptr, false);
  EXPECT_TRUE(parsed.is_array()) << result.out;
  return parsed;
}

// As MemoryContextStatsPrint() shows an ident (mcxt.c).
std::string as_logged(const json &ident)
{
  if (ident.is_null())
    return {};
  auto text = ident.get<std::string>();
  const bool cut = text.size() > 100;
  text = text.substr(0, 100);
  std::ranges::replace_if(
      text, [](char c) { return static_cast<unsigned char>(c) < ' '; }, ' ');
  return ": " + text + (cut ? "..." : "");
}

using Path = std::vector<int>;

struct Sums {
  std::int64_t total = 0, blocks = 0, free = 0, chunks = 0, used = 0;

  void add(const json &context)
  {
    total += context["total_bytes"].get<std::int64_t>();
    blocks += context["total_nblocks"].get<std::int64_t>();
    free += context["free_bytes"].get<std::int64_t>();
    chunks += context["free_chunks"].get<std::int64_t>();
    used += context["used_bytes"].get<std::int64_t>();
  }
  std::string text() const
  {
    std::ostringstream out;
    out << total << " total in " << blocks << " blocks; " << free << " free (" << chunks
        << " chunks); " << used << " used";
    return out.str();
  }
};

// What is below a context beyond its 100th child, in one line.
struct Folded {
  Path parent;
  int children = 0;
  Sums sums;

  bool holds(const Path &path) const
  {
    return children > 0 && path.size() > parent.size() &&
           std::equal(parent.begin(), parent.end(), path.begin());
  }
};

// The tree in the log's order and words: depth first is the order of paths.
std::vector<std::string> our_lines(json contexts)
{
  const auto path_of = [](const json &context) { return context["path"].get<Path>(); };
  std::sort(contexts.begin(), contexts.end(),
            [&](const json &left, const json &right) { return path_of(left) < path_of(right); });
  std::vector<std::string> lines;
  std::map<Path, int> children;
  Folded folded;
  for (const auto &context : contexts) {
    const Path path = path_of(context);
    const Path parent(path.begin(), path.end() - 1);
    const bool more = folded.holds(path);
    if (!more && ++children[parent] > 100)
      folded = {.parent = parent};
    if (more || children[parent] > 100) {
      folded.children += path.size() == folded.parent.size() + 1 ? 1 : 0;
      folded.sums.add(context);
      if (more)
        lines.pop_back();
      lines.push_back("level: " + std::to_string(folded.parent.size() - 1) + "; " +
                      std::to_string(folded.children) + " more child contexts containing " +
                      folded.sums.text());
      continue;
    }
    Sums own;
    own.add(context);
    lines.push_back("level: " + std::to_string(path.size() - 1) + "; " +
                    context["name"].get<std::string>() + ": " + own.text() +
                    as_logged(context["ident"]));
  }
  return lines;
}

struct ContextsTest : RuntimeTest {
  static void SetUpTestSuite()
  {
    use_cluster({.conf = {"wal_level = logical", "log_line_prefix = '[%p] '",
                          "max_prepared_transactions = 0"}});
  }

  // What the process logs of itself when asked; empty if it does not answer.
  static std::vector<std::string> logged_lines(Session &admin, pid_t pid)
  {
    const std::size_t before = cluster().log().size();
    if (admin.value("SELECT pg_log_backend_memory_contexts(" + std::to_string(pid) + ")") != "t")
      return {};
    const std::string mark = "[" + std::to_string(pid) + "] LOG:  ";
    const auto ours = [&] { return cluster().log().substr(before); };
    if (!eventually([&] { return ours().find(mark + "Grand total") != std::string::npos; }))
      return {};
    std::vector<std::string> lines;
    std::istringstream log(ours());
    // Of a Generation the log, unlike the view, has the number of chunks as well.
    const std::regex chunks(R"( blocks \(\d+ chunks\);)");
    for (std::string line; std::getline(log, line);)
      if (line.starts_with(mark + "level: "))
        lines.push_back(std::regex_replace(line.substr(mark.size()), chunks, " blocks;"));
    return lines;
  }

  // Background processes wake up now and then: both looks must fall between two wake-ups.
  static json expect_same_as_log(pid_t pid)
  {
    auto admin = cluster().connect();
    std::vector<std::string> theirs;
    json contexts;
    for (int attempt = 0; attempt < 20; ++attempt) {
      theirs = logged_lines(admin, pid);
      contexts = json_contexts(pid);
      if (theirs == our_lines(contexts))
        return contexts;
    }
    const auto ours = our_lines(contexts);
    EXPECT_EQ(theirs.size(), ours.size());
    for (std::size_t i = 0; i < std::min(theirs.size(), ours.size()); ++i)
      EXPECT_EQ(theirs[i], ours[i]);
    return contexts;
  }

  static pid_t pid_of(const std::string &backend_type)
  {
    auto admin = cluster().connect();
    std::string pid;
    EXPECT_TRUE(eventually([&] {
      pid =
          admin.value("SELECT coalesce(max(pid), 0) FROM pg_stat_activity WHERE backend_type = '" +
                      backend_type + "'");
      return pid != "0";
    })) << backend_type;
    return std::stoi(pid);
  }
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
  EXPECT_FALSE(expect_same_as_log(session.backend_pid()).empty());
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
  const auto contexts = expect_same_as_log(session.backend_pid());
  EXPECT_GT(contexts.size(), 80U);
}

TEST_F(ContextsTest, walsender_that_decodes_is_as_it_says)
{
  auto admin = cluster().connect();
  admin.exec("CREATE TABLE decoded (i int, x text)");
  admin.exec("SELECT pg_create_logical_replication_slot('slot', 'test_decoding')");
  auto client = ChildProcess::spawn({cluster().bin("pg_recvlogical").string(), "--dbname",
                                     cluster().conninfo(), "--slot", "slot", "--start", "--file",
                                     "/dev/null"});
  ASSERT_TRUE(client);
  admin.exec("INSERT INTO decoded SELECT i, repeat('y', i % 500) FROM generate_series(1, 3000) i");
  admin.exec("BEGIN; UPDATE decoded SET i = i + 1; ROLLBACK");
  admin.exec("DELETE FROM decoded WHERE i % 3 = 0");
  const auto end = admin.value("SELECT pg_current_wal_lsn()");
  EXPECT_TRUE(eventually([&] {
    return admin.value("SELECT bool_and(sent_lsn >= '" + end + "') FROM pg_stat_replication") ==
           "t";
  }));
  const auto types = count_types(expect_same_as_log(pid_of("walsender")));
  EXPECT_TRUE(types.contains("Generation"));
  EXPECT_TRUE(types.contains("Slab"));
  client->signal(SIGTERM);
  EXPECT_TRUE(client->wait(std::chrono::seconds(20)));
}

TEST_F(ContextsTest, background_processes_are_as_they_say)
{
  for (const char *type : {"logical replication launcher", "checkpointer", "autovacuum launcher"}) {
    SCOPED_TRACE(type);
    EXPECT_FALSE(expect_same_as_log(pid_of(type)).empty());
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
    const auto result = contexts_of(pid_of(type));
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
