// SPDX-License-Identifier: BSD-2-Clause
// rule.h - a question asked of one process's history.
//
// A rule is a pure function of what was seen: no clock, no I/O, no memory of its own.
// That is what lets its test be a table.  Adding one: a file here, a line in
// rule_set.cpp.
#pragma once

#include <cstddef>
#include <string_view>
#include <vector>

#include "rules/violation.h"
#include "snapshot/history.h"

namespace pgmemtrace {

struct Finding {
  Violation violation; // `state` and `time` are left to RuleSet, who knows what was raised before
  std::size_t group = ProcessHistory::kNone; // in the history; kNone: not one group's
  double new_contexts = 0; // by how many the group grew; 0: it is not their number that grew
};

class Rule {
public:
  virtual ~Rule() = default;

  // Stable: metric label, JSON key, config key.
  virtual std::string_view name() const = 0;

  // All findings that newly hold or still grow.
  virtual std::vector<Finding> check(const ProcessHistory &history) const = 0;

  // Asked of a violation that check() raised before and does not find any more: does it
  // still hold?  A leak that has stopped growing is not mended.
  virtual bool holds(const ProcessHistory &history, const Violation &violation) const = 0;
};

} // namespace pgmemtrace
