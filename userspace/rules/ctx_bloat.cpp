// SPDX-License-Identifier: BSD-2-Clause
// ctx_bloat - one owner whose contexts grow, while their number stays.
//
// Session contexts may not grow at all unless they are caches (cache_growth) or their
// number grows (context_leak).  What a transaction or statement holds is freed in the end
// and may be large for good reasons: sorts and the like that keep to a setting are left
// out, variables of procedural functions are looked at more closely than plan nodes.
#include <algorithm>
#include <optional>

#include <fmt/format.h>

#include "rules/allowance.h"
#include "rules/describe.h"
#include "rules/rules.h"

namespace pgmemtrace {
namespace {

// Little growth must be seen often before it stands out from the ups and downs of a session.
constexpr std::uint32_t kRises = 8;
constexpr std::uint32_t kSteepRises = 5;

class CtxBloat final : public Rule {
public:
  explicit CtxBloat(const ContextBloatLimits &limits) : limits_(limits) {}

  std::string_view name() const override { return "ctx_bloat"; }

  std::vector<Finding> check(const ProcessHistory &history) const override
  {
    std::vector<Finding> findings;
    for (std::size_t i = 1; i < history.groups().size(); ++i) {
      if (history.groups()[i].points.size() < 4)
        continue;
      if (const auto scale = bloat_allowance(history, history.groups()[i], limits_))
        if (auto finding = check_group(history, i, *scale))
          findings.push_back(std::move(*finding));
    }
    return findings;
  }

  bool holds(const ProcessHistory &history, const Violation &violation) const override
  {
    return still_in_use(history, violation) || still_retained(history, violation);
  }

private:
  std::optional<Finding> check_group(const ProcessHistory &history, std::size_t i,
                                     const Scale &scale) const
  {
    const ContextGroup &group = history.groups()[i];
    // What ends with its statement can be seen only so often.
    TrendLimits bounds{.min_growth = static_cast<double>(scale.info),
                       .min_rises = group.scope == Scope::session ? kRises : kSteepRises,
                       .steep_growth = 8 * static_cast<double>(scale.info),
                       .steep_rises = kSteepRises,
                       .max_step_share = 0.5};
    const auto used = samples_of(group, Measure::used);
    Trend trend = trend_of(used, bounds);
    if (trend.growing && !grows_in_number(group, trend))
      return describe(history, i, trend, scale, false);
    if (group.scope != Scope::session)
      return std::nullopt;

    bounds.min_growth = static_cast<double>(std::max(limits_.retained.info, scale.info));
    bounds.steep_growth = 8 * bounds.min_growth;
    trend = trend_of(samples_of(group, Measure::total), bounds);
    if (trend.growing && !grows_in_number(group, trend))
      return describe(history, i, trend, limits_.retained, true);
    return std::nullopt;
  }

  static bool grows_in_number(const ContextGroup &group, const Trend &trend)
  {
    const HistoryPoint &first = group.points[trend.first];
    const HistoryPoint &last = group.points.back();
    return last.count > first.count + 8 && last.count > 2 * first.count;
  }

  Finding describe(const ProcessHistory &history, std::size_t i, const Trend &trend,
                   const Scale &scale, bool blocks) const
  {
    const ContextGroup &group = history.groups()[i];
    Finding finding = finding_of(name(), history, i);
    Violation &v = finding.violation;
    v.severity = severity_of(trend.growth(), scale, trend.rises);
    if (trend.superlinear && v.severity == Severity::info && trend.rises >= 2 * kConfirmedRises &&
        group.scope == Scope::session)
      v.severity = Severity::warning;
    else if (trend.superlinear && v.severity == Severity::warning)
      v.severity = Severity::error;
    set_bytes(v, trend.before, trend.after);
    v.shape = shape_of(trend);
    v.occurrences = trend.rises;
    if (group.scope == Scope::session)
      blame_growing_query(v, history, false);
    else
      blame_current_query(v, history);
    blame_code(v, group, false);
    v.detail =
        fmt::format("{} {} -> {} {}, {}", blocks ? "blocks" : "used", human_bytes(trend.before),
                    human_bytes(trend.after), human_stretch(trend), v.shape);
    if (blocks)
      v.detail += fmt::format(", though only {} are in use",
                              human_bytes(static_cast<double>(group.points.back().used)));
    return finding;
  }

  ContextBloatLimits limits_;
};

} // namespace

std::unique_ptr<Rule> make_ctx_bloat(const ContextBloatLimits &limits)
{
  return std::make_unique<CtxBloat>(limits);
}

} // namespace pgmemtrace
