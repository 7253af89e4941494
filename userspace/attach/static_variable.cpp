// SPDX-License-Identifier: BSD-2-Clause
// static_variable.cpp - see static_variable.h.
#include "attach/static_variable.h"

#include <algorithm>
#include <map>
#include <optional>

#include <fmt/format.h>

namespace pgmemtrace {
namespace {

// SaveCachedPlan() comes to the list after some 25 instructions.
constexpr std::size_t kMaxFunction = 512;

std::optional<std::uint64_t> first_use(const ElfFile &elf, const ElfFile::Symbol &function,
                                       Disassembler &disassembler, VariableUse::Kind use,
                                       ElfFile::Storage storage)
{
  auto code = elf.bytes(function.address, std::min<std::size_t>(function.size, kMaxFunction));
  std::uint64_t address = function.address;
  std::map<unsigned, std::uint64_t> pages; // by register
  while (const auto instruction = disassembler.decode(code, address)) {
    if (const auto &variable = instruction->variable) {
      if (variable->kind == VariableUse::Kind::page) {
        pages[variable->page] = variable->value;
      } else if (variable->kind == use && (variable->page == 0 || pages.contains(variable->page))) {
        const std::uint64_t at =
            variable->value + (variable->page == 0 ? 0 : pages[variable->page]);
        if (elf.storage(at) == storage)
          return at;
      }
    }
    code = code.subspan(instruction->size);
    address += instruction->size;
  }
  return std::nullopt;
}

} // namespace

Result<std::uint64_t> find_variable(const ElfFile &elf, std::string_view name,
                                    std::initializer_list<std::string_view> functions,
                                    VariableUse::Kind use, ElfFile::Storage storage)
{
  const auto not_found = [&](const std::string &why) {
    return Error{fmt::format("find {}: {}", name, why), 0,
                 "this build's code differs from those that pgmemtrace knows"};
  };
  auto disassembler = Disassembler::create(elf.machine());
  if (!disassembler)
    return not_found(disassembler.error().what);
  std::optional<std::uint64_t> found;
  for (const auto function : functions) {
    const auto symbol = elf.function(function);
    if (!symbol)
      continue;
    const auto address = first_use(elf, *symbol, **disassembler, use, storage);
    if (!address)
      return not_found(fmt::format("{} uses no such variable", function));
    if (found && *found != *address)
      return not_found(fmt::format("{} uses another one than the functions before it", function));
    found = address;
  }
  if (!found)
    return not_found("the binary exports none of the functions that use it");
  return *found;
}

} // namespace pgmemtrace
