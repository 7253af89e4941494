// SPDX-License-Identifier: BSD-2-Clause
// recorder.h - levels block with every stack, alloc with every caller, or malloc, from attaching to
// a Recording.
//
// The kernel half adds up by (process, name of context, stack or caller); here stacks get their
// frames while the process can be asked, samples are taken for the curve over time, and what a
// process leaves behind when it exits is kept.  No sweeps, no rules, no governor: a recording ends
// by itself.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "attach/attachments.h"
#include "attach/kernel_maps.h"
#include "attach/servers.h"
#include "collect/alloc_reader.h"
#include "collect/growth_reader.h"
#include "collect/kernel_reader.h"
#include "recording/asker.h"
#include "recording/recording.h"
#include "stack_copies.h"
#include "symbols/symbolizer.h"
#include "util/poll_set.h"
#include "util/result.h"

namespace pgmemtrace {

class Recorder {
public:
  struct Options {
    Attachments::Options attachments;
    KernelMaps::Options maps;
    std::size_t processes = 4096;      // that ended, or
    std::size_t allocations = 200'000; // of them: beyond, those that end are kept as one
    std::size_t stacks = 65536;        // beyond, new ones are not kept: Recording::losses tells
    std::size_t samples = 512;         // beyond, every second one goes
    std::function<void(const Error &)> warn; // what does not end the recording
  };

  // Attaches to everything that `servers` found.  Error: nothing could be attached.
  static Result<std::unique_ptr<Recorder>> start(ServerList servers, Options options);

  // About every idle_time(), or sooner when poll_fd() becomes readable.
  void step();
  std::chrono::milliseconds idle_time() const;
  int poll_fd() const { return events_.fd(); }
  bool over() const; // everybody who was asked for is gone

  // Detaches, and says what was seen.  Once.
  Recording finish();

private:
  using Time = std::chrono::steady_clock::time_point;
  // Who a process is, kept when it is gone.
  struct Seen {
    ProcessIdentity identity;
    Symbolizer::Target target;
  };
  using StackId = std::pair<pid_t, std::uint64_t>;

  Recorder(ServerList servers, Options options);

  Result<> attach();
  void refresh_servers();
  void follow(const ServerList::Changes &changes);
  void know(const ServerProcess &process);
  std::string name_at(pid_t pid, std::uint64_t address) const;
  std::string asker_at(pid_t pid, std::uint64_t stack);
  Heap heap_of(pid_t pid);
  Symbolizer::Target target_of(pid_t pid) const;
  void read(Time now);
  void sample(Time now);
  void thin_out_samples();
  void tidy(Time now);
  void retire(pid_t pid);
  bool by_requests() const { return options_.attachments.level == Level::alloc; }
  void refresh_counts();
  // Stacks, or callers.
  std::set<std::uint64_t> stacks_of(pid_t pid);
  std::vector<Frame> frames_of(pid_t pid, std::uint64_t id);
  Recording::Process take(pid_t pid);
  void take_blocks(pid_t pid, Recording::Process &into);
  bool not_copied(pid_t pid, std::uint64_t id);
  void take_requests(pid_t pid, Recording::Process &into);
  // `last`: it is not asked for again, so that what has no name yet gets none.
  std::optional<std::uint32_t> stack_of(pid_t pid, std::uint64_t id, bool last);
  std::uint32_t frame_index(const Frame &frame);
  std::uint32_t name_index(const std::string &name);
  std::optional<std::uint32_t> query_index(std::uint64_t key);
  void keep_ended(Recording::Process process);
  void count_losses();

  Options options_;
  ServerList servers_;
  KernelMaps maps_;
  Attachments attachments_;
  std::unique_ptr<KernelReader> reader_; // null until something is attached
  std::unique_ptr<GrowthReader> growths_;
  AllocReader allocs_; // beside it, at level alloc
  Symbolizer symbols_;
  std::unique_ptr<StackCopies> copies_; // as reader_

  PollSet events_;
  Recording recording_;
  std::map<pid_t, Seen> seen_;
  std::map<StackId, std::optional<std::uint32_t>> stack_ids_; // of processes that live
  std::map<std::vector<std::uint32_t>, std::uint32_t> stacks_;
  std::map<std::pair<CodeAddress, std::string>, std::uint32_t> frames_;
  std::map<std::string, std::uint32_t> names_;
  std::map<StackId, std::string> askers_; // level malloc, of processes that live; empty: not yet
  std::map<const Binary *, ContextCode> context_code_;
  std::map<std::uint64_t, std::uint32_t> queries_; // by fingerprint
  std::uint64_t stacks_refused_ = 0;
  std::uint64_t stacks_not_copied_ = 0; // level malloc: calls
  std::size_t allocations_ = 0;         // of those that ended
  std::uint64_t every_ = 1, ticks_ = 0; // of the reads, which become a sample
  Time began_{}, read_{}, followed_{}, tidied_{}, tidied_chunks_{};
  bool newcomers_ = false; // the kernel half saw processes that we do not know yet
};

} // namespace pgmemtrace
