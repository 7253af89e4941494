// SPDX-License-Identifier: BSD-2-Clause
// instruction.cpp - x86-64 decoded, and the tables of the x86 kernel; the choice of the machine.
#include "attach/instruction.h"

#include <utility>

#include "attach/aarch64.h"
#include "attach/capstone.h"

namespace pgmemtrace {
namespace {

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
    out.registers_written = capstone_.registers_written(x86_64_argument);
    return out;
  }

  std::uint32_t alignment() const override { return 1; }

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
  case ElfFile::Machine::aarch64: return aarch64_disassembler();
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

} // namespace pgmemtrace
