// SPDX-License-Identifier: BSD-2-Clause
// static_variable.h - a variable that no symbol names, found through the code that uses it.
//
// Exported functions use static variables, and what a function uses first is the same in all
// builds that were looked at (13 to 18, Debian's and Ubuntu's, with and without link-time
// optimisation).  So functions are decoded, and several must agree where there are several;
// who reads the variable checks what is found there.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string_view>

#include "attach/elf_file.h"
#include "attach/instruction.h"
#include "util/result.h"

namespace pgmemtrace {

// Link-time address of the first variable of this storage that each of `functions` uses in this
// way: the same one in all of them that the binary exports, and at least one does.  `name` is for
// the error.
Result<std::uint64_t> find_variable(const ElfFile &elf, std::string_view name,
                                    std::initializer_list<std::string_view> functions,
                                    VariableUse::Kind use, ElfFile::Storage storage);

} // namespace pgmemtrace
