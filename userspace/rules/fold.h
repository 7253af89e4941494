// SPDX-License-Identifier: BSD-2-Clause
// fold.h - one fault, one finding.
//
// A fault shows in several places: leaked contexts have children, leave bookkeeping in the
// long-lived context above them and entries in hash tables beside them.  The contexts that
// pile up are what a person must look at; the others are mentioned in its detail.
#pragma once

#include <span>
#include <vector>

#include "rules/rule.h"

namespace pgmemtrace {

// All findings of one process; what remains, in the same order.  `active` are the violations
// that were raised before and still hold: a finding may be part of one of these, too.
std::vector<Finding> fold(const ProcessHistory &history, std::vector<Finding> findings,
                          std::span<const Violation> active = {});

} // namespace pgmemtrace
