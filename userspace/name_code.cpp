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
    ProcessId whose = process.id;
    std::vector<std::uint64_t> addresses;
    if (const auto *origin = origin_of(violation)) {
      whose = origin->process;
      addresses = origin->stack;
    } else if (violation.stack_id != 0) {
      addresses = blocks.stack(process.id.pid, violation.stack_id);
    }
    if (addresses.empty())
      continue;
    violation.stack = symbols.frames({whose, servers.postmaster(process.postmaster)}, addresses);
    violation.module = module_of(violation.stack);
  }
}

} // namespace pgmemtrace
