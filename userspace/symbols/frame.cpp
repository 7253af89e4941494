// SPDX-License-Identifier: BSD-2-Clause
// frame.cpp - a frame in words.
#include "symbols/frame.h"

#include <string_view>

#include <fmt/format.h>

namespace pgmemtrace {

namespace {

std::string_view file_name(std::string_view path)
{
  return path.starts_with('[') ? path : path.substr(path.rfind('/') + 1); // npos + 1 is 0
}

} // namespace

std::string to_string(const Frame &frame)
{
  const auto module = file_name(frame.code.module);
  if (frame.function.empty() && module.starts_with('['))
    return module == kVdso ? fmt::format("{}+{:#x}", module, frame.offset) : std::string(module);
  if (frame.function.empty())
    return fmt::format("{}+{:#x}", module, frame.offset);

  std::string text = frame.function;
  if (!frame.inlined)
    text += fmt::format("+{:#x}", frame.offset);
  if (!frame.file.empty() && frame.line > 0)
    text += fmt::format(" at {}:{}", file_name(frame.file), frame.line);
  if (frame.inlined)
    text += " [inlined]";
  return text;
}

} // namespace pgmemtrace
