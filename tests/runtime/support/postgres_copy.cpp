// SPDX-License-Identifier: BSD-2-Clause
// postgres_copy.cpp - see postgres_copy.h.
#include "postgres_copy.h"

#include <cerrno>
#include <cstdlib>
#include <fstream>

#include <gtest/gtest.h>

namespace pgmemtrace::test {

namespace fs = std::filesystem;
using namespace std::chrono_literals;

Result<std::unique_ptr<PostgresCopy>> PostgresCopy::make(const Major &major)
{
  std::string dir = major.root / "tmp/pgmt-copy.XXXXXX";
  if (!mkdtemp(dir.data()))
    return Error{"make a folder like " + dir, errno, {}};
  std::unique_ptr<PostgresCopy> copy(new PostgresCopy(major, dir));
  fs::permissions(dir, fs::perms(0755));
  const auto made = run_command({PGMT_SOURCE_DIR "/scripts/copy_postgres.sh",
                                 major.root == "/" ? "" : major.root.string(),
                                 std::to_string(major.number), copy->inside(dir)},
                                {.limit = 120s, .user = {}, .env = {}});
  if (made.status != 0)
    return Error{"scripts/copy_postgres.sh", 0, made.out + made.err};
  std::ofstream(fs::path(dir) / "pg_hba.conf")
      << "local all tester trust\nlocal all all peer\nlocal replication all peer\n";
  return copy;
}

PostgresCopy::~PostgresCopy()
{
  std::error_code ignored;
  fs::remove_all(dir_, ignored);
}

fs::path PostgresCopy::inside(const fs::path &path) const
{
  return "/" / path.lexically_relative(major_.root);
}

ClusterOptions PostgresCopy::options(std::vector<std::string> conf) const
{
  conf.emplace_back("shared_preload_libraries = 'pgmemtrace,pgmemtrace_buggy,pgmemtrace_repaired'");
  conf.push_back("hba_file = '" + inside(dir_ / "pg_hba.conf").string() + "'");
  conf.emplace_back("autovacuum = off");
  return {.major = major_.number,
          .conf = std::move(conf),
          .initdb_args = {},
          .root = major_.root,
          .bin_dir = inside(dir_ / "lib/postgresql" / std::to_string(major_.number) / "bin")};
}

fs::path PostgresCopy::library() const
{
  return dir_ / "lib/postgresql" / std::to_string(major_.number) / "lib/pgmemtrace.so";
}

Session PostgresCopy::create_tester(const PostgresCluster &cluster)
{
  auto made = cluster.spawn_client({"createuser", "--superuser", "tester"});
  EXPECT_TRUE(made && made->wait(30s) == 0) << cluster.log();
  auto session = connect(cluster);
  session.exec("CREATE EXTENSION pgmemtrace");
  session.exec("CREATE EXTENSION pgmemtrace_buggy");
  session.exec("CREATE SCHEMA repaired");
  session.exec("CREATE EXTENSION pgmemtrace_repaired SCHEMA repaired");
  return session;
}

} // namespace pgmemtrace::test
