// SPDX-License-Identifier: BSD-2-Clause
#include "rules/allowance.h"

#include <algorithm>

#include "rules/trend.h"

namespace pgmemtrace {
namespace {

// LOCALLOCK.lockOwners is an array in TopMemoryContext, about twice the size of the hash
// table's entry (PostgreSQL lock.c, LockAcquireExtended).
constexpr double kTopBytesPerLockByte = 3;
// Up to 14: the tables that a session touches within half a second have 120 bytes each in arrays
// of 100 in TopMemoryContext, kept and used again, and 32 in a hash table that each report drops
// (pgstat.c, TabStatusArray).
constexpr double kTopBytesPerTableByte = 5;

bool is_cache(const KnownContext &known)
{
  return known.family != Family::none || known.lifetime == Lifetime::session_cache ||
         known.lifetime == Lifetime::cache_entry;
}

// Where PL functions keep variables and fetched results.
bool holds_variables(std::string_view name)
{
  return name.starts_with("expanded ") || name.starts_with("SPI ") || name.starts_with("PL");
}

} // namespace

std::optional<LeakAllowance> leak_allowance(const ContextGroup &group, const KnownContext *known,
                                            const ContextLeakLimits &limits)
{
  switch (group.scope) {
  case Scope::session:
    if (known != nullptr && known->family == Family::relations)
      return std::nullopt;
    if (known != nullptr &&
        (known->family != Family::none || known->lifetime == Lifetime::cache_entry))
      return LeakAllowance{limits.cached, limits.cached_contexts};
    return LeakAllowance{limits.session, limits.session_contexts};
  case Scope::transaction: return LeakAllowance{limits.transaction, limits.transaction_contexts};
  case Scope::portal: return LeakAllowance{limits.portal, limits.portal_contexts};
  case Scope::statement: break;
  }
  return LeakAllowance{limits.statement, limits.statement_contexts};
}

std::optional<Scale> bloat_allowance(const ProcessHistory &history, const ContextGroup &group,
                                     const ContextBloatLimits &limits)
{
  const KnownContext *known = lookup(group.name, history.process().major);
  const bool bounded = known != nullptr &&
                       (known->growth == Growth::work_mem || known->growth == Growth::maintenance);
  switch (group.scope) {
  case Scope::session:
    if (group.name == "ErrorContext" || group.name == "Postmaster" ||
        group.name == "TransactionAbortContext")
      return std::nullopt;
    if (bounded)
      return limits.bounded;
    return known != nullptr && is_cache(*known) ? std::nullopt : std::optional{limits.session};
  case Scope::transaction:
    return known != nullptr && known->growth == Growth::maintenance
               ? std::nullopt
               : std::optional{limits.transaction};
  case Scope::portal:
  case Scope::statement: break;
  }
  if (bounded)
    return std::nullopt;
  Scale scale = holds_variables(group.name) ? limits.variables : limits.statement;
  scale.info = std::max(scale.info, holds_variables(group.name) ? std::uint64_t{0}
                                                                : 2 * history.work_mem_bytes());
  return scale;
}

bool lives_too_long(const ContextGroup &group)
{
  return group.parent < 0 || group.name == "ErrorContext" || group.name == "Postmaster" ||
         group.name == "TransactionAbortContext";
}

Beside held_beside(const ProcessHistory &history, std::size_t group)
{
  Beside held;
  if (history.groups()[group].parent >= 0)
    return held;
  for (const ContextGroup &g : history.groups()) {
    if (g.parent != 0)
      continue;
    const auto used = samples_of(g, Measure::used);
    if (g.name == "LOCALLOCK hash")
      held.locks += kTopBytesPerLockByte * floor_growth(used);
    else if (g.name == "pgstat TabStatusArray lookup hash table" && !used.empty())
      held.tables +=
          kTopBytesPerTableByte * std::ranges::max_element(used, {}, &TrendSample::value)->value;
  }
  return held;
}

} // namespace pgmemtrace
