// SPDX-License-Identifier: BSD-2-Clause
// cache_growth - caches of the session that grow and grow.
//
// They are meant to keep what they hold, and have no limit: it is INFO as long as no one
// would miss the memory.  A cache that fills for the first time grows too, but slower and
// slower, and then it stops: the finding goes away when it has been still for a while.
// Contexts that are caches of the same thing (family) give one finding, named after the
// one that grew most.  Prepared statements and functions whose number grows are
// context_leak's; what they hold in all is judged here too.
#include <algorithm>
#include <array>
#include <optional>
#include <string>
#include <utility>

#include <fmt/format.h>

#include "knowledge/known_contexts.h"
#include "rules/describe.h"
#include "rules/rules.h"

namespace pgmemtrace {
namespace {

std::string_view words_for(Family family)
{
  switch (family) {
  case Family::relations: return "catalog and relation caches";
  case Family::plans: return "prepared statements and saved plans";
  case Family::functions: return "compiled functions";
  case Family::none: break;
  }
  return "a session cache";
}

struct Member {
  std::size_t group;
  Trend trend;
};

class CacheGrowth final : public Rule {
public:
  explicit CacheGrowth(const CacheGrowthLimits &limits) : limits_(limits) {}

  std::string_view name() const override { return "cache_growth"; }

  std::vector<Finding> check(const ProcessHistory &history) const override
  {
    std::vector<Finding> findings;
    for (const Family family : {Family::relations, Family::plans, Family::functions})
      if (auto finding = check_family(history, family))
        findings.push_back(std::move(*finding));
    for (std::size_t i = 1; i < history.groups().size(); ++i) {
      const auto family = family_of_cache(history, i);
      if (family && *family == Family::none) {
        const Trend trend = growth_of(history, i, limits_.other_bytes);
        if (trend.growing)
          findings.push_back(describe_growth(history, Family::none, {{i, trend}}));
      }
    }
    return findings;
  }

  bool holds(const ProcessHistory &history, const Violation &violation) const override
  {
    const std::size_t group = history.find(violation.path);
    if (group == ProcessHistory::kNone || !still_in_use(history, violation))
      return false;
    const auto used = samples_of(history.groups()[group], Measure::used);
    return violation.shape.empty() ? still_retained(history, violation)
                                   : quiet_seconds(used) < limits_.forget_seconds;
  }

private:
  // Nothing if the group is no cache.
  static std::optional<Family> family_of_cache(const ProcessHistory &history, std::size_t i)
  {
    const ContextGroup &group = history.groups()[i];
    if (group.scope != Scope::session)
      return std::nullopt;
    const KnownContext *known = lookup(group.name, history.process().major);
    if (known == nullptr)
      return std::nullopt;
    const bool cache =
        known->family != Family::none ||
        ((known->lifetime == Lifetime::session_cache || known->lifetime == Lifetime::cache_entry) &&
         known->growth == Growth::objects);
    return cache ? std::optional{known->family} : std::nullopt;
  }

  // 2: the cache itself, 1: what it is made of, 0: bookkeeping of other modules.
  static int names_family(const ProcessHistory &history, std::size_t i)
  {
    const std::string &name = history.groups()[i].name;
    if (name == "CacheMemoryContext")
      return 2;
    const KnownContext *known = lookup(name, history.process().major);
    return known != nullptr && known->lifetime == Lifetime::cache_entry ? 1 : 0;
  }

  static Trend growth_of(const ProcessHistory &history, std::size_t i, std::uint64_t least)
  {
    const ContextGroup &group = history.groups()[i];
    if (group.points.size() < 4)
      return {};
    return trend_of(samples_of(group, Measure::used),
                    {.min_growth = static_cast<double>(least),
                     .min_rises = 5,
                     .steep_growth = static_cast<double>(8 * least),
                     .max_step_share = 0.5});
  }

