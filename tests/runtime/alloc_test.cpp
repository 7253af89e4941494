// SPDX-License-Identifier: BSD-2-Clause
// alloc_test.cpp - level alloc on a live server: known requests are counted to the byte, by context
// and by the function that asked.
#include <algorithm>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include <gmock/gmock.h>

#include "collect/alloc_reader.h"
#include "collect/bpf_hash.h"
#include "support/c_functions.h"
#include "support/kernel.h"
#include "support/runtime_test.h"
#include "symbols/symbolizer.h"

namespace pgmemtrace::test {
namespace {

class AllocTest : public RuntimeTest {
protected:
  static Session connect()
  {
    auto session = cluster().connect();
    load_c_functions(cluster(), session, "known_requests",
                     {"ask(int, int, bool)", "ask_by_others(int, int)", "give_back(int, int)",
                      "enlarge(int, int)", "use_context(int, int)", "keep_contexts(int, int)",
                      "churn(int, int)", "ask_in(int, int)",
                      "churn_in(bool, int, int) RETURNS bigint"});
    return session;
  }

  // Level alloc on the processes of this test's server; others on the host are refused.
  static std::unique_ptr<Kernel> watch(Probes::Options options = {})
  {
    options.select_only = true;
    auto kernel = std::make_unique<Kernel>(cluster(), Level::alloc, KernelMaps::Options{},
                                           std::move(options));
    EXPECT_TRUE(kernel->maps().select(cluster().postmaster_pid(), true));
    return kernel;
  }

  // What `function` asked of contexts of this name, or of all.
  static AllocCalls calls_of(Kernel &kernel, const Session &session, const std::string &function,
                             const std::string &context = {})
  {
    AllocReader reader(kernel.maps(), [](pid_t pid, std::uint64_t address) {
      return ForeignMemory(pid).read_string(address, 64).value_or("");
    });
    reader.refresh();
    kernel.servers().refresh();
    Symbolizer symbols({.proc = Proc(), .modules = {}, .debug_files = {}});
    const auto *process = kernel.servers().find_process(session.backend_pid());
    AllocCalls sum;
    if (!process)
      return sum;
    for (const auto &one : reader.calls(session.backend_pid())) {
      const auto frames = symbols.frames({.process = process->identity.id, .postmaster = {}},
                                         one.caller, Symbolizer::Kind::return_address);
      if (frames.back().function != function || (!context.empty() && one.name != context))
        continue;
      sum.allocs += one.allocs;
      sum.frees += one.frees;
      sum.reallocs += one.reallocs;
      sum.resets += one.resets;
      sum.deletes += one.deletes;
      sum.asked += one.asked;
      sum.reasked += one.reasked;
      sum.taken += one.taken;
      sum.live_bytes += one.live_bytes;
      sum.live_chunks += one.live_chunks;
    }
    return sum;
  }

