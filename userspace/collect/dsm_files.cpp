// SPDX-License-Identifier: BSD-2-Clause
#include "collect/dsm_files.h"

#include <cstdint>
#include <string>
#include <utility>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

namespace pgmemtrace {
namespace {

// Where a segment lies: below the root directory, or below the data directory.
std::string posix_file(std::uint32_t handle)
{
  return fmt::format("dev/shm/PostgreSQL.{}", handle);
}
std::string mmap_file(std::uint32_t handle) { return fmt::format("pg_dynshmem/mmap.{}", handle); }

UniqueFd open_below(const Proc &proc, pid_t pid, std::string_view folder, const std::string &file)
{
  const UniqueFd root(::open(proc.path(pid, folder).c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  // A name that leads to a FIFO must not make us wait.
  return root ? open_rooted(root.get(), file, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC)
              : UniqueFd();
}

} // namespace

bool is_mapping_of(std::string_view mapped_path, std::uint32_t handle)
{
  const std::uint32_t key = handle > INT32_MAX ? 0U - handle : handle;
  return mapped_path.ends_with('/' + posix_file(handle)) ||
         mapped_path.ends_with('/' + mmap_file(handle)) ||
         mapped_path == fmt::format("/SYSV{:08x}", key);
}

std::optional<DsmFile> DsmFile::open(const Proc &proc, pid_t postmaster, std::uint32_t handle)
{
  auto fd = open_below(proc, postmaster, "root", posix_file(handle));
  if (!fd)
    fd = open_below(proc, postmaster, "cwd", mmap_file(handle));
  struct stat st {};
  if (!fd || fstat(fd.get(), &st) != 0 || !S_ISREG(st.st_mode) || st.st_size < 0)
    return std::nullopt;
  return DsmFile(std::move(fd), static_cast<std::uint64_t>(st.st_size));
}

std::size_t DsmFile::read(std::uint64_t offset, std::span<std::byte> into) const
{
  const ssize_t got = pread(fd_.get(), into.data(), into.size(), static_cast<off_t>(offset));
  return got < 0 ? 0 : static_cast<std::size_t>(got);
}

} // namespace pgmemtrace
