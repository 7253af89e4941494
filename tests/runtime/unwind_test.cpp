// SPDX-License-Identifier: BSD-2-Clause
// unwind_test.cpp - recordings name the right functions, whatever keeps frame pointers and what
// not.
#include <algorithm>
#include <csignal>
#include <functional>

#include <gmock/gmock.h>

#include "support/extension.h"
#include "support/recorder.h"
#include "support/runtime_test.h"

namespace pgmemtrace::test {
namespace {

using testing::Contains;

constexpr std::uint64_t kBlock = 65536; // fixtures/call_chains.cpp

// One stack of the context that the chains leak into.
struct Chain {
  std::vector<std::string> functions; // innermost first, a frame without one by its module
  std::uint64_t bytes = 0, blocks = 0;
};

struct Recorded {
  std::vector<Chain> chains;
  std::uint64_t grown = 0; // bytes
  std::map<std::string, std::uint64_t> losses;
};

std::string name_of(const Frame &frame)
{
  return frame.function.empty() ? to_string(frame) : frame.function;
}

Recorded chains_of(const Recording &recording)
{
  Recorded out{.losses = recording.losses};
  for (const auto &process : recording.processes)
    for (const auto &context : process.contexts) {
      if (context.name != "call chains")
        continue;
      out.grown += context.grown;
      for (const auto &one : context.allocations) {
        Chain chain{.bytes = one.bytes, .blocks = one.blocks};
        if (one.stack)
          for (const auto frame : recording.stacks[*one.stack])
            chain.functions.push_back(name_of(recording.frames[frame]));
        out.chains.push_back(std::move(chain));
      }
    }
  return out;
}

const auto ends_with_main = testing::AllOf(
    testing::Not(testing::IsEmpty()),
    testing::ResultOf([](const std::vector<std::string> &f) { return f.empty() ? "" : f.back(); },
                      "main"));

// The functions of `wanted` are in the chain, each one called by the next.
bool calls_lead_through(const Chain &chain, const std::vector<std::string> &wanted)
{
  return std::search(chain.functions.begin(), chain.functions.end(), wanted.begin(),
                     wanted.end()) != chain.functions.end();
}

// Frames of the extension built with and without frame pointers.
class UnwindTest : public RuntimeTest, public testing::WithParamInterface<const char *> {
protected:
  void SetUp() override
  {
    RuntimeTest::SetUp();
    if (IsSkipped() || HasFatalFailure())
      return;
    const std::string flag = GetParam();
    const auto library = build_extension(cluster(), "call_chains.cpp", "chains" + flag + ".so",
                                         {"-O2", "-fno-optimize-sibling-calls", flag});
    auto session = cluster().connect();
    for (const std::string function :
         {"leak_directly", "leak_two_ways", "leak_in_callback", "leak_deeply"})
      session.exec("CREATE OR REPLACE FUNCTION " + function + "(int) RETURNS void AS '" + library +
                   "' LANGUAGE C STRICT");
  }

  static std::unique_ptr<Recorder> start(KernelMaps::Options maps = {})
  {
    return start_recorder(
        {.level = Level::block, .selection = {.pids = {cluster().postmaster_pid()}}}, maps);
  }

