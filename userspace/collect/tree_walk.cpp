// SPDX-License-Identifier: BSD-2-Clause
#include "collect/tree_walk.h"

#include <algorithm>
#include <array>
#include <unordered_set>

#include "collect/piece_batch.h"

namespace pgmemtrace {

namespace {

// Enough pieces to share a call's cost out, few enough for the cache to hold what they bring.
constexpr std::size_t kBatch = 512;
} // namespace

// The whole image, or as much of it as a Slab has.
Result<ContextHeader> read_header(const HeaderDecoder &decoder, ForeignMemory &memory,
                                  std::uint64_t address)
{
  std::array<std::byte, HeaderDecoder::kMaxImage> image{};
  for (const std::size_t size : {decoder.image_size(), decoder.least_size()}) {
    ForeignMemory::Piece piece{.address = address, .into = std::span(image.data(), size)};
    if (auto result = memory.read(std::span(&piece, 1)); !result)
      return result.error();
    if (piece.ok)
      return decoder.decode(address, std::span(image.data(), size));
  }
  return ContextHeader{.address = address};
}

Result<std::vector<ContextHeader>> read_headers(const HeaderDecoder &decoder, ForeignMemory &memory,
                                                std::span<const std::uint64_t> addresses)
{
  std::vector<ContextHeader> headers;
  headers.reserve(addresses.size());
  PieceBatch batch(memory);
  for (std::size_t first = 0; first < addresses.size(); first += kBatch) {
    const auto part = addresses.subspan(first, std::min(kBatch, addresses.size() - first));
    if (auto result = batch.read(part, decoder.image_size()); !result)
      return result.error();
    for (std::size_t i = 0; i < part.size(); ++i) {
      if (const auto image = batch.piece(i); !image.empty()) {
        headers.push_back(decoder.decode(part[i], image));
      } else {
        auto one = read_header(decoder, memory, part[i]);
        if (!one)
          return one.error();
        headers.push_back(*one);
      }
    }
  }
  return headers;
}

Result<> read_heads(const HeaderDecoder &decoder, ForeignMemory &memory,
                    std::span<ContextHeader *> open)
{
  std::ranges::sort(open, {}, &ContextHeader::head_block);
  std::vector<std::uint64_t> addresses;
  PieceBatch batch(memory);
  for (std::size_t first = 0; first < open.size(); first += kBatch) {
    const std::size_t count = std::min(kBatch, open.size() - first);
    addresses.clear();
    for (std::size_t i = 0; i < count; ++i)
      addresses.push_back(open[first + i]->head_block);
    if (auto result = batch.read(addresses, decoder.head_size()); !result)
      return result.error();
    for (std::size_t i = 0; i < count; ++i)
      decoder.decode_head(*open[first + i], batch.piece(i));
  }
  return Ok{};
}

namespace {

// First all headers that links lead to, as reads come in; then the order.
class TreeWalk {
public:
  TreeWalk(const HeaderDecoder &decoder, PageCache &cache, KnownHeaders known,
           const WalkLimits &limits)
      : decoder_(decoder), cache_(cache), headers_(std::move(known)), limits_(limits)
  {
  }

  Result<> explore(std::uint64_t root)
  {
    lead_to(root);
    while (!open_.empty()) {
      // Parked ends first: their pages are in the cache now.
      std::vector<std::uint64_t> parked;
      while (!open_.empty() && parked.size() < kBatch) {
        const std::uint64_t address = open_.back();
        open_.pop_back();
        if (!resolve(address))
          parked.push_back(address);
      }
      if (auto result = cache_.fetch(); !result)
        return result;
      open_.insert(open_.end(), parked.begin(), parked.end());
    }
    return Ok{};
  }

