// SPDX-License-Identifier: BSD-2-Clause
// heap_functions.h - the malloc, free and mmap that a server's processes really call.
//
//   postgres --its pointer to malloc, as the dynamic linker filled it--> an address in a mapping
//   --/proc/PID/map_files--> the very file, in whatever container --its symbols--> probe sites
//
// So a malloc that was put before the C library's (LD_PRELOAD, linked in) is the one that is
// found, and a library that was replaced by an upgrade is the old one as long as it is in use.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <sys/types.h>

#include <pgmemtrace/abi.h>

#include "attach/elf_file.h"
#include "attach/proc.h"
#include "attach/rooted_file.h"
#include "util/result.h"

namespace pgmemtrace {

struct HeapFunction {
  pgmt_heap_call call = PGMT_HEAP_MALLOC;
  std::string name;
  std::uint64_t file_offset = 0; // what uprobes take
  bool emulated = false;         // false: the kernel single-steps it, dear

  bool returns() const { return call < PGMT_HEAP_FREE; } // it is probed there as well
};

// A library that has some of them.
struct HeapLibrary {
  std::string path; // as the process sees it
  RootedFile file;
  std::vector<HeapFunction> functions;
};

// `elf`: the executable of the process.  Error: it has a malloc of its own, or its library cannot
// be read or probed; ESRCH: it is gone.
Result<std::vector<HeapLibrary>> find_heap_functions(pid_t pid, const ElfFile &elf,
                                                     std::uint64_t load_bias,
                                                     const Proc &proc = Proc());

// Those that a library exports of the malloc family, or of those that map memory.
enum class HeapFamily : std::uint8_t { chunks, mappings };
std::vector<HeapFunction> heap_functions_of(const ElfFile &library, HeapFamily family);

} // namespace pgmemtrace
