// SPDX-License-Identifier: BSD-2-Clause
// wrong_ctx_alloc - memory that lands in a context that lives as long as the process.
//
// TopMemoryContext and its like take nothing from statement to statement once a session is
// warm.  What core itself keeps there for a while (an array per lock held) is subtracted.
// At level alloc it is known who holds what, to the chunk: much less is enough then, in free space
// that was there all the time too.
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
    const ContextGroup &group = history.groups()[i];
    const Beside beside = held_beside(history, i);
    // Arrays for tables come in a few steps of one caller: no trend of its own.
    const auto grower = growing_caller(group, beside.locks);
    Trend trend = growth_of(group.points, limits_.min_bytes, beside.locks + beside.tables);
    if (!trend.growing && !grower)
      return std::nullopt;
    if (!trend.growing)
      trend = within(grower->trend, group);

    Finding finding = finding_of(name(), history, i);
    Violation &v = finding.violation;
    v.severity = severity_of(trend.growth(), {limits_.min_bytes, limits_.warning_bytes, UINT64_MAX},
                             trend.rises);
    set_bytes(v, trend.before, trend.after);
    v.shape = shape_of(trend);
    v.occurrences = trend.rises;
    blame_growing_query(v, history, false);
    blame_code(v, group, false);
    if (grower)
      v.caller = grower->caller;
    v.detail = fmt::format("used {} -> {} {}, {}", human_bytes(trend.before),
                           human_bytes(trend.after), human_stretch(trend), v.shape);
    if (trend.statements > 0)
      v.detail += fmt::format(", {} per statement", human_bytes(trend.growth() / trend.statements));
    return finding;
  }

  // Not growing, if it is less than `min_bytes` without what is held beside.
  static Trend growth_of(std::span<const HistoryPoint> points, std::uint64_t min_bytes,
                         double beside)
  {
    TrendLimits bounds = kTrend;
    bounds.min_growth = static_cast<double>(min_bytes);
    Trend trend = trend_of(samples_of(points, Measure::used), bounds);
    trend.growing = trend.growing && trend.growth() - beside >= bounds.min_growth;
    return trend;
  }

  struct Grower {
    std::uint64_t caller = 0;
    Trend trend;
  };

  // The caller whose chunks grow most.
  std::optional<Grower> growing_caller(const ContextGroup &group, double beside) const
  {
    std::optional<Grower> most;
    for (const CallerSeries &series : group.callers) {
      const Trend trend = growth_of(series.points, limits_.min_caller_bytes, beside);
      if (trend.growing && (!most || trend.growth() > most->trend.growth()))
        most = Grower{series.caller, trend};
    }
    return most;
  }

  // A caller's growth, as that of the context that it is a part of.
  static Trend within(Trend trend, const ContextGroup &group)
  {
    const double growth = trend.growth();
    trend.after = std::max(growth, static_cast<double>(group.points.back().used));
    trend.before = trend.after - growth;
    return trend;
  }

  WrongContextLimits limits_;
};

} // namespace

std::unique_ptr<Rule> make_wrong_ctx_alloc(const WrongContextLimits &limits)
{
  return std::make_unique<WrongCtxAlloc>(limits);
}

} // namespace pgmemtrace
