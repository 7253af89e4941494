// SPDX-License-Identifier: BSD-2-Clause
// function_table.h - which named function covers an address.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "attach/elf_file.h"

namespace pgmemtrace {

// Names belong to the ElfFiles, which must outlive the table.
class FunctionTable {
public:
  struct Function {
    std::uint64_t start = 0, size = 0; // link-time
    std::string_view name;             // as the linker knows it
    std::string_view suffix;           // "@plt" or nothing
  };

  // `binary` is the file that is mapped.  `debug`, which may be null, has names alone.
  FunctionTable(const ElfFile &binary, const ElfFile *debug);

  // The innermost function that covers the address.  Never a neighbour.
  std::optional<Function> find(std::uint64_t address) const;
  std::size_t memory_bytes() const { return functions_.capacity() * sizeof(Function); }

private:
  void add(const ElfFile &from, const ElfFile &binary);

  std::vector<Function> functions_; // by start; one per start
};

} // namespace pgmemtrace
