// SPDX-License-Identifier: BSD-2-Clause
// context_header.h - the fixed part of one MemoryContext, decoded.
//
// One read of image_size() bytes at a context's address gives its MemoryContextData, the
// allocator's own struct and, since allocators put a context's first ("keeper") block right
// behind it, most often the head block's header as well.
//
//   address  +80                 +sizeof
//   | header | allocator's struct | keeper block's header | chunks ...
//   `------------------- image_size() --------------------'
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "attach/layout.h"
#include "snapshot/snapshot.h"

namespace pgmemtrace {

struct ContextHeader {
  std::uint64_t address = 0;
  std::uint64_t mem_allocated = 0;
  std::uint64_t parent = 0, firstchild = 0, prevchild = 0, nextchild = 0;
  std::uint64_t name = 0, ident = 0;
  ContextType type = ContextType::unknown;
  std::uint64_t total_bytes = 0; // mem_allocated + K(type, major)
  std::uint64_t head_block = 0;  // the block that allocations come from; 0: none, or a Slab
  bool head_known = false;       // head_tail was read
  std::uint64_t head_tail = 0;   // its free bytes between freeptr and endptr
  // Of all but the links: another one means that memory moved.  The same one proves it only
  // for AllocSet and Bump; frees in the others' older blocks leave no trace here.
  std::uint64_t fingerprint = 0;
};

// Are these two the same context at the same place of the tree?
bool same_links(const ContextHeader &left, const ContextHeader &right);

class HeaderDecoder {
public:
  static constexpr std::size_t kMaxImage = 512;

  explicit HeaderDecoder(const Layout &layout);

  std::size_t image_size() const { return image_size_; }
  // A Slab has no keeper block; at the end of the heap less than a whole image can be read.
  std::size_t least_size() const { return std::min<std::size_t>(layout_.slab.size, image_size_); }
  std::size_t head_size() const { return head_size_; }

  // `image`: image_size() bytes.  type is unknown if this is no context.
  ContextHeader decode(std::uint64_t address, std::span<const std::byte> image) const;

  // `block`: head_size() bytes at header.head_block.  False: it is not this context's block.
  bool decode_head(ContextHeader &header, std::span<const std::byte> block) const;

private:
  std::uint64_t total_bytes(const ContextHeader &header, std::span<const std::byte> image) const;
  std::uint64_t head_block(const ContextHeader &header, std::span<const std::byte> image) const;

  const Layout &layout_;
  std::size_t image_size_ = 0;
  std::size_t head_size_ = 0;
};

// A T at `offset` of bytes that were read; T{} beyond their end or where the field is absent.
template <typename T> T field(std::span<const std::byte> bytes, std::uint32_t offset)
{
  T value{};
  if (offset <= bytes.size() && sizeof(T) <= bytes.size() - offset) {
    std::memcpy(&value, bytes.data() + offset, sizeof(T));
  }
  return value;
}

} // namespace pgmemtrace
