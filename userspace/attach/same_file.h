// SPDX-License-Identifier: BSD-2-Clause
// same_file.h - do two names lead to one file, as uprobes see it?
//
// On overlayfs each mount (each container) shows device and inode numbers of its own making,
// /proc/PID/maps too, while a uprobe goes to the inode of the layer below and fires for all of
// them.  No number says so on every kernel and file system: so the kernel is asked.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "util/result.h"

namespace pgmemtrace {

// Which of `others` is `file`.  Puts a breakpoint on its instruction at `offset`, in this process
// alone, and looks in whose private mapping it shows; takes some 30 ms.  Nobody else must have one
// there.  Error: a file that cannot be opened or mapped, or the kernel's reason not to probe.
Result<std::optional<std::size_t>> find_same_file(const std::string &file, std::uint64_t offset,
                                                  const std::vector<std::string> &others);

} // namespace pgmemtrace
