// SPDX-License-Identifier: BSD-2-Clause
// run_test.cpp - `pgmemtrace run` on live servers: what it finds, how it follows them, how it
// ends, and what it says when it cannot run.
#include <csignal>
#include <string>
#include <vector>

#include <gmock/gmock.h>

#include "support/runtime_test.h"

namespace pgmemtrace::test {
namespace {

using nlohmann::json;
using testing::HasSubstr;

class RunTest : public RuntimeTest {
protected:
  std::string postmaster() { return std::to_string(cluster().postmaster_pid()); }

  std::unique_ptr<Daemon> watch(std::vector<std::string> more = {}, const char *listen = "off")
  {
    std::vector<std::string> args{"--pid",    postmaster(), "--format",   "json",
                                  "--listen", listen,       "--interval", "1s"};
    args.insert(args.end(), more.begin(), more.end());
    return start_daemon(args);
  }
  std::unique_ptr<Daemon> watch_and_listen(std::vector<std::string> more)
  {
    return watch(std::move(more), "127.0.0.1:0");
  }

  // The daemon has taken its baseline: the first status line is out.
  static bool watches(Daemon &daemon)
  {
    return daemon.wait_for_json([](const json &line) { return line["type"] == "status"; })
        .has_value();
  }

  static auto violation(const std::string &rule, pid_t pid)
  {
    return [=](const json &line) {
      return line["type"] == "violation" && line["rule"] == rule && line["server_pid"] == pid;
    };
  }

  // Prepares statements and forgets them, until `found` says that it was seen.
  template <typename Found> static bool leak_until(Session &session, Found found)
  {
    int statement = 0;
    return eventually([&] {
      for (int i = 0; i < 20; ++i, ++statement)
        session.exec(
            "PREPARE leaked_" + std::to_string(statement) +
            " (int) AS SELECT count(*) FROM pg_class WHERE relpages = $1 AND relname <> 'r" +
            std::to_string(statement) + "'");
      return found();
    });
  }

  static CommandResult pgmemtrace(std::vector<std::string> args)
  {
    args.insert(args.begin(), pgmemtrace_binary());
    return run_command(args);
  }

