// SPDX-License-Identifier: BSD-2-Clause
// instruction.cpp - Capstone for x86-64 and AArch64, and the kernel's tables.
#include "attach/instruction.h"

#include <array>
#include <cstring>

#include <capstone/capstone.h>
#include <fmt/format.h>

namespace pgmemtrace {
namespace {

// Owns a Capstone handle and the one instruction that it decodes into.
class Capstone {
public:
  static Result<Capstone> open(cs_arch arch, cs_mode mode)
  {
    csh handle = 0;
    cs_err err = cs_open(arch, mode, &handle);
    if (err != CS_ERR_OK)
      return Error{fmt::format("start the disassembler: {}", cs_strerror(err)), 0, {}};
    // Before cs_malloc(), which allocates details only for a handle that has them.
    err = cs_option(handle, CS_OPT_DETAIL, CS_OPT_ON);
    Capstone capstone(handle);
    if (err != CS_ERR_OK)
      return Error{fmt::format("start the disassembler: {}", cs_strerror(err)), 0, {}};
    return capstone;
  }

  const cs_insn *decode(std::span<const std::byte> code, std::uint64_t address)
  {
    const auto *at = reinterpret_cast<const std::uint8_t *>(code.data());
    std::size_t left = code.size();
    return cs_disasm_iter(*handle_, &at, &left, &address, instruction_.get()) ? instruction_.get()
                                                                              : nullptr;
  }

  // `argument_of`: register -> index of the argument that it holds, or -1.
  template <typename F> unsigned arguments_written(F argument_of)
  {
    cs_regs read{};
    cs_regs written{};
    std::uint8_t reads = 0;
    std::uint8_t writes = 0;
    // What cannot be told counts as written.
    if (cs_regs_access(*handle_, instruction_.get(), read, &reads, written, &writes) != CS_ERR_OK)
      return ~0U;
    unsigned mask = 0;
    for (unsigned i = 0; i < writes; i++)
      if (int argument = argument_of(written[i]); argument >= 0)
        mask |= 1U << argument;
    return mask;
  }

  bool in_group(unsigned group) const { return cs_insn_group(*handle_, instruction_.get(), group); }

private:
  struct Close {
    void operator()(csh *handle) const
    {
      cs_close(handle);
      delete handle;
    }
  };
  struct Free {
    void operator()(cs_insn *instruction) const { cs_free(instruction, 1); }
  };

  explicit Capstone(csh handle) : handle_(new csh(handle)), instruction_(cs_malloc(handle)) {}

  std::unique_ptr<csh, Close> handle_;
  std::unique_ptr<cs_insn, Free> instruction_;
};

std::string text_of(const cs_insn &instruction)
{
  if (instruction.op_str[0] == '\0')
    return instruction.mnemonic;
  return fmt::format("{} {}", instruction.mnemonic, instruction.op_str);
}

// System V: rdi, rsi, rdx, rcx, r8, r9.
int x86_64_argument(unsigned reg)
{
  switch (reg) {
  case X86_REG_RDI:
  case X86_REG_EDI:
  case X86_REG_DI:
  case X86_REG_DIL: return 0;
  case X86_REG_RSI:
  case X86_REG_ESI:
  case X86_REG_SI:
  case X86_REG_SIL: return 1;
  case X86_REG_RDX:
  case X86_REG_EDX:
  case X86_REG_DX:
  case X86_REG_DL:
  case X86_REG_DH: return 2;
  case X86_REG_RCX:
  case X86_REG_ECX:
  case X86_REG_CX:
  case X86_REG_CL:
  case X86_REG_CH: return 3;
  case X86_REG_R8:
  case X86_REG_R8D:
  case X86_REG_R8W:
  case X86_REG_R8B: return 4;
  case X86_REG_R9:
  case X86_REG_R9D:
  case X86_REG_R9W:
  case X86_REG_R9B: return 5;
  default: return -1;
  }
}

// AAPCS64: x0 to x7.
int aarch64_argument(unsigned reg)
{
  if (reg >= ARM64_REG_X0 && reg <= ARM64_REG_X7)
    return static_cast<int>(reg - ARM64_REG_X0);
  if (reg >= ARM64_REG_W0 && reg <= ARM64_REG_W7)
    return static_cast<int>(reg - ARM64_REG_W0);
  return -1;
}

// mov reg, [rip + x]; lea reg, [rip + x].
std::optional<VariableUse> x86_64_variable(const cs_insn &instruction)
{
  const cs_x86 &detail = instruction.detail->x86;
  const cs_x86_op &from = detail.operands[1];
  const bool load = instruction.id == X86_INS_MOV;
  if ((!load && instruction.id != X86_INS_LEA) || detail.op_count != 2 ||
      detail.operands[0].type != X86_OP_REG || detail.operands[0].size != 8 ||
      from.type != X86_OP_MEM || from.mem.base != X86_REG_RIP || from.mem.index != X86_REG_INVALID)
    return std::nullopt;
  return VariableUse{.kind = load ? VariableUse::Kind::load : VariableUse::Kind::address,
                     .value = instruction.address + instruction.size +
                              static_cast<std::uint64_t>(from.mem.disp)};
}

class X86_64 final : public Disassembler {
public:
  explicit X86_64(Capstone capstone) : capstone_(std::move(capstone)) {}

