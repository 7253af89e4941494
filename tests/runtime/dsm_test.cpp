// SPDX-License-Identifier: BSD-2-Clause
// dsm_test.cpp - dynamic shared memory of a live server: what is there, what stays for no reason,
// and what is healthy.
#include <filesystem>
#include <string>
#include <vector>

#include <gmock/gmock.h>

#include "support/extension.h"
#include "support/runtime_test.h"

namespace pgmemtrace::test {
namespace {

using nlohmann::json;
using testing::HasSubstr;

class DsmTest : public RuntimeTest {
protected:
  static void SetUpTestSuite()
  {
    use_cluster({.conf = {"max_parallel_workers = 8", "max_worker_processes = 16",
                          "autovacuum_naptime = 1s", "fsync = off"}});
  }

  void SetUp() override
  {
    RuntimeTest::SetUp();
    if (IsSkipped() || HasFatalFailure())
      return;
    auto admin = cluster().connect();
    const auto library = build_extension(cluster(), "dsm_leaks.c", "dsm_leaks.so", {"-O1"});
    for (const std::string function :
         {"dsm_keep_mapping", "dsm_outlive", "dsm_keep_both", "dsm_use", "dsm_drop"})
      admin.exec("CREATE OR REPLACE FUNCTION " + function + "(bigint) RETURNS bigint AS '" +
                 library + "' LANGUAGE C");
  }

  static std::unique_ptr<Daemon> watch(std::vector<std::string> more = {})
  {
    std::vector<std::string> args{"--pid",      std::to_string(cluster().postmaster_pid()),
                                  "--format",   "json",
                                  "--interval", "1s"};
    args.insert(args.end(), more.begin(), more.end());
    if (std::ranges::find(args, "--listen") == args.end())
      args.insert(args.end(), {"--listen", "off"});
    auto daemon = start_daemon(args);
    if (daemon) {
      EXPECT_TRUE(daemon->wait_for_json([](const json &line) { return line["type"] == "status"; }));
    }
    return daemon;
  }

  // A violation that names this segment.
  static std::optional<json> finding(Daemon &daemon, const std::string &state,
                                     const std::string &handle)
  {
    return daemon.wait_for_json([&](const json &line) {
      return line["type"] == "violation" && line["rule"] == "dsm_leak" && line["state"] == state &&
             std::ranges::any_of(line["segments"], [&](const json &segment) {
               return std::to_string(segment["handle"].get<std::uint64_t>()) == handle;
             });
    });
  }

