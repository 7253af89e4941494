// SPDX-License-Identifier: BSD-2-Clause
// overhead_bench.cpp - what each level costs a server, measured in pairs in one run.
//
// The machine may be noisy and drift: every figure is the median over rounds of off / on /
// off, the difference to the mean of the two neighbours.  What a trap costs differs between
// machines by a factor of two and more, so that point and tpcb are measured with empty programs
// at the same sites, too: the rest is ours.  Writes one JSON object per part to stdout, a line
// for people to stderr.  Methods: facts/uprobe_costs.md of the design.
//
//   point   pipelined prepared point queries, one Sync each, one session
//   calls   point, by call of palloc, pfree, repalloc, reset: level alloc beside level block
//   loop    a PL/pgSQL loop of SELECTs, one session
//   tpcb    pgbench TPC-B, 8 clients: the server's CPU time per transaction; of three times as long
//   sends   a process that is none of ours: a send to itself, which the tracepoint sees
//   attach  200 backends: attach and detach
//   daemon  200 idle backends: the daemon's own CPU and memory
//   rivals  point, with bpftrace counting at the entries of the same functions
//   extension  point, on a server that preloads our extension, beside one that does not; nobody
//              watches
#include <algorithm>
#include <chrono>
#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <sys/socket.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <bpf/libbpf.h>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "attach/calibrate.h"
#include "attach/kernel_maps.h"
#include "attach/planner.h"
#include "attach/probes.h"
#include "attach/servers.h"
#include "calibrate.skel.h"
#include "support/daemon.h"
#include "support/postgres_cluster.h"
#include "support/postgres_copy.h"
#include "util/file.h"

namespace pgmemtrace::bench {

namespace {

using Seconds = std::chrono::duration<double>;
using test::PostgresCluster;
using test::Session;

double now() { return Seconds(std::chrono::steady_clock::now().time_since_epoch()).count(); }

template <typename T> T must(Result<T> result)
{
  if (result)
    return std::move(*result);
  std::cerr << "error: " << to_string(result.error()) << '\n';
  exit(3);
}

// ---- statistics ---------------------------------------------------------------

struct Spread {
  double median = 0, low = 0, high = 0; // quartiles
};

Spread spread(std::vector<double> values)
{
  std::sort(values.begin(), values.end());
  const auto at = [&](double share) {
    return values[static_cast<std::size_t>(share * static_cast<double>(values.size() - 1))];
  };
  return {at(0.5), at(0.25), at(0.75)};
}

struct Added {
  Spread base, added;
};

// off / on / off, `rounds` times; `measure` gives the figure of one stretch.
Added pairs(int rounds, const std::function<double()> &measure,
            const std::function<void(bool)> &turn)
{
  std::vector<double> base, added;
  measure(); // warm up
  double before = measure();
  for (int round = 0; round < rounds; ++round) {
    turn(true);
    const double on = measure();
    turn(false);
    const double after = measure();
    base.push_back((before + after) / 2);
    added.push_back(on - base.back());
    before = after;
  }
  return {spread(base), spread(added)};
}

nlohmann::json report(const std::string &part, const std::string &what, const std::string &unit,
                      const Added &result)
{
  const double ratio = (result.base.median + result.added.median) / result.base.median;
  fmt::print(stderr, "{:<8} {:<34} base {:>9.2f} {}  added {:>8.2f} [{:.2f} .. {:.2f}]  {:.3f}x\n",
             part, what, result.base.median, unit, result.added.median, result.added.low,
             result.added.high, ratio);
  return {{"part", part},
          {"what", what},
          {"unit", unit},
          {"base", result.base.median},
          {"added", result.added.median},
          {"added_q1", result.added.low},
          {"added_q3", result.added.high},
          {"ratio", ratio}};
}

// ---- the server and our probes on it --------------------------------------------

// What is attached.  With `starts` all sessions have those of their statements, as one that grows.
struct Watch {
  Level level;
  bool starts = false;

  std::string name() const
  {
    return fmt::format("level {}{}", to_string(level), starts ? ", growing" : "");
  }
};

struct Bench {
  int rounds;
  double stretch;            // seconds
  std::vector<Level> wanted; // empty: all
  std::unique_ptr<PostgresCluster> cluster;
  std::unique_ptr<ServerList> servers;
  KernelMaps maps{{}};
  std::unique_ptr<Probes> probes;
  std::unique_ptr<test::Daemon> recorder;

