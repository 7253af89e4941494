// SPDX-License-Identifier: BSD-2-Clause
#include "collect/piece_batch.h"

#include <algorithm>

namespace pgmemtrace {

void PieceBatch::clear()
{
  spans_.clear();
  parts_.clear();
}

void PieceBatch::add(std::uint64_t address, std::size_t size)
{
  const std::uint64_t end = address + size;
  // Addresses that wrap around stay alone: they are refused one by one.
  if (!spans_.empty() && end > address && spans_.back().end > spans_.back().begin &&
      address >= spans_.back().begin && address <= spans_.back().end + gap_)
    spans_.back().end = std::max(spans_.back().end, end);
  else
    spans_.push_back({.begin = address, .end = end});
  parts_.push_back({.span = static_cast<std::uint32_t>(spans_.size() - 1),
                    .offset = static_cast<std::uint32_t>(address - spans_.back().begin),
                    .size = static_cast<std::uint32_t>(size)});
}

Result<> PieceBatch::read()
{
  std::size_t total = 0;
  for (Span &span : spans_) {
    span.offset = total;
    total += span.end - span.begin;
  }
  if (total > capacity_) {
    buffer_ = std::make_unique_for_overwrite<std::byte[]>(total);
    capacity_ = total;
  }
  pieces_.clear();
  for (const Span &span : spans_) {
    pieces_.push_back({.address = span.begin,
                       .into = std::span(buffer_.get() + span.offset, span.end - span.begin)});
  }
  return memory_.read(pieces_);
}

Result<> PieceBatch::read(std::span<const std::uint64_t> addresses, std::size_t size)
{
  clear();
  for (const std::uint64_t address : addresses)
    add(address, size);
  return read();
}

std::span<const std::byte> PieceBatch::piece(std::size_t i) const
{
  const Part &part = parts_[i];
  if (!pieces_[part.span].ok)
    return {};
  return {buffer_.get() + spans_[part.span].offset + part.offset, part.size};
}

} // namespace pgmemtrace
