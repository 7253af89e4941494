// SPDX-License-Identifier: BSD-2-Clause
// aarch64.cpp - AArch64 decoded, and the tables of the arm64 kernel.
//
// Every instruction is one little-endian word, so that a mask and a value tell a kind of
// instruction: Arm ARM, C4.1; the kernel's own are in arch/arm64/include/asm/insn.h.
// Capstone knows the words and the registers that an instruction writes.
#include "attach/aarch64.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "attach/capstone.h"

namespace pgmemtrace {
namespace {

struct Pattern {
  std::uint32_t mask, value;
  constexpr bool matches(std::uint32_t word) const { return (word & mask) == value; }
};
constexpr Pattern kBranch{0x7c000000, 0x14000000};         // b, bl
constexpr Pattern kCompareBranch{0x7e000000, 0x34000000};  // cbz, cbnz
constexpr Pattern kTestBranch{0x7e000000, 0x36000000};     // tbz, tbnz
constexpr Pattern kConditional{0xff000010, 0x54000000};    // b.cond
constexpr Pattern kRegisterBranch{0xfe000000, 0xd6000000}; // br, blr, ret, eret and their PAC forms
constexpr Pattern kBr{0xfffffc1f, 0xd61f0000};
constexpr Pattern kBlr{0xfffffc1f, 0xd63f0000};
constexpr Pattern kRet{0xfffffc1f, 0xd65f0000};
constexpr Pattern kAddress{0x1f000000, 0x10000000};        // adr, adrp
constexpr Pattern kBranchOrSystem{0x1c000000, 0x14000000}; // their whole class
constexpr Pattern kException{0xff000000, 0xd4000000};      // svc, hvc, smc, brk, hlt
constexpr Pattern kUndefined{0xffff0000, 0x00000000};      // udf
constexpr Pattern kMsrImmediate{0xfff8f01f, 0xd500401f};
constexpr Pattern kMsrRegister{0xfff00000, 0xd5100000};
constexpr Pattern kMrsDaif{0xffffffe0, 0xd53b4220};
constexpr Pattern kHint{0xfffff01f, 0xd503201f};
constexpr Pattern kLiteral{0x3b000000, 0x18000000};    // ldr, ldrsw, prfm (literal), SIMD too
constexpr Pattern kExclusive{0x3f800000, 0x08000000};  // ldxr to stlxp, casp
constexpr Pattern kMemoryCopy{0x3b200c00, 0x19000400}; // cpy*, set*: three that belong together
constexpr Pattern kMove{0xffe0ffe0, 0xaa0003e0};       // mov xd, xm

// aarch64_insn_is_steppable_hint(): the hints that may be stepped, since 5.8; the others wait
// for something or trap.  Capstone 4 knows none of them by name.
struct Hint {
  std::uint32_t number;
  const char *name;
};
constexpr std::array<Hint, 18> kSteppableHints{{
    {0x00, "nop"},
    {0x07, "xpaclri"},
    {0x08, "pacia1716"},
    {0x0a, "pacib1716"},
    {0x0c, "autia1716"},
    {0x0e, "autib1716"},
    {0x18, "paciaz"},
    {0x19, "paciasp"},
    {0x1a, "pacibz"},
    {0x1b, "pacibsp"},
    {0x1c, "autiaz"},
    {0x1d, "autiasp"},
    {0x1e, "autibz"},
    {0x1f, "autibsp"},
    {0x20, "bti"},
    {0x22, "bti c"},
    {0x24, "bti j"},
    {0x26, "bti jc"},
}};

const Hint *steppable_hint(std::uint32_t word)
{
  if (!kHint.matches(word))
    return nullptr;
  const auto *hint = std::ranges::find(kSteppableHints, word >> 5 & 0x7f, &Hint::number);
  return hint == kSteppableHints.end() ? nullptr : hint;
}

// The operand of a branch: `bits` wide at `shift`, in instructions.
std::uint64_t branch_target(std::uint64_t address, std::uint32_t word, int shift, int bits)
{
  const auto field = static_cast<std::int64_t>(word) >> shift;
  const std::int64_t sign = std::int64_t{1} << (bits - 1);
  const std::int64_t value = ((field & ((std::int64_t{1} << bits) - 1)) ^ sign) - sign;
  return address + static_cast<std::uint64_t>(value * 4);
}

std::optional<std::uint64_t> direct_target(std::uint64_t address, std::uint32_t word)
{
  if (kBranch.matches(word))
    return branch_target(address, word, 0, 26);
  if (kCompareBranch.matches(word) || kConditional.matches(word))
    return branch_target(address, word, 5, 19);
  if (kTestBranch.matches(word))
    return branch_target(address, word, 5, 14);
  return std::nullopt;
}

// x0 to x30; AAPCS64 passes the first eight arguments in x0 to x7.
int register_number(unsigned reg)
{
  if (reg >= ARM64_REG_X0 && reg <= ARM64_REG_X28)
    return static_cast<int>(reg - ARM64_REG_X0);
  if (reg >= ARM64_REG_W0 && reg <= ARM64_REG_W30)
    return static_cast<int>(reg - ARM64_REG_W0);
  switch (reg) {
  case ARM64_REG_X29: return 29;
  case ARM64_REG_X30: return 30;
  default: return -1;
  }
}

// adrp page, x; ldr reg, [page, #y]; add reg, page, #y.
std::optional<VariableUse> aarch64_variable(const cs_insn &instruction)
{
  const cs_arm64 &detail = instruction.detail->arm64;
  const auto &op = detail.operands;
  const auto is_x = [](unsigned reg) { return reg >= ARM64_REG_X0 && reg <= ARM64_REG_X28; };
  if (detail.op_count < 2 || op[0].type != ARM64_OP_REG || !is_x(op[0].reg))
    return std::nullopt;
  if (instruction.id == ARM64_INS_ADRP && op[1].type == ARM64_OP_IMM)
    return VariableUse{VariableUse::Kind::page, static_cast<std::uint64_t>(op[1].imm), op[0].reg};
  if (instruction.id == ARM64_INS_LDR && op[1].type == ARM64_OP_MEM && !detail.writeback &&
      is_x(op[1].mem.base) && op[1].mem.index == ARM64_REG_INVALID)
    return VariableUse{VariableUse::Kind::load, static_cast<std::uint64_t>(op[1].mem.disp),
                       op[1].mem.base};
  if (instruction.id == ARM64_INS_ADD && detail.op_count == 3 && op[1].type == ARM64_OP_REG &&
      op[2].type == ARM64_OP_IMM && op[2].shift.type == ARM64_SFT_INVALID)
    return VariableUse{VariableUse::Kind::address, static_cast<std::uint64_t>(op[2].imm),
                       op[1].reg};
  return std::nullopt;
}

class AArch64 final : public Disassembler {
public:
  explicit AArch64(Capstone capstone) : capstone_(std::move(capstone)) {}

