// SPDX-License-Identifier: BSD-2-Clause
#include "cli/units.h"

#include <charconv>
#include <cmath>

namespace pgmemtrace {

namespace {

// The number that `text` begins with, and what follows it.
std::optional<double> take_number(std::string_view &text)
{
  double number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc{} || !std::isfinite(number) || number < 0)
    return std::nullopt;
  text.remove_prefix(static_cast<std::size_t>(end - text.data()));
  return number;
}

} // namespace

std::optional<std::chrono::nanoseconds> parse_duration(std::string_view text)
{
  const auto number = take_number(text);
  if (!number)
    return std::nullopt;
  double unit = 0;
  if (text == "ms")
    unit = 1e6;
  else if (text == "s" || text.empty())
    unit = 1e9;
  else if (text == "m" || text == "min")
    unit = 60e9;
  else if (text == "h")
    unit = 3600e9;
  const double limit = 365.0 * 24 * 3600e9;
  if (unit == 0 || *number * unit > limit)
    return std::nullopt;
  return std::chrono::nanoseconds(static_cast<std::int64_t>(*number * unit));
}

std::optional<double> parse_ratio(std::string_view text)
{
  if (text == "off")
    return 0;
  const auto number = take_number(text);
  if (!number)
    return std::nullopt;
  const double ratio = text == "%" ? *number / 100 : text.empty() ? *number : -1;
  if (ratio <= 0 || ratio > 1)
    return std::nullopt;
  return ratio;
}

} // namespace pgmemtrace
