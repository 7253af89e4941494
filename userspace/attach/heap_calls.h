// SPDX-License-Identifier: BSD-2-Clause
// heap_calls.h - where a function takes memory from the C library and gives it back.
//
// The function is followed along all of its direct paths from its entry: jumps out of it (a part
// that the compiler moved away, a tail call) and calls of functions that nobody else can name
// (the helpers of an allocator) included.  On the way it is noted which general registers and which
// words of the frame hold the function's first and second argument still.  What several paths
// disagree on is not known, so that the answer holds on each of them: a proof, as long as no path
// is hidden.  One that is, behind an indirect jump, is said so.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "attach/elf_file.h"
#include "util/result.h"

namespace pgmemtrace {

// What is asked of an executable; functions, so that tests can answer from recorded bytes.
struct Code {
  ElfFile::Machine machine = ElfFile::Machine::other;
  // From a link-time address on; empty outside executable memory.
  std::function<std::span<const std::byte>(std::uint64_t address)> bytes;
  // Name of what the dynamic linker puts into a pointer; empty if that is nothing.
  std::function<std::string(std::uint64_t pointer)> imported;
  // The function, or the part of one that was moved away, that covers an address.
  std::function<std::optional<ElfFile::Symbol>(std::uint64_t address)> bounds;
  // May the function at an address be called from anywhere?  Such a one is not followed.
  std::function<bool(std::uint64_t address)> exported;
};

// Where a value is found when an instruction is reached.
struct Holder {
  std::optional<unsigned> reg;   // this register; none: a word of the frame ...
  std::int32_t frame_offset = 0; // ... that far from rbp
};
std::string to_string(const Holder &holder); // "r13", "[rbp-0x50]"

struct HeapCall {
  enum class Callee : std::uint8_t { malloc, realloc, free };
  Callee callee = Callee::malloc;
  std::uint64_t address = 0;    // of the call or jump
  std::string instruction;      // "call malloc"
  bool emulated = false;        // by the kernel, if probed
  std::optional<Holder> first;  // of the function's first argument ...
  std::optional<Holder> second; // ... and its second one
};

struct HeapCalls {
  std::vector<HeapCall> calls;      // by address
  std::vector<std::uint64_t> named; // what it names relative to rip: its constants, sorted
  bool hidden_paths = false;        // an indirect jump, or more code than we follow
};

// Error: machine code that cannot be decoded at the entry, another machine than x86-64.
Result<HeapCalls> find_heap_calls(const Code &code, std::uint64_t function);

// Does a function begin there?  What precedes it ends with a jump, or with a call that never
// returns.
bool begins_function(const Code &code, std::uint64_t address);

} // namespace pgmemtrace
