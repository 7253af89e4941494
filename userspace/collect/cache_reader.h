// SPDX-License-Identifier: BSD-2-Clause
// cache_reader.h - the catalog caches, relation cache, plans and portals of one process, read
// from outside.
//
// The process runs on while we read: a look that does not agree with itself is taken again.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>

#include "attach/cache_variables.h"
#include "attach/layout.h"
#include "attach/servers.h"
#include "collect/catalog_cache_walk.h"
#include "snapshot/cache_snapshot.h"
#include "util/foreign_memory.h"
#include "util/result.h"

namespace pgmemtrace {

// The layout of a server of this version ("16.2 (Debian ...)").  Lists hang in a hash table of
// their own since 16.3 (commit 14e991db89); a CatCache of 16.0 to 16.2 ends before those fields.
Layout cache_layout(Layout layout, std::string_view version);

class CacheReader {
public:
  explicit CacheReader(const ServerProcess &process, CacheReaderLimits limits = {});
  // For tests and fuzzing: memory that is not a process.
  CacheReader(Layout layout, CacheVariables variables, std::uint64_t load_bias,
              std::unique_ptr<ForeignMemory> memory, CacheReaderLimits limits = {});

  // Everything but who the process is and the names of indexes; names of catalogs that the
  // process has used.  Error: the process is gone (ESRCH), not readable (EPERM), has no catalog
  // caches, or what was found is none.
  Result<CacheSnapshot> read();

private:
  Layout layout_;
  CacheVariables variables_;
  std::uint64_t load_bias_;
  std::unique_ptr<ForeignMemory> memory_;
  CacheReaderLimits limits_;
};

} // namespace pgmemtrace
