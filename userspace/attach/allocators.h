// SPDX-License-Identifier: BSD-2-Clause
// allocators.h - the functions of PostgreSQL's allocators, found in an executable.
//
// From 16 on they are exported.  Before, they are static, and their addresses stand in a table
// that the function which makes contexts names.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "attach/elf_file.h"
#include "attach/heap_calls.h"
#include "snapshot/snapshot.h"

namespace pgmemtrace {

// What is asked of the binary besides its code.
struct Allocators {
  std::function<std::optional<std::uint64_t>(const std::string &)> function; // an exported one
  std::function<std::optional<std::uint64_t>(std::uint64_t)> pointer;        // what it points to
};

struct AllocatorFunction {
  enum class Role : std::uint8_t { create, allocate, release, resize, reset, destroy };
  Role role = Role::create;
  ContextType type = ContextType::unknown;
  std::string name; // "AllocSetAlloc", in 15 and older too
  std::uint64_t address = 0;
};

struct AllocatorFunctions {
  std::vector<AllocatorFunction> functions;
  std::vector<std::string> incomplete; // creators of contexts whose methods were not found
  bool exported = false;               // 16 and later

  // Is a function's first argument the context?  From 16 on a chunk alone is handed over to free
  // and realloc (PostgreSQL c6e0fe1f2a).
  bool takes_context(AllocatorFunction::Role role) const
  {
    using Role = AllocatorFunction::Role;
    return !exported || (role != Role::release && role != Role::resize);
  }
};

AllocatorFunctions find_allocator_functions(const Code &code, const Allocators &allocators);

// A place that is not watched, and why.
struct UnprovenSite {
  std::string function;
  std::string reason;
};

// Both from an executable.  They refer to it.
Code code_of(const ElfFile &elf);
Allocators allocators_of(const ElfFile &elf);

} // namespace pgmemtrace
