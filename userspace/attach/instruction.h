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
  std::string text;                    // "push rbp"
  bool emulated = false;               // the kernel does its work without single-stepping it
  bool ends_path = false;              // jump, call, return, trap: what follows may not be reached
  std::optional<std::uint64_t> target; // of a direct jump or call
  unsigned arguments_written = 0;      // bit i: the register of argument i, or a part of it

  // For those who follow values through a function; x86-64 alone.
  enum class Flow : std::uint8_t { next, conditional, jump, call, end };
  Flow flow = Flow::end;            // how the path goes on; `end`: it does not
  unsigned registers_written = ~0U; // bit i: general register i, or a part of it
  std::optional<Move> move;         // of one whole general register to another
  std::optional<FrameAccess> frame;
  std::optional<std::uint64_t> names; // address that an operand relative to rip names
};

// Numbers of the general registers of x86-64: those of the machine's encoding.
inline constexpr unsigned kRegisters = 16;
inline constexpr unsigned kFramePointer = 5;
std::string_view register_name(unsigned number); // "rax"

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

// Rules of the kernel, on the instruction's bytes; exposed for tests.
bool kernel_emulates_x86_64(std::span<const std::byte> instruction);
bool kernel_emulates_aarch64(std::uint32_t instruction);

} // namespace pgmemtrace
