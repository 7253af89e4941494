// SPDX-License-Identifier: BSD-2-Clause
// source_lines.cpp - libdw, walked with bounds of our own.
//
// libdw's dwarf_getscopes() recurses as deep as the file says, and dwarf_addrdie() needs
// .debug_aranges before elfutils 0.191, which clang does not write.  So the units' ranges and the
// way down from a unit to an address are walked here.
#include "symbols/source_lines.h"

#include <algorithm>
#include <optional>
#include <string_view>

#include <dwarf.h>
#include <gelf.h>

#include "symbols/demangle.h"
#include "util/text.h"

namespace pgmemtrace {

namespace {

// Uncompressed, of one file: packaging/pgmemtrace.service keeps the daemon to 256 MiB.
constexpr std::uint64_t kMaxBytes = 64 << 20;
constexpr std::size_t kMaxRanges = 1 << 20;
constexpr int kMaxDepth = 64;             // of blocks and inlined calls within each other
constexpr std::size_t kMaxDies = 1 << 20; // looked at for one address

// What libdw will hold in memory, 0 without .debug_info.
std::uint64_t debug_bytes(Elf *elf)
{
  std::size_t names = 0;
  if (elf_getshdrstrndx(elf, &names) != 0)
    return 0;
  std::uint64_t sum = 0;
  bool info = false;
  for (Elf_Scn *scn = nullptr; (scn = elf_nextscn(elf, scn)) != nullptr;) {
    GElf_Shdr shdr;
    GElf_Chdr compressed;
    if (gelf_getshdr(scn, &shdr) == nullptr || shdr.sh_type == SHT_NOBITS)
      continue;
    const char *found = elf_strptr(elf, names, shdr.sh_name);
    const std::string_view name = found == nullptr ? "" : found;
    if (!name.starts_with(".debug_"))
      continue;
    info = info || name == ".debug_info";
    const bool is_compressed =
        (shdr.sh_flags & SHF_COMPRESSED) != 0 && gelf_getchdr(scn, &compressed) != nullptr;
    sum += std::min(is_compressed ? compressed.ch_size : shdr.sh_size, kMaxBytes + 1);
  }
  return info ? sum : 0;
}

// The way from a unit to the innermost function at an address.
class Descent {
public:
  explicit Descent(std::uint64_t address) : address_(address) {}

  // Outermost first: a subprogram, and the calls inlined in it.
  std::vector<Dwarf_Die> from(Dwarf_Die unit)
  {
    look_below(unit, 0);
    return std::move(found_);
  }

private:
  bool look_below(Dwarf_Die die, int depth)
  {
    Dwarf_Die child;
    if (depth > kMaxDepth || dwarf_child(&die, &child) != 0)
      return false;
    do {
      if (++seen_ > kMaxDies)
        return true;
      const int tag = dwarf_tag(&child);
      const bool code = tag == DW_TAG_subprogram || tag == DW_TAG_inlined_subroutine ||
                        tag == DW_TAG_lexical_block || tag == DW_TAG_try_block ||
                        tag == DW_TAG_catch_block;
      if (code && dwarf_haspc(&child, address_) == 1) {
        if (tag == DW_TAG_subprogram)
          found_.clear();
        if (tag == DW_TAG_subprogram || tag == DW_TAG_inlined_subroutine)
          found_.push_back(child);
        look_below(child, depth + 1);
        return true;
      }
      if (tag == DW_TAG_namespace && look_below(child, depth + 1))
        return true;
    } while (dwarf_siblingof(&child, &child) == 0);
    return false;
  }

