// SPDX-License-Identifier: BSD-2-Clause
// debug_file.h - where a stripped binary's symbols and DWARF are.
//
// By build-id, by .gnu_debuglink, and, if that is asked for, from debuginfod.  A file counts only
// if its build-id is the binary's or, without one, its checksum is the one that the link names.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "attach/elf_file.h"

namespace pgmemtrace {

struct DebugFilePlaces {
  // Of the file systems to look in: "/proc/PID/root" of a process, "" for the host's own.
  std::vector<std::string> roots{""};
  std::string folder = "/usr/lib/debug"; // in each root
  // Ask the servers of DEBUGINFOD_URLS, when the elfutils client library is installed.  May wait
  // for a download, so it is for reports and not for a running observer.
  bool debuginfod = false;
};

// `path` of the binary: as its process saw it.
std::optional<ElfFile> find_debug_file(const ElfFile &binary, const std::string &path,
                                       const DebugFilePlaces &places);

} // namespace pgmemtrace
