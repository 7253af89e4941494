// SPDX-License-Identifier: BSD-2-Clause
// planner_arm64_test - sites chosen in Debian's arm64 servers, and what an arm64 kernel does
// with a probe on an instruction.  Decoding needs no arm64 machine: these run everywhere.
#include "attach/planner.h"

#include <fstream>
#include <map>
#include <sstream>
#include <utility>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "attach/aarch64.h"
#include "machine_code.h"

namespace pgmemtrace::test {
namespace {

using ::testing::ElementsAre;
constexpr auto kMachine = ElfFile::Machine::aarch64;

// --- recorded functions ---

struct Recorded {
  std::uint64_t address = 0;
  std::vector<std::byte> code;
};

// By major and name.
std::map<std::pair<int, std::string>, Recorded> recorded_functions()
{
  std::map<std::pair<int, std::string>, Recorded> out;
  std::ifstream file(PGMT_FIXTURES "/arm64_functions.txt");
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with('#'))
      continue;
    std::istringstream fields(line);
    int major = 0;
    std::string name;
    std::string code;
    Recorded function;
    fields >> major >> name >> std::hex >> function.address >> code;
    function.code = bytes(code);
    out[{major, name}] = std::move(function);
  }
  return out;
}

struct Site {
  int major;
  const char *function;
  unsigned arguments_read;
  std::uint32_t displacement;
  const char *instruction;
  std::vector<int> registers; // of the arguments that are read
};

void PrintTo(const Site &site, std::ostream *os) { *os << site.function << " of " << site.major; }

class Arm64Server : public ::testing::TestWithParam<Site> {};

TEST_P(Arm64Server, is_probed_where_the_kernel_simulates)
{
  const Site &site = GetParam();
  const auto functions = recorded_functions();
  const auto function = functions.find({site.major, site.function});
  ASSERT_NE(function, functions.end());
  const auto &[address, code] = function->second;
  ASSERT_FALSE(code.empty());

  auto placed = place_probe(kMachine, code, address, site.arguments_read);
  ASSERT_TRUE(placed) << to_string(placed.error());
  EXPECT_EQ(placed->displacement, site.displacement);
  EXPECT_EQ(placed->instruction, site.instruction);
  EXPECT_TRUE(placed->emulated);
  for (std::size_t i = 0; i < site.registers.size(); i++)
    EXPECT_EQ(placed->arguments.at(i), site.registers[i]) << "argument " << i;
}

const Site kSites[] = {
    {13, "standard_ExecutorStart", 0b1, 0x4, "adrp x2, #0x7a9000", {0}},
    {13, "standard_ExecutorEnd", 0b1, 0x18, "adrp x23, #0x7a8000", {0}},
    {13, "standard_ProcessUtility", 0b11, 0x4, "adrp x7, #0x7a9000", {0, 1}},
    {13, "ReadyForQuery", 0, 0x4, "adrp x1, #0x7a9000", {}},
    {13, "AtEOXact_Snapshot", 0b1, 0xc, "adrp x22, #0x7c5000", {0}},
    {13, "proc_exit", 0b1, 0x10, "bl #0xc1820", {0}},
    {15, "standard_ExecutorStart", 0b1, 0x4, "adrp x2, #0x86f000", {0}},
    {15, "standard_ExecutorEnd", 0b1, 0x1c, "adrp x23, #0x86e000", {22}},
    {15, "standard_ProcessUtility", 0b11, 0x8, "adrp x8, #0x86f000", {0, 1}},
    {15, "ReadyForQuery", 0, 0x8, "adrp x1, #0x86f000", {}},
    {15, "AtEOXact_Snapshot", 0b1, 0xc, "adrp x22, #0x891000", {0}},
    {15, "proc_exit", 0b1, 0x10, "bl #0xd19c0", {0}},
    {17, "standard_ExecutorStart", 0b1, 0x8, "adrp x2, #0x9af000", {0}},
    {17, "standard_ExecutorEnd", 0b1, 0x20, "adrp x23, #0x9ae000", {22}},
    {17, "standard_ProcessUtility", 0b11, 0xc, "adrp x8, #0x9af000", {0, 1}},
    {17, "ReadyForQuery", 0, 0xc, "adrp x1, #0x9af000", {}},
    {17, "AtEOXact_Snapshot", 0b1, 0x10, "adrp x22, #0x9da000", {0}},
    {17, "proc_exit", 0b1, 0x14, "bl #0xe1fd8", {0}},
    {18, "standard_ExecutorStart", 0b1, 0x14, "adrp x0, #0x9ef000", {0}},
    {18, "standard_ExecutorEnd", 0b1, 0x28, "b.le #0x2f67f8", {22}},
    {18, "standard_ProcessUtility", 0b11, 0x1c, "adrp x0, #0x9ef000", {0, 1}},
    {18, "ReadyForQuery", 0, 0xc, "adrp x1, #0x9ef000", {}},
    {18, "AtEOXact_Snapshot", 0b1, 0x10, "adrp x22, #0xa26000", {0}},
    {18, "proc_exit", 0b1, 0x14, "bl #0xe9820", {0}},
};
INSTANTIATE_TEST_SUITE_P(Debian, Arm64Server, ::testing::ValuesIn(kSites));

