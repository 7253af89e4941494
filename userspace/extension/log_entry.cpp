// SPDX-License-Identifier: BSD-2-Clause
#include "extension/log_entry.h"

#include <algorithm>

#include "sinks/json_lines.h"

namespace pgmemtrace {

namespace {

constexpr std::size_t kFramesOfLongEntry = 16;
constexpr std::size_t kProcessesOfLongEntry = 16; // of each segment

} // namespace

std::string log_entry(Violation violation, bool redacted)
{
  auto entry = json_of(violation, redacted);
  if (entry.size() <= kLongestEntry)
    return entry;
  violation.stack.resize(std::min(violation.stack.size(), kFramesOfLongEntry));
  for (DsmSegment &segment : violation.segments)
    if (segment.mappings.size() > kProcessesOfLongEntry)
      segment.mappings.erase(segment.mappings.begin() + kProcessesOfLongEntry,
                             segment.mappings.end());
  entry = json_of(violation, redacted);
  if (entry.size() <= kLongestEntry)
    return entry;
  violation.stack.clear(); // names of C++ functions may be very long
  return json_of(violation, redacted);
}

} // namespace pgmemtrace
