// SPDX-License-Identifier: BSD-2-Clause
// block_test.cpp - level block on a live server: its bytes are the server's own, its stacks lead
// to the code that asked, and nothing of it stays behind.
#include <csignal>
#include <map>
#include <string>
#include <vector>

#include <bpf/bpf.h>
#include <gmock/gmock.h>

#include "collect/block_reader.h"
#include "collect/sweep.h"
#include "stack_copies.h"
#include "support/kernel.h"
#include "support/runtime_test.h"
#include "symbols/frame_pointers.h"
#include "symbols/symbolizer.h"

namespace pgmemtrace::test {
namespace {

using nlohmann::json;
using testing::Contains;
using testing::Pair;

// ---- the kernel half alone -----------------------------------------------------------

// With the stacks that had to be copied.
class BlockKernel : public Kernel {
public:
  BlockKernel(const PostgresCluster &cluster, Level level, KernelMaps::Options maps = {},
              Probes::Options probes = {})
      : Kernel(cluster, level, maps, with_frame_pointers(cluster, std::move(probes))),
        symbols_({.proc = Proc(), .modules = {}, .debug_files = {}})
  {
    auto copies = StackCopies::create(this->maps(), symbols_, [this](pid_t pid) {
      servers().refresh();
      const auto *process = servers().find_process(pid);
      return Symbolizer::Target{process ? process->identity.id : ProcessId{pid, 0}, {}};
    });
    if (!copies)
      throw std::runtime_error(to_string(copies.error()));
    copies_ = std::move(*copies);
  }
  Symbolizer &symbols() { return symbols_; }
  StackCopies &copies() { return *copies_; }

private:
  static Probes::Options with_frame_pointers(const PostgresCluster &cluster, Probes::Options probes)
  {
    const auto elf = ElfFile::open(cluster.bin("postgres"));
    probes.frame_pointers = elf && frame_pointers(*elf).kept();
    return probes;
  }

  Symbolizer symbols_;
  std::unique_ptr<StackCopies> copies_;
};

class BlockTest : public RuntimeTest {
protected:
  // Level block on the processes of this test's server; others on the host are refused.
  static std::unique_ptr<BlockKernel> watch(Probes::Options options = {})
  {
    options.select_only = true;
    auto kernel = std::make_unique<BlockKernel>(cluster(), Level::block, KernelMaps::Options{},
                                                std::move(options));
    EXPECT_TRUE(kernel->maps().select(cluster().postmaster_pid(), true));
    return kernel;
  }

  static std::vector<BlockGrowth> growth(BlockKernel &kernel, const Session &session)
  {
    kernel.copies().drain();
    BlockReader blocks(kernel.maps(), [](pid_t pid, std::uint64_t address) {
      return ForeignMemory(pid).read_string(address, 64).value_or("");
    });
    blocks.refresh();
    return blocks.growth(session.backend_pid());
  }

