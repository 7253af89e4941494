// SPDX-License-Identifier: BSD-2-Clause
// rules_workloads_test - sessions as they were measured on real servers, looked at in moments
// of chance, must get the verdict that they deserve.
//
// Numbers: PostgreSQL 15, tests/cases; `f` is how far the workload has got, 0 to 1.
#include <algorithm>
#include <cmath>
#include <functional>
#include <random>
#include <regex>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "rules/rule_set.h"
#include "rules_fake_process.h"

namespace pgmemtrace::test {
namespace {

const std::string kTop = "TopMemoryContext";
const std::string kCache = "TopMemoryContext|CacheMemoryContext";
const std::string kPortals = "TopMemoryContext|TopPortalContext";
const std::string kPortal = "TopMemoryContext|TopPortalContext|PortalContext";
const std::string kExecutor = kPortal + "|ExecutorState";
const std::string kXact = "TopMemoryContext|TopTransactionContext";

constexpr double kKb = 1024;

struct Moment {
  double f;     // progress of the whole workload
  double phase; // of the statement that runs, 0 to 1, by chance
  std::mt19937 &random;
};

std::uint32_t count(double f, double n) { return static_cast<std::uint32_t>(f * n); }

struct Workload {
  std::string name;
  double seconds;
  std::uint64_t statements;
  std::vector<std::string> rules; // any of them is a hit; none: neither WARNING nor ERROR
  std::string context;
  std::function<void(FakeProcess &, const Moment &)> state;
  bool silent = true; // without rules: INFO is an alarm, too
};

void anon(FakeProcess &process, double kb)
{
  process.values().private_bytes = static_cast<std::uint64_t>(kb * kKb);
}

// Some statement was running when we looked.
void any_statement(FakeProcess &process, const Moment &m, double bytes = 30e3)
{
  process.set(kPortal, 1, 900, 1024);
  process.set(kExecutor, 1, bytes * m.phase, 2 * bytes);
  process.set(kTop + "|MessageContext", 1, 8e3 + 20e3 * m.phase, 65536);
  process.set(kXact, 1, 500, 8192);
}

const Workload kWorkloads[] = {
    {"hash_join_peak",
     5.8,
     30,
     {"peak", "ctx_bloat"},
     "^Hash(BatchContext|TableContext)$",
     [](FakeProcess &p, const Moment &m) {
       any_statement(p, m);
       p.values().work_mem_bytes = 2ULL << 20;
       p.set(kExecutor + "|HashTableContext", 1, 9e3, 16e3);
       const double batch = std::min(1.0, 2 * m.phase) * 115'964'912;
       p.set(kExecutor + "|HashTableContext|HashBatchContext", batch);
       anon(p, 4220 + std::max(33e3 * std::min(1.0, 4 * m.f), batch / kKb));
     }},
    {"many_relations_touched_once",
     5.88,
     7500,
     {"cache_growth", "context_leak", "ctx_bloat"},
     "^(CacheMemoryContext|index info)$",
     [](FakeProcess &p, const Moment &m) {
       any_statement(p, m);
       p.set(kCache, 1, 420e3 + 12.2e6 * m.f, 4.2e6 + 14e6 * m.f);
       p.set(kCache + "|index info", 25 + count(m.f, 2504), 30e3 + 4e6 * m.f, 50e3 + 5e6 * m.f);
       p.set(kTop + "|Relcache by OID", 12e3 + 500e3 * m.f);
       anon(p, 9852 + 15'800 * m.f);
     }},
    {"plpgsql_compile_failure",
     3.36,
     5000,
     {"context_leak", "wrong_ctx_alloc"},
     "^PL/pgSQL function$",
     [](FakeProcess &p, const Moment &m) {
       any_statement(p, m);
       p.set(kTop, 1, 90e3 + 7e6 * m.f, 97e3 + 10e6 * m.f);
       p.set(kTop + "|PL/pgSQL function", count(m.f, 5000), 20.7e6 * m.f, 40.96e6 * m.f);
       anon(p, 3428 + 46'900 * m.f);
     }},
    {"plpgsql_functions_dropped",
     2.4,
     6000,
     {"context_leak", "cache_growth", "wrong_ctx_alloc"},
     "^PL/pgSQL function$",
     [](FakeProcess &p, const Moment &m) {
       any_statement(p, m);
       p.set(kCache, 1, 480e3 + 3e6 * m.f, 524e3 + 4e6 * m.f);
       p.set(kTop + "|PL/pgSQL function", count(m.f, 2000), 7.8e6 * m.f, 16.4e6 * m.f);
       p.set(kCache + "|CachedPlanSource", count(m.f, 2000), 5e6 * m.f, 8e6 * m.f);
       p.set(kCache + "|CachedPlanSource|CachedPlanQuery", count(m.f, 2000), 5e6 * m.f, 8e6 * m.f);
       anon(p, 3428 + 36'700 * m.f);
     }},
    {"plpgsql_variable_grows",
     2.3,
     5,
     {"peak", "ctx_bloat"},
     "^(expanded array|SPI Proc)$",
     [](FakeProcess &p, const Moment &m) {
       any_statement(p, m);
       p.set(kXact + "|SPI Proc", 1, 8e3, 16e3);
       const double array = 125'786'888 * std::exp2(std::floor(std::log2(0.03 + 0.97 * m.phase)));
       p.set(kXact + "|SPI Proc|expanded array", array);
       anon(p, 3572 + array / kKb);
     }},
    {"prepare_without_deallocate",
     6.16,
     12'000,
     {"context_leak", "cache_growth", "ctx_bloat"},
     "^CachedPlan(Source|Query)?$",
     [](FakeProcess &p, const Moment &m) {
       any_statement(p, m);
       p.set(kCache, 1, 480e3 + 300e3 * m.f, 524e3 + 524e3 * m.f);
       p.set(kCache + "|CachedPlanSource", count(m.f, 4000), 11.5e6 * m.f, 16.4e6 * m.f);
       p.set(kCache + "|CachedPlanSource|CachedPlanQuery", count(m.f, 4000), 11.6e6 * m.f,
             16.4e6 * m.f);
       p.set(kTop + "|Prepared Queries", 8e3 + 700e3 * m.f);
       anon(p, 3512 + 42'280 * m.f);
     }},
    {"temp_table_churn",
     6.33,
     10'000,
     {"cache_growth", "ctx_bloat"},
     "^CacheMemoryContext$",
     [](FakeProcess &p, const Moment &m) {
       any_statement(p, m);
       const double fill = m.f > 0 ? 50e3 : 0;
       p.set(kCache, 1, 484e3 + fill + 1.19e6 * m.f,
             m.f < 0.1   ? 524'288
             : m.f < 0.5 ? 1'097'728
                         : 2'162'744);
       anon(p, 3428 + 1308 * m.f);
     }},
    {"with_hold_cursors",
     5.07,
     12'000,
     {"context_leak", "ctx_bloat"},
     "^Portal(Hold)?Context$",
     [](FakeProcess &p, const Moment &m) {
       any_statement(p, m);
       p.set(kPortals, 1, 600 + 500e3 * m.f, 8192 + 600e3 * m.f);
       p.set(kPortal, 1 + count(m.f, 3000), 900 + 1.3e6 * m.f, 1024 + 3.1e6 * m.f);
       p.set(kPortals + "|PortalHoldContext", count(m.f, 3000), 77e6 * m.f, 83e6 * m.f);
       anon(p, 3428 + 79'400 * m.f);
     }},
    {"xml2_xpath_table",
     1.99,
     2000,
     {"unattributed_growth"},
     "^$",
     [](FakeProcess &p, const Moment &m) {
       any_statement(p, m, 2e6);
       anon(p, 3740 + 362'600 * m.f + 2000 * m.phase);
     }},

    {"ok_catalog_first_touch",
     2.96,
     750,
     {},
     "",
     [](FakeProcess &p, const Moment &m) {
       any_statement(p, m, 1.5e6);
       const double fill = std::min(1.0, m.f * 100);
       p.set(kCache, 1, 480e3 + 1.8e6 * fill, 524e3 + 2e6 * fill);
       p.set(kCache + "|index info", 90 + count(fill, 62), 120e3 + 90e3 * fill,
             180e3 + 120e3 * fill);
       anon(p, 3604 + 3092 * fill + 600 * m.phase);
     }},
    {"ok_cursor_loop",
     2.59,
     4800,
     {},
     "",
     [](FakeProcess &p, const Moment &m) {
       any_statement(p, m, 600e3);
       anon(p, 3660 + 700 * m.phase);
     }},
    {"ok_discard_all",
     2.75,
     72'000,
     {},
     "",
     [](FakeProcess &p, const Moment &m) {
       any_statement(p, m);
       p.set(kTop, 1, 90e3 + 2e3 * m.phase, 97e3);
       p.set(kCache + "|CachedPlanSource", m.phase > 0.5 ? 1 : 0, 3e3, 4e3);
       p.set(kCache, 1, 480e3 + 20e3 * std::min(1.0, 30 * m.f), 524e3);
     }},
    {"ok_pgbench_like",
     3.17,
     20'000,
     {},
     "",
     [](FakeProcess &p, const Moment &m) {
       any_statement(p, m);
       p.set(kCache, 1, 480e3 + 40e3 * std::min(1.0, 30 * m.f), 524e3);
     }},
    {"ok_prepare_deallocate",
     1.92,
     75'000,
     {},
     "",
     [](FakeProcess &p, const Moment &m) {
       any_statement(p, m);
       p.set(kCache + "|CachedPlanSource", m.phase > 0.3 ? 1 : 0, 3e3, 4e3);
       p.set(kCache, 1, 480e3 + 30e3 * std::min(1.0, 30 * m.f) + 6e3 * m.phase, 524e3);
     }},
    {"ok_sort_within_work_mem",
     2.41,
     400,
     {},
     "",
     [](FakeProcess &p, const Moment &m) {
       any_statement(p, m);
       p.set(kExecutor + "|TupleSort sort", 2.2e6 * m.phase);
       anon(p, 3428 + 3100 * m.phase);
     }},

    // Beyond the measured ones: what else sessions do.
    {"savepoints_in_one_transaction",
     4,
     8000,
     {"context_leak", "ctx_bloat"},
     "^CurTransactionContext$",
     [](FakeProcess &p, const Moment &m) {
       any_statement(p, m);
       p.set(kTop, 1, 90e3 + 3e6 * m.f, 97e3 + 4e6 * m.f);
       p.set(kXact, 1, 500 + 800e3 * m.f, 8192 + 1e6 * m.f);
       p.set(kXact + "|CurTransactionContext", count(m.f, 4000), 2e6 * m.f, 32e6 * m.f);
     }},
    {"palloc_in_top_per_query",
     4,
     5000,
     {"wrong_ctx_alloc"},
     "^TopMemoryContext$",
     [](FakeProcess &p, const Moment &m) {
       any_statement(p, m);
       p.set(kTop, 1, 90e3 + 1e6 * m.f, 97e3 + 1.2e6 * m.f);
     }},
    {"context_per_call_in_top",
     4,
     2000,
     {"context_leak", "wrong_ctx_alloc"},
     "^my_extension$",
     [](FakeProcess &p, const Moment &m) {
       any_statement(p, m);
       p.set(kTop + "|my_extension", count(m.f, 2000), 400e3 * m.f, 2e6 * m.f);
     }},
    {"context_per_call_in_cache",
     4,
     2000,
     {"context_leak", "wrong_ctx_alloc"},
     "^my_cache$",
     [](FakeProcess &p, const Moment &m) {
       any_statement(p, m);
       p.set(kCache + "|my_cache", count(m.f, 2000), 400e3 * m.f, 2e6 * m.f);
     }},
    {"session_context_bloats",
     4,
     2000,
     {"ctx_bloat"},
     "^my_state$",
     [](FakeProcess &p, const Moment &m) {
       any_statement(p, m);
       p.set(kTop + "|my_state", 20e3 + 700e3 * m.f);
     }},
    {"deferred_triggers",
     5,
     1,
     {"ctx_bloat", "peak"},
     "^AfterTriggerEvents$",
     [](FakeProcess &p, const Moment &m) {
       any_statement(p, m);
       p.set(kXact + "|AfterTriggerEvents", 40e6 * m.f);
     }},
    {"variable_grows_slowly",
     5,
     1,
     {"ctx_bloat", "peak"},
     "^SPI Proc$",
     [](FakeProcess &p, const Moment &m) {
       any_statement(p, m);
       p.set(kXact + "|SPI Proc", 8e3 + 12e6 * m.f);
     }},
    {"contexts_pile_up_in_a_statement",
     5,
     1,
     {"context_leak"},
     "^BuggyPlannerLeakCtx$",
     [](FakeProcess &p, const Moment &m) {
       any_statement(p, m);
       p.set(kTop + "|MessageContext|BuggyPlannerLeakCtx", count(m.f, 5000), 40e6 * m.f,
             42e6 * m.f);
     }},
    {"malloc_leak_small",
     6,
     3000,
     {"unattributed_growth"},
     "^$",
     [](FakeProcess &p, const Moment &m) {
       any_statement(p, m, 500e3);
       anon(p, 3740 + 20e3 * m.f + 500 * m.phase);
     }},

    {"ok_memory_kept_by_malloc_after_a_peak",
     5,
     500,
     {},
     "",
     [](FakeProcess &p, const Moment &m) {
       any_statement(p, m);
       anon(p, m.f > 0.3 ? 33'000 : 3740);
     }},
    {"ok_big_allocation_touched_slowly",
     5,
     1,
     {},
     "",
     [](FakeProcess &p, const Moment &m) {
       any_statement(p, m);
       p.set(kExecutor + "|TupleSort sort", m.f > 0.1 ? 60e6 : 0);
       anon(p, 3740 + (m.f > 0.1 ? 58e3 * m.f : 0));
     }},
    {"ok_jit_recycles",
     4,
     90,
     {},
     "",
     [](FakeProcess &p, const Moment &m) {
       any_statement(p, m);
       p.values().jit_loaded = true;
       anon(p, 30e3 + 20e3 * m.f);
     }},
    {"ok_locks_of_a_dump",
     4,
     4000,
     {},
     "",
     [](FakeProcess &p, const Moment &m) {
       any_statement(p, m);
       p.set(kTop, 1, 90e3 + 290e3 * m.f, 97e3 + 400e3 * m.f);
       p.set(kTop + "|LOCALLOCK hash", 8e3 + 180e3 * m.f);
     }},
    {"ok_ever_more_tables_before_15",
     9,
     4000,
     {},
     "",
     [](FakeProcess &p, const Moment &m) {
       any_statement(p, m);
       p.set(kTop, 1, 50e3 + 74e3 * m.f, 97e3 + 74e3 * m.f);
       p.set(kTop + "|pgstat TabStatusArray lookup hash table", 8e3 + 16e3 * m.f);
     }},
    {"ok_catalog_walk",
     3,
     4000,
     {},
     "",
     [](FakeProcess &p, const Moment &m) {
       any_statement(p, m);
       p.set(kCache, 1, 480e3 + 6e6 * m.f, 524e3 + 8e6 * m.f);
     },
     false},
    {"ok_create_index",
     4,
     1,
     {},
     "",
     [](FakeProcess &p, const Moment &m) {
       any_statement(p, m);
       p.set(kPortal + "|TupleSort main", 30e3);
       p.set(kPortal + "|TupleSort main|TupleSort sort", 8e6 * std::min(1.0, 2 * m.f));
       p.set(kPortal + "|TupleSort main|TupleSort sort|Caller tuples",
             59e6 * std::min(1.0, 2 * m.f));
       anon(p, 3740 + 66e3 * std::min(1.0, 2 * m.f));
     }},
    {"ok_hash_join_within_work_mem",
     4,
     20,
     {},
     "",
     [](FakeProcess &p, const Moment &m) {
       any_statement(p, m);
       p.set(kExecutor + "|HashTableContext", 1, 9e3, 16e3);
       p.set(kExecutor + "|HashTableContext|HashBatchContext", 7.9e6 * m.phase);
       anon(p, 3740 + 8e3 * m.phase);
     }},
    {"ok_prepared_once_and_used",
     4,
     8000,
     {},
     "",
     [](FakeProcess &p, const Moment &m) {
       any_statement(p, m);
       const double ready = std::min(1.0, 8 * m.f);
       p.set(kCache + "|CachedPlanSource", count(ready, 400), 1.2e6 * ready, 1.6e6 * ready);
     },
     false},
    {"ok_large_values",
     4,
     400,
     {},
     "",
     [](FakeProcess &p, const Moment &m) {
       any_statement(p, m, 7e6);
       p.set(kTop + "|MessageContext", 1, 3e6 * m.phase, 4e6);
       anon(p, 3740 + 14e3 * m.phase);
     }},
};

class Workloads : public testing::TestWithParam<Workload> {};

// Every 250 ms, more or less, from some moment after its start to a while after its end.
std::vector<Violation> watch(const Workload &workload, unsigned seed, bool counted)
{
  std::mt19937 random(seed);
  std::uniform_real_distribution<double> unit(0, 1);
  FakeProcess process;
  RuleSet rules;
  std::vector<Violation> raised;
  const auto look = [&] {
    for (const Violation &change : rules.apply(process.take()))
      if (change.state != ViolationState::cleared)
        raised.push_back(change);
  };
  workload.state(process, {0, 0, random});
  look();
  double t = 0.05 + 0.5 * unit(random);
  process.idle(3);
  process.advance(t);
  std::uint64_t done = 0;
  while (t < workload.seconds) {
    const double f = t / workload.seconds;
    workload.state(process, {f, unit(random), random});
    const auto now = static_cast<std::uint64_t>(f * static_cast<double>(workload.statements));
    process.values().activity.in_statement = counted;
    process.values().activity.current_query = "SELECT 1";
    process.advance(0, counted ? now - done : 0);
    done = now;
    look();
    const double step = 0.2 + 0.15 * unit(random);
    process.advance(step);
    t += step;
  }
  process.values().activity.in_statement = false;
  workload.state(process, {1, 0, random});
  for (int i = 0; i < 4; ++i) {
    process.advance(0.3);
    look();
  }
  return raised;
}

TEST_P(Workloads, get_the_verdict_that_they_deserve)
{
  const Workload &workload = GetParam();
  const std::regex context(workload.context);
  int missed = 0;
  for (unsigned seed = 0; seed < 6; ++seed)
    for (const bool counted : {true, false}) {
      const std::vector<Violation> raised = watch(workload, seed, counted);
      if (workload.rules.empty()) {
        for (const Violation &v : raised)
          EXPECT_TRUE(v.severity == Severity::info && !workload.silent)
              << "seed " << seed << ": " << to_string(v.severity) << ' ' << v.rule << ' '
              << v.context << ": " << v.detail;
        continue;
      }
      const bool hit = std::ranges::any_of(raised, [&](const Violation &v) {
        return std::ranges::find(workload.rules, v.rule) != workload.rules.end() &&
               std::regex_search(v.context, context);
      });
      if (!hit) {
        ++missed;
        ADD_FAILURE() << "seed " << seed << (counted ? ", counted" : ", sweep only")
                      << ": missed; raised " << raised.size();
        for (const Violation &v : raised)
          std::cerr << "  " << to_string(v.severity) << ' ' << v.rule << ' ' << v.path << ": "
                    << v.detail << '\n';
      }
      // One fault, few words.
      EXPECT_LE(std::ranges::count(raised, ViolationState::raised, &Violation::state), 3)
          << "seed " << seed;
    }
  EXPECT_EQ(missed, 0);
}

INSTANTIATE_TEST_SUITE_P(Rules, Workloads, testing::ValuesIn(kWorkloads),
                         [](const auto &param) { return param.param.name; });

} // namespace
} // namespace pgmemtrace::test
