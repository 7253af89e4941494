// SPDX-License-Identifier: BSD-2-Clause
// dsm_leak - dynamic shared memory that outlives those who need it.
//
// A healthy segment ends with its statement: parallel query detaches, and the last one to go
// destroys it.  What stays on purpose is pinned, and somebody knows of it: an area frees its own
// pieces, the DSM registry has a name for it.  Four ways of staying for no reason:
//   - left behind: a session alone has it, outside of any transaction.  Core itself keeps one per
//     session for parallel query, which says so.  Two or more processes that share one talk
//     through it: no leak, whatever they do.  Of pinned ones, and of those that a background
//     worker keeps for whoever comes next, only a pile is a leak;
//   - orphaned: pinned, attached by nobody, and neither an area's nor named: who will find it?
//   - abandoned: it counts more users than there are processes that have it.  Nobody detaches;
//   - areas whose pieces only ever become more.
#include <algorithm>
#include <map>

#include <fmt/format.h>

#include "rules/describe.h"
#include "rules/describe_dsm.h"
#include "rules/rules.h"

namespace pgmemtrace {
namespace {

constexpr std::string_view kOrphaned = "(orphaned dsm segments)";
constexpr std::string_view kAbandoned = "(abandoned dsm segments)";
constexpr std::string_view kAreas = "(dsm areas)";

using Segments = std::vector<const DsmSegment *>;

class DsmLeak final : public ServerRule {
public:
  explicit DsmLeak(const DsmLeakLimits &limits) : limits_(limits) {}

  std::string_view name() const override { return "dsm_leak"; }

  std::vector<Violation> check(const DsmHistory &history) const override
  {
    std::map<ProcessId, Segments> left; // by holder
    Segments orphaned;
    Segments abandoned;
    for (const auto &[handle, segment] : history.segments()) {
      if (is_left_behind(segment))
        left[segment.now.mappings.front().process.id].push_back(&segment.now);
      else if (segment.orphaned >= limits_.orphaned_looks && segment.now.seen &&
               !segment.now.area && !segment.now.registered)
        orphaned.push_back(&segment.now);
      else if (segment.abandoned >= limits_.abandoned_looks)
        abandoned.push_back(&segment.now);
    }
    std::vector<Violation> found;
    for (auto &[id, segments] : left) {
      const ProcessIdentity &holder = segments.front()->mappings.front().process;
      const bool session = holder.backend_type == "client backend";
      const bool pinned = std::ranges::all_of(segments, [](const auto *s) { return s->pinned; });
      if (segments.size() < limits_.pile && (pinned || !session))
        continue;
      found.push_back(describe_left_behind(
          holder, std::move(segments), "still attached though no statement or transaction runs"));
    }
    if (!orphaned.empty()) {
      found.push_back(describe_dsm(history.postmaster(), kOrphaned, std::move(orphaned),
                                   "pinned and attached by no process"));
      found.back().advice = "Nothing but dsm_unpin_segment() or a restart frees a pinned segment: "
                            "unpin it, or keep its handle where a later session finds it.";
    }
    if (!abandoned.empty()) {
      found.push_back(describe_dsm(history.postmaster(), kAbandoned, std::move(abandoned),
                                   "counted as attached by more processes than have it"));
      found.back().advice = "A process ended without detaching; only a restart frees it.";
    }
    if (auto growth = check_areas(history))
      found.push_back(std::move(*growth));
    return found;
  }

  bool holds(const DsmHistory &history, const Violation &violation) const override
  {
    return violation.path == kAreas && !history.area_bytes().empty() &&
           history.area_bytes().back().bytes >=
               violation.before_bytes + static_cast<std::uint64_t>(violation.delta_bytes) / 2;
  }

private:
  bool is_left_behind(const DsmSegmentHistory &segment) const
  {
    if (segment.now.area || segment.now.registered || segment.now.mappings.size() != 1 ||
        segment.now.attachments != 1)
      return false;
    const DsmMapping &holder = segment.now.mappings.front();
    if (holder.session)
      return false;
    const bool outlived = holder.pinned && segment.first_requests != 0 &&
                          holder.requests >= segment.first_requests + limits_.requests;
    return segment.left_behind >= limits_.left_behind_looks || outlived;
  }

  std::optional<Violation> check_areas(const DsmHistory &history) const
  {
    std::vector<TrendSample> samples;
    for (const DsmPoint &point : history.area_bytes())
      samples.push_back({point.time, static_cast<double>(point.bytes)});
    if (samples.size() < 4)
      return std::nullopt;
    const Trend trend = trend_of(samples, {.min_growth = static_cast<double>(limits_.area_bytes)});
    if (!trend.growing)
      return std::nullopt;
    Segments areas;
    for (const auto &[handle, segment] : history.segments())
      if (segment.now.area && segment.now.pinned)
        areas.push_back(&segment.now);
    Violation v = describe_dsm(history.postmaster(), kAreas, std::move(areas), "pieces of areas");
    set_bytes(v, trend.before, trend.after);
    v.shape = shape_of(trend);
    v.detail += fmt::format(", {} -> {} {}", human_bytes(trend.before), human_bytes(trend.after),
                            human_stretch(trend));
    v.advice = "Something allocates in a dynamic shared area (dsa_allocate) and does not free.";
    return v;
  }

  DsmLeakLimits limits_;
};

} // namespace

std::unique_ptr<ServerRule> make_dsm_leak(const DsmLeakLimits &limits)
{
  return std::make_unique<DsmLeak>(limits);
}

} // namespace pgmemtrace
