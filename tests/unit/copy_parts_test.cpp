// SPDX-License-Identifier: BSD-2-Clause
// copy_parts_test.cpp - what checks on copies decide without one: comparing runs, choosing
// allocations, folding findings, reading notes of crashes.
#include <cerrno>
#include <csignal>
#include <filesystem>
#include <fstream>

#include <fcntl.h>
#include <gmock/gmock.h>
#include <nlohmann/json.hpp>

#include "copy/compare.h"
#include "copy/crash_note.h"
#include "copy/findings.h"
#include "copy/folder.h"
#include "copy/report.h"
#include "extension/copy_checks.h"
#include "util/child.h"

namespace pgmemtrace::test {
namespace {

using namespace std::chrono_literals;
using nlohmann::json;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

RunOutcome returned(std::vector<std::string> texts)
{
  RunOutcome run;
  for (auto &text : texts)
    run.statements.push_back({.begin = text, .digest = std::hash<std::string>()(text)});
  return run;
}

RunOutcome failed(const std::string &sqlstate, std::vector<std::string> before = {})
{
  auto run = returned(std::move(before));
  run.sqlstate = sqlstate;
  run.error = "ERROR: it failed";
  return run;
}

// ---- comparing runs -------------------------------------------------------------------

TEST(Compare, the_same_is_no_difference)
{
  EXPECT_FALSE(difference(returned({"1", "2"}), returned({"1", "2"}), returned({"1", "2"})));
  EXPECT_FALSE(difference(failed("22012", {"1"}), failed("22012", {"1"}), failed("22012", {"1"})));
}

TEST(Compare, the_statement_that_returned_something_else_is_shown)
{
  const auto found =
      difference(returned({"1", "seven"}), returned({"1", "seven"}), returned({"1", "\x7f\x7f"}));
  ASSERT_TRUE(found);
  EXPECT_EQ(found->statement, 2U);
  EXPECT_THAT(found->text, AllOf(HasSubstr("seven"), HasSubstr("\\x7f\\x7f")));
}

TEST(Compare, results_are_told_apart_beyond_what_is_kept_of_them)
{
  auto longer = returned({"same begin"});
  longer.statements[0].digest++;
  EXPECT_TRUE(difference(returned({"same begin"}), returned({"same begin"}), longer));
}

TEST(Compare, what_differs_by_itself_is_not_compared_and_the_rest_is)
{
  const auto first = returned({"0.1", "7"}), second = returned({"0.2", "7"});
  EXPECT_TRUE(differ(first, second));
  EXPECT_FALSE(difference(first, second, returned({"0.3", "7"})));
  const auto found = difference(first, second, returned({"0.3", "8"}));
  ASSERT_TRUE(found);
  EXPECT_EQ(found->statement, 2U);
}

TEST(Compare, an_error_that_was_not_there_is_a_difference)
{
  const auto found = difference(returned({"1"}), returned({"1"}), failed("XX000"));
  ASSERT_TRUE(found);
  EXPECT_EQ(found->statement, 0U);
  EXPECT_THAT(found->text, HasSubstr("it failed"));
  EXPECT_TRUE(difference(failed("22012"), failed("22012"), failed("XX000")));
  // Once it did, once it did not.
  EXPECT_FALSE(difference(failed("40001"), returned({"1"}), failed("40001")));
}

TEST(Spread, takes_all_or_as_many_with_both_ends)
{
  EXPECT_THAT(spread(0, 10), IsEmpty());
  EXPECT_THAT(spread(3, 10), ElementsAre(1, 2, 3));
  EXPECT_THAT(spread(100, 1), ElementsAre(1));
  EXPECT_THAT(spread(100, 3), ElementsAre(1, 50, 100));
  EXPECT_THAT(spread(1, 0), IsEmpty());
}

// ---- notes of crashes ---------------------------------------------------------------------

TEST(CrashNote, is_read_as_far_as_it_was_written)
{
  const auto note = parse_crash_note("signal 11\naddress 0x10\nstack 0x1000 0x2000\n");
  EXPECT_EQ(note.signal, 11);
  EXPECT_EQ(note.address, 0x10U);
  EXPECT_THAT(note.stack, ElementsAre(0x1000U, 0x2000U));
  const auto cut = parse_crash_note("signal 6\nstack 0x10");
  EXPECT_EQ(cut.signal, 6);
  EXPECT_FALSE(cut.address);
}

TEST(CrashNote, of_rubbish_has_nothing_in_it)
{
  for (const char *text :
       {"", "\n\n", "signal", "signal x\naddress 0x\nstack 0xzz -1 99999999999999999999",
        "\x7f\x7f\x7f"}) {
    const auto note = parse_crash_note(text);
    EXPECT_EQ(note.signal, 0);
    EXPECT_FALSE(note.address);
    EXPECT_THAT(note.stack, IsEmpty());
  }
  std::string many = "stack";
  for (int i = 0; i < 10'000; ++i)
    many += " 0x1";
  EXPECT_LE(parse_crash_note(many).stack.size(), 128U);
}

Frame frame(const char *module, const char *function)
{
  return {.code = {module, {}, 0x10}, .function = function, .offset = 0x10};
}

TEST(CrashNote, the_suspect_is_neither_the_server_nor_the_c_library)
{
  const Frame libc = frame("/lib/libc.so.6", "memcpy"), core = frame("/bin/postgres", "palloc"),
              main = frame("/bin/postgres", "main"), own = frame("/lib/mine.so", "mine");
  const auto of = [](std::vector<Frame> stack) { return Crash{1, 11, {}, std::move(stack)}; };
  const auto direct = of({own, core, main, libc});
  EXPECT_EQ(suspect(direct)->function, "mine");
  const auto through = of({libc, core, own, core, main, libc});
  EXPECT_EQ(suspect(through)->function, "mine");
  const auto server = of({libc, core, main, libc});
  EXPECT_EQ(suspect(server)->function, "palloc");
  EXPECT_EQ(suspect(of({})), nullptr);
  EXPECT_THAT(to_string(direct), AllOf(HasSubstr("signal 11"), HasSubstr("mine.so")));
}

// ---- findings ------------------------------------------------------------------------------

TEST(Findings, what_is_found_again_is_one_with_its_first_place)
{
  Findings findings("oom_simulation", {.instance = "here"}, "SELECT 1");
  Aftermath crash{
      .crashes = {{.pid = 7,
                   .signal = 11,
                   .address = 0x10,
                   .stack = {frame("/lib/mine.so", "mine"), frame("/bin/postgres", "main")}}},
      .ended = true,
      .panic = {}};
  findings.add_end({}, crash, "in run 1", "advice");
  crash.crashes[0].address = 0x20; // the same instruction
  findings.add_end({}, crash, "in run 2", "advice");
  findings.add(Severity::warning, "statement 1", "other rows", "in run 3", "advice");
  const auto found = findings.take();
  ASSERT_EQ(found.size(), 2U);
  EXPECT_EQ(found[0].occurrences, 2U);
  EXPECT_EQ(found[0].severity, Severity::error);
  EXPECT_EQ(found[0].module, "mine.so");
  EXPECT_THAT(found[0].detail,
              AllOf(HasSubstr("in run 1"), HasSubstr("0x10"), Not(HasSubstr("run 2"))));
  EXPECT_EQ(found[1].severity, Severity::warning);
  EXPECT_TRUE(findings.empty());
}

TEST(Findings, a_session_that_is_lost_without_a_crash_says_what_the_server_said)
{
  Findings findings("use_after_reset", {}, "SELECT 1");
  auto lost = failed("57P01");
  lost.end = RunOutcome::End::session_lost;
  findings.add_end(lost, {}, "in run 1", "advice");
  findings.add_end(lost, {.crashes = {}, .ended = true, .panic = "PANIC: no room"}, "in run 2", "");
  lost.end = RunOutcome::End::timed_out;
  findings.add_end(lost, {}, "in run 3", "advice");
  const auto found = findings.take();
  ASSERT_EQ(found.size(), 3U);
  EXPECT_THAT(found[0].detail, HasSubstr("session ended: ERROR: it failed"));
  EXPECT_THAT(found[1].detail, HasSubstr("server ended: PANIC: no room"));
  EXPECT_THAT(found[2].detail, HasSubstr("did not end"));
}

TEST(CheckReport, has_everything_for_programs_and_for_people)
{
  Findings findings("use_after_reset", {}, "SELECT 1");
  findings.add(Severity::error, "key", "what was found", "in run 2", "what to do");
  CheckResult check{.scenario = "use_after_reset",
                    .workload = "SELECT 1",
                    .executed = 9,
                    .failed = 2,
                    .first_error = "ERROR: no",
                    .report = "one sentence",
                    .violations = findings.take()};
  const auto object = json::parse(json_of_checks({&check, 1}))["checks"].at(0);
  EXPECT_EQ(object["executed"], 9);
  EXPECT_EQ(object["failed"], 2);
  EXPECT_EQ(object["first_error"], "ERROR: no");
  EXPECT_EQ(object["violations"][0]["rule"], "use_after_reset");
  EXPECT_THAT(print_checks({&check, 1}),
              AllOf(HasSubstr("SELECT 1"), HasSubstr("ERROR"), HasSubstr("what was found"),
                    HasSubstr("what to do"), HasSubstr("one sentence")));
  check.first_error.clear();
  EXPECT_TRUE(json::parse(json_of_checks({&check, 1}))["checks"][0]["first_error"].is_null());
}

// ---- what the daemon makes of a check ---------------------------------------------------------

TEST(CopyChecks, the_answer_is_the_one_object_or_the_error_with_its_hint)
{
  const Request request{.id = 5, .kind = 5, .backend_pid = 42};
  const auto answer = answer_of_check(request,
                                      R"({"checks":[{"executed":1}]})"
                                      "\n",
                                      "copying ...\n");
  EXPECT_EQ(answer.json, R"({"executed":1})");
  EXPECT_EQ(answer.request_id, 5U);
  EXPECT_EQ(answer.backend_pid, 42);
  EXPECT_EQ(answer.error, "");
  const auto error = answer_of_check(request, "", "copying ...\nerror: no room\nhint: elsewhere\n");
  EXPECT_EQ(error.json, "");
  EXPECT_THAT(error.error,
              AllOf(HasSubstr("no room"), HasSubstr("elsewhere"), Not(HasSubstr("copying"))));
  for (const char *out : {"", "{", "[]", R"({"checks":[]})", R"({"checks":7})"})
    EXPECT_NE(answer_of_check(request, out, "").error, "") << out;
}

// ---- the folder, and programs -------------------------------------------------------------------

TEST(CopyFolder, space_is_asked_for_with_both_numbers)
{
  EXPECT_TRUE(check_space(100, 100, "/var/tmp"));
  const auto full = check_space(3ULL << 30, 1ULL << 30, "/var/tmp");
  ASSERT_FALSE(full);
  EXPECT_THAT(full.error().what,
              AllOf(HasSubstr("3.0 GiB"), HasSubstr("1.0 GiB"), HasSubstr("/var/tmp")));
  EXPECT_EQ(full.error().err, ENOSPC);
}

TEST(CopyFolder, goes_with_its_owner_and_takes_along_only_what_nobody_holds)
{
  std::string name = testing::TempDir() + "pgmt-folder.XXXXXX";
  ASSERT_NE(mkdtemp(name.data()), nullptr);
  const std::filesystem::path dir = name;
  const auto outside = dir / "outside";
  std::ofstream(outside) << "kept";
  const UniqueFd root(open("/", O_PATH | O_DIRECTORY | O_CLOEXEC));
  const auto folders = [&] {
    return std::distance(std::filesystem::directory_iterator(dir), {}) - 1; // outside
  };
  std::filesystem::create_directories(dir / "pgmemtrace-copy.killed");
  std::ofstream(dir / "pgmemtrace-copy.killed/lock") << "";
  std::filesystem::create_symlink(outside, dir / "pgmemtrace-copy.killed/link");
  std::filesystem::create_directory(dir / "pgmemtrace-copy.younger"); // has no lock yet
  {
    const auto first = CopyFolder::make(root.get(), dir, 0);
    ASSERT_TRUE(first) << to_string(first.error());
    EXPECT_FALSE(std::filesystem::exists(dir / "pgmemtrace-copy.killed"));
    EXPECT_EQ(folders(), 2);
    const auto second = CopyFolder::make(root.get(), dir, 0);
    EXPECT_EQ(folders(), 3);
    EXPECT_TRUE(std::filesystem::exists(first->path("socket")));
    EXPECT_TRUE(std::filesystem::exists(first->inside("socket")));
  }
  EXPECT_EQ(folders(), 1);
  EXPECT_TRUE(std::filesystem::exists(outside));
  EXPECT_FALSE(CopyFolder::make(root.get(), dir / "nowhere", 0));
  EXPECT_FALSE(CopyFolder::make(root.get(), dir, ~0ULL)); // that much is nowhere
  std::filesystem::remove_all(dir);
}

TEST(Child, says_how_it_ended_and_why_it_did_not_start)
{
  const auto until = [] { return Child::Time::now() + 60s; };
  auto child = Child::start({.arguments = {"/bin/sh", "-c", "exit 7"}});
  ASSERT_TRUE(child);
  const auto status = child->wait(-1, until());
  ASSERT_TRUE(status);
  EXPECT_EQ(*status, 7);
  EXPECT_FALSE(child->running());

  const auto missing = Child::start({.arguments = {"/nowhere/at/all"}});
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().err, ENOENT);

  auto endless = Child::start({.arguments = {"/bin/sleep", "600"}});
  ASSERT_TRUE(endless);
  EXPECT_EQ(endless->wait(-1, Child::Time::now()).error().err, ETIMEDOUT);
  const UniqueFd readable(open("/dev/zero", O_RDONLY | O_CLOEXEC));
  EXPECT_EQ(endless->wait(readable.get(), until()).error().err, ECANCELED);
  endless->signal(SIGTERM);
  const auto killed = endless->wait(-1, until());
  ASSERT_TRUE(killed);
  EXPECT_EQ(*killed, 128 + SIGTERM);
}

} // namespace
} // namespace pgmemtrace::test
