// SPDX-License-Identifier: BSD-2-Clause
// sweep_bench.cpp - what a sweep costs, per context and per block or free chunk.
//
// Starts a private server, gives one backend prepared statements (contexts) and holes in
// its memory (free chunks), and sweeps it over and over: the header pass, the pass over what
// changed, and the exact pass, which is charged 3 us per context; the rest of its time is
// shared out over blocks and free chunks.  CPU time of this thread, median of the runs.
//
// "bare" is the header pass without us: the same pieces in the same system calls.  What the
// kernel takes to look up and pin a page differs between machines by more than our own part.
#include <algorithm>
#include <cstdio>
#include <ctime>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

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

struct Figure {
  double us = 0; // per sweep
  double contexts = 0, blocks = 0, chunks = 0, retries = 0;
};

Result<Figure> measure(Sweeper &sweeper, Pass pass, int runs)
{
  std::vector<double> times;
  const SweepStats before = sweeper.stats();
  double contexts = 0;
  for (int i = 0; i < runs; ++i) {
    const double began = cpu_us();
    const auto tree = sweeper.sweep(pass);
    times.push_back(cpu_us() - began);
    if (!tree)
      return tree.error();
    if (!tree->complete)
      return Error{.what = tree->incomplete_reason};
    contexts = static_cast<double>(tree->contexts.size());
  }
  std::ranges::sort(times);
  const SweepStats after = sweeper.stats();
  const auto per_run = [&](std::uint64_t from, std::uint64_t to) {
    return static_cast<double>(to - from) / runs;
  };
  return Figure{.us = times[times.size() / 2],
                .contexts = contexts,
                .blocks = per_run(before.blocks, after.blocks),
                .chunks = per_run(before.chunks, after.chunks),
                .retries = per_run(before.retries, after.retries)};
}

void print_line(const char *what, const char *pass, const Figure &figure)
{
  fmt::print("{:>10}  {:<8}{:9.1f} us  {:6.0f} contexts  {:.3f} us/context\n", what, pass,
             figure.us, figure.contexts, figure.us / figure.contexts);
}

// Notes which pieces a sweep reads, call by call.
class NotingMemory final : public ForeignMemory {
public:
  using Call = std::vector<std::pair<std::uint64_t, std::size_t>>; // address, size

  using ForeignMemory::ForeignMemory;

  Result<> read(std::span<Piece> pieces) override
  {
    Call &call = calls.emplace_back();
    for (const Piece &piece : pieces)
      call.emplace_back(piece.address, piece.into.size());
    return ForeignMemory::read(pieces);
  }

  std::vector<Call> calls;
};

double bare_us(pid_t pid, const std::vector<NotingMemory::Call> &calls, int runs)
{
  ForeignMemory memory(pid);
  std::vector<std::vector<ForeignMemory::Piece>> reads;
  std::vector<std::vector<std::byte>> buffers;
  for (const auto &call : calls) {
    auto &pieces = reads.emplace_back();
    for (const auto &[address, size] : call)
      pieces.push_back({.address = address, .into = buffers.emplace_back(size)});
  }
  std::vector<double> times;
  for (int i = 0; i < runs; ++i) {
    const double began = cpu_us();
    for (auto &pieces : reads)
      (void)memory.read(pieces);
    times.push_back(cpu_us() - began);
  }
  std::ranges::sort(times);
  return times[times.size() / 2];
}

Result<> print_passes(const char *what, const ServerProcess &process, const Options &options)
{
  auto noting = std::make_unique<NotingMemory>(process.identity.id.pid);
  NotingMemory &memory = *noting;
  Sweeper sweeper(process.binary->layout,
                  process.binary->globals.top_memory_context + process.load_bias,
                  std::move(noting));
  if (auto first = measure(sweeper, Pass::header, 1); !first)
    return first.error();
  else
    print_line(what, "first", *first);
  if (auto again = measure(sweeper, Pass::header, 1); !again)
    return again.error();
  memory.calls.clear();
  if (auto noted = measure(sweeper, Pass::header, 1); !noted)
    return noted.error();
  const auto calls = memory.calls;
  std::size_t pieces_read = 0;
  for (const auto &call : calls)
    pieces_read += call.size();
  const auto header = measure(sweeper, Pass::header, options.runs);
  const auto exact = measure(sweeper, Pass::exact, options.runs);
  const auto changed = measure(sweeper, Pass::changed, options.runs);
  if (!header || !exact || !changed)
    return (!header ? header : !exact ? exact : changed).error();
  const double bare = bare_us(process.identity.id.pid, calls, options.runs);
  fmt::print("{:>10}  bare    {:9.1f} us  {:6} pieces    {:.3f} us/context\n", what, bare,
             pieces_read, bare / header->contexts);
  print_line(what, "header", *header);
  print_line(what, "changed", *changed);
  const double pieces = exact->blocks + exact->chunks;
  const double budget = 3 * exact->contexts + 0.2 * pieces;
  fmt::print("{:>10}  exact   {:9.1f} us  {:6.0f} contexts  {:6.0f} blocks  {:6.0f} free chunks  "
             "{:.3f} us/context  {:.3f} us/piece  {:.0f}% of the budget\n",
             what, exact->us, exact->contexts, exact->blocks, exact->chunks,
             exact->us / exact->contexts, exact->us / pieces, 100 * exact->us / budget);
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
  for (const auto &[what, session] :
       {std::pair{"plain", &plain}, std::pair{"prepared", &many}, std::pair{"holes", &holey}}) {
    const ServerProcess *process = servers->find_process(session->backend_pid());
    if (process == nullptr)
      return Error{.what = "find the backend"};
    if (auto result = print_passes(what, *process, options); !result)
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