  std::optional<Finding> check_family(const ProcessHistory &history, Family family) const
  {
    std::vector<Member> growing;
    std::uint64_t held = 0;
    std::size_t largest = 0;
    for (std::size_t i = 1; i < history.groups().size(); ++i) {
      const auto own = family_of_cache(history, i);
      if (!own || *own != family)
        continue;
      const ContextGroup &group = history.groups()[i];
      held += group.points.back().total;
      if (largest == 0 || group.points.back().total > history.groups()[largest].points.back().total)
        largest = i;
      // A small member beside a large one: its growth counts for the family from a quarter on.
      const Trend trend = growth_of(history, i, limits_.min_bytes / 4);
      const bool in_number =
          family != Family::relations && group.points.back().count > group.points.front().count + 8;
      if (trend.growing && !in_number)
        growing.push_back({i, trend});
    }
    double growth = 0;
    for (const Member &member : growing)
      growth += member.trend.growth();
    const bool named = std::ranges::any_of(
        growing, [&](const Member &m) { return names_family(history, m.group) > 0; });
    if (growth >= static_cast<double>(named ? limits_.min_bytes : limits_.other_bytes))
      return describe_growth(history, family, growing);
    if (held >= limits_.held_bytes)
      return describe_held(history, family, largest, held);
    return std::nullopt;
  }

  Finding describe_growth(const ProcessHistory &history, Family family,
                          const std::vector<Member> &members) const
  {
    // The name must not change with every look: hash tables beside the caches do not give it.
    const auto most = std::ranges::max_element(members, {}, [&](const Member &m) {
      return std::pair{names_family(history, m.group), m.trend.growth()};
    });
    double all = 0;
    for (const Member &member : members)
      all += member.trend.growth();
    const Trend &trend = most->trend;
    Finding finding = finding_of(name(), history, most->group);
    Violation &v = finding.violation;
    v.severity =
        severity_of(all, {limits_.min_bytes, limits_.warning_bytes, UINT64_MAX}, trend.rises);
    set_bytes(v, trend.before, trend.after);
    v.shape = shape_of(trend);
    const HistoryPoint &first = history.groups()[most->group].points[trend.first];
    const HistoryPoint &last = history.groups()[most->group].points.back();
    v.occurrences = trend.rises;
    blame_growing_query(v, history, false);
    blame_code(v, history.groups()[most->group], last.count > first.count);
    v.detail = fmt::format("{}: used {} -> {} {}, {}", words_for(family), human_bytes(trend.before),
                           human_bytes(trend.after), human_stretch(trend), v.shape);
    if (last.count > first.count)
      v.detail +=
          fmt::format(", contexts {} -> {}", human_count(first.count), human_count(last.count));
    for (const Member &member : members)
      if (member.group != most->group)
        v.detail += fmt::format("; {} {} more", history.groups()[member.group].name,
                                human_bytes(member.trend.growth()));
    return finding;
  }

  Finding describe_held(const ProcessHistory &history, Family family, std::size_t largest,
                        std::uint64_t held) const
  {
    Finding finding = finding_of(name(), history, largest);
    Violation &v = finding.violation;
    v.severity = held >= limits_.held_warning_bytes ? Severity::warning : Severity::info;
    set_bytes(v, 0, static_cast<double>(history.groups()[largest].points.back().used));
    v.occurrences = history.groups()[largest].points.back().count;
    v.detail =
        fmt::format("{}: {} are held, {} of them by {} contexts of this name", words_for(family),
                    human_bytes(static_cast<double>(held)),
                    human_bytes(static_cast<double>(history.groups()[largest].points.back().total)),
                    human_count(v.occurrences));
    return finding;
  }

  CacheGrowthLimits limits_;
};

} // namespace

std::unique_ptr<Rule> make_cache_growth(const CacheGrowthLimits &limits)
{
  return std::make_unique<CacheGrowth>(limits);
}

} // namespace pgmemtrace
