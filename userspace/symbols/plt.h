// SPDX-License-Identifier: BSD-2-Clause
// plt.h - the entries of an executable's procedure linkage table, by the function they lead to.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "attach/elf_file.h"

namespace pgmemtrace {

struct PltEntry {
  std::uint64_t address = 0, size = 0; // link-time
  std::string_view name;               // of the file's string table: lives as long as the file
};

// x86-64.  Empty where the file has no section headers.
std::vector<PltEntry> plt_entries(const ElfFile &file);

} // namespace pgmemtrace
