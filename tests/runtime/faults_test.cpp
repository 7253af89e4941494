// SPDX-License-Identifier: BSD-2-Clause
// faults_test.cpp - what goes wrong around the daemon: servers that die, processes that come and
// go by the hundred, trees beyond all measure or made of garbage, no room, no time.
//
// Nothing may be lost in silence: what was not counted is in a counter of losses.
#include <atomic>
#include <csignal>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>
#include <unistd.h>

#include "attach/attachments.h"
#include "collect/sweep.h"
#include "fake_server.h"
#include "support/c_functions.h"
#include "support/runtime_test.h"

namespace pgmemtrace::test {
namespace {

using nlohmann::json;

class FaultsTest : public RuntimeTest {
protected:
  // Nothing but what a test does hits a probe.
  static void SetUpTestSuite()
  {
    use_cluster({.conf = {"autovacuum = off", "max_connections = 300", "jit = off"}});
  }

  std::unique_ptr<Daemon> watch(std::vector<std::string> more = {})
  {
    std::vector<std::string> args{"--pid",          std::to_string(cluster().postmaster_pid()),
                                  "--listen",       "127.0.0.1:0",
                                  "--interval",     "1s",
                                  "--max-overhead", "off"};
    args.insert(args.end(), more.begin(), more.end());
    auto daemon = start_daemon(args);
    if (!daemon)
      return nullptr;
    port_ = daemon->listen_port();
    if (eventually([&] { return sample("sweeps_total") > 0; }))
      return daemon;
    ADD_FAILURE() << "the daemon never took its baseline";
    return nullptr;
  }

  std::optional<double> sample(const std::string &name) const
  {
    return metric(port_, "pgmemtrace_" + name);
  }
  double hits(const std::string &probe) const { return probe_hits(port_, probe); }
  double lost(const std::string &reason) const
  {
    return sample("events_lost_total{reason=\"" + reason + "\"}").value_or(0);
  }
  // All that reached the programs, counted or refused.
  double seen() const
  {
    double sum = lost("processes_full");
    for (const char *probe : {"sample", "start", "end", "utility", "settle", "exit"})
      sum += hits(probe);
    return sum;
  }
  double slots_used() const { return sample("map_entries{map=\"processes\"}").value_or(-1); }

  static auto raised_for(pid_t pid)
  {
    return
        [=](const json &line) { return line["type"] == "violation" && line["server_pid"] == pid; };
  }

  // Below TopMemoryContext: so many chains of contexts of that depth.
  static void nest_contexts(const PostgresCluster &cluster, Session &session, int chains, int depth)
  {
    load_c_functions(cluster, session, "nested_contexts",
                     {"nest_contexts(int, int, bigint)", "drop_nested(int)"});
    session.exec("SELECT nest_contexts(" + std::to_string(chains) + ", " + std::to_string(depth) +
                 ", 0)");
  }

