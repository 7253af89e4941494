// SPDX-License-Identifier: BSD-2-Clause
// empty_probes.h - probes whose program does nothing.
//
// For what can be learnt about a machine and its files without touching a server.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "util/result.h"

struct bpf_link;
struct bpf_object;
struct bpf_program;

namespace pgmemtrace {

// Detached with the object; that takes some 30 ms, as the kernel waits for all CPUs.
class EmptyProbes {
public:
  // At these offsets of a file, in this process and no other.  Error: the kernel's reason.
  static Result<EmptyProbes> attach(const std::string &path,
                                    const std::vector<unsigned long> &offsets);
  // Behind each send, of any process: kernels from 6.3 on.
  static Result<EmptyProbes> attach_to_sends();

private:
  struct Destroy {
    void operator()(bpf_object *object) const;
    void operator()(bpf_link *link) const;
  };

  Result<bpf_program *> load(const char *name);
  Result<> attach_multi(const std::string &path, const std::vector<unsigned long> &offsets);
  Result<> attach_perf(const std::string &path, const std::vector<unsigned long> &offsets);
  Result<> keep(bpf_link *link, const std::string &path);

  std::unique_ptr<bpf_object, Destroy> object_;
  std::vector<std::unique_ptr<bpf_link, Destroy>> links_; // before the object in destruction
};

} // namespace pgmemtrace
