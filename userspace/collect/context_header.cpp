// SPDX-License-Identifier: BSD-2-Clause
#include "collect/context_header.h"

#include <algorithm>

namespace pgmemtrace {

namespace {

constexpr std::uint32_t kNodeNext = 8; // dlist_node is {prev, next} in every major

std::size_t maxalign(std::size_t size) { return (size + 7) & ~std::size_t{7}; }

// Not cryptographic: it tells "nothing moved" from "something did".
std::uint64_t mix(std::uint64_t hash, std::uint64_t value)
{
  hash = (hash ^ value) * 0x9e3779b97f4a7c15ULL;
  return hash ^ (hash >> 29);
}

std::uint64_t mix_bytes(std::uint64_t hash, std::span<const std::byte> bytes)
{
  for (std::uint32_t at = 0; at + 8 <= bytes.size(); at += 8)
    hash = mix(hash, field<std::uint64_t>(bytes, at));
  return hash;
}

} // namespace

bool same_links(const ContextHeader &left, const ContextHeader &right)
{
  return left.address == right.address && left.type == right.type && left.parent == right.parent &&
         left.firstchild == right.firstchild && left.prevchild == right.prevchild &&
         left.nextchild == right.nextchild && left.name == right.name;
}

HeaderDecoder::HeaderDecoder(const Layout &layout) : layout_(layout)
{
  image_size_ = std::max({maxalign(layout.aset.size) + layout.aset_block.size,
                          maxalign(layout.generation.size) + layout.generation_block.size,
                          std::size_t{layout.slab.size}});
  head_size_ = std::max(layout.aset_block.size, layout.generation_block.size);
  if (layout.tag.bump != 0) {
    image_size_ = std::max(image_size_, maxalign(layout.bump.size) + layout.bump_block.size);
    head_size_ = std::max<std::size_t>(head_size_, layout.bump_block.size);
  }
  image_size_ = std::min(image_size_, kMaxImage); // a layout may come from a user's file
}

ContextHeader HeaderDecoder::decode(std::uint64_t address, std::span<const std::byte> image) const
{
  const auto &at = layout_.context;
  ContextHeader header;
  header.address = address;
  header.type = layout_.type_of_tag(field<std::uint32_t>(image, at.type));
  header.mem_allocated = field<std::uint64_t>(image, at.mem_allocated);
  header.parent = field<std::uint64_t>(image, at.parent);
  header.firstchild = field<std::uint64_t>(image, at.firstchild);
  header.prevchild = field<std::uint64_t>(image, at.prevchild);
  header.nextchild = field<std::uint64_t>(image, at.nextchild);
  header.name = field<std::uint64_t>(image, at.name);
  header.ident = field<std::uint64_t>(image, at.ident);
  header.total_bytes = total_bytes(header, image);
  header.head_block = head_block(header, image);

  std::size_t own_size = at.size; // of the allocator's struct
  switch (header.type) {
  case ContextType::alloc_set: own_size = layout_.aset.size; break;
  case ContextType::generation: own_size = layout_.generation.size; break;
  case ContextType::slab: own_size = layout_.slab.size; break;
  case ContextType::bump: own_size = layout_.bump.size; break;
  case ContextType::unknown: break;
  }
  own_size = std::min(own_size, image.size());
  header.fingerprint = mix(mix(header.mem_allocated, header.name), header.ident);
  if (own_size > at.size) {
    header.fingerprint = mix_bytes(header.fingerprint, image.subspan(at.size, own_size - at.size));
  }

  const std::uint64_t head_offset = header.head_block - address;
  if (header.head_block > address && head_offset < image.size())
    decode_head(header, image.subspan(head_offset));
  return header;
}

// Exact at any moment: PostgreSQL keeps mem_allocated beside each malloc, and the rest of
// the sum in its *Stats functions is constant.
std::uint64_t HeaderDecoder::total_bytes(const ContextHeader &header,
                                         std::span<const std::byte> image) const
{
  const std::uint64_t allocated = header.mem_allocated;
  switch (header.type) {
  case ContextType::generation: return allocated + maxalign(layout_.generation.size);
  case ContextType::slab:
    return allocated + (layout_.slab.header_size != kAbsent
                            ? field<std::uint32_t>(image, layout_.slab.header_size)
                            : layout_.slab.size);
  case ContextType::bump: return allocated > layout_.bump.size ? allocated - layout_.bump.size : 0;
  case ContextType::alloc_set:
  case ContextType::unknown: break;
  }
  return allocated;
}

std::uint64_t HeaderDecoder::head_block(const ContextHeader &header,
                                        std::span<const std::byte> image) const
{
  std::uint64_t own = 0, block = 0;
  switch (header.type) {
  case ContextType::alloc_set: return field<std::uint64_t>(image, layout_.aset.blocks);
  case ContextType::generation:
    own = header.address + layout_.generation.blocks;
    block = field<std::uint64_t>(image, layout_.generation.blocks + kNodeNext);
    return block == own || block == 0 ? 0 : block - layout_.generation_block.node;
  case ContextType::bump:
    own = header.address + layout_.bump.blocks;
    block = field<std::uint64_t>(image, layout_.bump.blocks + kNodeNext);
    return block == own || block == 0 ? 0 : block - layout_.bump_block.node;
  case ContextType::slab:
  case ContextType::unknown: break;
  }
  return 0;
}

bool HeaderDecoder::decode_head(ContextHeader &header, std::span<const std::byte> block) const
{
  std::uint32_t size = 0, owner = kAbsent, freeptr = 0, endptr = 0;
  switch (header.type) {
  case ContextType::alloc_set:
    size = layout_.aset_block.size;
    owner = layout_.aset_block.aset;
    freeptr = layout_.aset_block.freeptr;
    endptr = layout_.aset_block.endptr;
    break;
  case ContextType::generation:
    size = layout_.generation_block.size;
    owner = layout_.generation_block.context;
    freeptr = layout_.generation_block.freeptr;
    endptr = layout_.generation_block.endptr;
    break;
  case ContextType::bump:
    size = layout_.bump_block.size;
    freeptr = layout_.bump_block.freeptr;
    endptr = layout_.bump_block.endptr;
    break;
  case ContextType::slab:
  case ContextType::unknown: return false;
  }
  if (block.size() < size)
    return false;
  if (owner != kAbsent && field<std::uint64_t>(block, owner) != header.address)
    return false;
  const auto from = field<std::uint64_t>(block, freeptr);
  const auto to = field<std::uint64_t>(block, endptr);
  if (from > to || from < header.head_block || to - from > header.total_bytes)
    return false;
  header.head_tail = to - from;
  header.head_known = true;
  header.fingerprint = mix(mix(header.fingerprint, from), to);
  return true;
}

} // namespace pgmemtrace
