// SPDX-License-Identifier: BSD-2-Clause
#include "cli/privileges.h"

#include <cerrno>

#include <cap-ng.h>
#include <sys/prctl.h>

namespace pgmemtrace {

Result<> drop_privileges(bool uprobe_multi)
{
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    return Error{"give up gaining privileges", errno, {}};
  capng_get_caps_process();
  const auto keep = [](unsigned capability) {
    return capng_have_capability(CAPNG_PERMITTED, capability);
  };
  const bool bpf = keep(CAP_BPF), perfmon = keep(CAP_PERFMON), ptrace = keep(CAP_SYS_PTRACE),
             search = keep(CAP_DAC_READ_SEARCH), user = keep(CAP_SETUID), group = keep(CAP_SETGID),
             root = keep(CAP_SYS_CHROOT),
             // Before 5.8, and where only this was granted, it stands for the first two.
      admin = keep(CAP_SYS_ADMIN) && (!uprobe_multi || !bpf || !perfmon);
  capng_clear(CAPNG_SELECT_CAPS);
  const auto type = static_cast<capng_type_t>(CAPNG_EFFECTIVE | CAPNG_PERMITTED);
  if (bpf)
    capng_update(CAPNG_ADD, type, CAP_BPF);
  if (perfmon)
    capng_update(CAPNG_ADD, type, CAP_PERFMON);
  if (ptrace)
    capng_update(CAPNG_ADD, type, CAP_SYS_PTRACE);
  if (search)
    capng_update(CAPNG_ADD, type, CAP_DAC_READ_SEARCH);
  if (user)
    capng_update(CAPNG_ADD, type, CAP_SETUID);
  if (group)
    capng_update(CAPNG_ADD, type, CAP_SETGID);
  if (root)
    capng_update(CAPNG_ADD, type, CAP_SYS_CHROOT);
  if (admin)
    capng_update(CAPNG_ADD, type, CAP_SYS_ADMIN);
  if (capng_apply(CAPNG_SELECT_CAPS))
    return Error{"drop capabilities that are not needed", errno, {}};
  return Ok{};
}

} // namespace pgmemtrace
