// SPDX-License-Identifier: BSD-2-Clause
// extension_test.cpp - the extension and the daemon together: what a session asks in SQL is
// answered by the daemon outside, which comes in as the server's own user.
#include <algorithm>
#include <csignal>
#include <string>
#include <vector>

#include <gmock/gmock.h>

#include "extension/marker.h"
#include "support/container.h"
#include "support/copy_test.h"

namespace pgmemtrace::test {
namespace {

using nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;

const std::string kEnd = "SELECT rule, context FROM pgmemtrace.end()";

class ExtensionTest : public CopyTest {
protected:
  static Rows window(Session &session, const std::string &sql)
  {
    session.exec("SELECT pgmemtrace.begin()");
    session.exec(sql);
    return session.exec(kEnd);
  }

  static std::string error_of(Session &session, const std::string &sql)
  {
    const auto done = session.try_exec(sql);
    return done ? "no error" : done.error().what + " " + done.error().hint;
  }

  static long complaints(Daemon &daemon)
  {
    return std::ranges::count_if(daemon.lines(Daemon::Stream::err), [](const std::string &line) {
      return line.find("for the pgmemtrace extension") != std::string::npos;
    });
  }
};

// ---- contexts of any process ------------------------------------------------------

TEST_F(ExtensionTest, contexts_are_those_of_the_other_backend)
{
  auto other = connect();
  auto asker = connect();
  const auto daemon = watch();
  other.exec("PREPARE kept AS SELECT relname FROM pg_class WHERE oid = 42");
  const auto pid = std::to_string(other.backend_pid());
  const auto columns = "SELECT jsonb_agg(to_jsonb(c) - 'age' - 'ident' ORDER BY path) "
                       "FROM pgmemtrace.contexts(" +
                       pid + ") AS c";
  auto by_sql = json::parse(asker.value(columns));

  const auto host = host_pid(cluster().postmaster_pid(), other.backend_pid());
  const auto printed = run_command({pgmemtrace_binary(), "contexts", "--format", "json", "--pid",
                                    std::to_string(host.value_or(other.backend_pid()))});
  auto by_command = json::parse(printed.out);
  for (auto &context : by_command)
    context.erase("ident");
  std::sort(by_command.begin(), by_command.end(),
            [](const json &a, const json &b) { return a["path"] < b["path"]; });
  EXPECT_EQ(by_sql, by_command);
  EXPECT_EQ(asker.value("SELECT max(age) FROM pgmemtrace.contexts(" + pid + ")"), "00:00:00");

  if (cluster().major().number < 14)
    return; // no view to ask
  const std::string what = "name, total_bytes, total_nblocks, free_bytes, used_bytes";
  const std::string which = " WHERE name IN ('CacheMemoryContext', 'Relcache by OID') ORDER BY 1";
  const auto view = "SELECT " + what + " FROM pg_backend_memory_contexts" + which;
  other.exec(view); // the first one fills caches
  EXPECT_EQ(other.exec(view),
            asker.exec("SELECT " + what + " FROM pgmemtrace.contexts(" + pid + ")" + which));
}

TEST_F(ExtensionTest, a_tree_that_could_not_be_read_whole_is_said_to_be_so)
{
  auto session = connect();
  auto asker = connect();
  const auto daemon = watch();
  std::string said;
  PQsetNoticeProcessor(
      asker.get(),
      [](void *all, const char *notice) { *static_cast<std::string *>(all) += notice; }, &said);
  const auto contexts =
      "SELECT count(*) FROM pgmemtrace.contexts(" + std::to_string(session.backend_pid()) + ")";
  asker.exec("SET pgmemtrace.ack_timeout = '60s'");
  asker.exec(contexts);
  EXPECT_EQ(said, "");
  session.exec("SELECT count(leak_context(0)) FROM generate_series(1, 70000)");
  EXPECT_EQ(asker.value(contexts), "65536");
  EXPECT_THAT(said, HasSubstr("WARNING:  pgmemtrace daemon: the tree of process"));
  EXPECT_THAT(said, HasSubstr("65536 contexts"));
}

TEST_F(ExtensionTest, a_process_that_is_not_there_is_an_error)
{
  auto session = connect();
  const auto daemon = watch();
  for (const std::string pid : {"1", "0", "-5", "2147483647"})
    EXPECT_THAT(error_of(session, "SELECT * FROM pgmemtrace.contexts(" + pid + ")"),
                HasSubstr("no process " + pid + " of this server is watched"));
}

// ---- test windows -----------------------------------------------------------------

TEST_F(ExtensionTest, a_window_in_which_nothing_stays_is_empty)
{
  const auto daemon = watch();
  auto session = connect();
  // Also the first one of a session, whose caches are cold.
  for (int i = 0; i < 5; ++i) {
    const auto found = window(
        session, "SELECT count(*) FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid");
    EXPECT_TRUE(found.empty()) << found.front()[0] << " " << found.front()[1];
  }
}

TEST_F(ExtensionTest, a_window_names_what_stays_and_nothing_of_before)
{
  const auto daemon = watch();
  auto session = connect();
  session.exec("SELECT leak_context(100000)");
  EXPECT_THAT(window(session, "SELECT leak_context(20000)"),
              ElementsAre(ElementsAre("context_leak", "buggy leak")));
  EXPECT_THAT(window(session, "SELECT leak_in_top(100000)"),
              ElementsAre(ElementsAre("wrong_ctx_alloc", "TopMemoryContext")));
  EXPECT_TRUE(window(session, "SELECT 1").empty());

  session.exec("SELECT pgmemtrace.begin()");
  session.exec("SELECT leak_context(50000) FROM generate_series(1, 3)");
  const auto found = session.exec("SELECT path, server_pid, severity, occurrences, delta_bytes "
                                  "BETWEEN 150000 AND 160000 FROM pgmemtrace.end()");
  EXPECT_THAT(found,
              ElementsAre(ElementsAre("TopMemoryContext/buggy leak",
                                      std::to_string(session.backend_pid()), "WARNING", "3", "t")));
}

TEST_F(ExtensionTest, a_window_has_its_own_pattern_limits_and_allowances)
{
  const auto daemon = watch();
  auto session = connect();
  const auto leaks = [&](const std::string &begin) {
    session.exec("SELECT pgmemtrace.begin(" + begin + ")");
    session.exec("SELECT leak_context(20000)");
    return session.exec(kEnd).size();
  };
  EXPECT_EQ(leaks("'buggy%'"), 1U);
  EXPECT_EQ(leaks("'other%'"), 0U);
  EXPECT_EQ(leaks(R"('', '{"allowed_contexts": ["buggy l_ak"]}')"), 0U);
  session.exec("SET pgmemtrace.min_leak_bytes = '1MB'");
  EXPECT_EQ(leaks("''"), 0U);
}

TEST_F(ExtensionTest, a_window_judges_dynamic_shared_memory_at_once)
{
  const auto daemon = watch();
  auto session = connect();
  session.exec("SELECT make_dsm(50000, false)"); // before it
  session.exec("SELECT pgmemtrace.begin('no context is called so')");
  const auto handle = session.value("SELECT make_dsm(100000, false)");
  EXPECT_THAT(session.exec("SELECT rule, path, delta_bytes, module, query FROM pgmemtrace.end()"),
              ElementsAre(ElementsAre("dsm_leak", "(dsm segments)", "100000", "pgmemtrace_buggy.so",
                                      "SELECT make_dsm(100000, false)")));

  // Pinned and let go: nobody has it.
  session.exec("SELECT pgmemtrace.begin()");
  const auto pinned = session.value("SELECT make_dsm(100000, true)");
  EXPECT_EQ(session.value("SELECT segments -> 0 ->> 'handle' FROM pgmemtrace.end()"), pinned);

  // What is only on its way, another session's, or not asked for.
  auto other = connect();
  session.exec("SELECT pgmemtrace.begin()");
  other.exec("SELECT make_dsm(100000, false)");
  session.exec("SELECT repaired.make_dsm(100000, true)");
  EXPECT_TRUE(session.exec(kEnd).empty());
  session.exec(R"(SELECT pgmemtrace.begin('', '{"track_dsm": false}'))");
  session.exec("SELECT make_dsm(100000, false)");
  EXPECT_TRUE(session.exec(kEnd).empty());
}

TEST_F(ExtensionTest, parallel_queries_leave_nothing_in_a_window)
{
  const auto daemon = watch();
  auto session = connect();
  session.exec("CREATE TABLE IF NOT EXISTS many AS SELECT g, g % 100 AS k "
               "FROM generate_series(1, 100000) AS g");
  session.exec("ANALYZE many; SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; "
               "SET min_parallel_table_scan_size = 0; SET max_parallel_workers_per_gather = 2");
  // The first one makes a segment that core keeps for the session, and 41 kB to know it by.
  for (int i = 0; i < 3; ++i) {
    const auto found = window(session, "SELECT k, count(*) FROM many GROUP BY k");
    EXPECT_TRUE(found.empty()) << found.front()[0] << " " << found.front()[1];
  }
}

TEST_F(ExtensionTest, with_level_block_a_window_names_the_module)
{
  const auto daemon = watch({"--level", "block", "--max-overhead", "off"});
  auto session = connect();
  session.exec("SELECT leak_context(1000)"); // the level sees this session from its first hit on
  session.exec("SELECT pgmemtrace.begin()");
  session.exec("SELECT leak_context(300000)");
  const auto found = session.exec("SELECT context, module FROM pgmemtrace.end()");
  EXPECT_THAT(found, ElementsAre(ElementsAre("buggy leak", "pgmemtrace_buggy.so")));
}

TEST_F(ExtensionTest, many_sessions_at_once_each_get_their_own)
{
  constexpr int kSessions = 20;
  const auto daemon = watch();
  std::vector<Session> sessions;
  for (int i = 0; i < kSessions; ++i)
    sessions.push_back(connect());
  const auto all = [&](const std::string &even, const std::string &odd) {
    std::vector<Rows> rows;
    for (int i = 0; i < kSessions; ++i)
      sessions[static_cast<std::size_t>(i)].send_async(i % 2 ? odd : even);
    for (auto &session : sessions) {
      const auto done = session.finish();
      EXPECT_TRUE(done) << done.error().what << done.error().hint;
      rows.push_back(done ? *done : Rows{});
    }
    return rows;
  };
  const std::string begin = "SELECT pgmemtrace.begin()";
  for (int round = 0; round < 5; ++round) {
    all(begin, begin);
    all("SELECT leak_context(20000)", "SELECT 1");
    const auto found = all(kEnd, kEnd);
    for (std::size_t i = 0; i < kSessions; ++i)
      EXPECT_EQ(found[i].size(), i % 2 ? 0U : 1U) << "session " << i << ", round " << round;
  }
  EXPECT_EQ(complaints(*daemon), 0);
}

// ---- without a daemon -------------------------------------------------------------

TEST_F(ExtensionTest, without_a_daemon_it_says_how_to_start_one)
{
  auto session = connect();
  // A daemon of an earlier test has gone, and so has the kernel's count of it.
  ASSERT_TRUE(eventually([&] { return !watched(session); }));
  EXPECT_THAT(error_of(session, "SELECT pgmemtrace.begin()"), HasSubstr("sudo pgmemtrace"));
}

TEST_F(ExtensionTest, a_daemon_that_dies_in_a_window_leaves_an_error_and_a_sound_server)
{
  auto daemon = watch();
  auto session = connect();
  session.exec("SELECT pgmemtrace.begin()");
  daemon->kill9();
  ASSERT_TRUE(eventually([&] { return !watched(session); }));
  EXPECT_THAT(error_of(session, kEnd), HasSubstr("no pgmemtrace daemon"));

  // The next one knows nothing of that window; a new one works.
  daemon = watch();
  session.exec("SELECT pgmemtrace.begin()");
  daemon->kill9();
  daemon = watch();
  EXPECT_THAT(error_of(session, kEnd), HasSubstr("not seen this window begin"));
  EXPECT_TRUE(window(session, "SELECT 1").empty());
}

TEST_F(ExtensionTest, a_daemon_that_hangs_is_given_up_and_answers_later_ones)
{
  auto daemon = watch();
  auto session = connect();
  ASSERT_TRUE(window(session, "SELECT 1").empty());
  session.exec("SET pgmemtrace.ack_timeout = '500ms'");
  ASSERT_EQ(kill(daemon->pid(), SIGSTOP), 0);
  EXPECT_THAT(error_of(session, "SELECT pgmemtrace.begin()"),
              HasSubstr("did not answer within 500 ms"));
  ASSERT_EQ(kill(daemon->pid(), SIGCONT), 0);
  session.exec("RESET pgmemtrace.ack_timeout");
  EXPECT_TRUE(window(session, "SELECT 1").empty());
}

TEST_F(ExtensionTest, a_daemon_answers_who_waited_for_the_one_before)
{
  auto first = watch();
  auto session = connect();
  session.exec("SET pgmemtrace.ack_timeout = '60s'");
  ASSERT_EQ(kill(first->pid(), SIGSTOP), 0);
  session.send_async("SELECT pgmemtrace.begin()");
  auto observer = connect();
  ASSERT_TRUE(eventually(
      [&] { return observer.value("SELECT count(*) FROM pgmemtrace.requests()") == "1"; }));
  // It has no event of that: it has to ask.
  const auto second = watch();
  const auto begun = session.finish();
  EXPECT_TRUE(begun) << begun.error().hint;
  first->kill9();
  session.exec("SELECT leak_context(20000)");
  EXPECT_EQ(session.exec(kEnd).size(), 1U);
}

// ---- the marker -------------------------------------------------------------------

TEST_F(ExtensionTest, the_marker_hands_over_who_asks_what_on_every_kind_of_kernel)
{
  auto session = connect();
  ASSERT_TRUE(eventually([&] { return !watched(session); }));
  const auto library = find_extension(Proc(), cluster().postmaster_pid());
  ASSERT_TRUE(library && *library);
  for (const bool uprobe_multi : {true, false}) {
    auto marker = Marker::load(uprobe_multi);
    ASSERT_TRUE(marker) << to_string(marker.error());
    {
      const auto link = (*marker)->attach(**library);
      ASSERT_TRUE(link) << to_string(link.error());
      EXPECT_TRUE(watched(session)); // the kernel counts before attaching returns
      session.exec("SET pgmemtrace.ack_timeout = '100ms'");
      EXPECT_THAT(error_of(session, "SELECT pgmemtrace.begin('a pattern')"),
                  HasSubstr("did not answer"));
      const auto events = (*marker)->take();
      ASSERT_EQ(events.size(), 1U);
      EXPECT_EQ(events.front().kind, static_cast<std::uint32_t>(PGMT_REQUEST_BEGIN_WINDOW));
      EXPECT_EQ(host_pid(cluster().postmaster_pid(), session.backend_pid())
                    .value_or(session.backend_pid()),
                static_cast<pid_t>(events.front().tgid));
      EXPECT_GT(events.front().id, 0U);
      EXPECT_GT(events.front().length, 0U);
      EXPECT_EQ((*marker)->lost(), 0U);
    }
    EXPECT_TRUE(eventually([&] { return !watched(session); }));
  }
}

TEST_F(ExtensionTest, a_library_that_was_replaced_is_not_probed)
{
  const auto upgraded = PostgresCopy::make(cluster().major());
  ASSERT_TRUE(upgraded) << to_string(upgraded.error()) << upgraded.error().hint;
  auto server = PostgresCluster::start((*upgraded)->options());
  ASSERT_TRUE(server) << to_string(server.error());
  const auto library = (*upgraded)->library();
  const auto pid = (*server)->postmaster_pid();
  const auto found = find_extension(Proc(), pid);
  EXPECT_TRUE(found && *found);
  // As packages do it: another file of that name.
  std::filesystem::copy_file(library, library.string() + ".new");
  std::filesystem::rename(library.string() + ".new", library);
  const auto replaced = find_extension(Proc(), pid);
  ASSERT_FALSE(replaced);
  EXPECT_THAT(replaced.error().hint, HasSubstr("restart"));
  ASSERT_TRUE((*server)->restart());
  const auto again = find_extension(Proc(), (*server)->postmaster_pid());
  EXPECT_TRUE(again && *again);
}

TEST_F(ExtensionTest, a_server_without_the_extension_has_no_marker)
{
  auto server = PostgresCluster::start({.conf = {"autovacuum = off"}});
  ASSERT_TRUE(server) << to_string(server.error());
  const auto library = find_extension(Proc(), (*server)->postmaster_pid());
  ASSERT_TRUE(library);
  EXPECT_FALSE(*library);
}

// ---- the way to the server --------------------------------------------------------

TEST_F(ExtensionTest, a_server_that_refuses_is_said_once)
{
  const auto daemon = watch({"--dsn", "user=nobody_of_that_name"});
  auto session = connect();
  session.exec("SET pgmemtrace.ack_timeout = '500ms'");
  for (int i = 0; i < 3; ++i)
    EXPECT_THAT(error_of(session, "SELECT pgmemtrace.begin()"), HasSubstr("--dsn"));
  EXPECT_TRUE(eventually([&] { return complaints(*daemon) > 0; }));
  EXPECT_EQ(complaints(*daemon), 1);
}

TEST_F(ExtensionTest, level_sweep_says_that_nobody_is_heard)
{
  auto session = connect();
  ASSERT_TRUE(eventually([&] { return !watched(session); }));
  const auto daemon = start_daemon(
      {"--pid", std::to_string(cluster().postmaster_pid()), "--level", "sweep", "--listen", "off"});
  EXPECT_TRUE(daemon->wait_for_line(
      [](const std::string &line) { return line.find("level sweep has no probes") != line.npos; },
      std::chrono::seconds(30), Daemon::Stream::err));
  EXPECT_FALSE(watched(session));
}

TEST_F(ExtensionTest, follows_a_server_that_restarts)
{
  auto server = PostgresCluster::start(copy().options());
  ASSERT_TRUE(server) << to_string(server.error()) << server.error().hint;
  PostgresCopy::create_tester(**server);
  const auto daemon = start_daemon({"--pid", "all", "--listen", "off", "--interval", "1s"});
  for (int i = 0; i < 2; ++i) {
    auto session = PostgresCopy::connect(**server);
    ASSERT_TRUE(eventually([&] { return watched(session); }));
    EXPECT_TRUE(
        eventually([&] { return session.try_exec("SELECT pgmemtrace.begin()").operator bool(); }));
    session.exec("SELECT leak_context(20000)");
    EXPECT_EQ(session.exec(kEnd).size(), 1U);
    // The daemon's own session holds no shutdown up.
    ASSERT_TRUE((*server)->restart());
  }
}

TEST_F(ExtensionTest, in_a_container_by_its_own_socket_and_its_own_pids)
{
  if (cluster().major().root != "/")
    GTEST_SKIP() << "containers here are of the host's image";
  const auto container = Container::create({.hostname = "gamma"});
  ASSERT_TRUE(container) << to_string(container.error());
  auto server = (*container)->start_server(copy().options());
  ASSERT_TRUE(server) << to_string(server.error()) << server.error().hint;
  auto session = PostgresCopy::create_tester(**server);
  auto daemon = watch(**server);
  ASSERT_NE(host_pid((*server)->postmaster_pid(), session.backend_pid()), session.backend_pid());
  EXPECT_THAT(window(session, "SELECT leak_context(20000)"),
              ElementsAre(ElementsAre("context_leak", "buggy leak")));
  EXPECT_GT(session.exec("SELECT * FROM pgmemtrace.contexts(pg_backend_pid())").size(), 10U);
  EXPECT_EQ(complaints(*daemon), 0);
  server->reset();
}

// ---- the log ----------------------------------------------------------------------

TEST_F(ExtensionTest, a_dsm_segment_that_stays_is_in_the_log)
{
  const auto daemon = watch();
  auto session = connect();
  const auto handle = session.value("SELECT make_dsm(100000, false)");
  ASSERT_TRUE(daemon->wait_for_json([&](const json &line) {
    return line["type"] == "violation" && line["rule"] == "dsm_leak" &&
           std::to_string(line["segments"][0]["handle"].get<std::uint64_t>()) == handle;
  }));
  auto reader = connect();
  EXPECT_TRUE(eventually([&] {
    reader.exec("SELECT pgmemtrace.flush_violations()");
    return reader.value("SELECT count(*) FROM pgmemtrace.violation_log WHERE rule = 'dsm_leak' AND "
                        "server_pid = " +
                        std::to_string(session.backend_pid())) == "1";
  }));
}

TEST_F(ExtensionTest, what_the_rules_find_is_in_the_log)
{
  const auto daemon = watch();
  auto leaky = connect();
  auto reader = connect();
  const auto logged = [&] {
    reader.exec("SELECT pgmemtrace.flush_violations()");
    return reader.exec("SELECT DISTINCT rule, context FROM pgmemtrace.violation_log WHERE "
                       "server_pid = " +
                       std::to_string(leaky.backend_pid()));
  };
  EXPECT_TRUE(eventually([&] {
    for (int i = 0; i < 20; ++i)
      leaky.exec("SELECT leak_context(20000)");
    return !logged().empty();
  }));
  EXPECT_THAT(logged(), testing::Contains(ElementsAre("context_leak", "buggy leak")));
}

} // namespace
} // namespace pgmemtrace::test
