// SPDX-License-Identifier: BSD-2-Clause
// attach_servers_test.cpp - ServerList against fixtures/fake_postgres.c and the real /proc.
#include "attach/servers.h"

#include <algorithm>
#include <array>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "fake_server.h"

namespace pgmemtrace::test {

namespace {

using testing::Contains;
using testing::HasSubstr;
using testing::IsEmpty;
namespace fs = std::filesystem;

ServerList::Options watching(std::vector<pid_t> pids)
{
  ServerList::Options options;
  options.selection.pids = std::move(pids);
  return options;
}

bool has(const std::vector<ProcessId> &ids, pid_t pid)
{
  return std::any_of(ids.begin(), ids.end(), [&](const ProcessId &id) { return id.pid == pid; });
}

} // namespace

TEST(ServerList, postmaster_selects_its_whole_server)
{
  const DataDirectory data;
  FakeServer server(data, "main");
  const pid_t backend = server.start("backend");
  const auto list = ServerList::find(watching({server.pid()}));
  ASSERT_TRUE(list) << to_string(list.error());

  ASSERT_EQ(list->servers().size(), 1u);
  const Server &found = list->servers().at(server.pid());
  EXPECT_EQ(found.instance, "main");
  EXPECT_EQ(found.data_directory, data.path());
  EXPECT_EQ(found.port, 7432);
  EXPECT_EQ(found.binary->version, "15.99 (fake)");
  EXPECT_EQ(found.binary->major, 15);
  EXPECT_FALSE(found.binary->build_id.empty());
  EXPECT_EQ(list->processes().size(), 2u);
  const ServerProcess *process = list->find_process(backend);
  ASSERT_NE(process, nullptr);
  EXPECT_EQ(process->identity.backend_type, "client backend");
  EXPECT_EQ(process->identity.database, "shop");
  EXPECT_EQ(process->identity.user, "alice");
  EXPECT_EQ(process->identity.instance, "main");
  EXPECT_EQ(process->load_bias, found.load_bias);
  EXPECT_EQ(list->find_process(server.pid())->identity.backend_type, "postmaster");
}

TEST(ServerList, backend_selects_itself_only)
{
  const DataDirectory data;
  FakeServer server(data, "main");
  const pid_t wanted = server.start("backend");
  const pid_t other = server.start("backend");
  auto list = ServerList::find(watching({wanted}));
  ASSERT_TRUE(list) << to_string(list.error());
  list->refresh();
  EXPECT_NE(list->find_process(wanted), nullptr);
  EXPECT_EQ(list->processes().size(), 1u);
  EXPECT_EQ(list->find_process(other), nullptr);
  EXPECT_EQ(list->servers().count(server.pid()), 1u);
  EXPECT_FALSE(list->whole(server.pid()));
}

TEST(ServerList, processes_come_and_go)
{
  const DataDirectory data;
  FakeServer server(data, "main");
  auto list = ServerList::find(watching({server.pid()}));
  ASSERT_TRUE(list) << to_string(list.error());
  const pid_t worker = server.start("parallel");
  EXPECT_TRUE(list->whole(server.pid()));
  auto changes = list->refresh();
  EXPECT_TRUE(has(changes.appeared, worker));
  EXPECT_EQ(list->find_process(worker)->identity.backend_type, "parallel worker");
  EXPECT_THAT(list->refresh().appeared, IsEmpty());

  server.ask("end " + std::to_string(worker));
  changes = list->refresh();
  EXPECT_TRUE(has(changes.vanished, worker));
  EXPECT_EQ(list->find_process(worker), nullptr);
}

TEST(ServerList, newborn_is_identified_later)
{
  const DataDirectory data;
  FakeServer server(data, "main");
  const pid_t newborn = server.start("newborn");
  auto list = ServerList::find(watching({server.pid()}));
  ASSERT_TRUE(list) << to_string(list.error());
  EXPECT_EQ(list->find_process(newborn)->identity.backend_type, "");
  list->refresh();
  EXPECT_EQ(list->find_process(newborn)->identity.backend_type, "");
  server.ask("tell " + std::to_string(newborn));
  list->refresh();
  EXPECT_EQ(list->find_process(newborn)->identity.backend_type, "client backend");
  EXPECT_EQ(list->find_process(newborn)->identity.database, "shop");
}

TEST(ServerList, new_server_on_the_data_directory_appears)
{
  const DataDirectory data;
  auto first = std::make_unique<FakeServer>(data, "main");
  ServerList::Options options;
  options.selection.data_directory = data.path();
  auto list = ServerList::find(options);
  ASSERT_TRUE(list) << to_string(list.error());
  ASSERT_EQ(list->servers().size(), 1u);

  const pid_t gone = first->pid();
  first->end();
  auto changes = list->refresh();
  EXPECT_THAT(changes.servers_vanished, Contains(gone));
  EXPECT_EQ(list->servers().size(), 0u);

  const FakeServer second(data, "main");
  changes = list->refresh();
  EXPECT_THAT(changes.servers_appeared, Contains(second.pid()));
  EXPECT_TRUE(has(changes.appeared, second.pid()));
}

TEST(ServerList, unused_binary_lives_one_more_round)
{
  const DataDirectory data;
  FakeServer server(data, "main");
  auto list = ServerList::find(watching({server.pid()}));
  ASSERT_TRUE(list) << to_string(list.error());
  const Binary *binary = list->servers().at(server.pid()).binary;
  server.end();
  EXPECT_THAT(list->refresh().binaries_unused, Contains(binary));
  EXPECT_EQ(list->binaries().size(), 1u);
  EXPECT_THAT(list->refresh().binaries_unused, IsEmpty());
  EXPECT_THAT(list->binaries(), IsEmpty());
}

TEST(ServerList, deleted_executable_still_works)
{
  const DataDirectory data;
  const fs::path copy = fs::path(data.path()) / "postgres";
  fs::copy_file(PGMT_FAKE_POSTGRES, copy);
  const FakeServer server(data, "main", "", copy.string());
  fs::remove(copy);
  const auto list = ServerList::find(watching({server.pid()}));
  ASSERT_TRUE(list) << to_string(list.error());
  EXPECT_EQ(list->binaries().front()->path, copy.string());
  EXPECT_TRUE(ElfFile::open(list->binaries().front()->open_path));
}

TEST(ServerList, servers_of_one_file_share_a_binary_and_differ_in_label)
{
  const DataDirectory data1;
  const DataDirectory data2;
  const DataDirectory data3;
  const FakeServer one(data1, "main");
  const FakeServer two(data2, "main");
  const FakeServer three(data3, "");
  const auto list = ServerList::find(watching({one.pid(), two.pid(), three.pid()}));
  ASSERT_TRUE(list) << to_string(list.error());
  EXPECT_EQ(list->binaries().size(), 1u);
  EXPECT_EQ(list->servers().at(one.pid()).instance, "main");
  EXPECT_EQ(list->servers().at(two.pid()).instance, "main:" + data2.path());
  EXPECT_EQ(list->servers().at(three.pid()).instance, "7432:" + data3.path());
}

TEST(ServerList, all_finds_servers_and_refuses_bad_ones_once)
{
  const DataDirectory good_data;
  const DataDirectory bad_data;
  const FakeServer good(good_data, "good");
  const FakeServer bad(bad_data, "bad", "bad-tag");
  ServerList::Options options;
  options.selection.all = true;
  auto list = ServerList::find(options);
  ASSERT_TRUE(list) << to_string(list.error());
  EXPECT_EQ(list->servers().count(good.pid()), 1u);
  EXPECT_EQ(list->servers().count(bad.pid()), 0u);
  const std::string name = "process " + std::to_string(bad.pid()) + " ";
  const auto refusals = [&](const ServerList::Changes &changes) {
    return std::count_if(changes.refused.begin(), changes.refused.end(), [&](const Error &error) {
      return error.what.find(name) != std::string::npos;
    });
  };
  EXPECT_EQ(refusals(list->refresh()), 1);
  EXPECT_EQ(refusals(list->refresh()), 0);
}

TEST(ServerList, errors_say_what_is_wrong)
{
  const DataDirectory data;
  const DataDirectory other_major("14");
  const FakeServer bad_layout(data, "bad", "bad-tag");
  const FakeServer bad_version(other_major, "bad");
  const auto error = [](std::vector<pid_t> pids) {
    const auto list = ServerList::find(watching(std::move(pids)));
    return list ? std::string("no error") : to_string(list.error());
  };
  EXPECT_THAT(error({getpid()}), HasSubstr("attach_servers_test is not PostgreSQL"));
  EXPECT_THAT(error({4194304 + 1}), HasSubstr("No such process"));
  EXPECT_THAT(error({bad_layout.pid()}), HasSubstr("TopMemoryContext has the tag 1, not 223"));
  EXPECT_THAT(error({bad_version.pid()}), HasSubstr("of PostgreSQL 14"));

  ServerList::Options options;
  options.selection.data_directory = "/nonexistent";
  const auto list = ServerList::find(options);
  ASSERT_FALSE(list);
  EXPECT_THAT(to_string(list.error()), HasSubstr("/nonexistent"));
}

TEST(ServerList, a_postgres_that_serves_no_directory_is_no_server)
{
  const DataDirectory data;
  const FakeServer server(data, "main");
  std::ofstream(fs::path(data.path()) / "postmaster.pid") << -server.pid() << '\n'; // --single
  const auto list = ServerList::find(watching({server.pid()}));
  ASSERT_FALSE(list);
  EXPECT_THAT(to_string(list.error()), HasSubstr("belongs to no running server"));
}

TEST(Selection, is_all_or_a_list)
{
  EXPECT_TRUE(parse_selection("all")->all);
  EXPECT_EQ(parse_selection("12,7,12")->pids, (std::vector<pid_t>{12, 7}));
  for (const char *wrong : {"", "0", "-1", "1,", ",1", "1,,2", "1 2", "1x", "99999999999", "All"})
    EXPECT_FALSE(parse_selection(wrong)) << wrong;
}

} // namespace pgmemtrace::test
