// SPDX-License-Identifier: BSD-2-Clause
// describe_dsm.h - segments that stay, as a violation of dsm_leak: the rule's and a test window's.
#pragma once

#include <string_view>
#include <vector>

#include "rules/violation.h"
#include "snapshot/dsm.h"

namespace pgmemtrace {

// `process`: whose fault it is.  `state`: what is wrong with the segments, for a person.  All is
// filled in but `time`, advice, and the code, which only its origin tells.
Violation describe_dsm(const ProcessIdentity &process, std::string_view path,
                       std::vector<const DsmSegment *> segments, std::string_view state);

// Of segments that stay with a process, or because of it: path "(dsm segments)", and what to do.
Violation describe_left_behind(const ProcessIdentity &process,
                               std::vector<const DsmSegment *> segments, std::string_view state);

} // namespace pgmemtrace
