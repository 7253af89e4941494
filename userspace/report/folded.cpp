// SPDX-License-Identifier: BSD-2-Clause
// folded.cpp - one line per call stack, as flame graph programs read it.
#include <algorithm>

#include <fmt/format.h>

#include "report/formats.h"
#include "util/text.h"

namespace pgmemtrace {

namespace {

// A semicolon parts frames.
std::string frame(const std::string &name)
{
  auto text = one_line(name);
  std::ranges::replace(text, ';', ':');
  return text;
}

} // namespace

std::string to_folded(const Profile &profile, View view)
{
  std::string out;
  for (const auto &entry : profile.entries) {
    if (entry.of(view) == 0)
      continue;
    out += frame(profile.contexts[entry.context].name);
    for (auto function = entry.stack.rbegin(); function != entry.stack.rend(); ++function)
      out += ';' + frame(profile.functions[*function].name);
    if (entry.stack.empty())
      out += ";(no call stack)";
    out += fmt::format(" {}\n", entry.of(view));
  }
  return out;
}

} // namespace pgmemtrace
