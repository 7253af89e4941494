// SPDX-License-Identifier: BSD-2-Clause
// planner.h - where a probe goes in this very binary.
//
// A uprobe on an instruction that the kernel emulates (push reg, nop, jmp/call rel, jcc)
// costs 0.6 to 0.9 us, on any other 28 to 33 us here (facts/uprobe_costs.md).  So each
// function is decoded from its entry, and the probe goes on the first emulated instruction
//   - that every call reaches: nothing before it jumps, calls or returns;
//   - that a call reaches once: no branch leads back between the entry and it (direct
//     branches are checked; a jump table leads to labels behind the first branch);
//   - at which every argument that the program reads is still in a register: its own, or
//     (AArch64) one that it was copied to.
// Level alloc, whose sites are hit most, prefers one that writes nothing to the stack (jumps, nops:
// 0.61 us a hit in a tight loop, push 0.68), as long as nothing before it has changed memory.
// If there is none, it goes on the entry, and is marked as dear; if the kernel refuses a probe
// there, on the first other instruction that fits.  What the kernel emulates and refuses:
// instruction.cpp, aarch64.cpp.  The probes of level block are no functions but calls:
// attach/block_sites.h.  Those of level alloc are static functions of 15 and older: alloc_sites.h.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <pgmemtrace/abi.h>

#include "attach/alloc_sites.h"
#include "attach/block_sites.h"
#include "attach/elf_file.h"
#include "attach/instruction.h"
#include "snapshot/snapshot.h"
#include "util/result.h"

namespace pgmemtrace {

// Number of the register (Instruction::registers_written) that holds each argument; kNoRegister
// for one that is nowhere any more.
inline constexpr std::uint8_t kNoRegister = 0xff;
using ArgumentRegisters = std::array<std::uint8_t, kArguments>;

struct ProbeSite {
  pgmt_probe probe = PGMT_PROBE_START;
  std::string function;
  std::uint64_t address = 0;      // link-time virtual address of the instruction
  std::uint64_t file_offset = 0;  // what uprobes take
  std::uint32_t displacement = 0; // from the function's entry
  std::string instruction;        // "push rbp"
  bool emulated = false;          // false: the kernel single-steps it, dear
  ArgumentRegisters arguments{};  // where they are at this instruction
  // Direct call and jmp sites outside the function; by pointer not counted.  0: it is one itself.
  unsigned callers = 0;
  std::optional<BlockRole> block;   // PGMT_PROBE_BLOCK alone
  std::optional<MethodRole> method; // PGMT_PROBE_ALLOC alone
};

// A probe that cannot be placed, and why: shown by doctor, counted as a loss of coverage.
struct UnplacedProbe {
  pgmt_probe probe;
  std::string function;
  std::string reason; // "no such symbol", "nothing in the binary calls it"
};

struct Plan {
  std::vector<ProbeSite> sites;
  std::vector<UnplacedProbe> unplaced;
  std::vector<Passer> passers;   // level alloc: code that only hands a request on
  std::set<ContextType> tracked; // level alloc: allocators all of whose methods are probed
};

// Level at which a probe is first used: request for settle, xact, exit and dsm, block for block,
// alloc for alloc, statement for the rest.
Level level_of(pgmt_probe probe);
// "start", "end", "utility", "settle", "xact", "exit", "dsm", "block", "alloc"
std::string_view name_of(pgmt_probe probe);

Plan plan_probes(const ElfFile &elf);

// What a program makes of the registers.
enum class Reading : std::uint8_t {
  own_registers, // arguments where the function got them (AArch64: or a copy)
  caller_too,    // arguments where they are, and the return address: Placement::framed
};

// The decision alone, for tests on recorded bytes: offset of the instruction to probe in a
// function's bytes, given the argument registers (bit 0: first argument) the program reads.
// An error if the function's first instruction cannot be decoded, or if the kernel refuses a
// probe wherever the arguments are there.
struct Placement {
  std::uint32_t displacement = 0;
  std::string instruction;
  bool emulated = false;
  ArgumentRegisters arguments{};
  // caller_too: the function has its frame pointer already, and the return address lies behind what
  // that points to; else it is on top of the stack.
  bool framed = false;
};
Result<Placement> place_probe(ElfFile::Machine machine, std::span<const std::byte> function,
                              std::uint64_t address, unsigned arguments_read,
                              Reading reading = Reading::own_registers);

// Direct calls and jumps in `code` that lead to each of `functions` from outside of it.
std::vector<unsigned> count_callers(ElfFile::Machine machine, std::span<const std::byte> code,
                                    std::uint64_t address,
                                    std::span<const ElfFile::Symbol> functions);

} // namespace pgmemtrace
