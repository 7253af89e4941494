// SPDX-License-Identifier: BSD-2-Clause
// catalog_cache_walk.h - one pass over all catalog caches of a process.
//
//   CacheHdr --> CatCacheHeader --> CatCache --> CatCache --> ...     one per catalog and key
//                (sum of tuples)       |-- buckets --> CatCTup --> CatCTup ...
//                                      `-- lists ----> CatCList ...
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "attach/layout.h"
#include "snapshot/cache_snapshot.h"
#include "util/foreign_memory.h"
#include "util/result.h"

namespace pgmemtrace {

struct CacheReaderLimits {
  int looks = 10; // until one is consistent
  // Before the second look, and twice as long before each look after it: half a second in all.
  // A backend that changes its caches all the time still waits now and then, for its client,
  // a lock or a disk.
  std::chrono::milliseconds pause{1};
  std::size_t caches = 512;
  std::size_t buckets = 1 << 20; // of all caches
  std::size_t entries = 1 << 20; // of all caches, and of saved plans
};

// Why what was read is not to be believed.  The worst reason counts.
class Doubt {
public:
  enum class Kind {
    none,
    moved,     // it changed while it was read: about right; look again
    too_large, // beyond a limit: a part only
    nonsense,  // it is not what it should be
  };
  explicit operator bool() const { return kind_ != Kind::none; }
  Kind kind() const { return kind_; }
  bool ends_look() const { return kind_ > Kind::moved; }
  const std::string &why() const { return why_; }

  void moved() { note(Kind::moved, "the process did not hold still"); }
  void note(Kind kind, std::string why)
  {
    if (kind <= kind_)
      return;
    kind_ = kind;
    why_ = std::move(why);
  }

private:
  Kind kind_ = Kind::none;
  std::string why_;
};

std::optional<std::vector<std::byte>> bytes_at(ForeignMemory &memory, std::uint64_t address,
                                               std::uint64_t size);

// Every entry is checked (magic number, its cache, its predecessor), the entries that were seen
// must be as many as their caches count, and the caches' counts must add up to the header's.
// Where that does not hold the walk goes on with the rest: the busiest processes never hold still.
class CatalogCacheWalk {
public:
  CatalogCacheWalk(const Layout &layout, ForeignMemory &memory, const CacheReaderLimits &limits,
                   Doubt &doubt)
      : layout_(layout), memory_(memory), limits_(limits), doubt_(doubt)
  {
  }

  // Fills in `caches` and `tuples`.  `variable`: address of CacheHdr.  Error: the process cannot
  // be read at all, or has no catalog caches.
  Result<> read(std::uint64_t variable, CacheSnapshot &snapshot);

private:
  // A CatCache as it was read; its place is that in the snapshot.
  struct Found {
    std::uint64_t address = 0;
    std::vector<std::byte> bytes;
    std::uint64_t lists_expected = 0; // from 16.3
  };
  // One list of tuples or lists of a cache: `at` is its next node.
  struct Chain {
    std::uint64_t previous, at, head;
    std::size_t cache;
    bool of_lists;
  };

  void nonsense(const char *why) { doubt_.note(Doubt::Kind::nonsense, why); }
  Result<std::uint64_t> find_header(std::uint64_t variable);
  Result<> read_tuples();
  bool read_cache(std::uint64_t address);
  bool read_heads(std::size_t cache, std::uint64_t array, std::uint64_t count, bool of_lists);
  void add_chain(std::size_t cache, std::uint64_t head, std::uint64_t first, bool of_lists);
  Result<> follow(std::span<Chain> chains);
  bool take(Chain &chain, std::span<const std::byte> record);
  void take_tuple(const Chain &chain, std::span<const std::byte> record);
  void compare_counts(std::uint64_t header_address);

  const Layout &layout_;
  ForeignMemory &memory_;
  const CacheReaderLimits &limits_;
  Doubt &doubt_;
  CacheSnapshot *snapshot_ = nullptr; // of the read() that runs
  std::vector<Found> found_;
  std::vector<Chain> chains_;
  std::size_t buckets_ = 0, entries_ = 0;
};

} // namespace pgmemtrace
