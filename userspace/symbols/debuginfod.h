// SPDX-License-Identifier: BSD-2-Clause
// debuginfod.h - executables and their debug files from the servers that DEBUGINFOD_URLS names.
#pragma once

#include <optional>
#include <string>

namespace pgmemtrace {

enum class DebuginfodKind { debuginfo, executable };

// The downloaded file's path in the client's cache.  Nothing without DEBUGINFOD_URLS, without
// elfutils' client library, or where no server has it.  Waits as long as DEBUGINFOD_TIMEOUT says.
std::optional<std::string> debuginfod_file(const std::string &build_id, DebuginfodKind kind);

} // namespace pgmemtrace
