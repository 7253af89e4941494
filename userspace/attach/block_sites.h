// SPDX-License-Identifier: BSD-2-Clause
// block_sites.h - where PostgreSQL's allocators gain and return blocks, proved per binary.
//
//   AllocSetAlloc -- call malloc --> a context gains a block     (context: where it was proved to
//   be) AllocSetRealloc - call realloc -> a block changes its size   (context: in the block)
//   AllocSetFree, Reset, Delete - call free --> a block returns  (the same, or in the block)
//   AllocSetContextCreateInternal - call malloc --> a context is made with fresh memory
//
// The same for Generation, Slab and (17 and later) Bump; where the functions are: allocators.h.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <pgmemtrace/abi.h>

#include "attach/allocators.h"
#include "attach/heap_calls.h"
#include "attach/layout.h"
#include "snapshot/snapshot.h"

namespace pgmemtrace {

// What a probe there is for.
struct BlockRole {
  pgmt_site_kind kind = PGMT_SITE_GAIN;
  ContextType type = ContextType::unknown;
  // Of the context; for PGMT_SITE_CREATE of its name.  None: the block tells.
  std::optional<Holder> holder;
  // It returns blocks and never a whole context: the context's next gain finds it smaller, so
  // that only a recording, which is exact at every moment, pays for a probe.
  bool record_only = false;
};

struct BlockSite {
  BlockRole role;
  // "AllocSetAlloc", in 15 and older too; "AllocSetAlloc's helper" for code that it jumps to.
  std::string function;
  std::uint32_t displacement = 0; // from the start of that code
  std::uint64_t address = 0;      // of the call or jump
  std::string instruction;
};

struct BlockSites {
  std::vector<BlockSite> sites;
  std::vector<UnprovenSite> unproven; // growth there shows at the next boundary, without a stack
};

BlockSites find_block_sites(const Code &code, const Allocators &allocators);

// Where the kernel half finds a register, by its number (instruction.h): in words of struct
// pt_regs.
std::uint8_t place_of_register(unsigned number);

// As the kernel half takes it.
pgmt_site site_record(const BlockRole &role, std::uint64_t address, const Layout &layout);

} // namespace pgmemtrace
