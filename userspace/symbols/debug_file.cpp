// SPDX-License-Identifier: BSD-2-Clause
// debug_file.cpp - the search, and what makes a file the right one.
#include "symbols/debug_file.h"

#include <array>
#include <cstdint>
#include <filesystem>
#include <fstream>

#include <elfutils/libdwelf.h>
#include <zlib.h>

#include "attach/rooted_file.h"
#include "symbols/debuginfod.h"

namespace pgmemtrace {

namespace {

// As GDB and objcopy compute it.
std::optional<std::uint32_t> checksum(const std::string &path)
{
  std::ifstream file(path, std::ios::binary);
  std::array<char, 64 << 10> bytes;
  uLong sum = crc32(0, nullptr, 0);
  while (file.read(bytes.data(), bytes.size()), file.gcount() > 0)
    sum =
        crc32(sum, reinterpret_cast<const Bytef *>(bytes.data()), static_cast<uInt>(file.gcount()));
  if (!file.eof())
    return std::nullopt;
  return static_cast<std::uint32_t>(sum);
}

struct Wanted {
  std::string build_id;
  std::string link; // file name, empty if there is none
  std::uint32_t link_checksum = 0;
};

Wanted wanted(const ElfFile &binary)
{
  Wanted wanted{.build_id = binary.build_id()};
  GElf_Word checksum = 0;
  const char *link = dwelf_elf_gnu_debuglink(binary.handle(), &checksum);
  // A name, not a way to somewhere else.
  if (link != nullptr && *link != '\0' && std::string_view(link).find('/') == std::string::npos) {
    wanted.link = link;
    wanted.link_checksum = checksum;
  }
  return wanted;
}

std::optional<ElfFile> open_if_right(const std::string &root, const std::string &path,
                                     const Wanted &wanted)
{
  const auto found = open_in_root(root, path);
  if (!found)
    return std::nullopt;
  auto file = ElfFile::open_debug_file(found->path());
  if (!file)
    return std::nullopt;
  const bool right = wanted.build_id.empty() ? checksum(found->path()) == wanted.link_checksum
                                             : file->build_id() == wanted.build_id;
  return right ? std::optional(std::move(*file)) : std::nullopt;
}

std::vector<std::string> candidates(const Wanted &wanted, const std::string &path,
                                    const std::string &folder)
{
  std::vector<std::string> found;
  if (wanted.build_id.size() > 2)
    found.push_back(folder + "/.build-id/" + wanted.build_id.substr(0, 2) + "/" +
                    wanted.build_id.substr(2) + ".debug");
  if (!wanted.link.empty()) {
    const auto parent = std::filesystem::path(path).parent_path().string();
    for (const auto &directory : {parent + "/", parent + "/.debug/", folder + parent + "/"})
      if (directory + wanted.link != path)
        found.push_back(directory + wanted.link);
  }
  return found;
}

} // namespace

std::optional<ElfFile> find_debug_file(const ElfFile &binary, const std::string &path,
                                       const DebugFilePlaces &places)
{
  const Wanted want = wanted(binary);
  for (const auto &root : places.roots)
    for (const auto &candidate : candidates(want, path, places.folder))
      if (auto file = open_if_right(root, candidate, want))
        return file;
  if (places.debuginfod && !want.build_id.empty())
    if (const auto downloaded = debuginfod_file(want.build_id, DebuginfodKind::debuginfo))
      return open_if_right("", *downloaded, want);
  return std::nullopt;
}

} // namespace pgmemtrace
