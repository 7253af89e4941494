// SPDX-License-Identifier: BSD-2-Clause
// context_report.cpp - see context_report.h.
#include "context_report.h"

#include <algorithm>
#include <csignal>
#include <map>
#include <regex>
#include <sstream>

#include <gtest/gtest.h>

#include "runtime_test.h"

namespace pgmemtrace::test {
namespace {

using nlohmann::json;

// ---- ours ------------------------------------------------------------------------------

// As MemoryContextStatsPrint() shows an ident (mcxt.c).
std::string as_logged(const json &ident)
{
  if (ident.is_null())
    return {};
  auto text = ident.get<std::string>();
  const bool cut = text.size() > 100;
  text = text.substr(0, 100);
  std::ranges::replace_if(
      text, [](char c) { return static_cast<unsigned char>(c) < ' '; }, ' ');
  return ": " + text + (cut ? "..." : "");
}

using Path = std::vector<int>;

struct Sums {
  std::int64_t total = 0, blocks = 0, free = 0, chunks = 0, used = 0;

  void add(const json &context)
  {
    total += context["total_bytes"].get<std::int64_t>();
    blocks += context["total_nblocks"].get<std::int64_t>();
    free += context["free_bytes"].get<std::int64_t>();
    chunks += context["free_chunks"].get<std::int64_t>();
    used += context["used_bytes"].get<std::int64_t>();
  }
  std::string text() const
  {
    std::ostringstream out;
    out << total << " total in " << blocks << " blocks; " << free << " free (" << chunks
        << " chunks); " << used << " used";
    return out.str();
  }
};

// What is below a context beyond its 100th child, in one line.
struct Folded {
  Path parent;
  int children = 0;
  Sums sums;

