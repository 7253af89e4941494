// SPDX-License-Identifier: BSD-2-Clause
// sinks_json_test - JSON lines as a program reads them.
#include "sinks/json_lines.h"

#include <fstream>
#include <sstream>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "sinks_fixture.h"

namespace pgmemtrace::test {
namespace {

using nlohmann::ordered_json;

std::vector<ordered_json> lines_of(const std::string &text)
{
  std::vector<ordered_json> out;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);)
    out.push_back(ordered_json::parse(line));
  return out;
}

// The line that one violation gives.
ordered_json line_of(const Violation &violation, const JsonOptions &options = {})
{
  std::ostringstream out;
  JsonSink sink(out, options);
  EXPECT_TRUE(sink.write(snapshot(), {&violation, 1}, {&violation, 1}));
  return lines_of(out.str()).at(0);
}

TEST(JsonSink, writes_every_key_in_order)
{
  EXPECT_EQ(
      line_of(violation()).dump(),
      R"({"type":"violation","state":"raised","time":"2026-03-01T02:03:04.567Z",)"
      R"("instance":"15/main","pid":4242,"server_pid":4242,"backend_type":"client backend",)"
      R"("database":"shop","user":"alice","rule":"ctx_bloat","severity":"ERROR",)"
      R"("context":"expanded array",)"
      R"("path":"TopMemoryContext/TopPortalContext/PortalContext/SPI Proc/expanded array",)"
      R"("ident":"items","phase":"execute","before_bytes":1258291,"after_bytes":10276045,)"
      R"("delta_bytes":9017754,"shape":"linear","occurrences":5000,"query_id":-2,)"
      R"("query":"SELECT case_grow(3000000) -- it's me","stack":null,"module":null,"segments":null,)"
      R"("detail":"used 1.2 MiB -> 9.8 MiB over 5000 statements",)"
      R"("advice":"Look for an array that a loop appends to."})");
}

TEST(JsonSink, says_null_for_what_is_unknown)
{
  Violation bare;
  bare.rule = "peak";
  const ordered_json line = line_of(bare);
  EXPECT_EQ(line.size(), line_of(violation()).size());
  for (const char *key :
       {"instance", "server_pid", "backend_type", "database", "user", "context", "path", "ident",
        "phase", "shape", "query_id", "query", "stack", "module", "segments", "detail", "advice"})
    EXPECT_TRUE(line.at(key).is_null()) << key;
}

TEST(JsonSink, says_who_has_a_segment_and_who_made_it)
{
  Violation leak = violation();
  leak.segments.push_back({.handle = 4294967294,
                           .attachments = 1,
                           .pinned = true,
                           .bytes = 65536,
                           .mappings = {{.process = {.id = {77, 1}}}},
                           .origin = DsmOrigin{.time = leak.time, .process = {78, 1}}});
  leak.segments.push_back({.handle = 2});
  const auto segments = line_of(leak).at("segments");
  EXPECT_EQ(segments[0].dump(),
            R"({"handle":4294967294,"bytes":65536,"pinned":true,"attachments":1,"pids":[77],)"
            R"("made_by":78,"made_at":"2026-03-01T02:03:04.567Z"})");
  EXPECT_TRUE(segments[1].at("bytes").is_null());
  EXPECT_TRUE(segments[1].at("made_by").is_null());
}

TEST(JsonSink, marks_a_fingerprint_that_stands_in_for_a_query_id)
{
  Violation one = violation();
  one.query_id = 0;
  one.query = "SELECT 1";
  Violation other = one;
  other.query = "SELECT  'two'";
  const std::string id = line_of(one).at("query_id");
  EXPECT_THAT(id, testing::MatchesRegex("text:[0-9a-f]{16}"));
  EXPECT_EQ(line_of(other).at("query_id"), id);
}

TEST(JsonSink, cuts_a_query_between_characters)
{
  Violation wide = violation();
  wide.query = std::string(1023, 'x') + "\u20ac";
  EXPECT_EQ(line_of(wide).at("query"), std::string(1023, 'x'));
}

TEST(JsonSink, survives_bytes_that_are_no_text)
{
  Violation hostile = violation();
  hostile.query = "SELECT '\xff\n\"'";
  hostile.context = "\xc3(";
  hostile.rule = "\xff";
  const ordered_json line = line_of(hostile);
  EXPECT_EQ(line.at("query"), "SELECT '\uFFFD\n\"'");
  EXPECT_EQ(line.at("context"), "\uFFFD(");
}

