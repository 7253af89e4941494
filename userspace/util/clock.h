// SPDX-License-Identifier: BSD-2-Clause
// clock.h - the clock of the kernel half.
#pragma once

#include <cstdint>
#include <ctime>

namespace pgmemtrace {

// CLOCK_MONOTONIC: what bpf_ktime_get_ns() returns.
inline std::uint64_t monotonic_ns()
{
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000 +
         static_cast<std::uint64_t>(now.tv_nsec);
}

} // namespace pgmemtrace
