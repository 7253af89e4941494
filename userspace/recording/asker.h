// SPDX-License-Identifier: BSD-2-Clause
// asker.h - level malloc: whose memory a call stack asked for.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "attach/elf_file.h"
#include "attach/planner.h"
#include "symbols/frame.h"

namespace pgmemtrace {

// Code of a server's executable that takes blocks for memory contexts: by file offset.
class ContextCode {
public:
  ContextCode(const ElfFile &elf, const Plan &plan);
  bool holds(std::uint64_t file_offset) const;

private:
  struct Range {
    std::uint64_t begin = 0, end = 0;
  };
  std::vector<Range> ranges_;
};

struct Heap {
  std::vector<std::string> libraries; // paths, as the process sees them: those with malloc and mmap
  std::string executable;             // path
  const ContextCode *contexts = nullptr;
};

// File name of the first module above malloc itself ("libxml2.so.2.9.14"; strdup and operator new
// ask for others), or kContextBlocks; empty without frames.  `frames`: innermost first.
std::string asker_of(const std::vector<Frame> &frames, const Heap &heap);

} // namespace pgmemtrace
