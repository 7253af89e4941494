// SPDX-License-Identifier: BSD-2-Clause
// folder.h - the folder of a copy: its own, locked while anybody uses it, and gone afterwards.
#pragma once

#include <cstdint>
#include <string>

#include "util/file.h"
#include "util/result.h"

namespace pgmemtrace {

class CopyFolder {
public:
  // In `directory` of the file system below `root`.  Removes what is left there of earlier copies
  // of this user whose processes have all ended.  Error: also if `bytes` do not fit.
  static Result<CopyFolder> make(int root, const std::string &directory, std::uint64_t bytes);
  CopyFolder(CopyFolder &&) = default;
  CopyFolder &operator=(CopyFolder &&) = delete;
  ~CopyFolder(); // removes it

  std::string path(const std::string &name) const;   // from our root
  std::string inside(const std::string &name) const; // from the server's
  // Whoever inherits it keeps the folder from being taken for left over.
  int lock() const { return lock_.get(); }

private:
  CopyFolder(UniqueFd parent, std::string directory, std::string name);

  UniqueFd parent_;
  std::string directory_, name_;
  UniqueFd lock_;
};

// For the message, and to be tested without a full disk.
Result<> check_space(std::uint64_t needed, std::uint64_t available, const std::string &directory);

} // namespace pgmemtrace
