// SPDX-License-Identifier: BSD-2-Clause
// containers_test.cpp - servers in containers: which server is which, each hit counted once, and
// servers that end, come back, or are upgraded while the daemon runs.
#include <atomic>
#include <fstream>
#include <map>
#include <set>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>
#include <sys/stat.h>

#include "support/container.h"
#include "support/runtime_test.h"

namespace pgmemtrace::test {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

// A container with a server in it that does nothing by itself.
struct Contained {
  std::unique_ptr<Container> container;
  std::unique_ptr<PostgresCluster> server;

  static Contained start(const ContainerOptions &options, std::vector<std::string> conf = {})
  {
    Contained out;
    auto container = Container::create(options);
    if (!container) {
      ADD_FAILURE() << to_string(container.error());
      return out;
    }
    conf.emplace_back("autovacuum = off");
    auto server = (*container)->start_server({.conf = std::move(conf)});
    if (!server) {
      ADD_FAILURE() << to_string(server.error()) << server.error().hint;
      return out;
    }
    out.container = std::move(*container);
    out.server = std::move(*server);
    return out;
  }

  explicit operator bool() const { return server != nullptr; }
  pid_t postmaster() const { return server->postmaster_pid(); }
  fs::path executable() const { return server->bin("postgres"); }
  // Without cluster_name.
  std::string label(const std::string &hostname) const
  {
    return "5432:/" + server->data_directory().lexically_relative(container->root()).string() +
           "@" + hostname;
  }
};

struct stat stat_of(const fs::path &path)
{
  struct stat out {};
  EXPECT_EQ(stat(path.c_str(), &out), 0) << path;
  return out;
}

class ContainersTest : public RuntimeTest {
protected:
  // The daemon has taken its baseline when this returns.
  static std::unique_ptr<Daemon> watch(const std::string &pids)
  {
    auto daemon = start_daemon({"--pid", pids, "--format", "json", "--listen", "127.0.0.1:0",
                                "--interval", "1s", "--max-overhead", "off"});
    if (daemon &&
        !daemon->wait_for_json([](const json &line) { return line["type"] == "status"; })) {
      ADD_FAILURE() << "no status from the daemon";
      return nullptr;
    }
    return daemon;
  }
  static std::string both(const Contained &one, const Contained &two)
  {
    return std::to_string(one.postmaster()) + "," + std::to_string(two.postmaster());
  }

  static std::vector<std::string> series(Daemon &daemon)
  {
    std::istringstream body(http_get(daemon.listen_port(), "/metrics").body);
    std::vector<std::string> lines;
    for (std::string line; std::getline(body, line);)
      if (!line.starts_with("#"))
        lines.push_back(line);
    return lines;
  }
  static std::optional<double> sample(Daemon &daemon, const std::string &name)
  {
    return metric(daemon.listen_port(), "pgmemtrace_" + name);
  }
  static double hits(Daemon &daemon, const std::string &instance, const std::string &probe)
  {
    return probe_hits(daemon.listen_port(), probe, instance);
  }
  // Becomes `wanted`, and stays it for two more snapshots.
  static void expect_hits(Daemon &daemon, const std::string &instance, const std::string &probe,
                          double wanted)
  {
    EXPECT_TRUE(eventually([&] { return hits(daemon, instance, probe) >= wanted; }))
        << instance << ' ' << probe << ' ' << hits(daemon, instance, probe);
    const auto later = sample(daemon, "snapshot_timestamp_seconds").value_or(0) + 2;
    EXPECT_TRUE(eventually(
        [&] { return sample(daemon, "snapshot_timestamp_seconds").value_or(0) > later; }));
    EXPECT_EQ(hits(daemon, instance, probe), wanted) << instance << ' ' << probe;
  }

  static bool shows_server(Daemon &daemon, pid_t postmaster, const std::string &instance)
  {
    return daemon
        .wait_for_json([&](const json &line) {
          if (line["type"] != "status")
            return false;
          for (const auto &server : line["servers"])
            if (server["postmaster"] == postmaster && server["instance"] == instance)
              return true;
          return false;
        })
        .has_value();
  }

  static void run(Session &session, int statements)
  {
    for (int i = 0; i < statements; ++i)
      session.exec("SELECT " + std::to_string(i));
  }

