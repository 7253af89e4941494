// SPDX-License-Identifier: BSD-2-Clause
// file.h - a file descriptor with one owner.
#pragma once

#include <string>
#include <utility>

#include <unistd.h>

namespace pgmemtrace {

class UniqueFd {
public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) : fd_(fd) {}
  UniqueFd(UniqueFd &&other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  UniqueFd &operator=(UniqueFd &&other) noexcept
  {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~UniqueFd()
  {
    if (fd_ >= 0)
      close(fd_);
  }

  explicit operator bool() const { return fd_ >= 0; }
  int get() const { return fd_; }
  int release() { return std::exchange(fd_, -1); } // somebody else closes it

private:
  int fd_ = -1;
};

// A path as a process sees it whose root directory is `root`: no link leads out of it, nor into
// /proc's own.  Empty with errno if there is none.  Linux 5.6.
UniqueFd open_rooted(int root, const std::string &path, int flags);

} // namespace pgmemtrace