  // One line that says what and why, one that says what to do, nothing on stdout.
  static void expect_refusal(const CommandResult &result, int status, const std::string &why)
  {
    EXPECT_EQ(result.status, status) << result.err;
    EXPECT_THAT(result.err, HasSubstr(why));
    EXPECT_EQ(result.out, "");
  }
};

// ---- what it finds ----------------------------------------------------------------

TEST_F(RunTest, names_the_session_the_context_and_the_query_of_a_leak)
{
  auto leaky = cluster().connect();
  auto quiet = cluster().connect();
  auto daemon = watch();
  ASSERT_TRUE(daemon && watches(*daemon));

  const auto leaked = [&] {
    for (const auto &line : daemon->json_lines())
      if (line["type"] == "violation" && line["server_pid"] == leaky.backend_pid() &&
          line["context"].is_string() &&
          line["context"].get<std::string>().starts_with("CachedPlan"))
        return true;
    return false;
  };
  EXPECT_TRUE(leak_until(leaky, [&] {
    quiet.exec("SELECT 1");
    return leaked();
  }));

  for (const auto &line : daemon->json_lines()) {
    if (line["type"] != "violation")
      continue;
    EXPECT_NE(line["server_pid"], quiet.backend_pid()) << line;
    if (line["server_pid"] != leaky.backend_pid())
      continue;
    EXPECT_EQ(line["backend_type"], "client backend");
    EXPECT_EQ(line["database"], "postgres");
    EXPECT_EQ(line["user"], "postgres");
    EXPECT_THAT(line["path"].get<std::string>(), HasSubstr("TopMemoryContext"));
    EXPECT_GT(line["delta_bytes"].get<std::int64_t>(), 0);
    EXPECT_TRUE(line["advice"].is_string());
  }
  EXPECT_EQ(daemon->stop(), 0);
}

TEST_F(RunTest, watches_sessions_that_begin_while_it_runs)
{
  auto daemon = watch();
  ASSERT_TRUE(daemon && watches(*daemon));
  auto late = cluster().connect();
  EXPECT_TRUE(leak_until(late, [&] {
    for (const auto &line : daemon->json_lines())
      if (line["type"] == "violation" && line["server_pid"] == late.backend_pid())
        return true;
    return false;
  }));
}

TEST_F(RunTest, finds_a_leak_by_the_sweep_alone)
{
  auto leaky = cluster().connect();
  auto daemon = watch({"--level", "sweep"});
  ASSERT_TRUE(daemon && watches(*daemon));
  EXPECT_TRUE(probe_links(daemon->pid()).empty());
  EXPECT_TRUE(leak_until(leaky, [&] {
    for (const auto &line : daemon->json_lines())
      if (line["type"] == "violation" && line["server_pid"] == leaky.backend_pid())
        return true;
    return false;
  }));
}

TEST_F(RunTest, watches_one_process_and_leaves_the_others_alone)
{
  auto watched = cluster().connect();
  auto other = cluster().connect();
  auto daemon = start_daemon({"--pid", std::to_string(watched.backend_pid()), "--format", "json",
                              "--listen", "127.0.0.1:0", "--interval", "1s"});
  ASSERT_TRUE(daemon && watches(*daemon));
  for (const auto &line : daemon->json_lines()) {
    if (line["type"] == "status") {
      EXPECT_EQ(line["processes"], 1);
    }
  }
  const auto port = daemon->listen_port();
  const auto settles = [&] { return probe_hits(port, "settle"); };
  for (int i = 0; i < 10; ++i)
    other.exec("SELECT 1");
  for (int i = 0; i < 7; ++i)
    watched.exec("SELECT 1");
  EXPECT_TRUE(eventually([&] { return settles() >= 7; }));
  EXPECT_EQ(settles(), 7);
}

// ---- servers come and go -------------------------------------------------------------

TEST_F(RunTest, follows_a_server_through_a_restart_and_a_new_one)
{
  const auto options = ClusterOptions{.conf = {"cluster_name = 'one'"}};
  auto one = PostgresCluster::start(options);
  ASSERT_TRUE(one) << to_string(one.error());
  auto daemon =
      start_daemon({"--pid", "all", "--format", "json", "--listen", "off", "--interval", "1s"});
  ASSERT_TRUE(daemon);
  const auto shows = [&](const std::string &instance, pid_t postmaster) {
    return daemon->wait_for_json([&](const json &line) {
      if (line["type"] != "status")
        return false;
      for (const auto &server : line["servers"])
        if (server["instance"] == instance && server["postmaster"] == postmaster)
          return true;
      return false;
    });
  };
  EXPECT_TRUE(shows("one", (*one)->postmaster_pid()));

  (*one)->stop(PostgresCluster::Stop::immediate);
  EXPECT_TRUE(daemon->running());
  ASSERT_TRUE((*one)->restart());
  EXPECT_TRUE(shows("one", (*one)->postmaster_pid()));

  auto two = PostgresCluster::start({.conf = {"cluster_name = 'two'"}});
  ASSERT_TRUE(two) << to_string(two.error());
  EXPECT_TRUE(shows("two", (*two)->postmaster_pid()));
  EXPECT_EQ(daemon->stop(), 0);
}

// Who scrapes does not wait for the next interval.
TEST_F(RunTest, counts_who_comes_and_who_goes_as_it_happens)
{
  auto server = PostgresCluster::start({.conf = {"cluster_name = 'counted'"}});
  ASSERT_TRUE(server) << to_string(server.error());
  auto daemon = start_daemon({"--pid", std::to_string((*server)->postmaster_pid()), "--listen",
                              "127.0.0.1:0", "--interval", "1h"});
  ASSERT_TRUE(daemon);
  const int port = daemon->listen_port();
  const auto sessions = [&] {
    return metric(port,
                  "pgmemtrace_processes{instance=\"counted\",backend_type=\"client backend\"}")
        .value_or(0);
  };
  {
    const auto one = (*server)->connect();
    EXPECT_TRUE(eventually([&] { return sessions() == 1; }));
  }
  EXPECT_TRUE(eventually([&] { return sessions() == 0; }));
}

// ---- how it ends --------------------------------------------------------------------

TEST_F(RunTest, ends_cleanly_on_signals_and_leaves_no_probe)
{
  for (int signal : {SIGINT, SIGTERM}) {
    auto daemon = watch();
    ASSERT_TRUE(daemon && watches(*daemon));
    const auto links = probe_links(daemon->pid());
    EXPECT_FALSE(links.empty());
    EXPECT_EQ(daemon->stop(signal), 0);
    EXPECT_TRUE(eventually([&] { return living(links).empty(); }));
  }
}

TEST_F(RunTest, leaves_no_probe_when_it_is_killed_and_the_server_unharmed)
{
  auto session = cluster().connect();
  auto daemon = watch();
  ASSERT_TRUE(daemon && watches(*daemon));
  const auto links = probe_links(daemon->pid());
  EXPECT_FALSE(links.empty());
  daemon->kill9();
  EXPECT_TRUE(eventually([&] { return living(links).empty(); }));
  EXPECT_EQ(session.value("SELECT 41 + 1"), "42");
}

TEST_F(RunTest, ends_by_itself_after_its_duration_and_prints_json_only)
{
  auto result = pgmemtrace({"run", "--pid", postmaster(), "--format", "json", "--listen",
                            "127.0.0.1:0", "--duration", "1s"});
  EXPECT_EQ(result.status, 0) << result.err;
  EXPECT_THAT(result.err, HasSubstr("metrics on http://127.0.0.1:"));
  std::istringstream lines(result.out);
  int count = 0;
  for (std::string line; std::getline(lines, line); ++count)
    EXPECT_TRUE(json::accept(line)) << line;
  EXPECT_GT(count, 0);
}

// ---- what it costs ---------------------------------------------------------------------

// Nobody grows: nothing is probed that a loop passes, and the level is what was asked for.
TEST_F(RunTest, a_hot_loop_pays_nothing)
{
  auto hot = cluster().connect();
  hot.exec("CREATE TABLE IF NOT EXISTS hot (id int PRIMARY KEY)");
  auto daemon = watch_and_listen({"--max-overhead", "5%"});
  ASSERT_TRUE(daemon && watches(*daemon));
  hot.send_async("DO $$ DECLARE n int; BEGIN FOR i IN 1..1000000 LOOP "
                 "SELECT count(*) INTO n FROM hot WHERE id = 1; END LOOP; END $$");
  EXPECT_TRUE(hot.finish());
  const auto seen = daemon->json_lines().size();
  ASSERT_TRUE(eventually([&] { return daemon->json_lines().size() > seen + 1; }));
  for (const auto &line : daemon->json_lines())
    if (line["type"] == "status") {
      EXPECT_EQ(line["servers"][0]["level"], "statement");
    }
  EXPECT_GT(probe_hits(daemon->listen_port(), "sample"), 50);
  EXPECT_EQ(probe_hits(daemon->listen_port(), "start"), 0);
}

TEST_F(RunTest, who_grows_is_looked_at_closely_and_nobody_else)
{
  auto quiet = cluster().connect();
  auto grows = cluster().connect();
  auto daemon = watch_and_listen({"--max-overhead", "off"});
  ASSERT_TRUE(daemon && watches(*daemon));
  const auto hits = [&](const char *probe) { return probe_hits(daemon->listen_port(), probe); };
  // Then the phase of what grows is known.
  EXPECT_TRUE(leak_until(grows, [&] {
    quiet.exec("SELECT 1");
    for (const auto &line : daemon->json_lines())
      if (line["type"] == "violation" && line["server_pid"] == grows.backend_pid() &&
          line["phase"] == "utility")
        return hits("utility") > 100;
    return false;
  }));
  const auto settles = hits("settle");
  const auto ends = hits("end");
  for (int i = 0; i < 100; ++i)
    quiet.exec("SELECT 1");
  EXPECT_TRUE(eventually([&] { return hits("settle") >= settles + 100; }));
  EXPECT_EQ(hits("end"), ends);
  EXPECT_EQ(hits("start"), hits("end"));
}

TEST_F(RunTest, falls_back_when_its_probes_cost_too_much_and_comes_back)
{
  auto hot = cluster().connect();
  hot.exec("CREATE TABLE IF NOT EXISTS hot (id int PRIMARY KEY)");
  auto daemon = watch({"--max-overhead", "5%"});
  ASSERT_TRUE(daemon && watches(*daemon));
  const auto shows = [&](const std::string &level, std::size_t since) {
    const auto lines = daemon->json_lines();
    for (auto i = since; i < lines.size(); ++i)
      if (lines[i]["type"] == "status" && lines[i]["servers"][0]["level"] == level)
        return true;
    return false;
  };
  EXPECT_TRUE(eventually([&] { return shows("statement", 0); }));
  // It grows, so its loops pay for each statement in them.
  EXPECT_TRUE(leak_until(hot, [&] {
    hot.exec("DO $$ DECLARE n int; BEGIN FOR i IN 1..20000 LOOP "
             "SELECT count(*) INTO n FROM hot WHERE id = 1; END LOOP; END $$");
    return shows("request", 0);
  }));
  const auto seen = daemon->json_lines().size();
  EXPECT_TRUE(eventually([&] { return shows("statement", seen); }, std::chrono::seconds(60)));
}

TEST_F(RunTest, reads_directly_where_doctor_says_it_can_and_nobody_says_not_to)
{
  const auto doctor = pgmemtrace({"doctor", "--format", "json"});
  const bool can = json::parse(doctor.out).at("kernel").at("direct_reads");
  for (const bool wanted : {true, false}) {
    auto daemon = watch_and_listen({"--direct-reads", wanted ? "on" : "off"});
    ASSERT_TRUE(daemon && watches(*daemon));
    EXPECT_EQ(metric(daemon->listen_port(), "pgmemtrace_direct_reads"), can && wanted ? 1 : 0);
    EXPECT_GT(metric(daemon->listen_port(), "pgmemtrace_sweeps_total"), 0);
    EXPECT_EQ(daemon->stop(), 0);
  }
}

TEST_F(RunTest, loses_nothing_and_says_so)
{
  auto daemon = watch({"--max-overhead", "off"});
  ASSERT_TRUE(daemon && watches(*daemon));
  auto session = cluster().connect();
  for (int i = 0; i < 2000; ++i)
    session.exec("SELECT " + std::to_string(i));
  const auto seen = daemon->json_lines().size();
  ASSERT_TRUE(eventually([&] { return daemon->json_lines().size() > seen + 1; }));
  const auto last = daemon->json_lines().back();
  ASSERT_EQ(last["type"], "status");
  for (const auto &[reason, lost] : last["events_lost"].items())
    EXPECT_EQ(lost, 0) << reason;
}

// ---- bad input ---------------------------------------------------------------------------

TEST_F(RunTest, refuses_what_it_cannot_watch)
{
  expect_refusal(pgmemtrace({"--pid", "4194303"}), 3, "4194303");
  expect_refusal(pgmemtrace({"--pid", std::to_string(getpid())}), 3, "PostgreSQL");
  expect_refusal(pgmemtrace({"--pgdata", "/nonexistent"}), 3, "/nonexistent");
}

TEST_F(RunTest, refuses_bad_usage)
{
  expect_refusal(pgmemtrace({"--pid", "all", "--no-such-option"}), 2, "no-such-option");
  expect_refusal(pgmemtrace({"--pid", "all", "--disable-rule", "no_such_rule"}), 2, "no_such_rule");
  expect_refusal(pgmemtrace({"--pid", "all", "--level", "loud"}), 2, "loud");
  expect_refusal(pgmemtrace({"--pid", "all", "--interval", "soon"}), 2, "soon");
  expect_refusal(pgmemtrace({"--pid", "all", "--max-overhead", "150%"}), 2, "150%");
  expect_refusal(pgmemtrace({"--pid", "abc"}), 2, "abc");
  expect_refusal(pgmemtrace({}), 2, "--pid");
  expect_refusal(pgmemtrace({"--pid", "all", "--config", "/nonexistent.conf"}), 2,
                 "/nonexistent.conf");
}

TEST_F(RunTest, refuses_a_port_that_is_in_use)
{
  auto daemon = start_daemon({"--pid", postmaster(), "--listen", "127.0.0.1:0"});
  ASSERT_TRUE(daemon);
  const auto port = std::to_string(daemon->listen_port());
  const auto second = pgmemtrace({"--pid", postmaster(), "--listen", "127.0.0.1:" + port});
  expect_refusal(second, 3, port);
  EXPECT_THAT(second.err, HasSubstr("hint: "));
}

TEST_F(RunTest, names_the_capability_that_is_missing)
{
  const auto without = [&](const std::string &dropped) {
    return run_command({"setpriv", "--bounding-set", dropped, pgmemtrace_binary(), "--pid",
                        postmaster(), "--listen", "off", "--duration", "1s"});
  };
  expect_refusal(without("-bpf,-sys_admin"), 3, "CAP_BPF");
  expect_refusal(without("-perfmon,-sys_admin"), 3, "CAP_PERFMON");
  expect_refusal(without("-sys_ptrace"), 3, "CAP_SYS_PTRACE");
}

TEST_F(RunTest, refuses_an_unprivileged_user)
{
  const auto nobody = find_user("nobody");
  ASSERT_TRUE(nobody);
  // Copied: the build folder may be closed to others.
  const std::string copy = "/tmp/pgmemtrace_unprivileged_" + std::to_string(getpid());
  ASSERT_EQ(run_command({"install", "-m", "755", pgmemtrace_binary(), copy}).status, 0);
  const auto result =
      run_command({copy, "--pid", postmaster(), "--listen", "off"}, {.user = *nobody});
  unlink(copy.c_str());
  expect_refusal(result, 3, "CAP_");
  EXPECT_THAT(result.err, HasSubstr("hint: "));
}

} // namespace
} // namespace pgmemtrace::test
