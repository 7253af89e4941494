// SPDX-License-Identifier: BSD-2-Clause
// wrong_ctx_alloc - memory that lands in a context that lives as long as the process.
//
// TopMemoryContext and its like take nothing from statement to statement once a session is
// warm.  What core itself keeps there for a while (an array per lock held) is subtracted.
// CacheMemoryContext is cache_growth's: from outside, a catalog cache that fills and a
// stray palloc look the same.  Contexts that pile up below are context_leak's.
#include <fmt/format.h>

#include "rules/allowance.h"
#include "rules/describe.h"
#include "rules/rules.h"

namespace pgmemtrace {
namespace {

// Little growth must be seen often before it stands out from the ups and downs of a session.
constexpr TrendLimits kTrend{
    .min_rises = 8, .steep_growth = 64.0 * kKiB, .steep_rises = 5, .max_step_share = 0.5};

class WrongCtxAlloc final : public Rule {
public:
  explicit WrongCtxAlloc(const WrongContextLimits &limits) : limits_(limits) {}

  std::string_view name() const override { return "wrong_ctx_alloc"; }

  std::vector<Finding> check(const ProcessHistory &history) const override
  {
    std::vector<Finding> findings;
    for (std::size_t i = 0; i < history.groups().size(); ++i)
      if (history.groups()[i].scope == Scope::session && lives_too_long(history.groups()[i]))
        if (auto finding = check_group(history, i))
          findings.push_back(std::move(*finding));
    return findings;
  }

  bool holds(const ProcessHistory &history, const Violation &violation) const override
  {
    return still_in_use(history, violation);
  }

private:
  std::optional<Finding> check_group(const ProcessHistory &history, std::size_t i) const
  {
    TrendLimits bounds = kTrend;
    bounds.min_growth = static_cast<double>(limits_.min_bytes);
    const auto used = samples_of(history.groups()[i], Measure::used);
    const Trend trend = trend_of(used, bounds);
    if (!trend.growing || trend.growth() - held_beside(history, i) < bounds.min_growth)
      return std::nullopt;

    Finding finding = finding_of(name(), history, i);
    Violation &v = finding.violation;
    v.severity = severity_of(trend.growth(), {limits_.min_bytes, limits_.warning_bytes, UINT64_MAX},
                             trend.rises);
    set_bytes(v, trend.before, trend.after);
    v.shape = shape_of(trend);
    v.occurrences = trend.rises;
    blame_growing_query(v, history, false);
    blame_code(v, history.groups()[i], false);
    v.detail = fmt::format("used {} -> {} {}, {}", human_bytes(trend.before),
                           human_bytes(trend.after), human_stretch(trend), v.shape);
    if (trend.statements > 0)
      v.detail += fmt::format(", {} per statement", human_bytes(trend.growth() / trend.statements));
    return finding;
  }

  WrongContextLimits limits_;
};

} // namespace

std::unique_ptr<Rule> make_wrong_ctx_alloc(const WrongContextLimits &limits)
{
  return std::make_unique<WrongCtxAlloc>(limits);
}

} // namespace pgmemtrace
