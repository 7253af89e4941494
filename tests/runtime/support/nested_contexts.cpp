// SPDX-License-Identifier: BSD-2-Clause
// nested_contexts.cpp - see nested_contexts.h.
#include "nested_contexts.h"

#include "extension.h"

namespace pgmemtrace::test {

void load_nested_contexts(const PostgresCluster &cluster, Session &session)
{
  const auto library = build_extension(cluster, "nested_contexts.c", "nested_contexts.so", {"-O1"});
  for (const std::string function : {"nest_contexts(int, int, bigint)", "drop_nested(int)"})
    session.exec("CREATE OR REPLACE FUNCTION " + function + " RETURNS void AS '" + library +
                 "' LANGUAGE C");
}

} // namespace pgmemtrace::test
