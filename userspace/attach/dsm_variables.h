// SPDX-License-Identifier: BSD-2-Clause
// dsm_variables.h - where a server says what dynamic shared memory it has.
#pragma once

#include <cstdint>

#include "attach/elf_file.h"
#include "util/result.h"

namespace pgmemtrace {

// Link-time addresses.
struct DsmVariables {
  std::uint64_t shared_memory = 0;       // PGShmemHeader *UsedShmemSegAddr
  std::uint64_t segments = 0;            // dlist_head dsm_segment_list, static: of each process
  std::uint64_t transaction_context = 0; // MemoryContext CurTransactionContext
  std::uint64_t session = 0;             // Session *CurrentSession
};

// Error: the build lacks one of them.
Result<DsmVariables> find_dsm_variables(const ElfFile &elf);

} // namespace pgmemtrace
