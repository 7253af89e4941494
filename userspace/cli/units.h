// SPDX-License-Identifier: BSD-2-Clause
// units.h - durations and ratios as users write them.
#pragma once

#include <chrono>
#include <optional>
#include <string_view>

namespace pgmemtrace {

// "250ms", "10s", "1.5m", "2h"; a bare number is seconds.
std::optional<std::chrono::nanoseconds> parse_duration(std::string_view text);

// "5%", "0.05"; "off" is 0.
std::optional<double> parse_ratio(std::string_view text);

} // namespace pgmemtrace
