// SPDX-License-Identifier: BSD-2-Clause
// plt.cpp - PLT entries by what they jump through.
//
//   .plt, .plt.sec, .plt.got:  [endbr64] [bnd] jmp *slot(%rip)
//   .rela.plt, .rela.dyn:      slot -> symbol
//
// The order of entries is not that of relocations with every linker, so the jump decides.
#include "symbols/plt.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <unordered_map>

#include <gelf.h>

namespace pgmemtrace {

namespace {

constexpr std::size_t kMaxSlots = 1 << 16;
constexpr std::uint64_t kMaxSection = 16 << 20;

using Slots = std::unordered_map<std::uint64_t, std::string_view>;

std::string_view section_name(Elf *elf, const GElf_Shdr &shdr)
{
  std::size_t names = 0;
  if (elf_getshdrstrndx(elf, &names) != 0)
    return {};
  const char *name = elf_strptr(elf, names, shdr.sh_name);
  return name == nullptr ? std::string_view{} : name;
}

// use(shdr, data) for each section that lies in the file and is not out of all proportion.
template <typename Use> void each_section(Elf *elf, Use use)
{
  for (Elf_Scn *scn = nullptr; (scn = elf_nextscn(elf, scn)) != nullptr;) {
    GElf_Shdr shdr;
    if (gelf_getshdr(scn, &shdr) != nullptr && shdr.sh_size <= kMaxSection)
      use(scn, shdr);
  }
}

void add_slots(Elf *elf, Elf_Scn *scn, const GElf_Shdr &shdr, Slots &slots)
{
  Elf_Scn *symbols_scn = elf_getscn(elf, shdr.sh_link);
  GElf_Shdr symbols;
  if (symbols_scn == nullptr || gelf_getshdr(symbols_scn, &symbols) == nullptr ||
      symbols.sh_type != SHT_DYNSYM || symbols.sh_size > kMaxSection)
    return;
  Elf_Data *entries = elf_getdata(scn, nullptr);
  Elf_Data *names = elf_getdata(symbols_scn, nullptr);
  if (entries == nullptr || entries->d_type != ELF_T_RELA || names == nullptr)
    return;
  const std::size_t count = entries->d_size / sizeof(Elf64_Rela);
  for (std::size_t i = 0; i < count && slots.size() < kMaxSlots; ++i) {
    GElf_Rela entry;
    GElf_Sym symbol;
    if (gelf_getrela(entries, static_cast<int>(i), &entry) == nullptr)
      break;
    const auto type = GELF_R_TYPE(entry.r_info);
    if ((type != R_X86_64_JUMP_SLOT && type != R_X86_64_GLOB_DAT) ||
        gelf_getsym(names, static_cast<int>(GELF_R_SYM(entry.r_info)), &symbol) == nullptr)
      continue;
    const char *name = elf_strptr(elf, symbols.sh_link, symbol.st_name);
    if (name != nullptr && *name != '\0')
      slots.emplace(entry.r_offset, name);
  }
}

// The address that an entry's `jmp *slot(%rip)` reads.
std::optional<std::uint64_t> slot_of(const std::uint8_t *entry, std::uint64_t size,
                                     std::uint64_t address)
{
  constexpr std::size_t kJump = 6; // ff 25, and 4 bytes
  for (std::size_t at = 0; at + kJump <= size; ++at) {
    if (entry[at] != 0xff || entry[at + 1] != 0x25)
      continue;
    std::int32_t distance = 0;
    std::memcpy(&distance, entry + at + 2, sizeof distance);
    return address + at + kJump + static_cast<std::uint64_t>(static_cast<std::int64_t>(distance));
  }
  return std::nullopt;
}

} // namespace

std::vector<PltEntry> plt_entries(const ElfFile &file)
{
  std::vector<PltEntry> found;
  if (file.machine() != ElfFile::Machine::x86_64)
    return found;
  Elf *elf = file.handle();
  Slots slots;
  each_section(elf, [&](Elf_Scn *scn, const GElf_Shdr &shdr) {
    if (shdr.sh_type == SHT_RELA && (shdr.sh_flags & SHF_ALLOC) != 0)
      add_slots(elf, scn, shdr, slots);
  });
  each_section(elf, [&](Elf_Scn *scn, const GElf_Shdr &shdr) {
    if (shdr.sh_type != SHT_PROGBITS || !section_name(elf, shdr).starts_with(".plt"))
      return;
    const Elf_Data *data = elf_rawdata(scn, nullptr);
    if (data == nullptr || data->d_buf == nullptr)
      return;
    const auto *bytes = static_cast<const std::uint8_t *>(data->d_buf);
    const std::uint64_t size = shdr.sh_entsize == 8 ? 8 : 16;
    for (std::uint64_t at = 0; at + size <= data->d_size; at += size)
      if (const auto slot = slot_of(bytes + at, size, shdr.sh_addr + at))
        if (const auto name = slots.find(*slot); name != slots.end())
          found.push_back({shdr.sh_addr + at, size, name->second});
  });
  return found;
}

} // namespace pgmemtrace
