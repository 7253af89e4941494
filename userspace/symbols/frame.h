// SPDX-License-Identifier: BSD-2-Clause
// frame.h - what an address of a process is called: plain values.
#pragma once

#include <cstdint>
#include <string>

namespace pgmemtrace {

// An address as a recording keeps it: it names the same instruction on another machine, later.
struct CodeAddress {
  std::string module;       // path as the process sees it, or one of the names below
  std::string build_id;     // hex; empty if the module has none
  std::uint64_t offset = 0; // in the module's file; without a file: the address itself

  auto operator<=>(const CodeAddress &) const = default;
};

// Modules without a file.
constexpr const char *kVdso = "[vdso]";      // offset: in the ELF image that the kernel maps
constexpr const char *kJit = "[jit]";        // anonymous code of a process with llvmjit
constexpr const char *kAnonymous = "[anon]"; // anonymous code of any other
// No place at all: who called the frame before it could not be found out.
constexpr const char *kTruncated = "[truncated]";
constexpr const char *kUnmapped = "[unmapped]"; // no code there, now

// One function at an address.  Where code was inlined an address has several, innermost first;
// only the last one is not `inlined`.
struct Frame {
  CodeAddress code;
  std::string function;     // demangled; "malloc@plt" for a PLT entry; empty: no name is right
  std::uint64_t offset = 0; // from the function's start; without a name: the link-time address, as
                            // addr2line takes it, or code.offset where the file cannot be read
  std::uint64_t start = 0;  // link-time start of the function; 0: unknown.  Tells functions without
                            // a name from one another
  std::string file;         // source, empty without DWARF
  int line = 0;             // 0: unknown
  bool inlined = false;
};

// "palloc+0x1f", "list_cons at list.c:76 [inlined]", "postgres+0x3a4f10", "[jit]".
std::string to_string(const Frame &frame);

} // namespace pgmemtrace
