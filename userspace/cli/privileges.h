// SPDX-License-Identifier: BSD-2-Clause
// privileges.h - what is kept after start-up.
#pragma once

#include "util/result.h"

namespace pgmemtrace {

// Keeps what watching needs, drops everything else for good, and forbids gaining anything:
//   CAP_BPF, CAP_PERFMON   load and attach for servers that start later
//   CAP_SYS_PTRACE         process_vm_readv and /proc/PID/exe of other users' processes
//   CAP_DAC_READ_SEARCH    data directories of other users
//   CAP_SETUID, CAP_SETGID the threads that talk to the extension, as the user that runs its server
//   CAP_SYS_CHROOT         copies of servers in containers: `pgmemtrace check`, for the extension
//   CAP_SYS_ADMIN          only with perf-event probes, which some kernels ask it for
Result<> drop_privileges(bool uprobe_multi);

} // namespace pgmemtrace
