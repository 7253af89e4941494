// SPDX-License-Identifier: BSD-2-Clause
#include "extension/windows.h"

#include <algorithm>
#include <iterator>
#include <string_view>
#include <tuple>
#include <utility>

namespace pgmemtrace {

namespace {

// A window that nobody closes must not gather for ever; the oldest queries grew first.
constexpr std::size_t kMaxQueries = 4096;
constexpr std::size_t kMaxPoints = 16; // each a whole tree; the extension asks for six

} // namespace

void Windows::begin(Process before, WindowLimits limits, Dsm dsm)
{
  const auto id = before->process.id;
  open_[id] = {.before = std::move(before),
               .dsm = std::move(dsm),
               .limits = std::move(limits),
               .growth = {},
               .raised = {},
               .points = {}};
}

bool Windows::tracks_dsm(const ProcessId &process) const
{
  const auto window = open_.find(process);
  return window != open_.end() && window->second.dsm;
}

void Windows::checkpoint(Process now, std::uint32_t executions)
{
  const auto window = open_.find(now->process.id);
  if (window != open_.end() && executions > 0 && window->second.points.size() < kMaxPoints)
    window->second.points.push_back({executions, std::move(now)});
}

void Windows::saw(const ProcessSnapshot &process)
{
  const auto window = open_.find(process.process.id);
  if (window == open_.end())
    return;
  auto &growth = window->second.growth;
  // The statement that opened the window ends in it: what it grows, loading us, is nobody's leak.
  const auto &opening = window->second.before->activity.current_query;
  for (const QueryGrowth &query : process.activity.growth)
    if (growth.size() < kMaxQueries && (query.query.empty() || query.query != opening))
      growth.push_back(query);
}

void Windows::saw(std::span<const Violation> changes)
{
  for (const Violation &change : changes) {
    const auto window = open_.find(change.process.id);
    if (window == open_.end() || change.rule == "dsm_leak" || // that it judges by itself
        !looks_at(window->second.limits, change.context))
      continue;
    if (change.state == ViolationState::cleared)
      window->second.raised.erase(key_of(change));
    else
      window->second.raised[key_of(change)] = change;
  }
}

std::optional<std::vector<Violation>> Windows::end(const ProcessSnapshot &after,
                                                   const RuleLimits &rules, const Dsm &dsm)
{
  auto closed = open_.extract(after.process.id);
  if (!closed)
    return std::nullopt;
  Window &window = closed.mapped();
  ProcessSnapshot since = after;
  since.activity.growth = std::move(window.growth);
  since.block_growth = growth_since(window.before->block_growth, after.block_growth);
  const bool both = window.dsm && dsm;
  auto violations = judge_window(*window.before, since, window.limits, rules,
                                 both ? core_bytes_of(after.process.id, *window.dsm, *dsm) : 0);
  window.points.insert(window.points.begin(), {0, window.before});
  violations = keep_growing(std::move(violations), window.points);
  for (const Violation &violation : violations)
    window.raised.erase(key_of(violation)); // the same, by a rule that saw less of it
  for (auto &[key, violation] : window.raised)
    violations.push_back(std::move(violation));
  if (both)
    std::ranges::move(judge_window_dsm(after.process, *window.dsm, *dsm),
                      std::back_inserter(violations));
  return violations;
}

void Windows::forget(const ProcessId &process) { open_.erase(process); }

std::vector<BlockGrowth> growth_since(std::span<const BlockGrowth> before,
                                      std::span<const BlockGrowth> after)
{
  const auto key = [](const BlockGrowth &g) {
    return std::tuple(g.context, g.made, std::string_view(g.name), g.stack);
  };
  std::map<std::tuple<std::uint64_t, bool, std::string_view, std::uint64_t>, const BlockGrowth *>
      known;
  for (const BlockGrowth &growth : before)
    known[key(growth)] = &growth;
  std::vector<BlockGrowth> since;
  for (BlockGrowth growth : after) {
    const auto earlier = known.find(key(growth));
    if (earlier != known.end() && earlier->second->blocks <= growth.blocks &&
        earlier->second->bytes <= growth.bytes) {
      growth.bytes -= earlier->second->bytes;
      growth.blocks -= earlier->second->blocks;
      growth.raised -= std::min(growth.raised, earlier->second->raised);
    }
    if (growth.bytes != 0 || growth.blocks != 0)
      since.push_back(std::move(growth));
  }
  return since;
}

} // namespace pgmemtrace
