// SPDX-License-Identifier: BSD-2-Clause
#include "collect/last_tree.h"

#include <algorithm>

#include "collect/piece_batch.h"

namespace pgmemtrace {

namespace {

// Contexts per call: enough to share its cost out, few enough for the cache to hold what
// they bring.
constexpr std::size_t kBatch = 128;

} // namespace

void Record::update(const ContextHeader &now)
{
  const ContextHeader &before = header();
  if (before.ident != now.ident || before.fingerprint != now.fingerprint)
    ident_known = false;
  // An AllocSet that takes a new block carves the old one's tail into free chunks.
  if (counted && before.head_block != now.head_block && now.mem_allocated > before.mem_allocated)
    rest_free += head_tail;
  if (now.head_known)
    head_tail = now.head_tail;
  node.header = now;
}

void Record::set_counted(const ExactCounters &now)
{
  counted = true;
  counters = now;
  counted_fingerprint = header().fingerprint;
  rest_free = now.free_bytes - std::min(head_tail, now.free_bytes);
}

bool Record::changed_since_counted() const
{
  // Frees in older blocks of these two leave no trace in what the header pass reads.
  const ContextType type = header().type;
  return !counted || counted_fingerprint != header().fingerprint || type == ContextType::slab ||
         type == ContextType::generation;
}

bool same_context(const ContextHeader &left, const ContextHeader &right)
{
  return left.type == right.type && left.parent == right.parent && left.name == right.name;
}

std::uint32_t LastTree::index_of(std::uint64_t address) const
{
  return std::ranges::lower_bound(by_address_, address, {}, &Index::value_type::first)->second;
}

// A context's header and head block belong to one batch: what is read at the same moment
// agrees with itself.
void LastTree::plan(const HeaderDecoder &decoder)
{
  places_.clear();
  batch_ends_.clear();
  for (std::size_t first = 0; first < by_address_.size(); first += kBatch) {
    const std::size_t count = std::min(kBatch, by_address_.size() - first);
    const auto begin = static_cast<std::ptrdiff_t>(places_.size());
    for (std::uint32_t slot = 0; slot < count; ++slot) {
      const auto &[address, index] = by_address_[first + slot];
      places_.push_back({.address = address, .slot = slot, .head = false});
      const std::uint64_t head = records_[index].header().head_block;
      if (head != 0 && (head < address || head - address >= decoder.image_size()))
        places_.push_back({.address = head, .slot = slot, .head = true});
    }
    std::sort(places_.begin() + begin, places_.end(),
              [](const Place &left, const Place &right) { return left.address < right.address; });
    batch_ends_.push_back(static_cast<std::uint32_t>(places_.size()));
  }
}

struct LastTree::Reread {
  const HeaderDecoder &decoder;
  ForeignMemory &memory;
  PieceBatch pieces{memory};
  std::vector<ContextHeader> headers;                            // of one batch
  std::vector<std::pair<std::uint32_t, ContextHeader>> moved;    // their head blocks did
  std::vector<std::pair<std::uint32_t, ContextHeader>> relinked; // their links did
};

Result<> LastTree::reread_batch(Reread &run, std::size_t number)
{
  const std::size_t begin = number == 0 ? 0 : batch_ends_[number - 1];
  const auto places = std::span(places_).subspan(begin, batch_ends_[number] - begin);
  run.pieces.clear();
  for (const Place &place : places)
    run.pieces.add(place.address, place.head ? run.decoder.head_size() : run.decoder.image_size());
  if (auto result = run.pieces.read(); !result)
    return result;

  const auto contexts = std::span(by_address_).subspan(number * kBatch);
  run.headers.resize(std::min(kBatch, contexts.size()));
  for (std::size_t i = 0; i < places.size(); ++i) {
    if (places[i].head)
      continue;
    if (const auto image = run.pieces.piece(i); !image.empty()) {
      run.headers[places[i].slot] = run.decoder.decode(places[i].address, image);
    } else {
      auto one = read_header(run.decoder, run.memory, places[i].address);
      if (!one)
        return one.error();
      run.headers[places[i].slot] = *one;
    }
  }
  for (std::size_t i = 0; i < places.size(); ++i) {
    if (!places[i].head)
      continue;
    ContextHeader &header = run.headers[places[i].slot];
    if (header.head_block == places[i].address && !header.head_known)
      run.decoder.decode_head(header, run.pieces.piece(i));
  }

  for (std::size_t slot = 0; slot < run.headers.size(); ++slot) {
    const ContextHeader &header = run.headers[slot];
    const std::uint32_t index = contexts[slot].second;
    if (!same_links(header, records_[index].header()))
      run.relinked.emplace_back(index, header);
    else if (header.head_block != 0 && !header.head_known)
      run.moved.emplace_back(index, header);
    else
      records_[index].update(header);
  }
  return Ok{};
}

Result<bool> LastTree::reread(const HeaderDecoder &decoder, ForeignMemory &memory,
                              KnownHeaders &known)
{
  if (places_.empty())
    plan(decoder);
  Reread run{.decoder = decoder, .memory = memory};
  for (std::size_t number = 0; number < batch_ends_.size(); ++number) {
    if (auto result = reread_batch(run, number); !result)
      return result.error();
  }

  std::vector<ContextHeader *> open;
  for (auto &[index, header] : run.moved)
    open.push_back(&header);
  if (auto result = read_heads(decoder, memory, open); !result)
    return result.error();
  for (const auto &[index, header] : run.moved) {
    if (header.head_block != records_[index].header().head_block)
      places_.clear(); // to be planned anew
    records_[index].update(header);
  }
  if (run.relinked.empty() && whole_)
    return true;

  known.reserve(records_.size() * 2);
  for (const Record &record : records_)
    known.emplace(record.header().address, record.header());
  for (const auto &[index, header] : run.relinked) {
    if (header.type == ContextType::unknown)
      known.erase(header.address);
    else
      known[header.address] = header;
  }
  return false;
}

void LastTree::adopt(const std::vector<TreeNode> &nodes, bool whole)
{
  whole_ = whole;
  places_.clear();
  std::vector<Record> before = std::exchange(records_, {});
  records_.reserve(nodes.size());
  Index index;
  index.reserve(nodes.size());
  for (const TreeNode &node : nodes) {
    const std::uint64_t address = node.header.address;
    const auto it = std::ranges::lower_bound(by_address_, address, {}, &Index::value_type::first);
    index.emplace_back(address, static_cast<std::uint32_t>(records_.size()));
    if (it != by_address_.end() && it->first == address &&
        same_context(before[it->second].header(), node.header)) {
      records_.push_back(std::move(before[it->second]));
      records_.back().update(node.header);
      records_.back().node = node;
    } else {
      records_.push_back({.node = node, .head_tail = node.header.head_tail});
    }
  }
  std::ranges::sort(index);
  by_address_ = std::move(index);
}

} // namespace pgmemtrace
