// SPDX-License-Identifier: BSD-2-Clause
// run_cases - workloads with a known verdict against the real daemon; prints hits, misses and
// false alarms.
//
// A private server, one daemon, one session per case; each string of a case is one round trip.
// Exit status: 0 all passed, 1 some failed, 3 could not run, 77 not root or no such server.
#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <regex>
#include <string>
#include <thread>
#include <vector>

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>
#include <unistd.h>

#include "case_file.h"
#include "support/daemon.h"
#include "support/postgres_cluster.h"

namespace pgmemtrace::test {
namespace {

struct Options {
  std::vector<std::string> only;
  std::string folder = PGMT_CASES;
  std::string level = "statement";
  std::string interval = "10s";
  std::string max_overhead = "5%";
  int major = 0; // the one under test
  bool verbose = false;
};

struct Verdict {
  bool passed = false;
  std::string word; // hit, silent, MISS, FALSE ALARM, BROKEN, skipped
  std::string seen; // "context_leak WARNING PL/pgSQL function; ..."
  double seconds = 0;
};

// Violations that the daemon raised or updated for that backend so far.
std::vector<nlohmann::json> violations_of(const Daemon &daemon, pid_t backend)
{
  std::vector<nlohmann::json> found;
  for (const std::string &line : daemon.lines()) {
    auto json = nlohmann::json::parse(line, nullptr, false);
    if (json.is_object() && json.value("type", "") == "violation" &&
        json.value("server_pid", 0) == backend && json.value("state", "") != "cleared")
      found.push_back(std::move(json));
  }
  return found;
}

std::string text(const nlohmann::json &violation, const char *key)
{
  const auto value = violation.find(key);
  return value != violation.end() && value->is_string() ? value->get<std::string>() : "";
}

bool is_hit(const Case &expected, const nlohmann::json &violation)
{
  return std::ranges::find(expected.rules, text(violation, "rule")) != expected.rules.end() &&
         std::regex_search(text(violation, "context"), std::regex(expected.context));
}

bool is_alarm(const nlohmann::json &violation) { return text(violation, "severity") != "INFO"; }

// One entry per rule and context, with the highest severity.
std::string summary(const std::vector<nlohmann::json> &violations)
{
  std::vector<std::string> entries;
  for (const auto &v : violations) {
    const std::string entry =
        fmt::format("{} {} {}", text(v, "rule"), text(v, "severity"),
                    text(v, "context").empty() ? "(outside)" : text(v, "context"));
    if (std::ranges::find(entries, entry) == entries.end())
      entries.push_back(entry);
  }
  return fmt::format("{}", fmt::join(entries, "; "));
}

Result<> run_all(Session &session, const std::vector<std::string> &statements, int i,
                 bool expect_errors)
{
  for (const std::string &sql : statements)
    if (auto done = session.try_exec(with_iteration(sql, i)); !done && !expect_errors)
      return Error{done.error().what, 0, done.error().hint};
  return Ok{};
}

Result<> work(Session &session, const Case &c)
{
  if (auto done = run_all(session, c.setup, 0, false); !done)
    return done;
  for (int i = 1; i <= c.iterations; ++i)
    if (auto done = run_all(session, c.step, i, c.expect_errors); !done)
      return done;
  return Ok{};
}

Verdict judge(const Case &c, const std::vector<nlohmann::json> &violations)
{
  Verdict verdict{.seen = summary(violations)};
  if (c.rules.empty()) {
    verdict.passed = std::ranges::none_of(violations, is_alarm);
    verdict.word = verdict.passed ? "silent" : "FALSE ALARM";
  } else {
    verdict.passed = std::ranges::any_of(violations, [&](const auto &v) { return is_hit(c, v); });
    verdict.word = verdict.passed ? "hit" : "MISS";
  }
  return verdict;
}

Verdict run_case(const Case &c, PostgresCluster &cluster, Daemon &daemon, bool verbose)
{
  auto session = Session::connect(cluster.conninfo());
  if (!session)
    return {.word = "BROKEN", .seen = session.error().what};
  const pid_t backend = session->backend_pid();
  const auto start = std::chrono::steady_clock::now();
  if (auto done = work(*session, c); !done)
    return {.word = "BROKEN", .seen = done.error().what + ": " + done.error().hint};
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;

  // The daemon looks at what has changed within the second and then rests.
  constexpr auto kLastLook = std::chrono::seconds(2);
  const auto end = std::chrono::steady_clock::now() + kLastLook;
  while (std::chrono::steady_clock::now() < end &&
         (c.rules.empty() || !judge(c, violations_of(daemon, backend)).passed))
    std::this_thread::sleep_for(std::chrono::milliseconds(50));

  const auto violations = violations_of(daemon, backend);
  Verdict verdict = judge(c, violations);
  verdict.seconds = took.count();
  if (verbose)
    for (const auto &v : violations)
      fmt::print("    {:<8} {:<8} {} {}: {} [{}]\n", text(v, "state"), text(v, "severity"),
                 text(v, "rule"), text(v, "path"), text(v, "detail"), text(v, "query"));
  (void)run_all(*session, c.teardown, 0, true);
  return verdict;
}

bool wanted(const Case &c, const Options &options)
{
  return options.only.empty() || std::ranges::find(options.only, c.name) != options.only.end();
}

// "contrib:xml2"
bool available(const Case &c, PostgresCluster &cluster)
{
  const std::string prefix = "contrib:";
  if (!c.needs.starts_with(prefix))
    return true;
  auto session = Session::connect(cluster.conninfo());
  if (!session)
    return false;
  const auto rows = session->try_exec("SELECT 1 FROM pg_available_extensions WHERE name = '" +
                                      c.needs.substr(prefix.size()) + "'");
  return rows && !rows->empty();
}

Result<int> run(const Options &options)
{
  auto cases = read_cases(options.folder);
  if (!cases)
    return cases.error();
  const auto major = options.major ? find_major(options.major) : major_under_test();
  if (!major)
    return major.error();
  auto cluster = PostgresCluster::start({.major = major->number, .root = major->root});
  if (!cluster)
    return cluster.error();
  auto daemon =
      Daemon::start({"run", "--pid", std::to_string((*cluster)->postmaster_pid()), "--format",
                     "json", "--listen", "off", "--level", options.level, "--interval",
                     options.interval, "--max-overhead", options.max_overhead});
  if (!daemon)
    return daemon.error();

  int passed = 0;
  int failed = 0;
  int skipped = 0;
  fmt::print("{:<32} {:<12} {:>6}  {:<44} {}\n", "case", "verdict", "s", "expected", "raised");
  for (const Case &c : *cases) {
    if (!wanted(c, options))
      continue;
    const std::string expected =
        c.rules.empty() ? "-" : fmt::format("{} {}", fmt::join(c.rules, "|"), c.context);
    Verdict verdict{.word = "skipped"};
    if (std::ranges::find(c.majors, major->number) == c.majors.end() || !available(c, **cluster))
      ++skipped;
    else {
      // A workload of half a second may fall between two looks when the machine is busy
      // elsewhere, or when the cases before it have used up what the daemon may spend on extra
      // sweeps (sweep_schedule.h): a miss counts when it misses again after a rest.  A false
      // alarm counts at once.
      constexpr int kAttempts = 4;
      constexpr auto kRest = std::chrono::seconds(10);
      int attempt = 1;
      verdict = run_case(c, **cluster, **daemon, options.verbose);
      for (; attempt < kAttempts && verdict.word == "MISS"; ++attempt) {
        std::this_thread::sleep_for(kRest);
        verdict = run_case(c, **cluster, **daemon, options.verbose);
      }
      if (verdict.passed && attempt > 1)
        verdict.word += fmt::format(" ({}.)", attempt);
      ++(verdict.passed ? passed : failed);
    }
    fmt::print("{:<32} {:<12} {:>6.1f}  {:<44} {}\n", c.name, verdict.word, verdict.seconds,
               expected, verdict.seen);
    std::fflush(stdout);
    if (!(*daemon)->running())
      return Error{"the daemon ended", 0, (*daemon)->err()};
  }
  if (failed > 0)
    fmt::print(stderr, "{}", (*daemon)->err());
  if (skipped > 0)
    fmt::print("{} skipped\n", skipped);
  fmt::print("{} passed, {} failed\n", passed, failed);
  return failed == 0 && passed > 0 ? 0 : 1;
}

} // namespace
} // namespace pgmemtrace::test

