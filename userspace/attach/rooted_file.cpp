// SPDX-License-Identifier: BSD-2-Clause
// rooted_file.cpp - O_PATH first: it looks at a file without opening it.
#include "attach/rooted_file.h"

#include <fcntl.h>
#include <sys/stat.h>

namespace pgmemtrace {

namespace {

std::optional<RootedFile> regular(UniqueFd fd)
{
  struct stat st {};
  if (!fd || fstat(fd.get(), &st) != 0 || !S_ISREG(st.st_mode))
    return std::nullopt;
  return RootedFile(std::move(fd), Proc::file(st));
}

} // namespace

std::optional<RootedFile> open_in_root(const std::string &root, const std::string &path)
{
  const UniqueFd directory(
      open(root.empty() ? "/" : root.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!directory)
    return std::nullopt;
  return regular(open_rooted(directory.get(), path, O_PATH | O_CLOEXEC));
}

std::optional<RootedFile> open_link(const std::string &link)
{
  return regular(UniqueFd(open(link.c_str(), O_PATH | O_CLOEXEC)));
}

} // namespace pgmemtrace
