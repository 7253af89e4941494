// SPDX-License-Identifier: BSD-2-Clause
// cache_variables_test.cpp - static variables found in the code of this very executable, and in
// recorded instructions.
#include "attach/cache_variables.h"
#include "attach/static_variable.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

// Functions that use a static variable of .bss, of .data, and of the read-only part, as
// compilers let them.
#if defined(__x86_64__)
asm(R"(
  .pushsection .data.rel.ro.cache_variables_test, "aw", @progbits
hidden_constant: .quad hidden_constant
  .popsection
  .pushsection .data.cache_variables_test, "aw", @progbits
hidden_list: .quad hidden_list, hidden_list
  .popsection
  .pushsection .bss.cache_variables_test, "aw", @nobits
hidden_number: .zero 4
  .balign 8
hidden_pointer: .zero 8
other_pointer: .zero 8
  .popsection
  .pushsection .text.cache_variables_test, "ax", @progbits

  .globl pgmt_test_uses_first
  .type pgmt_test_uses_first, @function
pgmt_test_uses_first:
  endbr64
  mov hidden_constant(%rip), %rdx
  mov hidden_list(%rip), %rcx
  mov hidden_number(%rip), %eax
  lea other_pointer(%rip), %rsi
  mov hidden_pointer(%rip), %rdi
  mov other_pointer(%rip), %rax
  ret
  .size pgmt_test_uses_first, . - pgmt_test_uses_first

  .globl pgmt_test_uses_again
  .type pgmt_test_uses_again, @function
pgmt_test_uses_again:
  push %rbp
  call pgmt_test_uses_first
  test %eax, %eax
  je 1f
  mov hidden_pointer(%rip), %r12
  lea hidden_list(%rip), %r13
1:
  pop %rbp
  ret
  .size pgmt_test_uses_again, . - pgmt_test_uses_again

  .globl pgmt_test_uses_other
  .type pgmt_test_uses_other, @function
pgmt_test_uses_other:
  mov other_pointer(%rip), %rax
  ret
  .size pgmt_test_uses_other, . - pgmt_test_uses_other

  .globl pgmt_test_address_of_pointer
  .type pgmt_test_address_of_pointer, @function
pgmt_test_address_of_pointer:
  lea hidden_pointer(%rip), %rax
  ret
  .size pgmt_test_address_of_pointer, . - pgmt_test_address_of_pointer

  .globl pgmt_test_address_of_list
  .type pgmt_test_address_of_list, @function
pgmt_test_address_of_list:
  lea hidden_list(%rip), %rax
  ret
  .size pgmt_test_address_of_list, . - pgmt_test_address_of_list
  .popsection
)");
extern "C" char *pgmt_test_address_of_pointer();
extern "C" char *pgmt_test_address_of_list();
#endif

