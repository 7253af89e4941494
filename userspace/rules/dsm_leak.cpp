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
#include "rules/rules.h"

namespace pgmemtrace {
namespace {

constexpr std::string_view kLeftBehind = "(dsm segments)";
constexpr std::string_view kOrphaned = "(orphaned dsm segments)";
constexpr std::string_view kAbandoned = "(abandoned dsm segments)";
constexpr std::string_view kAreas = "(dsm areas)";
constexpr std::size_t kMostShown = 16;
constexpr std::size_t kMostNamed = 3;

using Segments = std::vector<const DsmSegmentHistory *>;

std::uint64_t bytes_of(const Segments &segments)
{
  std::uint64_t sum = 0;
  for (const auto *segment : segments)
    sum += segment->now.bytes;
  return sum;
}

std::string named(const DsmSegmentHistory &segment)
{
  const auto bytes = segment.now.bytes;
  return fmt::format("handle {} ({})", segment.now.handle,
                     bytes == 0 ? "of unknown size" : human_bytes(static_cast<double>(bytes)));
}

// "2 segments: handle 8 (64 KiB), handle 10 (64 KiB)"
std::string listed(const Segments &segments)
{
  std::string out = segments.size() == 1 ? "" : fmt::format("{} segments: ", segments.size());
  for (std::size_t i = 0; i < std::min(segments.size(), kMostNamed); ++i)
    out += (i == 0 ? "" : ", ") + named(*segments[i]);
  if (segments.size() > kMostNamed)
    out += fmt::format(" and {} more", segments.size() - kMostNamed);
  return out;
}

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
        left[segment.now.mappings.front().process.id].push_back(&segment);
      else if (segment.orphaned >= limits_.orphaned_looks && segment.now.seen &&
               !segment.now.area && !segment.now.registered)
        orphaned.push_back(&segment);
      else if (segment.abandoned >= limits_.abandoned_looks)
        abandoned.push_back(&segment);
    }
    std::vector<Violation> found;
    for (auto &[id, segments] : left) {
      const ProcessIdentity &holder = segments.front()->now.mappings.front().process;
      const bool session = holder.backend_type == "client backend";
      const bool pinned =
          std::ranges::all_of(segments, [](const auto *s) { return s->now.pinned; });
      if (segments.size() < limits_.pile && (pinned || !session))
        continue;
      found.push_back(describe(holder, kLeftBehind, std::move(segments),
                               "still attached though no statement or transaction runs"));
      found.back().advice =
          "Call dsm_detach() when it is done, or leave it to the transaction: dsm_pin_mapping() "
          "keeps it until the session ends, dsm_pin_segment() until the server does.";
    }
    if (!orphaned.empty()) {
      found.push_back(describe(history.postmaster(), kOrphaned, std::move(orphaned),
                               "pinned and attached by no process"));
      found.back().advice = "Nothing but dsm_unpin_segment() or a restart frees a pinned segment: "
                            "unpin it, or keep its handle where a later session finds it.";
    }
    if (!abandoned.empty()) {
      found.push_back(describe(history.postmaster(), kAbandoned, std::move(abandoned),
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

  Violation describe(const ProcessIdentity &process, std::string_view path, Segments segments,
                     std::string_view state) const
  {
    std::ranges::stable_sort(segments, std::greater(), [](const auto *s) { return s->now.bytes; });
    Violation v;
    v.process = process;
    v.rule = name();
    v.path = path;
    v.severity = Severity::warning;
    set_bytes(v, 0, static_cast<double>(bytes_of(segments)));
    v.occurrences = segments.size();
    v.detail = fmt::format("{}, {}", listed(segments), state);
    for (const auto *segment : segments)
      if (v.segments.size() < kMostShown)
        v.segments.push_back(segment->now);
    if (const auto *origin = origin_of(v)) {
      v.query = origin->query;
      v.query_id = origin->query_id;
      v.detail += fmt::format(", made by process {}", origin->process.pid);
    }
    return v;
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
        areas.push_back(&segment);
    Violation v = describe(history.postmaster(), kAreas, std::move(areas), "pieces of areas");
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
