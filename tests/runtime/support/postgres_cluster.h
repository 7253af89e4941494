// SPDX-License-Identifier: BSD-2-Clause
// postgres_cluster.h - a throwaway PostgreSQL server.
//
// Shaped after PostgreSQL's own PostgreSQL::Test::Cluster: private data directory, Unix
// socket only, fsync off, gone when the object is.  The server is our child and runs as
// user `postgres`, because initdb refuses root and runtime tests are root.  Any number may
// run side by side.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "majors.h"
#include "process.h"
#include "session.h"

namespace pgmemtrace::test {

struct ClusterOptions {
  int major = 0;                        // 0: the one under test, in its root
  std::vector<std::string> conf;        // lines for postgresql.conf: "work_mem = '1MB'"
  std::vector<std::string> initdb_args; // such as "--data-checksums"
  std::filesystem::path root = "/";     // the folder of another distribution, to be chrooted into
  std::filesystem::path bin_dir;        // seen from root; Debian's for that major if empty
  int namespaces = 0;                   // CLONE_NEW* flags: the server's own (container.h)
};

class PostgresCluster final {
public:
  // kill: SIGKILL to every process of the server, as the kernel does when memory is short.
  enum class Stop { fast, immediate, kill };

  // initdb, start, and wait until the server answers.
  static Result<std::unique_ptr<PostgresCluster>> start(ClusterOptions options = {});
  ~PostgresCluster(); // stops it at once and removes the directory
  PostgresCluster(const PostgresCluster &) = delete;
  PostgresCluster &operator=(const PostgresCluster &) = delete;

  pid_t postmaster_pid() const { return server_ ? server_->pid() : -1; }
  bool running() { return server_ && server_->running(); }
  std::filesystem::path data_directory() const { return dir_ / "data"; }
  std::filesystem::path socket_directory() const { return dir_ / "socket"; }
  Major major() const { return {options_.major, options_.root}; }
  std::filesystem::path bin(const std::string &program) const; // seen from our root
  // A client program of this very version, in the server's root: {"pg_recvlogical", "--start"}.
  Result<ChildProcess> spawn_client(std::vector<std::string> argv) const;
  std::string log() const;

  std::string conninfo(const std::string &dbname = "postgres") const;
  // `more` is appended to the connection string: "replication=database".  Fails the test if
  // the server refuses; the session is then of no use.
  Session connect(const std::string &dbname = "postgres", const std::string &more = "") const;

  void stop(Stop mode = Stop::fast);
  Result<> restart(Stop mode = Stop::fast); // a new postmaster pid

private:
  PostgresCluster(ClusterOptions options, User user, std::filesystem::path dir);

  std::filesystem::path inside(const std::filesystem::path &path) const;
  Result<> init();
  Result<> launch();
  void kill_everyone();

  ClusterOptions options_;
  User user_;
  std::filesystem::path dir_; // data/, socket/, log; seen from our root
  std::optional<ChildProcess> server_;
};

} // namespace pgmemtrace::test
