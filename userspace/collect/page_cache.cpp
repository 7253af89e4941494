// SPDX-License-Identifier: BSD-2-Clause
#include "collect/page_cache.h"

#include <algorithm>
#include <cstring>

namespace pgmemtrace {

namespace {

// Nothing of a user process lies above: saves the kernel from refusing it, and us from
// addresses that wrap around.
constexpr std::uint64_t kAddressLimit = std::uint64_t{1} << 56;

constexpr std::uint64_t kLowest = 4096; // no process maps its page 0

constexpr std::size_t kSlabPages = 256;
static_assert(kSlabPages * PageCache::kPage >= PageCache::kWindow);

} // namespace

const std::byte *PageCache::page(std::uint64_t number, Found &found)
{
  if (number == last_number_)
    return last_page_;
  const PageTable::Entry *entry = pages_.find(number);
  if (entry == nullptr) {
    wanted_.push_back(number);
    found = Found::missing;
    return nullptr;
  }
  if (entry->bytes == nullptr) {
    found = Found::unreadable;
    return nullptr;
  }
  last_number_ = number;
  last_page_ = entry->bytes;
  return last_page_;
}

Found PageCache::copy(std::uint64_t address, std::span<std::byte> into)
{
  if (address < kLowest || address > kAddressLimit - into.size())
    return Found::unreadable;
  Found found = Found::yes;
  const std::uint64_t first = address / kPage;
  while (!into.empty()) {
    const std::uint64_t offset = address % kPage;
    const std::size_t part = std::min<std::size_t>(into.size(), kPage - offset);
    if (const std::byte *bytes = page(address / kPage, found))
      std::memcpy(into.data(), bytes + offset, part);
    if (found == Found::unreadable)
      return found;
    into = into.subspan(part);
    address += part;
  }
  if (found == Found::missing && first != (address - 1) / kPage)
    wanted_.push_back(first); // all of it at once, even if fetch() lets go of older pages
  return found;
}

Found PageCache::string(std::uint64_t address, std::size_t limit, std::string &text)
{
  text.clear();
  if (address < kLowest || address > kAddressLimit - limit)
    return Found::unreadable;
  Found found = Found::yes;
  const std::uint64_t first = address / kPage;
  while (text.size() < limit) {
    const std::uint64_t offset = address % kPage;
    const std::size_t part = std::min<std::size_t>(limit - text.size(), kPage - offset);
    const std::byte *bytes = page(address / kPage, found);
    if (bytes == nullptr) {
      if (found == Found::missing)
        wanted_.push_back(first);
      return found;
    }
    const char *begin = reinterpret_cast<const char *>(bytes + offset);
    const std::size_t length = strnlen(begin, part);
    text.append(begin, length);
    if (length < part)
      break;
    address += part;
  }
  return Found::yes;
}

void PageCache::read_ahead(std::uint64_t first, std::uint64_t last)
{
  if (first >= last || last > kAddressLimit || last - first > kWindow + kPage)
    return;
  for (std::uint64_t number = first / kPage; number <= (last - 1) / kPage; ++number)
    ahead_.push_back(number);
}

Result<> PageCache::fetch()
{
  if (wanted_.empty()) {
    ahead_.clear();
    return Ok{};
  }
  if (pages_.size() + wanted_.size() + ahead_.size() > kMaxPages) {
    // What is wanted stays wanted; readers that still need an older page will miss it again.
    forget();
    if (wanted_.size() + ahead_.size() > kMaxPages)
      ahead_.clear();
  }
  numbers_ = wanted_;
  numbers_.insert(numbers_.end(), ahead_.begin(), ahead_.end());
  std::erase_if(numbers_, [this](std::uint64_t number) { return cached(number); });
  std::ranges::sort(numbers_);
  numbers_.erase(std::unique(numbers_.begin(), numbers_.end()), numbers_.end());

  pieces_.clear();
  for (std::size_t i = 0; i < numbers_.size();) {
    std::size_t end = i + 1;
    while (end < numbers_.size() && numbers_[end] == numbers_[end - 1] + 1 &&
           (end - i) * kPage < kWindow)
      ++end;
    pieces_.push_back(
        {.address = numbers_[i] * kPage, .into = std::span(take(end - i), (end - i) * kPage)});
    i = end;
  }
  if (auto result = memory_.read(pieces_); !result)
    return result;

  std::vector<std::uint64_t> failed;
  keep(pieces_, failed);
  if (auto result = read_singly(failed); !result)
    return result;

  for (const std::uint64_t number : wanted_) {
    if (pages_.add(number, nullptr))
      ++unreadable_pages_;
  }
  wanted_.clear();
  ahead_.clear();
  return Ok{};
}

void PageCache::keep(std::span<const ForeignMemory::Piece> pieces,
                     std::vector<std::uint64_t> &failed)
{
  for (const auto &piece : pieces) {
    for (std::uint64_t at = 0; at < piece.into.size(); at += kPage) {
      const std::uint64_t number = (piece.address + at) / kPage;
      if (piece.ok)
        pages_.add(number, piece.into.data() + at);
      else if (piece.into.size() > kPage)
        failed.push_back(number);
    }
  }
}

// One unmapped page spoils its neighbours' piece: take that apart.
Result<> PageCache::read_singly(const std::vector<std::uint64_t> &numbers)
{
  if (numbers.empty())
    return Ok{};
  std::vector<ForeignMemory::Piece> pieces;
  pieces.reserve(numbers.size());
  for (const std::uint64_t number : numbers)
    pieces.push_back({.address = number * kPage, .into = std::span(take(1), kPage)});
  if (auto result = memory_.read(pieces); !result)
    return result;
  std::vector<std::uint64_t> failed;
  keep(pieces, failed);
  return Ok{};
}

std::byte *PageCache::take(std::size_t pages)
{
  if (slab_ < slabs_.size() && slab_used_ + pages > kSlabPages) {
    ++slab_;
    slab_used_ = 0;
  }
  if (slab_ == slabs_.size())
    slabs_.push_back(std::make_unique_for_overwrite<std::byte[]>(kSlabPages * kPage));
  std::byte *taken = slabs_[slab_].get() + slab_used_ * kPage;
  slab_used_ += pages;
  return taken;
}

void PageCache::forget()
{
  pages_.clear();
  slab_ = slab_used_ = 0;
  last_number_ = ~std::uint64_t{0};
  last_page_ = nullptr;
}

void PageCache::clear()
{
  forget();
  wanted_.clear();
  ahead_.clear();
}

void PageCache::release()
{
  clear();
  pages_.release();
  slabs_.clear();
  numbers_ = {};
  pieces_ = {};
}

} // namespace pgmemtrace
