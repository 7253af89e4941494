// SPDX-License-Identifier: BSD-2-Clause
#include "collect/exact.h"

#include <algorithm>
#include <array>
#include <memory>
#include <vector>

#include "collect/context_header.h"

namespace pgmemtrace {

namespace {

// How many contexts are followed at once: enough to fill a call with pieces, few enough to
// bound the pages that are held.
constexpr std::size_t kBatch = 128;
constexpr std::size_t kPagesKept = 1024;
constexpr std::size_t kMaxBlockHeader = 64;
constexpr std::size_t kMaxFreeLists = 16;
// Of one context.  Those with more have long lists, for which reading ahead does as well.
constexpr std::size_t kMaxPlaces = 64;

// One context's walk.  advance() goes on until the cache misses or the walk has ended.
class Walk {
public:
  Walk(const Layout &layout, PageCache &cache, ExactBudget &budget, ExactJob &job)
      : layout_(layout), cache_(cache), budget_(budget), job_(job)
  {
    if (job_.places == nullptr)
      return;
    for (const std::uint64_t place : *job_.places)
      cache_.read_ahead(place, place + kMaxBlockHeader);
    job_.places->clear();
  }
  virtual ~Walk() = default;
  Walk(const Walk &) = delete;
  Walk &operator=(const Walk &) = delete;

  virtual ExactState advance() = 0;
  ExactJob &job() { return job_; }

protected:
  static ExactState not_found(Found found)
  {
    return found == Found::missing ? ExactState::pending : ExactState::torn;
  }
  template <typename T> Found get(std::uint64_t offset, T &value)
  {
    return cache_.get(job_.context + offset, value);
  }
  void remember(std::uint64_t place)
  {
    if (job_.places == nullptr || job_.places->size() >= kMaxPlaces ||
        place / PageCache::kPage == last_place_)
      return;
    job_.places->push_back(place);
    last_place_ = place / PageCache::kPage;
  }
  std::uint64_t context() const { return job_.context; }
  ExactCounters &counters() { return job_.counters; }
  ExactState take_block()
  {
    if (budget_.blocks == 0)
      return ExactState::over_budget;
    --budget_.blocks;
    ++counters().total_nblocks;
    return ExactState::done;
  }
  // Does the sum of the blocks agree with what the context itself kept count of?
  ExactState sum_up(std::uint64_t expected_total)
  {
    const ExactCounters &sum = counters();
    return sum.total_bytes == expected_total && sum.free_bytes <= sum.total_bytes
               ? ExactState::done
               : ExactState::torn;
  }

  const Layout &layout_;
  PageCache &cache_;
  ExactBudget &budget_;

private:
  ExactJob &job_;
  std::uint64_t last_place_ = 0; // its page
};

std::uint64_t maxalign(std::uint64_t size) { return (size + 7) & ~std::uint64_t{7}; }

// ---- aset.c: AllocSetStats ---------------------------------------------------------

class AllocSetWalk final : public Walk {
public:
  using Walk::Walk;

  ExactState advance() override
  {
    for (;;) {
      ExactState state = ExactState::done;
      switch (step_) {
      case Step::header: state = read_header(); break;
      case Step::blocks: state = follow_blocks(); break;
      case Step::free_lists: return follow_free_lists();
      }
      if (state != ExactState::done)
        return state;
    }
  }

private:
  enum class Step { header, blocks, free_lists };
  struct Extent {
    std::uint64_t begin = 0, end = 0; // where this block's chunks are
  };

  ExactState read_header()
  {
    const std::size_t lists = std::min<std::size_t>(layout_.aset.freelists, kMaxFreeLists);
    auto found = get(layout_.context.mem_allocated, allocated_);
    if (found == Found::yes)
      found = get(layout_.aset.blocks, block_);
    if (found == Found::yes) {
      found = cache_.copy(context() + layout_.aset.freelist,
                          std::as_writable_bytes(std::span(free_.data(), lists)));
    }
    if (found != Found::yes)
      return not_found(found);
    counters().total_bytes = maxalign(layout_.aset.size);
    step_ = Step::blocks;
    return ExactState::done;
  }

