// SPDX-License-Identifier: BSD-2-Clause
// sweep_bench.cpp - what a sweep costs, per context and per block or free chunk.
//
// Starts a private server, gives one backend prepared statements (contexts) and holes in
// its memory (free chunks), and sweeps it over and over: the header pass, the pass over what
// changed, and the exact pass, which is charged 3 us per context; the rest of its time is
// shared out over blocks and free chunks.  CPU time of this thread, median of the runs.
//
// Each in two ways, by turns: "readv" by process_vm_readv alone, "direct" as the daemon does
// where it can (attach/direct_map.h).  "bare" is the header pass without us: the same pieces in
// the same system calls.  What the kernel takes to look up and pin a page differs between
// machines by more than our own part.
#include <algorithm>
#include <cstdio>
#include <ctime>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "attach/direct_map.h"
#include "attach/servers.h"
#include "collect/sweep.h"
#include "support/postgres_cluster.h"

namespace pgmemtrace {

namespace {

struct Options {
  int statements = 2000;
  int tables = 500;
  int runs = 50;
};

double cpu_us()
{
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) * 1e6 + static_cast<double>(now.tv_nsec) / 1e3;
}

// Notes which pieces a sweep reads, call by call.
class NotingMemory final : public ForeignMemory {
public:
  using Call = std::vector<std::pair<std::uint64_t, std::size_t>>; // address, size

  explicit NotingMemory(std::unique_ptr<ForeignMemory> inner)
      : ForeignMemory(inner->pid()), inner_(std::move(inner))
  {
  }

  Result<> read(std::span<Piece> pieces) override
  {
    if (noting) {
      Call &call = calls.emplace_back();
      for (const Piece &piece : pieces)
        call.emplace_back(piece.address, piece.into.size());
    }
    return inner_->read(pieces);
  }
  std::uint64_t gap() const override { return inner_->gap(); }

  bool noting = false;
  std::vector<Call> calls;

private:
  std::unique_ptr<ForeignMemory> inner_;
};

// One way to read, and what it read.
struct Way {
  Way(const char *its_name, const ServerProcess &process, std::shared_ptr<DirectMap> direct)
      : name(its_name), bare(foreign_memory(process.identity.id.pid, direct)),
        noting(std::make_unique<NotingMemory>(foreign_memory(bare->pid(), direct))),
        memory(*noting),
        sweeper(process.binary->layout,
                process.binary->globals.top_memory_context + process.load_bias, std::move(noting))
  {
  }

