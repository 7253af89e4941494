// SPDX-License-Identifier: BSD-2-Clause
// majors_test.cpp - what differs from major to major: kinds of processes, whose query it was,
// what the planner finds.  Run once on each.
#include <map>
#include <set>
#include <string>

#include <gmock/gmock.h>

#include "attach/identify.h"
#include "attach/static_variable.h"
#include "support/context_report.h"
#include "support/runtime_test.h"

namespace pgmemtrace::test {
namespace {

using nlohmann::json;
using testing::HasSubstr;

class MajorsTest : public RuntimeTest {
protected:
  static void SetUpTestSuite()
  {
    std::vector<std::string> conf{
        "wal_level = logical", "shared_preload_libraries = 'pg_prewarm'", "autovacuum_naptime = 1s",
        // An autovacuum worker stays for the whole test.
        "autovacuum_vacuum_cost_delay = 100ms", "autovacuum_vacuum_cost_limit = 1"};
    const auto major = major_under_test();
    if (major && major->number >= 17)
      conf.emplace_back("summarize_wal = on");
    use_cluster({.conf = std::move(conf)});
  }

  static std::string postmaster() { return std::to_string(cluster().postmaster_pid()); }

  // pg_stat_activity's words, pids by backend type.
  static std::map<std::string, std::set<pid_t>> processes(Session &admin)
  {
    std::map<std::string, std::set<pid_t>> found;
    for (const auto &row : admin.exec("SELECT backend_type, pid FROM pg_stat_activity"))
      found[row[0]].insert(std::stoi(row[1]));
    return found;
  }
};

// Extensions' workers carry any name; a label has one word for them.
std::string as_we_call(const std::string &backend_type)
{
  return backend_type.starts_with("autoprewarm") ? "background worker" : backend_type;
}

TEST_F(MajorsTest, every_process_is_called_what_pg_stat_activity_calls_it)
{
  auto admin = cluster().connect();
  admin.exec("CREATE TABLE dead AS SELECT g FROM generate_series(1, 300000) g");
  admin.exec("DELETE FROM dead");
  admin.exec("SELECT pg_create_logical_replication_slot('slot', 'test_decoding')");
  auto walsender = cluster().spawn_client({"pg_recvlogical", "--dbname", "postgres", "--slot",
                                           "slot", "--start", "--file", "/dev/null"});
  ASSERT_TRUE(walsender);
  auto parallel = cluster().connect();
  // Renamed in 16.
  parallel.exec(cluster().major().number >= 16 ? "SET debug_parallel_query = on"
                                               : "SET force_parallel_mode = on");
  parallel.send_async("SELECT pg_sleep(600) FROM pg_class LIMIT 1");

  std::set<std::string> wanted{
      "client backend",      "parallel worker",   "autovacuum worker",
      "autovacuum launcher", "walsender",         "logical replication launcher",
      "checkpointer",        "background writer", "walwriter"};
  if (cluster().major().number >= 17)
    wanted.insert("walsummarizer");
  if (cluster().major().number >= 18)
    wanted.insert("io worker");
  std::map<std::string, std::set<pid_t>> all;
  ASSERT_TRUE(eventually([&] {
    all = processes(admin);
    return std::ranges::all_of(wanted, [&](const auto &type) { return all.contains(type); });
  })) << testing::PrintToString(all);

  auto daemon = start_daemon(
      {"--pid", postmaster(), "--format", "json", "--listen", "127.0.0.1:0", "--interval", "1s"});
  ASSERT_TRUE(daemon);
  const auto port = daemon->listen_port();
  for (const auto &[type, pids] : all) {
    const std::string ours = as_we_call(type);
    EXPECT_TRUE(eventually([&] {
      return http_get(port, "/metrics").body.find("backend_type=\"" + ours + "\"") !=
             std::string::npos;
    })) << type;
    for (const pid_t pid : pids) {
      const auto result = contexts_of(pid);
      if (kill(pid, 0) != 0) // autovacuum workers come and go
        continue;
      EXPECT_EQ(result.status, 0) << result.err;
      EXPECT_THAT(result.out, HasSubstr("process " + std::to_string(pid) + ": " + ours + ","));
    }
  }
  EXPECT_EQ(daemon->stop(), 0);

  PGcancel *cancel = PQgetCancel(parallel.get());
  char why[256];
  PQcancel(cancel, why, sizeof why);
  PQfreeCancel(cancel);
  EXPECT_FALSE(parallel.finish());
  walsender->signal(SIGTERM);
  EXPECT_TRUE(walsender->wait(std::chrono::seconds(20)));
  admin.exec("DROP TABLE dead");
}

// A leak inside of a function that a prepared statement calls, with errors and open cursors
// around it: still that statement's.
class LeakingQueryTest : public MajorsTest {
protected:
  void expect_query(const std::string &query, const std::function<void(Session &, int)> &leak)
  {
    auto session = cluster().connect();
    session.exec("CREATE FUNCTION pg_temp.leak(n int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN "
                 "EXECUTE format('PREPARE leaked_%s AS SELECT relname, %L FROM pg_class', n, "
                 "repeat('x', 500)); RETURN n; END $$");
    session.exec("PREPARE leaking(int) AS SELECT pg_temp.leak($1)");
    PQclear(PQprepare(session.get(), "by_protocol", "SELECT pg_temp.leak($1::int)", 0, nullptr));
    session.exec("DECLARE a CURSOR WITH HOLD FOR SELECT generate_series(1, 1000000)");
    session.exec("DECLARE b CURSOR WITH HOLD FOR SELECT generate_series(1, 1000000)");
    auto daemon = start_daemon(
        {"--pid", postmaster(), "--format", "json", "--listen", "off", "--interval", "1s"});
    ASSERT_TRUE(daemon);
    ASSERT_TRUE(daemon->wait_for_json([](const json &line) { return line["type"] == "status"; }));

    std::set<std::string> blamed;
    int n = 0;
    EXPECT_TRUE(eventually([&] {
      for (int i = 0; i < 10; ++i) {
        leak(session, n++);
        EXPECT_FALSE(session.try_exec("SELECT 1 / (g - 5) FROM generate_series(1, 10) g"));
        session.exec("FETCH 1 FROM a");
        session.exec("FETCH 1 FROM b");
      }
      for (const auto &line : daemon->json_lines())
        if (line["type"] == "violation" && line["server_pid"] == session.backend_pid() &&
            line["rule"] == "context_leak" && line["query"].is_string())
          blamed.insert(line["query"].get<std::string>());
      return !blamed.empty();
    }));
    EXPECT_THAT(blamed, testing::Each(HasSubstr(query)));
    EXPECT_EQ(daemon->stop(), 0);
  }
};

TEST_F(LeakingQueryTest, is_named_when_it_was_prepared_by_sql)
{
  expect_query("EXECUTE leaking(", [](Session &session, int n) {
    session.exec("EXECUTE leaking(" + std::to_string(n) + ")");
  });
}

TEST_F(LeakingQueryTest, is_named_when_it_was_prepared_by_protocol)
{
  expect_query("SELECT pg_temp.leak($1::int)", [](Session &session, int n) {
    const std::string number = std::to_string(n);
    const char *values[] = {number.c_str()};
    PQclear(PQexecPrepared(session.get(), "by_protocol", 1, values, nullptr, nullptr, 0));
  });
}

// Where a build exports the variable, decoding must lead to the same one.
TEST_F(MajorsTest, decoding_finds_the_variable_that_the_build_exports)
{
  auto elf = ElfFile::open(cluster().bin("postgres"));
  ASSERT_TRUE(elf) << to_string(elf.error());
  const auto decoded = find_variable(
      *elf, "MyBEEntry",
      {"pgstat_report_activity", "pgstat_report_appname", "pgstat_report_xact_timestamp"},
      VariableUse::Kind::load, ElfFile::Storage::zeroed);
  ASSERT_TRUE(decoded) << to_string(decoded.error());
  const auto exported = elf->object("MyBEEntry");
  EXPECT_EQ(exported.has_value(), cluster().major().number >= 14);
  EXPECT_NE(*decoded, 0U);
  if (exported) {
    EXPECT_EQ(*decoded, exported->address);
  }
}

TEST_F(MajorsTest, doctor_places_every_probe_on_an_emulated_instruction)
{
  const auto result =
      run_command({pgmemtrace_binary(), "doctor", "--pid", postmaster(), "--format", "json"});
  ASSERT_EQ(result.status, 0) << result.err;
  const auto report = json::parse(result.out);
  EXPECT_EQ(report["servers"][0]["major"], cluster().major().number);
  int boundaries = 0, blocks = 0, methods = 0, refused = 0;
  for (const auto &probe : report["binaries"][0]["probes"]) {
    const bool method = probe["probe"] == "alloc";
    if (method && probe["placed"] == false) { // and it is said why
      EXPECT_FALSE(probe["reason"].get<std::string>().empty()) << probe;
      ++refused;
      continue;
    }
    EXPECT_EQ(probe["placed"], true) << probe;
    EXPECT_EQ(probe["emulated"], true) << probe;
    const bool block = probe["probe"] == "block"; // a call itself, called by nobody
    const bool boundary = !block && !method;      // methods are called through a table
    EXPECT_EQ(probe["callers"] > 0, boundary) << probe;
    ++(block ? blocks : method ? methods : boundaries);
  }
  EXPECT_EQ(boundaries, 7);
  EXPECT_GT(blocks, 0);
  EXPECT_GE(methods, 14);
  EXPECT_EQ(refused, cluster().major().number == 18 ? 1 : 0); // Debian's SlabFree
}

} // namespace
} // namespace pgmemtrace::test
