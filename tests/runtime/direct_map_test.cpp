// SPDX-License-Identifier: BSD-2-Clause
// direct_map_test.cpp - memory read through page tables: the same as process_vm_readv reads,
// whatever is mapped, unmapped or gone.
#include "attach/direct_map.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <memory>
#include <span>
#include <tuple>
#include <vector>

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "attach/servers.h"
#include "collect/sweep.h"
#include "support/runtime_test.h"

namespace pgmemtrace::test {
namespace {

using namespace std::chrono_literals;

constexpr std::size_t kPage = 4096;

class DirectMapTest : public RuntimeTest {
protected:
  void SetUp() override
  {
    RuntimeTest::SetUp();
    if (IsSkipped() || HasFatalFailure())
      return;
    auto direct = DirectMap::load();
    if (!direct) // not a lost privilege: the kernel or the processor may be another
      GTEST_SKIP() << "NOT TESTED: " << to_string(direct.error());
    direct_ = *direct;
  }

  std::shared_ptr<DirectMap> direct_;
};

// Memory of our own that children share, or have a copy of.
class Mapping {
public:
  Mapping(std::size_t size, int flags)
      : size_(size), start_(static_cast<std::byte *>(
                         mmap(nullptr, size, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS, -1, 0)))
  {
  }
  Mapping(const Mapping &) = delete;
  Mapping &operator=(const Mapping &) = delete;
  ~Mapping() { munmap(start_, size_); }
  std::byte *start() const { return start_; }
  std::uint64_t at(std::size_t offset) const
  {
    return reinterpret_cast<std::uint64_t>(start_) + offset;
  }

private:
  std::size_t size_;
  std::byte *start_;
};

// A process that does the same over and over until it is killed.
class Child {
public:
  template <typename Work> explicit Child(Work work) : pid_(fork())
  {
    if (pid_ == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      for (;;)
        work();
    }
  }
  Child(const Child &) = delete;
  Child &operator=(const Child &) = delete;
  ~Child() { kill_and_wait(); }
  pid_t pid() const { return pid_; }
  void kill_and_wait()
  {
    if (pid_ <= 0)
      return;
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
    pid_ = -1;
  }

private:
  pid_t pid_;
};

// What both ways make of the same addresses.
void expect_the_same(DirectMemory &direct, std::span<const std::uint64_t> addresses,
                     std::size_t size)
{
  ForeignMemory plain(direct.pid());
  std::vector<std::byte> bytes(2 * addresses.size() * size);
  std::vector<ForeignMemory::Piece> left;
  std::vector<ForeignMemory::Piece> right;
  for (std::size_t i = 0; i < addresses.size(); ++i) {
    left.push_back({addresses[i], std::span(bytes).subspan(2 * i * size, size)});
    right.push_back({addresses[i], std::span(bytes).subspan((2 * i + 1) * size, size)});
  }
  ASSERT_TRUE(plain.read(left));
  ASSERT_TRUE(direct.read(right));
  for (std::size_t i = 0; i < addresses.size(); ++i) {
    ASSERT_EQ(left[i].ok, right[i].ok) << i << ": " << std::hex << addresses[i];
    if (left[i].ok) {
      ASSERT_EQ(std::memcmp(left[i].into.data(), right[i].into.data(), size), 0) << i;
    }
  }
}

TEST_F(DirectMapTest, reads_around_what_it_cannot_read)
{
  const Mapping memory(4 * kPage, MAP_PRIVATE);
  std::memset(memory.start(), 'a', kPage);
  std::memset(memory.start() + 2 * kPage, 'c', kPage);
  mprotect(memory.start() + kPage, kPage, PROT_NONE); // the fourth was never touched
  DirectMemory direct(getpid(), direct_);
  const std::array<std::uint64_t, 10> each{memory.at(8),
                                           memory.at(kPage + 8),
                                           memory.at(2 * kPage + 8),
                                           memory.at(kPage - 4),
                                           memory.at(3 * kPage - 4),
                                           memory.at(0) | 1ull << 48,
                                           0,
                                           memory.at(0) | 1ull << 57,
                                           ~0ull - 2,
                                           0xffff888000001000};
  std::vector<std::uint64_t> addresses;
  for (std::size_t i = 0; i < 1000; ++i)
    addresses.insert(addresses.end(), each.begin(), each.end());
  for (const std::size_t size : {8u, 200u})
    expect_the_same(direct, addresses, size);
}

TEST_F(DirectMapTest, reads_pieces_larger_than_a_page_and_than_a_run)
{
  constexpr std::size_t kSize = 3 << 20;
  const Mapping memory(kSize, MAP_PRIVATE);
  for (std::size_t i = 0; i < kSize; i += 8)
    std::memcpy(memory.start() + i, &i, sizeof(i));
  DirectMemory direct(getpid(), direct_);
  for (const std::size_t size : {5000u, 70000u, (1u << 20) + 1}) {
    std::vector<std::uint64_t> addresses;
    for (std::size_t i = 0; i < 20; ++i)
      addresses.push_back(memory.at(i * 12345));
    expect_the_same(direct, addresses, size);
  }
}

TEST_F(DirectMapTest, reads_huge_pages)
{
  constexpr std::size_t kHuge = 2 << 20;
  const Mapping memory(4 * kHuge, MAP_PRIVATE);
  madvise(memory.start(), 4 * kHuge, MADV_HUGEPAGE);
  for (std::size_t i = 0; i < 4 * kHuge; i += 8)
    std::memcpy(memory.start() + i, &i, sizeof(i));
  DirectMemory direct(getpid(), direct_);
  std::vector<std::uint64_t> addresses;
  for (std::size_t i = 0; i + 300 < 4 * kHuge; i += 10007)
    addresses.push_back(memory.at(i));
  expect_the_same(direct, addresses, 300);
}

TEST_F(DirectMapTest, says_that_a_process_is_gone)
{
  const Mapping memory(kPage, MAP_SHARED);
  Child child([] { pause(); });
  DirectMemory direct(child.pid(), direct_);
  const std::vector<std::uint64_t> addresses(100, memory.at(0));
  expect_the_same(direct, addresses, 64);
  child.kill_and_wait();

  std::vector<std::byte> bytes(64);
  std::vector<ForeignMemory::Piece> pieces(100, {memory.at(0), bytes});
  const auto result = direct.read(pieces);
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().err, ESRCH);
  EXPECT_FALSE(pieces[0].ok || pieces[99].ok);
}

// The child lets go of pages, and of a whole table of them now and then, and stamps those that it
// gets instead, most likely the same ones at another address, with that address.
TEST_F(DirectMapTest, never_takes_another_page_for_the_one_it_asked_for)
{
  constexpr std::size_t kPages = 16;
  constexpr std::size_t kApart = 9 * kPage;
  constexpr std::size_t kSize = 8 << 20;
  const Mapping memory(kSize, MAP_PRIVATE);
  const auto stamp = [&](std::size_t i) {
    std::fill_n(reinterpret_cast<std::uint64_t *>(memory.start() + i * kApart), kPage / 8,
                memory.at(i * kApart));
  };
  const Child child([&] {
    for (std::size_t round = 0; round < 1000; ++round)
      for (std::size_t i = 0; i < kPages; ++i) {
        madvise(memory.start() + i * kApart, kPage, MADV_DONTNEED);
        stamp((i + 7) % kPages);
      }
    (void)mmap(memory.start(), kSize, PROT_READ | PROT_WRITE,
               MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
  });

  std::vector<std::array<std::uint64_t, kPage / 8>> pages(kPages);
  std::vector<ForeignMemory::Piece> pieces;
  for (std::size_t i = 0; i < kPages; ++i)
    pieces.push_back({memory.at(i * kApart), std::as_writable_bytes(std::span(pages[i]))});
  std::size_t seen = 0;
  std::size_t missed = 0;
  const auto end = std::chrono::steady_clock::now() + 2s;
  while (std::chrono::steady_clock::now() < end) {
    direct_->read(child.pid(), pieces);
    for (std::size_t i = 0; i < kPages; ++i) {
      missed += !pieces[i].ok;
      if (!pieces[i].ok)
        continue;
      ++seen;
      const std::uint64_t right = memory.at(i * kApart);
      ASSERT_TRUE(std::ranges::all_of(
          pages[i], [&](std::uint64_t word) { return word == 0 || word == right; }))
          << i << " after " << seen;
    }
  }
  EXPECT_GT(seen, 1000u);
  EXPECT_GT(missed, 10u);
}

auto figures(const Context &context)
{
  return std::tie(context.address, context.parent, context.level, context.type, context.exact,
                  context.name, context.ident, context.total_bytes, context.free_bytes,
                  context.total_nblocks, context.free_chunks);
}

TEST_F(DirectMapTest, a_context_tree_is_the_same_in_both_ways)
{
  auto session = cluster().connect();
  for (int i = 0; i < 300; ++i)
    session.exec("PREPARE s" + std::to_string(i) + " AS SELECT relname FROM pg_class");
  auto servers = ServerList::find(
      {.selection = {.pids = {cluster().postmaster_pid()}}, .postgres_btf = {}, .proc = Proc()});
  ASSERT_TRUE(servers) << to_string(servers.error());
  const auto *process = servers->find_process(session.backend_pid());
  ASSERT_TRUE(process);
  Sweeper plain(*process);
  Sweeper direct(*process, {}, direct_);
  for (const Pass pass : {Pass::header, Pass::header, Pass::exact, Pass::changed}) {
    const auto left = plain.sweep(pass);
    const auto right = direct.sweep(pass);
    ASSERT_TRUE(left && right);
    EXPECT_TRUE(right->complete) << right->incomplete_reason;
    EXPECT_GT(right->contexts.size(), 600u);
    ASSERT_EQ(left->contexts.size(), right->contexts.size());
    for (std::size_t i = 0; i < left->contexts.size(); ++i)
      EXPECT_EQ(figures(left->contexts[i]), figures(right->contexts[i])) << i;
  }
}

} // namespace
} // namespace pgmemtrace::test
