// SPDX-License-Identifier: BSD-2-Clause
// cache_reader.cpp - one look at the caches after the other, until one agrees with itself.
#include "collect/cache_reader.h"

#include <algorithm>
#include <bit>
#include <cerrno>
#include <charconv>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "collect/context_header.h"

namespace pgmemtrace {

namespace {

using Bytes = std::vector<std::byte>;

// utils/catcache.h and utils/plancache.h, the same in 13 to 18.
constexpr std::uint32_t kTupleMagic = 0x57261502;
constexpr std::uint32_t kListMagic = 0x52765103;
constexpr std::uint32_t kPlanMagic = 195726186;

constexpr std::uint64_t kListNode = 16;         // dlist_head, dlist_node: prev, next
constexpr std::uint32_t kNext = 8;              // of a dlist_node
constexpr std::size_t kName = 255;              // NAMEDATALEN - 1 is 63; builds may raise it
constexpr std::int32_t kMaxCacheId = 4096;      // SysCacheSize is below 100
constexpr std::uint64_t kMaxTuple = 1ull << 30; // MaxAllocSize
constexpr std::size_t kSideBySide = 4096;       // lists that are followed at a time
constexpr const char *kMoved = "the process did not hold still";

// What palloc() takes for a request in CacheMemoryContext, an AllocSet of default sizes (aset.c).
std::uint64_t chunk_bytes(const Layout &layout, std::uint64_t request)
{
  constexpr std::uint64_t kChunkLimit = 8192;
  if (request > kChunkLimit)
    return layout.aset_block.size + layout.aset_chunk_header + (request + 7) / 8 * 8;
  return layout.aset_chunk_header + std::bit_ceil(std::max<std::uint64_t>(request, 8));
}

// A CatCache as it was read, and its place in the snapshot.
struct FoundCache {
  std::uint64_t address = 0;
  Bytes bytes;
  std::uint64_t lists_expected = 0; // from 16.3
};

// One list of tuples or lists of a cache: `at` is its next node.
struct Chain {
  std::uint64_t previous, at, head;
  std::size_t cache;
  bool of_lists;
};

// One look.  An Error is final: the process cannot be read at all, or has nothing to be read.
class Look {
public:
  Look(const Layout &layout, ForeignMemory &memory, const CacheReaderLimits &limits)
      : layout_(layout), memory_(memory), limits_(limits)
  {
  }

  Result<> take_all(const CacheVariables &variables, std::uint64_t load_bias);

