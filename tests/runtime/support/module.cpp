// SPDX-License-Identifier: BSD-2-Clause
// module.cpp - see module.h.
#include "module.h"

#include <filesystem>

#include <gtest/gtest.h>

namespace pgmemtrace::test {

void load_module(const PostgresCluster &cluster, Session &session, const std::string &name,
                 const std::vector<std::string> &functions)
{
  // In the data directory: the server has to be able to read it.
  const auto library = cluster.data_directory() / (name + ".so");
  std::string headers = cluster.major().server_headers();
  if (cluster.major().root == "/") { // maybe another build than Debian's
    headers = run_command({cluster.bin("pg_config"), "--includedir-server"}).out;
    headers.resize(headers.find_last_not_of('\n') + 1);
  }
  const auto built =
      run_command({"gcc", "-O1", "-shared", "-fPIC", "-I" + headers,
                   std::string(PGMT_RUNTIME_FIXTURES) + "/" + name + ".c", "-o", library});
  ASSERT_EQ(built.status, 0) << built.err;
  std::filesystem::permissions(library, std::filesystem::perms(0755));
  const auto seen_by_server = "/" / library.lexically_relative(cluster.major().root);
  for (const auto &function : functions)
    session.exec("CREATE OR REPLACE FUNCTION " + function + " AS '" + seen_by_server.string() +
                 "' LANGUAGE C");
}

} // namespace pgmemtrace::test
