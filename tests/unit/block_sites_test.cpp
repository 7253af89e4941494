// SPDX-License-Identifier: BSD-2-Clause
// block_sites_test - the allocators of recorded servers, and functions that hide or confuse things.
#include "attach/block_sites.h"

#include <cstddef>
#include <set>
#include <sstream>

#include <linux/ptrace.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "recorded_server.h"

namespace pgmemtrace::test {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAreArray;

std::string text_of(const BlockSite &site)
{
  std::ostringstream out;
  out << static_cast<int>(site.role.kind) << ' ' << static_cast<int>(site.role.type) << ' '
      << std::hex << site.address << ' ' << site.displacement << ' '
      << (site.role.holder ? to_string(*site.role.holder) : "block");
  return out.str();
}

// ---- real servers ---------------------------------------------------------------

class RecordedServer : public ::testing::TestWithParam<const char *> {};

TEST_P(RecordedServer, has_every_site_and_each_is_proved)
{
  const Recorded recorded = load(GetParam());
  const auto found = find_block_sites(recorded.code(), recorded.allocators());
  std::vector<std::string> sites;
  for (const auto &site : found.sites)
    sites.push_back(text_of(site));
  EXPECT_FALSE(sites.empty());
  EXPECT_THAT(sites, UnorderedElementsAreArray(recorded.sites));
  for (const auto &unproven : found.unproven)
    ADD_FAILURE() << unproven.function << ": " << unproven.reason;
}

// Whatever is missing of it: never a site that is not there, never a crash.
TEST_P(RecordedServer, says_less_when_less_of_it_is_known)
{
  const Recorded whole = load(GetParam());
  const std::set<std::string> real(whole.sites.begin(), whole.sites.end());
  for (const auto &[address, piece] : whole.pieces) {
    Recorded cut = whole;
    cut.pieces[address].bytes.resize(piece.bytes.size() / 2);
    for (const auto &site : find_block_sites(cut.code(), cut.allocators()).sites)
      EXPECT_TRUE(real.contains(text_of(site))) << text_of(site);
  }
}

INSTANTIATE_TEST_SUITE_P(Debian, RecordedServer,
                         ::testing::Values("debian13.txt", "debian15.txt", "debian17.txt",
                                           "debian18.txt"));

// The same counts as facts that were read by eye from disassemblies of these builds.
TEST(RecordedServers, have_the_sites_that_were_counted_by_hand)
{
  const auto count = [](const char *name, pgmt_site_kind kind, ContextType type) {
    const Recorded recorded = load(name);
    std::vector<std::uint64_t> at;
    for (const auto &site : find_block_sites(recorded.code(), recorded.allocators()).sites)
      if (site.role.kind == kind && site.role.type == type)
        at.push_back(site.address);
    return at;
  };
  EXPECT_THAT(count("debian15.txt", PGMT_SITE_GAIN, ContextType::alloc_set),
              ElementsAre(0x5d2dbb, 0x5d2e57));
  EXPECT_EQ(count("debian17.txt", PGMT_SITE_GAIN, ContextType::alloc_set).size(), 3U);
  EXPECT_EQ(count("debian17.txt", PGMT_SITE_GAIN, ContextType::bump).size(), 2U);
  EXPECT_EQ(count("debian15.txt", PGMT_SITE_RETURN, ContextType::alloc_set).size(), 5U);
  EXPECT_EQ(count("debian15.txt", PGMT_SITE_RESIZE, ContextType::alloc_set).size(), 1U);
}

// A context that is freed as a whole must be known to be gone at every level.
TEST(RecordedServers, only_what_never_frees_a_context_is_for_recordings_alone)
{
  for (const char *name : {"debian13.txt", "debian15.txt", "debian17.txt", "debian18.txt"}) {
    const Recorded recorded = load(name);
    for (const auto &site : find_block_sites(recorded.code(), recorded.allocators()).sites)
      EXPECT_EQ(site.role.record_only, site.role.kind == PGMT_SITE_RETURN &&
                                           site.function.find("Delete") == std::string::npos)
          << name << ' ' << site.function;
  }
}

// ---- shapes -----------------------------------------------------------------------

constexpr std::uint64_t kFunction = 0x1000;
constexpr std::uint64_t kMalloc = 0x9000; // a stub: jmp [rip+...]
constexpr std::uint64_t kFree = 0x9010;
constexpr std::uint64_t kElsewhere = 0x9020; // an exported function

// `call malloc` and `jmp malloc` at the end of `before`.
std::string to(std::uint64_t target, const std::string &opcode, const std::string &before)
{
  const auto at = kFunction + bytes(before).size();
  const auto relative = static_cast<std::uint32_t>(target - (at + 5));
  std::ostringstream out;
  out << before << ' ' << opcode;
  for (unsigned shift = 0; shift < 32; shift += 8) {
    const auto byte = relative >> shift & 0xffU;
    out << (byte < 16 ? "0" : "") << std::hex << byte;
  }
  return out.str();
}
std::string call_malloc(const std::string &before) { return to(kMalloc, "e8", before); }

Recorded executable(const std::string &function)
{
  Recorded recorded;
  recorded.pieces[kFunction] = {bytes(function), true};
  recorded.pieces[kMalloc] = {bytes("ff25fa0f0000 0f1f440000 90909090"), false}; // [0xa000]
  recorded.pieces[kFree] = {bytes("f30f1efa ff25ee0f0000 90909090"), false};     // [0xa008]
  recorded.pieces[kElsewhere] = {bytes("c3"), true};
  recorded.imports = {{0xa000, "malloc"}, {0xa008, "free"}};
  recorded.exported = {kElsewhere};
  return recorded;
}

// The holder of the first argument at the only call; "?" without one.
std::string holder(const std::string &function)
{
  const Recorded recorded = executable(function + " c3");
  const Code code = recorded.code();
  const auto found = find_heap_calls(code, kFunction);
  if (!found || found->hidden_paths || found->calls.size() != 1)
    return "no call";
  const auto &first = found->calls.front().first;
  return first ? to_string(*first) : "?";
}

TEST(HeapCalls, follow_the_context_from_register_to_register)
{
  EXPECT_EQ(holder(call_malloc("55 4889e5 53 4889fb 4889f7")), "rbx"); // mov rbx,rdi
  EXPECT_EQ(holder(call_malloc("4889f8 4989c5 31c0 4889f7")), "r13");  // by way of rax
  EXPECT_EQ(holder(call_malloc("4889fb 89db 4889f7")), "?");           // mov ebx,ebx
  EXPECT_EQ(holder(call_malloc("4889fb 4883c308 4889f7")), "?");       // add rbx,8
  EXPECT_EQ(holder(call_malloc("4889fb 488b1b 4889f7")), "?");         // mov rbx,[rbx]
  EXPECT_EQ(holder(to(kMalloc, "e9", "4889fb 4889f7")), "rbx");        // a tail jump
}

TEST(HeapCalls, a_call_keeps_what_it_must_keep_and_nothing_else)
{
  const auto after_a_call = [](const std::string &save) {
    return holder(call_malloc(to(kElsewhere, "e8", save) + " 4889f7"));
  };
  EXPECT_EQ(after_a_call("4889fb"), "rbx");
  EXPECT_EQ(after_a_call("4989fa"), "?"); // r10
  EXPECT_EQ(after_a_call("90"), "?");     // rdi itself
}

TEST(HeapCalls, follow_words_of_the_frame)
{
  EXPECT_EQ(holder(call_malloc("55 4889e5 48897da8 31ff")), "[rbp-0x58]");
  EXPECT_EQ(holder(call_malloc("55 4889e5 48897da8 488b45a8 4889f7")), "rax"); // and back
  EXPECT_EQ(holder(call_malloc("55 4889e5 48897da8 488975a8 31ff")), "?");     // overwritten
  EXPECT_EQ(holder(call_malloc("55 4889e5 48897da8 c645aa00 31ff")), "?");     // one byte of it
  EXPECT_EQ(holder(call_malloc("55 4889e5 48897da8 48894cc5a8 31ff")), "?");   // by an index
  EXPECT_EQ(holder(call_malloc("55 4889e5 48897da8 5d 31ff")), "?");           // another frame
}

TEST(HeapCalls, what_paths_disagree_on_is_not_known)
{
  // test esi,esi; je +3; mov rbx,rdi  /  and without the jump's other path
  EXPECT_EQ(holder(call_malloc("85f6 7403 4889fb 31ff")), "?");
  EXPECT_EQ(holder(call_malloc("4889fb 85f6 7403 4889f7 31ff")), "rbx");
  // A loop that comes back with another value.
  EXPECT_EQ(holder(call_malloc("4889fb") + " 488b1b ebf3"), "?");
}

TEST(HeapCalls, are_found_on_every_path)
{
  const Recorded recorded = executable(to(kFree, "e9", call_malloc("85f6 7408 4889fb")));
  const Code code = recorded.code();
  const auto found = find_heap_calls(code, kFunction);
  ASSERT_TRUE(found);
  ASSERT_EQ(found->calls.size(), 2U);
  EXPECT_EQ(found->calls[0].callee, HeapCall::Callee::malloc);
  EXPECT_EQ(found->calls[1].callee, HeapCall::Callee::free); // behind endbr64
  EXPECT_TRUE(found->calls[1].emulated);
}

TEST(HeapCalls, a_call_through_the_pointer_itself_counts_but_is_dear)
{
  const Recorded recorded = executable("4889fb ff15f78f0000 c3"); // call [0xa000]
  const Code code = recorded.code();
  const auto found = find_heap_calls(code, kFunction);
  ASSERT_TRUE(found);
  ASSERT_EQ(found->calls.size(), 1U);
  EXPECT_FALSE(found->calls.front().emulated);
}

TEST(HeapCalls, say_when_a_path_is_hidden)
{
  for (const char *function : {"4889fb ffe0", "4889fb ff24c500100000", "4889fb 06"}) {
    const Recorded recorded = executable(function);
    const Code code = recorded.code();
    const auto found = find_heap_calls(code, kFunction);
    ASSERT_TRUE(found) << function;
    EXPECT_TRUE(found->hidden_paths) << function;
  }
}

// What a call that never returns seems to lead to is the next function, which others call too.
TEST(HeapCalls, do_not_run_into_the_next_function)
{
  Recorded recorded = executable(to(kElsewhere, "e8", "4889fb"));
  const auto next = kFunction + recorded.pieces[kFunction].bytes.size();
  recorded.pieces[next] = {bytes("e8 00000000"), true};
  const auto relative = static_cast<std::uint32_t>(kMalloc - (next + 5));
  for (unsigned i = 0; i < 4; i++)
    recorded.pieces[next].bytes[1 + i] = static_cast<std::byte>(relative >> (8 * i));
  const Code code = recorded.code();
  const auto found = find_heap_calls(code, kFunction);
  ASSERT_TRUE(found);
  EXPECT_THAT(found->calls, IsEmpty());
}

TEST(HeapCalls, refuse_what_cannot_be_decoded)
{
  const Recorded recorded = executable("06");
  Code code = recorded.code();
  EXPECT_FALSE(find_heap_calls(code, kFunction));
  EXPECT_FALSE(find_heap_calls(code, 0x123456));
  code.machine = ElfFile::Machine::aarch64;
  EXPECT_FALSE(find_heap_calls(code, kMalloc));
}

TEST(BlockSites, name_what_could_not_be_proved)
{
  Recorded recorded = executable(call_malloc("4889f7"));
  recorded.functions = {{"AllocSetContextCreateInternal", kElsewhere},
                        {"AllocSetAlloc", kFunction}};
  const auto found = find_block_sites(recorded.code(), recorded.allocators());
  EXPECT_THAT(found.sites, IsEmpty());
  std::vector<std::string> reasons;
  for (const auto &unproven : found.unproven)
    reasons.push_back(unproven.reason);
  EXPECT_THAT(reasons, ::testing::Contains("nothing is known to hold the context"));
}

TEST(BlockSites, become_records_of_the_majors_layout)
{
  const auto layout = load_layout(15);
  ASSERT_TRUE(layout);
  const auto gain = site_record({.kind = PGMT_SITE_GAIN,
                                 .type = ContextType::alloc_set,
                                 .holder = Holder{.reg = 13, .frame_offset = 0}},
                                0x5d2dbb, *layout);
  EXPECT_EQ(gain.address, 0x5d2dbbU);
  EXPECT_EQ(gain.holder, offsetof(struct pt_regs, r13) / 8);
  EXPECT_EQ(gain.context_tag, layout->tag.aset);
  const auto framed = site_record({.kind = PGMT_SITE_RETURN,
                                   .type = ContextType::slab,
                                   .holder = Holder{.reg = std::nullopt, .frame_offset = -0x58}},
                                  1, *layout);
  EXPECT_EQ(framed.holder, PGMT_HOLDER_FRAME);
  EXPECT_EQ(framed.frame_offset, -0x58);
  EXPECT_EQ(framed.size_from, PGMT_SIZE_IN_CONTEXT);
  EXPECT_EQ(framed.size_at, layout->slab.block_size);
  const auto told = site_record(
      {.kind = PGMT_SITE_RETURN, .type = ContextType::alloc_set, .holder = {}}, 1, *layout);
  EXPECT_EQ(told.holder, PGMT_HOLDER_BLOCK);
  EXPECT_EQ(told.owner_at, layout->aset_block.aset);
  EXPECT_EQ(told.size_at, layout->aset_block.endptr);
}

} // namespace
} // namespace pgmemtrace::test
