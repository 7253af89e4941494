// SPDX-License-Identifier: BSD-2-Clause
#include "cli/commands.h"

#include <iostream>

namespace pgmemtrace {

int fail(const Error &error)
{
  std::cerr << "error: " << to_string(error) << '\n';
  if (!error.hint.empty())
    std::cerr << "hint: " << error.hint << '\n';
  return kCannotRun;
}

} // namespace pgmemtrace
