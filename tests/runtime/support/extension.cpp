// SPDX-License-Identifier: BSD-2-Clause
// extension.cpp - see extension.h.
#include "extension.h"

#include <filesystem>

#include <gtest/gtest.h>

namespace pgmemtrace::test {

std::string build_extension(const PostgresCluster &cluster, const std::string &source,
                            const std::string &library, const std::vector<std::string> &flags)
{
  std::string headers = cluster.major().server_headers();
  if (cluster.major().root == "/") { // maybe another build than Debian's
    headers = run_command({cluster.bin("pg_config"), "--includedir-server"}).out;
    headers.resize(headers.find_last_not_of('\n') + 1);
  }
  const auto path = cluster.data_directory() / library;
  std::vector<std::string> command{source.ends_with(".c") ? "gcc" : "g++",
                                   "-shared",
                                   "-fPIC",
                                   "-I" + headers,
                                   std::string(PGMT_RUNTIME_FIXTURES) + "/" + source,
                                   "-o",
                                   path};
  command.insert(command.end(), flags.begin(), flags.end());
  const auto built = run_command(command);
  EXPECT_EQ(built.status, 0) << built.err;
  if (built.status != 0)
    return {};
  std::filesystem::permissions(path, std::filesystem::perms(0755));
  return "/" / path.lexically_relative(cluster.major().root);
}

} // namespace pgmemtrace::test
