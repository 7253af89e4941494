// SPDX-License-Identifier: BSD-2-Clause
// malloc_test.cpp - `record --level malloc` on a live server: what is outside the contexts, to the
// byte, by library and by stack; and which statement asked, at both levels.
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>

#include <gmock/gmock.h>

#include "support/extension.h"
#include "support/recorder.h"
#include "support/recording_test.h"

namespace pgmemtrace::test {
namespace {

using nlohmann::json;
using testing::Contains;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr const char *kModule = "heap_chunks.so";
constexpr const char *kPlain = "plain_chunks.so";
constexpr const char *kContextBlocks = "(blocks of memory contexts)";

class MallocTest : public RecordingTest {
protected:
  static void SetUpTestSuite() { use_cluster({.conf = {"jit = off", "autovacuum = off"}}); }

  // A session that has loaded the module, whose own caches are filled.
  static Session session_with_module()
  {
    auto session = cluster().connect();
    if (session.value("SELECT count(*) FROM pg_proc WHERE proname = 'hold_chunks'") == "0") {
      const auto library = build_extension(cluster(), "heap_chunks.c", "heap_chunks.so",
                                           {"-O1", "-fno-omit-frame-pointer"});
      for (const std::string function :
           {"hold_chunks(text, int, int) RETURNS int", "drop_chunks(int) RETURNS int",
            "change_mapping(text) RETURNS void"})
        session.exec("CREATE FUNCTION " + function + " AS '" + library + "' LANGUAGE C");
    }
    hold(session, "malloc", 1);
    return session;
  }

  // The same module, built without frame pointers.
  static Session session_with_plain_module()
  {
    auto session = cluster().connect();
    if (session.value("SELECT count(*) FROM pg_proc WHERE proname = 'hold_plain'") == "0") {
      const auto library =
          build_extension(cluster(), "heap_chunks.c", kPlain,
                          {"-O2", "-fomit-frame-pointer", "-fno-optimize-sibling-calls", "-DWILD"});
      session.exec("CREATE FUNCTION hold_plain(text, int, int) RETURNS int AS '" + library +
                   "', 'hold_chunks' LANGUAGE C");
      session.exec("CREATE FUNCTION drop_plain(int) RETURNS int AS '" + library +
                   "', 'drop_chunks' LANGUAGE C");
    }
    session.exec("SELECT hold_plain('malloc', 1, 16)");
    return session;
  }