  std::optional<Instruction> decode(std::span<const std::byte> code, std::uint64_t address) override
  {
    const cs_insn *raw = capstone_.decode(code, address);
    if (!raw)
      return std::nullopt;
    Instruction out{.address = address, .size = raw->size, .text = text_of(*raw)};
    out.emulated = kernel_emulates_x86_64(code.first(raw->size));
    const bool branch = capstone_.in_group(CS_GRP_JUMP) || capstone_.in_group(CS_GRP_CALL);
    out.ends_path = branch || capstone_.in_group(CS_GRP_RET) || capstone_.in_group(CS_GRP_INT) ||
                    capstone_.in_group(CS_GRP_IRET) || raw->id == X86_INS_UD2 ||
                    raw->id == X86_INS_HLT;
    const cs_x86 &detail = raw->detail->x86;
    if (branch && detail.op_count == 1 && detail.operands[0].type == X86_OP_IMM)
      out.target = static_cast<std::uint64_t>(detail.operands[0].imm);
    out.variable = x86_64_variable(*raw);
    out.arguments_written = capstone_.arguments_written(x86_64_argument);
    return out;
  }

  std::uint32_t alignment() const override { return 1; }

private:
  Capstone capstone_;
};

// The operand of an AArch64 branch: `bits` wide at `shift`, in instructions.
std::uint64_t aarch64_target(std::uint64_t address, std::uint32_t instruction, int shift, int bits)
{
  const auto field = static_cast<std::int64_t>(instruction) >> shift;
  const std::int64_t sign = std::int64_t{1} << (bits - 1);
  const std::int64_t value = ((field & ((std::int64_t{1} << bits) - 1)) ^ sign) - sign;
  return address + static_cast<std::uint64_t>(value * 4);
}

struct Pattern {
  std::uint32_t mask, value;
  bool matches(std::uint32_t instruction) const { return (instruction & mask) == value; }
};
// Arm ARM, C4.1.66; the same masks as arch/arm64/include/asm/insn.h.
constexpr Pattern kBranch{0x7c000000, 0x14000000};         // b, bl
constexpr Pattern kCompareBranch{0x7e000000, 0x34000000};  // cbz, cbnz
constexpr Pattern kTestBranch{0x7e000000, 0x36000000};     // tbz, tbnz
constexpr Pattern kConditional{0xff000010, 0x54000000};    // b.cond
constexpr Pattern kRegisterBranch{0xfe000000, 0xd6000000}; // br, blr, ret, eret and their PAC forms
constexpr Pattern kBr{0xfffffc1f, 0xd61f0000};
constexpr Pattern kBlr{0xfffffc1f, 0xd63f0000};
constexpr Pattern kRet{0xfffffc1f, 0xd65f0000};
constexpr Pattern kAddress{0x1f000000, 0x10000000};   // adr, adrp
constexpr Pattern kException{0xff000000, 0xd4000000}; // svc, brk, hlt

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
    Instruction out{.address = address, .size = raw->size, .text = text_of(*raw)};
    out.emulated = kernel_emulates_aarch64(word);
    if (kBranch.matches(word))
      out.target = aarch64_target(address, word, 0, 26);
    else if (kCompareBranch.matches(word) || kConditional.matches(word))
      out.target = aarch64_target(address, word, 5, 19);
    else if (kTestBranch.matches(word))
      out.target = aarch64_target(address, word, 5, 14);
    out.ends_path = out.target || kRegisterBranch.matches(word) || kException.matches(word);
    out.variable = aarch64_variable(*raw);
    out.arguments_written = capstone_.arguments_written(aarch64_argument);
    return out;
  }

