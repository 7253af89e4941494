// SPDX-License-Identifier: BSD-2-Clause
// process_maps.cpp - code among the mappings of a process.
#include "symbols/process_maps.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <elf.h>
#include <map>
#include <span>

#include "util/text.h"

namespace pgmemtrace {

namespace {

constexpr std::size_t kHead = 4096; // of a module; linkers put the headers and the notes there
constexpr std::size_t kMaxBuildId = 64;

using Bytes = std::span<const std::byte>;

template <typename T> std::optional<T> value_at(Bytes bytes, std::uint64_t at)
{
  if (at > bytes.size() || bytes.size() - at < sizeof(T))
    return std::nullopt;
  T value;
  std::memcpy(&value, bytes.data() + at, sizeof value);
  return value;
}

// The build-id among the notes of a PT_NOTE.
std::string build_id_of(Bytes notes)
{
  const auto padded = [](std::uint64_t size) { return (size + 3) & ~3ull; };
  for (std::uint64_t at = 0; const auto note = value_at<Elf64_Nhdr>(notes, at);) {
    const auto name = at + sizeof *note;
    const auto content = name + padded(note->n_namesz);
    if (note->n_type == NT_GNU_BUILD_ID && note->n_descsz <= kMaxBuildId &&
        content + note->n_descsz <= notes.size() && note->n_namesz == sizeof ELF_NOTE_GNU &&
        std::memcmp(notes.data() + name, ELF_NOTE_GNU, sizeof ELF_NOTE_GNU) == 0)
      return hex(notes.subspan(content, note->n_descsz));
    at = content + padded(note->n_descsz);
  }
  return {};
}

std::string build_id_in_memory(ForeignMemory &memory, std::uint64_t base)
{
  std::array<std::byte, kHead> head;
  if (base == 0 || !memory.read_bytes(base, head))
    return {};
  const auto header = value_at<Elf64_Ehdr>(head, 0);
  if (std::memcmp(header->e_ident, ELFMAG, SELFMAG) != 0 ||
      header->e_phentsize != sizeof(Elf64_Phdr))
    return {};
  for (std::uint64_t i = 0; i < header->e_phnum; ++i) {
    if (header->e_phoff >= kHead)
      break;
    const auto segment = value_at<Elf64_Phdr>(head, header->e_phoff + i * sizeof(Elf64_Phdr));
    if (!segment)
      break;
    if (segment->p_type != PT_NOTE || segment->p_offset >= kHead)
      continue;
    const auto size = std::min(segment->p_filesz, kHead - segment->p_offset);
    if (auto id = build_id_of(Bytes(head).subspan(segment->p_offset, size)); !id.empty())
      return id;
  }
  return {};
}

// Modules in the order of their first executable mapping.
class Builder {
public:
  explicit Builder(const std::vector<Proc::Mapping> &mappings)
      : anonymous_(jit_loaded(mappings) ? kJit : kAnonymous)
  {
    for (const auto &mapping : mappings) {
      note_base(mapping);
      if (mapping.executable && mapping.start < mapping.end)
        maps_.regions.push_back({mapping.start, mapping.end, mapping.offset, module_of(mapping)});
    }
    std::ranges::sort(maps_.regions, {}, &ProcessMaps::Region::start);
  }
  ProcessMaps take() { return std::move(maps_); }

private:
  using Key = std::pair<std::string, std::uint64_t>;

  void note_base(const Proc::Mapping &mapping)
  {
    if ((mapping.inode != 0 && mapping.offset == 0) || mapping.path == kVdso)
      bases_.try_emplace({mapping.path, mapping.inode}, mapping.start);
  }

  std::uint32_t module_of(const Proc::Mapping &mapping)
  {
    const auto next = static_cast<std::uint32_t>(maps_.modules.size());
    const Key key{mapping.path, mapping.inode};
    const auto [known, is_new] = indexes_.try_emplace(key, next);
    if (is_new) {
      const auto base = bases_.find(key);
      maps_.modules.push_back({mapping.path.empty() ? anonymous_ : mapping.path,
                               {},
                               mapping.inode,
                               base == bases_.end() ? 0 : base->second});
    }
    return known->second;
  }

  const char *anonymous_;
  ProcessMaps maps_;
  std::map<Key, std::uint32_t> indexes_;
  std::map<Key, std::uint64_t> bases_;
};

// A module of the same file at the same place.
const ProcessMaps::Module *same_module(const ProcessMaps *known, const ProcessMaps::Module &module)
{
  if (known == nullptr)
    return nullptr;
  const auto found = std::ranges::find_if(known->modules, [&](const ProcessMaps::Module &other) {
    return other.base == module.base && other.inode == module.inode && other.path == module.path;
  });
  return found == known->modules.end() ? nullptr : &*found;
}

} // namespace

const ProcessMaps::Region *ProcessMaps::region(std::uint64_t address) const
{
  const auto after = std::ranges::upper_bound(regions, address, {}, &Region::start);
  if (after == regions.begin() || address >= std::prev(after)->end)
    return nullptr;
  return &*std::prev(after);
}

CodeAddress ProcessMaps::locate(std::uint64_t address) const
{
  const Region *found = region(address);
  if (found == nullptr)
    return {kUnmapped, {}, address};
  const Module &module = modules[found->module];
  if (module.path == kVdso) // the kernel shows no offset
    return {module.path, module.build_id, address - module.base};
  if (module.inode == 0)
    return {module.path, {}, address};
  return {module.path, module.build_id, found->offset + (address - found->start)};
}

ProcessMaps read_process_maps(const std::vector<Proc::Mapping> &mappings, ForeignMemory &memory,
                              const ProcessMaps *known)
{
  ProcessMaps maps = Builder(mappings).take();
  for (auto &module : maps.modules) {
    const auto *before = same_module(known, module);
    module.build_id =
        before != nullptr ? before->build_id : build_id_in_memory(memory, module.base);
  }
  return maps;
}

} // namespace pgmemtrace
