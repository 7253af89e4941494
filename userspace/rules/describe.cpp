// SPDX-License-Identifier: BSD-2-Clause
#include "rules/describe.h"

#include <algorithm>
#include <array>
#include <cmath>

#include <fmt/format.h>

#include "knowledge/known_contexts.h"
#include "rules/limits.h"

namespace pgmemtrace {
namespace {

// Below that most of what was reported has been given back.
std::uint64_t half_way(const Violation &violation)
{
  return violation.before_bytes +
         static_cast<std::uint64_t>(std::max<std::int64_t>(violation.delta_bytes, 0)) / 2;
}

} // namespace

Severity severity_of(double bytes, const Scale &scale)
{
  if (bytes > static_cast<double>(scale.error))
    return Severity::error;
  return bytes > static_cast<double>(scale.warning) ? Severity::warning : Severity::info;
}

Severity severity_of(double bytes, const Scale &scale, std::uint32_t rises)
{
  return rises >= kConfirmedRises ? severity_of(bytes, scale) : Severity::info;
}

std::string human_bytes(double bytes)
{
  static constexpr std::array kUnits{"B", "KiB", "MiB", "GiB", "TiB"};
  std::size_t unit = 0;
  while (std::abs(bytes) >= 1024 && unit + 1 < kUnits.size()) {
    bytes /= 1024;
    ++unit;
  }
  return unit == 0 ? fmt::format("{:.0f} B", bytes) : fmt::format("{:.1f} {}", bytes, kUnits[unit]);
}

std::string human_count(std::uint64_t count)
{
  std::string digits = std::to_string(count);
  for (std::size_t at = digits.size(); at > 3;) {
    at -= 3;
    digits.insert(at, ",");
  }
  return digits;
}

std::string human_stretch(const Trend &trend)
{
  if (trend.statements > 0)
    return fmt::format("over {} statements in {:.1f} s", human_count(trend.statements),
                       trend.seconds);
  return fmt::format("in {:.1f} s", trend.seconds);
}

std::string_view shape_of(const Trend &trend)
{
  return trend.superlinear ? "superlinear" : "linear";
}

Finding finding_of(std::string_view rule, const ProcessHistory &history, std::size_t group)
{
  const ContextGroup &g = history.groups()[group];
  Finding finding;
  finding.group = group;
  Violation &v = finding.violation;
  v.process = history.process();
  v.rule = rule;
  v.context = g.name;
  v.path = history.path(group);
  if (!g.ident.empty())
    v.ident = g.ident;
  v.advice = advice_for(g.name, v.process.major);
  return finding;
}

void set_bytes(Violation &violation, double before, double after)
{
  violation.before_bytes = static_cast<std::uint64_t>(std::max(before, 0.0));
  violation.after_bytes = static_cast<std::uint64_t>(std::max(after, 0.0));
  violation.delta_bytes = static_cast<std::int64_t>(after - before);
}

void blame_growing_query(Violation &violation, const ProcessHistory &history, bool by_contexts)
{
  const auto queries = history.queries();
  if (queries.empty())
    return;
  const auto most = by_contexts ? std::ranges::max_element(queries, {}, &QueryGrowth::new_contexts)
                                : std::ranges::max_element(queries, {}, &QueryGrowth::bytes);
  if (most->phase != Phase::idle) // no statement was seen: level request sees none
    violation.phase = most->phase;
  violation.query = most->query;
  if (most->query_id != 0)
    violation.query_id = most->query_id;
}

void blame_code(Violation &violation, const ContextGroup &group, bool by_contexts)
{
  const auto first = by_contexts ? group.made_by : group.grown_by;
  const auto second = by_contexts ? group.grown_by : group.made_by;
  violation.stack_id = first != 0 ? first : second;
}

void blame_current_query(Violation &violation, const ProcessHistory &history)
{
  violation.query = history.current_query();
  if (history.current_query_id() != 0)
    violation.query_id = history.current_query_id();
  if (history.in_statement())
    violation.phase = Phase::execute;
}

bool still_in_use(const ProcessHistory &history, const Violation &violation)
{
  const std::size_t group = history.find(violation.path);
  return group != ProcessHistory::kNone &&
         history.groups()[group].points.back().used >= half_way(violation);
}

bool still_retained(const ProcessHistory &history, const Violation &violation)
{
  const std::size_t group = history.find(violation.path);
  return group != ProcessHistory::kNone &&
         history.groups()[group].points.back().total >= half_way(violation);
}

} // namespace pgmemtrace
