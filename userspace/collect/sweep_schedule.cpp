// SPDX-License-Identifier: BSD-2-Clause
#include "collect/sweep_schedule.h"

#include <algorithm>

namespace pgmemtrace {

namespace {

// What may be saved up: a burst of work after a quiet hour is still a burst.
constexpr auto kMaxBudget = std::chrono::milliseconds(400);
// ... and owed: one dear sweep must not starve everybody for long.
constexpr auto kMaxDebt = std::chrono::milliseconds(10);
// Estimated cost of a sweep that was not done yet; corrected by what it really took.
constexpr auto kTypicalCost = std::chrono::microseconds(100);

} // namespace

SweepSchedule::SweepSchedule(Options options) : options_(options), budget_(kMaxBudget) {}

void SweepSchedule::add(const ProcessId &process, Time now)
{
  entries_.try_emplace(
      process,
      Entry{.last = now, .gap = options_.shortest, .work = options_.shortest, .first = true});
}

void SweepSchedule::remove(const ProcessId &process) { entries_.erase(process); }

void SweepSchedule::active(const ProcessId &process)
{
  if (auto entry = entries_.find(process); entry != entries_.end())
    entry->second.gap = std::min(entry->second.gap, entry->second.work);
}

void SweepSchedule::growing(const ProcessId &process)
{
  if (auto entry = entries_.find(process); entry != entries_.end())
    entry->second.gap = entry->second.work = options_.shortest;
}

std::vector<ProcessId> SweepSchedule::due(Time now)
{
  if (budget_at_ == Time{})
    budget_at_ = now;
  const auto earned = std::chrono::duration<double>(now - budget_at_) * options_.extra_share;
  budget_ = std::min<Duration>(budget_ + std::chrono::duration_cast<Duration>(earned), kMaxBudget);
  budget_at_ = now;

  std::vector<std::pair<Time, ProcessId>> overdue;
  for (const auto &[process, entry] : entries_)
    if (due_at(entry) <= now)
      overdue.emplace_back(due_at(entry), process);
  std::sort(overdue.begin(), overdue.end());

  std::vector<ProcessId> processes;
  Duration left = budget_;
  for (const auto &[when, process] : overdue) {
    const bool base = regular(entries_.at(process), now);
    if (!base && left <= Duration::zero())
      continue;
    if (!base)
      left -= kTypicalCost;
    processes.push_back(process);
  }
  return processes;
}

void SweepSchedule::swept(const ProcessId &process, Time now, Duration cpu, Found found)
{
  const auto known = entries_.find(process);
  if (known == entries_.end())
    return;
  auto &entry = known->second;
  if (!regular(entry, now))
    budget_ = std::max<Duration>(budget_ - cpu, -kMaxDebt);
  entry.first = false;
  entry.last = now;
  // A large tree is swept less often, one process may use up what comes in and not more; but
  // what was saved up is there for bursts.
  const auto affordable = budget_ > kMaxBudget / 2
                              ? Duration::zero()
                              : std::chrono::duration_cast<Duration>(
                                    std::chrono::duration<double>(cpu) / options_.extra_share);
  switch (found) {
  case Found::growth: entry.work = options_.shortest; break;
  case Found::a_change: entry.work = std::min(entry.work * 3 / 2, options_.steady); break;
  case Found::the_same:
    entry.work = std::min(entry.work * 3 / 2, options_.steady);
    entry.gap = std::min(options_.interval, std::max({entry.work, affordable, entry.gap * 2}));
    return;
  }
  entry.gap = std::min(options_.interval, std::max(entry.work, affordable));
}

} // namespace pgmemtrace
