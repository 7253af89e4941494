// SPDX-License-Identifier: BSD-2-Clause
// extension.h - a test's own code in a server.
#pragma once

#include <string>
#include <vector>

#include "postgres_cluster.h"

namespace pgmemtrace::test {

// Compiles fixtures/`source` against the cluster's own headers and puts it into its data directory,
// where the server can read it.  Its path as the server sees it; a build that fails is a failure
// of the test.
std::string build_extension(const PostgresCluster &cluster, const std::string &source,
                            const std::string &library, const std::vector<std::string> &flags);

} // namespace pgmemtrace::test