  // Those of `all` that were asked for.
  std::vector<Watch> asked_for(std::vector<Watch> all) const
  {
    if (!wanted.empty())
      std::erase_if(all, [&](Watch one) { return std::ranges::count(wanted, one.level) == 0; });
    return all;
  }
  void watch(Watch one)
  {
    level(one.level);
    if (!one.starts)
      return;
    servers->refresh();
    for (const auto &[id, process] : servers->processes())
      must(probes->attach_starts(id.pid));
  }
  void level(Level level)
  {
    if (auto done = probes->set_level(level); !done)
      must(std::move(done));
  }
  // `pgmemtrace record` itself: what a stack costs depends on whether its walk was proven.
  void record(bool on)
  {
    recorder.reset();
    if (!on)
      return;
    recorder = must(test::Daemon::start({"record", "--pid",
                                         std::to_string(cluster->postmaster_pid()), "--duration",
                                         "10m", "-o", cluster->socket_directory() / "recording"}));
    recorder->wait_for_line([](const std::string &line) { return line.starts_with("recording"); },
                            std::chrono::seconds(30), test::Daemon::Stream::err);
  }
  std::uint64_t hits(pgmt_probe probe) const
  {
    std::uint64_t sum = 0;
    for (const auto &process : maps.processes())
      sum += process.hits[probe];
    return sum;
  }
};

void attach(Bench &bench)
{
  Selection selection;
  selection.pids = {bench.cluster->postmaster_pid()};
  bench.servers = std::make_unique<ServerList>(must(
      ServerList::find({.selection = std::move(selection), .postgres_btf = {}, .proc = Proc()})));
  const auto &binary = *bench.servers->binaries().front();
  bench.probes = std::make_unique<Probes>(
      must(Probes::load(binary, plan_probes(*binary.elf), bench.maps, {.binary_index = 1})));
  for (const auto &[pid, server] : bench.servers->servers())
    must(bench.probes->add_server(pid, server.load_bias));
}

// Programs that do nothing where ours would be: what the traps alone cost.
class EmptyProbes {
public:
  explicit EmptyProbes(const Bench &bench)
      : binary_(*bench.servers->binaries().front()), plan_(plan_probes(*binary_.elf))
  {
    std::size_t size = 0;
    const void *bytes = calibrate_bpf::elf_bytes(&size);
    object_.reset(bpf_object__open_mem(bytes, size, nullptr));
    program_ = bpf_object__find_program_by_name(object_.get(), "calibrate_multi");
    sends_ = bpf_object__find_program_by_name(object_.get(), "calibrate_send");
    bpf_program__set_autoload(program_, true);
    bpf_program__set_autoload(sends_, true);
    if (bpf_object__load(object_.get()) != 0)
      must(Result<Ok>(Error{"load the empty program", errno}));
  }

  void attach(Watch watch)
  {
    std::vector<unsigned long> offsets;
    send_link_.reset(bpf_program__attach(sends_)); // settle: no trap
    for (const auto &site : plan_.sites)
      if (ours(site, watch))
        offsets.push_back(site.file_offset);
    bpf_uprobe_multi_opts multi{};
    multi.sz = sizeof(multi);
    multi.offsets = offsets.data();
    multi.cnt = offsets.size();
    link_.reset(
        bpf_program__attach_uprobe_multi(program_, -1, binary_.open_path.c_str(), nullptr, &multi));
    if (!link_ || !send_link_)
      must(Result<Ok>(Error{"attach the empty program", errno}));
  }
  void detach()
  {
    link_.reset();
    send_link_.reset();
  }

private:
  static bool ours(const ProbeSite &site, Watch watch)
  {
    switch (site.probe) {
    case PGMT_PROBE_XACT:
    case PGMT_PROBE_SETTLE: return false;
    case PGMT_PROBE_START:
    case PGMT_PROBE_END:
    case PGMT_PROBE_UTILITY: return watch.starts;
    default: return level_of(site.probe) <= watch.level && !(site.block && site.block->record_only);
    }
  }

