// SPDX-License-Identifier: BSD-2-Clause
#include "copy/compare.h"

#include <algorithm>

#include <fmt/format.h>

#include "util/text.h"

namespace pgmemtrace {

namespace {

constexpr std::size_t kShown = 80;

// Wiped memory is 0x7f, which a terminal would not show.
std::string shown(const std::string &text)
{
  std::string out;
  for (const char c : text)
    out += c == '\x7f' ? std::string("\\x7f") : std::string(1, c);
  return one_line(out, kShown);
}

bool same_error(const RunOutcome &first, const RunOutcome &second)
{
  return first.failed() == second.failed() && first.sqlstate == second.sqlstate;
}

} // namespace

bool differ(const RunOutcome &first, const RunOutcome &second)
{
  return !same_error(first, second) || first.statements != second.statements;
}

std::optional<Difference> difference(const RunOutcome &first, const RunOutcome &second,
                                     const RunOutcome &now)
{
  if (now.failed() && !same_error(first, now) && !same_error(second, now))
    return Difference{.statement = 0,
                      .text =
                          fmt::format("{}, where there was {}", to_string(now), to_string(second))};
  const auto count =
      std::min({first.statements.size(), second.statements.size(), now.statements.size()});
  for (std::size_t i = 0; i < count; ++i)
    if (first.statements[i] == second.statements[i] && second.statements[i] != now.statements[i])
      return Difference{.statement = i + 1,
                        .text = fmt::format("statement {} returned \"{}\", not \"{}\"", i + 1,
                                            shown(now.statements[i].begin),
                                            shown(second.statements[i].begin))};
  return std::nullopt;
}

std::vector<std::uint64_t> spread(std::uint64_t count, std::uint64_t most)
{
  std::vector<std::uint64_t> out;
  const auto wanted = std::min(count, most);
  for (std::uint64_t i = 0; i < wanted; ++i)
    out.push_back(wanted == 1 ? 1 : 1 + i * (count - 1) / (wanted - 1));
  return out;
}

} // namespace pgmemtrace