  CacheSnapshot snapshot;
  std::string doubt;         // the first reason not to believe this look; empty: there is none
  bool nonsense = false;     // ... what was found is no cache
  bool beyond_limit = false; // ... another look would not help

private:
  void note(std::string_view why)
  {
    if (doubt.empty())
      doubt = why;
  }
  void note_nonsense(std::string_view why)
  {
    note(why);
    nonsense = true;
  }
  void note_limit(const std::string &why)
  {
    note(why);
    beyond_limit = true;
  }
  Result<> read_catalog_caches(std::uint64_t variable);
  Result<> read_tuples();
  void read_plans(std::uint64_t list_address);
  std::optional<std::uint64_t> entries_of(const Result<std::uint64_t> &variable,
                                          std::uint64_t load_bias, std::string_view table_name);
  std::optional<Bytes> bytes_at(std::uint64_t address, std::uint64_t size);
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
  std::vector<FoundCache> found_;
  std::vector<Chain> chains_;
  std::size_t buckets_ = 0, entries_ = 0;
};

std::optional<Bytes> Look::bytes_at(std::uint64_t address, std::uint64_t size)
{
  Bytes bytes(size);
  if (!memory_.read_bytes(address, bytes))
    return std::nullopt;
  return bytes;
}

Result<> Look::take_all(const CacheVariables &variables, std::uint64_t load_bias)
{
  if (auto read = read_catalog_caches(load_bias + *variables.catalog_caches); !read)
    return read;
  snapshot.relations = entries_of(variables.relation_cache, load_bias, "Relcache by OID");
  snapshot.prepared_statements =
      entries_of(variables.prepared_statements, load_bias, "Prepared Queries");
  snapshot.portals = entries_of(variables.portals, load_bias, "Portal hash");
  if (variables.saved_plans)
    read_plans(load_bias + *variables.saved_plans);
  else
    snapshot.unseen.push_back(to_string(variables.saved_plans.error()));
  return Ok{};
}

Result<> Look::read_catalog_caches(std::uint64_t variable)
{
  std::uint64_t header_address = 0;
  ForeignMemory::Piece pointer{variable, std::as_writable_bytes(std::span(&header_address, 1))};
  if (auto read = memory_.read(std::span(&pointer, 1)); !read)
    return read;
  if (pointer.ok && header_address == 0)
    return Error{
        fmt::format("read the catalog caches of process {}: it has none", memory_.pid()), 0,
        "a postmaster and its writers read no catalogs; look at a process with a database"};
  const auto header = bytes_at(header_address, layout_.catcache_header.size);
  if (!header) {
    note_nonsense("their header cannot be read");
    return Ok{};
  }
  const auto tuples = field<std::int32_t>(*header, layout_.catcache_header.ntup);
  snapshot.tuples = static_cast<std::uint64_t>(std::max(tuples, 0));
  auto node = field<std::uint64_t>(*header, layout_.catcache_header.caches);
  if (tuples < 0 || node == 0)
    note_nonsense("what should be their header is none");
  while (node != 0 && doubt.empty()) {
    if (found_.size() == limits_.caches)
      note_nonsense("their list has no end");
    else if (read_cache(node - layout_.catcache.next))
      node = field<std::uint64_t>(found_.back().bytes, layout_.catcache.next);
  }
  if (auto read = read_tuples(); !read)
    return read;
  if (doubt.empty())
    compare_counts(header_address);
  return Ok{};
}

Result<> Look::read_tuples()
{
  for (std::span<Chain> left = chains_; !left.empty() && doubt.empty();) {
    const auto part = left.first(std::min(left.size(), kSideBySide));
    if (auto followed = follow(part); !followed)
      return followed;
    left = left.subspan(part.size());
  }
  for (CatalogCache &cache : snapshot.caches)
    std::ranges::sort(cache.entries);
  return Ok{};
}

bool Look::read_cache(std::uint64_t address)
{
  const auto &at = layout_.catcache;
  auto bytes = bytes_at(address, at.size);
  if (!bytes) {
    note_nonsense("one of them cannot be read");
    return false;
  }
  const auto id = field<std::int32_t>(*bytes, at.id);
  const auto tuples = field<std::int32_t>(*bytes, at.ntup);
  const auto buckets = static_cast<std::uint32_t>(field<std::int32_t>(*bytes, at.nbuckets));
  if (id < 0 || id > kMaxCacheId || tuples < 0 || !std::has_single_bit(buckets)) {
    note_nonsense("what should be one of them is none");
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
  snapshot.caches.push_back(std::move(cache));

  const auto bucket_array = field<std::uint64_t>(found_.back().bytes, at.bucket);
  if (!read_heads(index, bucket_array, buckets, false))
    return false;
  if (at.lbucket != kAbsent && list_array != 0) {
    snapshot.caches.back().bytes +=
        chunk_bytes(layout_, static_cast<std::uint32_t>(list_buckets) * kListNode);
    return read_heads(index, list_array, static_cast<std::uint32_t>(list_buckets), true);
  }
  if (at.lists != kAbsent)
    add_chain(index, address + at.lists,
              field<std::uint64_t>(found_.back().bytes, at.lists + kNext), true);
  return true;
}

bool Look::read_heads(std::size_t cache, std::uint64_t array, std::uint64_t count, bool of_lists)
{
  if (count > limits_.buckets - buckets_) {
    note_limit(fmt::format("more than {} hash buckets", limits_.buckets));
    return false;
  }
  buckets_ += count;
  const auto heads = bytes_at(array, count * kListNode);
  if (!heads) {
    note(kMoved);
    return false;
  }
  for (std::uint64_t i = 0; i < count; ++i)
    add_chain(cache, array + i * kListNode,
              field<std::uint64_t>(*heads, static_cast<std::uint32_t>(i * kListNode) + kNext),
              of_lists);
  return true;
}

// An empty list is all zeros or points to itself (lib/ilist.h).
void Look::add_chain(std::size_t cache, std::uint64_t head, std::uint64_t first, bool of_lists)
{
  if (first != 0 && first != head)
    chains_.push_back({head, first, head, cache, of_lists});
}

// All chains advance side by side: a system call per link of the longest one, not per entry.
Result<> Look::follow(std::span<Chain> chains)
{
  const std::size_t size = std::max(layout_.catctup.size, layout_.catclist.size);
  std::vector<ForeignMemory::Piece> pieces;
  Bytes records;
  while (!chains.empty() && doubt.empty()) {
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
    for (std::size_t i = 0; i < chains.size() && doubt.empty(); ++i) {
      if (!pieces[i].ok)
        note(kMoved);
      else if (take(chains[i], pieces[i].into))
        chains[left++] = chains[i];
    }
    chains = chains.first(left);
  }
  return Ok{};
}

// Counts one entry; true if its chain goes on.
bool Look::take(Chain &chain, std::span<const std::byte> record)
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
    note(kMoved);
    return false;
  }
  if (++entries_ > limits_.entries) {
    note_limit(fmt::format("more than {} cached tuples and lists", limits_.entries));
    return false;
  }
  if (chain.of_lists) {
    const auto members = field<std::int32_t>(record, layout.catclist.n_members);
    CatalogCache &cache = snapshot.caches[chain.cache];
    ++cache.lists;
    cache.bytes += chunk_bytes(layout, layout.catclist.size +
                                           8 * static_cast<std::uint64_t>(std::max(members, 0)));
  } else {
    take_tuple(chain, record);
  }
  chain.previous = std::exchange(chain.at, field<std::uint64_t>(record, node + kNext));
  return chain.at != chain.head;
}

void Look::take_tuple(const Chain &chain, std::span<const std::byte> record)
{
  constexpr std::uint64_t kAlignment = 8; // the copied tuple is aligned within its chunk
  const auto &at = layout_.catctup;
  CatalogCache &cache = snapshot.caches[chain.cache];
  cache.entries.push_back({chain.at - at.cache_elem, field<std::uint32_t>(record, at.hash_value)});
  if (field<std::uint8_t>(record, at.dead) != 0)
    ++cache.dead;
  std::uint64_t request = at.size;
  if (field<std::uint8_t>(record, at.negative) != 0) { // has keys in place of a tuple
    ++cache.negative;
  } else {
    const std::uint64_t length = field<std::uint32_t>(record, at.tuple_length);
    if (length > kMaxTuple)
      note(kMoved);
    request += kAlignment + length;
  }
  cache.bytes += chunk_bytes(layout_, request);
}

void Look::compare_counts(std::uint64_t header_address)
{
  std::uint64_t sum = 0;
  for (std::size_t i = 0; i < found_.size(); ++i) {
    const CatalogCache &cache = snapshot.caches[i];
    sum += cache.tuples;
    if (cache.entries.size() != cache.tuples ||
        (layout_.catcache.lbucket != kAbsent && cache.lists != found_[i].lists_expected))
      note(kMoved);
  }
  const auto now = memory_.read_value<std::int32_t>(header_address + layout_.catcache_header.ntup);
  if (sum != snapshot.tuples || !now || *now != static_cast<std::int64_t>(snapshot.tuples))
    note(kMoved);
}

// saved_plan_list, a dlist_head.
void Look::read_plans(std::uint64_t list_address)
{
  const auto &at = layout_.plan_source;
  SavedPlans plans;
  std::uint64_t previous = list_address;
  auto node = memory_.read_value<std::uint64_t>(list_address + kNext);
  while (node && *node != 0 && *node != list_address) {
    const auto source = bytes_at(*node - at.node, at.size);
    if (!source || field<std::uint32_t>(*source, at.magic) != kPlanMagic ||
        field<std::uint8_t>(*source, at.is_saved) == 0 ||
        field<std::uint64_t>(*source, at.node) != previous)
      return note(kMoved);
    if (plans.plans == limits_.entries) {
      return note_limit(fmt::format("more than {} saved plans", limits_.entries));
    }
    ++plans.plans;
    if (field<std::uint64_t>(*source, at.gplan) != 0)
      ++plans.generic;
    if (field<std::uint8_t>(*source, at.is_valid) == 0)
      ++plans.invalid;
    previous = *node;
    node = field<std::uint64_t>(*source, at.node + kNext);
  }
  if (!node)
    return note(kMoved);
  snapshot.plans = plans;
}

// A pointer to a hash table of dynahash.c, which is made when it is first needed.
std::optional<std::uint64_t> Look::entries_of(const Result<std::uint64_t> &variable,
                                              std::uint64_t load_bias, std::string_view table_name)
{
  const auto &at = layout_.hash_table;
  if (!variable) {
    snapshot.unseen.push_back(to_string(variable.error()));
    return std::nullopt;
  }
  const auto table = memory_.read_value<std::uint64_t>(load_bias + *variable);
  if (table && *table == 0)
    return 0;
  const auto bytes = table ? bytes_at(*table, at.size) : std::nullopt;
  const auto name =
      bytes ? memory_.read_string(field<std::uint64_t>(*bytes, at.name), kName) : std::nullopt;
  const auto entries =
      bytes ? memory_.read_value<std::int64_t>(field<std::uint64_t>(*bytes, at.header) + at.entries)
            : std::nullopt;
  if (!name || *name != table_name || !entries || *entries < 0) {
    snapshot.unseen.push_back(
        fmt::format("read the hash table \"{}\": what should be it is none", table_name));
    return std::nullopt;
  }
  return static_cast<std::uint64_t>(*entries);
}

// Lists hang in a hash table of their own since 16.3; 16.0 to 16.2 end before those fields.
Layout layout_for(const Binary &binary)
{
  constexpr std::string_view kOld = "16.";
  Layout layout = binary.layout;
  int minor = 0;
  const std::string_view version = binary.version;
  if (version.starts_with(kOld)) {
    std::from_chars(version.data() + kOld.size(), version.data() + version.size(), minor);
    if (minor < 3)
      layout.catcache.nlist = layout.catcache.nlbuckets = layout.catcache.lbucket = kAbsent;
  }
  return layout;
}

} // namespace

