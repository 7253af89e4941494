// SPDX-License-Identifier: BSD-2-Clause
// extension_parts_test - the daemon's half of the extension, as far as it needs no server: what is
// asked, what waits to be said, how to get in.
#include <chrono>
#include <memory>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <pgmemtrace/abi.h>

#include "extension/backoff.h"
#include "extension/log_entry.h"
#include "extension/login.h"
#include "extension/outbox.h"
#include "extension/request.h"
#include "extension/windows.h"
#include "rules_fake_process.h"

namespace pgmemtrace::test {
namespace {

using namespace std::chrono_literals;
using testing::ElementsAre;

// ---- the log ----

TEST(LogEntry, is_cut_where_it_is_too_long_for_the_log)
{
  Violation violation;
  violation.rule = "dsm_leak";
  violation.query = std::string(1024, 'q');
  violation.stack.resize(20);
  violation.segments.resize(1);
  violation.segments.front().mappings.resize(3);
  const auto frames = [&] {
    return nlohmann::json::parse(log_entry(violation, false))["stack"].size();
  };
  const auto pids = [&] {
    return nlohmann::json::parse(log_entry(violation, false))["segments"][0]["pids"].size();
  };
  EXPECT_EQ(frames(), 20U); // short enough
  EXPECT_EQ(pids(), 3U);
  violation.segments.resize(16);
  for (DsmSegment &segment : violation.segments)
    segment.mappings.resize(2000);
  EXPECT_EQ(frames(), 16U);
  EXPECT_EQ(pids(), 16U);
  EXPECT_LE(log_entry(violation, false).size(), kLongestEntry);
  for (Frame &frame : violation.stack)
    frame.function = std::string(1000, 'f');
  EXPECT_EQ(frames(), 0U);
  EXPECT_LE(log_entry(violation, false).size(), kLongestEntry);
}

// ---- requests ----

TEST(Request, reads_what_the_extension_writes)
{
  const auto begin =
      parse_request(7, PGMT_REQUEST_BEGIN_WINDOW,
                    R"({"backend_pid":42,"pattern":"my%","min_leak_bytes":1,"bloat_min_bytes":2,)"
                    R"("options":{"track_dsm":true,"allowed_contexts":["a","b"]}})");
  ASSERT_TRUE(begin);
  EXPECT_EQ(begin->id, 7U);
  EXPECT_EQ(begin->backend_pid, 42);
  EXPECT_EQ(begin->window.pattern, "my%");
  EXPECT_EQ(begin->window.min_leak_bytes, 1U);
  EXPECT_EQ(begin->window.bloat_min_bytes, 2U);
  EXPECT_THAT(begin->window.allowed_contexts, ElementsAre("a", "b"));
  EXPECT_TRUE(begin->window.track_dsm);
  const auto without =
      parse_request(7, PGMT_REQUEST_BEGIN_WINDOW,
                    R"({"backend_pid":42,"pattern":"","min_leak_bytes":1,"bloat_min_bytes":2,)"
                    R"("options":{"track_dsm":false}})");
  ASSERT_TRUE(without);
  EXPECT_FALSE(without->window.track_dsm);

  const auto contexts = parse_request(8, PGMT_REQUEST_CONTEXTS, R"({"backend_pid":42,"pid":-1})");
  ASSERT_TRUE(contexts);
  EXPECT_EQ(contexts->contexts_pid, -1);
  EXPECT_TRUE(parse_request(9, PGMT_REQUEST_END_WINDOW, R"({"backend_pid":42})"));
  const auto checkpoint =
      parse_request(10, PGMT_REQUEST_CHECKPOINT, R"({"backend_pid":42,"iterations":46})");
  ASSERT_TRUE(checkpoint);
  EXPECT_EQ(checkpoint->executions, 46U);
  const auto within =
      parse_request(11, PGMT_REQUEST_BEGIN_WINDOW,
                    R"({"backend_pid":42,"pattern":"","min_leak_bytes":1,"bloat_min_bytes":2,)"
                    R"("within_transaction":true})");
  ASSERT_TRUE(within);
  EXPECT_TRUE(within->window.within_transaction);
  const auto check = parse_request(
      12, PGMT_REQUEST_CHECK_ON_COPY,
      R"({"backend_pid":42,"check":"oom_simulation","database":"shop","user":"ann","iterations":7,"workload":"SELECT 1"})");
  ASSERT_TRUE(check);
  EXPECT_EQ(check->check.option, "oom");
  EXPECT_EQ(check->check.database, "shop");
  EXPECT_EQ(check->check.user, "ann");
  EXPECT_EQ(check->check.iterations, 7U);
  EXPECT_EQ(check->check.workload, "SELECT 1");
  EXPECT_TRUE(parse_request(9, 15, R"({"backend_pid":42,"what":[1]})")); // a younger extension's
}

TEST(Request, refuses_what_is_not_of_the_protocol)
{
  const std::string window = R"("pattern":"","min_leak_bytes":1,"bloat_min_bytes":2)";
  for (const std::string &json : {
           std::string(),
           std::string("["),
           std::string("[]"),
           std::string("42"),
           "{" + window + "}",
           R"({"backend_pid":0,)" + window + "}",
           R"({"backend_pid":"1",)" + window + "}",
           R"({"backend_pid":99999999999,)" + window + "}",
           std::string(R"({"backend_pid":1})"),
           std::string(R"({"backend_pid":1,"pattern":"","min_leak_bytes":-1,"bloat_min_bytes":2})"),
           std::string(R"({"backend_pid":1,"pattern":7,"min_leak_bytes":1,"bloat_min_bytes":2})"),
           R"({"backend_pid":1,"within_transaction":1,)" + window + "}",
           R"({"backend_pid":1,"options":{"allowed_contexts":[1]},)" + window + "}",
           R"({"backend_pid":1,"options":{"allowed_contexts":"a"},)" + window + "}",
           R"({"backend_pid":1,"options":{"track_dsm":"yes"},)" + window + "}",
       })
    EXPECT_FALSE(parse_request(1, PGMT_REQUEST_BEGIN_WINDOW, json)) << json;
  EXPECT_FALSE(parse_request(1, PGMT_REQUEST_CONTEXTS, R"({"backend_pid":1,"pid":1e99})"));
  for (const char *wrong :
       {R"("check":"rm -rf /","database":"d","user":"u","iterations":1,"workload":"w")",
        R"("check":"oom_simulation","database":7,"user":"u","iterations":1,"workload":"w")",
        R"("check":"oom_simulation","database":"d","user":"u","iterations":0,"workload":"w")",
        R"("check":"oom_simulation","database":"d","user":"u","iterations":1)"})
    EXPECT_FALSE(parse_request(1, PGMT_REQUEST_CHECK_ON_COPY,
                               std::string(R"({"backend_pid":1,)") + wrong + "}"))
        << wrong;
  for (const std::string iterations : {"-1", "1.5", "null"})
    EXPECT_FALSE(parse_request(1, PGMT_REQUEST_CHECKPOINT,
                               R"({"backend_pid":1,"iterations":)" + iterations + "}"));
}

TEST(Request, knows_kinds_by_name)
{
  EXPECT_EQ(request_kind("begin_window"), static_cast<std::uint32_t>(PGMT_REQUEST_BEGIN_WINDOW));
  EXPECT_EQ(request_kind("of a later version"), 0U);
}

// ---- what waits ----

TEST(Backoff, doubles_up_to_its_bound_and_begins_anew)
{
  Backoff backoff(100ms, 350ms);
  EXPECT_EQ(backoff.next(), 100ms);
  EXPECT_EQ(backoff.next(), 200ms);
  EXPECT_EQ(backoff.next(), 350ms);
  EXPECT_EQ(backoff.next(), 350ms);
  backoff.succeeded();
  EXPECT_EQ(backoff.next(), 100ms);
}

Answer answer(std::uint64_t id, std::size_t bytes = 10)
{
  return {.backend_pid = 1, .request_id = id, .json = std::string(bytes, 'x'), .error = {}};
}

TEST(Outbox, drops_the_oldest_answers_and_counts_them)
{
  Outbox box({.answers = 3, .bytes = 1000, .violations = 1});
  for (std::uint64_t id = 1; id <= 5; ++id)
    box.put(answer(id));
  EXPECT_EQ(box.dropped().answers, 2U);
  for (std::uint64_t id = 3; id <= 5; ++id)
    EXPECT_EQ(box.take_answer()->request_id, id);
  EXPECT_FALSE(box.take_answer());

  // By their size, too; but one is always taken.
  box.put(answer(6, 600));
  box.put(answer(7, 600));
  EXPECT_EQ(box.take_answer()->request_id, 7U);
  box.put(answer(8, 5000));
  EXPECT_EQ(box.take_answer()->request_id, 8U);
  EXPECT_EQ(box.dropped().answers, 3U);
  EXPECT_TRUE(box.empty());
}

TEST(Outbox, keeps_the_log_in_order_and_counts_what_had_no_room)
{
  Outbox box({.answers = 1, .bytes = 1000, .violations = 2});
  for (const std::string violation : {"a", "b", "c"})
    box.put_violation(violation);
  EXPECT_EQ(box.dropped().violations, 1U);
  EXPECT_EQ(box.take_violation(), "a");
  EXPECT_EQ(box.take_violation(), "b");
  EXPECT_FALSE(box.take_violation());
}

TEST(Outbox, asks_once_however_often_it_was_told_to)
{
  Outbox box;
  box.ask();
  box.ask();
  EXPECT_FALSE(box.empty());
  EXPECT_TRUE(box.take_ask());
  EXPECT_FALSE(box.take_ask());
  EXPECT_TRUE(box.empty());
}

// ---- how to get in ----

TEST(Login, translates_users_of_a_container)
{
  EXPECT_EQ(uid_inside("         0          0 4294967295\n", 105), 105U);
  const auto rootless = "0 1000 1\n1 100000 65536\n";
  EXPECT_EQ(uid_inside(rootless, 1000), 0U);
  EXPECT_EQ(uid_inside(rootless, 100998), 999U);
  EXPECT_FALSE(uid_inside(rootless, 42));
  EXPECT_FALSE(uid_inside("", 42));
  EXPECT_FALSE(uid_inside("no numbers", 42));
}

TEST(Login, finds_the_name_of_a_user)
{
  const auto passwd = "root:x:0:0:root:/root:/bin/sh\npostgres:x:999:999::/var/lib:\nbroken\n";
  EXPECT_EQ(user_name(passwd, 999), "postgres");
  EXPECT_EQ(user_name(passwd, 9), "");
}

TEST(Login, refuses_what_is_no_connection_string)
{
  EXPECT_FALSE(parse_dsn("nonsense"));
  EXPECT_FALSE(parse_dsn("no_such_keyword=1"));
  const auto parsed = parse_dsn("dbname=shop user=monitor");
  ASSERT_TRUE(parsed);
  EXPECT_EQ(parsed->at("dbname"), "shop");
  EXPECT_FALSE(parsed->contains("host"));
  EXPECT_EQ(parse_dsn("postgresql://monitor@somewhere/shop")->at("host"), "somewhere");
}

// ---- windows ----

Windows::Process shared(ProcessSnapshot snapshot)
{
  return std::make_shared<const ProcessSnapshot>(std::move(snapshot));
}

Violation raised(pid_t pid, const std::string &context,
                 ViolationState state = ViolationState::raised)
{
  Violation violation;
  violation.state = state;
  violation.process.id = {pid, 100};
  violation.rule = "peak";
  violation.context = context;
  return violation;
}

TEST(Windows, have_what_the_rules_raised_meanwhile_for_this_process_alone)
{
  FakeProcess process(1);
  Windows windows;
  windows.saw(std::vector{raised(1, "before")});
  windows.begin(shared(process.advance(1).take()),
                {.pattern = "%", .allowed_contexts = {"allowed"}});
  windows.saw(std::vector{raised(1, "mine"), raised(1, "allowed"), raised(2, "another's"),
                          raised(1, "over")});
  windows.saw(std::vector{raised(1, "over", ViolationState::cleared)});
  const auto found = windows.end(process.advance(1).take(), {});
  ASSERT_TRUE(found);
  ASSERT_EQ(found->size(), 1U);
  EXPECT_EQ(found->front().context, "mine");
  EXPECT_FALSE(windows.end(process.advance(1).take(), {})); // it is closed
}

TEST(Windows, gather_the_queries_of_every_look_in_between)
{
  FakeProcess process(1);
  Windows windows;
  windows.begin(shared(process.advance(1).take()), {});
  process.values().activity.growth = {{.query = "SELECT leak()", .bytes = 50'000}};
  windows.saw(process.advance(1).take());
  process.set("TopMemoryContext|my_extension", 1, 50'000, 50'000);
  const auto found = windows.end(process.advance(1).take(), {});
  ASSERT_TRUE(found && found->size() == 1);
  EXPECT_EQ(found->front().query, "SELECT leak()");
}

// Its growth becomes known when it is over, in the window.
TEST(Windows, do_not_blame_the_statement_that_opened_them)
{
  FakeProcess process(1);
  Windows windows;
  process.values().activity.in_statement = true;
  process.values().activity.current_query = "SELECT pgmemtrace.begin()";
  windows.begin(shared(process.advance(1).take()), {});
  process.values().activity = {};
  process.values().activity.growth = {{.query = "SELECT pgmemtrace.begin()", .bytes = 8192}};
  windows.saw(process.advance(1).take());
  process.set("TopMemoryContext|my_extension", 1, 50'000, 50'000);
  const auto found = windows.end(process.advance(1).take(), {});
  ASSERT_TRUE(found && found->size() == 1);
  EXPECT_EQ(found->front().query, "");
}

TEST(Windows, judge_dynamic_shared_memory_by_themselves)
{
  FakeProcess process(1);
  const auto before = shared(process.advance(1).take());
  DsmSegment left{.handle = 8, .seen = true, .bytes = 4096};
  left.mappings = {{.process = before->process, .pinned = true}};
  const auto look = [](std::vector<DsmSegment> segments) {
    return std::make_shared<const DsmSnapshot>(DsmSnapshot{.segments = std::move(segments)});
  };
  auto by_the_rule = raised(1, "");
  by_the_rule.rule = "dsm_leak"; // maybe of a segment that was there before
  Windows windows;
  const auto end = [&] { return windows.end(process.advance(1).take(), {}, look({left})); };

  windows.begin(before, {}, look({}));
  EXPECT_TRUE(windows.tracks_dsm(before->process.id));
  windows.saw(std::vector{by_the_rule});
  const auto found = end();
  ASSERT_TRUE(found && found->size() == 1);
  ASSERT_EQ(found->front().segments.size(), 1U);
  EXPECT_EQ(found->front().segments.front().handle, 8U);

  windows.begin(before, {.track_dsm = false});
  EXPECT_FALSE(windows.tracks_dsm(before->process.id));
  windows.saw(std::vector{by_the_rule});
  const auto untracked = end();
  ASSERT_TRUE(untracked);
  EXPECT_TRUE(untracked->empty());
}

TEST(Windows, of_a_process_that_is_gone_are_gone)
{
  FakeProcess process(1);
  Windows windows;
  windows.begin(shared(process.advance(1).take()), {});
  windows.forget({1, 100});
  EXPECT_FALSE(windows.end(process.advance(1).take(), {}));
}

TEST(GrowthSince, is_what_was_added)
{
  const auto growth = [](std::uint64_t stack, std::uint64_t bytes) {
    return BlockGrowth{.context = 1,
                       .made = false,
                       .name = "c",
                       .bytes = bytes,
                       .raised = bytes,
                       .blocks = bytes / 1000,
                       .stack = stack};
  };
  const auto since = growth_since(std::vector{growth(1, 5000), growth(2, 7000)},
                                  std::vector{growth(1, 8000), growth(2, 7000), growth(3, 1000)});
  ASSERT_EQ(since.size(), 2U);
  EXPECT_EQ(since[0].bytes, 3000U);
  EXPECT_EQ(since[0].blocks, 3U);
  EXPECT_EQ(since[1].stack, 3U);
}

} // namespace
} // namespace pgmemtrace::test
