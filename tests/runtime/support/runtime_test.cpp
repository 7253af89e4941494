// SPDX-License-Identifier: BSD-2-Clause
// runtime_test.cpp - see runtime_test.h.
#include "runtime_test.h"

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <sstream>

#include <pgmemtrace/abi.h>
#include <unistd.h>

namespace pgmemtrace::test {

struct RuntimeTest::Shared {
  ClusterOptions options;
  std::unique_ptr<PostgresCluster> cluster;
};

RuntimeTest::Shared &RuntimeTest::shared()
{
  static Shared shared;
  return shared;
}

void RuntimeTest::use_cluster(ClusterOptions options)
{
  shared().cluster.reset();
  shared().options = std::move(options);
}

PostgresCluster &RuntimeTest::cluster()
{
  if (!shared().cluster) {
    auto cluster = PostgresCluster::start(shared().options);
    if (!cluster) { // a reference cannot say no, and nothing can be tested without a server
      std::cerr << "no server: " << to_string(cluster.error()) << "\n"
                << cluster.error().hint << "\n";
      std::exit(EXIT_FAILURE);
    }
    shared().cluster = std::move(*cluster);
  }
  return *shared().cluster;
}

void RuntimeTest::TearDownTestSuite() { use_cluster({}); }

void RuntimeTest::SetUp()
{
  std::string missing;
  if (geteuid() != 0)
    missing = "needs root; run: sudo scripts/test.sh runtime";
  else if (const auto major = major_under_test(); !major)
    missing = "no server: " + to_string(major.error());
  if (!missing.empty())
    skip_or_fail(missing);
}

void RuntimeTest::skip_or_fail(const std::string &why)
{
  if (std::getenv("PGMEMTRACE_REQUIRE_RUNTIME") || std::getenv("CI"))
    FAIL() << "this run asked for runtime tests, but: " << why;
  GTEST_SKIP() << "NOT TESTED: " << why;
}

void RuntimeTest::TearDown()
{
  constexpr size_t kTail = 8192;
  if (!HasFailure() || !shared().cluster)
    return;
  auto log = shared().cluster->log();
  std::cerr << "--- the end of the server's log\n"
            << log.substr(log.size() - std::min(log.size(), kTail)) << "---\n";
}

std::unique_ptr<Daemon> RuntimeTest::start_daemon(const std::vector<std::string> &args)
{
  auto daemon = Daemon::start(args);
  if (daemon)
    return std::move(*daemon);
  ADD_FAILURE() << to_string(daemon.error());
  return nullptr;
}

HttpResponse http_get(int port, const std::string &path)
{
  auto url = "http://127.0.0.1:" + std::to_string(port) + path;
  auto curl = run_command({"curl", "--silent", "--show-error", "--noproxy", "*", "--max-time", "30",
                           "--write-out", "\n%{http_code}", url});
  auto end_of_body = curl.out.rfind('\n');
  if (end_of_body == std::string::npos)
    return {};
  return {std::atoi(curl.out.c_str() + end_of_body + 1), curl.out.substr(0, end_of_body)};
}

std::optional<double> metric(int port, const std::string &series)
{
  const auto body = "\n" + http_get(port, "/metrics").body;
  const auto at = body.find("\n" + series + " ");
  if (at == std::string::npos)
    return std::nullopt;
  return std::strtod(body.c_str() + at + series.size() + 2, nullptr);
}

double probe_hits(int port, const std::string &probe, const std::string &instance)
{
  std::istringstream body(http_get(port, "/metrics").body);
  const std::string start = "pgmemtrace_probe_hits_total{instance=\"" + instance;
  const std::string end = "\",probe=\"" + probe + "\"}";
  double sum = 0;
  for (std::string line; std::getline(body, line);) {
    const auto name = line.substr(0, line.rfind(' '));
    if (instance.empty() ? name.starts_with(start) && name.ends_with(end) : name == start + end)
      sum += std::strtod(line.c_str() + name.size(), nullptr);
  }
  return sum;
}

namespace {

bool names_file(const nlohmann::json &link, const char *key, const std::string &file)
{
  return std::filesystem::path(link.value(key, "")).filename() == file;
}

nlohmann::json all_links()
{
  const auto bpftool = run_command({"bpftool", "--json", "link", "show"});
  auto links = nlohmann::json::parse(bpftool.out, nullptr, false);
  if (links.is_array())
    return links;
  ADD_FAILURE() << "bpftool link: " << bpftool.out << bpftool.err;
  return nlohmann::json::array();
}

std::set<unsigned> links_held_by(pid_t pid)
{
  std::set<unsigned> ids;
  std::error_code gone;
  for (const auto &fd :
       std::filesystem::directory_iterator("/proc/" + std::to_string(pid) + "/fdinfo", gone)) {
    std::ifstream text(fd.path());
    unsigned id = 0;
    for (std::string word; text >> word;)
      if (word == "link_id:" && text >> id)
        ids.insert(id);
  }
  return ids;
}

} // namespace

std::set<unsigned> probe_links(pid_t holder, const std::string &file)
{
  const auto held = links_held_by(holder);
  std::set<unsigned> links;
  for (const auto &link : all_links()) {
    auto type = link.value("type", "");
    // A link of its own per uprobe (perf_event) or one for many (uprobe_multi); and of settle.
    const bool there =
        (type == "uprobe_multi" && names_file(link, "path", file)) ||
        (type == "perf_event" && names_file(link, "file", file)) ||
        (type == "raw_tracepoint" && link.value("tp_name", "") == PGMT_ANSWER_TRACEPOINT);
    if (const auto id = link.value("id", 0U); there && held.contains(id))
      links.insert(id);
  }
  return links;
}

std::set<unsigned> living(const std::set<unsigned> &links)
{
  std::set<unsigned> result;
  for (const auto &link : all_links())
    if (const auto id = link.value("id", 0U); links.contains(id))
      result.insert(id);
  return result;
}

} // namespace pgmemtrace::test
