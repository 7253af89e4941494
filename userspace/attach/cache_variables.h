// SPDX-License-Identifier: BSD-2-Clause
// cache_variables.h - where a stripped server keeps its caches.
//
// The variables are static: no symbol names them.  But exported functions use them, and what
// a function uses first is the same in all builds that were looked at (13 to 18, Debian's and
// Ubuntu's, with and without link-time optimisation).  So the functions are decoded, several
// must agree where there are several, and the reader checks what it finds there.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string_view>

#include "attach/elf_file.h"
#include "attach/instruction.h"
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

// The first variable of this storage that each of `functions` uses in this way: the same one in
// all of them that the binary exports, and at least one does.  `name` is for the error.
Result<std::uint64_t> find_variable(const ElfFile &elf, std::string_view name,
                                    std::initializer_list<std::string_view> functions,
                                    VariableUse::Kind use, ElfFile::Storage storage);

} // namespace pgmemtrace
