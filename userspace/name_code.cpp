// SPDX-License-Identifier: BSD-2-Clause
#include "name_code.h"

#include <algorithm>
#include <iterator>

namespace pgmemtrace {

namespace {

Symbolizer::Target target_of(const Violation &violation, const ServerList &servers)
{
  Symbolizer::Target target{.process = violation.process.id, .postmaster = {}};
  const auto server = servers.servers().find(violation.process.postmaster);
  if (server != servers.servers().end())
    target.postmaster = {server->second.postmaster, server->second.start};
  return target;
}

} // namespace

void name_code(std::span<Violation> violations, const BlockReader &blocks,
               const ServerList &servers, Symbolizer &symbols)
{
  for (Violation &violation : violations) {
    if (violation.stack_id == 0 || violation.state == ViolationState::cleared)
      continue;
    const auto target = target_of(violation, servers);
    auto kind = Symbolizer::Kind::instruction; // the call that was probed
    for (const auto address : blocks.stack(target.process.pid, violation.stack_id)) {
      std::ranges::move(symbols.frames(target, address, kind), std::back_inserter(violation.stack));
      kind = Symbolizer::Kind::return_address;
    }
    violation.module = module_of(violation.stack);
  }
}

} // namespace pgmemtrace
