// SPDX-License-Identifier: BSD-2-Clause
// library.h - the extension's library as a server runs it: where its marker is.
//
// docs/extension_protocol.md: "the marker".
#pragma once

#include <cstdint>
#include <optional>

#include <sys/types.h>

#include "attach/proc.h"
#include "attach/rooted_file.h"
#include "util/result.h"

namespace pgmemtrace {

struct ExtensionLibrary {
  RootedFile file;
  std::uint64_t request = 0;  // offset in the file of pgmemtrace_request()
  std::uint64_t watchers = 0; // ... and of the counter of those who watch it
};

// nullopt: the process has not mapped it.  Error: it has, and its file is not there any more (an
// upgrade without a restart), or is not what it should be.
Result<std::optional<ExtensionLibrary>> find_extension(const Proc &proc, pid_t postmaster);

} // namespace pgmemtrace
