// SPDX-License-Identifier: BSD-2-Clause
#include "copy/folder.h"

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <string_view>
#include <vector>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "util/text.h"

namespace pgmemtrace {

namespace fs = std::filesystem;

namespace {

constexpr std::string_view kPrefix = "pgmemtrace-copy.";

std::string through(int fd) { return fmt::format("/proc/self/fd/{}", fd); }

UniqueFd lock_file(int folder, int flags)
{
  UniqueFd lock(openat(folder, "lock", O_RDWR | O_NOFOLLOW | O_CLOEXEC | flags, 0600));
  if (lock && flock(lock.get(), LOCK_EX | LOCK_NB) != 0)
    return {};
  return lock;
}

// Ours, and nobody holds its lock.
bool left_over(int parent, const std::string &name)
{
  const UniqueFd folder(
      openat(parent, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  struct stat status {};
  return folder && fstat(folder.get(), &status) == 0 && status.st_uid == geteuid() &&
         lock_file(folder.get(), 0);
}

void remove_left_over(int parent)
{
  std::vector<std::string> found;
  std::error_code ignored;
  for (const auto &entry : fs::directory_iterator(through(parent), ignored))
    if (auto name = entry.path().filename().string(); name.starts_with(kPrefix))
      found.push_back(std::move(name));
  for (const std::string &name : found)
    if (left_over(parent, name))
      fs::remove_all(fs::path(through(parent)) / name, ignored); // follows no links
}

} // namespace

Result<> check_space(std::uint64_t needed, std::uint64_t available, const std::string &directory)
{
  if (needed <= available)
    return Ok{};
  return Error{fmt::format("make a copy of {} in {}, which has {} left", human_bytes(needed),
                           directory, human_bytes(available)),
               ENOSPC, "--copy-dir names another directory"};
}

CopyFolder::CopyFolder(UniqueFd parent, std::string directory, std::string name)
    : parent_(std::move(parent)), directory_(std::move(directory)), name_(std::move(name))
{
}

Result<CopyFolder> CopyFolder::make(int root, const std::string &directory, std::uint64_t bytes)
{
  const auto failed = [&](const std::string &what, int err) {
    return Error{what + " " + directory, err,
                 "--copy-dir names a directory, as the server sees it, that its user can write to"};
  };
  UniqueFd parent = open_rooted(root, directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (!parent)
    return failed("open", errno);
  remove_left_over(parent.get());
  struct statvfs space {};
  if (fstatvfs(parent.get(), &space) != 0)
    return failed("ask for the space in", errno);
  if (auto fits = check_space(bytes, std::uint64_t{space.f_bavail} * space.f_frsize, directory);
      !fits)
    return fits.error();
  std::string made = fmt::format("{}/{}XXXXXX", through(parent.get()), kPrefix);
  if (mkdtemp(made.data()) == nullptr)
    return failed("make a folder in", errno);
  CopyFolder folder(std::move(parent), directory, fs::path(made).filename().string());
  const UniqueFd opened(open(made.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  folder.lock_ = lock_file(opened.get(), O_CREAT | O_EXCL);
  if (!folder.lock_)
    return failed("lock a folder in", errno);
  for (const char *name : {"socket", "tablespaces", "crashes"})
    if (mkdir(folder.path(name).c_str(), 0700) != 0)
      return failed("make a folder in", errno);
  return folder;
}

CopyFolder::~CopyFolder()
{
  std::error_code ignored;
  if (parent_)
    fs::remove_all(path(""), ignored);
}

std::string CopyFolder::path(const std::string &name) const
{
  return fmt::format("{}/{}{}{}", through(parent_.get()), name_, name.empty() ? "" : "/", name);
}

std::string CopyFolder::inside(const std::string &name) const
{
  return fs::path(directory_) / name_ / name;
}

} // namespace pgmemtrace
