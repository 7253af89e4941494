// SPDX-License-Identifier: BSD-2-Clause
// frame_pointers.h - does code keep frame pointers?  By its unwind rules, which say it exactly.
//
// The kernel follows frame pointers.  Where code does not keep one, what it finds next is no
// caller: one is left out, or the next "return address" is any number.  x86-64 only.
#pragma once

#include <cstddef>

#include <elfutils/libdw.h>

#include "attach/elf_file.h"

namespace pgmemtrace {

// At the instruction that these rules are of: does the frame pointer lead to the caller?
bool leads_to_caller(Dwarf_Frame *rules);

// Of the functions of a file, by samples spread over all of them.
struct FramePointers {
  std::size_t functions = 0; // that were looked at: 0 if the file has no rules
  std::size_t keeping = 0;
  // Builds are of one kind or of the other: some functions in assembler, or some with a stack of
  // variable size, do not make it the other one.  Without rules nothing could be unwound anyway.
  bool kept() const { return keeping * 2 >= functions; }
};
FramePointers frame_pointers(const ElfFile &elf);

} // namespace pgmemtrace
