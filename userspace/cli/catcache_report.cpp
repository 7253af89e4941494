// SPDX-License-Identifier: BSD-2-Clause
// catcache_report.cpp - a table, what it adds up to, and what to do about it.
#include "cli/catcache_report.h"

#include <algorithm>
#include <numeric>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "knowledge/known_contexts.h"
#include "sinks/format.h"
#include "snapshot/tree_print.h"
#include "util/text.h"

namespace pgmemtrace {

namespace {

using Json = nlohmann::ordered_json;

// From where on advice is given.  A backend that works on a few hundred tables has some 10,000
// tuples in 3 MiB.
constexpr std::uint64_t kManyBytes = 16ull << 20;
constexpr std::uint64_t kManyNegative = 1000;
constexpr std::uint64_t kManyRelations = 10000;
constexpr std::uint64_t kManyPlans = 1000;

struct Sums {
  std::uint64_t negative = 0, dead = 0, lists = 0, bytes = 0;
};

Sums sum_of(const CacheSnapshot &snapshot)
{
  Sums sums;
  for (const CatalogCache &cache : snapshot.caches) {
    sums.negative += cache.negative;
    sums.dead += cache.dead;
    sums.lists += cache.lists;
    sums.bytes += cache.bytes;
  }
  return sums;
}

std::vector<std::size_t> biggest_first(const std::vector<CatalogCache> &caches)
{
  std::vector<std::size_t> order(caches.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::ranges::stable_sort(order, [&](std::size_t left, std::size_t right) {
    const auto &a = caches[left];
    const auto &b = caches[right];
    return std::tie(b.bytes, b.tuples, a.id) < std::tie(a.bytes, a.tuples, b.id);
  });
  return order;
}

// ---- text -------------------------------------------------------------------------

std::string name_or_oid(const std::string &name, std::uint32_t oid)
{
  return name.empty() ? std::to_string(oid) : one_line(name);
}

std::string row(const CatalogCache &cache, const CacheChange *change)
{
  std::string line = fmt::format("{:>10} {:>9} ", human_bytes(cache.bytes), cache.tuples);
  if (change != nullptr)
    line += fmt::format("{:>+8} {:>8} {:>8} ", change->tuples, change->added, change->removed);
  return line + fmt::format("{:>9} {:>7} {:>8}  {} by {}\n", cache.negative, cache.lists,
                            cache.buckets, name_or_oid(cache.catalog, cache.catalog_oid),
                            name_or_oid(cache.index, cache.index_oid));
}

std::string table(const CacheSnapshot &snapshot, const CacheGrowth *growth)
{
  std::string out = fmt::format("{:>10} {:>9} ", "bytes", "tuples");
  if (growth != nullptr)
    out += fmt::format("{:>8} {:>8} {:>8} ", "growth", "added", "removed");
  out += fmt::format("{:>9} {:>7} {:>8}  catalog by index\n", "negative", "lists", "buckets");
  std::size_t empty = 0;
  for (const std::size_t i : biggest_first(snapshot.caches)) {
    const CatalogCache &cache = snapshot.caches[i];
    const CacheChange *change = growth == nullptr ? nullptr : &growth->changes[i];
    if (cache.tuples == 0 && cache.lists == 0 && (change == nullptr || change->removed == 0))
      ++empty;
    else
      out += row(cache, change);
  }
  if (empty != 0)
    out += fmt::format("{:>10} {:>9} {}\n", "", "", fmt::format("({} more are empty)", empty));
  return out;
}

std::string totals(const CacheSnapshot &snapshot, const CacheGrowth *growth)
{
  const Sums sums = sum_of(snapshot);
  std::string out = fmt::format("total: {} tuples in {} caches, {} of them negative",
                                snapshot.tuples, snapshot.caches.size(), sums.negative);
  if (sums.dead != 0)
    out += fmt::format(", {} invalidated and still in use", sums.dead);
  out += fmt::format("; {} lists; about {}\n", sums.lists, human_bytes(sums.bytes));
  if (growth != nullptr) {
    CacheChange all;
    for (const CacheChange &change : growth->changes) {
      all.tuples += change.tuples;
      all.bytes += change.bytes;
      all.added += change.added;
      all.removed += change.removed;
    }
    out += fmt::format("in {:.1f} s: {:+} tuples ({} added, {} removed), {}\n",
                       growth->interval.count(), all.tuples, all.added, all.removed,
                       human_delta(all.bytes));
  }
  return out;
}

std::string count_or_unknown(const std::optional<std::uint64_t> &count)
{
  return count ? std::to_string(*count) : "?";
}

std::string others(const CacheSnapshot &snapshot)
{
  std::string plans = "?";
  if (snapshot.plans)
    plans = fmt::format("{} ({} with a generic plan, {} to be made again)", snapshot.plans->plans,
                        snapshot.plans->generic, snapshot.plans->invalid);
  std::string out = fmt::format(
      "relation cache: {} relations; saved plans: {}; prepared statements: {}; portals: {}\n",
      count_or_unknown(snapshot.relations), plans, count_or_unknown(snapshot.prepared_statements),
      count_or_unknown(snapshot.portals));
  for (const std::string &why : snapshot.unseen)
    out += "not seen: " + one_line(why) + "\n";
  return out;
}

std::string advice(const CacheSnapshot &snapshot)
{
  const Sums sums = sum_of(snapshot);
  const int major = snapshot.process.major;
  std::string out;
  const auto advise = [&](std::string_view what, std::string_view sentence) {
    out += fmt::format("advice: {}: {}\n", what, sentence);
  };
  if (sums.bytes >= kManyBytes || snapshot.relations.value_or(0) >= kManyRelations)
    advise("large for one session", advice_for("CacheMemoryContext", major));
  if (sums.negative >= kManyNegative && sums.negative > snapshot.tuples / 2)
    advise("most tuples are negative",
           "The session keeps looking up what does not exist: look for unqualified names searched "
           "in many schemas (search_path), for DROP IF EXISTS and to_regclass() on ever new names, "
           "and for tables that are created and dropped in a loop.");
  if (snapshot.plans.value_or(SavedPlans{}).plans >= kManyPlans)
    advise("many saved plans", advice_for("CachedPlanSource", major));
  if (out.empty())
    out = "nothing here is large for one session; entries leave when their objects change, and by "
          "no other rule\n";
  return out;
}

// ---- json -------------------------------------------------------------------------

Json or_null(const std::string &text) { return text.empty() ? Json(nullptr) : Json(text); }

template <typename T> Json or_null(const std::optional<T> &value)
{
  return value ? Json(*value) : Json(nullptr);
}

Json json_of(const CatalogCache &cache, const CacheChange *change)
{
  const auto changed = [&](auto CacheChange::*what) {
    return change == nullptr ? Json(nullptr) : Json(change->*what);
  };
  return {{"id", cache.id},
          {"catalog_oid", cache.catalog_oid},
          {"catalog", or_null(cache.catalog)},
          {"index_oid", cache.index_oid},
          {"index", or_null(cache.index)},
          {"tuples", cache.tuples},
          {"negative", cache.negative},
          {"dead", cache.dead},
          {"lists", cache.lists},
          {"buckets", cache.buckets},
          {"estimated_bytes", cache.bytes},
          {"delta_tuples", changed(&CacheChange::tuples)},
          {"delta_bytes", changed(&CacheChange::bytes)},
          {"added", changed(&CacheChange::added)},
          {"removed", changed(&CacheChange::removed)}};
}

} // namespace

std::string print_caches(const CacheSnapshot &snapshot, const CacheGrowth *growth)
{
  return print_heading(snapshot.process) + table(snapshot, growth) + totals(snapshot, growth) +
         others(snapshot) + advice(snapshot) +
         "negative: was looked up, and there is no such row. Searches and hits leave no trace in "
         "memory: they cannot be shown.\n";
}

std::string json_of_caches(const CacheSnapshot &snapshot, const CacheGrowth *growth)
{
  const ProcessIdentity &who = snapshot.process;
  const Sums sums = sum_of(snapshot);
  Json object{
      {"type", "catcache"},
      {"time", rfc3339(snapshot.taken_at)},
      {"instance", or_null(who.instance)},
      {"pid", who.id.pid},
      {"server_pid", who.server_pid},
      {"backend_type", or_null(who.backend_type)},
      {"database", or_null(who.database)},
      {"user", or_null(who.user)},
      {"complete", snapshot.complete},
      {"incomplete_reason", or_null(snapshot.incomplete_reason)},
      {"interval_seconds", growth == nullptr ? Json(nullptr) : Json(growth->interval.count())},
      {"tuples", snapshot.tuples},
      {"negative", sums.negative},
      {"dead", sums.dead},
      {"lists", sums.lists},
      {"estimated_bytes", sums.bytes},
      {"relations", or_null(snapshot.relations)},
      {"saved_plans", nullptr},
      {"generic_plans", nullptr},
      {"invalid_plans", nullptr},
      {"prepared_statements", or_null(snapshot.prepared_statements)},
      {"portals", or_null(snapshot.portals)},
      {"unseen", snapshot.unseen},
      {"caches", Json::array()}};
  if (snapshot.plans) {
    object["saved_plans"] = snapshot.plans->plans;
    object["generic_plans"] = snapshot.plans->generic;
    object["invalid_plans"] = snapshot.plans->invalid;
  }
  for (const std::size_t i : biggest_first(snapshot.caches))
    object["caches"].push_back(
        json_of(snapshot.caches[i], growth == nullptr ? nullptr : &growth->changes[i]));
  return object.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
}

} // namespace pgmemtrace
