// SPDX-License-Identifier: BSD-2-Clause
// child.h - a program that we start in a server's root directory, and that ends with us.
#pragma once

#include <chrono>
#include <csignal>
#include <optional>
#include <string>
#include <vector>

#include <sys/types.h>

#include "util/file.h"
#include "util/result.h"

namespace pgmemtrace {

struct Program {
  std::vector<std::string> arguments; // the first one: the executable, as it is seen from `root`
  std::vector<std::string> environment;
  int root = -1;                   // of its file system, to be chrooted into; -1: ours
  int input = -1;                  // -1: nothing
  int output = -1;                 // what it prints; -1: where we do
  int errors = -1;                 // -1: as output
  std::vector<int> inherited;      // descriptors that it gets, under the same numbers
  bool keeps_capabilities = false; // ours; else it has none
  int end_with_us = SIGTERM;       // what it is sent when this thread ends, whatever ends it
};

class Child {
public:
  using Time = std::chrono::steady_clock;

  static Result<Child> start(const Program &program);
  Child(Child &&other) noexcept;
  Child &operator=(Child &&other) noexcept;
  ~Child(); // SIGKILL, if it still runs

  pid_t pid() const { return pid_; }
  int ended_fd() const { return ended_.get(); } // readable when it has
  bool running() { return !wait(-1, Time::now()); }
  void signal(int number) const;

  // Its exit status, or 128 + the signal that ended it.  Error: ETIMEDOUT, or ECANCELED when `stop`
  // became readable (-1: never).
  Result<int> wait(int stop, Time::time_point until);

private:
  explicit Child(pid_t pid);
  bool reap(int flags);

  pid_t pid_ = -1;
  UniqueFd ended_; // a pidfd: readable then
  std::optional<int> status_;
};

} // namespace pgmemtrace
