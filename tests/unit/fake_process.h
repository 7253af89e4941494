// SPDX-License-Identifier: BSD-2-Clause
// fake_process.h - a process made of bytes: context trees as PostgreSQL's allocators lay them out.
//
// Written from the allocators' sources, not from the reader's: what a test expects of a tree
// it says in numbers of its own.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "attach/layout.h"
#include "collect/sweep.h"
#include "util/foreign_memory.h"

namespace pgmemtrace::test {

// Sparse: pages that nobody wrote to are unmapped.
class Image {
public:
  static constexpr std::uint64_t kPage = 4096;

  template <typename T> void put(std::uint64_t address, T value)
  {
    write(address, std::as_bytes(std::span(&value, 1)));
  }
  template <typename T> T get(std::uint64_t address) const
  {
    T value{};
    read(address, std::as_writable_bytes(std::span(&value, 1)));
    return value;
  }
  void write(std::uint64_t address, std::span<const std::byte> bytes);
  bool read(std::uint64_t address, std::span<std::byte> into) const;
  void map(std::uint64_t address, std::uint64_t size);
  void unmap(std::uint64_t address) { pages_.erase(address / kPage); }

  std::function<void()> before_read; // changes the process under the reader
  int gone = 0;                      // errno of every read from now on
  std::uint64_t calls = 0;

private:
  std::map<std::uint64_t, std::array<std::byte, kPage>> pages_;
};

// An image as a process's memory.
std::unique_ptr<ForeignMemory> memory_of(std::shared_ptr<Image> image);

struct GenerationBlockSpec {
  std::uint64_t size = 8192, used = 1000;
  int chunks = 10, free = 0;
};

class FakeProcess {
public:
  explicit FakeProcess(Layout layout);

  // Contexts go in front of their siblings, as PostgreSQL puts them.  Parent 0: the root.
  std::uint64_t alloc_set(std::uint64_t parent, const std::string &name, std::uint64_t size = 1024,
                          std::uint64_t used = 100);
  std::uint64_t generation(std::uint64_t parent, const std::string &name,
                           const std::vector<GenerationBlockSpec> &blocks);
  // One block per element of `free`: its number of free chunks.  `empty`: blocks kept aside (16+).
  std::uint64_t slab(std::uint64_t parent, const std::string &name, std::uint32_t chunk_size,
                     int chunks_per_block, const std::vector<int> &free, int empty = 0);
  std::uint64_t bump(std::uint64_t parent, const std::string &name, std::uint64_t size,
                     std::uint64_t used);

  std::uint64_t add_block(std::uint64_t aset, std::uint64_t size, std::uint64_t used);
  // A chunk of 8 << list bytes is carved from the head block and freed; its address.
  std::uint64_t add_free_chunk(std::uint64_t aset, int list);
  void set_ident(std::uint64_t context, const std::string &ident);
  std::uint64_t text(const std::string &text);
  void remove(std::uint64_t context); // from its parent's list

  Image &image() { return *image_; }
  const Layout &layout() const { return *layout_; }
  std::uint64_t root() const;
  std::unique_ptr<ForeignMemory> memory() const; // of this process, as it is when it is read
  Sweeper sweeper(SweepLimits limits = {}) const;

  static constexpr std::uint64_t kVariable = 0x400000; // TopMemoryContext

private:
  std::uint64_t take(std::uint64_t size);
  void link(std::uint64_t context, std::uint64_t parent, const std::string &name, std::uint32_t tag,
            std::uint64_t allocated);
  void put_block(std::uint64_t block, std::uint64_t aset, std::uint64_t size, std::uint64_t used);
  void put_list(std::uint64_t head, const std::vector<std::uint64_t> &nodes);

  std::unique_ptr<Layout> layout_;
  std::shared_ptr<Image> image_;
  std::uint64_t next_ = 0x10000000;
  std::map<std::string, std::uint64_t> texts_;
};

// 15 as it is built in; 17 by hand, for what 15 does not have: Bump, the newer Slab and chunks.
Layout layout_15();
Layout layout_17();

} // namespace pgmemtrace::test
