// SPDX-License-Identifier: BSD-2-Clause
// copy_test.h - the fixture of tests of the extension: a server of a copy of PostgreSQL that has it
// (postgres_copy.h), and daemons that it knows of.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "postgres_copy.h"
#include "runtime_test.h"

namespace pgmemtrace::test {

// One copy and one server for all tests of a suite.
class CopyTest : public RuntimeTest {
protected:
  static void TearDownTestSuite()
  {
    RuntimeTest::TearDownTestSuite();
    copy_.reset();
  }

  void SetUp() override
  {
    RuntimeTest::SetUp();
    if (IsSkipped() || copy_)
      return;
    const auto major = major_under_test();
    ASSERT_TRUE(major);
    auto copy = PostgresCopy::make(*major);
    ASSERT_TRUE(copy) << to_string(copy.error()) << copy.error().hint;
    copy_ = std::move(*copy);
    use_cluster(copy_->options());
    PostgresCopy::create_tester(cluster());
  }

  static const PostgresCopy &copy() { return *copy_; }
  static Session connect() { return PostgresCopy::connect(cluster()); }

  static bool watched(Session &session)
  {
    return session.value("SELECT pgmemtrace.watched()") == "t";
  }

  // Of this server, and heard by it when this returns.
  static std::unique_ptr<Daemon> watch(PostgresCluster &server, std::vector<std::string> more = {})
  {
    std::vector<std::string> args{"--pid",      std::to_string(server.postmaster_pid()),
                                  "--format",   "json",
                                  "--listen",   "off",
                                  "--interval", "1s"};
    args.insert(args.end(), more.begin(), more.end());
    auto daemon = start_daemon(args);
    auto session = PostgresCopy::connect(server);
    EXPECT_TRUE(eventually([&] { return watched(session); }));
    return daemon;
  }
  static std::unique_ptr<Daemon> watch(std::vector<std::string> more = {})
  {
    return watch(cluster(), std::move(more));
  }

private:
  static inline std::unique_ptr<PostgresCopy> copy_;
};

} // namespace pgmemtrace::test
