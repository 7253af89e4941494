// SPDX-License-Identifier: BSD-2-Clause
#include "rules/describe_dsm.h"

#include <algorithm>
#include <functional>
#include <utility>

#include <fmt/format.h>

#include "rules/describe.h"

namespace pgmemtrace {
namespace {

constexpr std::size_t kMostShown = 16;
constexpr std::size_t kMostNamed = 3;

using Segments = std::vector<const DsmSegment *>;

std::uint64_t bytes_of(const Segments &segments)
{
  std::uint64_t sum = 0;
  for (const auto *segment : segments)
    sum += segment->bytes;
  return sum;
}

std::string named(const DsmSegment &segment)
{
  return fmt::format("handle {} ({})", segment.handle,
                     segment.bytes == 0 ? "of unknown size"
                                        : human_bytes(static_cast<double>(segment.bytes)));
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

} // namespace

Violation describe_dsm(const ProcessIdentity &process, std::string_view path, Segments segments,
                       std::string_view state)
{
  std::ranges::stable_sort(segments, std::greater(), [](const auto *s) { return s->bytes; });
  Violation v;
  v.process = process;
  v.rule = "dsm_leak";
  v.path = path;
  v.severity = Severity::warning;
  set_bytes(v, 0, static_cast<double>(bytes_of(segments)));
  v.occurrences = segments.size();
  v.detail = fmt::format("{}, {}", listed(segments), state);
  for (const auto *segment : segments)
    if (v.segments.size() < kMostShown)
      v.segments.push_back(*segment);
  if (const auto *origin = origin_of(v)) {
    v.query = origin->query;
    v.query_id = origin->query_id;
    v.detail += fmt::format(", made by process {}", origin->process.pid);
  }
  return v;
}

Violation describe_left_behind(const ProcessIdentity &process, Segments segments,
                               std::string_view state)
{
  Violation v = describe_dsm(process, "(dsm segments)", std::move(segments), state);
  v.advice = "Call dsm_detach() when it is done, or leave it to the transaction: dsm_pin_mapping() "
             "keeps it until the session ends, dsm_pin_segment() until the server does.";
  return v;
}

} // namespace pgmemtrace
