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

ViolationKey key_of(const Violation &violation)
{
  return {violation.process.id, violation.rule,
          violation.rule == "peak" ? violation.context : violation.path};
}

} // namespace pgmemtrace
