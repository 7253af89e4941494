// SPDX-License-Identifier: BSD-2-Clause
// module.h - one executable or library: names, source lines and unwind rules of its code.
//
// Everything is read when it is first asked for.  One thread at a time.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include <elfutils/libdw.h>

#include "attach/elf_file.h"
#include "symbols/debug_file.h"
#include "symbols/frame.h"
#include "symbols/function_table.h"
#include "symbols/source_lines.h"

namespace pgmemtrace {

class Module {
public:
  // `path`: as the process saw the file, for .gnu_debuglink.  `places`: where its debug file may
  // be.
  Module(ElfFile binary, std::string path, DebugFilePlaces places);

  // Where the byte at an offset in the file is linked to run.
  std::optional<std::uint64_t> link_address(std::uint64_t offset) const;

  // The frames at `code`, innermost first, at least one.  `back`: bytes before it to look up
  // instead, 1 for a return address: the call may end its function.  Remembered.
  std::vector<Frame> frames(const CodeAddress &code, unsigned back);

  // Rules of .eh_frame, of link-time addresses.  Null if the file has none.
  Dwarf_CFI *unwind_rules() const { return binary_.unwind_rules(); }

  // Where a stack of frame pointers goes on from an instruction at a link-time address.
  // bottom: main().  Who calls that is the C library, which keeps no frame pointers: of no
  // interest, and a stack that led there would never be proven.
  enum class Link : std::uint8_t { caller, unknown, bottom };
  Link frame_pointer(std::uint64_t address);

  // What the tables that were read so far hold, roughly.
  std::size_t memory_bytes() const;

private:
  // Names and lines.
  struct Tables {
    std::optional<ElfFile> debug_file;
    std::unique_ptr<SourceLines> lines; // null: no DWARF
    std::optional<FunctionTable> functions;
  };

  Tables &tables();
  std::vector<Frame> find_frames(const CodeAddress &code, unsigned back);
  Link find_frame_pointer(std::uint64_t address);
  Frame compiled_frame(const CodeAddress &code, std::uint64_t address, unsigned back);

  ElfFile binary_;
  std::string path_;
  DebugFilePlaces places_;
  std::optional<Tables> tables_;
  std::unordered_map<std::uint64_t, Link> frame_pointers_;                 // by address
  std::map<std::pair<std::uint64_t, unsigned>, std::vector<Frame>> found_; // by offset and back
};

} // namespace pgmemtrace
