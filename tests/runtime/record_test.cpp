// SPDX-License-Identifier: BSD-2-Clause
// record_test.cpp - `record` and `report` on a live server: the context, the code and the bytes.
#include <cerrno>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>

#include <gmock/gmock.h>
#include <sys/mount.h>

#include "recording/recorder.h"
#include "support/recording_test.h"

namespace pgmemtrace::test {
namespace {

using nlohmann::json;
using testing::Contains;
using testing::HasSubstr;

class RecordTest : public RecordingTest {};

std::optional<json> context(const json &report, const std::string &name)
{
  for (const auto &one : report["contexts"])
    if (one["name"] == name)
      return one;
  return std::nullopt;
}

void leak(Session &session, int from, int to)
{
  for (int i = from; i < to; ++i)
    session.exec("PREPARE leaked_" + std::to_string(i) +
                 " AS SELECT count(*) FROM pg_class WHERE relpages = 1");
}

TEST_F(RecordTest, names_the_context_the_code_and_the_bytes_of_a_leak)
{
  auto session = cluster().connect();
  leak(session, 0, 150); // aset.c's free list is empty, caches are filled
  const auto held = [&] {
    return std::stoll(session.value("SELECT sum(total_bytes) FROM pg_backend_memory_contexts "
                                    "WHERE name IN ('CachedPlanSource', 'CachedPlanQuery')"));
  };
  const auto before = held();
  auto daemon = record(session.backend_pid());
  leak(session, 150, 350);
  EXPECT_EQ(daemon->stop(), 0);
  const auto grown = held() - before;

  const auto report = report_as_json({"--view", "live"});
  const auto source = context(report, "CachedPlanSource"),
             query = context(report, "CachedPlanQuery");
  ASSERT_TRUE(source && query);
  EXPECT_EQ((*source)["live_bytes"].get<long long>() + (*query)["live_bytes"].get<long long>(),
            grown);
  std::int64_t by_stack = 0;
  for (const auto &one : report["allocations"])
    if (one["context"] == "CachedPlanSource" || one["context"] == "CachedPlanQuery") {
      EXPECT_THAT(functions(one), Contains("PrepareQuery"));
      by_stack += one["live_bytes"].get<std::int64_t>();
    }
  EXPECT_EQ(by_stack, grown);
  EXPECT_TRUE(report["lost"].empty()) << report["lost"];
}

TEST_F(RecordTest, what_is_given_back_is_grown_and_not_live)
{
  auto session = cluster().connect();
  auto daemon = record(session.backend_pid());
  session.exec(
      "SELECT count(*) FROM (SELECT g, repeat('x', 100) v FROM generate_series(1, 50000) g "
      "ORDER BY v DESC OFFSET 0) s");
  EXPECT_EQ(daemon->stop(), 0);
  const auto report = report_as_json();
  const auto executor = context(report, "ExecutorState");
  ASSERT_TRUE(executor);
  EXPECT_GT((*executor)["peak_bytes"], 1 << 20);
  EXPECT_GE((*executor)["grown_bytes"], (*executor)["peak_bytes"]);
  EXPECT_LT((*executor)["live_bytes"], 64 << 10);
}

TEST_F(RecordTest, libraries_that_are_loaded_meanwhile_have_names)
{
  auto session = cluster().connect();
  auto daemon = record(session.backend_pid());
  session.exec("DO $$ DECLARE a text[] := '{}'; BEGIN FOR i IN 1..100000 LOOP "
               "a := a || ('item ' || i); END LOOP; END $$");
  EXPECT_EQ(daemon->stop(), 0);
  const auto report = report_as_json({"--context", "expanded array"});
  ASSERT_FALSE(report["allocations"].empty());
  EXPECT_THAT(functions(report["allocations"][0]), Contains("plpgsql_inline_handler"));
}

TEST_F(RecordTest, a_process_that_exits_ends_the_recording_and_is_kept)
{
  auto session = cluster().connect();
  auto daemon = record(session.backend_pid(), {"--duration", "10m"});
  leak(session, 0, 200);
  session.close();
  EXPECT_EQ(daemon->wait(), 0);
  EXPECT_THAT(daemon->err(), HasSubstr("ended meanwhile: 1"));
  const auto report = report_as_json();
  ASSERT_EQ(report["processes"].size(), 1u);
  EXPECT_EQ(report["processes"][0]["exited"], true);
  EXPECT_TRUE(context(report, "CachedPlanSource"));
}

TEST_F(RecordTest, a_whole_server_with_sessions_that_come_and_go)
{
  auto daemon = record(cluster().postmaster_pid());
  for (int i = 0; i < 5; ++i) {
    auto session = cluster().connect();
    leak(session, 0, 150);
  }
  auto last = cluster().connect();
  leak(last, 0, 150);
  EXPECT_EQ(daemon->stop(), 0);
  const auto report = report_as_json();
  EXPECT_GE(report["processes"].size(), 6u);
  EXPECT_GT((*context(report, "CachedPlanSource"))["contexts_made"], 6 * 50);
}

// Probes come and go one by one: what some saw while others were not there would not add up.
TEST_F(RecordTest, a_session_that_works_throughout_adds_up)
{
  auto session = cluster().connect();
  session.send_async("DO $$BEGIN FOR i IN 1..1000000000 LOOP "
                     "PERFORM count(*) FROM pg_class WHERE relname = 'r' || i; END LOOP; END$$");
  auto daemon = record(session.backend_pid(), {"--duration", "1s"});
  EXPECT_EQ(daemon->wait(), 0);
  const auto report = report_as_json();
  EXPECT_GT(report["grown_bytes"], 1 << 20);
  EXPECT_TRUE(report["lost"].empty()) << report["lost"];
  EXPECT_TRUE(session.busy());
  cluster().connect().exec("SELECT pg_terminate_backend(" + std::to_string(session.backend_pid()) +
                           ")");
}

TEST_F(RecordTest, ends_with_its_time_and_every_format_is_readable)
{
  auto session = cluster().connect();
  auto daemon = record(session.backend_pid(), {"--duration", "3s"});
  leak(session, 0, 150);
  EXPECT_EQ(daemon->wait(), 0);
  EXPECT_EQ(files(), 1);
  EXPECT_THAT(report().out, HasSubstr("CachedPlanSource"));
  EXPECT_THAT(report({"--format", "folded"}).out, HasSubstr(";PrepareQuery;"));
  EXPECT_THAT(report({"--format", "html"}).out, HasSubstr("CachedPlanSource"));
  const auto massif = folder_ / "massif";
  std::ofstream(massif) << report({"--format", "massif"}).out;
  EXPECT_THAT(run_command({"ms_print", massif}).out, HasSubstr("CachedPlanSource"));
  const auto nothing = report_as_json({"--diff", file()});
  EXPECT_EQ(nothing["grown_bytes"], 0);
}

// With bounds that are soon reached: nothing of what was grown is lost, only who it was.
TEST_F(RecordTest, too_many_processes_that_ended_are_kept_as_one)
{
  auto servers = ServerList::find(
      {.selection = {.pids = {cluster().postmaster_pid()}}, .postgres_btf = {}, .proc = Proc()});
  ASSERT_TRUE(servers);
  auto recorder = Recorder::start(
      std::move(*servers),
      {.attachments = {.level = Level::block, .selection = {.pids = {cluster().postmaster_pid()}}},
       .maps = {},
       .processes = 1,
       .warn = [](const Error &error) { ADD_FAILURE() << to_string(error); }});
  ASSERT_TRUE(recorder) << to_string(recorder.error());
  for (int i = 0; i < 4; ++i) {
    auto session = cluster().connect();
    leak(session, 0, 150);
    const auto pid = session.backend_pid();
    session.close();
    EXPECT_TRUE(eventually([&] {
      (*recorder)->step();
      return kill(pid, 0) != 0;
    }));
  }
  const auto recording = (*recorder)->finish();
  std::uint64_t made = 0;
  std::vector<std::int64_t> pids;
  for (const auto &process : recording.processes)
    for (const auto &context : process.contexts)
      if (context.name == "CachedPlanSource") {
        made += context.made;
        pids.push_back(process.pid);
      }
  EXPECT_THAT(pids, testing::SizeIs(testing::Le(2u)));
  EXPECT_THAT(pids, Contains(0));
  EXPECT_GE(made, 4 * 50u);
}

// ---- what can go wrong ----

struct Refused {
  std::vector<std::string> args;
  int status;
};

TEST_F(RecordTest, refuses_what_it_cannot_do)
{
  std::ofstream(folder_ / "foreign") << "hello";
  const auto pid = std::to_string(cluster().postmaster_pid());
  const Refused cases[] = {
      {{"record", "--pid", pid, "--level", "statement", "-o", file()}, 2},
      {{"record", "--pid", "all", "--level", "malloc", "-o", file()}, 2},
      {{"record", "--pid", pid, "--duration", "soon", "-o", file()}, 2},
      {{"record", "--pid", pid, "-o", "/nonexistent/folder/file"}, 3},
      {{"record", "--pid", pid, "-o", "/dev/null"}, 3},
      {{"record", "--pid", "1", "-o", file()}, 3},
      {{"report", "/nonexistent"}, 3},
      {{"report", folder_ / "foreign"}, 3},
      {{"report", folder_ / "foreign", "--diff", "x", "--format", "massif"}, 2},
  };
  for (const auto &[args, status] : cases) {
    std::vector<std::string> command{pgmemtrace_binary()};
    command.insert(command.end(), args.begin(), args.end());
    const auto result = run_command(command);
    EXPECT_EQ(result.status, status) << testing::PrintToString(args) << result.err;
    EXPECT_THAT(result.err, HasSubstr("error: "));
  }
  EXPECT_EQ(files(), 1);
}

// Only the end shows that there is no room: nothing is left then, not even a part of a file.
TEST_F(RecordTest, a_full_disk_is_told_and_leaves_nothing)
{
  ASSERT_EQ(mount("none", folder_.c_str(), "tmpfs", 0, "size=4k"), 0) << strerror(errno);
  std::ofstream(folder_ / "full") << std::string(4096, 'x');
  auto session = cluster().connect();
  auto daemon = record(session.backend_pid());
  leak(session, 400, 420);
  EXPECT_EQ(daemon->stop(), 3);
  EXPECT_THAT(daemon->err(), HasSubstr(file()));
  EXPECT_THAT(daemon->err(), HasSubstr("No space left on device"));
  EXPECT_EQ(files(), 1);
}

TEST_F(RecordTest, leaves_no_probe_behind)
{
  auto session = cluster().connect();
  auto daemon = record(session.backend_pid());
  const auto links = probe_links(daemon->pid());
  EXPECT_FALSE(links.empty());
  EXPECT_EQ(daemon->stop(), 0);
  EXPECT_TRUE(eventually([&] { return living(links).empty(); }));
}

} // namespace
} // namespace pgmemtrace::test