  // Module and function of each frame.
  static std::vector<std::pair<std::string, std::string>>
  frames(BlockKernel &kernel, const Session &session, std::uint64_t stack)
  {
    const auto *process = kernel.servers().find_process(session.backend_pid());
    std::vector<std::pair<std::string, std::string>> out;
    if (!process)
      return out;
    for (const auto &frame :
         kernel.symbols().frames({.process = process->identity.id, .postmaster = {}},
                                 kernel.maps().stack(session.backend_pid(), stack)))
      out.emplace_back(frame.code.module.substr(frame.code.module.rfind('/') + 1), frame.function);
    return out;
  }
};

// What level block counted of one context.
pgmt_context counted(Kernel &kernel, pid_t pid, std::uint64_t address)
{
  const pgmt_context_key key{static_cast<std::uint64_t>(pid), address};
  pgmt_context context{};
  bpf_map_lookup_elem(kernel.maps().contexts_fd(), &key, &context);
  return context;
}

struct Held {
  std::string name;
  std::int64_t total = 0;
  std::int64_t net = 0; // gained - returned
};

std::map<std::uint64_t, Held> held(Kernel &kernel, const Session &session)
{
  std::map<std::uint64_t, Held> out;
  const auto *process = kernel.servers().find_process(session.backend_pid());
  if (!process)
    return out;
  Sweeper sweeper(*process, {});
  const auto tree = sweeper.sweep(Pass::header);
  if (!tree || !tree->complete)
    return out;
  for (const auto &context : tree->contexts) {
    const auto seen = counted(kernel, session.backend_pid(), context.address);
    out[context.address] = {context.name, static_cast<std::int64_t>(context.total_bytes),
                            static_cast<std::int64_t>(seen.gained - seen.returned)};
  }
  return out;
}

void work(Session &session, const std::string &round)
{
  for (int i = 0; i < 30; ++i)
    session.exec("PREPARE kept_" + round + "_" + std::to_string(i) +
                 " AS SELECT count(*) FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid "
                 "JOIN pg_type t ON t.oid = a.atttypid WHERE c.relname = 'r'");
  session.exec("CREATE TEMP TABLE t_" + round +
               " AS SELECT g AS id, repeat('x', 100) AS v FROM generate_series(1, 20000) g");
  session.exec("SELECT count(*) FROM (SELECT v, id FROM t_" + round +
               " ORDER BY v DESC, id OFFSET 0) s");
  session.exec("SELECT array_agg(v) FROM t_" + round); // reallocs of large chunks
  session.exec("SELECT count(*) FROM t_" + round + " a JOIN t_" + round + " b USING (id)");
  EXPECT_FALSE(session.try_exec("SELECT 1 / (g - 5) FROM generate_series(1, 10) g"));
  session.exec("DEALLOCATE kept_" + round + "_7");
}

// The heart of the level: block by block it comes to what the server's own counters say.
TEST_F(BlockTest, gains_less_returns_are_the_change_of_mem_allocated)
{
  auto session = cluster().connect();
  auto kernel = watch({.record_all = true});
  work(session, "warm");
  settle(*kernel, session, 36);
  const auto before = held(*kernel, session);
  ASSERT_FALSE(before.empty());
  work(session, "measured");
  settle(*kernel, session, 72);
  const auto after = held(*kernel, session);
  ASSERT_FALSE(after.empty());

  std::int64_t changed = 0;
  int compared = 0;
  for (const auto &[address, now] : after) {
    const auto was = before.find(address);
    if (was == before.end() || was->second.name != now.name)
      continue; // another context at a recycled address
    EXPECT_EQ(now.net - was->second.net, now.total - was->second.total) << now.name;
    changed += now.total != was->second.total;
    ++compared;
  }
  EXPECT_GT(compared, 20);
  EXPECT_GT(changed, 0);
  EXPECT_EQ(kernel->lost(PGMT_LOSS_BLOCKS_UNSEEN), 0u);
  EXPECT_EQ(kernel->lost(PGMT_LOSS_READ_BLOCK), 0u);
  EXPECT_EQ(kernel->lost(PGMT_LOSS_STACK), 0u);
}

// A site that the planner found no proof for has none.
TEST_F(BlockTest, a_recording_says_what_it_could_not_see)
{
  auto session = cluster().connect();
  const auto without_returns = [](Plan &plan) {
    std::erase_if(plan.sites, [](const ProbeSite &site) {
      return site.block && site.block->kind == PGMT_SITE_RETURN;
    });
  };
  Kernel kernel(cluster(), Level::block, {}, {.record_all = true}, true, without_returns);
  work(session, "unseen");
  EXPECT_GT(kernel.lost(PGMT_LOSS_BLOCKS_UNSEEN), 0u);
  EXPECT_EQ(kernel.lost(PGMT_LOSS_READ_BLOCK), 0u);
}

// Without probes where blocks alone are returned.
TEST_F(BlockTest, what_a_context_returned_is_known_at_its_next_gain)
{
  auto session = cluster().connect();
  auto kernel = watch();
  Kernel recording(cluster(), Level::sweep, {}, {.record_all = true});
  ASSERT_TRUE(recording.probes().set_level(Level::block));
  EXPECT_LT(kernel->probes().attached_sites(PGMT_PROBE_BLOCK),
            recording.probes().attached_sites(PGMT_PROBE_BLOCK));
  ASSERT_TRUE(recording.probes().set_level(Level::sweep));

  work(session, "seen");
  settle(*kernel, session, 36);
  std::uint64_t returned = 0;
  for (const auto &[address, now] : held(*kernel, session)) {
    const auto seen = counted(*kernel, session.backend_pid(), address);
    if (seen.gains == 0)
      continue;
    // What it returned since its last gain is not known yet; what it gained always is.
    EXPECT_GE(static_cast<std::int64_t>(seen.bytes), now.total) << now.name;
    returned += seen.returned;
  }
  EXPECT_GT(returned, 0);
  EXPECT_EQ(kernel->lost(PGMT_LOSS_BLOCKS_UNSEEN), 0u);
  EXPECT_EQ(kernel->lost(PGMT_LOSS_READ_BLOCK), 0u);
}

TEST_F(BlockTest, perf_event_probes_see_the_same)
{
  auto session = cluster().connect();
  auto kernel = watch({.uprobe_multi = false});
  work(session, "perf");
  EXPECT_TRUE(eventually([&] { return !growth(*kernel, session).empty(); }));
  EXPECT_EQ(kernel->lost(PGMT_LOSS_BLOCKS_UNSEEN), 0u);
  EXPECT_EQ(kernel->lost(PGMT_LOSS_READ_BLOCK), 0u);
}

TEST_F(BlockTest, a_stack_leads_to_the_extension_and_the_function_that_asked)
{
  auto session = cluster().connect();
  auto kernel = watch();
  session.exec("DO $$ DECLARE a text[] := '{}'; BEGIN FOR i IN 1..200000 LOOP "
               "a := a || ('item ' || i); END LOOP; END $$");
  kernel->servers().refresh();
  const auto all = growth(*kernel, session);
  const auto most = std::ranges::max_element(all, {}, &BlockGrowth::bytes);
  ASSERT_NE(most, all.end());
  EXPECT_EQ(most->name, "expanded array");
  EXPECT_GT(most->bytes, 4u << 20);
  const auto stack = frames(*kernel, session, most->stack);
  EXPECT_THAT(stack, Contains(Pair("plpgsql.so", "plpgsql_inline_handler")));
  EXPECT_THAT(stack, Contains(Pair("postgres", "PostgresMain")));
}

TEST_F(BlockTest, contexts_made_with_fresh_memory_name_their_maker)
{
  auto session = cluster().connect();
  auto kernel = watch();
  // More than the hundred of a kind that aset.c keeps for reuse.
  for (int i = 0; i < 250; ++i) {
    session.exec("PREPARE made_" + std::to_string(i) + " AS SELECT 1");
    kernel->copies().drain();
  }
  kernel->servers().refresh();
  std::uint64_t made = 0;
  for (const auto &one : growth(*kernel, session)) {
    if (!one.made || one.name != "CachedPlanSource")
      continue;
    made += one.blocks;
    EXPECT_THAT(frames(*kernel, session, one.stack),
                Contains(Pair("postgres", "CreateCachedPlan")));
  }
  EXPECT_GE(made, 100u);
  EXPECT_LE(made, 250u);
}

TEST_F(BlockTest, a_steady_session_takes_no_more_stacks)
{
  auto session = cluster().connect();
  auto kernel = watch();
  const auto round = [&] {
    for (int i = 0; i < 20; ++i)
      session.exec("SELECT count(*), max(relname) FROM pg_class WHERE relpages >= 0");
  };
  // By context, with how many blocks each stack took.
  const auto blocks = [&] {
    std::map<std::string, std::uint64_t> sum;
    for (const auto &one : growth(*kernel, session))
      sum[one.name + (one.made ? " made" : "")] += one.blocks;
    return sum;
  };
  round();
  const auto before = blocks();
  const auto hits = kernel->hits(session, PGMT_PROBE_BLOCK);
  round();
  EXPECT_GT(kernel->hits(session, PGMT_PROBE_BLOCK), hits);
  EXPECT_EQ(blocks(), before);
}

TEST_F(BlockTest, a_process_that_was_not_asked_for_is_not_counted)
{
  auto asked = cluster().connect();
  auto other = cluster().connect();
  BlockKernel kernel(cluster(), Level::block, {}, {.select_only = true});
  ASSERT_TRUE(kernel.maps().select(asked.backend_pid(), false));
  work(other, "other");
  work(asked, "asked");
  EXPECT_FALSE(growth(kernel, asked).empty());
  EXPECT_TRUE(growth(kernel, other).empty());
}

TEST_F(BlockTest, one_process_can_be_raised_and_lowered_again)
{
  auto suspect = cluster().connect();
  auto other = cluster().connect();
  Kernel kernel(cluster(), Level::statement);
  ASSERT_TRUE(kernel.probes().attach_blocks(suspect.backend_pid()));
  EXPECT_GT(kernel.probes().attached_sites(PGMT_PROBE_BLOCK), 0u);
  work(other, "other");
  work(suspect, "suspect");
  const auto hits = kernel.hits(suspect, PGMT_PROBE_BLOCK);
  EXPECT_GT(hits, 0u);
  EXPECT_EQ(kernel.hits(other, PGMT_PROBE_BLOCK), 0u);
  EXPECT_EQ(kernel.lost(PGMT_LOSS_BLOCKS_UNSEEN), 0u);
  kernel.probes().detach_blocks(suspect.backend_pid());
  EXPECT_EQ(kernel.probes().attached_sites(PGMT_PROBE_BLOCK), 0u);
  const auto frozen = kernel.hits(suspect, PGMT_PROBE_BLOCK);
  work(suspect, "lowered");
  EXPECT_EQ(kernel.hits(suspect, PGMT_PROBE_BLOCK), frozen);
}

TEST_F(BlockTest, a_full_map_is_counted)
{
  auto session = cluster().connect();
  BlockKernel kernel(cluster(), Level::block, {.growths = 4, .stacks = 2}, {.select_only = true});
  ASSERT_TRUE(kernel.maps().select(cluster().postmaster_pid(), true));
  work(session, "full");
  EXPECT_LE(growth(kernel, session).size(), 4u);
  EXPECT_GT(kernel.lost(PGMT_LOSS_GROWTHS_FULL), 0u);
  EXPECT_GT(kernel.lost(PGMT_LOSS_STACKS_FULL) + kernel.copies().losses()["stack_copies_not_kept"],
            0u);
}

TEST_F(BlockTest, what_is_of_the_dead_is_dropped)
{
  auto kernel = watch();
  pid_t pid = 0;
  BlockReader blocks(kernel->maps(), [](pid_t, std::uint64_t) { return std::string("name"); });
  {
    auto session = cluster().connect();
    pid = session.backend_pid();
    work(session, "gone");
    kernel->copies().drain();
    blocks.refresh();
    ASSERT_FALSE(blocks.growth(pid).empty());
    blocks.tidy([&](pid_t) { return true; });
    blocks.refresh();
    EXPECT_FALSE(blocks.growth(pid).empty());
  }
  // It may still be ending when the connection is closed.
  EXPECT_TRUE(eventually([&] {
    blocks.tidy([&](pid_t one) { return one != pid; });
    blocks.refresh();
    return kill(pid, 0) != 0 && blocks.growth(pid).empty();
  }));
}

// ---- the daemon -------------------------------------------------------------------------

class BlockRunTest : public RuntimeTest {
protected:
  static std::unique_ptr<Daemon> run(std::vector<std::string> more)
  {
    std::vector<std::string> args{"--pid",      std::to_string(cluster().postmaster_pid()),
                                  "--format",   "json",
                                  "--listen",   "off",
                                  "--interval", "1s"};
    args.insert(args.end(), more.begin(), more.end());
    auto daemon = start_daemon(args);
    if (daemon) {
      EXPECT_TRUE(daemon->wait_for_json([](const json &line) { return line["type"] == "status"; }));
    }
    return daemon;
  }

