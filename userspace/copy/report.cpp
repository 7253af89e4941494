// SPDX-License-Identifier: BSD-2-Clause
#include "copy/report.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "sinks/json_lines.h"
#include "util/text.h"

namespace pgmemtrace {

namespace {

using Json = nlohmann::ordered_json;

constexpr std::size_t kLongestWorkload = 200;
constexpr std::size_t kMostFrames = 16;

std::string print_violation(const Violation &violation)
{
  auto out = fmt::format("  {:<7} {}\n", to_string(violation.severity), violation.detail);
  if (violation.occurrences > 1)
    out += fmt::format("          seen {} times\n", violation.occurrences);
  for (std::size_t i = 0; i < violation.stack.size() && i < kMostFrames; ++i) {
    const Frame &frame = violation.stack[i];
    out += fmt::format("          {} {}, {}\n", i == 0 ? "at" : "by", to_string(frame),
                       frame.code.module.substr(frame.code.module.rfind('/') + 1));
  }
  if (violation.stack.size() > kMostFrames)
    out += "          ... (--format json has all)\n";
  return out + fmt::format("          {}\n", violation.advice);
}

} // namespace

std::string print_checks(std::span<const CheckResult> checks)
{
  std::string out;
  for (const CheckResult &check : checks) {
    out += fmt::format("{}: {}\n  {}\n", check.scenario, one_line(check.workload, kLongestWorkload),
                       check.report);
    if (check.failed > 0)
      out += fmt::format("  {} runs failed while nothing was done to them: {}\n", check.failed,
                         check.first_error);
    for (const Violation &violation : check.violations)
      out += print_violation(violation);
    out += fmt::format("  {}\n", check.violations.empty()
                                     ? "nothing found"
                                     : fmt::format("findings: {}", check.violations.size()));
  }
  return out;
}

std::string json_of_checks(std::span<const CheckResult> checks)
{
  Json all = Json::array();
  for (const CheckResult &check : checks) {
    Json violations = Json::array();
    for (const Violation &violation : check.violations)
      violations.push_back(Json::parse(json_of(violation, false)));
    all.push_back({{"scenario", check.scenario},
                   {"workload", valid_utf8(check.workload)},
                   {"executed", check.executed},
                   {"failed", check.failed},
                   {"first_error", check.first_error.empty() ? Json(nullptr)
                                                             : Json(valid_utf8(check.first_error))},
                   {"report", check.report},
                   {"violations", std::move(violations)}});
  }
  return Json{{"checks", std::move(all)}}.dump(-1, ' ', false, Json::error_handler_t::replace);
}

} // namespace pgmemtrace
