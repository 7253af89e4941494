// SPDX-License-Identifier: BSD-2-Clause
#include "snapshot/cache_snapshot.h"

#include <algorithm>

namespace pgmemtrace {

namespace {

std::uint64_t only_in(const std::vector<CacheEntryId> &these,
                      const std::vector<CacheEntryId> &those)
{
  return static_cast<std::uint64_t>(std::ranges::count_if(
      these, [&](const CacheEntryId &entry) { return !std::ranges::binary_search(those, entry); }));
}

std::int64_t difference(std::uint64_t older, std::uint64_t newer)
{
  return static_cast<std::int64_t>(newer - older);
}

} // namespace

std::vector<CacheChange> changes_between(const CacheSnapshot &older, const CacheSnapshot &newer)
{
  static const CatalogCache kEmpty;
  std::vector<CacheChange> changes;
  for (const CatalogCache &cache : newer.caches) {
    const auto found = std::ranges::find(older.caches, cache.id, &CatalogCache::id);
    const CatalogCache &before = found == older.caches.end() ? kEmpty : *found;
    changes.push_back({.tuples = difference(before.tuples, cache.tuples),
                       .bytes = difference(before.bytes, cache.bytes),
                       .added = only_in(cache.entries, before.entries),
                       .removed = only_in(before.entries, cache.entries)});
  }
  return changes;
}

} // namespace pgmemtrace