  // Does `step` until the daemon tells of a context of this session, and by whom it grew.
  template <typename Step>
  static std::optional<json> named(Daemon &daemon, const Session &session,
                                   const std::string &context, Step step)
  {
    std::optional<json> found;
    EXPECT_TRUE(eventually(
        [&] {
          step();
          for (const auto &line : daemon.json_lines())
            if (line["type"] == "violation" && line["server_pid"] == session.backend_pid() &&
                line["state"] != "cleared" && line["context"].is_string() &&
                line["context"].get<std::string>().starts_with(context) && line["stack"].is_array())
              found = line;
          return found.has_value();
        },
        std::chrono::seconds(60)));
    return found;
  }

  static std::vector<std::string> functions(const json &violation)
  {
    std::vector<std::string> out;
    for (const auto &frame : violation["stack"])
      if (frame["function"].is_string())
        out.push_back(frame["function"]);
    return out;
  }

  static auto prepare(Session &session)
  {
    return [&session, statement = 0]() mutable {
      for (int i = 0; i < 40; ++i)
        session.exec("PREPARE leaked_" + std::to_string(statement++) +
                     " AS SELECT count(*) FROM pg_class WHERE relpages = 1");
    };
  }
};

TEST_F(BlockRunTest, names_the_code_of_a_leak_in_the_server)
{
  auto session = cluster().connect();
  auto daemon = run({"--level", "block"});
  ASSERT_TRUE(daemon);
  const auto leak = named(*daemon, session, "CachedPlan", prepare(session));
  ASSERT_TRUE(leak);
  EXPECT_THAT(functions(*leak), Contains("PrepareQuery"));
  EXPECT_EQ((*leak)["module"], "postgres");
  EXPECT_EQ(daemon->stop(), 0);
}

// plpgsql keeps what it compiled of functions that are dropped.
TEST_F(BlockRunTest, names_the_extension_that_leaks)
{
  auto session = cluster().connect();
  auto daemon = run({"--level", "block"});
  ASSERT_TRUE(daemon);
  int function = 0;
  const auto leak = named(*daemon, session, "PL/pgSQL function", [&] {
    for (int i = 0; i < 40; ++i) {
      const auto name = "dropped_" + std::to_string(function++) + "()";
      session.exec("CREATE FUNCTION " + name +
                   " RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN 1; END'");
      session.exec("SELECT " + name);
      session.exec("DROP FUNCTION " + name);
    }
  });
  ASSERT_TRUE(leak);
  EXPECT_EQ((*leak)["module"], "plpgsql.so");
  EXPECT_THAT(functions(*leak), Contains("plpgsql_compile"));
}

TEST_F(BlockRunTest, escalates_a_suspect_until_its_code_is_named)
{
  auto session = cluster().connect();
  auto daemon = run({"--level", "statement", "--escalate"});
  ASSERT_TRUE(daemon);
  const auto leak = named(*daemon, session, "CachedPlan", prepare(session));
  ASSERT_TRUE(leak);
  EXPECT_EQ((*leak)["state"], "updated"); // raised before anybody knew
  EXPECT_THAT(functions(*leak), Contains("PrepareQuery"));
}

TEST_F(BlockRunTest, keeps_the_level_whatever_it_costs_until_its_time_is_up)
{
  auto session = cluster().connect();
  auto daemon = run({"--level", "block", "--level-for", "3s", "--max-overhead", "0.1%"});
  ASSERT_TRUE(daemon);
  std::vector<std::string> levels;
  int round = 0;
  const auto fell = eventually([&] {
    work(session, "hot" + std::to_string(round++));
    levels.clear();
    for (const auto &line : daemon->json_lines())
      if (line["type"] == "status")
        levels.push_back(line["servers"][0]["level"]);
    return !levels.empty() && levels.back() != "block";
  });
  ASSERT_TRUE(fell);
  EXPECT_EQ(levels.front(), "block");
}

TEST_F(BlockRunTest, leaves_no_probe_behind)
{
  auto session = cluster().connect();
  auto daemon = run({"--level", "block"});
  ASSERT_TRUE(daemon);
  const auto links = probe_links(daemon->pid());
  EXPECT_FALSE(links.empty());
  daemon->kill9();
  EXPECT_TRUE(eventually([&] { return living(links).empty(); }));
  EXPECT_EQ(session.value("SELECT 41 + 1"), "42");
}

} // namespace
} // namespace pgmemtrace::test
