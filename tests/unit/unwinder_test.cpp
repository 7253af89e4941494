// SPDX-License-Identifier: BSD-2-Clause
// unwinder_test.cpp - stacks of this very thread, against what the compiler's unwinder says.
#include "symbols/unwinder.h"

#include <algorithm>
#include <array>
#include <csignal>
#include <cstring>
#include <iterator>
#include <random>

#include <execinfo.h>
#include <gtest/gtest.h>
#include <pthread.h>
#include <sys/mman.h>

#include "fixtures/symbols/call_chain.h"
#include "symbols/frame_pointers.h"
#include "symbols/plt.h"
#include "symbols/stack_frame.h"
#include "symbols_fixture.h"
#include "util/foreign_memory.h"

namespace pgmemtrace::test {

namespace {

// What a probe would have seen at `registers.ip`, and what is right.
struct Capture {
  StackRegisters registers;
  std::vector<std::byte> stack;
  std::vector<std::uint64_t> callers; // return addresses, as backtrace() finds them
};

std::uint64_t stack_end()
{
  pthread_attr_t attributes;
  void *start = nullptr;
  std::size_t size = 0;
  EXPECT_EQ(pthread_getattr_np(pthread_self(), &attributes), 0);
  EXPECT_EQ(pthread_attr_getstack(&attributes, &start, &size), 0);
  pthread_attr_destroy(&attributes);
  return address_of(start) + size;
}

__attribute__((noinline)) void capture(void *into)
{
  auto &taken = *static_cast<Capture *>(into);
  std::uint64_t ip = 0, sp = 0, bp = 0;
  asm volatile("lea 0(%%rip), %0\n\tmov %%rsp, %1\n\tmov %%rbp, %2"
               : "=&r"(ip), "=&r"(sp), "=&r"(bp));
  taken.registers = {ip, sp, bp};
  // As from outside: the sanitizers watch what we read of our own frames.
  taken.stack.resize(stack_end() - sp);
  ASSERT_TRUE(ForeignMemory(getpid()).read_bytes(sp, taken.stack));
  std::array<void *, 128> found{};
  const int count = backtrace(found.data(), static_cast<int>(found.size()));
  // A sanitizer's backtrace() has itself on top.
  auto *const end = found.data() + count;
  auto *const caller = std::find(found.data(), end, __builtin_return_address(0));
  ASSERT_NE(caller, end);
  std::transform(caller, end, std::back_inserter(taken.callers), address_of);
}

std::vector<std::uint64_t> callers(const UnwoundStack &stack)
{
  return {stack.addresses.begin() + 1, stack.addresses.end()};
}

class UnwinderTest : public testing::TestWithParam<decltype(&with_frame_pointers::chain)> {
protected:
  UnwoundStack unwind(const Capture &taken)
  {
    return symbolizer_.unwind(self(), taken.registers, taken.stack);
  }

