// SPDX-License-Identifier: BSD-2-Clause
// alloc_sites.h - level alloc: where requests for memory enter PostgreSQL's allocators, per binary.
//
//   whoever asked -> pstrdup -> MemoryContextAlloc -> AllocSetAlloc
//                    `------- passers --------'      `- probed near its entry
//
// All of palloc and its kin end in a method of the context's allocator, reached by pointer in
// every build (facts/pg_internals.md, section 2).  There the caller is on top of the stack; where
// that is a function which only hands the request on, the one behind it is found by its frame
// pointer, if its unwind rules say that it has one at each of its calls.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include <pgmemtrace/abi.h>

#include "attach/allocators.h"
#include "attach/layout.h"

namespace pgmemtrace {

// What a probe there reads.
struct MethodRole {
  pgmt_method method = PGMT_METHOD_ALLOC;
  ContextType type = ContextType::unknown;
  // Numbers of the registers that hold them at the site.
  std::optional<unsigned> context, chunk, size;
  bool framed = false; // Placement::framed
};

struct MethodSite {
  MethodRole role;
  std::string function;           // "AllocSetAlloc", in 15 and older too
  std::uint32_t displacement = 0; // from its entry
  std::uint64_t address = 0;      // link-time
  std::string instruction;
};

// A stretch of code that asks for others.  Neighbours are one.
struct Passer {
  std::uint64_t address = 0, end = 0; // link-time
  bool is_method = false; // of an allocator: what it calls is a part of the same request
};

struct AllocSites {
  std::vector<MethodSite> sites;
  std::vector<UnprovenSite> unproven; // methods that are not watched, passers that are callers
  std::vector<Passer> passers;        // by address
  std::set<ContextType> tracked;      // allocators all of whose methods have a site
};

// Does the frame pointer lead to the caller, behind a call that returns to `address`?
using CallFrames = std::function<bool(std::uint64_t address)>;

AllocSites find_alloc_sites(const Code &code, const Allocators &allocators,
                            const CallFrames &call_frames);

// By .eh_frame.  It refers to the file.
CallFrames call_frames_of(const ElfFile &elf);

// As the kernel half takes them.
pgmt_method_site method_record(const MethodRole &role, std::uint64_t address, const Layout &layout);
pgmt_passer passer_record(const Passer &passer);

} // namespace pgmemtrace
