// SPDX-License-Identifier: BSD-2-Clause
// page_table.h - page number -> bytes: a hash table without an allocation per entry.
//
// Entries are added and looked up by the thousand and forgotten all at once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace pgmemtrace {

class PageTable {
public:
  struct Entry {
    std::uint64_t number = 0;
    const std::byte *bytes = nullptr; // nullptr: unreadable
    std::uint32_t generation = 0;     // not the table's: the entry is free
  };

  std::size_t size() const { return size_; }

  const Entry *find(std::uint64_t number) const
  {
    if (entries_.empty())
      return nullptr;
    const Entry &entry = entries_[place_of(number)];
    return entry.generation == generation_ ? &entry : nullptr;
  }

  // False: it was there already, and stays as it is.
  bool add(std::uint64_t number, const std::byte *bytes)
  {
    if ((size_ + 1) * 2 > entries_.size())
      grow();
    Entry &entry = entries_[place_of(number)];
    if (entry.generation == generation_)
      return false;
    entry = {.number = number, .bytes = bytes, .generation = generation_};
    ++size_;
    return true;
  }

  void clear()
  {
    size_ = 0;
    if (++generation_ == 0) // entries of four billion clears ago would come back
      release();
  }

  void release()
  {
    entries_ = {};
    size_ = 0;
    generation_ = 1;
  }

private:
  static constexpr std::size_t kFirstSize = 256; // powers of two

  // Of the entry, or of the free one where it would go: at least half of them are free.
  std::size_t place_of(std::uint64_t number) const
  {
    const std::size_t mask = entries_.size() - 1;
    std::size_t place = (number * 0x9e3779b97f4a7c15ULL >> 32) & mask;
    while (entries_[place].generation == generation_ && entries_[place].number != number)
      place = (place + 1) & mask;
    return place;
  }

  void grow()
  {
    std::vector<Entry> before(entries_.empty() ? kFirstSize : entries_.size() * 2);
    before.swap(entries_);
    for (const Entry &entry : before) {
      if (entry.generation == generation_)
        entries_[place_of(entry.number)] = entry;
    }
  }

  std::vector<Entry> entries_;
  std::size_t size_ = 0;
  std::uint32_t generation_ = 1;
};

} // namespace pgmemtrace
