// SPDX-License-Identifier: BSD-2-Clause
// name_code.h - from the stack that a rule names to frames and a module.
//
// Done when a finding is told and not before: a process that warms up has hundreds of stacks that
// nobody will look at.
#pragma once

#include <span>

#include "attach/kernel_maps.h"
#include "attach/servers.h"
#include "rules/violation.h"
#include "symbols/symbolizer.h"

namespace pgmemtrace {

// Fills in `stack` and `module` where the code is known, by `caller` or `stack_id`, or a segment's
// origin, while the process can be asked.
void name_code(std::span<Violation> violations, const KernelMaps &maps, const ServerList &servers,
               Symbolizer &symbols);

} // namespace pgmemtrace
