// SPDX-License-Identifier: BSD-2-Clause
#include "rules/violation.h"

namespace pgmemtrace {

std::string_view to_string(Severity severity)
{
  switch (severity) {
  case Severity::info: return "INFO";
  case Severity::warning: return "WARNING";
  case Severity::error: return "ERROR";
  }
  return "INFO";
}

std::string_view to_string(ViolationState state)
{
  switch (state) {
  case ViolationState::raised: return "raised";
  case ViolationState::updated: return "updated";
  case ViolationState::cleared: return "cleared";
  }
  return "raised";
}

namespace {

std::string_view file_name(std::string_view path)
{
  return path.substr(path.rfind('/') + 1); // npos + 1 is 0
}

} // namespace

const Frame *asking_frame(std::span<const Frame> stack, std::string_view server)
{
  const Frame *of_server = nullptr;
  for (const Frame &frame : stack) {
    const std::string_view module = frame.code.module;
    const auto name = file_name(module);
    if (module == server)
      of_server = of_server ? of_server : &frame;
    else if (!module.starts_with('[') && !name.starts_with("libc.") && !name.starts_with("libc-"))
      return &frame;
  }
  return of_server;
}

std::string module_of(std::span<const Frame> stack)
{
  if (stack.empty())
    return {};
  // Where every allocation ends.
  return std::string(file_name(asking_frame(stack, stack.front().code.module)->code.module));
}

ViolationKey key_of(const Violation &violation)
{
  return {violation.process.id, violation.rule,
          violation.rule == "peak" ? violation.context : violation.path};
}

const DsmOrigin *origin_of(const Violation &violation)
{
  for (const DsmSegment &segment : violation.segments)
    if (segment.origin)
      return &*segment.origin;
  return nullptr;
}

} // namespace pgmemtrace
