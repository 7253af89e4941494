// SPDX-License-Identifier: BSD-2-Clause
// kernel_features.h - what this kernel can do, and what this process may do.
//
// Asked by trying (tiny programs are loaded, nothing is attached) rather than by version:
// distributions backport.  perf_event_paranoid plays no part: uprobe_multi links ignore it.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "util/result.h"

namespace pgmemtrace {

// All that can be held against us; the defaults are a machine on which nothing works.
struct KernelFeatures {
  std::string release; // "6.18.44"
  bool btf = false;    // the kernel's own types: bpf_get_current_task_btf, task storage
  bool uprobes = false;
  int load_error = 0; // why the smallest program was refused; 0: it was taken, and
                      // only then do the next three mean anything
  bool uprobe_multi = false;
  bool bpf_loop = false;
  bool task_storage = false;
  int unprivileged_bpf_disabled = -1; // the sysctl; -1: not there
  int yama_ptrace_scope = -1;         // -1: no Yama

  struct {
    bool bpf = false, perfmon = false, sys_ptrace = false, dac_read_search = false,
         sys_admin = false;
  } capabilities; // effective ones
};

// `proc` and `sys` are where those are mounted.
KernelFeatures detect_kernel_features(const std::filesystem::path &proc = "/proc",
                                      const std::filesystem::path &sys = "/sys");

// What stands in the way of `--pid all`, the most fundamental first; empty if nothing does.
std::vector<Error> missing(const KernelFeatures &features);

} // namespace pgmemtrace
