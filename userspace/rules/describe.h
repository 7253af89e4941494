// SPDX-License-Identifier: BSD-2-Clause
// describe.h - what the rules share when they write a violation.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "rules/rule.h"
#include "rules/trend.h"

namespace pgmemtrace {

// "9.8 MiB", "512 B".
std::string human_bytes(double bytes);
// "1,048,576".
std::string human_count(std::uint64_t count);
// "over 5,000 statements in 6.2 s" or "in 6.2 s".
std::string human_stretch(const Trend &trend);
// "linear" or "superlinear".
std::string_view shape_of(const Trend &trend);

// A finding about one group, with everything filled in but severity and detail.
Finding finding_of(std::string_view rule, const ProcessHistory &history, std::size_t group);
// Growth of used bytes over the trend's stretch.
void set_bytes(Violation &violation, double before, double after);

// The query that gained most in the long-lived contexts, by bytes or by new contexts.
void blame_growing_query(Violation &violation, const ProcessHistory &history, bool by_contexts);
// The code that made the group's contexts, or made them grow, as far as either is known.
void blame_code(Violation &violation, const ContextGroup &group, bool by_contexts);
// The query that runs now.
void blame_current_query(Violation &violation, const ProcessHistory &history);

// Is at least half of what the violation reported still in use?
bool still_in_use(const ProcessHistory &history, const Violation &violation);
// Or does the context at least keep as many blocks?
bool still_retained(const ProcessHistory &history, const Violation &violation);

} // namespace pgmemtrace
