// SPDX-License-Identifier: BSD-2-Clause
// cache_variables.cpp - the functions that give the variables away.
#include "attach/cache_variables.h"

#include <initializer_list>
#include <string_view>

#include "attach/static_variable.h"

namespace pgmemtrace {

CacheVariables find_cache_variables(const ElfFile &elf)
{
  const auto pointer = [&elf](std::string_view name, auto functions) {
    return find_variable(elf, name, functions, VariableUse::Kind::load, ElfFile::Storage::zeroed);
  };
  using Functions = std::initializer_list<std::string_view>;
  return {
      // Not CatCacheInvalidate(): from 14 it looks at catcache_in_progress_stack first.
      .catalog_caches =
          pointer("CacheHdr", Functions{"ResetCatalogCaches", "CatalogCacheFlushCatalog",
                                        "PrepareToInvalidateCacheTuple"}),
      .relation_cache =
          pointer("RelationIdCache", Functions{"RelationIdGetRelation", "RelationCacheInvalidate"}),
      .saved_plans = find_variable(elf, "saved_plan_list", {"SaveCachedPlan", "ResetPlanCache"},
                                   VariableUse::Kind::address, ElfFile::Storage::initialized),
      .prepared_statements = pointer(
          "prepared_queries", Functions{"FetchPreparedStatement", "DropAllPreparedStatements"}),
      .portals = pointer("PortalHashTable", Functions{"GetPortalByName"}),
  };
}

} // namespace pgmemtrace
