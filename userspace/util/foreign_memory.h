// SPDX-License-Identifier: BSD-2-Clause
// foreign_memory.h - bounded reads of another process's memory.
//
// process_vm_readv only: never a ptrace stop, never a write.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include <sys/types.h>

#include "util/result.h"

namespace pgmemtrace {

class ForeignMemory {
public:
  explicit ForeignMemory(pid_t pid) : pid_(pid) {}
  virtual ~ForeignMemory() = default;

  struct Piece {
    std::uint64_t address = 0;
    std::span<std::byte> into;
    bool ok = false; // set by read(): this piece was read whole
  };

  // Reads all pieces in as few system calls as possible; one unreadable piece does not
  // spoil the others.  An Error only if nothing can be read at all: ESRCH (gone), EPERM.
  virtual Result<> read(std::span<Piece> pieces);

  // Two pieces nearer than this are better read as one: copying a gap is cheaper than a piece.
  virtual std::uint64_t gap() const { return 2048; }

  bool read_bytes(std::uint64_t address, std::span<std::byte> into);
  template <typename T> std::optional<T> read_value(std::uint64_t address)
  {
    static_assert(std::is_trivially_copyable_v<T>);
    T value;
    if (!read_bytes(address, std::as_writable_bytes(std::span(&value, 1))))
      return std::nullopt;
    return value;
  }
  // A NUL-terminated string of at most `limit` bytes; cut there.  nullopt if unreadable.
  std::optional<std::string> read_string(std::uint64_t address, std::size_t limit);

  pid_t pid() const { return pid_; }

private:
  pid_t pid_;
};

} // namespace pgmemtrace
