// SPDX-License-Identifier: BSD-2-Clause
#include "rules/options.h"

#include <algorithm>
#include <array>

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace pgmemtrace {
namespace {

constexpr std::array<std::string_view, 7> kRuleNames{
    "context_leak", "wrong_ctx_alloc",     "ctx_bloat", "cache_growth",
    "peak",         "unattributed_growth", "dsm_leak",
};

} // namespace

std::span<const std::string_view> rule_names() { return kRuleNames; }

Result<> check(const RuleOptions &options)
{
  for (const auto *names : {&options.only, &options.disabled})
    for (const std::string &name : *names)
      if (std::ranges::find(kRuleNames, name) == kRuleNames.end())
        return Error{fmt::format("unknown rule '{}'", name), 0,
                     fmt::format("the rules are {}", fmt::join(kRuleNames, ", "))};
  return Ok{};
}

bool like(std::string_view text, std::string_view pattern)
{
  std::size_t t = 0;
  std::size_t p = 0;
  std::size_t retry_t = 0; // where the last % may take one character more
  std::size_t retry_p = std::string_view::npos;
  while (t < text.size() || p < pattern.size()) {
    if (p < pattern.size() && pattern[p] == '%') {
      retry_t = t;
      retry_p = ++p;
      continue;
    }
    const bool escaped = p + 1 < pattern.size() && pattern[p] == '\\';
    const std::size_t at = escaped ? p + 1 : p;
    if (t < text.size() && p < pattern.size() &&
        ((pattern[at] == '_' && !escaped) || pattern[at] == text[t])) {
      ++t;
      p = at + 1;
    } else if (retry_p != std::string_view::npos && retry_t < text.size()) {
      t = ++retry_t;
      p = retry_p;
    } else {
      return false;
    }
  }
  return true;
}

} // namespace pgmemtrace
