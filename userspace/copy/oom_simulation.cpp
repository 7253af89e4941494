// SPDX-License-Identifier: BSD-2-Clause
// oom_simulation.cpp - a workload whose allocations fail, one after the other.
//
// In a new session, where caches are filled and libraries loaded, and in one that has run the
// workload before; once, and from there on until the server waits for its client again, as if
// memory had a limit.  Each reaches other code.
#include "copy/check.h"

#include <algorithm>
#include <charconv>
#include <iterator>
#include <optional>
#include <utility>

#include <fmt/format.h>

#include "copy/compare.h"
#include "copy/findings.h"

namespace pgmemtrace {

namespace {

constexpr const char *kCrashAdvice =
    "Code uses what an allocation returned without a look whether it failed: check malloc() for "
    "NULL, and report SQLSTATE 53200.";
constexpr const char *kSessionAdvice =
    "An error may leave any function at any allocation: what was begun must be undone in a "
    "PG_TRY block, a callback or with the memory context.";
constexpr const char *kPlainAdvice = "It dies without any fault; begin with that.";
constexpr std::size_t kMostCrashes = 20; // each starts the copy anew

struct Mode {
  bool warm;  // the session has run the workload before
  bool limit; // all allocations fail from there on
};
constexpr Mode kModes[] = {{true, false}, {true, true}, {false, true}, {false, false}};

const char *name_of(bool warm)
{
  return warm ? "a session that had run it before" : "a new session";
}

class OomCheck {
public:
  OomCheck(Copy &copy, const ProcessIdentity &whose, const Workload &workload)
      : copy_(copy),
        workload_(workload), result_{.scenario = "oom_simulation", .workload = workload.sql},
        findings_(result_.scenario, whose, workload.sql)
  {
  }

  Result<CheckResult> run();

private:
  using Session = std::unique_ptr<WorkloadSession>;

  Result<Session> session(bool warm);
  Result<> run_plainly();
  Result<std::uint64_t> count(bool warm);
  Result<> fail_each(const Mode &mode, std::uint64_t count, std::uint64_t most);
  Result<> fail(const Mode &mode, std::uint64_t which, std::uint64_t of);
  void describe(const std::uint64_t (&counts)[2]);
  Result<> judge_session(WorkloadSession &session, const std::string &where);
  bool expected(const RunOutcome &run) const;
  Result<> lost(const RunOutcome &run, const std::string &where, const char *advice);
  Result<> judge_loss(const RunOutcome &run, const std::string &where);

