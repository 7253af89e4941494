// SPDX-License-Identifier: BSD-2-Clause
// nested_contexts.h - SQL functions that make context trees of any width and depth.
#pragma once

#include "postgres_cluster.h"

namespace pgmemtrace::test {

// Builds fixtures/nested_contexts.c against the cluster's own headers and creates its functions
// in the session's database.  A build that fails is a failure of the test.
void load_nested_contexts(const PostgresCluster &cluster, Session &session);

} // namespace pgmemtrace::test