  // Of a session that loads the extension only now.
  static Recorded record(const std::string &sql)
  {
    auto recorder = start();
    auto session = cluster().connect();
    recorder->step();
    session.exec(sql);
    return chains_of(recorder->finish());
  }
};

INSTANTIATE_TEST_SUITE_P(Extension, UnwindTest,
                         testing::Values("-fno-omit-frame-pointer", "-fomit-frame-pointer"),
                         [](const auto &test) {
                           return test.index == 0 ? std::string("with_frame_pointers")
                                                  : std::string("without");
                         });

TEST_P(UnwindTest, names_every_function_of_an_extension_in_order)
{
  const auto seen = record("SELECT leak_directly(20)");
  EXPECT_GE(seen.grown, 20 * kBlock);
  std::uint64_t blocks = 0;
  for (const auto &chain : seen.chains) {
    EXPECT_TRUE(
        calls_lead_through(chain, {"chains::third(unsigned long)", "chains::second(unsigned long)",
                                   "chains::first(unsigned long)", "leak_directly"}))
        << testing::PrintToString(chain.functions);
    EXPECT_THAT(chain.functions, Contains("PostgresMain"));
    EXPECT_THAT(chain.functions, ends_with_main);
    blocks += chain.blocks;
  }
  EXPECT_GE(blocks, 20u);
  EXPECT_TRUE(seen.losses.empty()) << testing::PrintToString(seen.losses);
}

// Once unwound, a stack is known by its return addresses: thousands of blocks lose none, and two
// stacks that lie at the same place are not taken for one another.
TEST_P(UnwindTest, tells_stacks_of_one_place_apart_however_often_they_come)
{
  auto recorder = start();
  auto session = cluster().connect();
  for (int i = 0; i < 4; ++i) { // what a new session does once, and the first of ours
    session.exec("SELECT leak_two_ways(2)");
    recorder->step();
  }
  session.exec("SELECT leak_two_ways(2000)");
  const auto seen = chains_of(recorder->finish());
  std::uint64_t by_first = 0, by_other = 0;
  for (const auto &chain : seen.chains) {
    if (calls_lead_through(chain, {"chains::second(unsigned long)", "chains::first(unsigned long)",
                                   "leak_two_ways"}))
      by_first += chain.blocks;
    if (calls_lead_through(chain, {"chains::second(unsigned long)", "chains::other(unsigned long)",
                                   "leak_two_ways"}))
      by_other += chain.blocks;
  }
  EXPECT_EQ(by_first, 1004u);
  EXPECT_EQ(by_other, 1004u + 1); // it came first, and made the context
  EXPECT_TRUE(seen.losses.empty()) << testing::PrintToString(seen.losses);
}

// Whose stack cannot be told for want of room is counted all the same, and nobody is named for it.
TEST_P(UnwindTest, counts_what_it_had_no_room_to_copy)
{
  auto recorder = start({.copies_bytes = 65536});
  auto session = cluster().connect();
  session.exec("SELECT leak_in_callback(500)");
  const auto seen = chains_of(recorder->finish());
  std::uint64_t blocks = 0, bytes = 0;
  for (const auto &chain : seen.chains) {
    blocks += chain.blocks;
    bytes += chain.bytes;
    const bool whole = std::ranges::find(chain.functions, "main") != chain.functions.end();
    if (!whole && !chain.functions.empty()) {
      EXPECT_EQ(chain.functions.back(), "[truncated]") << testing::PrintToString(chain.functions);
    }
  }
  EXPECT_GE(blocks, 500u);
  EXPECT_EQ(bytes, seen.grown);
}

// The C library keeps no frame pointers, wherever it comes from.
TEST_P(UnwindTest, names_who_called_a_library_that_calls_back)
{
  const auto seen = record("SELECT leak_in_callback(20)");
  std::uint64_t blocks = 0;
  for (const auto &chain : seen.chains) {
    const auto callback =
        std::ranges::find(chain.functions, "chains::compare(void const*, void const*)");
    ASSERT_NE(callback, chain.functions.end()) << testing::PrintToString(chain.functions);
    const auto caller = std::ranges::find(callback, chain.functions.end(), "leak_in_callback");
    ASSERT_NE(caller, chain.functions.end()) << testing::PrintToString(chain.functions);
    for (auto between = callback + 1; between != caller; ++between)
      EXPECT_TRUE(between->starts_with("libc") || between->find("sort") != std::string::npos)
          << *between;
    EXPECT_THAT(chain.functions, ends_with_main);
    blocks += chain.blocks;
  }
  EXPECT_GE(blocks, 20u);
}

TEST_P(UnwindTest, of_a_session_that_is_gone_before_anybody_looked)
{
  auto recorder = start();
  auto session = cluster().connect();
  session.exec("SELECT leak_directly(1)"); // loads the extension ...
  recorder->step();                        // ... which is seen
  session.exec("SELECT leak_in_callback(20)");
  const auto pid = session.backend_pid();
  session.close();
  ASSERT_TRUE(eventually([&] { return kill(pid, 0) != 0; }));
  const auto seen = chains_of(recorder->finish());
  std::uint64_t blocks = 0;
  for (const auto &chain : seen.chains)
    if (calls_lead_through(chain, {"main"}) &&
        std::ranges::find(chain.functions, "leak_in_callback") != chain.functions.end())
      blocks += chain.blocks;
  EXPECT_GE(blocks, 20u);
}

// More stack than is copied: what is beyond it is said to be missing.
TEST_P(UnwindTest, a_stack_that_is_too_deep_says_so_and_names_nothing_wrong)
{
  const auto seen = record("SELECT leak_deeply(40)");
  ASSERT_FALSE(seen.chains.empty());
  for (const auto &chain : seen.chains) {
    const auto deepest = std::ranges::find(chain.functions, "chains::deep(int)");
    const auto behind = std::find_if(deepest, chain.functions.end(), [](const auto &function) {
      return function != "chains::deep(int)";
    });
    ASSERT_NE(behind, chain.functions.end());
    if (*behind == "[truncated]")
      EXPECT_GT(behind - deepest, 10);
    else
      EXPECT_EQ(behind - deepest, 41) << testing::PrintToString(chain.functions);
  }
}

} // namespace
} // namespace pgmemtrace::test