// --- shapes ---

constexpr std::uint32_t kPaciasp = 0xd503233f, kPush = 0xa9be7bfd, kMovFpSp = 0x910003fd,
                        kMovX19X0 = 0xaa0003f3, kMovX20X19 = 0xaa1303f4, kMovX0X1 = 0xaa0103e0,
                        kMovX19X1 = 0xaa0103f3, kMovW19W0 = 0x2a0003f3, kNextOfX0 = 0xf8408402,
                        kBl = 0x94000010, kAdrpX1 = 0x90000001, kCbzX0 = 0xb4000040,
                        kRet = 0xd65f03c0, kLdrLiteral = 0x58000040, kBackToSecond = 0x17fffffe,
                        kLdxrX2X1 = 0xc85f7c22, kStxrW3X2X1 = 0xc8037c22, kBtiC = 0xd503245f,
                        kWfe = 0xd503205f, kSvc = 0xd4000001, kBrk = 0xd4200000;

Result<Placement> place(std::initializer_list<std::uint32_t> code, unsigned arguments_read)
{
  return place_probe(kMachine, words(code), 0x1000, arguments_read);
}

// Where the kernel simulates; -1 for any other site, or none.
int simulated_at(std::initializer_list<std::uint32_t> code, unsigned arguments_read)
{
  auto placed = place(code, arguments_read);
  return placed && placed->emulated ? static_cast<int>(placed->displacement) : -1;
}

TEST(PlaceArm64Probe, goes_where_the_kernel_simulates)
{
  EXPECT_EQ(simulated_at({kPaciasp, kPush, kMovFpSp, kMovX19X0, kBl, kRet}, 1), 16);
  EXPECT_EQ(simulated_at({kPaciasp, kAdrpX1, kRet}, 0b11), 4);
  EXPECT_EQ(simulated_at({kPush, kCbzX0, kRet}, 1), 4);
  EXPECT_EQ(simulated_at({kPush, kMovX0X1, kBl, kRet}, 1), -1);
  EXPECT_EQ(simulated_at({kPush, kMovX0X1, kBl, kRet}, 0b10), 8);
  EXPECT_EQ(simulated_at({kPush, kNextOfX0, kBl, kRet}, 1), -1) << "it advances x0";
  EXPECT_EQ(simulated_at({kPush, kMovFpSp, kCbzX0, kBackToSecond}, 1), -1);
}

TEST(PlaceArm64Probe, follows_an_argument_to_where_it_was_copied)
{
  auto placed = place({kPush, kMovX19X0, kMovX0X1, kBl, kRet}, 0b11);
  ASSERT_TRUE(placed) << to_string(placed.error());
  EXPECT_EQ(placed->displacement, 12U);
  EXPECT_EQ(placed->arguments[0], 19);
  EXPECT_EQ(placed->arguments[1], 1) << "x0 and x1 both hold it: its own";

  placed = place({kMovX19X0, kMovX20X19, kMovX0X1, kMovX19X1, kBl}, 1);
  ASSERT_TRUE(placed) << to_string(placed.error());
  EXPECT_EQ(placed->displacement, 16U);
  EXPECT_EQ(placed->arguments[0], 20) << "x19 was overwritten in its turn";

  EXPECT_EQ(simulated_at({kMovW19W0, kMovX0X1, kBl, kRet}, 1), -1) << "half of it is not it";
}

TEST(PlaceArm64Probe, leaves_the_entry_if_the_kernel_refuses_it)
{
  auto placed = place({kWfe, kPush, kRet}, 1); // ret is simulated
  ASSERT_TRUE(placed) << to_string(placed.error());
  EXPECT_EQ(placed->displacement, 8U);

  placed = place({kLdrLiteral | 3, kPush, kMovX0X1, kRet}, 1);
  ASSERT_TRUE(placed) << to_string(placed.error());
  EXPECT_EQ(placed->displacement, 4U);
  EXPECT_FALSE(placed->emulated);

  EXPECT_FALSE(place({kSvc, kRet}, 1));
  EXPECT_FALSE(place({kLdrLiteral, kRet}, 1)) << "refused, and behind it x0 is gone";
}

