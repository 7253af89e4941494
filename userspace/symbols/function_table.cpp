// SPDX-License-Identifier: BSD-2-Clause
// function_table.cpp - symbols and PLT entries in the order of their addresses.
#include "symbols/function_table.h"

#include <algorithm>
#include <iterator>
#include <tuple>

#include "symbols/plt.h"

namespace pgmemtrace {

namespace {

// Functions that cover an address lie close before it, unless a file was made to have us search.
constexpr int kMaxNested = 64;

// Of several names for one function: what a caller would write before what a library calls it
// within, as in malloc, __libc_malloc, __malloc.
auto preference(const ElfFile::NamedFunction &function)
{
  const auto underscores = function.name.find_first_not_of('_');
  return std::tuple(function.symbol.address, !function.global, function.symbol.size == 0,
                    underscores, function.name.size(), function.name);
}

} // namespace

FunctionTable::FunctionTable(const ElfFile &binary, const ElfFile *debug)
{
  if (debug != nullptr)
    add(*debug, binary);
  // A debug file without .symtab takes nothing away from what the binary exports.
  if (functions_.empty())
    add(binary, binary);
  for (const auto &entry : plt_entries(binary))
    functions_.push_back({entry.address, entry.size, entry.name, "@plt"});
  binary.drop_bytes(); // nobody asks for what is linked any more

  // Stable: what was added first wins.
  std::ranges::stable_sort(functions_, {}, &Function::start);
  const auto same_start = [](const Function &a, const Function &b) { return a.start == b.start; };
  functions_.erase(std::unique(functions_.begin(), functions_.end(), same_start), functions_.end());
  functions_.shrink_to_fit();
}

void FunctionTable::add(const ElfFile &from, const ElfFile &binary)
{
  auto named = from.functions();
  for (auto &function : named) // "memcpy@@GLIBC_2.14": .symtab has the version in the name
    function.name = function.name.substr(0, function.name.find('@'));
  std::ranges::sort(named, {}, preference);
  for (const auto &function : named) {
    auto [start, size] = function.symbol;
    // Assembler code often has no size.  .eh_frame has, where the function has unwind rules; else
    // its first byte is all that is certain.
    if (size == 0) {
      const auto bounds = binary.bounds(start);
      size = bounds ? bounds->size - (start - bounds->address) : 1;
    }
    functions_.push_back({start, size, function.name, {}});
  }
}

std::optional<FunctionTable::Function> FunctionTable::find(std::uint64_t address) const
{
  auto after = std::ranges::upper_bound(functions_, address, {}, &Function::start);
  for (int i = 0; i < kMaxNested && after != functions_.begin(); ++i) {
    --after;
    if (address - after->start < after->size)
      return *after;
  }
  return std::nullopt;
}

} // namespace pgmemtrace
