// SPDX-License-Identifier: BSD-2-Clause
// poll_set.h - several file descriptors to wait for as one.
#pragma once

#include <sys/epoll.h>

#include "util/file.h"

namespace pgmemtrace {

class PollSet {
public:
  PollSet() : fd_(epoll_create1(EPOLL_CLOEXEC)) {}

  // Readable when one of them is; -1 if the kernel gave none.
  int fd() const { return fd_.get(); }

  // A descriptor that is closed leaves by itself.
  void add(int fd)
  {
    epoll_event readable{.events = EPOLLIN, .data = {.fd = fd}};
    if (fd >= 0)
      (void)epoll_ctl(fd_.get(), EPOLL_CTL_ADD, fd, &readable);
  }

private:
  UniqueFd fd_;
};

} // namespace pgmemtrace
