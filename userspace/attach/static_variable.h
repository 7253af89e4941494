// SPDX-License-Identifier: BSD-2-Clause
// static_variable.h - a variable that a build does not export, found through the code that
// reads it.
//
// x86-64 only: there one instruction loads a variable, `mov reg, [rip+distance]`.
#pragma once

#include <cstdint>
#include <span>

#include "attach/elf_file.h"

namespace pgmemtrace {

// Link-time address of the variable from which each of the exported functions takes the first
// pointer that it loads; 0 if one of them is missing or they do not agree.
std::uint64_t variable_loaded_first(const ElfFile &elf, std::span<const char *const> functions);

} // namespace pgmemtrace
