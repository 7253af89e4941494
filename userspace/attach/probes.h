// SPDX-License-Identifier: BSD-2-Clause
// probes.h - the kernel half of one PostgreSQL binary: loaded, attached, detached.
//
// A Probes that exists is loaded and verified; set_level() attaches and detaches.
// Destroying it detaches everything: uprobe links live as long as their file descriptors,
// so that even SIGKILL of the daemon leaves no probe behind.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include <sys/types.h>

#include "attach/calibrate.h"
#include "attach/heap_functions.h"
#include "attach/kernel_maps.h"
#include "attach/planner.h"
#include "attach/sample_clock.h"
#include "attach/servers.h"
#include "snapshot/snapshot.h"
#include "util/file.h"
#include "util/result.h"

struct bpf_link;
struct bpf_program;
struct pgmemtrace_bpf;

namespace pgmemtrace {

class Probes {
public:
  struct Options {
    std::uint32_t binary_index = 0; // pgmt_process.binary
    bool select_only = false;       // count only processes given to KernelMaps::select()
    // Attach to these processes alone, and spare all others the traps; empty: to every
    // process of the binary.
    std::vector<pid_t> only_pids;
    bool record_all = false;   // level block: every block's stack, see bpf/block.bpf.h
    bool record_calls = false; // level alloc: every context is tracked, see bpf/alloc.bpf.h
    bool by_query = false;     // growth by statement: bpf/query.bpf.h
    bool boundaries = true;    // of statements and round trips; what needs none is spared them
    bool every_start = false;  // of the statements of all processes, without attach_starts()
    bool heap = false;         // attach_heap() will be asked for
    bool frame_pointers =
        true;                 // does its code keep them?  false: stacks are copied, bpf/stack.bpf.h
    bool uprobe_multi = true; // false: one perf event per site (kernels before 6.6)
    bool samples = true;      // peaks by the clock, if ...; else at the ends of all statements
    bool answers = true;      // settle where the answer is sent, if this kernel and build let us
    std::string postgres_btf; // --postgres-btf; empty: the built-in layout of the major
    std::string online_cpus = kOnlineCpus; // the kernel's list of those to sample on
  };

  // Loads, attaches nothing.  Error: the verifier's or the kernel's reason.
  static Result<Probes> load(const Binary &binary, Plan plan, KernelMaps &maps, Options options);
  Probes(Probes &&) noexcept;
  ~Probes();

  // Brings the attached sites to those of `level`.  On an error the level is what level()
  // says: lower, never half.
  Result<> set_level(Level level);
  Level level() const { return level_; }

  // CPUs come online and go: samples are taken on those that are there now.
  Result<> follow_cpus();

  // Where the statements of one process start and end, from level statement on: which part of a
  // request it was that grew.  All processes have settle and are sampled, without a trap: so do
  // those that merely repeat themselves.  To be asked for again when the level has been lower.
  Result<> attach_starts(pid_t pid);
  void detach_starts(pid_t pid);

  // Level block for one process, whatever level() is; until it is detached.
  Result<> attach_blocks(pid_t pid);
  void detach_blocks(pid_t pid);

  // Level malloc for one process, until it is detached: bpf/malloc.bpf.h.
  Result<> attach_heap(pid_t pid, const std::vector<HeapLibrary> &libraries);
  void detach_heap(pid_t pid);
  std::size_t heaps_attached() const { return heap_links_.size(); }

  // The xact boundary, for one process that never settles (walsender, background worker).
  Result<> attach_transactions(pid_t pid);
  void detach_transactions(pid_t pid);

  // A server whose processes run this binary.  Until it is known, its sessions are met at their
  // first statement, at level request never.
  Result<> add_server(pid_t postmaster, std::uint64_t load_bias);
  void remove_server(pid_t postmaster);
  // Is settle seen without a trap?  bpf/answer.bpf.h
  bool settles_by_answer() const { return answers_; }

  // CLOCK_MONOTONIC nanoseconds: what a slot says of a statement that began before is stale.
  // UINT64_MAX: whatever it says is.
  std::uint64_t statements_since() const { return statements_since_; }

  const Plan &plan() const { return plan_; }
  // To open the executable by, as long as this object lives.
  const std::string &path() const { return path_; }
  std::size_t attached_sites(pgmt_probe probe) const;
  // Estimated cost of one hit without its program, in a busy server.
  double hit_seconds(pgmt_probe probe, const Calibration &calibration) const;
  // Pages of the binary that carry a breakpoint in this process: it has a private copy of each.
  std::size_t probed_pages(pid_t pid) const;

private:
  struct Unlink {
    void operator()(bpf_link *link) const;
  };
  struct Destroy {
    void operator()(pgmemtrace_bpf *object) const;
  };
  using Link = std::unique_ptr<bpf_link, Unlink>;

  Probes(std::unique_ptr<pgmemtrace_bpf, Destroy> object, UniqueFd binary, Plan plan,
         Options options);
  Result<> attach(pgmt_probe probe, pid_t pid, std::vector<Link> &into);
  Result<> attach_to(const std::vector<pid_t> &pids, pgmt_probe probe, std::vector<Link> &into);
  bool attach_answers(std::vector<Link> &into);
  bool attach_samples(std::vector<Link> &into);
  bool probed(const ProbeSite &site) const; // at the level that it is for
  bool wanted(pgmt_probe probe, Level level) const;
  void expect_starts();
  bool by_answer(pgmt_probe probe) const { return probe == PGMT_PROBE_SETTLE && answers_; }
  // Where in a file, and what the program is told there.
  struct Target {
    bpf_program *program;
    const char *name;
    const char *path;
    bool at_return = false;
    std::vector<unsigned long> offsets;
    std::vector<__u64> cookies;
  };
  Result<> link(const Target &target, pid_t pid, std::vector<Link> &into) const;
  const std::map<pid_t, std::vector<Link>> *by_pid(pgmt_probe probe) const;

  std::unique_ptr<pgmemtrace_bpf, Destroy> object_;
  UniqueFd binary_;  // keeps the inode at hand when its path or its processes are gone
  std::string path_; // what the kernel opens to find the inode
  Plan plan_;
  Options options_;
  bool answers_ = false;
  std::vector<int> sampled_cpus_;
  std::set<pid_t> postmasters_;
  Level level_ = Level::sweep;
  std::uint64_t statements_since_ = UINT64_MAX;
  std::map<pgmt_probe, std::vector<Link>> links_;
  std::map<pid_t, std::vector<Link>> start_links_;
  std::map<pid_t, std::vector<Link>> transaction_links_;
  std::map<pid_t, std::vector<Link>> block_links_;
  std::map<pid_t, std::vector<Link>> heap_links_;
};

} // namespace pgmemtrace
