// SPDX-License-Identifier: BSD-2-Clause
// foreign_memory_test.cpp - reads of a process's memory, holes included; our own serves.
#include "util/foreign_memory.h"

#include <array>
#include <cerrno>
#include <cstring>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

namespace pgmemtrace::test {

namespace {

constexpr std::size_t kPage = 4096;

// Three pages, the middle one not mapped.
class Holed {
public:
  Holed()
      : start_(static_cast<char *>(
            mmap(nullptr, 3 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)))
  {
    std::memset(start_, 'a', kPage);
    std::memset(start_ + 2 * kPage, 'c', kPage);
    mprotect(start_ + kPage, kPage, PROT_NONE);
  }
  Holed(const Holed &) = delete;
  Holed &operator=(const Holed &) = delete;
  ~Holed() { munmap(start_, 3 * kPage); }
  char *start() { return start_; }
  std::uint64_t at(std::size_t offset) const
  {
    return reinterpret_cast<std::uint64_t>(start_) + offset;
  }

private:
  char *start_;
};

} // namespace

TEST(ForeignMemory, reads_around_what_it_cannot_read)
{
  const Holed memory;
  ForeignMemory foreign(getpid());
  constexpr std::size_t kPieces = 3000; // more than one call takes
  std::vector<std::array<std::byte, 8>> buffers(kPieces);
  std::vector<ForeignMemory::Piece> pieces;
  for (std::size_t i = 0; i < kPieces; ++i) {
    // first page, hole, last page, across the edge of the hole, nowhere
    const std::array<std::uint64_t, 5> addresses{memory.at(8), memory.at(kPage + 8),
                                                 memory.at(2 * kPage + 8), memory.at(kPage - 4),
                                                 i % 2 == 0 ? 0 : ~0ull - 2};
    pieces.push_back({addresses[i % 5], buffers[i]});
  }
  ASSERT_TRUE(foreign.read(pieces));
  for (std::size_t i = 0; i < kPieces; ++i) {
    EXPECT_EQ(pieces[i].ok, i % 5 == 0 || i % 5 == 2) << i;
    if (pieces[i].ok) {
      EXPECT_EQ(buffers[i][7], std::byte(i % 5 == 0 ? 'a' : 'c')) << i;
    }
  }
}

TEST(ForeignMemory, reads_strings_up_to_the_edge)
{
  Holed memory;
  ForeignMemory foreign(getpid());
  EXPECT_FALSE(foreign.read_string(memory.at(kPage - 5), 100)) << "runs into the hole";
  EXPECT_EQ(foreign.read_string(memory.at(kPage - 5), 5), "aaaaa");
  memory.start()[kPage - 1] = '\0';
  EXPECT_EQ(foreign.read_string(memory.at(kPage - 5), 100), "aaaa");
  EXPECT_EQ(foreign.read_string(memory.at(8), 1000), std::string(1000, 'a'));
  EXPECT_EQ(foreign.read_string(memory.at(8), 0), "");
  EXPECT_FALSE(foreign.read_string(0, 10));
}

TEST(ForeignMemory, reads_values)
{
  const std::uint64_t value = 0x1122334455667788;
  ForeignMemory foreign(getpid());
  EXPECT_EQ(foreign.read_value<std::uint64_t>(reinterpret_cast<std::uint64_t>(&value)), value);
  EXPECT_FALSE(foreign.read_value<std::uint64_t>(8));
}

TEST(ForeignMemory, says_that_the_process_is_gone)
{
  ForeignMemory foreign(4194304 + 1); // above the largest pid there can be
  std::array<std::byte, 8> buffer{};
  ForeignMemory::Piece piece{4096, buffer};
  const auto read = foreign.read(std::span(&piece, 1));
  ASSERT_FALSE(read);
  EXPECT_EQ(read.error().err, ESRCH);
}

} // namespace pgmemtrace::test
