// SPDX-License-Identifier: BSD-2-Clause
#include "copy/findings.h"

#include <utility>

#include <fmt/format.h>

namespace pgmemtrace {

Findings::Findings(std::string rule, ProcessIdentity whose, std::string workload)
    : rule_(std::move(rule)), whose_(std::move(whose)), workload_(std::move(workload))
{
}

Violation &Findings::found(const std::string &key, const std::string &what,
                           const std::string &where)
{
  const auto [known, is_new] = known_.try_emplace(key, found_.size());
  if (is_new) {
    Violation violation;
    violation.time = Clock::now();
    violation.process = whose_;
    violation.rule = rule_;
    violation.query = workload_;
    violation.detail = fmt::format("{}, {}", what, where);
    found_.push_back(std::move(violation));
  }
  Violation &violation = found_[known->second];
  ++violation.occurrences;
  return violation;
}

void Findings::add(Severity severity, const std::string &key, const std::string &what,
                   const std::string &where, const std::string &advice)
{
  Violation &violation = found(key, what, where);
  violation.severity = severity;
  violation.advice = advice;
}

void Findings::add(const Crash &crash, const std::string &where, const std::string &advice)
{
  // The instruction, not the address: wherever that pointed to, it is one bug.
  const Frame *frame = suspect(crash);
  Crash fold = crash;
  fold.address.reset();
  const auto what = to_string(frame ? fold : crash);
  Violation &violation = found(what, what, where);
  violation.severity = Severity::error;
  violation.advice = advice;
  if (violation.occurrences > 1)
    return;
  violation.process.id.pid = crash.pid;
  violation.stack = crash.stack;
  if (frame)
    violation.module = frame->code.module.substr(frame->code.module.rfind('/') + 1);
  if (crash.address)
    violation.detail += fmt::format("; address {:#x}", *crash.address);
}

void Findings::add_end(const RunOutcome &run, const Aftermath &aftermath, const std::string &where,
                       const std::string &advice)
{
  for (const Crash &crash : aftermath.crashes)
    add(crash, aftermath.panic.empty() ? where : fmt::format("{}: {}", where, aftermath.panic),
        advice);
  if (!aftermath.crashes.empty())
    return;
  const auto what = run.end == RunOutcome::End::timed_out
                        ? std::string("the workload did not end in time and was cancelled")
                        : fmt::format("the {} ended: {}", aftermath.ended ? "server" : "session",
                                      aftermath.panic.empty() ? to_string(run) : aftermath.panic);
  add(Severity::error, what, what, where, advice);
}

std::vector<Violation> Findings::take() { return std::exchange(found_, {}); }

} // namespace pgmemtrace
