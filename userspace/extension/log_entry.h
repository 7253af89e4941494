// SPDX-License-Identifier: BSD-2-Clause
// log_entry.h - a violation as the extension's log takes it: bounded.
#pragma once

#include <cstddef>
#include <string>

#include "rules/violation.h"

namespace pgmemtrace {

// What log_violation() takes: 16 KiB as jsonb, which has some bytes more per value than JSON.
inline constexpr std::size_t kLongestEntry = 12ULL * 1024;

// JSON, as the sink's line.  One that is too long has only the inner frames of its stack, or none,
// and not all processes of its segments.
std::string log_entry(Violation violation, bool redacted);

} // namespace pgmemtrace
