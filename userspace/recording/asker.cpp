// SPDX-License-Identifier: BSD-2-Clause
#include "recording/asker.h"

#include <algorithm>

#include "recording/recording.h"

namespace pgmemtrace {

namespace {

std::string file_name(const std::string &path) { return path.substr(path.rfind('/') + 1); }

bool passes_on(const Frame &frame, const Heap &heap)
{
  return std::ranges::find(heap.libraries, frame.code.module) != heap.libraries.end() ||
         frame.function.starts_with("operator new");
}

} // namespace

ContextCode::ContextCode(const ElfFile &elf, const Plan &plan)
{
  for (const auto &site : plan.sites) {
    if (!site.block)
      continue;
    const auto bounds = elf.bounds(site.address);
    const auto begin = bounds ? elf.file_offset(bounds->address) : std::nullopt;
    if (begin && std::ranges::find(ranges_, *begin, &Range::begin) == ranges_.end())
      ranges_.push_back({*begin, *begin + bounds->size});
  }
}

bool ContextCode::holds(std::uint64_t file_offset) const
{
  return std::ranges::any_of(ranges_, [&](const Range &range) {
    return file_offset >= range.begin && file_offset < range.end;
  });
}

std::string asker_of(const std::vector<Frame> &frames, const Heap &heap)
{
  const auto known = std::ranges::find(
      frames, kTruncated, [](const Frame &frame) { return std::string_view(frame.code.module); });
  if (known == frames.begin())
    return {};
  const auto asker = std::find_if(frames.begin(), known,
                                  [&](const Frame &frame) { return !passes_on(frame, heap); });
  if (asker == known)
    return file_name((known - 1)->code.module);
  if (heap.contexts && asker->code.module == heap.executable &&
      heap.contexts->holds(asker->code.offset))
    return kContextBlocks;
  return file_name(asker->code.module);
}

} // namespace pgmemtrace
