// SPDX-License-Identifier: BSD-2-Clause
// unwinder.h - call stacks of code without frame pointers, from registers and a copied stack.
//
// Follows .eh_frame's rules one frame after the other, x86-64.  All memory that it reads is the
// copy.  Code without rules (JIT) is passed by its frame pointer if that holds.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include <elfutils/libdw.h>

namespace pgmemtrace {

// What struct pt_regs holds when a probe is hit.
struct StackRegisters {
  std::uint64_t ip = 0, sp = 0, bp = 0;
};

enum class StackEnd {
  complete,  // to the function that nothing called
  truncated, // the copy ends before the stack does
  no_rules,  // nothing says how to go on from the last address
  too_deep,  // more frames than we are ready to follow
};
std::string_view to_string(StackEnd end);

struct UnwoundStack {
  // [0] is the instruction itself, the others are return addresses.
  std::vector<std::uint64_t> addresses;
  // Where each of the return addresses lay: of addresses[1] and on.
  std::vector<std::uint64_t> found_at;
  StackEnd end = StackEnd::complete;
  // A frame was passed by its frame pointer: its caller may be missing.
  bool guessed = false;
};

// The rules for an address: it has to be looked up as address - load_bias.
struct UnwindRules {
  Dwarf_CFI *cfi = nullptr; // null: code without rules
  std::uint64_t load_bias = 0;
};

// nullopt: there is no code at the address.
using FindRules = std::function<std::optional<UnwindRules>(std::uint64_t address)>;

// `stack`: the bytes from registers.sp upward.
UnwoundStack unwind(const StackRegisters &registers, std::span<const std::byte> stack,
                    const FindRules &find_rules);

} // namespace pgmemtrace
