// SPDX-License-Identifier: BSD-2-Clause
// context_leak - contexts that outlive their natural end and keep coming.
//
// The evidence is their number, not their bytes: contexts of one path become more from
// look to look and those that were there before are still there.  Where they hang says how
// much of that is normal: under TopMemoryContext next to nothing, in a transaction some
// savepoints, in a statement one per plan node or partition.  Relation caches are left to
// cache_growth.
#include <algorithm>

#include <fmt/format.h>

#include "rules/allowance.h"
#include "rules/describe.h"
#include "rules/rules.h"

namespace pgmemtrace {
namespace {

constexpr double kSteep = 200; // contexts
// So many in a second or two that only a few looks could be taken.
constexpr TrendLimits kVerySteep{.min_growth = 500, .min_rises = 2, .max_step_share = 0.75};

class ContextLeak final : public Rule {
public:
  explicit ContextLeak(const ContextLeakLimits &limits) : limits_(limits) {}

  std::string_view name() const override { return "context_leak"; }

  std::vector<Finding> check(const ProcessHistory &history) const override
  {
    std::vector<Finding> findings;
    for (std::size_t i = 1; i < history.groups().size(); ++i)
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
    if (group.points.size() < 4 || group.points.back().count < limits_.session_contexts)
      return std::nullopt;
    const auto allowed =
        leak_allowance(group, lookup(group.name, history.process().major), limits_);
    if (!allowed)
      return std::nullopt;

    const auto counts = samples_of(group, Measure::count);
    Trend trend = trend_of(counts, {.min_growth = allowed->contexts, .steep_growth = kSteep});
    if (!trend.growing && group.scope != Scope::statement)
      trend = trend_of(counts, kVerySteep);
    // Survivors: what grew must have been there when we looked before.
    if (!trend.growing || group.points.back().kept < trend.growth() / 2)
      return std::nullopt;
    // An almost empty context costs a whole block.
    const double held = floor_growth(samples_of(group, Measure::total), trend.first);
    if (held < static_cast<double>(allowed->scale.info))
      return std::nullopt;
    const auto used = samples_of(group, Measure::used);
    const double bytes = floor_growth(used, trend.first);
    return describe(history, i, trend, used[trend.first].value, bytes, allowed->scale);
  }

  Finding describe(const ProcessHistory &history, std::size_t i, const Trend &trend, double before,
                   double bytes, const Scale &scale) const
  {
    const ContextGroup &group = history.groups()[i];
    Finding finding = finding_of(name(), history, i);
    finding.new_contexts = trend.growth();
    Violation &v = finding.violation;
    v.severity = severity_of(bytes, scale, trend.rises);
    set_bytes(v, before, before + bytes);
    v.shape = shape_of(trend);
    v.occurrences = static_cast<std::uint64_t>(trend.growth());
    if (group.scope == Scope::session || group.scope == Scope::portal)
      blame_growing_query(v, history, true);
    else
      blame_current_query(v, history);
    blame_code(v, group, true);
    v.detail =
        fmt::format("contexts {} -> {}, used {} -> {} {}, {}",
                    human_count(static_cast<std::uint64_t>(trend.before)),
                    human_count(static_cast<std::uint64_t>(trend.after)), human_bytes(before),
                    human_bytes(before + bytes), human_stretch(trend), v.shape);
    return finding;
  }

  ContextLeakLimits limits_;
};

} // namespace

std::unique_ptr<Rule> make_context_leak(const ContextLeakLimits &limits)
{
  return std::make_unique<ContextLeak>(limits);
}

} // namespace pgmemtrace