TEST(JsonSink, redacts_when_asked_to)
{
  Violation secret = violation();
  secret.query = "SELECT f('secret', 42)";
  const ordered_json line = line_of(secret, {.redact = true});
  EXPECT_EQ(line.at("query"), "SELECT f(?, ?)");
  EXPECT_TRUE(line.at("ident").is_null());
}

TEST(JsonSink, gives_a_status_once_per_interval)
{
  std::ostringstream out;
  JsonSink sink(out, {.status_interval = 10s});
  for (const auto after : {0s, 4s, 8s, 10s, 12s})
    ASSERT_TRUE(sink.write(snapshot(some_time() + after), {}, {}));
  const auto lines = lines_of(out.str());
  ASSERT_EQ(lines.size(), 2U);
  EXPECT_EQ(lines[0].at("time"), "2026-03-01T02:03:04.567Z");
  EXPECT_EQ(lines[1].at("time"), "2026-03-01T02:03:14.567Z");
}

TEST(JsonSink, goes_on_with_its_status_when_the_clock_is_set_back)
{
  std::ostringstream out;
  JsonSink sink(out, {});
  ASSERT_TRUE(sink.write(snapshot(some_time()), {}, {}));
  ASSERT_TRUE(sink.write(snapshot(some_time() - 1h), {}, {}));
  EXPECT_EQ(lines_of(out.str()).size(), 2U);
}

TEST(JsonSink, tells_in_the_status_what_is_watched_and_what_grows)
{
  std::ostringstream out;
  JsonSink sink(out, {.status_interval = 1s});
  Snapshot before = snapshot();
  add_process(before, backend(4300));
  Snapshot after = before;
  after.taken_at += 1s;
  ProcessSnapshot grown = backend(4300);
  grown.contexts.push_back(context("CacheMemoryContext", 2 * kMiB));
  after.processes[1] = std::make_shared<const ProcessSnapshot>(grown);
  after.health.events_lost["ring_buffer"] = 3;
  ASSERT_TRUE(sink.write(before, {}, {}));
  ASSERT_TRUE(sink.write(after, {}, {}));

  const ordered_json status = lines_of(out.str()).at(1);
  EXPECT_EQ(status.at("type"), "status");
  EXPECT_EQ(status.at("servers").at(0).at("instance"), "15/main");
  EXPECT_EQ(status.at("servers").at(0).at("level"), "statement");
  EXPECT_EQ(status.at("processes"), 2);
  EXPECT_EQ(status.at("contexts"), 3);
  EXPECT_EQ(status.at("total_bytes"), 4 * kMiB);
  EXPECT_EQ(status.at("used_bytes"), 4 * kMiB - 512 * kKiB);
  EXPECT_EQ(status.at("fastest").at("pid"), 4300);
  EXPECT_EQ(status.at("fastest").at("delta_bytes"), 2 * kMiB);
  EXPECT_EQ(status.at("events_lost").at("ring_buffer"), 3);
}

TEST(JsonSink, reports_a_stream_that_takes_nothing)
{
  std::ofstream full("/dev/full");
  JsonSink sink(full, {});
  const auto result = sink.write(snapshot(), {}, {});
  ASSERT_FALSE(result);
  EXPECT_THAT(to_string(result.error()), testing::HasSubstr("No space left"));
}

TEST(JsonSink, gives_a_stack_frame_by_frame)
{
  Violation named = violation();
  named.module = "plpgsql.so";
  named.stack = {
      {.code = {.module = "/usr/lib/postgresql/15/bin/postgres", .build_id = {}, .offset = 1},
       .function = "palloc",
       .offset = 0x1f},
      {.code = {.module = "/lib/plpgsql.so", .build_id = {}, .offset = 0x4f10},
       .function = {},
       .offset = 0x4f10,
       .start = 0,
       .file = "pl_exec.c",
       .line = 7}};
  const ordered_json line = line_of(named);
  EXPECT_EQ(line["module"], "plpgsql.so");
  EXPECT_EQ(
      line["stack"].dump(),
      R"([{"module":"/usr/lib/postgresql/15/bin/postgres","function":"palloc","offset":31},)"
      R"({"module":"/lib/plpgsql.so","function":null,"offset":20240,"file":"pl_exec.c","line":7}])");
}

} // namespace
} // namespace pgmemtrace::test
