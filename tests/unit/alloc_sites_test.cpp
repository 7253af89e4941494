// SPDX-License-Identifier: BSD-2-Clause
// alloc_sites_test - the methods of recorded servers, and who passes requests on to them.
#include "attach/alloc_sites.h"

#include <algorithm>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "attach/instruction.h"
#include "recorded_server.h"

namespace pgmemtrace::test {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAreArray;

bool never(std::uint64_t) { return false; }
bool always(std::uint64_t) { return true; }

std::string text_of(const MethodSite &site)
{
  const auto place = [](const std::optional<unsigned> &reg) {
    return reg ? std::string(register_name(*reg)) : std::string("-");
  };
  std::ostringstream out;
  out << site.function << ' ' << std::hex << site.address << ' ' << place(site.role.context) << ' '
      << place(site.role.chunk) << ' ' << place(site.role.size)
      << (site.role.framed ? " framed" : "");
  return out.str();
}

std::vector<std::string> texts(const AllocSites &found)
{
  std::vector<std::string> out;
  for (const auto &site : found.sites)
    out.push_back(text_of(site));
  return out;
}

class RecordedMethods : public ::testing::TestWithParam<const char *> {};

TEST_P(RecordedMethods, are_found_with_their_arguments)
{
  const Recorded recorded = load(GetParam());
  ASSERT_FALSE(recorded.methods.empty());
  const auto found = find_alloc_sites(recorded.code(), recorded.allocators(), never);
  EXPECT_THAT(texts(found), UnorderedElementsAreArray(recorded.methods));
}

INSTANTIATE_TEST_SUITE_P(Debian, RecordedMethods,
                         ::testing::Values("debian13.txt", "debian15.txt", "debian17.txt",
                                           "debian18.txt"));

// SlabFree of Debian's 18 has overwritten the chunk before the first instruction that the kernel
// emulates.
TEST(AllocSites, an_allocator_is_tracked_if_all_of_its_methods_are_probed)
{
  const auto tracked = [](const char *name) {
    const Recorded recorded = load(name);
    return find_alloc_sites(recorded.code(), recorded.allocators(), never).tracked;
  };
  using enum ContextType;
  EXPECT_THAT(tracked("debian15.txt"), ElementsAre(alloc_set, generation, slab));
  EXPECT_THAT(tracked("debian18.txt"), ElementsAre(alloc_set, generation, bump));
}

// ---- shapes -----------------------------------------------------------------------------

constexpr std::uint64_t kCreator = 0x1000, kMethod = 0x2000, kOther = 0x3000, kPasser = 0x4000;

// 16 or later, with one method that matters.
Recorded server(const std::string &alloc)
{
  Recorded recorded;
  recorded.pieces[kCreator] = {bytes("55 c3"), true};
  recorded.pieces[kMethod] = {bytes(alloc), true};
  recorded.pieces[kOther] = {bytes("55 4889e5 5d c3"), true};
  recorded.functions = {{"AllocSetContextCreateInternal", kCreator},
                        {"AllocSetAlloc", kMethod},
                        {"AllocSetFree", kOther},
                        {"AllocSetRealloc", kOther},
                        {"AllocSetReset", kOther},
                        {"AllocSetDelete", kOther}};
  return recorded;
}

std::vector<std::string> alloc_site(const std::string &function)
{
  const Recorded recorded = server(function);
  auto found = texts(find_alloc_sites(recorded.code(), recorded.allocators(), never));
  std::erase_if(found, [](const auto &one) { return !one.starts_with("AllocSetAlloc"); });
  return found;
}

TEST(AllocSites, arguments_may_be_in_another_register)
{
  EXPECT_THAT(alloc_site("4889f0 be00000000 7401 c3 c3"), // mov rax,rsi; mov esi,0; je
              ElementsAre("AllocSetAlloc 2008 rdi - rax"));
  EXPECT_THAT(alloc_site("be00000000 7401 c3 c3"), IsEmpty()); // it is gone
}

// A jump costs less than a push.
TEST(AllocSites, a_jump_is_preferred_behind_the_functions_own_frame)
{
  const std::string frame = "55 4889e5 ";                          // push rbp; mov rbp,rsp
  EXPECT_THAT(alloc_site(frame + "53 4883ec08 4839f7 7401 c3 c3"), // push rbx; sub rsp,8; cmp; je
              ElementsAre("AllocSetAlloc 200c rdi - rsi framed"));
  EXPECT_THAT(alloc_site("90 c3"), ElementsAre("AllocSetAlloc 2000 rdi - rsi"));
}

TEST(AllocSites, a_jump_is_not_preferred_at_a_price)
{
  const std::string entry = "AllocSetAlloc 2000 rdi - rsi", frame = "55 4889e5 ";
  // mov [rdi],rax: what the allocator reads next may have changed
  EXPECT_THAT(alloc_site(frame + "488907 7401 c3 c3"), ElementsAre(entry));
  // mov rbx,rdi; xor edi,edi: rbx takes longer to read
  EXPECT_THAT(alloc_site(frame + "4889fb 31ff 7401 c3 c3"), ElementsAre(entry));
  // mov rbp,rax: where is the caller?
  EXPECT_THAT(alloc_site(frame + "4889c5 7401 c3 c3"), ElementsAre(entry));
  // between the push and the move the return address is neither on top nor behind rbp
  EXPECT_THAT(alloc_site("55 7401 4889e5 c3"), ElementsAre(entry));
  // a call writes to the stack as a push does
  EXPECT_THAT(alloc_site(frame + "e800000000 c3"), ElementsAre(entry));
}

TEST(AllocSites, the_caller_must_be_on_top_of_the_stack)
{
  EXPECT_THAT(alloc_site("f30f1efa 55 4889e5 c3"), ElementsAre("AllocSetAlloc 2004 rdi - rsi"));
  EXPECT_THAT(alloc_site("4883ec08 7401 c3 c3"), IsEmpty());   // sub rsp,8; je
  EXPECT_THAT(alloc_site("488d6c2408 7401 c3 c3"), IsEmpty()); // lea rbp,[rsp+8]; je
}

AllocSites with_passer(const std::string &passer, const CallFrames &frames)
{
  Recorded recorded = server("55 c3");
  recorded.pieces[kPasser] = {bytes(passer), true};
  recorded.functions["palloc"] = kPasser;
  return find_alloc_sites(recorded.code(), recorded.allocators(), frames);
}

bool refused(const AllocSites &found)
{
  return std::ranges::any_of(found.unproven,
                             [](const auto &one) { return one.function == "palloc"; });
}

TEST(AllocSites, who_passes_requests_on_needs_a_frame_at_each_call)
{
  // push rbp; mov rbp,rsp; call [rax]; call [rax]; pop rbp; ret
  const std::string two_calls = "55 4889e5 ff10 ff10 5d c3";
  const auto framed = with_passer(two_calls, always);
  ASSERT_EQ(framed.passers.size(), 1U);
  EXPECT_EQ(framed.passers[0].address, kPasser);
  EXPECT_EQ(framed.passers[0].end, kPasser + 10);
  EXPECT_FALSE(framed.passers[0].is_method);
  EXPECT_FALSE(refused(framed));
  const auto half = with_passer(two_calls, [](std::uint64_t at) { return at == kPasser + 6; });
  EXPECT_THAT(half.passers, IsEmpty());
  EXPECT_TRUE(refused(half));
}

TEST(AllocSites, who_jumps_on_is_never_on_the_stack)
{
  const auto found = with_passer("4889fe 488b07 ffe0", always); // jmp rax
  EXPECT_THAT(found.passers, IsEmpty());
  EXPECT_FALSE(refused(found));
}

} // namespace
} // namespace pgmemtrace::test
