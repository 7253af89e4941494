// SPDX-License-Identifier: BSD-2-Clause
// sinks_console_test - what a person finds on the console.
#include "sinks/console.h"

#include <fstream>
#include <sstream>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "sinks_fixture.h"

namespace pgmemtrace::test {
namespace {

using testing::AllOf;
using testing::Contains;
using testing::Each;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using testing::StartsWith;

class ConsoleSinkTest : public testing::Test {
protected:
  // The lines that one more step prints.
  std::vector<std::string> step(const Snapshot &snapshot, std::vector<Violation> changes = {})
  {
    EXPECT_TRUE(sink_.write(snapshot, changes, changes));
    std::vector<std::string> lines;
    std::istringstream in(out_.str());
    for (std::string line; std::getline(in, line);)
      lines.push_back(line);
    out_.str("");
    return lines;
  }

  // The same when nothing but the violation is news.
  std::vector<std::string> lines_of(const Violation &violation)
  {
    step(snapshot());
    return step(snapshot(), {violation});
  }

  std::ostringstream out_;
  ConsoleSink sink_{out_, {.status_interval = 10s}};
};

TEST_F(ConsoleSinkTest, tells_a_violation_in_one_line_and_its_advice)
{
  EXPECT_THAT(
      lines_of(violation()),
      ElementsAre(AllOf(StartsWith("2026-03-01 02:03:04Z ERROR "),
                        HasSubstr("ctx_bloat 15/main pid 4242 "),
                        HasSubstr("client backend alice@shop"),
                        HasSubstr(".../PortalContext/SPI Proc/expanded array"),
                        HasSubstr("1.2 MiB -> 9.8 MiB (+8.6 MiB)"), HasSubstr("linear"),
                        HasSubstr("over 5000 statements"), HasSubstr("SELECT case_grow(3000000)"),
                        Not(HasSubstr("server pid"))),
                  "    advice: Look for an array that a loop appends to."));
}

TEST_F(ConsoleSinkTest, shows_the_servers_pid_where_it_differs)
{
  Violation contained = violation();
  contained.process.server_pid = 17;
  EXPECT_THAT(lines_of(contained), Contains(HasSubstr("pid 4242 (server pid 17)")));
}

TEST_F(ConsoleSinkTest, says_that_memory_lies_outside_the_contexts)
{
  Violation outside = violation();
  outside.context.clear();
  outside.path.clear();
  EXPECT_THAT(lines_of(outside), Contains(HasSubstr("memory outside the contexts 1.2 MiB")));
}

TEST_F(ConsoleSinkTest, is_short_about_what_was_told_before)
{
  EXPECT_THAT(lines_of(violation(ViolationState::updated)),
              ElementsAre(AllOf(HasSubstr("ERROR"), HasSubstr("ctx_bloat 15/main pid 4242"),
                                HasSubstr("still growing"), HasSubstr("(+8.6 MiB)"),
                                Not(HasSubstr("SELECT")))));
  EXPECT_THAT(lines_of(violation(ViolationState::cleared)),
              ElementsAre(AllOf(HasSubstr("cleared"), Not(HasSubstr("ERROR")))));
}

TEST_F(ConsoleSinkTest, lets_no_control_character_through)
{
  Violation hostile = violation();
  hostile.query = "SELECT\n'\033]0;owned\007'";
  hostile.process.user = "a\033[2Jb";
  hostile.path = "Top\nMemoryContext";
  hostile.detail = hostile.advice = hostile.module = "x\r\033c";
  EXPECT_THAT(lines_of(hostile), AllOf(testing::SizeIs(2), Each(Not(HasSubstr("\033")))));
}

TEST_F(ConsoleSinkTest, shortens_a_long_query)
{
  Violation wordy = violation();
  wordy.query = "SELECT " + std::string(900, 'x') + "END";
  EXPECT_THAT(lines_of(wordy), Contains(AllOf(HasSubstr("xxx..."), Not(HasSubstr("END")))));
}

TEST_F(ConsoleSinkTest, redacts_when_asked_to)
{
  ConsoleSink sink(out_, {.redact = true});
  const std::vector changes{violation()};
  ASSERT_TRUE(sink.write(snapshot(), changes, changes));
  EXPECT_THAT(out_.str(), AllOf(HasSubstr("SELECT case_grow(?)"), Not(HasSubstr("3000000"))));
}

TEST_F(ConsoleSinkTest, uses_colour_only_on_a_terminal)
{
  EXPECT_THAT(lines_of(violation()), Each(Not(HasSubstr("\033"))));
  std::ostringstream out;
  ConsoleSink terminal(out, {.color = true});
  const std::vector changes{violation()};
  ASSERT_TRUE(terminal.write(snapshot(), changes, changes));
  EXPECT_THAT(out.str(), HasSubstr("\033[31mERROR"));
}

TEST_F(ConsoleSinkTest, says_when_the_governor_changes_a_level)
{
  step(snapshot());
  Snapshot busy = snapshot();
  busy.servers[0].level = Level::request;
  busy.servers[0].overhead_ratio = 0.072;
  EXPECT_THAT(step(busy),
              ElementsAre(HasSubstr(
                  "level of 15/main: statement -> request: estimated overhead 7.2% > 5.0%")));
  EXPECT_THAT(step(busy), IsEmpty());
  EXPECT_THAT(step(snapshot()), ElementsAre(HasSubstr("level of 15/main: request -> statement")));
}

TEST_F(ConsoleSinkTest, says_when_a_server_starts_below_the_level_asked_for)
{
  Snapshot lower = snapshot();
  lower.servers[0].level = Level::sweep;
  EXPECT_THAT(step(lower), Contains(AllOf(HasSubstr("level of 15/main: statement -> sweep"),
                                          HasSubstr("asked for statement"))));
}

TEST_F(ConsoleSinkTest, says_when_servers_come_and_go)
{
  EXPECT_THAT(step(snapshot()), Contains(AllOf(HasSubstr("watching 15/main"), HasSubstr("15.20"),
                                               HasSubstr("/var/lib/postgresql/15/main"))));
  Snapshot none = snapshot();
  none.servers.clear();
  none.processes.clear();
  EXPECT_THAT(step(none), ElementsAre(HasSubstr("15/main is gone")));
}

TEST_F(ConsoleSinkTest, gives_a_status_once_per_interval)
{
  step(snapshot());
  EXPECT_THAT(step(snapshot(some_time() + 8s)), IsEmpty());
  EXPECT_THAT(
      step(snapshot(some_time() + 10s)),
      ElementsAre(AllOf(HasSubstr("status"), HasSubstr("1 server, 1 process, "),
                        HasSubstr("1.0 MiB in 1 context"), HasSubstr("biggest: pid 4242"),
                        HasSubstr("level statement"), HasSubstr("overhead 1.2% of at most 5.0%"),
                        HasSubstr("0 violations active"), Not(HasSubstr("NOT SEEN")))));
}

TEST_F(ConsoleSinkTest, tells_who_grew_most_and_what_was_not_seen)
{
  step(snapshot());
  Snapshot later = snapshot(some_time() + 10s);
  ProcessSnapshot grown = backend(4242);
  grown.contexts[0].total_bytes += 2 * kMiB;
  grown.complete = false;
  later.processes = {std::make_shared<const ProcessSnapshot>(grown)};
  later.health.events_lost["ring_buffer"] = 12;
  EXPECT_THAT(step(later),
              ElementsAre(AllOf(HasSubstr("grew most: pid 4242 client backend alice@shop +2.0 MiB"),
                                HasSubstr("1 process not read whole"), HasSubstr("NOT SEEN"),
                                HasSubstr("12 ring_buffer"))));
  EXPECT_THAT(step(snapshot(some_time() + 20s)), Each(Not(HasSubstr("NOT SEEN"))));
}

TEST_F(ConsoleSinkTest, reports_a_stream_that_takes_nothing)
{
  std::ofstream full("/dev/full");
  ConsoleSink sink(full, {});
  EXPECT_FALSE(sink.write(snapshot(), {}, {}));
}

TEST_F(ConsoleSinkTest, shows_who_asked_without_the_servers_allocator)
{
  const std::string server = "/usr/lib/postgresql/15/bin/postgres";
  const auto frame = [](const std::string &module, const std::string &function) {
    return Frame{.code = {.module = module, .build_id = {}, .offset = 1},
                 .function = function,
                 .offset = 0x10};
  };
  Violation named = violation();
  named.module = "plpgsql.so";
  named.stack = {frame(server, ""), frame(server, "palloc"), frame(server, "construct_md_array"),
                 frame("/lib/plpgsql.so", "exec_stmt"), frame(server, "PostgresMain")};
  const auto lines = lines_of(named);
  EXPECT_THAT(lines[0], HasSubstr("from plpgsql.so"));
  EXPECT_EQ(lines[1], "    allocated by: construct_md_array+0x10 < exec_stmt+0x10 (plpgsql.so) < "
                      "PostgresMain+0x10");
}

} // namespace
} // namespace pgmemtrace::test
