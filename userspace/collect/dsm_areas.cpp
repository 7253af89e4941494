// SPDX-License-Identifier: BSD-2-Clause
#include "collect/dsm_areas.h"

#include <algorithm>
#include <cstddef>
#include <cstring>

namespace pgmemtrace {
namespace {

constexpr std::uint32_t kSegmentMagic = 0x0ce26608; // dsa.c, DSA_SEGMENT_HEADER_MAGIC
constexpr std::uint64_t kRounding = 4096;           // segments in main shared memory are pages

// dsm_registry.c, DSMRegistryEntry of 17 and 18.
struct RegistryEntry {
  char name[64];
  std::uint32_t handle;
  std::uint32_t unused;
  std::uint64_t size;
};

bool is_name(const char (&name)[64])
{
  const auto length = strnlen(name, sizeof(name));
  return length > 0 && length < sizeof(name);
}

bool fits(std::uint64_t asked, std::uint64_t bytes)
{
  return asked != 0 && asked <= bytes && bytes - asked < kRounding;
}

} // namespace

bool AreaHandles::has_piece(const AreaHeader &header, std::uint64_t bytes) const
{
  return fits(header.size, bytes) &&
         without_piece_.contains((header.magic ^ kSegmentMagic) / kMaxPieces);
}

std::vector<std::uint32_t>
find_registered(const DsmFile &area,
                const std::unordered_map<std::uint32_t, const DsmSegment *> &segments,
                std::uint64_t &budget)
{
  constexpr std::size_t kStep = 256UL * 1024;
  constexpr std::size_t kAlign = 8; // of every chunk of an area
  std::vector<std::uint32_t> found;
  std::vector<std::byte> window(kStep + sizeof(RegistryEntry));
  for (std::uint64_t offset = 0; offset < area.bytes() && budget > 0; offset += kStep) {
    const std::size_t wanted = std::min<std::uint64_t>(window.size(), budget);
    const std::size_t got = area.read(offset, std::span(window).first(wanted));
    budget -= std::min<std::uint64_t>(budget, kStep);
    for (std::size_t at = 0; at + sizeof(RegistryEntry) <= got; at += kAlign) {
      std::uint32_t handle = 0;
      std::memcpy(&handle, window.data() + at + offsetof(RegistryEntry, handle), sizeof(handle));
      const auto segment = segments.find(handle);
      if (segment == segments.end())
        continue;
      RegistryEntry entry;
      std::memcpy(&entry, window.data() + at, sizeof(entry));
      if (is_name(entry.name) && fits(entry.size, segment->second->bytes))
        found.push_back(handle);
    }
  }
  return found;
}

} // namespace pgmemtrace
