// SPDX-License-Identifier: BSD-2-Clause
// allowance.h - what contexts may do, told by where they hang and what core knows of them.
//
// What the rules of a watched server and those of a test window have in common: whose a group is,
// and from how much on.
#pragma once

#include <optional>

#include "knowledge/known_contexts.h"
#include "rules/limits.h"
#include "snapshot/history.h"

namespace pgmemtrace {

// context_leak.  nullopt: relation caches, which are cache_growth's.
struct LeakAllowance {
  Scale scale;
  double contexts;
};
std::optional<LeakAllowance> leak_allowance(const ContextGroup &group, const KnownContext *known,
                                            const ContextLeakLimits &limits);

// ctx_bloat.  nullopt: the group is another rule's, or allowed to grow.
std::optional<Scale> bloat_allowance(const ProcessHistory &history, const ContextGroup &group,
                                     const ContextBloatLimits &limits);

// wrong_ctx_alloc: nothing belongs there from statement to statement once a session is warm.
bool lives_too_long(const ContextGroup &group);
// ... but what core itself keeps there, in bytes, for what it has in hash tables below: for locks,
// which come one by one as long as a transaction takes them, and for tables.
struct Beside {
  double locks = 0, tables = 0;
};
Beside held_beside(const ProcessHistory &history, std::size_t group);

} // namespace pgmemtrace
