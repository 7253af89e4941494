// SPDX-License-Identifier: BSD-2-Clause
// rooted_file.h - a regular file below another process's root directory.
//
// A container may have put a symbolic link, a FIFO or a device where a file was.  Links are
// resolved within the root, and nothing but a regular file is ever opened.
#pragma once

#include <optional>
#include <string>

#include "attach/proc.h"
#include "util/file.h"

namespace pgmemtrace {

class RootedFile {
public:
  RootedFile(UniqueFd fd, Proc::File identity) : fd_(std::move(fd)), identity_(identity) {}

  // Opens this very file, as long as the RootedFile lives.
  std::string path() const { return "/proc/self/fd/" + std::to_string(fd_.get()); }
  const Proc::File &identity() const { return identity_; }

private:
  UniqueFd fd_; // O_PATH
  Proc::File identity_;
};

// `root` "": the host's own; `path`: absolute.
std::optional<RootedFile> open_in_root(const std::string &root, const std::string &path);

// What a link of /proc leads to: PID/exe, PID/map_files/START-END.
std::optional<RootedFile> open_link(const std::string &link);

} // namespace pgmemtrace