  struct Free {
    void operator()(bpf_object *object) const { bpf_object__close(object); }
    void operator()(bpf_link *link) const { bpf_link__destroy(link); }
  };
  const Binary &binary_;
  Plan plan_;
  std::unique_ptr<bpf_object, Free> object_;
  bpf_program *program_ = nullptr, *sends_ = nullptr;
  std::unique_ptr<bpf_link, Free> link_, send_link_;
};

// Our probes at each of `levels`, and recording every block: by the second stretch its stacks are
// known.
void levels(Bench &bench, nlohmann::json &out, const std::string &part, int rounds,
            const std::vector<Watch> &watches, const std::function<double()> &measure)
{
  for (const Watch watch : bench.asked_for(watches))
    out.push_back(report(part, watch.name(), "us", pairs(rounds, measure, [&](bool on) {
                           bench.watch(on ? watch : Watch{Level::sweep});
                         })));
  if (bench.asked_for({{Level::block}}).empty())
    return;
  out.push_back(report(part, "level block, every stack", "us", pairs(rounds, measure, [&](bool on) {
                         bench.record(on);
                         if (on)
                           measure();
                       })));
}

// Each of `all`, with empty programs and with ours.
void every_level(Bench &bench, nlohmann::json &out, const std::string &part, int rounds,
                 const std::vector<Watch> &all, const std::function<double()> &measure)
{
  EmptyProbes empty(bench);
  for (const Watch watch : bench.asked_for(all))
    out.push_back(report(
        part, watch.name() + ", empty programs", "us",
        pairs(rounds, measure, [&](bool on) { on ? empty.attach(watch) : empty.detach(); })));
  levels(bench, out, part, rounds, all, measure);
}

// ---- point queries ----------------------------------------------------------------

class PointQueries {
public:
  explicit PointQueries(const PostgresCluster &cluster) : session_(cluster.connect())
  {
    PQclear(PQprepare(session_.get(), "s", "SELECT abalance FROM pgbench_accounts WHERE aid = $1",
                      1, nullptr));
  }

  long queries() const { return queries_; }