  Symbolizer symbolizer_{without_debug_files()};
};

} // namespace

INSTANTIATE_TEST_SUITE_P(FramePointers, UnwinderTest,
                         testing::Values(&with_frame_pointers::chain,
                                         &without_frame_pointers::chain),
                         [](const auto &test) {
                           return std::string(test.index == 0 ? "with" : "without");
                         });

TEST_P(UnwinderTest, finds_the_callers_that_the_compilers_unwinder_finds)
{
  Capture taken;
  GetParam()(20, capture, &taken);
  const auto stack = unwind(taken);
  ASSERT_GT(taken.callers.size(), 30u);
  EXPECT_EQ(callers(stack), taken.callers);
  EXPECT_EQ(stack.end, StackEnd::complete);
  EXPECT_FALSE(stack.guessed);
  ASSERT_EQ(stack.found_at.size(), taken.callers.size());
  const StackCopy copy(taken.registers.sp, taken.stack);
  for (std::size_t i = 0; i < stack.found_at.size(); ++i)
    EXPECT_EQ(copy.word(stack.found_at[i]), taken.callers[i]) << i;
}

// What the kernel would find, by frame pointers alone.
std::vector<std::uint64_t> walk(const Capture &taken)
{
  const StackCopy stack(taken.registers.sp, taken.stack);
  std::vector<std::uint64_t> addresses{taken.registers.ip};
  for (auto bp = std::optional(taken.registers.bp); bp && addresses.size() < 64;) {
    const auto ip = stack.word(*bp + 8);
    if (!ip)
      break;
    addresses.push_back(*ip);
    bp = stack.word(*bp);
  }
  return addresses;
}

TEST_P(UnwinderTest, proves_of_a_walk_by_frame_pointers_what_is_right_and_no_more)
{
  Capture taken;
  GetParam()(20, capture, &taken);
  const auto walked = walk(taken);
  const auto proven = symbolizer_.prove(self(), walked);
  ASSERT_GE(proven.addresses, 2u); // who called capture(), which keeps its frame pointer
  ASSERT_LE(proven.addresses, walked.size());
  const std::span right(taken.callers);
  for (std::size_t i = 1; i < proven.addresses; ++i)
    EXPECT_EQ(walked[i], right[i - 1]) << i;
  if (GetParam() == &with_frame_pointers::chain) {
    EXPECT_GT(proven.addresses, 20u);
  } else {
    EXPECT_LT(proven.addresses, 5u); // the chain's innermost function is the last that is certain
  }
}

TEST_P(UnwinderTest, proves_nothing_beyond_code_that_is_not_there)
{
  Capture taken;
  GetParam()(20, capture, &taken);
  const auto proven = symbolizer_.prove(
      self(), std::array<std::uint64_t, 3>{taken.registers.ip, 0x1000, taken.callers[1]});
  EXPECT_EQ(proven.addresses, 2u);
  EXPECT_FALSE(proven.whole);
  EXPECT_FALSE(proven.mapped);
}

TEST(FramePointers, are_a_property_of_how_a_library_was_built)
{
  const auto with = ElfFile::open(PGMT_CHAIN_WITH), without = ElfFile::open(PGMT_EXAMPLE);
  ASSERT_TRUE(with && without);
  EXPECT_GE(frame_pointers(*with).keeping, 3u);
  EXPECT_TRUE(frame_pointers(*with).kept());
  EXPECT_GT(frame_pointers(*without).functions, 0u);
  EXPECT_FALSE(frame_pointers(*without).kept());
}

TEST_P(UnwinderTest, says_that_a_copy_ended_too_early_and_keeps_what_it_had)
{
  Capture taken;
  GetParam()(20, capture, &taken);
  std::size_t longest = 0;
  for (const std::size_t size : {0u, 64u, 512u, 2048u, 4096u}) {
    if (size > taken.stack.size())
      break;
    Capture cut = taken;
    cut.stack.resize(size);
    const auto stack = unwind(cut);
    EXPECT_EQ(stack.end, StackEnd::truncated) << size;
    const auto found = callers(stack);
    ASSERT_LE(found.size(), taken.callers.size());
    EXPECT_TRUE(std::equal(found.begin(), found.end(), taken.callers.begin())) << size;
    EXPECT_GE(found.size(), longest);
    longest = found.size();
  }
  EXPECT_GT(longest, 5u);
}

TEST_P(UnwinderTest, stops_at_its_limit_of_frames)
{
  Capture taken;
  GetParam()(300, capture, &taken);
  const auto stack = unwind(taken);
  EXPECT_EQ(stack.end, StackEnd::too_deep);
  const auto found = callers(stack);
  ASSERT_GE(found.size(), 100u);
  EXPECT_TRUE(std::equal(found.begin(), found.begin() + 100, taken.callers.begin()));
}

TEST_P(UnwinderTest, goes_through_signal_handlers)
{
  static Capture taken;
  taken = {};
  struct sigaction action {
  }, before{};
  action.sa_handler = [](int) { capture(&taken); };
  ASSERT_EQ(sigaction(SIGUSR1, &action, &before), 0);
  GetParam()(
      3, [](void *) { raise(SIGUSR1); }, nullptr);
  sigaction(SIGUSR1, &before, nullptr);
  const auto stack = unwind(taken);
  EXPECT_EQ(callers(stack), taken.callers);
  EXPECT_EQ(stack.end, StackEnd::complete);
}

// push rbp; mov rbp,rsp; mov rax,rdi; mov rdi,rsi; call rax; pop rbp; ret
TEST_P(UnwinderTest, passes_generated_code_by_its_frame_pointer_and_says_so)
{
  constexpr std::array<unsigned char, 14> kCode{0x55, 0x48, 0x89, 0xe5, 0x48, 0x89, 0xf8,
                                                0x48, 0x89, 0xf7, 0xff, 0xd0, 0x5d, 0xc3};
  void *code = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(code, MAP_FAILED);
  std::memcpy(code, kCode.data(), kCode.size());
  ASSERT_EQ(mprotect(code, 4096, PROT_READ | PROT_EXEC), 0);
  struct Call {
    void (*generated)(Leaf *, void *);
    Capture taken;
  } call;
  std::memcpy(&call.generated, &code, sizeof code);
  Leaf *through = [](void *argument) {
    auto &asked = *static_cast<Call *>(argument);
    asked.generated(capture, &asked.taken);
  };
  GetParam()(5, through, &call);

  const auto stack = unwind(call.taken);
  EXPECT_EQ(stack.end, StackEnd::complete);
  EXPECT_TRUE(stack.guessed);
  ASSERT_GT(stack.addresses.size(), 3u);
  EXPECT_EQ(stack.addresses[1], address_of(code) + 12) << "behind its call";
  int chain = 0;
  for (const auto address : stack.addresses)
    for (const auto &frame : symbolizer_.frames(self(), address, Symbolizer::Kind::return_address))
      chain += frame.function.find("frame_pointers::chain") != std::string::npos;
  EXPECT_GE(chain, 3) << "the callers beyond it are there";
  munmap(code, 4096);
}

TEST_P(UnwinderTest, stops_at_generated_code_that_has_no_frame_pointer)
{
  Capture taken;
  GetParam()(5, capture, &taken);
  void *code = mmap(nullptr, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(code, MAP_FAILED);
  taken.registers.ip = address_of(code) + 8;
  taken.registers.bp = 12345; // some number that it was computing with
  const auto stack = unwind(taken);
  EXPECT_EQ(stack.addresses, std::vector{taken.registers.ip});
  EXPECT_EQ(stack.end, StackEnd::no_rules);
  munmap(code, 4096);
}

// The linker describes a PLT entry by an expression: before its push the return address is on top
// of the stack, after it one below.
TEST(Unwinder, knows_where_in_a_plt_entry_it_is)
{
  const LoadedExample library(PGMT_EXAMPLE_LAZY);
  const auto elf = ElfFile::open(PGMT_EXAMPLE_LAZY);
  ASSERT_TRUE(elf);
  const auto entries = plt_entries(*elf);
  ASSERT_FALSE(entries.empty());
  const auto bias =
      address_of(library.places().exported) - elf->function("pgmt_example_exported")->address;
  const auto entry = std::ranges::find_if(entries, [&](const PltEntry &plt) {
    const auto bytes = elf->bytes(plt.address, plt.size);
    return bytes.size() == 16 && bytes[6] == std::byte{0x68}; // jmp; push; jmp: bound when called
  });
  ASSERT_NE(entry, entries.end());

  Symbolizer symbolizer(without_debug_files());
  const std::uint64_t caller = address_of(library.places().last_call), sp = 0x7000;
  for (const std::uint64_t at : {0u, 6u, 11u}) {
    std::vector<std::uint64_t> words{caller, 0, 0, 0};
    if (at >= 11)
      words.insert(words.begin(), 3); // what it pushed
    const auto stack = symbolizer.unwind(self(), {bias + entry->address + at, sp, 0},
                                         std::as_bytes(std::span(words)));
    ASSERT_GE(stack.addresses.size(), 2u) << at;
    EXPECT_EQ(stack.addresses[1], caller) << at;
  }
}

TEST(Unwinder, ends_on_any_stack)
{
  Capture taken;
  without_frame_pointers::chain(9, capture, &taken);
  Symbolizer symbolizer(without_debug_files());
  std::mt19937_64 random(7);
  for (int round = 0; round < 2000; ++round) {
    Capture wrong = taken;
    for (int i = 0; i < 30; ++i) {
      // Other words of the same stack are the worst: they look right.
      auto word = [&] { return random() % (wrong.stack.size() / 8) * 8; };
      std::memcpy(&wrong.stack[word()], &taken.stack[word()], 8);
    }
    if (round % 3 == 0)
      wrong.registers.bp = random();
    if (round % 5 == 0)
      wrong.registers.sp = random();
    const auto stack = symbolizer.unwind(self(), wrong.registers, wrong.stack);
    EXPECT_GE(stack.addresses.size(), 1u);
    EXPECT_LE(stack.addresses.size(), 200u);
  }
}

} // namespace pgmemtrace::test
