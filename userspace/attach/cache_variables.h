// SPDX-License-Identifier: BSD-2-Clause
// cache_variables.h - where a stripped server keeps its caches.
//
// The variables are static: attach/static_variable.h finds them.
#pragma once

#include <cstdint>

#include "attach/elf_file.h"
#include "util/result.h"

namespace pgmemtrace {

// Link-time addresses, or why there is none.
struct CacheVariables {
  Result<std::uint64_t> catalog_caches;      // CatCacheHeader *CacheHdr
  Result<std::uint64_t> relation_cache;      // HTAB *RelationIdCache
  Result<std::uint64_t> saved_plans;         // dlist_head saved_plan_list
  Result<std::uint64_t> prepared_statements; // HTAB *prepared_queries
  Result<std::uint64_t> portals;             // HTAB *PortalHashTable
};

CacheVariables find_cache_variables(const ElfFile &elf);

} // namespace pgmemtrace