  // Microseconds per query over `stretch` seconds.
  double run(double stretch)
  {
    PGconn *c = session_.get();
    const double begin = now();
    double end = begin;
    const long before = queries_;
    while ((end = now()) - begin < stretch) {
      PQenterPipelineMode(c);
      for (int i = 0; i < kBatch; ++i) {
        seed_ = seed_ * 1103515245 + 12345;
        const std::string aid = std::to_string((seed_ >> 16) % 100000 + 1);
        const char *values[] = {aid.c_str()};
        PQsendQueryPrepared(c, "s", 1, values, nullptr, nullptr, 0);
        PQpipelineSync(c);
      }
      PQflush(c);
      for (int i = 0; i < kBatch; ++i, ++queries_) {
        while (PGresult *row = PQgetResult(c))
          PQclear(row);
        PQclear(PQgetResult(c)); // the Sync
      }
      PQexitPipelineMode(c);
    }
    return (end - begin) * 1e6 / static_cast<double>(queries_ - before);
  }

private:
  static constexpr int kBatch = 50;
  Session session_;
  unsigned long seed_ = 1;
  long queries_ = 0;
};

void point(Bench &bench, nlohmann::json &out)
{
  PointQueries client(*bench.cluster);
  every_level(bench, out, "point", bench.rounds,
              {{Level::request},
               {Level::statement},
               {Level::statement, true},
               {Level::block},
               {Level::alloc}},
              [&] { return client.run(bench.stretch); });
}

// What each palloc, pfree, repalloc, reset costs: level alloc, less the level block in it.
void calls(Bench &bench, nlohmann::json &out)
{
  PointQueries client(*bench.cluster);
  const auto measure = [&] { return client.run(bench.stretch); };
  bench.level(Level::alloc);
  const auto hits = bench.hits(PGMT_PROBE_ALLOC);
  measure();
  const double each = static_cast<double>(client.queries()) /
                      static_cast<double>(bench.hits(PGMT_PROBE_ALLOC) - hits);
  fmt::print(stderr, "calls    {:.1f} calls a query\n", 1 / each);
  bench.level(Level::sweep);
  const auto per_call = [&] { return measure() * each; };
  {
    EmptyProbes empty(bench);
    empty.attach({Level::block});
    out.push_back(report("calls", "level alloc, empty programs", "us",
                         pairs(bench.rounds, per_call, [&](bool on) {
                           empty.attach({on ? Level::alloc : Level::block});
                         })));
  }
  bench.level(Level::block);
  out.push_back(report("calls", "level alloc", "us", pairs(bench.rounds, per_call, [&](bool on) {
                         bench.level(on ? Level::alloc : Level::block);
                       })));
  bench.level(Level::sweep);
}

// bpftrace counting by pid at the same functions' entries: what people do by hand.
void rivals(Bench &bench, nlohmann::json &out)
{
  if (test::run_command({"bpftrace", "--version"}, {}).status != 0) {
    fmt::print(stderr,
               "rivals   not measured: there is no bpftrace (scripts/install-deps.sh bench)\n");
    return;
  }
  PointQueries client(*bench.cluster);
  std::unique_ptr<test::ChildProcess> tracer;
  const std::string binary = bench.cluster->bin("postgres").string();
  const auto turn = [&](const std::string &functions, bool on) {
    if (!on) {
      tracer->signal(2);
      tracer->wait(std::chrono::seconds(60));
      tracer.reset();
      return;
    }
    std::string program;
    for (std::size_t from = 0; from < functions.size();) {
      const auto to = std::min(functions.find(' ', from), functions.size());
      program += fmt::format("uprobe:{}:{} {{ @hits[pid] = count(); }} ", binary,
                             functions.substr(from, to - from));
      from = to + 1;
    }
    tracer = std::make_unique<test::ChildProcess>(must(test::ChildProcess::spawn(
        {"bpftrace", "-e", program}, {.out = STDERR_FILENO, .err = STDERR_FILENO})));
    // It is attached when the queries feel it or a moment has passed; it prints "Attaching"
    // before it has, so that only a fixed, generous time is left.
    std::this_thread::sleep_for(std::chrono::seconds(3));
  };
  const std::vector<std::pair<std::string, std::string>> sets{
      {"bpftrace, the same 3 boundaries",
       "standard_ExecutorStart standard_ExecutorEnd ReadyForQuery"},
      {"bpftrace, palloc and pfree", "palloc palloc0 MemoryContextAlloc MemoryContextAllocZero "
                                     "MemoryContextAllocZeroAligned pfree"}};
  for (const auto &set : sets)
    out.push_back(
        report("rivals", set.first, "us",
               pairs(
                   std::max(2, bench.rounds / 4), [&] { return client.run(bench.stretch); },
                   [&](bool on) { turn(set.second, on); })));
}

// ---- a PL/pgSQL loop ----------------------------------------------------------------

void loop(Bench &bench, nlohmann::json &out)
{
  Session session = bench.cluster->connect();
  const std::string block = "DO $$ DECLARE n int; BEGIN FOR i IN 1..20000 LOOP "
                            "SELECT abalance INTO n FROM pgbench_accounts WHERE aid = i; "
                            "END LOOP; END $$";
  const auto run = [&] {
    const double begin = now();
    session.exec(block);
    return (now() - begin) * 1e6 / 20000;
  };
  levels(bench, out, "loop", bench.rounds,
         {{Level::request}, {Level::statement}, {Level::statement, true}, {Level::block}}, run);
}

// ---- a bulk load ---------------------------------------------------------------------

// Microseconds per row: few statements, many blocks.
void load(Bench &bench, nlohmann::json &out)
{
  constexpr int kRows = 100'000;
  Session session = bench.cluster->connect();
  session.exec("CREATE UNLOGGED TABLE loaded (id int, v text)");
  const auto run = [&] {
    session.exec("TRUNCATE loaded");
    const double begin = now();
    session.exec("INSERT INTO loaded SELECT g, md5(g::text) FROM generate_series(1, " +
                 std::to_string(kRows) + ") g");
    session.exec("CREATE INDEX loaded_v ON loaded (v)");
    const double took = now() - begin;
    session.exec("DROP INDEX loaded_v");
    return took * 1e6 / kRows;
  };
  levels(bench, out, "load", bench.rounds, {{Level::statement}, {Level::block}}, run);
}

// ---- pgbench --------------------------------------------------------------------------

test::ChildProcess start_pgbench(const PostgresCluster &cluster, std::vector<std::string> args)
{
  args.insert(args.begin(), "pgbench");
  args.emplace_back("postgres");
  return must(cluster.spawn_client(std::move(args)));
}

void pgbench(const PostgresCluster &cluster, const std::vector<std::string> &args)
{
  if (start_pgbench(cluster, args).wait(std::chrono::minutes(5)) == 0)
    return;
  std::cerr << "error: pgbench failed\n";
  exit(3);
}

// pgbench's default script on sessions that stay: what it costs the server, between two looks.
class TpcB {
public:
  explicit TpcB(const Bench &bench)
      : bench_(bench), session_(bench.cluster->connect()),
        pgbench_(start_pgbench(*bench.cluster, {"-n", "-c", "8", "-j", "2", "-T", "3600"}))
  {
  }
  // Microseconds of the server's CPU time per transaction over `stretch` seconds.
  double run(double stretch)
  {
    const auto before = look();
    std::this_thread::sleep_for(Seconds(stretch));
    const auto after = look();
    return (after.cpu_ns - before.cpu_ns) * 1e-3 / (after.transactions - before.transactions);
  }

private:
  struct Look {
    double cpu_ns = 0, transactions = 0;
  };
  // Each transaction takes a number.
  Look look()
  {
    Look look{.transactions =
                  std::stod(session_.value("SELECT pg_snapshot_xmax(pg_current_snapshot())"))};
    const Proc proc;
    for (pid_t pid : proc.pids())
      if (const auto stat = proc.stat(pid); stat && stat->ppid == bench_.cluster->postmaster_pid())
        look.cpu_ns += std::stod("0" + test::read_text(proc.path(pid, "schedstat")));
    return look;
  }