CacheReader::CacheReader(const ServerProcess &process, CacheReaderLimits limits)
    : CacheReader(layout_for(*process.binary), find_cache_variables(*process.binary->elf),
                  process.load_bias, std::make_unique<ForeignMemory>(process.identity.id.pid),
                  limits)
{
}

CacheReader::CacheReader(Layout layout, CacheVariables variables, std::uint64_t load_bias,
                         std::unique_ptr<ForeignMemory> memory, CacheReaderLimits limits)
    : layout_(std::move(layout)), variables_(std::move(variables)), load_bias_(load_bias),
      memory_(std::move(memory)), limits_(limits)
{
}

Result<CacheSnapshot> CacheReader::read()
{
  if (!variables_.catalog_caches)
    return variables_.catalog_caches.error();
  std::optional<Look> look;
  for (int i = 0; i < std::max(limits_.looks, 1); ++i) {
    look.emplace(layout_, *memory_, limits_);
    if (auto taken = look->take_all(variables_, load_bias_); !taken)
      return taken.error();
    if (look->doubt.empty() || look->beyond_limit)
      break;
  }
  if (look->nonsense)
    return Error{
        fmt::format("read the catalog caches of process {}: {}", memory_->pid(), look->doubt), 0,
        "this build is laid out differently; give its own layout with --postgres-btf FILE"};
  look->snapshot.complete = look->doubt.empty();
  look->snapshot.incomplete_reason = look->doubt;
  return std::move(look->snapshot);
}

} // namespace pgmemtrace
