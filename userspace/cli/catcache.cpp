// SPDX-License-Identifier: BSD-2-Clause
// catcache.cpp - `pgmemtrace catcache`: what one process keeps of the catalogs and of its plans.
//
// Numbers that are not exact, because the process would not hold still or passes a bound, are
// printed with a warning on stderr and exit status 0, as are OIDs where names cannot be had.
#include <cerrno>
#include <chrono>
#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include "cli/catcache_report.h"
#include "cli/choice.h"
#include "cli/commands.h"
#include "cli/relation_names.h"
#include "cli/units.h"
#include "collect/cache_reader.h"
#include "collect/process_reader.h"

namespace pgmemtrace {

namespace {

struct CatcacheOptions {
  pid_t pid = 0;
  std::string format = "text";
  std::string dsn;
  std::string interval; // empty: one look
  std::string postgres_btf;
};

using Interval = std::optional<std::chrono::nanoseconds>;

Error gone(pid_t pid) { return {.what = "read process " + std::to_string(pid), .err = ESRCH}; }

// The process that was found, and not another one that got its number since.
bool still_there(const ServerProcess &process, const Proc &proc)
{
  const auto stat = proc.stat(process.identity.id.pid);
  return stat && stat->start == process.identity.id.start;
}

struct Looks {
  CacheSnapshot last;
  std::optional<CacheGrowth> growth;
};

Result<Looks> look(const ServerProcess &process, const Proc &proc, const Interval &interval)
{
  CacheReader reader(process);
  auto first = reader.read();
  if (!first)
    return first.error();
  first->taken_at = Clock::now();
  if (!interval)
    return Looks{.last = *std::move(first)};

  const auto start = std::chrono::steady_clock::now();
  std::this_thread::sleep_for(*interval);
  auto second = reader.read();
  if (!second)
    return second.error();
  if (!still_there(process, proc))
    return gone(process.identity.id.pid);
  second->taken_at = Clock::now();
  CacheGrowth growth{.interval = std::chrono::steady_clock::now() - start,
                     .changes = changes_between(*first, *second)};
  if (second->complete && !first->complete) {
    second->complete = false;
    second->incomplete_reason = "the first look: " + first->incomplete_reason;
  }
  return Looks{.last = *std::move(second), .growth = std::move(growth)};
}

Result<> add_names(const std::string &dsn, CacheSnapshot &snapshot)
{
  std::vector<std::uint32_t> oids;
  for (const CatalogCache &cache : snapshot.caches)
    oids.insert(oids.end(), {cache.catalog_oid, cache.index_oid});
  const auto names = relation_names(dsn, snapshot.process.major, oids);
  if (!names)
    return names.error();
  const auto name_of = [&](std::uint32_t oid) {
    const auto found = names->find(oid);
    return found == names->end() ? std::string() : found->second;
  };
  for (CatalogCache &cache : snapshot.caches) {
    if (cache.catalog.empty())
      cache.catalog = name_of(cache.catalog_oid);
    cache.index = name_of(cache.index_oid);
  }
  return Ok{};
}

Result<Looks> look_at(const CatcacheOptions &options, const Interval &interval)
{
  const Proc proc;
  const auto chosen = find_process(options.pid, options.postgres_btf);
  if (!chosen)
    return chosen.error();
  auto looks = look(*chosen->process, proc, interval);
  if (!looks)
    return looks;
  ProcessSnapshot identity; // completed where the process has said more of itself by now
  read_process(*chosen->process, proc, identity);
  looks->last.process = identity.process;
  return looks;
}

int run_catcache(const CatcacheOptions &options, std::ostream &out, std::ostream &err)
{
  const Interval interval =
      options.interval.empty() ? std::nullopt : parse_duration(options.interval);
  auto looks = look_at(options, interval);
  if (!looks)
    return fail(looks.error());
  const auto named = options.dsn.empty() ? Result<>(Ok{}) : add_names(options.dsn, looks->last);
  const CacheGrowth *growth = looks->growth ? &*looks->growth : nullptr;
  out << (options.format == "json" ? json_of_caches(looks->last, growth)
                                   : print_caches(looks->last, growth))
      << std::flush;
  if (!named)
    err << "warning: no names, OIDs only: " << to_string(named.error())
        << "\nhint: " << named.error().hint << "\n";
  if (!looks->last.complete)
    err << "warning: the numbers are not exact: " << looks->last.incomplete_reason << "\n";
  if (!out)
    return fail(Error{.what = "write the caches to standard output", .err = EIO});
  return kFine;
}

std::string check_interval(const std::string &text)
{
  const auto interval = parse_duration(text);
  return interval && interval->count() > 0 ? "" : "not a duration, such as 10s";
}

} // namespace

void add_catcache_command(CLI::App &app, int &exit_status)
{
  auto options = std::make_shared<CatcacheOptions>();
  CLI::App *command = app.add_subcommand(
      "catcache", "Print what one process keeps of the catalogs and of its plans, now");
  command->add_option("--pid", options->pid, "Any process with a database")
      ->required()
      ->check(CLI::PositiveNumber);
  command->add_option("--format", options->format, "text or json")
      ->check(CLI::IsMember({"text", "json"}))
      ->capture_default_str();
  command
      ->add_option("--interval", options->interval,
                   "Look twice, this far apart, and show what changed: 10s")
      ->check(check_interval, "DURATION");
  command->add_option("--dsn", options->dsn,
                      "Connection string: ask this server for the names of catalogs and indexes");
  command->add_option("--postgres-btf", options->postgres_btf,
                      "BTF of this very server, for a build whose layout is not the usual one");
  command->callback(
      [options, &exit_status] { exit_status = run_catcache(*options, std::cout, std::cerr); });
}

} // namespace pgmemtrace
