// SPDX-License-Identifier: BSD-2-Clause
// planner_test - sites chosen in recorded functions of real x86-64 servers, and in hostile
// bytes; callers counted.  arm64: planner_arm64_test.cpp.
#include "attach/planner.h"

#include <algorithm>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "attach/instruction.h"
#include "machine_code.h"

// This very executable is a "server" for plan_probes(): it has one function that is called
// behind its endbr64 or bti, one that nothing calls, and none of the others.
#if defined(__x86_64__)
asm(R"(
  .pushsection .text.planner_test, "ax", @progbits
  .globl ReadyForQuery
  .type ReadyForQuery, @function
ReadyForQuery:
  endbr64
  push %rbp
  pop %rbp
  ret
  .size ReadyForQuery, . - ReadyForQuery
  .globl proc_exit
  .type proc_exit, @function
proc_exit:
  push %rbp
  call proc_exit
  pop %rbp
  ret
  .size proc_exit, . - proc_exit
  .globl planner_test_caller
  .type planner_test_caller, @function
planner_test_caller:
  call ReadyForQuery
  jmp ReadyForQuery
  .size planner_test_caller, . - planner_test_caller
  .popsection
)");
#elif defined(__aarch64__)
asm(R"(
  .pushsection .text.planner_test, "ax", %progbits
  .globl ReadyForQuery
  .type ReadyForQuery, %function
ReadyForQuery:
  bti c
  adr x9, .
  ret
  .size ReadyForQuery, . - ReadyForQuery
  .globl proc_exit
  .type proc_exit, %function
proc_exit:
  bl proc_exit
  ret
  .size proc_exit, . - proc_exit
  .globl planner_test_caller
  .type planner_test_caller, %function
planner_test_caller:
  bl ReadyForQuery
  b ReadyForQuery
  .size planner_test_caller, . - planner_test_caller
  .popsection
)");
#endif
extern "C" void planner_test_caller();

