// SPDX-License-Identifier: BSD-2-Clause
// use_after_reset.cpp - a workload with and without memory that is wiped when it is given back.
#include "copy/check.h"

#include <algorithm>

#include <fmt/format.h>

#include "copy/compare.h"
#include "copy/findings.h"

namespace pgmemtrace {

namespace {

constexpr const char *kAdvice =
    "Code keeps a pointer into a context that was reset or deleted: copy what has to live longer "
    "into a context that does, or take it anew.";
constexpr const char *kPlainAdvice = "It dies without any fault; begin with that.";

struct Series {
  std::vector<RunOutcome> runs;
  Aftermath aftermath; // of the last run, if it was lost
  bool whole = true;
};

Result<Series> run_series(Copy &copy, const Workload &workload, const char *settings)
{
  Series series;
  auto session = copy.connect(workload.database, workload.user, settings);
  if (!session)
    return session.error();
  while (series.whole && series.runs.size() < workload.iterations) {
    auto run = (*session)->run(workload.sql);
    if (!run)
      return run.error();
    series.whole = run->end == RunOutcome::End::done;
    series.runs.push_back(std::move(*run));
  }
  if (series.whole)
    return series;
  auto aftermath = copy.recover();
  if (!aftermath)
    return aftermath.error();
  series.aftermath = std::move(*aftermath);
  return series;
}

void judge(const Series &first, const Series &second, const Series &wiped, Findings &findings)
{
  for (std::size_t i = 0; i < wiped.runs.size(); ++i) {
    const auto where =
        fmt::format("first in run {} of {} with memory wiped", i + 1, second.runs.size());
    if (wiped.runs[i].end != RunOutcome::End::done)
      findings.add_end(wiped.runs[i], wiped.aftermath, where, kAdvice);
    else if (const auto found = difference(first.runs[i], second.runs[i], wiped.runs[i]))
      findings.add(found->statement == 0 ? Severity::error : Severity::warning,
                   fmt::format("statement {}", found->statement), found->text, where, kAdvice);
  }
}

std::size_t differing(const Series &first, const Series &second)
{
  std::size_t count = 0;
  for (std::size_t i = 0; i < std::min(first.runs.size(), second.runs.size()); ++i)
    count += differ(first.runs[i], second.runs[i]) ? 1 : 0;
  return count;
}

} // namespace

Result<CheckResult> check_use_after_reset(Copy &copy, const ProcessIdentity &whose,
                                          const Workload &workload, bool freed)
{
  CheckResult result{.scenario = "use_after_reset", .workload = workload.sql};
  Findings findings(result.scenario, whose, workload.sql);
  std::vector<Series> plain;
  for (const char *name : {"first", "second"}) {
    auto series = run_series(copy, workload, "");
    if (!series)
      return series.error();
    result.executed += series->runs.size();
    for (const RunOutcome &run : series->runs) {
      result.failed += run.failed() ? 1U : 0U;
      if (result.first_error.empty())
        result.first_error = run.error;
    }
    if (!series->whole) {
      findings.add_end(series->runs.back(), series->aftermath,
                       fmt::format("in the {} session without faults", name), kPlainAdvice);
      result.violations = findings.take();
      result.report =
          "the workload does not live without faults, so it was not run with wiped memory";
      return result;
    }
    plain.push_back(std::move(*series));
  }
  result.never_succeeded = result.failed == result.executed;
  const auto wiped = run_series(
      copy, workload, freed ? "-c pgmemtrace_faults.wipe=all" : "-c pgmemtrace_faults.wipe=on");
  if (!wiped)
    return wiped.error();
  result.executed += wiped->runs.size();
  judge(plain[0], plain[1], *wiped, findings);
  result.violations = findings.take();
  result.report = fmt::format(
      "{} runs in each of two sessions, then {} in one whose contexts wipe what is {}given back",
      workload.iterations, wiped->runs.size(), freed ? "freed or " : "");
  if (const auto count = differing(plain[0], plain[1]); count > 0)
    result.report +=
        fmt::format("; {} of {} differed by themselves, and what differed was not compared", count,
                    workload.iterations);
  return result;
}

} // namespace pgmemtrace
