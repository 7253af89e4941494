// SPDX-License-Identifier: BSD-2-Clause
#include "util/file.h"

#include <linux/openat2.h>
#include <sys/syscall.h>

namespace pgmemtrace {

UniqueFd open_rooted(int root, const std::string &path, int flags)
{
  open_how how{};
  how.flags = static_cast<unsigned>(flags);
  how.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS;
  return UniqueFd(static_cast<int>(syscall(SYS_openat2, root, path.c_str(), &how, sizeof how)));
}

} // namespace pgmemtrace
