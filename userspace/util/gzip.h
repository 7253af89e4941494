// SPDX-License-Identifier: BSD-2-Clause
// gzip.h - strings packed as gzip does, by zlib.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "util/result.h"

namespace pgmemtrace {

std::string gzip(std::string_view text);

// Errors: it is no gzip file, it is cut short, or it holds more than `most` bytes.
Result<std::string> gunzip(std::string_view packed, std::size_t most);

} // namespace pgmemtrace
