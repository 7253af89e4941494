// SPDX-License-Identifier: BSD-2-Clause
// unattributed_growth - private memory that no context accounts for keeps growing.
//
// malloc of libraries, language runtimes, JIT.  Three things look like it and are not:
//   - malloc keeps what the contexts gave back: so private memory is compared with the
//     most that the contexts ever held, too;
//   - blocks are counted when they are allocated and become private memory page by page
//     when they are used: so less than nothing counts as nothing;
//   - JIT'ed code is recycled every 100 queries: so a session with JIT must grow for longer.
#include <algorithm>

#include <fmt/format.h>

#include "knowledge/known_contexts.h"
#include "rules/describe.h"
#include "rules/rules.h"

namespace pgmemtrace {
namespace {

constexpr std::string_view kPath = "(outside the contexts)";

double excess(std::uint64_t a, std::uint64_t b) { return a > b ? static_cast<double>(a - b) : 0; }

class UnattributedGrowth final : public Rule {
public:
  explicit UnattributedGrowth(const UnattributedGrowthLimits &limits) : limits_(limits) {}

  std::string_view name() const override { return "unattributed_growth"; }

  std::vector<Finding> check(const ProcessHistory &history) const override
  {
    const auto points = history.outside();
    if (points.size() < 4)
      return {};
    std::vector<TrendSample> beyond_high;
    std::vector<TrendSample> outside;
    std::vector<TrendSample> contexts;
    for (const OutsidePoint &p : points) {
      beyond_high.push_back({p.time, excess(p.private_bytes, p.context_high)});
      outside.push_back({p.time, excess(p.private_bytes, p.context_bytes)});
      contexts.push_back({p.time, static_cast<double>(p.context_bytes)});
    }
    const auto least = static_cast<double>(limits_.scale.info);
    const Trend trend = trend_of(beyond_high, {.min_growth = least,
                                               .steep_growth = 4 * least,
                                               .max_step_share = 0.5,
                                               .min_drops = 1.5,
                                               .min_straightness = 0.25});
    if (!trend.growing)
      return {};
    double seen_before = 0; // the most there was until the stretch began
    for (std::size_t i = 0; i <= trend.first; ++i)
      seen_before = std::max(seen_before, beyond_high[i].value);
    const double growth = std::min(trend.after - seen_before, floor_growth(outside, trend.first));
    if (growth < least ||
        growth < limits_.share_of_contexts * floor_growth(contexts, trend.first) ||
        (history.jit_loaded() && may_be_jit(trend)))
      return {};
    return {describe(history, trend, growth, outside[trend.first].value)};
  }

  bool holds(const ProcessHistory &history, const Violation &violation) const override
  {
    if (history.outside().empty())
      return false;
    const OutsidePoint &now = history.outside().back();
    return excess(now.private_bytes, now.context_bytes) >=
           static_cast<double>(violation.before_bytes) +
               static_cast<double>(violation.delta_bytes) / 2;
  }

private:
  bool may_be_jit(const Trend &trend) const
  {
    return trend.statements > 0 ? trend.statements < limits_.jit_statements
                                : trend.seconds < limits_.jit_seconds;
  }

  Finding describe(const ProcessHistory &history, const Trend &trend, double growth,
                   double before) const
  {
    Finding finding;
    Violation &v = finding.violation;
    v.process = history.process();
    v.rule = name();
    v.path = kPath;
    v.severity = severity_of(growth, limits_.scale, trend.rises);
    if (trend.superlinear && v.severity == Severity::warning)
      v.severity = Severity::error;
    set_bytes(v, before, before + growth);
    v.shape = shape_of(trend);
    v.occurrences = trend.rises;
    blame_current_query(v, history);
    v.detail =
        fmt::format("private memory outside the contexts {} -> {} {}, {}", human_bytes(before),
                    human_bytes(before + growth), human_stretch(trend), v.shape);
    if (history.jit_loaded())
      v.detail += ", JIT is loaded";
    v.advice = advice_for("", history.process().major);
    return finding;
  }

  UnattributedGrowthLimits limits_;
};

} // namespace

std::unique_ptr<Rule> make_unattributed_growth(const UnattributedGrowthLimits &limits)
{
  return std::make_unique<UnattributedGrowth>(limits);
}

} // namespace pgmemtrace
