// SPDX-License-Identifier: BSD-2-Clause
#include "snapshot/dsm_history.h"

#include <algorithm>
#include <utility>

namespace pgmemtrace {
namespace {

constexpr std::size_t kPoints = 40;

// Its one holder; nullptr if there is none or another one.
const DsmMapping *only_holder(const DsmSegment &segment)
{
  return segment.mappings.size() == 1 && segment.attachments == 1 ? &segment.mappings.front()
                                                                  : nullptr;
}

bool outlives_statements(const DsmSegment &segment)
{
  return segment.area && segment.pinned &&
         std::ranges::all_of(segment.mappings, [](const DsmMapping &m) { return m.idle; });
}

} // namespace

std::uint64_t total_bytes(const DsmSnapshot &dsm)
{
  std::uint64_t sum = 0;
  for (const auto &segment : dsm.segments)
    sum += segment.bytes;
  return sum;
}

void DsmHistory::push(const DsmSnapshot &snapshot)
{
  if (looks_ > 0 && snapshot.moment <= moment_)
    return;
  if (looks_++ == 0)
    first_moment_ = snapshot.moment;
  moment_ = snapshot.moment;
  taken_at_ = snapshot.taken_at;
  postmaster_ = snapshot.postmaster;

  std::map<std::uint32_t, DsmSegmentHistory> segments;
  for (const DsmSegment &segment : snapshot.segments) {
    DsmSegmentHistory &next = segments[segment.handle];
    if (const auto before = segments_.find(segment.handle); before != segments_.end())
      next = std::move(before->second);
    const auto *alone = only_holder(segment);
    const auto *alone_before = only_holder(next.now);
    const bool same_holder = alone != nullptr && alone_before != nullptr &&
                             alone->process.id == alone_before->process.id;
    if (!same_holder) {
      next.left_behind = 0;
      next.first_requests = alone != nullptr ? alone->requests : 0;
    }
    const auto count = [](std::uint32_t &looks, bool holds) { looks = holds ? looks + 1 : 0; };
    count(next.left_behind, segment.settled && alone != nullptr && alone->idle);
    count(next.orphaned, segment.settled && segment.pinned && segment.attachments == 0);
    count(next.abandoned,
          segment.settled && snapshot.everybody && segment.attachments > segment.mappings.size());
    next.now = segment;
  }
  segments_ = std::move(segments);
  add_point(snapshot);
}

// Log-spaced, as ProcessHistory's series: dense now, sparse long ago.
void DsmHistory::add_point(const DsmSnapshot &snapshot)
{
  DsmPoint point;
  point.time.seconds = std::chrono::duration<double>(snapshot.moment - first_moment_).count();
  point.time.active = static_cast<float>(point.time.seconds);
  for (const DsmSegment &segment : snapshot.segments)
    if (outlives_statements(segment))
      point.bytes += segment.bytes;
  // The newest of equal neighbours says the same as all of them.
  const std::size_t n = area_bytes_.size();
  if (n >= 2 && area_bytes_[n - 1].bytes == point.bytes && area_bytes_[n - 2].bytes == point.bytes)
    area_bytes_.pop_back();
  area_bytes_.push_back(point);
  if (area_bytes_.size() <= kPoints)
    return;
  std::size_t kept = 1; // the first one always
  for (std::size_t i = 1; i < area_bytes_.size(); ++i)
    if (i % 2 == 0 || i >= kPoints / 2)
      area_bytes_[kept++] = area_bytes_[i];
  area_bytes_.resize(kept);
}

} // namespace pgmemtrace
