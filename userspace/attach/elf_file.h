// SPDX-License-Identifier: BSD-2-Clause
// elf_file.h - what we ask of an executable: symbols, bytes, function bounds, build-id.
//
// Works on stripped binaries (.dynsym, .eh_frame).  Everything read is checked against
// the file's size: the file may be cut, replaced or hostile.  It is read, not mapped: whoever
// owns it may cut it while we look, and a mapping would end us with SIGBUS.  Only what is asked
// for is read, and it stays in memory: tables (8 bytes per symbol, 16 per function), and until
// drop_bytes() segments and relocations.  One thread at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "util/result.h"

struct Elf;
struct Dwarf_CFI_s;

namespace pgmemtrace {

class ElfFile {
public:
  struct Symbol {
    std::uint64_t address = 0; // link-time virtual address
    std::uint64_t size = 0;
  };
  enum class Machine { x86_64, aarch64, other };

  // A function that the file itself has; the name lives as long as the ElfFile.
  struct NamedFunction {
    Symbol symbol; // size 0: its author gave none
    std::string_view name;
    bool global = false;
  };

  static Result<ElfFile> open(const std::string &path);
  // A separate debug file.  Its program headers are those of the stripped file, whose bytes it
  // does not have: nothing that asks for bytes or file offsets has an answer here.
  static Result<ElfFile> open_debug_file(const std::string &path);
  ElfFile(ElfFile &&) noexcept;
  ElfFile &operator=(ElfFile &&) noexcept;
  ~ElfFile();

  Machine machine() const;
  std::string build_id() const;                                // hex; empty if there is none
  std::optional<Symbol> function(std::string_view name) const; // .dynsym, then .symtab
  std::optional<Symbol> object(std::string_view name) const;
  std::vector<NamedFunction> functions() const; // of .symtab, or of .dynsym where that is stripped
  // Start and size of the function that covers an address, by .eh_frame.
  std::optional<Symbol> bounds(std::uint64_t address) const;
  // All of these, by address.  Valid as long as the ElfFile.
  std::span<const Symbol> compiled_functions() const;
  // Bytes at a link-time address, cut at the end of the segment.  Valid until drop_bytes().
  std::span<const std::byte> bytes(std::uint64_t address, std::size_t size) const;
  // Name of the symbol whose address the dynamic linker puts into the pointer at an address
  // ("malloc"), mostly of another file; empty if none.  Lives as long as the file.
  std::string_view linked_at(std::uint64_t address) const;
  // The first such pointer to `symbol`.
  std::optional<std::uint64_t> pointer_to(std::string_view symbol) const;
  // Where a pointer in the file points, as a link-time address; nullopt if it is none.
  std::optional<std::uint64_t> pointer_at(std::uint64_t address) const;
  // All executable PT_LOAD bytes with their link-time address.
  struct Segment {
    std::uint64_t address = 0;
    std::span<const std::byte> bytes;
  };
  std::vector<Segment> executable_segments() const;
  // Where a variable lives that the program writes to.  None: outside, or in what the dynamic
  // linker makes read-only after its work (.got, .data.rel.ro).
  enum class Storage { none, initialized, zeroed }; // .data, .bss
  Storage storage(std::uint64_t address) const;
  // Where a link-time address lies in the file (what uprobes take), nullopt outside PT_LOADs.
  std::optional<std::uint64_t> file_offset(std::uint64_t address) const;
  // The inverse for executable code, also on the part of a page that only a mapping shows.
  std::optional<std::uint64_t> link_address(std::uint64_t file_offset) const;
  // First string in a read-only segment that starts with `prefix` ("PostgreSQL 15").
  std::optional<std::string> find_string(std::string_view prefix) const;
  // In .dynsym alone: cheap, also on a large executable of somebody else.
  bool exports(std::string_view name) const;
  // Does a function in .dynsym begin there?
  bool exports_function_at(std::uint64_t address) const;
  std::uint64_t entry_address() const; // link-time; AT_ENTRY of a process minus this: load bias
  // How functions call: .eh_frame, for libdw; null where there is none.  Ours, until drop_bytes().
  ::Dwarf_CFI_s *unwind_rules() const;
  // For libdw, and for what is asked for in one place only.  Ours; reads with pread.
  ::Elf *handle() const;
  // Frees the segments, relocations and rules that were read; spans that were handed out end here.
  void drop_bytes() const;

private:
  struct Impl;
  explicit ElfFile(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

} // namespace pgmemtrace
