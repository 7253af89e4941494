// SPDX-License-Identifier: BSD-2-Clause
// cache_snapshot.h - what one backend keeps of the catalogs and of its plans, as plain values.
#pragma once

#include <compare>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "snapshot/snapshot.h"

namespace pgmemtrace {

// One tuple of a catalog cache.  An entry that was freed and made again at its old address is
// taken for the same.
struct CacheEntryId {
  std::uint64_t address = 0;
  std::uint32_t hash = 0;

  auto operator<=>(const CacheEntryId &) const = default;
};

// One CatCache (src/include/utils/catcache.h).
struct CatalogCache {
  std::int32_t id = 0; // SysCacheIdentifier, whose numbers differ between majors
  std::uint32_t catalog_oid = 0, index_oid = 0;
  std::string catalog, index; // names; empty: unknown
  std::uint64_t tuples = 0;   // as cc_ntup counts: negative and dead ones too
  std::uint64_t negative = 0; // "there is no such row"
  std::uint64_t dead = 0;     // invalidated, and still in use
  std::uint64_t lists = 0;    // results of searches by a part of the key
  std::uint64_t buckets = 0;  // of tuples
  std::uint64_t bytes = 0;    // of tuples, lists and buckets, without the keys of negative ones
  std::vector<CacheEntryId> entries; // sorted
};

struct SavedPlans {
  std::uint64_t plans = 0;   // CachedPlanSource: prepared statements, SPI plans of PL functions
  std::uint64_t generic = 0; // that hold a generic plan as well
  std::uint64_t invalid = 0; // to be made again when next used
};

struct CacheSnapshot {
  ProcessIdentity process;
  Clock::time_point taken_at;
  std::vector<CatalogCache> caches;
  std::uint64_t tuples = 0; // ch_ntup: the server's own sum
  // nullopt: could not be found in this build, `unseen` says why.
  std::optional<std::uint64_t> relations; // in the relation cache: tables, indexes, ...
  std::optional<SavedPlans> plans;
  std::optional<std::uint64_t> prepared_statements;
  std::optional<std::uint64_t> portals;
  std::vector<std::string> unseen;
  // False: the process did not hold still, or passes a bound: the numbers are not exact.
  bool complete = true;
  std::string incomplete_reason;
};

// What happened to one cache between two looks.  Entries that came and went between them are
// in neither.
struct CacheChange {
  std::int64_t tuples = 0;
  std::int64_t bytes = 0;
  std::uint64_t added = 0, removed = 0;
};

// By index of newer.caches.
std::vector<CacheChange> changes_between(const CacheSnapshot &older, const CacheSnapshot &newer);

} // namespace pgmemtrace
