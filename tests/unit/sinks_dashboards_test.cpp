// SPDX-License-Identifier: BSD-2-Clause
// sinks_dashboards_test - the dashboard and the alerts ask for metrics that exist, in PromQL
// that Prometheus understands.
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <regex>
#include <set>
#include <string>
#include <vector>

#include <unistd.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "sinks/metrics.h"
#include "sinks_fixture.h"
#include "sinks_scrape.h"

namespace pgmemtrace::test {
namespace {

namespace fs = std::filesystem;

std::string read_file(const fs::path &path)
{
  std::ifstream in(path);
  return {std::istreambuf_iterator<char>(in), {}};
}

fs::path dashboards() { return PGMT_DASHBOARDS; }

std::set<std::string> names_in(const std::string &text)
{
  static const std::regex name("pgmemtrace_[a-z_]+");
  return {std::sregex_token_iterator(text.begin(), text.end(), name), {}};
}

// What a daemon exports that has seen one of everything.
std::string golden_scrape()
{
  Metrics metrics({.rules = {"ctx_bloat"}});
  const std::vector violations{violation()};
  return Scrape(metrics.render(snapshot(), violations, violations)).text();
}

TEST(Dashboards, use_only_metrics_that_exist)
{
  const auto exported = names_in(golden_scrape());
  ASSERT_GT(exported.size(), 20U);
  for (const char *file : {"pgmemtrace.json", "alerts.yml"}) {
    const auto used = names_in(read_file(dashboards() / file));
    EXPECT_GT(used.size(), 5U) << file;
    for (const std::string &name : used)
      EXPECT_TRUE(exported.contains(name)) << name << " in " << file;
  }
}

TEST(Dashboards, show_every_metric_that_is_exported)
{
  const auto shown = names_in(read_file(dashboards() / "pgmemtrace.json"));
  static const std::set<std::string> kNotShown{
      "pgmemtrace_calibrated_hit_seconds",   "pgmemtrace_direct_reads",
      "pgmemtrace_probe_attached",           "pgmemtrace_sweeps_total",
      "pgmemtrace_backend_total_bytes",      "pgmemtrace_backend_total_bytes_sum",
      "pgmemtrace_backend_total_bytes_count"};
  for (const std::string &name : names_in(golden_scrape()))
    EXPECT_TRUE(shown.contains(name) || kNotShown.contains(name)) << name;
}

TEST(Dashboards, explain_every_panel)
{
  const auto dashboard = nlohmann::json::parse(read_file(dashboards() / "pgmemtrace.json"));
  for (const auto &panel : dashboard.at("panels")) {
    const std::string description = panel.value("description", "");
    EXPECT_TRUE(panel.at("type") == "row" || !description.empty()) << panel.at("title");
  }
}

// promtool parses expressions only inside of rules.
TEST(Dashboards, ask_in_valid_promql)
{
  const auto dashboard = nlohmann::json::parse(read_file(dashboards() / "pgmemtrace.json"));
  nlohmann::json rules = nlohmann::json::array();
  for (const auto &panel : dashboard.at("panels")) {
    for (const auto &target : panel.value("targets", nlohmann::json::array())) {
      std::string expr = target.at("expr");
      expr = std::regex_replace(expr, std::regex("\\$__rate_interval"), "1m");
      expr = std::regex_replace(expr, std::regex("\\$instance"), ".*");
      EXPECT_THAT(expr, testing::Not(testing::HasSubstr("$"))) << panel.at("title");
      rules.push_back({{"record", "panel:" + std::to_string(rules.size())}, {"expr", expr}});
    }
  }
  ASSERT_GT(rules.size(), 20U);

  std::string path = (fs::temp_directory_path() / "pgmt-rules-XXXXXX").string();
  const int fd = mkstemp(path.data());
  ASSERT_GE(fd, 0);
  close(fd);
  // JSON is YAML.
  std::ofstream(path) << nlohmann::json{{"groups", {{{"name", "panels"}, {"rules", rules}}}}};
  const std::string command = std::string(PGMT_PROMTOOL) + " check rules " + path;
  EXPECT_EQ(std::system(command.c_str()), 0); // NOLINT(bugprone-command-processor,cert-env33-c)
  fs::remove(path);
}

} // namespace
} // namespace pgmemtrace::test
