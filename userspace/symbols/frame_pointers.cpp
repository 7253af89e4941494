// SPDX-License-Identifier: BSD-2-Clause
#include "symbols/frame_pointers.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <memory>

#include "symbols/stack_frame.h"

namespace pgmemtrace {

namespace {

constexpr std::size_t kSamples = 512;
constexpr std::uint64_t kSmall = 32; // bytes: too few to tell, a thunk or a tail call

} // namespace

// By following them on a stack where both ways are told apart: only the frame pointer leads to
// what lies there.
bool leads_to_caller(Dwarf_Frame *rules)
{
  constexpr std::uint64_t kFrame = 0x100000, kStack = 0x1000;
  constexpr std::array<std::uint64_t, 2> kSaved{0x1111, 0x2222}; // the caller's bp, return address
  Registers registers{};
  registers[kIp] = 1;
  registers[kSp] = kStack;
  registers[kBp] = kFrame;
  const auto caller =
      find_caller(rules, registers, StackCopy(kFrame, std::as_bytes(std::span(kSaved))));
  return caller.found == Caller::Found::yes && caller.registers[kBp] == kSaved[0] &&
         caller.registers[kIp] == kSaved[1] && caller.registers[kSp] == kFrame + sizeof kSaved;
}

FramePointers frame_pointers(const ElfFile &elf)
{
  FramePointers found;
  if (elf.machine() != ElfFile::Machine::x86_64)
    return found;
  Dwarf_CFI *cfi = elf.unwind_rules();
  const auto functions = elf.compiled_functions();
  if (cfi == nullptr || functions.empty())
    return found;
  const std::size_t step = std::max<std::size_t>(functions.size() / kSamples, 1);
  for (std::size_t i = 0; i < functions.size(); i += step) {
    const auto &function = functions[i];
    Dwarf_Frame *rules = nullptr;
    // In the middle: behind its prologue.
    if (function.size < kSmall ||
        dwarf_cfi_addrframe(cfi, function.address + function.size / 2, &rules) != 0)
      continue;
    const std::unique_ptr<Dwarf_Frame, decltype(&std::free)> owned(rules, std::free);
    ++found.functions;
    found.keeping += leads_to_caller(rules);
  }
  return found;
}

} // namespace pgmemtrace
