// SPDX-License-Identifier: BSD-2-Clause
// c_functions.cpp - see c_functions.h.
#include "c_functions.h"

#include "extension.h"

namespace pgmemtrace::test {

void load_c_functions(const PostgresCluster &cluster, Session &session, const std::string &name,
                      const std::vector<std::string> &signatures)
{
  const auto library =
      build_extension(cluster, name + ".c", name + ".so", {"-O1", "-fno-omit-frame-pointer"});
  for (const std::string &signature : signatures)
    session.exec("CREATE OR REPLACE FUNCTION " + signature +
                 (signature.ends_with(")") ? " RETURNS void" : "") + " AS '" + library +
                 "' LANGUAGE C");
}

} // namespace pgmemtrace::test
