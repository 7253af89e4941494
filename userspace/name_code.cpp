// SPDX-License-Identifier: BSD-2-Clause
#include "name_code.h"

namespace pgmemtrace {

void name_code(std::span<Violation> violations, const BlockReader &blocks,
               const ServerList &servers, Symbolizer &symbols)
{
  for (Violation &violation : violations) {
    if (violation.state == ViolationState::cleared)
      continue;
    const auto &process = violation.process;
    const auto postmaster = servers.postmaster(process.postmaster);
    if (const auto *origin = origin_of(violation))
      violation.stack = symbols.frames({origin->process, postmaster}, origin->stack);
    else if (violation.stack_id != 0)
      violation.stack = symbols.frames({process.id, postmaster},
                                       blocks.stack(process.id.pid, violation.stack_id));
    violation.module = module_of(violation.stack);
  }
}

} // namespace pgmemtrace