int main(int argc, char **argv)
try {
  using namespace pgmemtrace::test;
  Options options;
  CLI::App app{"Workloads with a known verdict against the real daemon"};
  app.add_option("--case", options.only, "only this one; may be repeated");
  app.add_option("--folder", options.folder, "where the *.json are");
  app.add_option("--level", options.level, "the daemon's");
  app.add_option("--interval", options.interval, "the daemon's");
  app.add_option("--max-overhead", options.max_overhead, "the daemon's");
  app.add_option("--major", options.major, "of the server; PGMT_MAJOR or the host's if not given");
  app.add_flag("--verbose", options.verbose, "every violation with its detail");
  CLI11_PARSE(app, argc, argv);
  if (geteuid() != 0) {
    fmt::print(stderr, "NOT TESTED: needs root\n");
    return 77;
  }
  const auto status = run(options);
  if (!status && status.error().err == ENOENT && !std::getenv("CI")) {
    fmt::print(stderr, "NOT TESTED: {}\n{}\n", pgmemtrace::to_string(status.error()),
               status.error().hint);
    return 77;
  }
  if (!status) {
    fmt::print(stderr, "error: {}\n{}\n", pgmemtrace::to_string(status.error()),
               status.error().hint);
    return 3;
  }
  return *status;
} catch (const std::exception &e) {
  std::fputs(e.what(), stderr);
  return 3;
}
