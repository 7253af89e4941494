// SPDX-License-Identifier: BSD-2-Clause
// piece_batch.h - small pieces of foreign memory, neighbours read as one.
//
// A piece costs the kernel far more than its bytes: it looks up and pins the page for each.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "util/foreign_memory.h"
#include "util/result.h"

namespace pgmemtrace {

class PieceBatch {
public:
  explicit PieceBatch(ForeignMemory &memory) : memory_(memory), gap_(memory.gap()) {}

  // Pieces are added at ascending addresses, then read together.
  void clear();
  void add(std::uint64_t address, std::size_t size);
  Result<> read();

  // The same for pieces of one size.
  Result<> read(std::span<const std::uint64_t> addresses, std::size_t size);

  // The i-th piece; empty if it could not be read together with its neighbours.
  std::span<const std::byte> piece(std::size_t i) const;

private:
  struct Span {
    std::uint64_t begin = 0, end = 0;
    std::size_t offset = 0; // of begin, in the buffer
  };
  struct Part {
    std::uint32_t span = 0, offset = 0, size = 0;
  };

  ForeignMemory &memory_;
  std::uint64_t gap_;
  std::vector<Span> spans_;
  std::vector<Part> parts_;
  std::vector<ForeignMemory::Piece> pieces_; // one per span
  std::unique_ptr<std::byte[]> buffer_;
  std::size_t capacity_ = 0;
};

} // namespace pgmemtrace
