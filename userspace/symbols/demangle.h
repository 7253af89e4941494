// SPDX-License-Identifier: BSD-2-Clause
// demangle.h - C++ names as they were written.
#pragma once

#include <string>
#include <string_view>

namespace pgmemtrace {

// The name itself if it is not a mangled one, or one that would grow out of bounds.  The result is
// fit to show: names come from files that anybody may have written.
std::string demangled(std::string_view name);

} // namespace pgmemtrace