  static void hold(Session &session, const std::string &call, int count, int bytes = 4096)
  {
    session.exec("SELECT hold_chunks('" + call + "', " + std::to_string(count) + ", " +
                 std::to_string(bytes) + ")");
  }
};

std::optional<json> named(const json &list, const std::string &name)
{
  for (const auto &one : list)
    if (one["name"] == name)
      return one;
  return std::nullopt;
}

std::int64_t bytes_of(const json &list, const std::string &name, const char *view = "live_bytes")
{
  const auto found = named(list, name);
  return found ? (*found)[view].get<std::int64_t>() : 0;
}

// Live bytes of the module by the innermost function that is its own.
std::map<std::string, std::int64_t> live_by_function(const json &report)
{
  std::map<std::string, std::int64_t> out;
  for (const auto &one : report["allocations"]) {
    if (one["module"] != kModule)
      continue;
    for (const auto &frame : one["stack"])
      if (frame["module"].is_string() && frame["module"].get<std::string>().ends_with(kModule)) {
        out[frame["function"]] += one["live_bytes"].get<std::int64_t>();
        break;
      }
  }
  std::erase_if(out, [](const auto &entry) { return entry.second == 0; });
  return out;
}

// ---- to the byte ----

TEST_F(MallocTest, every_way_of_taking_memory_is_counted_by_library_and_stack)
{
  auto session = session_with_module();
  auto daemon = record(session.backend_pid(), {"--level", "malloc"});
  std::map<std::string, std::int64_t> expected;
  int count = 1;
  for (const std::string call :
       {"malloc", "calloc", "realloc", "reallocarray", "aligned_alloc", "posix_memalign", "mmap"}) {
    hold(session, call, count);
    expected["by_" + call] = std::int64_t{count++} * 4096;
  }
  EXPECT_EQ(daemon->stop(), 0);
  const auto report = report_as_json({"--view", "live"});
  EXPECT_EQ(live_by_function(report), expected);
  EXPECT_EQ(bytes_of(report["modules"], kModule), 28 * 4096);
  for (const auto &one : report["allocations"])
    if (one["module"] == kModule) {
      EXPECT_THAT(functions(one), Contains("hold_chunks"));
    }
}

// Two statements of a session that take so many chunks; in between, what came of the first is
// looked at.
Recording record_two(Session &session, const std::string &call, int first, int second,
                     std::uint32_t stacks = 16384)
{
  const auto hold = [&](int count) {
    session.exec("SELECT hold_plain('" + call + "', " + std::to_string(count) + ", 16)");
  };
  auto recorder = start_recorder(
      {.level = Level::statement, .selection = {.pids = {session.backend_pid()}}, .heap = true},
      {.stacks = stacks, .takes_stacks = false, .heap_chunks = 65536, .mappings = 1024});
  hold(first);
  recorder->step();
  hold(second);
  return recorder->finish();
}

struct CallsOfModule {
  std::uint64_t whole = 0, truncated = 0, elsewhere = 0; // calls, by what is known of their stack
};

CallsOfModule calls_of(const Recording &recording, const std::string &module)
{
  CallsOfModule calls;
  for (const auto &process : recording.processes)
    for (const auto &context : process.contexts)
      for (const auto &one : context.allocations) {
        if (context.name != module || !one.stack)
          continue;
        const auto &stack = recording.stacks[*one.stack];
        const auto &last = recording.frames[stack.back()];
        (last.function == "main"          ? calls.whole
         : last.code.module == kTruncated ? calls.truncated
                                          : calls.elsewhere) += one.blocks;
      }
  return calls;
}

// Whose code uses the frame pointer's register for anything else, as the C library's does: frame
// pointers lead past some callers, or nowhere.
TEST_F(MallocTest, stacks_are_whole_where_code_keeps_no_frame_pointers)
{
  auto session = session_with_plain_module();
  auto daemon = record(session.backend_pid(), {"--level", "malloc"});
  std::map<std::string, std::int64_t> expected, live;
  for (const std::string call : {"malloc", "calloc", "realloc", "strdup", "mmap"}) {
    session.exec("SELECT hold_plain('" + call + "', 30, 4096)");
    expected["by_" + call] = 30 * 4096;
  }
  session.exec("SELECT drop_plain(30)"); // the mappings
  expected.erase("by_mmap");
  EXPECT_EQ(daemon->stop(), 0);
  const auto report = report_as_json({"--view", "live"});
  for (const auto &one : report["allocations"]) {
    if (one["module"] != kPlain || one["live_bytes"] == 0)
      continue;
    const auto stack = functions(one);
    const auto taker = std::ranges::find_if(
        stack, [](const auto &function) { return function.starts_with("by_"); });
    ASSERT_LT(taker - stack.begin(), 3) << one;
    EXPECT_EQ(*(taker + 1), "hold_chunks") << one;
    EXPECT_THAT(stack, Contains("PostgresMain")) << one;
    EXPECT_EQ(stack.back(), "main") << one;
    live[*taker] += one["live_bytes"].get<std::int64_t>();
  }
  EXPECT_EQ(live, expected);
  for (const auto &[reason, count] : report["lost"].items())
    EXPECT_FALSE(reason.starts_with("stack")) << reason << ": " << count;
}

// A loop is quicker than who unwinds: calls whose stack there was no room to copy are told from the
// others, and counted.  What was unwound once is known again.
TEST_F(MallocTest, stacks_are_copied_until_they_are_known)
{
  auto session = session_with_plain_module();
  const auto recording = record_two(session, "malloc", 2000, 3000);
  const auto calls = calls_of(recording, kPlain);
  EXPECT_EQ(calls.whole + calls.truncated, 5000u);
  EXPECT_EQ(calls.elsewhere, 0u);
  EXPECT_GE(calls.whole, 3000u + 100);
  EXPECT_GT(calls.truncated, 0u);
  const auto lost = recording.losses.find("stack_not_copied");
  ASSERT_NE(lost, recording.losses.end());
  EXPECT_EQ(lost->second, calls.truncated);
}

// What frame pointers lead to is another number at each call: that fills no map.
TEST_F(MallocTest, stacks_of_any_number_leave_room_for_others)
{
  auto session = session_with_plain_module();
  const auto recording = record_two(session, "wild", 6000, 1000, 4096);
  const auto calls = calls_of(recording, kPlain);
  EXPECT_EQ(calls.whole + calls.truncated, 7000u);
  EXPECT_GE(calls.whole, 1000u + 100);
  for (const auto *full : {"stacks_full", "stack_copies_not_kept"})
    EXPECT_FALSE(recording.losses.contains(full)) << full << ": " << recording.losses.at(full);
}

TEST_F(MallocTest, what_is_given_back_is_not_live)
{
  auto session = session_with_module();
  auto daemon = record(session.backend_pid(), {"--level", "malloc"});
  hold(session, "malloc", 50, 1000);
  hold(session, "realloc", 30, 2000);
  hold(session, "mmap", 2, 8192);
  session.exec("SELECT drop_chunks(12)"); // the mappings, and 10 that were reallocated
  EXPECT_EQ(daemon->stop(), 0);
  const auto report = report_as_json({"--view", "live"});
  EXPECT_EQ(live_by_function(report),
            (std::map<std::string, std::int64_t>{{"by_malloc", 50'000}, {"by_realloc", 40'000}}));
  const auto module = named(report["modules"], kModule);
  ASSERT_TRUE(module);
  EXPECT_EQ((*module)["grown_bytes"], 50'000 + 30 * 3000 + 2 * 8192);
  EXPECT_EQ((*module)["peak_bytes"].get<std::int64_t>(), 50'000 + 60'000 + 2 * 8192);
}

struct Change {
  std::vector<std::string> changes; // of a mapping of 20,000 bytes
  std::map<std::string, std::int64_t> live;
};

TEST_F(MallocTest, parts_of_mappings_are_given_back_and_moved)
{
  const std::vector<Change> cases{
      {{"front"}, {{"by_mmap", 20'000 - 4096}}},  {{"back"}, {{"by_mmap", 4 * 4096}}},
      {{"middle"}, {{"by_mmap", 20'000 - 4096}}}, {{"middle", "range"}, {}},
      {{"front", "back", "range"}, {}},           {{"grow"}, {{"by_mremap", 40'000}}},
      {{"shrink"}, {{"by_mremap", 10'000}}},      {{"onto"}, {{"by_mremap", 20'000}}},
      {{"file"}, {{"by_mmap", 20'000 - 4096}}},
  };
  for (const auto &[changes, live] : cases) {
    SCOPED_TRACE(testing::PrintToString(changes));
    auto session = session_with_module();
    auto daemon = record(session.backend_pid(), {"--level", "malloc"});
    hold(session, "mmap", 1, 20'000);
    for (const auto &change : changes)
      session.exec("SELECT change_mapping('" + change + "')");
    EXPECT_EQ(daemon->stop(), 0);
    const auto report = report_as_json({"--view", "live"});
    EXPECT_EQ(live_by_function(report), live);
    EXPECT_FALSE(report["lost"].contains("heap_stale"));
    EXPECT_FALSE(report["lost"].contains("chunks_full"));
  }
}

TEST_F(MallocTest, what_moves_the_break_beside_malloc_is_counted_once)
{
  auto session = session_with_module();
  auto daemon = record(session.backend_pid(), {"--level", "malloc"});
  hold(session, "sbrk", 3, 10'000);
  hold(session, "brk", 1, 5000);
  session.exec("SELECT change_mapping('break')");
  hold(session, "malloc", 300, 100'000); // malloc's own sbrk, above ours
  EXPECT_EQ(daemon->stop(), 0);
  const auto report = report_as_json({"--view", "live"});
  EXPECT_EQ(live_by_function(report),
            (std::map<std::string, std::int64_t>{
                {"by_sbrk", 30'000 + 4000}, {"by_brk", 5000}, {"by_malloc", 30'000'000}}));
  EXPECT_FALSE(report["lost"].contains("heap_call"));
}

TEST_F(MallocTest, mappings_beyond_those_that_are_kept_are_said_so)
{
  auto session = session_with_module();
  auto daemon = record(session.backend_pid(), {"--level", "malloc"});
  hold(session, "mmap", 1100);
  EXPECT_EQ(daemon->stop(), 0);
  const auto report = report_as_json({"--view", "live"});
  const auto live = bytes_of(report["modules"], kModule) / 4096;
  ASSERT_TRUE(report["lost"].contains("chunks_full"));
  EXPECT_EQ(live + report["lost"]["chunks_full"].get<std::int64_t>(), 1100);
}

TEST_F(MallocTest, what_was_given_back_unseen_is_noticed_when_its_place_is_taken)
{
  auto session = session_with_module();
  auto daemon = record(session.backend_pid(), {"--level", "malloc"});
  hold(session, "mmap", 1, 20'000);
  session.exec("SELECT change_mapping('unseen')");
  EXPECT_EQ(daemon->stop(), 0);
  const auto report = report_as_json({"--view", "live"});
  EXPECT_EQ(live_by_function(report),
            (std::map<std::string, std::int64_t>{{"change_mapping", 20'000}}));
  EXPECT_EQ(report["lost"]["heap_stale"], 1);
}

// What was there before may move: it changes no number.
TEST_F(MallocTest, mappings_that_are_not_known_change_nothing)
{
  auto session = session_with_module();
  hold(session, "mmap", 1, 20'000);
  auto daemon = record(session.backend_pid(), {"--level", "malloc"});
  session.exec("SELECT change_mapping('grow')");
  EXPECT_EQ(daemon->stop(), 0);
  const auto report = report_as_json({"--view", "live"});
  EXPECT_TRUE(live_by_function(report).empty());
  EXPECT_GE(report["lost"]["frees_of_unknown"], 1);
}

TEST_F(MallocTest, frees_of_what_was_there_before_are_counted_as_such)
{
  auto session = session_with_module();
  hold(session, "malloc", 40);
  auto daemon = record(session.backend_pid(), {"--level", "malloc"});
  session.exec("SELECT drop_chunks(40)");
  EXPECT_EQ(daemon->stop(), 0);
  const auto report = report_as_json();
  EXPECT_EQ(bytes_of(report["modules"], kModule, "grown_bytes"), 0);
  ASSERT_TRUE(report["lost"].contains("frees_of_unknown"));
  EXPECT_GE(report["lost"]["frees_of_unknown"], 40);
  EXPECT_THAT(daemon->err(), HasSubstr("frees_of_unknown"));
}

// ---- whose ----

TEST_F(MallocTest, other_processes_are_not_counted)
{
  auto session = session_with_module(), other = session_with_module();
  auto daemon = record(session.backend_pid(), {"--level", "malloc"});
  hold(other, "malloc", 10);
  hold(session, "calloc", 1);
  EXPECT_EQ(daemon->stop(), 0);
  const auto report = report_as_json({"--view", "live"});
  ASSERT_EQ(report["processes"].size(), 1u);
  EXPECT_EQ(bytes_of(report["modules"], kModule), 4096);
}

// File name of the C library of a process: "libc.so.6", "libc-2.31.so".
std::string library_of(pid_t pid)
{
  std::istringstream maps(read_text("/proc/" + std::to_string(pid) + "/maps"));
  for (std::string line; std::getline(maps, line);)
    if (const auto name = line.substr(line.rfind('/') + 1);
        name.starts_with("libc.so") || name.starts_with("libc-"))
      return name;
  return {};
}

TEST_F(MallocTest, sessions_that_come_while_a_server_is_recorded)
{
  session_with_module().close();
  const auto library = library_of(cluster().postmaster_pid());
  auto daemon = record(cluster().postmaster_pid(), {"--level", "malloc"});
  std::vector<Session> sessions;
  for (int i = 0; i < 2; ++i) {
    const auto before = probe_links(daemon->pid(), library);
    sessions.push_back(cluster().connect());
    // What it takes before its probes, at entries and returns, are there is not seen.
    EXPECT_TRUE(eventually([&] {
      return std::ranges::count_if(probe_links(daemon->pid(), library),
                                   [&](unsigned link) { return !before.contains(link); }) >= 4;
    }));
    hold(sessions.back(), "malloc", 10);
  }
  EXPECT_EQ(daemon->stop(), 0);
  const auto report = report_as_json({"--view", "live"});
  EXPECT_EQ(bytes_of(report["modules"], kModule), 2 * 10 * 4096);
}

TEST_F(MallocTest, what_a_process_held_when_it_exited_is_kept)
{
  auto session = session_with_module();
  auto daemon = record(session.backend_pid(), {"--level", "malloc", "--duration", "10m"});
  hold(session, "malloc", 10);
  session.close();
  EXPECT_EQ(daemon->wait(), 0);
  const auto report = report_as_json({"--view", "live"});
  ASSERT_EQ(report["processes"].size(), 1u);
  EXPECT_EQ(report["processes"][0]["exited"], true);
  EXPECT_EQ(bytes_of(report["modules"], kModule), 10 * 4096);
}

TEST_F(MallocTest, blocks_of_contexts_are_told_apart_and_come_last)
{
  auto session = session_with_module();
  auto daemon = record(session.backend_pid(), {"--level", "malloc"});
  for (int i = 0; i < 100; ++i)
    session.exec("PREPARE kept_" + std::to_string(i) + " AS SELECT count(*) FROM pg_class");
  hold(session, "malloc", 1);
  EXPECT_EQ(daemon->stop(), 0);
  const auto report = report_as_json({"--view", "live"});
  ASSERT_FALSE(report["modules"].empty());
  EXPECT_EQ(report["modules"].back()["name"], kContextBlocks);
  EXPECT_GT(report["modules"].back()["live_bytes"], 64 << 10);
  for (const auto &one : report["modules"]) // an allocator that is not recognised would show here
    if (one["name"] == "postgres") {
      EXPECT_LT(one["live_bytes"], 64 << 10);
    }
}

TEST_F(MallocTest, a_leak_in_libxml2_is_named)
{
  auto session = session_with_module();
  if (!session.try_exec("CREATE EXTENSION IF NOT EXISTS xml2"))
    GTEST_SKIP() << "this server has no contrib/xml2";
  session.exec("CREATE TABLE documents AS SELECT 1 AS id, '<r>' || string_agg('<i>' || "
               "repeat('x', 400) || '</i>', '') || '</r>' AS x FROM generate_series(1, 100)");
  const auto leak = [&] {
    session.exec("SELECT count(*) FROM xpath_table('id', 'x', 'documents', '/r/i', 'id = 1') "
                 "AS t(id int, i text)");
  };
  leak();
  auto daemon = record(session.backend_pid(), {"--level", "malloc"});
  for (int i = 0; i < 20; ++i)
    leak();
  EXPECT_EQ(daemon->stop(), 0);
  const auto report = report_as_json({"--view", "live"});
  session.exec("DROP TABLE documents");
  // 100 strings of 401 bytes a call, never freed: xmlXPathCastNodeToString and its like.
  ASSERT_FALSE(report["modules"].empty());
  const auto &first = report["modules"][0];
  EXPECT_THAT(first["name"].get<std::string>(), HasSubstr("libxml2"));
  EXPECT_GE(first["live_bytes"], 20 * 100 * 401);
  // The library keeps no frame pointers; by whom it was called is known all the same.
  std::int64_t by_whom = 0;
  for (const auto &one : report["allocations"])
    if (const auto stack = functions(one); one["module"] == first["name"] && !stack.empty() &&
                                           stack.back() == "main" &&
                                           std::ranges::find(stack, "xpath_table") != stack.end())
      by_whom += one["live_bytes"].get<std::int64_t>();
  EXPECT_GE(by_whom, first["live_bytes"].get<std::int64_t>() / 2);
}

// ---- which statement ----

TEST_F(MallocTest, statements_are_told_apart_outside_the_contexts)
{
  auto session = session_with_module();
  auto daemon = record(session.backend_pid(), {"--level", "malloc", "--by-query"});
  for (int i = 0; i < 5; ++i) // values differ, the statement is one
    hold(session, "malloc", 1, 1000 + i);
  session.exec("SELECT /* other */ 1 + hold_chunks('calloc', 1, 32000)");
  EXPECT_EQ(daemon->stop(), 0);
  const auto report = report_as_json({"--by-query", "--view", "live", "--module", kModule});
  EXPECT_EQ(bytes_of(report["queries"], "SELECT hold_chunks(?, ?, ?)"), 5010);
  EXPECT_EQ(bytes_of(report["queries"], "SELECT   ? + hold_chunks(?, ?, ?)"), 32000)
      << report["queries"];
  EXPECT_EQ(report["queries"].size(), 2u);
  EXPECT_THAT(report["queries"][0]["query_id"].get<std::string>(), HasSubstr("text:"));
  EXPECT_THAT(read_text(file()), testing::Not(HasSubstr("32000")));
}

TEST_F(MallocTest, statements_are_told_apart_by_contexts_too)
{
  auto session = cluster().connect();
  const auto prepare = [&](int from, int to) {
    for (int i = from; i < to; ++i)
      session.exec("PREPARE leaked_" + std::to_string(i) +
                   " AS SELECT count(*) FROM pg_class WHERE relpages = 1");
  };
  prepare(0, 150);
  auto daemon = record(session.backend_pid(), {"--by-query"});
  prepare(150, 151);
  session.exec("DO $$ BEGIN FOR i IN 1..200 LOOP EXECUTE 'PREPARE in_do_' || i || "
               "' AS SELECT count(*) FROM pg_class WHERE relpages = 1'; END LOOP; END $$");
  session.exec("SELECT count(*) FROM (SELECT g, repeat('x', 100) v FROM "
               "generate_series(1, 50000) g ORDER BY v DESC OFFSET 0) s");
  EXPECT_EQ(daemon->stop(), 0);

  const auto report = report_as_json({"--by-query", "--context", "CachedPlanSource"});
  const auto of = [&](const json &list, const std::string &beginning, const char *view) {
    std::int64_t sum = 0;
    for (const auto &one : list)
      if (one["name"].get<std::string>().starts_with(beginning))
        sum += one[view].get<std::int64_t>();
    return sum;
  };
  EXPECT_GT(of(report["queries"], "DO ", "live_bytes"), 50 * 1024);
  EXPECT_EQ(of(report["queries"], "SELECT count(*)", "grown_bytes"), 0);
  const auto all = report_as_json({"--by-query"});
  EXPECT_GT(of(all["queries"], "SELECT count(*)", "peak_bytes"), 1 << 20);
  std::int64_t sum = 0;
  for (const auto &one : all["queries"])
    sum += one["grown_bytes"].get<std::int64_t>();
  EXPECT_EQ(sum, all["grown_bytes"].get<std::int64_t>());
}

TEST_F(MallocTest, ids_are_those_of_the_server)
{
  if (cluster().major().number < 14)
    GTEST_SKIP() << "computed by an extension before 14";
  auto session = session_with_module();
  session.exec("SET compute_query_id = on");
  auto daemon = record(session.backend_pid(), {"--level", "malloc", "--by-query"});
  hold(session, "malloc", 1);
  EXPECT_EQ(daemon->stop(), 0);
  const auto plan = json::parse(
      session.value("EXPLAIN (VERBOSE, FORMAT JSON) SELECT hold_chunks('malloc', 1, 4096)"));
  const auto report = report_as_json({"--by-query", "--module", kModule});
  const auto found = named(report["queries"], "SELECT hold_chunks(?, ?, ?)");
  ASSERT_TRUE(found) << report["queries"];
  EXPECT_EQ((*found)["query_id"], plan[0]["Query Identifier"]);
}

// ---- reports ----

TEST_F(MallocTest, every_format_is_readable)
{
  auto session = session_with_module();
  auto daemon = record(session.backend_pid(), {"--level", "malloc", "--by-query"});
  hold(session, "malloc", 10);
  EXPECT_EQ(daemon->stop(), 0);
  EXPECT_THAT(report().out, HasSubstr(kModule));
  EXPECT_THAT(report({"--format", "folded"}).out, HasSubstr(";by_malloc;malloc 40960"));
  EXPECT_THAT(report({"--format", "folded", "--by-query"}).out,
              HasSubstr("SELECT hold_chunks(?, ?, ?);"));
  EXPECT_THAT(report({"--format", "html", "--by-query"}).out, HasSubstr("hold_chunks"));
  const auto massif = folder_ / "massif";
  std::ofstream(massif) << report({"--format", "massif"}).out;
  EXPECT_THAT(run_command({"ms_print", massif}).out, HasSubstr(kModule));
  EXPECT_EQ(report_as_json({"--diff", file()})["grown_bytes"], 0);
}

TEST_F(MallocTest, what_a_recording_does_not_have_is_said_so)
{
  auto session = session_with_module();
  auto daemon = record(session.backend_pid(), {"--level", "malloc"});
  EXPECT_EQ(daemon->stop(), 0);
  const std::vector<std::vector<std::string>> refused{
      {"--context", "CacheMemoryContext"}, {"--by-query"}, {"--by-query", "--format", "massif"}};
  for (const auto &options : refused) {
    const auto result = report(options);
    EXPECT_NE(result.status, 0);
    EXPECT_THAT(result.out, IsEmpty());
    EXPECT_THAT(result.err, HasSubstr("error: " + options[0]));
  }
}

// Its probes go one by one, while it works on.
TEST_F(MallocTest, ends_for_all_calls_at_once)
{
  auto session = session_with_module();
  auto daemon = record(session.backend_pid(), {"--level", "malloc"});
  session.send_async("DO $$ BEGIN LOOP PERFORM hold_chunks('malloc', 10, 100), drop_chunks(10); "
                     "END LOOP; END $$");
  const auto worked = [&] { return Proc().stat(session.backend_pid()).value().cpu_ticks; };
  const auto before = worked();
  EXPECT_TRUE(eventually([&] { return worked() > before + 20; }));
  EXPECT_EQ(daemon->stop(), 0);
  cluster().connect().exec("SELECT pg_cancel_backend(" + std::to_string(session.backend_pid()) +
                           ")");
  (void)session.finish();
  const auto report = report_as_json({"--view", "live"});
  EXPECT_GE(bytes_of(report["modules"], kModule, "grown_bytes"), 100'000);
  EXPECT_LE(bytes_of(report["modules"], kModule), 10 * 100);
  EXPECT_FALSE(report["lost"].contains("heap_call")) << report["lost"];
}

TEST_F(MallocTest, leaves_no_probe_behind)
{
  auto session = session_with_module();
  const auto library = library_of(session.backend_pid());
  auto daemon = record(session.backend_pid(), {"--level", "malloc"});
  const auto links = probe_links(daemon->pid(), library);
  EXPECT_FALSE(links.empty());
  hold(session, "malloc", 100);
  EXPECT_EQ(daemon->stop(), 0);
  EXPECT_TRUE(eventually([&] { return living(links).empty(); }));
  session.exec("SELECT drop_chunks(100)"); // it lives on
}

} // namespace
} // namespace pgmemtrace::test