// A trap between the load and the store clears the monitor, so that the store fails and the
// server tries for ever.  The kernel takes such a probe.
TEST(PlaceArm64Probe, never_goes_into_an_exclusive_sequence)
{
  auto placed = place({kPush, kLdxrX2X1, kAdrpX1, kStxrW3X2X1, kRet}, 0);
  ASSERT_TRUE(placed) << to_string(placed.error());
  EXPECT_EQ(placed->displacement, 0U);
  EXPECT_FALSE(place({kLdxrX2X1, kAdrpX1, kRet}, 0));
}

TEST(PlaceArm64Probe, names_the_hints)
{
  auto placed = place({kBtiC, kMovX0X1, kRet}, 1);
  ASSERT_TRUE(placed) << to_string(placed.error());
  EXPECT_EQ(placed->instruction, "bti c");
}

TEST(PlaceArm64Probe, survives_a_function_that_is_cut_anywhere)
{
  for (const auto &[key, function] : recorded_functions())
    for (std::size_t size = 4; size <= function.code.size(); size += 53) {
      auto placed = place_probe(kMachine, std::span(function.code).first(size), 0, 1);
      ASSERT_TRUE(placed) << key.second << " " << size;
      ASSERT_LT(placed->displacement, size);
    }
  EXPECT_FALSE(place_probe(kMachine, bytes("fd7bbe"), 0, 1));
}

// --- the kernel's tables ---

TEST(Arm64Kernel, simulates_what_its_decoder_says)
{
  for (std::uint32_t word :
       {0x14000001U /* b */, kBl, kCbzX0, 0xb5000040U /* cbnz */, 0x36000040U /* tbz */,
        0x37000040U /* tbnz */, 0x54000041U /* b.ne */, 0xd61f0000U /* br */, 0xd63f0000U /* blr */,
        kRet, 0x10000000U /* adr */, kAdrpX1}) {
    EXPECT_TRUE(kernel_emulates_aarch64(word)) << std::hex << word;
    EXPECT_FALSE(refuses_probe_aarch64(word)) << std::hex << word;
  }
}

TEST(Arm64Kernel, steps_what_runs_anywhere)
{
  for (std::uint32_t word : {kPush, kMovFpSp, kMovX19X0, kPaciasp, kBtiC, 0xd503201fU /* nop */,
                             0xd503237fU /* pacibsp */, 0xd50323bfU /* autiasp */,
                             0xd5033bbfU /* dmb ish */, 0xd53bd040U /* mrs x0, tpidr_el0 */,
                             0x08dffc00U /* ldarb: no exclusive */, 0xb8200041U /* ldadd */}) {
    EXPECT_FALSE(kernel_emulates_aarch64(word)) << std::hex << word;
    EXPECT_FALSE(refuses_probe_aarch64(word)) << std::hex << word;
  }
}

TEST(Arm64Kernel, or_we_refuse_what_does_not)
{
  for (std::uint32_t word :
       {kSvc, kBrk, kWfe, 0xd503203fU /* yield */, 0xd65f0bffU /* retaa */, 0xd71f0800U /* braa */,
        0xd51b4200U /* msr nzcv, x0 */, 0xd53b4220U /* mrs x0, daif */, kLdrLiteral,
        0x98000040U /* ldrsw */, 0xd8000040U /* prfm */, 0x9c000040U /* ldr q0 */, kLdxrX2X1,
        kStxrW3X2X1, 0x48207c82U /* casp */, 0x19000440U /* cpyfp */, 0x00000000U}) {
    EXPECT_FALSE(kernel_emulates_aarch64(word)) << std::hex << word;
    EXPECT_TRUE(refuses_probe_aarch64(word)) << std::hex << word;
  }
}

TEST(CountCallers, reads_aarch64_branches)
{
  const ElfFile::Symbol functions[] = {{0xff8, 4}, {0x100c, 4}};
  // bl 0xff8; b 0x100c; nop
  EXPECT_THAT(
      count_callers(kMachine, words({0x97fffffe, 0x14000002, 0xd503201f}), 0x1000, functions),
      ElementsAre(1, 1));
}

} // namespace
} // namespace pgmemtrace::test
