// SPDX-License-Identifier: BSD-2-Clause
// module.h - C functions of a test, loaded into a server.
#pragma once

#include <string>
#include <vector>

#include "postgres_cluster.h"

namespace pgmemtrace::test {

// Builds fixtures/NAME.c against the cluster's own headers and creates its functions
// ("f(int) RETURNS void") in the session's database.  A build that fails is a failure of the test.
void load_module(const PostgresCluster &cluster, Session &session, const std::string &name,
                 const std::vector<std::string> &functions);

} // namespace pgmemtrace::test
