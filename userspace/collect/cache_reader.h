// SPDX-License-Identifier: BSD-2-Clause
// cache_reader.h - the catalog caches, relation cache, plans and portals of one process, read
// from outside.
//
//   CacheHdr --> CatCacheHeader --> CatCache --> CatCache --> ...     one per catalog and key
//                (sum of tuples)       |-- buckets --> CatCTup --> CatCTup ...
//                                      `-- lists ----> CatCList ...
//
// The process runs on while we read.  Every entry is checked (magic number, its cache, its
// predecessor), the entries that were seen must be as many as the caches count, and the caches'
// counts must add up to the header's: a look that fails is taken again.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "attach/cache_variables.h"
#include "attach/layout.h"
#include "attach/servers.h"
#include "snapshot/cache_snapshot.h"
#include "util/foreign_memory.h"
#include "util/result.h"

namespace pgmemtrace {

struct CacheReaderLimits {
  int looks = 10; // until one is consistent
  std::size_t caches = 512;
  std::size_t buckets = 1 << 20; // of all caches
  std::size_t entries = 1 << 20; // of all caches, and of saved plans
};

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
