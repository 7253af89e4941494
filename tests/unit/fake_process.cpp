// SPDX-License-Identifier: BSD-2-Clause
// fake_process.cpp - the allocators, as far as their bytes go.
#include "fake_process.h"

#include <algorithm>
#include <cstring>

namespace pgmemtrace::test {

namespace {

class FakeMemory final : public ForeignMemory {
public:
  explicit FakeMemory(std::shared_ptr<Image> image) : ForeignMemory(4242), image_(std::move(image))
  {
  }

  Result<> read(std::span<Piece> pieces) override
  {
    ++image_->calls;
    if (image_->before_read)
      image_->before_read();
    if (image_->gone != 0)
      return Error{.what = "read memory of process 4242", .err = image_->gone};
    for (Piece &piece : pieces)
      piece.ok = image_->read(piece.address, piece.into);
    return Ok{};
  }

private:
  std::shared_ptr<Image> image_;
};

std::uint64_t maxalign(std::uint64_t size) { return (size + 7) / 8 * 8; }

} // namespace

std::unique_ptr<ForeignMemory> memory_of(std::shared_ptr<Image> image)
{
  return std::make_unique<FakeMemory>(std::move(image));
}

void Image::write(std::uint64_t address, std::span<const std::byte> bytes)
{
  for (const std::byte byte : bytes) {
    pages_[address / kPage][address % kPage] = byte;
    ++address;
  }
}

bool Image::read(std::uint64_t address, std::span<std::byte> into) const
{
  while (!into.empty()) {
    const auto page = pages_.find(address / kPage);
    if (page == pages_.end())
      return false;
    const std::size_t part = std::min<std::size_t>(into.size(), kPage - address % kPage);
    std::memcpy(into.data(), page->second.data() + address % kPage, part);
    into = into.subspan(part);
    address += part;
  }
  return true;
}

void Image::map(std::uint64_t address, std::uint64_t size)
{
  for (std::uint64_t page = address / kPage; page <= (address + size - 1) / kPage; ++page)
    pages_.try_emplace(page);
}

FakeProcess::FakeProcess(Layout layout)
    : layout_(std::make_unique<Layout>(std::move(layout))), image_(std::make_shared<Image>())
{
  image_->put<std::uint64_t>(kVariable, 0);
}

std::uint64_t FakeProcess::root() const { return image_->get<std::uint64_t>(kVariable); }

std::unique_ptr<ForeignMemory> FakeProcess::memory() const { return memory_of(image_); }

Sweeper FakeProcess::sweeper(SweepLimits limits) const
{
  return {*layout_, kVariable, memory(), limits};
}

std::uint64_t FakeProcess::take(std::uint64_t size)
{
  const std::uint64_t address = next_;
  next_ += (size + 31) / 16 * 16; // malloc's own header
  image_->map(address, size);
  return address;
}

std::uint64_t FakeProcess::text(const std::string &text)
{
  auto [it, added] = texts_.try_emplace(text, 0);
  if (added) {
    it->second = take(text.size() + 1);
    image_->write(it->second, std::as_bytes(std::span(text.c_str(), text.size() + 1)));
  }
  return it->second;
}

void FakeProcess::link(std::uint64_t context, std::uint64_t parent, const std::string &name,
                       std::uint32_t tag, std::uint64_t allocated)
{
  const auto &at = layout_->context;
  image_->put(context + at.type, tag);
  image_->put(context + at.mem_allocated, allocated);
  image_->put(context + at.parent, parent);
  image_->put(context + at.name, text(name));
  if (parent == 0) {
    image_->put(kVariable, context);
    return;
  }
  const auto first = image_->get<std::uint64_t>(parent + at.firstchild);
  image_->put(context + at.nextchild, first);
  if (first != 0)
    image_->put(first + at.prevchild, context);
  image_->put(parent + at.firstchild, context);
}

void FakeProcess::remove(std::uint64_t context)
{
  const auto &at = layout_->context;
  const auto prev = image_->get<std::uint64_t>(context + at.prevchild);
  const auto next = image_->get<std::uint64_t>(context + at.nextchild);
  const auto parent = image_->get<std::uint64_t>(context + at.parent);
  if (prev != 0)
    image_->put(prev + at.nextchild, next);
  else
    image_->put(parent + at.firstchild, next);
  if (next != 0)
    image_->put(next + at.prevchild, prev);
}

void FakeProcess::set_ident(std::uint64_t context, const std::string &ident)
{
  image_->put(context + layout_->context.ident, text(ident));
}

void FakeProcess::put_block(std::uint64_t block, std::uint64_t aset, std::uint64_t size,
                            std::uint64_t used)
{
  const auto &at = layout_->aset_block;
  image_->put(block + at.aset, aset);
  image_->put(block + at.freeptr, block + at.size + used);
  image_->put(block + at.endptr, block + size);
}

std::uint64_t FakeProcess::alloc_set(std::uint64_t parent, const std::string &name,
                                     std::uint64_t size, std::uint64_t used)
{
  const std::uint64_t context = take(size);
  link(context, parent, name, layout_->tag.aset, size);
  const std::uint64_t keeper = context + maxalign(layout_->aset.size);
  put_block(keeper, context, size - maxalign(layout_->aset.size), used);
  image_->put(context + layout_->aset.blocks, keeper);
  return context;
}

std::uint64_t FakeProcess::add_block(std::uint64_t aset, std::uint64_t size, std::uint64_t used)
{
  const auto &at = layout_->aset_block;
  const std::uint64_t block = take(size);
  put_block(block, aset, size, used);
  const auto head = image_->get<std::uint64_t>(aset + layout_->aset.blocks);
  image_->put(block + at.next, head);
  image_->put(head + at.prev, block);
  image_->put(aset + layout_->aset.blocks, block);
  const std::uint64_t allocated = aset + layout_->context.mem_allocated;
  image_->put(allocated, image_->get<std::uint64_t>(allocated) + size);
  return block;
}

std::uint64_t FakeProcess::add_free_chunk(std::uint64_t aset, int list)
{
  const auto head = image_->get<std::uint64_t>(aset + layout_->aset.blocks);
  const std::uint64_t freeptr = head + layout_->aset_block.freeptr;
  const auto chunk = image_->get<std::uint64_t>(freeptr);
  image_->put(freeptr, chunk + layout_->aset_chunk_header + (std::uint64_t{8} << list));
  const std::uint64_t first = aset + layout_->aset.freelist + 8 * static_cast<unsigned>(list);
  const std::uint32_t link = layout_->aset_chunk_header + layout_->aset_chunk_link;
  image_->put(chunk + link, image_->get<std::uint64_t>(first));
  image_->put(first, chunk);
  return chunk;
}

void FakeProcess::put_list(std::uint64_t head, const std::vector<std::uint64_t> &nodes)
{
  std::uint64_t previous = head;
  for (const std::uint64_t node : nodes) {
    image_->put(previous + 8, node);
    image_->put(node, previous);
    previous = node;
  }
  image_->put(previous + 8, head);
  image_->put(head, previous);
}

std::uint64_t FakeProcess::generation(std::uint64_t parent, const std::string &name,
                                      const std::vector<GenerationBlockSpec> &blocks)
{
  const auto &at = layout_->generation_block;
  const std::uint64_t context = take(layout_->generation.size + 64);
  std::uint64_t allocated = 0;
  std::vector<std::uint64_t> nodes;
  for (const auto &spec : blocks) {
    const std::uint64_t block = take(spec.size);
    image_->put(block + at.blksize, spec.size);
    image_->put(block + at.nchunks, spec.chunks);
    image_->put(block + at.nfree, spec.free);
    image_->put(block + at.freeptr, block + at.size + spec.used);
    image_->put(block + at.endptr, block + spec.size);
    if (at.context != kAbsent)
      image_->put(block + at.context, context);
    nodes.push_back(block + at.node);
    allocated += spec.size;
  }
  put_list(context + layout_->generation.blocks, nodes);
  link(context, parent, name, layout_->tag.generation, allocated);
  return context;
}

std::uint64_t FakeProcess::slab(std::uint64_t parent, const std::string &name,
                                std::uint32_t chunk_size, int chunks_per_block,
                                const std::vector<int> &free, int empty)
{
  const auto &at = layout_->slab;
  const bool by_free_chunks = at.blocklist == kAbsent;
  const auto lists =
      by_free_chunks ? static_cast<std::uint32_t>(chunks_per_block) + 1 : at.blocklists;
  const std::uint32_t header = by_free_chunks ? at.size + lists * 16 : at.size;
  const std::uint32_t block_size =
      layout_->slab_block.size + chunk_size * static_cast<std::uint32_t>(chunks_per_block);
  const std::uint64_t context = take(header);
  image_->put(context + at.full_chunk_size, chunk_size);
  image_->put(context + at.block_size, block_size);
  image_->put(context + at.chunks_per_block, chunks_per_block);
  if (by_free_chunks)
    image_->put(context + at.header_size, header);
  else
    image_->put(context + at.emptyblocks_count, empty);
  std::vector<std::vector<std::uint64_t>> nodes(lists);
  for (const int count : free) {
    const std::uint64_t block = take(block_size);
    image_->put(block + layout_->slab_block.nfree, count);
    nodes[static_cast<std::size_t>(count) % lists].push_back(block + layout_->slab_block.node);
  }
  for (std::uint32_t list = 0; list < lists; ++list)
    put_list(context + (by_free_chunks ? at.freelist : at.blocklist) + list * 16, nodes[list]);
  link(context, parent, name, layout_->tag.slab,
       (free.size() + static_cast<std::uint64_t>(empty)) * block_size);
  return context;
}

std::uint64_t FakeProcess::bump(std::uint64_t parent, const std::string &name, std::uint64_t size,
                                std::uint64_t used)
{
  const auto &at = layout_->bump_block;
  const std::uint64_t context = take(size);
  const std::uint64_t block = context + maxalign(layout_->bump.size);
  image_->put(block + at.freeptr, block + at.size + used);
  image_->put(block + at.endptr, context + size);
  put_list(context + layout_->bump.blocks, {block + at.node});
  link(context, parent, name, layout_->tag.bump, size);
  return context;
}

Layout layout_15()
{
  auto layout = load_layout(15);
  return layout ? *layout : Layout{};
}

Layout layout_17()
{
  Layout layout;
  layout.major = 17;
  layout.context = {80, 0, 8, 16, 24, 32, 40, 48, 56, 64};
  layout.aset = {200, 80, 88, 11, kAbsent, 192};
  layout.aset_block = {40, 0, 8, 16, 24, 32};
  layout.aset_chunk_header = 8;
  layout.aset_chunk_link = 0;
  layout.generation = {128, 112, kAbsent, 104};
  layout.generation_block = {56, 0, 24, 32, 36, 40, 48, 16};
  layout.slab = {176, 80, 84, 88, kAbsent, 92, kAbsent, kAbsent, 104, 120, 128, 3, kAbsent};
  layout.slab_block = {48, 32, 8};
  layout.bump = {112, 96};
  layout.bump_block = {32, 0, 16, 24};
  layout.tag = {469, 470, 471, 472};
  return layout;
}

} // namespace pgmemtrace::test
