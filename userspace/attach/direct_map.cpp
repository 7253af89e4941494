// SPDX-License-Identifier: BSD-2-Clause
// direct_map.cpp - runs of bpf/direct.bpf.c, and where the direct map is.
#include "attach/direct_map.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <sys/random.h>
#include <unistd.h>

#include <pgmemtrace/abi.h>

#include "direct.skel.h"

namespace pgmemtrace {

namespace {

constexpr std::uint64_t kPage = 4096;
static_assert(kPage == PGMT_DIRECT_LONGEST);

// With fewer pieces than this a run costs more than process_vm_readv.
constexpr std::size_t kFewest = 8;

// The direct map begins at a multiple of this (Linux arch/x86/mm/kaslr.c).
constexpr std::uint64_t kAlignment = 1 << 30;

// Where memory ends, at the most: it has holes, of hardly more than it has.  A page beyond, should
// there be one, process_vm_readv is asked for.
std::uint64_t memory_end()
{
  const auto pages = static_cast<std::uint64_t>(std::max(sysconf(_SC_PHYS_PAGES), 0L));
  return 64 * kAlignment + 2 * pages * kPage;
}

// Nothing of a process is above, and nothing there must be taken for what is below.
std::uint64_t address_end(std::uint32_t levels) { return 1ull << (levels == 5 ? 56 : 47); }

// Goes through a piece page by page.
template <typename Visit> void for_each_page(const ForeignMemory::Piece &piece, Visit visit)
{
  for (std::size_t done = 0; done < piece.into.size();) {
    const std::uint64_t address = piece.address + done;
    const std::size_t size =
        std::min<std::size_t>(piece.into.size() - done, kPage - address % kPage);
    visit(address, piece.into.subspan(done, size));
    done += size;
  }
}

} // namespace

void DirectMap::Destroy::operator()(direct_bpf *object) const { direct_bpf::destroy(object); }

DirectMap::DirectMap(std::unique_ptr<direct_bpf, Destroy> object)
    : object_(std::move(object)), program_(bpf_program__fd(object_->progs.direct_read))
{
}

Result<std::shared_ptr<DirectMap>> DirectMap::load()
{
#if !defined(__x86_64__)
  return Error{.what = "read page tables", .err = ENOTSUP}; // others look different
#else
  std::unique_ptr<direct_bpf, Destroy> object(direct_bpf::open());
  if (!object)
    return Error{"open the BPF object that reads page tables", errno, {}};
  if (int err = direct_bpf::load(object.get()); err != 0)
    return Error{"load the BPF program that reads page tables", -err, {}};
  std::shared_ptr<DirectMap> map(new DirectMap(std::move(object)));
  if (!map->find())
    return Error{.what = "find the kernel's direct map", .err = ENOTSUP, .hint = {}};
  return map;
#endif
}

// Where it begins, and how many levels page tables have: what gives our own memory is right.
bool DirectMap::find()
{
  auto &shared = *object_->bss;
  std::array<std::byte, 64> told{};
  std::array<std::byte, 64> seen{};
  if (getrandom(told.data(), told.size(), 0) != static_cast<ssize_t>(told.size()))
    return false;
  ForeignMemory::Piece piece{.address = reinterpret_cast<std::uint64_t>(told.data()), .into = seen};
  shared.memory_end = memory_end();
  shared.levels = 4;
  read(getpid(), std::span(&piece, 1)); // tells where the root of our page tables is
  const std::uint64_t highest = shared.root / kAlignment * kAlignment;
  for (std::uint64_t below = 0; below < std::min<std::uint64_t>(shared.memory_end, highest);
       below += kAlignment) {
    for (const std::uint32_t levels : {4u, 5u}) {
      shared.direct_map = highest - below;
      shared.levels = levels;
      read(getpid(), std::span(&piece, 1));
      if (piece.ok && std::ranges::equal(told, seen))
        return true;
    }
  }
  return false;
}

// Into how many a piece is cut, one a page; 0: it is not for us.
std::size_t DirectMap::cut(const ForeignMemory::Piece &piece) const
{
  const std::uint64_t end = address_end(object_->bss->levels);
  const std::size_t size = piece.into.size();
  if (size == 0 || size > PGMT_DIRECT_BYTES || piece.address > end - size)
    return 0;
  return (piece.address % kPage + size + kPage - 1) / kPage;
}

// How many pieces fit into one run.
std::size_t DirectMap::stage(std::span<const ForeignMemory::Piece> pieces)
{
  auto &shared = *object_->bss;
  std::size_t bytes = 0;
  std::size_t taken = 0;
  shared.count = 0;
  for (const auto &piece : pieces) {
    const std::size_t pages = cut(piece);
    if (pages != 0) {
      if (shared.count + pages > PGMT_DIRECT_PIECES ||
          bytes + piece.into.size() > PGMT_DIRECT_BYTES)
        break;
      for_each_page(piece, [&](std::uint64_t address, std::span<std::byte> into) {
        shared.pieces[shared.count++] = {.address = address,
                                         .at = static_cast<std::uint32_t>(bytes),
                                         .size = static_cast<std::uint16_t>(into.size()),
                                         .read = 0};
        bytes += into.size();
      });
    }
    ++taken;
  }
  return taken;
}

bool DirectMap::run(pid_t pid)
{
  auto &shared = *object_->bss;
  shared.pid = pid;
  shared.changed = 1;
  bpf_test_run_opts options{};
  options.sz = sizeof(options);
  return bpf_prog_test_run_opts(program_, &options) == 0 && shared.changed == 0;
}

void DirectMap::deliver(std::span<ForeignMemory::Piece> pieces, bool ran)
{
  const auto &shared = *object_->bss;
  const pgmt_direct_piece *next = shared.pieces;
  for (auto &piece : pieces) {
    const bool staged = cut(piece) != 0;
    piece.ok = ran && staged;
    if (!staged)
      continue;
    for_each_page(piece, [&](std::uint64_t, std::span<std::byte> into) {
      piece.ok = piece.ok && next->read != 0;
      if (piece.ok)
        std::memcpy(into.data(), shared.bytes + next->at, into.size());
      ++next;
    });
  }
}

void DirectMap::read(pid_t pid, std::span<ForeignMemory::Piece> pieces)
{
  while (!pieces.empty()) {
    const auto part = pieces.first(stage(pieces));
    deliver(part, run(pid));
    pieces = pieces.subspan(part.size());
  }
}

Result<> DirectMemory::read(std::span<Piece> pieces)
{
  if (pieces.size() < kFewest)
    return ForeignMemory::read(pieces);
  map_->read(pid(), pieces);
  std::vector<Piece> rest;
  std::ranges::copy_if(pieces, std::back_inserter(rest),
                       [](const Piece &piece) { return !piece.ok; });
  if (rest.empty())
    return Ok{};
  if (auto result = ForeignMemory::read(rest); !result)
    return result;
  auto next = rest.begin();
  for (Piece &piece : pieces)
    if (!piece.ok)
      piece = *next++;
  return Ok{};
}

std::unique_ptr<ForeignMemory> foreign_memory(pid_t pid, std::shared_ptr<DirectMap> map)
{
  if (map)
    return std::make_unique<DirectMemory>(pid, std::move(map));
  return std::make_unique<ForeignMemory>(pid);
}

} // namespace pgmemtrace
