// SPDX-License-Identifier: BSD-2-Clause
// catalog_cache_walk.cpp - the caches one by one, then all their lists side by side.
#include "collect/catalog_cache_walk.h"

#include <algorithm>
#include <bit>
#include <utility>

#include <fmt/format.h>

#include "collect/context_header.h"

namespace pgmemtrace {

namespace {

// utils/catcache.h, the same in 13 to 18.
constexpr std::uint32_t kTupleMagic = 0x57261502;
constexpr std::uint32_t kListMagic = 0x52765103;

constexpr std::uint64_t kListNode = 16;         // dlist_head, dlist_node: prev, next
constexpr std::uint32_t kNext = 8;              // of a dlist_node
constexpr std::size_t kName = 255;              // NAMEDATALEN - 1 is 63; builds may raise it
constexpr std::int32_t kMaxCacheId = 4096;      // SysCacheSize is below 100
constexpr std::uint64_t kMaxTuple = 1ull << 30; // MaxAllocSize
constexpr std::size_t kSideBySide = 4096;       // lists that are followed at a time

// What palloc() takes for a request in CacheMemoryContext, an AllocSet of default sizes (aset.c).
std::uint64_t chunk_bytes(const Layout &layout, std::uint64_t request)
{
  constexpr std::uint64_t kChunkLimit = 8192;
  if (request > kChunkLimit)
    return layout.aset_block.size + layout.aset_chunk_header + (request + 7) / 8 * 8;
  return layout.aset_chunk_header + std::bit_ceil(std::max<std::uint64_t>(request, 8));
}

} // namespace

std::optional<std::vector<std::byte>> bytes_at(ForeignMemory &memory, std::uint64_t address,
                                               std::uint64_t size)
{
  std::vector<std::byte> bytes(size);
  if (!memory.read_bytes(address, bytes))
    return std::nullopt;
  return bytes;
}

Result<> CatalogCacheWalk::read(std::uint64_t variable, CacheSnapshot &snapshot)
{
  snapshot_ = &snapshot;
  const auto address = find_header(variable);
  if (!address)
    return address.error();
  const auto header = bytes_at(memory_, *address, layout_.catcache_header.size);
  if (!header) {
    nonsense("their header cannot be read");
    return Ok{};
  }
  const auto tuples = field<std::int32_t>(*header, layout_.catcache_header.ntup);
  snapshot.tuples = static_cast<std::uint64_t>(std::max(tuples, 0));
  auto node = field<std::uint64_t>(*header, layout_.catcache_header.caches);
  if (tuples < 0 || node == 0)
    nonsense("what should be their header is none");
  while (node != 0 && !doubt_.ends_look()) {
    if (found_.size() == limits_.caches)
      nonsense("their list has no end");
    else if (read_cache(node - layout_.catcache.next))
      node = field<std::uint64_t>(found_.back().bytes, layout_.catcache.next);
  }
  if (auto read = read_tuples(); !read)
    return read;
  if (!doubt_.ends_look())
    compare_counts(*address);
  return Ok{};
}

Result<std::uint64_t> CatalogCacheWalk::find_header(std::uint64_t variable)
{
  std::uint64_t header = 0;
  ForeignMemory::Piece pointer{variable, std::as_writable_bytes(std::span(&header, 1))};
  if (auto read = memory_.read(std::span(&pointer, 1)); !read)
    return read.error();
  if (pointer.ok && header == 0)
    return Error{
        fmt::format("read the catalog caches of process {}: it has none", memory_.pid()), 0,
        "a postmaster and its writers read no catalogs; look at a process with a database"};
  return header;
}

Result<> CatalogCacheWalk::read_tuples()
{
  for (std::span<Chain> left = chains_; !left.empty() && !doubt_.ends_look();) {
    const auto part = left.first(std::min(left.size(), kSideBySide));
    if (auto followed = follow(part); !followed)
      return followed;
    left = left.subspan(part.size());
  }
  for (CatalogCache &cache : snapshot_->caches)
    std::ranges::sort(cache.entries);
  return Ok{};
}

bool CatalogCacheWalk::read_cache(std::uint64_t address)
{
  const auto &at = layout_.catcache;
  auto bytes = bytes_at(memory_, address, at.size);
  if (!bytes) {
    nonsense("one of them cannot be read");
    return false;
  }
  const auto id = field<std::int32_t>(*bytes, at.id);
  const auto tuples = field<std::int32_t>(*bytes, at.ntup);
  const auto buckets = static_cast<std::uint32_t>(field<std::int32_t>(*bytes, at.nbuckets));
  if (id < 0 || id > kMaxCacheId || tuples < 0 || !std::has_single_bit(buckets)) {
    nonsense("what should be one of them is none");
    return false;
  }
  CatalogCache cache{.id = id,
                     .catalog_oid = field<std::uint32_t>(*bytes, at.reloid),
                     .index_oid = field<std::uint32_t>(*bytes, at.indexoid),
                     .tuples = static_cast<std::uint64_t>(tuples),
                     .buckets = buckets,
                     .bytes = chunk_bytes(layout_, buckets * kListNode)};
  // Set when the cache is first used (CatalogCacheInitializeCache).
  if (const auto name = field<std::uint64_t>(*bytes, at.relname); name != 0)
    cache.catalog = memory_.read_string(name, kName).value_or("");

  const std::size_t index = found_.size();
  const auto lists = field<std::int32_t>(*bytes, at.nlist);
  const auto list_buckets = field<std::int32_t>(*bytes, at.nlbuckets);
  const auto list_array = field<std::uint64_t>(*bytes, at.lbucket);
  found_.push_back({address, std::move(*bytes), static_cast<std::uint64_t>(std::max(lists, 0))});
  snapshot_->caches.push_back(std::move(cache));

  const auto bucket_array = field<std::uint64_t>(found_.back().bytes, at.bucket);
  if (!read_heads(index, bucket_array, buckets, false))
    return false;
  if (at.lbucket != kAbsent && list_array != 0) {
    snapshot_->caches.back().bytes +=
        chunk_bytes(layout_, static_cast<std::uint32_t>(list_buckets) * kListNode);
    return read_heads(index, list_array, static_cast<std::uint32_t>(list_buckets), true);
  }
  if (at.lists != kAbsent)
    add_chain(index, address + at.lists,
              field<std::uint64_t>(found_.back().bytes, at.lists + kNext), true);
  return true;
}

bool CatalogCacheWalk::read_heads(std::size_t cache, std::uint64_t array, std::uint64_t count,
                                  bool of_lists)
{
  if (count > limits_.buckets - buckets_) {
    doubt_.note(Doubt::Kind::too_large, fmt::format("more than {} hash buckets", limits_.buckets));
    return false;
  }
  buckets_ += count;
  const auto heads = bytes_at(memory_, array, count * kListNode);
  if (!heads) {
    doubt_.moved();
    return true;
  }
  for (std::uint64_t i = 0; i < count; ++i)
    add_chain(cache, array + i * kListNode,
              field<std::uint64_t>(*heads, static_cast<std::uint32_t>(i * kListNode) + kNext),
              of_lists);
  return true;
}

// An empty list is all zeros or points to itself (lib/ilist.h).
void CatalogCacheWalk::add_chain(std::size_t cache, std::uint64_t head, std::uint64_t first,
                                 bool of_lists)
{
  if (first != 0 && first != head)
    chains_.push_back({head, first, head, cache, of_lists});
}

// All chains advance side by side: a system call per link of the longest one, not per entry.
Result<> CatalogCacheWalk::follow(std::span<Chain> chains)
{
  const std::size_t size = std::max(layout_.catctup.size, layout_.catclist.size);
  std::vector<ForeignMemory::Piece> pieces;
  std::vector<std::byte> records;
  while (!chains.empty() && !doubt_.ends_look()) {
    records.resize(chains.size() * size);
    pieces.clear();
    for (std::size_t i = 0; i < chains.size(); ++i) {
      const Chain &chain = chains[i];
      const bool list = chain.of_lists;
      pieces.push_back(
          {chain.at - (list ? layout_.catclist.cache_elem : layout_.catctup.cache_elem),
           std::span(records).subspan(i * size,
                                      list ? layout_.catclist.size : layout_.catctup.size)});
    }
    if (auto read = memory_.read(pieces); !read)
      return read;
    std::size_t left = 0;
    for (std::size_t i = 0; i < chains.size() && !doubt_.ends_look(); ++i) {
      if (!pieces[i].ok)
        doubt_.moved();
      else if (take(chains[i], pieces[i].into))
        chains[left++] = chains[i];
    }
    chains = chains.first(left);
  }
  return Ok{};
}

// Counts one entry; true if its chain goes on.
bool CatalogCacheWalk::take(Chain &chain, std::span<const std::byte> record)
{
  const auto &layout = layout_;
  const std::uint32_t node =
      chain.of_lists ? layout.catclist.cache_elem : layout.catctup.cache_elem;
  const auto magic =
      field<std::uint32_t>(record, chain.of_lists ? layout.catclist.magic : layout.catctup.magic);
  const auto owner = field<std::uint64_t>(record, chain.of_lists ? layout.catclist.my_cache
                                                                 : layout.catctup.my_cache);
  if (magic != (chain.of_lists ? kListMagic : kTupleMagic) ||
      owner != found_[chain.cache].address ||
      field<std::uint64_t>(record, node) != chain.previous) {
    doubt_.moved();
    return false;
  }
  if (++entries_ > limits_.entries) {
    doubt_.note(Doubt::Kind::too_large,
                fmt::format("more than {} cached tuples and lists", limits_.entries));
    return false;
  }
  if (chain.of_lists) {
    const auto members = field<std::int32_t>(record, layout.catclist.n_members);
    CatalogCache &cache = snapshot_->caches[chain.cache];
    ++cache.lists;
    cache.bytes += chunk_bytes(layout, layout.catclist.size +
                                           8 * static_cast<std::uint64_t>(std::max(members, 0)));
  } else {
    take_tuple(chain, record);
  }
  chain.previous = std::exchange(chain.at, field<std::uint64_t>(record, node + kNext));
  return chain.at != chain.head;
}

void CatalogCacheWalk::take_tuple(const Chain &chain, std::span<const std::byte> record)
{
  constexpr std::uint64_t kAlignment = 8; // the copied tuple is aligned within its chunk
  const auto &at = layout_.catctup;
  CatalogCache &cache = snapshot_->caches[chain.cache];
  cache.entries.push_back({chain.at - at.cache_elem, field<std::uint32_t>(record, at.hash_value)});
  if (field<std::uint8_t>(record, at.dead) != 0)
    ++cache.dead;
  std::uint64_t request = at.size;
  if (field<std::uint8_t>(record, at.negative) != 0) { // has keys in place of a tuple
    ++cache.negative;
  } else {
    const std::uint64_t length = field<std::uint32_t>(record, at.tuple_length);
    if (length > kMaxTuple)
      doubt_.moved();
    else
      request += kAlignment + length;
  }
  cache.bytes += chunk_bytes(layout_, request);
}

void CatalogCacheWalk::compare_counts(std::uint64_t header_address)
{
  std::uint64_t sum = 0;
  for (std::size_t i = 0; i < found_.size(); ++i) {
    const CatalogCache &cache = snapshot_->caches[i];
    sum += cache.tuples;
    if (cache.entries.size() != cache.tuples ||
        (layout_.catcache.lbucket != kAbsent && cache.lists != found_[i].lists_expected))
      doubt_.moved();
  }
  const auto now = memory_.read_value<std::int32_t>(header_address + layout_.catcache_header.ntup);
  if (sum != snapshot_->tuples || !now || *now != static_cast<std::int64_t>(snapshot_->tuples))
    doubt_.moved();
}

} // namespace pgmemtrace