  ExactState follow_blocks()
  {
    const auto &at = layout_.aset_block;
    std::array<std::byte, kMaxBlockHeader> bytes;
    const std::span header(bytes.data(), std::min<std::size_t>(at.size, bytes.size()));
    while (block_ != 0) {
      if (const auto found = cache_.copy(block_, header); found != Found::yes)
        return not_found(found);
      const auto freeptr = field<std::uint64_t>(header, at.freeptr);
      const auto endptr = field<std::uint64_t>(header, at.endptr);
      if (field<std::uint64_t>(header, at.aset) != context() ||
          field<std::uint64_t>(header, at.prev) != previous_ || freeptr < block_ + at.size ||
          freeptr > endptr || endptr - block_ > allocated_)
        return ExactState::torn;
      if (const auto state = take_block(); state != ExactState::done)
        return state;
      counters().total_bytes += endptr - block_;
      counters().free_bytes += endptr - freeptr;
      if (counters().total_bytes > allocated_) // a circle among them
        return ExactState::torn;
      remember(block_);
      extents_.push_back({.begin = block_ + at.size, .end = freeptr});
      previous_ = block_;
      block_ = field<std::uint64_t>(header, at.next);
    }
    std::ranges::sort(extents_, {}, &Extent::begin);
    step_ = Step::free_lists;
    return sum_up(allocated_);
  }

  // All lists side by side, so that one fetch serves them all.
  ExactState follow_free_lists()
  {
    bool missing = false;
    for (std::size_t list = 0; list < free_.size(); ++list) {
      const auto state = follow_free_list(list);
      if (state == ExactState::pending)
        missing = true;
      else if (state != ExactState::done)
        return state;
    }
    return missing ? ExactState::pending : sum_up(allocated_);
  }

  ExactState follow_free_list(std::size_t list)
  {
    const std::uint64_t bytes = (std::uint64_t{8} << list) + layout_.aset_chunk_header;
    // Of 15 and older the link lies before the payload: that offset is meant to wrap.
    const std::uint32_t link = layout_.aset_chunk_header + layout_.aset_chunk_link;
    for (std::uint64_t &chunk = free_[list]; chunk != 0;) {
      const Extent *extent = extent_of(chunk, bytes);
      if (extent == nullptr || counters().free_bytes + bytes > counters().total_bytes)
        return ExactState::torn;
      std::uint64_t next = 0;
      if (const auto found = cache_.get(chunk + link, next); found != Found::yes) {
        if (found == Found::missing)
          read_ahead(chunk, *extent);
        return not_found(found);
      }
      if (budget_.free_chunks == 0)
        return ExactState::over_budget;
      --budget_.free_chunks;
      counters().free_bytes += bytes;
      ++counters().free_chunks;
      remember(chunk + link);
      chunk = next;
    }
    return ExactState::done;
  }

  const Extent *extent_of(std::uint64_t chunk, std::uint64_t bytes)
  {
    const auto holds = [&](const Extent &extent) {
      return chunk >= extent.begin && chunk < extent.end && bytes <= extent.end - chunk;
    };
    if (last_extent_ < extents_.size() && holds(extents_[last_extent_]))
      return &extents_[last_extent_];
    auto it = std::ranges::upper_bound(extents_, chunk, {}, &Extent::begin);
    if (it == extents_.begin() || !holds(*--it))
      return nullptr;
    last_extent_ = static_cast<std::size_t>(it - extents_.begin());
    return &*it;
  }

  // Contexts that miss again and again have long lists: read more of the block each time.
  void read_ahead(std::uint64_t chunk, const Extent &extent)
  {
    window_ = std::min(window_ * 2, PageCache::kWindow);
    const std::uint64_t begin = chunk & ~(window_ - 1);
    cache_.read_ahead(std::max(begin, extent.begin), std::min(begin + window_, extent.end));
  }

  Step step_ = Step::header;
  std::uint64_t allocated_ = 0, block_ = 0, previous_ = 0;
  std::array<std::uint64_t, kMaxFreeLists> free_{};
  std::vector<Extent> extents_;
  std::size_t last_extent_ = 0;
  std::uint64_t window_ = PageCache::kPage;
};

// ---- lists of blocks: Generation, Slab, Bump -----------------------------------------

// Follows one dlist of blocks after the other; what a block counts for is the derived
// class's.  A dlist's head and its nodes are {prev, next}; it ends where it began.
class BlockListWalk : public Walk {
public:
  using Walk::Walk;

  ExactState advance() final
  {
    if (!begun_) {
      const auto found = get(layout_.context.mem_allocated, allocated_);
      if (found != Found::yes)
        return not_found(found);
      if (const auto state = begin(); state != ExactState::done)
        return state;
      begun_ = true;
    }
    for (; list_ < lists_; ++list_, node_ = 0) {
      if (const auto state = follow(first_list_ + list_ * kHeadSize); state != ExactState::done)
        return state;
    }
    return sum_up(expected_total());
  }

protected:
  // Reads what it needs of the context and calls expect().
  virtual ExactState begin() = 0;
  virtual bool count(std::uint64_t block, std::span<const std::byte> header) = 0;
  virtual std::uint64_t expected_total() const = 0;

