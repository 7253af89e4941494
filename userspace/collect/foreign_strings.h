// SPDX-License-Identifier: BSD-2-Clause
// foreign_strings.h - many strings of another process, read side by side.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>

#include "collect/page_cache.h"
#include "util/result.h"

namespace pgmemtrace {

// `text` is nullptr for an address that cannot be read.
using TakeString = std::function<void(std::size_t index, const std::string *text)>;

// The NUL-terminated strings at `addresses`, each cut at `limit` bytes; in any order.
Result<> read_strings(PageCache &cache, std::span<const std::uint64_t> addresses, std::size_t limit,
                      const TakeString &take);

// At most `limit` bytes, as they are, cut between characters where it is UTF-8: what
// PostgreSQL's pg_mbcliplen() gives.
std::string_view clip_utf8(std::string_view text, std::size_t limit);

} // namespace pgmemtrace