namespace pgmemtrace::test {
namespace {

using ::testing::ElementsAre;
using Machine = ElfFile::Machine;

struct Case {
  const char *name;
  const char *function; // hex
  unsigned arguments_read;
  std::uint32_t displacement;
  const char *instruction;
  bool emulated;
};

void PrintTo(const Case &c, std::ostream *os) { *os << c.name; }

class PlaceProbe : public ::testing::TestWithParam<Case> {};

TEST_P(PlaceProbe, chooses_the_site)
{
  const Case &c = GetParam();
  auto placed = place_probe(Machine::x86_64, bytes(c.function), 0x479120, c.arguments_read);
  ASSERT_TRUE(placed) << to_string(placed.error());
  EXPECT_EQ(placed->displacement, c.displacement);
  EXPECT_EQ(placed->instruction, c.instruction);
  EXPECT_EQ(placed->emulated, c.emulated);
}

// Debian's 15.20, as far as the decision looks or the function goes.
constexpr Case kDebian15[] = {
    {"standard_ExecutorStart", "55 4889f9 4889e5 4157 4156 4155 4154 53 4883ec38", 1, 0, "push rbp",
     true},
    {"standard_ExecutorEnd",
     "554889e541574156415541544989fc534883ec084c8b7750488b7f584c8b2d8dd65900498b86980000004889057fd"
     "6"
     "5900e8da6100004d8bbec80000004d85ff7427418b570485d27e1f31db0f1f4000498b47104863d383c301488b3cd"
     "0"
     "e8ad61000041395f047fe7498bbea000000031f6e899a400004c89f7e8a1feffff418b462085c0742931db0f1f800"
     "0"
     "000000498b56284863c3488b3cc24885ff740731f6e83917edff83c301413b5e2072e0498b7e08e8b7502e00498b7"
     "e"
     "10e8ae502e004c89f74c892de4d55900e87fbc0000660fefc049c74424580000000049c744246800000000410f114"
     "4"
     "24484883c4085b415c415d415e415f5dc3",
     1, 0, "push rbp", true},
    {"ReadyForQuery",
     "5583ef024889e54154534883ec2064488b042528000000488945e831c083ff02761e488b45e864482b04252800000"
     "0"
     "75714883c4205b415c5dc3660f1f440000488d5dd0be5a0000004889dfe84fccedffe81af4d6ff4889dfbe0100000"
     "0"
     "4189c4e84afd1700486345d8488b55d04889df448824028345d801e812cfedff488b45e864482b042528000000751"
     "5"
     "488b05dcba4000488b40084883c4205b415c5dffe0e85955c5ff",
     0, 0, "push rbp", true},
    {"proc_exit",
     "554889e55389fb4883ec08e8a08bc7ff3b05aaa744000f858935cdff89dfe8ddfeffff31f6bf0c000000e8b188150"
     "0"
     "84c0750789dfe8d67dc7ff89de488d3d7fd92b0031c0e826a01500488d1577da2b00be9b000000488d3df3d72b00e"
     "8"
     "ae9c1500ebcf",
     1, 0, "push rbp", true},
    {"ExecutorEnd", "488b05f91159004885c07404ffe06690e9ebfeffff", 1, 0xa, "je 0x479130", true},
    {"MemoryContextCreate",
     "660fefc08937c64704014889571048894f1848c74708000000004c89473848c747400000000048c747480000000"
     "00f1147204885c97421488b4120488947304885c07404488978280fb6410548897920884705c30f1f400031c048c7"
     "473000000000884705c3",
     0b11111, 0x35, "je 0x479178", true},
};
INSTANTIATE_TEST_SUITE_P(Debian15, PlaceProbe, ::testing::ValuesIn(kDebian15));

constexpr Case kShapes[] = {
    {"behind_endbr64", "f30f1efa 55 4889e5 c3", 1, 4, "push rbp", true},
    {"behind_endbr64_and_a_move", "f30f1efa 4889f8 4157 c3", 1, 7, "push r15", true},
    {"at_the_call", "f30f1efa 4883ec08 e800000000 c3", 1, 8, "call 0x47912d", true},
    {"at_the_tail_jump", "f30f1efa e900000000", 1, 4, "jmp 0x479129", true},
    {"at_a_near_jcc", "4885ff 0f8400010000 55", 1, 3, "je 0x479229", true},
    {"argument_overwritten_first", "bf05000000 55 5d c3", 1, 0, "mov edi, 5", false},
    {"argument_that_nobody_reads", "bf05000000 55 5d c3", 0, 5, "push rbp", true},
    {"other_argument_overwritten", "be05000000 55 5d c3", 0b01, 5, "push rbp", true},
    {"second_argument_overwritten", "be05000000 55 5d c3", 0b11, 0, "mov esi, 5", false},
    {"low_byte_overwritten", "40b701 55 5d c3", 1, 0, "mov dil, 1", false},
    {"argument_incremented", "48ffc7 55 5d c3", 1, 0, "inc rdi", false},
    {"returns_before", "b801000000 c3 55", 1, 0, "mov eax, 1", false},
    {"indirect_jump_before", "488b07 ffe0 55", 1, 0, "mov rax, qword ptr [rdi]", false},
    {"indirect_call_before", "488b07 ffd0 55", 1, 0, "mov rax, qword ptr [rdi]", false},
    {"trap_before", "488b07 0f0b 55", 1, 0, "mov rax, qword ptr [rdi]", false},
    {"prefixed_push_is_stepped", "4855 4889e5 c3", 1, 0, "push rbp", false},
    // The jump at the end leads to the test, so the jcc would fire once per turn.
    {"loop_to_the_site", "4889f8 4885c0 7405 48ffc8 ebf6 c3", 1, 0, "mov rax, rdi", false},
    {"loop_in_front_of_the_site", "31c0 48ffc8 7407 4883e801 75f5 c3", 1, 0, "xor eax, eax", false},
    {"loop_behind_the_site", "4889f8 53 48ffc8 75fb 5b c3", 1, 3, "push rbx", true},
    {"tail_call_of_itself", "4889f8 53 5b ebf9", 1, 3, "push rbx", true},
};
INSTANTIATE_TEST_SUITE_P(Shapes, PlaceProbe, ::testing::ValuesIn(kShapes));

TEST(PlaceProbe, says_when_there_is_nothing_to_decode)
{
  EXPECT_FALSE(place_probe(Machine::x86_64, {}, 0, 1));
  EXPECT_FALSE(place_probe(Machine::x86_64, bytes("06"), 0, 1)); // invalid in 64-bit mode
  EXPECT_FALSE(place_probe(Machine::other, bytes("55"), 0, 1));
}

TEST(PlaceProbe, survives_a_function_that_is_cut_anywhere)
{
  const auto whole = bytes(kDebian15[5].function);
  for (std::size_t size = 4; size <= whole.size(); size++) {
    auto placed = place_probe(Machine::x86_64, std::span(whole).first(size), 0, 1);
    ASSERT_TRUE(placed) << size;
    EXPECT_LT(placed->displacement, size);
  }
}

TEST(KernelEmulates, is_the_table_of_the_kernel)
{
  for (const char *yes : {"50", "57", "4150", "4157", "90", "6690", "e800000000", "e900000000",
                          "eb00", "7000", "7f00", "0f8000000000", "0f8f00000000"})
    EXPECT_TRUE(kernel_emulates_x86_64(bytes(yes))) << yes;
  for (const char *no : {"f30f1efa", "4855", "6655", "ff30", "4190", "f390", "0f1f00", "0f1f440000",
                         "66e90000", "e300", "e200", "ff25 00000000", "c3", "5d"})
    EXPECT_FALSE(kernel_emulates_x86_64(bytes(no))) << no;
}

TEST(CountCallers, sees_calls_and_jumps_from_outside)
{
  // At 0x1000: call, jmp, je and short jmp to 0x1020; at 0x1020 a function that calls itself.
  auto code = bytes("e81b000000 e916000000 0f8410000000 eb0e");
  code.resize(0x20, std::byte{0x90});
  const auto self = bytes("e8fbffffff c3");
  code.insert(code.end(), self.begin(), self.end());
  const ElfFile::Symbol functions[] = {{0x1020, 6}, {0x1010, 1}};
  EXPECT_THAT(count_callers(Machine::x86_64, code, 0x1000, functions), ElementsAre(4, 0));
}

TEST(CountCallers, is_silent_about_an_operand_that_is_cut)
{
  const ElfFile::Symbol functions[] = {{0x1000, 1}};
  EXPECT_THAT(count_callers(Machine::x86_64, bytes("e8fbffff"), 0x1100, functions), ElementsAre(0));
  EXPECT_THAT(count_callers(Machine::x86_64, bytes("0f"), 0x1100, functions), ElementsAre(0));
}

TEST(Probes, have_names_and_levels)
{
  EXPECT_EQ(name_of(PGMT_PROBE_SETTLE), "settle");
  EXPECT_EQ(level_of(PGMT_PROBE_SETTLE), Level::request);
  EXPECT_EQ(level_of(PGMT_PROBE_XACT), Level::request);
  EXPECT_EQ(level_of(PGMT_PROBE_EXIT), Level::request);
  EXPECT_EQ(name_of(PGMT_PROBE_UTILITY), "utility");
  EXPECT_EQ(level_of(PGMT_PROBE_UTILITY), Level::statement);
}

TEST(PlanProbes, tells_what_is_placed_from_what_is_not)
{
  ASSERT_NE(planner_test_caller, nullptr); // keeps the functions in the executable
  auto elf = ElfFile::open("/proc/self/exe");
  ASSERT_TRUE(elf) << to_string(elf.error());
  const Plan plan = plan_probes(*elf);

  ASSERT_EQ(plan.sites.size(), 1U);
  const ProbeSite &settle = plan.sites.front();
  EXPECT_EQ(settle.probe, PGMT_PROBE_SETTLE);
  EXPECT_EQ(settle.displacement, 4U);
  EXPECT_TRUE(settle.emulated);
  EXPECT_EQ(settle.callers, 2U);
  EXPECT_EQ(settle.address, elf->function("ReadyForQuery")->address + 4);
  EXPECT_EQ(settle.file_offset, elf->file_offset(settle.address));

  EXPECT_EQ(plan.unplaced.size(), PGMT_PROBES - 2U); // samples have no place
  const auto reason = [&](pgmt_probe probe) {
    auto at = std::find_if(plan.unplaced.begin(), plan.unplaced.end(),
                           [&](const UnplacedProbe &u) { return u.probe == probe; });
    return at == plan.unplaced.end() ? "placed" : at->reason;
  };
  EXPECT_EQ(reason(PGMT_PROBE_START), "no such symbol");
  EXPECT_EQ(reason(PGMT_PROBE_EXIT), "nothing in the binary calls it");
}

} // namespace
} // namespace pgmemtrace::test
