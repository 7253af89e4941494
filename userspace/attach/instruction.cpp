// SPDX-License-Identifier: BSD-2-Clause
// instruction.cpp - x86-64 decoded, and the tables of the x86 kernel; the choice of the machine.
#include "attach/instruction.h"

#include <algorithm>
#include <array>
#include <utility>

#include "attach/aarch64.h"
#include "attach/capstone.h"

namespace pgmemtrace {
namespace {

// Every name of a general register, in the order of their numbers.
constexpr x86_reg kX86Registers[kRegisters][5] = {
    {X86_REG_RAX, X86_REG_EAX, X86_REG_AX, X86_REG_AL, X86_REG_AH},
    {X86_REG_RCX, X86_REG_ECX, X86_REG_CX, X86_REG_CL, X86_REG_CH},
    {X86_REG_RDX, X86_REG_EDX, X86_REG_DX, X86_REG_DL, X86_REG_DH},
    {X86_REG_RBX, X86_REG_EBX, X86_REG_BX, X86_REG_BL, X86_REG_BH},
    {X86_REG_RSP, X86_REG_ESP, X86_REG_SP, X86_REG_SPL},
    {X86_REG_RBP, X86_REG_EBP, X86_REG_BP, X86_REG_BPL},
    {X86_REG_RSI, X86_REG_ESI, X86_REG_SI, X86_REG_SIL},
    {X86_REG_RDI, X86_REG_EDI, X86_REG_DI, X86_REG_DIL},
    {X86_REG_R8, X86_REG_R8D, X86_REG_R8W, X86_REG_R8B},
    {X86_REG_R9, X86_REG_R9D, X86_REG_R9W, X86_REG_R9B},
    {X86_REG_R10, X86_REG_R10D, X86_REG_R10W, X86_REG_R10B},
    {X86_REG_R11, X86_REG_R11D, X86_REG_R11W, X86_REG_R11B},
    {X86_REG_R12, X86_REG_R12D, X86_REG_R12W, X86_REG_R12B},
    {X86_REG_R13, X86_REG_R13D, X86_REG_R13W, X86_REG_R13B},
    {X86_REG_R14, X86_REG_R14D, X86_REG_R14W, X86_REG_R14B},
    {X86_REG_R15, X86_REG_R15D, X86_REG_R15W, X86_REG_R15B},
};

int x86_64_register(unsigned reg)
{
  for (unsigned number = 0; reg != X86_REG_INVALID && number < kRegisters; number++)
    for (const x86_reg name : kX86Registers[number])
      if (reg == static_cast<unsigned>(name))
        return static_cast<int>(number);
  return -1;
}

// A move of all 64 bits, and nothing else.
std::optional<Move> x86_64_move(const cs_insn &instruction)
{
  const cs_x86 &detail = instruction.detail->x86;
  if (instruction.id != X86_INS_MOV || detail.op_count != 2 ||
      detail.operands[0].type != X86_OP_REG || detail.operands[1].type != X86_OP_REG ||
      detail.operands[0].size != 8)
    return std::nullopt;
  const int to = x86_64_register(static_cast<unsigned>(detail.operands[0].reg));
  const int from = x86_64_register(static_cast<unsigned>(detail.operands[1].reg));
  if (to < 0 || from < 0)
    return std::nullopt;
  return Move{static_cast<unsigned>(from), static_cast<unsigned>(to)};
}

std::optional<FrameAccess> x86_64_frame(const cs_insn &instruction)
{
  const cs_x86 &detail = instruction.detail->x86;
  for (unsigned i = 0; i < detail.op_count; i++) {
    const cs_x86_op &operand = detail.operands[i];
    if (operand.type != X86_OP_MEM || operand.mem.base != X86_REG_RBP)
      continue;
    FrameAccess access{.offset = operand.mem.disp,
                       .size = operand.size,
                       .writes = (operand.access & CS_AC_WRITE) != 0,
                       .reg = std::nullopt};
    const bool indexed = operand.mem.index != X86_REG_INVALID;
    if (indexed) // anywhere in the frame
      access = {.offset = INT32_MIN, .size = ~0U, .writes = access.writes, .reg = std::nullopt};
    else if (instruction.id == X86_INS_MOV && operand.size == 8 && detail.op_count == 2 &&
             detail.operands[1 - i].type == X86_OP_REG)
      if (const int reg = x86_64_register(static_cast<unsigned>(detail.operands[1 - i].reg));
          reg >= 0)
        access.reg = static_cast<unsigned>(reg);
    return access;
  }
  return std::nullopt;
}

std::optional<unsigned> x86_64_push(const cs_insn &instruction)
{
  const cs_x86 &detail = instruction.detail->x86;
  if (instruction.id != X86_INS_PUSH || detail.operands[0].type != X86_OP_REG)
    return std::nullopt;
  const int reg = x86_64_register(static_cast<unsigned>(detail.operands[0].reg));
  return reg < 0 ? std::nullopt : std::optional(static_cast<unsigned>(reg));
}

bool x86_64_stores(const cs_insn &instruction)
{
  const cs_x86 &detail = instruction.detail->x86;
  return std::any_of(detail.operands, detail.operands + detail.op_count, [](const cs_x86_op &to) {
    return to.type == X86_OP_MEM && (to.access & CS_AC_WRITE) != 0;
  });
}

std::optional<std::uint64_t> x86_64_named(const cs_insn &instruction)
{
  const cs_x86 &detail = instruction.detail->x86;
  for (unsigned i = 0; i < detail.op_count; i++)
    if (detail.operands[i].type == X86_OP_MEM && detail.operands[i].mem.base == X86_REG_RIP)
      return instruction.address + instruction.size +
             static_cast<std::uint64_t>(detail.operands[i].mem.disp);
  return std::nullopt;
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
    out.registers_written = capstone_.registers_written(x86_64_register);
    out.move = x86_64_move(*raw);
    out.variable = x86_64_variable(*raw);
    out.flow = flow_of(*raw, out.ends_path);
    out.frame = x86_64_frame(*raw);
    out.names = x86_64_named(*raw);
    out.pushes = x86_64_push(*raw);
    out.stores = x86_64_stores(*raw);
    return out;
  }

  std::uint32_t alignment() const override { return 1; }

private:
  Instruction::Flow flow_of(const cs_insn &raw, bool ends_path) const
  {
    if (capstone_.in_group(CS_GRP_CALL))
      return Instruction::Flow::call;
    if (raw.id == X86_INS_JMP)
      return Instruction::Flow::jump;
    if (capstone_.in_group(CS_GRP_JUMP))
      return Instruction::Flow::conditional;
    return ends_path ? Instruction::Flow::end : Instruction::Flow::next;
  }

  Capstone capstone_;
};

} // namespace

std::string_view register_name(unsigned number)
{
  static constexpr std::array<std::string_view, kRegisters> kNames{
      "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
      "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};
  return number < kNames.size() ? kNames[number] : "none";
}

std::span<const unsigned> argument_registers(ElfFile::Machine machine)
{
  // System V: rdi, rsi, rdx, rcx, r8, r9.  AAPCS64 passes two more.
  static constexpr std::array<unsigned, kArguments> kX86{7, 6, 2, 1, 8, 9};
  static constexpr std::array<unsigned, kArguments> kArm{0, 1, 2, 3, 4, 5};
  if (machine == ElfFile::Machine::aarch64)
    return kArm;
  return kX86;
}

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