  bool holds(const Path &path) const
  {
    return children > 0 && path.size() > parent.size() &&
           std::equal(parent.begin(), parent.end(), path.begin());
  }
};

// The tree in the report's order and words: depth first is the order of paths.
std::vector<std::string> our_lines(json contexts)
{
  const auto path_of = [](const json &context) { return context["path"].get<Path>(); };
  std::sort(contexts.begin(), contexts.end(),
            [&](const json &left, const json &right) { return path_of(left) < path_of(right); });
  std::vector<std::string> lines;
  std::map<Path, int> children;
  Folded folded;
  for (const auto &context : contexts) {
    const Path path = path_of(context);
    const Path parent(path.begin(), path.end() - 1);
    const bool more = folded.holds(path);
    if (!more && ++children[parent] > 100)
      folded = {.parent = parent};
    if (more || children[parent] > 100) {
      folded.children += path.size() == folded.parent.size() + 1 ? 1 : 0;
      folded.sums.add(context);
      if (more)
        lines.pop_back();
      lines.push_back("level: " + std::to_string(folded.parent.size() - 1) + "; " +
                      std::to_string(folded.children) + " more child contexts containing " +
                      folded.sums.text());
      continue;
    }
    Sums own;
    own.add(context);
    lines.push_back("level: " + std::to_string(path.size() - 1) + "; " +
                    context["name"].get<std::string>() + ": " + own.text() +
                    as_logged(context["ident"]));
  }
  return lines;
}

// ---- theirs ------------------------------------------------------------------------------

std::string module_path(const Major &major)
{
  return major.root / ("tmp/pgmt_report_on_signal." + std::to_string(getpid()) + ".so");
}

// What a view has no column for: a Generation's number of chunks, a Slab's of empty blocks.
// And a Bump, which frees nothing, leaves out its chunks.
std::string in_common_words(std::string line)
{
  static const std::regex no_columns(R"( \(\d+ chunks\)(?=; \d+ free)| \d+ empty blocks;)");
  static const std::regex no_chunks(R"( free; )");
  line = std::regex_replace(line, no_columns, "");
  return std::regex_replace(line, no_chunks, " free (0 chunks); ");
}

// 13's lines are indented by level instead, "N more child contexts" one step deeper.
std::string from_13(const std::string &line)
{
  const auto indent = line.find_first_not_of(' ');
  const bool folded = line.find(" more child contexts containing ") != std::string::npos;
  return "level: " + std::to_string(indent / 2 - (folded ? 1 : 0)) + "; " + line.substr(indent);
}

// From 18 on levels count from 1.
std::string from_18(const std::string &line)
{
  const std::size_t number = std::string("level: ").size();
  const auto end = line.find(';');
  return "level: " + std::to_string(std::stoi(line.substr(number, end - number)) - 1) +
         line.substr(end);
}

// Asks, and gives what has been logged since when the last line of a report is there.
template <typename Ask>
std::string logged_since(const PostgresCluster &cluster, const std::string &last, Ask ask)
{
  const std::size_t before = cluster.log().size();
  if (!ask())
    return {};
  const auto news = [&] { return cluster.log().substr(before); };
  return eventually([&] { return news().find(last) != std::string::npos; }) ? news() : "";
}

std::vector<std::string> report_of_13(const PostgresCluster &cluster, pid_t pid)
{
  std::istringstream log(
      logged_since(cluster, "Grand total", [&] { return pid > 0 && kill(pid, SIGRTMIN) == 0; }));
  const std::regex context(R"( *\S.* total in \d+ blocks.*; \d+ used.*)");
  std::vector<std::string> lines;
  for (std::string line; std::getline(log, line) && !line.starts_with("Grand total");)
    if (std::regex_match(line, context))
      lines.push_back(from_13(in_common_words(line)));
  return lines;
}

std::vector<std::string> report_since_14(const PostgresCluster &cluster, pid_t pid)
{
  const std::string number = std::to_string(pid);
  const std::string mark = "[" + number + "] LOG:  ";
  std::istringstream log(logged_since(cluster, mark + "Grand total", [&] {
    auto admin = cluster.connect();
    const std::string sql = "SELECT pg_log_backend_memory_contexts(" + number + ")";
    return admin.value(sql) == "t";
  }));
  std::vector<std::string> lines;
  for (std::string line; std::getline(log, line);)
    if (line.starts_with(mark + "level: ")) {
      line = in_common_words(line.substr(mark.size()));
      lines.push_back(cluster.major().number >= 18 ? from_18(line) : line);
    }
  return lines;
}

} // namespace

CommandResult contexts_of(pid_t pid, const std::vector<std::string> &more)
{
  std::vector<std::string> argv{pgmemtrace_binary(), "contexts", "--pid", std::to_string(pid)};
  argv.insert(argv.end(), more.begin(), more.end());
  return run_command(argv);
}

json json_contexts(pid_t pid)
{
  const auto result = contexts_of(pid, {"--format", "json"});
  EXPECT_EQ(result.status, 0) << result.err;
  auto parsed = json::parse(result.out, nullptr, false);
  EXPECT_TRUE(parsed.is_array()) << result.out;
  return parsed;
}

std::vector<std::string> conf_for_reports(std::vector<std::string> conf)
{
  conf.emplace_back("log_line_prefix = '[%p] '");
  const auto major = major_under_test();
  if (!major || major->number > 13)
    return conf;
  const std::string module = module_path(*major);
  const std::string source =
      std::string(PGMT_SOURCE_DIR) + "/tests/runtime/support/report_on_signal.c";
  const auto cc = run_command({"cc", "-shared", "-fPIC", "-O1",
                               "-I" + major->server_headers().string(), "-o", module, source});
  EXPECT_EQ(cc.status, 0) << cc.err;
  static const struct Remover { // servers load it again when they restart
    std::string path;
    ~Remover() { std::remove(path.c_str()); }
  } remover{module};
  conf.push_back("shared_preload_libraries = '/" +
                 std::filesystem::path(module).lexically_relative(major->root).string() + "'");
  return conf;
}

std::vector<std::string> reported_lines(const PostgresCluster &cluster, pid_t pid)
{
  return cluster.major().number >= 14 ? report_since_14(cluster, pid) : report_of_13(cluster, pid);
}

json expect_same_as_reported(const PostgresCluster &cluster, pid_t pid)
{
  std::vector<std::string> theirs;
  json contexts;
  // Background processes wake up now and then: both looks must fall between two wake-ups.
  for (int attempt = 0; attempt < 20; ++attempt) {
    theirs = reported_lines(cluster, pid);
    contexts = json_contexts(pid);
    if (theirs == our_lines(contexts))
      return contexts;
  }
  const auto ours = our_lines(contexts);
  EXPECT_EQ(theirs.size(), ours.size());
  for (std::size_t i = 0; i < std::min(theirs.size(), ours.size()); ++i)
    EXPECT_EQ(theirs[i], ours[i]);
  return contexts;
}

pid_t process_of_type(const PostgresCluster &cluster, const std::string &backend_type)
{
  auto admin = cluster.connect();
  std::string pid;
  EXPECT_TRUE(eventually([&] {
    pid = admin.value("SELECT coalesce(max(pid), 0) FROM pg_stat_activity WHERE backend_type = '" +
                      backend_type + "'");
    return pid != "0";
  })) << backend_type;
  return std::stoi(pid);
}

} // namespace pgmemtrace::test