  const Bench &bench_;
  Session session_;
  test::ChildProcess pgbench_; // killed at the end
};

void tpcb(Bench &bench, nlohmann::json &out)
{
  TpcB load(bench);
  load.run(5); // its sessions come
  every_level(bench, out, "tpcb", std::max(bench.rounds, 20),
              {{Level::request}, {Level::statement}, {Level::statement, true}, {Level::block}},
              [&] { return load.run(3 * bench.stretch); });
}

// ---- other processes ------------------------------------------------------------------------

void sends(Bench &bench, nlohmann::json &out)
{
  constexpr int kSends = 100'000;
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, ends) != 0)
    must(Result<Ok>(Error{"make a pair of sockets", errno}));
  const UniqueFd to(ends[0]), from(ends[1]);
  const auto run = [&] {
    const double begin = now();
    for (int i = 0; i < kSends; ++i) {
      char byte = 0;
      if (send(to.get(), &byte, 1, 0) != 1 || recv(from.get(), &byte, 1, 0) != 1)
        must(Result<Ok>(Error{"send a byte", errno}));
    }
    return (now() - begin) * 1e6 / kSends;
  };
  out.push_back(report(
      "sends", "a stranger's, at level request", "us",
      pairs(bench.rounds, run, [&](bool on) { bench.level(on ? Level::request : Level::sweep); })));
}

// ---- attach, detach ---------------------------------------------------------------------

void attach_time(Bench &bench, nlohmann::json &out)
{
  std::vector<Session> sessions;
  for (int i = 0; i < 200; ++i)
    sessions.push_back(bench.cluster->connect());
  std::vector<double> attached, detached;
  for (int round = 0; round < 5; ++round) {
    const double begin = now();
    bench.level(Level::statement);
    const double middle = now();
    bench.level(Level::sweep);
    attached.push_back((middle - begin) * 1e3);
    detached.push_back((now() - middle) * 1e3);
  }
  const auto on = spread(attached), off = spread(detached);
  fmt::print(
      stderr,
      "attach   200 backends, level statement: attached in {:.0f} ms, detached in {:.0f} ms\n",
      on.median, off.median);
  out.push_back(
      {{"part", "attach"}, {"backends", 200}, {"attach_ms", on.median}, {"detach_ms", off.median}});
}

// ---- the daemon itself ------------------------------------------------------------------

// 200 idle backends of about 100 contexts each, default interval.
void daemon(Bench &bench, nlohmann::json &out)
{
  bench.level(Level::sweep);
  std::vector<Session> sessions;
  for (int i = 0; i < 200; ++i) {
    sessions.push_back(bench.cluster->connect());
    sessions.back().exec("SELECT count(*) FROM pg_stat_activity");
  }
  auto daemon = must(test::Daemon::start({"--pid", std::to_string(bench.cluster->postmaster_pid()),
                                          "--format", "json", "--listen", "127.0.0.1:0"}));
  const Proc proc;
  const auto cpu = [&] {
    const auto stat = proc.stat(daemon->pid());
    return stat ? static_cast<double>(stat->cpu_ticks) / static_cast<double>(sysconf(_SC_CLK_TCK))
                : 0;
  };
  daemon->wait_for_json([](const nlohmann::json &line) { return line["type"] == "status"; });
  std::this_thread::sleep_for(std::chrono::seconds(10)); // baseline and backing off
  const double before = cpu(), begin = now();
  std::this_thread::sleep_for(std::chrono::seconds(60));
  const double share = (cpu() - before) / (now() - begin);
  const auto peak_kib = proc.memory(daemon->pid()).value_or(Proc::Memory{});
  const auto status = test::read_text(proc.path(daemon->pid(), "status"));
  const auto at = status.find("VmHWM:");
  const double rss = at == std::string::npos ? 0 : std::atof(status.c_str() + at + 6) / 1024;
  std::size_t contexts = 0;
  for (const auto &line : daemon->json_lines())
    if (line["type"] == "status")
      contexts = line["contexts"];
  fmt::print(stderr,
             "daemon   200 backends, {} contexts: {:.2f}% of a core, {:.1f} MiB resident at most "
             "({:.1f} MiB private)\n",
             contexts, share * 100, rss, static_cast<double>(peak_kib.anon_bytes) / 1048576);
  out.push_back(
      {{"part", "daemon"}, {"contexts", contexts}, {"cpu_share", share}, {"peak_rss_mib", rss}});
}