  const char *name;
  std::unique_ptr<ForeignMemory> bare;
  std::unique_ptr<NotingMemory> noting;
  NotingMemory &memory;
  Sweeper sweeper;
};

struct Figure {
  double us = 0; // per sweep
  double contexts = 0, blocks = 0, chunks = 0;
};

double median(std::vector<double> values)
{
  std::ranges::sort(values);
  return values[values.size() / 2];
}

// By turns: what the machine does meanwhile, it does to all ways.
Result<std::vector<Figure>> measure(std::span<Way> ways, Pass pass, int runs)
{
  std::vector<Figure> figures(ways.size());
  std::vector<std::vector<double>> times(ways.size());
  std::vector<SweepStats> before;
  for (const Way &way : ways)
    before.push_back(way.sweeper.stats());
  for (int run = 0; run < runs; ++run) {
    for (std::size_t i = 0; i < ways.size(); ++i) {
      const double began = cpu_us();
      const auto tree = ways[i].sweeper.sweep(pass);
      times[i].push_back(cpu_us() - began);
      if (!tree)
        return tree.error();
      if (!tree->complete)
        return Error{.what = tree->incomplete_reason};
      figures[i].contexts = static_cast<double>(tree->contexts.size());
    }
  }
  for (std::size_t i = 0; i < ways.size(); ++i) {
    const SweepStats after = ways[i].sweeper.stats();
    figures[i].us = median(times[i]);
    figures[i].blocks = static_cast<double>(after.blocks - before[i].blocks) / runs;
    figures[i].chunks = static_cast<double>(after.chunks - before[i].chunks) / runs;
  }
  return figures;
}

std::vector<double> bare_us(std::span<Way> ways, int runs)
{
  std::vector<std::vector<std::vector<ForeignMemory::Piece>>> reads(ways.size());
  std::vector<std::vector<double>> times(ways.size());
  // One buffer per call, as the sweep has it.
  std::vector<std::byte> buffer;
  for (const Way &way : ways)
    for (const auto &call : way.memory.calls) {
      std::size_t total = 0;
      for (const auto &[address, size] : call)
        total += size;
      buffer.resize(std::max(buffer.size(), total));
    }
  for (std::size_t i = 0; i < ways.size(); ++i)
    for (const auto &call : ways[i].memory.calls) {
      auto &pieces = reads[i].emplace_back();
      std::span<std::byte> rest = buffer;
      for (const auto &[address, size] : call) {
        pieces.push_back({.address = address, .into = rest.first(size)});
        rest = rest.subspan(size);
      }
    }
  for (int run = 0; run < runs; ++run) {
    for (std::size_t i = 0; i < ways.size(); ++i) {
      const double began = cpu_us();
      for (auto &pieces : reads[i])
        (void)ways[i].bare->read(pieces);
      times[i].push_back(cpu_us() - began);
    }
  }
  std::vector<double> medians;
  for (auto &of_way : times)
    medians.push_back(median(std::move(of_way)));
  return medians;
}

void print_lines(const char *what, const char *pass, std::span<const Way> ways,
                 const std::vector<Figure> &figures)
{
  for (std::size_t i = 0; i < ways.size(); ++i)
    fmt::print("{:>10}  {:<8}{:<7}{:9.1f} us  {:6.0f} contexts  {:.3f} us/context\n", what, pass,
               ways[i].name, figures[i].us, figures[i].contexts,
               figures[i].us / figures[i].contexts);
}

Result<> print_passes(const char *what, const ServerProcess &process,
                      const std::shared_ptr<DirectMap> &direct, const Options &options)
{
  std::vector<Way> ways;
  ways.reserve(2); // they stay where they are
  ways.emplace_back("readv", process, nullptr);
  if (direct)
    ways.emplace_back("direct", process, direct);

  auto first = measure(ways, Pass::header, 1);
  if (!first)
    return first.error();
  print_lines(what, "first", ways, *first);
  if (auto again = measure(ways, Pass::header, 1); !again)
    return again.error();
  for (Way &way : ways)
    way.memory.noting = true;
  if (auto noted = measure(ways, Pass::header, 1); !noted)
    return noted.error();
  for (Way &way : ways)
    way.memory.noting = false;

  const auto header = measure(ways, Pass::header, options.runs);
  const auto exact = measure(ways, Pass::exact, options.runs);
  const auto changed = measure(ways, Pass::changed, options.runs);
  if (!header || !exact || !changed)
    return (!header ? header : !exact ? exact : changed).error();
  const auto bare = bare_us(ways, options.runs);
  for (std::size_t i = 0; i < ways.size(); ++i) {
    std::size_t pieces = 0;
    for (const auto &call : ways[i].memory.calls)
      pieces += call.size();
    fmt::print("{:>10}  {:<8}{:<7}{:9.1f} us  {:6} pieces    {:.3f} us/context\n", what, "bare",
               ways[i].name, bare[i], pieces, bare[i] / (*header)[i].contexts);
  }
  print_lines(what, "header", ways, *header);
  print_lines(what, "changed", ways, *changed);
  for (std::size_t i = 0; i < ways.size(); ++i) {
    const Figure &figure = (*exact)[i];
    const double pieces = figure.blocks + figure.chunks;
    const double budget = 3 * figure.contexts + 0.2 * pieces;
    fmt::print("{:>10}  {:<8}{:<7}{:9.1f} us  {:6.0f} contexts  {:6.0f} blocks  {:6.0f} free "
               "chunks  {:.3f} us/context  {:.3f} us/piece  {:.0f}% of the budget\n",
               what, "exact", ways[i].name, figure.us, figure.contexts, figure.blocks,
               figure.chunks, figure.us / figure.contexts, figure.us / pieces,
               100 * figure.us / budget);
  }
  return Ok{};
}

// Catalogue entries of tables that are gone again: free chunks all over CacheMemoryContext.
void make_holes(test::Session &session, int tables)
{
  const auto for_each_table = [&](const std::string &statement) {
    session.exec(fmt::format("DO $$BEGIN FOR i IN 1..{} LOOP EXECUTE format('{}', i); END LOOP; "
                             "END$$",
                             tables, statement));
  };
  session.exec("SET client_min_messages = error");
  for_each_table("CREATE TABLE t%s (a int PRIMARY KEY, b text, c numeric DEFAULT 1)");
  for_each_table("SELECT count(*) FROM t%s WHERE a = 1");
  for_each_table("DROP TABLE t%s");
}

Result<> run(const Options &options)
{
  auto cluster = test::PostgresCluster::start({.conf = {"max_locks_per_transaction = 4096"}});
  if (!cluster)
    return cluster.error();
  auto plain = (*cluster)->connect();
  auto many = (*cluster)->connect();
  auto holey = (*cluster)->connect();
  plain.exec("SELECT count(*) FROM pg_class");
  for (int i = 0; i < options.statements; ++i)
    many.exec(fmt::format("PREPARE s{} AS SELECT relname FROM pg_class WHERE oid = $1", i));
  make_holes(holey, options.tables);

  auto servers = ServerList::find(
      {.selection = {.pids = {(*cluster)->postmaster_pid()}}, .postgres_btf = {}, .proc = Proc()});
  if (!servers)
    return servers.error();
  const auto direct = DirectMap::load();
  if (!direct)
    fmt::print("not measured: {}\n", to_string(direct.error()));
  for (const auto &[what, session] :
       {std::pair{"plain", &plain}, std::pair{"prepared", &many}, std::pair{"holes", &holey}}) {
    const ServerProcess *process = servers->find_process(session->backend_pid());
    if (process == nullptr)
      return Error{.what = "find the backend"};
    if (auto result = print_passes(what, *process, direct ? *direct : nullptr, options); !result)
      return result;
  }
  return Ok{};
}

} // namespace

} // namespace pgmemtrace

int main(int argc, char **argv)
{
  pgmemtrace::Options options;
  CLI::App app("What a sweep costs");
  app.add_option("--statements", options.statements, "Prepared statements of one backend")
      ->capture_default_str();
  app.add_option("--tables", options.tables, "Tables made and dropped, for free chunks")
      ->capture_default_str();
  app.add_option("--runs", options.runs, "Sweeps per figure")->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  if (const auto result = pgmemtrace::run(options); !result) {
    fmt::print(stderr, "error: {}\n{}\n", to_string(result.error()), result.error().hint);
    return 1;
  }
  return 0;
}