  std::uint32_t alignment() const override { return 4; }

private:
  Capstone capstone_;
};

} // namespace

Result<std::unique_ptr<Disassembler>> Disassembler::create(ElfFile::Machine machine)
{
  switch (machine) {
  case ElfFile::Machine::x86_64: {
    auto capstone = Capstone::open(CS_ARCH_X86, CS_MODE_64);
    if (!capstone)
      return capstone.error();
    return std::unique_ptr<Disassembler>(std::make_unique<X86_64>(*std::move(capstone)));
  }
  case ElfFile::Machine::aarch64: {
    auto capstone = Capstone::open(CS_ARCH_ARM64, CS_MODE_LITTLE_ENDIAN);
    if (!capstone)
      return capstone.error();
    return std::unique_ptr<Disassembler>(std::make_unique<AArch64>(*std::move(capstone)));
  }
  case ElfFile::Machine::other: break;
  }
  return Error{"decode machine code: neither x86-64 nor AArch64", 0, {}};
}

// Linux arch/x86/kernel/uprobes.c: push_setup_xol_ops() takes 50..57, alone or behind exactly
// REX 41; branch_setup_xol_ops() takes prefixes + 90, e8, e9, eb, 70..7f and 0f 80..8f, and
// refuses a 66 in front of a branch.  Checked on 6.18: 0.42 to 0.47 us a hit; endbr64,
// 48 55 and ff f5 (other pushes) 17 to 19 us.
// Left out: the multi-byte nops (0f 1f).  6.18 emulates them, the first kernels with
// uprobe_multi do not, and the five-byte one becomes a call that writes below the stack
// pointer.  So are 90 behind REX (41 90 is an xchg) and behind F3 (pause).
bool kernel_emulates_x86_64(std::span<const std::byte> instruction)
{
  const auto at = [&](std::size_t i) { return std::to_integer<unsigned>(instruction[i]); };
  const auto push = [](unsigned opcode) { return opcode >= 0x50 && opcode <= 0x57; };
  switch (instruction.size()) {
  case 1: return push(at(0)) || at(0) == 0x90;
  case 2:
    return (at(0) == 0x41 && push(at(1))) || (at(0) == 0x66 && at(1) == 0x90) || at(0) == 0xeb ||
           (at(0) >= 0x70 && at(0) <= 0x7f);
  case 5: return at(0) == 0xe8 || at(0) == 0xe9;
  case 6: return at(0) == 0x0f && at(1) >= 0x80 && at(1) <= 0x8f;
  default: return false;
  }
}

// Linux arch/arm64/kernel/probes/decode-insn.c: arm_probe_decode_insn().  ldr (literal) is
// refused for uprobes since 6.12; nop is stepped before 6.13, and hints (bti, paciasp) are.
bool kernel_emulates_aarch64(std::uint32_t instruction)
{
  for (const Pattern &pattern :
       {kBranch, kCompareBranch, kTestBranch, kConditional, kBr, kBlr, kRet, kAddress})
    if (pattern.matches(instruction))
      return true;
  return false;
}

} // namespace pgmemtrace