// ---- the extension ------------------------------------------------------------------------

// Servers differ by where their memory happens to lie: how much, a second one like the first tells.
void extension(Bench &bench, nlohmann::json &out)
{
  const auto copy = must(test::PostgresCopy::make(must(test::major_under_test())));
  const auto start = [&](const std::string &preloaded) {
    auto options = copy->options();
    options.conf = {"shared_buffers = '256MB'", "autovacuum = off",
                    "shared_preload_libraries = '" + preloaded + "'"};
    auto server = must(PostgresCluster::start(options));
    pgbench(*server, {"-i", "-q"});
    return server;
  };
  const auto plain = start("");
  PointQueries beside(*plain);
  const std::vector<std::pair<std::string, std::string>> servers{
      {"another server without it", ""}, {"loaded, nobody watches", "pgmemtrace"}};
  for (const auto &[what, preloaded] : servers) {
    const auto server = start(preloaded);
    PointQueries client(*server);
    client.run(bench.stretch); // warm up
    PointQueries *asked = &beside;
    out.push_back(report("extension", what, "us",
                         pairs(
                             bench.rounds, [&] { return asked->run(bench.stretch); },
                             [&](bool on) { asked = on ? &client : &beside; })));
  }
}

} // namespace

} // namespace pgmemtrace::bench

int main(int argc, char **argv)
{
  using namespace pgmemtrace;
  using namespace pgmemtrace::bench;

  CLI::App app("What each level costs a PostgreSQL server");
  int rounds = 12;
  double stretch = 0.4;
  std::vector<std::string> parts{"point", "loop",   "load",   "tpcb",   "calls",
                                 "sends", "attach", "daemon", "rivals", "extension"};
  app.add_option("--rounds", rounds, "Pairs of off and on")->capture_default_str();
  app.add_option("--stretch", stretch, "Seconds of each stretch of point queries")
      ->capture_default_str();
  std::vector<Level> wanted;
  app.add_option("--levels", wanted, "Of point, loop, load and tpcb only these levels")
      ->delimiter(',')
      ->transform(
          CLI::CheckedTransformer(std::map<std::string, Level>{{"request", Level::request},
                                                               {"statement", Level::statement},
                                                               {"block", Level::block},
                                                               {"alloc", Level::alloc}}));
  app.add_option("--parts", parts, "Which parts to run")->delimiter(',')->capture_default_str();
  CLI11_PARSE(app, argc, argv);

  Bench bench{.rounds = rounds, .stretch = stretch, .wanted = std::move(wanted)};
  bench.cluster = must(test::PostgresCluster::start(
      {.conf = {"shared_buffers = '256MB'", "max_connections = 250", "autovacuum = off",
                "max_wal_size = '4GB'", "checkpoint_timeout = '1h'"}}));
  // pgbench's manual: no smaller than there are clients.
  pgbench(*bench.cluster, {"-i", "-q", "-s", "10"});
  attach(bench);

  auto out = nlohmann::json::array();
  const std::vector<std::pair<std::string, void (*)(Bench &, nlohmann::json &)>> all{
      {"point", point},   {"calls", calls},        {"loop", loop},          {"load", load},
      {"tpcb", tpcb},     {"sends", sends},        {"attach", attach_time}, {"daemon", daemon},
      {"rivals", rivals}, {"extension", extension}};
  for (const auto &[name, run] : all)
    if (std::find(parts.begin(), parts.end(), name) != parts.end())
      run(bench, out);
  std::cout << out.dump(2) << '\n';
  return 0;
}
