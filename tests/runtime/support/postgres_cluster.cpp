// SPDX-License-Identifier: BSD-2-Clause
// postgres_cluster.cpp - see postgres_cluster.h.
#include "postgres_cluster.h"

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <thread>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

namespace pgmemtrace::test {
namespace {

using namespace std::chrono_literals;

constexpr auto kStartLimit = 60s;
constexpr auto kStopLimit = 60s;

} // namespace

PostgresCluster::PostgresCluster(ClusterOptions options, User user, std::filesystem::path dir)
    : options_(std::move(options)), user_(user), dir_(std::move(dir))
{
}

Result<std::unique_ptr<PostgresCluster>> PostgresCluster::start(ClusterOptions options)
{
  // So that other builds can be put to the same tests.
  if (const char *other = std::getenv("PGMEMTRACE_POSTGRES_BIN"); other && options.bin_dir.empty())
    options.bin_dir = other;
  if (options.major == 0) {
    auto major = major_under_test();
    if (!major)
      return major.error();
    options.major = major->number;
    if (options.root == "/")
      options.root = major->root;
  }
  if (options.bin_dir.empty())
    options.bin_dir = Major{options.major, options.root}.bin_dir();
  auto user = find_user("postgres", options.root);
  if (!user)
    return user.error();

  // Not TMPDIR: a socket's path has to fit in 107 characters.
  std::string dir = options.root / "tmp/pgmt.XXXXXX";
  if (!mkdtemp(dir.data()))
    return Error{"make a folder like " + dir, errno, {}};
  // From here on the destructor removes the folder.
  std::unique_ptr<PostgresCluster> cluster(new PostgresCluster(std::move(options), *user, dir));
  if (auto done = cluster->init(); !done)
    return done.error();
  if (auto done = cluster->launch(); !done)
    return done.error();
  return cluster;
}

PostgresCluster::~PostgresCluster()
{
  stop(Stop::immediate);
  std::error_code ignored;
  std::filesystem::remove_all(dir_, ignored);
}

std::filesystem::path PostgresCluster::inside(const std::filesystem::path &path) const
{
  return "/" / path.lexically_relative(options_.root);
}

Result<> PostgresCluster::init()
{
  std::filesystem::create_directory(socket_directory());
  for (const auto &path : {dir_, socket_directory()})
    if (chown(path.c_str(), user_.uid, user_.gid) != 0)
      return Error{"chown " + path.string(), errno, "runtime tests need root"};

  std::vector<std::string> argv{options_.bin_dir / "initdb",
                                "--pgdata=" + inside(data_directory()).string(),
                                "--username=postgres",
                                "--auth=trust",
                                "--encoding=UTF8",
                                "--locale=C.UTF-8",
                                "--no-sync"};
  argv.insert(argv.end(), options_.initdb_args.begin(), options_.initdb_args.end());
  auto initdb = run_command(argv, {.limit = 120s, .user = user_, .env = {}, .root = options_.root});
  if (initdb.status != 0)
    return Error{"run initdb", 0, initdb.out + initdb.err};

  std::ofstream conf(data_directory() / "postgresql.conf", std::ios::app);
  conf << "\nlisten_addresses = ''\n"
       << "unix_socket_directories = '" << inside(socket_directory()).string() << "'\n"
       << "fsync = off\n";
  for (const auto &line : options_.conf)
    conf << line << "\n";
  conf.close();
  return conf ? Result<>(Ok{}) : Error{"write postgresql.conf", errno, {}};
}

Result<> PostgresCluster::launch()
{
  int log_fd = open((dir_ / "log").c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  if (log_fd < 0)
    return Error{"open the server's log", errno, {}};
  SpawnOptions spawn;
  spawn.root = options_.root;
  spawn.namespaces = options_.namespaces;
  spawn.user = user_;
  spawn.out = log_fd;
  spawn.err = log_fd;
  spawn.dies_with_us = SIGQUIT; // immediate shutdown: takes its children with it
  auto server =
      ChildProcess::spawn({options_.bin_dir / "postgres", "-D", inside(data_directory())}, spawn);
  close(log_fd);
  if (!server)
    return server.error();
  server_.emplace(std::move(*server));

  auto deadline = std::chrono::steady_clock::now() + kStartLimit;
  while (PQping(conninfo().c_str()) != PQPING_OK) {
    if (!server_->running())
      return Error{"start postgres", 0, log()};
    if (std::chrono::steady_clock::now() > deadline)
      return Error{"wait for postgres to answer", ETIMEDOUT, log()};
    std::this_thread::sleep_for(20ms);
  }
  return Ok{};
}

void PostgresCluster::stop(Stop mode)
{
  if (!running())
    return;
  if (mode == Stop::kill)
    kill_everyone();
  else
    server_->signal(mode == Stop::fast ? SIGINT : SIGQUIT);
  if (server_->wait(kStopLimit))
    return;
  ADD_FAILURE() << "postgres did not stop in " << kStopLimit.count() << " s\n" << log();
  server_->signal(SIGKILL);
  server_->wait(kStopLimit);
}

void PostgresCluster::kill_everyone()
{
  // Stopped first: a postmaster that sees a child die starts others.
  server_->signal(SIGSTOP);
  const auto pid = std::to_string(postmaster_pid());
  std::istringstream children(read_text("/proc/" + pid + "/task/" + pid + "/children"));
  for (pid_t child = 0; children >> child;)
    ::kill(child, SIGKILL);
  server_->signal(SIGKILL);
}

Result<> PostgresCluster::restart(Stop mode)
{
  stop(mode);
  return launch();
}

std::filesystem::path PostgresCluster::bin(const std::string &program) const
{
  return options_.root / options_.bin_dir.relative_path() / program;
}

Result<ChildProcess> PostgresCluster::spawn_client(std::vector<std::string> argv) const
{
  argv.front() = options_.bin_dir / argv.front();
  SpawnOptions spawn;
  spawn.root = options_.root;
  spawn.user = user_;
  spawn.env = {"PGHOST=" + inside(socket_directory()).string(), "PGUSER=postgres"};
  return ChildProcess::spawn(argv, spawn);
}

std::string PostgresCluster::log() const { return read_text(dir_ / "log"); }

std::string PostgresCluster::conninfo(const std::string &dbname) const
{
  return "host=" + socket_directory().string() + " user=postgres dbname=" + dbname;
}

Session PostgresCluster::connect(const std::string &dbname, const std::string &more) const
{
  auto session = Session::connect(conninfo(dbname) + " " + more);
  if (session)
    return std::move(*session);
  ADD_FAILURE() << session.error().what << "\n" << session.error().hint << log();
  return {};
}

} // namespace pgmemtrace::test