  static std::uint64_t segments_now(Daemon &daemon)
  {
    const auto line = [&] {
      const auto lines = daemon.json_lines();
      for (auto it = lines.rbegin(); it != lines.rend(); ++it)
        if ((*it)["type"] == "status")
          return *it;
      return json();
    }();
    return line["servers"][0]["dsm_segments"].get<std::uint64_t>();
  }
};

// What a finding says of its only segment, against what PostgreSQL itself has of it.
void expect_segment(const json &finding, const std::string &handle, std::uint64_t bytes,
                    bool pinned, int attachments)
{
  ASSERT_EQ(finding["segments"].size(), 1U) << finding;
  const auto &segment = finding["segments"][0];
  EXPECT_EQ(std::to_string(segment["handle"].get<std::uint64_t>()), handle);
  EXPECT_EQ(segment["bytes"], bytes);
  EXPECT_EQ(segment["pinned"], pinned);
  EXPECT_EQ(segment["attachments"], attachments);
  EXPECT_EQ(finding["after_bytes"], bytes);
  EXPECT_EQ(finding["severity"], "WARNING");
}

TEST_F(DsmTest, a_mapping_that_outlives_its_query_is_found_with_its_code_and_query)
{
  auto daemon = watch();
  ASSERT_TRUE(daemon);
  auto session = cluster().connect();
  const auto handle = session.value("SELECT dsm_keep_mapping(70000)");
  const auto found = finding(*daemon, "raised", handle);
  ASSERT_TRUE(found);
  expect_segment(*found, handle, 70000, false, 1);
  const auto pid = session.backend_pid();
  EXPECT_EQ((*found)["server_pid"], pid);
  EXPECT_EQ((*found)["segments"][0]["made_by"], (*found)["pid"]);
  EXPECT_THAT((*found)["segments"][0]["pids"], testing::ElementsAre((*found)["pid"]));
  EXPECT_THAT((*found)["query"].dump(), HasSubstr("dsm_keep_mapping"));
  EXPECT_EQ((*found)["module"], "dsm_leaks.so") << *found;
  EXPECT_THAT((*found)["stack"].dump(), HasSubstr("dsm_keep_mapping"));
  session.close();
  EXPECT_TRUE(finding(*daemon, "cleared", handle));
  EXPECT_EQ(daemon->stop(), 0);
}

TEST_F(DsmTest, a_segment_that_outlives_its_transaction_is_found_without_probes)
{
  auto session = cluster().connect();
  session.exec("BEGIN");
  const auto handle = session.value("SELECT dsm_outlive(4096 * 25)");
  auto daemon = watch({"--level", "sweep"});
  ASSERT_TRUE(daemon);
  // In the transaction it is nobody's business.
  ASSERT_TRUE(eventually([&] { return segments_now(*daemon) >= 1; }));
  session.exec("COMMIT");
  const auto found = finding(*daemon, "raised", handle);
  ASSERT_TRUE(found);
  expect_segment(*found, handle, 102400, false, 1);
  EXPECT_EQ((*found)["server_pid"], session.backend_pid());
  EXPECT_EQ(daemon->stop(), 0);
}

TEST_F(DsmTest, a_pinned_segment_that_nobody_has_is_found)
{
  auto daemon = watch();
  ASSERT_TRUE(daemon);
  std::string handle;
  {
    auto session = cluster().connect();
    const auto before = segments_now(*daemon);
    handle = session.value("SELECT dsm_keep_both(50000)");
    // The daemon has looked inside: where segments are System V's, only those who have one can.
    ASSERT_TRUE(eventually([&] { return segments_now(*daemon) > before; }));
  }
  const auto found = finding(*daemon, "raised", handle);
  ASSERT_TRUE(found);
  expect_segment(*found, handle, 50000, true, 0);
  EXPECT_EQ((*found)["pid"], cluster().postmaster_pid());
  EXPECT_THAT((*found)["query"].dump(), HasSubstr("dsm_keep_both"));
  EXPECT_THAT((*found)["stack"].dump(), HasSubstr("dsm_leaks.so"));
  cluster().connect().exec("SELECT dsm_drop(" + handle + ")");
  EXPECT_TRUE(finding(*daemon, "cleared", handle));
  EXPECT_EQ(daemon->stop(), 0);
}

TEST_F(DsmTest, pinned_segments_that_pile_up_in_a_session_are_found)
{
  auto daemon = watch();
  ASSERT_TRUE(daemon);
  auto session = cluster().connect();
  std::string handle;
  std::vector<std::string> handles;
  for (int i = 0; i < 5; ++i)
    handles.push_back(session.value("SELECT dsm_keep_both(65536)"));
  const auto found = finding(*daemon, "raised", handles.front());
  ASSERT_TRUE(found);
  EXPECT_EQ((*found)["occurrences"], 5);
  EXPECT_EQ((*found)["after_bytes"], 5 * 65536);
  EXPECT_EQ((*found)["server_pid"], session.backend_pid());
  for (const auto &one : handles)
    session.exec("SELECT dsm_drop(" + one + ")");
  EXPECT_EQ(daemon->stop(), 0);
}

TEST_F(DsmTest, healthy_segments_are_no_leak)
{
  auto admin = cluster().connect();
  admin.exec("CREATE TABLE many AS SELECT g, g % 100 AS k FROM generate_series(1, 200000) g");
  admin.exec("ANALYZE many");
  auto daemon = watch({"--listen", "127.0.0.1:0"});
  ASSERT_TRUE(daemon);
  const int port = daemon->listen_port();
  ASSERT_GT(port, 0);

  // As the planner would on a large table.
  const std::string parallel = "SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET "
                               "min_parallel_table_scan_size = 0; SET "
                               "min_parallel_index_scan_size = 0; "
                               "SET max_parallel_workers_per_gather = 4; "
                               "SET max_parallel_maintenance_workers = 2";
  auto session = cluster().connect();
  session.exec(parallel);
  const auto hits = probe_hits(port, "dsm");
  int queries = 0;
  // Looks come and go meanwhile, the session rests between them.
  const auto statuses = [&] {
    return std::ranges::count_if(daemon->json_lines(),
                                 [](const json &line) { return line["type"] == "status"; });
  };
  const auto first = statuses();
  EXPECT_TRUE(eventually(
      [&] {
        for (int i = 0; i < 10; ++i, ++queries)
          session.exec("SELECT k, count(*) FROM many GROUP BY k");
        session.value("SELECT dsm_use(8192)");
        session.exec("CREATE INDEX ON many (g)");
        session.exec("VACUUM (PARALLEL 2) many");
        return queries >= 50 && statuses() >= first + 6;
      },
      std::chrono::seconds(90)));
  EXPECT_TRUE(eventually([&] { return probe_hits(port, "dsm") >= hits + queries; }));

  // All that is left is the session's own; at rest it stays silent, too.
  const auto rested = statuses();
  EXPECT_TRUE(eventually([&] { return statuses() >= rested + 5; }));
  for (const auto &line : daemon->json_lines())
    EXPECT_FALSE(line["type"] == "violation" && line["rule"] == "dsm_leak") << line;
  EXPECT_EQ(daemon->stop(), 0);
}

TEST_F(DsmTest, metrics_count_segments_by_kind)
{
  auto daemon = watch({"--listen", "127.0.0.1:0"});
  ASSERT_TRUE(daemon);
  const int port = daemon->listen_port();
  auto session = cluster().connect();
  const auto sample = [&](const std::string &name) {
    double sum = 0;
    const std::string body = http_get(port, "/metrics").body;
    for (std::size_t at = 0; (at = body.find("\n" + name, at)) != std::string::npos; ++at) {
      const auto line = body.substr(at + 1, body.find('\n', at + 1) - at - 1);
      if (line.find("kind=\"shared\"") != std::string::npos)
        sum += std::stod(line.substr(line.rfind(' ')));
    }
    return sum;
  };
  ASSERT_TRUE(eventually([&] {
    return http_get(port, "/metrics").body.find("pgmemtrace_dsm_segments") != std::string::npos;
  }));
  const double before = sample("pgmemtrace_dsm_bytes");
  session.exec("SELECT dsm_keep_mapping(1000000)");
  EXPECT_TRUE(eventually([&] { return sample("pgmemtrace_dsm_bytes") == before + 1000000; }));
  EXPECT_EQ(daemon->stop(), 0);
}

} // namespace
} // namespace pgmemtrace::test
