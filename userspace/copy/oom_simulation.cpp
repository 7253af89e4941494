// SPDX-License-Identifier: BSD-2-Clause
// oom_simulation.cpp - a workload whose allocations fail, one after the other.
//
// In two ways, since they reach different code: in a new session, where caches are filled and
// libraries loaded, and in one that has run the workload before.
#include "copy/check.h"

#include <algorithm>
#include <charconv>
#include <optional>

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

enum class Cache : std::uint8_t { cold, warm };

const char *name_of(Cache cache)
{
  return cache == Cache::cold ? "a new session" : "a session that had run it before";
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

  Result<Session> session(Cache cache);
  Result<> run_plainly();
  Result<std::uint64_t> count(Cache cache);
  Result<> fail_each(Cache cache, std::uint64_t count, std::uint64_t most);
  Result<> fail(Cache cache, std::uint64_t which, std::uint64_t of);
  Result<> judge_session(WorkloadSession &session, const std::string &where);
  bool expected(const RunOutcome &run) const;
  Result<> lost(const RunOutcome &run, const std::string &where, const char *advice);

  Copy &copy_;
  const Workload &workload_;
  CheckResult result_;
  Findings findings_;
  std::optional<RunOutcome> plain_, again_; // without faults, in one session
  std::size_t crashes_ = 0;
  std::uint64_t skipped_ = 0; // allocations after too many of them
};

// As the server's own: out of memory, or whatever says so.
bool says_memory(const RunOutcome &run)
{
  return run.sqlstate == "53200" || run.error.find("memory") != std::string::npos;
}

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

Result<OomCheck::Session> OomCheck::session(Cache cache)
{
  auto session = copy_.connect(workload_.database, workload_.user);
  if (session && cache == Cache::warm)
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
  auto session = this->session(Cache::cold);
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
  return Ok{};
}

Result<std::uint64_t> OomCheck::count(Cache cache)
{
  auto session = this->session(cache);
  if (!session)
    return session.error();
  for (const char *sql : {"SET pgmemtrace_faults.fail_at = 0", workload_.sql.c_str()})
    if (const auto run = (*session)->run(sql); !run)
      return run.error();
  ++result_.executed;
  return counter(**session, "allocations");
}

Result<> OomCheck::fail_each(Cache cache, std::uint64_t count, std::uint64_t most)
{
  for (const std::uint64_t which : spread(count, most)) {
    if (crashes_ >= kMostCrashes)
      ++skipped_;
    else if (auto done = fail(cache, which, count); !done)
      return done;
  }
  return Ok{};
}

Result<> OomCheck::fail(Cache cache, std::uint64_t which, std::uint64_t of)
{
  auto session = this->session(cache);
  if (!session)
    return session.error();
  const auto armed = (*session)->run(fmt::format("SET pgmemtrace_faults.fail_at = {}", which));
  if (!armed)
    return armed.error();
  const auto run = (*session)->run(workload_.sql);
  if (!run)
    return run.error();
  ++result_.executed;
  const auto where =
      fmt::format("first when allocation {} of {} failed in {}", which, of, name_of(cache));
  if (run->end != RunOutcome::End::done)
    return lost(*run, where, kCrashAdvice);
  if (!expected(*run))
    findings_.add(Severity::warning, "sqlstate " + run->sqlstate,
                  fmt::format("an error that does not say that memory was short: {} ({})",
                              run->error, run->sqlstate),
                  where, kSessionAdvice);
  return judge_session(**session, where);
}

// What a pooler would hand to the next one: it has to work as if nothing had been.
Result<> OomCheck::judge_session(WorkloadSession &session, const std::string &where)
{
  const auto broken = [&](const RunOutcome &run, const char *what) -> Result<> {
    if (run.end != RunOutcome::End::done)
      return lost(run, fmt::format("{}, {}", what, where), kSessionAdvice);
    findings_.add(Severity::error, what, fmt::format("{} fails: {}", what, run.error), where,
                  kSessionAdvice);
    return Ok{};
  };
  for (const char *sql : {"ROLLBACK", "SELECT 1"}) {
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
  return run->failed() ? broken(*run, "the same workload in that session afterwards") : Ok{};
}

Result<CheckResult> OomCheck::run()
{
  if (auto done = run_plainly(); !done)
    return done.error();
  std::uint64_t counts[2]{};
  if (!again_) {
    result_.report = "the workload does not live without faults, so no allocation was failed";
  } else {
    for (const Cache cache : {Cache::cold, Cache::warm}) {
      const auto counted = count(cache);
      if (!counted)
        return counted.error();
      counts[static_cast<int>(cache)] = *counted;
    }
    if (counts[0] == 0)
      return Error{"count allocations: there were none", 0,
                   "is the server linked with glibc, and does it heed LD_PRELOAD?"};
    const auto warm = std::min(counts[1], workload_.iterations / 2);
    const auto cold = workload_.iterations - warm;
    for (const auto &[cache, most] : {std::pair{Cache::warm, warm}, std::pair{Cache::cold, cold}})
      if (auto done = fail_each(cache, counts[static_cast<int>(cache)], most); !done)
        return done.error();
    result_.report =
        fmt::format("{} of {} allocations failed in {}, {} of {} in {}", std::min(counts[0], cold),
                    counts[0], name_of(Cache::cold), warm, counts[1], name_of(Cache::warm));
    if (skipped_ > 0)
      result_.report +=
          fmt::format("; the last {} were not tried after {} crashes", skipped_, kMostCrashes);
    if (again_->failed() && !plain_->failed())
      result_.report += "; run again in one session the workload fails by itself, so whether it "
                        "can be run again was not asked (let it roll back what it does)";
  }
  result_.violations = findings_.take();
  return std::move(result_);
}

} // namespace

Result<CheckResult> check_oom(Copy &copy, const ProcessIdentity &whose, const Workload &workload)
{
  return OomCheck(copy, whose, workload).run();
}

} // namespace pgmemtrace
