// SPDX-License-Identifier: BSD-2-Clause
#include "knowledge/known_contexts.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <deque>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "knowledge/known_contexts_csv.h"

namespace pgmemtrace {
namespace {

enum Column : std::size_t {
  kName,
  kParent,
  kLifetime,
  kType,
  kCreatedIn,
  kSince,
  kUntil,
  kGrowth,
  kColumns,
};

using Row = std::array<std::string, kColumns>;

// Reads one record of RFC 4180 from `text` and removes it.  Surplus fields are dropped.
Row take_record(std::string_view &text)
{
  Row row;
  std::size_t column = 0;
  bool quoted = false;
  while (!text.empty()) {
    const char c = text.front();
    text.remove_prefix(1);
    if (quoted && c == '"' && text.starts_with('"')) {
      text.remove_prefix(1);
      if (column < kColumns)
        row[column] += '"';
    } else if (c == '"') {
      quoted = !quoted;
    } else if (!quoted && c == ',') {
      ++column;
    } else if (!quoted && c == '\n') {
      break;
    } else if (c != '\r' && column < kColumns) {
      row[column] += c;
    }
  }
  return row;
}

// "<=13" (the oldest major that we know) and "" are 0.
int major_of(std::string_view text)
{
  int major = 0;
  const auto [end, err] = std::from_chars(text.data(), text.data() + text.size(), major);
  return err == std::errc{} && end == text.data() + text.size() ? major : 0;
}

struct LifetimeWord {
  std::string_view word;
  Lifetime lifetime;
};

// The first word found in the prose decides, so the order matters: "one replication message
// (reset)" is about a message, "session, reset per batch" about scratch space, "transaction
// (pg_stat_activity snapshot)" about a transaction.
constexpr std::array kLifetimeWords{
    LifetimeWord{"initdb", Lifetime::process},
    LifetimeWord{"cache-entry", Lifetime::cache_entry},
    LifetimeWord{"function cache", Lifetime::cache_entry},
    LifetimeWord{"kept plan", Lifetime::cache_entry},
    LifetimeWord{"session; ident", Lifetime::cache_entry},
    LifetimeWord{"until spi_freeplan", Lifetime::cache_entry},
    LifetimeWord{"until cursor closed", Lifetime::cache_entry},
    LifetimeWord{"until plan object", Lifetime::cache_entry},
    LifetimeWord{"session (reset", Lifetime::process},
    LifetimeWord{"session, reset per batch", Lifetime::scratch},
    LifetimeWord{"session (pg_backup", Lifetime::process},
    LifetimeWord{"decoding session", Lifetime::process},
    LifetimeWord{"decoding (per", Lifetime::transaction},
    LifetimeWord{"session", Lifetime::session_cache},
    LifetimeWord{"streamed xact", Lifetime::transaction},
    LifetimeWord{"transaction", Lifetime::transaction},
    LifetimeWord{"portal", Lifetime::portal},
    LifetimeWord{"message", Lifetime::message},
    LifetimeWord{"replication command", Lifetime::process},
    LifetimeWord{"per-", Lifetime::scratch},
    LifetimeWord{"per call", Lifetime::scratch},
    LifetimeWord{"transient", Lifetime::scratch},
    LifetimeWord{"startup process per record", Lifetime::scratch},
    LifetimeWord{"process", Lifetime::process},
    LifetimeWord{"worker", Lifetime::process},
    LifetimeWord{"launcher", Lifetime::process},
    LifetimeWord{"startup", Lifetime::process},
    LifetimeWord{"archiver", Lifetime::process},
    LifetimeWord{"checkpointer", Lifetime::process},
    LifetimeWord{"apply leader", Lifetime::process},
    LifetimeWord{"until reload", Lifetime::process},
    LifetimeWord{"until rebuild", Lifetime::process},
    LifetimeWord{"hash-table lifetime", Lifetime::unknown},
};

// Whatever else the table names ends with its command, plan node, scan or function call.
Lifetime lifetime_of(std::string_view text)
{
  for (const auto &[word, lifetime] : kLifetimeWords)
    if (text.find(word) != std::string_view::npos)
      return lifetime;
  return Lifetime::statement;
}

bool contains_any(std::string_view text, std::initializer_list<std::string_view> words)
{
  return std::ranges::any_of(
      words, [text](std::string_view word) { return text.find(word) != std::string_view::npos; });
}

Growth growth_of(const KnownContext &context)
{
  // Sorts use maintenance_work_mem when an index is built; ANALYZE's sample and VACUUM's list of
  // dead rows follow their own settings, not work_mem.
  if (contains_any(context.growth_text, {"maintenance_work_mem"}) ||
      contains_any(context.name, {"TupleSort", "Caller tuples"}) ||
      contains_any(context.lifetime_text, {"ANALYZE", "VACUUM", "CREATE INDEX", "CLUSTER"}))
    return Growth::maintenance;
  if (contains_any(context.growth_text, {"work_mem", "hash_mem", "temp_buffers"}))
    return Growth::work_mem;
  switch (context.lifetime) {
  case Lifetime::session_cache:
  case Lifetime::cache_entry: return Growth::objects;
  case Lifetime::transaction:
  case Lifetime::portal:
  case Lifetime::message:
  case Lifetime::statement: return Growth::data;
  case Lifetime::process:
  case Lifetime::scratch:
  case Lifetime::unknown: return Growth::constant;
  }
  return Growth::constant;
}

Family family_of(const KnownContext &context)
{
  if (context.name.starts_with("CachedPlan") || context.name == "SPI Plan" ||
      context.name.find("spi_prepare query") != std::string_view::npos ||
      context.name == "PL/Python plan context" || context.name == "Prepared Queries")
    return Family::plans;
  if (context.lifetime == Lifetime::cache_entry &&
      (context.name.starts_with("PL/") || context.name.starts_with("SQL function")))
    return Family::functions;
  if (context.lifetime != Lifetime::session_cache && context.lifetime != Lifetime::cache_entry)
    return Family::none;
  if (context.name == "CacheMemoryContext" ||
      context.growth_text.find("elcache") != std::string_view::npos ||
      context.name == "index info" || context.name.starts_with("partition ") ||
      context.name == "relation rules" || context.name == "row security descriptor")
    return Family::relations;
  return Family::none;
}

class Table final {
public:
  explicit Table(std::string_view csv)
  {
    take_record(csv); // the header
    while (!csv.empty())
      add(take_record(csv));
  }