namespace pgmemtrace::test {
namespace {

using testing::HasSubstr;
using Kind = VariableUse::Kind;
using Storage = ElfFile::Storage;

#if defined(__x86_64__)
struct FindVariable : testing::Test {
  void SetUp() override
  {
    auto self = ElfFile::open("/proc/self/exe");
    ASSERT_TRUE(self) << to_string(self.error());
    elf_ = std::make_unique<ElfFile>(*std::move(self));
  }
  Result<std::uint64_t> find(std::initializer_list<std::string_view> functions,
                             Kind use = Kind::load, Storage storage = Storage::zeroed)
  {
    return find_variable(*elf_, "the variable", functions, use, storage);
  }
  // Where this process has it.
  std::uint64_t here(const Result<std::uint64_t> &found)
  {
    EXPECT_TRUE(found) << to_string(found.error());
    const auto function = elf_->function("pgmt_test_address_of_pointer");
    return found ? *found + reinterpret_cast<std::uint64_t>(&pgmt_test_address_of_pointer) -
                       function->address
                 : 0;
  }
  std::unique_ptr<ElfFile> elf_;
};

TEST_F(FindVariable, is_the_first_of_its_storage_and_use)
{
  const auto pointer = reinterpret_cast<std::uint64_t>(pgmt_test_address_of_pointer());
  const auto list = reinterpret_cast<std::uint64_t>(pgmt_test_address_of_list());
  EXPECT_EQ(here(find({"pgmt_test_uses_first"})), pointer);
  EXPECT_EQ(here(find({"pgmt_test_uses_first", "pgmt_test_uses_again"})), pointer);
  EXPECT_EQ(here(find({"pgmt_test_uses_first"}, Kind::load, Storage::initialized)), list);
  EXPECT_EQ(here(find({"pgmt_test_uses_again"}, Kind::address, Storage::initialized)), list);
}

TEST_F(FindVariable, leaves_out_functions_that_this_build_lacks)
{
  EXPECT_TRUE(find({"no_such_function", "pgmt_test_uses_first"}));
  const auto none = find({"no_such_function"});
  ASSERT_FALSE(none);
  EXPECT_THAT(none.error().what, HasSubstr("find the variable: the binary exports none"));
}

TEST_F(FindVariable, wants_all_functions_to_agree)
{
  const auto found = find({"pgmt_test_uses_first", "pgmt_test_uses_other"});
  ASSERT_FALSE(found);
  EXPECT_THAT(found.error().what, HasSubstr("pgmt_test_uses_other uses another one"));
  const auto unused =
      find({"pgmt_test_uses_first", "pgmt_test_uses_other"}, Kind::load, Storage::initialized);
  ASSERT_FALSE(unused);
  EXPECT_THAT(unused.error().what, HasSubstr("pgmt_test_uses_other uses no such variable"));
}

TEST_F(FindVariable, says_so_in_what_is_no_server)
{
  const CacheVariables variables = find_cache_variables(*elf_);
  for (const auto *variable :
       {&variables.catalog_caches, &variables.relation_cache, &variables.saved_plans,
        &variables.prepared_statements, &variables.portals})
    EXPECT_FALSE(*variable);
}
#endif

// ---- what single instructions say ----------------------------------------------------------

std::optional<VariableUse> use_of(ElfFile::Machine machine, std::vector<unsigned> code,
                                  std::uint64_t address)
{
  std::vector<std::byte> bytes;
  for (const unsigned value : code)
    bytes.push_back(static_cast<std::byte>(value));
  auto disassembler = Disassembler::create(machine);
  const auto instruction = (*disassembler)->decode(bytes, address);
  EXPECT_TRUE(instruction);
  return instruction ? instruction->variable : std::nullopt;
}

// Debian's 15.20.
TEST(VariableUse, is_read_from_x86_64)
{
  const auto use = [](std::vector<unsigned> code, std::uint64_t address) {
    return use_of(ElfFile::Machine::x86_64, std::move(code), address);
  };
  // ResetCatalogCaches: mov rax, [rip+0x308300]
  const auto load = use({0x48, 0x8b, 0x05, 0x00, 0x83, 0x30, 0x00}, 0x596309);
  ASSERT_TRUE(load);
  EXPECT_EQ(load->kind, Kind::load);
  EXPECT_EQ(load->value, 0x89e610u);
  EXPECT_EQ(load->page, 0u);
  // SaveCachedPlan: lea rcx, [rip+0x2e78a4]
  const auto address = use({0x48, 0x8d, 0x0d, 0xa4, 0x78, 0x2e, 0x00}, 0x59d685);
  ASSERT_TRUE(address);
  EXPECT_EQ(address->kind, Kind::address);
  EXPECT_EQ(address->value, 0x884f30u);
  EXPECT_FALSE(use({0x44, 0x8b, 0x25, 0xba, 0x9e, 0x30, 0x00}, 0x596f6b)) << "mov r12d: 4 bytes";
  EXPECT_FALSE(use({0x48, 0x89, 0x05, 0x86, 0x78, 0x2e, 0x00}, 0x59d6a3)) << "a store";
  EXPECT_FALSE(use({0x48, 0x83, 0x3d, 0xba, 0x78, 0x2e, 0x00, 0x00}, 0x59d676)) << "cmp";
  EXPECT_FALSE(use({0x48, 0x8b, 0x18}, 0x596310)) << "mov rbx, [rax]";
}

TEST(VariableUse, is_read_from_aarch64)
{
  const auto use = [](std::uint32_t word, std::uint64_t address) {
    return use_of(ElfFile::Machine::aarch64,
                  {word & 0xff, word >> 8 & 0xff, word >> 16 & 0xff, word >> 24}, address);
  };
  const auto page = use(0xb0000000, 0x9d5123); // adrp x0, one page on
  ASSERT_TRUE(page);
  EXPECT_EQ(page->kind, Kind::page);
  EXPECT_EQ(page->value, 0x9d6000u);
  const auto load = use(0xf945e013, 0x9d5127); // ldr x19, [x0, #3008]
  ASSERT_TRUE(load);
  EXPECT_EQ(load->kind, Kind::load);
  EXPECT_EQ(load->value, 3008u);
  EXPECT_EQ(load->page, page->page);
  const auto address = use(0x910c4001, 0x9d512b); // add x1, x0, #0x310
  ASSERT_TRUE(address);
  EXPECT_EQ(address->kind, Kind::address);
  EXPECT_EQ(address->value, 0x310u);
  EXPECT_EQ(address->page, page->page);
  EXPECT_FALSE(use(0xb94bc013, 0x9d512f)) << "ldr w19: 4 bytes";
  EXPECT_FALSE(use(0xf8408c13, 0x9d5133)) << "ldr x19, [x0, #8]!: moves its base";
  EXPECT_FALSE(use(0xf8616813, 0x9d5137)) << "ldr x19, [x0, x1]";
}

} // namespace
} // namespace pgmemtrace::test
