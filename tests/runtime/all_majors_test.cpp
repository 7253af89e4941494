// SPDX-License-Identifier: BSD-2-Clause
// all_majors_test.cpp - one server of each major, all at once under one daemon.
#include <algorithm>
#include <map>
#include <memory>
#include <set>
#include <string>

#include <gmock/gmock.h>

#include "../cases/case_file.h"
#include "support/runtime_test.h"

namespace pgmemtrace::test {
namespace {

using nlohmann::json;
using testing::HasSubstr;

struct Watched {
  std::unique_ptr<PostgresCluster> cluster;
  Session leaky, quiet;
};

class AllMajorsTest : public RuntimeTest {
protected:
  // By instance.
  static std::map<std::string, Watched> start_all()
  {
    std::map<std::string, Watched> servers;
    for (const auto &major : all_majors()) {
      const std::string name =
          "major " + std::to_string(major.number) + " of test " + std::to_string(getpid());
      auto cluster = PostgresCluster::start(
          {.major = major.number, .conf = {"cluster_name = '" + name + "'"}, .root = major.root});
      if (!cluster) {
        ADD_FAILURE() << to_string(cluster.error()) << cluster.error().hint;
        continue;
      }
      auto &server = servers[name];
      server.cluster = std::move(*cluster);
      server.leaky = server.cluster->connect();
      server.quiet = server.cluster->connect();
    }
    return servers;
  }

  void SetUp() override
  {
    RuntimeTest::SetUp();
    if (IsSkipped() || HasFatalFailure())
      return;
    for (const auto &major : all_majors())
      if (!major.installed())
        skip_or_fail("no PostgreSQL " + std::to_string(major.number) +
                     "; run: sudo scripts/suites.sh");
  }
};

TEST_F(AllMajorsTest, each_leak_is_told_of_its_own_server_and_the_others_are_quiet)
{
  const auto leak = read_case(PGMT_SOURCE_DIR "/tests/cases/prepare_without_deallocate.json");
  const auto sorts = read_case(PGMT_SOURCE_DIR "/tests/cases/ok_sort_within_work_mem.json");
  ASSERT_TRUE(leak && sorts);
  auto servers = start_all();
  ASSERT_EQ(servers.size(), all_majors().size());
  for (auto &[name, server] : servers)
    for (const auto &sql : leak->setup)
      server.leaky.exec(sql);
  // Load on a stranger's server of one of these binaries is no reason to see less of ours.
  auto daemon = start_daemon({"--pid", "all", "--format", "json", "--listen", "off", "--interval",
                              "1s", "--max-overhead", "off"});
  ASSERT_TRUE(daemon);
  ASSERT_TRUE(daemon->wait_for_json([&](const json &line) {
    std::set<std::string> seen;
    if (line["type"] == "status")
      for (const auto &server : line["servers"])
        seen.insert(server["instance"].get<std::string>());
    return std::ranges::all_of(servers, [&](const auto &one) { return seen.contains(one.first); });
  }));

  std::map<std::string, json> leaks;
  std::set<std::string> others; // whatever else was raised on our servers, but for remarks
  int n = 0;
  EXPECT_TRUE(eventually(
      [&] {
        for (auto &[name, server] : servers) {
          for (int i = 0; i < 20; ++i)
            for (const auto &sql : leak->step)
              server.leaky.exec(with_iteration(sql, n + i));
          for (const auto &sql : sorts->step)
            server.quiet.exec(sql);
        }
        n += 20;
        for (const auto &line : daemon->json_lines()) {
          if (line["type"] != "violation")
            continue;
          const auto server = servers.find(line["instance"].get<std::string>());
          if (server == servers.end())
            continue;
          if (line["server_pid"] == server->second.leaky.backend_pid() &&
              line["rule"] == "context_leak" && line["context"] == "CachedPlanSource")
            leaks[server->first] = line;
          else if (line["server_pid"] != server->second.leaky.backend_pid() &&
                   line["severity"] != "INFO")
            others.insert(line.dump());
        }
        return leaks.size() == servers.size();
      },
      std::chrono::seconds(120)));

  for (const auto &[name, told] : leaks) {
    EXPECT_THAT(told["query"].dump(), HasSubstr("PREPARE case_p")) << name;
    EXPECT_EQ(told["database"], "postgres") << name;
  }
  EXPECT_THAT(others, testing::IsEmpty());
  EXPECT_EQ(daemon->stop(), 0);
}

TEST_F(AllMajorsTest, doctor_has_a_plan_for_each)
{
  const auto servers = start_all();
  const auto result = run_command({pgmemtrace_binary(), "doctor", "--format", "json"});
  ASSERT_EQ(result.status, 0) << result.err;
  const auto report = json::parse(result.out);
  std::map<pid_t, json> by_pid;
  for (const auto &server : report["servers"])
    by_pid[server["pid"].get<pid_t>()] = server;
  std::map<std::string, std::ptrdiff_t> plans; // by build-id: functions with a probe
  for (const auto &binary : report["binaries"])
    plans[binary["build_id"].get<std::string>()] =
        std::ranges::count_if(binary["probes"], [](const json &probe) {
          return probe["placed"] == true && probe["callers"] > 0; // not what nobody calls by name
        });
  for (const auto &[name, server] : servers) {
    const auto &found = by_pid[server.cluster->postmaster_pid()];
    ASSERT_TRUE(found.is_object()) << name;
    EXPECT_EQ(found["instance"], name);
    EXPECT_EQ(found["major"], server.cluster->major().number);
    EXPECT_EQ(plans[found["build_id"].get<std::string>()], 7) << name;
  }
}

} // namespace
} // namespace pgmemtrace::test
