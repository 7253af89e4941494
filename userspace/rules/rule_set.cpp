// SPDX-License-Identifier: BSD-2-Clause
#include "rules/rule_set.h"

#include <algorithm>
#include <set>
#include <utility>

#include "rules/fold.h"

namespace pgmemtrace {
namespace {

Violation cleared(Violation violation, Clock::time_point time)
{
  violation.state = ViolationState::cleared;
  violation.time = time;
  return violation;
}

// Worth telling again: it grew by half, it became more severe, or now it is known who did it.
bool worsened(const Violation &before, const Violation &now)
{
  return now.severity > before.severity || (now.stack_id != 0 && before.stack_id == 0) ||
         now.delta_bytes - before.delta_bytes > before.delta_bytes / 2;
}

// From what was active to what was found now.  `holds`: is one that was not found still true?
template <typename F>
void compare(std::map<ViolationKey, Violation> &active, std::vector<Violation> found,
             Clock::time_point now, F holds, std::vector<Violation> &changes)
{
  std::set<ViolationKey> seen;
  for (Violation &violation : found) {
    violation.time = now;
    const ViolationKey key = key_of(violation);
    seen.insert(key);
    const auto [it, raised] = active.try_emplace(key, violation);
    Violation &known = it->second;
    if (raised) {
      changes.push_back(known);
    } else if (worsened(known, violation)) {
      violation.state = ViolationState::updated;
      violation.severity = std::max(violation.severity, known.severity);
      violation.before_bytes = std::min(violation.before_bytes, known.before_bytes);
      violation.delta_bytes = std::max(violation.delta_bytes, known.delta_bytes);
      known = violation;
      changes.push_back(known);
    }
  }
  for (auto it = active.begin(); it != active.end();) {
    if (seen.contains(it->first) || holds(it->second)) {
      ++it;
      continue;
    }
    changes.push_back(cleared(std::move(it->second), now));
    it = active.erase(it);
  }
}

// All of them, for good.
void clear(std::map<ViolationKey, Violation> &active, Clock::time_point now,
           std::vector<Violation> &changes)
{
  for (auto &[key, violation] : active)
    changes.push_back(cleared(std::move(violation), now));
  active.clear();
}

} // namespace

RuleSet::RuleSet(RuleOptions options, HistoryLimits history_limits)
    : options_(std::move(options)), history_limits_(history_limits)
{
  const RuleLimits &limits = options_.limits;
  rules_.push_back(make_context_leak(limits.context_leak));
  rules_.push_back(make_wrong_ctx_alloc(limits.wrong_ctx_alloc));
  rules_.push_back(make_ctx_bloat(limits.ctx_bloat));
  rules_.push_back(make_cache_growth(limits.cache_growth));
  rules_.push_back(make_peak(limits.peak));
  rules_.push_back(make_unattributed_growth(limits.unattributed_growth));
  dsm_leak_ = make_dsm_leak(limits.dsm_leak);
}

std::vector<Violation> RuleSet::apply(const Snapshot &snapshot)
{
  std::vector<Violation> changes;
  std::set<ProcessId> alive;
  for (const auto &process : snapshot.processes) {
    alive.insert(process->process.id);
    for (Violation &change : apply(*process))
      changes.push_back(std::move(change));
  }
  std::vector<ProcessId> gone;
  for (const auto &[id, watched] : processes_)
    if (!alive.contains(id))
      gone.push_back(id);
  for (const ProcessId &id : gone)
    for (Violation &change : forget(id, snapshot.taken_at))
      changes.push_back(std::move(change));

  std::set<ProcessId> postmasters;
  for (const ServerStatus &server : snapshot.servers)
    if (server.dsm) {
      postmasters.insert(server.dsm->postmaster.id);
      apply(*server.dsm, changes);
    }
  for (auto it = servers_.begin(); it != servers_.end();) {
    if (postmasters.contains(it->first)) {
      ++it;
      continue;
    }
    clear(it->second.active, snapshot.taken_at, changes);
    it = servers_.erase(it);
  }
  return changes;
}

void RuleSet::apply(const DsmSnapshot &dsm, std::vector<Violation> &changes)
{
  WatchedServer &server = servers_[dsm.postmaster.id];
  const std::uint64_t before = server.dsm.looks();
  server.dsm.push(dsm);
  if (server.dsm.looks() == before)
    return;
  auto found = dsm_leak_->check(server.dsm);
  std::erase_if(found, [this](const Violation &violation) { return !wanted(violation); });
  compare(
      server.active, std::move(found), server.dsm.taken_at(),
      [&](const Violation &violation) { return dsm_leak_->holds(server.dsm, violation); }, changes);
}

std::vector<Violation> RuleSet::apply(const ProcessSnapshot &process)
{
  std::vector<Violation> changes;
  Watched &watched = processes_.try_emplace(process.process.id, history_limits_).first->second;
  const std::uint64_t before = watched.history.snapshots();
  watched.history.push(process);
  if (watched.history.snapshots() == before)
    return changes;
  std::vector<Violation> found;
  for (Finding &finding : find(watched))
    found.push_back(std::move(finding.violation));
  compare(
      watched.active, std::move(found), watched.history.taken_at(),
      [&](const Violation &violation) {
        const auto rule =
            std::ranges::find(rules_, violation.rule, [](const auto &r) { return r->name(); });
        return rule != rules_.end() && (*rule)->holds(watched.history, violation);
      },
      changes);
  return changes;
}

std::vector<Violation> RuleSet::forget(const ProcessId &process, Clock::time_point time)
{
  std::vector<Violation> changes;
  const auto it = processes_.find(process);
  if (it == processes_.end())
    return changes;
  clear(it->second.active, time, changes);
  processes_.erase(it);
  return changes;
}

std::vector<Violation> RuleSet::active() const
{
  std::vector<Violation> all;
  for (const auto &[id, watched] : processes_)
    for (const auto &[key, violation] : watched.active)
      all.push_back(violation);
  for (const auto &[id, server] : servers_)
    for (const auto &[key, violation] : server.active)
      all.push_back(violation);
  return all;
}

const ProcessHistory *RuleSet::history(const ProcessId &process) const
{
  const auto it = processes_.find(process);
  return it == processes_.end() ? nullptr : &it->second.history;
}

std::vector<Finding> RuleSet::find(const Watched &watched) const
{
  const ProcessHistory &history = watched.history;
  std::vector<Finding> findings;
  for (const auto &rule : rules_)
    for (Finding &finding : rule->check(history))
      findings.push_back(std::move(finding));
  // Folded before it is filtered: the part of an allowed fault is allowed.
  std::vector<Violation> active;
  for (const auto &[key, violation] : watched.active)
    active.push_back(violation);
  findings = fold(history, std::move(findings), active);
  std::erase_if(findings, [this](const Finding &f) { return !wanted(f.violation); });
  return findings;
}

bool RuleSet::wanted(const Violation &violation) const
{
  const auto named = [&](const std::vector<std::string> &names) {
    return std::ranges::find(names, violation.rule) != names.end();
  };
  if ((!options_.only.empty() && !named(options_.only)) || named(options_.disabled))
    return false;
  return violation.severity >= options_.min_severity &&
         std::ranges::none_of(options_.allowed_contexts, [&](const std::string &pattern) {
           return like(violation.context, pattern);
         });
}

} // namespace pgmemtrace
