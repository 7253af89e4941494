// SPDX-License-Identifier: BSD-2-Clause
#include "rules/window.h"

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "knowledge/known_contexts.h"
#include "rules/allowance.h"
#include "rules/describe.h"
#include "rules/describe_dsm.h"
#include "rules/fold.h"
#include "rules/options.h"

namespace pgmemtrace {
namespace {

// From one point of a group to the next.
struct Growth {
  HistoryPoint before, after;

  double contexts() const { return static_cast<double>(after.count) - before.count; }
  double used() const { return difference(before.used, after.used); }
  double total() const { return difference(before.total, after.total); }

private:
  static double difference(std::uint64_t from, std::uint64_t to)
  {
    return static_cast<double>(to) - static_cast<double>(from);
  }
};

Growth growth_of(const ContextGroup &group) { return {group.points.front(), group.points.back()}; }

std::string used_from_to(const Growth &growth)
{
  return fmt::format("used {} -> {} in the window",
                     human_bytes(static_cast<double>(growth.before.used)),
                     human_bytes(static_cast<double>(growth.after.used)));
}

class Judge {
public:
  Judge(const ProcessHistory &history, std::span<const AllocCalls> before,
        std::span<const AllocCalls> after, const WindowLimits &window, RuleLimits rules,
        std::uint64_t core_bytes)
      : history_(history), held_before_(before), held_after_(after),
        within_transaction_(window.within_transaction), rules_(rules),
        core_bytes_(static_cast<double>(core_bytes))
  {
    rules_.context_leak.session.info = window.min_leak_bytes;
    rules_.wrong_ctx_alloc.min_bytes = window.min_leak_bytes;
    rules_.ctx_bloat.session.info = window.bloat_min_bytes;
    if (window.within_transaction) {
      rules_.context_leak.transaction = rules_.context_leak.session;
      rules_.context_leak.transaction_contexts = rules_.context_leak.session_contexts;
      rules_.ctx_bloat.transaction = rules_.ctx_bloat.session;
    }
  }

  std::optional<Finding> judge(std::size_t i) const
  {
    if (history_.groups()[i].scope == Scope::statement)
      return std::nullopt;
    if (auto finding = leak(i))
      return finding;
    return lives_too_long(history_.groups()[i]) ? wrong_context(i) : bloat(i);
  }

private:
  std::optional<Finding> leak(std::size_t i) const
  {
    const ContextGroup &group = history_.groups()[i];
    const KnownContext *known = lookup(group.name, history_.process().major);
    const auto allowed = leak_allowance(group, known, rules_.context_leak);
    if (!allowed)
      return std::nullopt;
    // Core has some that come with first use.
    const bool stays =
        group.scope == Scope::session || (within_transaction_ && group.scope == Scope::transaction);
    const bool foreign = stays && known == nullptr;
    const Growth growth = growth_of(group);
    if (growth.contexts() < (foreign ? 1 : allowed->contexts))
      return std::nullopt;
    // An almost empty context costs a whole block.
    if (growth.total() < static_cast<double>(allowed->scale.info))
      return std::nullopt;
    Finding finding = find("context_leak", i, growth, allowed->scale, true);
    finding.new_contexts = growth.contexts();
    Violation &v = finding.violation;
    v.occurrences = static_cast<std::uint64_t>(growth.contexts());
    v.detail = fmt::format("contexts {} -> {}, {}", human_count(growth.before.count),
                           human_count(growth.after.count), used_from_to(growth));
    return finding;
  }

  std::optional<Finding> wrong_context(std::size_t i) const
  {
    const Growth growth = growth_of(history_.groups()[i]);
    const auto &limits = rules_.wrong_ctx_alloc;
    const Beside beside = held_beside(history_, i);
    const double core = history_.groups()[i].parent < 0 ? core_bytes_ : 0;
    if (growth.used() - beside.locks - beside.tables - core < static_cast<double>(limits.min_bytes))
      return std::nullopt;
    Finding finding = find("wrong_ctx_alloc", i, growth,
                           {limits.min_bytes, limits.warning_bytes, UINT64_MAX}, false);
    finding.violation.caller = growing_caller(history_.groups()[i].name);
    return finding;
  }

  // Whose chunks gained most in contexts of this name; 0: not known.
  std::uint64_t growing_caller(const std::string &context) const
  {
    std::map<std::uint64_t, std::int64_t> gained; // by caller
    const auto add = [&](std::span<const AllocCalls> held, std::int64_t sign) {
      for (const AllocCalls &calls : held)
        if (calls.name == context && calls.caller != 0)
          gained[calls.caller] += sign * static_cast<std::int64_t>(calls.live_bytes);
    };
    add(held_before_, -1);
    add(held_after_, 1);
    const auto most = std::ranges::max_element(gained, {}, [](const auto &e) { return e.second; });
    return most != gained.end() && most->second > 0 ? most->first : 0;
  }

