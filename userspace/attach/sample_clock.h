// SPDX-License-Identifier: BSD-2-Clause
// sample_clock.h - the clock that bpf/sample.bpf.h goes by: one on each CPU.
//
// A software perf event, which every kernel has.  It belongs to its CPU: it ends when the CPU is
// taken offline, and one that comes online has none until somebody opens it.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "util/file.h"

namespace pgmemtrace {

// A list as the kernel writes it (Documentation/admin-guide/cputopology.rst): "0-3,8", in
// ascending order; "" is none.  nullopt: not such a list, or of numbers that no kernel has.
std::optional<std::vector<int>> parse_cpu_list(std::string_view text);

// What the only line of `file` lists now.  nullopt: it cannot be read.
inline constexpr const char *kOnlineCpus = "/sys/devices/system/cpu/online";
std::optional<std::vector<int>> cpus_in(const std::string &file);

// Empty with errno if there is none; ENODEV: the CPU is offline.
UniqueFd open_sample_clock(int cpu);

} // namespace pgmemtrace
