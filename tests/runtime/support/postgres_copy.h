// SPDX-License-Identifier: BSD-2-Clause
// postgres_copy.h - a PostgreSQL that has our extension, a buggy one, and the repaired twin of
// that: scripts/copy_postgres.sh.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "majors.h"
#include "postgres_cluster.h"
#include "util/result.h"

namespace pgmemtrace::test {

class PostgresCopy final {
public:
  static Result<std::unique_ptr<PostgresCopy>> make(const Major &major);
  ~PostgresCopy(); // its servers have to be gone
  PostgresCopy(const PostgresCopy &) = delete;
  PostgresCopy &operator=(const PostgresCopy &) = delete;

  // A server of it that preloads them all.  Users prove who they are by peer authentication, apart
  // from `tester`.
  ClusterOptions options(std::vector<std::string> conf = {}) const;
  std::filesystem::path library() const; // the extension's, as we see it

  // Makes `tester` a superuser, and creates the extensions: the twin in the schema "repaired".
  static Session create_tester(const PostgresCluster &cluster);
  static Session connect(const PostgresCluster &cluster)
  {
    return cluster.connect("postgres", "user=tester");
  }

private:
  PostgresCopy(Major major, std::filesystem::path dir)
      : major_(std::move(major)), dir_(std::move(dir))
  {
  }
  std::filesystem::path inside(const std::filesystem::path &path) const;

  Major major_;
  std::filesystem::path dir_; // as we see it
};

} // namespace pgmemtrace::test
