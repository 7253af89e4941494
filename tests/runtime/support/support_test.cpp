// SPDX-License-Identifier: BSD-2-Clause
// support_test.cpp - the test support tested: what every other runtime test rests on.
#include <csignal>

#include "runtime_test.h"

namespace pgmemtrace::test {
namespace {

using SupportTest = RuntimeTest;

TEST_F(SupportTest, server_answers_under_its_own_pid)
{
  auto session = cluster().connect();
  EXPECT_EQ(session.value("SELECT current_setting('data_directory')"),
            cluster().data_directory().string());
  EXPECT_EQ(session.value("SELECT pg_backend_pid()"), std::to_string(session.backend_pid()));
  auto pid_file = read_text(cluster().data_directory() / "postmaster.pid");
  EXPECT_EQ(std::stoi(pid_file), cluster().postmaster_pid());
}

TEST_F(SupportTest, servers_run_side_by_side_and_leave_nothing)
{
  auto other = PostgresCluster::start({.conf = {"work_mem = '1234kB'"}});
  ASSERT_TRUE(other) << other.error().hint;
  auto directory = (*other)->data_directory().parent_path();
  auto pid = (*other)->postmaster_pid();
  EXPECT_NE(pid, cluster().postmaster_pid());
  EXPECT_EQ((*other)->connect().value("SHOW work_mem"), "1234kB");
  (*other).reset();
  EXPECT_FALSE(std::filesystem::exists(directory));
  EXPECT_NE(kill(pid, 0), 0);
}

TEST_F(SupportTest, restart_gives_a_new_postmaster)
{
  auto before = cluster().postmaster_pid();
  ASSERT_TRUE(cluster().restart());
  EXPECT_NE(cluster().postmaster_pid(), before);
  EXPECT_EQ(cluster().connect().value("SELECT 1"), "1");
}

TEST_F(SupportTest, sql_errors_carry_the_servers_words)
{
  auto session = cluster().connect();
  auto result = session.try_exec("SELECT 1/0");
  ASSERT_FALSE(result);
  EXPECT_NE(result.error().hint.find("division by zero"), std::string::npos);
  EXPECT_EQ(session.value("SELECT 2"), "2");
}

TEST_F(SupportTest, statement_runs_while_the_test_goes_on)
{
  auto session = cluster().connect();
  auto other = cluster().connect();
  other.exec("SELECT pg_advisory_lock(1)");
  session.send_async("SELECT pg_advisory_lock(1), 7");
  EXPECT_TRUE(session.busy());
  other.exec("SELECT pg_advisory_unlock(1)");
  auto rows = session.finish();
  ASSERT_TRUE(rows);
  EXPECT_EQ(rows->at(0).at(1), "7");
}

TEST_F(SupportTest, command_tells_status_and_both_streams)
{
  auto result = run_command({"sh", "-c", "echo out; echo err >&2; exit 3"});
  EXPECT_EQ(result.status, 3);
  EXPECT_EQ(result.out, "out\n");
  EXPECT_EQ(result.err, "err\n");
  EXPECT_EQ(run_command({"sh", "-c", "kill -9 $$"}).status, 128 + SIGKILL);
  EXPECT_EQ(run_command({"sleep", "60"}, {.limit = std::chrono::seconds(1)}).status, -1);
}

TEST_F(SupportTest, nobody_listening_is_no_response)
{
  EXPECT_EQ(http_get(1, "/metrics").status, 0);
}

} // namespace
} // namespace pgmemtrace::test
