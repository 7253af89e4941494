// SPDX-License-Identifier: BSD-2-Clause
// kernel_features.cpp - tries, and turns what failed into advice.
#include "attach/kernel_features.h"

#include <array>
#include <cerrno>
#include <fstream>
#include <memory>
#include <optional>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <cap-ng.h>
#include <linux/capability.h>
#include <unistd.h>

namespace pgmemtrace {
namespace {

// One line does for all: systemd's form, then setcap's.
constexpr const char *kGrant =
    "run with sudo, or grant it: AmbientCapabilities=CAP_BPF CAP_PERFMON CAP_SYS_PTRACE "
    "CAP_DAC_READ_SEARCH in a systemd unit, or setcap "
    "cap_bpf,cap_perfmon,cap_sys_ptrace,cap_dac_read_search=ep on the binary";

template <typename T> std::optional<T> read_value(const std::filesystem::path &path)
{
  std::ifstream file(path);
  T value{};
  if (!(file >> value))
    return std::nullopt;
  return value;
}

class Fd {
public:
  explicit Fd(int fd) : fd_(fd) {}
  ~Fd()
  {
    if (fd_ >= 0)
      close(fd_);
  }
  Fd(const Fd &) = delete;
  Fd &operator=(const Fd &) = delete;
  int get() const { return fd_; }

private:
  int fd_;
};

int load_return_zero(bpf_attach_type attach_type)
{
  constexpr std::array<bpf_insn, 2> kReturnZero{{
      {.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0, .src_reg = 0, .off = 0, .imm = 0},
      {.code = BPF_JMP | BPF_EXIT, .dst_reg = 0, .src_reg = 0, .off = 0, .imm = 0},
  }};
  bpf_prog_load_opts options{};
  options.sz = sizeof(options);
  options.expected_attach_type = attach_type;
  return bpf_prog_load(BPF_PROG_TYPE_KPROBE, "pgmt_try", "Dual BSD/GPL", kReturnZero.data(),
                       kReturnZero.size(), &options);
}

// A directory cannot be probed: a kernel that knows the link type says EBADF, any other EINVAL.
bool has_uprobe_multi()
{
  const Fd program(load_return_zero(BPF_TRACE_UPROBE_MULTI));
  if (program.get() < 0)
    return false;
  const unsigned long offset = 0;
  bpf_link_create_opts options{};
  options.sz = sizeof(options);
  options.uprobe_multi.path = "/";
  options.uprobe_multi.offsets = &offset;
  options.uprobe_multi.cnt = 1;
  const Fd link(bpf_link_create(program.get(), -1, BPF_TRACE_UPROBE_MULTI, &options));
  return link.get() == -EBADF;
}

bool has_helper(bpf_func_id helper)
{
  return libbpf_probe_bpf_helper(BPF_PROG_TYPE_KPROBE, helper, nullptr) == 1;
}

void read_capabilities(KernelFeatures &out)
{
  if (capng_get_caps_process() != 0)
    return;
  const auto have = [](unsigned capability) {
    return capng_have_capability(CAPNG_EFFECTIVE, capability) != 0;
  };
  out.capabilities.bpf = have(CAP_BPF);
  out.capabilities.perfmon = have(CAP_PERFMON);
  out.capabilities.sys_ptrace = have(CAP_SYS_PTRACE);
  // Who may overrule all of file permissions may overrule reading.
  out.capabilities.dac_read_search = have(CAP_DAC_READ_SEARCH) || have(CAP_DAC_OVERRIDE);
  out.capabilities.sys_admin = have(CAP_SYS_ADMIN);
}

// Capabilities are missing: one error each, so that all can be granted at once.
void check_capabilities(const KernelFeatures &features, std::vector<Error> &out)
{
  const auto &have = features.capabilities;
  const auto need = [&](bool granted, const char *what) {
    if (!granted)
      out.push_back({what, EPERM, kGrant});
  };
  need(have.bpf || have.sys_admin, "load BPF programs (CAP_BPF)");
  need(have.perfmon || have.sys_admin, "probe other processes (CAP_PERFMON)");
  need(have.sys_ptrace, "read the memory of other processes (CAP_SYS_PTRACE)");
  need(have.dac_read_search, "read the servers' files (CAP_DAC_READ_SEARCH)");
}

void check_bpf(const KernelFeatures &features, std::vector<Error> &out)
{
  const auto &have = features.capabilities;
  const bool allowed = (have.bpf && have.perfmon) || have.sys_admin;
  if (features.load_error == ENOSYS)
    out.push_back({"load BPF programs", ENOSYS,
                   "this kernel has no BPF (CONFIG_BPF_SYSCALL): use one that has"});
  else if (features.load_error != 0 && allowed)
    out.push_back({"load BPF programs, though the capabilities are there", features.load_error,
                   "a container or a security module forbids it: run on the host, or in a "
                   "privileged container that shares its process namespace"});
  if (features.load_error != 0)
    return;
  if (!features.bpf_loop)
    out.push_back(
        {"walk context trees in the kernel (bpf_loop)", ENOSYS, "use a kernel of 5.17 or later"});
  if (!features.task_storage)
    out.push_back({"keep state per process in the kernel (task storage)", ENOSYS,
                   "use a kernel of 5.17 or later"});
  if (!features.uprobe_multi && !have.sys_admin)
    out.push_back({"attach many probes at once (uprobe_multi)", ENOSYS,
                   "use a kernel of 6.6 or later, or grant CAP_SYS_ADMIN for the older way"});
}

} // namespace

KernelFeatures detect_kernel_features(const std::filesystem::path &proc,
                                      const std::filesystem::path &sys)
{
  KernelFeatures out;
  out.release = read_value<std::string>(proc / "sys/kernel/osrelease").value_or("");
  out.unprivileged_bpf_disabled =
      read_value<int>(proc / "sys/kernel/unprivileged_bpf_disabled").value_or(-1);
  out.yama_ptrace_scope = read_value<int>(proc / "sys/kernel/yama/ptrace_scope").value_or(-1);
  std::error_code ignored;
  out.btf = std::filesystem::exists(sys / "kernel/btf/vmlinux", ignored);
  out.uprobes = std::filesystem::exists(sys / "bus/event_source/devices/uprobe", ignored);
  read_capabilities(out);

  const Fd program(load_return_zero(bpf_attach_type{}));
  out.load_error = program.get() < 0 ? -program.get() : 0;
  if (out.load_error != 0)
    return out;
  out.uprobe_multi = has_uprobe_multi();
  out.bpf_loop = has_helper(BPF_FUNC_loop);
  out.task_storage = has_helper(BPF_FUNC_task_storage_get) &&
                     libbpf_probe_bpf_map_type(BPF_MAP_TYPE_TASK_STORAGE, nullptr) == 1;
  return out;
}

std::vector<Error> missing(const KernelFeatures &features)
{
  std::vector<Error> out;
  check_capabilities(features, out);
  check_bpf(features, out);
  if (!features.btf)
    out.push_back({"read the kernel's types in /sys/kernel/btf/vmlinux", ENOENT,
                   "use a kernel built with CONFIG_DEBUG_INFO_BTF"});
  if (!features.uprobes)
    out.push_back({"find uprobes in /sys/bus/event_source/devices/uprobe", ENOENT,
                   "use a kernel built with CONFIG_UPROBE_EVENTS"});
  if (features.yama_ptrace_scope >= 3)
    out.push_back({"read the memory of other processes (kernel.yama.ptrace_scope is 3)", EPERM,
                   "set kernel.yama.ptrace_scope to 2 or less in /etc/sysctl.d and reboot: "
                   "3 cannot be lowered while the system runs"});
  return out;
}

} // namespace pgmemtrace