  std::optional<Instruction> decode(std::span<const std::byte> code, std::uint64_t address) override
  {
    const cs_insn *raw = capstone_.decode(code, address);
    if (!raw)
      return std::nullopt;
    std::uint32_t word = 0;
    std::memcpy(&word, code.data(), sizeof(word)); // both machines are little-endian
    const Hint *hint = steppable_hint(word);
    Instruction out{
        .address = address, .size = raw->size, .text = hint ? hint->name : text_of(*raw)};
    out.emulated = kernel_emulates_aarch64(word);
    out.refused = refuses_probe_aarch64(word);
    out.target = direct_target(address, word);
    // A trap between the two halves of an exclusive sequence makes its store fail: a probe
    // there would have the server repeat it for ever.  For kernel probes the kernel looks for
    // such sequences (is_probed_address_atomic()), for user probes it does not.
    out.ends_path = out.target || kRegisterBranch.matches(word) || kException.matches(word) ||
                    kUndefined.matches(word) || kExclusive.matches(word);
    out.variable = aarch64_variable(*raw);
    out.registers_written = capstone_.registers_written(register_number);
    if (kMove.matches(word))
      out.move = Move{word >> 16 & 0x1f, word & 0x1f};
    return out;
  }

  std::uint32_t alignment() const override { return 4; }

private:
  Capstone capstone_;
};

} // namespace

Result<std::unique_ptr<Disassembler>> aarch64_disassembler()
{
  auto capstone = Capstone::open(CS_ARCH_ARM64, CS_MODE_LITTLE_ENDIAN);
  if (!capstone)
    return capstone.error();
  return std::unique_ptr<Disassembler>(std::make_unique<AArch64>(*std::move(capstone)));
}

// Linux arch/arm64/kernel/probes/decode-insn.c: arm_probe_decode_insn(), the same in all
// kernels with uprobe_multi; nop is simulated since 6.13, and stepped before.  The push that
// most functions begin with (stp x29, x30, [sp, ...]!) is stepped in all of them.
bool kernel_emulates_aarch64(std::uint32_t instruction)
{
  for (const Pattern &pattern :
       {kBranch, kCompareBranch, kTestBranch, kConditional, kBr, kBlr, kRet, kAddress})
    if (pattern.matches(instruction))
      return true;
  return false;
}

// The same file, aarch64_insn_is_steppable().  Stricter than the kernel in three things:
// literal loads (of integers simulated with faults until 6.12, refused from then on; those of
// SIMD registers are stepped in all and load from beside the copy), memory copies (refused
// since 6.13) and udf.
bool refuses_probe_aarch64(std::uint32_t instruction)
{
  if (kernel_emulates_aarch64(instruction))
    return false;
  if (kHint.matches(instruction))
    return steppable_hint(instruction) == nullptr;
  if (kBranchOrSystem.matches(instruction))
    return kRegisterBranch.matches(instruction) || kException.matches(instruction) ||
           kMsrImmediate.matches(instruction) || kMsrRegister.matches(instruction) ||
           kMrsDaif.matches(instruction);
  return kLiteral.matches(instruction) || kExclusive.matches(instruction) ||
         kMemoryCopy.matches(instruction) || kUndefined.matches(instruction);
}

} // namespace pgmemtrace
