// SPDX-License-Identifier: BSD-2-Clause
#include "attach/empty_probes.h"

#include <cerrno>

#include <bpf/libbpf.h>

#include "calibrate.skel.h"

namespace pgmemtrace {

namespace {

constexpr pid_t kThisProcess = 0; // libbpf's word for it

} // namespace

void EmptyProbes::Destroy::operator()(bpf_object *object) const { bpf_object__close(object); }
void EmptyProbes::Destroy::operator()(bpf_link *link) const { bpf_link__destroy(link); }

Result<EmptyProbes> EmptyProbes::attach(const std::string &path,
                                        const std::vector<unsigned long> &offsets)
{
  EmptyProbes probes;
  if (auto multi = probes.attach_multi(path, offsets); !multi && !probes.attach_perf(path, offsets))
    return multi.error();
  return probes;
}

Result<EmptyProbes> EmptyProbes::attach_to_sends()
{
  EmptyProbes probes;
  auto program = probes.load("calibrate_send");
  if (!program)
    return program.error();
  auto kept = probes.keep(bpf_program__attach(*program), "sends");
  if (!kept)
    return kept.error();
  return probes;
}

// Loads the one program of this name.
Result<bpf_program *> EmptyProbes::load(const char *name)
{
  links_.clear();
  std::size_t size = 0;
  const void *bytes = calibrate_bpf::elf_bytes(&size);
  object_.reset(bpf_object__open_mem(bytes, size, nullptr));
  if (!object_)
    return Error{"open the calibration program", errno, {}};
  bpf_program *program = bpf_object__find_program_by_name(object_.get(), name);
  bpf_program__set_autoload(program, true);
  if (int err = bpf_object__load(object_.get()); err != 0)
    return Error{"load the calibration program", -err,
                 "run with sudo; `pgmemtrace doctor` says which capability is missing"};
  return program;
}

Result<> EmptyProbes::attach_multi(const std::string &path,
                                   const std::vector<unsigned long> &offsets)
{
  auto program = load("calibrate_multi");
  if (!program)
    return program.error();
  bpf_uprobe_multi_opts options{};
  options.sz = sizeof(options);
  options.offsets = offsets.data();
  options.cnt = offsets.size();
  return keep(
      bpf_program__attach_uprobe_multi(*program, kThisProcess, path.c_str(), nullptr, &options),
      path);
}

Result<> EmptyProbes::attach_perf(const std::string &path,
                                  const std::vector<unsigned long> &offsets)
{
  auto program = load("calibrate_perf");
  if (!program)
    return program.error();
  for (unsigned long offset : offsets)
    if (auto kept = keep(
            bpf_program__attach_uprobe(*program, false, kThisProcess, path.c_str(), offset), path);
        !kept)
      return kept;
  return Ok{};
}

Result<> EmptyProbes::keep(bpf_link *link, const std::string &path)
{
  if (!link)
    return Error{"probe " + path + " in our own process", errno, {}};
  links_.emplace_back(link);
  return Ok{};
}

} // namespace pgmemtrace