  Copy &copy_;
  const Workload &workload_;
  CheckResult result_;
  Findings findings_;
  std::optional<RunOutcome> plain_, again_; // without faults, in one session
  std::size_t crashes_ = 0;
  std::uint64_t failing_runs_ = 0;
  std::vector<std::string> unclear_;  // errors that do not say that memory was short
  std::vector<std::string> given_up_; // sessions that core ended, or left half done
  std::uint64_t skipped_ = 0;         // allocations after too many of them
};

// As the server's own: out of memory, or whatever says so.
bool says_memory(const RunOutcome &run)
{
  return run.sqlstate == "53200" || run.error.find("memory") != std::string::npos;
}

// Core itself gives up where libraries register their settings: it ends the session (guc.c:
// guc_malloc(FATAL), InitializeOneGUCOption()), or an interrupted _PG_init cannot be repeated.
bool fails_to_register(const RunOutcome &run) { return run.raised_in.ends_with(", guc.c"); }

// `pgmemtrace_faults.NAME`, as a number; 0 where the session is lost.
Result<std::uint64_t> counter(WorkloadSession &session, const char *name)
{
  const auto text = session.value(fmt::format("SHOW pgmemtrace_faults.{}", name));
  if (!text)
    return text.error();
  std::uint64_t value = 0;
  std::from_chars(text->data(), text->data() + text->size(), value);
  return value;
}

bool OomCheck::expected(const RunOutcome &run) const
{
  return !run.failed() || says_memory(run) || run.sqlstate == plain_->sqlstate;
}

Result<OomCheck::Session> OomCheck::session(bool warm)
{
  auto session = copy_.connect(workload_.database, workload_.user);
  if (session && warm)
    if (auto run = (*session)->run(workload_.sql); !run)
      return run.error();
  return session;
}

Result<> OomCheck::lost(const RunOutcome &run, const std::string &where, const char *advice)
{
  const auto aftermath = copy_.recover();
  if (!aftermath)
    return aftermath.error();
  crashes_ += aftermath->ended ? 1 : 0;
  findings_.add_end(run, *aftermath, where, advice);
  return Ok{};
}

// Twice, to know what a session does that runs it again.
Result<> OomCheck::run_plainly()
{
  auto session = this->session(false);
  if (!session)
    return session.error();
  for (auto *run : {&plain_, &again_}) {
    auto done = (*session)->run(workload_.sql);
    if (!done)
      return done.error();
    ++result_.executed;
    result_.failed += done->failed() ? 1U : 0U;
    if (result_.first_error.empty())
      result_.first_error = done->error;
    if (done->end != RunOutcome::End::done)
      return lost(*done, "without faults", kPlainAdvice);
    *run = std::move(*done);
  }
  result_.never_succeeded = result_.failed == result_.executed;
  return Ok{};
}

Result<std::uint64_t> OomCheck::count(bool warm)
{
  auto session = this->session(warm);
  if (!session)
    return session.error();
  for (const char *sql : {"SET pgmemtrace_faults.fail_at = 0", workload_.sql.c_str()})
    if (const auto run = (*session)->run(sql); !run)
      return run.error();
  ++result_.executed;
  return counter(**session, "allocations");
}

Result<> OomCheck::fail_each(const Mode &mode, std::uint64_t count, std::uint64_t most)
{
  for (const std::uint64_t which : spread(count, most)) {
    if (crashes_ >= kMostCrashes)
      ++skipped_;
    else if (auto done = fail(mode, which, count); !done)
      return done;
  }
  return Ok{};
}

Result<> OomCheck::fail(const Mode &mode, std::uint64_t which, std::uint64_t of)
{
  auto session = this->session(mode.warm);
  if (!session)
    return session.error();
  const auto arm =
      fmt::format("SET pgmemtrace_faults.fail_for = {}; SET pgmemtrace_faults.fail_at = {}",
                  mode.limit ? 0 : 1, which);
  if (const auto armed = (*session)->run(arm); !armed)
    return armed.error();
  const auto run = (*session)->run(workload_.sql);
  if (!run)
    return run.error();
  ++result_.executed;
  const auto where = fmt::format("first when {} {} of {} failed in {}",
                                 mode.limit ? "all allocations from" : "allocation", which, of,
                                 name_of(mode.warm));
  if (run->end != RunOutcome::End::done) {
    ++failing_runs_;
    return judge_loss(*run, where);
  }
  // There may have been fewer of them this time.
  const auto failures = counter(**session, "failed");
  if (!failures)
    return failures.error();
  failing_runs_ += *failures > 0 ? 1U : 0U;
  if (!expected(*run))
    unclear_.push_back(to_string(*run));
  return judge_session(**session, where);
}

Result<> OomCheck::judge_loss(const RunOutcome &run, const std::string &where)
{
  if (!run.error.starts_with("FATAL") || !(run.sqlstate == "53200" || fails_to_register(run)))
    return lost(run, where, kCrashAdvice);
  given_up_.push_back(to_string(run));
  return Ok{};
}

// What a pooler would hand to the next one: it has to work as if nothing had been.
Result<> OomCheck::judge_session(WorkloadSession &session, const std::string &where)
{
  const auto broken = [&](const RunOutcome &run, const char *what) -> Result<> {
    if (run.end != RunOutcome::End::done)
      return lost(run, fmt::format("{}, {}", what, where), kSessionAdvice);
    findings_.add(Severity::error, what, fmt::format("{} fails: {}", what, to_string(run)), where,
                  kSessionAdvice);
    return Ok{};
  };
  // DISCARD ALL: prepared statements are no part of any transaction.
  for (const char *sql : {"ROLLBACK", "SELECT 1", "DISCARD ALL"}) {
    const auto run = session.run(sql);
    if (!run)
      return run.error();
    if (run->failed())
      return broken(*run, fmt::format("{} afterwards", sql).c_str());
  }
  if (again_->failed())
    return Ok{}; // by itself
  const auto run = session.run(workload_.sql);
  if (!run)
    return run.error();
  if (!run->failed())
    return Ok{};
  if (!fails_to_register(*run))
    return broken(*run, "the same workload in that session afterwards");
  given_up_.push_back(to_string(*run));
  return Ok{};
}

void OomCheck::describe(const std::uint64_t (&counts)[2])
{
  result_.report = fmt::format(
      "allocations: {} in {}, {} in {}; {} runs in which one of them, or all from one on, "
      "failed",
      counts[0], name_of(false), counts[1], name_of(true), failing_runs_);
  // No findings: core has such errors, too.
  for (const auto &[what, errors] :
       {std::pair{"errors did not say that memory was short", &unclear_},
        std::pair{"sessions ended, or could not load a library again", &given_up_}})
    if (!errors->empty())
      result_.report += fmt::format("; {} {}, such as: {}", errors->size(), what, errors->front());
  if (skipped_ > 0)
    result_.report +=
        fmt::format("; the last {} were not tried after {} crashes", skipped_, kMostCrashes);
  if (again_->failed() && !plain_->failed())
    result_.report +=
        "; run again in one session the workload fails by itself, so whether it can be "
        "run again was not asked (let it roll back what it does)";
}

Result<CheckResult> OomCheck::run()
{
  if (auto done = run_plainly(); !done)
    return done.error();
  if (!again_) {
    result_.report = "the workload does not live without faults, so no allocation was failed";
    result_.violations = findings_.take();
    return std::move(result_);
  }
  std::uint64_t counts[2]{}; // cold, warm
  for (const bool warm : {false, true}) {
    const auto counted = count(warm);
    if (!counted)
      return counted.error();
    counts[warm] = *counted;
  }
  if (counts[0] == 0)
    return Error{"count allocations: there were none", 0,
                 "is the server linked with glibc, and does it heed LD_PRELOAD?"};
  std::uint64_t left = workload_.iterations, modes = std::size(kModes);
  for (const Mode &mode : kModes) { // what one does not need, the next ones have
    const auto most = std::min(counts[mode.warm], (left + modes - 1) / modes);
    if (auto done = fail_each(mode, counts[mode.warm], most); !done)
      return done.error();
    left -= most;
    --modes;
  }
  describe(counts);
  result_.violations = findings_.take();
  return std::move(result_);
}

} // namespace

Result<CheckResult> check_oom(Copy &copy, const ProcessIdentity &whose, const Workload &workload)
{
  return OomCheck(copy, whose, workload).run();
}

} // namespace pgmemtrace
