// SPDX-License-Identifier: BSD-2-Clause
#include "name_code.h"

namespace pgmemtrace {

void name_code(std::span<Violation> violations, const BlockReader &blocks,
               const ServerList &servers, Symbolizer &symbols)
{
  for (Violation &violation : violations) {
    if (violation.state == ViolationState::cleared ||
        (violation.stack_id == 0 && violation.caller == 0))
      continue;
    const auto &process = violation.process;
    const Symbolizer::Target target{process.id, servers.postmaster(process.postmaster)};
    violation.stack =
        violation.caller
            ? symbols.frames(target, violation.caller, Symbolizer::Kind::return_address)
            : symbols.frames(target, blocks.stack(process.id.pid, violation.stack_id));
    violation.module = module_of(violation.stack);
  }
}

} // namespace pgmemtrace
