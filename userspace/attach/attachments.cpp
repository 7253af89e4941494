// SPDX-License-Identifier: BSD-2-Clause
#include "attach/attachments.h"

#include <algorithm>
#include <cerrno>
#include <iterator>
#include <utility>

#include <fmt/format.h>

#include "attach/same_file.h"
#include "symbols/frame_pointers.h"

namespace pgmemtrace {

namespace {

// Up to that many single processes get probes of their own, so that others are spared the
// traps; beyond it one probe for all and a look at the selection is cheaper to keep.
constexpr std::size_t kMaxSingleProcesses = 16;

std::vector<pid_t> single_processes(const Selection &selection, const ServerList &servers)
{
  if (selection.all || selection.pids.empty() || selection.pids.size() > kMaxSingleProcesses)
    return {};
  for (pid_t pid : selection.pids)
    if (servers.servers().contains(pid))
      return {}; // a whole server: backends to come are not known yet
  return selection.pids;
}

} // namespace

bool never_settles(const std::string &backend_type)
{
  return backend_type == "walsender" || backend_type == "background worker" ||
         backend_type.starts_with("logical replication");
}

Attachments::Attachments(KernelMaps &maps, Options options)
    : maps_(maps), options_(std::move(options))
{
  options_.governor.wanted = options_.level;
}

// nullptr: nothing is attached to this file yet.
Result<Attachments::Attachment *> Attachments::attached_by_another_name(const Binary &binary) const
{
  std::vector<Attachment *> copies; // of the same build, if not the same file
  std::vector<std::string> paths;
  for (const auto &attachment : attached_)
    if ((*attachment->binaries.begin())->build_id == binary.build_id) {
      copies.push_back(attachment.get());
      paths.push_back(attachment->probes.path());
    }
  // Executed once in a process's life, and probed by nobody but to ask.
  const auto entry = binary.elf->file_offset(binary.elf->entry_address());
  if (copies.empty() || !entry)
    return static_cast<Attachment *>(nullptr);
  const auto same = find_same_file(binary.open_path, *entry, paths);
  if (!same)
    return same.error();
  return *same ? copies[**same] : nullptr;
}

Result<> Attachments::attach(const Binary &binary, const ServerList &servers)
{
  const auto known = attached_by_another_name(binary);
  if (!known)
    return known.error();
  if (*known != nullptr) {
    binary.elf->drop_bytes();
    (*known)->binaries.insert(&binary);
    return Ok{};
  }
  Probes::Options options{.binary_index = next_binary_++,
                          .select_only = !options_.selection.all,
                          .only_pids = single_processes(options_.selection, servers),
                          .record_all = options_.record_all && options_.level == Level::block,
                          .record_calls = options_.record_all && options_.level == Level::alloc,
                          .by_query = options_.by_query,
                          .boundaries = !options_.record_all || options_.by_query || options_.heap,
                          .every_start = options_.by_query,
                          .heap = options_.heap,
                          .frame_pointers = frame_pointers(*binary.elf).kept(),
                          .uprobe_multi = options_.uprobe_multi,
                          .postgres_btf = options_.postgres_btf,
                          .online_cpus = options_.online_cpus};
  auto plan = plan_probes(*binary.elf);
  binary.elf->drop_bytes(); // only planning needs its code
  auto probes = Probes::load(binary, std::move(plan), maps_, std::move(options));
  if (!probes)
    return probes.error();
  // A process that was selected before its binary had maps to be selected in.
  for (const auto &[id, process] : servers.processes())
    if (process.binary == &binary)
      if (auto selected = select(id.pid, servers); !selected)
        return selected.error();
  auto attachment = std::make_unique<Attachment>(
      Attachment{std::move(*probes), Governor(options_.governor), {&binary}});
  if (auto introduced = introduce(servers, binary, attachment->probes); !introduced)
    return introduced.error();
  if (auto attached = attachment->probes.set_level(options_.level); !attached)
    return attached.error();
  attached_.push_back(std::move(attachment));
  return Ok{};
}

// Sessions of these servers are met where they send.
Result<> Attachments::introduce(const ServerList &servers, const Binary &binary, Probes &probes)
{
  for (const auto &[pid, server] : servers.servers())
    if (server.binary == &binary)
      if (auto added = probes.add_server(pid, server.load_bias); !added)
        return added.error();
  return Ok{};
}

// What level block will not see of a binary; nothing to say if that is nothing.
std::optional<Error> Attachments::coverage(const Binary &binary) const
{
  const auto *attachment = find(&binary);
  if (!attachment || options_.level < Level::block)
    return std::nullopt;
  const auto &plan = attachment->probes.plan();
  const auto missing = [&](pgmt_probe probe) {
    return options_.level < level_of(probe)
               ? 0
               : std::ranges::count(plan.unplaced, probe, &UnplacedProbe::probe);
  };
  const auto blocks = missing(PGMT_PROBE_BLOCK), methods = missing(PGMT_PROBE_ALLOC);
  if (blocks + methods == 0)
    return std::nullopt;
  return Error{fmt::format("{}: {} places where contexts gain or return blocks and {} methods of "
                           "allocators are not watched",
                           binary.path, blocks, methods),
               0, "`pgmemtrace doctor` says which and why"};
}

Result<> Attachments::select(pid_t pid, const ServerList &servers)
{
  if (options_.selection.all || !maps_.created() || !selected_.insert(pid).second)
    return Ok{};
  return maps_.select(pid, servers.servers().contains(pid) && servers.whole(pid));
}

Result<> Attachments::start(const ServerList &servers,
                            const std::function<void(const Error &)> &warn)
{
  const auto errors = follow(servers, servers.everybody());
  if (options_.level != Level::sweep && attached_.empty() && !errors.empty())
    return errors.front();
  if (options_.heap &&
      std::ranges::none_of(
          attached_,
          [](const auto &attachment) { return attachment->probes.heaps_attached() > 0; }) &&
      !errors.empty())
    return errors.front();
  std::ranges::for_each(errors, warn);
  return Ok{};
}

std::vector<Error> Attachments::follow(const ServerList &servers,
                                       const ServerList::Changes &changes)
{
  std::vector<Error> errors;
  std::set<const Binary *> in_use;
  for (const auto &[id, process] : servers.processes())
    in_use.insert(process.binary);
  for (const auto &attachment : attached_)
    std::erase_if(attachment->binaries,
                  [&](const Binary *binary) { return !in_use.contains(binary); });
  std::erase_if(attached_, [](const auto &attachment) { return attachment->binaries.empty(); });
  std::erase_if(refused_, [&](const Binary *binary) { return !in_use.contains(binary); });
  if (options_.level == Level::sweep)
    return errors;

  for (const Binary *binary : in_use)
    if (!find(binary) && !refused_.contains(binary)) {
      if (auto done = attach(*binary, servers); !done) {
        if (done.error().err == ESRCH)
          continue; // whose executable it was just ended: others may run it, the next look tells
        refused_.insert(binary);
        errors.push_back(done.error());
      } else if (auto incomplete = coverage(*binary)) {
        errors.push_back(*incomplete);
      }
    }

  for (pid_t postmaster : changes.servers_vanished)
    for (const auto &attachment : attached_)
      attachment->probes.remove_server(postmaster);
  for (const Binary *binary : in_use)
    if (auto *attachment = find(binary))
      if (auto introduced = introduce(servers, *binary, attachment->probes); !introduced)
        errors.push_back(introduced.error());

  for (const auto &attachment : attached_)
    if (auto followed = attachment->probes.follow_cpus(); !followed)
      errors.push_back(followed.error());

  for (const auto &gone : changes.vanished) {
    if (selected_.erase(gone.pid))
      maps_.deselect(gone.pid);
    for (const auto &attachment : attached_) {
      attachment->probes.detach_starts(gone.pid);
      attachment->probes.detach_transactions(gone.pid);
      attachment->probes.detach_blocks(gone.pid);
      attachment->probes.detach_heap(gone.pid);
    }
    heaps_.erase(gone.pid);
  }
  for (const auto &id : changes.appeared)
    if (auto selected = select(id.pid, servers); !selected)
      errors.push_back(selected.error());

  for (const auto &[id, process] : servers.processes()) {
    auto *attachment = find(process.binary);
    if (!attachment || !never_settles(process.identity.backend_type))
      continue;
    if (auto done = attachment->probes.attach_transactions(id.pid);
        !done && done.error().err != ESRCH)
      errors.push_back(done.error());
  }
  if (options_.heap)
    std::ranges::move(follow_heaps(servers), std::back_inserter(errors));
  return errors;
}

// ---- level malloc ----

std::span<const HeapLibrary> Attachments::heap_libraries(pid_t postmaster) const
{
  const auto found = heap_libraries_.find(postmaster);
  return found == heap_libraries_.end() ? std::span<const HeapLibrary>()
                                        : std::span<const HeapLibrary>(found->second);
}

Result<> Attachments::attach_heap(const ServerProcess &process, const ServerList &servers)
{
  auto *attachment = find(process.binary);
  const auto server = servers.servers().find(process.identity.postmaster);
  if (!attachment || server == servers.servers().end())
    return Ok{}; // refused, and said so
  const auto pid = process.identity.id.pid;
  auto libraries = heap_libraries_.find(server->first);
  if (libraries == heap_libraries_.end()) {
    auto found = find_heap_functions(pid, *process.binary->elf, process.load_bias);
    if (!found)
      return found.error();
    libraries = heap_libraries_.emplace(server->first, std::move(*found)).first;
  }
  if (auto counted = maps_.count_heap(pid); !counted)
    return counted.error();
  return attachment->probes.attach_heap(pid, libraries->second);
}

std::vector<Error> Attachments::follow_heaps(const ServerList &servers)
{
  std::vector<Error> errors;
  std::erase_if(heap_libraries_,
                [&](const auto &entry) { return !servers.servers().contains(entry.first); });
  for (const auto &[id, process] : servers.processes()) {
    if (heaps_.contains(id.pid))
      continue;
    if (heaps_.size() >= kMaxHeaps) {
      if (!std::exchange(too_many_heaps_, true))
        errors.push_back({fmt::format("level malloc: of more than {} processes at a time, those "
                                      "that come last are not recorded",
                                      kMaxHeaps),
                          0, "--pid with the processes that matter"});
      break;
    }
    auto attached = attach_heap(process, servers);
    if (!attached && attached.error().err == ESRCH)
      continue; // it just ended
    heaps_.insert(id.pid);
    if (!attached)
      errors.push_back(attached.error());
  }
  return errors;
}

Attachments::Attachment *Attachments::find(const Binary *binary) const
{
  const auto found = std::ranges::find_if(
      attached_, [&](const auto &attachment) { return attachment->binaries.contains(binary); });
  return found == attached_.end() ? nullptr : found->get();
}

} // namespace pgmemtrace
