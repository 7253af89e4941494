// SPDX-License-Identifier: BSD-2-Clause
// static_variable.cpp - see static_variable.h.
#include "attach/static_variable.h"

#include <array>
#include <cstring>
#include <optional>
#include <string_view>

#include "attach/instruction.h"

namespace pgmemtrace {
namespace {

// What is looked for stands near the entry.
constexpr std::size_t kBytesLookedAt = 256;

// `mov r64, [rip + disp32]`: REX.W, with or without R; 8b; ModRM mod 00, rm 101.
std::optional<std::uint64_t> loaded_from(std::span<const std::byte> code,
                                         const Instruction &instruction)
{
  constexpr std::uint32_t kSize = 7;
  const auto at = [&](std::size_t i) { return std::to_integer<unsigned>(code[i]); };
  if (instruction.size != kSize || (at(0) & 0xfbU) != 0x48 || at(1) != 0x8b ||
      (at(2) & 0xc7U) != 0x05)
    return std::nullopt;
  std::int32_t distance = 0;
  std::memcpy(&distance, code.data() + 3, sizeof(distance));
  return instruction.address + kSize + static_cast<std::uint64_t>(std::int64_t{distance});
}

std::optional<std::uint64_t> first_load(Disassembler &disassembler, const ElfFile &elf,
                                        std::string_view function)
{
  const auto symbol = elf.function(function);
  if (!symbol)
    return std::nullopt;
  const auto code = elf.bytes(symbol->address, kBytesLookedAt);
  for (std::size_t offset = 0; offset < code.size();) {
    const auto rest = code.subspan(offset);
    const auto instruction = disassembler.decode(rest, symbol->address + offset);
    if (!instruction)
      return std::nullopt;
    if (const auto variable = loaded_from(rest, *instruction))
      return variable;
    offset += instruction->size;
  }
  return std::nullopt;
}

} // namespace

std::uint64_t variable_loaded_first(const ElfFile &elf, std::span<const char *const> functions)
{
  if (elf.machine() != ElfFile::Machine::x86_64)
    return 0;
  auto disassembler = Disassembler::create(elf.machine());
  if (!disassembler)
    return 0;
  std::uint64_t agreed = 0;
  for (const char *function : functions) {
    const auto variable = first_load(**disassembler, elf, function);
    if (!variable || (agreed != 0 && *variable != agreed))
      return 0;
    agreed = *variable;
  }
  return agreed;
}

} // namespace pgmemtrace
