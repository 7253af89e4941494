// SPDX-License-Identifier: BSD-2-Clause
// foreign_memory.cpp - process_vm_readv in batches, with its partial transfers undone.
#include "util/foreign_memory.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>

#include <sys/uio.h>

namespace pgmemtrace {

namespace {

// What one call takes at most (UIO_MAXIOV).
constexpr std::size_t kBatch = IOV_MAX;

// x86-64 and arm64 processes have no address above this; a range that wraps around is no range.
constexpr std::uint64_t kAddressEnd = 1ull << 56;

// Strings are read in steps that never cross a page: the next page may not be mapped.
constexpr std::size_t kPage = 4096;

bool plausible(const ForeignMemory::Piece &piece)
{
  return piece.address != 0 && piece.into.size() < kAddressEnd &&
         piece.address <= kAddressEnd - piece.into.size();
}

// Marks the pieces that `bytes` cover whole; their number.
std::size_t mark_read(std::span<ForeignMemory::Piece> batch, std::size_t bytes)
{
  std::size_t done = 0;
  for (auto &piece : batch) {
    if (!plausible(piece)) // took no part in the call
      piece.ok = false;
    else if (bytes < piece.into.size())
      break;
    else {
      bytes -= piece.into.size();
      piece.ok = true;
    }
    ++done;
  }
  return done;
}

} // namespace

Result<> ForeignMemory::read(std::span<Piece> pieces)
{
  std::array<iovec, kBatch> local;
  std::array<iovec, kBatch> remote;

  while (!pieces.empty()) {
    const auto batch = pieces.first(std::min(pieces.size(), kBatch));
    std::size_t count = 0;
    for (auto &piece : batch) {
      piece.ok = false;
      if (!plausible(piece))
        continue;
      local[count] = {piece.into.data(), piece.into.size()};
      // NOLINTNEXTLINE(performance-no-int-to-ptr): an address in the other process
      remote[count] = {reinterpret_cast<void *>(piece.address), piece.into.size()};
      ++count;
    }
    const ssize_t got =
        count == 0 ? 0 : process_vm_readv(pid_, local.data(), count, remote.data(), count, 0);
    if (got < 0 && errno != EFAULT && errno != EINTR && errno != ENOMEM)
      return Error{"read memory of process " + std::to_string(pid_), errno, {}};
    if (got < 0 && errno == EINTR)
      continue;

    // The call stops at the first byte that cannot be read: that piece is lost, what
    // follows it was not tried.  Each turn gets past at least one piece.
    const std::size_t done = mark_read(batch, got > 0 ? static_cast<std::size_t>(got) : 0);
    pieces = pieces.subspan(done < batch.size() ? done + 1 : done);
  }
  return Ok{};
}

bool ForeignMemory::read_bytes(std::uint64_t address, std::span<std::byte> into)
{
  Piece piece{address, into};
  return read(std::span(&piece, 1)) && piece.ok;
}

std::optional<std::string> ForeignMemory::read_string(std::uint64_t address, std::size_t limit)
{
  std::string text;
  std::array<std::byte, 256> step;
  while (text.size() < limit) {
    const std::uint64_t at = address + text.size();
    const std::size_t size =
        std::min({step.size(), limit - text.size(), kPage - static_cast<std::size_t>(at % kPage)});
    const auto bytes = std::span(step).first(size);
    if (!read_bytes(at, bytes))
      return std::nullopt;
    const auto end = std::find(bytes.begin(), bytes.end(), std::byte{0});
    text.append(reinterpret_cast<const char *>(bytes.data()),
                static_cast<std::size_t>(end - bytes.begin()));
    if (end != bytes.end())
      return text;
  }
  return text;
}

} // namespace pgmemtrace