  static void expect_nothing_lost(const Kernel &kernel)
  {
    for (const auto reason : {PGMT_LOSS_READ_CHUNK, PGMT_LOSS_READ_CALLER, PGMT_LOSS_CALLS_FULL,
                              PGMT_LOSS_CHUNKS_FULL, PGMT_LOSS_CHUNK_UNKNOWN})
      EXPECT_EQ(kernel.lost(reason), 0u) << reason;
  }
};

TEST_F(AllocTest, every_method_has_its_probe)
{
  const auto kernel = watch();
  std::vector<std::string> missing;
  for (const auto &unplaced : kernel->probes().plan().unplaced)
    if (unplaced.probe == PGMT_PROBE_ALLOC)
      missing.push_back(unplaced.function);
  // Debian's 18: nothing that the kernel emulates before it has lost the chunk.
  const std::vector<std::string> known{"SlabFree"};
  EXPECT_THAT(missing, testing::AnyOf(testing::IsEmpty(), testing::Eq(known)));
  EXPECT_EQ(missing.empty(), kernel->probes().plan().tracked.contains(ContextType::slab));
  EXPECT_GE(kernel->probes().attached_sites(PGMT_PROBE_ALLOC), 13u);
}

TEST_F(AllocTest, requests_are_counted_by_context_and_caller)
{
  auto session = connect();
  auto kernel = watch();
  session.exec("SELECT ask(1000, 200, true)");
  session.exec("SELECT ask(100, 33, false)");
  session.exec("SELECT ask(3, 100000, true)");
  const auto top = calls_of(*kernel, session, "ask", "TopMemoryContext");
  EXPECT_EQ(top.allocs, 1003u);
  EXPECT_EQ(top.asked, 1000u * 200 + 3 * 100000);
  EXPECT_EQ(top.frees + top.reallocs + top.resets + top.deletes, 0u);
  const auto all = calls_of(*kernel, session, "ask");
  EXPECT_EQ(all.allocs, 1103u);
  EXPECT_EQ(all.asked - top.asked, 3300u);
  expect_nothing_lost(*kernel);
}

TEST_F(AllocTest, who_asked_is_found_behind_functions_that_ask_for_others)
{
  auto session = connect();
  auto kernel = watch();
  session.exec("SELECT ask_by_others(500, 64)");
  const auto calls = calls_of(*kernel, session, "ask_by_others");
  EXPECT_EQ(calls.allocs, 501u);
  EXPECT_EQ(calls.asked, 501u * 64);
  for (const char *passer : {"palloc", "palloc0", "pstrdup", "MemoryContextAlloc",
                             "MemoryContextStrdup", "AllocSetRealloc"})
    EXPECT_EQ(calls_of(*kernel, session, passer).allocs, 0u) << passer;
}

TEST_F(AllocTest, frees_and_reallocs_are_counted_by_who_asked_for_them)
{
  auto session = connect();
  auto kernel = watch();
  session.exec("SELECT give_back(700, 48)");
  session.exec("SELECT enlarge(100, 300)"); // from small chunks to blocks of their own
  const auto given = calls_of(*kernel, session, "give_back");
  EXPECT_EQ(given.allocs, 700u);
  EXPECT_EQ(given.frees, 700u);
  const auto enlarged = calls_of(*kernel, session, "enlarge");
  EXPECT_EQ(enlarged.allocs, 1u);
  EXPECT_EQ(enlarged.reallocs, 100u);
  EXPECT_EQ(enlarged.frees, 0u);
  EXPECT_EQ(enlarged.reasked, 300u * (100 * 101 / 2));
  expect_nothing_lost(*kernel);
}

TEST_F(AllocTest, resets_and_deletes_are_counted_once)
{
  auto session = connect();
  auto kernel = watch();
  session.exec("SELECT use_context(50, 100)");
  const auto calls = calls_of(*kernel, session, "use_context", "requests");
  EXPECT_EQ(calls.allocs, 50u);
  EXPECT_EQ(calls.resets, 50u);
  EXPECT_EQ(calls.deletes, 1u);
}

// In the context that lives as long as the session, without a recording.
TEST_F(AllocTest, what_is_left_in_TopMemoryContext_is_known_by_caller)
{
  auto session = connect();
  session.exec("SELECT churn(256, 40)");
  auto kernel = watch();
  session.exec("SELECT 1");                   // a boundary: the roots are found
  session.exec("SELECT ask(500, 200, true)"); // some in blocks that come now
  session.exec("SELECT ask(4, 20000, true)"); // blocks of their own
  for (int i = 0; i < 20; ++i)
    session.exec("SELECT churn(256, " + std::to_string(30 + i * 700) + ")");
  session.exec("SELECT 1");
  const auto kept = calls_of(*kernel, session, "ask", "TopMemoryContext");
  EXPECT_EQ(kept.live_chunks, 504u);
  EXPECT_EQ(kept.live_bytes, 500u * 256 + 4 * 20000);
  const auto churned = calls_of(*kernel, session, "churn", "TopMemoryContext");
  EXPECT_EQ(churned.allocs, 20u * 256);
  EXPECT_EQ(churned.frees, 20u * 256);
  EXPECT_EQ(churned.live_chunks, 256u);
  EXPECT_EQ(churned.live_bytes, 256u * ((30 + 19 * 700 + 7) / 8 * 8));
  expect_nothing_lost(*kernel);
}

// When recording, in every AllocSet.
TEST_F(AllocTest, resets_and_deletes_end_what_a_context_holds)
{
  auto session = connect();
  auto kernel = watch({.record_calls = true});
  session.exec("SELECT use_context(50, 100)");
  session.exec("SELECT keep_contexts(30, 100)");
  session.exec("SELECT ask(1000, 10, false)");
  session.exec("SELECT ask(7, 10, true)");
  EXPECT_EQ(calls_of(*kernel, session, "use_context").live_chunks, 0u);
  const auto kept = calls_of(*kernel, session, "keep_contexts", "kept requests");
  EXPECT_EQ(kept.live_chunks, 30u);
  EXPECT_EQ(kept.live_bytes, 30u * 128);
  EXPECT_EQ(calls_of(*kernel, session, "ask").live_chunks, 7u);
  expect_nothing_lost(*kernel);
}

TEST_F(AllocTest, chunks_that_realloc_moves_are_followed)
{
  auto session = connect();
  auto kernel = watch({.record_calls = true});
  // In one transaction: what enlarge() leaves is in a context of this statement.
  session.exec("DO $$ BEGIN PERFORM enlarge(100, 300); PERFORM enlarge(40, 1000); END $$");
  session.exec(
      "SELECT array_length(array_agg(repeat('x', 100)), 1) FROM generate_series(1, 30000)");
  EXPECT_EQ(calls_of(*kernel, session, "enlarge").live_chunks, 0u);
  expect_nothing_lost(*kernel);
}

TEST_F(AllocTest, chunks_of_Generation_are_followed)
{
  auto session = connect();
  auto kernel = watch({.record_calls = true});
  // Of several sizes and with blocks of their own; blocks get empty, stand by and are used again.
  for (int i = 0; i < 5; ++i) {
    const auto kept = std::stoull(session.value("SELECT churn_in(false, 7000, 900)"));
    const auto calls = calls_of(*kernel, session, "churn_in", "generation requests");
    EXPECT_EQ(calls.live_bytes, kept);
    EXPECT_GT(kept, 20'000u);
  }
  expect_nothing_lost(*kernel);
}

TEST_F(AllocTest, chunks_of_Slab_are_followed)
{
  auto session = connect();
  auto kernel = watch({.record_calls = true});
  if (!kernel->probes().plan().tracked.contains(ContextType::slab))
    GTEST_SKIP() << "this server's SlabFree cannot be probed";
  for (int i = 0; i < 5; ++i) {
    const auto kept = std::stoull(session.value("SELECT churn_in(true, 7000, 300)"));
    const auto calls = calls_of(*kernel, session, "churn_in", "slab requests");
    EXPECT_EQ(calls.live_bytes, kept);
    EXPECT_EQ(calls.live_chunks * 300, kept);
    EXPECT_GT(kept, 20'000u);
  }
  expect_nothing_lost(*kernel);
}

// What is planned is what pg_stat_activity shows, what is executed is the part that was planned.
TEST_F(AllocTest, a_statement_has_one_key_however_it_ends)
{
  auto session = connect();
  auto kernel = watch({.record_calls = true, .by_query = true});
  for (const char *end : {"", ";", " ; ", "\n;\n"})
    session.exec(std::string("SELECT ask(1, 200, true)") + end);
  session.exec("SELECT ask(1, 200, true), 'a;'");
  std::vector<std::string> texts;
  bpf_hash::for_each<std::uint64_t, pgmt_query>(
      kernel->maps().queries_fd(), [&](std::uint64_t, const pgmt_query &query) {
        if (std::string_view(query.text).starts_with("SELECT ask("))
          texts.emplace_back(query.text);
      });
  EXPECT_EQ(texts.size(), 2u) << testing::PrintToString(texts);
}

// The kernel refuses a program of which it has looked at a million instructions.
TEST_F(AllocTest, programs_are_far_from_what_the_verifier_takes)
{
  auto kernel = watch({.record_all = true, .record_calls = true, .by_query = true, .heap = true});
  std::size_t programs = 0;
  for (const auto &fd : std::filesystem::directory_iterator("/proc/self/fdinfo")) {
    const auto about = read_text(fd.path());
    const auto at = about.find("verified_insns:");
    if (at == std::string::npos)
      continue;
    ++programs;
    EXPECT_LT(std::stoul(about.substr(about.find(':', at) + 1)), 300'000u) << about;
  }
  EXPECT_GE(programs, 11u);
}

TEST_F(AllocTest, perf_event_probes_count_the_same)
{
  auto session = connect();
  auto kernel = watch({.uprobe_multi = false});
  session.exec("SELECT ask(123, 200, true)");
  EXPECT_EQ(calls_of(*kernel, session, "ask").allocs, 123u);
}

// ---- the daemon -------------------------------------------------------------------------

class AllocRunTest : public AllocTest {
protected:
  static std::unique_ptr<Daemon> run(const Session &session)
  {
    auto daemon = start_daemon({"--pid", std::to_string(session.backend_pid()), "--level", "alloc",
                                "--format", "json", "--listen", "off", "--interval", "1s"});
    if (daemon) {
      EXPECT_TRUE(daemon->wait_for_json(
          [](const nlohmann::json &line) { return line["type"] == "status"; }));
    }
    return daemon;
  }

  static std::vector<nlohmann::json> wrong_contexts(Daemon &daemon)
  {
    std::vector<nlohmann::json> found;
    for (const auto &line : daemon.json_lines())
      if (line["type"] == "violation" && line["rule"] == "wrong_ctx_alloc")
        found.push_back(line);
    return found;
  }
};

TEST_F(AllocRunTest, a_small_chunk_in_the_wrong_context_names_its_caller_before_any_block_is_added)
{
  auto session = connect();
  // Room for the chunks to come: free ones of their size.
  session.exec("SELECT churn(200, 200)");
  session.exec("SELECT churn(200, 20000)");
  auto daemon = run(session);
  ASSERT_TRUE(daemon);
  const auto blocks = [&] {
    return session.value("SELECT total_nblocks FROM pg_backend_memory_contexts "
                         "WHERE name = 'TopMemoryContext'");
  };
  const bool has_view = cluster().major().number >= 14;
  const auto before = has_view ? blocks() : "";
  std::vector<nlohmann::json> found;
  std::size_t lines = 0; // two requests for each time that the daemon speaks
  EXPECT_TRUE(eventually(
      [&] {
        if (const auto now = daemon->json_lines().size(); now != std::exchange(lines, now))
          for (int i = 0; i < 2; ++i)
            session.exec("SELECT ask(1, 200, true)");
        found = wrong_contexts(*daemon);
        return !found.empty();
      },
      std::chrono::seconds(60)));
  ASSERT_FALSE(found.empty());
  const auto &violation = found.back();
  EXPECT_EQ(violation["context"], "TopMemoryContext");
  EXPECT_EQ(violation["module"], "known_requests.so");
  EXPECT_EQ(violation["stack"][0]["function"], "ask") << violation;
  if (has_view) {
    EXPECT_EQ(blocks(), before);
  }
}

TEST_F(AllocRunTest, a_healthy_session_is_silent)
{
  auto session = connect();
  auto daemon = run(session);
  ASSERT_TRUE(daemon);
  session.exec("CREATE TABLE IF NOT EXISTS healthy (id int PRIMARY KEY, v text)");
  session.exec("TRUNCATE healthy");
  // Until the daemon has swept it often enough for a rule to speak.
  int round = 0;
  const auto sweeps = [&] {
    double most = 0;
    for (const auto &line : daemon->json_lines())
      if (line["type"] == "status")
        ++most;
    return most;
  };
  EXPECT_TRUE(eventually(
      [&] {
        const auto i = std::to_string(round++);
        session.exec("SELECT churn(64, 200)"); // gives back as much as it takes
        session.exec("BEGIN; INSERT INTO healthy SELECT g + 1000 * " + i +
                     ", repeat('x', g % 50) FROM generate_series(1, 20) g; SAVEPOINT s; "
                     "UPDATE healthy SET v = v || 'y' WHERE id % 7 = 0; ROLLBACK TO s; COMMIT");
        session.exec("SELECT count(*), max(v) FROM healthy JOIN pg_class ON relname = v");
        session.exec("SET work_mem = '" + std::to_string(1000 + round % 50) + "kB'");
        session.exec("DO $$ BEGIN PERFORM count(*) FROM healthy; END $$");
        (void)session.try_exec("SELECT 1 / 0");
        return round > 300 && sweeps() >= 12;
      },
      std::chrono::seconds(90)));
  EXPECT_THAT(wrong_contexts(*daemon), testing::IsEmpty());
}

// ---- recordings ---------------------------------------------------------------------------

class AllocRecordTest : public AllocTest {
protected:
  void SetUp() override
  {
    AllocTest::SetUp();
    std::string folder = "/tmp/pgmt-alloc.XXXXXX";
    folder_ = mkdtemp(folder.data());
  }
  void TearDown() override
  {
    AllocTest::TearDown();
    std::filesystem::remove_all(folder_);
  }

  std::string file() const { return folder_ / "recording"; }

  // What the server says of a column of its context of this name.
  static long long of_context(Session &session, const std::string &name, const std::string &column)
  {
    return std::stoll(session.value(
        "SELECT " + column + " FROM pg_backend_memory_contexts WHERE name = '" + name + "'"));
  }

  std::unique_ptr<Daemon> record(const Session &session,
                                 const std::vector<std::string> &more = {}) const
  {
    std::vector<std::string> args{"record",  "--pid", std::to_string(session.backend_pid()),
                                  "--level", "alloc", "--duration",
                                  "5m",      "-o",    file()};
    args.insert(args.end(), more.begin(), more.end());
    auto daemon = start_daemon(args);
    EXPECT_TRUE(daemon && daemon->wait_for_line(
                              [](const std::string &line) { return line.starts_with("recording"); },
                              std::chrono::seconds(30), Daemon::Stream::err));
    return daemon;
  }

  std::string report(std::vector<std::string> more) const
  {
    std::vector<std::string> argv{pgmemtrace_binary(), "report", file()};
    argv.insert(argv.end(), more.begin(), more.end());
    const auto result = run_command(argv);
    EXPECT_EQ(result.status, 0) << result.err;
    return result.out;
  }

  // The entry of a function in a context, of a report as JSON.
  static nlohmann::json entry(const nlohmann::json &report, const std::string &function,
                              const std::string &context)
  {
    for (const auto &one : report["allocations"])
      if (one["context"] == context && !one["stack"].empty() &&
          one["stack"][0]["function"] == function)
        return one;
    return {};
  }

  std::filesystem::path folder_;
};

TEST_F(AllocRecordTest, says_what_was_asked_for_and_what_is_left_of_it)
{
  auto session = connect();
  session.exec("SELECT ask(1, 10, true), churn(1, 10), keep_contexts(1, 10)");
  auto daemon = record(session);
  session.exec("SELECT ask(300, 200, true)");
  session.exec("SELECT keep_contexts(40, 100)");
  session.exec("SELECT use_context(50, 100)");
  session.exec("SELECT churn(256, 3000)");
  session.exec("SELECT churn(256, 5000)");
  EXPECT_EQ(daemon->stop(), 0);

  const auto json = nlohmann::json::parse(report({"--format", "json", "--view", "asked"}));
  EXPECT_TRUE(json["lost"].empty()) << json["lost"];
  const auto asked = entry(json, "ask", "TopMemoryContext");
  EXPECT_EQ(asked["requests"], 300);
  EXPECT_EQ(asked["asked_bytes"], 300 * 200);
  EXPECT_EQ(asked["grown_bytes"], 300 * 256);
  EXPECT_EQ(asked["live_bytes"], 300 * 256);
  EXPECT_EQ(entry(json, "keep_contexts", "kept requests")["live_bytes"], 40 * 128);
  EXPECT_EQ(entry(json, "use_context", "requests")["asked_bytes"], 50 * 100);
  EXPECT_EQ(entry(json, "use_context", "requests")["live_bytes"], 0);
  const auto churned = entry(json, "churn", "TopMemoryContext");
  EXPECT_EQ(churned["requests"], 512);
  EXPECT_EQ(churned["frees"], 257); // one was there before
  EXPECT_EQ(churned["live_bytes"], 256 * 8192);
}

TEST_F(AllocRecordTest, statements_are_told_apart)
{
  auto session = connect();
  session.exec("SELECT ask(1, 10, true), churn(1, 10)");
  auto daemon = record(session, {"--by-query"});
  for (int i = 0; i < 5; ++i) // values differ, the statement is one
    session.exec("SELECT ask(10, " + std::to_string(100 + i) + ", true)");
  session.exec("SELECT 1, ask(3, 1000, true)");
  session.exec("DO $$ BEGIN PERFORM ask(7, 50, true); PERFORM ask(7, 50, true); END $$");
  EXPECT_EQ(daemon->stop(), 0);

  const auto json = nlohmann::json::parse(
      report({"--format", "json", "--by-query", "--context", "TopMemoryContext"}));
  EXPECT_TRUE(json["lost"].empty()) << json["lost"];
  struct Asked {
    long long requests, asked, live;
    bool operator==(const Asked &) const = default;
  };
  // What a statement's own function asked for.
  const auto asked_by = [&](const std::string &statement) {
    Asked sum{};
    for (const auto &one : json["allocations"])
      if (one["query"].get<std::string>().starts_with(statement) &&
          one["stack"][0]["function"] == "ask")
        sum = {sum.requests + one["requests"].get<long long>(),
               sum.asked + one["asked_bytes"].get<long long>(),
               sum.live + one["live_bytes"].get<long long>()};
    return sum;
  };
  EXPECT_EQ(asked_by("SELECT ask("), (Asked{50, 10 * (100 + 101 + 102 + 103 + 104), 50 * 128}));
  EXPECT_EQ(asked_by("SELECT ?, ask("), (Asked{3, 3000, 3 * 1024})) << json["queries"];
  EXPECT_EQ(asked_by("DO "), (Asked{14, 14 * 50, 14 * 64}));
}

TEST_F(AllocRecordTest, what_is_live_is_what_the_server_says)
{
  if (cluster().major().number < 14)
    GTEST_SKIP() << "13 has no view of its contexts";
  auto session = connect();
  const auto held = [&](const std::string &column) {
    return of_context(session, "TopMemoryContext", column);
  };
  for (const char *column : {"used_bytes", "total_nblocks", "used_bytes"}) // warm
    held(column);
  session.exec("SELECT ask(1, 10, true)");
  const auto used = held("used_bytes"), blocks = held("total_nblocks");
  auto daemon = record(session);
  session.exec("SELECT ask(1000, 200, true)");
  session.exec("SELECT ask(5, 30000, true)");
  session.exec("SELECT churn(100, 700)");
  EXPECT_EQ(daemon->stop(), 0);
  const auto more_used = held("used_bytes") - used, more_blocks = held("total_nblocks") - blocks;
  const auto json = nlohmann::json::parse(
      report({"--format", "json", "--context", "TopMemoryContext", "--view", "live"}));
  ASSERT_EQ(json["contexts"].size(), 1u);
  // Each chunk and each block has a header; a block's end may be too small for a chunk.
  const long long chunk_header = cluster().major().number < 16 ? 16 : 8;
  const long long headers = 1105 * chunk_header + 40 * more_blocks;
  const auto live = json["contexts"][0]["live_bytes"].get<long long>();
  EXPECT_GE(more_used, live + headers);
  EXPECT_LE(more_used, live + headers + 16 * more_blocks);
}

TEST_F(AllocRecordTest, what_is_live_in_Generation_is_what_the_server_says)
{
  if (cluster().major().number < 14)
    GTEST_SKIP() << "13 has no view of its contexts";
  auto session = connect();
  const auto held = [&](const std::string &column) {
    return of_context(session, "generation requests", column);
  };
  session.exec("SELECT ask_in(1, 10)");
  const auto used = held("used_bytes"), blocks = held("total_nblocks");
  auto daemon = record(session);
  session.exec("SELECT ask_in(1000, 200)");
  session.exec("SELECT ask_in(5, 300001)"); // blocks of their own
  EXPECT_EQ(daemon->stop(), 0);
  const auto more_used = held("used_bytes") - used, more_blocks = held("total_nblocks") - blocks;
  const auto json = nlohmann::json::parse(report({"--format", "json", "--view", "live"}));
  const auto asked = entry(json, "ask_in", "generation requests");
  EXPECT_EQ(asked["live_bytes"], 1000 * 200 + 5 * 300'008);
  const bool until_15 = cluster().major().number < 16;
  const long long headers = 1005 * (until_15 ? 24 : 8) + more_blocks * (until_15 ? 48 : 56);
  EXPECT_EQ(more_used, asked["live_bytes"].get<long long>() + headers);
}

TEST_F(AllocRecordTest, every_format_is_readable)
{
  auto session = connect();
  auto daemon = record(session);
  session.exec("SELECT ask(3000, 100, true)"); // 128 each, and their headers
  session.exec("SELECT 1");
  EXPECT_EQ(daemon->stop(), 0);
  EXPECT_THAT(report({}), testing::AllOf(testing::HasSubstr("asked"), testing::HasSubstr("ask (")));
  EXPECT_THAT(report({"--format", "folded", "--view", "asked"}),
              testing::HasSubstr("TopMemoryContext;ask 300000"));
  EXPECT_THAT(report({"--format", "html"}), testing::HasSubstr("\"asked\""));
  EXPECT_FALSE(report({"--format", "pprof"}).empty());
  const auto massif = report({"--format", "massif", "--context", "TopMemoryContext"});
  const auto last = [&](const std::string &key) {
    return std::stoll(massif.substr(massif.rfind(key) + key.size()));
  };
  // Other requests in that context are few.
  EXPECT_GE(last("mem_heap_B="), 3000 * 95);
  EXPECT_LT(last("mem_heap_B="), 3000 * 120);
  EXPECT_GE(last("mem_heap_extra_B="), 3000 * (20 + 8));
}

} // namespace
} // namespace pgmemtrace::test