  WalkedTree arrange(std::uint64_t root) const
  {
    WalkedTree tree;
    tree.nodes.reserve(std::min(seen_.size(), limits_.contexts));
    std::vector<Visit> stack{{.address = root}};
    while (!stack.empty()) {
      const Visit visit = stack.back();
      stack.pop_back();
      const auto found = headers_.find(visit.address);
      if (found == headers_.end() || !fits(found->second, visit)) {
        if (seen_.size() >= most_seen())
          tree.cut = too_many();
        else
          tree.torn = found == headers_.end() ? "part of the context tree cannot be read"
                                              : "the context tree kept changing";
        continue;
      }
      if (tree.nodes.size() >= limits_.contexts) {
        tree.cut = too_many();
        break;
      }
      const ContextHeader &header = found->second;
      const auto index = static_cast<std::int32_t>(tree.nodes.size());
      tree.nodes.push_back({.header = header, .parent = visit.parent, .level = visit.level});
      if (header.nextchild != 0 && visit.parent >= 0) {
        stack.push_back({.address = header.nextchild,
                         .parent_address = visit.parent_address,
                         .previous = visit.address,
                         .parent = visit.parent,
                         .level = visit.level});
      }
      if (header.firstchild == 0)
        continue;
      if (static_cast<std::size_t>(visit.level) >= limits_.depth) {
        tree.cut = "tree deeper than " + std::to_string(limits_.depth) + " levels";
        continue;
      }
      stack.push_back({.address = header.firstchild,
                       .parent_address = visit.address,
                       .parent = index,
                       .level = visit.level + 1});
    }
    return tree;
  }

private:
  struct Visit {
    std::uint64_t address = 0, parent_address = 0, previous = 0;
    std::int32_t parent = -1, level = 1;
  };

  // One more than the bound, so that a tree of just that size is whole.
  std::size_t most_seen() const { return limits_.contexts + 1; }
  std::string too_many() const
  {
    return "tree larger than " + std::to_string(limits_.contexts) + " contexts";
  }

  // Both links back must hold.  That alone makes circles impossible: a context that is met
  // twice would have been reached through the same neighbour twice, and so on up to the root.
  static bool fits(const ContextHeader &header, const Visit &visit)
  {
    return header.type != ContextType::unknown && header.parent == visit.parent_address &&
           header.prevchild == visit.previous;
  }

  void lead_to(std::uint64_t address)
  {
    if (address == 0 || address % 8 != 0 || seen_.size() >= most_seen())
      return;
    if (seen_.insert(address).second)
      open_.push_back(address);
  }

  // False: its page has to be fetched first.
  bool resolve(std::uint64_t address)
  {
    auto it = headers_.find(address);
    if (it == headers_.end()) {
      std::array<std::byte, HeaderDecoder::kMaxImage> bytes{};
      auto image = std::span(bytes.data(), decoder_.image_size());
      auto found = cache_.copy(address, image);
      if (found == Found::unreadable) {
        image = image.first(decoder_.least_size());
        found = cache_.copy(address, image);
      }
      if (found == Found::missing) {
        // Siblings were often allocated one after the other.
        const std::uint64_t window = address & ~(kAhead - 1);
        cache_.read_ahead(window, window + kAhead);
        return false;
      }
      if (found == Found::unreadable)
        return true;
      it = headers_.emplace(address, decoder_.decode(address, image)).first;
    }
    if (it->second.type != ContextType::unknown) {
      lead_to(it->second.nextchild);
      lead_to(it->second.firstchild);
    }
    return true;
  }

  static constexpr std::uint64_t kAhead = 8 * PageCache::kPage;

  const HeaderDecoder &decoder_;
  PageCache &cache_;
  KnownHeaders headers_;
  const WalkLimits &limits_;
  std::unordered_set<std::uint64_t> seen_;
  std::vector<std::uint64_t> open_;
};

} // namespace

Result<WalkedTree> walk_tree(const HeaderDecoder &decoder, PageCache &cache, std::uint64_t root,
                             KnownHeaders known, const WalkLimits &limits)
{
  TreeWalk walk(decoder, cache, std::move(known), limits);
  if (auto result = walk.explore(root); !result)
    return result.error();
  return walk.arrange(root);
}

} // namespace pgmemtrace