  void expect(std::uint32_t first_list, std::size_t lists, std::uint32_t node_offset,
              std::uint32_t block_header)
  {
    first_list_ = context() + first_list;
    lists_ = lists;
    node_offset_ = node_offset;
    block_header_ = std::min<std::size_t>(block_header, kMaxBlockHeader);
  }
  std::uint64_t allocated() const { return allocated_; }

private:
  static constexpr std::uint64_t kHeadSize = 16;
  struct Node {
    std::uint64_t prev = 0, next = 0;
  };

  ExactState follow(std::uint64_t head)
  {
    if (node_ == 0) {
      Node ends;
      if (const auto found = cache_.get(head, ends); found != Found::yes)
        return not_found(found);
      if (ends.next == 0) // never used
        return ExactState::done;
      node_ = ends.next;
      previous_ = head;
    }
    std::array<std::byte, kMaxBlockHeader> bytes;
    const std::span header(bytes.data(), block_header_);
    while (node_ != head) {
      const std::uint64_t block = node_ - node_offset_;
      if (const auto found = cache_.copy(block, header); found != Found::yes)
        return not_found(found);
      const auto node = field<Node>(header, node_offset_);
      if (node.prev != previous_)
        return ExactState::torn;
      if (const auto state = take_block(); state != ExactState::done)
        return state;
      if (!count(block, header) || counters().total_bytes > expected_total())
        return ExactState::torn;
      remember(block);
      previous_ = node_;
      node_ = node.next;
    }
    return ExactState::done;
  }

  bool begun_ = false;
  std::uint64_t allocated_ = 0;
  std::uint64_t first_list_ = 0;
  std::size_t lists_ = 0, list_ = 0;
  std::uint32_t node_offset_ = 0;
  std::size_t block_header_ = 0;
  std::uint64_t node_ = 0, previous_ = 0;
};

// generation.c: GenerationStats.  Freed chunks are counted, but are not free space.
class GenerationWalk final : public BlockListWalk {
public:
  using BlockListWalk::BlockListWalk;

private:
  ExactState begin() override
  {
    expect(layout_.generation.blocks, 1, layout_.generation_block.node,
           layout_.generation_block.size);
    counters().total_bytes = maxalign(layout_.generation.size);
    return ExactState::done;
  }
  bool count(std::uint64_t block, std::span<const std::byte> header) override
  {
    const auto &at = layout_.generation_block;
    const auto size = field<std::uint64_t>(header, at.blksize);
    const auto freeptr = field<std::uint64_t>(header, at.freeptr);
    const auto endptr = field<std::uint64_t>(header, at.endptr);
    const auto chunks = field<std::int32_t>(header, at.nchunks);
    const auto free = field<std::int32_t>(header, at.nfree);
    if (at.context != kAbsent && field<std::uint64_t>(header, at.context) != context())
      return false;
    if (size == 0 || size > allocated() || freeptr < block || freeptr > endptr ||
        endptr - block > size || free < 0 || free > chunks)
      return false;
    counters().total_bytes += size;
    counters().free_bytes += endptr - freeptr;
    counters().free_chunks += static_cast<std::uint64_t>(free);
    return true;
  }
  std::uint64_t expected_total() const override
  {
    return allocated() + maxalign(layout_.generation.size);
  }
};

// slab.c: SlabStats.  Up to 15 the blocks are in chunksPerBlock + 1 lists, by their number
// of free chunks; from 16 in three, and empty ones are kept aside and counted as used.
class SlabWalk final : public BlockListWalk {
public:
  using BlockListWalk::BlockListWalk;

private:
  static constexpr std::uint64_t kMaxHeader = 1 << 20;
  static constexpr std::uint32_t kMaxBlockLists = 16;

  ExactState begin() override
  {
    const auto &at = layout_.slab;
    std::array<std::byte, 256> bytes;
    const std::span slab(bytes.data(), std::min<std::size_t>(at.size, bytes.size()));
    if (const auto found = cache_.copy(context(), slab); found != Found::yes)
      return not_found(found);
    // Size up to 16, uint32 from 17: the low half says it all.
    chunk_size_ = field<std::uint32_t>(slab, at.full_chunk_size);
    block_size_ = field<std::uint32_t>(slab, at.block_size);
    chunks_per_block_ = field<std::int32_t>(slab, at.chunks_per_block);
    if (chunks_per_block_ <= 0 || block_size_ == 0 ||
        chunk_size_ * static_cast<std::uint64_t>(chunks_per_block_) > block_size_)
      return ExactState::torn;
    return at.blocklist == kAbsent ? begin_by_free_chunks(slab) : begin_block_lists(slab);
  }

