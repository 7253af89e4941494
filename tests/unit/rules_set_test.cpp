// SPDX-License-Identifier: BSD-2-Clause
// rules_set_test - raised once, updated when worse, cleared when over; thresholds, filters.
#include <memory>
#include <random>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "rules/rule_set.h"
#include "rules_fake_process.h"

namespace pgmemtrace::test {
namespace {

using testing::HasSubstr;

const std::string kTop = "TopMemoryContext";
const std::string kCache = "TopMemoryContext|CacheMemoryContext";

// Runs `state(i)` for i in [0, n), a look each quarter second; returns all changes.
template <typename State>
std::vector<Violation> run(RuleSet &rules, FakeProcess &process, int n, State state)
{
  std::vector<Violation> changes;
  for (int i = 0; i < n; ++i) {
    state(i);
    for (Violation &change : rules.apply(process.advance(0.25, 100).take()))
      changes.push_back(std::move(change));
  }
  return changes;
}

std::vector<Violation> leak_contexts(RuleSet &rules, FakeProcess &process, int n,
                                     const std::string &path = kTop + "|my_extension")
{
  return run(rules, process, n, [&](int i) {
    process.set(path, static_cast<std::uint32_t>(50 * i), 10e3 * i, 50e3 * i);
  });
}

std::size_t number(const std::vector<Violation> &changes, ViolationState state)
{
  return static_cast<std::size_t>(std::ranges::count(changes, state, &Violation::state));
}

TEST(RuleSet, raises_once_and_updates_when_it_grew_by_half)
{
  RuleSet rules;
  FakeProcess process;
  const auto changes = leak_contexts(rules, process, 100);
  EXPECT_EQ(number(changes, ViolationState::raised), 1U);
  EXPECT_EQ(number(changes, ViolationState::cleared), 0U);
  EXPECT_GT(number(changes, ViolationState::updated), 2U);
  EXPECT_LT(number(changes, ViolationState::updated), 12U);
  for (std::size_t i = 1; i < changes.size(); ++i)
    EXPECT_TRUE(changes[i].severity > changes[i - 1].severity ||
                2 * changes[i].delta_bytes >= 3 * changes[i - 1].delta_bytes);
  ASSERT_EQ(rules.active().size(), 1U);
}

TEST(RuleSet, fills_in_what_a_person_needs)
{
  RuleSet rules;
  FakeProcess process;
  QueryGrowth growth{.query = "SELECT leak()",
                     .query_id = 42,
                     .phase = Phase::execute,
                     .bytes = 800,
                     .new_contexts = 50,
                     .occurrences = 50};
  const auto changes = run(rules, process, 12, [&](int i) {
    process.values().activity.growth = {growth};
    process.set(kTop + "|my_extension", static_cast<std::uint32_t>(50 * i), 10e3 * i, 50e3 * i);
  });
  ASSERT_FALSE(changes.empty());
  const Violation &v = changes.back();
  EXPECT_EQ(v.rule, "context_leak");
  EXPECT_EQ(v.context, "my_extension");
  EXPECT_EQ(v.path, "TopMemoryContext/my_extension");
  EXPECT_EQ(v.process.id.pid, 4711);
  EXPECT_EQ(v.query, "SELECT leak()");
  EXPECT_EQ(v.query_id, 42U);
  EXPECT_EQ(v.phase, Phase::execute);
  EXPECT_EQ(v.shape, "linear");
  EXPECT_EQ(static_cast<std::int64_t>(v.after_bytes - v.before_bytes), v.delta_bytes);
  EXPECT_THAT(v.detail, HasSubstr("statements"));
  EXPECT_THAT(v.advice, HasSubstr("extension"));
  EXPECT_LE(v.time, process.values().taken_at);
}

TEST(RuleSet, a_leak_that_stops_still_holds)
{
  RuleSet rules;
  FakeProcess process;
  leak_contexts(rules, process, 12);
  const auto later = run(rules, process, 200, [](int) {});
  EXPECT_TRUE(later.empty());
  EXPECT_EQ(rules.active().size(), 1U);
}

TEST(RuleSet, clears_when_the_memory_is_given_back)
{
  RuleSet rules;
  FakeProcess process;
  leak_contexts(rules, process, 12);
  const auto changes =
      run(rules, process, 1, [&](int) { process.set(kTop + "|my_extension", 0, 0, 0); });
  ASSERT_EQ(changes.size(), 1U);
  EXPECT_EQ(changes[0].state, ViolationState::cleared);
  EXPECT_TRUE(rules.active().empty());
}

TEST(RuleSet, a_cache_that_came_to_rest_is_cleared)
{
  RuleSet rules;
  FakeProcess process;
  const auto raised = run(rules, process, 16, [&](int i) {
    process.set(kCache, 1, 480e3 + 100e3 * i, 524e3 + 120e3 * i);
  });
  ASSERT_EQ(number(raised, ViolationState::raised), 1U);
  EXPECT_EQ(raised[0].rule, "cache_growth");
  EXPECT_EQ(raised[0].severity, Severity::info);
  EXPECT_TRUE(run(rules, process, 1000, [](int) {}).empty()) << "not at once";
  EXPECT_EQ(number(run(rules, process, 1000, [](int) {}), ViolationState::cleared), 1U);
}

TEST(RuleSet, a_peak_is_cleared_after_a_while)
{
  RuleSet rules;
  FakeProcess process;
  rules.apply(process.take());
  process.values().activity.peak = StatementPeak{.query = "SELECT 1",
                                                 .query_id = 0,
                                                 .bytes = 200ULL << 20,
                                                 .context_bytes = 190ULL << 20,
                                                 .context = "HashBatchContext"};
  const auto raised = rules.apply(process.advance(1, 1).take());
  ASSERT_EQ(raised.size(), 1U);
  EXPECT_EQ(raised[0].rule, "peak");
  EXPECT_EQ(raised[0].shape, "peak");
  EXPECT_EQ(raised[0].severity, Severity::warning);
  EXPECT_EQ(raised[0].query, "SELECT 1");
  const auto later = run(rules, process, 400, [](int) {});
  EXPECT_EQ(number(later, ViolationState::cleared), 1U);
  EXPECT_EQ(number(later, ViolationState::raised), 0U);
}

// Seen large and seen growing is one fault: the growth is told, up to its end.
TEST(RuleSet, a_variable_that_grows_is_followed_beyond_the_limit_of_peaks)
{
  RuleSet rules;
  FakeProcess process;
  const std::string portal = kTop + "|TopPortalContext|PortalContext";
  process.set(portal, 1, 1000, 1024).set(portal + "|SPI Proc", 1, 12'000, 32'768);
  const auto changes = run(rules, process, 40, [&](int i) {
    process.values().activity.in_statement = true;
    process.set(portal + "|SPI Proc|expanded array", 1e6 * i);
  });
  ASSERT_FALSE(changes.empty());
  for (const auto &change : changes)
    EXPECT_EQ(change.rule, "ctx_bloat") << change.detail;
  EXPECT_GT(changes.back().after_bytes, 20'000'000U); // told again at each half more
  EXPECT_EQ(changes.back().severity, Severity::warning);
}

TEST(RuleSet, violations_of_a_vanished_process_are_cleared)
{
  RuleSet rules;
  FakeProcess process;
  leak_contexts(rules, process, 12);
  Snapshot snapshot;
  snapshot.taken_at = process.values().taken_at;
  snapshot.processes = {std::make_shared<ProcessSnapshot>(process.advance(1).take())};
  EXPECT_EQ(number(rules.apply(snapshot), ViolationState::cleared), 0U);
  EXPECT_TRUE(rules.apply(snapshot).empty()) << "the same snapshot again says nothing new";

  FakeProcess other(4711); // the pid again, another process
  other.values().process.id.start = 200;
  snapshot.processes = {std::make_shared<ProcessSnapshot>(other.take())};
  const auto changes = rules.apply(snapshot);
  ASSERT_EQ(changes.size(), 1U);
  EXPECT_EQ(changes[0].state, ViolationState::cleared);
  EXPECT_EQ(changes[0].process.id.start, 100U);
  EXPECT_TRUE(rules.active().empty());
  EXPECT_EQ(rules.history({4711, 100}), nullptr);
}

TEST(RuleSet, folds_the_children_and_the_bookkeeping_of_a_leak)
{
  RuleSet rules;
  FakeProcess process;
  run(rules, process, 16, [&](int i) {
    const auto n = static_cast<std::uint32_t>(50 * i);
    process.set(kTop, 90e3 + 50e3 * i);
    process.set(kTop + "|leaky", n, 400e3 * i, 400e3 * i);
    process.set(kTop + "|leaky|child", n, 100e3 * i, 100e3 * i);
  });
  ASSERT_EQ(rules.active().size(), 1U);
  EXPECT_EQ(rules.active()[0].context, "leaky");
}

TEST(RuleSet, two_faults_are_two_violations)
{
  RuleSet rules;
  FakeProcess process;
  run(rules, process, 16, [&](int i) {
    const auto n = static_cast<std::uint32_t>(50 * i);
    process.set(kTop + "|one", n, 400e3 * i, 400e3 * i);
    process.set(kCache + "|two", n, 400e3 * i, 400e3 * i);
  });
  EXPECT_EQ(rules.active().size(), 2U);
}

struct Threshold {
  double bytes_per_look;
  int expected; // -1: silent, else the severity
};
class Severities : public testing::TestWithParam<Threshold> {};

TEST_P(Severities, follow_the_bytes)
{
  RuleSet rules;
  FakeProcess process;
  run(rules, process, 11, [&](int i) {
    process.set(kTop + "|my_state", 1, 1000 + GetParam().bytes_per_look * i,
                1000 + GetParam().bytes_per_look * i);
  });
  if (GetParam().expected < 0) {
    EXPECT_TRUE(rules.active().empty());
    return;
  }
  ASSERT_EQ(rules.active().size(), 1U);
  EXPECT_EQ(rules.active()[0].rule, "ctx_bloat");
  EXPECT_EQ(static_cast<int>(rules.active()[0].severity), GetParam().expected);
}
INSTANTIATE_TEST_SUITE_P(RuleSet, Severities,
                         testing::Values(Threshold{700, -1}, Threshold{1000, 0}, Threshold{6000, 0},
                                         Threshold{8000, 1}, Threshold{90'000, 1},
                                         Threshold{200'000, 2}));

TEST(RuleSet, superlinear_growth_is_named)
{
  RuleSet rules;
  FakeProcess process;
  run(rules, process, 20, [&](int i) { process.set(kTop + "|my_state", 5000.0 + 100.0 * i * i); });
  ASSERT_EQ(rules.active().size(), 1U);
  EXPECT_EQ(rules.active()[0].shape, "superlinear");
  EXPECT_EQ(rules.active()[0].severity, Severity::warning) << "one up from INFO";
}

TEST(RuleSet, few_looks_are_at_most_info)
{
  RuleSet rules;
  FakeProcess process;
  const auto changes = run(rules, process, 5, [&](int i) {
    process.set(kTop + "|my_extension", static_cast<std::uint32_t>(500 * i), 10e6 * i, 10e6 * i);
  });
  ASSERT_EQ(changes.size(), 1U);
  EXPECT_EQ(changes[0].severity, Severity::info);
}

TEST(RuleSet, a_baseline_however_large_is_no_growth)
{
  RuleSet rules;
  FakeProcess process;
  process.set(kCache + "|CachedPlanSource", 5000, 20e6, 40e6).set(kTop, 5e6);
  EXPECT_TRUE(run(rules, process, 50, [](int) {}).empty());
}

TEST(RuleSet, a_cache_that_holds_very_much_is_named_at_once)
{
  RuleSet rules;
  FakeProcess process;
  process.set(kCache + "|CachedPlanSource", 2000, 500e6, 600e6);
  const auto changes = run(rules, process, 50, [](int) {});
  ASSERT_EQ(changes.size(), 1U);
  EXPECT_EQ(changes[0].rule, "cache_growth");
  EXPECT_EQ(changes[0].context, "CachedPlanSource");
  EXPECT_EQ(changes[0].severity, Severity::info);
}

TEST(RuleSet, allowed_contexts_are_silent)
{
  RuleSet rules({.allowed_contexts = {"my\\_ext%"}});
  FakeProcess process;
  EXPECT_TRUE(leak_contexts(rules, process, 20).empty());
  EXPECT_FALSE(leak_contexts(rules, process, 20, kTop + "|my-extension").empty());
}

TEST(RuleSet, lesser_severities_can_be_left_out)
{
  RuleSet rules({.min_severity = Severity::warning});
  FakeProcess process;
  const auto changes = leak_contexts(rules, process, 40);
  ASSERT_FALSE(changes.empty());
  EXPECT_EQ(changes[0].state, ViolationState::raised);
  EXPECT_GE(changes[0].severity, Severity::warning);
}

TEST(RuleSet, rules_can_be_chosen)
{
  FakeProcess process;
  RuleSet without({.disabled = {"context_leak"}});
  EXPECT_TRUE(leak_contexts(without, process, 20).empty());
  FakeProcess another;
  RuleSet only({.only = {"peak"}});
  EXPECT_TRUE(leak_contexts(only, another, 20).empty());
}

TEST(RuleOptions, an_unknown_rule_is_refused_by_name)
{
  EXPECT_TRUE(check(RuleOptions{.only = {"peak"}, .disabled = {"ctx_bloat"}}));
  const auto result = check(RuleOptions{.disabled = {"leak"}});
  ASSERT_FALSE(result);
  EXPECT_THAT(result.error().what, HasSubstr("'leak'"));
  EXPECT_THAT(result.error().hint, HasSubstr("context_leak"));
}

TEST(RuleOptions, names_are_those_of_the_rules)
{
  EXPECT_THAT(rule_names(),
              testing::ElementsAre("context_leak", "wrong_ctx_alloc", "ctx_bloat", "cache_growth",
                                   "peak", "unattributed_growth", "dsm_leak"));
}

struct LikeRow {
  const char *text;
  const char *pattern;
  bool matches;
};
class Like : public testing::TestWithParam<LikeRow> {};
TEST_P(Like, is_that_of_sql)
{
  EXPECT_EQ(like(GetParam().text, GetParam().pattern), GetParam().matches)
      << GetParam().text << " LIKE " << GetParam().pattern;
}
INSTANTIATE_TEST_SUITE_P(
    RuleOptions, Like,
    testing::Values(LikeRow{"", "", true}, LikeRow{"", "%", true}, LikeRow{"a", "", false},
                    LikeRow{"CachedPlan", "Cached%", true}, LikeRow{"CachedPlan", "%Plan", true},
                    LikeRow{"CachedPlan", "%a%e%P%", true}, LikeRow{"CachedPlan", "cached%", false},
                    LikeRow{"CachedPlan", "CachedPla_", true},
                    LikeRow{"CachedPlan", "CachedPlan_", false}, LikeRow{"a%b", "a\\%b", true},
                    LikeRow{"axb", "a\\%b", false}, LikeRow{"aab", "%ab", true},
                    LikeRow{"my-x", "my\\_x", false}, LikeRow{"a", "_%_", false}));

TEST(RuleSet, sessions_that_wander_about_a_level_stay_silent)
{
  std::mt19937 random(7);
  std::normal_distribution<double> step(0, 1);
  for (int session = 0; session < 300; ++session) {
    RuleSet rules;
    FakeProcess process(1000 + session);
    // Pulled back to its level: what a warm session does.
    double cache = 0;
    double top = 0;
    double executor = 0;
    double outside = 0;
    double state = 0;
    const auto wander = [&](double &x, double scale) {
      x = 0.8 * x + scale * step(random);
      return x;
    };
    for (int warm = 0; warm < 30; ++warm) {
      wander(cache, 20e3);
      wander(top, 1e3);
      wander(executor, 500e3);
      wander(state, 1.5e3);
      wander(outside, 300e3);
    }
    const auto changes = run(rules, process, 120, [&](int) {
      process.set(kCache, 1, 900e3 + wander(cache, 20e3), 1.1e6);
      process.set(kTop, 1, 90e3 + wander(top, 1e3), 110e3);
      process.set(kTop + "|my_state", 1e6 + std::abs(wander(state, 1.5e3)));
      process.set(kTop + "|TopPortalContext|PortalContext", 1000);
      process.set(kTop + "|TopPortalContext|PortalContext|ExecutorState",
                  2e6 + std::abs(wander(executor, 500e3)));
      process.values().private_bytes =
          static_cast<std::uint64_t>(8e6 + std::abs(wander(outside, 300e3)));
    });
    for (const Violation &v : changes)
      ADD_FAILURE() << "session " << session << ": " << v.rule << ' ' << v.path << ": " << v.detail;
  }
}

// ---- who asked (level block) ---------------------------------------------------------

constexpr std::uint64_t kMaker = 11, kGrower = 22, kOther = 33;

TEST(RuleSet, names_the_stack_that_made_what_leaks)
{
  RuleSet rules;
  FakeProcess process;
  const std::string leak = kTop + "|my_extension";
  process.values().block_growth = {
      {.made = true, .name = "my_extension", .bytes = 9000, .blocks = 900, .stack = kMaker},
      {.made = true, .name = "my_extension", .bytes = 90'000, .blocks = 9, .stack = kOther},
      {.context = FakeProcess::address_of(leak),
       .name = "my_extension",
       .bytes = 8192,
       .blocks = 1,
       .stack = kGrower}};
  const auto changes = leak_contexts(rules, process, 20);
  ASSERT_FALSE(changes.empty());
  EXPECT_EQ(changes.front().rule, "context_leak");
  EXPECT_EQ(changes.front().stack_id, kMaker);
}

TEST(RuleSet, names_the_stack_that_made_a_context_grow)
{
  RuleSet rules;
  FakeProcess process;
  const std::string grows = kTop + "|my_cache";
  const auto address = FakeProcess::address_of(grows);
  process.values().block_growth = {
      {.context = address, .name = "my_cache", .bytes = 8192, .blocks = 1, .stack = kOther},
      {.context = address, .name = "my_cache", .bytes = 1 << 20, .blocks = 3, .stack = kGrower},
      {.context = address, .name = "my_cache", .bytes = 2 << 20, .blocks = 9, .stack = 0},
      {.context = address + 64, .name = "no such", .bytes = 1 << 30, .blocks = 9, .stack = kMaker}};
  const auto changes =
      run(rules, process, 60, [&](int i) { process.set(grows, 1, 20e3 * i, 21e3 * i); });
  ASSERT_FALSE(changes.empty());
  EXPECT_EQ(changes.front().rule, "ctx_bloat");
  EXPECT_EQ(changes.front().stack_id, kGrower);
}

TEST(RuleSet, names_the_stack_that_made_small_contexts_of_a_name_grow)
{
  RuleSet rules;
  FakeProcess process;
  process.values().block_growth = {
      {.name = "my_extension", .bytes = 1 << 20, .blocks = 100, .stack = kGrower},
      {.name = "another", .bytes = 9 << 20, .blocks = 900, .stack = kOther}};
  const auto changes = leak_contexts(rules, process, 20);
  ASSERT_FALSE(changes.empty());
  EXPECT_EQ(changes.front().stack_id, kGrower);
}

TEST(RuleSet, tells_again_once_it_is_known_who_did_it)
{
  RuleSet rules;
  FakeProcess process;
  auto changes = leak_contexts(rules, process, 20);
  ASSERT_EQ(number(changes, ViolationState::raised), 1U);
  EXPECT_EQ(changes.front().stack_id, 0U);
  process.values().block_growth = {
      {.made = true, .name = "my_extension", .bytes = 9000, .blocks = 9, .stack = kMaker}};
  const auto leak = [&](int i) {
    process.set(kTop + "|my_extension", static_cast<std::uint32_t>(1000 + i), 200e3 + i,
                1000e3 + i);
  };
  changes = run(rules, process, 10, leak);
  ASSERT_EQ(changes.size(), 1U);
  EXPECT_EQ(changes.front().state, ViolationState::updated);
  EXPECT_EQ(changes.front().stack_id, kMaker);
}

// ---- modules ---------------------------------------------------------------------------

std::vector<Frame> stack_of(std::initializer_list<const char *> modules)
{
  std::vector<Frame> stack;
  for (const char *module : modules)
    stack.push_back({.code = {.module = module, .build_id = {}, .offset = 1}, .function = "f"});
  return stack;
}

TEST(ModuleOf, is_the_innermost_one_that_is_not_the_server_or_its_c_library)
{
  const char *server = "/usr/lib/postgresql/15/bin/postgres";
  const char *libc = "/usr/lib/x86_64-linux-gnu/libc.so.6";
  EXPECT_EQ(module_of(stack_of({server, server, libc})), "postgres");
  EXPECT_EQ(module_of(stack_of({server, server, "/usr/lib/postgresql/15/lib/plpgsql.so", server,
                                "/usr/lib/postgresql/15/lib/dblink.so", server, libc})),
            "plpgsql.so");
  EXPECT_EQ(module_of(stack_of({server, libc, "/opt/libcrypto.so.3", server})), "libcrypto.so.3");
  EXPECT_EQ(module_of(stack_of({server, "[jit]", server})), "postgres");
  EXPECT_EQ(module_of({}), "");
}

} // namespace
} // namespace pgmemtrace::test
