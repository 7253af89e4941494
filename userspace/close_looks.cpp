// SPDX-License-Identifier: BSD-2-Clause
#include "close_looks.h"

namespace pgmemtrace {

void CloseLooks::grew(const ProcessId &process, Time now)
{
  auto &growth = growing_.try_emplace(process, Growth{now, now}).first->second;
  if (now - growth.last > options_.gap)
    growth.since = now;
  growth.last = now;
  if (now - growth.since >= options_.after && wanted_.size() < options_.at_a_time)
    wanted_.insert(process);
}

std::vector<ProcessId> CloseLooks::over(Time now)
{
  std::vector<ProcessId> over;
  std::erase_if(growing_, [&](const auto &entry) {
    const auto &[process, growth] = entry;
    const bool wanted = wanted_.contains(process);
    if (now - growth.last <= (wanted ? options_.for_another : options_.gap))
      return false;
    if (wanted)
      over.push_back(process);
    return true;
  });
  for (const auto &process : over)
    wanted_.erase(process);
  return over;
}

void CloseLooks::forget(const ProcessId &process)
{
  growing_.erase(process);
  wanted_.erase(process);
}

} // namespace pgmemtrace
