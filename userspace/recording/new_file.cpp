// SPDX-License-Identifier: BSD-2-Clause
// new_file.cpp - a file that is there whole or not at all.
#include "recording/recording_file.h"

#include <cerrno>
#include <cstdlib>
#include <utility>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

namespace pgmemtrace {

Result<NewFile> NewFile::create(const std::string &path)
{
  struct stat there {};
  if (stat(path.c_str(), &there) == 0 && !S_ISREG(there.st_mode))
    return Error{"write " + path, 0, "it is no regular file: give -o the name of one"};
  std::string temporary = path + ".XXXXXX";
  UniqueFd fd(mkostemp(temporary.data(), O_CLOEXEC));
  if (!fd)
    return Error{"write " + path, errno, "-o names the file"};
  return NewFile(path, std::move(temporary), std::move(fd));
}

NewFile::NewFile(NewFile &&other) noexcept
    : path_(std::move(other.path_)), temporary_(std::exchange(other.temporary_, {})),
      fd_(std::move(other.fd_))
{
}

NewFile::~NewFile()
{
  if (!temporary_.empty())
    unlink(temporary_.c_str());
}

Result<> NewFile::commit(std::string_view contents)
{
  const auto failed = [&] { return Error{"write " + path_, errno, {}}; };
  while (!contents.empty()) {
    const auto written = write(fd_.get(), contents.data(), contents.size());
    if (written < 0 && errno == EINTR)
      continue;
    if (written < 0)
      return failed();
    contents.remove_prefix(static_cast<std::size_t>(written));
  }
  // Some file systems tell of a full disk only here.
  if (fsync(fd_.get()) || rename(temporary_.c_str(), path_.c_str()))
    return failed();
  temporary_.clear();
  return Ok{};
}

} // namespace pgmemtrace
