// SPDX-License-Identifier: BSD-2-Clause
#include "extension/library.h"

#include <algorithm>
#include <string>

#include <fmt/format.h>

#include "attach/elf_file.h"

namespace pgmemtrace {

namespace {

constexpr std::string_view kFileName = "/pgmemtrace.so";

Result<std::optional<ExtensionLibrary>> examine(RootedFile file, const std::string &path)
{
  auto elf = ElfFile::open(file.path());
  if (!elf)
    return elf.error();
  const auto request = elf->function("pgmemtrace_request");
  const auto watchers = elf->object("pgmemtrace_watchers");
  // The kernel counts in bytes of the file alone (kernel/events/uprobes.c: valid_ref_ctr_vma).
  const bool counted = watchers && elf->storage(watchers->address) == ElfFile::Storage::initialized;
  const auto at = request ? elf->file_offset(request->address) : std::nullopt;
  const auto counter = counted ? elf->file_offset(watchers->address) : std::nullopt;
  if (!at || !counter)
    return Error{path + " has no marker to probe", 0,
                 "is it the pgmemtrace extension, and of this version?"};
  return std::optional(ExtensionLibrary{std::move(file), *at, *counter});
}

} // namespace

Result<std::optional<ExtensionLibrary>> find_extension(const Proc &proc, pid_t postmaster)
{
  const auto mappings = proc.maps(postmaster);
  if (!mappings)
    return std::optional<ExtensionLibrary>(); // gone: the next look at /proc tells
  const auto mapping = std::ranges::find_if(
      *mappings, [](const Proc::Mapping &m) { return m.path.ends_with(kFileName); });
  if (mapping == mappings->end())
    return std::optional<ExtensionLibrary>();
  // A path in /proc/PID/maps begins at the reader's root (fs/d_path.c), so in a chroot it is ours;
  // in a mount namespace of another container it is theirs.  The inode tells.  The device does not:
  // on overlayfs and btrfs it is not the one that stat() shows.
  for (const std::string &root : {proc.path(postmaster, "root").string(), std::string()})
    if (auto file = open_in_root(root, mapping->path);
        file && file->identity().inode == mapping->inode)
      return examine(std::move(*file), mapping->path);
  return Error{fmt::format("{}: not the file any more that the server of process {} runs",
                           mapping->path, postmaster),
               0, "restart that server for its test windows"};
}

} // namespace pgmemtrace
