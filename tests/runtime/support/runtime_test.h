// SPDX-License-Identifier: BSD-2-Clause
// runtime_test.h - the fixture of tests that need root, a real kernel and a real server.
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <thread>

#include <gtest/gtest.h>

#include "daemon.h"
#include "postgres_cluster.h"

namespace pgmemtrace::test {

// Without root, or without the major that PGMT_MAJOR asks for, the test is skipped, and says so;
// with CI or PGMEMTRACE_REQUIRE_RUNTIME in the environment it fails, so that a lost privilege is a
// red build.
//
// One server for all tests of a suite, since initdb is the slow part, started when first asked
// for.  A suite that wants another one says so before:
//   static void SetUpTestSuite() { use_cluster({.conf = {"jit = off"}}); }
class RuntimeTest : public testing::Test {
protected:
  static void TearDownTestSuite();
  void SetUp() override;
  void TearDown() override; // shows the end of the server's log when the test has failed

  static void skip_or_fail(const std::string &why);

  static void use_cluster(ClusterOptions options);
  static PostgresCluster &cluster();

  // nullptr once it has failed the test:
  //   auto daemon = start_daemon({"--pid", "all"}); ASSERT_TRUE(daemon);
  static std::unique_ptr<Daemon> start_daemon(const std::vector<std::string> &args);

private:
  struct Shared;
  static Shared &shared();
};

// Polls until `condition` holds; a test never sleeps a fixed time and hopes.
template <typename Condition>
bool eventually(Condition condition, std::chrono::seconds limit = std::chrono::seconds(30))
{
  auto deadline = std::chrono::steady_clock::now() + limit;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline)
      return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  return true;
}

struct HttpResponse {
  int status = 0; // 0: nobody answered
  std::string body;
};

HttpResponse http_get(int port, const std::string &path);

// One sample of a daemon's metrics, nothing if it has no such series:
//   metric(port, "pgmemtrace_probe_attached{probe=\"settle\"}")
std::optional<double> metric(int port, const std::string &series);

// How often a probe was hit, in one server or in all that the daemon watches.
double probe_hits(int port, const std::string &probe, const std::string &instance = {});

// The ids of the uprobe links that a process holds on a file called `postgres`, or another, and of
// those behind sends.  Those of other daemons on the machine are no business of the test.
std::set<unsigned> probe_links(pid_t holder, const std::string &file = "postgres");
// Which of them live in the kernel, whoever holds them now:
//   EXPECT_TRUE(eventually([&] { return living(links).empty(); }));
std::set<unsigned> living(const std::set<unsigned> &links);

} // namespace pgmemtrace::test