  std::uint64_t address_;
  std::size_t seen_ = 0;
  std::vector<Dwarf_Die> found_;
};

std::string shown(const char *text)
{
  return text == nullptr ? std::string() : one_line(text, 4096);
}

std::string name_of(Dwarf_Die &die)
{
  Dwarf_Attribute attribute;
  if (dwarf_attr_integrate(&die, DW_AT_linkage_name, &attribute) != nullptr)
    if (const char *name = dwarf_formstring(&attribute))
      return demangled(name);
  return shown(dwarf_diename(&die));
}

int number(Dwarf_Die &die, unsigned name)
{
  Dwarf_Attribute attribute;
  Dwarf_Word value = 0;
  if (dwarf_attr(&die, name, &attribute) == nullptr || dwarf_formudata(&attribute, &value) != 0)
    return 0;
  return value <= INT32_MAX ? static_cast<int>(value) : 0;
}

std::string file_of_call(Dwarf_Die &unit, Dwarf_Die &call)
{
  Dwarf_Files *files = nullptr;
  std::size_t count = 0;
  const int index = number(call, DW_AT_call_file);
  if (dwarf_getsrcfiles(&unit, &files, &count) != 0 || static_cast<std::size_t>(index) >= count)
    return {};
  return shown(dwarf_filesrc(files, static_cast<std::size_t>(index), nullptr, nullptr));
}

} // namespace

std::unique_ptr<SourceLines> SourceLines::open(Elf *elf)
{
  const auto bytes = debug_bytes(elf);
  if (bytes == 0 || bytes > kMaxBytes)
    return nullptr;
  Dwarf *dwarf = dwarf_begin_elf(elf, DWARF_C_READ, nullptr);
  if (dwarf == nullptr)
    return nullptr;
  return std::unique_ptr<SourceLines>(new SourceLines(dwarf, bytes));
}

SourceLines::SourceLines(Dwarf *dwarf, std::size_t bytes) : dwarf_(dwarf), bytes_(bytes)
{
  read_units();
}

void SourceLines::read_units()
{
  Dwarf_CU *cu = nullptr, *next = nullptr;
  Dwarf_Die die;
  std::uint8_t type = 0;
  while (dwarf_get_units(dwarf_.get(), cu, &next, nullptr, &type, &die, nullptr) == 0) {
    cu = next;
    if (type != DW_UT_compile)
      continue;
    Dwarf_Addr base = 0, start = 0, end = 0;
    for (std::ptrdiff_t at = 0; (at = dwarf_ranges(&die, at, &base, &start, &end)) > 0;) {
      // A range at 0 is a function that the linker threw away.
      if (start != 0 && start < end)
        units_.push_back({start, end, dwarf_dieoffset(&die)});
      if (units_.size() >= kMaxRanges)
        return;
    }
  }
  std::ranges::sort(units_, {}, &Unit::start);
  units_.shrink_to_fit();
}

std::vector<SourceLines::Place> SourceLines::at(std::uint64_t address)
{
  std::vector<Place> places;
  auto after = std::ranges::upper_bound(units_, address, {}, &Unit::start);
  Dwarf_Die unit;
  if (after == units_.begin() || address >= std::prev(after)->end ||
      dwarf_offdie(dwarf_.get(), std::prev(after)->die, &unit) == nullptr)
    return places;

  std::string file;
  int line = 0;
  if (Dwarf_Line *found = dwarf_getsrc_die(&unit, address); found != nullptr) {
    file = shown(dwarf_linesrc(found, nullptr, nullptr));
    if (dwarf_lineno(found, &line) != 0)
      line = 0;
  }
  auto functions = Descent(address).from(unit);
  for (auto die = functions.rbegin(); die != functions.rend(); ++die) {
    Place place{name_of(*die), file, line, 0, dwarf_tag(&*die) == DW_TAG_inlined_subroutine};
    if (place.inlined) {
      file = file_of_call(unit, *die);
      line = number(*die, DW_AT_call_line);
    } else if (dwarf_entrypc(&*die, &place.start) != 0) {
      place.start = 0;
    }
    places.push_back(std::move(place));
  }
  if (places.empty())
    places.push_back({{}, std::move(file), line, 0, false}); // assembler code
  return places;
}

} // namespace pgmemtrace
