// SPDX-License-Identifier: BSD-2-Clause
// server_module.h - C functions for a server, built against its own headers.
#pragma once

#include <string>
#include <vector>

#include "postgres_cluster.h"

namespace pgmemtrace::test {

// Builds fixtures/NAME.c and creates its `functions` ("nest_contexts(int) RETURNS void") in the
// session's database.  A build that fails is a failure of the test.
void load_server_module(const PostgresCluster &cluster, Session &session, const std::string &name,
                        const std::vector<std::string> &functions);

} // namespace pgmemtrace::test
