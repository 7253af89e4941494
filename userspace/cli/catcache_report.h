// SPDX-License-Identifier: BSD-2-Clause
// catcache_report.h - the caches of one process for people, and as JSON.
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "snapshot/cache_snapshot.h"

namespace pgmemtrace {

// Two looks: what changed between them, by index of the newer one's caches.
struct CacheGrowth {
  std::chrono::duration<double> interval{};
  std::vector<CacheChange> changes;
};

// Biggest cache first; empty ones are counted only.  `growth`: nullptr after one look.
std::string print_caches(const CacheSnapshot &snapshot, const CacheGrowth *growth);

// One object on one line; pgmemtrace(8) describes it.
std::string json_of_caches(const CacheSnapshot &snapshot, const CacheGrowth *growth);

} // namespace pgmemtrace
