// SPDX-License-Identifier: BSD-2-Clause
// plt.cpp - PLT entries by what they jump through.
//
//   .plt, .plt.sec, .plt.got:  [endbr64] [bnd] jmp *slot(%rip)
//   .rela.plt, .rela.dyn:      slot -> symbol
//
// The order of entries is not that of relocations with every linker, so the jump decides.
#include "symbols/plt.h"

#include <cstring>
#include <optional>

#include <gelf.h>

namespace pgmemtrace {

namespace {

constexpr std::uint64_t kMaxSection = 16 << 20;

std::string_view section_name(Elf *elf, const GElf_Shdr &shdr)
{
  std::size_t names = 0;
  if (elf_getshdrstrndx(elf, &names) != 0)
    return {};
  const char *name = elf_strptr(elf, names, shdr.sh_name);
  return name == nullptr ? std::string_view{} : name;
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
  for (Elf_Scn *scn = nullptr; (scn = elf_nextscn(elf, scn)) != nullptr;) {
    GElf_Shdr shdr;
    if (gelf_getshdr(scn, &shdr) == nullptr || shdr.sh_type != SHT_PROGBITS ||
        shdr.sh_size > kMaxSection || !section_name(elf, shdr).starts_with(".plt"))
      continue;
    const Elf_Data *data = elf_rawdata(scn, nullptr);
    if (data == nullptr || data->d_buf == nullptr)
      continue;
    const auto *bytes = static_cast<const std::uint8_t *>(data->d_buf);
    const std::uint64_t size = shdr.sh_entsize == 8 ? 8 : 16;
    for (std::uint64_t at = 0; at + size <= data->d_size; at += size)
      if (const auto slot = slot_of(bytes + at, size, shdr.sh_addr + at))
        if (const auto name = file.linked_at(*slot); !name.empty())
          found.push_back({shdr.sh_addr + at, size, name});
  }
  return found;
}

} // namespace pgmemtrace
