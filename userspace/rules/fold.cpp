// SPDX-License-Identifier: BSD-2-Clause
#include "rules/fold.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "rules/describe.h"
#include "rules/limits.h"

namespace pgmemtrace {
namespace {

// What core or an extension notes about one more context elsewhere: a resource owner, a
// portal's struct, a hash entry, catalog cache entries of what it was made for.
constexpr double kBookkeeping = 8.0 * kKiB;

double bytes(const Finding &finding) { return static_cast<double>(finding.violation.delta_bytes); }

bool similar(double a, double b) { return std::abs(a - b) <= 0.25 * std::max(a, b); }

// Does `part` tell nothing that `whole` does not?
bool is_part_of(const ProcessHistory &history, const Finding &part, const Finding &whole)
{
  if (part.violation.rule == "unattributed_growth")
    return false;
  if (part.violation.rule == "peak") // the same context, seen large and seen growing
    return whole.violation.rule == "ctx_bloat" && part.violation.path == whole.violation.path;
  if (part.group == ProcessHistory::kNone || whole.group == ProcessHistory::kNone ||
      whole.new_contexts <= 0)
    return false;
  const auto groups = history.groups();
  if (part.new_contexts > 0) {
    // Children of what piles up; or, side by side, what comes in pairs (portal, its result).
    if (history.is_below(part.group, whole.group))
      return true;
    return groups[part.group].parent == groups[whole.group].parent &&
           groups[part.group].scope == Scope::portal &&
           similar(part.new_contexts, whole.new_contexts) && bytes(part) <= bytes(whole);
  }
  if (history.is_below(part.group, whole.group))
    return true;
  return bytes(part) <= kBookkeeping * whole.new_contexts;
}

// What check() said when it raised the violation, as far as folding needs it.
Finding finding_again(const ProcessHistory &history, const Violation &violation)
{
  return {.violation = violation,
          .group = history.find(violation.path),
          .new_contexts =
              violation.rule == "context_leak" ? static_cast<double>(violation.occurrences) : 0};
}

} // namespace

std::vector<Finding> fold(const ProcessHistory &history, std::vector<Finding> findings,
                          std::span<const Violation> active)
{
  std::erase_if(findings, [&](const Finding &finding) {
    return std::ranges::any_of(active, [&](const Violation &violation) {
      return key_of(violation) != key_of(finding.violation) &&
             is_part_of(history, finding, finding_again(history, violation));
    });
  });

  std::vector<std::size_t> into(findings.size());
  for (std::size_t i = 0; i < findings.size(); ++i) {
    into[i] = i;
    for (std::size_t j = 0; j < findings.size() && into[i] == i; ++j)
      // Never both into each other: the later one stays.
      if (i != j && is_part_of(history, findings[i], findings[j]) && !(j < i && into[j] == i))
        into[i] = j;
  }
  std::vector<Finding> kept;
  for (std::size_t i = 0; i < findings.size(); ++i) {
    if (into[i] != i)
      continue;
    Finding &whole = kept.emplace_back(findings[i]);
    for (std::size_t j = 0; j < findings.size(); ++j)
      if (j != i && into[j] == i)
        whole.violation.detail += fmt::format("; {} {} more", findings[j].violation.context,
                                              human_bytes(bytes(findings[j])));
  }
  return kept;
}

} // namespace pgmemtrace
