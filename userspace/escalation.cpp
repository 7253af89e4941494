// SPDX-License-Identifier: BSD-2-Clause
#include "escalation.h"

#include <algorithm>

namespace pgmemtrace {

std::vector<ProcessId> Escalation::raise(std::span<const Violation> changes, Time now)
{
  std::vector<ProcessId> suspects;
  if (!options_.on)
    return suspects;
  std::erase_if(raised_, [&](const auto &entry) {
    return !entry.second.looking && now - entry.second.since >= options_.again_after;
  });
  auto looking = static_cast<std::size_t>(
      std::ranges::count_if(raised_, [](const auto &entry) { return entry.second.looking; }));
  for (const Violation &violation : changes) {
    // Growth outside the contexts is no allocator's, and a peak is over when it is told.
    const bool of_a_context = !violation.path.empty() && violation.rule != "peak";
    if (violation.state == ViolationState::cleared || violation.stack_id != 0 || !of_a_context ||
        looking >= options_.at_a_time)
      continue;
    if (!raised_.try_emplace(violation.process.id, Raised{.since = now}).second)
      continue;
    suspects.push_back(violation.process.id);
    ++looking;
  }
  return suspects;
}

std::vector<ProcessId> Escalation::lower(Time now)
{
  std::vector<ProcessId> done;
  for (auto &[id, raised] : raised_)
    if (raised.looking && now - raised.since >= options_.look_for) {
      raised.looking = false;
      done.push_back(id);
    }
  return done;
}

} // namespace pgmemtrace
