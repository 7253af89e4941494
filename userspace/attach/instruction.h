// SPDX-License-Identifier: BSD-2-Clause
// instruction.h - one machine instruction, and what the kernel does with a probe on it.
//
// Capstone decodes; which instructions the kernel emulates is our own table, because it is
// the kernel's choice and not the machine's.  A machine is a strategy behind Disassembler.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "attach/elf_file.h"
#include "util/result.h"

namespace pgmemtrace {

struct Move {
  unsigned from = 0, to = 0;
};

// How an instruction of position-independent code names a variable of its program.
struct VariableUse {
  enum class Kind {
    load,    // reads 8 bytes of it
    address, // takes its address
    page,    // AArch64: takes the address of its 4 KiB page, a step before the other two
  };
  Kind kind = Kind::load;
  std::uint64_t value = 0; // link-time address; behind a page: what is added to it
  unsigned page = 0;       // the register that gets or holds the page; 0: `value` is all
};

// A word or a part of one at a fixed distance from the frame pointer.
struct FrameAccess {
  std::int64_t offset = 0; // from rbp
  unsigned size = 0;       // bytes
  bool writes = false;
  std::optional<unsigned> reg; // what a plain move of 8 bytes takes it from or puts it into
};

struct Instruction {
  std::uint64_t address = 0;
  std::uint32_t size = 0;
  std::string text;      // "push rbp"
  bool emulated = false; // the kernel does its work without single-stepping it
  // Jump, call, return, trap: what follows may not be reached, or must not be interrupted.
  bool ends_path = false;
  std::optional<std::uint64_t> target; // of a direct jump or call
  bool refused = false;                // the kernel takes no probe on it, or breaks it
  // Bit i: register i, or a part of it, as the machine numbers them: x0 to x30, rax to r15.
  std::uint32_t registers_written = ~0U;
  std::optional<Move> move; // of one whole register to another
  std::optional<VariableUse> variable;

  // For those who follow values through a function; x86-64 alone.
  enum class Flow : std::uint8_t { next, conditional, jump, call, end };
  Flow flow = Flow::end; // how the path goes on; `end`: it does not
  std::optional<FrameAccess> frame;
  std::optional<std::uint64_t> names; // address that an operand relative to rip names
  std::optional<unsigned> pushes;     // the register that it puts on the stack
  bool stores = false;                // writes memory, other than by push or call
};

// Numbers of the general registers of x86-64: those of the machine's encoding.
inline constexpr unsigned kRegisters = 16;
inline constexpr unsigned kStackPointer = 4;
inline constexpr unsigned kFramePointer = 5;
std::string_view register_name(unsigned number); // "rax"

// As many arguments as both machines pass in registers, and those: numbers as in
// Instruction::registers_written.
inline constexpr std::size_t kArguments = 6;
std::span<const unsigned> argument_registers(ElfFile::Machine machine);

class Disassembler {
public:
  static Result<std::unique_ptr<Disassembler>> create(ElfFile::Machine machine);
  virtual ~Disassembler() = default;

  // The instruction at the front of `code`, which lies at `address`; nothing if these bytes
  // are none or are cut.
  virtual std::optional<Instruction> decode(std::span<const std::byte> code,
                                            std::uint64_t address) = 0;
  // Distance of two places where an instruction may begin.
  virtual std::uint32_t alignment() const = 0;
};

// The x86 kernel's rules, on the instruction's bytes; exposed for tests.  arm64's: aarch64.h.
bool kernel_emulates_x86_64(std::span<const std::byte> instruction);

} // namespace pgmemtrace
