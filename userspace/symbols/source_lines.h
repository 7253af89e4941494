// SPDX-License-Identifier: BSD-2-Clause
// source_lines.h - DWARF: source lines and inlined functions of an address.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <elfutils/libdw.h>

namespace pgmemtrace {

class SourceLines {
public:
  struct Place {
    std::string function;    // demangled; empty if DWARF does not say
    std::string file;        // empty if unknown
    int line = 0;            // 0: unknown
    std::uint64_t start = 0; // link-time start of the function; 0 for inlined ones
    bool inlined = false;
  };

  // Null if the file has no DWARF, or more than we are ready to hold in memory.  `elf` must
  // outlive the result.
  static std::unique_ptr<SourceLines> open(Elf *elf);

  // Innermost first, the function that was compiled last; empty: the address is in no unit.
  std::vector<Place> at(std::uint64_t address);
  std::size_t memory_bytes() const { return bytes_ + units_.capacity() * sizeof(Unit); }

private:
  struct DwarfEnd {
    void operator()(Dwarf *dwarf) const { dwarf_end(dwarf); }
  };
  struct Unit { // a range of addresses
    std::uint64_t start, end;
    Dwarf_Off die;
  };

  SourceLines(Dwarf *dwarf, std::size_t bytes);
  void read_units();

  std::unique_ptr<Dwarf, DwarfEnd> dwarf_;
  std::size_t bytes_;
  std::vector<Unit> units_; // by start
};

} // namespace pgmemtrace