  std::optional<Finding> bloat(std::size_t i) const
  {
    const ContextGroup &group = history_.groups()[i];
    const auto scale = bloat_allowance(history_, group, rules_.ctx_bloat);
    const Growth growth = growth_of(group);
    // What came with the window is a leak, or too little of one.
    if (!scale || growth.before.count == 0 || growth.contexts() > 0 ||
        growth.used() < static_cast<double>(scale->info))
      return std::nullopt;
    return find("ctx_bloat", i, growth, *scale, false);
  }

  Finding find(std::string_view rule, std::size_t i, const Growth &growth, const Scale &scale,
               bool by_contexts) const
  {
    Finding finding = finding_of(rule, history_, i);
    Violation &v = finding.violation;
    v.time = history_.taken_at();
    v.severity = severity_of(growth.used(), scale);
    set_bytes(v, static_cast<double>(growth.before.used), static_cast<double>(growth.after.used));
    v.shape = "step";
    v.occurrences = 1;
    v.detail = used_from_to(growth);
    blame_growing_query(v, history_, by_contexts);
    blame_code(v, history_.groups()[i], by_contexts);
    return finding;
  }

  const ProcessHistory &history_;
  std::span<const AllocCalls> held_before_, held_after_; // level alloc
  bool within_transaction_;
  RuleLimits rules_;
  double core_bytes_;
};

// Why a segment stays, as far as this process is answerable for it; empty: it is not, or it is
// looked after.
std::string_view why_it_stays(const DsmSegment &segment, const ProcessId &process)
{
  if (segment.area || segment.registered || !segment.seen)
    return {};
  const bool made = segment.origin && segment.origin->process == process;
  const auto mapping = std::ranges::find(segment.mappings, process,
                                         [](const DsmMapping &m) { return m.process.id; });
  const bool has = mapping != segment.mappings.end();
  if (has && mapping->session)
    return {};
  if (made && segment.pinned)
    return "pinned until the server ends";
  if (has && mapping->pinned)
    return "attached until the session ends";
  // A resource owner has it: of the request that closes the window, or left by an earlier one.
  if (has && made && mapping->requests != 0 &&
      static_cast<std::uint32_t>(mapping->requests) != segment.origin->request)
    return "attached for longer than the statement that made it";
  return {};
}

} // namespace

bool looks_at(const WindowLimits &limits, const std::string &context)
{
  return (limits.pattern.empty() || like(context, limits.pattern)) &&
         std::ranges::none_of(limits.allowed_contexts,
                              [&](const std::string &allowed) { return like(context, allowed); });
}

std::vector<Violation> judge_window(const ProcessSnapshot &before, const ProcessSnapshot &after,
                                    const WindowLimits &limits, const RuleLimits &rules,
                                    std::uint64_t core_bytes)
{
  ProcessHistory history;
  ProcessSnapshot start = before;
  start.activity.growth.clear(); // what ran before is none of the window's
  history.push(start);
  history.push(after);
  const Judge judge(history, before.alloc_calls, after.alloc_calls, limits, rules, core_bytes);
  std::vector<Finding> findings;
  for (std::size_t i = 0; i < history.groups().size(); ++i)
    if (auto finding = judge.judge(i))
      findings.push_back(std::move(*finding));
  // Folded before it is filtered: the part of an allowed fault is allowed.
  std::vector<Violation> violations;
  for (Finding &finding : fold(history, std::move(findings)))
    if (looks_at(limits, finding.violation.context))
      violations.push_back(std::move(finding.violation));
  return violations;
}

std::uint64_t core_bytes_of(const ProcessId &process, const DsmSnapshot &before,
                            const DsmSnapshot &after)
{
  // session.c creates a DSA area; its control structure in the process, dsa_area of dsa.c, has 40
  // bytes for each of 1,024 pieces that it might have.  41.1 KiB in all on 15.
  constexpr std::uint64_t kSessionArea = 42 * kKiB;
  const auto has_area = [&](const DsmSnapshot &dsm) {
    return std::ranges::any_of(dsm.segments, [&](const DsmSegment &segment) {
      return std::ranges::any_of(segment.mappings, [&](const DsmMapping &mapping) {
        return mapping.session && mapping.process.id == process;
      });
    });
  };
  return has_area(after) && !has_area(before) ? kSessionArea : 0;
}

std::vector<Violation> judge_window_dsm(const ProcessIdentity &process, const DsmSnapshot &before,
                                        const DsmSnapshot &after)
{
  std::set<std::uint32_t> known;
  for (const DsmSegment &segment : before.segments)
    known.insert(segment.handle);
  // By why, and by the code that made them.
  std::map<std::pair<std::string_view, std::vector<std::uint64_t>>, std::vector<const DsmSegment *>>
      left;
  for (const DsmSegment &segment : after.segments) {
    const auto why = why_it_stays(segment, process.id);
    if (!why.empty() && !known.contains(segment.handle))
      left[{why, segment.origin ? segment.origin->stack : std::vector<std::uint64_t>()}].push_back(
          &segment);
  }
  std::vector<Violation> violations;
  for (auto &[place, segments] : left) {
    violations.push_back(describe_left_behind(process, std::move(segments), place.first));
    violations.back().time = after.taken_at;
    violations.back().shape = "step";
  }
  return violations;
}

} // namespace pgmemtrace
