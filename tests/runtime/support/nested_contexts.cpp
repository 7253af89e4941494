// SPDX-License-Identifier: BSD-2-Clause
// nested_contexts.cpp - see nested_contexts.h.
#include "nested_contexts.h"

#include "module.h"

namespace pgmemtrace::test {

void load_nested_contexts(const PostgresCluster &cluster, Session &session)
{
  load_module(cluster, session, "nested_contexts",
              {"nest_contexts(int, int, bigint) RETURNS void", "drop_nested(int) RETURNS void"});
}

} // namespace pgmemtrace::test
