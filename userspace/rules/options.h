// SPDX-License-Identifier: BSD-2-Clause
// options.h - which rules speak, about what, and from what severity on.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "rules/limits.h"
#include "util/result.h"

namespace pgmemtrace {

struct RuleOptions {
  std::vector<std::string> only;     // names of rules; empty: all
  std::vector<std::string> disabled; // names of rules
  // Contexts that may do what they like: SQL's LIKE on the name (% and _, \ escapes).
  std::vector<std::string> allowed_contexts;
  Severity min_severity = Severity::info;
  RuleLimits limits;
};

// Every name that `only` and `disabled` may hold.
std::span<const std::string_view> rule_names();

// "unknown rule 'leak'", with the known names as the hint.
Result<> check(const RuleOptions &options);

// SQL's LIKE, case-sensitive.
bool like(std::string_view text, std::string_view pattern);

} // namespace pgmemtrace