  ExactState begin_by_free_chunks(std::span<const std::byte> slab)
  {
    header_size_ = field<std::uint32_t>(slab, layout_.slab.header_size);
    const std::uint64_t lists = static_cast<std::uint64_t>(chunks_per_block_) + 1;
    if (header_size_ > kMaxHeader || layout_.slab.freelist + lists * 16 > header_size_)
      return ExactState::torn;
    expect(layout_.slab.freelist, lists, layout_.slab_block.node, layout_.slab_block.size);
    counters().total_bytes = header_size_;
    return ExactState::done;
  }

  ExactState begin_block_lists(std::span<const std::byte> slab)
  {
    const auto &at = layout_.slab;
    header_size_ = at.size;
    if (at.is_chunk_free != kAbsent) // its bytes follow the struct
      header_size_ += static_cast<std::uint64_t>(chunks_per_block_);
    const std::uint64_t empty = field<std::uint32_t>(slab, at.emptyblocks_count);
    if (empty > allocated() / block_size_)
      return ExactState::torn;
    expect(at.blocklist, std::min<std::uint32_t>(at.blocklists, kMaxBlockLists),
           layout_.slab_block.node, layout_.slab_block.size);
    counters().total_bytes = header_size_ + empty * block_size_;
    return ExactState::done;
  }

  bool count(std::uint64_t, std::span<const std::byte> header) override
  {
    const auto free = field<std::int32_t>(header, layout_.slab_block.nfree);
    if (free < 0 || free > chunks_per_block_)
      return false;
    counters().total_bytes += block_size_;
    counters().free_bytes += static_cast<std::uint64_t>(free) * chunk_size_;
    counters().free_chunks += static_cast<std::uint64_t>(free);
    return true;
  }
  std::uint64_t expected_total() const override { return allocated() + header_size_; }

  std::uint64_t chunk_size_ = 0, block_size_ = 0, header_size_ = 0;
  std::int32_t chunks_per_block_ = 0;
};

// bump.c: BumpStats.  The context's own header is not part of the total.
class BumpWalk final : public BlockListWalk {
public:
  using BlockListWalk::BlockListWalk;

private:
  ExactState begin() override
  {
    expect(layout_.bump.blocks, 1, layout_.bump_block.node, layout_.bump_block.size);
    return allocated() < layout_.bump.size ? ExactState::torn : ExactState::done;
  }
  bool count(std::uint64_t block, std::span<const std::byte> header) override
  {
    const auto freeptr = field<std::uint64_t>(header, layout_.bump_block.freeptr);
    const auto endptr = field<std::uint64_t>(header, layout_.bump_block.endptr);
    if (freeptr < block || freeptr > endptr || endptr - block > allocated())
      return false;
    counters().total_bytes += endptr - block;
    counters().free_bytes += endptr - freeptr;
    return true;
  }
  std::uint64_t expected_total() const override { return allocated() - layout_.bump.size; }
};

std::unique_ptr<Walk> make_walk(const Layout &layout, PageCache &cache, ExactBudget &budget,
                                ExactJob &job)
{
  switch (job.type) {
  case ContextType::alloc_set: return std::make_unique<AllocSetWalk>(layout, cache, budget, job);
  case ContextType::generation: return std::make_unique<GenerationWalk>(layout, cache, budget, job);
  case ContextType::slab: return std::make_unique<SlabWalk>(layout, cache, budget, job);
  case ContextType::bump: return std::make_unique<BumpWalk>(layout, cache, budget, job);
  case ContextType::unknown: break;
  }
  return nullptr;
}

} // namespace

Result<> read_exact(const Layout &layout, PageCache &cache, std::span<ExactJob> jobs,
                    ExactBudget &budget)
{
  std::vector<std::unique_ptr<Walk>> walks;
  std::size_t next = 0;
  while (next < jobs.size() || !walks.empty()) {
    const std::size_t before = next;
    for (; next < jobs.size() && walks.size() < kBatch; ++next) {
      if (jobs[next].state != ExactState::pending)
        continue;
      jobs[next].counters = {};
      if (auto walk = make_walk(layout, cache, budget, jobs[next]))
        walks.push_back(std::move(walk));
      else
        jobs[next].state = ExactState::torn;
    }
    std::erase_if(walks, [](const std::unique_ptr<Walk> &walk) {
      walk->job().state = walk->advance();
      return walk->job().state != ExactState::pending;
    });
    if (next != before) // the pages of those who ended are of no use to the new ones
      cache.keep_at_most(kPagesKept);
    if (auto result = cache.fetch(); !result)
      return result;
  }
  return Ok{};
}

} // namespace pgmemtrace