  static CommandResult pgmemtrace(std::vector<std::string> args)
  {
    args.insert(args.begin(), pgmemtrace_binary());
    return run_command(args);
  }
};

TEST_F(ContainersTest, one_image_twice_each_hit_counts_once_and_where_it_was)
{
  auto one = Contained::start({.hostname = "alpha"});
  auto two = Contained::start({.hostname = "beta"});
  ASSERT_TRUE(one && two);
  // The very case: two devices, one inode.
  ASSERT_NE(stat_of(one.executable()).st_dev, stat_of(two.executable()).st_dev);
  ASSERT_EQ(stat_of(one.executable()).st_ino, stat_of(two.executable()).st_ino);

  const auto alpha = one.label("alpha");
  const auto beta = two.label("beta");
  auto daemon = watch(both(one, two));
  ASSERT_TRUE(daemon);
  EXPECT_TRUE(shows_server(*daemon, one.postmaster(), alpha));
  EXPECT_TRUE(shows_server(*daemon, two.postmaster(), beta));
  // One file, one probe each.
  EXPECT_EQ(sample(*daemon, "probe_attached{probe=\"exit\"}"), 1);

  auto first = one.server->connect();
  auto second = two.server->connect();
  run(first, 137);
  run(second, 53);
  expect_hits(*daemon, alpha, "settle", 138); // each, and a session's greeting
  expect_hits(*daemon, beta, "settle", 54);

  // The first one leaves: what the other runs meanwhile and after counts to the last statement.
  std::atomic<bool> stop = false;
  int statements = 53;
  std::thread load([&] {
    for (; !stop; ++statements)
      second.exec("SELECT 1");
  });
  first.close();
  one.server.reset();
  EXPECT_TRUE(eventually([&] { return hits(*daemon, alpha, "settle") == 0; }));
  one.container.reset();
  stop = true;
  load.join();
  run(second, 7);
  expect_hits(*daemon, beta, "settle", statements + 8);
  const auto exits = hits(*daemon, beta, "exit"); // a probe in the one file
  second.close();
  expect_hits(*daemon, beta, "exit", exits + 1);
  EXPECT_EQ(daemon->stop(), 0);
}

TEST_F(ContainersTest, a_leak_is_told_where_it_is_under_both_of_its_pids)
{
  auto one = Contained::start({.hostname = "alpha"});
  auto two = Contained::start({.hostname = "beta"});
  ASSERT_TRUE(one && two);
  auto daemon = watch(both(one, two));
  ASSERT_TRUE(daemon);
  auto quiet = one.server->connect();
  auto leaky = two.server->connect();
  const auto leaked = [&]() -> std::optional<json> {
    for (const auto &line : daemon->json_lines())
      if (line["type"] == "violation")
        return line;
    return std::nullopt;
  };
  int cursor = 0;
  EXPECT_TRUE(eventually([&] {
    for (int i = 0; i < 20; ++i)
      leaky.exec("DECLARE c" + std::to_string(cursor++) +
                 " CURSOR WITH HOLD FOR SELECT repeat('x', 1000) FROM generate_series(1, 10)");
    quiet.exec("SELECT 1");
    return leaked().has_value();
  }));
  const auto found = leaked();
  ASSERT_TRUE(found);
  EXPECT_EQ((*found)["instance"], two.label("beta"));
  EXPECT_EQ((*found)["server_pid"], leaky.backend_pid());
  EXPECT_EQ((*found)["pid"], host_pid(two.postmaster(), leaky.backend_pid()).value_or(-1));
  EXPECT_NE((*found)["pid"], (*found)["server_pid"]);
}

TEST_F(ContainersTest, contexts_and_doctor_look_inside)
{
  auto one = Contained::start({.hostname = "alpha"});
  auto two = Contained::start({.hostname = "beta"}, {"cluster_name = 'orders'"});
  ASSERT_TRUE(one && two);
  auto session = two.server->connect();
  const std::string cache =
      "SELECT total_bytes FROM pg_backend_memory_contexts WHERE name = 'CacheMemoryContext'";
  session.exec(cache); // fills it
  const auto total = session.value(cache);
  const auto pid = host_pid(two.postmaster(), session.backend_pid());
  ASSERT_TRUE(pid);
  const auto contexts = pgmemtrace({"contexts", "--pid", std::to_string(*pid), "--format", "json"});
  ASSERT_EQ(contexts.status, 0) << contexts.err;
  std::string seen;
  for (const auto &context : json::parse(contexts.out))
    if (context["name"] == "CacheMemoryContext")
      seen = std::to_string(context["total_bytes"].get<std::uint64_t>());
  EXPECT_EQ(seen, total);

  const auto doctor = pgmemtrace({"doctor", "--format", "json", "--pid", both(one, two)});
  ASSERT_EQ(doctor.status, 0) << doctor.out << doctor.err;
  std::map<std::string, json> servers;
  const json report = json::parse(doctor.out);
  for (const auto &server : report["servers"])
    servers[server["instance"]] = server;
  ASSERT_EQ(servers.size(), 2U);
  EXPECT_EQ(servers[one.label("alpha")]["pid"], one.postmaster());
  EXPECT_EQ(servers["orders"]["pid"], two.postmaster());
  EXPECT_EQ(servers["orders"]["binary_replaced"], false);
  EXPECT_EQ(servers["orders"]["data_directory"], session.value("SHOW data_directory"));
}

TEST_F(ContainersTest, servers_of_one_name_stay_distinct_and_keep_their_labels)
{
  auto one = Contained::start({.hostname = "alpha"}, {"cluster_name = 'orders'"});
  auto two = Contained::start({.hostname = "beta"}, {"cluster_name = 'orders'"});
  ASSERT_TRUE(one && two);
  auto daemon = watch("all");
  ASSERT_TRUE(daemon);
  const bool first = shows_server(*daemon, one.postmaster(), "orders");
  auto &plain = first ? one : two;
  auto &other = first ? two : one;
  const std::string other_label = first ? "orders@beta" : "orders@alpha";
  EXPECT_TRUE(shows_server(*daemon, plain.postmaster(), "orders"));
  EXPECT_TRUE(shows_server(*daemon, other.postmaster(), other_label));

  plain.server->stop();
  other.server->stop();
  ASSERT_TRUE(other.server->restart());
  EXPECT_TRUE(shows_server(*daemon, other.postmaster(), other_label));
  ASSERT_TRUE(plain.server->restart());
  EXPECT_TRUE(shows_server(*daemon, plain.postmaster(), "orders"));
  std::set<std::string> seen;
  for (const auto &line : series(*daemon)) {
    const auto name = line.substr(0, line.rfind(' '));
    EXPECT_TRUE(seen.insert(name).second) << "twice: " << name;
  }
}

// ---- upgrades -------------------------------------------------------------------------

// As a package manager does it: another file takes the name, running servers keep the old one.
void replace_executable(const Contained &server)
{
  const auto path = server.executable();
  const auto fresh = path.string() + ".dpkg-new";
  fs::copy_file(path, fresh);
  std::ofstream(fresh, std::ios::app | std::ios::binary) << "of another version";
  fs::rename(fresh, path);
}

TEST_F(ContainersTest, an_upgrade_is_followed_and_the_others_are_counted_throughout)
{
  auto upgraded = Contained::start({.hostname = "alpha"});
  auto other = Contained::start({.hostname = "beta"});
  ASSERT_TRUE(upgraded && other);
  const auto label = upgraded.label("alpha");
  const auto before = stat_of(upgraded.executable()).st_ino;
  replace_executable(upgraded);
  ASSERT_NE(stat_of(upgraded.executable()).st_ino, before);
  const auto replaced = [&] {
    const auto report =
        pgmemtrace({"doctor", "--format", "json", "--pid", std::to_string(upgraded.postmaster())});
    EXPECT_EQ(report.status, 0) << report.out;
    return json::parse(report.out)["servers"][0]["binary_replaced"].get<bool>();
  };
  EXPECT_TRUE(replaced());

  // On the old file, which has no name any more.
  auto daemon = watch("all");
  ASSERT_TRUE(daemon);
  auto loaded = other.server->connect();
  std::atomic<bool> stop = false;
  int statements = 0;
  std::thread load([&] {
    for (; !stop; ++statements)
      loaded.exec("SELECT 1");
  });
  auto session = upgraded.server->connect();
  run(session, 31);
  expect_hits(*daemon, label, "settle", 32);
  session.close();

  // And on the new one.
  EXPECT_TRUE(upgraded.server->restart());
  EXPECT_TRUE(shows_server(*daemon, upgraded.postmaster(), label));
  EXPECT_FALSE(replaced());
  EXPECT_TRUE(
      eventually([&] { return sample(*daemon, "level{instance=\"" + label + "\"}") == 2; }));
  const auto so_far = hits(*daemon, label, "settle");
  session = upgraded.server->connect();
  run(session, 17);
  expect_hits(*daemon, label, "settle", so_far + 18);
  stop = true;
  load.join();
  expect_hits(*daemon, other.label("beta"), "settle", statements + 1);
  int named = 0;
  for (const auto &line : series(*daemon))
    named += line.starts_with("pgmemtrace_instance_info{") &&
             line.find("instance=\"" + label + "\"") != std::string::npos;
  EXPECT_EQ(named, 1);
  EXPECT_EQ(daemon->stop(), 0);
}

TEST_F(ContainersTest, servers_that_come_and_go_leave_nothing_behind)
{
  auto server = Contained::start({.hostname = "alpha"});
  ASSERT_TRUE(server);
  const auto inside =
      "/" + server.server->data_directory().lexically_relative(server.container->root()).string();
  auto daemon = start_daemon({"--pgdata", inside, "--format", "json", "--listen", "127.0.0.1:0",
                              "--interval", "1s", "--max-overhead", "off"});
  ASSERT_TRUE(daemon);
  for (int i = 0; i < 4; ++i) {
    EXPECT_TRUE(shows_server(*daemon, server.postmaster(), server.label("alpha")));
    auto session = server.server->connect();
    run(session, 5);
    expect_hits(*daemon, server.label("alpha"), "settle", 6);
    session.close();
    server.server->stop();
    EXPECT_TRUE(eventually([&] { return probe_links(daemon->pid()).empty(); }));
    const auto is_left = [&] {
      for (const auto &line : series(*daemon))
        if (line.find(server.label("alpha")) != std::string::npos)
          return true;
      return sample(*daemon, "map_entries{map=\"processes\"}") != 0;
    };
    EXPECT_TRUE(eventually([&] { return !is_left(); }))
        << sample(*daemon, "map_entries{map=\"processes\"}").value_or(-1);
    ASSERT_TRUE(server.server->restart());
  }
  EXPECT_EQ(daemon->stop(), 0);
}

} // namespace
} // namespace pgmemtrace::test
