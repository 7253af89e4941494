// SPDX-License-Identifier: BSD-2-Clause
#include "util/result.h"

#include <cstring>

namespace pgmemtrace {
namespace {

// The kernel's own ENOTSUPP (Linux include/linux/errno.h), which BPF and perf let out: the C
// library has no name for it.
constexpr int kKernelNotSupported = 524;

} // namespace

std::string to_string(const Error &error)
{
  if (error.err == 0)
    return error.what;
  if (error.err == kKernelNotSupported)
    return error.what + ": not supported by this kernel";
  return error.what + ": " + std::strerror(error.err);
}

} // namespace pgmemtrace
