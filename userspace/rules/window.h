// SPDX-License-Identifier: BSD-2-Clause
// window.h - what a test window left behind: two exact snapshots of one process, compared; and two
// looks at the dynamic shared memory of its server.
//
// The rules of a watched server need a trend, since nobody knows what a session is about.  Who
// opens a window says "what I do in here leaves nothing", so one context that stays is a finding.
// What lives no longer than a statement is not looked at: the statements that open and close the
// window have such contexts themselves.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "rules/limits.h"
#include "rules/violation.h"
#include "snapshot/dsm.h"
#include "snapshot/snapshot.h"

namespace pgmemtrace {

struct WindowLimits {
  std::string pattern;                       // LIKE, on the context's name; empty: all
  std::vector<std::string> allowed_contexts; // LIKE patterns
  std::uint64_t min_leak_bytes = 8 * kKiB;   // contexts that stay; memory in the wrong context
  std::uint64_t bloat_min_bytes = 8 * kKiB;  // growth of contexts that were there
  bool within_transaction = false; // what lives as long as the transaction should not stay either
  bool track_dsm = true;
};

// Is this context a window's business?
bool looks_at(const WindowLimits &limits, const std::string &context);

// `after`: its activity.growth and block_growth are of the time since `before`.  By path.
std::vector<Violation> judge_window(const ProcessSnapshot &before, const ProcessSnapshot &after,
                                    const WindowLimits &limits, const RuleLimits &rules,
                                    std::uint64_t core_bytes = 0);

// What core took in TopMemoryContext meanwhile, as `core_bytes`: with its first parallel query a
// session gets an area to share with its workers, which it keeps.
std::uint64_t core_bytes_of(const ProcessId &process, const DsmSnapshot &before,
                            const DsmSnapshot &after);

// What the window left of dynamic shared memory: segments that were not there `before` and that the
// process has for longer than the statement that made them, or made and pinned.  Pieces of areas
// and what the DSM registry names are looked after; core's own for parallel query, too.
// One violation for each place in the code that made some.
std::vector<Violation> judge_window_dsm(const ProcessIdentity &process, const DsmSnapshot &before,
                                        const DsmSnapshot &after);

} // namespace pgmemtrace
