// SPDX-License-Identifier: BSD-2-Clause
#include "sinks/status.h"

#include <utility>

#include "snapshot/dsm.h"

namespace pgmemtrace {

std::optional<Status> StatusTracker::due(const Snapshot &snapshot)
{
  // Snapshots come at about the same interval: one that is a little early is no reason to wait
  // for the next.  A clock that was set back must not silence the status until it caught up.
  const auto least = interval_ - interval_ / 10;
  if (last_ && snapshot.taken_at >= *last_ && snapshot.taken_at - *last_ < least)
    return std::nullopt;

  Status status;
  for (const auto &process : snapshot.processes) {
    status.contexts += process->contexts.size();
    status.total_bytes += total_bytes(*process);
    status.used_bytes += used_bytes(*process);
    status.private_bytes += process->private_bytes;
    status.incomplete += process->complete ? 0 : 1;
    if (!status.biggest || total_bytes(*status.biggest) < total_bytes(*process))
      status.biggest = process;
  }
  for (const auto &server : snapshot.servers)
    if (server.dsm) {
      status.dsm_segments += server.dsm->segments.size();
      status.dsm_bytes += total_bytes(*server.dsm);
    }
  note_growth(snapshot, status);
  note_losses(snapshot.health, status);
  last_ = snapshot.taken_at;
  return status;
}

// A process without an earlier total has no growth that could be told from its baseline.
void StatusTracker::note_growth(const Snapshot &snapshot, Status &status)
{
  std::map<ProcessId, std::uint64_t> totals;
  for (const auto &process : snapshot.processes) {
    const std::uint64_t now = total_bytes(*process);
    totals[process->process.id] = now;
    const auto before = totals_.find(process->process.id);
    if (before == totals_.end() || now <= before->second)
      continue;
    if (now - before->second > status.fastest_bytes) {
      status.fastest = process;
      status.fastest_bytes = now - before->second;
    }
  }
  totals_ = std::move(totals);
}

void StatusTracker::note_losses(const Health &health, Status &status)
{
  std::map<std::string, std::uint64_t> losses = health.events_lost;
  for (const auto &[site, count] : health.read_errors)
    losses["read errors: " + site] = count;
  for (const auto &[reason, count] : losses) {
    const auto before = losses_.find(reason);
    const std::uint64_t known = before == losses_.end() ? 0 : before->second;
    if (count > known)
      status.new_losses[reason] = count - known;
  }
  losses_ = std::move(losses);
}

} // namespace pgmemtrace