  const KnownContext *find(std::string_view name, int major) const
  {
    const auto [first, last] = by_name_.equal_range(name);
    const KnownContext *any = nullptr;
    for (auto it = first; it != last; ++it) {
      const KnownContext &context = it->second;
      any = &context;
      if (major == 0 || (context.since_major <= major &&
                         (context.until_major == 0 || major <= context.until_major)))
        return &context;
    }
    // A name outside the majors that the table gives it is still better known than unknown:
    // minor releases and forks bring names forward and back.
    return any;
  }

private:
  void add(Row row)
  {
    if (row[kName].empty())
      return;
    const Row &kept = rows_.emplace_back(std::move(row));
    KnownContext context{.name = kept[kName],
                         .lifetime_text = kept[kLifetime],
                         .growth_text = kept[kGrowth],
                         .since_major = major_of(kept[kSince]),
                         .until_major = major_of(kept[kUntil])};
    context.lifetime = lifetime_of(context.lifetime_text);
    context.growth = growth_of(context);
    context.family = family_of(context);
    by_name_.emplace(context.name, context);
  }

  std::deque<Row> rows_; // a deque: the views above stay valid while it grows
  std::unordered_multimap<std::string_view, KnownContext> by_name_;
};

} // namespace

std::string_view to_string(Lifetime lifetime)
{
  switch (lifetime) {
  case Lifetime::unknown: return "unknown";
  case Lifetime::process: return "process";
  case Lifetime::session_cache: return "session cache";
  case Lifetime::cache_entry: return "cache entry";
  case Lifetime::transaction: return "transaction";
  case Lifetime::portal: return "portal";
  case Lifetime::message: return "message";
  case Lifetime::statement: return "statement";
  case Lifetime::scratch: return "scratch";
  }
  return "unknown";
}

std::string_view to_string(Growth growth)
{
  switch (growth) {
  case Growth::constant: return "constant";
  case Growth::objects: return "with the objects used";
  case Growth::data: return "with the data";
  case Growth::work_mem: return "up to work_mem";
  case Growth::maintenance: return "up to maintenance_work_mem";
  }
  return "constant";
}

const KnownContext *lookup(std::string_view name, int major)
{
  static const Table table{known_contexts_csv()};
  return table.find(name, major);
}

} // namespace pgmemtrace
