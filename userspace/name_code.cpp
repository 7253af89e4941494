// SPDX-License-Identifier: BSD-2-Clause
#include "name_code.h"

namespace pgmemtrace {

void name_code(std::span<Violation> violations, const KernelMaps &maps, const ServerList &servers,
               Symbolizer &symbols)
{
  for (Violation &violation : violations) {
    if (violation.state == ViolationState::cleared)
      continue;
    const auto &process = violation.process;
    Symbolizer::Target target{process.id, servers.postmaster(process.postmaster)};
    if (const auto *origin = origin_of(violation)) {
      target.process = origin->process;
      violation.stack = symbols.frames(target, origin->stack);
    } else if (violation.caller != 0) {
      violation.stack = symbols.frames(target, violation.caller, Symbolizer::Kind::return_address);
    } else if (violation.stack_id != 0) {
      violation.stack = symbols.frames(target, maps.stack(process.id.pid, violation.stack_id));
    }
    violation.module = module_of(violation.stack);
  }
}

} // namespace pgmemtrace
