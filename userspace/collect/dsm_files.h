// SPDX-License-Identifier: BSD-2-Clause
// dsm_files.h - segments of dynamic shared memory that are files: what nobody has mapped can
// still be looked at.
//
// posix: /dev/shm/PostgreSQL.HANDLE; mmap: pg_dynshmem/mmap.HANDLE in the data directory
// (PostgreSQL storage/ipc/dsm_impl.c).  Both are found from the postmaster's own root and working
// directory, which may be a container's.  Segments of dynamic_shared_memory_type = sysv are none.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include <sys/types.h>

#include "attach/proc.h"
#include "util/file.h"

namespace pgmemtrace {

// By the name of a mapping: "/dev/shm/PostgreSQL.123", "/x/pg_dynshmem/mmap.123", "/SYSV0000007b".
// A System V key is the handle, negated where it would be negative as an int (dsm_impl.c).
bool is_mapping_of(std::string_view mapped_path, std::uint32_t handle);

class DsmFile {
public:
  // Empty if the segment is no file, or is gone.
  static std::optional<DsmFile> open(const Proc &proc, pid_t postmaster, std::uint32_t handle);

  std::uint64_t bytes() const { return bytes_; }
  // How much of `into` could be read; a file may be shorter than it was.
  std::size_t read(std::uint64_t offset, std::span<std::byte> into) const;

private:
  DsmFile(UniqueFd fd, std::uint64_t bytes) : fd_(std::move(fd)), bytes_(bytes) {}

  UniqueFd fd_;
  std::uint64_t bytes_;
};

} // namespace pgmemtrace
