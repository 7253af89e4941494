// SPDX-License-Identifier: BSD-2-Clause
#include "collect/foreign_strings.h"

#include <vector>

namespace pgmemtrace {

namespace {

constexpr std::size_t kBatch = 512;

bool is_continuation(char byte) { return (static_cast<unsigned char>(byte) & 0xC0) == 0x80; }

} // namespace

Result<> read_strings(PageCache &cache, std::span<const std::uint64_t> addresses, std::size_t limit,
                      const TakeString &take)
{
  std::vector<std::size_t> waiting, parked;
  std::string text;
  for (std::size_t next = 0; next < addresses.size() || !waiting.empty();) {
    for (; next < addresses.size() && waiting.size() < kBatch; ++next)
      waiting.push_back(next);
    parked.clear();
    for (const std::size_t i : waiting) {
      const Found found = cache.string(addresses[i], limit, text);
      if (found == Found::missing)
        parked.push_back(i);
      else
        take(i, found == Found::yes ? &text : nullptr);
    }
    waiting.swap(parked);
    if (auto result = cache.fetch(); !result)
      return result;
  }
  return Ok{};
}

std::string_view clip_utf8(std::string_view text, std::size_t limit)
{
  if (text.size() <= limit)
    return text;
  std::size_t end = limit;
  while (end > 0 && limit - end < 3 && is_continuation(text[end]))
    --end;
  // Still within a character: then it is no UTF-8, and any cut is as good.
  return text.substr(0, is_continuation(text[end]) ? limit : end);
}

} // namespace pgmemtrace
