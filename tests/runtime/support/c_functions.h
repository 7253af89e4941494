// SPDX-License-Identifier: BSD-2-Clause
// c_functions.h - SQL functions in C, built for the server under test.
#pragma once

#include <string>
#include <vector>

#include "postgres_cluster.h"

namespace pgmemtrace::test {

// Builds fixtures/NAME.c against the cluster's own headers and creates the functions of these
// signatures, "nest(int, bigint)" or, where it returns something, "sum(int) RETURNS int", in the
// session's database.  A build that fails is a failure of the test.
void load_c_functions(const PostgresCluster &cluster, Session &session, const std::string &name,
                      const std::vector<std::string> &signatures);

} // namespace pgmemtrace::test
