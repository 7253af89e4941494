// SPDX-License-Identifier: BSD-2-Clause
// process.h - a child process that a test owns, and a command that it waits for.
//
// Children are ended by pid and never by name.  A child also dies with the thread that
// started it, so that a crashed test leaves no server or daemon behind.
#pragma once

#include <chrono>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include <sys/types.h>

#include "util/result.h"

namespace pgmemtrace::test {

struct User {
  uid_t uid = 0;
  gid_t gid = 0;
};

// Looks in <root>/etc/passwd, so that the users of a chroot are found as well.
Result<User> find_user(const std::string &name, const std::filesystem::path &root = "/");

struct SpawnOptions {
  std::filesystem::path root = "/"; // the child's root directory
  // CLONE_NEW* flags: namespaces of its own.  With CLONE_NEWPID it is their first process; with
  // CLONE_NEWNS `root` has to be a mount point, and becomes all it sees.
  int namespaces = 0;
  std::filesystem::path directory = "/";
  std::optional<User> user;     // drops root for good
  std::vector<std::string> env; // "NAME=value", on top of our own environment
  int out = -1;                 // descriptors for stdout and stderr; ours if -1
  int err = -1;
  int dies_with_us = 9; // the signal it gets when we end
};

class ChildProcess final {
public:
  static Result<ChildProcess> spawn(const std::vector<std::string> &argv,
                                    const SpawnOptions &options = {});
  ChildProcess(ChildProcess &&other) noexcept;
  ChildProcess &operator=(ChildProcess &&other) noexcept;
  ChildProcess(const ChildProcess &) = delete;
  ChildProcess &operator=(const ChildProcess &) = delete;
  ~ChildProcess(); // SIGKILL if it still runs

  pid_t pid() const { return pid_; }
  bool running();
  void signal(int number);

  // The exit status, 128 + signal if a signal ended it; nothing if it still runs after `limit`.
  std::optional<int> wait(std::chrono::milliseconds limit);

private:
  explicit ChildProcess(pid_t pid) : pid_(pid) {}

  pid_t pid_ = -1;
  std::optional<int> status_; // set once it has been reaped
};

struct CommandResult {
  int status = -1; // 128 + signal if a signal ended it, -1 if it never ran or never ended
  std::string out;
  std::string err;
};

struct CommandOptions {
  std::chrono::seconds limit{60}; // killed after that
  std::optional<User> user;
  std::vector<std::string> env;
  std::filesystem::path root = "/";
};

CommandResult run_command(const std::vector<std::string> &argv, const CommandOptions &options = {});

// A whole file, or what could be read of it.
std::string read_text(const std::filesystem::path &path);

} // namespace pgmemtrace::test
