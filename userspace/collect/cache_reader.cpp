// SPDX-License-Identifier: BSD-2-Clause
// cache_reader.cpp - one look at the caches after the other, until one agrees with itself.
#include "collect/cache_reader.h"

#include <algorithm>
#include <charconv>
#include <optional>
#include <string_view>
#include <thread>
#include <utility>

#include <fmt/format.h>

#include "collect/context_header.h"

namespace pgmemtrace {

namespace {

constexpr std::uint32_t kPlanMagic = 195726186; // utils/plancache.h, the same in 13 to 18
constexpr std::uint32_t kNext = 8;              // of a dlist_node
constexpr std::size_t kName = 255;              // of a hash table
constexpr std::uint64_t kNoCount = 1ull << 40;  // more entries than memory holds

// Everything but the catalog caches.
class PlansAndTables {
public:
  PlansAndTables(const Layout &layout, ForeignMemory &memory, const CacheReaderLimits &limits,
                 Doubt &doubt, CacheSnapshot &snapshot)
      : layout_(layout), memory_(memory), limits_(limits), doubt_(doubt), snapshot_(snapshot)
  {
  }

  void read(const CacheVariables &variables, std::uint64_t load_bias);

private:
  void read_plans(std::uint64_t list_address);
  std::optional<std::uint64_t> entries_of(const Result<std::uint64_t> &variable,
                                          std::uint64_t load_bias, std::string_view table_name);
  std::optional<std::uint64_t> entries_at(std::uint64_t table, std::string_view table_name);

  const Layout &layout_;
  ForeignMemory &memory_;
  const CacheReaderLimits &limits_;
  Doubt &doubt_;
  CacheSnapshot &snapshot_;
};

void PlansAndTables::read(const CacheVariables &variables, std::uint64_t load_bias)
{
  snapshot_.relations = entries_of(variables.relation_cache, load_bias, "Relcache by OID");
  snapshot_.prepared_statements =
      entries_of(variables.prepared_statements, load_bias, "Prepared Queries");
  snapshot_.portals = entries_of(variables.portals, load_bias, "Portal hash");
  if (variables.saved_plans)
    read_plans(load_bias + *variables.saved_plans);
  else
    snapshot_.unseen.push_back(to_string(variables.saved_plans.error()));
}

// saved_plan_list, a dlist_head.
void PlansAndTables::read_plans(std::uint64_t list_address)
{
  const auto &at = layout_.plan_source;
  SavedPlans plans;
  std::uint64_t previous = list_address;
  auto node = memory_.read_value<std::uint64_t>(list_address + kNext);
  while (node && *node != 0 && *node != list_address) {
    const auto source = bytes_at(memory_, *node - at.node, at.size);
    if (!source || field<std::uint32_t>(*source, at.magic) != kPlanMagic ||
        field<std::uint8_t>(*source, at.is_saved) == 0 ||
        field<std::uint64_t>(*source, at.node) != previous)
      return doubt_.moved();
    if (plans.plans == limits_.entries) {
      return doubt_.note(Doubt::Kind::too_large,
                         fmt::format("more than {} saved plans", limits_.entries));
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
    return doubt_.moved();
  snapshot_.plans = plans;
}

// A pointer to a hash table of dynahash.c, which is made when it is first needed.
std::optional<std::uint64_t> PlansAndTables::entries_of(const Result<std::uint64_t> &variable,
                                                        std::uint64_t load_bias,
                                                        std::string_view table_name)
{
  if (!variable) {
    snapshot_.unseen.push_back(to_string(variable.error()));
    return std::nullopt;
  }
  const auto table = memory_.read_value<std::uint64_t>(load_bias + *variable);
  if (table && *table == 0)
    return 0;
  const auto entries = table ? entries_at(*table, table_name) : std::nullopt;
  if (!entries)
    snapshot_.unseen.push_back(
        fmt::format("read the hash table \"{}\": what should be it is none", table_name));
  return entries;
}

std::optional<std::uint64_t> PlansAndTables::entries_at(std::uint64_t table,
                                                        std::string_view table_name)
{
  const auto &at = layout_.hash_table;
  const auto bytes = bytes_at(memory_, table, at.size);
  if (!bytes || memory_.read_string(field<std::uint64_t>(*bytes, at.name), kName) != table_name)
    return std::nullopt;
  const auto entries =
      memory_.read_value<std::uint64_t>(field<std::uint64_t>(*bytes, at.header) + at.entries);
  return entries.value_or(kNoCount) < kNoCount ? entries : std::nullopt;
}

} // namespace

Layout cache_layout(Layout layout, std::string_view version)
{
  constexpr std::string_view k16 = "16.";
  if (!version.starts_with(k16))
    return layout;
  version.remove_prefix(k16.size());
  int minor = 0;
  const auto number = std::from_chars(version.data(), version.data() + version.size(), minor);
  if (number.ec == std::errc() && minor < 3)
    layout.catcache.nlist = layout.catcache.nlbuckets = layout.catcache.lbucket = kAbsent;
  return layout;
}

CacheReader::CacheReader(const ServerProcess &process, CacheReaderLimits limits)
    : CacheReader(cache_layout(process.binary->layout, process.binary->version),
                  find_cache_variables(*process.binary->elf), process.load_bias,
                  std::make_unique<ForeignMemory>(process.identity.id.pid), limits)
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
  CacheSnapshot snapshot;
  Doubt doubt;
  auto pause = limits_.pause;
  for (int i = 0; i < std::max(limits_.looks, 1); ++i) {
    if (i > 0)
      std::this_thread::sleep_for(std::exchange(pause, pause * 2));
    snapshot = {};
    doubt = {};
    CatalogCacheWalk walk(layout_, *memory_, limits_, doubt);
    if (auto walked = walk.read(load_bias_ + *variables_.catalog_caches, snapshot); !walked)
      return walked.error();
    PlansAndTables(layout_, *memory_, limits_, doubt, snapshot).read(variables_, load_bias_);
    if (!doubt || doubt.kind() == Doubt::Kind::too_large)
      break;
  }
  if (doubt.kind() == Doubt::Kind::nonsense)
    return Error{
        fmt::format("read the catalog caches of process {}: {}", memory_->pid(), doubt.why()), 0,
        "this build is laid out differently; give its own layout with --postgres-btf FILE"};
  snapshot.complete = !doubt;
  snapshot.incomplete_reason = doubt.why();
  return snapshot;
}

} // namespace pgmemtrace
