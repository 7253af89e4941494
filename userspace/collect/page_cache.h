// SPDX-License-Identifier: BSD-2-Clause
// page_cache.h - foreign pages, held for the length of one pass.
//
// Chasing a list costs a system call per link, unless many lists advance side by side and
// links that point into a page that was read already cost nothing.  So readers ask for
// bytes, carry on where they get them, and park where they don't; fetch() then reads every
// page that somebody is parked on in as few calls as possible:
//
//   reader 1 --copy()--> yes, yes, missing (parks) --+
//   reader 2 --copy()--> yes, missing (parks) -------+--> fetch() --> all go on
//
// A page here is a quarter of the kernel's: most reads want a header of some 40 bytes.
// A page is read once and never refreshed: clear() before reading again.  At most kMaxPages
// are held; no more than half of that should be wanted in one round, so that what a reader
// waits for is there when it goes on.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "collect/page_table.h"
#include "util/foreign_memory.h"
#include "util/result.h"

namespace pgmemtrace {

enum class Found { yes, missing, unreadable };

class PageCache {
public:
  static constexpr std::uint64_t kPage = 1024;
  static constexpr std::uint64_t kWindow = 64 * kPage; // the most that one miss reads ahead
  static constexpr std::size_t kMaxPages = 16384;

  explicit PageCache(ForeignMemory &memory) : memory_(memory) {}

  // Missing pages are noted for the next fetch().
  Found copy(std::uint64_t address, std::span<std::byte> into);
  template <typename T> Found get(std::uint64_t address, T &value)
  {
    return copy(address, std::as_writable_bytes(std::span(&value, 1)));
  }
  // A NUL-terminated string of at most `limit` bytes; cut there.
  Found string(std::uint64_t address, std::size_t limit, std::string &text);

  // Reads [first, last) too at the next fetch(), if it reads anything and if it is there.
  void read_ahead(std::uint64_t first, std::uint64_t last);

  // Lets go of all pages if they are more than `pages`: what the processor's cache cannot
  // hold costs more to keep than to read again.  What is wanted stays wanted.
  void keep_at_most(std::size_t pages)
  {
    if (pages_.size() > pages)
      forget();
  }

  // What was wanted is known to be there or to be unreadable afterwards.
  Result<> fetch();
  void clear();
  void release(); // clear(), and give the memory back

  // Since it was last asked.
  std::uint64_t take_unreadable_pages() { return std::exchange(unreadable_pages_, 0); }

private:
  const std::byte *page(std::uint64_t number, Found &found);
  std::byte *take(std::size_t pages);
  void forget();
  bool cached(std::uint64_t number) const { return pages_.find(number) != nullptr; }
  void keep(std::span<const ForeignMemory::Piece> pieces, std::vector<std::uint64_t> &failed);
  Result<> read_singly(const std::vector<std::uint64_t> &numbers);

  ForeignMemory &memory_;
  PageTable pages_;
  // Used again after clear(): fresh memory costs a page fault of our own per page.
  std::vector<std::unique_ptr<std::byte[]>> slabs_;
  std::size_t slab_ = 0, slab_used_ = 0;
  std::vector<std::uint64_t> wanted_;
  std::vector<std::uint64_t> ahead_;
  std::vector<std::uint64_t> numbers_; // of fetch(), kept for its memory
  std::vector<ForeignMemory::Piece> pieces_;
  std::uint64_t last_number_ = ~std::uint64_t{0};
  const std::byte *last_page_ = nullptr;
  std::uint64_t unreadable_pages_ = 0;
};

} // namespace pgmemtrace
