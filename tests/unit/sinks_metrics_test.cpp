// SPDX-License-Identifier: BSD-2-Clause
// sinks_metrics_test - which series a snapshot gives, and that they stay few and true.
#include "sinks/metrics.h"

#include <set>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "sinks_fixture.h"
#include "sinks_scrape.h"

namespace pgmemtrace::test {
namespace {

using testing::Contains;
using testing::HasSubstr;
using testing::Not;
using testing::Optional;

constexpr const char *kMain = "15/main";

Scrape scrape(Metrics &metrics, const Snapshot &snapshot, std::vector<Violation> changes = {},
              std::vector<Violation> active = {})
{
  return Scrape(metrics.render(snapshot, changes, active));
}

Labels context_labels(const std::string &context)
{
  return {{"instance", kMain}, {"backend_type", "client backend"}, {"context", context}};
}

Labels rule_labels(const std::string &rule, const std::string &severity = "ERROR")
{
  return {{"instance", kMain}, {"rule", rule}, {"severity", severity}};
}

// One backend whose contexts are called c0, c1, ... and hold (i + 1) MiB.
Snapshot with_contexts(int count)
{
  Snapshot out = snapshot();
  ProcessSnapshot process = backend(4242);
  process.contexts.clear();
  for (int i = 0; i < count; ++i)
    process.contexts.push_back(
        context("c" + std::to_string(i), static_cast<std::uint64_t>(i + 1) * kMiB));
  out.processes = {std::make_shared<const ProcessSnapshot>(process)};
  return out;
}

TEST(Metrics, sums_contexts_over_the_processes_of_a_type)
{
  Snapshot two = snapshot();
  ProcessSnapshot other = backend(4300);
  other.contexts.push_back(context("CacheMemoryContext", 2 * kMiB, kMiB));
  add_process(two, other);
  ProcessSnapshot writer = backend(4400);
  writer.process.backend_type = "walwriter";
  add_process(two, writer);
  Metrics metrics({});
  const Scrape seen = scrape(metrics, two);
  EXPECT_THAT(seen.value("context_total_bytes", context_labels("TopMemoryContext")),
              Optional(2.0 * kMiB));
  EXPECT_THAT(seen.value("context_used_bytes", context_labels("TopMemoryContext")),
              Optional(1.5 * kMiB));
  EXPECT_THAT(seen.value("contexts", context_labels("TopMemoryContext")), Optional(2));
  EXPECT_THAT(seen.value("context_total_bytes", context_labels("CacheMemoryContext")),
              Optional(2.0 * kMiB));
  EXPECT_EQ(seen.sum("context_total_bytes"), 5.0 * kMiB);
  EXPECT_EQ(seen.sum("database_total_bytes"), 5.0 * kMiB);
  EXPECT_THAT(seen.value("processes", {{"instance", kMain}, {"backend_type", "walwriter"}}),
              Optional(1));
}

TEST(Metrics, folds_what_is_beyond_the_top_into_other)
{
  Metrics metrics({.top_contexts = 3});
  const Scrape seen = scrape(metrics, with_contexts(10));
  EXPECT_THAT(seen.label_values("context_total_bytes", "context"),
              testing::UnorderedElementsAre("c7", "c8", "c9", "other"));
  EXPECT_EQ(seen.sum("context_total_bytes"), 55.0 * kMiB);
  EXPECT_THAT(seen.value("contexts", context_labels("other")), Optional(7));
}

TEST(Metrics, keeps_a_name_until_another_is_clearly_larger)
{
  Metrics metrics({.top_contexts = 1});
  const auto top_of = [&](std::uint64_t a, std::uint64_t b) {
    Snapshot now = snapshot();
    ProcessSnapshot process = backend(4242);
    process.contexts = {context("a", a), context("b", b)};
    now.processes = {std::make_shared<const ProcessSnapshot>(process)};
    const auto names = scrape(metrics, now).label_values("context_total_bytes", "context");
    return std::set(names.begin(), names.end()).contains("a") ? "a" : "b";
  };
  EXPECT_STREQ(top_of(100, 90), "a");
  EXPECT_STREQ(top_of(100, 124), "a");
  EXPECT_STREQ(top_of(100, 126), "b");
  EXPECT_STREQ(top_of(125, 126), "b");
}

TEST(Metrics, never_exceeds_the_cap_and_counts_what_it_drops)
{
  Snapshot many = with_contexts(300);
  for (int i = 0; i < 40; ++i) {
    const std::string name = "server" + std::to_string(i);
    many.servers.push_back(server(name, 1000 + i));
    ProcessSnapshot process = backend(5000 + i, name);
    process.contexts = many.processes[0]->contexts;
    add_process(many, process);
  }
  Metrics metrics({.max_series = 500});
  const Scrape first = scrape(metrics, many);
  EXPECT_LE(first.series(), 500U);
  const double dropped = first.value("series_dropped_total").value_or(0);
  EXPECT_GT(dropped, 0);
  EXPECT_GT(scrape(metrics, many).value("series_dropped_total").value_or(0), dropped);
  EXPECT_THAT(first.text(), HasSubstr("pgmemtrace_events_lost_total"));
}

TEST(Metrics, folds_more_contexts_rather_than_drop_series)
{
  Snapshot many = with_contexts(300);
  for (int i = 0; i < 10; ++i) {
    const std::string name = "server" + std::to_string(i);
    many.servers.push_back(server(name, 1000 + i));
    ProcessSnapshot process = backend(5000 + i, name);
    process.contexts = many.processes[0]->contexts;
    add_process(many, process);
  }
  Metrics metrics({.max_series = 1000});
  const Scrape seen = scrape(metrics, many);
  EXPECT_THAT(seen.value("series_dropped_total"), Optional(0));
  EXPECT_EQ(seen.sum("context_total_bytes"), 11.0 * 300 * 301 / 2 * kMiB);
}

TEST(Metrics, makes_hostile_names_fit_for_a_label)
{
  Snapshot hostile = snapshot();
  ProcessSnapshot process = backend(4242);
  process.contexts = {context("a\xff\n\"b", 1), context(std::string(5000, 'x'), 1),
                      context("a\xfe\n\"b", 2)}; // the same label once it is fit
  hostile.processes = {std::make_shared<const ProcessSnapshot>(process)};
  Metrics metrics({});
  const Scrape seen = scrape(metrics, hostile);
  EXPECT_THAT(seen.value("context_total_bytes", context_labels("a\uFFFD \"b")), Optional(3));
  EXPECT_THAT(seen.text(), Not(HasSubstr(std::string(200, 'x'))));
}

TEST(Metrics, merges_servers_of_one_name)
{
  Snapshot twins = snapshot();
  twins.servers.push_back(server(kMain, 200));
  twins.servers[1].level = Level::request;
  twins.servers[1].overhead_ratio = 0.5;
  Metrics metrics({});
  const Scrape seen = scrape(metrics, twins);
  EXPECT_THAT(seen.value("level", {{"instance", kMain}}), Optional(1));
  EXPECT_THAT(seen.value("estimated_overhead_ratio", {{"instance", kMain}}), Optional(0.5));
}

TEST(Metrics, spreads_backends_over_a_histogram)
{
  Snapshot three = snapshot(); // 1 MiB, on a bound
  ProcessSnapshot larger = backend(4300);
  larger.contexts[0].total_bytes = 3 * kMiB;
  add_process(three, larger);
  ProcessSnapshot huge = backend(4400);
  huge.contexts[0].total_bytes = 1ULL << 40;
  add_process(three, huge);
  Metrics metrics({});
  const Scrape seen = scrape(metrics, three);
  const auto *metric = seen.find("backend_total_bytes", {{"instance", kMain}});
  ASSERT_NE(metric, nullptr);
  const auto &histogram = metric->histogram;
  EXPECT_EQ(histogram.sample_count, 3U);
  EXPECT_EQ(histogram.sample_sum, 4.0 * kMiB + static_cast<double>(1ULL << 40));
  const auto at_most = [&](double bound) {
    for (const auto &bucket : histogram.bucket)
      if (bucket.upper_bound == bound)
        return static_cast<int>(bucket.cumulative_count);
    return -1;
  };
  EXPECT_EQ(at_most(0.5 * kMiB), 0);
  EXPECT_EQ(at_most(1.0 * kMiB), 1);
  EXPECT_EQ(at_most(2.0 * kMiB), 1);
  EXPECT_EQ(at_most(4.0 * kMiB), 2);
  EXPECT_EQ(at_most(65536.0 * kMiB), 2);
  EXPECT_EQ(at_most(std::numeric_limits<double>::infinity()), 3);
  EXPECT_THAT(seen.value("backend_max_total_bytes", {{"instance", kMain}}),
              Optional(static_cast<double>(1ULL << 40)));
}

TEST(Metrics, counts_memory_outside_the_contexts_per_process)
{
  Snapshot two = snapshot(); // 3 MiB private, 1 MiB in contexts
  ProcessSnapshot untouched = backend(4300);
  untouched.private_bytes = 0; // must not make up for the other one
  add_process(two, untouched);
  Metrics metrics({});
  const Scrape seen = scrape(metrics, two);
  const Labels labels{{"instance", kMain}, {"backend_type", "client backend"}};
  EXPECT_THAT(seen.value("unattributed_bytes", labels), Optional(2.0 * kMiB));
  EXPECT_THAT(seen.value("process_private_bytes", labels), Optional(3.0 * kMiB));
}

TEST(Metrics, shows_rules_at_zero_before_they_fire)
{
  Metrics metrics({.rules = {"ctx_bloat", "peak"}});
  const Scrape seen = scrape(metrics, snapshot());
  for (const char *severity : {"INFO", "WARNING", "ERROR"}) {
    EXPECT_THAT(seen.value("violations_total", rule_labels("peak", severity)), Optional(0));
    EXPECT_THAT(seen.value("violations_active", rule_labels("peak", severity)), Optional(0));
  }
}

TEST(Metrics, counts_each_violation_once_and_for_good)
{
  Metrics metrics({.rules = {"ctx_bloat"}});
  const Violation raised = violation();
  const Scrape during = scrape(metrics, snapshot(), {raised}, {raised});
  EXPECT_THAT(during.value("violations_total", rule_labels("ctx_bloat")), Optional(1));
  EXPECT_THAT(during.value("violations_active", rule_labels("ctx_bloat")), Optional(1));
  EXPECT_THAT(during.value("ctx_bloat_bytes", {{"instance", kMain}, {"context", "expanded array"}}),
              Optional(9017754));

  scrape(metrics, snapshot(), {violation(ViolationState::updated)}, {raised});
  Snapshot gone = snapshot();
  gone.processes.clear();
  gone.servers.clear();
  const Scrape after = scrape(metrics, gone, {violation(ViolationState::cleared)});
  EXPECT_THAT(after.value("violations_total", rule_labels("ctx_bloat")), Optional(1));
  EXPECT_FALSE(after.value("violations_active", rule_labels("ctx_bloat")));
}

TEST(Metrics, counters_never_go_back)
{
  Metrics metrics({});
  Snapshot now = snapshot();
  const Labels settle{{"instance", kMain}, {"probe", "ready_for_query"}};
  now.servers[0].probe_hits["ready_for_query"] = 10;
  scrape(metrics, now);
  now.servers[0].probe_hits["ready_for_query"] = 4; // restarted
  EXPECT_THAT(scrape(metrics, now).value("probe_hits_total", settle), Optional(14));
  now.servers[0].probe_hits.clear();
  EXPECT_THAT(scrape(metrics, now).value("probe_hits_total", settle), Optional(14));
}

TEST(Metrics, counts_the_hits_of_each_server)
{
  Metrics metrics({});
  Snapshot now = snapshot();
  now.servers.push_back(server("15/next", 200));
  now.servers[1].probe_hits["ready_for_query"] = 3;
  const Scrape seen = scrape(metrics, now);
  EXPECT_THAT(seen.value("probe_hits_total", {{"instance", kMain}, {"probe", "ready_for_query"}}),
              Optional(10));
  EXPECT_THAT(
      seen.value("probe_hits_total", {{"instance", "15/next"}, {"probe", "ready_for_query"}}),
      Optional(3));
}

TEST(Metrics, counts_the_hits_that_belong_to_no_known_server)
{
  Metrics metrics({});
  Snapshot now = snapshot();
  now.health.stray_hits["ready_for_query"] = 2;
  const Scrape seen = scrape(metrics, now);
  EXPECT_THAT(
      seen.value("probe_hits_total", {{"instance", "unknown"}, {"probe", "ready_for_query"}}),
      Optional(2));
}

// A host that starts servers all day (tests, previews) must not fill the cap with the dead.
TEST(Metrics, servers_that_are_gone_leave_only_violations_that_were_raised)
{
  Metrics metrics({.rules = {"ctx_bloat", "peak"}});
  Snapshot none = snapshot();
  none.servers.clear();
  none.processes.clear();
  const std::size_t before = scrape(metrics, none).series();
  for (int i = 0; i < 300; ++i) {
    Snapshot one = none;
    const std::string instance = "preview-" + std::to_string(i);
    one.servers = {server(instance)};
    one.processes = {std::make_shared<const ProcessSnapshot>(backend(4242, instance))};
    scrape(metrics, one);
  }
  EXPECT_EQ(scrape(metrics, none).series(), before);

  scrape(metrics, snapshot(), {violation()}, {violation()});
  const Scrape after = scrape(metrics, none);
  EXPECT_EQ(after.series(), before + 1);
  EXPECT_THAT(after.value("violations_total", rule_labels("ctx_bloat")), Optional(1));
}

TEST(Metrics, forgets_the_gauges_of_servers_that_are_gone)
{
  Metrics metrics({});
  scrape(metrics, snapshot());
  Snapshot other = snapshot();
  other.servers = {server("15/next")};
  other.processes = {std::make_shared<const ProcessSnapshot>(backend(4300, "15/next"))};
  const Scrape seen = scrape(metrics, other);
  EXPECT_THAT(seen.label_values("context_total_bytes", "instance"), Not(Contains(kMain)));
  EXPECT_THAT(seen.label_values("level", "instance"), testing::ElementsAre("15/next"));
}

TEST(Metrics, shows_no_pid_ident_or_query)
{
  Snapshot now = snapshot();
  ProcessSnapshot process = backend(4242);
  process.contexts[0].ident = "SELECT secret_ident";
  process.activity.current_query = "SELECT secret_query";
  now.processes = {std::make_shared<const ProcessSnapshot>(process)};
  Metrics metrics({});
  const std::string text = scrape(metrics, now, {violation()}, {violation()}).text();
  EXPECT_THAT(text, Not(HasSubstr("secret")));
  EXPECT_THAT(text, Not(HasSubstr("4242")));
  EXPECT_THAT(text, Not(HasSubstr("case_grow")));
}

} // namespace
} // namespace pgmemtrace::test