  int port_ = 0;
};

// At level request, where nobody is sampled.
constexpr int kHitsOfASession = 3; // two settles, exit

// Each a session of one statement.
void open_and_close(const PostgresCluster &cluster, int sessions)
{
  constexpr int kThreads = 4;
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i)
    threads.emplace_back([&] {
      for (int j = 0; j < sessions / kThreads; ++j)
        cluster.connect().exec("SELECT 1");
    });
  for (auto &thread : threads)
    thread.join();
}

// ---- processes come and go ------------------------------------------------------------------

TEST_F(FaultsTest, sessions_that_come_and_go_are_counted_to_the_last_statement)
{
  auto daemon = watch();
  ASSERT_TRUE(daemon);
  const double before = hits("settle");
  constexpr int kSessions = 1600; // more than there are slots
  open_and_close(cluster(), kSessions);
  EXPECT_TRUE(eventually([&] { return hits("settle") - before >= 2 * kSessions; }))
      << hits("settle") - before;
  EXPECT_EQ(hits("settle") - before, 2 * kSessions); // a greeting, and a statement
  EXPECT_EQ(hits("start") + hits("end") + hits("utility"), 0) << "nobody grew";
  for (const char *reason : {"ring_full", "processes_full", "task_storage"})
    EXPECT_EQ(lost(reason), 0) << reason;
  EXPECT_TRUE(eventually([&] { return slots_used() < 10; })) << slots_used();
  EXPECT_EQ(daemon->err().find("warning"), std::string::npos) << daemon->err();
  EXPECT_EQ(daemon->stop(), 0);
}

TEST_F(FaultsTest, what_found_no_slot_is_counted_hit_by_hit)
{
  std::vector<Session> idle;
  auto daemon = watch({"--max-processes", "16", "--format", "json", "--level", "request"});
  ASSERT_TRUE(daemon);
  for (int i = 0; i < 16; ++i) {
    idle.push_back(cluster().connect());
    idle.back().exec("SELECT 1"); // a slot, for as long as it lives
  }
  ASSERT_TRUE(eventually([&] { return seen() >= 16 * 2; })); // two settles
  constexpr int kSessions = 40;
  open_and_close(cluster(), kSessions);
  EXPECT_TRUE(eventually([&] { return seen() >= 16 * 2 + kSessions * kHitsOfASession; })) << seen();
  EXPECT_EQ(seen(), 16 * 2 + kSessions * kHitsOfASession);
  EXPECT_EQ(lost("processes_full"), kSessions * kHitsOfASession);
  EXPECT_TRUE(daemon->wait_for_json([](const json &line) {
    return line["type"] == "status" &&
           line["events_lost"]["processes_full"] == kSessions * kHitsOfASession;
  }));

  // Room again: counted again.
  idle.clear();
  EXPECT_TRUE(eventually([&] { return slots_used() == 0; }));
  const double before = hits("settle");
  cluster().connect().exec("SELECT 1");
  EXPECT_TRUE(eventually([&] { return hits("settle") == before + 2; }));
}

TEST_F(FaultsTest, a_backend_that_is_terminated_inside_a_statement_is_forgotten)
{
  auto other = cluster().connect();
  auto daemon = watch({"--level", "request"});
  ASSERT_TRUE(daemon);
  const double exits = hits("exit");
  auto victim = cluster().connect();
  victim.send_async("SELECT pg_sleep(3600)");
  const auto sleeps =
      "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND pid = " +
      std::to_string(victim.backend_pid());
  ASSERT_TRUE(eventually([&] { return other.value(sleeps) == "1"; }));
  ASSERT_TRUE(eventually([&] { return slots_used() == 2; })) << slots_used(); // both sessions'
  EXPECT_EQ(
      other.value("SELECT pg_terminate_backend(" + std::to_string(victim.backend_pid()) + ")"),
      "t");
  EXPECT_FALSE(victim.finish());
  EXPECT_TRUE(eventually([&] { return hits("exit") == exits + 1; }));
  EXPECT_TRUE(eventually([&] { return slots_used() == 1; })) << slots_used();
  EXPECT_EQ(other.value("SELECT 41 + 1"), "42");
  EXPECT_EQ(daemon->stop(), 0);
}

TEST_F(FaultsTest, a_client_that_vanishes_inside_a_statement_leaves_no_trace)
{
  auto locker = cluster().connect();
  locker.exec("SELECT pg_advisory_lock(4)");
  auto daemon = watch({"--level", "request"});
  ASSERT_TRUE(daemon);
  const double exits = hits("exit");
  auto victim = cluster().connect();
  const auto pid = victim.backend_pid();
  victim.send_async("SELECT pg_advisory_lock(4), repeat('x', 1000000)");
  ASSERT_TRUE(eventually(
      [&] { return locker.value("SELECT count(*) FROM pg_locks WHERE NOT granted") == "1"; }));
  victim.close(); // the server learns of it when it answers
  locker.exec("SELECT pg_advisory_unlock(4)");
  EXPECT_TRUE(eventually([&] { return hits("exit") == exits + 1; }));
  EXPECT_TRUE(eventually([&] { return kill(pid, 0) != 0 && slots_used() <= 1; })) << slots_used();
  EXPECT_EQ(locker.value("SELECT 41 + 1"), "42");
}

// SIGKILL to one backend: the postmaster ends all others and starts again, and nobody says goodbye.
TEST_F(FaultsTest, a_crash_restart_frees_every_slot_and_goes_on_counting)
{
  auto daemon = watch({"--level", "request"});
  ASSERT_TRUE(daemon);
  std::vector<Session> sessions;
  for (int i = 0; i < 20; ++i) {
    sessions.push_back(cluster().connect());
    sessions.back().exec("SELECT 1");
  }
  ASSERT_TRUE(eventually([&] { return hits("settle") == 40 && slots_used() >= 20; }));
  sessions.front().send_async("SELECT pg_sleep(3600)");
  const auto postmaster = cluster().postmaster_pid();
  ASSERT_EQ(kill(sessions.front().backend_pid(), SIGKILL), 0);
  EXPECT_FALSE(sessions.front().finish());
  ASSERT_TRUE(eventually([&] { return bool(Session::connect(cluster().conninfo())); }));
  EXPECT_EQ(cluster().postmaster_pid(), postmaster);
  // Who made a segment anew has one: the postmaster, for its control segment, and of its lasting
  // processes the one that the statistics needed another for.
  EXPECT_TRUE(eventually([&] { return slots_used() <= 2; })) << slots_used();
  const double before = hits("settle");
  EXPECT_GE(before, 40);
  cluster().connect().exec("SELECT 1");
  EXPECT_TRUE(eventually([&] { return hits("settle") == before + 2; }));
  EXPECT_EQ(daemon->err().find("warning"), std::string::npos) << daemon->err();
  EXPECT_EQ(daemon->stop(), 0);
}

// ---- a server dies -----------------------------------------------------------------------------

// Sweeps a process over and over until it cannot be read any more.
class EndlessSweep {
public:
  explicit EndlessSweep(pid_t pid)
      : thread_([this, pid] {
          auto servers =
              ServerList::find({.selection = {.pids = {pid}}, .postgres_btf = {}, .proc = Proc()});
          const auto *process = servers ? servers->find_process(pid) : nullptr;
          if (!process)
            return;
          Sweeper sweeper(*process);
          for (;;) {
            ++begun_;
            auto tree = sweeper.sweep(Pass::exact);
            if (!tree) {
              error_ = tree.error().err;
              return;
            }
            largest_ = std::max(largest_, tree->contexts.size());
          }
        })
  {
  }
  ~EndlessSweep() { join(); }
  void join()
  {
    if (thread_.joinable())
      thread_.join();
  }
  int begun() const { return begun_; }
  int error() const { return error_; }
  std::size_t largest() const { return largest_; }

private:
  std::atomic<int> begun_ = 0;
  int error_ = 0;
  std::size_t largest_ = 0;
  std::thread thread_; // last: it uses the others
};

TEST_F(FaultsTest, a_server_that_is_killed_in_the_middle_of_a_sweep_is_gone_and_comes_back)
{
  auto server = PostgresCluster::start({.conf = {"cluster_name = 'mortal'"}});
  ASSERT_TRUE(server) << to_string(server.error());
  auto survivor = cluster().connect();
  auto daemon = start_daemon({"--pid", "all", "--format", "json", "--listen", "off", "--interval",
                              "200ms", "--max-overhead", "off"});
  ASSERT_TRUE(daemon);
  const auto shows = [&](pid_t postmaster) {
    std::optional<json> last;
    for (auto &line : daemon->json_lines())
      if (line["type"] == "status")
        last = std::move(line);
    if (last)
      for (const auto &one : (*last)["servers"])
        if (one["postmaster"] == postmaster)
          return true;
    return false;
  };
  for (int round = 0; round < 3; ++round) {
    auto session = (*server)->connect();
    nest_contexts(**server, session, 20000, 1);
    const auto postmaster = (*server)->postmaster_pid();
    ASSERT_TRUE(eventually([&] { return shows(postmaster); }));
    EndlessSweep sweep(session.backend_pid());
    // The third has begun and takes a hundred times longer than it takes us to kill.
    ASSERT_TRUE(eventually([&] { return sweep.begun() >= 3; }));
    (*server)->stop(PostgresCluster::Stop::kill);
    sweep.join();
    EXPECT_EQ(sweep.error(), ESRCH);
    EXPECT_GT(sweep.largest(), 20000u);
    EXPECT_TRUE(eventually([&] { return !shows(postmaster); }));
    EXPECT_TRUE(shows(cluster().postmaster_pid()));
    ASSERT_TRUE((*server)->restart());
  }
  for (const auto &line : daemon->json_lines())
    EXPECT_TRUE(line["type"] != "violation" || line["instance"] != "mortal" ||
                line["state"] == "cleared" || line["context"] == "nested")
        << line;
  EXPECT_EQ(survivor.value("SELECT 41 + 1"), "42");
  EXPECT_EQ(daemon->err().find("warning"), std::string::npos) << daemon->err();
  EXPECT_EQ(daemon->stop(), 0);
}

// Found in /proc, gone before its executable was opened: the other servers that run it are none the
// worse for it.
TEST_F(FaultsTest, a_server_that_ends_before_it_is_probed_spares_the_others)
{
  const DataDirectory one;
  const DataDirectory two;
  FakeServer first(one, "first");
  FakeServer second(two, "second");
  auto servers = ServerList::find(
      {.selection = {.pids = {first.pid(), second.pid()}}, .postgres_btf = {}, .proc = Proc()});
  ASSERT_TRUE(servers) << to_string(servers.error());
  ASSERT_EQ(servers->binaries().size(), 1u);
  const auto *binary = servers->binaries().front().get();
  // The executable is opened through the first process that was seen to run it.
  auto &opened = binary->open_path == Proc().path(first.pid(), "exe") ? first : second;
  auto &other = &opened == &first ? second : first;
  KernelMaps maps({});
  Attachments attachments(maps, {.level = Level::request,
                                 .selection = {.pids = {first.pid(), second.pid()}},
                                 .postgres_btf = {},
                                 .governor = {}});
  opened.end();
  for (const auto &error : attachments.follow(*servers, {}))
    ADD_FAILURE() << to_string(error);
  EXPECT_EQ(attachments.find(binary), nullptr);
  const auto changes = servers->refresh();
  EXPECT_EQ(changes.servers_vanished.size(), 1u);
  EXPECT_TRUE(servers->servers().contains(other.pid()));
  for (const auto &error : attachments.follow(*servers, changes))
    ADD_FAILURE() << to_string(error);
  ASSERT_NE(attachments.find(binary), nullptr);
  EXPECT_EQ(attachments.find(binary)->probes.level(), Level::request);
}

// A clock goes with its CPU.  Where none can be had, statements that hold much are seen at their
// end.
TEST_F(FaultsTest, samples_are_taken_on_the_cpus_that_are_online)
{
  const DataDirectory folder;
  const auto list = folder.path() + "/online";
  std::ofstream(list) << "\n";
  auto servers = ServerList::find(
      {.selection = {.pids = {cluster().postmaster_pid()}}, .postgres_btf = {}, .proc = Proc()});
  ASSERT_TRUE(servers) << to_string(servers.error());
  KernelMaps maps({});
  Attachments attachments(maps, {.level = Level::statement,
                                 .selection = {.pids = {cluster().postmaster_pid()}},
                                 .postgres_btf = {},
                                 .online_cpus = list,
                                 .governor = {}});
  const auto follow = [&] {
    for (const auto &error : attachments.follow(*servers, servers->refresh()))
      ADD_FAILURE() << to_string(error);
    return attachments.find(servers->binaries().front().get());
  };
  const auto *attachment = follow();
  ASSERT_NE(attachment, nullptr);
  const auto &probes = attachment->probes;
  EXPECT_EQ(probes.attached_sites(PGMT_PROBE_SAMPLE), 0u);
  EXPECT_EQ(probes.attached_sites(PGMT_PROBE_END), 0u);

  std::ofstream(list) << std::ifstream(kOnlineCpus).rdbuf();
  follow();
  EXPECT_EQ(probes.attached_sites(PGMT_PROBE_SAMPLE), cpus_in(list)->size());
  EXPECT_EQ(probes.attached_sites(PGMT_PROBE_END), 0u);

  std::ofstream(list) << "none that we can read\n";
  follow();
  EXPECT_EQ(probes.attached_sites(PGMT_PROBE_SAMPLE), 0u);
  EXPECT_GT(probes.attached_sites(PGMT_PROBE_END), 0u);
  EXPECT_EQ(probes.level(), Level::statement);
}

// ---- trees beyond all measure
// ----------------------------------------------------------------------

TEST_F(FaultsTest, twenty_thousand_contexts_are_read_whole_and_as_the_server_sees_them)
{
  auto session = cluster().connect();
  nest_contexts(cluster(), session, 20000, 1);
  const auto count = std::stod(session.value("SELECT count(*) FROM pg_backend_memory_contexts "
                                             "WHERE name = 'nested'"));
  EXPECT_EQ(count, 20000);
  auto daemon = watch({"--format", "json"});
  ASSERT_TRUE(daemon);
  EXPECT_TRUE(daemon->wait_for_json([&](const json &line) {
    return line["type"] == "status" && line["contexts"] > count &&
           line["incomplete_processes"] == 0;
  }));
  // The kernel half has nothing to do with what outlives statements.
  const double before = hits("sample");
  EXPECT_TRUE(eventually([&] {
    session.exec("SELECT count(*) FROM pg_class a, pg_class b");
    return hits("sample") > before + 10;
  }));
  EXPECT_EQ(lost("walk_bound"), 0);
  EXPECT_EQ(sample("read_errors_total{reason=\"walk\"}"), 0);
  for (const auto &line : daemon->json_lines())
    EXPECT_FALSE(raised_for(session.backend_pid())(line)) << line;
  EXPECT_EQ(daemon->stop(), 0);
}

TEST_F(FaultsTest, a_tree_two_hundred_levels_deep_is_read_to_its_last_level)
{
  auto session = cluster().connect();
  nest_contexts(cluster(), session, 3, 200);
  const auto result = run_command({pgmemtrace_binary(), "contexts", "--pid",
                                   std::to_string(session.backend_pid()), "--format", "json"});
  ASSERT_EQ(result.status, 0) << result.err;
  EXPECT_EQ(result.err, "");
  int deepest = 0;
  int nested = 0;
  for (const auto &context : json::parse(result.out)) {
    deepest = std::max(deepest, context["level"].get<int>());
    nested += context["name"] == "nested";
  }
  EXPECT_EQ(deepest, 201); // TopMemoryContext is the first
  EXPECT_EQ(nested, 600);
  auto daemon = watch({"--format", "json"});
  ASSERT_TRUE(daemon);
  EXPECT_TRUE(daemon->wait_for_json([](const json &line) {
    return line["type"] == "status" && line["contexts"] > 600 && line["incomplete_processes"] == 0;
  }));
  const double before = hits("sample");
  EXPECT_TRUE(eventually([&] {
    session.exec("SELECT count(*) FROM pg_class a, pg_class b");
    return hits("sample") > before + 10;
  }));
  EXPECT_EQ(lost("walk_bound"), 0);
  EXPECT_EQ(daemon->stop(), 0);
}

// ---- trees of garbage
// --------------------------------------------------------------------------------

class GarbageTest : public FaultsTest, public testing::WithParamInterface<const char *> {};

TEST_P(GarbageTest, neither_half_loops_or_ends)
{
  const DataDirectory data;
  FakeServer server(data, "fake");
  const auto sane = server.start("backend");
  const auto broken = server.start(GetParam());
  auto daemon = start_daemon({"--pid", std::to_string(server.pid()), "--format", "json", "--listen",
                              "127.0.0.1:0", "--interval", "100ms", "--max-overhead", "off",
                              "--level", "statement"});
  ASSERT_TRUE(daemon);
  port_ = daemon->listen_port();
  // Postmaster, the sane one, the broken one; of that, what could be read.
  const auto judged = daemon->wait_for_json([](const json &line) {
    return line["type"] == "status" && line["processes"] == 3 && line["incomplete_processes"] == 1;
  });
  EXPECT_TRUE(judged) << daemon->out();
  const auto walks_cut = [&] {
    return lost("walk_bound") + sample("read_errors_total{reason=\"walk\"}").value_or(0);
  };
  double served = hits("settle");
  EXPECT_EQ(served, 0);
  EXPECT_TRUE(eventually([&] {
    EXPECT_EQ(server.ask("serve " + std::to_string(broken)), "ok\n");
    EXPECT_EQ(server.ask("serve " + std::to_string(sane)), "ok\n");
    served += 2;
    return walks_cut() > 0;
  }));
  EXPECT_TRUE(eventually([&] { return hits("settle") == served; })) << hits("settle");
  EXPECT_GT(hits("sample"), 0);
  EXPECT_EQ(daemon->stop(), 0);
}

INSTANTIATE_TEST_SUITE_P(Kinds, GarbageTest, testing::Values("circle", "ancestor", "wild", "crowd"),
                         [](const auto &kind) { return std::string(kind.param); });

// ---- no room, no time
// ---------------------------------------------------------------------------------

TEST_F(FaultsTest, a_ring_that_is_too_small_loses_news_but_no_count)
{
  auto daemon = watch({"--ring-bytes", "4096", "--level", "request"});
  ASSERT_TRUE(daemon);
  kill(daemon->pid(), SIGSTOP); // one that is too slow, for certain
  constexpr int kSessions = 400;
  open_and_close(cluster(), kSessions);
  kill(daemon->pid(), SIGCONT);
  EXPECT_TRUE(eventually([&] { return hits("settle") == 2 * kSessions; })) << hits("settle");
  EXPECT_GT(lost("ring_full"), 0);
  EXPECT_EQ(lost("processes_full"), 0);
  EXPECT_TRUE(daemon->wait_for_line(
      [](const std::string &line) { return line.find("ring_full") != std::string::npos; }));
  EXPECT_TRUE(eventually([&] { return slots_used() < 10; })) << slots_used();
}

TEST_F(FaultsTest, a_contexts_map_that_is_too_small_says_so)
{
  auto daemon = watch({"--max-contexts", "1", "--level", "block"});
  ASSERT_TRUE(daemon);
  auto session = cluster().connect();
  EXPECT_TRUE(eventually([&] {
    session.exec("SELECT count(*) FROM pg_class");
    return lost("contexts_full") > 0;
  }));
  EXPECT_TRUE(daemon->wait_for_line(
      [](const std::string &line) { return line.find("contexts_full") != std::string::npos; }));
}

TEST_F(FaultsTest, a_daemon_that_was_stopped_catches_up_and_raises_no_alarm)
{
  auto busy = cluster().connect();
  auto daemon = watch({"--format", "json", "--level", "request"});
  ASSERT_TRUE(daemon);
  const double before = seen();
  kill(daemon->pid(), SIGSTOP);
  constexpr int kSessions = 1600; // nobody frees slots meanwhile: there are too few
  constexpr int kStatements = 3000;
  open_and_close(cluster(), kSessions);
  for (int i = 0; i < kStatements; ++i)
    busy.exec("SELECT " + std::to_string(i));
  kill(daemon->pid(), SIGCONT);
  constexpr int kAll = kSessions * kHitsOfASession + kStatements; // a settle each
  EXPECT_TRUE(eventually([&] { return seen() - before >= kAll; })) << seen();
  EXPECT_EQ(seen() - before, kAll);
  EXPECT_GT(lost("processes_full"), 0);
  // It is back when a new session is counted like any other.
  EXPECT_TRUE(eventually([&] { return slots_used() < 10; })) << slots_used();
  const double counted = hits("settle");
  const double refused = lost("processes_full");
  auto session = cluster().connect();
  session.exec("SELECT 1");
  EXPECT_TRUE(eventually([&] { return hits("settle") == counted + 2; }));
  EXPECT_EQ(lost("processes_full"), refused);
  for (const auto &line : daemon->json_lines())
    EXPECT_NE(line["type"], "violation") << line;
  EXPECT_EQ(daemon->stop(), 0);
}

} // namespace
} // namespace pgmemtrace::test
